"""A call is broken off at each of its waits in turn: by a client that leaves, and by the proxy's own end."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Callable, Coroutine, Generator
from typing import Any, cast

import orjson
import pytest

from tests.conftest import KEY, Running, Serve, one_upstream
from tests.test_relay_clients import until
from tests.test_relay_fallback import error_says
from tests.test_server import MESSAGES
from tests.upstream import DONE, STREAM, Asked, FakeUpstream, Says, stream_says, whole
from tokenhub_proxy.errors import ShuttingDown
from tokenhub_proxy.wire import Incoming

# More than any call has; a call that never ends is no reason to go on.
WAITS_MAX = 60


class Headers:
    """`wire.RequestHeaders` of a plain call."""

    def __init__(self) -> None:
        self._known = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}

    def get(self, name: str, default: str | None = None) -> str | None:
        return self._known.get(name, default)

    def getall(self, name: str, default: Any = ()) -> Any:
        return [self._known[name]] if name in self._known else default


class Caller:
    """`wire.Client` that keeps what it is told, and lets others go first where a client may wait."""

    peer = "127.0.0.1"
    special = frozenset[str]()
    query_credentials = ()
    paused = stalled = False

    def __init__(self, stream: bool, model: str = "m") -> None:
        self.headers = Headers()
        self.digest: bytes | None = None
        self.source: Incoming | None = None
        self.begun = False
        self.bytes_out = 0
        self.status = 0
        self.told = b""
        self.ends: list[str] = []
        self._body = orjson.dumps({"model": model, "messages": MESSAGES, "stream": stream})

    async def body(self, bytes_max: int) -> bytes:
        await asyncio.sleep(0)
        return self._body

    def begin(self, status: int, lines: list[str]) -> None:
        assert not self.begun
        self.status = status

    def write(self, data: bytes) -> None:
        self.begun = True
        self.told += data

    async def end(self, data: bytes) -> None:
        self.ends.append("end")
        self.write(data)
        await asyncio.sleep(0)

    async def abort(self, data: bytes) -> None:
        self.ends.append("abort")
        self.write(data)
        await asyncio.sleep(0)


class Disturbed:
    """Awaits a coroutine, and does something when it waits for the so manieth time."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], at: int, then: Callable[[], object]) -> None:
        self._coroutine = coroutine
        self._at = at
        self._then = then
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, None]:
        error: BaseException | None = None
        while True:
            try:
                waited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
            except StopIteration:
                return
            finally:
                error = None
            # Where it is compiled, what it still handled would now be everybody's.
            assert sys.exc_info() == (None, None, None)
            self.waits += 1
            if self.waits == self._at:
                self._then()
            try:
                yield waited
            except BaseException as thrown:
                error = thrown


def in_pieces(asked: Asked) -> Says:
    """An answer that lets its head and each of its pieces be waited for."""
    if asked.body.get("stream"):
        return stream_says(STREAM, pause_s=0.003)
    answer, headers = whole(), {"Content-Type": "application/json"}
    return Says([answer[:20], answer[20:]], headers=headers, pause_s=0.003)


async def nothing_held(running: Running) -> None:
    await until(lambda: running.ledger.standing() == (0, 0, 0))
    assert await running.ledger.verify() == []
    assert running.proxy.relay.in_flight == {}


async def each_wait(
    running: Running, stream: bool, then: Callable[[], object], check: Callable[[Caller, bool], object]
) -> int:
    """Disturb one call at each of its waits, the last one nowhere; returns how many waits it has."""
    for at in range(1, WAITS_MAX):
        caller = Caller(stream)
        disturbed = Disturbed(running.proxy.relay.handle(cast(Any, caller), "chat"), at, then)
        left = False
        try:
            async with asyncio.timeout(5):
                await disturbed
        except asyncio.CancelledError:
            left = True
            cast(Any, asyncio.current_task()).uncancel()
        assert len(running.exchanges) == at
        await nothing_held(running)
        if disturbed.waits < at:
            assert (left, caller.ends) == (False, ["end"])
            return disturbed.waits
        check(caller, left)
    raise AssertionError("the call does not end")


def leave() -> None:
    cast(Any, asyncio.current_task()).cancel()


@pytest.mark.parametrize("stream", [True, False])
async def test_wherever_a_client_leaves_the_call_ends_once_and_nobody_is_told(
    serve: Serve, upstream: FakeUpstream, stream: bool
) -> None:
    upstream.says = in_pieces
    running = await serve(one_upstream(upstream.base_url))
    phases: list[str] = []
    kept: list[weakref.ref[Caller]] = []

    def check(caller: Caller, left: bool) -> None:
        exchange = running.exchanges[-1]
        assert left
        assert DONE not in caller.told or caller.ends == ["end"]
        assert "abort" not in caller.ends
        assert exchange.hold is None or not exchange.hold.id or exchange.hold.ending is not None
        phases.append(exchange.gone)
        kept.append(weakref.ref(caller))

    gc.collect()
    gc.disable()
    try:
        waits = await each_wait(running, stream, leave, check)
        await until(lambda: not any(one() for one in kept))
    finally:
        gc.enable()

    assert waits >= 6  # body, hold, head, answer, books, end
    assert list(dict.fromkeys(phases)) == ["read", "held", "ttfb", "stream"]


@pytest.mark.parametrize("refused_by", ["us", "upstream"])
async def test_of_a_refused_call_nothing_waits_for_the_collector(
    serve: Serve, upstream: FakeUpstream, refused_by: str
) -> None:
    upstream.says = lambda asked: error_says(500)
    running = await serve(one_upstream(upstream.base_url))
    caller = Caller(stream=False, model="m" if refused_by == "upstream" else "unknown")
    kept = weakref.ref(caller)

    gc.collect()
    gc.disable()
    try:
        await running.proxy.relay.handle(cast(Any, caller), "chat")
        assert caller.status == (502 if refused_by == "upstream" else 404)
        del caller
        assert kept() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("stream", [True, False])
async def test_wherever_the_proxy_ends_the_client_is_told_once_and_the_truth(
    serve: Serve, upstream: FakeUpstream, stream: bool
) -> None:
    upstream.says = in_pieces
    running = await serve(one_upstream(upstream.base_url))
    relay = running.proxy.relay
    outcomes: list[str] = []

    def check(caller: Caller, left: bool) -> None:
        exchange = running.exchanges[-1]
        assert not left
        assert len(caller.ends) == 1
        if exchange.error is None:
            outcomes.append("whole")
            assert caller.status == 200
            assert caller.told.endswith(DONE) if stream else caller.told == whole()
        else:
            outcomes.append("told")
            assert exchange.error.code == "shutting_down"
            assert DONE not in caller.told
            assert b"shutting_down" in caller.told
            assert (caller.status, caller.ends) in ((503, ["end"]), (200, ["abort"]))

    await each_wait(running, stream, lambda: relay.cut(ShuttingDown), check)

    assert set(outcomes) == {"whole", "told"}  # while the books are closed, nothing is cut
    assert cast(Any, asyncio.current_task()).cancelling() == 0
