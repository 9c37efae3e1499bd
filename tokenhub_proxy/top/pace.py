"""From snapshots one after the other: how much a second, a minute, and how fast answers begin."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from tokenhub_proxy.metrics import FIRST_BYTE_S
from tokenhub_proxy.prices import parse_usd

Snapshot = Mapping[str, Any]

# What is told of a minute looks so far back.
WINDOW_S = 60.0


class Pace:
    """The snapshots of the last minute. Another start of the proxy begins anew."""

    def __init__(self) -> None:
        self._kept: deque[Snapshot] = deque()

    def add(self, snapshot: Snapshot) -> None:
        kept = self._kept
        if kept and kept[-1]["started_at"] != snapshot["started_at"]:
            kept.clear()
        kept.append(snapshot)
        while len(kept) > 2 and snapshot["steady_s"] - kept[1]["steady_s"] >= WINDOW_S:
            kept.popleft()

    @property
    def now(self) -> Snapshot:
        return self._kept[-1]

    @property
    def window_s(self) -> float:
        """How far back the snapshots look."""
        return float(self.now["steady_s"] - self._kept[0]["steady_s"])

    def a_second(self, *path: str) -> float:
        """How much a total grew between the last two snapshots, by the second."""
        if len(self._kept) < 2:
            return 0.0
        before, now = self._kept[-2], self._kept[-1]
        passed_s = max(float(now["steady_s"] - before["steady_s"]), 1e-3)
        return float(_at(now, path) - _at(before, path)) / passed_s

    def nanos_a_minute(self) -> int:
        """Nanodollars that were spent in the last minute, or since we look where that is less."""
        grown = parse_usd(self.now["spend_usd"]) - parse_usd(self._kept[0]["spend_usd"])
        return grown * 60_000 // max(60_000, int(self.window_s * 1000))

    def cpu_share(self) -> float:
        """1.0 is one core."""
        return self.a_second("process", "process_cpu_seconds_total")

    def upstream(self, name: str) -> tuple[float, float]:
        """How often a second an upstream was asked, and failed."""
        if len(self._kept) < 2:
            return 0.0, 0.0
        before, now = ({one["name"]: one for one in each["upstreams"]} for each in list(self._kept)[-2:])
        passed_s = max(self._kept[-1]["steady_s"] - self._kept[-2]["steady_s"], 1e-3)
        earlier = before.get(name, {"asked": 0, "failed": 0})
        asked, failed = (now[name][each] - earlier[each] for each in ("asked", "failed"))
        return asked / passed_s, failed / passed_s

    def errors(self) -> Mapping[str, int]:
        """How often each code was told in the window; the most frequent first."""
        before, now = self._kept[0]["errors"], self.now["errors"]
        grown = {code: count - before.get(code, 0) for code, count in now.items()}
        return {code: count for code, count in sorted(grown.items(), key=lambda one: -one[1]) if count}

    def first_byte_s(self, fraction: float) -> float | None:
        """The time within which this fraction of the window's streams began; None where there were none."""
        before, now = self._kept[0]["first_byte_counts"], self.now["first_byte_counts"]
        earlier = before or [0] * len(now)
        return quantile(FIRST_BYTE_S, [b - a for a, b in zip(earlier, now, strict=True)], fraction)


def quantile(bounds: Sequence[float], counts: Sequence[int], fraction: float) -> float | None:
    """As Prometheus estimates it: by a straight line within the bucket; the last bound beyond it."""
    wanted = fraction * sum(counts)
    if wanted <= 0:
        return None
    below, start = 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if below + count >= wanted:
            return start + (bound - start) * (wanted - below) / count
        below, start = below + count, bound
    return bounds[-1]


def _at(snapshot: Snapshot, path: Sequence[str]) -> Any:
    found: Any = snapshot
    for name in path:
        found = found.get(name, 0)
    return found
