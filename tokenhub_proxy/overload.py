"""The files that the process may open: before they run out, new connections are refused."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
from collections.abc import Callable
from typing import Any, cast

from tokenhub_proxy.errors import Overloaded

log = logging.getLogger(__name__)

# So many are kept for upstreams, the ledger and the resolver: an eighth of a small limit.
RESERVE = 128
# Who is refused is read from so long, so that the answer is not lost in a reset.
LINGER_S = 1.0
# A state that lasts is told again after so long.
TOLD_AGAIN_S = 60.0
# More than a million of them is no limit but a default; each connection costs kilobytes.
FILES_MAX = 2**20
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def raise_limit() -> None:
    """Take as many files as the host lets us have: two for each stream are soon more than 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class AcceptFailures:
    """The loop's exception handler: a listener that could not accept says so in one line.

    asyncio pauses accepting by itself, and tells each of thousands of attempts with a traceback.
    """

    def __init__(self) -> None:
        self._told_at_s = float("-inf")

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _EXHAUSTED:
            loop.default_exception_handler(context)
        elif loop.time() - self._told_at_s >= TOLD_AGAIN_S:
            self._told_at_s = loop.time()
            log.error("overload accept error=%s", errno.errorcode[error.errno])


class Door:
    """Lets connections in while there are files to serve them with.

    The kernel gives the lowest free number, so a new connection's number is how many are open below.
    """

    def __init__(self, request_id: Callable[[], str]) -> None:
        self._request_id = request_id
        self._refused = 0  # since files became scarce

    def refuses(self, transport: asyncio.Transport) -> bool:
        """True when this new connection was taken over, to be answered 503 and closed."""
        connection = transport.get_extra_info("socket")
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if connection is None or connection.fileno() < limit - min(RESERVE, limit // 8):
            if self._refused:
                log.warning("overload_over refused=%d", self._refused)
                self._refused = 0
            return False
        if not self._refused:
            log.error("overload files_max=%d: new connections are refused", limit)
        self._refused += 1
        refusal = _Refusal(self._request_id())
        transport.set_protocol(refusal)
        refusal.connection_made(transport)
        return True


class _Refusal(asyncio.Protocol):
    """One connection that gets a 503 whatever it asks."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        error, id = Overloaded(), self._request_id
        body = error.body(id)
        headers = {"content-type": "application/json", "x-request-id": id, **error.headers()}
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        head = f"HTTP/1.1 503 Service Unavailable\r\n{''.join(lines)}content-length: {len(body)}\r\n"
        self._transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._transport.close()  # its request is read, so nothing is reset

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
