"""Checkpoints: nobody waits for one, the log keeps its bound, and a failing one loses nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.ledger.shelf import Shelf, call, hold
from tests.ledger.storage import Storage
from tokenhub_proxy.ledger import committer, file
from tokenhub_proxy.ledger.sqlite import SqliteLedger


def due(monkeypatch: pytest.MonkeyPatch, commits: int, quiet_s: float = 0.0) -> None:
    """Have a checkpoint wait for so many commits, and then for so much quiet."""
    monkeypatch.setattr(committer, "CHECKPOINT_COMMITS", commits)
    monkeypatch.setattr(committer, "QUIET_S", quiet_s)


async def begun(ledger: SqliteLedger) -> None:
    """Wait until a checkpoint that is due is in the writer's line."""
    async with asyncio.timeout(10):
        while ledger._committer._checkpoint is not None:
            await asyncio.sleep(0)


def look(ledger: SqliteLedger) -> None:
    """Have the timer of a checkpoint that is due come now."""
    timer = ledger._committer._checkpoint
    assert timer is not None
    timer.cancel()
    ledger._committer._look_for_quiet()


async def test_nobody_waits_for_a_checkpoint_of_what_they_wrote(
    stored: SqliteLedger, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    due(monkeypatch, commits=1)
    storage.checkpoint_gate.clear()
    async with asyncio.timeout(10):
        await stored.place(hold())
    await begun(stored)
    storage.checkpoint_gate.set()
    await call(stored, 1)  # behind it in the writer's line
    assert storage.checkpoints >= 1


async def test_a_checkpoint_waits_for_quiet(
    stored: SqliteLedger, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    due(monkeypatch, commits=1, quiet_s=1000.0)
    await call(stored, 1)
    look(stored)
    await call(stored, 1)  # behind one that was begun
    assert storage.checkpoints == 0

    due(monkeypatch, commits=1)
    look(stored)
    await call(stored, 1)
    assert storage.checkpoints >= 1


async def test_after_a_checkpoint_the_file_has_all_that_was_in_its_log(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    due(monkeypatch, commits=40)
    ledger = await shelf.open()
    await shelf.fund(ledger, "main", 10**9)
    alone = tmp_path / "alone.db"

    def calls_in_file() -> int:
        shutil.copy(shelf.path, alone)
        connection = sqlite3.connect(alone)
        try:
            return connection.execute("SELECT count(*) FROM endings").fetchone()[0]
        except sqlite3.OperationalError:
            return 0  # its tables are in the log
        finally:
            connection.close()

    assert calls_in_file() == 0
    for _ in range(19):  # two commits each, and two before them
        await call(ledger, 1)
    await begun(ledger)
    await call(ledger, 1)  # behind it, and in the log alone
    assert calls_in_file() == 19


async def test_without_quiet_the_log_keeps_its_bound(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "LOG_PAGES_MAX", 60)
    monkeypatch.setattr(committer, "QUIET_S", 1000.0)
    ledger = await shelf.open()
    await shelf.fund(ledger, "main", 10**9)
    for _ in range(100):
        await call(ledger, 1)
    # The commit that finds 60 pages has added its own before that, some ten.
    assert os.stat(f"{shelf.path}-wal").st_size < 90 * 4120


async def test_a_checkpoint_that_fails_fails_nobody_and_is_tried_again(
    stored: SqliteLedger, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    due(monkeypatch, commits=1)
    tried = 0

    def failing(sql: str) -> str | None:
        nonlocal tried
        if not sql.startswith("PRAGMA wal_checkpoint"):
            return None
        tried += 1
        return "SQLITE_IOERR_FSYNC"

    storage.failing = failing
    async with asyncio.timeout(10):
        while tried < 3:
            await call(stored, 1)
    assert stored.unavailable is None
    storage.heal()
    before = storage.checkpoints
    async with asyncio.timeout(10):
        while storage.checkpoints == before:
            await call(stored, 1)
