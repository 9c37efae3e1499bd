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
        "attempts", "billing", "bytes_in", "bytes_out", "call", "charge", "cost", "ended_s", "endpoint",
        "error", "first_byte_s", "gone", "hold", "id", "key", "notes", "peer", "started_at", "started_s",
        "status", "told_status", "upstream", "upstream_model", "usage",
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
        self.charge = 0  # what the account pays of it
        self.hold: Hold | None = None  # asked for; placed once it has an id
        self.bytes_in = 0
        self.bytes_out = 0
        self.first_byte_s: float | None = None
        # Known when it is closed; each is asked for by several.
        self.ended_s = 0.0
        self.told_status = 0  # for the log, the metrics and the books
        self.billing = "none"  # how it was paid: nothing held, void, by usage, or by estimate
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

    def pay(self, cost: int) -> None:
        """The call costs so many nanodollars; the account pays them, but never more than was held."""
        hold = self.hold
        self.cost = cost
        if hold is not None:
            self.charge = cost if cost < hold.amount else hold.amount

    def close(self, ended_s: float, bytes_out: int) -> None:
        """All has been said and written."""
        self.ended_s = ended_s
        self.bytes_out = bytes_out
        self.told_status = self._status()
        ending = self.hold.ending if self.hold is not None else None
        if ending is not None:
            settled = "usage" if self.usage.reported else "estimate"
            self.billing = settled if ending.status == "settled" else "void"

    def _status(self) -> int:
        if self.gone:
            return CLIENT_GONE
        status, error = self.status, self.error
        return status if status or error is None else error.http_status

    @property
    def duration_s(self) -> float:
        """From the request to the end of its answer."""
        return self.ended_s - self.started_s

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
            status, now, cost, usage, self.upstream, reason, self._status(), first_byte_ms, attempts
        )
