"""Anthropic's Messages: OpenAI chat calls said there, its answers said back."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking, Reply
from tokenhub_proxy.dialects.anthropic_replies import Stream, read_error, whole
from tokenhub_proxy.dialects.anthropic_requests import Request
from tokenhub_proxy.dialects.formats import format_tool
from tokenhub_proxy.dialects.gates import Claude, gate
from tokenhub_proxy.dialects.memory import Memory
from tokenhub_proxy.dialects.quirks import CLAUDE
from tokenhub_proxy.dialects.replies import Refused, Whole, media_type
from tokenhub_proxy.errors import InvalidRequest, UpstreamUnavailable
from tokenhub_proxy.wire import Outgoing

# Later versions refuse fields that clients send; this one is served for good.
VERSION = "2023-06-01"


class Anthropic:
    """The dialect of Anthropic and of what offers its format."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def request(self, call: Call, asking: Asking) -> Outgoing:
        if call.endpoint != "chat":
            raise InvalidRequest(f"The model {call.model!r} makes no embeddings.", param="model")
        upstream = asking.target.upstream
        request = Request(call, asking, _gate(asking), self._memory)
        body = request.body()
        headers = {"content-type": "application/json", "anthropic-version": VERSION}
        if asking.credential is not None:
            headers["x-api-key"] = asking.credential
        headers |= {name.lower(): value for name, value in upstream.headers}
        return Outgoing(
            upstream,
            "/messages",
            tuple(headers.items()),
            orjson.dumps(body),
            dropped=request.losses.names(),
        )

    def reply(self, call: Call, asking: Asking, status: int, headers: Mapping[str, str]) -> Reply:
        if not 200 <= status < 300:
            return Refused(status, headers, read_error)
        kind = media_type(headers)
        tool = format_tool(call, json_schema=_gate(asking).json_schema)
        if call.stream and kind == "text/event-stream":
            return Stream(call, asking, self._memory, tool)
        if kind.startswith("text/") or status != 200:
            raise UpstreamUnavailable(kind="content_type", executed=True, upstream_status=status)
        return Whole(lambda body: whole(body, call, asking, self._memory, tool))


def _gate(asking: Asking) -> Claude:
    return gate(CLAUDE, asking.target.model, asking.target.upstream)
