"""What peers can do to a call, over real sockets: each fault, its kind, and who is closed."""

from __future__ import annotations

import asyncio

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
from tests.transports.asking import ask, failing, outgoing, upstream_has_the_request
from tests.transports.conftest import Clock
from tokenhub_proxy import looks
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.routes import Timeouts
from tokenhub_proxy.transports.live import Live
from tokenhub_proxy.wire import HOLD

EVENT = b'data: {"n": 1}\n\n'


# Faults before the head


@pytest.mark.parametrize(
    ("actions", "kind"),
    [
        ([close()], "disconnected"),
        ([half_close()], "disconnected"),
        ([reset()], "reset_send"),
        ([send(b"HTTP/1.1 200 OK\r\nA: b"), close()], "short_head"),
        ([send(b"SSH-2.0-OpenSSH\r\n")], "protocol"),
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


async def swept(live: Live) -> None:
    """Each call was looked at, which is when what has come is dated: the clock may go on."""
    async with asyncio.timeout(5):
        for _ in range(looks.TURNS):
            timer = live._timer
            while live._timer is timer:
                await asyncio.sleep(0.001)


async def test_silence_in_the_body_is_the_idle_fault_and_bytes_put_it_off(live: Live, clock: Clock) -> None:
    more = asyncio.Event()
    came = asyncio.Event()
    async with (
        serve([request(), send(CHUNKED), wait(more), send(chunk(EVENT))]) as upstream,
        live.send(outgoing(upstream.url, timeouts=Timeouts(idle_s=60))) as incoming,
    ):
        pumping = asyncio.get_running_loop().create_task(incoming.pump(lambda data: came.set()))
        await swept(live)
        clock.advance(50)
        await swept(live)
        more.set()
        await came.wait()
        await swept(live)
        clock.advance(50)
        await swept(live)
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
        await swept(live)
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
