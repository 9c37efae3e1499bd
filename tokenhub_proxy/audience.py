"""Who is told of finished exchanges: the counters, the log, the operator, the collector of traces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO

from tokenhub_proxy import observers
from tokenhub_proxy.calls import Call
from tokenhub_proxy.config import Config
from tokenhub_proxy.metrics.counters import Counters
from tokenhub_proxy.routes import Target
from tokenhub_proxy.wire import Transport

if TYPE_CHECKING:
    from tokenhub_proxy.tracing import Tracer
    from tokenhub_proxy.tracing.assembly import Tracing


class Audience:
    """The observers of one proxy, as its config wants them. Raises ExporterMissing."""

    def __init__(self, config: Config, log: TextIO | None) -> None:
        """`log` is where the access log goes, if anywhere."""
        self.counters = Counters()
        self.refusals = observers.QuotaRefusals()
        self.observers: list[observers.Observer] = [self.counters, self.refusals, observers.trouble]
        self._tracing: Tracing | None = None
        if config.traces is not None:
            from tokenhub_proxy.tracing.assembly import Tracing

            self._tracing = Tracing(config.traces, time.monotonic)
            self.observers.append(self._tracing.exporter)
        if log is not None:
            line = observers.log_to(log, config.log_format, asyncio.get_running_loop().call_soon)
            self.observers += [] if line is None else [line]

    @property
    def tracer(self) -> Tracer | None:
        """What begins the trace of each call; None where calls are not traced."""
        return None if self._tracing is None else self._tracing.tracer

    @property
    def outcomes(self) -> Mapping[str, int] | None:
        """How many traced calls were exported, failed or dropped; None where calls are not traced."""
        return None if self._tracing is None else self._tracing.exporter.outcomes

    def transports(self, inner: Callable[[Target, Call], Transport]) -> Callable[[Target, Call], Transport]:
        """What carries calls: `inner` itself where they are not traced."""
        return inner if self._tracing is None else self._tracing.transports(inner)

    async def aclose(self) -> None:
        """Tell what is left to tell."""
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.exporter.close)
