"""A call, as aiohttp has parsed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from aiohttp import web

from tokenhub_proxy.connection import BadBody, HttpClient
from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.wire import SPECIAL_HEADERS, RequestHeaders

if TYPE_CHECKING:
    from tokenhub_proxy.aiohttp_server import Connection

SPOKEN = ((1, 0), (1, 1))
CREDENTIAL_PARAMETERS = frozenset({"api_key", "api-key", "key", "access_token"})


class AiohttpClient(HttpClient):
    """One request that aiohttp has parsed, and its answer. Raises ConnectionResetError if it has left."""

    __slots__ = ("_request",)

    def __init__(self, request: web.BaseRequest) -> None:
        if request.transport is None:
            raise ConnectionResetError
        connection = cast("Connection", request.protocol)
        path, _, query = request.raw_path.partition("?")
        super().__init__(
            connection.socket,
            request.method,
            path,
            cast(RequestHeaders, request.headers),
            SPECIAL_HEADERS.intersection(name.lower() for name in request.headers),
            request.content_length,
            # aiohttp's parser drops what came in one packet with a request to upgrade, and would take up
            # whatever follows that, wherever in a request it begins: nothing may follow.
            keep_alive=request.keep_alive and "Upgrade" not in request.headers,
            chunked=request.version >= (1, 1),
            query_credentials=_query_credentials(query),
        )
        self.query = query
        self._request = request

    def check(self) -> InvalidRequest | None:
        """The refusal of what two readers could take for two things; after it, nothing more is read."""
        request = self._request
        self.keep_alive, keep_alive = False, self.keep_alive
        if request.version not in SPOKEN:
            return InvalidRequest("Only HTTP/1.0 and HTTP/1.1 are spoken here.", status=505, reason="version")
        if request.version < (1, 1) and "Transfer-Encoding" in request.headers:
            return InvalidRequest("HTTP/1.0 has no transfer codings.", reason="bad_http")
        if not request.raw_path.startswith("/") or request.method == "CONNECT":
            return InvalidRequest("The request target must be a path.", reason="bad_target")
        self.keep_alive = keep_alive
        return None

    def _whole(self, bytes_max: int) -> bytes | None:
        content = self._request.content
        if not content.is_eof() or content.total_bytes > bytes_max:
            return None
        try:
            return content.read_nowait(-1)
        except web.RequestPayloadError:
            raise BadBody from None

    async def _piece(self) -> bytes:
        try:
            return await self._request.content.readany()
        except web.RequestPayloadError:
            raise BadBody from None


def _query_credentials(query: str) -> Sequence[str]:
    if not query:
        return ()
    names = {pair.partition("=")[0] for pair in query.split("&")}
    return tuple(names & CREDENTIAL_PARAMETERS)
