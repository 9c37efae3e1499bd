"""A heartbeat that tells the operator what no request can: a clock that jumped, a loop that is late."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

BEAT_S = 1.0
# Time servers correct less than this without a jump. Limits and deadlines follow a clock that has
# none; quota windows, receipts and expiries follow the one that jumped.
JUMP_S = 2.0
# Streams that are relayed this much later than they came are late for people too.
LATE_S = 0.5


class Pulse:
    """Compares, at every beat, both clocks with what they were at the last one."""

    def __init__(
        self,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        late: Callable[[float], None] = lambda late_s: None,
    ) -> None:
        """`late` is told at every beat how many seconds late the loop is."""
        self._clock = clock
        self._monotonic = monotonic
        self._wall_s = clock()
        self._steady_s = monotonic()
        self._late = False
        self._tell = late

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await asyncio.sleep(BEAT_S)
            self.beat()

    def beat(self) -> None:
        """One comparison, due BEAT_S after the last."""
        wall_s, steady_s = self._clock(), self._monotonic()
        passed_s, jump_s = steady_s - self._steady_s, (wall_s - self._wall_s) - (steady_s - self._steady_s)
        self._wall_s, self._steady_s = wall_s, steady_s
        if abs(jump_s) >= JUMP_S:
            log.warning("clock_jump by_s=%+.1f", jump_s)
        self._tell(max(0.0, passed_s - BEAT_S))
        late = passed_s - BEAT_S >= LATE_S
        if late and not self._late:  # once for a row of late beats
            log.warning("overload loop_lag_ms=%d", round((passed_s - BEAT_S) * 1000))
        self._late = late
