"""What an upstream can do to a call, over real sockets: each fault, its kind, and who is closed."""

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
    receive,
    request,
    reset,
    send,
    serve,
    wait,
)
from tests.transports.asking import Answer, ask, outgoing
from tests.transports.conftest import Clock
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.routes import Timeouts
from tokenhub_proxy.transports.live import Live
from tokenhub_proxy.wire import HOLD, Outgoing

EVENT = b'data: {"n": 1}\n\n'


async def failing(live: Live, asked: Outgoing) -> tuple[UpstreamUnavailable, bytes]:
    """The refusal that a call ends in, and what of the body came before it."""
    pieces: list[bytes] = []
    with pytest.raises(UpstreamUnavailable) as caught:
        async with live.send(asked) as incoming:
            await incoming.pump(pieces.append)
    return caught.value, b"".join(pieces)


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


# A client that can't keep up


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_reading_stops_while_the_client_is_behind(live: Live, framing: str) -> None:
    size = 32 * 1024 * 1024
    heads = {"chunked": CHUNKED, "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size}
    body = chunk(bytes(size)) + chunk(b"") if framing == "chunked" else bytes(size)
    end = [close()] if framing == "close" else []
    got = 0
    async with serve(
        [request(), send(heads.get(framing, b"HTTP/1.1 200 OK\r\n\r\n") + body), *end]
    ) as upstream:
        async with live.send(outgoing(upstream.url)) as incoming:

            def sink(data: bytes) -> None:
                nonlocal got
                got += len(data)
                if started and got < size // 2:
                    incoming.pause()
                    incoming.pause()
                    loop.call_soon(incoming.resume)

            loop = asyncio.get_running_loop()
            started = False
            incoming.pause()
            pumping = loop.create_task(incoming.pump(sink))
            unsent = -1
            while unsent != (unsent := upstream.peers[0].transport.get_write_buffer_size()):
                await asyncio.sleep(0.05)  # until the kernel's buffers are full and nothing moves
            assert unsent > size // 2
            assert got < 1024 * 1024
            started = True
            incoming.resume()
            incoming.resume()
            assert await pumping
        assert got == size
        incoming.pause()
        incoming.resume()  # safe after the end


async def test_a_body_that_nobody_pumps_yet_waits_in_a_bounded_buffer(live: Live) -> None:
    size = 32 * 1024 * 1024
    async with (
        serve([request(), send(answer(bytes(size)))]) as upstream,
        live.send(outgoing(upstream.url)) as incoming,
    ):
        unsent = -1
        while unsent != (unsent := upstream.peers[0].transport.get_write_buffer_size()):
            await asyncio.sleep(0.05)
        assert unsent > size // 2
        first: list[int] = []

        def sink(data: bytes) -> bool:
            first.append(len(data))
            return HOLD

        assert not await incoming.pump(sink)
        assert 256 * 1024 < first[0] <= 512 * 1024
        got = first[0]

        def count(data: bytes) -> None:
            nonlocal got
            got += len(data)

        assert await incoming.pump(count)
        assert got == size


# Faults before the head


@pytest.mark.parametrize(
    ("actions", "kind"),
    [
        ([close()], "disconnected"),
        ([half_close()], "disconnected"),
        ([reset()], "reset_send"),
        ([send(b"HTTP/1.1 200 OK\r\nA: b"), close()], "short_head"),
        ([send(b"SSH-2.0-OpenSSH\r\n")], "protocol"),
        ([send(b"HTTP/2.0 200 OK\r\n\r\n")], "protocol"),
        ([send(b"HTTP/1.1 099 Odd\r\n\r\n")], "protocol"),
        ([send(b"HTTP/1.1 999 Odd\r\n\r\n")], "protocol"),
        ([send(b"HTTP/1.1 101 Switching\r\n\r\n")], "protocol"),
        ([send(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")], "protocol"),
        ([send(b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n")], "protocol"),
        ([send(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n")], "protocol"),
        ([send(b"HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n")], "protocol"),
        ([send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")], "protocol"),
        ([send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")], "protocol"),
        ([send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n")], "protocol"),
        ([send(answer(headers=["A: " + "x" * 8190]))], "headers"),
        ([send(answer(headers=[f"A{number}: b" for number in range(128)]))], "headers"),
        ([send(answer(headers=[f"A{number}: {'x' * 8000}" for number in range(9)]))], "headers"),
        ([send(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000)], "headers"),
    ],
)
async def test_no_good_head_has_a_kind_and_closes_the_connection(
    live: Live, actions: list[Action], kind: str
) -> None:
    async with serve([request(), *actions]) as upstream:
        error, body = await failing(live, outgoing(upstream.url))
        assert (error.kind, error.executed, body) == (kind, True, b"")
        await upstream.peers[0].gone()
        assert len(upstream.peers) == 1  # a fresh connection's end is never retried


async def test_the_longest_head_that_is_allowed_is_read(live: Live) -> None:
    headers = ["Long: " + "x" * (8190 - 8), *[f"A{number}: b" for number in range(126)]]
    async with serve([request(), send(answer(b"ok", headers=headers))]) as upstream:
        got = await ask(live, outgoing(upstream.url))
        assert (len(got.headers), got.body) == (128, b"ok")


async def test_a_reset_inside_the_head_is_a_reset_while_reading(live: Live) -> None:
    seen = asyncio.Event()
    async with serve([request(), send(b"HTTP/1.1 200 OK\r\nA: b\r\n"), wait(seen), reset()]) as upstream:
        asking = asyncio.get_running_loop().create_task(failing(live, outgoing(upstream.url)))
        await asyncio.sleep(0.05)  # lest the reset overtake the bytes in the kernel
        seen.set()
        assert (await asking)[0].kind == "reset_read"


async def test_a_reset_while_a_large_request_is_being_sent(live: Live) -> None:
    async with serve([receive(1), deaf(), reset()]) as upstream:
        error, _ = await failing(live, outgoing(upstream.url, bytes(20_000_000)))
        assert (error.kind, error.executed) == ("reset_send", True)


# Deadlines


async def test_no_head_within_the_first_byte_deadline(live: Live, clock: Clock) -> None:
    async with serve([request()]) as upstream:
        asked = outgoing(upstream.url, timeouts=Timeouts(first_byte_s=120))
        asking = asyncio.get_running_loop().create_task(failing(live, asked))
        await upstream_has_the_request(upstream.peers)
        clock.advance(119)
        await asyncio.sleep(0.05)
        assert not asking.done()
        clock.advance(1)
        error, _ = await asking
        assert (error.kind, error.executed) == ("ttfb_timeout", True)
        await upstream.peers[0].gone()


async def test_a_head_that_trickles_in_has_the_same_deadline(live: Live, clock: Clock) -> None:
    async with serve([request(), send(b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 O")]) as upstream:
        asked = outgoing(upstream.url, timeouts=Timeouts(first_byte_s=120))
        asking = asyncio.get_running_loop().create_task(failing(live, asked))
        await upstream_has_the_request(upstream.peers)
        clock.advance(121)
        assert (await asking)[0].kind == "ttfb_timeout"


async def test_silence_in_the_body_is_the_idle_fault_and_bytes_put_it_off(live: Live, clock: Clock) -> None:
    more = asyncio.Event()
    came = asyncio.Event()
    async with (
        serve([request(), send(CHUNKED), wait(more), send(chunk(EVENT))]) as upstream,
        live.send(outgoing(upstream.url, timeouts=Timeouts(idle_s=60))) as incoming,
    ):
        pumping = asyncio.get_running_loop().create_task(incoming.pump(lambda data: came.set()))
        clock.advance(50)
        await asyncio.sleep(0.05)
        more.set()
        await came.wait()
        clock.advance(50)
        await asyncio.sleep(0.05)
        assert not pumping.done()
        clock.advance(11)
        with pytest.raises(UpstreamUnavailable) as caught:
            await pumping
        assert (caught.value.kind, caught.value.executed) == ("idle", True)
        await upstream.peers[0].gone()


async def test_the_idle_clock_stands_while_the_client_is_behind(live: Live, clock: Clock) -> None:
    async with (
        serve([request(), send(CHUNKED + chunk(EVENT))]) as upstream,
        live.send(outgoing(upstream.url, timeouts=Timeouts(idle_s=60))) as incoming,
    ):
        pumping = asyncio.get_running_loop().create_task(incoming.pump(lambda data: None))
        await asyncio.sleep(0)
        incoming.pause()
        clock.advance(600)
        await asyncio.sleep(0.05)
        incoming.resume()
        await asyncio.sleep(0.05)
        assert not pumping.done()
        clock.advance(61)
        with pytest.raises(UpstreamUnavailable, check=lambda error: error.kind == "idle"):
            await pumping


async def test_chunk_framing_without_a_byte_of_body_is_silence(live: Live, clock: Clock) -> None:
    go = asyncio.Event()
    async with (
        serve([request(), send(CHUNKED), wait(go), send(b"5;"), send(b"x=y", every=1)]) as upstream,
        live.send(outgoing(upstream.url, timeouts=Timeouts(idle_s=60))) as incoming,
    ):
        clock.advance(59)
        go.set()
        pumping = asyncio.get_running_loop().create_task(incoming.pump(lambda data: None))
        await asyncio.sleep(0.05)
        clock.advance(2)
        with pytest.raises(UpstreamUnavailable, check=lambda error: error.kind == "idle"):
            await pumping


async def test_a_lively_stream_ends_at_the_longest_duration(live: Live, clock: Clock) -> None:
    more = asyncio.Event()

    async def stream(peer: Peer) -> None:
        while not peer.ended:
            peer.transport.write(chunk(EVENT))
            await asyncio.sleep(0.005)

    async with serve([request(), send(CHUNKED), stream]) as upstream:
        asked = outgoing(upstream.url, timeouts=Timeouts(total_s=1800))
        async with live.send(asked) as incoming:
            pumping = asyncio.get_running_loop().create_task(incoming.pump(lambda data: more.set()))
            for _ in range(36):
                clock.advance(49)
                more.clear()
                await more.wait()
            assert not pumping.done()
            clock.advance(40)
            with pytest.raises(UpstreamUnavailable) as caught:
                await pumping
            assert (caught.value.kind, caught.value.executed) == ("max_duration", True)


async def upstream_has_the_request(peers: list[Peer]) -> None:
    while not (peers and peers[0].requests):
        await asyncio.sleep(0.005)


# Faults inside the body


@pytest.mark.parametrize(
    ("actions", "kind"),
    [
        ([send(chunk(EVENT)), close()], "short_body"),
        ([send(b"%x\r\ndata: {" % len(EVENT)), close()], "short_body"),
        ([send(chunk(EVENT) + b"not a size\r\n")], "protocol"),
        ([send(chunk(EVENT) + b"fffffffffffffffff\r\n")], "protocol"),
        ([send(chunk(EVENT) + b"5;" + b"x" * 400_000)], "headers"),
        ([send(chunk(EVENT) + b"0\r\nTrailer: " + b"x" * 400_000)], "headers"),
    ],
)
async def test_a_chunked_body_that_breaks_off_has_a_kind(
    live: Live, actions: list[Action], kind: str
) -> None:
    async with serve([request(), send(CHUNKED), *actions]) as upstream:
        error, body = await failing(live, outgoing(upstream.url))
        assert (error.kind, error.executed) == (kind, True)
        assert body in (EVENT, b"data: {")
        await upstream.peers[0].gone()


async def test_fewer_bytes_than_promised_are_a_short_body(live: Live) -> None:
    async with serve([request(), send(answer(b"hello")[:-1]), close()]) as upstream:
        error, body = await failing(live, outgoing(upstream.url))
        assert (error.kind, error.executed, body) == ("short_body", True, b"hell")


@pytest.mark.parametrize(
    "head", [CHUNKED, b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"]
)
async def test_a_reset_inside_any_body_is_never_a_clean_end(live: Live, head: bytes) -> None:
    seen = asyncio.Event()
    async with (
        serve([request(), send(head), wait(seen), reset()]) as upstream,
        live.send(outgoing(upstream.url)) as incoming,
    ):
        seen.set()
        with pytest.raises(UpstreamUnavailable) as caught:
            await incoming.pump(lambda data: None)
        assert (caught.value.kind, caught.value.executed) == ("reset_read", True)


async def test_a_fault_between_two_pumps_is_told_after_what_came_before_it(live: Live) -> None:
    held = asyncio.Event()
    script = [request(), send(CHUNKED + chunk(b"a")), wait(held), send(chunk(b"b")), close()]
    pieces: list[bytes] = []

    def holding(data: bytes) -> bool:
        pieces.append(data)
        return HOLD

    async with serve(script) as upstream, live.send(outgoing(upstream.url)) as incoming:
        assert not await incoming.pump(holding)
        held.set()
        assert not await incoming.pump(holding)
        with pytest.raises(UpstreamUnavailable, check=lambda error: error.kind == "short_body"):
            await incoming.pump(holding)
        assert pieces == [b"a", b"b"]


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
        [send(answer(b"ok") + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad")],
        [send(answer(b"ok") + b"?")],
    ],
)
async def test_a_connection_with_a_doubtful_end_is_not_kept(live: Live, end: list[Action]) -> None:
    async with serve([request(), *end]) as upstream:
        assert (await ask(live, outgoing(upstream.url))).body == b"ok"
        await upstream.peers[0].gone()
        assert live.statistics["up"].idle == 0


async def test_an_answer_before_the_request_was_read_uses_up_the_connection(live: Live) -> None:
    async with serve([receive(1), deaf(), send(answer(b"too large", status=413))]) as upstream:
        got = await ask(live, outgoing(upstream.url, bytes(20_000_000)))
        assert (got.status, got.body) == (413, b"too large")
        assert live.statistics["up"].idle == 0


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
        assert ended_s - left_s < 0.1


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
