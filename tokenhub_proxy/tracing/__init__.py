"""Which trace a call belongs to: W3C Trace Context, from the client's header to the upstream's."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from tokenhub_proxy.wire import RequestHeaders

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1
# A trace's last 7 bytes are random: by these, every hop samples the same ones.
_SHARE_BITS = 56


@dataclass(slots=True)
class Attempt:
    """One request to an upstream; times are of the steady clock."""

    span_id: int
    upstream: str
    dialect: str
    base_url: str
    model: str
    started_s: float
    ended_s: float = 0.0
    status: int = 0
    error: str = ""


@dataclass(slots=True)
class Trace:
    """The trace of one call; `parent_id` is 0 where it begins here."""

    trace_id: int
    parent_id: int
    span_id: int
    sampled: bool
    attempts: list[Attempt] = field(default_factory=list)

    def traceparent(self, span_id: int) -> str:
        """The header for whoever is called by this span."""
        return f"00-{self.trace_id:032x}-{span_id:016x}-{int(self.sampled):02x}"


CURRENT: ContextVar[Trace | None] = ContextVar("trace", default=None)


class Tracer:
    """Gives each call its place in a trace. `bits(n)` gives a random number of n bits."""

    def __init__(self, sample: float, bits: Callable[[int], int]) -> None:
        self._bits = bits
        self._bound = int(sample * 2**_SHARE_BITS)

    def begin(self, headers: RequestHeaders) -> None:
        """The call that begins in this task has these headers. One that is malformed begins a new trace."""
        said = headers.getall("traceparent", ())
        found = _TRACEPARENT.fullmatch(said[0].strip()) if len(said) == 1 else None
        if found is not None and _valid(found):
            trace_id, parent_id = int(found[2], 16), int(found[3], 16)
            sampled = bool(int(found[4], 16) & _SAMPLED)
        else:
            trace_id, parent_id = self._bits(128) or 1, 0
            sampled = trace_id & (2**_SHARE_BITS - 1) < self._bound
        CURRENT.set(Trace(trace_id, parent_id, self.span_id(), sampled))

    def span_id(self) -> int:
        """A new one; zero is none."""
        return self._bits(64) or 1


def _valid(found: re.Match[str]) -> bool:
    """Version 00 ends there; ff is none; ids of only zeros are none."""
    version, trace_id, parent_id, _, rest = found.groups()
    if version == "ff" or (version == "00" and rest):
        return False
    return trace_id.strip("0") != "" and parent_id.strip("0") != ""
