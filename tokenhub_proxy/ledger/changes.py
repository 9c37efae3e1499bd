"""What one step did to the books: the words between memory and the file.

`waiter` belongs to whoever waits for the change to be durable; `error` is why the file refused it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenhub_proxy.keys import Key
from tokenhub_proxy.ledger import WORLD, Account, Ending, Entry, Hold, Kind

if TYPE_CHECKING:
    # Imported where somebody takes payments, and nowhere else.
    from tokenhub_proxy.ledger.orders import Outcome, Step


class Placed:
    """A hold was placed. `abandoned` says that nobody will use it, should it still become durable."""

    __slots__ = ("abandoned", "durable", "error", "hold", "id", "waiter")

    def __init__(self, id: int, hold: Hold, durable: bool = False) -> None:
        self.id = id
        self.hold = hold
        self.durable = durable
        self.abandoned = False
        self.waiter: Any = None
        self.error: Exception | None = None


class Ended:
    """A hold has ended: `charge` is what the account pays, `writeoff` what nobody pays."""

    __slots__ = ("charge", "ending", "error", "placed", "taken_at", "waiter", "writeoff")

    def __init__(self, placed: Placed, ending: Ending, charge: int, writeoff: int) -> None:
        self.placed = placed
        self.ending = ending
        self.charge = charge
        self.writeoff = writeoff
        self.taken_at = 0.0
        self.waiter: Any = None
        self.error: Exception | None = None


@dataclass(slots=True, eq=False)
class Booked:
    """Money in or out. The file answers with the `entry`; `fresh` is False for a repeated reference."""

    account: str
    kind: Kind
    amount: int
    at: float
    note: str
    reference: str | None = None
    entry: Entry | None = None
    fresh: bool = False
    waiter: Any = None
    error: Exception | None = None

    @property
    def sides(self) -> tuple[str, str]:
        """The debit and the credit side."""
        return (WORLD, self.account) if self.kind == "credit" else (self.account, WORLD)


@dataclass(slots=True, eq=False)
class Opened:
    """Accounts are new or differ in being unlimited; with `declared`, the config's keys change too.

    `taken` is called in the step in which the keys change.
    """

    accounts: tuple[Account, ...]
    declared: tuple[Key, ...] | None = None
    taken: Callable[[], None] | None = None
    waiter: Any = None
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class KeyPut:
    """A key is new or has a new state."""

    key: Key
    waiter: Any = None
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class Stepped:
    """An order took a step. The file decides and answers with the `outcome`."""

    step: Step
    outcome: Outcome | None = None
    waiter: Any = None
    error: Exception | None = None


Change = Placed | Ended | Booked | Opened | KeyPut | Stepped
