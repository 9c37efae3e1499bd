"""Writes to many sockets within one turn of the event loop, made one right after the other."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, Protocol


class Written(Protocol):
    """A transport, as far as it matters here."""

    def is_closing(self) -> bool: ...
    def get_write_buffer_size(self) -> int: ...
    def write(self, data: bytes) -> None: ...


class Made(Protocol):
    """A transport of either event loop, TLS or not."""

    def get_extra_info(self, name: str) -> Any: ...


# Up to here head and body are joined into one write, which is one system call and one packet;
# a larger body is not copied once more for that.
JOINED_BYTES_MAX: Final = 64 * 2**10


def descriptor(transport: Made) -> int:
    """The socket that this transport's bytes can be written to as they are, or -1: TLS changes them."""
    socket = transport.get_extra_info("socket")
    # Windows numbers its sockets apart from its files.
    if socket is None or transport.get_extra_info("sslcontext") is not None or os.name != "posix":
        return -1
    return int(socket.fileno())


def write_whole(transport: Written, descriptor: int, head: bytes, body: bytes) -> None:
    """Write a whole message now, straight to the socket where the transport has nothing to write before it.

    As long as the transport is not closing, the descriptor is its own. What the socket does not take,
    and what goes wrong, is the transport's: it waits, and it tells of what is lost.
    """
    if len(body) > JOINED_BYTES_MAX:
        transport.write(head)
        transport.write(body)
        return
    data = head + body
    if descriptor >= 0 and not transport.is_closing() and not transport.get_write_buffer_size():
        try:
            written = os.write(descriptor, data)
        except OSError:
            written = 0
        if written == len(data):
            return
        data = data[written:]
    transport.write(data)


class Outbox:
    """Holds back what is written in a turn of the loop until its end, but for the first write.

    A write wakes whoever reads at the other end, and waking a sleeper costs more than all else
    that the kernel does for it. Writes that follow each other closely find the reader awake: with
    32 calls at a time that is a tenth of a call's CPU, and a twentieth of a chunk's with 500 streams.
    Who is alone waits for nothing.
    """

    __slots__ = ("_soon", "_turn", "_waiting")

    def __init__(self, soon: Callable[[Callable[[], None]], object]) -> None:
        """`soon` calls a function at the loop's next turn."""
        self._soon = soon
        self._turn = False  # something was written in this turn
        # For each call under way what one read of its upstream has brought, or one message.
        self._waiting: list[tuple[Written, int, bytes, bytes]] = []

    def write(self, transport: Written, descriptor: int, head: bytes, body: bytes) -> None:
        """Write a message now, or by the end of the turn; a large one now, so that its reader can be slow."""
        if not self._turn:
            self._turn = True
            self._soon(self._end_turn)
        elif len(body) > JOINED_BYTES_MAX:
            self.flush()
        else:
            self._waiting.append((transport, descriptor, head, body))
            return
        write_whole(transport, descriptor, head, body)

    def flush(self) -> None:
        """Write what waits: somebody is about to close a connection, or to write past this."""
        waiting, self._waiting = self._waiting, []
        for transport, descriptor, head, body in waiting:
            if not transport.is_closing():
                write_whole(transport, descriptor, head, body)

    def _end_turn(self) -> None:
        self._turn = False
        self.flush()
