"""Clients that leave, stall, crawl, lie, or ask for what they may not have."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests import chaos
from tests.conftest import KEY, Running, one_upstream
from tests.faults.scene import (
    COMPLETE,
    COST,
    GONE,
    NOTHING,
    STREAMED,
    WHOLE,
    Scene,
    fault,
    parsed,
    request,
    shorten,
    until,
)
from tests.faults.test_streams import EVENTS, chunked
from tests.faults.test_upstream import one
from tests.test_relay_clients import deaf_socket, flooded, leave
from tests.test_relay_streams import Gate, estimate
from tests.upstream import DONE, STREAM, FakeUpstream, chunk, usage_chunk

PATH = "/v1/chat/completions"
HEAD = (
    f"POST {PATH} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
).encode()


async def connected(running: Running, payload: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that has sent this much."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=2**26)
    writer.write(payload)
    return reader, writer


async def closed_within(peer: chaos.Peer, seconds: float, since_s: float) -> None:
    """The upstream's connection has ended so soon after the client's."""
    await peer.gone()
    assert peer.ended_at_s is not None
    assert peer.ended_at_s - since_s < seconds


# --- clients that leave


@fault("A client leaves before its request is whole", GONE, "none", log={"status": 499, "reason": "read"})
async def test_a_client_that_leaves_before_its_request_is_whole_costs_nothing(
    scene: Scene, upstream: FakeUpstream
) -> None:
    running = await scene.start(one_upstream(upstream.base_url))
    _, writer = await connected(running, HEAD + b"Content-Length: 1000\r\n\r\n{")
    await until(lambda: running.proxy.relay.in_flight)
    leave(writer, "close")
    await scene.saw(GONE)
    assert upstream.asked == []


@fault(
    "A client leaves while its hold is being written",
    GONE,
    "void",
    log={"status": 499, "reason": "held", "upstream": None},
    note="the upstream is never called",
)
async def test_a_client_that_leaves_while_its_hold_is_written_never_reaches_the_upstream(
    scene: Scene, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await scene.start(one_upstream(upstream.base_url))
    gate = Gate(running, monkeypatch)
    gate.finished.set()
    _, writer = await connected(running, request(STREAMED))
    await until(lambda: "place" in gate.asked)
    leave(writer, "close")
    await scene.saw(GONE)
    assert upstream.asked == []


@pytest.mark.parametrize("body", [STREAMED, WHOLE], ids=["stream", "whole"])
@pytest.mark.parametrize("how", ["close", "reset"])
@fault(
    "A client leaves while it waits for the first byte",
    GONE,
    "void",
    log={"status": 499, "reason": "ttfb", "cost_at_risk": 1},
    note="the upstream is closed within a second",
)
async def test_a_client_that_leaves_before_the_first_byte_is_not_charged(
    scene: Scene, how: str, body: dict[str, Any]
) -> None:
    async with chaos.serve([chaos.request()]) as up:
        running = await scene.start(one(up.url))
        _, writer = await connected(running, request(body))
        await until(lambda: up.peers and up.peers[0].requests)
        leave(writer, how)
        await closed_within(up.peers[0], 1.0, time.monotonic())
        await scene.saw(GONE)


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("how", ["close", "reset"])
@fault(
    "A client leaves in mid-stream",
    GONE,
    ("estimate", "usage"),
    log={"status": 499, "reason": "stream"},
    note="the upstream is closed within a second; usage is charged if it was seen",
)
async def test_a_client_that_leaves_in_mid_stream_pays_what_was_relayed(
    scene: Scene, how: str, usage: bool
) -> None:
    pieces = [*EVENTS, *([usage_chunk(10, 2)] if usage else [])]
    async with chaos.serve([chaos.request(), chaos.send(chunked(pieces))]) as up:
        running = await scene.start(one(up.url))
        reader, writer = await connected(running, request(STREAMED))
        await reader.readuntil(pieces[-1])
        leave(writer, how)
        await closed_within(up.peers[0], 1.0, time.monotonic())
        await scene.saw(GONE)
    expected = COST if usage else estimate(EVENTS, orjson.dumps(STREAMED))
    assert await scene.charged() == expected


@pytest.mark.parametrize("how", ["close", "reset"])
@fault(
    "A client leaves as soon as it has read `[DONE]`",
    GONE,
    "usage",
    log={"status": 200, "reason": None},
    note="it has had its answer",
)
async def test_a_client_that_leaves_after_done_has_had_its_answer(
    scene: Scene, upstream: FakeUpstream, how: str
) -> None:
    running = await scene.start(one_upstream(upstream.base_url))
    reader, writer = await connected(running, request(STREAMED, close=False))
    await reader.readuntil(DONE)
    leave(writer, how)
    await scene.saw(GONE)
    assert await scene.charged() == COST


@fault(
    "A client closes its sending side after the request (half-close)",
    NOTHING,
    "void",
    log={"status": 499, "reason": "ttfb", "cost_at_risk": 1},
    note="it is taken for one that has left",
)
async def test_a_half_closed_client_is_taken_for_one_that_left(scene: Scene) -> None:
    async with chaos.serve([chaos.request()]) as up:
        running = await scene.start(one(up.url))
        reader, writer = await connected(running, request(STREAMED))
        await until(lambda: up.peers and up.peers[0].requests)
        leave(writer, "half")
        await closed_within(up.peers[0], 1.0, time.monotonic())
        async with asyncio.timeout(5):
            await scene.saw(NOTHING if await reader.read() == b"" else "something")
        writer.close()


# --- clients that read slowly


def stuck(peer: chaos.Peer) -> Callable[[], bool]:
    """Whether the upstream has more to say and nobody has taken any of it for a while."""
    left, since_s = -1, time.monotonic()

    def look() -> bool:
        nonlocal left, since_s
        size = peer.transport.get_write_buffer_size()
        if size != left:
            left, since_s = size, time.monotonic()
        return size > 0 and time.monotonic() - since_s > 0.3

    return look


@fault(
    "A client reads slowly",
    COMPLETE,
    "usage",
    log={"status": 200, "write_stall_ms": ...},
    note="the upstream is read no faster, and nothing is lost",
)
async def test_a_slow_reader_slows_the_upstream_and_gets_every_byte(scene: Scene) -> None:
    event = chunk("x" * 60_000)
    pieces = [STREAM[0], *[event] * 600, *STREAM[2:]]
    async with chaos.serve([chaos.request(), chaos.send(chunked(pieces) + chaos.chunk(b""))]) as up:
        running = await scene.start(one(up.url))
        with deaf_socket(running) as deaf:
            deaf.sendall(request(STREAMED))
            await until(lambda: up.peers and up.peers[0].requests)
            await until(stuck(up.peers[0]))
            deaf.setblocking(False)
            said = bytearray()
            while piece := await asyncio.get_running_loop().sock_recv(deaf, 2**16):
                said += piece
    told = parsed(bytes(said))
    assert told.body == b"".join(pieces)
    await scene.saw(str(told))
    assert scene.lines[-1]["write_stall_ms"] >= 200
    assert await scene.charged() == COST


@fault(
    "A client stops reading for 60 s",
    GONE,
    "estimate",
    log={"status": 499, "reason": "write_timeout"},
    note="both connections are closed",
)
async def test_a_client_that_stops_reading_is_closed_and_so_is_the_upstream(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, WRITE_STALL_S=0.4)
    running, flood, server = await flooded(scene.start, 64 * 2**20)
    with deaf_socket(running) as deaf:
        deaf.sendall(request(STREAMED))
        await asyncio.wait_for(flood.lost.wait(), 5.0)
        await scene.saw(GONE)
    assert flood.sent < 32 * 2**20
    server.close()
    await server.wait_closed()


# --- clients that send slowly, or too much


async def patient(port: int, first: bytes, drop: bytes, seconds: float) -> bytes:
    """Send `first`, then `drop` for as long as the server listens; gives all that it says."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reading = asyncio.ensure_future(reader.read())
    writer.write(first)
    async with asyncio.timeout(seconds):
        while not reading.done():
            await asyncio.wait([reading], timeout=0.05)
            if drop and not reading.done():
                writer.write(drop)
    writer.close()
    return b"" if reading.exception() else reading.result()


