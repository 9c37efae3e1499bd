"""Whether the books add up: every balance re-added from what it is made of."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenhub_proxy.ledger import Account, Window
from tokenhub_proxy.ledger.books import Books
from tokenhub_proxy.ledger.reader import Query, Reader, Rows
from tokenhub_proxy.ledger.schema import MIGRATIONS
from tokenhub_proxy.ledger.schema_orders import CHECKS as ORDER_CHECKS
from tokenhub_proxy.prices import format_usd

# Lines of one kind that are told; a broken file would have as many as it has rows.
LINES_MAX = 20

_OPEN = "h.id NOT IN (SELECT hold FROM endings)"
_SIDE = (
    "side NOT IN (SELECT name FROM accounts) AND side NOT LIKE 'upstream:%'"
    " AND side NOT IN ('system:world', 'system:writeoff')"
)

# ruff: noqa: S608 - the parts of the queries are constants of this file

# Counters first: their rows are compared, the rest of the queries have rows only where it is wrong.
_ACCOUNTS = f"""
    SELECT a.name, a.unlimited, a.posted, coalesce(c.amount, 0) - coalesce(d.amount, 0),
           a.held, coalesce(o.amount, 0)
    FROM accounts a
    LEFT JOIN (SELECT credit AS name, sum(amount) AS amount FROM entries GROUP BY 1) c USING (name)
    LEFT JOIN (SELECT debit AS name, sum(amount) AS amount FROM entries GROUP BY 1) d USING (name)
    LEFT JOIN (SELECT account AS name, sum(amount) AS amount FROM holds h WHERE {_OPEN} GROUP BY 1) o
        USING (name)"""
_WINDOWS = f"""
    SELECT w.name, w.posted, coalesce(e.amount, 0), w.held, coalesce(o.amount, 0)
    FROM windows w
    LEFT JOIN (SELECT window_name AS name, sum(amount) AS amount FROM entries
               WHERE kind = 'charge' GROUP BY 1) e USING (name)
    LEFT JOIN (SELECT window_name AS name, sum(amount) AS amount FROM holds h WHERE {_OPEN} GROUP BY 1) o
        USING (name)"""
_ENTRIES = "SELECT count(*), coalesce(min(id), 1), coalesce(max(id), 0) FROM entries"
_SCHEMA = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL"
_INTEGRITY = "PRAGMA integrity_check(20)"
_CHECKS: tuple[tuple[str, str], ...] = (
    (
        "entry {} has a side that is no account: {}",
        f"""SELECT * FROM (SELECT id, debit AS side FROM entries UNION ALL SELECT id, credit FROM entries)
            WHERE {_SIDE}""",
    ),
    (
        "call {}: it ended with a charge of {} and {} written off, its entries say {} and {}",
        """SELECT h.request_id, min(e.cost, h.amount), max(e.cost - h.amount, 0),
                  coalesce(n.charge, 0), coalesce(n.writeoff, 0)
           FROM endings e JOIN holds h ON h.id = e.hold
           LEFT JOIN (SELECT request_id, sum(amount * (kind = 'charge')) AS charge,
                             sum(amount * (kind = 'writeoff')) AS writeoff
                      FROM entries WHERE request_id IS NOT NULL GROUP BY 1) n USING (request_id)
           WHERE min(e.cost, h.amount) <> coalesce(n.charge, 0)
              OR max(e.cost - h.amount, 0) <> coalesce(n.writeoff, 0)""",
    ),
    (
        "entry {} charges {}, which has no ending",
        """SELECT n.id, n.request_id FROM entries n LEFT JOIN holds h USING (request_id)
           WHERE n.request_id IS NOT NULL AND h.id NOT IN (SELECT hold FROM endings)""",
    ),
    (
        "entry {} charges {}, which has no hold",
        """SELECT n.id, n.request_id FROM entries n LEFT JOIN holds h USING (request_id)
           WHERE n.request_id IS NOT NULL AND h.id IS NULL AND (SELECT purge_below FROM meta) = 0""",
    ),
    (
        "upstream {}: the usage says {}, the entries {}",
        """SELECT name, sum(usage), sum(entries) FROM (
               SELECT 'upstream:' || upstream AS name, cost AS usage, 0 AS entries FROM rollups
               UNION ALL SELECT credit, 0, amount FROM entries WHERE kind = 'charge'
           ) GROUP BY name HAVING sum(usage) <> sum(entries)""",
    ),
    (
        "account {}: the usage says {}, the entries {}",
        """SELECT name, sum(usage), sum(entries) FROM (
               SELECT account AS name, cost AS usage, 0 AS entries FROM rollups
               UNION ALL SELECT debit, 0, amount FROM entries WHERE kind = 'charge'
           ) WHERE (SELECT purge_below FROM meta) = 0 GROUP BY name HAVING sum(usage) <> sum(entries)""",
    ),
    (
        "the usage counts {} settled calls, there are {}",
        """SELECT * FROM (SELECT (SELECT coalesce(sum(requests), 0) FROM rollups) AS counted,
                                 (SELECT count(*) FROM endings WHERE status = 'settled') AS settled)
           WHERE counted <> settled AND (SELECT purge_below FROM meta) = 0""",
    ),
    (
        "call {} is open below the mark under which all have ended",
        f"SELECT h.request_id FROM holds h WHERE h.id < (SELECT open_from FROM meta) AND {_OPEN}",
    ),
    ("table {} refers to a row that is not there: {} {} {}", "PRAGMA foreign_key_check"),
    *ORDER_CHECKS,
)


@dataclass(frozen=True, slots=True)
class Counters:
    """The balances of the file, as they were kept."""

    accounts: tuple[Account, ...]
    windows: tuple[Window, ...]


async def verify(reader: Reader) -> tuple[list[str], Counters]:
    """Each difference as a line for people, none when all adds up; and the counters of that moment."""
    texts = (_ACCOUNTS, _WINDOWS, _ENTRIES, _SCHEMA, _INTEGRITY, *(query for _, query in _CHECKS))
    queries: list[Query] = [(text, ()) for text in texts]
    # No deadline: re-adding ten million entries takes its time, and somebody asked for it.
    accounts, windows, entries, schema, integrity, *found = await reader.fetch(*queries, deadline_s=None)
    lines = [str(row[0]) for row in integrity if row[0] != "ok"]
    lines += _schema_lines(schema)
    ((count, first, last),) = entries
    if (first, last) != (1, count):
        lines.append(f"there are {count} entries, numbered {first} to {last}: some are missing")
    for name, _, posted, added, held, open_ in accounts:
        lines += _differences(f"account {name}", posted, added, held, open_)
    for name, posted, added, held, open_ in windows:
        lines += _differences(f"quota {name}", posted, added, held, open_)
    for (line, _), rows in zip(_CHECKS, found, strict=True):
        lines += [line.format(*row) for row in rows[:LINES_MAX]]
    counters = Counters(
        tuple(
            Account(name, bool(unlimited), posted, held) for name, unlimited, posted, _, held, _ in accounts
        ),
        tuple(Window(name, posted, held) for name, posted, _, held, _ in windows),
    )
    return lines, counters


def _differences(what: str, posted: int, added: int, held: int, open_: int) -> Iterator[str]:
    if posted != added:
        yield f"{what} says {format_usd(posted)} USD, its entries add up to {format_usd(added)} USD"
    if held != open_:
        yield f"{what} holds {format_usd(held)} USD, its open calls {format_usd(open_)} USD"


def _schema_lines(schema: Rows) -> Iterator[str]:
    """A trigger that is missing would let anybody rewrite the past."""
    connection = sqlite3.connect(":memory:")
    try:
        for step in MIGRATIONS:
            for statement in step:
                connection.execute(statement)
        expected = {row[0] for row in connection.execute(_SCHEMA)}
    finally:
        connection.close()
    actual = {row[0] for row in schema}
    for sql in sorted(expected - actual):
        yield f"missing from the file: {sql.partition('(')[0].partition('BEFORE')[0].strip()}"
    for sql in sorted(actual - expected):
        yield f"not the ledger's own: {sql.partition('(')[0].partition('BEFORE')[0].strip()}"


def compare(books: Books, counters: Counters) -> Sequence[str]:
    """Where memory and file differ, in a moment when they should not."""
    lines = []
    in_file: dict[str, Account | Window] = {account.name: account for account in counters.accounts}
    for account in books.accounts():
        if in_file.get(account.name) != account:
            lines.append(
                f"account {account.name}: memory has {account}, the file {in_file.get(account.name)}"
            )
    in_file = {window.name: window for window in counters.windows}
    for window in books.windows():
        if in_file.get(window.name, Window(window.name)) != window:
            lines.append(f"quota {window.name}: memory has {window}, the file {in_file.get(window.name)}")
    return lines
