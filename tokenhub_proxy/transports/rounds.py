"""The sockets of many streams, read in rounds: no chunk wakes the loop up for itself."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

# The most that one read takes. The last one waits for a client that takes nothing, so hundreds of
# those cost megabytes by it; and whoever shares the loop waits for the read to be dealt with. Left
# to themselves both event loops take four times as much.
READ_BYTES_MAX = 64 * 1024
# One for all: what is read is parsed, and copied where it is kept, before the loop reads again.
READ: Final = memoryview(bytearray(READ_BYTES_MAX))

# Of hundreds of streams a chunk comes every tenth of a millisecond, and each would wake the loop and then its
# client. In rounds this far apart a chunk comes a millisecond later, and takes a sixth less CPU.
ROUND_S = 0.002
# Up to so many calls chunks come so seldom that nobody waits for the next round.
CALLS_MAX = 64


class Readable:
    """A socket that its transport reads, or rounds in its place."""

    __slots__ = ("_descriptor", "_rounds", "_transport")

    _descriptor: int  # -1 where what is read is not what comes: TLS
    _rounds: Rounds | None
    _transport: asyncio.Transport

    def buffer_updated(self, nbytes: int) -> None:
        """Take so many bytes from `READ`."""
        raise NotImplementedError

    def join_rounds(self, rounds: Rounds) -> None:
        """Have these rounds read the socket, which is being read."""
        if self._rounds is None and self._descriptor >= 0 and not self._transport.is_closing():
            self._transport.pause_reading()
            self._rounds = rounds
            rounds.add(self._descriptor, self)

    def leave_rounds(self) -> None:
        """Have the transport read it again, if rounds do."""
        rounds = self._rounds
        if rounds is not None:
            self._rounds = None
            rounds.remove(self._descriptor)
            if not self._transport.is_closing():
                self._transport.resume_reading()


class Rounds:
    """Reads all sockets that have something, one right after the other, every ROUND_S. Belongs to a loop."""

    __slots__ = ("_call_later", "_due", "_epoll", "_sockets")

    def __init__(self, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        """`call_later` is the loop's."""
        self._call_later = call_later
        self._epoll: Any = select.epoll()
        self._sockets: dict[int, Readable] = {}  # by descriptor
        self._due = False

    def __len__(self) -> int:
        return len(self._sockets)

    def add(self, descriptor: int, socket: Readable) -> None:
        """Read this socket from now on; nobody else may."""
        self._epoll.register(descriptor, select.EPOLLIN)
        self._sockets[descriptor] = socket
        if not self._due:
            self._due = True
            self._call_later(ROUND_S, self._round)

    def remove(self, descriptor: int) -> None:
        """Read it no more."""
        del self._sockets[descriptor]
        with suppress(OSError):  # its transport has closed it: then it is out already
            self._epoll.unregister(descriptor)

    def _round(self) -> None:
        self._due = bool(self._sockets)
        if not self._due:
            return
        self._call_later(ROUND_S, self._round)
        for descriptor, event in self._epoll.poll(0, len(self._sockets)):
            socket = self._sockets.get(descriptor)
            if socket is None:
                continue  # what one of them brought has closed another
            # An end, or an error, is for its transport to find and to tell.
            nbytes = _filled(descriptor) if event == select.EPOLLIN else 0
            if nbytes:
                socket.buffer_updated(nbytes)
            # What fills the buffer is no event, and more of it should not wait for the next round.
            if not nbytes or nbytes == READ_BYTES_MAX:
                socket.leave_rounds()


def rounds(loop: asyncio.AbstractEventLoop) -> Rounds | None:
    """Rounds for the streams of a loop, or None where the system can't have them."""
    return Rounds(loop.call_later) if sys.platform == "linux" else None


def _filled(descriptor: int) -> int:
    """How many bytes `READ` holds now; none at the end, or where the connection is broken."""
    try:
        return os.readv(descriptor, [READ])
    except OSError:
        return 0
