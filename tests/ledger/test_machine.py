"""The ledger beside a model of it: whatever is done in whatever order, both say the same."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.ledger.shelf import NOW, Shelf, hold, key, released, settled
from tokenhub_proxy.errors import InsufficientQuota, InvalidRequest
from tokenhub_proxy.ledger import Account, Ending, Hold, Window

ACCOUNTS = ("main", "team", "default")
WINDOWS = ("laptop/2026-11", "laptop/2026-12", "laptop/total")
LIMIT = 5000


@dataclass
class Model:
    """The books as one would keep them on paper."""

    unlimited: dict[str, bool] = field(default_factory=lambda: {"default": True})
    posted: dict[str, int] = field(default_factory=lambda: {"default": 0})
    spent: dict[str, int] = field(default_factory=dict)
    holds: dict[str, tuple[str, int, str | None]] = field(default_factory=dict)
    ended: dict[str, tuple[str, int]] = field(default_factory=dict)
    references: set[str] = field(default_factory=set)
    entries: int = 0

    def held(self, account: str) -> int:
        return sum(amount for owner, amount, _ in self.holds.values() if owner == account)

    def held_in(self, window: str) -> int:
        return sum(amount for _, amount, name in self.holds.values() if name == window)

    def covers(self, account: str, amount: int) -> bool:
        return self.unlimited[account] or self.posted[account] - self.held(account) >= amount

    def within(self, window: str | None, amount: int) -> bool:
        return window is None or self.spent.get(window, 0) + self.held_in(window) + amount <= LIMIT

    def open(self, account: str, unlimited: bool) -> bool:
        if not unlimited and (account == "default" or self.posted.get(account, 0) < self.held(account)):
            return False
        self.unlimited[account] = unlimited
        self.posted.setdefault(account, 0)
        return True

    def credit(self, account: str, amount: int, reference: str | None) -> None:
        if reference is None or reference not in self.references:
            self.posted[account] += amount
            self.entries += 1
        if reference is not None:
            self.references.add(reference)

    def debit(self, account: str, amount: int) -> bool:
        if not self.covers(account, amount):
            return False
        self.posted[account] -= amount
        self.entries += 1
        return True

    def place(self, request: str, account: str, amount: int, window: str | None) -> bool:
        if account not in self.posted or not self.covers(account, amount) or not self.within(window, amount):
            return False
        self.holds[request] = (account, amount, window)
        return True

    def end(self, request: str, status: str, cost: int = 0) -> None:
        account, amount, window = self.holds.pop(request)
        charge = min(cost, amount)
        self.posted[account] -= charge
        if window is not None:
            self.spent[window] = self.spent.get(window, 0) + charge
        self.entries += (charge > 0) + (cost > amount)
        self.ended[request] = (status, charge)


class Machine(RuleBasedStateMachine):
    """Does the same to both; a burst of steps within one tick is one transaction."""

    durability = "process"

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.shelf = Shelf(self.folder.name, durability=self.durability)
        self.ledger = self.run(self.shelf.open())
        self.model = Model()
        self.holds: dict[str, Hold] = {}
        self.waiting: list[Any] = []

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    def soon(self, awaitable: Any) -> None:
        """What is asked for now and awaited with the burst."""
        self.waiting.append(awaitable)

    def land(self) -> None:
        async def gather() -> None:
            await asyncio.gather(*self.waiting)

        self.run(gather())
        self.waiting.clear()

    # --- the two sides of each step

    def place(self, account: str, amount: int, window: str | None) -> None:
        one = hold(amount, key=key(account=account), window=window, window_limit=LIMIT if window else None)
        if self.model.place(one.request_id, account, amount, window):
            self.soon(self.ledger.place(one))
            self.holds[one.request_id] = one
        else:
            with pytest.raises(InsufficientQuota):
                self.ledger.place(one)

    def end(self, request: str, ending: Ending) -> None:
        one = self.holds.pop(request)
        one.end(ending)
        self.model.end(request, ending.status, ending.cost)
        self.soon(self.ledger.finish(one))

    # --- steps

    @rule(account=st.sampled_from(("main", "team")), unlimited=st.booleans())
    def open_account(self, account: str, unlimited: bool) -> None:
        if self.model.open(account, unlimited):
            self.run(self.ledger.open_account(Account(account, unlimited)))
        else:
            with pytest.raises(InvalidRequest):
                self.ledger.open_account(Account(account, unlimited))

    @rule(
        account=st.sampled_from(ACCOUNTS),
        amount=st.integers(1, 4000),
        reference=st.sampled_from((None, None, "r1", "r2")),
    )
    def credit(self, account: str, amount: int, reference: str | None) -> None:
        if account not in self.model.posted:
            return
        name = reference and f"{reference}-{account}-{amount}"
        self.model.credit(account, amount, name)
        self.run(self.ledger.credit(account, amount, at=NOW, reference=name))

    @rule(account=st.sampled_from(ACCOUNTS), amount=st.integers(1, 4000))
    def debit(self, account: str, amount: int) -> None:
        if account not in self.model.posted:
            return
        if self.model.debit(account, amount):
            self.run(self.ledger.debit(account, amount, at=NOW))
        else:
            with pytest.raises(InsufficientQuota):
                self.ledger.debit(account, amount, at=NOW)

    @rule(
        places=st.lists(
            st.tuples(st.sampled_from(ACCOUNTS), st.integers(0, 2000), st.sampled_from((None, *WINDOWS))),
            max_size=4,
        ),
        endings=st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 2500)), max_size=4),
        data=st.data(),
    )
    def burst(self, places: list[Any], endings: list[Any], data: Any) -> None:
        """Endings and holds in one tick: what an ending frees, a hold may use at once."""
        for index, settle, cost in endings:
            if self.holds:
                request = sorted(self.holds)[index % len(self.holds)]
                self.end(request, settled(cost) if settle else released())
        for place in places:
            self.place(*place)
        self.land()

    @rule()
    def one_after_the_other(self) -> None:
        """Hold and settlement of one call, alone in the file's eyes."""
        self.place("default", 10, None)
        self.land()
        self.end(max(self.holds), settled(7))
        self.land()

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        if crash:
            self.shelf.crash(self.ledger)
        else:
            self.run(self.shelf.close(self.ledger))
        for request in list(self.model.holds):
            self.model.end(request, "expired")
        self.holds.clear()
        self.ledger = self.run(self.shelf.open())

    @invariant()
    def both_say_the_same(self) -> None:
        if not hasattr(self, "model"):
            return
        for name, posted in self.model.posted.items():
            assert self.ledger.account(name) == Account(
                name, self.model.unlimited[name], posted, self.model.held(name)
            )
        for name in WINDOWS:
            assert self.ledger.window(name) == Window(
                name, self.model.spent.get(name, 0), self.model.held_in(name)
            )

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        self.run(self.add_up())
        self.run(self.shelf.close(self.ledger))
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()

    async def add_up(self) -> None:
        assert await self.ledger.verify() == []
        assert len([entry async for entry in self.ledger.entries()]) == self.model.entries
        calls = {one.request_id: one for one in await self.ledger.requests()}
        for request, (status, charge) in list(self.model.ended.items())[-50:]:
            receipt = calls.get(request) or await self.ledger.receipt(request)
            assert (receipt.status, receipt.cost) == (status, charge)


def run_machine(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_ledger_and_the_model_say_the_same() -> None:
    run_machine(60, 40)


@pytest.mark.long
@pytest.mark.parametrize("part", range(50))
def test_the_ledger_and_the_model_say_the_same_for_long(part: int) -> None:
    """5,000 examples, in parts: of each that it has tried, Hypothesis remembers every step."""
    run_machine(100, 100)
