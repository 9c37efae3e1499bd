"""A transport whose answers break in the way that a test asked for."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import orjson

from tokenhub_proxy import sse
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.faults import Fault
from tokenhub_proxy.routes import Timeouts
from tokenhub_proxy.transports.script import Fail, Pause, Scripted, ScriptedIncoming, Step
from tokenhub_proxy.wire import HOLD, Incoming, Outgoing, Sending, Sink, Transport

HTML = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
FOREVER = Pause(float("inf"))
# A test needs far less; more of an answer that is no stream than this is not kept back for it.
WHOLE_BYTES_MAX = 32 * 2**20
_ERRORS = {
    "anthropic": b'event: error\ndata: {"type":"error","error":'
    b'{"type":"overloaded_error","message":"Overloaded"}}\n\n',
    "gemini": b'data: {"error":{"code":503,"message":"The model is overloaded.",'
    b'"status":"UNAVAILABLE"}}\r\n\r\n',
}
_ERROR = (
    b'data: {"error":{"message":"The server had an error.","type":"server_error","code":"server_error"}}\n\n'
)


class Faulty:
    """Carries requests through `inner` and lets its answers suffer `fault`."""

    def __init__(self, inner: Transport, fault: Fault) -> None:
        self._inner = inner
        self._fault = fault

    def send(self, outgoing: Outgoing) -> Sending:
        return _Exchange(self._inner.send(outgoing), outgoing, self._fault)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Exchange:
    """The context of one answer."""

    def __init__(self, inner: Sending, outgoing: Outgoing, fault: Fault) -> None:
        self._inner = inner
        self._outgoing = outgoing
        self._fault = fault

    async def __aenter__(self) -> Incoming:
        timeouts, fault = self._outgoing.upstream.timeouts, self._fault
        if fault.head_s:
            await asyncio.sleep(min(fault.head_s, timeouts.first_byte_s))
            if fault.head_s > timeouts.first_byte_s:
                raise UpstreamUnavailable(kind="ttfb_timeout", executed=True)
        incoming = await self._inner.__aenter__()
        if fault.html:
            return ScriptedIncoming(Scripted([HTML], headers={"content-type": "text/html"}), timeouts)
        machine = Machine(fault, incoming.headers.get("content-type", ""), self._outgoing.upstream.dialect)
        return _FaultyIncoming(incoming, machine, timeouts)

    def close(self, error: BaseException | None) -> None:
        self._inner.close(error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)


class Machine:
    """An upstream's bytes → the steps that are left of them. Pure but for the seed's chance."""

    def __init__(self, fault: Fault, content_type: str, dialect: str) -> None:
        self._fault = fault
        self._stream = content_type.startswith("text/event-stream")
        self._dialect = dialect
        self._chance = random.Random(fault.seed)  # noqa: S311 - to repeat a test, not to keep a secret
        self._splitter = sse.Splitter()
        self._whole = b""
        self._events = 0
        self.ended = False  # nothing after this is said

    def begin(self) -> list[Step]:
        """What happens before the first byte."""
        return self._after() if self._stream else []

    def feed(self, data: bytes) -> list[Step]:
        """The steps that one read of the upstream becomes."""
        if not self._stream:
            self._whole += data
            if len(self._whole) > WHOLE_BYTES_MAX:
                raise UpstreamUnavailable(kind="too_large", executed=True)
            return []
        return [step for event in self._splitter.feed(data) for step in self._event(event)]

    def close(self) -> list[Step]:
        """What is left when the upstream's body has ended cleanly."""
        if not self._stream:
            return self._body(self._whole)
        return [] if self.ended or not self._splitter.rest else [self._splitter.rest]

    def _event(self, event: bytes) -> list[Step]:
        payload = sse.data(event)
        if self.ended:
            return []
        if payload is None:
            return [event]
        steps: list[Step] = self._pause()
        place = self._breaks_at(event)
        if place is not None:
            self.ended = True
            return [*steps, event[:place], Fail("short_body")]
        steps += self._changed(event, payload)
        self._events += 1
        return steps + self._after()

    def _pause(self) -> list[Step]:
        longest = self._fault.pause_s
        if not longest:
            return []
        return [Pause(longest if self._fault.seed is None else self._chance.uniform(0, 2 * longest))]

    def _breaks_at(self, event: bytes) -> int | None:
        """Where in this event the connection closes, if it does."""
        fault = self._fault
        if fault.cut_event == self._events:
            return self._chance.randrange(1, len(event) - 1)
        if fault.cut_character is not None and self._events >= fault.cut_character:
            first = next((place for place, byte in enumerate(event) if byte >= 0xC0), None)
            return None if first is None else first + 1
        return None

    def _after(self) -> list[Step]:
        """What happens after so many events."""
        fault, count = self._fault, self._events
        steps: list[Step] = []
        if fault.stall == count:
            steps = [FOREVER]
        elif fault.cut == count:
            steps = [Fail("short_body")]
        elif fault.reset == count:
            steps = [Fail("reset_read")]
        elif fault.error == count:
            self.ended = True
            return [_ERRORS.get(self._dialect, _ERROR)]
        self.ended = self.ended or bool(steps)
        return steps

    def _changed(self, event: bytes, payload: bytes) -> list[Step]:
        fault = self._fault
        if payload == b"[DONE]":
            return [event] * {None: 1, "missing": 0, "doubled": 2}[fault.done]
        if fault.usage is None:
            return [event]
        body = _object(payload)
        if not _has_usage(body):
            return [event]
        if fault.usage == "doubled":
            return [event, _written(event, _without_words(body))]
        body = _without_usage(body)
        return [] if body.get("choices") == [] else [_written(event, body)]

    def _body(self, whole: bytes) -> list[Step]:
        """An answer that is no stream."""
        fault = self._fault
        if fault.usage == "missing":
            whole = orjson.dumps(_without_usage(_object(whole)))
        middle = whole[: self._chance.randrange(1, max(2, len(whole) - 1))]
        cuts = (fault.cut, fault.cut_event, fault.cut_character, fault.error)
        steps: list[Step] = [whole]
        if fault.stall is not None:
            steps = [middle, FOREVER]
        elif fault.reset is not None:
            steps = [middle, Fail("reset_read")]
        elif any(cut is not None for cut in cuts):
            steps = [middle, Fail("short_body")]
        return self._pause() + steps


