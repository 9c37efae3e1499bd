"""The front: calls in their usual form without aiohttp, and everything else handed over to it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, cast

from tokenhub_proxy import heads, sockets
from tokenhub_proxy.connection import HttpClient
from tokenhub_proxy.errors import ProxyError
from tokenhub_proxy.heads import Head
from tokenhub_proxy.outbox import Outbox
from tokenhub_proxy.overload import Door
from tokenhub_proxy.sockets import Socket

if TYPE_CHECKING:
    from tokenhub_proxy.aiohttp_server import Connection, Server

log = logging.getLogger(__name__)

# The deadlines of heads and of idle connections are looked at so often, by one timer for all of them.
SWEEP_S = 0.5
# What a client sends ahead of the answer that it waits for is kept up to here; more is not read.
AHEAD_BYTES_MAX: Final = 64 * 2**10
# While a request is served, its own deadlines count.
NEVER: Final = float("inf")

Lines = Mapping[bytes, tuple[str, str]]  # request lines, CRLF and all, with their method and path


class FrontClient(HttpClient):
    """One request of a front's connection, and its answer."""

    __slots__ = ()

    def _whole(self, bytes_max: int) -> bytes | None:
        # That it fits was seen by its declared length.
        socket = cast("FrontConnection", self.socket)
        return None if socket.missing else socket.taken()

    async def _piece(self) -> bytes:
        return await cast("FrontConnection", self.socket).piece()


