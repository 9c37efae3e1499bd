"""Clients that leave, stall, crawl, pipeline, or speak old HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, cast

import orjson
import pytest

from tests import chaos
from tests.conftest import KEY, Running, Serve, one_upstream
from tests.test_relay_streams import BODY, PRICE, Gate, charged, estimate, request_bytes
from tests.test_server import MESSAGES, error_of, raw
from tests.upstream import DONE, STREAM, FakeUpstream, chunk, stream_says, usage_chunk, whole
from tokenhub_proxy import connection, sockets
from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.prices import Usage
from tokenhub_proxy.transports.rounds import READ_BYTES_MAX

HEAD = (
    f"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {KEY}\r\n"
    "Content-Type: application/json\r\n"
)

# Whoever serves a call, the verdicts are the same.
pytestmark = pytest.mark.usefixtures("front")


async def until(condition: Callable[[], Any], limit_s: float = 5.0) -> None:
    """Wait until something has become so."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.002)


async def ended(running: Running, count: int = 1) -> Exchange:
    """The last of so many finished exchanges."""
    await until(lambda: len(running.exchanges) >= count)
    return running.exchanges[count - 1]


def leave(writer: asyncio.StreamWriter, how: str) -> None:
    """Close the client's connection, politely or not."""
    if how == "reset":
        raw_socket = writer.get_extra_info("socket")
        raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    elif how == "half":
        writer.write_eof()
    else:
        writer.close()


# --- clients that leave