def _object(payload: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}


_USAGE = ("usage", "usageMetadata", "x_groq")


def _has_usage(body: Mapping[str, Any]) -> bool:
    message = body.get("message")
    return any(body.get(name) for name in _USAGE) or (isinstance(message, dict) and _has_usage(message))


def _without_usage(body: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in body.items() if name not in _USAGE}
    if isinstance(kept.get("message"), dict):
        kept["message"] = _without_usage(kept["message"])
    return kept


def _without_words(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same usage once more, without saying the words beside it once more."""
    kept = {name: value for name, value in body.items() if name != "candidates"}
    return kept | ({"choices": []} if "choices" in kept else {})


def _written(event: bytes, body: Mapping[str, Any]) -> bytes:
    """The event with another object in it."""
    before, _, _ = event.partition(b"data:")
    end = b"\r\n\r\n" if event.endswith(b"\r\n\r\n") else b"\n\n"
    return before + b"data: " + orjson.dumps(body) + end


class _FaultyIncoming:
    """`wire.Incoming` over another one: each read becomes steps, which are played one by one."""

    complete = False

    def __init__(self, incoming: Incoming, machine: Machine, timeouts: Timeouts) -> None:
        self.status = incoming.status
        self.headers = incoming.headers
        self.notes = incoming.notes
        self._incoming = incoming
        self._machine = machine
        self._timeouts = timeouts
        self._steps: deque[Step] = deque(machine.begin())
        self._read = False  # since the last look
        self._ended = machine.ended
        self._lingers = False
        self._error: Exception | None = None
        self._stirred = asyncio.Event()

    async def pump(self, sink: Sink) -> bool:
        while True:
            while self._steps:
                if self._error is not None:
                    raise self._error
                step = self._steps.popleft()
                if isinstance(step, Fail):
                    error = UpstreamUnavailable(kind=step.kind, executed=True)
                    self.cut(error)
                    raise error
                if isinstance(step, Pause):
                    await self._silence(step.seconds)
                elif step and sink(step) is HOLD:
                    return False
            if self._ended:
                return True
            self._read = False
            if await self._incoming.pump(self._take):
                self._steps.extend(self._machine.close())
                self._ended = True
            elif not self._read and self._lingers:
                return False
            self._ended = self._ended or self._machine.ended

    def _take(self, data: bytes) -> bool:
        self._read = True
        self._steps.extend(self._machine.feed(data))
        return HOLD

    async def _silence(self, seconds: float) -> None:
        """Say nothing for so long; the upstream's deadline of silence holds here too."""
        idle_s = self._timeouts.idle_s
        if self._error is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(seconds, idle_s)):
                    await self._stirred.wait()
        if self._error is not None:
            raise self._error
        if seconds > idle_s:
            raise UpstreamUnavailable(kind="idle", executed=True)

    def linger(self, grace_s: float) -> None:
        self._lingers = True
        self._incoming.linger(grace_s)

    def cut(self, error: Exception) -> None:
        self._error = self._error or error
        self._stirred.set()
        self._incoming.cut(error)

    def pause(self) -> None:
        self._incoming.pause()

    def resume(self) -> None:
        self._incoming.resume()
