"""Hot backups while calls are made: each is whole, adds up, and is the books as they were at one moment."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time

import pytest

from tests.ledger.shelf import USAGE, Shelf, hold, settled
from tokenhub_proxy.ledger.sqlite import SqliteLedger, open_ledger

CALLS_PER_S = 100
FUNDS = 10**12


class Load:
    """Calls at a steady pace, and how long each waited for the books."""

    def __init__(self, ledger: SqliteLedger) -> None:
        self.settled: list[str] = []  # what is durable, in the order of its being told
        self.waits: list[float] = []
        self.stopped = False
        self._ledger = ledger

    async def run(self) -> None:
        async with asyncio.TaskGroup() as calls:
            while not self.stopped:
                calls.create_task(self._call())
                await asyncio.sleep(1 / CALLS_PER_S)

    async def _call(self) -> None:
        one = hold(1000, window="laptop/2026-11", window_limit=FUNDS)
        begun = time.perf_counter()
        await self._ledger.place(one)
        one.end(settled(7, usage=USAGE))
        await self._ledger.finish(one)
        self.waits.append(time.perf_counter() - begun)
        self.settled.append(one.request_id)

    def wait_ms(self, part: float) -> float:
        """How long so large a part of the calls waited at most, hold and settlement together."""
        return sorted(self.waits)[int(part * len(self.waits))] * 1e3


def entries(path: str, last: int = 2**62) -> list[tuple]:
    """A file's entries up to that id, as another process reads them."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute("SELECT * FROM entries WHERE id <= ? ORDER BY id", (last,)).fetchall()
    finally:
        connection.close()


async def differences(path: str) -> list[str]:
    """What `verify`, which asks for SQLite's own integrity check too, says of a copy."""
    copy = await open_ledger(f"sqlite:///{path}", clock=time.time)
    try:
        found = [*await copy.verify()]
        assert all(account.held == 0 for account in copy.list_accounts())
        return found
    finally:
        await copy.aclose()


async def back_up(shelf: Shelf, count: int) -> Load:
    """So many backups under load, each compared with what was durable before it and is now."""
    ledger = await shelf.open()
    await shelf.fund(ledger, "main", FUNDS)
    load = Load(ledger)
    running = asyncio.create_task(load.run())
    known = 0
    for number in range(count):
        path = f"{shelf.path}.{number}"
        durable = load.settled.copy()
        await ledger.backup(path)
        copied = await asyncio.to_thread(entries, path)
        assert copied == await asyncio.to_thread(entries, shelf.path, len(copied))
        assert len(copied) >= known
        known = len(copied)
        assert set(durable) <= {entry[6] for entry in copied}
        assert await differences(path) == []
        for end in ("", ".lock"):
            os.unlink(path + end)
    load.stopped = True
    await running
    return load


async def test_every_backup_under_load_is_the_books_of_one_moment(shelf: Shelf) -> None:
    load = await back_up(shelf, 5)
    assert load.settled


@pytest.mark.long
async def test_two_hundred_backups_under_load(shelf: Shelf) -> None:
    load = await back_up(shelf, 200)
    print(f"{len(load.waits)} calls, p50 {load.wait_ms(0.5):.1f} ms, p99 {load.wait_ms(0.99):.1f} ms")