class FrontConnection(Socket, asyncio.Protocol):
    """One connection, request after request, up to the first that is aiohttp's: it gets all that follows.

    A request is ours when `heads.read` takes its head. Its body is counted, and what comes behind it
    waits until it is answered. One task answers them all: making one costs more than waking it.
    """

    __slots__ = (
        "_ahead",
        "_front",
        "_head",
        "_more",
        "_pieces",
        "_reading",
        "_served",
        "_task",
        "_wanted",
        "due_s",
        "missing",
    )

    def __init__(self, front: Front, loop: asyncio.AbstractEventLoop) -> None:
        self._front = front
        self._loop = loop
        self._ahead = b""  # half a head, or what came behind the request at hand
        self._head: Head | None = None  # the last one: a client hardly ever changes it
        self._pieces: list[bytes] = []  # of the body, until it is asked for
        self._more: asyncio.Future[None] | None = None
        self.missing = 0  # bytes of the body that have not come
        self._served = False
        self._reading = True
        self.due_s = NEVER  # closed by then, whatever has come
        self._task: asyncio.Task[None] | None = None
        self._wanted: asyncio.Future[None] | None = None  # while the task waits for a request

    def cut(self) -> None:
        """Close at once, whatever was not taken."""
        self.transport.abort()

    @property
    def answering(self) -> asyncio.Task[None] | None:
        """The task, while a request is at hand."""
        return None if self.client is None else self._task

    def retire(self, *, greeted: bool) -> None:
        """Serve the request at hand, if there is one, and no other; unless `greeted`, a first one too."""
        self.retiring = True
        if self.client is None and (greeted or self._served):
            self.close()

    def close(self) -> None:
        """Close when what was written has been taken."""
        self.flush()
        self.transport.close()

    def send(self, head: bytes, body: bytes) -> None:
        self._front.outbox.write(self.transport, self.descriptor, head, body)

    def flush(self) -> None:
        self._front.outbox.flush()

    @property
    def expecting(self) -> bool:
        """True until the first request has come: who has connected is about to send it."""
        return not self._served

    # --- what the event loop calls; writing is paused and resumed by `Socket`

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._front.door.refuses(cast(asyncio.Transport, transport)):
            return
        Socket.__init__(self, transport, self._loop)
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

    def connection_lost(self, exc: Exception | None) -> None:
        self._front.remove(self)
        self.resume_writing()
        self._stop()  # a client that leaves cancels its call

    # --- one request, in the order of its steps

    def _begin(self, data: bytes) -> None:
        """A request begins with these bytes: serve it, wait for the rest of its head, or hand it over."""
        lines, last, end = self._front.lines, self._head, 0
        # A head that is as the last was costs a comparison.
        head = last and last.again(data)
        if head is None:
            end = heads.end_of(data)
            head = heads.read(data[:end], lines) if end else None
        if head is not None:
            self._head = head
            self._serve(head, data[head.size :])
            return
        if self._served and not self._ahead:
            self.due_s = self._loop.time() + sockets.HEAD_S
        self._ahead = data
        if end or not heads.begins(data, lines):
            self._front.hand_over(self)

    def _serve(self, head: Head, data: bytes) -> None:
        length = head.length
        self.missing = missing = length - len(data)
        self._ahead = b""
        if missing < 0:
            self.missing = 0
            self._ahead = data[length:]
            data = data[:length]
        self._pieces.append(data)
        client = FrontClient(self, head.method, head.path, head, head.special, length, head.keep_alive)
        client.digest = head.digest
        self.due_s = NEVER
        self._served = True
        if self._task is None:
            self._task = self._loop.create_task(self._answer())
        elif self._wanted is not None:
            self._wanted.set_result(None)
            self._wanted = None

    def _take_body(self, data: bytes) -> None:
        if len(data) > self.missing:
            self._ahead = data[self.missing :]
            data = data[: self.missing]
        self.missing -= len(data)
        if self.client is None:
            if not self.missing:
                self._next()
        elif not self.client.answered:  # else nobody will ask for it
            self._pieces.append(data)
            if self._more is not None and not self._more.done():
                self._more.set_result(None)

    def taken(self) -> bytes:
        """What has come of the body and was not taken yet."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return data

    async def piece(self) -> bytes:
        """The next bytes of the body; none at its end."""
        data = self.taken()
        if not data and self.missing:
            self._more = self._loop.create_future()
            await self._more
            data = self.taken()
        return data

    async def _answer(self) -> None:
        """Answer the request at hand, and each that comes after it."""
        serve = self._front.serve
        while not self.transport.is_closing():
            client = self.client
            assert client is not None, "woken by a request"
            try:
                await serve(client)
            except BaseException:
                self._task = None  # the next request, should there be one, gets another
                self._answered(client)
                raise
            self._answered(client)
            if self.client is None and not self.transport.is_closing():
                self._wanted = self._loop.create_future()
                await self._wanted
        self._task = None

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _answered(self, client: HttpClient) -> None:
        if self._head is not None:
            self._head.digest = client.digest
        client.leave()
        self._pieces.clear()
        if self.transport.is_closing():
            return
        if not client.keep_alive:
            self.retiring = True
        if self.missing:
            # The rest of a refused body is thrown away unread, so that the client sees the answer.
            self.due_s = self._loop.time() + sockets.LINGER_S
        else:
            self._next()

    def _next(self) -> None:
        """The request is all over; what came behind it is the next."""
        if self.retiring:
            self.close()
            return
        self.due_s = self._loop.time() + sockets.KEEP_ALIVE_S
        if not self._reading:
            self._reading = True
            self.transport.resume_reading()
        if self._ahead:
            data, self._ahead = self._ahead, b""
            self._begin(data)

    def become(self, heir: Connection) -> None:
        """Let aiohttp serve this connection, from the request on that is not ours."""
        self._stop()
        self.flush()
        self.transport.set_protocol(heir)
        heir.head_s = max(0.0, self.due_s - self._loop.time())
        heir.connection_made(self.transport)
        heir.socket.retiring = self.retiring
        heir.data_received(self._ahead)


class ParserMissing(ProxyError):
    """aiohttp was installed without its C extension."""

    def __init__(self) -> None:
        super().__init__(
            "aiohttp's C parser is missing here; install a wheel of aiohttp, and unset AIOHTTP_NO_EXTENSIONS."
        )


def require_parser() -> None:
    """Raise ParserMissing where aiohttp would parse in Python, which is laxer; without importing it."""
    aiohttp = find_spec("aiohttp")
    places = aiohttp.submodule_search_locations if aiohttp is not None else ()
    extension = PathFinder.find_spec("aiohttp._http_parser", places)
    if extension is None or os.environ.get("AIOHTTP_NO_EXTENSIONS"):
        raise ParserMissing


def _aiohttp_server() -> type[Server]:
    from tokenhub_proxy.aiohttp_server import Server

    return Server


class Front:
    """The server: makes connections, closes those that are due, and keeps aiohttp's server behind it.

    `serve` answers one request; `lines` are the request lines of those that need no aiohttp. The `door`
    turns connections away while there are no files to serve them with.
    """

    def __init__(
        self, serve: Callable[[HttpClient], Awaitable[None]], lines: Lines, request_id: Callable[[], str]
    ) -> None:
        self.serve = serve
        self.lines = lines
        self.aiohttp: Server | None = None  # until there is something for it
        self.door = Door(request_id)
        self._request_id = request_id
        self._own: set[FrontConnection] = set()
        self._waiting: list[FrontConnection] = []
        self._importing: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.outbox = Outbox(self._loop.call_soon)
        self._sweeping = False

    def __call__(self) -> FrontConnection:
        return FrontConnection(self, self._loop)

    @property
    def connections(self) -> Sequence[FrontConnection | Connection]:
        """All that are open, whoever serves them."""
        return [*self._own, *(self.aiohttp.own if self.aiohttp is not None else ())]

    def hand_over(self, connection: FrontConnection) -> None:
        """What came on this connection, and all that will, is aiohttp's."""
        if self.aiohttp is not None:
            self._own.discard(connection)
            connection.become(self.aiohttp())
            return
        connection.transport.pause_reading()
        self._waiting.append(connection)
        if self._importing is None:
            self._importing = self._loop.create_task(self._import())

    async def _import(self) -> None:
        """Import aiohttp: a sixth of a second, in a thread, so that streams go on meanwhile."""
        try:
            self.aiohttp = (await asyncio.to_thread(_aiohttp_server))(self.serve, self._request_id)
        except Exception:
            log.exception("aiohttp can't be imported")
        waiting, self._waiting, self._importing = self._waiting, [], None
        for connection in waiting:
            if self.aiohttp is None:
                connection.close()
            elif not connection.transport.is_closing():
                connection.transport.resume_reading()
                self.hand_over(connection)

    def add(self, connection: FrontConnection) -> None:
        """A connection was made."""
        self._own.add(connection)
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_S, self._sweep)

    def remove(self, connection: FrontConnection) -> None:
        """A connection is lost."""
        self._own.discard(connection)

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in self._own:
            if connection.due_s <= now:
                connection.close()
        self._sweeping = bool(self._own)
        if self._sweeping:
            self._loop.call_later(SWEEP_S, self._sweep)

    def retire(self, *, greeted: bool = False) -> None:
        """Close what is idle, and every other connection after the answer it is giving.

        Unless they were `greeted`, connections whose first request is on its way are not idle.
        """
        for connection in self.connections:
            connection.retire(greeted=greeted)

    @property
    def expecting(self) -> bool:
        """True while a connection's first request is on its way."""
        return any(connection.expecting for connection in self.connections)

    async def shutdown(self, timeout: float) -> None:  # noqa: ASYNC109 - as aiohttp's has it
        """Close every connection; what a client has not taken after so many seconds is thrown away."""
        self.retire(greeted=True)
        own = list(self._own)
        tasks = [task for task in (one.answering for one in own) if task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
        if self._importing is not None:
            self._importing.cancel()
        if self.aiohttp is not None:
            await self.aiohttp.shutdown(timeout)
        for connection in own:
            connection.cut()
