"""Exports calls as spans, from a thread of its own: the event loop only puts a record into a queue."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tokenhub_proxy import __version__
from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.tracing import CURRENT
from tokenhub_proxy.tracing.spans import Told, Value, attempt_attributes, request_attributes, told

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

log = logging.getLogger(__name__)

# A collector that is away for some seconds costs nothing; then what is new is dropped, and counted.
QUEUE_MAX = 4096
# Spans are made and encoded in Python: so many calls at once hold up the event loop for a few milliseconds.
BATCH_MAX = 64
# Whoever looks at a trace waits for it this much longer.
PAUSE_S = 1.0
EXPORT_S = 10.0
# At the end of the process, what is left gets so long to be told.
CLOSE_S = 3.0


class Exporter:
    """Observes exchanges; `outcomes` counts them as exported, failed or dropped."""

    def __init__(self, endpoint: str, headers: Sequence[tuple[str, str]]) -> None:
        self.outcomes: Counter[str] = Counter(exported=0, failed=0, dropped=0)
        self._endpoint = endpoint
        self._headers = dict(headers)
        self._queue: deque[Told] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._sender: Any = None
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def __call__(self, exchange: Exchange) -> None:
        trace = CURRENT.get()
        if trace is None:
            return
        exchange.notes["trace_id"] = f"{trace.trace_id:032x}"  # for the log, which comes later
        if not trace.sampled:
            return
        queue = self._queue
        if len(queue) >= QUEUE_MAX:
            self.outcomes["dropped"] += 1
            return
        queue.append(told(exchange, trace))
        if len(queue) == QUEUE_MAX // 2:
            self._wake.set()

    def close(self) -> None:
        """Tell what is left, within CLOSE_S. It waits: call it from a thread."""
        if self._closing:
            return
        self._closing = True
        self._wake.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive() and self._sender is not None:
            self._sender.shutdown()  # a try that waits for its next turn is given up
        self.outcomes["dropped"] += len(self._queue)

    # --- on the thread

    def _run(self) -> None:
        # Imported here: half a second of CPU at the start, and none of it on the event loop.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource

        self._sender = OTLPSpanExporter(endpoint=self._endpoint, headers=self._headers, timeout=EXPORT_S)
        resource = Resource.create({"service.name": "tokenhub-proxy", "service.version": __version__})
        while not self._closing or self._queue:
            if not self._closing:
                self._wake.wait(PAUSE_S)
                self._wake.clear()
            while self._queue:
                self._export(resource)

    def _export(self, resource: Resource) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        batch = [self._queue.popleft() for _ in range(min(BATCH_MAX, len(self._queue)))]
        try:
            spans = [span for said in batch for span in spans_of(said, resource)]
            result = self._sender.export(spans)
        except Exception:
            log.exception("spans could not be exported")
            result = SpanExportResult.FAILURE
        done = "exported" if result is SpanExportResult.SUCCESS else "failed"
        self.outcomes[done] += len(batch)
        time.sleep(0.001)  # the event loop has its turn between two batches


def spans_of(said: Told, resource: Resource) -> Iterator[ReadableSpan]:
    """The span of a request, and one of each attempt below it."""
    from opentelemetry.trace import SpanKind

    trace = said.trace
    offset_ns = int(said.started_at * 1e9) - int(said.started_s * 1e9)
    name = f"{said.endpoint} {said.model}".strip()
    yield _span(
        (name, SpanKind.SERVER, request_attributes(said), resource),
        (trace.trace_id, trace.span_id, trace.parent_id, True),
        (int(said.started_s * 1e9) + offset_ns, int(said.ended_s * 1e9) + offset_ns),
        failed=said.code if said.status >= 500 else "",
    )
    for attempt in trace.attempts:
        ended_s = attempt.ended_s or said.ended_s
        yield _span(
            (
                f"{said.endpoint} {attempt.model}",
                SpanKind.CLIENT,
                attempt_attributes(attempt, said.endpoint),
                resource,
            ),
            (trace.trace_id, attempt.span_id, trace.span_id, False),
            (int(attempt.started_s * 1e9) + offset_ns, int(ended_s * 1e9) + offset_ns),
            failed=attempt.error,
        )


def _span(
    what: tuple[str, Any, dict[str, Value], Resource],
    ids: tuple[int, int, int, bool],
    times_ns: tuple[int, int],
    *,
    failed: str,
) -> ReadableSpan:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

    name, kind, attributes, resource = what
    trace_id, span_id, parent_id, is_remote = ids
    sampled = TraceFlags(TraceFlags.SAMPLED)
    parent = SpanContext(trace_id, parent_id, is_remote, sampled) if parent_id else None
    return ReadableSpan(
        name=name,
        context=SpanContext(trace_id, span_id, False, sampled),
        parent=parent,
        resource=resource,
        attributes=attributes,
        kind=kind,
        status=Status(StatusCode.ERROR, failed) if failed else Status(StatusCode.UNSET),
        start_time=times_ns[0],
        end_time=times_ns[1],
        instrumentation_scope=InstrumentationScope("tokenhub_proxy", __version__),
    )
