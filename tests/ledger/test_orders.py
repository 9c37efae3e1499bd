"""Orders in the books: each payment credits once, whatever comes in whatever order, and it adds up."""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ledger.shelf import NOW, Shelf, hold, settled
from tokenhub_proxy.errors import InsufficientQuota, InvalidRequest, NotFound
from tokenhub_proxy.ledger import Account, schema
from tokenhub_proxy.ledger.orders import (
    OPEN_ORDERS_MAX,
    WEBHOOKS_MAX,
    AskRefund,
    Attach,
    Close,
    Code,
    Complete,
    Create,
    Log,
    Mint,
    Observe,
    Order,
    Redeem,
    Refunded,
    Spread,
    Webhook,
)
from tokenhub_proxy.ledger.sqlite import SqliteLedger

USD = 10**9
_ids = itertools.count(1)


@pytest.fixture
async def shelf(tmp_path: Path) -> Shelf:
    return Shelf(str(tmp_path))


@pytest.fixture
async def ledger(shelf: Shelf) -> AsyncIterator[SqliteLedger]:
    one = await shelf.open()
    await one.open_account(Account("main"))
    yield one
    for each in list(shelf.opened):
        assert await each.verify() == []
        await shelf.close(each)


def order(**fields: object) -> Order:
    made = Order(
        f"ord_{next(_ids)}", "main", "yookassa", "card", 95_000, "RUB", 10 * USD, NOW, NOW + 3600,
        fee=1_000, rate=94_000_000,
    )  # fmt: skip
    return replace(made, **fields)


def paid(one: Order, payment: str = "pay_1", **fields: object) -> Observe:
    return replace(
        Observe(one.id, NOW + 1, one.provider, payment, "paid", one.amount, one.currency), **fields
    )


async def posted(ledger: SqliteLedger) -> int:
    account = ledger.account("main")
    assert account is not None
    return account.posted


async def test_an_order_is_made_attached_and_credited(ledger: SqliteLedger, shelf: Shelf) -> None:
    one = order()
    assert (await ledger.take(Create(one))).verdict == "created"
    assert (await ledger.take(Attach(one.id, NOW, "pay_1", "https://pay"))).order.state == "pending"
    assert [each.id for each in await ledger.open_orders()] == [one.id]

    outcome = await ledger.take(paid(one))

    assert (outcome.verdict, outcome.moved, await posted(ledger)) == ("credited", 10 * USD, 10 * USD)
    assert await ledger.open_orders() == []
    await shelf.close(ledger)
    again = await shelf.open()
    assert await posted(again) == 10 * USD
    assert (await again.order_of_payment("yookassa", "pay_1")).state == "paid"
    assert [event.kind for event in await again.order_events(one.id)] == ["created", "attached", "paid"]


async def test_the_same_id_twice_is_one_order_and_another_top_up_under_it_is_refused(
    ledger: SqliteLedger,
) -> None:
    one = order()
    await ledger.take(Create(one))
    assert (await ledger.take(Create(one))).verdict == "unchanged"
    with pytest.raises(InvalidRequest, match="something else"):
        await ledger.take(Create(replace(one, nanos=11 * USD)))


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"amount": 94_999}, "wrong_amount"),
        ({"amount": 95_001}, "wrong_amount"),
        ({"currency": "USD"}, "wrong_currency"),
        ({"test": True}, "wrong_mode"),
    ],
)
async def test_a_payment_that_does_not_agree_is_for_people(
    ledger: SqliteLedger, change: dict[str, object], verdict: str
) -> None:
    one = order()
    await ledger.take(Create(one))
    for _ in range(2):
        outcome = await ledger.take(paid(one, **change))
        assert (outcome.verdict, outcome.order.state, outcome.moved) == (verdict, "needs_review", 0)
    assert await posted(ledger) == 0


