"""One timer for all answers under way: upstreams that only ping are cut, silent streams get a comment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tokenhub_proxy import looks, sse
from tokenhub_proxy.dialects import Reply
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.wire import Client, Incoming

# How often answers are looked at: a near deadline is kept to within this, a far one to within eight
# times as much. A chunk costs nothing for it.
LOOK_S = 0.5


class Watch:
    """Compares each answer with what it was at the last look. Belongs to the event loop of its first one."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._watched: dict[Exchange, _Watched] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._begun = 0  # how many there were
        self._turn = 0

    def begin(self, exchange: Exchange, incoming: Incoming, reply: Reply, progress_s: float) -> None:
        """Cut this answer when nothing but comments and pings has come for `progress_s`.

        It takes the place of another target's answer in the same exchange.
        """
        self._begun += 1
        turn = looks.turn(self._begun, progress_s)
        self._watched[exchange] = _Watched(incoming, reply, progress_s, self._monotonic(), turn)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def follow(self, exchange: Exchange, client: Client, keep_alive_s: float | None) -> None:
        """The answer goes to this client now, which is to hear something every `keep_alive_s`.

        One that had come whole was not begun, and is not waited for.
        """
        watched = self._watched.get(exchange)
        if watched is None:
            return
        watched.client = client
        watched.keep_alive_s = keep_alive_s
        watched.spoke_at_s = self._monotonic()
        if keep_alive_s is not None and keep_alive_s < looks.FAR_S:
            watched.turn = looks.ALWAYS

    def end(self, exchange: Exchange) -> None:
        """Nothing more is said or cut. Without an answer there is nothing to do."""
        self._watched.pop(exchange, None)

    def progress(self, exchange: Exchange) -> tuple[int, int]:
        """Bytes that its client was written so far, and output tokens, counted or estimated."""
        watched = self._watched.get(exchange)
        return (0, 0) if watched is None else watched.progress()

    def _look(self) -> None:
        now_s = self._monotonic()
        self._turn = turn = (self._turn + 1) % looks.TURNS
        for watched in tuple(self._watched.values()):
            if watched.turn == turn or watched.turn == looks.ALWAYS:
                watched.look(now_s)
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look) if self._watched else None


class _Watched:
    """One answer, and what it was at the last look."""

    __slots__ = (
        "_bytes_out", "_incoming", "_progress", "_progress_s", "_progressed_at_s", "_reply", "client",
        "keep_alive_s", "spoke_at_s", "turn",
    )  # fmt: skip

    def __init__(self, incoming: Incoming, reply: Reply, progress_s: float, now_s: float, turn: int) -> None:
        self.turn = turn
        self._incoming = incoming
        self._reply = reply
        self._progress_s = progress_s
        self._progressed_at_s = self.spoke_at_s = now_s
        self.client: Client | None = None
        self.keep_alive_s: float | None = None
        self._progress = 0
        self._bytes_out = 0

    def progress(self) -> tuple[int, int]:
        return self.client.bytes_out if self.client is not None else 0, self._reply.usage.output

    def look(self, now_s: float) -> None:
        client, reply = self.client, self._reply
        if client is not None and client.paused:
            # The upstream is not being read: its silence is ours.
            self._progressed_at_s = self.spoke_at_s = now_s
            return
        progress = reply.progress
        if progress != self._progress or reply.done:
            self._progress, self._progressed_at_s = progress, now_s
        elif now_s - self._progressed_at_s > self._progress_s:
            self._incoming.cut(UpstreamUnavailable(kind="no_progress", executed=True))
            return
        if client is not None and self.keep_alive_s is not None:
            self._keep_alive(client, self.keep_alive_s, now_s)

    def _keep_alive(self, client: Client, keep_alive_s: float, now_s: float) -> None:
        """Say a comment to a client that has heard nothing, if it stands between two events."""
        if client.bytes_out != self._bytes_out:
            self.spoke_at_s = now_s
        elif now_s - self.spoke_at_s >= keep_alive_s and self._reply.between_events:
            client.write(sse.KEEP_ALIVE)
            self.spoke_at_s = now_s
        self._bytes_out = client.bytes_out
