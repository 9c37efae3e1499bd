"""The ledger, the host and the operator: storage that fails, processes that die, clocks that jump."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests import chaos
from tests.conftest import KEY, Running, one_upstream
from tests.faults.scene import (
    COMPLETE,
    COST,
    CUT,
    DROPPED,
    JSON,
    NOTHING,
    REFUSED,
    STREAMED,
    WHOLE,
    Scene,
    fault,
    parsed,
    request,
    say,
    shorten,
    until,
)
from tests.faults.test_streams import EVENTS, chunked
from tests.faults.test_upstream import one
from tests.ledger.storage import Connection, Storage
from tests.ledger.test_powercut import cut_the_power
from tests.ledger.test_storage import FAILURES
from tests.served import Served, run
from tests.test_money import in_two_parts
from tests.upstream import STREAM, FakeUpstream
from tokenhub_proxy import wiring
from tokenhub_proxy.cli import LEDGER_REFUSED

UNWRITABLE = "503 ledger_unavailable"


def on(running: Running) -> Storage:
    """The storage of a proxy, which fails from now on as the test says."""
    storage, writer = Storage(), running.ledger._writer
    connect = writer._connect
    writer._connect = lambda: Connection(storage, connect())
    writer._connection = Connection(storage, writer.connection)
    return storage


def streaming(running: Running) -> bool:
    """A stream has begun to answer."""
    return any(exchange.first_byte_s is not None for exchange in running.proxy.relay.in_flight)


async def writable(running: Running) -> None:
    await until(lambda: running.ledger.unavailable is None)


# --- storage


@pytest.mark.parametrize("name", FAILURES)
@fault(
    "The ledger can't be written when a call is to be held: the disk is full, fails, is read-only, or locked",
    UNWRITABLE,
    "none",
    headers={"retry-after": "5", "x-should-retry": None},
    log={"code": "ledger_unavailable", "reason": FAILURES, "hold_n": 0},
    events=["ERROR", "ledger_write error=SQLITE_"],
    note="the upstream is not called; `/readyz` says 503 until it works",
)
async def test_without_storage_nothing_is_spent(scene: Scene, upstream: FakeUpstream, name: str) -> None:
    running = await scene.start(one_upstream(upstream.base_url))
    storage = on(running)
    storage.fail(name)

    await scene.call(WHOLE)

    assert upstream.asked == []
    ready = parsed(await say(running.port, request(b"", path="/readyz", method="GET")))
    assert str(ready) == UNWRITABLE
    storage.heal()
    await writable(running)
    assert str(parsed(await say(running.port, request(WHOLE)))) == JSON


@pytest.mark.parametrize("returns", ["in time", "too late"])
@fault(
    "The ledger can't be written when a call has ended",
    (COMPLETE, CUT),
    ("usage", "open"),
    log={"status": 200},
    events=["ERROR", "ledger_write error=SQLITE_FULL"],
    note="the last bytes wait for storage, 10 s at most; then the body is left open, `settle_deferred` is "
    "logged and `tokenhub_unsettled` counts it; new calls get 503",
)
async def test_an_ending_waits_for_storage_and_is_written_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, returns: str
) -> None:
    shorten(monkeypatch, ENDING_WAIT_S=5.0 if returns == "in time" else 0.3, WATCH_S=0.05, RETRY_MAX_S=0.1)
    middle = asyncio.Event()
    async with in_two_parts(middle) as up:
        running = await scene.start(one(up.url))
        storage = on(running)
        answering = scene.asking(request(STREAMED))
        await until(lambda: streaming(running))
        storage.fail("SQLITE_FULL")
        middle.set()
        await until(lambda: running.ledger.unavailable is not None)
        if returns == "in time":
            storage.heal()
        told = parsed(await answering)
        await scene.saw(str(told), told.headers)

        assert told.body == b"".join(STREAM if returns == "in time" else STREAM[:-1])
        if returns == "too late":
            assert str(told) == CUT
            assert "settle_deferred" in scene.events
            metrics = parsed(await say(running.port, request(b"", path="/metrics", method="GET")))
            assert b"\ntokenhub_unsettled 1\n" in metrics.body
            assert str(parsed(await say(running.port, request(WHOLE)))) == UNWRITABLE
            storage.heal()
    await writable(running)
    assert [(entry.kind, entry.amount) async for entry in running.ledger.entries()] == [("charge", COST)]


def marked(path: Path, offset: int) -> None:
    """Flip a byte that SQLite, or we, look at first."""
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 0x55
    path.write_bytes(raw)


def newer(path: Path) -> None:
    connection = sqlite3.connect(path)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute(f"PRAGMA user_version = {version + 1}")
    connection.close()


DAMAGE: dict[str, Callable[[Path], None]] = {
    "no database": lambda path: marked(path, 3),
    "another size of pages": lambda path: marked(path, 16),
    "another application's": lambda path: marked(path, 70),
    "a broken first page": lambda path: marked(path, 100),
    "a broken page": lambda path: marked(path, 3 * 4096),
    "of a newer version": newer,
}


@pytest.mark.parametrize("damage", DAMAGE)
@fault(
    "At the start the ledger is damaged, another application's, or of a newer version",
    REFUSED,
    "none",
    note="one sentence on stderr; the file is left as it is, and never made anew",
)
async def test_a_ledger_that_can_not_be_trusted_is_refused_and_left_alone(
    scene: Scene, tmp_path: Path, damage: str
) -> None:
    ledger = tmp_path / "books.db"
    url = f"sqlite:///{ledger}"
    await (await wiring.open_ledger(url, clock=time.time)).aclose()
    DAMAGE[damage](ledger)
    before = ledger.read_bytes()

    refused = await asyncio.to_thread(run, tmp_path, "serve", "--listen", "127.0.0.1:0", "--ledger", url)

    assert refused.returncode == LEDGER_REFUSED
    assert str(ledger) in refused.stderr
    assert "Traceback" not in refused.stderr
    assert ledger.read_bytes() == before
    scene.note(f"`serve` exits with {refused.returncode}", "none")


@fault(
    "The ledger turns out to be damaged while it is in use",
    UNWRITABLE,
    "none",
    log={"code": "ledger_unavailable", "hold_n": 0},
    events=["CRITICAL", "ledger_broken reason="],
    note="nothing is written any more until a restart",
)
async def test_damage_found_while_serving_ends_all_spending(scene: Scene, upstream: FakeUpstream) -> None:
    running = await scene.start(one_upstream(upstream.base_url))
    storage = on(running)
    storage.fail("SQLITE_CORRUPT")
    await scene.call(WHOLE)
    storage.heal()
    await asyncio.sleep(0.1)
    await scene.call(WHOLE)
    assert upstream.asked == []
    models = parsed(await say(running.port, request(b"", path="/v1/models", method="GET")))
    assert models.status == 200


# --- processes


def config(url: str) -> str:
    return "ledger: sqlite:///books.db\n" + one(url, connect=30) + f"\nkeys: [{{name: k, key: {KEY}}}]\n"


@asynccontextmanager
async def process(folder: Path, url: str) -> AsyncIterator[list[Served]]:
    """`serve` on this config; those that are added to the list are ended too."""
    (folder / "config.yaml").write_text("listen: 127.0.0.1:0\n" + config(url))
    servers = [await asyncio.to_thread(Served, folder)]
    try:
        yield servers
    finally:
        for one_of_them in servers:
            await asyncio.to_thread(one_of_them.stop)


def port_of(served: Served) -> int:
    return int(served.address.rpartition(":")[2])


async def holds(served: Served) -> None:
    """Wait until a hold is open."""
    async with asyncio.timeout(10):
        while (await asyncio.to_thread(served.get, "/v1/key", KEY))[1]["held_usd"] == "0.00":
            await asyncio.sleep(0.02)


async def statuses(folder: Path) -> list[tuple[str, int]]:
    """How every call in the books of an ended process has ended."""
    ledger = await wiring.open_ledger(f"sqlite:///{folder / 'books.db'}", clock=time.time)
    try:
        assert await ledger.verify() == []
        return [(receipt.status, receipt.cost) for receipt in await ledger.requests()]
    finally:
        await ledger.aclose()


@pytest.mark.parametrize("moment", ["before the send", "in mid-stream", "after the answer"])
@fault(
    "The process is killed (`kill -9`)",
    (NOTHING, CUT, COMPLETE),
    ("expired", "usage"),
    note="at the next start open holds expire, each with a line `hold_expired`; what was answered in full "
    "stays charged, once",
)
async def test_a_killed_process_leaves_no_hold_and_charges_once(
    scene: Scene, tmp_path: Path, upstream: FakeUpstream, moment: str
) -> None:
    with chaos.unanswered() as (host, port):
        async with chaos.serve([chaos.request(), chaos.send(chunked(EVENTS))]) as hanging:
            urls = {
                "before the send": f"http://{host}:{port}",
                "in mid-stream": hanging.url,
                "after the answer": upstream.base_url.removesuffix("/v1"),
            }
            async with process(tmp_path, urls[moment]) as servers:
                answering = scene.asking(request(STREAMED), port_of(servers[0]))
                if moment == "after the answer":
                    await asyncio.wait([answering])
                else:
                    await holds(servers[0])
                    await until(
                        lambda: moment == "before the send" or any(peer.requests for peer in hanging.peers)
                    )
                    await asyncio.sleep(0.1)
                servers[0].kill()
                told = parsed(await answering)
                servers.append(await asyncio.to_thread(Served, tmp_path))
                key = (await asyncio.to_thread(servers[1].get, "/v1/key", KEY))[1]
                assert key["held_usd"] == "0.00"
    (ending,) = await statuses(tmp_path)
    assert ending == (("settled", COST) if moment == "after the answer" else ("expired", 0))
    assert ("hold_expired request=" in servers[1].log.read_text()) is (ending[0] == "expired")
    scene.note(str(told), "usage" if ending[0] == "settled" else ending[0])


@fault(
    "The power fails",
    DROPPED,
    "expired",
    note="nothing that was acknowledged is missing; `durability: full` syncs each hold before the upstream "
    "hears of the call, each ending before the client's last byte",
)
async def test_a_power_cut_loses_nothing_that_was_acknowledged(scene: Scene, tmp_path: Path) -> None:
    assert await cut_the_power(str(tmp_path), "full", cuts=60, calls=20, seed=94) == 0
    scene.note(DROPPED, "expired")


@fault(
    "A second process is started on the same ledger",
    REFUSED,
    "usage",
    note="told which process has it; the live one's holds are not touched",
)
async def test_a_second_process_is_refused_and_touches_no_live_hold(scene: Scene, tmp_path: Path) -> None:
    middle = asyncio.Event()
    async with in_two_parts(middle) as up, process(tmp_path, up.url) as servers:
        answering = scene.asking(request(STREAMED), port_of(servers[0]))
        await holds(servers[0])
        twin = await asyncio.to_thread(run, tmp_path, "serve", "--listen", "127.0.0.1:0")
        middle.set()
        told = parsed(await answering)
    assert f"process {servers[0].process.pid}" in twin.stderr
    assert str(told) == COMPLETE
    assert await statuses(tmp_path) == [("settled", COST)]
    scene.note(f"`serve` exits with {twin.returncode}", "usage")
