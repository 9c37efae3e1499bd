"""The instruments of a running proxy: what `/metrics` and `top` read, from its parts."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from functools import cache

from tokenhub_proxy import __version__
from tokenhub_proxy.keys import Scope
from tokenhub_proxy.ledger.sqlite import SqliteLedger
from tokenhub_proxy.metrics import FAMILIES, Histogram, head, histogram, process, sample
from tokenhub_proxy.metrics.counters import Counters
from tokenhub_proxy.prices import format_usd
from tokenhub_proxy.relay import Relay


class Instruments:
    """The counters of finished exchanges, and beside them what is so just now."""

    def __init__(
        self,
        relay: Relay,
        ledger: SqliteLedger,
        counters: Counters,
        started_at: float,
        traced: Mapping[str, int] | None,
    ) -> None:
        """`traced` counts what came of telling of calls; None where that is not done."""
        self._relay = relay
        self._ledger = ledger
        self.counters = counters
        self.started_at = started_at
        self._traced = traced
        self.config_current = True  # False after a reload that was refused
        self.lag = Histogram(FAMILIES["tokenhub_loop_lag_seconds"].buckets)
        self.lag_s = 0.0  # at the last beat
        self._commits = Histogram(FAMILIES["tokenhub_ledger_commit_seconds"].buckets)
        self._changes = 0
        ledger.watch_commits(self._committed)

    def late(self, late_s: float) -> None:
        """The event loop was so late at its last beat."""
        self.lag_s = late_s
        self.lag.observe(late_s)

    def _committed(self, took_s: float, changes: int) -> None:
        self._commits.observe(took_s)
        self._changes += changes

    def render(self) -> Iterator[str]:
        """The text format of Prometheus, in pieces that each take about a millisecond at most."""
        yield from self.counters.render()
        yield self._upstreams()
        yield "".join(self._gauges())
        for name, found in (
            ("tokenhub_ledger_commit_seconds", self._commits),
            ("tokenhub_loop_lag_seconds", self.lag),
        ):
            yield head(name) + "".join(histogram(name, found))
        if self._traced is not None:
            name = "tokenhub_traced_requests_total"
            told = sorted(self._traced.items())
            yield head(name) + "".join(sample(name, count, outcome) for outcome, count in told)
        name = "tokenhub_build_info"
        yield head(name) + sample(name, 1, __version__, python())
        yield "".join(head(name) + sample(name, value) for name, value in process.figures())
        name = "process_start_time_seconds"
        yield head(name) + sample(name, self.started_at)

    def _upstreams(self) -> str:
        """Breakers and credentials of all that the config names."""
        health, now_s = self._relay.health, self._relay.monotonic()
        routes = self._relay.serving.routes.visible(Scope()).values()
        targets = sorted({(each.upstream.name, each.model) for route in routes for each in route.targets})
        open_targets, cooling = health.states(now_s), health.cooling(now_s)
        name = "tokenhub_breaker_open"
        text = head(name) + "".join(sample(name, int(each in open_targets), *each) for each in targets)
        name = "tokenhub_credentials_cooling"
        upstreams = sorted({upstream for upstream, _ in targets})
        return text + head(name) + "".join(sample(name, cooling[each], each) for each in upstreams)

    def _gauges(self) -> Iterator[str]:
        relay, ledger = self._relay, self._ledger
        holds_open, held, unsettled = ledger.standing()
        found = {
            "tokenhub_in_flight": len(relay.in_flight),
            "tokenhub_streams": sum(each.first_byte_s is not None for each in relay.in_flight),
            "tokenhub_holds_open": holds_open,
            "tokenhub_held_usd": format_usd(held),
            "tokenhub_unsettled": unsettled,
            "tokenhub_ledger_writable": int(ledger.unavailable is None),
            "tokenhub_ledger_changes_total": self._changes,
            "tokenhub_config_current": int(self.config_current),
            "tokenhub_draining": int(relay.leaving or relay.draining),
        }
        for name, value in found.items():
            yield head(name) + sample(name, value)


@cache
def python() -> str:
    """The version of Python that runs here."""
    return platform.python_version()