async def test_another_providers_payment_leaves_an_order_alone(ledger: SqliteLedger) -> None:
    one = order()
    await ledger.take(Create(one))
    outcome = await ledger.take(paid(one, provider="cryptopay"))
    assert (outcome.verdict, outcome.order.state) == ("wrong_provider", "created")
    assert (await ledger.take(paid(order()))).verdict == "unknown_order"


async def test_a_payment_of_one_order_does_not_credit_another(ledger: SqliteLedger) -> None:
    one, other = order(), order()
    await ledger.take(Create(one))
    await ledger.take(Create(other))
    await ledger.take(paid(one))
    assert (await ledger.take(paid(other))).verdict == "duplicate"
    with pytest.raises(InvalidRequest, match="was credited"):
        await ledger.take(Complete(other.id, NOW, "it is there", payment="pay_1"))
    assert await posted(ledger) == 10 * USD


async def test_a_second_payment_of_a_paid_order_is_for_people(ledger: SqliteLedger) -> None:
    one = order()
    await ledger.take(Create(one))
    await ledger.take(paid(one))
    assert (await ledger.take(paid(one, "pay_2"))).order.state == "needs_review"
    done = await ledger.take(Complete(one.id, NOW, "paid back in the cabinet"))
    assert (done.order.state, await posted(ledger)) == ("paid", 10 * USD)


async def test_money_that_comes_after_the_end_still_counts(ledger: SqliteLedger) -> None:
    for state in ("expired", "canceled"):
        one = order()
        await ledger.take(Create(one))
        await ledger.take(Close(one.id, NOW, state))
        assert (await ledger.take(paid(one, f"late_{state}"))).verdict == "credited"
    assert await posted(ledger) == 20 * USD


async def test_parts_paid_back_add_up_to_exactly_what_was_credited(ledger: SqliteLedger) -> None:
    one = order(nanos=10 * USD + 1)
    await ledger.take(Create(one))
    await ledger.take(paid(one))
    for refunded in (31_667, 63_333, 63_333, 31_667, 95_000):
        await ledger.take(paid(one, refunded=refunded))
    found = await ledger.order(one.id)
    assert (found.state, found.returned, await posted(ledger)) == ("refunded", 10 * USD + 1, 0)


async def test_a_refund_may_take_a_balance_below_zero_and_that_stops_calls(
    ledger: SqliteLedger, shelf: Shelf
) -> None:
    one = order()
    await ledger.take(Create(one))
    await ledger.take(paid(one))
    spent = hold(4 * USD)
    await ledger.place(spent)
    await ledger.take(paid(one, refunded=one.amount))
    spent.end(settled(3 * USD))
    await ledger.finish(spent)

    assert await posted(ledger) == -3 * USD
    with pytest.raises(InsufficientQuota):
        ledger.place(hold(1))
    await ledger.declare([], [Account("main")])
    await shelf.close(ledger)
    again = await shelf.open()
    await again.declare([], [Account("main")])
    assert await posted(again) == -3 * USD
    await again.credit("main", 5 * USD, at=NOW)
    await again.place(hold(2 * USD))


async def test_test_money_and_live_money_never_meet_in_one_account(ledger: SqliteLedger) -> None:
    live, test = order(), order(test=True)
    await ledger.take(Create(live))
    await ledger.take(Create(test))
    await ledger.take(paid(live))
    outcome = await ledger.take(paid(test, "pay_test", test=True))
    assert (outcome.verdict, outcome.order.state, await posted(ledger)) == (
        "wrong_mode", "needs_review", 10 * USD,
    )  # fmt: skip


async def test_a_refund_is_asked_for_before_it_is_made(ledger: SqliteLedger) -> None:
    one = order()
    await ledger.take(Create(one))
    with pytest.raises(InvalidRequest, match="nothing to refund"):
        await ledger.take(AskRefund(one.id, NOW, 1))
    await ledger.take(paid(one))
    with pytest.raises(InvalidRequest, match="that much"):
        await ledger.take(AskRefund(one.id, NOW, one.amount + 1))
    await ledger.take(AskRefund(one.id, NOW, one.amount))
    assert [each.id for each in await ledger.open_orders()] == [one.id]
    await ledger.take(paid(one, refunded=one.amount))
    assert await ledger.open_orders() == []


