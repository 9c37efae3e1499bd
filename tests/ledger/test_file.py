"""The ledger's file: who owns it, what is accepted, what a restart finds, what tampering leaves."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import subprocess
import sys
import textwrap

import pytest

from tests.ledger.shelf import NOW, Shelf, call, hold, key, settled
from tokenhub_proxy.errors import IdempotencyConflict, InsufficientQuota, LedgerUnavailable
from tokenhub_proxy.ledger import Account, LedgerInUse, LedgerRefused, schema
from tokenhub_proxy.ledger import file as file_module
from tokenhub_proxy.ledger.file import path_of
from tokenhub_proxy.ledger.sqlite import SqliteLedger, open_ledger

DAY_S = 86400.0


# --- the url and the lock


def test_a_url_is_relative_after_three_slashes_and_absolute_after_four() -> None:
    assert path_of("sqlite:///books.db") == os.path.realpath("books.db")
    assert path_of("sqlite:////var/books.db") == "/var/books.db"
    assert path_of("sqlite:///:memory:") == ":memory:"
    for wrong in ("sqlite:///", "", "postgresql://user@host/db"):
        with pytest.raises(LedgerRefused):
            path_of(wrong)


async def test_a_second_ledger_on_the_file_is_refused_and_told_who_has_it(
    ledger: SqliteLedger, shelf: Shelf
) -> None:
    with pytest.raises(LedgerInUse, match=f"process {os.getpid()} on "):
        await shelf.open()
    await call(ledger, 1)


async def test_a_second_process_on_the_file_is_refused_and_resolves_nothing(
    ledger: SqliteLedger, shelf: Shelf
) -> None:
    one = hold()
    await ledger.place(one)
    program = f"""
        import asyncio, time
        from tokenhub_proxy.ledger import LedgerInUse
        from tokenhub_proxy.ledger.sqlite import open_ledger
        try:
            asyncio.run(open_ledger({shelf.url!r}, clock=time.time))
        except LedgerInUse as refusal:
            print(refusal)
    """
    twin = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert f"in use by process {os.getpid()}" in twin.stdout, twin.stderr
    one.end(settled(5))
    await ledger.finish(one)


async def test_the_lock_of_a_killed_process_is_nobodys(shelf: Shelf) -> None:
    program = f"""
        import asyncio, os, time
        from tokenhub_proxy.ledger.sqlite import open_ledger
        from tests.ledger.shelf import hold
        async def main():
            ledger = await open_ledger({shelf.url!r}, durability="process", clock=time.time, boot_id="first")
            await ledger.place(hold(account="default", request_id="req_killed"))
            os.kill(os.getpid(), 9)
        asyncio.run(main())
    """
    await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", textwrap.dedent(program)], capture_output=True
    )
    ledger = await shelf.open()
    receipt = await ledger.receipt("req_killed")
    assert receipt is not None
    assert receipt.status == "expired"
    assert "first" in receipt.reason


# --- files that are refused


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


async def _refused(shelf: Shelf, match: str) -> None:
    before = _bytes(shelf.path)
    with pytest.raises(LedgerRefused, match=match):
        await shelf.open()
    assert _bytes(shelf.path) == before


async def test_a_database_of_something_else_is_refused_untouched(shelf: Shelf) -> None:
    shelf.edit("CREATE TABLE songs (title)")
    await _refused(shelf, "something else")


async def test_a_file_that_is_no_database_is_refused_untouched(shelf: Shelf) -> None:
    with open(shelf.path, "w") as file:
        file.write("my diary, page one\n" * 100)
    await _refused(shelf, "damaged")


async def test_a_newer_file_is_refused_untouched(ledger: SqliteLedger, shelf: Shelf) -> None:
    await shelf.close(ledger)
    shelf.edit("PRAGMA user_version = 99")
    await _refused(shelf, "newer")


async def test_a_damaged_file_is_refused_untouched(ledger: SqliteLedger, shelf: Shelf) -> None:
    await asyncio.gather(*(call(ledger, 1) for _ in range(50)))
    await shelf.close(ledger)
    with open(shelf.path, "r+b") as file:
        for page in range(3, os.path.getsize(shelf.path) // 4096):
            file.seek(page * 4096)
            file.write(os.urandom(64))
    await _refused(shelf, "damaged")
    os.unlink(shelf.path)


async def test_a_large_file_is_checked_while_it_is_in_use(
    ledger: SqliteLedger, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.gather(*(call(ledger, 1) for _ in range(50)))
    await shelf.close(ledger)
    monkeypatch.setattr(file_module, "CHECKED_FIRST_MAX", 0)
    whole = await shelf.open()
    await whole._check
    assert whole.unavailable is None
    await shelf.close(whole)

    # The pages of an index that nothing leads to any more: only a check ever sees them.
    shelf.edit(
        "PRAGMA writable_schema = 1",
        "DELETE FROM sqlite_schema WHERE name = 'holds_by_account'",
        "PRAGMA writable_schema = 0",
    )
    damaged = await shelf.open()
    await damaged._check
    assert "damaged" in damaged.unavailable
    with pytest.raises(LedgerUnavailable):
        damaged.place(hold())
    await shelf.close(damaged)


async def test_a_folder_that_is_not_there_is_refused(shelf: Shelf) -> None:
    with pytest.raises(LedgerRefused):
        await open_ledger("sqlite:////nowhere/at/all/books.db", clock=shelf.clock)


async def test_a_refused_file_is_free_for_the_next(shelf: Shelf) -> None:
    shelf.edit("CREATE TABLE songs (title)")
    with pytest.raises(LedgerRefused):
        await shelf.open()
    os.unlink(shelf.path)
    await shelf.open()


# --- migrations

VERSION = schema.VERSION  # the tests add a step to it


@pytest.mark.parametrize("version", range(1, VERSION))
async def test_a_file_of_every_released_form_is_brought_up(shelf: Shelf, version: int) -> None:
    connection = sqlite3.connect(shelf.path)
    for step in schema.MIGRATIONS[:version]:
        for statement in step:
            connection.execute(statement)
    connection.execute("INSERT INTO accounts (name, unlimited, posted, held) VALUES ('main', 0, 7, 0)")
    connection.execute(
        "INSERT INTO entries VALUES (1, 0.0, 'credit', 'system:world', 'main', 7, NULL, NULL, NULL, '')"
    )
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.commit()
    connection.close()

    ledger = await shelf.open()

    assert ledger.account("main").posted == 7
    assert await ledger.verify() == []


async def test_an_older_file_is_brought_up_after_a_backup(
    ledger: SqliteLedger, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    await call(ledger, 5)
    await shelf.close(ledger)
    step = ("ALTER TABLE accounts ADD COLUMN colour TEXT",)
    _add_migration(monkeypatch, step)
    newer = await shelf.open()
    assert newer.account("main").posted == 10**9 - 5
    await shelf.close(newer)

    connection = sqlite3.connect(f"{shelf.path}.version-{VERSION}.backup")
    assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert connection.execute("SELECT posted FROM accounts WHERE name = 'main'").fetchone() == (10**9 - 5,)
    connection.close()


async def test_a_migration_that_fails_leaves_the_old_version(
    ledger: SqliteLedger, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shelf.close(ledger)
    with monkeypatch.context() as patch:
        _add_migration(patch, ("ALTER TABLE accounts ADD COLUMN colour TEXT", "this is no statement"))
        with pytest.raises(LedgerRefused, match=f"version {VERSION + 1}"):
            await shelf.open()
    assert (await shelf.open()).account("main").posted == 10**9


def _add_migration(patch: pytest.MonkeyPatch, step: tuple[str, ...]) -> None:
    from tokenhub_proxy.ledger import audit, file

    migrations = (*schema.MIGRATIONS, step)
    for module in (schema, file, audit):
        patch.setattr(module, "MIGRATIONS", migrations)
    for module in (schema, file):
        patch.setattr(module, "VERSION", len(migrations))


# --- restarts


async def test_all_of_it_is_there_after_a_restart(ledger: SqliteLedger, shelf: Shelf) -> None:
    quota = {"window": "mine/2026-11", "window_limit": 5000}
    await ledger.put_key(
        mine := key("mine", models=("gpt-*",), ips=("::1",), quota_nanos=5, quota_per="month")
    )
    one = await call(ledger, 700, idempotency=("order", b"digest"), **quota)
    before = ledger.list_accounts()
    await shelf.close(ledger)

    again = await shelf.open()
    assert again.list_accounts() == before
    assert again.find_key(mine.digest) == mine
    assert again.window("mine/2026-11").posted == 700
    with pytest.raises(InsufficientQuota):
        again.place(hold(4301, **quota))
    with pytest.raises(IdempotencyConflict, match=one.request_id):
        again.place(hold(idempotency=("order", b"digest")))


@pytest.mark.parametrize("count", [3, 150])
async def test_holds_of_a_crash_are_expired_and_told(
    ledger: SqliteLedger, shelf: Shelf, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    ones = [hold(1000, window="w/2026-11", window_limit=10**9) for _ in range(count)]
    await asyncio.gather(*(ledger.place(one) for one in ones))
    shelf.crash(ledger)

    with caplog.at_level(logging.WARNING, "tokenhub_proxy.ledger"):
        again = await shelf.open(boot_id="b2")
    lines = [record.message for record in caplog.records if "expired" in record.message]
    assert len(lines) == (count if count <= 100 else 1)
    assert again.account("main") == Account("main", posted=10**9)
    assert again.window("w/2026-11").held == 0
    receipt = await again.receipt(ones[0].request_id)
    assert (receipt.status, receipt.cost) == ("expired", 0)
    assert "run b1" in receipt.reason


async def test_a_crash_during_recovery_changes_nothing_about_its_end(
    ledger: SqliteLedger, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    ones = [hold(1000) for _ in range(5)]
    await asyncio.gather(*(ledger.place(one) for one in ones))
    shelf.crash(ledger)
    with monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise KeyError("the process dies here")

        patch.setattr(logging.getLogger("tokenhub_proxy.ledger"), "warning", die)
        with pytest.raises(KeyError):
            await shelf.open(boot_id="b2")
    again = await shelf.open(boot_id="b3")
    receipts = [await again.receipt(one.request_id) for one in ones]
    assert {receipt.status for receipt in receipts} == {"expired"}
    assert {receipt.reason for receipt in receipts} == {"the process ended before the call did (run b1)"}


async def test_a_clock_that_was_years_ahead_at_the_start_finds_older_quotas_when_it_goes_back(
    ledger: SqliteLedger, shelf: Shelf
) -> None:
    quota = {"window": "mine/2026-11", "window_limit": 1000}
    await call(ledger, 1000, **quota)
    await shelf.close(ledger)
    shelf.clock.now = NOW + 365 * DAY_S
    ahead = await shelf.open()
    await call(ahead, 1, at=shelf.clock.now, window="mine/2027-11", window_limit=1000)
    for _ in range(2):  # memory doesn't know that this window is spent; the file does
        refused = hold(1, **quota)
        with pytest.raises(InsufficientQuota):
            await ahead.place(refused)
        assert refused.id == 0
    await call(ahead, 1, window="mine/2026-10", window_limit=1000)
    await shelf.close(ahead)
    shelf.clock.now = NOW
    with pytest.raises(InsufficientQuota):
        (await shelf.open()).place(hold(1, **quota))


async def test_while_the_file_can_not_be_read_a_quota_that_memory_may_have_forgotten_is_refused(
    ledger: SqliteLedger, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shelf.close(ledger)
    shelf.clock.now = NOW + 365 * DAY_S
    ahead = await shelf.open()

    async def unreadable(*_: object) -> None:
        raise LedgerUnavailable("SQLITE_IOERR_READ")

    with monkeypatch.context() as patch:
        patch.setattr(ahead._reader, "fetch", unreadable)
        with pytest.raises(LedgerUnavailable):
            await ahead.place(hold(1, window="mine/2026-11", window_limit=1000))
    assert ahead.account("main").held == 0


# --- tampering


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET amount = 1",
        "DELETE FROM entries",
        "UPDATE holds SET amount = 1",
        "DELETE FROM holds",
        "UPDATE endings SET cost = 0",
        "DELETE FROM endings",
    ],
)
async def test_the_past_can_not_be_rewritten(ledger: SqliteLedger, shelf: Shelf, statement: str) -> None:
    await call(ledger, 5)
    await shelf.close(ledger)
    with pytest.raises(sqlite3.IntegrityError, match=r"never|purge"):
        shelf.edit(statement)
    await shelf.open()


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE entries SET amount = 4 WHERE kind = 'charge' AND amount = 5", "add up to"),
        ("DELETE FROM entries WHERE id = 1", "some are missing"),
        ("UPDATE entries SET debit = 'nobody' WHERE id = 2", "no account"),
        ("UPDATE endings SET cost = 4 WHERE cost = 5", "its entries say"),
        ("DELETE FROM endings", "has no ending"),
        ("UPDATE accounts SET posted = posted + 1 WHERE name = 'main'", "account main says"),
        ("UPDATE accounts SET held = 1 WHERE name = 'main'", "its open calls"),
        ("UPDATE windows SET posted = 4", "quota w/2026-11"),
        ("UPDATE rollups SET cost = 4", "the usage says"),
        ("UPDATE rollups SET requests = 9", "settled calls"),
        ("UPDATE holds SET request_id = 'other'", "has no hold"),
        ("DELETE FROM holds", "refers to a row"),
        ("DROP TRIGGER entries_are_never_edited", "missing from the file"),
        ("CREATE TRIGGER mine AFTER INSERT ON entries BEGIN SELECT 1; END", "not the ledger's own"),
    ],
)
@pytest.mark.damaged
async def test_verify_finds_what_was_rewritten_all_the_same(
    ledger: SqliteLedger, shelf: Shelf, statement: str, found: str
) -> None:
    await call(ledger, 5, window="w/2026-11", window_limit=100_000)
    await shelf.close(ledger)
    connection = sqlite3.connect(shelf.path)
    triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    connection.close()
    if "TRIGGER" in statement:
        shelf.edit(statement)
    else:
        shelf.edit(
            *(f"DROP TRIGGER {name}" for name, _ in triggers), statement, *(sql for _, sql in triggers)
        )

    ledger = await shelf.open()
    lines = await ledger.verify()
    assert any(found in line for line in lines), lines
    await shelf.close(ledger)


async def test_verify_finds_a_memory_that_differs_from_the_file(ledger: SqliteLedger, shelf: Shelf) -> None:
    shelf.edit("INSERT INTO entries VALUES (2, 0, 'credit', 'system:world', 'main', 5, NULL, NULL, NULL, '')")
    shelf.edit("UPDATE accounts SET posted = posted + 5 WHERE name = 'main'")
    assert any("memory has" in line for line in await ledger.verify())
    await shelf.close(ledger)
