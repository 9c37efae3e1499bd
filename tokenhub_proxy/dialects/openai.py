"""OpenAI's own format: requests with the model renamed, streams passed through byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from tokenhub_proxy import sse
from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking, Reply
from tokenhub_proxy.dialects.memory import Memory
from tokenhub_proxy.dialects.replies import (
    STREAM_HEADERS,
    Refused,
    Whole,
    error_event,
    media_type,
    parse_object,
    refusal,
)
from tokenhub_proxy.dialects.usage import read_usage
from tokenhub_proxy.errors import ProxyError, UpstreamUnavailable
from tokenhub_proxy.prices import Usage, estimate_tokens
from tokenhub_proxy.wire import Outgoing

PATHS = {"chat": "/chat/completions", "embeddings": "/embeddings"}

# An event whose start already rules out a usage event is not held back; one that stays undecided
# is given up on here, for no usage event is nearly so long.
HELD_BYTES_MAX = 64 * 2**10
# Before the first event is whole nothing is committed. A first event larger than this is content.
FIRST_EVENT_BYTES_MAX = 2**20
# What may follow [DONE] and still be relayed with it.
ENDING_BYTES_MAX = 64 * 2**10
# A whole answer larger than this is not parsed: its ends and its usage are looked at instead.
PARSED_BYTES_MAX = 64 * 2**10
# Where in a large answer the usage stands: first or last, and never far from there.
USAGE_TAIL_BYTES = 4096


class OpenAI:
    """The dialect of everything that is OpenAI-compatible."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def request(self, call: Call, asking: Asking) -> Outgoing:
        upstream = asking.target.upstream
        body: dict[str, Any] = dict(call.body)
        body["model"] = asking.target.model
        if call.stream:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        if asking.output_max is not None and call.endpoint == "chat":
            body["max_tokens"] = asking.output_max
        headers = [("content-type", "application/json")]
        if asking.credential is not None:
            headers.append(("authorization", f"Bearer {asking.credential}"))
        headers.extend(upstream.headers)
        return Outgoing(upstream, PATHS[call.endpoint], tuple(headers), orjson.dumps(body))

    def reply(self, call: Call, asking: Asking, status: int, headers: Mapping[str, str]) -> Reply:
        return passed_through(call, status, headers)


def passed_through(call: Call, status: int, headers: Mapping[str, str]) -> Reply:
    """The reply for an upstream that answers in this format already."""
    if not 200 <= status < 300:
        return Refused(status, headers, read_error)
    kind = media_type(headers)
    if kind == "text/event-stream":
        return Stream(call)
    if kind.startswith("text/") or status != 200:
        # A page for people under a 200 would look like an empty success to the official SDKs.
        raise UpstreamUnavailable(kind="content_type", executed=True, upstream_status=status)
    return Whole(_understand, lambda: Usage(input=call.input_estimate(0)))


def read_error(body: bytes) -> tuple[object, object]:
    """The message and the parameter of an error body, in the forms compatible servers use."""
    found = parse_object(body) or {}
    error = found.get("error", found)
    if isinstance(error, Mapping):
        return error.get("message") or error.get("detail"), error.get("param")
    return error, None


def _understand(body: bytes) -> tuple[bytes, Usage | None]:
    if len(body) > PARSED_BYTES_MAX:
        return _understand_large(body)
    found = parse_object(body)
    if found is None:
        raise UpstreamUnavailable(kind="bad_json", executed=True)
    _raise_error_in_200(found)
    return body, read_usage(found.get("usage"))


def _understand_large(body: bytes) -> tuple[bytes, Usage | None]:
    """A large answer by its ends: parsing half a megabyte of floats costs more than relaying it."""
    if not (body[:64].lstrip().startswith(b"{") and body[-64:].rstrip().endswith(b"}")):
        raise UpstreamUnavailable(kind="bad_json", executed=True)
    for part in (body[-USAGE_TAIL_BYTES:], body[:USAGE_TAIL_BYTES]):
        usage = _usage_within(part)
        if usage is not None:
            return body, usage
    found = parse_object(body)
    if found is None:
        raise UpstreamUnavailable(kind="bad_json", executed=True)
    _raise_error_in_200(found)
    return body, read_usage(found.get("usage"))


