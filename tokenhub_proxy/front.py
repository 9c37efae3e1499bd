"""The front: calls in their usual form without aiohttp, and everything else handed over to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from tokenhub_proxy import heads, sockets
from tokenhub_proxy.connection import HttpClient
from tokenhub_proxy.heads import Head
from tokenhub_proxy.sockets import Server, Socket

# The deadlines of heads and of idle connections are looked at so often, by one timer for all of them.
SWEEP_S = 0.5
# What a client sends ahead of the answer that it waits for is kept up to here; more is not read.
AHEAD_BYTES_MAX = 64 * 2**10
# While a request is served, its own deadlines count.
NEVER = float("inf")

Lines = Mapping[bytes, tuple[str, str]]  # request lines, CRLF and all, with their method and path


class FrontClient(HttpClient):
    """One request of a front's connection, and its answer."""

    __slots__ = ("_connection", "_more", "_pieces")

    def __init__(self, connection: FrontConnection, *request: Any) -> None:
        super().__init__(connection.socket, *request)
        self._connection = connection
        self._pieces: list[bytes] = []
        self._more: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> None:
        """The next piece of the body; nobody wants it once there is an answer."""
        if not self._status:
            self._pieces.append(data)
            if self._more is not None and not self._more.done():
                self._more.set_result(None)

    def _whole(self, bytes_max: int) -> bytes | None:
        # That it fits was seen by its declared length.
        return None if self._connection.missing else self._taken()

    async def _piece(self) -> bytes:
        if not self._pieces and self._connection.missing:
            self._more = asyncio.get_running_loop().create_future()
            await self._more
        return self._taken()

    def _taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class FrontConnection(asyncio.Protocol):
    """One connection, request after request, up to the first that is aiohttp's: it gets all that follows.

    A request is ours when `heads.read` takes its head. Its body is counted, and what comes behind it
    waits until it is answered.
    """

    __slots__ = (
        "_ahead",
        "_front",
        "_loop",
        "_reading",
        "_served",
        "client",
        "due_s",
        "missing",
        "socket",
        "task",
    )

    def __init__(self, front: Front, loop: asyncio.AbstractEventLoop) -> None:
        self._front = front
        self._loop = loop
        self._ahead = b""  # half a head, or what came behind the request at hand
        self._served = False
        self._reading = True
        self.client: FrontClient | None = None
        self.task: asyncio.Task[None] | None = None
        self.missing = 0  # bytes of the body that have not come
        self.due_s = NEVER  # closed by then, whatever has come

    @property
    def transport(self) -> asyncio.Transport:
        """The socket's."""
        return self.socket.transport

    def cut(self) -> None:
        """Close at once, whatever was not taken."""
        self.transport.abort()

    def retire(self) -> None:
        """Serve the request at hand, if there is one, and no other."""
        self.socket.retiring = True
        if self.client is None:
            self.transport.close()

    # --- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.socket = Socket(transport, self._loop)
        # Who connects has something to say; only between requests is silence usual.
        self.due_s = self._loop.time() + sockets.HEAD_S
        self._front.add(self)

    def data_received(self, data: bytes) -> None:
        if self.missing:
            self._take_body(data)
        elif self.client is None:
            self._begin(self._ahead + data)
        else:
            self._ahead += data
            if self._reading and len(self._ahead) > AHEAD_BYTES_MAX:
                self._reading = False
                self.transport.pause_reading()

    def pause_writing(self) -> None:
        self.socket.pause_writing()

    def resume_writing(self) -> None:
        self.socket.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._front.remove(self)
        self.socket.resume_writing()
        if self.task is not None:
            self.task.cancel()  # a client that leaves cancels its call

    # --- one request, in the order of its steps

    def _begin(self, data: bytes) -> None:
        """A request begins with these bytes: serve it, wait for the rest of its head, or hand it over."""
        lines = self._front.lines
        end = heads.end_of(data)
        head = heads.read(data[:end], lines) if end else None
        if head is not None:
            self._serve(head, data[end:])
        elif end or not heads.begins(data, lines):
            self._hand_over(data)
        else:
            if self._served and not self._ahead:
                self.due_s = self._loop.time() + sockets.HEAD_S
            self._ahead = data

    def _serve(self, head: Head, data: bytes) -> None:
        self._ahead = data[head.length :]
        if self._ahead:
            data = data[: head.length]
        self.missing = head.length - len(data)
        method, path = self._front.lines[head.line]
        client = FrontClient(self, method, path, head.headers, head.length, head.keep_alive)
        if data:
            client.feed(data)
        self.client = client
        self.due_s = NEVER
        self._served = True
        self.task = self._loop.create_task(self._answer(client))

    def _take_body(self, data: bytes) -> None:
        if len(data) > self.missing:
            self._ahead = data[self.missing :]
            data = data[: self.missing]
        self.missing -= len(data)
        if self.client is not None:
            self.client.feed(data)
        elif not self.missing:
            self._next()

    async def _answer(self, client: FrontClient) -> None:
        try:
            await self._front.serve(client)
        finally:
            self.client = None
            self.task = None
            client.leave()
            if not self.transport.is_closing():
                self._answered(client)

    def _answered(self, client: FrontClient) -> None:
        self.socket.retiring = self.socket.retiring or not client.keep_alive
        if self.missing:
            # The rest of a refused body is thrown away unread, so that the client sees the answer.
            self.due_s = self._loop.time() + sockets.LINGER_S
        else:
            self._next()

    def _next(self) -> None:
        """The request is all over; what came behind it is the next."""
        if self.socket.retiring:
            self.transport.close()
            return
        self.due_s = self._loop.time() + sockets.KEEP_ALIVE_S
        if not self._reading:
            self._reading = True
            self.transport.resume_reading()
        if self._ahead:
            data, self._ahead = self._ahead, b""
            self._begin(data)

    def _hand_over(self, data: bytes) -> None:
        """Let aiohttp serve this connection, beginning with these bytes."""
        self._front.remove(self)
        connection = self._front.aiohttp()
        if self._ahead or not self._served:
            connection.head_s = max(0.0, self.due_s - self._loop.time())
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        connection.data_received(data)


