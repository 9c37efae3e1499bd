"""The block of a hold: placed before it, ended once however it is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType

from tokenhub_proxy.ledger import Ending, Hold, Ledger


async def holding(ledger: Ledger, hold: Hold, clock: Callable[[], float]) -> Held:
    """Place a hold and wait until it is durable; its block ends it: `with await holding(…) as held:`.

    Raises what `Ledger.place` raises.
    """
    held = Held(ledger, hold, clock)
    durable = ledger.place(hold)
    try:
        await durable
    except BaseException:
        # The hold was refused by storage (and undone), or we were cancelled while waiting.
        if hold.id:
            held.release("cancelled before the upstream was called")
            ledger.finish(hold)
        raise
    return held


class Held:
    """The block of a hold that is placed: exactly one ending is written, however the block is left.

    A block that noted no ending releases the hold. What breaks the block is noted in `failure`, for
    `settled` to raise, which is to be awaited right after the block. Cancellation can stop the
    waiting, never the writing: the end of the block has handed the ending over.
    """

    __slots__ = ("_clock", "_durable", "_ledger", "failure", "hold")

    def __init__(self, ledger: Ledger, hold: Hold, clock: Callable[[], float]) -> None:
        self.hold = hold
        self.failure: BaseException | None = None
        self._ledger = ledger
        self._clock = clock
        self._durable: Awaitable[None] | None = None

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None:
            self.failure = error
        if self.hold.ending is None:
            self.release("nothing produced" if error is None else type(error).__name__)
        self._durable = self._ledger.finish(self.hold)
        return True

    def release(self, reason: str) -> None:
        """Note as the ending that nothing is charged."""
        self.hold.end(Ending(status="released", at=self._clock(), reason=reason))

    def settled(self) -> Awaitable[None]:
        """Wait until the ending is durable, then raise what broke the block."""
        assert self._durable is not None, "awaited after the block"
        return self._durable if self.failure is None else self._broken(self._durable)

    async def _broken(self, durable: Awaitable[None]) -> None:
        try:
            await durable
            if self.failure is not None:
                raise self.failure
        finally:
            self.failure = None  # its traceback holds the frames that hold this