def _usage_within(part: bytes) -> Usage | None:
    """The usage object inside a piece of JSON text, if it stands there whole."""
    start = part.rfind(b'"usage"')
    start = part.find(b"{", start) if start >= 0 else -1
    if start < 0:
        return None
    depth, position = 1, start
    while depth:
        end = part.find(b"}", position + 1)
        if end < 0:
            return None
        depth += part.count(b"{", position + 1, end) - 1
        position = end
    return read_usage(parse_object(part[start : position + 1]))


def _raise_error_in_200(found: Mapping[str, Any]) -> None:
    error = found.get("error")
    if error:
        raise error_in_200(error)


def error_in_200(error: object) -> ProxyError:
    """What an error object inside a success means: the request's fault only if it says so."""
    details = error if isinstance(error, Mapping) else {"message": error}
    code = details.get("code")
    status = int(code) if isinstance(code, (int, str)) and str(code).isdigit() else 0
    if not status and details.get("type") in ("invalid_request_error", "BadRequestError"):
        status = 400
    found = refusal(
        status if status in (400, 413, 422) else 502, details.get("message"), details.get("param"), {}
    )
    found.reason = "error_in_200"
    return found


class Stream:
    """A stream relayed as it comes.

    The client's bytes are the upstream's, but for the usage event that only we asked for, and for
    `[DONE]`, which waits for the books. Looking inside is done by byte searches; an event is
    parsed only where it says something other than more text.
    """

    def __init__(self, call: Call) -> None:
        self.status = 200
        self.headers = dict(STREAM_HEADERS)
        self.finished = False
        self.begun = False
        self.notes: dict[str, object] = {}
        self._call = call
        self._hide_usage = not call.usage_asked
        self._splitter = sse.Splitter()
        self._rest_said = 0  # how much of the unfinished event the client has already
        self._ahead = b""  # comments from before the first data event
        self._ending = b""  # [DONE] and what follows it
        self.done = False
        self._failed = False
        self._reported: Usage | None = None
        # For the estimate of a stream that was cut: events and their bytes, content or not.
        self._events = 0
        self._length = 0
        self._envelope = 0
        self._null_finish = b'"finish_reason":null'
        self._null_usage = b'"usage":null'

    @property
    def usage(self) -> Usage:
        if self._reported is not None:
            return self._reported
        if not self.begun:
            return Usage()
        text = max(0, self._length - self._events * self._envelope)
        output = max(self._events - 1, estimate_tokens(text))
        if self._call.output_max is not None:
            output = min(output, self._call.output_max * self._call.choices)
        return Usage(input=self._call.input_estimate(0), output=output)

    def feed(self, data: bytes) -> bytes:
        if not data:
            return self._end()
        if self.done:
            self._ending += data[: ENDING_BYTES_MAX - len(self._ending)]
            return b""
        if self.begun and not self._splitter.rest and data.endswith(b"\n\n") and self._only_text(data):
            self._events += data.count(b"\n\n")
            self._length += len(data)
            return data
        said: list[bytes] = []
        for event in self._splitter.feed(data):
            passed = self._event(event)
            said.append(passed[self._rest_said :])
            self._rest_said = 0
        said.append(self._early())
        return self._committed(b"".join(said))

    def _committed(self, said: bytes) -> bytes:
        """Comments that come before the first data event wait for it."""
        if self.begun and not self._ahead:
            return said
        self._ahead += said
        if not self.begun:
            return b""
        said, self._ahead = self._ahead, b""
        return said

    def close(self, error: ProxyError | None = None, request_id: str = "") -> bytes:
        if self.finished:
            if self.done:
                return self._ending
            # What the client has of an unfinished event is closed first.
            return b"\n\n" + sse.DONE if self._rest_said else sse.DONE
        if self.begun and not self._failed and not self._rest_said and error is not None:
            return error_event(error, request_id)
        return b""

    def _only_text(self, data: bytes) -> bool:
        """True when no event in here can be an end, an error, usage or a comment."""
        return (
            data.count(b'"finish_reason"') == data.count(self._null_finish)
            and data.count(b'"usage"') == data.count(self._null_usage)
            and b'"error"' not in data
            and b"[DONE]" not in data
            and b"\n:" not in data
            and not data.startswith(b":")
            and b"\r" not in data
        )

    def _event(self, event: bytes) -> bytes:
        """One whole event → what of it the client gets."""
        if self.done:
            self._ending += event[: ENDING_BYTES_MAX - len(self._ending)]
            return b""
        payload = sse.data(event)
        if payload is None:
            return event
        if payload == b"[DONE]":
            if not self.begun:
                raise UpstreamUnavailable(kind="empty", executed=True)
            self.done = True
            self.finished = not self._failed
            self._ending = event
            return b""
        self._events += 1
        self._length += len(event)
        if not self.begun:
            self._first(payload, event)
        if self._only_text(event):
            return event
        return b"" if self._read(payload) else event

    def _first(self, payload: bytes, event: bytes) -> None:
        """The first data event decides whether anything is committed."""
        found = parse_object(payload)
        if found is not None:
            _raise_error_in_200(found)
        if b'"finish_reason": null' in event or b'"usage": null' in event:
            self._null_finish, self._null_usage = b'"finish_reason": null', b'"usage": null'
        self._envelope = len(event)
        self.begun = True

    def _read(self, payload: bytes) -> bool:
        """Look inside an event; True when it is the usage event that the client did not ask for."""
        found = parse_object(payload)
        if found is None:
            self.notes["bad_events"] = int(str(self.notes.get("bad_events", 0))) + 1
            return False
        if found.get("error"):
            self._failed = True
            self.finished = False
            self.notes["error_event"] = True
        choices = found.get("choices")
        if isinstance(choices, list) and not self._failed:
            for choice in choices:
                if isinstance(choice, Mapping) and choice.get("finish_reason"):
                    self.finished = True
        return self._read_usage(found, choices)

    def _read_usage(self, found: Mapping[str, Any], choices: object) -> bool:
        usage = found.get("usage")
        if usage is None:
            return False
        read = read_usage(usage)
        if read is None:
            self.notes["usage"] = "invalid"
            return False
        self._reported = read
        return self._hide_usage and not choices

    def _early(self) -> bytes:
        """What of the unfinished event can be said before its end."""
        rest = self._splitter.rest
        if not self.begun:
            if len(rest) > FIRST_EVENT_BYTES_MAX:
                self._envelope, self.begun = len(rest), True
            else:
                return b""
        if self._rest_said == len(rest) or self.done or not self._may_be_said(rest):
            return b""
        said = rest[self._rest_said :]
        self._rest_said = len(rest)
        return said

    def _may_be_said(self, rest: bytes) -> bool:
        if self._rest_said or len(rest) > HELD_BYTES_MAX:
            return True
        if self._hide_usage:
            return b'"delta"' in rest
        # It may still become [DONE], which waits for the books.
        start = rest.lstrip(b"\r\n").removeprefix(b"data:").lstrip(b" ")
        return len(rest) > len(sse.DONE) and not start.startswith(b"[")

    def _end(self) -> bytes:
        """The upstream's body ended; its last event may lack the blank line, or be cut."""
        rest, said = self._splitter.rest, b""
        payload = sse.data(rest)
        if payload == b"[DONE]":
            self._event(rest)
            self._ending = sse.DONE
        elif payload is not None and parse_object(payload) is not None:
            said = self._event(rest)[self._rest_said :]
        elif rest and not self.finished:
            said = rest[self._rest_said :]
        if not self.begun:
            raise UpstreamUnavailable(kind="empty", executed=True)
        self._rest_said += len(said)
        if not self.finished:
            self.notes["kind"] = "no_finish"
        elif not self.done:
            self.notes["missing_done"] = 1
        return self._committed(said)
