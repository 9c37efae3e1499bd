"""The ledger's file: its lock, its connection, its version, and the books as it has them."""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from tokenhub_proxy.keys import Key
from tokenhub_proxy.ledger import (
    REMEMBERED_S,
    Account,
    Hold,
    LedgerInUse,
    LedgerRefused,
    Remembered,
    Window,
)
from tokenhub_proxy.ledger.books import WINDOW_KEPT_S, Books
from tokenhub_proxy.ledger.rows import KEY_COLUMNS, Connection, error_name, read_key
from tokenhub_proxy.ledger.schema import APPLICATION_ID, MIGRATIONS, VERSION
from tokenhub_proxy.prices import Price

Durability = Literal["full", "process"]
MEMORY = ":memory:"
QUICK_CHECK = "PRAGMA quick_check(3)"

WINDOWS_SINCE = "SELECT name, posted, held, at FROM windows WHERE at >= ? OR held > 0 OR name LIKE '%/total'"

# Another process (a backup tool, a shell) may hold the file's lock so long before a write fails.
BUSY_TIMEOUT_MS = 2000
# A checkpoint is made in a quiet moment (`committer.py`). Under a load that has none, the commit that finds
# so many pages of 4 KiB in the log makes it first. SQLite's own 1,000 made one call of fifty wait; more pages
# take hardly longer, for most are written again and again.
LOG_PAGES_MAX = 4000
# A large transaction may grow the log beyond that; this much of it is kept on disk afterwards.
JOURNAL_SIZE_MAX = 64 * 2**20
# A file up to this size (100,000 calls, 0.3 s) is checked for damage before it is used, a larger one
# while it is: a start must not take minutes.
CHECKED_FIRST_MAX = 2**25


def path_of(url: str) -> str:
    """The path in a ledger's URL: relative after three slashes, absolute after four, or :memory:."""
    path = url.removeprefix("sqlite:///")
    if not path or "://" in path:
        raise LedgerRefused(f"{url!r} names no ledger; write sqlite:///FILE or sqlite:////ABSOLUTE/FILE.")
    return path if path == MEMORY else os.path.realpath(path)


class Lock:
    """Keeps every other process off a ledger, for as long as this one lives."""

    def __init__(self, path: str, now_s: float) -> None:
        """Raises LedgerInUse, which says who has it, or LedgerRefused."""
        self.path = f"{path}.lock"
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerRefused(f"{self.path}: {error.strerror}.") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._file, 500, 0).decode(errors="replace").strip()
            os.close(self._file)
            raise LedgerInUse(f"{path} is in use by {owner or 'another process'}.") from error
        # It is never unlinked: a process that waits for the old file would not see a new one.
        since = datetime.fromtimestamp(now_s, UTC)
        owner = f"process {os.getpid()} on {socket.gethostname()} since {since:%Y-%m-%d %H:%M:%S} UTC\n"
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, owner.encode(), 0)

    def release(self) -> None:
        os.close(self._file)


