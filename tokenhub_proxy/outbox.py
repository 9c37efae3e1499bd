"""Writes to many sockets within one turn of the event loop, made one right after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Written(Protocol):
    """A transport, as far as it matters here."""

    def is_closing(self) -> bool: ...
    def write(self, data: bytes) -> None: ...


class Outbox:
    """Holds back what is written in a turn of the loop until its end, but for the first write.

    A write wakes whoever reads at the other end, and waking a sleeper costs more than all else
    that the kernel does for it. Writes that follow each other closely find the reader awake: with
    32 calls at a time that is a tenth of a call's CPU. Who is alone waits for nothing.
    """

    __slots__ = ("_soon", "_turn", "_waiting")

    def __init__(self, soon: Callable[[Callable[[], None]], object]) -> None:
        """`soon` calls a function at the loop's next turn."""
        self._soon = soon
        self._turn = False  # something was written in this turn
        # At most one write for each call under way: what follows waits for an answer to it.
        self._waiting: list[tuple[Written, bytes]] = []

    def write(self, transport: Written, data: bytes) -> None:
        """Write now, or by the end of the turn. What goes to one transport must all go this way."""
        if self._turn:
            self._waiting.append((transport, data))
            return
        self._turn = True
        self._soon(self._end_turn)
        transport.write(data)

    def flush(self) -> None:
        """Write what waits: somebody is about to close a connection, or to write past this."""
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)

    def _end_turn(self) -> None:
        self._turn = False
        self.flush()
