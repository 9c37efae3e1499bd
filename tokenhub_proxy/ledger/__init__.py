"""The seam to the books: accounts, keys, holds and entries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tokenhub_proxy.keys import Key
from tokenhub_proxy.prices import Price, Usage

DEFAULT_ACCOUNT = "default"
# Sides of an entry that are no customer's. An account's own name has no colon.
WORLD = "system:world"
WRITEOFF = "system:writeoff"
UPSTREAM = "upstream:"

# An answer's ending waits so long for storage that fails; then its body is left unterminated and
# the settlement is written when storage returns.
ENDING_WAIT_S = 10.0

# An Idempotency-Key is remembered so long.
REMEMBERED_S = 24 * 3600.0

# Which module opens the books of a URL's scheme; imported when it is chosen, by wiring alone.
LEDGERS = {"sqlite": "tokenhub_proxy.ledger.sqlite"}

Status = Literal["held", "settled", "released", "expired"]
Kind = Literal["credit", "debit", "charge", "writeoff"]
UsageBy = Literal["key", "model", "upstream", "day"]

_FREE = Price()
_NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays. Amounts are nanodollars; `posted` is the fold of the account's entries."""

    name: str
    unlimited: bool = False
    posted: int = 0
    held: int = 0

    @property
    def available(self) -> int | None:
        """What can still be held; None without a limit."""
        return None if self.unlimited else self.posted - self.held


@dataclass(frozen=True, slots=True)
class Window:
    """What a key used and holds in one quota window, in nanodollars."""

    name: str
    posted: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the books: `amount` nanodollars from the debit side to the credit side."""

    id: int
    at: float
    kind: Kind
    debit: str
    credit: str
    amount: int
    request_id: str | None = None
    note: str = ""


@dataclass(slots=True, init=False)
class Ending:
    """How a hold ended. `cost` is what the call is worth; above the hold it is written off."""

    status: Status
    at: float
    cost: int
    usage: Usage
    upstream: str
    reason: str
    http_status: int
    first_byte_ms: int | None
    attempts: tuple[str, ...]

    def __init__(
        self,
        status: Status,
        at: float,
        cost: int = 0,
        usage: Usage = _NO_USAGE,
        upstream: str = "",
        reason: str = "",
        http_status: int = 0,
        first_byte_ms: int | None = None,
        attempts: tuple[str, ...] = (),
    ) -> None:
        self.status = status
        self.at = at
        self.cost = cost
        self.usage = usage
        self.upstream = upstream
        self.reason = reason
        self.http_status = http_status
        self.first_byte_ms = first_byte_ms
        self.attempts = attempts

    @property
    def failed(self) -> bool:
        """Whether the call ended otherwise than its client wished."""
        return self.status != "settled" or self.http_status >= 400 or bool(self.reason)


@dataclass(slots=True, init=False)
class Hold:
    """The most a call can cost, set aside before it is made.

    `window` names the key's quota counter and `window_limit` its limit, both None without a
    quota. `idempotency` is the client's key and the digest of its body. `id` is the ledger's,
    given when the hold is placed. `ending` is noted by `settle` or `release`, written by the
    block's exit, and is final.
    """

    request_id: str
    key: Key
    model: str
    amount: int
    at: float
    price: Price
    window: str | None
    window_limit: int | None
    stream: bool
    idempotency: tuple[str, bytes] | None
    id: int
    ending: Ending | None

    def __init__(
        self,
        request_id: str,
        key: Key,
        model: str,
        amount: int,
        at: float,
        price: Price = _FREE,
        window: str | None = None,
        window_limit: int | None = None,
        stream: bool = False,
        idempotency: tuple[str, bytes] | None = None,
        id: int = 0,
        ending: Ending | None = None,
    ) -> None:
        self.request_id = request_id
        self.key = key
        self.model = model
        self.amount = amount
        self.at = at
        self.price = price
        self.window = window
        self.window_limit = window_limit
        self.stream = stream
        self.idempotency = idempotency
        self.id = id
        self.ending = ending

    def end(self, ending: Ending) -> None:
        """Note the ending. A second one is a bug of ours."""
        if self.ending is not None:
            raise RuntimeError(f"hold {self.request_id} has ended already: {self.ending.status}")
        self.ending = ending


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the books know of one request."""

    request_id: str
    account: str
    key: str
    model: str
    stream: bool
    status: Status
    hold: int
    cost: int
    started_at: float
    ended_at: float | None = None
    upstream: str = ""
    usage: Usage | None = None
    reason: str = ""
    http_status: int = 0
    first_byte_ms: int | None = None
    attempts: tuple[str, ...] = ()
    hold_id: int = 0

    @property
    def failed(self) -> bool:
        """Whether the call ended otherwise than its client wished; one that runs has not."""
        ended = self.status != "held"
        return ended and (self.status != "settled" or self.http_status >= 400 or bool(self.reason))


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Spend and tokens of one key, model, upstream or day."""

    name: str
    requests: int
    usage: Usage
    cost: int


@dataclass(frozen=True, slots=True)
class Remembered:
    """What an Idempotency-Key stands for: the digest of its body and the request it began."""

    digest: bytes
    request_id: str
    at: float
    status: Status = "held"
    http_status: int = 0


class LedgerRefused(Exception):
    """The books can't be opened. The message is for people and says what to do."""