async def test_what_was_paid_back_by_hand_is_booked_with_its_reason(ledger: SqliteLedger) -> None:
    one = order()
    await ledger.take(Create(one))
    await ledger.take(paid(one))
    await ledger.take(Refunded(one.id, NOW, 47_500, "chargeback 7"))
    assert await posted(ledger) == 5 * USD
    assert [event.note for event in await ledger.order_events(one.id)][-1] == "chargeback 7"


async def test_an_order_is_completed_by_hand_once(ledger: SqliteLedger) -> None:
    one = order()
    await ledger.take(Create(one))
    await ledger.take(paid(one, amount=1))
    assert (await ledger.take(Complete(one.id, NOW, "the rest came in cash"))).verdict == "completed"
    assert (await ledger.take(Complete(one.id, NOW, "again"))).verdict == "unchanged"
    assert (await ledger.take(paid(one, amount=1))).verdict == "unchanged"
    assert await posted(ledger) == 10 * USD


async def test_amounts_are_spread_so_that_no_two_open_orders_share_one(ledger: SqliteLedger) -> None:
    spread = Spread(step=100, count=5, first=4, since=NOW - 60, nanos_per_unit=1000)
    seen = []
    for _ in range(5):
        one = order(provider="tron", currency="USDT", amount=10_000_000, fee=0, rate=None)
        made = (await ledger.take(Create(one, spread))).order
        assert made.nanos == made.amount * 1000
        seen.append(made.amount)
    assert seen == [10_000_400, 10_000_500, 10_000_100, 10_000_200, 10_000_300]
    with pytest.raises(InvalidRequest, match="another sum"):
        await ledger.take(Create(order(provider="tron", amount=10_000_000, fee=0), spread))


async def test_an_account_has_a_bounded_number_of_open_orders(ledger: SqliteLedger) -> None:
    await asyncio.gather(*(ledger.take(Create(order())) for _ in range(OPEN_ORDERS_MAX)))
    with pytest.raises(InvalidRequest, match="wait for their money"):
        await ledger.take(Create(order()))


async def test_a_code_is_redeemed_once_however_many_try(ledger: SqliteLedger) -> None:
    await ledger.take(Mint((Code(b"a" * 32, 5 * USD, NOW), Code(b"b" * 32, USD, NOW, expires_at=NOW + 1))))
    tried = await asyncio.gather(
        *(ledger.take(Redeem(b"a" * 32, "main", f"ord_code_{number}", NOW)) for number in range(50)),
        return_exceptions=True,
    )
    assert sum(not isinstance(one, Exception) for one in tried) == 1
    assert {str(one) for one in tried if isinstance(one, Exception)} == {
        "No such code, or it was used or has expired."
    }
    for digest in (b"b" * 32, b"c" * 32):
        with pytest.raises(NotFound, match="No such code"):
            await ledger.take(Redeem(digest, "main", "ord_late", NOW + 2))
    assert await posted(ledger) == 5 * USD


async def test_fifty_at_once_in_any_order_are_one_credit_and_one_refund(ledger: SqliteLedger) -> None:
    one = order()
    await ledger.take(Create(one))
    seen = [paid(one, refunded=one.amount), paid(one), paid(one, state="pending")] * 50
    random.Random(7).shuffle(seen)
    await asyncio.gather(*(ledger.take(step) for step in seen))
    entries = [entry async for entry in ledger.entries()]
    assert [(entry.kind, entry.amount) for entry in entries] == [("credit", 10 * USD), ("debit", 10 * USD)]
    assert await posted(ledger) == 0


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_snapshots_in_any_order_and_number_end_the_same(data: st.DataObject) -> None:
    """The balance is what was paid less the most that was ever seen refunded."""

    async def run() -> None:
        shelf = Shelf("", in_memory=True)
        ledger = await shelf.open()
        await ledger.open_account(Account("main"))
        one = order()
        await ledger.take(Create(one))
        refunds = data.draw(st.lists(st.integers(0, one.amount), min_size=1, max_size=8))
        for refunded in refunds:
            await ledger.take(paid(one, refunded=refunded))
        assert await posted(ledger) == one.nanos - one.nanos * max(refunds) // one.amount
        assert await ledger.verify() == []
        await shelf.close(ledger)

    asyncio.run(run())


