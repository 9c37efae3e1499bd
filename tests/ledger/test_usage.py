"""Usage in the books is whose it was when it was made, and counts what failed."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import orjson

from tests.ledger.shelf import NOW, Shelf, call, hold, key, released, settled
from tokenhub_proxy.keys import Scope
from tokenhub_proxy.ledger import Account, figures, schema


async def test_a_key_that_moves_leaves_its_usage_where_it_was(shelf: Shelf) -> None:
    ledger = await shelf.open()
    for name in ("main", "other"):
        await ledger.open_account(Account(name, unlimited=True))
    await ledger.put_key(key())
    await call(ledger, 30)
    moved = replace(key(), account="other")
    await ledger.put_key(moved)
    await call(ledger, 5, key=moved)
    await ledger.put_key(replace(moved, revoked_at=NOW))
    costs = {
        account: [row.cost for row in await figures.spent(ledger.reader, account, 0, ("key",))]
        for account in ("main", "other", None)
    }
    assert costs == {"main": [30], "other": [5], None: [35]}
    assert await figures.accounts_spent(ledger.reader, 0) == {"main": 30, "other": 5}
    assert await ledger.verify() == []


async def test_what_failed_is_counted_and_is_no_usage(shelf: Shelf) -> None:
    ledger = await shelf.open()
    await shelf.fund(ledger, "main", 10**9)
    await call(ledger, 30)
    for ending in (released(http_status=502), settled(7, reason="client_gone")):
        one = hold()
        await ledger.place(one)
        one.end(ending)
        await ledger.finish(one)
    (row,) = await figures.spent(ledger.reader, "main", 0, ("key",))
    assert (row.requests, row.ended, row.failed, row.cost) == (2, 3, 2, 37)
    assert [row.requests for row in await ledger.usage("key")] == [2]
    assert await ledger.verify() == []


async def test_usage_of_before_goes_to_whose_it_was_then(shelf: Shelf) -> None:
    """The third form kept usage by the key's name. Calls say whose they were, forgotten ones their key's."""
    connection = sqlite3.connect(shelf.path)
    for step in schema.MIGRATIONS[:3]:
        for statement in step:
            connection.execute(statement)
    for name in ("then", "now"):
        connection.execute(
            "INSERT INTO accounts (name, unlimited, posted, held) VALUES (?, 1, ?, 0)",
            (name, -30 if name == "then" else -40),
        )
    connection.execute("INSERT INTO keys VALUES ('k', 'moved', 'now', x'01', NULL, NULL, '{}', 0, NULL, 0)")
    connection.execute("UPDATE keys SET scope = ?", (orjson.dumps(Scope()).decode(),))
    calls = [(1, "then", 30, "settled", ""), (2, "now", 15, "settled", ""), (3, "now", 0, "released", "gone")]
    for id_, account, cost, status, reason in calls:
        connection.execute(
            "INSERT INTO holds VALUES (?, ?, ?, 'k', 'moved', 'm', 99, 0.0, NULL, 0, 1, 1, 1, 1)",
            (id_, f"req_{id_}", account),
        )
        connection.execute(
            "INSERT INTO endings VALUES (?, ?, 5.0, ?, 2, 0, 0, 1, 0, 1, 'up', ?, 200, 7, NULL)",
            (id_, status, cost, reason),
        )
    # 25 more were charged by a call that was forgotten since.
    charges = [(1, "then", 30, "req_1"), (2, "now", 15, "req_2"), (3, "now", 25, "req_0")]
    for id_, account, amount, request_id in charges:
        connection.execute(
            "INSERT INTO entries VALUES (?, 5.0, 'charge', ?, 'upstream:up', ?, ?, NULL, NULL, '')",
            (id_, account, amount, request_id),
        )
    connection.execute("UPDATE meta SET purge_below = 1, open_from = 4")
    connection.execute("INSERT INTO rollups VALUES (0, 'moved', 'm', 'up', 3, 8, 0, 0, 3, 0, 0, 70)")
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 3")
    connection.commit()
    connection.close()

    ledger = await shelf.open()

    assert await ledger.verify() == []
    found = {
        account: [(row.requests, row.input, row.cost, row.ended, row.failed) for row in rows]
        for account in ("then", "now")
        if (rows := await figures.spent(ledger.reader, account, 0, ("key",)))
    }
    assert found == {"then": [(1, 2, 30, 1, 0)], "now": [(2, 6, 40, 3, 1)]}