class LedgerInUse(LedgerRefused):
    """Another process owns the books; the message names it."""


class Ledger(Protocol):
    """Who may call, what is left, and what happened.

    What must be answered on every request is answered from memory, at once; what must survive is
    written behind it, and the awaitables resolve when it is durable. A guard and its effect are
    one step: nothing can come between them.
    """

    # --- keys: what a change binds is the very next request

    def find_key(self, digest: bytes) -> Key | None:
        """The key that this digest belongs to, revoked and expired ones included."""
        ...

    def list_keys(self) -> Sequence[Key]:
        """Every key, those of the config included, by name."""
        ...

    def declare(
        self, keys: Iterable[Key], accounts: Iterable[Account], taken: Callable[[], None] | None = None
    ) -> Awaitable[None]:
        """Take the config's keys and accounts, in place of those declared before.

        What was changed by `put_key` under a config key's name stays in force over it. `taken` is
        called in the very step in which the keys change, so that no call sees the one without the
        other; it may not raise.
        """
        ...

    def put_key(self, key: Key) -> Awaitable[None]:
        """Write a new key, or a new state of the key with this id."""
        ...

    # --- money

    def account(self, name: str) -> Account | None:
        """An account as of now, or None."""
        ...

    def list_accounts(self) -> Sequence[Account]:
        """Every account, by name."""
        ...

    def window(self, name: str) -> Window:
        """A quota window as of now; an unknown one is empty."""
        ...

    def open_account(self, account: Account) -> Awaitable[None]:
        """Write a new account, or change whether it is unlimited."""
        ...

    def credit(
        self, account: str, amount: int, *, at: float, note: str = "", reference: str | None = None
    ) -> Awaitable[Entry]:
        """Book money in. The same `reference` books once: again it gives the first entry."""
        ...

    def debit(self, account: str, amount: int, *, at: float, note: str = "") -> Awaitable[Entry]:
        """Book money out. Raises InsufficientQuota where a prepaid balance can't cover it."""
        ...

    # --- calls

    def place(self, hold: Hold) -> Awaitable[None]:
        """Hold, or raise at once: InsufficientQuota, IdempotencyConflict, LedgerUnavailable.

        The account's balance and the key's window are guarded and changed in one step. The
        awaitable resolves when the hold is durable, and raises LedgerUnavailable, the hold
        undone, when it can't be.
        """
        ...

    def finish(self, hold: Hold) -> Awaitable[None]:
        """Write the hold's noted ending. Exactly one ending is ever written for a hold.

        It takes effect at once. The awaitable resolves when it is durable; after ENDING_WAIT_S of
        failing storage it raises LedgerUnavailable, and the ending is still written, once, when
        storage returns.
        """
        ...

    def remembered(self, key_id: str, idempotency_key: str) -> Remembered | None:
        """What this key's Idempotency-Key of the last 24 hours stands for; a released call is free again."""
        ...

    # --- reports

    def receipt(self, request_id: str) -> Awaitable[Receipt | None]:
        """What the books know of a request, or None."""
        ...

    def requests(
        self, account: str | None = None, before: int | None = None, limit: int = 100
    ) -> Awaitable[Sequence[Receipt]]:
        """The newest requests first, at most 100; the next page is `before` the last one's hold id."""
        ...

    def entries(self) -> AsyncIterator[Entry]:
        """All entries in order."""
        ...

    def usage(self, by: UsageBy, since: float = 0.0) -> Awaitable[Sequence[UsageRow]]:
        """Spend and tokens by one dimension, whole days from `since` on."""
        ...

    def verify(self) -> Awaitable[Sequence[str]]:
        """Re-add every balance from its entries; each difference as a line for people."""
        ...

    def backup(self, path: str) -> Awaitable[None]:
        """Write a whole, consistent copy of the books to a new file, while they are in use."""
        ...

    def purge(self, before: float) -> Awaitable[int]:
        """Forget the calls begun before that time, and say how many; entries and usage stay."""
        ...

    @property
    def unavailable(self) -> str | None:
        """Why nothing can be written right now, or None."""
        ...

    def aclose(self) -> Awaitable[None]:
        """Write what is waiting, then let go of the file."""
        ...
