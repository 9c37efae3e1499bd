"""Changes of the books as rows: one batch is one transaction, each counter updated once in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import orjson

from tokenhub_proxy.errors import InternalError, InvalidRequest, NotFound
from tokenhub_proxy.keys import Key, Scope
from tokenhub_proxy.ledger import REMEMBERED_S, UPSTREAM, WRITEOFF, Entry
from tokenhub_proxy.ledger.changes import Booked, Change, Ended, KeyPut, Opened, Placed, Stepped

DAY_S = 86400
# Calls forgotten in one transaction: a few milliseconds, so that no hold waits for a purge.
PURGE_CHUNK = 2000


class Cursor(Protocol):
    """What a statement answers."""

    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...


class Connection(Protocol):
    """What the ledger needs of a connection: `sqlite3`'s in autocommit mode has it, apsw's too."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Cursor: ...
    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> object: ...
    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class Batch:
    """What becomes durable together. Every hold below `open_from` has ended, once it is."""

    number: int
    changes: list[Change]
    open_from: int
    boot_id: str = ""
    started_at: float = 0.0
    doubted: bool = False


# Columns of an entry, in the order of `Entry`'s fields.
ENTRY_COLUMNS = "id, at, kind, debit, credit, amount, request_id, note"
KEY_COLUMNS = (
    "id, name, account, digest, previous_digest, previous_until, scope, created_at, revoked_at, from_config"
)

# Rows go in with few statements: the thread gives up the interpreter at each one, and may wait for it
# as long as a busy event loop pleases. So many rows a statement at most; each number of them is
# prepared once, in some 10 KB.
_ROWS_PER_INSERT_MAX = 32
# What a call's rows have to bind, in the order of the columns: numbers and texts alone, for `sqlite3` asks
# of every None, True and False first whether somebody adapts it, ten times as long as it takes to bind
# one. So '' and -1 stand for NULL where a column has it, and what is the same in all rows is no parameter.
_ROW = {
    "holds": "(?, ?, ?, ?, ?, ?, ?, ?, nullif(?, ''), ?, ?, ?, ?, ?)",
    "endings": "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, -1), nullif(?, ''))",
    "charges": "(NULL, ?, 'charge', ?, ?, ?, ?, nullif(?, ''), NULL, '')",
    "writeoffs": f"(NULL, ?, 'writeoff', '{WRITEOFF}', ?, ?, ?, NULL, NULL, '')",
    "entries": "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
}
_PARAMETERS = {rows: places.count("?") for rows, places in _ROW.items()}
_UNSETTLED = (0,) * 8  # what a call that was not settled adds to the sums of those that were
_MOVE_ACCOUNT = "UPDATE accounts SET posted = posted + ?, held = held + ? WHERE name = ?"
_OPEN_WINDOW = "INSERT OR IGNORE INTO windows VALUES (?, 0, 0, ?)"
_MOVE_WINDOW = "UPDATE windows SET posted = posted + ?, held = held + ?, at = max(at, ?) WHERE name = ?"
_INSERT_IDEMPOTENCY = (
    "INSERT INTO idempotency VALUES (?, ?, ?, ?, ?) ON CONFLICT (key_id, text)"
    " DO UPDATE SET digest = excluded.digest, hold = excluded.hold, at = excluded.at"
)
_FORGET_IDEMPOTENCY = "DELETE FROM idempotency WHERE at < ?"
_ADD_ROLLUP = (
    "INSERT INTO rollups VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (day, account, key, model, upstream) DO UPDATE SET requests = requests + excluded.requests,"
    " input = input + excluded.input, cached = cached + excluded.cached,"
    " cache_write = cache_write + excluded.cache_write, output = output + excluded.output,"
    " reasoning = reasoning + excluded.reasoning, estimated = estimated + excluded.estimated,"
    " cost = cost + excluded.cost, ended = ended + excluded.ended, failed = failed + excluded.failed"
)
_OPEN_ACCOUNT = (
    "INSERT INTO accounts VALUES (?, ?, 0, 0, 0)"
    " ON CONFLICT (name) DO UPDATE SET unlimited = excluded.unlimited"
)
_PUT_KEY = (
    f"INSERT INTO keys ({KEY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"  # noqa: S608 - our own column names
    " name = excluded.name, account = excluded.account, digest = excluded.digest,"
    " previous_digest = excluded.previous_digest, previous_until = excluded.previous_until,"
    " scope = excluded.scope, revoked_at = excluded.revoked_at"
)


