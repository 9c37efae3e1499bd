"""What is written straight to a socket arrives as if its transport had written it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress

import pytest

from tokenhub_proxy.outbox import descriptor, write_whole


class Writing(asyncio.Protocol):
    """The side that writes, which is told when to stop."""

    paused = False
    lost = False

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


async def gone(protocol: Writing) -> None:
    """Wait until the connection is closed, and one turn longer: so long a loop may keep its socket."""
    async with asyncio.timeout(10):
        while not protocol.lost:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.005)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[asyncio.Transport, Writing, socket.socket]]:
    """A transport, its protocol, and the socket at the other end, whose buffers are small."""
    ours, theirs = socket.socketpair()
    for one in (ours, theirs):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        one.setblocking(False)
    transport, protocol = await asyncio.get_running_loop().create_connection(Writing, sock=ours)
    try:
        yield transport, protocol, theirs
    finally:
        transport.abort()
        await gone(protocol)
        theirs.close()


async def read(theirs: socket.socket, length: int) -> bytes:
    """So many bytes, or what came before the end."""
    found = b""
    async with asyncio.timeout(10):
        while len(found) < length:
            piece = await asyncio.get_running_loop().sock_recv(theirs, 65536)
            if not piece:
                break
            found += piece
    return found


async def test_a_message_is_there_before_the_write_returns() -> None:
    async with pair() as (transport, _, theirs):
        write_whole(transport, descriptor(transport), b"head ", b"body")
        assert theirs.recv(100) == b"head body"


async def test_it_follows_what_the_transport_has_not_written_yet() -> None:
    async with pair() as (transport, _, theirs):
        large = os.urandom(300_000)
        transport.write(large)
        write_whole(transport, descriptor(transport), b"next ", b"one")
        transport.write(b", last")
        assert await read(theirs, len(large) + 14) == large + b"next one, last"


async def test_what_a_slow_reader_does_not_take_waits_in_its_order_and_the_writer_is_told() -> None:
    async with pair() as (transport, protocol, theirs):
        messages = [os.urandom(3000) for _ in range(200)]
        told = []
        for message in messages:
            write_whole(transport, descriptor(transport), message[:10], message[10:])
            await asyncio.sleep(0)
            told.append(protocol.paused)
        assert told[0] is False
        assert told[-1] is True
        assert await read(theirs, 600_000) == b"".join(messages)
        while protocol.paused:
            await asyncio.sleep(0)
        write_whole(transport, descriptor(transport), b"again", b"")
        assert await read(theirs, 5) == b"again"


async def test_nothing_is_written_to_whoever_has_the_number_of_a_closed_socket() -> None:
    async with pair() as (transport, protocol, _):
        number = descriptor(transport)
        transport.close()
        write_whole(transport, number, b"late", b"")
        await gone(protocol)
        with ExitStack() as opened:
            heirs = {}
            for _ in range(50):
                one, other = map(opened.enter_context, socket.socketpair())
                heirs |= {one.fileno(): other, other.fileno(): one}
            with suppress(RuntimeError):  # so uvloop's transports refuse it
                write_whole(transport, number, b"late", b"")
            heirs[number].setblocking(False)
            with pytest.raises(BlockingIOError):
                heirs[number].recv(100)


async def test_a_reader_that_has_gone_ends_the_connection() -> None:
    async with pair() as (transport, protocol, theirs):
        theirs.close()
        async with asyncio.timeout(10):
            while not protocol.lost:
                write_whole(transport, descriptor(transport), b"anybody?", b"")
                await asyncio.sleep(0.005)
