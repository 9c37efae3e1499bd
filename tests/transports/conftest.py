"""Every test here runs on asyncio's own loop and on uvloop; none may leave a stray error behind."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest

from tokenhub_proxy.transports import live as live_module
from tokenhub_proxy.transports.live import Live

try:
    import uvloop
except ImportError:  # an extra
    LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
else:
    LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories(config: object, item: object) -> Mapping[str, Callable[[], Any]]:
    return LOOPS


class Clock:
    """The monotonic clock, which a test can put forward."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s

    def advance(self, seconds: float) -> None:
        self.ahead_s += seconds


@pytest.fixture(scope="package", autouse=True)
def _frozen() -> Iterator[None]:
    """Leave what is loaded by now out of collections: each test collects what it made itself."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def live(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Live]:
    """A transport that sweeps quickly. Afterwards nobody holds a place and the loop saw no error."""
    monkeypatch.setattr(live_module, "_SWEEP_S", 0.01)
    monkeypatch.setattr(live_module, "_IDLE_SWEEP_S", 0.01)
    loop = asyncio.get_running_loop()
    stray: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: stray.append(context))
    transport = Live(clock)
    yield transport
    assert [row.in_flight for row in transport.statistics.values() if row.in_flight] == []
    await transport.aclose()
    assert [row.open for row in transport.statistics.values() if row.open] == []
    await asyncio.sleep(0)
    gc.collect()
    assert stray == []