@cache
def _insert(rows: str, count: int) -> str:
    table = rows if rows in ("holds", "endings") else "entries"
    return f"INSERT INTO {table} VALUES " + ", ".join([_ROW[rows]] * count)  # noqa: S608 - our own table names


def write(connection: Connection, batch: Batch) -> None:
    """The batch's rows, inside a transaction of the caller's."""
    _Rows(connection).write(batch.changes)
    _count(connection, batch)


def write_singly(connection: Connection, batch: Batch) -> None:
    """The batch's rows, each change for itself; one that the file refuses gets its `error`.

    This is the way after a batch broke a constraint: one wrong row must neither fail its
    neighbours nor stand in the way of all that come after it.
    """
    refused: set[int] = set()
    for change in batch.changes:
        if isinstance(change, Ended) and change.placed.id in refused:
            continue
        connection.execute("SAVEPOINT change")
        try:
            _Rows(connection).write([change])
        except Exception as error:
            if not broke_constraint(error):
                raise
            connection.execute("ROLLBACK TO change")
            change.error = _refusal(change, error)
            if isinstance(change, Placed):
                refused.add(change.id)
        connection.execute("RELEASE change")
    _count(connection, batch)


def _count(connection: Connection, batch: Batch) -> None:
    connection.execute(
        "UPDATE meta SET batch = ?, open_from = ?, boot = ?", (batch.number, batch.open_from, batch.boot_id)
    )


def broke_constraint(error: Exception) -> bool:
    """Whether the file refused a row, and not storage the writing."""
    return error_name(error).startswith(("SQLITE_CONSTRAINT", "SQLITE_MISMATCH"))


def _refusal(change: Change, error: Exception) -> Exception:
    if isinstance(change, Placed) and error_name(error) == "SQLITE_CONSTRAINT_UNIQUE":
        return InvalidRequest("This request id was used before.", reason="request id")
    refusal = InternalError()
    refusal.reason = f"{error_name(error)}: {error}"
    return refusal


def error_name(error: BaseException) -> str:
    """SQLite's own name of an error, such as SQLITE_FULL."""
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


def _sums(moves: Sequence[tuple[int, ...]]) -> Iterable[int]:
    """The sum of each column."""
    return map(sum, zip(*moves, strict=True)) if len(moves) > 1 else moves[0]


