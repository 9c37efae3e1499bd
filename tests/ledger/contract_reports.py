"""What every ledger tells: receipts, pages of requests, usage, entries, backups."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.ledger.shelf import NOW, USAGE, Shelf, call, hold, released, settled
from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.ledger import Ledger, UsageRow
from tokenhub_proxy.prices import Usage

DAY_S = 86400.0


async def test_a_receipt_tells_the_whole_call(ledger: Ledger) -> None:
    one = hold(1000, stream=True)
    await ledger.place(one)
    held = await ledger.receipt(one.request_id)
    assert held is not None
    assert (held.status, held.hold, held.cost, held.usage) == ("held", 1000, 0, None)

    one.end(settled(40, usage=USAGE, first_byte_ms=12, attempts=("groq: 429", "openai")))
    await ledger.finish(one)
    receipt = await ledger.receipt(one.request_id)
    assert receipt is not None
    assert (receipt.account, receipt.key, receipt.model, receipt.stream) == ("main", "laptop", "demo", True)
    assert (receipt.status, receipt.cost, receipt.usage) == ("settled", 40, USAGE)
    assert (receipt.upstream, receipt.http_status, receipt.first_byte_ms) == ("openai", 200, 12)
    assert receipt.attempts == ("groq: 429", "openai")
    assert (receipt.started_at, receipt.ended_at) == (NOW, NOW + 1)
    assert await ledger.receipt("req_unknown") is None


async def test_requests_are_paged_from_the_newest(ledger: Ledger) -> None:
    mine = [await call(ledger, 1) for _ in range(5)]
    await call(ledger, 1, account="default")

    page = await ledger.requests("main", limit=2)
    assert [one.request_id for one in page] == [mine[4].request_id, mine[3].request_id]
    page = await ledger.requests("main", before=page[-1].hold_id, limit=100)
    assert [one.request_id for one in page] == [one.request_id for one in mine[2::-1]]
    assert len(await ledger.requests()) == 6


async def test_usage_is_told_by_key_model_upstream_and_day(ledger: Ledger) -> None:
    await call(ledger, 100)
    await call(ledger, 200, model="other")
    one = hold()
    await ledger.place(one)
    one.end(released())
    await ledger.finish(one)

    twice = Usage(20, 4, 6, 40, 10, reported=True)
    assert list(await ledger.usage("key")) == [UsageRow("laptop", 2, twice, 300)]
    assert [row.cost for row in await ledger.usage("model")] == [100, 200]
    assert list(await ledger.usage("upstream")) == [UsageRow("openai", 2, twice, 300)]
    assert [row.name for row in await ledger.usage("day")] == ["2026-11-18"]
    assert list(await ledger.usage("day", since=NOW + 2 * DAY_S)) == []
    with pytest.raises(InvalidRequest):
        await ledger.usage("colour")  # type: ignore[arg-type]


async def test_entries_come_in_order_across_pages(ledger: Ledger) -> None:
    await asyncio.gather(*(ledger.credit("main", 1, at=NOW) for _ in range(2100)))
    ids = [entry.id async for entry in ledger.entries()]
    assert ids == list(range(1, len(ids) + 1))
    assert len(ids) == 2101


async def test_a_backup_under_load_adds_up(ledger: Ledger, shelf: Shelf, tmp_path: object) -> None:
    busy = True

    async def load() -> None:
        while busy:
            await call(ledger, 3)

    clients = [asyncio.create_task(load()) for _ in range(4)]
    copies = [os.path.join(str(tmp_path), f"copy-{n}.db") for n in range(3)]
    for copy in copies:
        await ledger.backup(copy)
    busy = False
    await asyncio.gather(*clients)

    for copy in copies:
        other = Shelf(str(tmp_path))
        other.url = f"sqlite:///{copy}"
        shelf.opened.append(await other.open())
    with pytest.raises(InvalidRequest, match="exists"):
        await ledger.backup(copies[0])
    with pytest.raises(InvalidRequest):
        await ledger.backup(os.path.join(str(tmp_path), "no", "folder.db"))


async def test_a_purge_forgets_old_calls_and_keeps_their_entries_and_usage(ledger: Ledger) -> None:
    old = [await call(ledger, 10) for _ in range(3)]
    still_open = hold(at=NOW + 1)
    await ledger.place(still_open)
    young = await call(ledger, 10, at=NOW + DAY_S)
    assert await ledger.purge(NOW + 2) == 3

    assert await ledger.receipt(old[0].request_id) is None
    assert await ledger.receipt(young.request_id) is not None
    assert await ledger.receipt(still_open.request_id) is not None
    assert [row.cost for row in await ledger.usage("key")] == [40]
    assert len([entry async for entry in ledger.entries()]) == 5
    still_open.end(settled(1))
    await ledger.finish(still_open)
