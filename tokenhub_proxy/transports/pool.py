"""The connections to one upstream: as many as its row allows, the warmest one reused first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.outbox import Outbox
from tokenhub_proxy.routes import Upstream
from tokenhub_proxy.transports.connect import connect
from tokenhub_proxy.transports.http1 import Connection
from tokenhub_proxy.transports.origin import Heads, Origin


class Pool:
    """Gives out places, at most `connections_max`: a call holds one from `pop` or `open` to `release`.

    An idle connection takes a place too. Whoever finds none waits in line, and gets the first
    that comes back, with its connection if that can serve on.
    """

    __slots__ = (
        "_clock",
        "_closed",
        "_connections",
        "_forget",
        "_idle",
        "_outbox",
        "_waiters",
        "heads",
        "in_flight",
        "origin",
        "upstream",
    )

    def __init__(
        self,
        upstream: Upstream,
        origin: Origin,
        clock: Callable[[], float],
        via: str | None,
        outbox: Outbox,
    ) -> None:
        self.upstream = upstream
        self.origin = origin
        self.heads = Heads(origin, via)
        self.in_flight = 0
        self._clock = clock
        self._outbox = outbox
        self._forget = self._lost  # made once, not for each connection
        self._closed = False
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []  # the warmest last
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()

    @property
    def idle(self) -> int:
        """Connections that wait for a call."""
        return len(self._idle)

    @property
    def connected(self) -> int:
        """Connections that are open, idle or not."""
        return len(self._connections)

    def pop(self) -> Connection | None:
        """A place with the warmest idle connection, or None when there is no such connection."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                self.in_flight += 1
                return connection
        return None

    async def open(self) -> Connection:
        """A place with a new connection, or with one that came back while this waited.

        Raises UpstreamUnavailable: `pool_timeout` when no place comes free within `connect_s`, and
        whatever `connect` raises.
        """
        if self.in_flight < self.upstream.connections_max:
            self.in_flight += 1
        else:
            connection = await self._in_line()
            if connection is not None:
                return connection
        return await self.reopen()

    async def reopen(self) -> Connection:
        """A new connection, never a pooled one, in a place that the caller holds and loses on failure."""
        try:
            connection = await connect(self.origin, self.upstream.timeouts.connect_s, self._new)
        except BaseException:
            self.release(None)
            raise
        if connection.usable():
            self._connections.add(connection)
        return connection

    def release(self, connection: Connection | None) -> None:
        """Give a place back, with the connection in it that may serve on, or empty."""
        waiters = self._waiters
        while waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)  # the place goes with it
                return
        self.in_flight -= 1
        if connection is None:
            return
        if self._closed:
            connection.close()
            return
        connection.idle_since_s = self._clock()
        self._idle.append(connection)

    def close_idle(self, before_s: float) -> None:
        """Close what has been idle since before that moment."""
        while self._idle and self._idle[0].idle_since_s <= before_s:
            self._idle.pop(0).close()

    def close(self) -> list[asyncio.Future[None]]:
        """Close what is idle, now, and what is in use, when it comes back.

        Returns what to await so that no closed socket is left to a closed loop.
        """
        self._closed = True
        self.close_idle(float("inf"))
        return [connection.lost() for connection in self._connections if not connection.usable()]

    async def _in_line(self) -> Connection | None:
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self.upstream.timeouts.connect_s):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                self.release(waiter.result())  # it came in the moment we gave up
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            if isinstance(error, TimeoutError):
                raise UpstreamUnavailable(kind="pool_timeout") from error
            raise

    def _new(self) -> Connection:
        return Connection(self._clock, self._forget, self._outbox)

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
