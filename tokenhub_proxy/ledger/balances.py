"""Balances as they run: what an account and a quota window have at this moment, in memory."""

from __future__ import annotations

from tokenhub_proxy.ledger import Account

# No account is further from zero than this (four billion dollars), so that the posted and the
# held amount both fit a row's signed 64 bits.
BALANCE_MAX = 4 * 10**18


class RunningAccount:
    """An account as it is now. `floor` is how far its balance may go down before a call is refused."""

    __slots__ = ("blocked", "floor", "held", "name", "posted", "tightening", "unlimited")

    def __init__(self, account: Account) -> None:
        self.blocked = False
        self.name = account.name
        self.unlimited = account.unlimited
        self.posted = account.posted
        self.held = account.held
        self.tightening = 0  # changes to prepaid that are not durable yet, in force already
        self.set_floor()

    def set_floor(self) -> None:
        # No balance reaches the floor of a blocked account: it is refused where all others are too.
        self.floor = 2 * BALANCE_MAX if self.blocked else self.own_floor

    @property
    def own_floor(self) -> int:
        """How far its balance may go down, blocked or not."""
        return -BALANCE_MAX if self.unlimited and not self.tightening else 0

    def frozen(self) -> Account:
        return Account(self.name, self.unlimited and not self.tightening, self.posted, self.held)


class RunningWindow:
    """A quota window as it is now; `at` is its last use."""

    __slots__ = ("at", "held", "posted")

    def __init__(self, posted: int = 0, held: int = 0, at: float = 0.0) -> None:
        self.posted = posted
        self.held = held
        self.at = at