class Front:
    """The server: makes connections, closes those that are due, and keeps aiohttp's server behind it.

    `serve` answers one request whose line is in `lines`.
    """

    def __init__(self, serve: Callable[[HttpClient], Awaitable[None]], lines: Lines, aiohttp: Server) -> None:
        self.serve = serve
        self.lines = lines
        self.aiohttp = aiohttp
        self._own: set[FrontConnection] = set()
        self._loop = asyncio.get_running_loop()
        self._sweeping = False

    def __call__(self) -> FrontConnection:
        return FrontConnection(self, self._loop)

    @property
    def connections(self) -> Sequence[FrontConnection | sockets.Connection]:
        """All that are open, whoever serves them."""
        return [*self._own, *self.aiohttp.own]

    def add(self, connection: FrontConnection) -> None:
        """A connection was made."""
        self._own.add(connection)
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_S, self._sweep)

    def remove(self, connection: FrontConnection) -> None:
        """A connection is lost, or aiohttp's."""
        self._own.discard(connection)

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in self._own:
            if connection.due_s <= now:
                connection.transport.close()
        self._sweeping = bool(self._own)
        if self._sweeping:
            self._loop.call_later(SWEEP_S, self._sweep)

    def retire(self) -> None:
        """Close what is idle, and every other connection after the answer it is giving."""
        for connection in self.connections:
            connection.retire()

    async def shutdown(self, timeout: float) -> None:  # noqa: ASYNC109 - as aiohttp's has it
        """Close every connection; what a client has not taken after so many seconds is thrown away."""
        self.retire()
        own = list(self._own)
        tasks = [task for task in (one.task for one in own) if task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
        await self.aiohttp.shutdown(timeout)
        for connection in own:
            connection.cut()
