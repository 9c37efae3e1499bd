"""The parts of tracing, joined; made only where the config names an endpoint."""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib.util import find_spec

from tokenhub_proxy.calls import Call
from tokenhub_proxy.config.traces import Traces
from tokenhub_proxy.errors import ProxyError
from tokenhub_proxy.routes import Target
from tokenhub_proxy.tracing import Tracer
from tokenhub_proxy.tracing.carrier import TracedTransports
from tokenhub_proxy.tracing.export import Exporter
from tokenhub_proxy.wire import Transport


class ExporterMissing(ProxyError):
    """The config wants traces, but the extra is not installed."""

    def __init__(self) -> None:
        super().__init__("traces.endpoint needs the extra `otel`: pip install 'tokenhub-proxy[otel]'")


class Tracing:
    """`tracer` begins traces, `exporter` observes exchanges. Raises ExporterMissing."""

    def __init__(self, settings: Traces, monotonic: Callable[[], float]) -> None:
        if not is_installed():
            raise ExporterMissing
        self._settings = settings
        self._monotonic = monotonic
        # Ids need to be unlike each other, not secret; these cost a tenth of the system's.
        self.tracer = Tracer(settings.sample, random.Random().getrandbits)  # noqa: S311
        self.exporter = Exporter(settings.endpoint, settings.headers)

    def transports(self, inner: Callable[[Target, Call], Transport]) -> TracedTransports:
        """What carries calls while they are traced."""
        return TracedTransports(inner, self.tracer, self._monotonic, propagate=self._settings.propagate)


def is_installed() -> bool:
    """Whether the extra `otel` is there."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False
