"""The books in memory, without a file: guards, and what an undo leaves."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ledger.shelf import NOW, hold, key, released, settled
from tokenhub_proxy.errors import InsufficientQuota, LedgerUnavailable
from tokenhub_proxy.ledger import Account, Window
from tokenhub_proxy.ledger import books as books_module
from tokenhub_proxy.ledger.books import Books
from tokenhub_proxy.prices import Price, Usage

DAY_S = 86400.0
prices = st.integers(0, 100_000_000_000)


def books(posted: int = 10_000) -> Books:
    return Books(accounts=[Account("main", posted=posted)])


@st.composite
def greedy_calls(draw: st.DrawFn) -> tuple[Price, int, Usage]:
    """A price, the most a call may cost, and the usage of an upstream that spends all it may."""
    price = Price(*(draw(prices) for _ in range(4)))
    text_bytes, output_max, choices = (
        draw(st.integers(0, 10**7)),
        draw(st.integers(1, 2**20)),
        draw(st.integers(1, 8)),
    )
    fresh = draw(st.integers(0, text_bytes))
    cached = draw(st.integers(0, text_bytes - fresh))
    usage = Usage(fresh, cached, text_bytes - fresh - cached, output_max * choices, reported=True)
    return price, price.ceiling(text_bytes, output_max * choices), usage


def charge_never_exceeds_the_hold(call: tuple[Price, int, Usage]) -> None:
    price, ceiling, usage = call
    kept = books(posted=ceiling)
    one = hold(ceiling, price=price)
    kept.commit(kept.place(one))
    one.end(settled(price.cost(usage), usage=usage))
    change = kept.end(one)
    assert change.writeoff == 0
    assert change.charge <= ceiling
    assert kept.account("main") == Account("main", posted=ceiling - change.charge)


@given(greedy_calls())
@settings(max_examples=1000, deadline=None)
def test_an_upstream_that_spends_all_it_may_never_costs_more_than_the_hold(
    call: tuple[Price, int, Usage],
) -> None:
    charge_never_exceeds_the_hold(call)


@pytest.mark.long
def test_a_hundred_thousand_greedy_answers_cost_no_more_than_their_holds() -> None:
    chance = random.Random(1)
    for _ in range(100_000):
        price = Price(*(chance.randint(0, 10 ** chance.randint(0, 11)) for _ in range(4)))
        text_bytes, output = chance.randint(0, 10**7), chance.randint(1, 2**20) * chance.randint(1, 8)
        fresh = chance.randint(0, text_bytes)
        cached = chance.randint(0, text_bytes - fresh)
        usage = Usage(fresh, cached, text_bytes - fresh - cached, output, reported=True)
        charge_never_exceeds_the_hold((price, price.ceiling(text_bytes, output), usage))


@given(st.lists(st.tuples(st.integers(0, 3000), st.sampled_from(["undo", "release", "settle"])), max_size=30))
@settings(deadline=None)
def test_whatever_is_undone_the_balance_is_what_was_charged(steps: list[tuple[int, str]]) -> None:
    kept, charged = books(), 0
    for amount, how in steps:
        one = hold(amount, window="w/total", window_limit=8000)
        try:
            change = kept.place(one)
        except InsufficientQuota:
            continue
        if how == "undo":
            kept.undo(change)
            assert one.id == 0
            continue
        kept.commit(change)
        one.end(settled(amount // 2) if how == "settle" else released())
        charged += kept.end(one).charge
    assert kept.account("main") == Account("main", posted=10_000 - charged)
    assert kept.window("w/total") == Window("w/total", posted=charged)


def test_an_undo_after_the_ending_takes_nothing_back_twice() -> None:
    kept = books()
    one = hold(1000)
    change = kept.place(one)
    one.end(released())
    kept.end(one)
    kept.undo(change)
    assert kept.account("main") == Account("main", posted=10_000)


def test_a_hold_is_not_charged_before_it_is_durable() -> None:
    kept = books()
    one = hold(1000)
    kept.place(one)
    one.end(settled(5))
    with pytest.raises(RuntimeError, match="before it was durable"):
        kept.end(one)


def test_a_hold_of_an_account_that_is_not_there_is_refused() -> None:
    with pytest.raises(InsufficientQuota, match="no account"):
        books().place(hold(1, key=key(account="nobody")))


def test_a_hold_is_placed_once_and_is_not_negative() -> None:
    kept = books()
    one = hold(5)
    kept.place(one)
    for wrong in (one, hold(-1)):
        with pytest.raises(RuntimeError):
            kept.place(wrong)


def test_the_mark_below_which_all_have_ended_follows_the_oldest_open_hold() -> None:
    kept = books()
    ones = [hold(1) for _ in range(3)]
    for one in ones:
        kept.commit(kept.place(one))
    assert kept.open_from == 1
    for one, mark in ((ones[1], 1), (ones[0], 3), (ones[2], 4)):
        one.end(released())
        kept.end(one)
        assert kept.open_from == mark


def test_a_change_to_prepaid_that_is_undone_leaves_the_account_unlimited() -> None:
    kept = books()
    kept.commit(kept.open([Account("team", unlimited=True)]))
    change = kept.open([Account("team")])
    with pytest.raises(InsufficientQuota):
        kept.place(hold(1, key=key(account="team")))
    kept.undo(change)
    kept.place(hold(1, key=key(account="team")))


def test_a_change_to_unlimited_that_was_asked_for_earlier_does_not_reopen_the_account() -> None:
    kept = books(posted=0)
    wider = kept.open([Account("main", unlimited=True)])
    kept.commit(wider)
    narrower = kept.open([Account("main")])
    again = kept.open([Account("main", unlimited=True)])
    kept.commit(narrower)
    with pytest.raises(InsufficientQuota):
        kept.place(hold(1))
    kept.commit(again)
    kept.place(hold(1))


def test_windows_out_of_use_leave_memory_and_their_names_fail_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books_module, "WINDOWS_SWEPT_MIN", 10)
    kept = books()

    def spend(name: str, at: float) -> None:
        one = hold(1, window=name, window_limit=200, at=at)
        kept.commit(kept.place(one))
        one.end(settled(1))
        kept.end(one)

    for day in range(120):
        spend(f"laptop/{day}", NOW + day * DAY_S)
        spend("laptop/total", NOW + day * DAY_S)
    assert len(kept.windows()) < 100
    assert kept.window("laptop/total").posted == 120
    assert kept.window("laptop/119").posted == 1
    with pytest.raises(LedgerUnavailable):
        spend("laptop/0", NOW)


def test_the_oldest_idempotency_keys_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books_module, "REMEMBERED_MAX", 3)
    kept = books()
    for number in range(5):
        one = hold(1, idempotency=(f"order-{number}", b"digest"))
        kept.commit(kept.place(one))
        one.end(settled(1))
        kept.end(one)
    assert [number for number in range(5) if kept.remembered("key_laptop", f"order-{number}")] == [2, 3, 4]
