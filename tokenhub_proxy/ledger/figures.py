"""What pages ask of the durable books: each question reads a bounded piece of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenhub_proxy.ledger import Entry, Receipt
from tokenhub_proxy.ledger.reader import Query, Reader
from tokenhub_proxy.ledger.reports import RECEIPT, receipt_of
from tokenhub_proxy.ledger.rows import DAY_S, ENTRY_COLUMNS
from tokenhub_proxy.ledger.schema_usage import FAILED

PAGE = 50
# Of calls that match a filter, one page looks through so many; the next begins where it ended.
LOOKED_AT_MAX = 5000
# Calls that a look at the last minutes reads at most.
RECENT_MAX = 2000

# ruff: noqa: S608 - the parts of the queries are our own column names, values are bound


@dataclass(frozen=True, slots=True)
class Filter:
    """Which calls are wanted; an empty or absent part lets all through."""

    account: str | None = None
    key: str = ""
    model: str = ""
    status: str = ""  # "ok" or "failed"


@dataclass(frozen=True, slots=True)
class Found:
    """A page of calls, and where the next one begins; None where there is none."""

    receipts: Sequence[Receipt]
    before: int | None


@dataclass(frozen=True, slots=True)
class Spent:
    """Settled calls of one day, key and model; of all that ended, how many failed."""

    day: int
    key: str
    model: str
    upstream: str
    requests: int
    input: int
    cached: int
    output: int
    cost: int
    ended: int
    failed: int

    @property
    def at(self) -> float:
        """When the day began."""
        return self.day * DAY_S


_GROUPS = {"key": "key", "model": "model", "upstream": "upstream"}


async def spent(
    reader: Reader, account: str | None, since: int, groups: Sequence[str], **only: str
) -> Sequence[Spent]:
    """Usage by day and by the groups, of one account or of all, from the day `since` (since 1970)."""
    conditions, values = ["day >= ?"], list[Any]([since])
    if account is not None:
        conditions.append("account = ?")
        values.append(account)
    for name, value in only.items():
        if value:
            conditions.append(f"{_GROUPS[name]} = ?")
            values.append(value)
    columns = ", ".join(name if name in groups else "''" for name in _GROUPS)
    by = ", ".join(("day", *groups))
    query = (
        f"SELECT day, {columns}, sum(requests), sum(input + cache_write), sum(cached), sum(output),"
        " sum(cost), sum(ended), sum(failed)"
        f" FROM rollups WHERE {' AND '.join(conditions)} GROUP BY {by} ORDER BY day"
    )
    (rows,) = await reader.fetch((query, values))
    return [Spent(*row) for row in rows]


async def calls(reader: Reader, wanted: Filter, before: int | None) -> Found:
    """The newest calls that match. One of them more than a page tells that there are more."""
    conditions, values = ["h.id < ?"], list[Any]([before if before is not None else 2**62])
    if wanted.account is not None:
        conditions.append("h.account = ?")
        values.append(wanted.account)
    inner = f"SELECT * FROM holds h WHERE {' AND '.join(conditions)} ORDER BY h.id DESC LIMIT {LOOKED_AT_MAX}"
    outer = ["1"]
    for column, value in (("key", wanted.key), ("model", wanted.model)):
        if value:
            outer.append(f"h.{column} = ?")
            values.append(value)
    if wanted.status in ("ok", "failed"):
        outer.append(FAILED if wanted.status == "failed" else f"NOT {FAILED}")
    picked = RECEIPT.replace("FROM holds h", f"FROM ({inner}) h")
    looked: Query = (
        f"SELECT min(id), count(*) FROM ({inner})",
        values[: 1 + (wanted.account is not None)],
    )
    rows, ((last, count),) = await reader.fetch(
        (f"{picked} WHERE {' AND '.join(outer)} ORDER BY h.id DESC LIMIT {PAGE + 1}", values), looked
    )
    receipts = [receipt_of(row) for row in rows[:PAGE]]
    if len(rows) > PAGE:
        return Found(receipts, receipts[-1].hold_id)
    return Found(receipts, last if count == LOOKED_AT_MAX else None)


async def since(reader: Reader, account: str | None, at: float) -> Sequence[Receipt]:
    """The newest calls that began after that time, of all accounts or one."""
    owned, values = ("h.account = ? AND", [account]) if account is not None else ("", [])
    newest = f"SELECT * FROM holds h WHERE {owned} 1 ORDER BY h.id DESC LIMIT {RECENT_MAX}"
    picked = RECEIPT.replace("FROM holds h", f"FROM ({newest}) h")
    (rows,) = await reader.fetch((f"{picked} WHERE h.at >= ? ORDER BY h.id DESC", (*values, at)))
    return [receipt_of(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Statement:
    """A page of an account's entries, whether there are older ones, and what it had at that moment."""

    entries: Sequence[Entry]
    more: bool
    posted: int


async def statement(reader: Reader, account: str, before: int | None) -> Statement:
    """The newest entries of an account, below an id."""
    below = before if before is not None else 2**62
    rows, posted = await reader.fetch(
        (
            f"SELECT {ENTRY_COLUMNS} FROM ("
            f"SELECT * FROM (SELECT {ENTRY_COLUMNS} FROM entries WHERE debit = ? AND id < ?"
            f" ORDER BY id DESC LIMIT {PAGE + 1}) UNION ALL "
            f"SELECT * FROM (SELECT {ENTRY_COLUMNS} FROM entries WHERE credit = ? AND kind = 'credit'"
            f" AND id < ? ORDER BY id DESC LIMIT {PAGE + 1})) ORDER BY id DESC LIMIT {PAGE + 1}",
            (account, below, account, below),
        ),
        ("SELECT posted FROM accounts WHERE name = ?", (account,)),
    )
    return Statement([Entry(*row) for row in rows[:PAGE]], len(rows) > PAGE, posted[0][0] if posted else 0)


async def accounts_spent(reader: Reader, day: int) -> Mapping[str, int]:
    """What each account spent from a day on."""
    query = "SELECT account, sum(cost) FROM rollups WHERE day >= ? GROUP BY account"
    (rows,) = await reader.fetch((query, (day,)))
    return dict(rows)


async def keys_used(reader: Reader, account: str | None, day: int) -> Mapping[str, tuple[int, int]]:
    """Of each key that was used since a day: the last day (since 1970) of use, and what it spent."""
    owned, values = ("AND account = ?", [account]) if account is not None else ("", [])
    query = f"SELECT key, max(day), sum(cost) FROM rollups WHERE day >= ? {owned} GROUP BY key"
    (rows,) = await reader.fetch((query, (day, *values)))
    return {key: (last, cost) for key, last, cost in rows}
