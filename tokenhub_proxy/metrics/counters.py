"""Counters fed with finished exchanges: a few additions each, and the text only when it is asked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.metrics import FAMILIES, Histogram, head, histogram, sample
from tokenhub_proxy.prices import format_usd

# Labels are the config's own names, never a client's; but a process may see many configs. Of so many
# models at upstreams each is told by name, what comes later is told together.
PLACES_MAX = 500
# An upstream has this many outcomes of its own at most: it chooses the status, we name the fault.
OUTCOMES_MAX = 32
OTHER = "other"
# As many models at upstreams are written at once: the event loop waits for it.
PLACES_AT_ONCE = 10

_OUTCOME = re.compile(r"[1-5][0-9]{2}|[a-z_]{1,32}")
_FIRST_BYTE, _DURATION = "tokenhub_first_byte_seconds", "tokenhub_request_duration_seconds"
_CLASSES = ("input", "cached", "cache_write", "output")


class Place:
    """What one model at one upstream has done. Amounts are nanodollars."""

    __slots__ = (
        "cache_write", "cached", "duration", "endings", "fallbacks", "first_byte", "input", "output",
        "retries", "spend", "writeoff",
    )  # fmt: skip

    def __init__(self) -> None:
        # By status, code, billing. (A plain dict, for adding to a Counter takes twice as long.)
        self.endings: dict[tuple[int, str, str], int] = {}
        self.input = self.cached = self.cache_write = self.output = 0
        self.spend = self.writeoff = 0
        self.retries = self.fallbacks = 0
        self.first_byte = Histogram(FAMILIES[_FIRST_BYTE].buckets)
        self.duration = Histogram(FAMILIES[_DURATION].buckets)


class Counters:
    """Observes exchanges. Every label has a bound: see PLACES_MAX and OUTCOMES_MAX."""

    def __init__(self) -> None:
        self.places: dict[tuple[str, str], Place] = {}
        self.attempts: dict[str, int] = {}  # by "upstream:outcome"

    def __call__(self, exchange: Exchange) -> None:
        hold, error, usage = exchange.hold, exchange.error, exchange.usage
        # Only configured models become labels: a hold is made once there is a route.
        where = (hold.model if hold is not None else "", exchange.upstream)
        place = self.places.get(where) or self._place(where)
        code = "client_gone" if exchange.gone else error.code if error is not None else ""
        ending, endings = (exchange.told_status, code, exchange.billing), place.endings
        endings[ending] = endings.get(ending, 0) + 1
        place.duration.observe(exchange.ended_s - exchange.started_s)
        if hold is None:
            return
        if exchange.first_byte_s is not None and hold.stream:
            place.first_byte.observe(exchange.first_byte_s - exchange.started_s)
        place.input += usage.input
        place.output += usage.output
        if usage.cached or usage.cache_write:
            place.cached += usage.cached
            place.cache_write += usage.cache_write
        cost = exchange.cost
        if cost:
            charge = exchange.charge
            place.spend += charge
            place.writeoff += cost - charge
        attempts, counted = exchange.attempts, self.attempts
        for attempt in attempts:
            if attempt in counted:
                counted[attempt] += 1
            else:
                self._attempted(attempt)
        if len(attempts) > 1:
            place.retries += len(attempts) - 1
            place.fallbacks += attempts[0].rpartition(":")[0] != exchange.upstream

    def _place(self, where: tuple[str, str]) -> Place:
        if len(self.places) >= PLACES_MAX:
            where = (OTHER, OTHER)
        found = self.places.get(where)
        if found is None:
            found = self.places[where] = Place()
        return found

    def _attempted(self, attempt: str) -> None:
        """Count an outcome that is new here, under a name that can't be a client's invention."""
        upstream, _, outcome = attempt.rpartition(":")
        name = f"{upstream}:{outcome if _OUTCOME.fullmatch(outcome) else 'refused'}"
        if name not in self.attempts:
            known = sum(each.rpartition(":")[0] == upstream for each in self.attempts)
            if known >= OUTCOMES_MAX:
                name = f"{upstream}:{OTHER}"
            elif len(self.attempts) >= PLACES_MAX:
                name = f"{OTHER}:{OTHER}"
        self.attempts[name] = self.attempts.get(name, 0) + 1

    # --- what is told

    def render(self) -> Iterator[str]:
        """The text, in pieces of about a millisecond; each series is of one moment."""
        places = sorted(self.places.items())
        for part in (self._endings, self._tokens, self._money, self._retries):
            yield from part(places)
        for name in (_FIRST_BYTE, _DURATION):
            yield head(name)
            for start in range(0, len(places), PLACES_AT_ONCE):
                yield "".join(
                    line
                    for where, place in places[start : start + PLACES_AT_ONCE]
                    for line in histogram(
                        name, place.first_byte if name is _FIRST_BYTE else place.duration, *where
                    )
                )
        name = "tokenhub_upstream_attempts_total"
        found = ((each.rpartition(":"), count) for each, count in sorted(self.attempts.items()))
        yield head(name) + "".join(
            sample(name, count, upstream, outcome) for (upstream, _, outcome), count in found
        )

    def _endings(self, places: list[tuple[tuple[str, str], Place]]) -> Iterator[str]:
        requests, billing = "tokenhub_requests_total", "tokenhub_billing_total"
        yield head(requests)
        for where, place in places:
            counted: Counter[tuple[int, str]] = Counter()
            for (status, code, _), count in place.endings.items():
                counted[status, code] += count
            yield "".join(
                sample(requests, count, *where, str(status), code)
                for (status, code), count in sorted(counted.items())
            )
        yield head(billing)
        for where, place in places:
            paid: Counter[str] = Counter()
            for (_, _, how), count in place.endings.items():
                paid[how] += count
            yield "".join(sample(billing, count, *where, how) for how, count in sorted(paid.items()))

    def _tokens(self, places: list[tuple[tuple[str, str], Place]]) -> Iterator[str]:
        name = "tokenhub_tokens_total"
        yield head(name)
        for where, place in places:
            counts = (place.input, place.cached, place.cache_write, place.output)
            yield "".join(
                sample(name, count, *where, kind) for kind, count in zip(_CLASSES, counts, strict=True)
            )

    def _money(self, places: list[tuple[tuple[str, str], Place]]) -> Iterator[str]:
        for name in ("tokenhub_spend_usd_total", "tokenhub_writeoff_usd_total"):
            yield head(name)
            for where, place in places:
                nanos = place.spend if name == "tokenhub_spend_usd_total" else place.writeoff
                yield sample(name, format_usd(nanos), *where)

    def _retries(self, places: list[tuple[tuple[str, str], Place]]) -> Iterator[str]:
        for name in ("tokenhub_retries_total", "tokenhub_fallbacks_total"):
            yield head(name)
            for where, place in places:
                count = place.retries if name == "tokenhub_retries_total" else place.fallbacks
                yield sample(name, count, *where)
