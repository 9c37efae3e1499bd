"""What both fronts share of a client: its body within bounds, its answer written in the callback."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Collection, Mapping, Sequence
from http import HTTPStatus
from socket import SO_LINGER, SOL_SOCKET
from typing import TYPE_CHECKING, Final

from tokenhub_proxy.errors import (
    InvalidRequest,
    ProxyError,
    RequestTimeout,
    RequestTooLarge,
)
from tokenhub_proxy.wire import Incoming, RequestHeaders, lines_of

if TYPE_CHECKING:
    from tokenhub_proxy.sockets import Socket

# A whole body has this long; a client that is slower holds memory and nothing else.
BODY_S = 30.0
# And beyond that as long as it keeps this pace: 32 MiB in half an hour is a slow line, not an attack.
BODY_BYTES_PER_S = 16 * 2**10

# Up to here a piece of a stream is an event, which can wait for the end of the loop's turn. What is larger
# comes of a stream at full speed, whose client may be slow: written now, it stops the upstream's reading.
EVENT_BYTES_MAX: Final = 4 * 2**10

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BadBody(Exception):
    """The body's framing is not HTTP."""


class _PerChunk:
    """What each write looks at, side by side: see `transports.http1`."""

    __slots__ = ("_chunked", "begun", "bytes_out", "socket")

    _chunked: bool  # HTTP/1.0 knows no chunks
    begun: bool
    bytes_out: int
    socket: Socket


