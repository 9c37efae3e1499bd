"""Exchange: the one record of what happened, from the first byte of a request to its settlement."""

from __future__ import annotations

from typing import Final

from tokenhub_proxy.calls import Call
from tokenhub_proxy.errors import ProxyError, UpstreamUnavailable
from tokenhub_proxy.keys import Key
from tokenhub_proxy.ledger import Ending, Hold, Status
from tokenhub_proxy.prices import Usage

# What the log says of a client that left, as nginx does; nobody was there to be told a status.
CLIENT_GONE: Final = 499
_NOTHING: Final = Usage()


class Exchange:
    """What the log, the metrics and the books are told. It holds no prompt, answer or secret.

    Times are seconds: `started_at` and `ended_at` since 1970, the others from a clock that never
    goes back. Amounts are nanodollars.
    """

    __slots__ = (
        "attempts", "bytes_in", "bytes_out", "call", "cost", "ended_s", "endpoint", "error", "first_byte_s",
        "gone", "hold", "id", "key", "notes", "peer", "started_at", "started_s", "status", "upstream",
        "upstream_model", "usage",
    )  # fmt: skip

    def __init__(self, id: str, endpoint: str, started_at: float, started_s: float, peer: str = "") -> None:
        self.id = id
        self.endpoint = endpoint
        self.started_at = started_at
        self.started_s = started_s
        self.peer = peer
        self.key: Key | None = None
        self.call: Call | None = None
        self.upstream = ""
        self.upstream_model = ""
        self.status = 0
        self.error: ProxyError | None = None
        self.gone = ""  # the phase in which the client left, or `write_timeout`
        self.usage = _NOTHING
        self.cost = 0
        self.hold: Hold | None = None  # asked for; placed once it has an id
        self.bytes_in = 0
        self.bytes_out = 0
        self.first_byte_s: float | None = None
        self.ended_s = 0.0
        self.attempts: list[str] = []
        self.notes: dict[str, object] = {}

    @property
    def phase(self) -> str:
        """How far the exchange has come: what is said of a client that leaves now."""
        if self.hold is None:
            return "read"
        if self.first_byte_s is not None:
            return "stream"
        return "ttfb" if self.upstream else "held"

    @property
    def told_status(self) -> int:
        """The HTTP status for the log, the metrics and the books."""
        if self.gone:
            return CLIENT_GONE
        status, error = self.status, self.error
        return status if status or error is None else error.http_status

    @property
    def charge(self) -> int:
        """What the account pays, in nanodollars: the cost, but never more than was held."""
        hold, cost = self.hold, self.cost
        if hold is None:
            return 0
        return cost if cost < hold.amount else hold.amount

    @property
    def duration_s(self) -> float:
        """From the request to the end of its answer."""
        return self.ended_s - self.started_s

    @property
    def billing(self) -> str:
        """How the call was paid: nothing held, released, by usage, or by estimate."""
        ending = self.hold.ending if self.hold is not None else None
        if ending is None:
            return "none"
        if ending.status != "settled":
            return "void"
        return "usage" if self.usage.reported else "estimate"

    @property
    def at_risk(self) -> bool:
        """Nothing is charged, but the upstream may have worked, and may want its money."""
        if self.billing != "void":
            return False
        return self.gone == "ttfb" or (isinstance(self.error, UpstreamUnavailable) and self.error.executed)

    def ending(self, produced: bool, now: float) -> Ending:
        """The ending of the hold: settled where something was produced, else released."""
        error, first_byte_s = self.error, self.first_byte_s
        reason = self.gone or (error.reason or error.code if error is not None else "")
        status: Status = "settled" if produced else "released"
        cost, usage = (self.cost, self.usage) if produced else (0, _NOTHING)
        first_byte_ms = None if first_byte_s is None else round((first_byte_s - self.started_s) * 1000)
        attempts = tuple(self.attempts)
        return Ending(
            status, now, cost, usage, self.upstream, reason, self.told_status, first_byte_ms, attempts
        )
