"""Money through the whole proxy: what is held, what is charged, and what happens when it can't be written."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from tests import chaos
from tests.conftest import KEY, Running, Serve, load, one_upstream
from tests.test_relay_clients import until
from tests.test_relay_streams import BODY, charged, request_bytes, stream, unchunked
from tests.test_server import MESSAGES, ask, error_of
from tests.upstream import DONE, STREAM, FakeUpstream, json_says, stream_says, usage_chunk, whole
from tokenhub_proxy import wiring
from tokenhub_proxy.ledger import WRITEOFF, Ending, Hold, committer
from tokenhub_proxy.ledger.holding import holding

PATH = "/v1/chat/completions"
CALL = {"model": "m", "messages": MESSAGES, "max_tokens": 100}
PREPAID = f"""
accounts: {{main: {{balance: prepaid}}}}
keys: [{{name: k, key: {KEY}, account: main}}]
"""


async def prepaid(serve: Serve, upstream: FakeUpstream, nanos: int, more: str = PREPAID) -> Running:
    """A proxy whose key has so much to spend."""
    running = await serve(one_upstream(upstream.base_url, more))
    if nanos:
        await running.ledger.credit("main", nanos, at=time.time())
    return running


def ceiling(body: dict[str, Any], output: int) -> int:
    """What a call of the model `m` can cost at most."""
    return len(json.dumps(body)) * 3_000 + output * 15_000  # as aiohttp's client writes it


async def balance(running: Running) -> tuple[int, int]:
    account = running.ledger.account("main")
    return account.posted, account.held


# --- balances


async def test_two_hundred_clients_on_a_balance_of_ten_calls_make_ten(
    serve: Serve, upstream: FakeUpstream
) -> None:
    raw = json.dumps(CALL).encode()
    answering = asyncio.Event()
    upstream.says = lambda asked: json_says_when(answering)
    running = await prepaid(serve, upstream, 10 * ceiling(CALL, 100))
    headers = {**running.headers, "Content-Type": "application/json"}
    statuses: list[int] = []

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def call() -> None:
            async with session.post(running.url + PATH, data=raw, headers=headers) as answer:
                statuses.append(answer.status)
                body = await answer.read()
                if answer.status == 402:
                    assert error_of(body)["code"] == "insufficient_quota"
                    assert answer.headers["x-should-retry"] == "false"

        calls = asyncio.gather(*(call() for _ in range(200)))
        await until(lambda: len(statuses) == 190, 20)
        assert await balance(running) == (10 * ceiling(CALL, 100), 10 * ceiling(CALL, 100))
        answering.set()
        await calls

    assert (statuses.count(402), statuses.count(200)) == (190, 10)
    assert len(upstream.asked) == 10
    assert await balance(running) == (10 * ceiling(CALL, 100) - 10 * 60_000, 0)


def json_says_when(event: asyncio.Event) -> Any:
    says = json_says(whole())
    says.waits = event
    return says


async def test_a_balance_is_spent_to_its_end_and_never_below(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.says = lambda asked: json_says(whole(output=asked.body["max_tokens"], prompt=1))
    running = await prepaid(serve, upstream, 10_000_000)
    body = {"model": "m", "messages": MESSAGES}

    limits, status = [], 200
    while status == 200:
        status, headers, answer = await ask(running, "POST", PATH, json=body)
        if status == 200:
            limits.append(int(headers["x-tokenhub-output-max"]))
            assert upstream.asked[-1].body["max_tokens"] == limits[-1]

    assert limits[0] == (10_000_000 - len(json.dumps(body)) * 3_000) // 15_000
    assert (status, error_of(answer)["code"]) == (402, "insufficient_quota")
    posted, held = await balance(running)
    assert 0 <= posted < ceiling(body, 256)
    assert held == 0


@pytest.mark.parametrize(("short", "status"), [(0, 200), (1, 402)])
async def test_less_than_256_tokens_are_not_worth_an_answer(
    serve: Serve, upstream: FakeUpstream, short: int, status: int
) -> None:
    body = {"model": "m", "messages": MESSAGES}
    running = await prepaid(serve, upstream, ceiling(body, 256) - short)

    answered, headers, _ = await ask(running, "POST", PATH, json=body)

    assert answered == status
    assert headers.get("x-tokenhub-output-max") == ("256" if status == 200 else None)


@pytest.mark.parametrize("short", [0, 1])
@pytest.mark.parametrize(
    ("limits", "output"),
    [
        ({"max_tokens": 500}, 500),
        ({"max_completion_tokens": 500, "max_tokens": 7}, 500),
        ({"max_tokens": 100, "n": 3}, 300),
        ({"n": 2, "max_completion_tokens": 200, "max_tokens": 100}, 400),
    ],
)
async def test_a_stated_limit_is_covered_for_every_choice_or_refused(
    serve: Serve, upstream: FakeUpstream, limits: dict[str, int], output: int, short: int
) -> None:
    body = {"model": "m", "messages": MESSAGES, **limits}
    running = await prepaid(serve, upstream, ceiling(body, output) - short)

    status, headers, _ = await ask(running, "POST", PATH, json=body)

    assert status == (402 if short else 200)
    assert len(upstream.asked) == (0 if short else 1)
    assert "x-tokenhub-output-max" not in headers


async def test_an_unlimited_account_is_never_refused_and_still_counted(
    serve: Serve, upstream: FakeUpstream
) -> None:
    running = await prepaid(serve, upstream, 0, PREPAID.replace("prepaid", "unlimited"))

    status, _, _ = await ask(running, "POST", PATH, json={**CALL, "max_tokens": 10**9})

    assert status == 200
    assert await balance(running) == (-60_000, 0)


async def test_a_free_model_needs_no_balance(serve: Serve, upstream: FakeUpstream) -> None:
    running = await prepaid(serve, upstream, 0)

    status, headers, _ = await ask(running, "POST", PATH, json={"model": "free", "messages": MESSAGES})

    assert (status, headers["x-tokenhub-cost-usd"]) == (200, "0.00")
    assert [entry async for entry in running.ledger.entries()] == []
    assert (await charged(running, running.exchanges[0]))[:2] == ("settled", 0)


async def test_a_quota_is_kept_per_window_and_the_next_one_is_fresh(
    serve: Serve, upstream: FakeUpstream
) -> None:
    dollars = ceiling(CALL, 100) / 10**9
    keys = f"keys: [{{name: k, key: {KEY}, quota: {{usd: {dollars:.9f}, per: day}}}}]"
    running = await serve(one_upstream(upstream.base_url, keys))

    assert (await ask(running, "POST", PATH, json=CALL))[0] == 200
    status, _, body = await ask(running, "POST", PATH, json=CALL)  # 60,000 of it are gone
    assert (status, error_of(body)["code"]) == (402, "insufficient_quota")
    assert "quota" in error_of(body)["message"]

    running.proxy.relay.clock = lambda: time.time() + 86_400
    assert (await ask(running, "POST", PATH, json=CALL))[0] == 200
    assert len(upstream.asked) == 2


async def test_a_released_call_gives_its_quota_back(serve: Serve, upstream: FakeUpstream) -> None:
    dollars = ceiling(CALL, 100) / 10**9
    keys = f"keys: [{{name: k, key: {KEY}, quota: {{usd: {dollars:.9f}, per: total}}}}]"
    running = await serve(one_upstream(upstream.base_url, keys))
    upstream.says = lambda asked: json_says(b"{}", 503)
    assert (await ask(running, "POST", PATH, json=CALL))[0] == 502
    upstream.says = None

    assert (await ask(running, "POST", PATH, json=CALL))[0] == 200


# --- prices


async def test_a_stream_keeps_the_price_and_the_route_it_began_with(
    serve: Serve, upstream: FakeUpstream, tmp_path: Any
) -> None:
    middle = asyncio.Event()
    upstream.says = lambda asked: replace(stream_says(STREAM[:1]), holds_open=middle)
    running = await serve(one_upstream(upstream.base_url))
    answering = asyncio.create_task(stream(running))
    await until(lambda: any(work for work in running.proxy.relay.in_flight.values()) and upstream.asked)
    dearer = one_upstream("http://127.0.0.1:9/v1").replace("input: 3.00", "input: 300.00")

    await running.proxy.reload(replace(load(dearer, tmp_path), ledger_url=running.proxy.config.ledger_url))
    middle.set()
    _, _, ended = await answering

    assert not ended
    (exchange,) = running.exchanges
    assert exchange.hold is not None
    assert exchange.hold.price.input == 3_000_000_000
    assert exchange.charge == exchange.usage.input * 3_000 + exchange.usage.output * 15_000
    assert (await ask(running, "POST", PATH, json=CALL))[0] == 502  # the new route is in force


@pytest.mark.parametrize("as_stream", [False, True])
async def test_no_more_is_charged_than_was_held_and_the_excess_is_written_off(
    serve: Serve, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture, as_stream: bool
) -> None:
    greedy = 10**6
    upstream.says = lambda asked: (
        stream_says([*STREAM[:3], usage_chunk(greedy, greedy), DONE])
        if as_stream
        else json_says(whole(prompt=greedy, output=greedy))
    )
    running = await prepaid(serve, upstream, 10**9)
    body = {**CALL, "stream": as_stream}

    status, headers, _ = await ask(running, "POST", PATH, json=body)

    held = ceiling(body, 100)
    assert status == 200
    if not as_stream:
        assert headers["x-tokenhub-cost-usd"] == f"{held / 10**9:.9f}".rstrip("0")
    assert await balance(running) == (10**9 - held, 0)
    entries = {entry.kind: entry async for entry in running.ledger.entries()}
    assert entries["charge"].amount == held
    assert WRITEOFF in (entries["writeoff"].debit, entries["writeoff"].credit)
    assert entries["writeoff"].amount == greedy * 18_000 - held
    assert "hold_exceeded" in caplog.text


# --- storage that fails


class Disk:
    """The ledger's writes, which fail while `full`."""

    def __init__(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        writer = running.ledger._writer
        write = writer.write

        def maybe(batch: Any) -> None:
            if self.full:
                raise sqlite3.OperationalError("database or disk is full")
            write(batch)

        monkeypatch.setattr(writer, "write", maybe)
        monkeypatch.setattr(committer, "WATCH_S", 0.05)
        monkeypatch.setattr(committer, "RETRY_MAX_S", 0.1)


async def test_without_storage_no_call_reaches_an_upstream(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await prepaid(serve, upstream, 10**9)
    disk = Disk(running, monkeypatch)
    disk.full = True

    for _ in range(3):
        status, headers, body = await ask(running, "POST", PATH, json=CALL)
        assert (status, error_of(body)["code"]) == (503, "ledger_unavailable")
        assert headers["retry-after"] == "5"
        assert "x-should-retry" not in headers  # nobody has done the work
    assert upstream.asked == []
    assert await balance(running) == (10**9, 0)
    assert (await ask(running, "GET", "/readyz"))[0] == 503
    assert (await ask(running, "GET", "/v1/models"))[0] == 200

    disk.full = False
    # A probe batch finds out, or the next ending does: readiness says when.
    await until(lambda: running.ledger.unavailable is None)
    assert (await ask(running, "POST", PATH, json=CALL))[0] == 200


def in_two_parts(middle: asyncio.Event) -> Any:
    """A stream that pauses after its first event until the test says so."""
    script: list[chaos.Action] = [chaos.request(), chaos.send(chaos.CHUNKED + chaos.chunk(STREAM[0]))]
    script += [chaos.wait(middle), chaos.send(b"".join(map(chaos.chunk, STREAM[1:])) + chaos.chunk(b""))]
    return chaos.serve(script)


@pytest.mark.parametrize("returns_in_time", [True, False])
async def test_an_ending_waits_for_storage_and_is_written_once(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, returns_in_time: bool
) -> None:
    monkeypatch.setattr(committer, "ENDING_WAIT_S", 5.0 if returns_in_time else 0.3)
    middle = asyncio.Event()
    async with in_two_parts(middle) as up:
        running = await serve(one_upstream(up.url + "/v1", PREPAID))
        await running.ledger.credit("main", 10**9, at=time.time())
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(request_bytes(BODY))
        await reader.readuntil(b"\r\n\r\n")
        said = await reader.readuntil(STREAM[0] + b"\r\n")
        disk = Disk(running, monkeypatch)

        disk.full = True
        middle.set()
        said += await reader.readuntil(STREAM[3] + b"\r\n")
        await until(lambda: running.ledger.unavailable is not None)
        if returns_in_time:
            disk.full = False
        async with asyncio.timeout(5):
            said += await reader.read()
        writer.close()
        await writer.wait_closed()

        body, ended = unchunked(said)
        if returns_in_time:
            assert (body, ended) == (b"".join(STREAM), True)
        else:
            assert (body, ended) == (b"".join(STREAM[:-1]), False)
            (exchange,) = running.exchanges
            assert exchange.error is not None
            assert exchange.error.code == "ledger_unavailable"
            status, _, _ = await ask(running, "POST", PATH, json=CALL)
            assert (status, len(up.peers)) == (503, 1)
            disk.full = False
    await until(lambda: running.ledger.unavailable is None)
    assert await charged(running, running.exchanges[0]) == ("settled", 60_000, False)
    assert await balance(running) == (10**9 - 60_000, 0)
    kinds = [entry.kind async for entry in running.ledger.entries()]
    assert kinds == ["credit", "charge"]


async def test_a_whole_answer_whose_ending_can_not_be_written_is_a_503_that_forbids_a_retry(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "ENDING_WAIT_S", 0.3)
    running = await prepaid(serve, upstream, 10**9)
    disk = Disk(running, monkeypatch)
    answering = asyncio.Event()
    upstream.says = lambda asked: json_says_when(answering)
    call = asyncio.create_task(ask(running, "POST", PATH, json=CALL))
    await until(lambda: upstream.asked)

    disk.full = True
    answering.set()
    status, headers, body = await call

    assert (status, error_of(body)["code"]) == (503, "ledger_unavailable")
    assert headers["x-should-retry"] == "false"
    disk.full = False
    await until(lambda: running.ledger.unavailable is None)
    assert await balance(running) == (10**9 - 60_000, 0)


async def test_requests_older_than_the_config_wants_them_are_forgotten_and_their_money_is_not(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "PURGE_S", 0.02)
    running = await serve("retention_days: 1\n" + one_upstream(upstream.base_url))
    ledger, old = running.ledger, running.proxy.relay.clock() - 2 * 86_400
    for request_id, at in (("req_old", old), ("req_new", old + 3 * 43_200)):
        hold = Hold(request_id, ledger.list_keys()[0], "m", 10, at)
        with await holding(ledger, hold, lambda at=at: at) as held:
            hold.end(Ending("settled", at, cost=7, upstream="up"))
        await held.settled()

    async with asyncio.timeout(5):
        while await ledger.receipt("req_old") is not None:
            await asyncio.sleep(0.01)

    assert (await ledger.receipt("req_new")) is not None
    assert [entry.request_id async for entry in ledger.entries()] == ["req_old", "req_new"]
    assert sum(row.cost for row in await ledger.usage("key")) == 14
