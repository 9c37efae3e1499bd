"""Orders of top-ups: what they are, which steps they take, and what one step comes to."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

State = Literal["created", "pending", "paid", "refunded", "canceled", "expired", "needs_review"]
# What a payment is at its provider.
PaymentState = Literal["pending", "paid", "canceled"]
# What a step came to.
Verdict = Literal[
    "created", "attached", "credited", "refunded", "refund_asked", "canceled", "expired", "unchanged",
    "completed", "redeemed", "minted", "logged", "unknown_order", "wrong_provider", "wrong_currency",
    "wrong_amount", "wrong_mode", "second_payment", "duplicate", "needs_review",
]  # fmt: skip

# Providers that take no money from outside: their orders belong to no live and to no test money.
OPERATOR = "operator"
CODES = "codes"
INTERNAL = (OPERATOR, CODES)
# Orders of one account that wait for money; more are a loop that went wrong, or mischief.
OPEN_ORDERS_MAX = 50
# Rows of the webhook log that are kept.
WEBHOOKS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Order:
    """A top-up of an account.

    `amount` and `fee` (a part of it) are minor units of `currency`; `nanos` is what is credited
    for it. `rate` is what one USD was worth when the order was made, in millionths of the
    currency. `payment` is the provider's id. `credited` and `returned` are nanodollars that were
    booked in and out; `refunded` and `refunding` are minor units that the provider paid back, and
    that it was asked to.
    """

    id: str
    account: str
    provider: str
    method: str
    amount: int
    currency: str
    nanos: int
    created_at: float
    expires_at: float
    fee: int = 0
    rate: int | None = None
    test: bool = False
    customer: str = ""
    state: State = "created"
    payment: str | None = None
    redirect_url: str | None = None
    credited: int = 0
    refunding: int = 0
    refunded: int = 0
    returned: int = 0
    updated_at: float = 0.0
    note: str = ""

    @property
    def is_open(self) -> bool:
        """Whether the provider still has something to say that nobody was told."""
        return self.state in ("created", "pending") or self.refunding > self.refunded


@dataclass(frozen=True, slots=True)
class OrderEvent:
    """What happened to an order; `entry` is the line of the books that it made."""

    id: int
    at: float
    order: str
    provider: str
    payment: str
    kind: str
    amount: int
    entry: int | None
    note: str


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook that came: never its body, which anybody may have written."""

    at: float
    provider: str
    peer: str
    length: int
    event: str
    payment: str
    order: str
    verdict: str
    id: int = 0


@dataclass(frozen=True, slots=True)
class Code:
    """A redemption code; the code itself is nowhere, `digest` is its SHA-256."""

    digest: bytes
    nanos: int
    created_at: float
    expires_at: float | None = None
    note: str = ""
    order: str | None = None
    used_at: float | None = None


# --- steps


@dataclass(frozen=True, slots=True)
class Spread:
    """Makes the amounts of orders distinct: the first free one of `amount + n * step`.

    n runs through 1 to `count`, beginning at `first`; an amount is free when no order of the
    provider since `since` has it.
    """

    step: int
    count: int
    first: int
    since: float
    nanos_per_unit: int


@dataclass(frozen=True, slots=True)
class Create:
    """A new order, committed before its provider is called. The same id again gives the first."""

    order: Order
    spread: Spread | None = None


@dataclass(frozen=True, slots=True)
class Attach:
    """The provider made the payment, or, where it has none of its own, waits for the money."""

    order: str
    at: float
    payment: str | None = None
    redirect_url: str | None = None


@dataclass(frozen=True, slots=True)
class Observe:
    """What the provider says of a payment, fetched or signed: a snapshot, in whatever order it comes.

    `refunded` is all that was paid back so far, in minor units.
    """

    order: str
    at: float
    provider: str
    payment: str
    state: PaymentState
    amount: int
    currency: str
    test: bool = False
    refunded: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Close:
    """An order that nothing will come of. One that was credited stays what it is."""

    order: str
    at: float
    state: Literal["canceled", "expired", "needs_review"]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Complete:
    """The operator says that the money is there, or that nothing is left to look at."""

    order: str
    at: float
    note: str
    payment: str | None = None


@dataclass(frozen=True, slots=True)
class AskRefund:
    """So much is to be paid back in all, in minor units; committed before the provider is asked.

    A sum below what was asked for before takes that back.
    """

    order: str
    at: float
    refunding: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Refunded:
    """So much was paid back in all outside of the provider's interface, in minor units."""

    order: str
    at: float
    refunded: int
    note: str


@dataclass(frozen=True, slots=True)
class Mint:
    """New redemption codes."""

    codes: tuple[Code, ...]


@dataclass(frozen=True, slots=True)
class Redeem:
    """A code is used up by this account; `order` is the new order's id."""

    digest: bytes
    account: str
    order: str
    at: float


@dataclass(frozen=True, slots=True)
class Log:
    """A line of the webhook log."""

    webhook: Webhook


Step = Create | Attach | Observe | Close | Complete | AskRefund | Refunded | Mint | Redeem | Log


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step came to: the order as it is now, and by how much its account's balance moved."""

    verdict: Verdict
    order: Order | None = None
    moved: int = 0


class OrderBook(Protocol):
    """Orders in the books. A step and the entries that it makes are one transaction."""

    def take(self, step: Step) -> Awaitable[Outcome]:
        """Take a step; resolves when it is durable.

        Raises InvalidRequest where it can't be taken, and LedgerUnavailable.
        """
        ...

    def order(self, id: str) -> Awaitable[Order | None]:
        """One order."""
        ...

    def order_of_payment(self, provider: str, payment: str) -> Awaitable[Order | None]:
        """The order that a provider's payment belongs to."""
        ...

    def orders(
        self,
        account: str | None = None,
        state: str | None = None,
        before: tuple[float, str] | None = None,
        limit: int = 100,
        provider: str | None = None,
    ) -> Awaitable[Sequence[Order]]:
        """The newest first; the next page is `before` the last one's time and id."""
        ...

    def open_orders(self) -> Awaitable[Sequence[Order]]:
        """Every order whose provider has something to say yet, the oldest first."""
        ...

    def order_events(self, order: str) -> Awaitable[Sequence[OrderEvent]]:
        """What happened to an order, the oldest first."""
        ...

    def webhooks(self, limit: int = 100) -> Awaitable[Sequence[Webhook]]:
        """The newest webhooks first."""
        ...

    def codes(self, limit: int = 100) -> Awaitable[Sequence[Code]]:
        """The newest codes first."""
        ...
