"""The ledger, the host and the operator: storage that fails, processes that die, clocks that jump."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
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
    SECONDS,
    STREAMED,
    TOLD,
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
from tests.ledger.test_powercut import cut_the_power
from tests.ledger.test_storage import FAILURES, Storage, _Connection
from tests.served import Served, run
from tests.test_clock import DAY_S, Wall
from tests.test_money import in_two_parts
from tests.upstream import STREAM, FakeUpstream, Says, whole
from tokenhub_proxy import serve as serving
from tokenhub_proxy import wiring
from tokenhub_proxy.cli import LEDGER_REFUSED
from tokenhub_proxy.ledger.file import JOURNAL_SIZE_MAX

UNWRITABLE = "503 ledger_unavailable"


def on(running: Running) -> Storage:
    """The storage of a proxy, which fails from now on as the test says."""
    storage, writer = Storage(), running.ledger._writer
    connect = writer._connect
    writer._connect = lambda: _Connection(storage, connect())
    writer._connection = _Connection(storage, writer.connection)
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


# --- clocks and queries


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
@fault(
    "The wall clock jumps by a day while a call is under way",
    COMPLETE,
    "usage",
    log={"status": 200, "reason": None},
    events=["WARNING", "clock_jump"],
    note="its hold stays in the window where it began; rate limits follow a clock that never jumps",
)
async def test_a_jump_of_the_clock_expires_no_hold_and_opens_no_limit(scene: Scene, jump_s: float) -> None:
    wall, middle = Wall(), asyncio.Event()
    limits = "rate: {requests_per_minute: 2}, quota: {usd: 1.00, per: day}"
    keys = f"keys: [{{name: k, key: {KEY}, {limits}}}]\n"
    async with in_two_parts(middle) as up:
        running = await scene.start(one(up.url) + keys, clock=wall)
        began = time.strftime("k/%Y-%m-%d", time.gmtime(wall()))
        answering = scene.asking(request(STREAMED))
        await until(lambda: running.ledger.window(began).held)

        wall.jump(jump_s)
        second = parsed(await say(running.port, request({**WHOLE, "model": "demo"})))
        third = parsed(await say(running.port, request({**WHOLE, "model": "demo"})))
        middle.set()
        told = parsed(await answering)

        assert (second.status, str(third)) == (200, "429 rate_limited")
        await until(lambda: "clock_jump" in scene.events)
        assert 1 <= int(third.headers["retry-after"]) <= 61
        assert 0 <= scene.lines[-1]["dur_ms"] < 60_000
        window = running.ledger.window(began)
        assert (window.posted, window.held) == (COST, 0)
    await scene.saw(str(told), told.headers, 0)


async def test_a_jump_of_the_clock_is_told(scene: Scene, upstream: FakeUpstream) -> None:
    wall = Wall()
    running = await scene.start(one_upstream(upstream.base_url), clock=wall)
    await say(running.port, request(WHOLE))
    wall.jump(DAY_S)
    await say(running.port, request(WHOLE))
    await until(lambda: "clock_jump" in scene.events, 3.0)


@fault(
    "A report reads the ledger for longer than 5 s",
    JSON,
    "usage",
    log={"status": 200},
    events=["WARNING", "slow_query cut_after_s=0.5"],
    note="it is cut; calls do not notice, and the write-ahead log stays within its bound",
)
async def test_an_endless_report_is_cut_and_no_call_waits_for_it(
    scene: Scene, upstream: FakeUpstream
) -> None:
    running = await scene.start(one_upstream(upstream.base_url))
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    reading = asyncio.ensure_future(running.ledger._reader.fetch((endless, ()), deadline_s=0.5))
    took = []
    while not reading.done():
        started = time.monotonic()
        assert str(parsed(await say(running.port, request(WHOLE)))) == JSON
        took.append(time.monotonic() - started)
    with pytest.raises(Exception, match="ledger can't be"):
        await reading
    assert sorted(took)[len(took) // 2] < 0.25
    assert len(took) > 3
    assert os.path.getsize(running.ledger.path + "-wal") <= JOURNAL_SIZE_MAX
    await scene.call(WHOLE)


# --- stopping and reloading


@pytest.mark.parametrize("drain", ["long enough", "too short", "hurried"])
@fault(
    "The process is told to stop (SIGTERM), or to hurry (again)",
    (COMPLETE, TOLD),
    ("usage", "estimate"),
    log={"code": (None, "shutting_down")},
    events=["drain_start", "drain_end"],
    note="streams get `shutdown.drain` seconds to end by themselves; the rest is cut with an error event "
    "`shutting_down`, and settled",
)
async def test_a_stop_lets_streams_end_or_tells_and_settles_them(scene: Scene, drain: str) -> None:
    middle, hurry = asyncio.Event(), asyncio.Event()
    async with in_two_parts(middle) as up:
        running = await scene.start(one(up.url))
        answering = scene.asking(request(STREAMED))
        await until(lambda: streaming(running))
        if drain == "hurried":
            hurry.set()
        stopping = asyncio.ensure_future(
            running.proxy.drain(0.2 if drain == "too short" else 5.0, hurry=hurry)
        )
        await asyncio.sleep(0.05)
        with pytest.raises(OSError, match="refused|Connect"):
            await asyncio.open_connection("127.0.0.1", running.port)
        if drain == "long enough":
            middle.set()
        async with asyncio.timeout(3):
            told = parsed(await answering)
            await stopping
    assert str(told) == (COMPLETE if drain == "long enough" else TOLD)
    if drain != "long enough":
        assert told.last_event["code"] == "shutting_down"
    assert all(account.held == 0 for account in running.ledger.list_accounts())
    await scene.saw(str(told), told.headers, 0)


@fault(
    "A reload brings a bad config, or another price in mid-stream",
    COMPLETE,
    "usage",
    log={"charge_n": COST},
    events=["ERROR", "reload_failed: the old config stays"],
    note="a stream keeps the price it began with; a bad config changes nothing",
)
async def test_a_reload_changes_no_price_in_mid_stream_and_a_bad_one_nothing(
    scene: Scene, tmp_path: Path
) -> None:
    middle = asyncio.Event()
    file = tmp_path / "config.yaml"
    async with in_two_parts(middle) as up:
        running = await scene.start(one(up.url))
        answering = scene.asking(request(STREAMED))
        await until(lambda: streaming(running))
        text = one(up.url).replace("input: 3.00", "input: 6.00") + f"keys: [{{name: tester, key: {KEY}}}]\n"
        file.write_text(f"ledger: {running.proxy.config.ledger_url}\n" + text)
        watch = serving.Watch(file, lambda config: config)

        await serving._reload(running.proxy, watch)
        assert running.proxy.config.routes["m"].price.input == 6_000_000_000
        before = running.proxy.config
        file.write_text(text.replace("price: free", "price: fre"))
        await serving._reload(running.proxy, watch)

        assert running.proxy.config is before
        middle.set()
        told = parsed(await answering)
    await scene.saw(str(told), told.headers)


@fault(
    "The process may open no more files",
    COMPLETE,
    "usage",
    note="what is under way goes on; new connections wait or get an error, and are served when files are "
    "free; the log says `overload`",
)
async def test_out_of_files_what_is_under_way_goes_on(scene: Scene, tmp_path: Path) -> None:
    middle = asyncio.Event()
    async with in_two_parts(middle) as up, process(tmp_path, up.url) as servers:
        pid = servers[0].process.pid
        answering = scene.asking(request(STREAMED), port_of(servers[0]))
        await holds(servers[0])
        await until(lambda: up.peers)
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        await asyncio.sleep(0.2)  # the connection that looked for the hold is gone by then
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + 3, limits[1]))
        crowd = [scene.asking(request(WHOLE), port_of(servers[0])) for _ in range(20)]
        await asyncio.wait(crowd, timeout=1.0)
        middle.set()
        told = parsed(await answering)
        assert str(told) == COMPLETE
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        answered = [parsed(said).status for said in await asyncio.gather(*crowd) if said]
        assert set(answered) <= {200, 502, 503}
        status, _ = await asyncio.to_thread(servers[0].get, "/readyz", KEY)
        assert status == 200
        log = servers[0].log.read_text()
        assert "overload" in log
        assert "Traceback" not in log
    assert ("settled", COST) in await statuses(tmp_path)
    scene.note(str(told), "usage")


# --- what there is not, and what is in its place


@fault(
    "Storage is away, and a client keeps calling",
    (UNWRITABLE, "429 rate_limited"),
    "none",
    headers={"retry-after": SECONDS},
    log={"hold_n": 0},
    note="limits are kept in the process itself: they hold whatever else is away",
)
async def test_limits_hold_while_storage_is_away(scene: Scene, upstream: FakeUpstream) -> None:
    keys = f"keys: [{{name: k, key: {KEY}, rate: {{requests_per_minute: 3}}}}]"
    running = await scene.start(one_upstream(upstream.base_url, keys))
    storage = on(running)
    storage.fail("SQLITE_FULL")
    seen = [str(await scene.call(WHOLE)) for _ in range(5)]
    storage.heal()
    await writable(running)
    assert seen == [UNWRITABLE] * 3 + ["429 rate_limited"] * 2
    assert upstream.asked == []


@pytest.mark.parametrize("name", ["SQLITE_IOERR_FSYNC", "SQLITE_BUSY", "SQLITE_FULL"])
@fault(
    "A commit lands, and says that it did not",
    JSON,
    "usage",
    log={"status": 200, "charge_n": COST},
    note="the batch is looked for by its number before it is written again: one charge",
)
async def test_a_commit_of_unknown_outcome_is_not_repeated(
    scene: Scene, upstream: FakeUpstream, name: str
) -> None:
    answering = asyncio.Event()
    upstream.says = lambda _: Says([whole()], 200, {"Content-Type": "application/json"}, waits=answering)
    running = await scene.start(one_upstream(upstream.base_url))
    storage = on(running)
    calling = asyncio.ensure_future(scene.call(WHOLE))
    await until(lambda: upstream.asked)
    storage.after_commit = name
    answering.set()
    await calling
    assert storage.after_commit is None
    assert [(entry.kind, entry.amount) async for entry in running.ledger.entries()] == [("charge", COST)]


WEBHOOKS = ["/v1/webhooks", "/v1/webhooks/stripe", "/webhook", "/stripe/webhook"]


@pytest.mark.parametrize("path", WEBHOOKS)
@fault(
    "Somebody posts a payment event, signed or not",
    "404 not_found",
    "none",
    note="no route takes one: payments come in by `accounts credit`, and one reference is credited once",
)
async def test_no_route_takes_a_payment_and_a_reference_is_credited_once(
    scene: Scene, upstream: FakeUpstream, path: str
) -> None:
    accounts = f"accounts: {{main: {{balance: prepaid}}}}\nkeys: [{{name: k, key: {KEY}, account: main}}]"
    running = await scene.start(one_upstream(upstream.base_url, accounts))
    event = {"type": "checkout.session.completed", "data": {"object": {"amount_total": 10**6}}}
    await scene.send(request(orjson.dumps(event), ["Stripe-Signature: t=1,v1=0"], path=path))
    assert running.ledger.account("main").posted == 0

    for _ in range(2):
        await running.ledger.credit("main", 10**9, at=time.time(), reference="payment 7")

    assert running.ledger.account("main").posted == 10**9
    kinds = [entry.kind async for entry in running.ledger.entries()]
    assert kinds == ["credit"]
