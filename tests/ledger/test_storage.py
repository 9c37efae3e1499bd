"""Storage that fails: nothing is spent meanwhile, and what was delivered is charged exactly once."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sqlite3
import time

import pytest

from tests.ledger.shelf import NOW, Shelf, call, hold, key, released, settled
from tests.ledger.storage import Storage
from tokenhub_proxy.errors import LedgerUnavailable
from tokenhub_proxy.ledger import committer
from tokenhub_proxy.ledger.sqlite import SqliteLedger


@pytest.fixture
def ledger(stored: SqliteLedger) -> SqliteLedger:
    return stored


async def writable(ledger: SqliteLedger) -> None:
    """Wait for the retry that finds storage back."""
    async with asyncio.timeout(10):
        while ledger.unavailable is not None:
            await asyncio.sleep(0.01)


FAILURES = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_READONLY", "SQLITE_BUSY")


@pytest.mark.parametrize("name", FAILURES)
async def test_a_hold_that_can_not_be_written_never_was(
    ledger: SqliteLedger, storage: Storage, name: str
) -> None:
    storage.fail(name)
    one = hold(idempotency=("order", b"digest"))
    with pytest.raises(LedgerUnavailable) as refusal:
        await ledger.place(one)
    assert refusal.value.reason == name
    assert ledger.unavailable == name
    assert one.id == 0
    assert ledger.account("main").held == 0
    with pytest.raises(LedgerUnavailable):  # at once: nobody waits for storage that is known to fail
        ledger.place(hold())

    storage.heal()
    await writable(ledger)
    again = await call(ledger, 7, idempotency=("order", b"digest"))
    assert (await ledger.receipt(again.request_id)).status == "settled"
    assert await ledger.receipt(one.request_id) is None


@pytest.mark.parametrize("name", FAILURES)
async def test_an_ending_is_written_once_when_storage_returns(
    ledger: SqliteLedger, storage: Storage, name: str
) -> None:
    ones = [hold(1000) for _ in range(5)]
    await asyncio.gather(*(ledger.place(one) for one in ones))
    storage.fail(name)
    for one in ones:
        one.end(settled(400))
    waiting = [asyncio.ensure_future(ledger.finish(one)) for one in ones]
    await asyncio.sleep(0.3)  # a few retries
    assert not any(waiter.done() for waiter in waiting)

    storage.heal()
    await asyncio.gather(*waiting)
    assert ledger.account("main").posted == 10**9 - 5 * 400
    charges = [entry async for entry in ledger.entries() if entry.kind == "charge"]
    assert sorted(entry.request_id for entry in charges) == sorted(one.request_id for one in ones)


async def test_an_ending_that_waits_too_long_is_told_and_still_written(
    ledger: SqliteLedger, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "ENDING_WAIT_S", 0.1)
    monkeypatch.setattr(committer, "WATCH_S", 0.02)
    one = hold(1000)
    await ledger.place(one)
    storage.fail("SQLITE_FULL")
    one.end(settled(400))
    with pytest.raises(LedgerUnavailable):
        await ledger.finish(one)

    storage.heal()
    await writable(ledger)
    assert (await ledger.receipt(one.request_id)).cost == 400


async def test_money_that_an_unwritten_ending_freed_can_be_used_and_the_file_agrees(
    ledger: SqliteLedger, storage: Storage, shelf: Shelf
) -> None:
    await shelf.fund(ledger, "small", 1000)
    first = hold(1000, account="small")
    await ledger.place(first)
    storage.fail("SQLITE_BUSY", "BEGIN")
    first.end(released())
    freed = asyncio.ensure_future(ledger.finish(first))
    second = hold(1000, account="small")  # in the same transaction as what frees its money
    with pytest.raises(LedgerUnavailable):
        await ledger.place(second)
    storage.heal()
    await freed
    await writable(ledger)
    await call(ledger, 1000, account="small")


@pytest.mark.parametrize("name", ["SQLITE_IOERR_FSYNC", "SQLITE_BUSY", "SQLITE_FULL"])
async def test_a_commit_that_landed_without_saying_so_is_not_repeated(
    ledger: SqliteLedger, storage: Storage, name: str
) -> None:
    one = hold(1000)
    await ledger.place(one)
    storage.after_commit = name
    one.end(settled(400))
    await ledger.finish(one)
    storage.after_commit = name
    await ledger.credit("main", 5, at=NOW)
    assert ledger.account("main").posted == 10**9 - 400 + 5


@pytest.mark.parametrize("landed", [True, False])
async def test_a_commit_in_doubt_is_asked_about_before_anything_else(
    ledger: SqliteLedger, storage: Storage, landed: bool
) -> None:
    old = hold(1000)
    await ledger.place(old)
    old.end(settled(400))
    new = hold(2000)
    if landed:
        storage.after_commit = "SQLITE_IOERR_FSYNC"
        storage.fail("SQLITE_IOERR_READ", "SELECT batch")
    else:
        storage.fail("SQLITE_IOERR_READ", "SELECT batch", "COMMIT")
    ending = asyncio.ensure_future(ledger.finish(old))
    with pytest.raises(LedgerUnavailable):
        await ledger.place(new)
    assert ledger.account("main").held == 2000  # nobody knows, so it counts

    storage.heal()
    await ending
    await writable(ledger)
    await call(ledger, 1)
    assert ledger.account("main").held == 0
    receipt = await ledger.receipt(new.request_id)
    assert (receipt.status if receipt else None) == ("released" if landed else None)
    assert (await ledger.receipt(old.request_id)).cost == 400


async def test_a_stalled_disk_refuses_holds_and_what_lands_later_is_released(
    ledger: SqliteLedger, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "HOLD_WAIT_S", 0.1)
    monkeypatch.setattr(committer, "WATCH_S", 0.02)
    storage.gate.clear()
    one = hold(1000)
    with pytest.raises(LedgerUnavailable, match="can't be written"):
        await ledger.place(one)
    assert ledger.unavailable == "stalled"

    storage.gate.set()
    await writable(ledger)
    await call(ledger, 1)
    assert (await ledger.receipt(one.request_id)).status == "released"


async def test_a_credit_and_a_key_that_can_not_be_written_change_nothing(
    ledger: SqliteLedger, storage: Storage
) -> None:
    for change in (
        lambda: ledger.credit("main", 500, at=NOW),
        lambda: ledger.debit("main", 500, at=NOW),
        lambda: ledger.put_key(key("mine")),
        lambda: ledger.declare([key("mine")], []),
    ):
        storage.fail("SQLITE_FULL")
        waiting = hold()
        results = await asyncio.gather(ledger.place(waiting), change(), return_exceptions=True)
        assert [type(result) for result in results] == [LedgerUnavailable, LedgerUnavailable]
        assert ledger.find_key(key("mine").digest) is None
        assert (ledger.account("main").posted, ledger.account("main").held) == (10**9, 0)
        storage.heal()
        await writable(ledger)
    await ledger.put_key(key("mine"))


async def test_damage_found_while_running_stops_writing_for_good(
    ledger: SqliteLedger, storage: Storage, shelf: Shelf
) -> None:
    one = hold(1000)
    await ledger.place(one)
    storage.fail("SQLITE_CORRUPT")
    with pytest.raises(LedgerUnavailable):
        await ledger.place(hold())
    storage.heal()
    await asyncio.sleep(0.2)
    assert "damaged" in ledger.unavailable
    with pytest.raises(LedgerUnavailable):
        ledger.place(hold())
    one.end(settled(1))
    with pytest.raises(LedgerUnavailable):
        await ledger.finish(one)
    await shelf.close(ledger)
    reopened = await shelf.open()
    assert (await reopened.receipt(one.request_id)).status == "expired"


@pytest.mark.damaged
async def test_an_ending_that_the_file_refuses_stops_spending(
    ledger: SqliteLedger, shelf: Shelf, storage: Storage
) -> None:
    one = hold(1000)
    await ledger.place(one)
    await ledger.place(other := hold(500))
    storage.raw.execute("UPDATE accounts SET held = 0 WHERE name = 'main'")
    one.end(settled(10))
    with pytest.raises(LedgerUnavailable):
        await ledger.finish(one)
    assert "refused" in ledger.unavailable
    with pytest.raises(LedgerUnavailable):
        ledger.place(hold())
    del other
    await shelf.close(ledger)


async def test_closing_waits_for_storage_and_writes_what_is_left(
    ledger: SqliteLedger, storage: Storage, shelf: Shelf
) -> None:
    one = hold(1000)
    await ledger.place(one)
    storage.fail("SQLITE_FULL")
    one.end(settled(400))
    ending = asyncio.ensure_future(ledger.finish(one))
    closing = asyncio.ensure_future(shelf.close(ledger))
    await asyncio.sleep(0.1)
    storage.heal()
    await closing
    await ending
    reopened = await shelf.open()
    assert (await reopened.receipt(one.request_id)).cost == 400


async def test_a_full_disk_loses_nothing_that_was_delivered(ledger: SqliteLedger, storage: Storage) -> None:
    open_ = [hold(1000) for _ in range(20)]
    await asyncio.gather(*(ledger.place(one) for one in open_))
    pages = storage.raw.execute("PRAGMA page_count").fetchone()[0]
    storage.raw.execute(f"PRAGMA max_page_count = {pages}")
    refused = 0
    for _ in range(300):
        try:
            await ledger.place(one := hold(10, model="x" * 200))
            open_.append(one)
        except LedgerUnavailable:
            refused += ledger.unavailable == "SQLITE_FULL"
            await asyncio.sleep(0.001)
    assert refused
    for one in open_:
        one.end(settled(3))
    endings = [asyncio.ensure_future(ledger.finish(one)) for one in open_]
    await asyncio.sleep(0.2)
    storage.raw.execute("PRAGMA max_page_count = 1000000")
    await asyncio.gather(*endings)
    assert ledger.account("main").posted == 10**9 - 3 * len(open_)


def _lock_repeatedly(path: str, rounds: int) -> None:
    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    for number in range(rounds):
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(0.1 + 0.8 * (number % 3) / 2)
        connection.execute("ROLLBACK")
        time.sleep(0.05)
    connection.close()


async def test_another_process_that_locks_the_file_now_and_then_only_slows_us_down(shelf: Shelf) -> None:
    ledger = await shelf.open()
    await shelf.fund(ledger, "main", 10**9)
    other = multiprocessing.get_context("spawn").Process(target=_lock_repeatedly, args=(shelf.path, 3))
    other.start()
    calls = 0
    while other.is_alive():
        await asyncio.gather(*(call(ledger, 1) for _ in range(5)))
        calls += 5
        await asyncio.sleep(0.01)
    other.join()
    assert other.exitcode == 0
    assert ledger.account("main").posted == 10**9 - calls


async def test_a_report_that_takes_too_long_is_cut(shelf: Shelf) -> None:
    ledger = await shelf.open()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(LedgerUnavailable) as refusal:
        await ledger._reader.fetch((endless, ()), deadline_s=0.05)
    assert "longer" in refusal.value.reason
    assert await ledger.receipt("none") is None


async def test_a_reader_can_not_write(shelf: Shelf) -> None:
    ledger = await shelf.open()
    with pytest.raises(LedgerUnavailable):
        await ledger._reader.fetch(("DELETE FROM meta", ()))
    assert os.stat(shelf.path).st_mode & 0o077 == 0


async def test_a_call_binds_numbers_and_texts_alone_and_what_is_absent_is_null_all_the_same(
    ledger: SqliteLedger, storage: Storage
) -> None:
    """`sqlite3` takes ten times as long to bind None, True or False."""
    storage.bound.clear()
    one = await call(ledger, 7)
    assert {type(value) for value in storage.bound} == {int, float, str}

    assert storage.raw is not None
    (row,) = storage.raw.execute(
        "SELECT h.window_name, e.first_byte_ms, e.attempts, n.window_name, n.reference"
        " FROM holds h JOIN endings e ON e.hold = h.id JOIN entries n USING (request_id)"
        " WHERE request_id = ?",
        (one.request_id,),
    ).fetchall()
    assert row == (None,) * 5


async def test_of_many_open_calls_a_few_changes_wait_for_company_and_of_few_none_does(
    ledger: SqliteLedger, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "PACE_S", 0.2)
    before = storage.commits
    for _ in range(committer.COMPANY):  # alone each time, so each is a commit of its own
        await ledger.place(hold())
    assert storage.commits - before == committer.COMPANY

    await ledger.place(hold())
    began, before = time.monotonic(), storage.commits
    waiting = []
    for _ in range(3):
        waiting.append(asyncio.ensure_future(ledger.place(hold())))
        for _ in range(2 * committer.GATHERING_TURNS_MAX):  # longer than a batch gathers
            await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert storage.commits - before == 1
    assert time.monotonic() - began < 2

    before = storage.commits
    await asyncio.gather(*(ledger.place(hold()) for _ in range(3)))  # more than a 64th: at once
    assert storage.commits - before == 1
