"""What being seen costs: nanoseconds of CPU per request of each observer, and how long a scrape takes.

.venv/bin/python scripts/bench_observers.py
"""

from __future__ import annotations

import collections
import io
import os
import random
import sys
import time
from collections.abc import Callable

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tests.test_observers import KEY, served
from tokenhub_proxy.ledger import Ending, Hold
from tokenhub_proxy.metrics.counters import PLACES_MAX, Counters
from tokenhub_proxy.observers import JsonLog, TextLog, trouble
from tokenhub_proxy.tracing import CURRENT, Attempt, Tracer
from tokenhub_proxy.tracing.export import Exporter, spans_of
from tokenhub_proxy.tracing.spans import told

REQUESTS = 20_000


def hold(model: str) -> Hold:
    return Hold("req_1", KEY, model, 5000, 1000.0, id=1, ending=Ending("settled", 1002.0), stream=True)


def cpu_ns(observe: Callable[[object], object], requests: int = REQUESTS) -> float:
    """CPU nanoseconds of one call, the best of five rounds."""
    exchange, took = served(hold=hold("m")), []
    for _ in range(5):
        begun = time.thread_time_ns()
        for _ in range(requests):
            observe(exchange)
        took.append((time.thread_time_ns() - begun) / requests)
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


class Headers:
    """Of a client that is traced itself."""

    def getall(self, name: str, default: object = ()) -> tuple[str]:
        return ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",)


def traces() -> None:
    """What the event loop pays for a traced call, and what the exporter's thread does."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.resources import Resource

    tracer = Tracer(1.0, random.Random().getrandbits)
    begin = cpu_ns(lambda exchange: tracer.begin(Headers()))
    trace = CURRENT.get()
    trace.attempts.append(Attempt(1, "up", "openai", "https://api.openai.com/v1", "m", 50.1, 52.0, 200))
    # Without its thread: the queue alone.
    exporter = Exporter.__new__(Exporter)
    exporter._queue = collections.deque(maxlen=1000)
    queue = cpu_ns(exporter)
    resource = Resource.create({})
    spans = cpu_ns(lambda exchange: encode_spans(list(spans_of(told(exchange, trace), resource))), 2_000)
    print(f"traces      {begin + queue:7.0f} ns a request, and {spans:.0f} ns of the exporter's thread")


def main() -> None:
    print(f"counters    {cpu_ns(Counters()):7.0f} ns a request")
    print(f"trouble     {cpu_ns(trouble):7.0f} ns a request")
    print(f"json log    {cpu_ns(JsonLog(io.StringIO())):7.0f} ns a request")
    print(f"text log    {cpu_ns(TextLog(io.StringIO())):7.0f} ns a request")
    traces()
    for places in (10, 100, PLACES_MAX):
        whole, longest, length = scrape(places)
        print(f"scrape of {places:3} models: {whole:.1f} ms, {longest:.2f} ms at once, {length / 1e3:.0f} KB")


if __name__ == "__main__":
    main()
