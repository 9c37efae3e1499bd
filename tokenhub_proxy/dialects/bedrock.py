"""Amazon Bedrock: OpenAI calls said as Converse or InvokeModel, signed or with a key; answers said back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from urllib.parse import quote

import orjson

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking, Reply
from tokenhub_proxy.dialects import bedrock_embeddings as vectors
from tokenhub_proxy.dialects.bedrock_families import family
from tokenhub_proxy.dialects.bedrock_replies import Stream, error_reader, whole
from tokenhub_proxy.dialects.bedrock_requests import Request
from tokenhub_proxy.dialects.formats import format_tool
from tokenhub_proxy.dialects.memory import Memory
from tokenhub_proxy.dialects.replies import Refused, Whole, media_type
from tokenhub_proxy.dialects.sigv4 import Signer
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.routes import Upstream
from tokenhub_proxy.wire import Outgoing

EVENT_STREAM = "application/vnd.amazon.eventstream"
# The name under which Bedrock's runtime verifies signatures.
SERVICE = "bedrock"
_HOST_REGION = re.compile(r"://bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.")


class Bedrock:
    """The dialect of Bedrock's runtime."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def request(self, call: Call, asking: Asking) -> Outgoing:
        upstream = asking.target.upstream
        path = f"/model/{quote(asking.target.model, safe='')}"
        if call.endpoint == "embeddings":
            bodies, dropped = vectors.bodies(call, asking)
            parts = tuple(_outgoing(asking, f"{path}/invoke", body) for body in bodies)
            return Outgoing(upstream, f"{path}/invoke", (), b"", dropped=dropped, parts=parts)
        request = Request(call, asking, family(asking.target.model, upstream), self._memory)
        body = orjson.dumps(request.body())
        verb = "converse-stream" if call.stream else "converse"
        return _outgoing(asking, f"{path}/{verb}", body, request.losses.names())

    def reply(self, call: Call, asking: Asking, status: int, headers: Mapping[str, str]) -> Reply:
        if not 200 <= status < 300:
            return Refused(status, headers, error_reader(headers, status))
        kind = media_type(headers)
        streamed = call.endpoint == "chat" and call.stream
        if status != 200 or kind != (EVENT_STREAM if streamed else "application/json"):
            raise UpstreamUnavailable(kind="content_type", executed=True, upstream_status=status)
        if call.endpoint == "embeddings":
            return Whole(partial(vectors.whole, call=call, asking=asking))
        found = family(asking.target.model, asking.target.upstream)
        tool, id = format_tool(call, json_schema=found.json_schema), headers.get("x-amzn-requestid", "")
        if streamed:
            return Stream(call, asking, found, self._memory, tool, id)
        return Whole(
            partial(
                whole, call=call, asking=asking, family=found, memory=self._memory, format_tool=tool, id=id
            )
        )


def _outgoing(asking: Asking, path: str, body: bytes, dropped: tuple[str, ...] = ()) -> Outgoing:
    """One request, with the key or the signature that it needs."""
    upstream = asking.target.upstream
    headers = {"content-type": "application/json"}
    headers |= {name.lower(): value for name, value in upstream.headers}
    signer = _signer(upstream)
    if asking.credential is not None:
        headers["authorization"] = f"Bearer {asking.credential}"
    elif signer is not None:
        url = upstream.base_url.rstrip("/") + path
        headers = signer.sign("POST", url, headers, body, asking.at_s)
        del headers["host"]  # the transport sends it, from the same URL
    return Outgoing(upstream, path, tuple(headers.items()), body, dropped=dropped)


def _signer(upstream: Upstream) -> Signer | None:
    options = upstream.options
    if not (options.get("access_key_id") and options.get("secret_access_key")):
        return None
    named = _HOST_REGION.search(upstream.base_url)
    region = options.get("region") or (named[1] if named else "us-east-1")
    return Signer(
        options["access_key_id"], options["secret_access_key"], region, SERVICE, options.get("session_token")
    )
