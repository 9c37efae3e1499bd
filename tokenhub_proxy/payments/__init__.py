"""The seam to payment providers: bytes out, bytes in; how they travel is the caller's business."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlencode

from tokenhub_proxy.ledger.orders import Order, PaymentState

# Providers answer with a few KB; a page of a thousand invoices has under a megabyte.
ANSWER_BYTES_MAX = 4 * 2**20
# The largest webhook of any provider has a few KB.
WEBHOOK_BYTES_MAX = 64 * 2**10


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to a provider. Its headers may hold a secret."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Said:
    """A provider's answer, at most ANSWER_BYTES_MAX of it."""

    status: int
    body: bytes


# Raises Unavailable where no whole answer came.
Send = Callable[[Ask], Awaitable[Said]]


class Unavailable(Exception):
    """The provider can't be asked now, or is not done yet: the same question may be asked again."""


class Refused(Exception):
    """The provider understood and said no: asking again is of no use. The message is for people."""


class Forged(Exception):
    """A webhook that its provider did not send, or not now. The message is a word for the log."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can do, and in which currency and ways it takes money."""

    currency: str
    methods: tuple[str, ...]
    webhooks: bool = False
    fetches: bool = False
    refunds: bool = False
    # Its orders have distinct amounts, because nothing else tells one payment from another.
    distinct_amounts: bool = False
    needs_customer: bool = False


@dataclass(frozen=True, slots=True)
class Created:
    """A payment that waits for its money at `redirect_url`, or, without one, as `redirect_url` says."""

    payment: str
    redirect_url: str | None


@dataclass(frozen=True, slots=True)
class Payment:
    """What a provider says of a payment. Amounts are minor units of `currency`."""

    id: str
    state: PaymentState
    amount: int
    currency: str
    order: str
    test: bool
    refunded: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """What a webhook points at. `seen` is what it proves by its signature; None: it has to be fetched."""

    event: str
    payment: str
    order: str
    seen: Payment | None = None


class Headers(Protocol):
    """The headers of a webhook, by names in any case."""

    def get(self, name: str, /) -> str | None: ...


class Provider(Protocol):
    """One way to take money. No method keeps anything, and only `send` reaches anybody."""

    @property
    def name(self) -> str: ...
    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def test(self) -> bool: ...

    async def create(self, order: Order, send: Send) -> Created:
        """Make a payment for an order. Raises Unavailable, Refused.

        Where the provider knows idempotence, the same order makes the same payment.
        """
        ...

    async def fetch(self, orders: Sequence[Order], send: Send) -> Sequence[Payment]:
        """What became of these orders; one that is not in the answer is as it was."""
        ...

    async def refund(self, order: Order, send: Send) -> None:
        """Pay back what is asked for and was not paid back: `refunding - refunded` minor units."""
        ...

    def verify(self, headers: Headers, body: bytes, peer: str, now: float) -> Notice:
        """What a webhook says. Raises Forged."""
        ...


# What is kept of a provider's own words: enough to understand, too little to fill a log.
_WORDS_MAX = 200


def cleaned(text: object) -> str:
    """A provider's words for people: printable and short."""
    words = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return words[:_WORDS_MAX]


def with_query(url: str, **values: object) -> str:
    """A URL with a query of these values."""
    return f"{url}?{urlencode(values)}"
