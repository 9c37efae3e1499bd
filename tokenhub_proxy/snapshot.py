"""What goes on in a running proxy right now, as JSON: the verb `top`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from tokenhub_proxy import __version__
from tokenhub_proxy.errors import LedgerUnavailable
from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.instruments import Instruments
from tokenhub_proxy.keys import Scope
from tokenhub_proxy.ledger.sqlite import SqliteLedger
from tokenhub_proxy.metrics import process
from tokenhub_proxy.prices import format_usd
from tokenhub_proxy.relay import Relay

# A screen shows fewer. The oldest are told: those that hang are among them.
FLYING_MAX = 500
DAY_S = 86_400
# What the books say of today is asked for again after so long; several may be looking.
TODAY_S = 5.0


class Snapshots:
    """Takes snapshots. Totals are since the start: who asks twice knows the pace."""

    def __init__(self, relay: Relay, ledger: SqliteLedger, instruments: Instruments, base_url: str) -> None:
        self._relay = relay
        self._ledger = ledger
        self._instruments = instruments
        self._base_url = base_url
        self._today = 0
        self._today_until_s = 0.0

    async def take(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """All figures of this moment; amounts are decimal texts in USD, times seconds."""
        relay, ledger = self._relay, self._ledger
        today = await self._spent_today()
        now_s = relay.monotonic()
        holds_open, held, unsettled = ledger.standing()
        return {
            "version": __version__,
            "base_url": self._base_url,
            "at": relay.clock(),
            "steady_s": now_s,
            "started_at": self._instruments.started_at,
            "draining": relay.leaving or relay.draining,
            "ledger": ledger.unavailable,
            "loop_lag_s": self._instruments.lag_s,
            "process": dict(process.figures()),
            "holds": {"open": holds_open, "held_usd": format_usd(held), "unsettled": unsettled},
            "spend_today_usd": format_usd(today),
            **self._totals(),
            "upstreams": self._upstreams(now_s),
            "in_flight": len(relay.in_flight),
            "answering": sum(each.first_byte_s is not None for each in relay.in_flight),
            "flying": list(self._flying(now_s)),
        }

    async def _spent_today(self) -> int:
        """Nanodollars since midnight, UTC, over all starts."""
        now_s = self._relay.monotonic()
        if now_s >= self._today_until_s:
            self._today_until_s = now_s + TODAY_S
            clock = self._relay.clock()
            with suppress(LedgerUnavailable):  # the figure of before stays; `ledger` says what is wrong
                rows = await self._ledger.usage("day", clock - clock % DAY_S)
                self._today = sum(row.cost for row in rows)
        return self._today

    def _totals(self) -> dict[str, Any]:
        """Of all models at upstreams together."""
        errors: Counter[str] = Counter()
        requests = failures = output = tokens_in = spend = 0
        first_byte: list[int] = []
        for place in self._instruments.counters.places.values():
            for (status, code, _), count in place.endings.items():
                requests += count
                failures += count if status >= 500 else 0
                if code:
                    errors[code] += count
            tokens_in += place.input + place.cached + place.cache_write
            output += place.output
            spend += place.spend
            counts = place.first_byte.counts
            first_byte = (
                [sum(both) for both in zip(first_byte, counts, strict=True)] if first_byte else counts
            )
        return {
            "requests": requests,
            "failures": failures,
            "tokens": {"input": tokens_in, "output": output},
            "spend_usd": format_usd(spend),
            "errors": dict(errors.most_common()),
            "first_byte_counts": first_byte,
        }

    def _upstreams(self, now_s: float) -> list[dict[str, Any]]:
        health, attempts = self._relay.health, self._instruments.counters.attempts
        routes = self._relay.serving.routes.visible(Scope()).values()
        found = {target.upstream.name: target.upstream for route in routes for target in route.targets}
        asked, failed = Counter[str](), Counter[str]()
        for attempt, count in attempts.items():
            name, _, outcome = attempt.rpartition(":")
            if outcome != "breaker":  # then it was not asked
                asked[name] += count
                failed[name] += 0 if outcome.startswith("2") else count
        flying = Counter(each.upstream for each in self._relay.in_flight if each.upstream)
        open_models, cooling = health.states(now_s), health.cooling(now_s)
        return [
            {
                "name": name,
                "asked": asked[name],
                "failed": failed[name],
                "in_flight": flying[name],
                "open": {model: wait_s for (place, model), wait_s in open_models.items() if place == name},
                "cooling": cooling[name],
                "credentials": len(upstream.credentials),
            }
            for name, upstream in found.items()
        ]

    def _flying(self, now_s: float) -> Iterator[dict[str, Any]]:
        # They were put in as they came: the oldest are first.
        for exchange in list(self._relay.in_flight)[:FLYING_MAX]:
            yield self._flight(exchange, now_s)

    def _flight(self, exchange: Exchange, now_s: float) -> dict[str, Any]:
        length, tokens = self._relay.watch.progress(exchange)
        first = exchange.first_byte_s
        return {
            "id": exchange.id,
            "key": exchange.key.name if exchange.key is not None else "",
            "model": exchange.call.model if exchange.call is not None else "",
            "upstream": exchange.upstream,
            "phase": exchange.phase,
            "age_s": now_s - exchange.started_s,
            "first_byte_s": None if first is None else first - exchange.started_s,
            "bytes": length,
            "output_tokens": tokens,
        }
