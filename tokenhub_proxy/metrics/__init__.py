"""What `/metrics` tells: every family by name, and the text format of Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Literal, NamedTuple

Labels = tuple[tuple[str, str], ...]


class Family(NamedTuple):
    """One metric: what its samples mean, and by which labels they differ."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


PLACE = ("model", "upstream")
# First bytes come after a network's round trip, or after a reasoning model has thought.
FIRST_BYTE_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 120.0)
DURATION_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1800.0)
# A commit is a sync of a disk, which takes between a tenth of a millisecond and far too long.
COMMIT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

FAMILIES: dict[str, Family] = {
    "tokenhub_requests_total": Family(
        "counter",
        "Metered requests that have ended, by the status told and the error's code (empty: none).",
        (*PLACE, "status", "code"),
    ),
    "tokenhub_billing_total": Family(
        "counter",
        "Metered requests that have ended, by what was paid: usage, estimate, void (released) or none.",
        (*PLACE, "billing"),
    ),
    "tokenhub_tokens_total": Family(
        "counter",
        "Tokens by class: input (fresh), cached, cache_write, output; no token is in two of them.",
        (*PLACE, "class"),
    ),
    "tokenhub_spend_usd_total": Family("counter", "What accounts have paid, in USD, exact.", PLACE),
    "tokenhub_writeoff_usd_total": Family(
        "counter", "What calls cost above their hold, in USD: nobody has paid it.", PLACE
    ),
    "tokenhub_first_byte_seconds": Family(
        "histogram",
        "From a request to the first byte of its streamed answer (time to first token).",
        PLACE,
        FIRST_BYTE_S,
    ),
    "tokenhub_request_duration_seconds": Family(
        "histogram", "From a request to the end of its answer.", PLACE, DURATION_S
    ),
    "tokenhub_retries_total": Family("counter", "Attempts beyond a request's first one.", PLACE),
    "tokenhub_fallbacks_total": Family(
        "counter", "Requests that went on to another upstream than the first one tried.", PLACE
    ),
    "tokenhub_upstream_attempts_total": Family(
        "counter",
        "What came of asking an upstream: its HTTP status, or a fault's name (breaker: it was not asked).",
        ("upstream", "outcome"),
    ),
    "tokenhub_breaker_open": Family(
        "gauge",
        "1 while an upstream's model is left alone after failures, or probed; else 0.",
        ("upstream", "upstream_model"),
    ),
    "tokenhub_credentials_cooling": Family(
        "gauge", "Credentials of an upstream that are left alone after a refusal.", ("upstream",)
    ),
    "tokenhub_in_flight": Family("gauge", "Metered requests under way."),
    "tokenhub_streams": Family("gauge", "Answers under way whose first byte has come."),
    "tokenhub_holds_open": Family("gauge", "Holds that have not ended."),
    "tokenhub_held_usd": Family("gauge", "What open holds hold, in USD."),
    "tokenhub_unsettled": Family("gauge", "Requests that have ended whose ending is not durable yet."),
    "tokenhub_ledger_writable": Family("gauge", "1 while the ledger can be written, else 0."),
    "tokenhub_ledger_commit_seconds": Family(
        "histogram", "From handing a batch to the ledger's writer until it is durable.", (), COMMIT_S
    ),
    "tokenhub_ledger_changes_total": Family("counter", "Changes made durable; many share one commit."),
    "tokenhub_loop_lag_seconds": Family(
        "histogram", "How late the event loop is, measured once a second.", (), LAG_S
    ),
    "tokenhub_config_current": Family("gauge", "0 after a reload that was refused, else 1."),
    "tokenhub_draining": Family("gauge", "1 from the order to stop on, else 0."),
    "tokenhub_traced_requests_total": Family(
        "counter",
        "Requests for the collector of traces: exported, failed or dropped.",
        ("outcome",),
    ),
    "tokenhub_build_info": Family("gauge", "Always 1; what runs here.", ("version", "python")),
    "process_cpu_seconds_total": Family("counter", "CPU time of the process, user and system."),
    "process_resident_memory_bytes": Family("gauge", "Resident memory."),
    "process_virtual_memory_bytes": Family("gauge", "Virtual memory."),
    "process_open_fds": Family("gauge", "Open file descriptors."),
    "process_max_fds": Family("gauge", "How many file descriptors there may be."),
    "process_start_time_seconds": Family("gauge", "When the proxy started, since 1970."),
}


class Histogram:
    """How often values fell into which bucket; a bound belongs to the bucket below it."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


def head(name: str) -> str:
    """The two lines before a family's samples."""
    family = FAMILIES[name]
    told = family.help.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {name} {told}\n# TYPE {name} {family.kind}\n"


def sample(name: str, value: object, *labels: str) -> str:
    """One sample; its labels are in the family's order."""
    return f"{name}{{{pairs(name, labels)}}} {value}\n" if labels else f"{name} {value}\n"


def pairs(name: str, labels: tuple[str, ...]) -> str:
    """What stands in the braces."""
    named = zip(FAMILIES[name].labels, labels, strict=True)
    return ",".join(f'{label}="{escaped(value)}"' for label, value in named)


def escaped(value: str) -> str:
    """A label's value; whatever it holds, the line stays one line of UTF-8."""
    value = value.encode("utf-8", "backslashreplace").decode()
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def histogram(name: str, found: Histogram, *labels: str) -> Iterator[str]:
    """All samples of one histogram: cumulative buckets, then sum and count."""
    within = pairs(name, labels)
    before = f"{within}," if within else ""
    braces = f"{{{within}}}" if within else ""
    count = 0
    for bound, more in zip((*FAMILIES[name].buckets, "+Inf"), found.counts, strict=True):
        count += more
        yield f'{name}_bucket{{{before}le="{bound}"}} {count}\n'
    yield f"{name}_sum{braces} {found.sum!r}\n{name}_count{braces} {count}\n"