@pytest.mark.parametrize("drop", [b"X: y\r\n", b""], ids=["endless", "silent"])
@fault(
    "A client sends its head slowly, without end, or not at all",
    NOTHING,
    "none",
    note="closed after 15 s; there is no call to log",
)
async def test_a_head_that_does_not_come_is_not_waited_for(
    scene: Scene, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, drop: bytes
) -> None:
    shorten(monkeypatch, HEAD_S=0.3)
    running = await scene.start(one_upstream(upstream.base_url))
    said = await patient(running.port, b"POST /v1/chat/completions HTTP/1.1\r\n", drop, 2.0)
    await scene.saw(str(parsed(said)), lines=0)


@pytest.mark.parametrize("drop", [b" ", b""], ids=["slow", "stopped"])
@fault(
    "A client sends its body slowly", "408 request_timeout", "none", log={"reason": "slow_body", "hold_n": 0}
)
async def test_a_body_that_crawls_is_a_408(
    scene: Scene, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, drop: bytes
) -> None:
    shorten(monkeypatch, BODY_S=0.3, LINGER_S=0.1)
    running = await scene.start(one_upstream(upstream.base_url))
    said = await patient(running.port, HEAD + b"Content-Length: 1000\r\n\r\n{", drop, 3.0)
    await scene.saw(str(parsed(said)))
    assert upstream.asked == []


