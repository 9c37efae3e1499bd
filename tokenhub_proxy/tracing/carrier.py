"""Stands before the transports while calls are traced: notes each attempt, and passes the trace on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from tokenhub_proxy.calls import Call
from tokenhub_proxy.errors import ProxyError, UpstreamUnavailable
from tokenhub_proxy.routes import Target
from tokenhub_proxy.tracing import CURRENT, Attempt, Tracer
from tokenhub_proxy.wire import Incoming, Outgoing, Sending, Transport


class TracedTransports:
    """Gives the transport that `inner` gives, wrapped. With `propagate`, upstreams hear of the trace."""

    def __init__(
        self,
        inner: Callable[[Target, Call], Transport],
        tracer: Tracer,
        monotonic: Callable[[], float],
        *,
        propagate: bool,
    ) -> None:
        self._inner = inner
        self._tracer = tracer
        self._monotonic = monotonic
        self._propagate = propagate

    def __call__(self, target: Target, call: Call) -> Transport:
        transport, trace = self._inner(target, call), CURRENT.get()
        if trace is None:
            return transport
        upstream = target.upstream
        attempt = Attempt(
            self._tracer.span_id(),
            upstream.name,
            upstream.dialect,
            upstream.base_url,
            target.model,
            self._monotonic(),
        )
        trace.attempts.append(attempt)
        header = trace.traceparent(attempt.span_id) if self._propagate else ""
        return _Traced(transport, attempt, header, self._monotonic)


class _Traced:
    """A transport for one attempt."""

    def __init__(
        self, inner: Transport, attempt: Attempt, traceparent: str, monotonic: Callable[[], float]
    ) -> None:
        self._inner = inner
        self._attempt = attempt
        self._traceparent = traceparent
        self._monotonic = monotonic

    def send(self, outgoing: Outgoing) -> Sending:
        if self._traceparent:
            outgoing = told(outgoing, self._traceparent)
        return _Sending(self._inner.send(outgoing), self._attempt, self._monotonic)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Sending:
    """Notes when an attempt ended, and how."""

    def __init__(
        self,
        inner: Sending,
        attempt: Attempt,
        monotonic: Callable[[], float],
    ) -> None:
        self._inner = inner
        self._attempt = attempt
        self._monotonic = monotonic

    async def __aenter__(self) -> Incoming:
        try:
            incoming = await self._inner.__aenter__()
        except BaseException as error:
            self._end(error)
            raise
        self._attempt.status = incoming.status
        return incoming

    def close(self, error: BaseException | None) -> None:
        try:
            self._inner.close(error)
        finally:
            self._end(error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    def _end(self, error: BaseException | None) -> None:
        attempt = self._attempt
        attempt.ended_s = self._monotonic()
        if isinstance(error, UpstreamUnavailable):
            attempt.status = attempt.status or error.upstream_status or 0
            attempt.error = error.kind
        elif isinstance(error, ProxyError):
            attempt.error = error.code
        elif error is not None:
            attempt.error = "cancelled"
        if attempt.status >= 400 and attempt.error in ("", "status"):
            attempt.error = str(attempt.status)


def told(outgoing: Outgoing, traceparent: str) -> Outgoing:
    """The same request, and all its parts, with the header. What a dialect has signed stays as it is."""
    parts = tuple(told(part, traceparent) for part in outgoing.parts)
    return replace(outgoing, headers=(*outgoing.headers, ("traceparent", traceparent)), parts=parts)
