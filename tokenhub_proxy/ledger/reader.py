"""Where reports read: read-only connections beside the writer, or the writer where there is but one."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from tokenhub_proxy.errors import LedgerUnavailable
from tokenhub_proxy.ledger.rows import error_name
from tokenhub_proxy.ledger.writer import Writer

if TYPE_CHECKING:
    import aiosqlite

log = logging.getLogger(__name__)

Query = tuple[str, Sequence[Any]]
Rows = list[tuple[Any, ...]]

# A report that takes longer is cut: a long reader keeps the write-ahead log from being reused.
DEADLINE_S = 5.0
# Virtual-machine steps between two looks at the clock, well under a millisecond.
_PROGRESS_STEPS = 10_000


class Reader(Protocol):
    """Answers queries from durable books."""

    async def fetch(self, *queries: Query, deadline_s: float | None = DEADLINE_S) -> list[Rows]:
        """The rows of each query, all of one moment. Raises LedgerUnavailable."""
        ...

    async def copy(self, path: str) -> None:
        """Write all of one moment to a new database file. Raises sqlite3.Error."""
        ...

    async def aclose(self) -> None: ...


class FileReader:
    """A read-only connection to the file, opened when the first report is asked for."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: aiosqlite.Connection | None = None
        self._turn = asyncio.Lock()

    async def fetch(self, *queries: Query, deadline_s: float | None = DEADLINE_S) -> list[Rows]:
        try:
            if deadline_s is not None:
                async with self._turn:
                    return await _read(self._connection or await self._open(), queries, deadline_s)
            # A connection of its own: it may take minutes, and reports are not to wait for it.
            connection = await self._connect()
            try:
                return await _read(connection, queries, None)
            finally:
                await connection.close()
        except sqlite3.Error as error:
            if error_name(error) == "SQLITE_INTERRUPT":
                log.warning("slow_query cut_after_s=%g", deadline_s)
                raise LedgerUnavailable(f"the report took longer than {deadline_s:g} s") from error
            raise LedgerUnavailable(error_name(error)) from error

    async def copy(self, path: str) -> None:
        connection = await self._connect()  # of its own, as above
        try:
            await connection.execute("VACUUM INTO ?", (path,))
        finally:
            await connection.close()

    async def _open(self) -> aiosqlite.Connection:
        connection = self._connection = await self._connect()
        await connection.execute("PRAGMA query_only = ON")
        return connection

    async def _connect(self) -> aiosqlite.Connection:
        import aiosqlite  # only reports need it, and the start must not wait for it

        return await aiosqlite.connect(f"file:{quote(self._path)}?mode=ro", uri=True, isolation_level=None)

    async def aclose(self) -> None:
        async with self._turn:
            connection, self._connection = self._connection, None
            if connection is not None:
                await connection.close()


async def _read(
    connection: aiosqlite.Connection, queries: Sequence[Query], deadline_s: float | None
) -> list[Rows]:
    ends_s = None if deadline_s is None else time.monotonic() + deadline_s
    unwanted = False

    def over() -> bool:
        # Not `interrupt`: that does nothing to a query that the connection's thread has yet to begin.
        return unwanted or (ends_s is not None and time.monotonic() > ends_s)

    await connection.set_progress_handler(over, _PROGRESS_STEPS)
    try:
        await connection.execute("BEGIN")
        return [list(await connection.execute_fetchall(*query)) for query in queries]  # type: ignore[arg-type]
    except asyncio.CancelledError:
        unwanted = True  # a check of a large file would go on for a minute
        raise
    finally:
        await connection.rollback()


class WriterReader:
    """Reads on the writer's connection: books in memory have no other."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def fetch(self, *queries: Query, deadline_s: float | None = DEADLINE_S) -> list[Rows]:
        def read() -> list[Rows]:
            execute = self._writer.connection.execute
            execute("BEGIN")
            try:
                return [[tuple(row) for row in execute(*query).fetchall()] for query in queries]
            finally:
                with suppress(sqlite3.Error):
                    execute("ROLLBACK")

        try:
            return await self._writer.call(read)
        except sqlite3.Error as error:
            raise LedgerUnavailable(error_name(error)) from error

    async def copy(self, path: str) -> None:
        await self._writer.call(lambda: self._writer.connection.execute("VACUUM INTO ?", (path,)).fetchall())

    async def aclose(self) -> None:
        """The connection is the writer's to close."""