class HttpClient(_PerChunk):
    """One request and its answer: `wire.Client`, but for where the pieces of its body come from.

    `length` is the body's declared one, None where it comes in chunks.
    """

    __slots__ = (
        "_head",
        "_source",
        "_status",
        "digest",
        "extra_headers",
        "headers",
        "keep_alive",
        "length",
        "method",
        "path",
        "peer",
        "query",
        "query_credentials",
        "special",
    )

    def __init__(
        self,
        socket: Socket,
        method: str,
        path: str,
        headers: RequestHeaders,
        special: Collection[str],
        length: int | None,
        keep_alive: bool,
        chunked: bool = True,
        query_credentials: Sequence[str] = (),
    ) -> None:
        socket.client = self
        self.socket = socket
        self.peer = socket.peer
        self.method = method
        self.path = path
        self.query = ""  # all after the path's question mark; only pages look at it
        self.headers = headers
        self.special = special
        self.length = length
        self.keep_alive = keep_alive
        self._chunked = chunked
        self.query_credentials = query_credentials
        self.digest: bytes | None = None
        self.extra_headers: Mapping[str, str] = {}
        self._source: Incoming | None = None
        self._status = 0  # until there is an answer
        self._head: list[str] = []
        self.bytes_out = 0
        self.begun = False

    # --- the request

    def check(self) -> InvalidRequest | None:
        """The refusal of what two readers could take for two things."""
        return None

    async def body(self, bytes_max: int) -> bytes:
        if self.length is not None and self.length > bytes_max:
            self.keep_alive = False
            raise RequestTooLarge(f"The body is over {bytes_max} bytes.", reason="too_large declared")
        if "expect" in self.special:
            self._expect()
        try:
            whole = self._whole(bytes_max)
            if whole is not None:
                return whole
            async with asyncio.timeout(BODY_S) as deadline:
                return await self._read(bytes_max, deadline)
        except TimeoutError:
            self.keep_alive = False
            raise RequestTimeout("The body came too slowly.", reason="slow_body") from None
        except BadBody:
            self.keep_alive = False
            raise InvalidRequest("The body is not valid HTTP.", reason="bad_http") from None

    def _whole(self, bytes_max: int) -> bytes | None:
        """The body, if all of it is there and it is not over the limit. Raises BadBody."""
        raise NotImplementedError

    async def _piece(self) -> bytes:
        """The next bytes of the body; none at its end. Raises BadBody."""
        raise NotImplementedError

    async def _read(self, bytes_max: int, deadline: asyncio.Timeout) -> bytes:
        pieces, length = [], 0
        loop = asyncio.get_running_loop()
        starts_at = loop.time()
        while piece := await self._piece():
            length += len(piece)
            if length > bytes_max:
                self.keep_alive = False
                raise RequestTooLarge(f"The body is over {bytes_max} bytes.", reason="too_large seen")
            pieces.append(piece)
            # However much came at first, nothing more for so long is the end of patience.
            paced_s = starts_at + length / BODY_BYTES_PER_S
            deadline.reschedule(min(paced_s, loop.time()) + BODY_S)
        return b"".join(pieces)

    def _expect(self) -> None:
        """Ask for the body that the client holds back; by now its key is known to be good."""
        if (self.headers.get("Expect") or "").lower() != "100-continue":
            self.keep_alive = False
            raise InvalidRequest("Only 100-continue can be expected.", status=417, reason="expect")
        if self._chunked and not self.socket.transport.is_closing():
            self.socket.flush()  # an answer to the request before this one comes first
            self.socket.transport.write(CONTINUE)

    # --- the answer

    @property
    def answered(self) -> bool:
        """What the answer will be is known."""
        return self._status > 0

    @property
    def paused(self) -> bool:
        return self.socket.writing_paused

    @property
    def stalled(self) -> bool:
        return self.socket.stalled

    @property
    def source(self) -> Incoming | None:
        return self._source

    @source.setter
    def source(self, source: Incoming | None) -> None:
        self._source = source
        if source is not None and self.socket.writing_paused:
            source.pause()

    def leave(self) -> None:
        """The request is over: nothing of it holds on to the connection's next one."""
        self._source = None
        self.socket.client = None

    def pause(self) -> None:
        if self._source is not None:
            self._source.pause()

    def resume(self) -> None:
        if self._source is not None:
            self._source.resume()

    def begin(self, status: int, lines: list[str]) -> None:
        self._status = status
        self._head = lines

    def write(self, data: bytes) -> None:
        transport = self.socket.transport
        if not data or transport.is_closing():
            return
        framed = b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
        if not self.begun:
            self.begun = True
            self.keep_alive = self.keep_alive and self._chunked
            framed = self._encoded("transfer-encoding: chunked" if self._chunked else "") + framed
            self._head.clear()  # a stream may last an hour
        self.bytes_out += len(data)
        if len(framed) <= EVENT_BYTES_MAX:
            self.socket.send(framed, b"")
        else:
            self.socket.flush()
            transport.write(framed)

    async def end(self, data: bytes) -> None:
        transport = self.socket.transport
        if transport.is_closing():
            return
        if self.begun:
            if self._chunked:
                self.bytes_out += len(data)
                last = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
                self.socket.send(last + b"0\r\n\r\n", b"")
            else:
                self.write(data)
        else:
            self.begun = True
            self.bytes_out += len(data)
            head = self._encoded("" if self._status == 204 else f"content-length: {len(data)}")
            if self.method == "HEAD":
                data = b""
            self.socket.send(head, data)
        if self.socket.writing_paused:
            await self.socket.drained()

    async def abort(self, data: bytes) -> None:
        self.write(data)
        self.keep_alive = False
        self.socket.flush()
        transport = self.socket.transport
        if transport.is_closing():
            return
        if not self._chunked:
            # Without chunks an end of file would look like a clean end: only a reset does not.
            raw = transport.get_extra_info("socket")
            raw.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        transport.close()

    def _encoded(self, framing: str) -> bytes:
        """The head, as the carrier's state and the request's version want it."""
        lines = self._head
        if self.extra_headers:
            lines += lines_of(self.extra_headers)
        if self.socket.retiring:
            self.keep_alive = False
        if not self.keep_alive:
            lines.append("connection: close")
        elif not self._chunked:
            lines.append("connection: keep-alive")
        if framing:
            lines.append(framing)
        lines.append("\r\n")
        return _STATUS_LINES[self._status] + "\r\n".join(lines).encode("latin-1")


async def answer(client: HttpClient, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """A whole answer at once."""
    client.begin(status, lines_of(headers))
    await client.end(body)


async def answer_error(client: HttpClient, error: ProxyError, request_id: str) -> None:
    """An error in the contract's shape, where nothing was written yet."""
    headers = {"content-type": "application/json", "x-request-id": request_id, **error.headers()}
    await answer(client, error.http_status, headers, error.body(request_id))
