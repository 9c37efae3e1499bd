"""Request ids: the names of calls in answers, logs and books."""

from __future__ import annotations

from collections.abc import Callable

# What makes a request's id its own besides the time; and for how many ids it is drawn at once.
RANDOM_BYTES = 10
RANDOM_AHEAD = 256


class RequestIds:
    """Makes request ids. They begin with the time, so that the books grow at one end."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        """`random_bytes(count)` gives so many."""
        self._random_bytes = random_bytes
        self._ready: list[str] = []
        self._millisecond, self._begin = -1, ""  # of the last id

    def __call__(self, now: float) -> str:
        """A new id, for a request that came at this time (seconds since 1970)."""
        if not self._ready:
            # Asking the system costs more than all else here, for one id as for many.
            digits = self._random_bytes(RANDOM_BYTES * RANDOM_AHEAD).hex()
            self._ready = [
                digits[at : at + 2 * RANDOM_BYTES] for at in range(0, len(digits), 2 * RANDOM_BYTES)
            ]
        millisecond = int(now * 1000)
        if millisecond != self._millisecond:
            self._millisecond, self._begin = millisecond, f"req_{millisecond:012x}"
        return self._begin + self._ready.pop()
