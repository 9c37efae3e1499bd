"""All that the front hands over: aiohttp's connections, with the deadlines and the strictness they lack.

Importing it takes as long as the rest of the start, so that is done when the first connection needs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import http_parser, web
from aiohttp.web_protocol import _ErrInfo

from tokenhub_proxy import sockets
from tokenhub_proxy.aiohttp_client import AiohttpClient
from tokenhub_proxy.connection import HttpClient, answer_error
from tokenhub_proxy.errors import InvalidRequest, ProxyError
from tokenhub_proxy.front import ParserMissing
from tokenhub_proxy.sockets import Socket


class Connection(web.RequestHandler):
    """aiohttp's connection, with the deadlines it lacks, telling the client when writing has to pause."""

    __slots__ = ("_content", "_head_timer", "head_s", "request_id", "served", "socket")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.request_id: Callable[[], str] = str
        self.head_s = sockets.HEAD_S
        self.served = False  # until the first request is
        self._content: Any = None  # the body of the last request that came
        self._head_timer: asyncio.TimerHandle | None = None

    def cut(self) -> None:
        """Close at once, whatever was not taken."""
        self.socket.transport.abort()

    def retire(self, *, greeted: bool) -> None:
        """Serve the request at hand, if there is one, and no other; unless `greeted`, a first one too."""
        self.socket.retiring = True
        if self._waiting and (greeted or not self.expecting):
            self.force_close()

    @property
    def expecting(self) -> bool:
        """True until the first request is being served: who has connected is about to send it.

        aiohttp takes some rounds of the loop for that once the request has come.
        """
        return not self.served

    @property
    def _waiting(self) -> bool:
        """No request is at hand: aiohttp's loop sleeps until one has come whole."""
        if self._waiter is None:
            # Before its first sleep too, which the first bytes may come before.
            return self._request_count == 0
        return not self._waiter.done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # aiohttp forgets its transport when it closes it, long before the last bytes are taken.
        self.socket = Socket(transport, self._loop)
        super().connection_made(transport)
        # Who connects has something to say; only between requests is silence usual.
        self._head_timer = self._loop.call_later(self.head_s, self.force_close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages:
            self._look_at(*self._messages[-1])
        if self._head_timer is None:
            if self._waiting:  # these bytes began a head and did not end it
                self._head_timer = self._loop.call_later(sockets.HEAD_S, self.force_close)
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
            self.socket.retiring = True
            self.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.socket.pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.socket.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.socket.resume_writing()
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A request that aiohttp's parser refused: its answer has our shape, and is the last one."""
        error = InvalidRequest("The request is not valid HTTP.", reason="bad_http", status=status)
        return Refused(error, self.request_id())


class Written(web.StreamResponse):
    """What aiohttp is given for an answer that is on the wire already."""

    def __init__(self, keep_alive: bool) -> None:
        super().__init__()
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class Refused(Written):
    """An error that aiohttp has us write: its own answers would name it and its version."""

    def __init__(self, error: ProxyError, request_id: str) -> None:
        super().__init__(keep_alive=False)
        self._error = error
        self._request_id = request_id

    async def prepare(self, request: web.BaseRequest) -> None:
        client = AiohttpClient(request)
        client.keep_alive = False
        await answer_error(client, self._error, self._request_id)
        client.leave()


class Server(web.Server):
    """aiohttp's low-level server, with our connections and no router of its own.

    Raises ParserMissing where aiohttp has its parser in Python alone, which is laxer and many times slower.
    """

    def __init__(self, serve: Callable[[HttpClient], Awaitable[None]], request_id: Callable[[], str]) -> None:
        if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
            raise ParserMissing
        super().__init__(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            lingering_time=sockets.LINGER_S,
            keepalive_timeout=sockets.KEEP_ALIVE_S,
        )
        self._serve = serve
        self._request_id = request_id

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        cast(Connection, request.protocol).served = True
        client = AiohttpClient(request)
        await self._serve(client)
        client.leave()
        return Written(client.keep_alive and not client.socket.retiring)

    def __call__(self) -> Connection:
        connection = Connection(self, loop=self._loop, **self._kwargs)
        connection.request_id = self._request_id
        return connection

    @property
    def own(self) -> list[Connection]:
        """The open connections."""
        return [one for one in self.connections if isinstance(one, Connection)]

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as its parent has it
        """Close every connection; what a client has not taken after so many seconds is thrown away."""
        connections = self.own
        await super().shutdown(timeout)
        for connection in connections:
            connection.cut()
