"""Clocks that jump, long queries, stops, reloads, and what there is not."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import time
from pathlib import Path

import orjson
import pytest

from tests.conftest import KEY, one_upstream
from tests.faults.scene import (
    COMPLETE,
    COST,
    JSON,
    SECONDS,
    STREAMED,
    TOLD,
    WHOLE,
    Scene,
    fault,
    parsed,
    request,
    say,
    until,
)
from tests.faults.test_host import (
    UNWRITABLE,
    holds,
    on,
    port_of,
    process,
    statuses,
    streaming,
    writable,
)
from tests.faults.test_upstream import one
from tests.test_clock import DAY_S, Wall
from tests.test_money import in_two_parts
from tests.upstream import FakeUpstream, Says, whole
from tokenhub_proxy import serve as serving
from tokenhub_proxy.ledger.file import JOURNAL_SIZE_MAX


def refuses(port: int) -> bool:
    """True when nothing listens there any more."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


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
        await until(lambda: refuses(running.port))
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
