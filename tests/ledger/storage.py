"""Storage that fails, stands still, or counts what is asked of it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import Any


class Storage:
    """A connection factory whose storage fails when the test says so."""

    def __init__(self) -> None:
        self.failing: Callable[[str], str | None] = lambda sql: None
        self.bound: list[Any] = []
        self.after_commit: str | None = None  # the commit lands and says that it did not
        self.gate = threading.Event()
        self.gate.set()
        self.commits = 0
        self.checkpoints = 0  # that were begun
        self.checkpoint_gate = threading.Event()
        self.checkpoint_gate.set()
        self.raw: sqlite3.Connection | None = None

    def __call__(self, path: str) -> Any:
        self.raw = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        return Connection(self, self.raw)

    def fail(self, name: str, *starts: str) -> None:
        """Every statement that starts so raises this error; without any, every writing one."""
        words = starts or ("INSERT", "UPDATE", "COMMIT")
        self.failing = lambda sql: name if sql.startswith(words) else None

    def heal(self) -> None:
        self.failing = lambda sql: None


class Connection:
    def __init__(self, storage: Storage, connection: sqlite3.Connection) -> None:
        self._storage = storage
        self._connection = connection

    def _check(self, sql: str) -> None:
        self._storage.gate.wait(30)
        name = self._storage.failing(sql)
        if name is not None:
            raise _error(name)

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        self._check(sql)
        if sql.startswith("PRAGMA wal_checkpoint"):
            self._storage.checkpoints += 1
            self._storage.checkpoint_gate.wait(30)
        self._storage.bound += parameters
        cursor = self._connection.execute(sql, parameters)
        if sql == "COMMIT":
            self._storage.commits += 1
            if self._storage.after_commit is not None:
                name, self._storage.after_commit = self._storage.after_commit, None
                raise _error(name)
        return cursor

    def executemany(self, sql: str, parameters: Any) -> None:
        self._check(sql)
        for row in parameters:
            self._storage.bound += row
        self._connection.executemany(sql, parameters)

    def close(self) -> None:
        self._connection.close()


def _error(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(f"told to fail: {name}")
    error.sqlite_errorname = name
    return error
