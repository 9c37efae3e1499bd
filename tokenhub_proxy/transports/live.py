"""The transport that speaks HTTP/1.1 to upstreams: pooled connections, deadlines, one careful retry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from tokenhub_proxy import looks
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.outbox import Outbox
from tokenhub_proxy.routes import Upstream
from tokenhub_proxy.transports import rounds
from tokenhub_proxy.transports.http1 import Connection
from tokenhub_proxy.transports.origin import Origin
from tokenhub_proxy.transports.pool import Pool
from tokenhub_proxy.transports.rounds import Rounds
from tokenhub_proxy.wire import NO_HEADERS, Outgoing, Sink

# One timer looks after all calls: a near deadline is kept to within this, a far one to within eight
# times as much.
_SWEEP_S = 0.25
# Many servers drop an idle connection after 60 to 75 s; being first spares a request the retry.
_IDLE_MAX_S = 60.0
# How often idle connections are looked after while no call is in flight.
_IDLE_SWEEP_S = 5.0
# Sockets close within one turn of the loop; this only keeps `aclose` from ever hanging.
_CLOSE_S = 1.0
# The ends of a connection that came before any byte of an answer.
_UNANSWERED = frozenset({"reset_send", "disconnected"})
_NO_NOTES: Final[Mapping[str, object]] = {}


@dataclass(frozen=True, slots=True)
class Connections:
    """How many connections to one upstream are open and idle, and how many calls hold a place."""

    open: int
    idle: int
    in_flight: int


class Live:
    """Implements `wire.Transport`. Belongs to the event loop of its first call.

    Redirects are not followed, cookies not kept, bodies not decompressed, and the environment's
    proxies not used. `progress_s` is kept by the relay's `Watch`: what counts as progress only the
    reader of the events knows.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, via: str | None = None) -> None:
        """`via` is what every request says in its `Via`, so that the proxy knows itself again."""
        self._clock = clock
        self._via = via
        self._pools: dict[str, Pool] = {}  # by the upstream's name
        self._in_flight: set[LiveIncoming] = set()
        self._sent = 0  # how many there were
        self._turn = 0
        self._rounds: Rounds | None = None  # from the first look on that finds many calls
        self._current: Rounds | None = None  # the same, while there are many
        self._shared: Outbox | None = None  # by all connections, from the first call on
        self._timer: asyncio.TimerHandle | None = None
        self._sweeping = False  # the timer is due within _SWEEP_S

    def send(self, outgoing: Outgoing) -> LiveIncoming:
        """`wire.Transport.send`; the kinds of UpstreamUnavailable are listed at `LiveIncoming`."""
        return LiveIncoming(self, outgoing)

    @property
    def statistics(self) -> Mapping[str, Connections]:
        """The connections to each upstream that has been called, by its name."""
        return {
            name: Connections(pool.connected, pool.idle, pool.in_flight) for name, pool in self._pools.items()
        }

    def retain(self, upstreams: Iterable[Upstream]) -> None:
        """After a reload: close the connections to all other upstreams, those in use when they end."""
        kept = {upstream.name for upstream in upstreams}
        for name in self._pools.keys() - kept:
            self._pools.pop(name).close()

    async def aclose(self) -> None:
        """Close what is idle, and wait until it is."""
        if self._timer is not None:
            self._timer.cancel()
            self._sweeping = False
        closing = [lost for pool in self._pools.values() for lost in pool.close()]
        if closing:
            await asyncio.wait(closing, timeout=_CLOSE_S)

    def _pool(self, upstream: Upstream) -> Pool:
        """A pool for this new row; one that a reload moved elsewhere gets another."""
        pool = self._pools.get(upstream.name)
        origin = Origin.of(upstream)
        if pool is None or pool.origin != origin:
            if pool is not None:
                pool.close()
            pool = self._pools[upstream.name] = Pool(upstream, origin, self._clock, self._via, self._outbox())
        pool.upstream = upstream  # its limits and timeouts may be new
        return pool

    def _outbox(self) -> Outbox:
        if self._shared is None:
            self._shared = Outbox(asyncio.get_running_loop().call_soon)
        return self._shared

    def _begin_sweeping(self) -> None:
        self._sweeping = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        now_s = self._clock()
        self._turn = turn = (self._turn + 1) % looks.TURNS
        many = len(self._in_flight) > rounds.CALLS_MAX
        if many and self._rounds is None:
            self._rounds = rounds.rounds(asyncio.get_running_loop())
        self._current = self._rounds if many else None
        for incoming in tuple(self._in_flight):
            if incoming._turn == turn or incoming._turn == looks.ALWAYS:
                incoming._check(now_s)
                incoming._join(self._current)
        idle = 0
        for pool in self._pools.values():
            pool.close_idle(now_s - _IDLE_MAX_S)
            idle += pool.idle
        self._sweeping = bool(self._in_flight)
        self._timer = None
        if self._sweeping or idle:
            delay_s = _SWEEP_S if self._sweeping else _IDLE_SWEEP_S
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._sweep)


