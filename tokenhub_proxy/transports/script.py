"""A transport with no network: an upstream that is a list of bytes, pauses and failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import TracebackType

from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.wire import HOLD, Incoming, Outgoing, Sink


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence of so many seconds before the next step."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fail:
    """The connection breaks here, in the way that `kind` names."""

    kind: str = "reset_read"


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

    def send(self, outgoing: Outgoing) -> AbstractAsyncContextManager[Incoming]:
        return _Exchange(self._answer(outgoing), outgoing.upstream.timeouts.idle_s)

    async def aclose(self) -> None:
        pass


class _Exchange:
    """The context of one scripted answer."""

    def __init__(self, scripted: Scripted, idle_s: float) -> None:
        self._scripted = scripted
        self._idle_s = idle_s

    async def __aenter__(self) -> Incoming:
        before = self._scripted.before
        if isinstance(before, Pause):
            await asyncio.sleep(before.seconds)
        elif isinstance(before, Fail):
            raise UpstreamUnavailable(kind=before.kind)
        return ScriptedIncoming(self._scripted, self._idle_s)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class ScriptedIncoming:
    """An Incoming that plays its steps; pausing stops it between two of them."""

    def __init__(self, scripted: Scripted, idle_s: float) -> None:
        self.status = scripted.status
        self.headers = scripted.headers
        self._steps = iter(scripted.steps)
        self._idle_s = idle_s
        self._running = asyncio.Event()
        self._running.set()
        self._cut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ends_at: float | None = None

    async def pump(self, sink: Sink) -> bool:
        for step in self._steps:
            if isinstance(step, Fail):
                raise UpstreamUnavailable(kind=step.kind, executed=True)
            if isinstance(step, Pause):
                if not await self._sleep(step.seconds):
                    return False
                continue
            await self._wait_running()
            if sink(step) is HOLD:
                return False
        self._raise_cut()
        return True

    async def _sleep(self, seconds: float) -> bool:
        """Wait, unless the answer is cut, falls idle or has lingered long enough."""
        loop = asyncio.get_running_loop()
        limit = self._idle_s if self._ends_at is None else self._ends_at - loop.time()
        await asyncio.wait((self._cut,), timeout=max(0.0, min(seconds, limit)))
        self._raise_cut()
        if seconds >= limit and self._ends_at is None:
            raise UpstreamUnavailable(kind="idle", executed=True)
        return seconds < limit

    async def _wait_running(self) -> None:
        if self._cut.done():
            self._raise_cut()
        if not self._running.is_set():
            waiting = asyncio.ensure_future(self._running.wait())
            try:
                await asyncio.wait((waiting, self._cut), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
            self._raise_cut()

    def _raise_cut(self) -> None:
        if self._cut.done():
            self._cut.result()

    def linger(self, grace_s: float) -> None:
        if self._ends_at is None:
            self._ends_at = asyncio.get_running_loop().time() + grace_s

    def cut(self, error: Exception) -> None:
        if not self._cut.done():
            self._cut.set_exception(error)
            self._cut.exception()  # seen: it is raised by the pump, or nobody waits any more

    def pause(self) -> None:
        self._running.clear()

    def resume(self) -> None:
        self._running.set()
