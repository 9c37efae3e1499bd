"""What every ledger promises. A module of tests per kind of ledger imports all of it."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from tests.ledger.shelf import NOW, Shelf, call, hold, key, released, settled
from tokenhub_proxy.errors import IdempotencyConflict, InsufficientQuota, InvalidRequest, LedgerUnavailable
from tokenhub_proxy.ledger import Account, Ledger, Window
from tokenhub_proxy.ledger.holding import holding

DAY_S = 86400.0

# --- holds


async def test_a_hold_takes_from_the_balance_and_a_settlement_takes_the_cost(ledger: Ledger) -> None:
    one = hold(600)
    await ledger.place(one)
    assert ledger.account("main") == Account("main", posted=10**9, held=600)

    one.end(settled(320))
    await ledger.finish(one)
    assert ledger.account("main") == Account("main", posted=10**9 - 320, held=0)


async def test_a_release_gives_everything_back(ledger: Ledger) -> None:
    one = hold(600)
    await ledger.place(one)
    one.end(released())
    await ledger.finish(one)

    assert ledger.account("main") == Account("main", posted=10**9)
    receipt = await ledger.receipt(one.request_id)
    assert receipt is not None
    assert (receipt.status, receipt.cost, receipt.reason) == ("released", 0, "refused")


async def test_a_balance_worth_ten_holds_takes_exactly_ten_of_two_hundred(
    ledger: Ledger, shelf: Shelf
) -> None:
    await shelf.fund(ledger, "small", 10_000)

    async def one() -> bool:
        try:
            await ledger.place(mine := hold(1000, account="small"))
        except InsufficientQuota:
            return False
        mine.end(settled(1000))
        await ledger.finish(mine)
        return True

    assert sum(await asyncio.gather(*(one() for _ in range(200)))) == 10
    assert ledger.account("small") == Account("small")


async def test_a_quota_window_is_spent_to_its_end_and_never_over(ledger: Ledger) -> None:
    quota = {"window": "laptop/2026-11", "window_limit": 2500}
    await call(ledger, 900, **quota)
    await call(ledger, 800, **quota)
    with pytest.raises(InsufficientQuota, match="quota"):
        ledger.place(hold(801, **quota))
    await call(ledger, 800, amount=800, **quota)

    assert ledger.window("laptop/2026-11") == Window("laptop/2026-11", posted=2500)
    # The next month is another counter.
    await call(ledger, 800, window="laptop/2026-12", window_limit=2500)


async def test_a_refused_quota_leaves_the_balance_alone(ledger: Ledger) -> None:
    before = ledger.account("main")
    with pytest.raises(InsufficientQuota):
        ledger.place(hold(10, window="w/2026-11", window_limit=9))
    assert ledger.account("main") == before


async def test_an_unlimited_account_goes_below_zero(ledger: Ledger) -> None:
    await call(ledger, 700, account="default")
    assert ledger.account("default") == Account("default", unlimited=True, posted=-700)


async def test_a_cost_above_the_hold_is_written_off(ledger: Ledger) -> None:
    one = await call(ledger, 1500, amount=1000)

    assert ledger.account("main") == Account("main", posted=10**9 - 1000)
    found = [entry async for entry in ledger.entries() if entry.request_id == one.request_id]
    assert [(e.kind, e.debit, e.credit, e.amount) for e in found] == [
        ("charge", "main", "upstream:openai", 1000),
        ("writeoff", "system:writeoff", "upstream:openai", 500),
    ]


async def test_a_second_ending_is_refused(ledger: Ledger) -> None:
    one = await call(ledger, 10)
    with pytest.raises(RuntimeError):
        one.end(released())
    with pytest.raises(RuntimeError):
        ledger.finish(one)


async def test_only_a_settlement_can_cost_anything(ledger: Ledger) -> None:
    one = hold()
    await ledger.place(one)
    one.end(dataclasses.replace(released(), cost=1))
    with pytest.raises(RuntimeError):
        ledger.finish(one)
    one.ending = None
    one.end(released())
    await ledger.finish(one)


async def test_a_request_id_is_used_once_and_its_neighbours_do_not_suffer(ledger: Ledger) -> None:
    first = await call(ledger, 10)
    twin, neighbour = hold(500, request_id=first.request_id), hold(300)
    results = await asyncio.gather(ledger.place(twin), ledger.place(neighbour), return_exceptions=True)

    assert isinstance(results[0], InvalidRequest)
    assert results[1] is None
    assert twin.id == 0
    assert ledger.account("main").held == 300
    neighbour.end(settled(5))
    await ledger.finish(neighbour)


async def test_a_cancelled_wait_still_releases_the_hold(ledger: Ledger) -> None:
    one = hold()

    async def enter() -> None:
        with await holding(ledger, one, lambda: NOW):
            raise AssertionError("never entered")

    task = asyncio.create_task(enter())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await call(ledger, 1)

    assert ledger.account("main").held == 0
    receipt = await ledger.receipt(one.request_id)
    assert receipt is not None
    assert receipt.status == "released"


async def test_what_breaks_a_block_is_raised_once_its_hold_is_released(ledger: Ledger) -> None:
    one = hold()
    with await holding(ledger, one, lambda: NOW) as held:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        await held.settled()

    assert (one.ending and one.ending.reason, held.failure) == ("KeyError", None)
    receipt = await ledger.receipt(one.request_id)
    assert (receipt and receipt.status, ledger.account("main").held) == ("released", 0)


async def test_a_block_that_notes_no_ending_releases_its_hold(ledger: Ledger) -> None:
    one = hold()
    with await holding(ledger, one, lambda: NOW) as held:
        assert ledger.account("main").held == 1000
    await held.settled()

    assert (one.ending and one.ending.reason, ledger.account("main").held) == ("nothing produced", 0)


async def test_a_clock_that_jumps_a_day_unbalances_nothing(ledger: Ledger) -> None:
    for jump in (0.0, DAY_S, -DAY_S, 0.0):
        quota = {"window": f"laptop/{int(NOW + jump) // 86400}", "window_limit": 10_000}
        one = hold(1000, at=NOW + jump, **quota)
        await ledger.place(one)
        one.end(dataclasses.replace(settled(100), at=NOW - jump))
        await ledger.finish(one)
    assert ledger.account("main").posted == 10**9 - 400
    assert ledger.window(f"laptop/{int(NOW) // 86400}").posted == 200


# --- money


async def test_credits_and_debits_are_entries_with_two_sides(ledger: Ledger) -> None:
    credit = await ledger.credit("main", 500, at=NOW, note="invoice 7")
    debit = await ledger.debit("main", 200, at=NOW, note="refund")

    assert ledger.account("main").posted == 10**9 + 300
    assert [entry async for entry in ledger.entries()][-2:] == [credit, debit]
    assert (credit.debit, credit.credit, credit.note) == ("system:world", "main", "invoice 7")
    assert (debit.debit, debit.credit, debit.note) == ("main", "system:world", "refund")


async def test_a_reference_is_credited_once(ledger: Ledger) -> None:
    booked = await asyncio.gather(
        *(ledger.credit("main", 500, at=NOW + n, reference="pay_1") for n in range(20))
    )
    again = await ledger.credit("main", 500, at=NOW + 99, reference="pay_1")

    assert {entry.id for entry in (*booked, again)} == {booked[0].id}
    assert ledger.account("main").posted == 10**9 + 500
    with pytest.raises(InvalidRequest, match="pay_1"):
        await ledger.credit("main", 501, at=NOW, reference="pay_1")


async def test_a_debit_can_not_take_what_is_held(ledger: Ledger) -> None:
    one = hold(10**9 - 100)
    await ledger.place(one)
    with pytest.raises(InsufficientQuota):
        ledger.debit("main", 101, at=NOW)
    both = await asyncio.gather(ledger.debit("main", 100, at=NOW), return_exceptions=True)
    assert both[0].amount == 100
    one.end(released())
    await ledger.finish(one)


async def test_two_debits_at_once_can_not_take_the_same_money(ledger: Ledger) -> None:
    first = ledger.debit("main", 10**9, at=NOW)
    with pytest.raises(InsufficientQuota):
        ledger.debit("main", 1, at=NOW)
    with pytest.raises(InsufficientQuota):
        ledger.place(hold(1))
    await first
    assert ledger.account("main").posted == 0


@pytest.mark.parametrize("amount", [0, -1, 4 * 10**18 + 1])
async def test_amounts_outside_the_books_are_refused(ledger: Ledger, amount: int) -> None:
    with pytest.raises(InvalidRequest):
        ledger.credit("main", amount, at=NOW)
    with pytest.raises(InvalidRequest):
        ledger.debit("main", amount, at=NOW)


async def test_no_balance_leaves_what_a_row_can_hold(ledger: Ledger) -> None:
    await ledger.credit("default", 4 * 10**18, at=NOW)
    with pytest.raises(InvalidRequest):
        ledger.credit("default", 1, at=NOW)
    one = hold(8 * 10**18, account="default")
    await ledger.place(one)
    with pytest.raises(InsufficientQuota):
        ledger.place(hold(1, account="default"))
    one.end(settled(8 * 10**18))
    await ledger.finish(one)
    assert ledger.account("default").posted == -4 * 10**18


# --- accounts and keys


async def test_the_default_account_is_always_there_and_unlimited(ledger: Ledger) -> None:
    assert ledger.account("default") == Account("default", unlimited=True)
    with pytest.raises(InvalidRequest):
        ledger.open_account(Account("default", unlimited=False))


@pytest.mark.parametrize("name", ["", "upstream:openai", "a\nb", "x" * 129])
async def test_names_that_are_no_account_are_refused(ledger: Ledger, name: str) -> None:
    with pytest.raises(InvalidRequest):
        ledger.open_account(Account(name))


async def test_an_account_below_zero_can_not_become_prepaid(ledger: Ledger) -> None:
    await ledger.open_account(Account("team", unlimited=True))
    await call(ledger, 500, account="team")
    with pytest.raises(InvalidRequest, match="below zero"):
        ledger.open_account(Account("team"))

    await ledger.credit("team", 500, at=NOW)
    change = ledger.open_account(Account("team"))
    # In force at once, before it is durable: nobody slips through in between.
    with pytest.raises(InsufficientQuota):
        ledger.place(hold(1, account="team"))
    await change
    assert ledger.account("team") == Account("team")
    await ledger.open_account(Account("team", unlimited=True))
    await call(ledger, 5, account="team")


async def test_a_key_is_found_by_its_digest_and_a_revocation_binds_the_next_request(ledger: Ledger) -> None:
    mine = key("mine")
    assert ledger.find_key(mine.digest) is None
    await ledger.put_key(mine)
    assert ledger.find_key(mine.digest) == mine

    revoked = dataclasses.replace(mine, revoked_at=NOW)
    await ledger.put_key(revoked)
    found = ledger.find_key(mine.digest)
    assert found == revoked
    assert not found.works(mine.digest, NOW)


async def test_a_rotated_key_is_found_by_both_its_digests(ledger: Ledger) -> None:
    mine = key("mine")
    await ledger.put_key(mine)
    rotated = dataclasses.replace(
        mine, digest=b"2" * 32, previous_digest=mine.digest, previous_until=NOW + 60
    )
    await ledger.put_key(rotated)
    assert ledger.find_key(mine.digest) == rotated
    assert ledger.find_key(b"2" * 32) == rotated


async def test_a_name_and_a_secret_belong_to_one_key(ledger: Ledger) -> None:
    first = ledger.put_key(key("mine"))
    with pytest.raises(InvalidRequest, match="secret"):
        ledger.put_key(key("other", digest=key("mine").digest))
    with pytest.raises(InvalidRequest, match="name"):
        ledger.put_key(dataclasses.replace(key("mine"), id="key_other", digest=b"x" * 32))
    with pytest.raises(InvalidRequest, match="account"):
        ledger.put_key(key("third", account="nobody"))
    await first
    assert [one.name for one in ledger.list_keys()] == ["mine"]


async def test_the_configs_keys_replace_each_other_and_a_changed_one_stays_changed(ledger: Ledger) -> None:
    a, b = (dataclasses.replace(key(name), from_config=True) for name in "ab")
    await ledger.declare([a, b], [Account("main"), Account("team", unlimited=True)])
    assert [one.name for one in ledger.list_keys()] == ["a", "b"]
    assert ledger.account("team") == Account("team", unlimited=True)

    await ledger.put_key(dataclasses.replace(a, revoked_at=NOW))
    await ledger.declare([a], [Account("main")])
    assert [one.name for one in ledger.list_keys()] == ["a"]
    assert ledger.find_key(a.digest).revoked_at == NOW
    assert ledger.find_key(b.digest) is None


async def test_a_declaration_is_all_or_nothing(ledger: Ledger) -> None:
    a = key("a")
    await ledger.declare([a], [])
    for keys in (
        [key("b"), key("b")],
        [key("b"), key("c", digest=key("b").digest)],
        [key("b", account="no")],
    ):
        with pytest.raises(InvalidRequest):
            ledger.declare(keys, [Account("new")])
    assert list(ledger.list_keys()) == [a]
    assert ledger.account("new") is None


# --- idempotency


async def test_an_idempotency_key_means_one_call(ledger: Ledger) -> None:
    one = hold(idempotency=("order-7", b"digest"))
    await ledger.place(one)
    with pytest.raises(IdempotencyConflict, match="running"):
        ledger.place(hold(idempotency=("order-7", b"digest")))
    with pytest.raises(InvalidRequest):
        ledger.place(hold(idempotency=("order-7", b"other")))

    one.end(settled(30))
    await ledger.finish(one)
    with pytest.raises(IdempotencyConflict, match=one.request_id):
        ledger.place(hold(idempotency=("order-7", b"digest")))
    with pytest.raises(InvalidRequest):
        ledger.place(hold(idempotency=("order-7", b"other")))
    remembered = ledger.remembered("key_laptop", "order-7")
    assert (remembered.digest, remembered.request_id) == (b"digest", one.request_id)
    assert (remembered.status, remembered.http_status) == ("settled", 200)
    # Another key's client may use the same words.
    await call(ledger, 1, key=key("phone"), idempotency=("order-7", b"other"))


async def test_a_released_call_may_be_tried_again_under_its_idempotency_key(ledger: Ledger) -> None:
    one = hold(idempotency=("order-7", b"digest"))
    await ledger.place(one)
    one.end(released())
    await ledger.finish(one)
    assert ledger.remembered("key_laptop", "order-7") is None
    await call(ledger, 5, idempotency=("order-7", b"digest"))


async def test_an_idempotency_key_is_forgotten_after_a_day(ledger: Ledger) -> None:
    await call(ledger, 5, idempotency=("order-7", b"digest"))
    later = NOW + DAY_S + 1
    await call(ledger, 5, at=later, idempotency=("order-8", b"digest"))
    await call(ledger, 5, at=later, idempotency=("order-7", b"other"))


async def test_a_closed_ledger_takes_nothing(ledger: Ledger, shelf: Shelf) -> None:
    await shelf.close(ledger)
    assert ledger.unavailable == "closed"
    with pytest.raises(LedgerUnavailable):
        ledger.place(hold())
    with pytest.raises(LedgerUnavailable):
        ledger.credit("main", 1, at=NOW)
    await ledger.aclose()
