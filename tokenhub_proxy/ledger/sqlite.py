"""The ledger in one SQLite file: memory decides, one writer thread makes it durable in batches."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tokenhub_proxy.errors import InvalidRequest, LedgerUnavailable
from tokenhub_proxy.keys import Key
from tokenhub_proxy.ledger import (
    Account,
    Ending,
    Entry,
    Hold,
    LedgerRefused,
    Receipt,
    Remembered,
    UsageBy,
    UsageRow,
    Window,
    audit,
    reports,
)
from tokenhub_proxy.ledger.books import WINDOW_KEPT_S, Books
from tokenhub_proxy.ledger.changes import Booked, KeyPut, Opened, Stepped
from tokenhub_proxy.ledger.committer import Committer
from tokenhub_proxy.ledger.copies import make_way, put_in_place
from tokenhub_proxy.ledger.file import (
    MEMORY,
    QUICK_CHECK,
    WINDOWS_SINCE,
    Durability,
    Lock,
    connect,
    connect_sqlite3,
    is_large,
    load,
    path_of,
    prepare,
)
from tokenhub_proxy.ledger.people import People
from tokenhub_proxy.ledger.reader import FileReader, Reader, WriterReader
from tokenhub_proxy.ledger.rows import Connection, error_name, purge
from tokenhub_proxy.ledger.writer import Writer

if TYPE_CHECKING:
    from tokenhub_proxy.ledger.orders import Code, Order, OrderEvent, Outcome, Step, Webhook

log = logging.getLogger("tokenhub_proxy.ledger")

# Holds that a crash left open are resolved before the first call is taken; storage that takes
# longer than this is retried behind our back, and calls are refused meanwhile.
RECOVERY_WAIT_S = 5.0
# More of them than this are told in one line, not one by one.
RECOVERED_LINES_MAX = 100
# At the end of the process, endings wait so long for storage; what is left expires at the next start.
CLOSE_WAIT_S = 10.0
# Memory and file are compared only in a moment without writes; under load there may be none.
VERIFY_TRIES = 3


async def open_ledger(
    url: str,
    *,
    durability: Durability = "full",
    clock: Callable[[], float],
    boot_id: str = "",
    connection: Callable[[str], Connection] | None = None,
) -> SqliteLedger:
    """The ledger of a URL such as `sqlite:///tokenhub.db`, with what a crash left open resolved.

    `clock` gives seconds since 1970; `boot_id` names this run in the reasons of holds that it
    might leave behind; `connection` opens a file in another way than `sqlite3` does. Raises
    LedgerInUse and LedgerRefused.
    """
    path = path_of(url)
    lock = None if path == MEMORY else Lock(path, clock())
    factory = connection or connect_sqlite3
    writer = Writer(lambda: connect(path, durability, factory), reconnects=path != MEMORY)
    try:
        books, number, last_boot = await writer.call(lambda: _open(writer, path, clock()))
        own_file = path != MEMORY and connection is None
        reader: Reader = FileReader(path) if own_file else WriterReader(writer)
        committer = Committer(books, writer, number, boot_id)
        ledger = SqliteLedger(path, books, committer, writer, reader, lock)
        await ledger.recover(clock(), last_boot)
        if own_file and is_large(path):
            ledger.check_behind()
    except BaseException:
        writer.stop()
        if lock is not None:
            lock.release()
        raise
    return ledger


def _open(writer: Writer, path: str, now_s: float) -> tuple[Books, int, str]:
    try:
        connection = writer.connection
        prepare(connection, path)
        return load(connection, now_s)
    except LedgerRefused:
        raise
    except Exception as error:
        raise LedgerRefused(f"{path} can't be opened: {error} ({error_name(error)}).") from error


class SqliteLedger:
    """A `Ledger`. Its methods are called on the event loop that opened it."""

    def __init__(
        self,
        path: str,
        books: Books,
        committer: Committer,
        writer: Writer,
        reader: Reader,
        lock: Lock | None,
    ) -> None:
        self.path = path
        self._books = books
        self._committer = committer
        self._writer = writer
        self._reader = reader
        self.people = People(writer, reader, lambda: self.unavailable)
        self._lock = lock
        self._loop = asyncio.get_running_loop()
        self._check: asyncio.Task[None] | None = None
        self._closed = False

    # --- answered from memory

    def find_key(self, digest: bytes) -> Key | None:
        return self._books.keyring.find(digest)

    def list_keys(self) -> Sequence[Key]:
        return self._books.keyring.all()

    def lend(self, name: str, digest: bytes, until: float) -> None:
        """Let one more secret open a key for a while; it is kept in memory alone."""
        self._books.keyring.lend(name, digest, until)

    def account(self, name: str) -> Account | None:
        return self._books.account(name)

    def list_accounts(self) -> Sequence[Account]:
        return self._books.accounts()

    def window(self, name: str) -> Window:
        return self._books.window(name)

    def remembered(self, key_id: str, idempotency_key: str) -> Remembered | None:
        return self._books.remembered(key_id, idempotency_key)

    def standing(self) -> tuple[int, int, int]:
        """Open holds, their nanodollars, and how many calls have ended whose ending is not durable yet."""
        return (*self._books.standing(), self._committer.unsettled)

    def watch_commits(self, told: Callable[[float, int], None]) -> None:
        self._committer.told = told  # of each commit: the seconds it took, and how many changes it had

    @property
    def unavailable(self) -> str | None:
        return "closed" if self._closed else self._committer.failure

    # --- changes

    def _require(self) -> None:
        reason = self.unavailable
        if reason is not None:
            raise LedgerUnavailable(reason)

    def place(self, hold: Hold) -> Awaitable[None]:
        if self._closed or self._committer.failure is not None:
            self._require()
        if hold.window is not None and self._books.forgot(hold.window, hold.at):
            return self._place_after_recall(hold)
        change = self._books.place(hold)
        change.waiter = waiter = self._loop.create_future()
        self._committer.push(change)
        return waiter

    async def _place_after_recall(self, hold: Hold) -> None:
        since = hold.at - WINDOW_KEPT_S
        (rows,) = await self._reader.fetch((WINDOWS_SINCE, (since,)))
        self._books.recall(((Window(*row[:3]), row[3]) for row in rows), since)
        await self.place(hold)

    def finish(self, hold: Hold) -> Awaitable[None]:
        change = self._books.end(hold)
        change.waiter = waiter = self._loop.create_future()
        change.taken_at = self._loop.time()
        if change.writeoff:
            log.error(
                "hold_exceeded request=%s hold=%d cost=%d", hold.request_id, hold.amount, change.ending.cost
            )
        self._committer.push(change)
        return waiter

    def credit(
        self, account: str, amount: int, *, at: float, note: str = "", reference: str | None = None
    ) -> Awaitable[Entry]:
        return self._ask(lambda: self._books.credit(account, amount, at, note, reference))

    def debit(self, account: str, amount: int, *, at: float, note: str = "") -> Awaitable[Entry]:
        return self._ask(lambda: self._books.debit(account, amount, at, note))

    def is_blocked(self, account: str) -> bool:
        """Whether an account's calls are refused, whatever its balance."""
        return self._books.is_blocked(account)

    async def block_account(self, account: str, blocked: bool, *, at: float) -> None:
        """Refuse an account's calls from the very next one on, or take them again."""
        await self.people.write_blocked(account, at if blocked else None)
        self._books.block(account, blocked)

    def open_account(self, account: Account) -> Awaitable[None]:
        return self._ask(lambda: self._books.open([account]))

    def put_key(self, key: Key) -> Awaitable[None]:
        return self._ask(lambda: self._books.put_key(key))

    def declare(
        self, keys: Iterable[Key], accounts: Iterable[Account], taken: Callable[[], None] | None = None
    ) -> Awaitable[None]:
        return self._ask(lambda: self._books.open(accounts, keys, taken))

    def _ask(self, step: Callable[[], Booked | Opened | KeyPut]) -> Awaitable[Any]:
        self._require()
        change = step()
        change.waiter = waiter = self._loop.create_future()
        if isinstance(change, Opened) and not change.accounts and self._committer.quiet:
            # Nothing for the file, and nothing on its way that was asked for before.
            self._books.commit(change)
            waiter.set_result(None)
        else:
            self._committer.push(change)
        return waiter

    # --- orders; their code is imported where payments are taken, and nowhere else

    async def take(self, step: Step) -> Outcome:
        self._require()
        change = Stepped(step, waiter=self._loop.create_future())
        self._committer.push(change)
        await change.waiter
        assert change.outcome is not None
        return change.outcome

    async def order(self, id: str) -> Order | None:
        from tokenhub_proxy.ledger import order_reports

        return await order_reports.order(self._reader, "id = ?", id)

    async def order_of_payment(self, provider: str, payment: str) -> Order | None:
        from tokenhub_proxy.ledger import order_reports

        return await order_reports.order(self._reader, "provider = ? AND payment = ?", provider, payment)

    async def orders(
        self,
        account: str | None = None,
        state: str | None = None,
        before: tuple[float, str] | None = None,
        limit: int = reports.REQUESTS_MAX,
        provider: str | None = None,
    ) -> Sequence[Order]:
        from tokenhub_proxy.ledger import order_reports

        wanted = {"account": account, "state": state, "provider": provider}
        return await order_reports.orders(self._reader, wanted, before, limit)

    async def open_orders(self) -> Sequence[Order]:
        from tokenhub_proxy.ledger import order_reports

        return await order_reports.open_orders(self._reader)

    async def order_events(self, order: str) -> Sequence[OrderEvent]:
        from tokenhub_proxy.ledger import order_reports

        return await order_reports.events(self._reader, order)

    async def webhooks(self, limit: int = reports.REQUESTS_MAX) -> Sequence[Webhook]:
        from tokenhub_proxy.ledger import order_reports

        return await order_reports.webhooks(self._reader, limit)

    async def codes(self, limit: int = reports.REQUESTS_MAX) -> Sequence[Code]:
        from tokenhub_proxy.ledger import order_reports

        return await order_reports.codes(self._reader, limit)

    # --- reports

    async def receipt(self, request_id: str) -> Receipt | None:
        return await reports.receipt(self._reader, request_id)

    async def requests(
        self, account: str | None = None, before: int | None = None, limit: int = reports.REQUESTS_MAX
    ) -> Sequence[Receipt]:
        return await reports.requests(self._reader, account, before, limit)

    def entries(self) -> AsyncIterator[Entry]:
        return reports.entries(self._reader)

    @property
    def reader(self) -> Reader:
        """Where reports read: beside the writer, with a deadline."""
        return self._reader

    async def usage(self, by: UsageBy, since: float = 0.0) -> Sequence[UsageRow]:
        return await reports.usage(self._reader, by, since)

    async def verify(self) -> Sequence[str]:
        found: Sequence[str] = ()
        for _ in range(VERIFY_TRIES):
            steps, quiet = self._committer.steps, self._committer.quiet
            found, counters = await audit.verify(self._reader)
            if quiet and self._committer.quiet and steps == self._committer.steps:
                return [*found, *audit.compare(self._books, counters)]
        return found

    async def backup(self, path: str) -> None:
        """Raises InvalidRequest where `path` exists or can't be written."""
        unfinished = f"{path}.unfinished"
        try:
            await self._loop.run_in_executor(None, make_way, unfinished, path)
            await self._reader.copy(unfinished)
            await self._loop.run_in_executor(None, put_in_place, unfinished, path)
        except (OSError, sqlite3.Error) as error:
            with suppress(OSError):
                os.unlink(unfinished)
            raise InvalidRequest(f"{path} could not be written: {error}.") from error

    async def purge(self, before: float) -> int:
        purged = 0
        while True:
            self._require()
            below = self._books.open_from
            try:
                count = await self._writer.call(lambda: purge(self._writer.connection, before, below))  # noqa: B023 - awaited within the turn
            except sqlite3.Error as error:
                raise LedgerUnavailable(error_name(error)) from error
            purged += count
            if not count:
                return purged

    # --- the start and the end

    async def recover(self, now_s: float, last_boot: str) -> None:
        """Expire the holds that the last run left open."""
        holds = self._books.open_holds()
        waiters = []
        for hold in holds:
            reason = f"the process ended before the call did (run {last_boot or 'unknown'})"
            hold.end(Ending("expired", at=now_s, reason=reason))
            if len(holds) <= RECOVERED_LINES_MAX:
                log.warning(
                    "hold_expired request=%s account=%s amount=%d",
                    hold.request_id,
                    hold.key.account,
                    hold.amount,
                )
            waiters.append(asyncio.ensure_future(self.finish(hold)))
        if len(holds) > RECOVERED_LINES_MAX:
            log.warning("holds_expired count=%d run=%s", len(holds), last_boot)
        if waiters:
            await asyncio.wait(waiters, timeout=RECOVERY_WAIT_S)

    def check_behind(self) -> None:
        """Look for damage while the ledger is in use; found, nothing is written any more."""
        self._check = self._loop.create_task(self._look_for_damage())

    async def _look_for_damage(self) -> None:
        try:
            ((*found,),) = await self._reader.fetch((QUICK_CHECK, ()), deadline_s=None)
            if found != [("ok",)]:
                self._committer.give_up(f"the ledger is damaged ({found[0][0]}); restore a backup")
        except LedgerUnavailable as error:
            self._committer.give_up(f"the ledger can't be checked for damage ({error.reason})")

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._check is not None:
            self._check.cancel()
            await asyncio.wait([self._check])
        await self._committer.drain(CLOSE_WAIT_S)
        # Readers go first: the last connection to close puts the log into the file.
        await self._reader.aclose()
        self._writer.stop()
        await self._loop.run_in_executor(None, self._writer.join, CLOSE_WAIT_S)
        if self._lock is not None:
            self._lock.release()
