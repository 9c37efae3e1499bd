"""A TCP hop that does to the bytes what networks do: late, in crumbs, cut, reset, swallowed.

    async with hop(up.port, answers=Way(latency_s=0.05, slice_bytes=1)) as bad_line:
        ...                     # bad_line.port stands before it: an upstream's line, or a client's

`requests` is the way from who connects, `answers` the way back.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal

READ_BYTES = 2**16

# What follows the last byte that passes: an orderly end, one of this way only, a reset, or silence.
End = Literal["fin", "half_close", "reset", "black_hole"]


@dataclass(frozen=True)
class Way:
    """What happens to the bytes of one direction.

    Each piece is `latency_s` late and, with `slice_bytes`, one of so many bytes in a packet of its
    own. After `limit_bytes` the way has its `end`.
    """

    latency_s: float = 0.0
    slice_bytes: int | None = None
    limit_bytes: int | None = None
    end: End = "fin"


class Hop:
    """A listening hop before `target`. `passed` counts the bytes of both ways together."""

    def __init__(self, target: int, requests: Way, answers: Way) -> None:
        self._target = target
        self._requests = requests
        self._answers = answers
        self._ends: set[asyncio.StreamWriter] = set()
        self._lines: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.passed = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until both its ways have ended."""
        line = asyncio.current_task()
        assert line is not None
        self._lines.add(line)
        self.connections += 1
        ends = [writer]
        self._ends.add(writer)
        try:
            there, beyond = await asyncio.open_connection("127.0.0.1", self._target)
            ends.append(beyond)
            self._ends.add(beyond)
            await asyncio.gather(
                self._carry(reader, beyond, self._requests, ends),
                self._carry(there, writer, self._answers, ends),
            )
        except OSError:
            pass  # nobody listens behind us
        finally:
            for end in ends:
                end.close()
            self._ends.difference_update(ends)
            self._lines.discard(line)

    async def aclose(self) -> None:
        """End all connections at once."""
        _reset(list(self._ends))
        if self._lines:
            await asyncio.wait(list(self._lines))

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        way: Way,
        ends: list[asyncio.StreamWriter],
    ) -> None:
        left = way.limit_bytes
        try:
            while left is None or left > 0:
                data = await reader.read(READ_BYTES)
                if not data:
                    writer.write_eof()
                    return
                data = data[:left]
                left = left - len(data) if left is not None else None
                await self._pass(data, writer, way)
            await self._end(reader, writer, way.end, ends)
        except OSError:
            _reset(ends)  # a reset on one side is one on the other

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter, way: Way) -> None:
        step = way.slice_bytes or len(data)
        for start in range(0, len(data), step):
            if way.latency_s:
                await asyncio.sleep(way.latency_s)
            piece = data[start : start + step]
            writer.write(piece)
            await writer.drain()
            self.passed += len(piece)
            if way.slice_bytes:
                await asyncio.sleep(0)  # a packet of its own

    async def _end(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        end: End,
        ends: list[asyncio.StreamWriter],
    ) -> None:
        if end == "reset":
            _reset(ends)
        elif end == "fin":
            for one in ends:
                one.close()
        else:
            if end == "half_close":
                writer.write_eof()
            while await reader.read(READ_BYTES):
                pass  # taken, and given to nobody


def _reset(ends: list[asyncio.StreamWriter]) -> None:
    """RST on both sides: with SO_LINGER at 0 the kernel throws away what is unsent."""
    for one in ends:
        if not one.transport.is_closing():
            with suppress(OSError):
                raw = one.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.transport.abort()


PLAIN = Way()


@asynccontextmanager
async def hop(target: int, *, requests: Way = PLAIN, answers: Way = PLAIN) -> AsyncIterator[Hop]:
    """Stand before a port of 127.0.0.1; leaving ends all connections."""
    found = Hop(target, requests, answers)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        await found.aclose()
        await server.wait_closed()
