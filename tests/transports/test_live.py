"""Calls over real sockets: bodies in time, kept connections, early leaving."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.chaos import (
    CHUNKED,
    Action,
    Peer,
    answer,
    chunk,
    close,
    deaf,
    half_close,
    hear,
    receive,
    request,
    reset,
    send,
    serve,
    wait,
)
from tests.transports.asking import Answer, ask, failing, outgoing, upstream_has_the_request
from tests.transports.conftest import Clock
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.routes import Timeouts
from tokenhub_proxy.transports.live import Live
from tokenhub_proxy.wire import HOLD

EVENT = b'data: {"n": 1}\n\n'


# Good answers


async def test_a_connection_serves_one_answer_after_another(live: Live) -> None:
    script = [request(), send(answer(b"one")), request(), send(CHUNKED + chunk(b"two") + chunk(b""))]
    async with serve(script) as upstream:
        assert (await ask(live, outgoing(upstream.url))).body == b"one"
        assert (await ask(live, outgoing(upstream.url))).body == b"two"
        assert len(upstream.peers) == 1
        assert live.statistics["up"].idle == 1


async def test_the_upstream_gets_the_request_as_it_was_built(live: Live) -> None:
    async with serve([request(), send(answer())]) as upstream:
        await ask(live, outgoing(upstream.url + "/v1/", b'{"model":"m"}'))
        head, _, body = upstream.peers[0].requests[0].partition(b"\r\n\r\n")
        assert head.split(b"\r\n")[0] == b"POST /v1/chat/completions HTTP/1.1"
        assert f"Host: 127.0.0.1:{upstream.port}".encode() in head
        assert b"Authorization: Bearer sk-upstream" in head
        assert b"Accept-Encoding: identity" in head
        assert body == b'{"model":"m"}'


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 5_000_000])
async def test_a_request_body_of_any_size_arrives_whole(live: Live, size: int) -> None:
    body = bytes(index % 251 for index in range(251)) * (size // 251 + 1)
    async with serve([request(), send(answer())]) as upstream:
        await ask(live, outgoing(upstream.url, body[:size]))
        assert upstream.peers[0].requests[0].partition(b"\r\n\r\n")[2] == body[:size]


async def test_of_a_repeated_header_the_last_one_counts_and_names_are_lower_case(live: Live) -> None:
    headers = ["X-Twice: first", "Content-Type: text/plain", "x-twice: last", "X-Latin: \xe9"]
    async with serve([request(), send(answer(headers=headers))]) as upstream:
        got = (await ask(live, outgoing(upstream.url))).headers
        assert (got["x-twice"], got["content-type"], got["x-latin"]) == ("last", "text/plain", "\xe9")


async def test_an_answer_in_single_bytes_is_the_same_answer(live: Live) -> None:
    raw = CHUNKED + chunk(EVENT) + chunk("né".encode()) + chunk(b"")
    async with serve([request(), send(raw, every=1)]) as upstream:
        assert (await ask(live, outgoing(upstream.url))).body == EVENT + "né".encode()


async def test_a_body_delimited_by_the_close_ends_cleanly_and_uses_up_the_connection(live: Live) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + EVENT
    async with serve([request(), send(raw), close()]) as upstream:
        assert (await ask(live, outgoing(upstream.url))).body == EVENT
        assert live.statistics["up"].idle == 0


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_leaves_the_connection_usable(live: Live, status: int) -> None:
    raw = f"HTTP/1.1 {status} Nothing\r\n\r\n".encode()
    async with serve([request(), send(raw)]) as upstream:
        assert (await ask(live, outgoing(upstream.url))).body == b""
        assert live.statistics["up"].idle == 1


async def test_interim_answers_are_skipped(live: Live) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with serve([request(), send(interim + answer(b"ok"))]) as upstream:
        got = await ask(live, outgoing(upstream.url))
        assert (got.status, got.body, "link" in got.headers) == (200, b"ok", False)


async def test_a_redirect_is_only_a_status(live: Live) -> None:
    async with serve([request(), send(answer(status=307, headers=["Location: /elsewhere"]))]) as upstream:
        got = await ask(live, outgoing(upstream.url))
        assert (got.status, got.headers["location"]) == (307, "/elsewhere")
        assert len(upstream.peers[0].requests) == 1


async def test_compressed_bytes_stay_compressed(live: Live) -> None:
    async with serve(
        [request(), send(answer(b"\x1f\x8b\x00", headers=["Content-Encoding: gzip"]))]
    ) as upstream:
        assert (await ask(live, outgoing(upstream.url))).body == b"\x1f\x8b\x00"


# Each read is one call of the sink, in time


async def test_each_chunk_reaches_the_sink_before_the_next_one_is_sent(live: Live) -> None:
    seen = [asyncio.Event() for _ in range(3)]
    script: list[Action] = [request(), send(CHUNKED)]
    for index, event in enumerate(seen):
        script += [send(chunk(b"%d" % index)), wait(event)]
    pieces: list[bytes] = []

    def sink(data: bytes) -> None:
        pieces.append(data)
        seen[len(pieces) - 1].set()

    async with serve([*script, send(chunk(b""))]) as upstream, live.send(outgoing(upstream.url)) as incoming:
        assert await incoming.pump(sink)
    assert pieces == [b"0", b"1", b"2"]


async def test_chunks_that_come_in_one_read_are_one_call_of_the_sink(live: Live) -> None:
    go = asyncio.Event()
    raw = b"".join(chunk(b"%d" % index) for index in range(9)) + chunk(b"")
    pieces: list[bytes] = []
    async with (
        serve([request(), send(CHUNKED), wait(go), send(raw)]) as upstream,
        live.send(outgoing(upstream.url)) as incoming,
    ):
        go.set()
        assert await incoming.pump(pieces.append)
    assert pieces == [b"012345678"]


async def test_a_sink_that_holds_gets_the_rest_from_the_next_pump(live: Live) -> None:
    held, ended = asyncio.Event(), asyncio.Event()
    script = [request(), send(CHUNKED + chunk(b"a")), wait(held), send(chunk(b"b") + chunk(b"")), wait(ended)]
    pieces: list[bytes] = []

    def holding(data: bytes) -> bool:
        pieces.append(data)
        return HOLD

    async with serve(script) as upstream:
        async with live.send(outgoing(upstream.url)) as incoming:
            assert not await incoming.pump(holding)
            held.set()
            assert not await incoming.pump(holding)
            assert pieces == [b"a", b"b"]
            assert await incoming.pump(holding)
            assert await incoming.pump(holding)  # at the end it stays so
        assert pieces == [b"a", b"b"]
        assert live.statistics["up"].idle == 1


async def test_leaving_after_a_hold_closes_the_connection(live: Live) -> None:
    async with serve([request(), send(CHUNKED + chunk(b"a"))]) as upstream:
        async with live.send(outgoing(upstream.url)) as incoming:
            assert not await incoming.pump(lambda data: HOLD)
        await upstream.peers[0].gone()
        assert live.statistics["up"].idle == 0


async def test_what_the_sink_raises_comes_out_of_pump_and_closes_the_connection(live: Live) -> None:
    def sink(data: bytes) -> None:
        raise LookupError("client gone")

    for script in ([request(), send(CHUNKED + chunk(b"a"))], [request(), send(answer(b"a"))]):
        async with serve(script) as upstream, live.send(outgoing(upstream.url)) as incoming:
            with pytest.raises(LookupError):
                await incoming.pump(sink)
            await upstream.peers[0].gone()


# Kept connections


async def test_a_kept_connection_that_died_is_replaced_once_by_a_new_one(live: Live) -> None:
    for death in (close(), reset()):
        # The second request reaches the first connection, which then dies without a word.
        script = [request(), send(answer(b"one")), request(), death]
        async with serve(script, [request(), send(answer(b"two"))]) as upstream:
            assert not (await ask(live, outgoing(upstream.url))).retried
            got = await ask(live, outgoing(upstream.url))
            assert (got.body, got.retried) == (b"two", True)
            assert len(upstream.peers) == 2
            assert upstream.peers[0].requests[1] == upstream.peers[1].requests[0]


async def test_the_retry_never_takes_another_kept_connection(live: Live) -> None:
    both = asyncio.Event()
    stale = [request(), wait(both), send(answer(b"one")), request(), close()]
    async with serve(stale, stale, [request(), send(answer(b"three"))]) as upstream:
        asked = outgoing(upstream.url)
        asking = [asyncio.get_running_loop().create_task(ask(live, asked)) for _ in range(2)]
        while len(upstream.peers) < 2:
            await asyncio.sleep(0.005)
        both.set()
        await asyncio.gather(*asking)
        assert live.statistics["up"].idle == 2
        assert (await ask(live, asked)).body == b"three"
        assert len(upstream.peers) == 3


async def test_a_retry_that_fails_too_is_a_stale_connection(live: Live) -> None:
    script = [request(), send(answer(b"one")), request(), close()]
    async with serve(script, [request(), close()]) as upstream:
        await ask(live, outgoing(upstream.url))
        error, _ = await failing(live, outgoing(upstream.url))
        assert (error.kind, error.executed) == ("stale_conn", True)
        assert len(upstream.peers) == 2


async def test_a_retry_that_can_not_connect_may_still_have_been_executed(live: Live) -> None:
    async def vanish(peer: Peer) -> None:
        upstream.stop()
        peer.transport.close()

    async with serve([request(), send(answer(b"one")), request(), vanish]) as upstream:
        await ask(live, outgoing(upstream.url))
        error, _ = await failing(live, outgoing(upstream.url))
        assert (error.kind, error.executed) == ("stale_conn", True)


async def test_a_retry_that_is_never_answered_is_told_as_that(live: Live, clock: Clock) -> None:
    script = [request(), send(answer(b"one")), request(), close()]
    async with serve(script, [request()]) as upstream:
        asked = outgoing(upstream.url, timeouts=Timeouts(first_byte_s=120))
        await ask(live, asked)
        asking = asyncio.get_running_loop().create_task(failing(live, asked))
        while len(upstream.peers) < 2:
            await asyncio.sleep(0.005)
        await upstream_has_the_request(upstream.peers[1:])
        clock.advance(121)
        assert (await asking)[0].kind == "ttfb_timeout"


async def test_a_kept_connection_that_answers_a_single_byte_is_not_retried(live: Live) -> None:
    async with serve([request(), send(answer(b"one")), request(), send(b"H"), close()]) as upstream:
        await ask(live, outgoing(upstream.url))
        error, _ = await failing(live, outgoing(upstream.url))
        assert error.kind == "short_head"
        assert len(upstream.peers) == 1


@pytest.mark.parametrize(
    "end",
    [
        [send(answer(b"ok", headers=["Connection: close"]))],
        [send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")],
        [send(answer(b"ok") + answer(b"bad", status=500))],
        [send(answer(b"ok") + b"?")],
    ],
)
async def test_a_connection_with_a_doubtful_end_is_not_kept(live: Live, end: list[Action]) -> None:
    async with serve([request(), *end]) as upstream:
        got = await ask(live, outgoing(upstream.url))
        assert (got.status, got.body) == (200, b"ok")
        await upstream.peers[0].gone()
        assert live.statistics["up"].idle == 0


async def test_an_answer_before_the_request_was_read_uses_up_the_connection(live: Live) -> None:
    async with serve([receive(1), deaf(), send(answer(b"too large", status=413))]) as upstream:
        got = await ask(live, outgoing(upstream.url, bytes(20_000_000)))
        assert (got.status, got.body) == (413, b"too large")
        assert live.statistics["up"].idle == 0


async def test_a_call_may_be_left_after_its_connection_is_gone(live: Live) -> None:
    go = asyncio.Event()
    refusing = [receive(1), deaf(), send(answer(b"too large", status=413)), half_close(), wait(go), hear()]
    async with (
        serve(refusing) as upstream,
        live.send(outgoing(upstream.url, bytes(10_000_000))) as incoming,
    ):
        assert await incoming.pump(lambda data: None)
        go.set()
        while live.statistics["up"].open:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("end", [send(b"HTTP/1.1 408 Timeout\r\n\r\n"), half_close(), reset()])
async def test_a_byte_or_an_end_on_an_idle_connection_closes_it(live: Live, end: Action) -> None:
    idle = asyncio.Event()
    async with serve([request(), send(answer(b"one")), wait(idle), end]) as upstream:
        await ask(live, outgoing(upstream.url))
        idle.set()
        while live.statistics["up"].open:
            await asyncio.sleep(0.005)
        assert live.statistics["up"].idle == 0


async def test_an_answer_nobody_pumped_is_kept_if_it_has_come_whole(live: Live) -> None:
    async with serve([request(), send(answer(b"an error text", status=500))]) as upstream:
        async with live.send(outgoing(upstream.url)) as incoming:
            assert incoming.status == 500
        assert live.statistics["up"].idle == 1


# Leaving early


async def test_leaving_in_mid_body_closes_the_connection_at_once(live: Live) -> None:
    async with serve([request(), send(CHUNKED + chunk(EVENT))]) as upstream:
        async with live.send(outgoing(upstream.url)):
            left_s = time.monotonic()
        await upstream.peers[0].gone()
        ended_s = upstream.peers[0].ended_at_s
        assert ended_s is not None
        assert ended_s - left_s < 1.0  # kept for another call, it would stay open for a minute


@pytest.mark.parametrize("actions", [[], [send(CHUNKED)], [send(CHUNKED + chunk(EVENT))]])
async def test_cancelling_a_call_closes_its_connection(live: Live, actions: list[Action]) -> None:
    async with serve([request(), *actions]) as upstream:
        asking = asyncio.get_running_loop().create_task(ask(live, outgoing(upstream.url)))
        await upstream_has_the_request(upstream.peers)
        await asyncio.sleep(0.02)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await upstream.peers[0].gone()
        assert live.statistics["up"].in_flight == 0


async def test_cancelling_at_any_turn_of_the_loop_leaks_nothing(live: Live) -> None:
    script = [request(), send(answer(b"one")), request(), close()]
    again = [request(), send(CHUNKED + chunk(b"a")), send(chunk(b"b")), send(chunk(b""))]
    turns = 0
    finished = False
    while not finished:
        async with serve(script, again) as upstream:
            await ask(live, outgoing(upstream.url))
            asking = asyncio.get_running_loop().create_task(ask(live, outgoing(upstream.url)))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            try:
                got: Answer | None = await asking
            except asyncio.CancelledError:
                got = None
            finished = got is not None
            assert live.statistics["up"].in_flight == 0
        turns += 1
        assert turns < 2000
    assert turns > 5


async def test_a_far_deadline_passes_as_a_near_one_does(live: Live, clock: Clock) -> None:
    far = Timeouts(first_byte_s=3600.0, idle_s=3600.0, total_s=10e6)
    pieces: list[bytes] = []
    async with (
        serve([request(), send(CHUNKED + chunk(EVENT)), deaf()]) as upstream,
        live.send(outgoing(upstream.url, timeouts=far)) as incoming,
        asyncio.timeout(10),
    ):
        pumping = asyncio.ensure_future(incoming.pump(pieces.append))
        while not pieces:
            await asyncio.sleep(0.005)
        while not pumping.done():
            clock.advance(3601.0)
            await asyncio.sleep(0.02)
        with pytest.raises(UpstreamUnavailable) as caught:
            await pumping
    assert (caught.value.kind, pieces) == ("idle", [EVENT])
