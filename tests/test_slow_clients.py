"""Clients that send slowly, or nothing: each is closed in time, and the others do not notice."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KEY, Serve, one_upstream
from tests.served import Served
from tests.upstream import FakeUpstream
from tokenhub_proxy import connection, sockets

HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
    f"Authorization: Bearer {KEY}\r\n"
).encode()
# What a timer may be late by on a busy machine.
LATE_S = 2.0


async def endure(
    port: int, first: bytes, drop: bytes, pause_s: float, patience_s: float
) -> tuple[bytes, float]:
    """Send `first`, then `drop` every `pause_s`, until the server has enough.

    Gives what it said, and after how long it closed.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started = time.monotonic()
    said = bytearray()

    async def read() -> None:
        try:
            while data := await reader.read(2**16):
                said.extend(data)
        except ConnectionError:
            pass  # closed while we were sending

    reading = asyncio.create_task(read())
    try:
        writer.write(first)
        while not reading.done() and time.monotonic() - started < patience_s:
            await asyncio.wait([reading], timeout=pause_s)
            if drop and not reading.done():
                writer.write(drop)
        assert reading.done(), f"still open after {patience_s} s"
        return bytes(said), time.monotonic() - started
    finally:
        reading.cancel()
        writer.close()


def silent(port: int, pause_s: float, patience_s: float) -> Awaitable[tuple[bytes, float]]:
    return endure(port, b"", b"", pause_s, patience_s)


def slow_head(port: int, pause_s: float, patience_s: float) -> Awaitable[tuple[bytes, float]]:
    return endure(port, b"GET /v1/models HTTP/1.1\r\nHost: h\r\n", b"X: y\r\n", pause_s, patience_s)


def slow_body(port: int, pause_s: float, patience_s: float) -> Awaitable[tuple[bytes, float]]:
    return endure(port, HEAD + b"Content-Length: 100000\r\n\r\n{", b" ", pause_s, patience_s)


def slow_chunks(port: int, pause_s: float, patience_s: float) -> Awaitable[tuple[bytes, float]]:
    first = HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
    return endure(port, first, b"1\r\n \r\n", pause_s, patience_s)


def idle(port: int, pause_s: float, patience_s: float) -> Awaitable[tuple[bytes, float]]:
    return endure(port, b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n", b"", pause_s, patience_s)


Enemy = Callable[[int, float, float], Awaitable[tuple[bytes, float]]]


async def ask(port: int) -> float:
    """One healthy streamed call on a connection of its own: seconds until its first event."""
    body = json.dumps(
        {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started = time.monotonic()
    try:
        writer.write(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        async with asyncio.timeout(30):
            await reader.readuntil(b"data: ")
            took = time.monotonic() - started
            assert (await reader.read()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    finally:
        writer.close()
    return took


async def healthy(port: int, until: asyncio.Task[Any], pause_s: float) -> list[float]:
    """Calls one after another until the enemies are gone; the sorted times to the first event."""
    took = []
    while not until.done():
        took.append(await ask(port))
        await asyncio.sleep(pause_s)
    return sorted(took)


@pytest.mark.usefixtures("front")
async def test_sixty_slow_clients_are_closed_in_time_and_nobody_waits_for_them(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "HEAD_S", 0.5)
    monkeypatch.setattr(sockets, "KEEP_ALIVE_S", 1.0)
    monkeypatch.setattr(sockets, "LINGER_S", 0.1)
    monkeypatch.setattr(connection, "BODY_S", 0.8)
    proxy = await serve(one_upstream(upstream.base_url))
    deadlines: dict[Enemy, float] = {silent: 0.5, slow_head: 0.5, slow_body: 0.9, slow_chunks: 0.9, idle: 1.0}

    async def attack() -> dict[str, list[tuple[bytes, float]]]:
        return {
            enemy.__name__: list(found)
            for enemy, found in zip(
                deadlines,
                await asyncio.gather(
                    *[
                        asyncio.gather(*[enemy(proxy.port, 0.05, 10.0) for _ in range(12)])
                        for enemy in deadlines
                    ]
                ),
                strict=True,
            )
        }

    attacking = asyncio.create_task(attack())
    first = await healthy(proxy.port, attacking, 0.02)

    found = await attacking
    for enemy, deadline_s in deadlines.items():
        for _, took in found[enemy.__name__]:
            assert deadline_s * 0.8 < took < deadline_s + LATE_S, enemy.__name__
    assert all(said == b"" for name in ("silent", "slow_head") for said, _ in found[name])
    assert all(
        said.startswith(b"HTTP/1.1 408 ") and said.count(b"HTTP/1.1 ") == 1
        for name in ("slow_body", "slow_chunks")
        for said, _ in found[name]
    )
    assert all(said.startswith(b"HTTP/1.1 200 ") for said, _ in found["idle"])
    assert len(first) > 5
    assert first[len(first) // 2] < 0.2


CONFIG = f"""
listen: 127.0.0.1:0
ledger: sqlite:///books.db
upstreams: {{demo: {{dialect: demo}}}}
models:
  demo: {{targets: [{{upstream: demo}}], price: free}}
keys: [{{name: laptop, key: {KEY}}}]
"""
SIEGE_S = 180.0


@pytest.mark.long
async def test_1500_slow_or_silent_sockets_for_three_minutes(tmp_path: Path) -> None:
    """500 slow heads, 500 slow bodies and 500 silent sockets at the real deadlines; new ones follow."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit[0] < 4096:
        pytest.skip(f"only {limit[0]} files may be open here")
    (tmp_path / "config.yaml").write_text(CONFIG)
    served = await asyncio.to_thread(Served, tmp_path)
    port = int(served.address.rpartition(":")[2])
    deadlines: dict[Enemy, float] = {
        silent: sockets.HEAD_S,
        slow_head: sockets.HEAD_S,
        slow_body: connection.BODY_S + sockets.LINGER_S,
    }
    ends_at = time.monotonic() + SIEGE_S
    lasted: dict[Enemy, list[float]] = {enemy: [] for enemy in deadlines}

    async def besiege(enemy: Enemy, number: int) -> None:
        # Not all in one instant: 1,500 first packets at once are another attack.
        await asyncio.sleep(number * 0.002)
        while time.monotonic() < ends_at:
            lasted[enemy].append((await enemy(port, 5.0, 60.0))[1])

    try:
        siege = [
            besiege(enemy, number)
            for enemy, count in ((silent, 500), (slow_head, 500), (slow_body, 500))
            for number in range(count)
        ]
        attacking = asyncio.ensure_future(asyncio.gather(*siege))
        first = await healthy(port, attacking, 0.1)  # type: ignore[arg-type]
        await attacking
    finally:
        assert await asyncio.to_thread(served.stop) == 0
    p99 = first[len(first) * 99 // 100]
    print(f"\n{len(first)} healthy calls: first event p50 {first[len(first) // 2]:.3f} s, p99 {p99:.3f} s")
    for enemy, deadline_s in deadlines.items():
        print(f"{enemy.__name__}: {len(lasted[enemy])} closed, the last after {max(lasted[enemy]):.2f} s")
        assert max(lasted[enemy]) < deadline_s + LATE_S
    assert p99 < 0.2
