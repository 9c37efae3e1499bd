"""What stands between memory and file: changes become batches, and failing storage becomes refusals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from tokenhub_proxy.errors import LedgerUnavailable
from tokenhub_proxy.ledger import ENDING_WAIT_S, Ending
from tokenhub_proxy.ledger.books import Books
from tokenhub_proxy.ledger.changes import Booked, Change, Ended, Placed
from tokenhub_proxy.ledger.rows import Batch, error_name
from tokenhub_proxy.ledger.writer import InDoubt, NotLanded, Writer

log = logging.getLogger("tokenhub_proxy.ledger")

# A batch waits for the first turn of the loop that brings nothing new, but so many turns at most.
GATHERING_TURNS_MAX = 8
# A commit costs a tenth of a millisecond of CPU, for one change as for fifty. With many calls open, changes
# come every other millisecond; those of less than a 64th of the calls wait until this long after the last
# commit was begun, for company. With 64 calls or fewer nobody waits.
PACE_S = 0.005
COMPANY = 64
# A checkpoint, which puts the log into the file, takes 1 to 4 ms. It is due after so many commits, of some
# ten pages each, and made by itself as soon as no commit has begun for so long: with 100 a second that is
# soon. Under a load that leaves no such moment a commit makes it (`file.py: LOG_PAGES_MAX`).
CHECKPOINT_COMMITS = 128
QUIET_S = 0.01
# Between two tries to write while storage fails: soon, then twice as long up to the second number.
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 1.0
# A hold that is not durable by then is refused; a stalled disk must not keep the client waiting.
HOLD_WAIT_S = 10.0
# How often waiting callers are looked at while storage fails or stalls.
WATCH_S = 1.0
# Errors after which this process never writes the file again.
DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


class Committer:
    """Makes the books' changes durable, in their order.

    What arrives within a tick of the loop, or while the writer is busy, becomes one transaction.
    While storage fails, everything but endings is undone and refused; endings are kept, first in
    line, and a retry goes out every now and then to find out.
    """

    def __init__(self, books: Books, writer: Writer, number: int, boot_id: str) -> None:
        """`number` is the last batch in the file."""
        self._books = books
        self._writer = writer
        self._number = number
        self._boot_id = boot_id
        self._loop = asyncio.get_running_loop()
        # At most a hold and an ending for each open call: nothing new is taken while storage fails.
        self._arrived: list[Change] = []
        self._scheduled = False
        self._gathered = 0
        self._turns = 0
        self._begun_s = 0.0  # when the last batch was handed over
        self._busy: Batch | None = None
        self._doubted: Batch | None = None
        self._retry_s = RETRY_FIRST_S
        self._retry: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._logged = 0  # commits since the last checkpoint
        self._checkpoint: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None
        self.broken = False
        self.failure: str | None = None
        self.steps = 0
        self.told: Callable[[float, int], None] | None = None

    def push(self, change: Change) -> None:
        """Take a step of the books; its `waiter` is resolved when it is durable or refused."""
        self.steps += 1
        self._arrived.append(change)
        if self.broken:
            _refuse(change.waiter, LedgerUnavailable(self.failure or ""))
        if self._busy is None and not self._scheduled and self.failure is None:
            self._begin_gathering()

    @property
    def quiet(self) -> bool:
        """Whether nothing is on its way to the file."""
        return not self._arrived and self._busy is None and self._doubted is None

    @property
    def unsettled(self) -> int:
        """How many endings are not durable yet."""
        batches = [batch.changes for batch in (self._busy, self._doubted) if batch is not None]
        return sum(type(change) is Ended for changes in (*batches, self._arrived) for change in changes)

    def _begin_gathering(self) -> None:
        self._scheduled = True
        self._gathered = self._turns = 0
        self._loop.call_soon(self._gather)

    def _gather(self) -> None:
        """Hand over what has arrived, unless more keeps arriving: a commit costs the same for many."""
        arrived = len(self._arrived)
        if arrived > self._gathered and self._turns < GATHERING_TURNS_MAX:
            self._gathered = arrived
            self._turns += 1
            self._loop.call_soon(self._gather)
            return
        if arrived * COMPANY < self._books.open_count:
            wait_s = self._begun_s + PACE_S - self._loop.time()
            if wait_s > 0:
                self._loop.call_later(wait_s, self._hand_over)
                return
        self._hand_over()

    def _hand_over(self) -> None:
        self._scheduled = False
        if self._busy is not None:
            return
        batch = self._doubted
        if batch is None:
            changes, self._arrived = self._arrived, []
            self._number += 1
            batch = Batch(self._number, changes, self._books.open_from, self._boot_id)
        self._doubted = None
        self._busy = batch
        batch.started_at = self._begun_s = self._loop.time()
        if self._watch is None:
            self._watch = self._loop.call_later(WATCH_S, self._look)
        self._writer.submit(lambda: self._writer.write(batch), self._written)

    def _written(self, _: None, error: BaseException | None) -> None:
        batch, self._busy = self._busy, None
        assert batch is not None
        self.steps += 1
        if error is None:
            self._committed(batch)
            self._logged += 1
            if self._logged >= CHECKPOINT_COMMITS and self._checkpoint is None:
                self._checkpoint = self._loop.call_later(QUIET_S, self._look_for_quiet)
            if self._arrived and not self._scheduled:
                self._begin_gathering()
        elif isinstance(error, InDoubt):
            self._doubt(batch, error)
        else:
            self._failed(batch, error)
        if self._drained is not None and self.quiet and not self._drained.done():
            self._drained.set_result(None)

    def _committed(self, batch: Batch) -> None:
        if self.told is not None:
            self.told(self._loop.time() - batch.started_at, len(batch.changes))
        if self.failure is not None and not self.broken:
            log.warning("ledger_writable after=%s", self.failure)
            self.failure = None
        self._retry_s = RETRY_FIRST_S
        undone: set[int] = set()
        for change in batch.changes:
            if change.error is not None:
                self._refused(change, change.error, undone)
                continue
            if type(change) is not Ended:
                self._books.commit(change)
                if type(change) is Placed and change.abandoned and self._books.is_open(change):
                    self._release(change)
            waiter, change.waiter = change.waiter, None  # the books keep a hold until its call has ended
            if not waiter.done():
                waiter.set_result(change.entry if type(change) is Booked else None)
        if undone:
            self._forget(undone)

    def _look_for_quiet(self) -> None:
        """Have a checkpoint made when nobody waits.

        The writer's thread could wait for that moment itself, but a timer at each of its waits costs each
        call 13 µs; this one is set a hundred times a second at most.
        """
        wait_s = self._begun_s + QUIET_S - self._loop.time()
        if wait_s > 0 or not self.quiet:
            later_s = wait_s if wait_s > 0 else QUIET_S
            self._checkpoint = self._loop.call_later(later_s, self._look_for_quiet)
            return
        self._checkpoint = None
        self._logged = 0
        self._writer.submit(self._writer.checkpoint, lambda _, error: None)

    def _release(self, placed: Placed) -> None:
        """End a hold that landed after its caller was told that it had not."""
        change = self._books.abandon(placed, _abandoned(placed.hold.at))
        change.waiter = self._loop.create_future()
        change.taken_at = self._loop.time()
        self.push(change)

    def _refused(self, change: Change, error: Exception, undone: set[int]) -> None:
        """The file took the batch but for this change."""
        if isinstance(change, Ended):
            # Memory and file disagree about money. Nothing may be spent on that.
            self.give_up(f"an ending was refused: {error}")
            _refuse(change.waiter, LedgerUnavailable(self.failure or ""))
            return
        self._books.undo(change)
        if isinstance(change, Placed):
            undone.add(change.id)
        _refuse(change.waiter, error)

    def _failed(self, batch: Batch, error: BaseException) -> None:
        """Nothing of the batch was written: endings stay first in line, the rest never was."""
        name = error_name(error)
        if isinstance(error, NotLanded):
            name = self.failure or name
        elif name in DAMAGE:
            self.give_up(f"the ledger is damaged ({name})")
        elif self.failure is None:
            log.error(
                "ledger_write error=%s: %s", name, error, exc_info=not hasattr(error, "sqlite_errorname")
            )
        if not self.broken:
            self.failure = name
        refusal = LedgerUnavailable(self.failure or name)
        endings: list[Change] = []
        undone: set[int] = set()
        for change in (*batch.changes, *self._arrived):
            if isinstance(change, Ended):
                endings.append(change)
                if self.broken:
                    _refuse(change.waiter, refusal)
                continue
            self._books.undo(change)
            if isinstance(change, Placed):
                undone.add(change.id)
            _refuse(change.waiter, refusal)
        self._arrived = endings
        self._forget(undone)
        self._retry_later()

    def _doubt(self, batch: Batch, error: InDoubt) -> None:
        """Nobody can tell whether the batch was written. It is asked about until that is known."""
        if self.failure is None:
            log.error("ledger_write outcome=unknown error=%s", error)
        self.failure = self.failure or str(error)
        batch.doubted = True
        self._doubted = batch
        self._abandon(batch.changes)
        self._retry_later()

    def _abandon(self, changes: Iterable[Change]) -> None:
        """Tell all but the endings' callers that it failed; what is written all the same is undone later."""
        refusal = LedgerUnavailable(self.failure or "")
        for change in changes:
            if isinstance(change, Placed) and not change.waiter.done():
                change.abandoned = True
                change.hold.id = 0
            if not isinstance(change, Ended):
                _refuse(change.waiter, refusal)

    def _forget(self, undone: set[int]) -> None:
        """Drop the endings of holds that never were."""
        kept: list[Change] = []
        for change in self._arrived:
            if isinstance(change, Ended) and change.placed.id in undone:
                if not change.waiter.done():
                    change.waiter.set_result(None)
            else:
                kept.append(change)
        self._arrived = kept

    def give_up(self, reason: str) -> None:
        """Write nothing any more: the file can't be trusted, and only a restart may look at it."""
        self.broken = True
        self.failure = reason
        log.critical("ledger_broken reason=%s", reason)

    # --- while storage fails

    def _retry_later(self) -> None:
        if self.broken:
            return
        self._retry = self._loop.call_later(self._retry_s, self._hand_over)
        self._retry_s = min(2 * self._retry_s, RETRY_MAX_S)

    def _look(self) -> None:
        """Once a second while something waits: let go of the callers that have waited too long."""
        self._watch = None
        now = self._loop.time()
        busy = self._busy
        if busy is not None and now - busy.started_at >= HOLD_WAIT_S:
            if self.failure is None:
                self.failure = "stalled"
                log.error("ledger_write error=stalled")
            self._abandon(busy.changes)
        refusal = LedgerUnavailable(self.failure or "stalled")
        batches = [batch.changes for batch in (busy, self._doubted) if batch is not None]
        for changes in (*batches, self._arrived):
            for change in changes:
                if not isinstance(change, Ended) or now - change.taken_at < ENDING_WAIT_S:
                    continue
                if not change.waiter.done():
                    log.error("settle_deferred request=%s", change.placed.hold.request_id)
                    _refuse(change.waiter, refusal)
        if not self.quiet:
            self._watch = self._loop.call_later(WATCH_S, self._look)

    async def drain(self, wait_s: float) -> None:
        """Wait until all is durable, and tell what is not."""
        if not self.quiet and not self.broken:
            self._drained = self._loop.create_future()
            await asyncio.wait([self._drained], timeout=wait_s)
        for timer in (self._watch, self._retry, self._checkpoint):
            if timer is not None:
                timer.cancel()
        lost = [batch.changes for batch in (self._busy, self._doubted) if batch is not None]
        for changes in (*lost, self._arrived):
            for change in changes:
                if isinstance(change, Ended):
                    _refuse(change.waiter, LedgerUnavailable("closed"))
                    log.critical(
                        "ending_not_written request=%s status=%s cost=%d",
                        change.placed.hold.request_id, change.ending.status, change.ending.cost,
                    )  # fmt: skip


def _abandoned(at: float) -> Ending:
    return Ending("released", at=at, reason="durable only after its call was refused")


def _refuse(waiter: asyncio.Future[object], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)
        # Whoever is not waiting any more needs no "exception was never retrieved".
        waiter.exception()
