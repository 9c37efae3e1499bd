"""What the durable books say: receipts, requests, entries, usage, and whether it all adds up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.ledger import Entry, Receipt, UsageBy, UsageRow
from tokenhub_proxy.ledger.reader import Reader
from tokenhub_proxy.ledger.rows import DAY_S, ENTRY_COLUMNS
from tokenhub_proxy.prices import Usage

REQUESTS_MAX = 100
# Entries are exported in pages, so that no reader stays open between two of them.
ENTRIES_PAGE = 1000

# ruff: noqa: S608 - the parts of the queries are our own column names, values are bound

RECEIPT = (
    "SELECT h.id, h.request_id, h.account, h.key, h.model, h.stream, h.amount, h.at, e.status, e.at, e.cost,"
    " e.upstream, e.input, e.cached, e.cache_write, e.output, e.reasoning, e.reported, e.reason,"
    " e.http_status, e.first_byte_ms, e.attempts FROM holds h LEFT JOIN endings e ON e.hold = h.id"
)
_DIMENSIONS = {
    "key": "key",
    "model": "model",
    "upstream": "upstream",
    "day": "date(day * 86400, 'unixepoch')",
}


async def receipt(reader: Reader, request_id: str) -> Receipt | None:
    """One call."""
    (rows,) = await reader.fetch((f"{RECEIPT} WHERE h.request_id = ?", (request_id,)))
    return receipt_of(rows[0]) if rows else None


async def requests(reader: Reader, account: str | None, before: int | None, limit: int) -> Sequence[Receipt]:
    """A page of calls, the newest first."""
    conditions, values = ["1"], list[Any]()
    if account is not None:
        conditions.append("h.account = ?")
        values.append(account)
    if before is not None:
        conditions.append("h.id < ?")
        values.append(before)
    values.append(max(1, min(limit, REQUESTS_MAX)))
    (rows,) = await reader.fetch(
        (f"{RECEIPT} WHERE {' AND '.join(conditions)} ORDER BY h.id DESC LIMIT ?", values)
    )
    return [receipt_of(row) for row in rows]


def receipt_of(row: Sequence[Any]) -> Receipt:
    status, ended_at, cost, upstream, *counts, reported, reason, http_status, first_byte_ms, attempts = row[
        8:
    ]
    ended = status is not None
    return Receipt(
        hold_id=row[0],
        request_id=row[1],
        account=row[2],
        key=row[3],
        model=row[4],
        stream=bool(row[5]),
        hold=row[6],
        started_at=row[7],
        status=status or "held",
        ended_at=ended_at,
        cost=min(cost, row[6]) if ended else 0,
        upstream=upstream or "",
        usage=_usage(counts, reported=bool(reported)) if ended else None,
        reason=reason or "",
        http_status=http_status or 0,
        first_byte_ms=first_byte_ms,
        attempts=tuple(orjson.loads(attempts)) if attempts else (),
    )


async def entries(reader: Reader) -> AsyncIterator[Entry]:
    """All entries in the order of their ids."""
    last = 0
    while True:
        (rows,) = await reader.fetch(
            (f"SELECT {ENTRY_COLUMNS} FROM entries WHERE id > ? ORDER BY id LIMIT ?", (last, ENTRIES_PAGE))
        )
        for row in rows:
            yield Entry(*row)
        if len(rows) < ENTRIES_PAGE:
            return
        last = rows[-1][0]


async def usage(reader: Reader, by: UsageBy, since: float) -> Sequence[UsageRow]:
    """Settled calls by one dimension, from the day that `since` is in."""
    name = _DIMENSIONS.get(by)
    if name is None:
        raise InvalidRequest(f"Usage is told by {', '.join(_DIMENSIONS)}, not by {by!r}.")
    (rows,) = await reader.fetch(
        (
            f"SELECT {name}, sum(requests), sum(input), sum(cached), sum(cache_write), sum(output),"
            " sum(reasoning), sum(estimated), sum(cost) FROM rollups WHERE day >= ?"
            # Each dimension is a column too; days come in their order and need no sorting.
            f" GROUP BY {by} HAVING sum(requests) > 0 ORDER BY {by}",
            (int(since // DAY_S),),
        )
    )
    return [UsageRow(row[0], row[1], _usage(row[2:7], reported=row[7] == 0), row[8]) for row in rows]


def _usage(counts: Sequence[int], *, reported: bool) -> Usage:
    input_, cached, cache_write, output, reasoning = counts
    return Usage(input_, cached, cache_write, output, reasoning, reported)