def connect_sqlite3(path: str) -> Connection:
    """A connection in autocommit mode: transactions begin where we say so."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=160)


def connect(path: str, durability: Durability, factory: Callable[[str], Connection]) -> Connection:
    """A connection that writes as durably as asked for.

    Raises LedgerRefused for a file that is not ours or of a version we don't know, before anything
    is changed in it: even asking for a write-ahead log would write to its header.
    """
    connection = factory(path)
    try:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        _recognise(connection, path)
        if path != MEMORY:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise LedgerRefused(f"{path}: its file system can't keep a write-ahead log ({mode}).")
            connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES_MAX}")
            connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_SIZE_MAX}")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _recognise(connection: Connection, path: str) -> None:
    try:
        ours = _single(connection, "PRAGMA application_id")
        version = _single(connection, "PRAGMA user_version")
        tables = _single(connection, "SELECT count(*) FROM sqlite_schema")
    except Exception as error:
        raise _damaged(path, error_name(error)) from error
    if ours != APPLICATION_ID and (ours or version or tables):
        raise LedgerRefused(f"{path} is a database of something else; the ledger needs a file of its own.")
    if version > VERSION:
        raise LedgerRefused(
            f"{path} was written by a newer tokenhub-proxy (version {version}, this one knows {VERSION})."
        )


def prepare(connection: Connection, path: str) -> None:
    """Check that the file is whole, and bring it to the newest version. Raises LedgerRefused."""
    version = _single(connection, "PRAGMA user_version")
    later = is_large(path)
    try:
        found = [("ok",)] if later else connection.execute(QUICK_CHECK).fetchall()
    except Exception as error:
        raise _damaged(path, error_name(error)) from error
    if found != [("ok",)]:
        raise _damaged(path, "; ".join(str(row[0]) for row in found))
    if version < VERSION:
        try:
            _migrate(connection, path, version)
        except Exception as error:
            raise LedgerRefused(f"{path} could not be brought to version {VERSION}: {error}.") from error


def is_large(path: str) -> bool:
    """Whether the file is checked for damage while it is in use, not before."""
    return path != MEMORY and os.path.getsize(path) > CHECKED_FIRST_MAX


def _damaged(path: str, what: str) -> LedgerRefused:
    return LedgerRefused(f"{path} is damaged ({what}). Restore a backup; nothing was changed.")


def _single(connection: Connection, sql: str) -> int:
    return int(connection.execute(sql).fetchone()[0])


def _migrate(connection: Connection, path: str, version: int) -> None:
    if version:
        copy = f"{path}.version-{version}.backup"
        if not os.path.exists(copy):
            connection.execute("VACUUM INTO ?", (copy,))
    # A table that others refer to is made anew only with this off; it is checked before the commit.
    connection.execute("PRAGMA foreign_keys = OFF")
    for number in range(version, VERSION):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in MIGRATIONS[number]:
                connection.execute(statement)
            if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
                raise LedgerRefused("rows refer to others that are not there")
            # Both are part of the transaction, so that a crash leaves the old version or the new.
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    connection.execute("PRAGMA foreign_keys = ON")
    if not version and path != MEMORY:
        # Balances and key digests are the operator's alone; the log takes the file's mode.
        _restrict(path)


def _restrict(path: str) -> None:
    if os.path.exists(path):
        os.chmod(path, 0o600)


def load(connection: Connection, now_s: float) -> tuple[Books, int, str]:
    """The books of the file, the number of its last batch, and who opened it last."""
    batch, open_from, boot = connection.execute("SELECT batch, open_from, boot FROM meta").fetchone()
    # (A bare max(id), which SQLite looks up; within an expression it would read every row.)
    last_id = connection.execute("SELECT max(id) FROM holds").fetchone()[0] or 0
    windows_since = now_s - WINDOW_KEPT_S
    books = Books(
        accounts=[
            Account(name, bool(unlimited), posted, held)
            for name, unlimited, posted, held in connection.execute(
                "SELECT name, unlimited, posted, held FROM accounts"
            ).fetchall()
        ],
        windows=[
            (Window(name, posted, held), at)
            for name, posted, held, at in connection.execute(WINDOWS_SINCE, (windows_since,)).fetchall()
        ],
        windows_since=windows_since,
        keys=[read_key(row) for row in connection.execute(f"SELECT {KEY_COLUMNS} FROM keys").fetchall()],  # noqa: S608 - our own column names
        remembered=[
            (key_id, text, Remembered(bytes(digest), request_id, at, status or "held", http_status or 0))
            for key_id, text, digest, at, request_id, status, http_status in connection.execute(
                "SELECT i.key_id, i.text, i.digest, i.at, h.request_id, e.status, e.http_status"
                " FROM idempotency i JOIN holds h ON h.id = i.hold LEFT JOIN endings e ON e.hold = i.hold"
                " WHERE i.at >= ? AND e.status IS NOT 'released' ORDER BY i.at",
                (now_s - REMEMBERED_S,),
            ).fetchall()
        ],
        open_holds=_open_holds(connection, open_from),
        next_id=max(last_id + 1, open_from),
    )
    for (account,) in connection.execute("SELECT account FROM blocked").fetchall():
        books.block(account, True)
    return books, batch, boot


def _open_holds(connection: Connection, open_from: int) -> list[tuple[int, Hold]]:
    rows = connection.execute(
        "SELECT h.id, h.request_id, h.account, h.key_id, h.key, h.model, h.amount, h.at, h.window_name,"
        " h.stream, h.price_input, h.price_cached, h.price_cache_write, h.price_output, i.text, i.digest"
        " FROM holds h LEFT JOIN endings e ON e.hold = h.id LEFT JOIN idempotency i ON i.hold = h.id"
        " WHERE h.id >= ? AND e.hold IS NULL ORDER BY h.id",
        (open_from,),
    ).fetchall()
    return [
        (
            id_,
            Hold(
                request_id=request_id,
                key=Key(id=key_id, name=key, account=account, digest=b""),
                model=model,
                amount=amount,
                at=at,
                price=Price(*prices[:4]),
                window=window,
                stream=bool(stream),
                idempotency=None if prices[4] is None else (prices[4], bytes(prices[5])),
            ),
        )
        for id_, request_id, account, key_id, key, model, amount, at, window, stream, *prices in rows
    ]
