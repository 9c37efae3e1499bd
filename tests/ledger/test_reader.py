"""Where reports read: none waits for another's long query, and none goes on that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import aiosqlite
import pytest

from tests.ledger.shelf import Shelf

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


async def test_reports_do_not_wait_for_a_long_check_and_it_ends_when_nobody_waits_for_it(
    shelf: Shelf,
) -> None:
    ledger = await shelf.open()
    check = asyncio.create_task(ledger._reader.fetch((ENDLESS, ()), deadline_s=None))
    async with asyncio.timeout(5):
        for _ in range(10):
            assert await ledger.receipt("none") is None
        assert not check.done()
        check.cancel()
        await asyncio.wait([check])


@pytest.mark.parametrize("deadline_s", [None, 60.0])
async def test_a_query_that_nobody_waits_for_any_more_ends_even_if_it_had_not_begun(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, deadline_s: float | None
) -> None:
    ledger = await shelf.open()
    asked, gate = asyncio.Event(), threading.Event()
    fetch = aiosqlite.Connection.execute_fetchall

    async def behind_the_gate(self: aiosqlite.Connection, *query: Any) -> Any:
        self._tx.put_nowait((asyncio.get_running_loop().create_future(), lambda: gate.wait(30)))
        asked.set()
        return await fetch(self, *query)

    with monkeypatch.context() as patch:
        patch.setattr(aiosqlite.Connection, "execute_fetchall", behind_the_gate)
        reading = asyncio.ensure_future(ledger._reader.fetch((ENDLESS, ()), deadline_s=deadline_s))
        await asked.wait()
        await asyncio.sleep(0)  # both are in the line of the connection's thread
        reading.cancel()
        await asyncio.sleep(0)
        gate.set()
        done, _ = await asyncio.wait([reading], timeout=10)
    assert done
    assert await ledger.receipt("none") is None  # the next report finds the connection as it should be
