"""The aiohttp side of a client: reads its body within bounds, writes its answer in the callback."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

from tokenhub_proxy.errors import (
    InvalidRequest,
    ProxyError,
    RequestTimeout,
    RequestTooLarge,
)
from tokenhub_proxy.sockets import Connection
from tokenhub_proxy.wire import Incoming

# A whole body has this long; a client that is slower holds memory and nothing else.
BODY_S = 30.0
# And beyond that as long as it keeps this pace: 32 MiB in half an hour is a slow line, not an attack.
BODY_BYTES_PER_S = 16 * 2**10
SPOKEN = ((1, 0), (1, 1))
CREDENTIAL_PARAMETERS = frozenset({"api_key", "api-key", "key", "access_token"})

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Written(web.StreamResponse):
    """What aiohttp is given for an answer that is on the wire already."""

    def __init__(self, keep_alive: bool) -> None:
        super().__init__()
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class AiohttpClient:
    """One request and its answer: `wire.Client` over an aiohttp connection."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_head",
        "_headers",
        "_keep_alive",
        "_request",
        "_source",
        "_status",
        "begun",
        "bytes_out",
        "extra_headers",
        "headers",
        "peer",
        "query_credentials",
    )

    def __init__(self, request: web.BaseRequest, extra_headers: Mapping[str, str]) -> None:
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.client = self
        self._request = request
        self._connection = connection
        self._status = 500
        self._headers: Mapping[str, str] = {}
        self._source: Incoming | None = None
        self._chunked = request.version >= (1, 1)
        # aiohttp's parser drops what came in one packet with a request to upgrade, and would take up
        # whatever follows that, wherever in a request it begins: nothing may follow.
        self._keep_alive = request.keep_alive and "Upgrade" not in request.headers
        self.headers: Any = request.headers
        self.peer = peer_of(request)
        self.query_credentials = _query_credentials(request.raw_path)
        self.extra_headers = extra_headers
        self.bytes_out = 0
        self.begun = False

    # --- the request

    def check(self) -> None:
        """Refuse what two readers could take for two things; after that, nothing more is read.

        Raises InvalidRequest.
        """
        request = self._request
        self._keep_alive, keep_alive = False, self._keep_alive
        if request.version not in SPOKEN:
            raise InvalidRequest("Only HTTP/1.0 and HTTP/1.1 are spoken here.", status=505, reason="version")
        if request.version < (1, 1) and "Transfer-Encoding" in request.headers:
            raise InvalidRequest("HTTP/1.0 has no transfer codings.", reason="bad_http")
        if not request.raw_path.startswith("/") or request.method == "CONNECT":
            raise InvalidRequest("The request target must be a path.", reason="bad_target")
        self._keep_alive = keep_alive

    async def body(self, bytes_max: int) -> bytes:
        declared = self._request.content_length
        if declared is not None and declared > bytes_max:
            self._keep_alive = False
            raise RequestTooLarge(f"The body is over {bytes_max} bytes.", reason="too_large declared")
        self._expect()
        content = self._request.content
        try:
            if content.is_eof() and content.total_bytes <= bytes_max:
                return content.read_nowait(-1)
            async with asyncio.timeout(BODY_S) as deadline:
                return await self._read(content, bytes_max, deadline)
        except TimeoutError:
            self._keep_alive = False
            raise RequestTimeout("The body came too slowly.", reason="slow_body") from None
        except web.RequestPayloadError:
            self._keep_alive = False
            raise InvalidRequest("The body is not valid HTTP.", reason="bad_http") from None

    async def _read(self, content: Any, bytes_max: int, deadline: asyncio.Timeout) -> bytes:
        pieces, length = [], 0
        loop = asyncio.get_running_loop()
        starts_at = loop.time()
        while piece := await content.readany():
            length += len(piece)
            if length > bytes_max:
                self._keep_alive = False
                raise RequestTooLarge(f"The body is over {bytes_max} bytes.", reason="too_large seen")
            pieces.append(piece)
            # However much came at first, nothing more for so long is the end of patience.
            paced_s = starts_at + length / BODY_BYTES_PER_S
            deadline.reschedule(min(paced_s, loop.time()) + BODY_S)
        return b"".join(pieces)

    def _expect(self) -> None:
        """Ask for the body that the client holds back; by now its key is known to be good."""
        expected = self.headers.get("Expect")
        if expected is None:
            return
        if expected.lower() != "100-continue":
            self._keep_alive = False
            raise InvalidRequest("Only 100-continue can be expected.", status=417, reason="expect")
        transport = self._connection.transport
        if transport is not None and self._request.version >= (1, 1):
            transport.write(CONTINUE)

    # --- the answer

    @property
    def paused(self) -> bool:
        return self._connection.writing_paused

    @property
    def stalled(self) -> bool:
        return self._connection.stalled

    @property
    def source(self) -> Incoming | None:
        return self._source

    @source.setter
    def source(self, source: Incoming | None) -> None:
        self._source = source
        if source is not None and self._connection.writing_paused:
            source.pause()

    def pause(self) -> None:
        if self._source is not None:
            self._source.pause()

    def resume(self) -> None:
        if self._source is not None:
            self._source.resume()

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self._status = status
        self._headers = headers

    def write(self, data: bytes) -> None:
        transport = self._connection.transport
        if not data or transport is None or transport.is_closing():
            return
        framed = b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
        if not self.begun:
            self.begun = True
            self._keep_alive = self._keep_alive and self._chunked
            framed = self._encoded_head("transfer-encoding: chunked\r\n" if self._chunked else "") + framed
        self.bytes_out += len(data)
        transport.write(framed)

    async def end(self, data: bytes) -> None:
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            return
        if self.begun:
            self.write(data)
            if self._chunked:
                transport.write(b"0\r\n\r\n")
        else:
            self.begun = True
            self.bytes_out += len(data)
            body = b"" if self._request.method == "HEAD" else data
            length = "" if self._status == 204 else f"content-length: {len(data)}\r\n"
            transport.write(self._encoded_head(length) + body)
        await self._connection.drained()

    async def abort(self, data: bytes) -> None:
        self.write(data)
        self._keep_alive = False
        transport = self._connection.transport
        if transport is None:
            return
        if not self._chunked:
            # Without chunks an end of file would look like a clean end: only a reset does not.
            raw = transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.close()

    def written(self) -> Written:
        """What aiohttp's loop is told about this answer."""
        self._connection.client = None
        self._source = None
        return Written(self._keep_alive and not self._connection.retiring)

    def _encoded_head(self, framing: str) -> bytes:
        lines = [f"{name}: {value}\r\n" for name, value in {**self._headers, **self.extra_headers}.items()]
        self._keep_alive = self._keep_alive and not self._connection.retiring
        if not self._keep_alive:
            lines.append("connection: close\r\n")
        elif not self._chunked:
            lines.append("connection: keep-alive\r\n")
        return _STATUS_LINES[self._status] + "".join([*lines, framing, "\r\n"]).encode("latin-1")


def peer_of(request: web.BaseRequest) -> str:
    """The address of the socket's other end; "" for a UNIX socket."""
    transport = request.transport
    name = transport.get_extra_info("peername") if transport is not None else None
    return str(name[0]) if isinstance(name, tuple) else ""


def _query_credentials(target: str) -> Sequence[str]:
    _, mark, query = target.partition("?")
    if not mark:
        return ()
    names = {pair.partition("=")[0] for pair in query.split("&")}
    return tuple(names & CREDENTIAL_PARAMETERS)


async def answer(client: AiohttpClient, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """A whole answer at once."""
    client.begin(status, headers)
    await client.end(body)


async def answer_error(client: AiohttpClient, error: ProxyError, request_id: str) -> None:
    """An error in the contract's shape, where nothing was written yet."""
    headers = {"content-type": "application/json", "x-request-id": request_id, **error.headers()}
    await answer(client, error.http_status, headers, error.body(request_id))
