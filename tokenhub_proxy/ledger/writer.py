"""The one thread that touches the file: it writes batches, checkpoints, and runs what is asked of it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from tokenhub_proxy.ledger.rows import Batch, Connection, broke_constraint, error_name, write, write_singly

T = TypeVar("T")
Job = tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]


class NotLanded(Exception):
    """A doubted batch turned out not to be in the file."""


class InDoubt(Exception):
    """COMMIT failed, and the file can't be asked whether it landed all the same."""


class Writer:
    """Owns the connection, on a thread of its own. What it is given is done in order."""

    def __init__(self, connect: Callable[[], Connection], *, reconnects: bool) -> None:
        """`reconnects`: the connection may be closed and opened again (not so for one in memory)."""
        self._connect = connect
        self._reconnects = reconnects
        self._connection: Connection | None = None
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        # A daemon: a process that dies without closing the ledger must not wait for its thread.
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], T], done: Callable[[Any, BaseException | None], None]) -> None:
        """Run a job on the thread; `done(result, error)` is called on the loop."""
        self._jobs.put((job, done))

    def call(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Run a job on the thread and await its result."""
        future: asyncio.Future[T] = self._loop.create_future()

        def done(result: T, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.submit(job, done)
        return future

    def stop(self) -> None:
        """End the thread after what was submitted, closing the connection. Does not wait."""
        self._jobs.put(None)

    def join(self, wait_s: float) -> None:
        """Wait for the end of the thread; a stalled disk is not waited for longer than this."""
        self._thread.join(wait_s)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, done = job
            result: Any = None
            error: BaseException | None = None
            try:
                result = work()
            except BaseException as raised:
                error = raised
            try:
                self._loop.call_soon_threadsafe(done, result, error)
            except RuntimeError:  # the loop is closed: nobody is left to be told
                break
            del work, done, job, result, error
        self._disconnect()

    # --- on the thread

    @property
    def connection(self) -> Connection:
        """The connection, opened at its first use. For jobs, on the thread."""
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    def checkpoint(self) -> None:
        """Put the log into the file. Where that fails all is still in the log, for another time."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def write(self, batch: Batch) -> None:
        """Make a batch durable, or change nothing and raise; InDoubt when that can't be told."""
        if batch.doubted:
            if not self._ask_landed(batch):
                raise NotLanded
            return
        try:
            self._transact(batch)
        except InDoubt:
            raise
        except Exception as error:
            if error_name(error).startswith("SQLITE_IOERR") and self._reconnects:
                # What the library believes of the file may be wrong now: read it anew.
                self._disconnect()
            raise

    def _transact(self, batch: Batch) -> None:
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            write(self.connection, batch)
        except Exception as error:
            self._roll_back()
            if not broke_constraint(error):
                raise
            execute("BEGIN IMMEDIATE")
            try:
                write_singly(self.connection, batch)
            except Exception:
                self._roll_back()
                raise
        try:
            execute("COMMIT")
        except Exception as error:
            self._roll_back()
            if self._reconnects and error_name(error).startswith("SQLITE_IOERR"):
                self._disconnect()
            if not self._ask_landed(batch):
                raise

    def _roll_back(self) -> None:
        with contextlib.suppress(Exception):  # SQLite may have done it already
            self.connection.execute("ROLLBACK")

    def _ask_landed(self, batch: Batch) -> bool:
        """Whether this batch is in the file. Raises InDoubt when the file doesn't answer."""
        try:
            row = self.connection.execute("SELECT batch FROM meta").fetchone()
        except Exception as error:
            raise InDoubt(error_name(error)) from error
        return bool(row[0] == batch.number)