class _Rows:
    """Collects the rows of some changes, then writes them table by table."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Of the rows of `_ROW`, the parameters of all, one after the other.
        self._holds: list[Any] = []
        self._endings: list[Any] = []
        self._charges: list[Any] = []
        self._writeoffs: list[Any] = []
        self._entries: list[Any] = []
        self._idempotency: list[tuple[Any, ...]] = []
        self._accounts: dict[str, list[int]] = {}
        self._windows: dict[str, list[Any]] = {}
        self._rollups: dict[tuple[int, str, str, str, str], list[tuple[int, ...]]] = {}
        self._references: dict[str, Entry] = {}
        self._last_entry_id: int | None = None

    def write(self, changes: Iterable[Change]) -> None:
        opened: list[Opened] = []
        keys: list[KeyPut] = []
        for change in changes:
            if type(change) is Placed:
                self._place(change)
            elif type(change) is Ended:
                self._end(change)
            elif type(change) is Booked:
                self._book(change)
            elif type(change) is Opened:
                opened.append(change)
            elif type(change) is KeyPut:
                keys.append(change)
            elif type(change) is Stepped:
                self._step(change)
        self._flush(opened, keys)

    def _place(self, change: Placed) -> None:
        hold, key, price = change.hold, change.hold.key, change.hold.price
        account, amount, window = key.account, hold.amount, hold.window
        self._holds.extend(
            (
                change.id, hold.request_id, account, key.id, key.name, hold.model, amount, hold.at,
                window or "", 1 if hold.stream else 0,
                price.input, price.cached, price.cache_write, price.output,
            )
        )  # fmt: skip
        self._move(account, 0, amount)
        if window is not None:
            self._move_window(window, 0, amount, hold.at)
        if hold.idempotency is not None:
            self._idempotency.append((key.id, *hold.idempotency, change.id, hold.at))

    def _end(self, change: Ended) -> None:
        hold, ending, charge = change.placed.hold, change.ending, change.charge
        cost, upstream, http_status = ending.cost, ending.upstream, ending.http_status
        status, at, first_byte_ms, attempts = ending.status, ending.at, ending.first_byte_ms, ending.attempts
        reason = ending.reason
        usage = ending.usage
        input_, cached, cache_write, output = usage.input, usage.cached, usage.cache_write, usage.output
        reasoning, reported = usage.reasoning, usage.reported
        account, window, estimated = hold.key.account, hold.window, 0 if reported else 1
        self._endings.extend(
            (
                change.placed.id, status, at, cost,
                input_, cached, cache_write, output, reasoning, 1 - estimated,
                upstream, reason, http_status,
                -1 if first_byte_ms is None else first_byte_ms,
                orjson.dumps(attempts).decode() if attempts else "",
            )
        )  # fmt: skip
        self._move(account, -charge, -hold.amount)
        if window is not None:
            self._move_window(window, charge, -hold.amount, hold.at)
        if charge:
            self._charges.extend((at, account, UPSTREAM + upstream, charge, hold.request_id, window or ""))
        if change.writeoff:
            self._writeoffs.extend((at, UPSTREAM + upstream, change.writeoff, hold.request_id))
        name = (int(at // DAY_S), account, hold.key.name, hold.model, upstream)
        settled = (
            (1, input_, cached, cache_write, output, reasoning, estimated, charge)
            if status == "settled"
            else _UNSETTLED
        )
        self._rollups.setdefault(name, []).append((*settled, 1, 1 if ending.failed else 0))

    def _book(self, change: Booked) -> None:
        if change.reference is not None:
            first = self._references.get(change.reference) or self._referred(change.reference)
            if first is not None:
                change.entry, change.fresh = first, False
                if (first.credit, first.amount) != (change.account, change.amount):
                    change.error = InvalidRequest(
                        f"The reference {change.reference!r} was booked with another account or amount."
                    )
                return
        debit, credit = change.sides
        id_ = self._enter(
            change.at, change.kind, debit, credit, change.amount, None, None, change.reference, change.note
        )
        change.fresh = True
        change.entry = Entry(id_, change.at, change.kind, debit, credit, change.amount, None, change.note)
        if change.reference is not None:
            self._references[change.reference] = change.entry
        self._move(change.account, change.amount if change.kind == "credit" else -change.amount, 0)

    def _step(self, change: Stepped) -> None:
        from tokenhub_proxy.ledger.order_rows import OrderRows  # where payments are taken, and nowhere else

        change.outcome = change.error = None
        try:
            change.outcome = OrderRows(self._connection, self._enter).take(change.step)
        except (InvalidRequest, NotFound) as refusal:
            change.error = refusal

    def _referred(self, reference: str) -> Entry | None:
        row = self._connection.execute(
            f"SELECT {ENTRY_COLUMNS} FROM entries WHERE reference = ?",  # noqa: S608 - our own column names
            (reference,),
        ).fetchone()
        return None if row is None else Entry(*row)

    def _next_entry_id(self) -> int:
        """The id that the next entry of this batch gets: the file counts on from its last one."""
        if self._last_entry_id is None:
            # Taken from the file in every transaction, so that a failed one leaves no gap.
            row = self._connection.execute("SELECT max(id) FROM entries").fetchone()
            self._last_entry_id = int(row[0] or 0)
        return self._last_entry_id + len(self._entries) // _PARAMETERS["entries"] + 1

    def _enter(self, *values: Any) -> int:
        """An entry whose id somebody wants to know."""
        id_ = self._next_entry_id()
        self._entries.extend((id_, *values))
        return id_

    def _move(self, account: str, posted: int, held: int) -> None:
        sums = self._accounts.get(account)
        if sums is None:
            self._accounts[account] = [posted, held]
        else:
            sums[0] += posted
            sums[1] += held

    def _move_window(self, name: str, posted: int, held: int, at: float) -> None:
        sums = self._windows.get(name)
        if sums is None:
            self._windows[name] = [posted, held, at]
        else:
            sums[0] += posted
            sums[1] += held
            sums[2] = max(sums[2], at)

    def _insert(self, rows: str, values: list[Any]) -> None:
        width = _PARAMETERS[rows]
        step = width * _ROWS_PER_INSERT_MAX
        for start in range(0, len(values), step):
            some = values[start : start + step]
            self._connection.execute(_insert(rows, len(some) // width), some)

    def _flush(self, opened: Sequence[Opened], keys: Sequence[KeyPut]) -> None:
        execute, executemany = self._connection.execute, self._connection.executemany
        # An account is widened before its counters move and narrowed after that, so that the
        # check sees no state that never was.
        accounts = [account for change in opened for account in change.accounts]
        if accounts:
            executemany(_OPEN_ACCOUNT, [(account.name, 1) for account in accounts])
        if self._accounts:
            executemany(_MOVE_ACCOUNT, [(*sums, name) for name, sums in self._accounts.items()])
        if accounts:
            executemany(_OPEN_ACCOUNT, [(account.name, account.unlimited) for account in accounts])
        if self._windows:
            moves = [(posted, held, at, name) for name, (posted, held, at) in self._windows.items()]
            executemany(_OPEN_WINDOW, [(move[3], move[2]) for move in moves])
            executemany(_MOVE_WINDOW, moves)
        self._insert("holds", self._holds)
        self._insert("endings", self._endings)
        # Those whose ids somebody knows already go first: the rest get the ids after them.
        self._insert("entries", self._entries)
        self._insert("charges", self._charges)
        self._insert("writeoffs", self._writeoffs)
        if self._rollups:
            executemany(_ADD_ROLLUP, [(*name, *_sums(moves)) for name, moves in self._rollups.items()])
        if self._idempotency:
            executemany(_INSERT_IDEMPOTENCY, self._idempotency)
            execute(_FORGET_IDEMPOTENCY, (min(row[4] for row in self._idempotency) - REMEMBERED_S,))
        if keys:
            executemany(_PUT_KEY, [key_row(change.key) for change in keys])


def purge(connection: Connection, before: float, below: int) -> int:
    """Delete a chunk of the oldest calls, begun before that time and with an id below; say how many."""
    execute = connection.execute
    execute("BEGIN IMMEDIATE")
    try:
        oldest = execute(
            "SELECT id, at FROM holds WHERE id < ? ORDER BY id LIMIT ?", (below, PURGE_CHUNK)
        ).fetchall()
        count = next((n for n, (_, at) in enumerate(oldest) if at >= before), len(oldest))
        if count:
            last = oldest[count - 1][0]
            # The triggers let go of what is below this mark.
            execute("UPDATE meta SET purge_below = max(purge_below, ?)", (last + 1,))
            execute("DELETE FROM idempotency WHERE hold <= ?", (last,))
            execute("DELETE FROM endings WHERE hold <= ?", (last,))
            execute("DELETE FROM holds WHERE id <= ?", (last,))
        execute("COMMIT")
    except BaseException:
        with suppress(Exception):  # SQLite may have done it already
            execute("ROLLBACK")
        raise
    return count


def key_row(key: Key) -> tuple[Any, ...]:
    """A key's columns, in the order of KEY_COLUMNS."""
    return (
        key.id, key.name, key.account, key.digest, key.previous_digest, key.previous_until,
        orjson.dumps(key.scope).decode(), key.created_at, key.revoked_at, key.from_config,
    )  # fmt: skip


def read_key(row: Sequence[Any]) -> Key:
    """The key of a row of KEY_COLUMNS."""
    scope = orjson.loads(row[6])
    scope["models"], scope["ips"] = tuple(scope["models"]), tuple(scope["ips"])
    return Key(
        id=row[0], name=row[1], account=row[2], digest=row[3], previous_digest=row[4], previous_until=row[5],
        scope=Scope(**scope), created_at=row[7], revoked_at=row[8], from_config=bool(row[9]),
    )  # fmt: skip
