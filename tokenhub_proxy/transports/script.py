"""A transport with no network: an upstream that is a list of bytes, pauses and failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.routes import Timeouts
from tokenhub_proxy.wire import HOLD, Incoming, Outgoing, Sending, Sink


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence of so many seconds before the next step."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fail:
    """The connection breaks here, in the way that `kind` names.

    Before the head `executed` says whether the upstream may have done the work; after it, it may.
    """

    kind: str = "reset_read"
    executed: bool = False


Step = bytes | Pause | Fail


@dataclass(frozen=True, slots=True)
class Scripted:
    """What a scripted upstream answers. Each `bytes` step is one read of the network."""

    steps: Iterable[Step] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    before: Step = b""  # a Pause before the head, or a Fail in place of it


class Script:
    """A Transport whose upstream is `answer(outgoing)`."""

    def __init__(self, answer: Callable[[Outgoing], Scripted]) -> None:
        self._answer = answer

    def send(self, outgoing: Outgoing) -> Sending:
        return _Exchange(self._answer(outgoing), outgoing.upstream.timeouts)

    async def aclose(self) -> None:
        pass


class _Exchange:
    """The context of one scripted answer."""

    def __init__(self, scripted: Scripted, timeouts: Timeouts) -> None:
        self._scripted = scripted
        self._timeouts = timeouts

    async def __aenter__(self) -> Incoming:
        before, first_byte_s = self._scripted.before, self._timeouts.first_byte_s
        if isinstance(before, Fail):
            raise UpstreamUnavailable(kind=before.kind, executed=before.executed)
        if isinstance(before, Pause):
            await asyncio.sleep(min(before.seconds, first_byte_s))
            if before.seconds > first_byte_s:
                raise UpstreamUnavailable(kind="ttfb_timeout", executed=True)
        return ScriptedIncoming(self._scripted, self._timeouts)

    def close(self, error: BaseException | None) -> None:
        """There is no connection."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)


class ScriptedIncoming:
    """An Incoming that plays its steps; pausing stops it between two of them."""

    complete = False

    def __init__(self, scripted: Scripted, timeouts: Timeouts) -> None:
        self.status = scripted.status
        self.headers = scripted.headers
        self.notes: Mapping[str, object] = {}
        self._steps = iter(scripted.steps)
        self._timeouts = timeouts
        self._now = asyncio.get_running_loop().time
        self._lasts_until = self._now() + timeouts.total_s
        self._idle_at = self._now() + timeouts.idle_s
        self._lingers_until: float | None = None
        self._paused = False
        self._error: Exception | None = None
        self._stirred = asyncio.Event()  # something above has changed

    async def pump(self, sink: Sink) -> bool:
        due_at = self._now()
        while await self._reach(due_at):
            step = next(self._steps, None)
            if step is None:
                return True
            if isinstance(step, Fail):
                self.cut(UpstreamUnavailable(kind=step.kind, executed=True))
            elif isinstance(step, Pause):
                due_at = self._now() + step.seconds
            else:
                self._idle_at = self._now() + self._timeouts.idle_s
                if sink(step) is HOLD:
                    return False
                # As after a read of the network: whoever waits for the loop has a turn.
                await asyncio.sleep(0)
        return False

    async def _reach(self, due_at: float) -> bool:
        """Wait until then, and until reading is on; False when the answer has lingered enough."""
        while True:
            if self._error is not None:
                raise self._error
            now = self._now()
            if self._lingers_until is not None and now >= self._lingers_until:
                return False
            if now >= due_at and not self._paused:
                return True
            self._break_if_late(now)
            await self._stir(due_at)

    def _break_if_late(self, now: float) -> None:
        if self._lingers_until is not None:
            return
        if now >= self._lasts_until:
            raise UpstreamUnavailable(kind="max_duration", executed=True)
        if now >= self._idle_at and not self._paused:
            raise UpstreamUnavailable(kind="idle", executed=True)

    async def _stir(self, due_at: float) -> None:
        """Wait for the next deadline, or for a change."""
        if self._lingers_until is not None:
            deadlines = [self._lingers_until]
        else:
            deadlines = [self._lasts_until] if self._paused else [self._lasts_until, self._idle_at]
        if not self._paused:
            deadlines.append(due_at)
        self._stirred.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(deadlines)):
                await self._stirred.wait()

    def linger(self, grace_s: float) -> None:
        if self._lingers_until is None:
            self._lingers_until = self._now() + grace_s
            self._stirred.set()

    def cut(self, error: Exception) -> None:
        self._error = self._error or error
        self._stirred.set()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._idle_at = self._now() + self._timeouts.idle_s  # the silence was ours
            self._stirred.set()
