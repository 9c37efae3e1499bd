"""A disk that is full or read-only under the whole proxy: nothing is spent that can't be written."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import aiohttp
import pytest

from tests.conftest import KEY, Running, Serve, one_upstream
from tests.served import run
from tests.test_relay_clients import until
from tests.test_server import MESSAGES, ask, error_of
from tests.upstream import STREAM, FakeUpstream, stream_says, usual
from tokenhub_proxy.cli import LEDGER_REFUSED
from tokenhub_proxy.ledger import committer

PATH = "/v1/chat/completions"
CALL = {"model": "m", "messages": MESSAGES, "max_tokens": 100}
COST = 60_000  # (10 input + 2 output tokens) at 3 and 15 USD per million tokens, in nanodollars
DISK_BYTES = 2 * 2**20


class Disk:
    """A file system of its own, which can be filled and made read-only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = folder / "books.db"
        self._balloon = folder / "balloon"

    def fill(self) -> None:
        """Leave no free block."""
        with self._balloon.open("ab", buffering=0) as balloon:
            for size in (2**16, 2**12, 1):
                with pytest.raises(OSError, match="No space left"):
                    write_forever(balloon, bytes(size))

    def free(self) -> None:
        self._balloon.unlink(missing_ok=True)

    def remount(self, mode: str) -> None:
        """`ro` or `rw`. Files that are open for writing keep a file system from becoming read-only."""
        subprocess.run(["mount", "-o", f"remount,{mode}", self.folder], check=True)


def write_forever(file: IO[bytes], data: bytes) -> None:
    while True:
        file.write(data)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small disk; what uses it must ask for it before `serve`, which is done with it first."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder]
    if not shutil.which("mount") or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


async def on_disk(disk: Disk, serve: Serve, upstream: FakeUpstream) -> Running:
    """A proxy whose books are on the small disk, with a prepaid account of 1 USD."""
    running = await serve(
        one_upstream(upstream.base_url)
        + f"ledger: sqlite:///{disk.ledger}\naccounts: {{main: {{balance: prepaid}}}}\n"
        + f"keys: [{{name: k, key: {KEY}, account: main}}]\n"
    )
    await running.ledger.credit("main", 10**9, at=time.time())
    return running


async def call_until_refused(running: Running, upstream: FakeUpstream) -> int:
    """Calls until the ledger can't be written; gives how many were answered."""
    before = len(upstream.asked)
    for answered in range(2000):
        status, headers, body = await ask(running, "POST", PATH, json=CALL)
        if status != 200:
            assert (status, error_of(body)["code"]) == (503, "ledger_unavailable")
            assert headers["retry-after"] == "5"
            assert len(upstream.asked) == before + answered
            return answered
    raise AssertionError("the disk never was full")


def open_holds(running: Running) -> int:
    return sum(account.held for account in running.ledger.list_accounts())


def charged(disk: Disk) -> tuple[int, int]:
    """How many charges the file has, and what they add up to."""
    connection = sqlite3.connect(f"file:{disk.ledger}?mode=ro", uri=True)
    try:
        count, amount = connection.execute(
            "SELECT count(*), sum(amount) FROM entries WHERE kind = 'charge'"
        ).fetchone()
        return count, amount or 0
    finally:
        connection.close()


async def test_a_full_disk_costs_nobody_anything_and_loses_no_charge(
    disk: Disk, serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "ENDING_WAIT_S", 0.5)
    monkeypatch.setattr(committer, "WATCH_S", 0.05)
    running = await on_disk(disk, serve, upstream)
    answering = asyncio.Event()
    upstream.says = lambda asked: (
        stream_says(STREAM, waits=answering) if asked.body.get("stream") else usual(asked)
    )
    under_way = [asyncio.create_task(cut_stream(running)) for _ in range(3)]
    await until(lambda: len(upstream.asked) == 3)

    disk.fill()
    answered = await call_until_refused(running, upstream)
    asked = len(upstream.asked)
    for _ in range(20):
        assert (await ask(running, "POST", PATH, json=CALL))[0] == 503
    assert len(upstream.asked) == asked == 3 + answered
    status, _, body = await ask(running, "GET", "/readyz")
    assert (status, error_of(body)["code"]) == (503, "ledger_unavailable")
    assert running.ledger.unavailable in ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")

    answering.set()
    # All that was said reaches the client, but for the end: its charge is not in the books.
    assert await asyncio.gather(*under_way) == [b"".join(STREAM[:-1])] * 3
    assert running.ledger.unavailable is not None

    disk.free()
    await until(lambda: running.ledger.unavailable is None)
    assert (await ask(running, "GET", "/readyz"))[0] == 200
    assert (await ask(running, "POST", PATH, json=CALL))[0] == 200
    calls = 3 + answered + 1
    assert charged(disk) == (calls, calls * COST)
    assert (running.ledger.account("main").posted, open_holds(running)) == (10**9 - calls * COST, 0)
    assert await running.ledger.verify() == []


async def cut_stream(running: Running) -> bytes:
    """What a stream said before it broke off."""
    said = bytearray()

    async def read_all(content: aiohttp.StreamReader) -> None:
        async for data in content.iter_any():
            said.extend(data)

    body = {**CALL, "stream": True, "stream_options": {"include_usage": True}}
    async with (
        aiohttp.ClientSession() as session,
        session.post(running.url + PATH, json=body, headers=running.headers) as answer,
    ):
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await read_all(answer.content)
    return bytes(said)


async def test_a_disk_that_fills_and_empties_under_load_charges_what_the_upstream_served(
    disk: Disk, serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "RETRY_MAX_S", 0.1)
    running = await on_disk(disk, serve, upstream)
    statuses: list[int] = []
    rounds, done = 3, False

    async def call() -> None:
        status, _, body = await ask(running, "POST", PATH, json=CALL)
        assert status == 200 or error_of(body)["code"] == "ledger_unavailable"
        statuses.append(status)

    async def client() -> None:
        while not done:
            await call()

    clients = asyncio.gather(*(client() for _ in range(8)))
    for _ in range(rounds):
        served, refused = statuses.count(200), statuses.count(503)
        await until(lambda: statuses.count(200) >= served + 20, 20)  # noqa: B023 - awaited within the turn
        disk.fill()
        await until(lambda: running.ledger.unavailable is not None, 20)
        # All clients may be waiting for their endings now; who comes anew is refused.
        for _ in range(20):
            await call()
        assert statuses.count(503) >= refused + 20
        disk.free()
    done = True
    await clients

    await until(lambda: running.ledger.unavailable is None)
    # An answer whose ending had to wait came in the end: what was served is what was charged.
    assert statuses.count(200) == len(upstream.asked)
    assert charged(disk) == (len(upstream.asked), len(upstream.asked) * COST)
    assert open_holds(running) == 0
    assert await running.ledger.verify() == []


def test_a_server_refuses_a_disk_that_it_can_not_write(disk: Disk, tmp_path: Path) -> None:
    assert run(tmp_path, "keys", "create", "mine", "--ledger", f"sqlite:///{disk.ledger}").returncode == 0
    before = disk.ledger.read_bytes()
    disk.remount("ro")

    refused = run(tmp_path, "serve", "--listen", "127.0.0.1:0", "--ledger", f"sqlite:///{disk.ledger}")

    assert refused.returncode == LEDGER_REFUSED
    assert "Read-only file system" in refused.stderr
    assert disk.ledger.read_bytes() == before