@fault(
    "A client announces a body over the limit",
    "413 request_too_large",
    "none",
    headers={"connection": "close"},
    log={"reason": "too_large declared", "bytes_in": 0},
    note="before a byte of it is read, and without a 100",
)
async def test_a_body_announced_too_large_is_refused_unread(
    scene: Scene, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, LINGER_S=0.1)
    await scene.start("max_body_mib: 1\n" + one_upstream(upstream.base_url))
    told = await scene.send(HEAD + b"Expect: 100-continue\r\nContent-Length: 1048577\r\n\r\n")
    assert not told.interim


@fault(
    "A client sends a body over the limit in chunks",
    "413 request_too_large",
    "none",
    headers={"connection": "close"},
    log={"reason": "too_large seen"},
    note="when the limit is crossed",
)
async def test_a_chunked_body_is_refused_where_it_crosses_the_limit(
    scene: Scene, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, LINGER_S=0.1)
    running = await scene.start("max_body_mib: 1\n" + one_upstream(upstream.base_url))
    reader, writer = await connected(running, HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    answering, sent = asyncio.ensure_future(reader.readuntil(b"}}")), 0
    piece = chaos.chunk(b" " * 2**16)
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            while not answering.done() and sent < 2**30:
                writer.write(piece)
                sent += 2**16
                await writer.drain()
                await asyncio.sleep(0)
        told = parsed(await answering)
    writer.close()
    await scene.saw(str(told), told.headers)
    assert sent < 64 * 2**20


@pytest.mark.parametrize(
    "head",
    [
        b"".join(b"X-%d: y\r\n" % n for n in range(100_000)),
        b"X: " + b"a" * 9000 + b"\r\n",
        None,
    ],
    ids=["a hundred thousand headers", "a header of 9 KB", "a target of 1 MB"],
)
@fault(
    "A client sends a hundred thousand headers, one of 9 KB, or a target of 1 MB",
    ("400 invalid_request", "414 invalid_request", "431 invalid_request"),
    "none",
    note="the connection is closed; there is no call to log",
)
async def test_a_head_beyond_the_bounds_is_refused(
    scene: Scene, upstream: FakeUpstream, head: bytes | None
) -> None:
    running = await scene.start(one_upstream(upstream.base_url))
    target = b"/v1/models" if head else b"/" + b"a" * 2**20
    payload = b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n" + (head or b"") + b"\r\n"
    reader, writer = await connected(running, payload)
    async with asyncio.timeout(5):
        told = parsed(await reader.readuntil(b"}}"))
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    await scene.saw(str(told), told.headers, lines=0)


@fault(
    "A client with a bad key waits for `100 Continue` before it sends its body",
    "401 invalid_api_key",
    "none",
    log={"reason": "unknown", "key_id": None},
    note="and is not asked for it",
)
async def test_a_bad_key_is_refused_without_asking_for_the_body(
    scene: Scene, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, LINGER_S=0.1)
    await scene.start(one_upstream(upstream.base_url))
    head = HEAD.replace(KEY.encode(), KEY.encode()[:-1] + b"X") + b"Connection: close\r\n"
    told = await scene.send(head + b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
    assert not told.interim


@fault(
    "A client expects something other than `100-continue`",
    "417 invalid_request",
    "none",
    log={"reason": "expect"},
)
async def test_another_expectation_is_a_417(scene: Scene, upstream: FakeUpstream) -> None:
    await scene.start(one_upstream(upstream.base_url))
    await scene.call(WHOLE, "Expect: the-unexpected")
    assert upstream.asked == []
