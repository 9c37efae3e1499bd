"""aiohttp's connection as we extend it, driven by hand where a real socket leaves the order to chance."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tokenhub_proxy import aiohttp_server, sockets
from tokenhub_proxy.connection import HttpClient


class Recorded(asyncio.Transport):
    """A transport that only remembers that it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = asyncio.Event()

    def close(self) -> None:
        self.closed.set()

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


async def test_a_first_request_is_expected_until_it_is_served() -> None:
    """A stop that finds nobody expected refuses whatever comes later: nothing may come in between."""
    expected = []

    async def serve(client: HttpClient) -> None:
        expected.append(connection.expecting)

    connection = aiohttp_server.Server(serve, lambda: "req_1")()
    connection.connection_made(Recorded())
    await asyncio.sleep(0)  # aiohttp's task waits for a request
    connection.data_received(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")

    before = [connection.expecting]
    while not expected:
        await asyncio.sleep(0)
        before.append(connection.expecting)
    before.pop()  # which is after it was served

    assert all(before)
    assert expected == [False]
    connection.connection_lost(None)


async def test_a_head_that_begins_with_the_connection_has_its_deadline_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some event loops hand over the first bytes before aiohttp's task has begun."""
    monkeypatch.setattr(sockets, "HEAD_S", 0.05)

    async def never(client: HttpClient) -> None:
        raise AssertionError("half a head is no request")

    connection = aiohttp_server.Server(never, lambda: "req_1")()
    transport = Recorded()
    connection.connection_made(transport)
    connection.data_received(b"GET / HTTP/1.1\r\n")

    async with asyncio.timeout(5):
        await transport.closed.wait()
    connection.connection_lost(None)
