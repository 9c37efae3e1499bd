"""Places: how many there are, who waits, and what becomes of idle connections."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from tests.chaos import CHUNKED, Action, answer, chunk, request, send, serve, wait
from tests.transports.asking import ask, outgoing
from tests.transports.conftest import Clock
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.routes import Timeouts
from tokenhub_proxy.transports.live import Live
from tokenhub_proxy.wire import Outgoing

TWICE: list[Action] = [request(), send(answer(b"one")), request(), send(answer(b"two"))]
STREAM: list[Action] = [request(), send(CHUNKED + chunk(b"a"))]


def moved(asked: Outgoing, **row: Any) -> Outgoing:
    """The same request to a changed row of the config, as after a reload."""
    return dataclasses.replace(asked, upstream=dataclasses.replace(asked.upstream, **row))


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_warmest_connection_is_reused_first(live: Live) -> None:
    both = asyncio.Event()
    script = [request(), wait(both), send(answer()), request(), send(answer()), request(), send(answer())]
    async with serve(script) as upstream:
        asked = outgoing(upstream.url)
        first = asyncio.get_running_loop().create_task(ask(live, asked))
        while not upstream.peers:
            await asyncio.sleep(0.005)
        second = asyncio.get_running_loop().create_task(ask(live, asked))
        while len(upstream.peers) < 2:
            await asyncio.sleep(0.005)
        both.set()
        await asyncio.gather(first, second)
        await ask(live, asked)
        warm = next(peer for peer in upstream.peers if len(peer.requests) == 2)
        await ask(live, asked)
        assert len(warm.requests) == 3


async def test_a_connection_that_is_closing_is_passed_over(live: Live) -> None:
    async with serve(TWICE, TWICE) as upstream:
        asked = outgoing(upstream.url)
        async with live.send(asked) as one, live.send(asked) as other:
            assert await one.pump(lambda data: None)
            assert await other.pump(lambda data: None)
        live._pools["up"]._idle[-1].close()
        got = await ask(live, asked)
        assert (got.body, got.retried, len(upstream.peers)) == (b"two", False, 2)


async def test_no_more_connections_than_allowed_however_many_ask(live: Live) -> None:
    script = [action for _ in range(30) for action in (request(), send(answer(b"x")))]
    async with serve(script) as upstream:
        asked = outgoing(upstream.url, connections_max=3)
        answers = await asyncio.gather(*(ask(live, asked) for _ in range(30)))
        assert [got.body for got in answers] == [b"x"] * 30
        assert len(upstream.peers) == 3
        row = live.statistics["up"]
        assert (row.open, row.idle, row.in_flight) == (3, 3, 0)


async def test_a_place_that_does_not_come_free_is_a_pool_timeout(live: Live) -> None:
    async with serve(STREAM) as upstream:
        asked = outgoing(upstream.url, connections_max=1, timeouts=Timeouts(connect_s=0.05))
        async with live.send(asked):
            with pytest.raises(UpstreamUnavailable) as caught:
                await ask(live, asked)
            assert (caught.value.kind, caught.value.executed) == ("pool_timeout", False)
            assert live.statistics["up"].in_flight == 1
            assert not live._pools["up"]._waiters  # else a long jam would pile them up


async def test_a_waiting_call_gets_the_place_of_a_connection_that_broke(live: Live) -> None:
    async with serve(STREAM, [request(), send(answer(b"ok"))]) as upstream:
        asked = outgoing(upstream.url, connections_max=1)
        async with live.send(asked):
            waiting = asyncio.get_running_loop().create_task(ask(live, asked))
            await turns()
        assert (await waiting).body == b"ok"
        assert len(upstream.peers) == 2


async def test_those_who_wait_are_served_in_order(live: Live) -> None:
    script = [*STREAM, send(chunk(b"")), request(), send(answer(b"1")), request(), send(answer(b"2"))]
    served: list[int] = []

    async def asking(number: int) -> None:
        await ask(live, asked)
        served.append(number)

    async with serve(script) as upstream:
        asked = outgoing(upstream.url, connections_max=1)
        async with live.send(asked) as incoming:
            tasks = []
            for number in range(2):
                tasks.append(asyncio.get_running_loop().create_task(asking(number)))
                await turns()
            await incoming.pump(lambda data: None)
        await asyncio.gather(*tasks)
        assert served == [0, 1]


async def test_a_place_granted_in_the_moment_of_cancellation_is_not_lost(live: Live) -> None:
    for before in (True, False):
        script = [*STREAM, send(chunk(b"")), request(), send(answer(b"ok"))]
        async with serve(script, [request(), send(answer(b"ok"))]) as upstream:
            asked = outgoing(upstream.url, connections_max=1)
            async with live.send(asked) as incoming:
                waiting = asyncio.get_running_loop().create_task(ask(live, asked))
                await turns()
                await incoming.pump(lambda data: None)
                if before:
                    waiting.cancel()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert live.statistics["up"].in_flight == 0
            assert (await ask(live, asked)).body == b"ok"


async def test_an_idle_connection_is_closed_after_a_minute(live: Live, clock: Clock) -> None:
    async with serve(TWICE) as upstream:
        await ask(live, outgoing(upstream.url))
        clock.advance(59)
        await asyncio.sleep(0.05)
        assert live.statistics["up"].idle == 1
        clock.advance(2)
        await upstream.peers[0].gone()
        assert live.statistics["up"].idle == 0


async def test_the_sweeper_rests_when_nothing_is_left_to_look_after(live: Live, clock: Clock) -> None:
    async with serve(TWICE) as upstream:
        await ask(live, outgoing(upstream.url))
        clock.advance(61)
        await upstream.peers[0].gone()
        await asyncio.sleep(0.05)
        assert live._timer is None
        assert (await ask(live, outgoing(upstream.url))).body == b"one"


async def test_closing_the_transport_closes_what_is_idle_and_later_what_is_in_use(live: Live) -> None:
    async with serve(TWICE, [*STREAM, send(chunk(b""))]) as upstream:
        asked = outgoing(upstream.url)
        await ask(live, asked)
        async with live.send(asked), live.send(asked) as incoming:
            pass
        await live.aclose()
        await upstream.peers[0].gone()
        assert incoming.status == 200


async def test_a_call_in_flight_outlives_aclose_but_its_connection_does_not(live: Live) -> None:
    end = asyncio.Event()
    async with serve([*STREAM, wait(end), send(chunk(b""))]) as upstream:
        async with live.send(outgoing(upstream.url)) as incoming:
            await live.aclose()
            end.set()
            assert await incoming.pump(lambda data: None)
        await upstream.peers[0].gone()


async def test_a_reload_that_changes_only_limits_keeps_the_connections(live: Live) -> None:
    async with serve(TWICE) as upstream:
        asked = outgoing(upstream.url)
        await ask(live, asked)
        await ask(live, moved(asked, connections_max=7))
        assert len(upstream.peers) == 1


async def test_a_reload_that_moves_an_upstream_closes_the_old_connections(live: Live) -> None:
    async with serve(TWICE) as old, serve(TWICE) as new:
        asked = outgoing(old.url)
        await ask(live, asked)
        assert (await ask(live, moved(asked, base_url=new.url))).body == b"one"
        await old.peers[0].gone()
        assert live.statistics["up"].open == 1


async def test_a_reload_that_drops_an_upstream_closes_its_idle_connections_and_spares_its_calls(
    live: Live,
) -> None:
    end = asyncio.Event()
    async with serve(TWICE, [*STREAM, wait(end), send(chunk(b""))]) as upstream:
        asked = outgoing(upstream.url)
        async with live.send(asked), live.send(asked) as incoming:
            live.retain([asked.upstream])
            assert live.statistics["up"].in_flight == 2
            live.retain([])
            assert live.statistics == {}
            end.set()
            assert await incoming.pump(lambda data: None)
        for peer in upstream.peers:
            await peer.gone()
