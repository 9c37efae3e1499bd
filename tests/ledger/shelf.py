"""What the ledger's tests share: a shelf of ledgers, and short ways to say hold and settle."""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Callable
from typing import Any

from tokenhub_proxy.keys import Key, Scope
from tokenhub_proxy.ledger import Account, Ending, Hold
from tokenhub_proxy.ledger.rows import Connection
from tokenhub_proxy.ledger.sqlite import SqliteLedger, open_ledger
from tokenhub_proxy.prices import Usage

NOW = 1_795_000_000.0  # a moment in November 2026
LEDGERS: dict[str, dict[str, Any]] = {
    "file-full": {"durability": "full"},
    "file-process": {"durability": "process"},
    "memory": {"in_memory": True},
}
_ids = itertools.count(1)


class Clock:
    """A clock that stands where the test puts it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Shelf:
    """Opens the ledger of one file, closes it, crashes it, opens it again."""

    def __init__(self, folder: str, *, durability: str = "process", in_memory: bool = False) -> None:
        self.path = os.path.join(folder, "books.db")
        self.url = "sqlite:///:memory:" if in_memory else f"sqlite:///{self.path}"
        self.durability = durability
        self.clock = Clock()
        self.opened: list[SqliteLedger] = []

    async def open(
        self, connection: Callable[[str], Connection] | None = None, boot_id: str = "b1"
    ) -> SqliteLedger:
        ledger = await open_ledger(
            self.url, durability=self.durability, clock=self.clock, boot_id=boot_id, connection=connection
        )
        self.opened.append(ledger)
        return ledger

    async def close(self, ledger: SqliteLedger) -> None:
        self.opened.remove(ledger)
        await ledger.aclose()

    def crash(self, ledger: SqliteLedger) -> None:
        """Leave the file as a process that dies now would: what was not handed over is lost."""
        self.opened.remove(ledger)
        committer = ledger._committer
        for timer in (committer._watch, committer._retry, committer._checkpoint):
            if timer is not None:
                timer.cancel()
        ledger._writer.submit = lambda *_: None  # type: ignore[method-assign]
        ledger._writer.stop()
        ledger._writer.join(10)
        if ledger._lock is not None:
            ledger._lock.release()

    async def fund(self, ledger: SqliteLedger, account: str, amount: int) -> None:
        await ledger.open_account(Account(account))
        await ledger.credit(account, amount, at=NOW)

    def edit(self, *statements: str) -> None:
        """What somebody with a shell could do to the file."""
        connection = sqlite3.connect(self.path)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()


def key(name: str = "laptop", account: str = "main", digest: bytes | None = None, **scope: Any) -> Key:
    return Key(
        id=f"key_{name}", name=name, account=account, digest=digest or name.encode().ljust(32, b"."),
        scope=Scope(**scope), created_at=NOW,
    )  # fmt: skip


def hold(amount: int = 1000, *, account: str = "main", **fields: Any) -> Hold:
    fields.setdefault("request_id", f"req_{next(_ids):08d}")
    fields.setdefault("key", key(account=account))
    return Hold(**{"model": "demo", "amount": amount, "at": NOW, **fields})


def settled(cost: int, **fields: Any) -> Ending:
    return Ending("settled", at=NOW + 1, cost=cost, upstream="openai", http_status=200, **fields)


def released(**fields: Any) -> Ending:
    return Ending("released", at=NOW + 1, reason="refused", **fields)


USAGE = Usage(input=10, cached=2, cache_write=3, output=20, reasoning=5, reported=True)


async def call(ledger: SqliteLedger, cost: int, amount: int = 1000, **fields: Any) -> Hold:
    """A whole call: hold, then settle."""
    one = hold(amount, **fields)
    await ledger.place(one)
    one.end(settled(cost, usage=USAGE))
    await ledger.finish(one)
    return one
