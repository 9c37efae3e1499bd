"""OpenAI's own format: requests with the model renamed, answers passed through byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import orjson

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking, Reply
from tokenhub_proxy.dialects.answers import Answers, read_error
from tokenhub_proxy.dialects.facts import PLAIN, Facts, facts_of, fit
from tokenhub_proxy.dialects.fields import Losses
from tokenhub_proxy.dialects.memory import Memory
from tokenhub_proxy.dialects.passthrough import Stream
from tokenhub_proxy.dialects.reasoning import Keeper, restored
from tokenhub_proxy.dialects.replies import Refused, Whole, media_type
from tokenhub_proxy.errors import InvalidRequest, UpstreamUnavailable
from tokenhub_proxy.routes import Target
from tokenhub_proxy.wire import Outgoing

PATHS: Final = {"chat": "/chat/completions", "embeddings": "/embeddings"}
# Targets come from the config; after as many reloads as fill this, everything is looked up anew.
TARGETS_MAX = 4096


class _Known:
    """What is worked out once for a target: its facts, and its headers by credential."""

    __slots__ = ("facts", "headers", "target")

    def __init__(self, target: Target, facts: Facts) -> None:
        self.target = target
        self.facts = facts
        self.headers: dict[str | None, tuple[tuple[str, str], ...]] = {}


class OpenAI:
    """The dialect of everything that is OpenAI-compatible; what they do differently is `quirks`."""

    row: ClassVar[str | None] = None  # of the quirks, where the upstream's host has none

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._known: dict[int, _Known] = {}

    def request(self, call: Call, asking: Asking) -> Outgoing:
        target, credential, output_max = asking.target, asking.credential, asking.output_max
        known = self._of(target)
        facts = known.facts
        body: dict[str, Any] = {**call.body, "model": target.model}
        dropped: tuple[str, ...] = ()
        if facts is not PLAIN:
            losses = Losses(call)
            if facts.keeps is not None and call.endpoint == "chat":
                body["messages"] = restored(body["messages"], facts.keeps, call.owner, self._memory)
            fit(body, facts, losses)
            dropped = losses.names()
        if call.endpoint == "embeddings":
            _ask_for_vectors(body, facts)
        elif output_max is not None:
            body[facts.limit or facts.limit_added] = output_max
        if call.stream and facts.stream_options:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        elif "stream_options" in body:
            del body["stream_options"]
        headers = known.headers.get(credential)
        if headers is None:
            headers = known.headers[credential] = self._headers(asking)
        path = self.path(call, asking)
        return Outgoing(target.upstream, path, headers, orjson.dumps(body), "POST", dropped)

    def reply(self, call: Call, asking: Asking, status: int, headers: Mapping[str, str]) -> Reply:
        target = asking.target
        return passed_through(call, target.model, status, headers, self._of(target).facts, self._memory)

    def path(self, call: Call, asking: Asking) -> str:
        """Where a call goes, after the base URL."""
        return PATHS[call.endpoint]

    def authorization(self, asking: Asking) -> dict[str, str]:
        """The header that carries the credential."""
        return {} if asking.credential is None else {"authorization": f"Bearer {asking.credential}"}

    def facts(self, target: Target) -> Facts:
        """What is known of a target, worked out once."""
        return self._of(target).facts

    def _of(self, target: Target) -> _Known:
        known = self._known.get(id(target))
        if known is None or known.target is not target:
            if len(self._known) >= TARGETS_MAX:
                self._known.clear()
            known = self._known[id(target)] = _Known(target, facts_of(target, self.row))
        return known

    def _headers(self, asking: Asking) -> tuple[tuple[str, str], ...]:
        headers = {"content-type": "application/json", **self.authorization(asking)}
        for name, value in asking.target.upstream.headers:
            headers[name.lower()] = value
        return tuple(headers.items())


def _ask_for_vectors(body: dict[str, Any], facts: Facts) -> None:
    """An upstream without base64 is asked for floats; the answer is encoded here."""
    encoding = body.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise InvalidRequest("encoding_format must be 'float' or 'base64'.", param="encoding_format")
    if not facts.embeddings_base64:
        body.pop("encoding_format", None)


def passed_through(
    call: Call, model: str, status: int, headers: Mapping[str, str], facts: Facts, memory: Memory
) -> Reply:
    """The reply for an upstream that answers in this format already."""
    if not 200 <= status < 300:
        return Refused(status, headers, read_error)
    kind = media_type(headers)
    keeper = None
    if facts.keeps is not None and call.endpoint == "chat" and call.body.get("tools"):
        keeper = Keeper(memory, call.owner, facts.keeps)
    if call.stream and kind in ("text/event-stream", ""):
        hide_usage = facts.stream_options and not call.usage_asked
        return Stream(call, model=model, hide_usage=hide_usage, facts=facts, keeper=keeper)
    if kind.startswith("text/") or status != 200:
        # A page for people under a 200 would look like an empty success to the official SDKs, and
        # so would a stream to a client that did not ask for one.
        raise UpstreamUnavailable(kind="content_type", executed=True, upstream_status=status)
    answers = Answers(call, facts, keeper)
    whole = Whole(answers.understand, answers.estimate)
    if call.stream:
        whole.notes["not_streamed"] = 1
    return whole