async def test_the_log_of_webhooks_is_bounded(ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenhub_proxy.ledger.order_rows.WEBHOOKS_MAX", 3)
    for number in range(5):
        await ledger.take(Log(Webhook(NOW, "yookassa", "::1", number, "e", "p", "o", "credited")))
    assert [hook.length for hook in await ledger.webhooks()] == [4, 3, 2]
    assert WEBHOOKS_MAX >= 1000


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE orders SET nanos = nanos + 1",
        "UPDATE orders SET credited = 0, state = 'pending'",
        "DELETE FROM orders",
        "UPDATE order_events SET amount = 1",
        "DELETE FROM order_events",
        "UPDATE codes SET order_id = NULL, used_at = NULL",
        "DELETE FROM codes",
    ],
)
async def test_the_file_itself_refuses_to_rewrite_the_past(
    ledger: SqliteLedger, shelf: Shelf, statement: str
) -> None:
    one = order()
    await ledger.take(Create(one))
    await ledger.take(paid(one))
    await ledger.take(Mint((Code(b"a" * 32, USD, NOW),)))
    await ledger.take(Redeem(b"a" * 32, "main", "ord_code", NOW))
    await shelf.close(ledger)
    with pytest.raises(sqlite3.IntegrityError):
        shelf.edit(statement)
    await shelf.open()


async def test_a_file_from_before_orders_is_brought_up_with_all_it_holds(shelf: Shelf) -> None:
    """Accounts are made anew under the tables that refer to them."""
    connection = sqlite3.connect(shelf.path)
    for statement in schema.MIGRATIONS[0]:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")
    connection.execute("INSERT INTO accounts VALUES ('main', 0, 700, 0)")
    connection.execute(
        "INSERT INTO keys VALUES ('k', 'k', 'main', x'00', NULL, NULL,"
        """ '{"models": ["*"], "ips": []}', 0.0, NULL, 0)"""
    )
    connection.execute(
        "INSERT INTO entries VALUES (1, 0.0, 'credit', 'system:world', 'main', 700, NULL, NULL, NULL, '')"
    )
    connection.commit()
    connection.close()

    ledger = await shelf.open()
    assert ledger.account("main") == Account("main", posted=700)
    assert [key.account for key in ledger.list_keys()] == ["main"]
    one = order()
    await ledger.take(Create(one))
    await ledger.take(paid(one, refunded=one.amount))
    await ledger.take(Create(order()))
    assert await ledger.verify() == []
    await shelf.close(ledger)
    with pytest.raises(sqlite3.IntegrityError):
        shelf.edit("PRAGMA foreign_keys = ON", "DELETE FROM accounts WHERE name = 'main'")


@pytest.mark.damaged
@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE accounts SET refunded = 1 WHERE name = 'main'", "was refunded"),
        ("UPDATE orders SET credited = nanos, state = 'paid' WHERE state = 'created'", "was credited"),
        ("UPDATE orders SET state = 'pending' WHERE state = 'paid'", "is pending"),
    ],
)
async def test_verify_finds_orders_that_do_not_match_their_entries(
    shelf: Shelf, statement: str, told: str
) -> None:
    ledger = await shelf.open()
    await ledger.open_account(Account("main"))
    one = order()
    await ledger.take(Create(one))
    await ledger.take(Create(order()))
    await ledger.take(paid(one))
    assert await ledger.verify() == []
    await shelf.close(ledger)
    shelf.edit(statement)
    again = await shelf.open()
    assert any(told in line for line in await again.verify())
    await shelf.close(again)
