"""The server's sockets: aiohttp's connections, with the deadlines and the strictness they lack."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from aiohttp import http_parser, web
from aiohttp.web_protocol import _ErrInfo

from tokenhub_proxy.errors import InvalidRequest, ProxyError

if TYPE_CHECKING:
    from tokenhub_proxy.connection import AiohttpClient

# A request's head is one packet or two; who needs longer holds a connection and nothing else.
HEAD_S = 15.0
# Between two requests; longer than a proxy in front of us keeps a connection (nginx: 60 s), so that
# it is always the one that closes, and never sends into a closed one.
KEEP_ALIVE_S = 75.0
# A client that takes nothing for so long has gone without saying so.
WRITE_STALL_S = 60.0
# Unread request bytes after a refusal are read so long, so that the client sees the answer.
LINGER_S = 2.0


class ParserMissing(ProxyError):
    """aiohttp was installed without its C extension."""

    def __init__(self) -> None:
        super().__init__(
            "aiohttp's C parser is missing here; install a wheel of aiohttp, and unset AIOHTTP_NO_EXTENSIONS."
        )


class Connection(web.RequestHandler):
    """aiohttp's connection, with the deadlines it lacks, telling the client when writing has to pause."""

    __slots__ = (
        "_content",
        "_drained",
        "_head_timer",
        "_socket",
        "_stall_timer",
        "client",
        "request_id",
        "retiring",
        "stalled",
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.client: AiohttpClient | None = None
        self.request_id: Callable[[], str] = str
        self.retiring = False
        self.stalled = False
        self._content: Any = None  # the body of the last request that came
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None
        # aiohttp forgets its transport when it closes it, long before the last bytes are taken.
        self._socket: asyncio.Transport | None = None

    def cut(self) -> None:
        """Close at once, whatever was not taken."""
        if self._socket is not None:
            self._socket.abort()

    def retire(self, *, greeted: bool) -> None:
        """Serve the request at hand, if there is one, and no other; unless `greeted`, a first one too."""
        self.retiring = True
        if self._waiting and (greeted or not self.expecting):
            self.force_close()

    @property
    def expecting(self) -> bool:
        """True until the first request has come: who has connected is about to send it."""
        return self._request_count == 0 and self._waiting

    @property
    def _waiting(self) -> bool:
        """No request is at hand: aiohttp's loop sleeps until one has come whole."""
        if self._waiter is None:
            # Before its first sleep too, which the first bytes may come before.
            return self._request_count == 0
        return not self._waiter.done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)
        super().connection_made(transport)
        # Who connects has something to say; only between requests is silence usual.
        self._head_timer = self._loop.call_later(HEAD_S, self.force_close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages:
            self._look_at(*self._messages[-1])
        if self._head_timer is None:
            if self._waiting:  # these bytes began a head and did not end it
                self._head_timer = self._loop.call_later(HEAD_S, self.force_close)
        elif not self._waiting:
            self._head_timer.cancel()
            self._head_timer = None

    def _look_at(self, message: Any, content: Any) -> None:
        """Tell a body that its end will never come, because the parser has refused a piece of it.

        aiohttp only queues the refusal as the next answer, and whoever reads the body waits.
        """
        if not isinstance(message, _ErrInfo):
            self._content = content
        elif self._content is not None and not self._content.is_eof():
            self._content.set_exception(web.RequestPayloadError())
            self._content.feed_eof()
            # One request, one answer.
            self.retiring = True
            self.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self._loop.call_later(WRITE_STALL_S, self._stall)
        if self.client is not None:
            self.client.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_stall()
        if self.client is not None:
            self.client.resume()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._end_stall()
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._socket = None
        super().connection_lost(exc)

    async def drained(self) -> None:
        """Wait until the client has taken what was written, or is gone."""
        if self.writing_paused and self.transport is not None:
            self._drained = self._loop.create_future()
            await self._drained

    def _stall(self) -> None:
        self._stall_timer = None
        self.stalled = True
        self.cut()

    def _end_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A request that aiohttp's parser refused: its answer has our shape, and is the last one."""
        id = self.request_id()
        error = InvalidRequest("The request is not valid HTTP.", reason="bad_http", status=status)
        answer = web.Response(
            status=status,
            body=error.body(id),
            content_type="application/json",
            headers={"x-request-id": id},
        )
        answer.force_close()
        return answer


class Server(web.Server):
    """aiohttp's low-level server, with our connections and no router of its own.

    Raises ParserMissing where aiohttp has its parser in Python alone, which is laxer and many times slower.
    """

    def __init__(self, handler: Any, request_id: Callable[[], str]) -> None:
        if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
            raise ParserMissing
        super().__init__(
            handler,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            lingering_time=LINGER_S,
            keepalive_timeout=KEEP_ALIVE_S,
        )
        self._request_id = request_id

    def __call__(self) -> web.RequestHandler:
        connection = Connection(self, loop=self._loop, **self._kwargs)
        connection.request_id = self._request_id
        return connection

    def retire(self, *, greeted: bool = False) -> None:
        """Close what is idle, and every other connection after the answer it is giving.

        Unless they were `greeted`, connections whose first request is on its way are not idle.
        """
        for connection in self.connections:
            if isinstance(connection, Connection):
                connection.retire(greeted=greeted)

    @property
    def expecting(self) -> bool:
        """True while a connection's first request is on its way."""
        return any(isinstance(one, Connection) and one.expecting for one in self.connections)

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as its parent has it
        """Close every connection; what a client has not taken after so many seconds is thrown away."""
        connections = [one for one in self.connections if isinstance(one, Connection)]
        await super().shutdown(timeout)
        for connection in connections:
            connection.cut()
