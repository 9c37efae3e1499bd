"""A transport for calls of many parts: sends each through another transport, answers as one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import orjson

from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.wire import HOLD, Incoming, Outgoing, Sending, Sink, Transport

# A batch of one client's embeddings must neither queue behind itself for long nor take the
# upstream's rate limit alone.
CONCURRENT_MAX = 8
# The largest real part is 96 vectors of 1,536 floats as text, about 3 MiB.
PART_BYTES_MAX = 8 * 2**20


class FanOut:
    """Carries requests without parts through `inner` untouched, and the parts of others by eights.

    Either all parts succeed, or the first that fails is the answer: its status and body, or its
    error. The parts that are under way are dropped then.
    """

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    def send(self, outgoing: Outgoing) -> Sending:
        return _Parts(self._inner, outgoing) if outgoing.parts else self._inner.send(outgoing)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Failed(Exception):
    """A part was answered with an error."""

    def __init__(self, answer: _Answered) -> None:
        super().__init__()
        self.answer = answer


class _Parts:
    """The context of one call of many parts."""

    def __init__(self, inner: Transport, outgoing: Outgoing) -> None:
        self._inner = inner
        self._outgoing = outgoing

    async def __aenter__(self) -> Incoming:
        slots = asyncio.Semaphore(CONCURRENT_MAX)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._send(part, slots)) for part in self._outgoing.parts]
        except BaseExceptionGroup as failed:
            error = _first(failed)
            if isinstance(error, _Failed):
                return error.answer
            # The other parts may have been done and are paid for.
            if isinstance(error, UpstreamUnavailable):
                raise UpstreamUnavailable(
                    kind=error.kind, executed=True, upstream_status=error.upstream_status
                ) from None
            raise error from None
        answers = b",".join([task.result() for task in tasks])
        return _Answered(200, {"content-type": "application/json"}, b"[" + answers + b"]")

    def close(self, error: BaseException | None) -> None:
        """The parts have closed their connections."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    async def _send(self, part: Outgoing, slots: asyncio.Semaphore) -> bytes:
        """One part's entry in the array. Raises _Failed for an answer that is an error."""
        async with slots, self._inner.send(part) as incoming:
            body = await _collected(incoming)
            if incoming.status != 200:
                raise _Failed(_Answered(incoming.status, incoming.headers, body))
            try:
                entry: dict[str, Any] = {"headers": dict(incoming.headers), "body": orjson.loads(body)}
            except orjson.JSONDecodeError:
                raise UpstreamUnavailable(kind="bad_json", executed=True) from None
            return orjson.dumps(entry)


async def _collected(incoming: Incoming) -> bytes:
    pieces: list[bytes] = []
    length = 0

    def keep(data: bytes) -> None:
        nonlocal length
        length += len(data)
        if length > PART_BYTES_MAX:
            raise UpstreamUnavailable(kind="too_large", executed=True)
        pieces.append(data)

    await incoming.pump(keep)
    return b"".join(pieces)


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = failed
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Answered:
    """An answer that has come whole, as an Incoming."""

    complete = True

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self._body = body
        self.notes: Mapping[str, object] = {}
        self._cut: Exception | None = None

    async def pump(self, sink: Sink) -> bool:
        if self._cut is not None:
            raise self._cut
        body, self._body = self._body, b""
        return not (body and sink(body) is HOLD)

    def linger(self, grace_s: float) -> None:
        """Nothing more is coming."""

    def cut(self, error: Exception) -> None:
        self._cut = error

    def pause(self) -> None:
        """Nothing is being read."""

    def resume(self) -> None:
        """Nothing is being read."""
