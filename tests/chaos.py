"""A raw TCP peer that does what a list of actions says: a hostile upstream, or a hostile client.

    async with serve([request(), send(answer(b"hello")), reset()]) as upstream:
        ...                                    # call upstream.url
        assert upstream.peers[0].requests[0].startswith(b"POST ")

    async with dial(host, port, [send(b"GET / HT"), half_close()]) as client:
        await client.gone()                    # the server has closed the connection

The n-th connection follows the n-th list, and further ones follow the last list. At the end of its
list a peer leaves the connection open. Every wait has a deadline, so a test fails, not hangs.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import cast

WAIT_S = 10.0


class Peer(asyncio.Protocol):
    """One connection, its script, and the record of what the other side did."""

    def __init__(self, script: Sequence[Action]) -> None:
        self.received = bytearray()
        self.requests: list[bytes] = []  # what `request` has taken out of `received`
        self.ended: str | None = None  # by the other side: "eof" or "reset"
        self.ended_at_s: float | None = None  # time.monotonic()
        self.lost = False
        self._taken = 0
        self._script = script
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition on what the other side does."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def gone(self) -> None:
        """Wait until the other side has closed the connection."""
        await self.until(lambda: self.ended is not None)

    def take_request(self) -> bool:
        """Move one whole HTTP request to `requests`, if it is there."""
        head, blank, rest = bytes(self.received[self._taken :]).partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        size = int(length[1]) if length else 0
        if not blank or len(rest) < size:
            return False
        self.requests.append(head + blank + rest[:size])
        self._taken += len(self.requests[-1])
        return True

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's inherits from nothing
        self.secure = transport.get_extra_info("ssl_object") is not None
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        for action in self._script:
            await action(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._changed.set()

    def eof_received(self) -> bool:
        self._end("eof")
        return not self.secure  # a half-closed connection can still be written to; TLS has none

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._end("eof" if exc is None else "reset")

    def _end(self, how: str) -> None:
        if self.ended is None:
            self.ended = how
            self.ended_at_s = time.monotonic()
        self._changed.set()


Action = Callable[[Peer], Awaitable[None]]


# What a peer can do


def send(data: bytes, every: int | None = None) -> Action:
    """Write the bytes, at once or in slices of `every` bytes, each in a turn of the loop of its own."""

    async def action(peer: Peer) -> None:
        step = every or len(data) or 1
        for start in range(0, len(data), step):
            peer.transport.write(data[start : start + step])
            await asyncio.sleep(0)

    return action


def request() -> Action:
    """Wait for a whole HTTP request (head and content-length body)."""

    async def action(peer: Peer) -> None:
        await peer.until(peer.take_request)

    return action


def receive(count: int) -> Action:
    """Wait until this many bytes have come in all."""

    async def action(peer: Peer) -> None:
        await peer.until(lambda: len(peer.received) >= count)

    return action


def pause(seconds: float) -> Action:
    """Do nothing for a while."""

    async def action(peer: Peer) -> None:
        await asyncio.sleep(seconds)

    return action


def wait(event: asyncio.Event) -> Action:
    """Go on when the test says so."""

    async def action(peer: Peer) -> None:
        async with asyncio.timeout(WAIT_S):
            await event.wait()

    return action


def deaf() -> Action:
    """Read nothing any more: the other side's writes fill the buffers."""

    async def action(peer: Peer) -> None:
        peer.transport.pause_reading()

    return action


def hear() -> Action:
    """Read on after `deaf`."""

    async def action(peer: Peer) -> None:
        peer.transport.resume_reading()

    return action


def half_close() -> Action:
    """FIN, but go on reading."""

    async def action(peer: Peer) -> None:
        peer.transport.write_eof()

    return action


def close() -> Action:
    """FIN after all that was written, and no more reading."""

    async def action(peer: Peer) -> None:
        peer.transport.close()

    return action


def reset() -> Action:
    """RST: with SO_LINGER at 0 the kernel throws away what is unsent and resets."""

    async def action(peer: Peer) -> None:
        sock = peer.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.transport.abort()

    return action


# What peers say


def answer(body: bytes = b"", status: int = 200, headers: Sequence[str] = ()) -> bytes:
    """A whole HTTP answer with a Content-Length."""
    lines = [f"HTTP/1.1 {status} Whatever", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chunk(data: bytes) -> bytes:
    """One chunk; of no bytes it is the end of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


# Where they are


class Chaos:
    """A listening peer."""

    def __init__(self, scripts: Sequence[Sequence[Action]], secure: bool) -> None:
        self._scripts = scripts
        self._scheme = "https" if secure else "http"
        self.peers: list[Peer] = []
        self.server: asyncio.Server
        self.host = "127.0.0.1"
        self.port = 0

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.host}:{self.port}"

    def stop(self) -> None:
        """Listen no more; further connections are refused."""
        self.server.close()

    def accept(self) -> Peer:
        peer = Peer(self._scripts[min(len(self.peers), len(self._scripts) - 1)])
        self.peers.append(peer)
        return peer


@asynccontextmanager
async def serve(*scripts: Sequence[Action], tls: ssl.SSLContext | None = None) -> AsyncIterator[Chaos]:
    """Listen on a free port of 127.0.0.1; leaving ends all scripts and closes all connections."""
    chaos = Chaos(scripts, secure=tls is not None)
    loop = asyncio.get_running_loop()
    chaos.server = server = await loop.create_server(chaos.accept, chaos.host, 0, ssl=tls)
    chaos.port = server.sockets[0].getsockname()[1]
    try:
        yield chaos
    finally:
        server.close()
        for peer in chaos.peers:
            await _stop(peer)
        await server.wait_closed()


@asynccontextmanager
async def dial(
    host: str, port: int, script: Sequence[Action] = (), tls: ssl.SSLContext | None = None
) -> AsyncIterator[Peer]:
    """Connect and follow the script; leaving closes the connection."""
    loop = asyncio.get_running_loop()
    _, peer = await loop.create_connection(lambda: Peer(script), host, port, ssl=tls)
    try:
        yield peer
    finally:
        await _stop(peer)


async def _stop(peer: Peer) -> None:
    if not hasattr(peer, "task"):
        return  # a TLS handshake that never ended
    if not peer.lost:
        peer.transport.abort()
    peer.task.cancel()
    # Raises what went wrong inside a script: that is a fault of the test, and shall be seen.
    await asyncio.wait([peer.task])
    if not peer.task.cancelled():
        peer.task.result()


@contextmanager
def unanswered() -> Iterator[tuple[str, int]]:
    """An address that drops every SYN: the backlog of a socket that never accepts, filled up."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        held: list[socket.socket] = []
        try:
            while True:
                filler = socket.socket()
                held.append(filler)
                filler.settimeout(0.2)
                try:
                    filler.connect(address)
                except TimeoutError:
                    break
            yield address
        finally:
            for filler in held:
                filler.close()
