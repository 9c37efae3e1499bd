"""Gemini's API: OpenAI chat and embedding calls said there, its answers said back."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking, Reply
from tokenhub_proxy.dialects.gates import gate
from tokenhub_proxy.dialects.gemini_replies import Stream, error_reader, whole, whole_embeddings
from tokenhub_proxy.dialects.gemini_requests import Request, embedding_body, model_path
from tokenhub_proxy.dialects.memory import Memory
from tokenhub_proxy.dialects.quirks import GEMINI
from tokenhub_proxy.dialects.replies import Refused, Whole, media_type
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.wire import Outgoing


class Gemini:
    """The dialect of Google's Gemini API."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def request(self, call: Call, asking: Asking) -> Outgoing:
        upstream = asking.target.upstream
        dropped: tuple[str, ...]
        if call.endpoint == "embeddings":
            verb = "batchEmbedContents"
            body, dropped = embedding_body(call, asking)
        else:
            verb = "streamGenerateContent?alt=sse" if call.stream else "generateContent"
            model = asking.target.model.removeprefix("models/")
            request = Request(call, asking, gate(GEMINI, model, upstream), self._memory)
            body = request.body()
            dropped = request.losses.names()
        headers = {"content-type": "application/json"}
        if asking.credential is not None:
            headers["x-goog-api-key"] = asking.credential
        headers |= {name.lower(): value for name, value in upstream.headers}
        return Outgoing(
            upstream,
            f"{model_path(asking)}:{verb}",
            tuple(headers.items()),
            orjson.dumps(body),
            dropped=dropped,
        )

    def reply(self, call: Call, asking: Asking, status: int, headers: Mapping[str, str]) -> Reply:
        if not 200 <= status < 300:
            return Refused(status, headers, error_reader(status))
        kind = media_type(headers)
        if call.endpoint == "chat" and call.stream and kind == "text/event-stream":
            return Stream(call, asking, self._memory)
        if kind.startswith("text/") or status != 200:
            raise UpstreamUnavailable(kind="content_type", executed=True, upstream_status=status)
        if call.endpoint == "embeddings":
            return Whole(lambda body: whole_embeddings(body, call, asking))
        return Whole(lambda body: whole(body, call, asking, self._memory))