class LiveIncoming:
    """Implements `wire.Incoming`; entering sends the request. `retried` tells of a second sending.

    UpstreamUnavailable on entering: `request_head`, `pool_timeout` and the kinds of
    `connect.connect`, nothing having been sent; and `reset_send`, `disconnected`, `reset_read`,
    `short_head`, `ttfb_timeout`, `max_duration`, `headers`, `protocol`, `stale_conn` with `executed`. While
    pumping: `short_body`, `reset_read`, `idle`, `max_duration`, `protocol`, `headers`.
    """

    __slots__ = (
        "_connection",
        "_ends_s",
        "_live",
        "_outgoing",
        "_paused_s",
        "_pool",
        "_sent_s",
        "_started_s",
        "_timeouts",
        "_turn",
        "_waited_s",
        "complete",
        "headers",
        "retried",
        "status",
    )

    def __init__(self, live: Live, outgoing: Outgoing) -> None:
        self._live = live
        self._outgoing: Outgoing | None = outgoing  # until it is answered: a stream may outlast it by an hour
        self._timeouts = timeouts = outgoing.upstream.timeouts
        live._sent += 1
        self._turn = looks.turn(live._sent, timeouts.nearest_s)
        self._connection: Connection | None = None
        self._ends_s: float | None = None
        self._paused_s: float | None = None  # since when the client can't keep up
        self._waited_s = 0.0  # for the client, in all
        self.retried = False
        self.status = 0
        self.headers = NO_HEADERS
        self.complete = False

    async def __aenter__(self) -> LiveIncoming:
        live, outgoing = self._live, self._outgoing
        assert outgoing is not None, "entered once"
        upstream = outgoing.upstream
        pool = live._pools.get(upstream.name)
        if pool is None or pool.upstream is not upstream:
            pool = live._pool(upstream)
        self._pool = pool
        head = pool.heads.of(outgoing)
        self._started_s = self._sent_s = live._clock()
        connection = pool.pop()
        if connection is None:
            connection = await pool.open()
            self._sent_s = live._clock()
        self._connection = connection
        live._in_flight.add(self)
        if not live._sweeping:
            live._begin_sweeping()
        try:
            await connection.begin(head, outgoing.body)
            if not connection.head_done:
                connection = await self._again(connection, head, outgoing.body)
        except BaseException as error:
            self.close(error)
            raise
        self._outgoing = None
        self.status = connection.status
        self.headers, connection.headers = connection.headers, NO_HEADERS
        self.complete = connection.complete
        return self

    def close(self, error: BaseException | None) -> None:
        """`wire.Sending.close`."""
        self._live._in_flight.discard(self)
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection if connection.rest() else None)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    def pump(self, sink: Sink) -> Coroutine[Any, Any, bool]:
        """`wire.Incoming.pump`, within the block only."""
        assert self._connection is not None
        return self._connection.pump(sink, self._live._current)

    @property
    def notes(self) -> Mapping[str, object]:
        """`retried`, and for how long the client kept the upstream waiting."""
        if not (self.retried or self._waited_s or self._paused_s is not None):
            return _NO_NOTES
        found: dict[str, object] = {"retried": 1} if self.retried else {}
        waited_s = self._waited_s
        if self._paused_s is not None:
            waited_s += self._live._clock() - self._paused_s
        if waited_s:
            found["write_stall_ms"] = round(waited_s * 1000)
        return found

    def pause(self) -> None:
        """Read no more for now; the idle deadline waits too. Idempotent, and safe after the end."""
        if self._connection is not None:
            self._connection.pause(True)
            if self._paused_s is None:
                self._paused_s = self._live._clock()

    def resume(self) -> None:
        """Read on. Idempotent, and safe after the end."""
        if self._connection is not None:
            self._connection.pause(False)
        if self._paused_s is not None:
            self._waited_s += self._live._clock() - self._paused_s
            self._paused_s = None

    def linger(self, grace_s: float) -> None:
        """`wire.Incoming.linger`; the sweep looks after it."""
        if self._ends_s is None:
            self._ends_s = self._live._clock() + grace_s
            self._turn = looks.ALWAYS

    def cut(self, error: Exception) -> None:
        """`wire.Incoming.cut`. Closes the connection at once."""
        if self._connection is not None and not self._connection.complete:
            self._connection.cut(error)

    async def _again(self, dead: Connection, head: bytes, body: bytes) -> Connection:
        """Send once more, on a new connection, if the first one was kept and had died.

        Idle connections do that. That the upstream closed it before it read the request is likely,
        but not certain; so this happens once, and a failure now says that it may have been executed.
        """
        failure = dead.failure
        assert isinstance(failure, UpstreamUnavailable)
        if not dead.reused or failure.kind not in _UNANSWERED:
            raise failure
        self.retried = True
        dead.rest()
        self._connection = None
        try:
            self._connection = connection = await self._pool.reopen()
            self._sent_s = self._live._clock()
            await connection.begin(head, body)
            if not connection.head_done:
                assert connection.failure is not None
                raise connection.failure
        except UpstreamUnavailable as error:
            if error.executed and error.kind not in _UNANSWERED:
                raise
            raise UpstreamUnavailable(kind="stale_conn", executed=True, notes={"retried": 1}) from error
        return connection

    def _join(self, rounds: Rounds | None) -> None:
        """Have a stream read in these rounds from this look on, or as it comes."""
        connection = self._connection
        if connection is None:
            return
        if rounds is None:
            connection.leave_rounds()
        elif connection.streaming:
            connection.join_rounds(rounds)

    def _check(self, now_s: float) -> None:
        """Break the exchange off if one of its deadlines has passed."""
        connection = self._connection
        if connection is None or connection.complete or connection.failure is not None:
            return
        timeouts = self._timeouts
        if self._ends_s is not None and now_s >= self._ends_s:
            connection.hold()
        elif now_s - self._started_s > timeouts.total_s:
            connection.fail("max_duration")
        elif not connection.head_done:
            if now_s - self._sent_s > timeouts.first_byte_s:
                connection.fail("ttfb_timeout")
        elif connection.reading and connection.silent_s() > timeouts.idle_s:
            connection.fail("idle")
