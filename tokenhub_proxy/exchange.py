"""Exchange: the one record of what happened, from the first byte of a request to its settlement."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenhub_proxy.calls import Call
from tokenhub_proxy.errors import ProxyError, UpstreamUnavailable
from tokenhub_proxy.keys import Key
from tokenhub_proxy.ledger import Ending, Hold, Status
from tokenhub_proxy.prices import Usage

# What the log says of a client that left, as nginx does; nobody was there to be told a status.
CLIENT_GONE = 499
_NOTHING = Usage()


@dataclass(slots=True, eq=False)
class Exchange:
    """What the log, the metrics and the books are told. It holds no prompt, answer or secret.

    Times are seconds: `started_at` and `ended_at` since 1970, the others from a clock that never
    goes back. Amounts are nanodollars.
    """

    id: str
    endpoint: str
    started_at: float
    started_s: float
    peer: str = ""
    key: Key | None = None
    call: Call | None = None
    upstream: str = ""
    upstream_model: str = ""
    status: int = 0
    error: ProxyError | None = None
    gone: str = ""  # the phase in which the client left, or `write_timeout`
    usage: Usage = _NOTHING
    cost: int = 0
    hold: Hold | None = None  # asked for; placed once it has an id
    bytes_in: int = 0
    bytes_out: int = 0
    first_byte_s: float | None = None
    ended_s: float = 0.0
    attempts: list[str] = field(default_factory=list)
    notes: dict[str, object] = field(default_factory=dict)

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
