"""The power goes at any moment: nothing that was acknowledged is lost, and no file is damaged."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
from dataclasses import dataclass
from unittest.mock import patch

import apsw
import pytest

from tests.ledger.powercut import Disk, Image
from tests.ledger.shelf import NOW, Shelf, hold, key, settled
from tokenhub_proxy.ledger import Account, committer
from tokenhub_proxy.ledger.sqlite import open_ledger


@dataclass(frozen=True, slots=True)
class Promise:
    """What was acknowledged, and how much of the disk's log there was by then."""

    at: int
    query: str
    value: str


HELD = "SELECT 1 FROM holds WHERE request_id = ?"
SETTLED = (
    "SELECT 1 FROM endings e JOIN holds h ON h.id = e.hold WHERE h.request_id = ? AND status = 'settled'"
)
CREDITED = "SELECT 1 FROM entries WHERE reference = ?"


async def work(shelf: Shelf, disk: Disk, calls: int) -> list[Promise]:
    """Credits, holds and settlements, four at a time; the promises they got."""
    ledger = await open_ledger(
        shelf.url,
        durability=shelf.durability,
        clock=shelf.clock,
        connection=lambda path: apsw.Connection(path, vfs=disk.name),
    )
    promises: list[Promise] = []
    await ledger.open_account(Account("main"))

    def promise(query: str, value: str) -> None:
        promises.append(Promise(len(disk.log), query, value))

    async def client(name: int) -> None:
        for number in range(calls):
            if number % 5 == 0:
                reference = f"pay-{name}-{number}"
                await ledger.credit("main", 10_000, at=NOW, reference=reference)
                promise(CREDITED, reference)
            one = hold(1000, key=key(), window="laptop/2026-11", window_limit=10**9)
            await ledger.place(one)
            promise(HELD, one.request_id)
            one.end(settled(700))
            await ledger.finish(one)
            promise(SETTLED, one.request_id)

    await asyncio.gather(*(client(name) for name in range(4)))
    assert await ledger.verify() == []
    await ledger.aclose()
    return promises


def lost(path: str, promises: list[Promise]) -> int:
    connection = sqlite3.connect(path)
    try:
        return sum(
            connection.execute(promise.query, (promise.value,)).fetchone() is None for promise in promises
        )
    finally:
        connection.close()


async def cut_the_power(
    tmp_path: str, durability: str, cuts: int, calls: int, seed: int, *, killed: bool = False
) -> int:
    """How many promises were broken over so many cuts. A file that doesn't add up fails at once.

    `killed`: the process alone is gone, at one of its writes, and the machine runs on.
    """
    shelf = Shelf(tmp_path, durability=durability)
    disk = Disk(f"disk-{durability}-{seed}")
    # A checkpoint in every moment in which the writer has nothing to do, a few commits after the last one.
    with patch.multiple(committer, CHECKPOINT_COMMITS=5, QUIET_S=0.0):
        promises = await work(shelf, disk, calls)
    steps = disk.log
    # Before the tables are there, nobody was promised anything.
    begin = promises[0].at
    checkpoints = [at for at, step in enumerate(steps) if (step.file, step.kind) == ("books.db", "sync")]
    assert sum(begin < at < promises[-1].at for at in checkpoints) >= 3, "cuts are to meet checkpoints"
    chance = random.Random(seed)
    moments = sorted(chance.randint(begin, len(steps)) for _ in range(cuts))
    image, applied, broken = Image(), 0, 0
    for number, moment in enumerate(moments):
        for step in steps[applied:moment]:
            image.apply(step)
        applied = moment
        folder = os.path.join(tmp_path, "cut")
        os.mkdir(folder)
        if killed:
            image.kill(folder)
        else:
            image.cut(folder, chance, torn=number % 2 == 1)
        path = os.path.join(folder, "books.db")
        ledger = await open_ledger(f"sqlite:///{path}", durability="process", clock=shelf.clock)
        assert await ledger.verify() == []
        assert all(account.held == 0 for account in ledger.list_accounts())
        await ledger.aclose()
        broken += lost(path, [promise for promise in promises if promise.at <= moment])
        shutil.rmtree(folder)
    return broken


async def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path: object) -> None:
    assert await cut_the_power(str(tmp_path), "full", cuts=300, calls=30, seed=1) == 0


async def test_without_full_durability_promises_may_break_and_the_books_still_add_up(
    tmp_path: object,
) -> None:
    # That promises break here shows that the cuts are real.
    assert await cut_the_power(str(tmp_path), "process", cuts=60, calls=30, seed=2) > 0


@pytest.mark.parametrize("durability", ["full", "process"])
async def test_a_process_that_is_killed_at_any_write_loses_nothing_that_was_acknowledged(
    tmp_path: object, durability: str
) -> None:
    assert await cut_the_power(str(tmp_path), durability, cuts=100, calls=30, seed=3, killed=True) == 0


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 30))
async def test_ten_thousand_power_cuts_lose_nothing(tmp_path: object, seed: int) -> None:
    assert await cut_the_power(str(tmp_path), "full", cuts=500, calls=60, seed=seed) == 0
