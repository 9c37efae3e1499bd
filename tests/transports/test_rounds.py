"""Streams that are read in rounds end, break and wait as those do that their transports read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.chaos import CHUNKED, Action, answer, chunk, close, request, reset, send, serve, wait
from tests.transports.asking import ask, every_call_was_looked_at, outgoing
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.transports import rounds
from tokenhub_proxy.transports.live import Live
from tokenhub_proxy.wire import HOLD

pytestmark = pytest.mark.skipif(rounds.sys.platform != "linux", reason="there are no rounds elsewhere")
EVENT = b'data: {"n": 1}\n\n'


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call is many."""
    monkeypatch.setattr(rounds, "CALLS_MAX", 0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def in_rounds(live: Live) -> int:
    """How many sockets are read so."""
    return 0 if live._rounds is None else len(live._rounds)


class Stream:
    """One call whose upstream says an event, and the rest when the test says so."""

    def __init__(self, live: Live, *rest: Action) -> None:
        self.live = live
        self.go = asyncio.Event()
        self.script = [request(), send(CHUNKED + chunk(EVENT)), wait(self.go), *rest]
        self.pieces: list[bytes] = []

    async def joined(self) -> None:
        """Wait until it is read in rounds, and let the upstream go on."""
        await until(lambda: in_rounds(self.live) == 1)
        self.go.set()

    async def whole(self, url: str) -> bytes:
        """All that comes. Raises what `pump` raises."""
        async with self.live.send(outgoing(url)) as incoming:
            pumping = asyncio.ensure_future(incoming.pump(self.pieces.append))
            await self.joined()
            assert await pumping
        return b"".join(self.pieces)


async def test_events_come_as_they_were_sent_and_the_connection_serves_on(live: Live) -> None:
    events = [b'data: {"n": %d}\n\n' % number for number in range(200)]
    paced = [send(chunk(event)) for event in events]
    stream = Stream(live, *paced, send(chunk(b"")), request(), send(answer(b"next")))
    async with serve(stream.script) as upstream:
        assert await stream.whole(upstream.url) == EVENT + b"".join(events)
        assert in_rounds(live) == 0
        assert live.statistics["up"].idle == 1
        assert (await ask(live, outgoing(upstream.url))).body == b"next"
        assert len(upstream.peers) == 1


async def test_events_cut_anywhere_come_whole(live: Live) -> None:
    stream = Stream(live, send((chunk(EVENT) * 5 + chunk(b"")), every=7))
    async with serve(stream.script) as upstream:
        assert await stream.whole(upstream.url) == EVENT * 6


async def test_what_is_no_event_leaves_the_rounds_and_comes_whole(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "ROUND_S", 0.01)
    large = bytes(index % 251 for index in range(251)) * 40_000  # 10 MB, in 150 rounds and more
    stream = Stream(live, send(chunk(large) + chunk(b"")))
    async with serve(stream.script) as upstream:
        begun_s = asyncio.get_running_loop().time()
        assert await stream.whole(upstream.url) == EVENT + large
        assert asyncio.get_running_loop().time() - begun_s < 5.0


@pytest.mark.parametrize(("end", "kind"), [(close(), "short_body"), (reset(), "reset_read")])
async def test_an_end_in_mid_stream_is_told_after_what_came_before_it(
    live: Live, end: Action, kind: str
) -> None:
    said = asyncio.Event()
    stream = Stream(live, send(chunk(EVENT)), wait(said), end)
    async with serve(stream.script) as upstream:
        asking = asyncio.ensure_future(stream.whole(upstream.url))
        await until(lambda: len(stream.pieces) == 2)  # a reset throws away what was not read
        said.set()
        with pytest.raises(UpstreamUnavailable) as caught:
            await asking
        assert caught.value.kind == kind
        assert stream.pieces == [EVENT, EVENT]
        assert in_rounds(live) == 0
        assert live.statistics["up"].in_flight == 0


async def test_a_client_that_can_not_keep_up_stops_the_reading(live: Live) -> None:
    stream = Stream(live, send(chunk(EVENT)), send(chunk(b"")))
    async with serve(stream.script) as upstream, live.send(outgoing(upstream.url)) as incoming:
        pumping = asyncio.ensure_future(incoming.pump(stream.pieces.append))
        await until(lambda: in_rounds(live) == 1)
        incoming.pause()
        assert in_rounds(live) == 0
        stream.go.set()
        await upstream.peers[0].task  # all is sent
        await every_call_was_looked_at(live)
        await asyncio.sleep(2 * rounds.ROUND_S)
        assert stream.pieces == [EVENT]
        incoming.resume()
        assert await pumping
        assert stream.pieces == [EVENT, EVENT]


async def test_a_sink_that_holds_gets_nothing_more_until_it_is_pumped_again(live: Live) -> None:
    stream = Stream(live, send(chunk(EVENT)), send(chunk(EVENT) + chunk(b"")))

    def hold(data: bytes) -> object:
        stream.pieces.append(data)
        return HOLD if len(stream.pieces) == 2 else None

    async with serve(stream.script) as upstream, live.send(outgoing(upstream.url)) as incoming:
        pumping = asyncio.ensure_future(incoming.pump(hold))
        await stream.joined()
        assert not await pumping
        assert in_rounds(live) == 0
        assert await incoming.pump(stream.pieces.append)
        assert b"".join(stream.pieces) == EVENT * 3


async def test_a_stream_that_begins_among_many_is_read_in_rounds_as_soon_as_its_answer_has_begun(
    live: Live,
) -> None:
    earlier, later = Stream(live, send(chunk(b""))), Stream(live, send(chunk(EVENT) + chunk(b"")))
    async with serve(earlier.script) as one, serve(later.script) as other:
        asking = asyncio.ensure_future(ask(live, outgoing(one.url)))
        await until(lambda: in_rounds(live) == 1)
        assert live._timer is not None
        live._timer.cancel()  # nobody looks any more
        async with live.send(outgoing(other.url)) as incoming:
            assert not await incoming.pump(lambda data: HOLD)
            pumping = asyncio.ensure_future(incoming.pump(later.pieces.append))
            await asyncio.sleep(0)
            assert in_rounds(live) == 2
            later.go.set()
            assert await pumping
        assert later.pieces == [EVENT]
        earlier.go.set()
        assert (await asking).body == EVENT


async def test_a_call_that_is_cancelled_leaves_the_rounds_and_closes_its_connection(live: Live) -> None:
    stream = Stream(live)
    async with serve(stream.script) as upstream:
        asking = asyncio.ensure_future(stream.whole(upstream.url))
        await until(stream.go.is_set)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert in_rounds(live) == 0
        await upstream.peers[0].gone()


async def test_where_few_calls_are_left_their_streams_are_read_as_they_come(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = asyncio.Event()
    stream = Stream(live, wait(left), send(chunk(EVENT) + chunk(b"")))
    async with serve(stream.script) as upstream:
        asking = asyncio.ensure_future(stream.whole(upstream.url))
        await until(stream.go.is_set)
        monkeypatch.setattr(rounds, "CALLS_MAX", 1)
        await until(lambda: in_rounds(live) == 0)
        left.set()
        assert await asking == EVENT * 2


async def test_an_answer_that_is_no_stream_is_never_read_in_rounds(live: Live) -> None:
    rest = asyncio.Event()
    half = answer(b"0123456789")[:-5]
    async with serve([request(), send(half), wait(rest), send(b"56789")]) as upstream:
        asking = asyncio.ensure_future(ask(live, outgoing(upstream.url)))
        await every_call_was_looked_at(live)
        assert live._rounds is not None
        assert in_rounds(live) == 0
        rest.set()
        assert (await asking).body == b"0123456789"
