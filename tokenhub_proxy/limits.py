"""Requests, tokens and concurrency of each key, counted over a sliding minute. Time is an argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from math import ceil
from types import TracebackType
from typing import Final

from tokenhub_proxy.errors import RateLimited
from tokenhub_proxy.keys import Scope

WINDOW_S = 60.0
# Amounts are kept per tenth of a second: 600 places a window, however high the limit. A place is
# dropped only when all of it has left the window, so no window ever admits more than its limit.
PLACES_PER_S: Final = 10
PLACE_MS: Final = 1000 // PLACES_PER_S
_WINDOW_PLACES: Final = int(WINDOW_S * PLACES_PER_S) + 1
# A place that has left every window, whatever the clock began with.
NEVER: Final = -2 * _WINDOW_PLACES
# Added to a wait, so that a client that comes exactly then isn't too early by a rounding.
WAIT_MARGIN_S = 0.001
# Meters of idle keys are swept away when there are so many, then at twice what a sweep left.
METERS_MIN = 1000
# A client over its concurrency limit may try again when one of its calls has ended: soon.
CONCURRENT_RETRY_S = 1.0


class Window:
    """How much was admitted in the last minute."""

    __slots__ = ("_last", "_places", "total")

    def __init__(self) -> None:
        self._places: deque[list[int]] = deque()  # [place, amount], oldest first
        self._last = [NEVER, 0]  # the newest of them, forgotten or not
        self.total = 0

    def expire(self, now_s: float) -> None:
        """Forget what has left the window."""
        places = self._places
        if not places:
            return
        oldest = int(now_s * PLACES_PER_S) - _WINDOW_PLACES
        while places and places[0][0] <= oldest:
            self.total -= places.popleft()[1]

    def add(self, amount: int, now_s: float) -> list[int]:
        """Count an amount. What is returned can be given to `amend`."""
        return self.count(amount, int(now_s * PLACES_PER_S))

    def count(self, amount: int, place: int) -> list[int]:
        """`add`, where the place is known."""
        last = self._last
        if last[0] < place:
            last = self._last = [place, 0]
            self._places.append(last)
        last[1] += amount
        self.total += amount
        return last

    def amend(self, place: list[int], change: int, now_s: float) -> None:
        """Correct what was counted before: less at its own time, more at this one."""
        if change > 0:
            self.add(change, now_s)
        elif self._places and self._places[0][0] <= place[0]:
            place[1] += change
            self.total += change

    def wait_s(self, amount: int, limit: int, now_s: float) -> float:
        """Seconds until `amount` more fits under the limit; 0 when it fits now."""
        over = self.total + amount - limit
        if over <= 0:
            return 0.0
        for place, counted in self._places:
            over -= counted
            if over <= 0:
                leaves_s = (place + _WINDOW_PLACES) / PLACES_PER_S
                return max(0.0, leaves_s - now_s) + WAIT_MARGIN_S
        return WINDOW_S

    def newest(self) -> int:
        """The place that was last counted in: when it has left the window, nothing counts any more."""
        return self._last[0]


class Meter:
    """The counters of one key. They outlive a change of its limits."""

    __slots__ = ("concurrent", "place", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = Window()
        self.tokens = Window()
        self.concurrent = 0
        self.place = NEVER  # of the last look

    def expire(self, now_s: float, place: int) -> None:
        """Forget what has left the windows: something can only where a new place has begun."""
        if place != self.place:
            self.place = place
            self.requests.expire(now_s)
            self.tokens.expire(now_s)

    @property
    def idle(self) -> bool:
        """True when a new meter would say the same."""
        return not (self.concurrent or self.requests.total or self.tokens.total)


class Admission:
    """One admitted call: `with` it, and tell `used` when its tokens are known.

    A call that ends without telling took none: it was refused before its upstream.
    """

    __slots__ = ("_counted", "_meter", "_place", "_scope", "now_s")

    def __init__(
        self, meter: Meter, scope: Scope, counted: int, place: list[int] | None, now_s: float
    ) -> None:
        self._meter = meter
        self._scope = scope
        self._counted = counted
        self._place = place
        self.now_s = now_s

    def used(self, tokens: int, now_s: float) -> None:
        """Replace the estimate that was counted by what the call took."""
        place = self._place
        if place is not None:
            self._place = None
            self._meter.tokens.amend(place, tokens - self._counted, now_s)

    def headers(self) -> dict[str, str]:
        """The `x-ratelimit-*` headers of the answer; none where the key has no limit."""
        return _headers(self._meter, self._scope, self.now_s)

    def lines(self) -> list[str]:
        """The same for a head: texts of three lines each."""
        return _lines(self._meter, self._scope, self.now_s)

    def __enter__(self) -> Admission:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._meter.concurrent -= 1
        if self._place is not None:
            self.used(0, self.now_s)


class Limits:
    """The meters of all keys."""

    def __init__(self) -> None:
        self._meters: dict[str, Meter] = {}  # by key id
        self._sweep_at = METERS_MIN

    def _meter(self, key_id: str, now_s: float, place: int) -> Meter:
        meter = self._meters.get(key_id)
        if meter is None:
            if len(self._meters) >= self._sweep_at:
                self._sweep(now_s, place)
            meter = self._meters[key_id] = Meter()
        if place != meter.place:
            meter.expire(now_s, place)
        return meter

    def _sweep(self, now_s: float, place: int) -> None:
        for meter in self._meters.values():
            meter.expire(now_s, place)
        self._meters = {key_id: meter for key_id, meter in self._meters.items() if not meter.idle}
        self._sweep_at = max(METERS_MIN, 2 * len(self._meters))

    def admit(self, key_id: str, scope: Scope, tokens: int, now_s: float) -> Admission:
        """Count one call of about so many tokens, or raise RateLimited and count nothing.

        `now_s` is a clock that never goes back. A call larger than the whole limit of tokens is
        counted as the limit: it is admitted alone rather than never.
        """
        now_place = int(now_s * PLACES_PER_S)
        known = self._meters.get(key_id)
        meter = known if known and known.place == now_place else self._meter(key_id, now_s, now_place)
        requests_max, tokens_max = scope.requests_per_minute, scope.tokens_per_minute
        counted = 0 if tokens_max is None else tokens if tokens < tokens_max else tokens_max
        if (
            (requests_max is not None and meter.requests.total >= requests_max)
            or (tokens_max is not None and meter.tokens.total + counted > tokens_max)
            or (scope.concurrent is not None and meter.concurrent >= scope.concurrent)
        ):
            raise _refusal(meter, scope, counted, now_s)
        if requests_max is not None:
            meter.requests.count(1, now_place)
        place = None if tokens_max is None else meter.tokens.count(counted, now_place)
        meter.concurrent += 1
        return Admission(meter, scope, counted, place, now_s)

    def standing(self, key_id: str, scope: Scope, now_s: float) -> dict[str, str]:
        """Where a key stands now, as the `x-ratelimit-*` headers tell it; nothing is counted."""
        meter = self._meter(key_id, now_s, int(now_s * PLACES_PER_S))
        return _headers(meter, scope, now_s)


class KeyRateLimited(RateLimited):
    """429, with the headers that tell where the key stands."""

    def __init__(self, message: str, retry_after_s: float, standing: Mapping[str, str], reason: str) -> None:
        super().__init__(message, retry_after_s=retry_after_s, reason=reason)
        self._standing = standing

    def headers(self) -> dict[str, str]:
        return {**super().headers(), **self._standing}


def _refusal(meter: Meter, scope: Scope, counted: int, now_s: float) -> KeyRateLimited:
    """What is told of a call that is over a limit: the longest wait of all."""
    waits = []
    for window, amount, limit, unit in (
        (meter.requests, 1, scope.requests_per_minute, "requests"),
        (meter.tokens, counted, scope.tokens_per_minute, "tokens"),
    ):
        if limit is not None:
            waits.append((window.wait_s(amount, limit, now_s), limit, unit))
    wait_s, limit, unit = max(waits, default=(0.0, 0, ""))
    if wait_s > 0:
        message = f"This key may use {limit} {unit} per minute. Try again in {_duration(wait_s)}."
    else:
        wait_s, unit = CONCURRENT_RETRY_S, "concurrent"
        message = f"This key may make {scope.concurrent} calls at a time."
    return KeyRateLimited(message, wait_s, _headers(meter, scope, now_s), unit)


def _lines(meter: Meter, scope: Scope, now_s: float) -> list[str]:
    """What the key may still do, three lines of a head in each text.

    Every call is told, so that both halves are written out: a text costs the same for one line as for three.
    """
    requests_max, tokens_max = scope.requests_per_minute, scope.tokens_per_minute
    newest, reset = NEVER, "0ms"
    found = []
    if requests_max is not None:
        window = meter.requests
        left, newest = requests_max - window.total, window.newest()
        reset = _reset(newest, now_s)
        found.append(
            f"x-ratelimit-limit-requests: {requests_max}\r\n"
            f"x-ratelimit-remaining-requests: {left if left > 0 else 0}\r\n"
            f"x-ratelimit-reset-requests: {reset}"
        )
    if tokens_max is not None:
        window = meter.tokens
        left = tokens_max - window.total
        if window.newest() != newest:
            reset = _reset(window.newest(), now_s)
        found.append(
            f"x-ratelimit-limit-tokens: {tokens_max}\r\n"
            f"x-ratelimit-remaining-tokens: {left if left > 0 else 0}\r\n"
            f"x-ratelimit-reset-tokens: {reset}"
        )
    return found


def _headers(meter: Meter, scope: Scope, now_s: float) -> dict[str, str]:
    pairs = (line.partition(": ") for text in _lines(meter, scope, now_s) for line in text.split("\r\n"))
    return {name: value for name, _, value in pairs}


def _reset(newest: int, now_s: float) -> str:
    """How long until nothing of the last minute counts any more, as OpenAI writes it."""
    left_ms = ceil((newest + _WINDOW_PLACES) * PLACE_MS - now_s * 1000)
    return _written(left_ms) if left_ms > 0 else "0ms"


def _duration(seconds: float) -> str:
    """A duration as OpenAI writes it: `120ms`, `1s`, `6m0s`."""
    return _written(-int(-seconds * 1000 // 1))


@lru_cache(maxsize=1024)  # who is busy is told of the same tenth of a second, again and again
def _written(milliseconds: int) -> str:
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, whole = divmod(-(-milliseconds // 1000), 60)
    return f"{minutes}m{whole}s" if minutes else f"{whole}s"