async def test_a_client_that_leaves_while_the_books_are_closed_is_charged_once(
    proxy: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(proxy, monkeypatch)
    gate.placed.set()
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(request_bytes(BODY))
    await until(lambda: "finish" in gate.asked)

    leave(writer, "reset")

    exchange = await ended(proxy)
    assert exchange.gone == "stream"
    async with asyncio.timeout(5):
        while (found := await charged(proxy, exchange))[0] == "held":
            await asyncio.sleep(0.002)
    assert found == ("settled", 60_000, False)


EVENTS = (*(chunk(f"word {n} ") for n in range(6)), usage_chunk(100, 50))


def relayed(text: bytes) -> tuple[bytes, int]:
    """The reference: what of a cut stream is relayed, and what it costs."""
    whole_events = [event + b"\n\n" for event in text.split(b"\n\n")[:-1]]
    rest = text[sum(map(len, whole_events)) :]
    if any(b'"choices":[]' in event for event in whole_events):
        return text, PRICE.cost(Usage(input=100, output=50, reported=True))
    if not whole_events:
        return b"", 0
    told = [*whole_events, rest] if b'"delta"' in rest else whole_events
    return b"".join(told), estimate(told, orjson.dumps(BODY))


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.long)])
async def test_random_disconnects_stop_the_upstream_and_are_billed_by_what_was_relayed(
    serve: Serve, count: int
) -> None:
    draw = random.Random(20261122)
    text = b"".join(EVENTS)
    offsets = [draw.randrange(len(text) + 1) for _ in range(count)]
    hows = [draw.choice(["close", "reset"]) for _ in range(count)]
    peers: dict[int, chaos.Peer] = {}

    async def follow(peer: chaos.Peer) -> None:
        await chaos.request()(peer)
        number = int(orjson.loads(peer.requests[0].partition(b"\r\n\r\n")[2])["model"])
        peers[number] = peer
        part = text[: offsets[number]]
        peer.transport.write(chaos.CHUNKED + (chaos.chunk(part) if part else b""))

    models = "".join(
        f"  m{n}: {{targets: [{{upstream: up, model: '{n}'}}],"
        " price: {input: 3.00, cached: 0.30, output: 15.00}, max_output_tokens: 1000}\n"
        for n in range(count)
    )
    took: list[float] = []
    costs: dict[str, int] = {}
    places = asyncio.Semaphore(20)
    async with chaos.serve([follow]) as up:
        running = await serve(
            f'upstreams: {{up: {{dialect: openai, base_url: "{up.url}/v1"}}}}\nmodels:\n{models}'
        )

        async def one(number: int) -> None:
            async with places:
                expected, cost = relayed(text[: offsets[number]])
                costs[f"m{number}"] = cost
                reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
                # The name of the model has the same length for all: the prompt's estimate counts it.
                writer.write(request_bytes({**BODY, "model": f"m{number}"}))
                if expected:
                    await reader.readuntil(b"\r\n\r\n")
                    await reader.readuntil(b"\r\n" + expected)
                else:
                    await until(lambda: number in peers)
                leave(writer, hows[number])
                left_at = time.monotonic()
                await peers[number].gone()
                ended_at_s = peers[number].ended_at_s
                assert ended_at_s is not None
                took.append(ended_at_s - left_at)

        async with asyncio.timeout(90):
            await asyncio.gather(*map(one, range(count)))
        await until(lambda: len(running.exchanges) == count)
        await until(lambda: not any(account.held for account in running.ledger.list_accounts()))

    took.sort()
    print(
        f"\n{count} disconnects: upstream closed after p50 {took[count // 2] * 1e3:.1f} ms, "
        f"p99 {took[count * 99 // 100] * 1e3:.1f} ms, max {took[-1] * 1e3:.1f} ms"
    )
    # A machine that does other things too may be late once in a thousand times.
    assert sum(one >= 1.0 for one in took) <= count // 1000
    for exchange in running.exchanges:
        assert exchange.call is not None
        assert exchange.gone in ("ttfb", "stream")
        extra = PRICE.cost(Usage(input=-(-exchange.call.text_bytes // 4))) - PRICE.cost(
            Usage(input=-(-len(orjson.dumps(BODY)) // 4))
        )
        expected = costs[exchange.call.model]
        if exchange.billing == "estimate":
            expected += extra
        assert exchange.charge == expected
        status, cost, _ = await charged(running, exchange)
        assert (status, cost) == ("settled" if expected else "released", expected)


# --- clients that do not read


class Flood(asyncio.Protocol):
    """An upstream that sends as much as is taken, up to a total, and counts it."""

    def __init__(self, total: int) -> None:
        self.event = chunk("x" * 60_000)
        self.left = total // len(self.event)
        self.sent = 0
        self.paused = False
        self.lost = asyncio.Event()
        self.digest = hashlib.sha256()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's inherits from nothing
        self.answering = False

    def data_received(self, data: bytes) -> None:
        if not self.answering:
            self.answering = True
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
            self.transport.write(head)
            self.flow()

    def flow(self) -> None:
        while self.left and not self.paused:
            self.left -= 1
            self.sent += len(self.event)
            self.digest.update(self.event)
            self.transport.write(self.event)
        if not self.left:
            end = chunk(reason="stop") + DONE
            self.digest.update(end)
            self.transport.write(end)
            self.transport.close()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.left:
            self.flow()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.paused = True
        self.lost.set()


async def flooded(serve: Serve, total: int) -> tuple[Running, Flood, asyncio.Server]:
    flood = Flood(total)
    server = await asyncio.get_running_loop().create_server(lambda: flood, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    return await serve(one_upstream(f"http://127.0.0.1:{port}/v1")), flood, server


def deaf_socket(running: Running) -> socket.socket:
    """A client whose kernel takes little."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    deaf.connect(("127.0.0.1", running.port))
    return deaf


def buffered(running: Running) -> int:
    """Bytes that the proxy keeps for its clients, in memory."""
    return sum(
        one.transport.get_write_buffer_size()
        for one in running.proxy._server.connections
        if one.transport is not None
    )


async def test_a_client_that_stops_reading_stops_the_upstream_and_is_closed_when_it_stalls(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "WRITE_STALL_S", 1.0)
    running, flood, server = await flooded(serve, 200 * 2**20)
    with deaf_socket(running) as deaf:
        deaf.sendall(request_bytes(BODY))
        await until(lambda: flood.paused)
        await asyncio.sleep(0.2)
        settled, most = flood.sent, buffered(running)
        await asyncio.sleep(0.3)
        assert flood.sent == settled  # nothing more is read while nothing is taken
        # One read of the upstream may come on top of the high-water mark.
        assert 0 < most <= 4 * READ_BYTES_MAX
        print(f"\na client that does not read: {most} bytes kept, {settled} sent by the upstream of 200 MiB")

        await asyncio.wait_for(flood.lost.wait(), 3.0)

    exchange = await ended(running)
    assert (exchange.gone, exchange.told_status, exchange.billing) == ("write_timeout", 499, "estimate")
    assert exchange.hold is not None
    assert exchange.charge <= exchange.hold.amount
    receipt = await running.ledger.receipt(exchange.id)
    assert (receipt.status, receipt.reason) == ("settled", "write_timeout")
    server.close()
    await server.wait_closed()


async def test_little_is_taken_of_a_stream_for_a_client_that_reads_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left to itself, the kernel swallows megabytes, which the client is charged for."""
    monkeypatch.setattr(sockets, "WRITE_STALL_S", 0.3)
    running, _, server = await flooded(serve, 200 * 2**20)
    with socket.create_connection(("127.0.0.1", running.port)) as deaf:
        deaf.sendall(request_bytes(BODY))

        exchange = await ended(running)

    assert exchange.gone == "write_timeout"
    assert 0 < exchange.bytes_out < 2**20
    server.close()
    await server.wait_closed()


async def test_a_slow_reader_gets_every_byte(serve: Serve) -> None:
    running, flood, server = await flooded(serve, 16 * 2**20)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=2**16)
    writer.write(request_bytes(BODY))
    await reader.readuntil(b"\r\n\r\n")
    received, most = bytearray(), 0

    async with asyncio.timeout(30):
        while piece := await reader.read(2**17):
            received += piece
            most = max(most, buffered(running))
            await asyncio.sleep(0.001)

    said, clean = unchunked_quickly(bytes(received))
    assert clean
    assert hashlib.sha256(said).digest() == flood.digest.digest()
    assert most <= 2**20
    assert (await ended(running)).error is None
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


def unchunked_quickly(body: bytes) -> tuple[bytes, bool]:
    """`unchunked` for megabytes."""
    pieces, position = [], 0
    while position < len(body):
        line_end = body.index(b"\r\n", position)
        length = int(body[position:line_end], 16)
        if length == 0:
            return b"".join(pieces), True
        pieces.append(body[line_end + 2 : line_end + 2 + length])
        position = line_end + 2 + length + 2
    return b"".join(pieces), False


# --- old and hasty clients


async def test_an_http_1_0_client_gets_a_whole_answer(proxy: Running) -> None:
    answer = await raw(proxy, request_bytes({"model": "m", "messages": MESSAGES}, version="1.0"))
    head, _, body = answer.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"content-length: %d" % len(whole()) in head
    assert body == whole()


async def test_an_http_1_0_client_gets_a_stream_without_chunks(proxy: Running) -> None:
    head, _, body = (await raw(proxy, request_bytes(BODY, version="1.0"))).partition(b"\r\n\r\n")

    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body == b"".join(STREAM)


async def test_an_http_1_0_client_sees_a_reset_where_the_stream_was_cut(
    proxy: Running, upstream: FakeUpstream
) -> None:
    upstream.says = lambda asked: stream_says(STREAM[:2], cut=True)

    with pytest.raises(ConnectionResetError):
        await raw(proxy, request_bytes(BODY, version="1.0"))


async def test_pipelined_requests_are_answered_in_their_order(proxy: Running) -> None:
    requests = [
        request_bytes(BODY, close=False),
        request_bytes({"model": "nowhere", "messages": MESSAGES}, close=False),
        request_bytes({"model": "m", "messages": MESSAGES}, close=False),
        request_bytes(BODY),
    ]

    answer = await raw(proxy, b"".join(requests))

    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]
    assert statuses == [200, 404, 200, 200]
    assert answer.endswith(DONE + b"\r\n0\r\n\r\n")
    assert len(proxy.exchanges) == 4


async def test_a_connection_serves_on_after_refusals(proxy: Running) -> None:
    good = request_bytes({"model": "m", "messages": MESSAGES}, close=False)
    bad = [
        good.replace(b'"model"', b'"Model"'),
        good.replace(b'"m"', b'"x"'),
        good.replace(KEY.encode(), KEY.encode()[:-1] + b"X"),
        good.replace(b"application/json", b"text/html"[:9] + b" " * 7),
        good.replace(b"/v1/chat", b"/v1/chit"),
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    statuses = []
    for request in (*bad, good):
        writer.write(request)
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        statuses.append(int(head[9:12]))
        assert b"connection: close" not in head

    assert statuses == [400, 404, 401, 415, 404, 200]
    writer.close()
    await writer.wait_closed()


# --- slow requests


async def send_slowly(running: Running, pieces: list[bytes], pause_s: float) -> tuple[int, float]:
    """Send a request piece by piece; the answer's status (0 for none) and how long it took."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    started = time.monotonic()
    answer = asyncio.create_task(reader.read())
    for piece in pieces:
        writer.write(piece)
        await asyncio.wait([answer], timeout=pause_s)
        if answer.done():
            break
    async with asyncio.timeout(5):
        said = await answer
    writer.close()
    return int(said[9:12] or 0), time.monotonic() - started


async def test_a_body_that_stops_coming_is_a_408(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BODY_S", 0.4)
    monkeypatch.setattr(sockets, "LINGER_S", 0.2)

    status, took = await send_slowly(proxy, [HEAD.encode() + b"Content-Length: 100\r\n\r\n{"], 0.0)

    assert status == 408
    assert 0.3 < took < sockets.LINGER_S + 1.5  # the rest of the body is waited for, unread
    assert proxy.exchanges[0].error is not None
    assert proxy.exchanges[0].error.reason == "slow_body"
    assert proxy.exchanges[0].billing == "none"


async def test_a_body_that_began_fast_may_not_stop_either(
    proxy: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BODY_S", 0.4)
    monkeypatch.setattr(sockets, "LINGER_S", 0.2)
    monkeypatch.setattr(connection, "BODY_BYTES_PER_S", 1)  # 50,000 bytes would buy 13 hours
    start = HEAD.encode() + b"Content-Length: 100000\r\n\r\n" + b" " * 50_000

    status, took = await send_slowly(proxy, [start], 0.0)

    assert status == 408
    assert took < sockets.LINGER_S + 1.5


@pytest.mark.parametrize(("bytes_per_s", "status"), [(100, 200), (100_000, 408)])
async def test_a_slow_body_is_read_as_long_as_it_keeps_the_pace(
    proxy: Running, monkeypatch: pytest.MonkeyPatch, bytes_per_s: int, status: int
) -> None:
    monkeypatch.setattr(connection, "BODY_S", 0.4)
    monkeypatch.setattr(connection, "BODY_BYTES_PER_S", bytes_per_s)
    request = request_bytes({"model": "m", "messages": MESSAGES, "user": "x" * 200})
    cut = len(request) - 250
    pieces = [request[:cut], *(request[at : at + 25] for at in range(cut, len(request), 25))]

    answered, _ = await send_slowly(proxy, pieces, 0.1)

    assert answered == status


async def test_a_head_that_does_not_end_is_closed(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "HEAD_S", 0.4)
    pieces = [b"GET /healthz HTTP/1.1\r\n", *[b"X: y\r\n"] * 50]

    status, took = await send_slowly(proxy, pieces, 0.1)

    assert status == 0
    assert 0.3 < took < 1.5


async def test_a_head_in_two_pieces_is_served(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "HEAD_S", 0.4)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    for _ in range(2):
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        await asyncio.sleep(0.1)
        writer.write(b"Host: h\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        await reader.readexactly(len(b'{"status":"ok"}'))
        await asyncio.sleep(0.5)  # longer than a head may take, and nobody is asked for one

    writer.close()
    await writer.wait_closed()


# --- Expect


async def test_another_expectation_is_a_417(proxy: Running) -> None:
    request = request_bytes({"model": "m", "messages": MESSAGES}).replace(
        b"Host: h\r\n", b"Host: h\r\nExpect: the-unexpected\r\n"
    )

    head, _, body = (await raw(proxy, request)).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 417 ")
    assert error_of(body)["code"] == "invalid_request"


async def test_a_body_declared_too_large_is_refused_without_being_asked_for(
    proxy: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "LINGER_S", 0.2)
    request = HEAD.encode() + b"Expect: 100-continue\r\nContent-Length: 999999999\r\n\r\n"

    answer = await raw(proxy, request)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer
    assert b"100 Continue" not in answer


async def test_an_http_1_0_client_is_not_sent_an_interim_answer(proxy: Running) -> None:
    request = request_bytes({"model": "m", "messages": MESSAGES}, version="1.0").replace(
        b"Host: h\r\n", b"Host: h\r\nExpect: 100-continue\r\n"
    )

    assert (await raw(proxy, request)).startswith(b"HTTP/1.1 200 ")
