"""What both fronts share of a connection: its deadlines, and a client that takes less than is written."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from tokenhub_proxy import outbox

if TYPE_CHECKING:
    from tokenhub_proxy.connection import HttpClient

# A request's head is one packet or two; who needs longer holds a connection and nothing else.
HEAD_S = 15.0
# Between two requests; longer than a proxy in front of us keeps a connection (nginx: 60 s), so that
# it is always the one that closes, and never sends into a closed one.
KEEP_ALIVE_S = 75.0
# A client that takes nothing for so long has gone without saying so.
WRITE_STALL_S = 60.0
# Unread request bytes after a refusal are read so long, so that the client sees the answer.
LINGER_S = 2.0


class Socket:
    """One connection to a client, as its requests see it.

    `retiring`: the answer at hand is the last one. `stalled`: the client took nothing for so long
    that the connection was closed.
    """

    __slots__ = (
        "_drained",
        "_loop",
        "_stall_timer",
        "client",
        "descriptor",
        "peer",
        "retiring",
        "stalled",
        "transport",
        "writing_paused",
    )

    def __init__(self, transport: asyncio.BaseTransport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's inherits from nothing
        name = transport.get_extra_info("peername")
        self.peer = str(name[0]) if isinstance(name, tuple) else ""  # a UNIX socket has no address
        self.descriptor = outbox.descriptor(self.transport)
        self.client: HttpClient | None = None  # whose request is at hand
        self.retiring = False
        self.stalled = False
        self._loop = loop
        self._stall_timer: asyncio.TimerHandle | None = None
        self.writing_paused = False  # the client takes less than is written
        self._drained: asyncio.Future[None] | None = None

    def pause_writing(self) -> None:
        """Pause the source of what is written; a client that takes nothing is closed in time."""
        self._stall_timer = self._loop.call_later(WRITE_STALL_S, self._stall)
        self.writing_paused = True
        if self.client is not None:
            self.client.pause()

    def resume_writing(self) -> None:
        """All is taken, or lost."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
            self.writing_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self.client is not None:
            self.client.resume()

    def send(self, head: bytes, body: bytes) -> None:
        """Write a whole answer, now or soon."""
        outbox.write_whole(self.transport, self.descriptor, head, body)

    def flush(self) -> None:
        """Write what `send` has kept back."""

    async def drained(self) -> None:
        """Wait until the client has taken what was written, or is gone."""
        if self.writing_paused:
            self._drained = self._loop.create_future()
            await self._drained

    def _stall(self) -> None:
        self.stalled = True
        self.transport.abort()
