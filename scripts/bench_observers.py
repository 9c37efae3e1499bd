"""What being seen costs: nanoseconds of CPU per request of each observer, and how long a scrape takes.

.venv/bin/python scripts/bench_observers.py
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tests.test_observers import KEY, served
from tokenhub_proxy.ledger import Ending, Hold
from tokenhub_proxy.metrics.counters import PLACES_MAX, Counters
from tokenhub_proxy.observers import JsonLog, TextLog, trouble

REQUESTS = 20_000


def hold(model: str) -> Hold:
    return Hold("req_1", KEY, model, 5000, 1000.0, id=1, ending=Ending("settled", 1002.0), stream=True)


def cpu_ns(observe: Callable[[object], object]) -> float:
    """CPU nanoseconds of one call, the best of five rounds."""
    exchange, took = served(hold=hold("m")), []
    for _ in range(5):
        begun = time.thread_time_ns()
        for _ in range(REQUESTS):
            observe(exchange)
        took.append((time.thread_time_ns() - begun) / REQUESTS)
    return min(took)


def scrape(places: int) -> tuple[float, float, int]:
    """Milliseconds of CPU in all and of the longest piece, and the bytes."""
    counters = Counters()
    for number in range(places):
        counters(served(hold=hold(f"model-{number}"), upstream="upstream"))
    pieces, took, length = counters.render(), [], 0
    while True:
        begun = time.thread_time_ns()
        piece = next(pieces, None)
        took.append((time.thread_time_ns() - begun) / 1e6)
        if piece is None:
            return sum(took), max(took), length
        length += len(piece)


def main() -> None:
    print(f"counters    {cpu_ns(Counters()):7.0f} ns a request")
    print(f"trouble     {cpu_ns(trouble):7.0f} ns a request")
    print(f"json log    {cpu_ns(JsonLog(io.StringIO())):7.0f} ns a request")
    print(f"text log    {cpu_ns(TextLog(io.StringIO())):7.0f} ns a request")
    for places in (10, 100, PLACES_MAX):
        whole, longest, length = scrape(places)
        print(f"scrape of {places:3} models: {whole:.1f} ms, {longest:.2f} ms at once, {length / 1e3:.0f} KB")


if __name__ == "__main__":
    main()
