"""A wall clock that jumps while calls are under way: nothing expires, resets or counts twice."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.conftest import KEY, Running, Serve, one_upstream
from tests.ledger import shelf
from tests.test_relay_clients import until
from tests.test_server import MESSAGES, ask, error_of
from tests.upstream import STREAM, FakeUpstream, stream_says, usual
from tokenhub_proxy.ledger import Receipt

PATH = "/v1/chat/completions"
CALL = {"model": "m", "messages": MESSAGES, "max_tokens": 100}
STREAMED = {**CALL, "stream": True}
COST = 60_000  # (10 input + 2 output tokens) at 3 and 15 USD per million tokens, in nanodollars
DAY_S = 86400.0


class Wall:
    """A wall clock: it goes on from where the test puts it."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._at = shelf.NOW

    def __call__(self) -> float:
        return self._at + time.monotonic() - self._began

    def jump(self, seconds: float) -> None:
        self._at += seconds

    def put(self, text: str) -> None:
        """Set it to a moment in UTC, such as 2026-11-30T23:59:59."""
        self._began = time.monotonic()
        self._at = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.fixture
def wall() -> Wall:
    return Wall()


def limited(upstream: FakeUpstream, limits: str) -> str:
    """A config whose key `k` has these limits."""
    return one_upstream(upstream.base_url) + f"keys: [{{name: k, key: {KEY}, {limits}}}]\n"


async def newest(running: Running, count: int) -> list[Receipt]:
    """The last calls, the oldest first."""
    return list(reversed(await running.ledger.requests(limit=count)))


@pytest.mark.parametrize("jumps", [(DAY_S, -2 * DAY_S), (-DAY_S, 2 * DAY_S), (400 * DAY_S, -800 * DAY_S)])
async def test_a_held_call_outlives_every_jump_and_is_charged_once_where_it_was_held(
    wall: Wall, serve: Serve, upstream: FakeUpstream, jumps: tuple[float, ...]
) -> None:
    answering = asyncio.Event()
    upstream.says = lambda asked: (
        stream_says(STREAM, waits=answering) if asked.body.get("stream") else usual(asked)
    )
    running = await serve(limited(upstream, "quota: {usd: 1.00, per: day}"), clock=wall)
    began = f"{datetime.fromtimestamp(wall(), UTC):k/%Y-%m-%d}"
    held = [asyncio.create_task(ask(running, "POST", PATH, json=STREAMED)) for _ in range(3)]
    await until(lambda: len(upstream.asked) == 3)
    amount = running.ledger.window(began).held
    assert amount > 3 * COST

    for jump in jumps:
        wall.jump(jump)
        assert (await ask(running, "POST", PATH, json=CALL))[0] == 200
        assert running.ledger.window(began).held == amount
    answering.set()
    answers = await asyncio.gather(*held)

    assert [status for status, _, _ in answers] == [200] * 3
    window = running.ledger.window(began)
    assert (window.posted, window.held) == (3 * COST, 0)
    receipts = await newest(running, 10)
    assert [(receipt.status, receipt.cost) for receipt in receipts] == [("settled", COST)] * 5
    assert running.ledger.account("default").posted == -5 * COST


@pytest.mark.parametrize(
    ("per", "before", "after", "windows"),
    [
        ("day", "2026-11-21T23:59:59", "2026-11-22T00:00:01", ("k/2026-11-21", "k/2026-11-22")),
        ("week", "2026-11-22T23:59:59", "2026-11-23T00:00:01", ("k/2026-W47", "k/2026-W48")),
        ("month", "2026-11-30T23:59:59", "2026-12-01T00:00:01", ("k/2026-11", "k/2026-12")),
        ("month", "2028-02-29T23:59:59", "2028-03-01T00:00:01", ("k/2028-02", "k/2028-03")),
        ("week", "2026-12-31T23:59:59", "2027-01-01T00:00:01", ("k/2026-W53", "k/2026-W53")),
    ],
)
async def test_a_call_over_the_end_of_a_period_counts_once_and_going_back_resets_nothing(
    wall: Wall,
    serve: Serve,
    upstream: FakeUpstream,
    per: str,
    before: str,
    after: str,
    windows: tuple[str, str],
) -> None:
    answering = asyncio.Event()
    upstream.says = lambda asked: (
        stream_says(STREAM, waits=answering) if asked.body.get("stream") else usual(asked)
    )
    wall.put(before)
    running = await serve(limited(upstream, f"quota: {{usd: 0.01, per: {per}}}"), clock=wall)
    held = asyncio.create_task(ask(running, "POST", PATH, json=STREAMED))
    await until(lambda: upstream.asked)

    wall.put(after)
    assert (await ask(running, "POST", PATH, json=CALL))[0] == 200
    answering.set()
    assert (await held)[0] == 200
    wall.put(before)  # the clock is set back, and the period that had ended goes on
    assert (await ask(running, "POST", PATH, json=CALL))[0] == 200

    old, new = (running.ledger.window(name) for name in windows)
    assert (old.posted, new.posted) == ((2 * COST, COST) if windows[0] != windows[1] else (3 * COST,) * 2)
    assert (old.held, new.held) == (0, 0)


async def test_rate_limits_do_not_follow_the_wall_clock(
    wall: Wall, serve: Serve, upstream: FakeUpstream
) -> None:
    running = await serve(limited(upstream, "rate: {requests_per_minute: 2}"), clock=wall)
    for _ in range(2):
        assert (await ask(running, "POST", PATH, json=CALL))[0] == 200

    for jump in (DAY_S, -2 * DAY_S, 61.0, -3600.0):
        wall.jump(jump)
        status, headers, body = await ask(running, "POST", PATH, json=CALL)
        assert (status, error_of(body)["code"]) == (429, "rate_limited")
        assert 1 <= int(headers["retry-after"]) <= 61
    assert len(upstream.asked) == 2


async def test_a_clock_that_was_years_ahead_at_the_start_finds_the_old_quotas_when_it_goes_back(
    wall: Wall, serve: Serve, upstream: FakeUpstream, tmp_path: Path
) -> None:
    earlier = shelf.Shelf(str(tmp_path))
    ledger = await earlier.open()
    await earlier.fund(ledger, "main", 10**9)
    month = {"window": "k/2026-11", "window_limit": 10**9}
    await shelf.call(ledger, 9_000_000, amount=9_000_000, **month)
    await earlier.close(ledger)
    wall.jump(3 * 365 * DAY_S)
    limits = "account: main, quota: {usd: 0.01, per: month}"
    accounts = f"accounts: {{main: {{balance: prepaid}}}}\nledger: {earlier.url}\n"
    running = await serve(accounts + limited(upstream, limits), clock=wall)
    for _ in range(3):
        assert (await ask(running, "POST", PATH, json=CALL))[0] == 200

    wall.jump(-3 * 365 * DAY_S)
    status, _, body = await ask(running, "POST", PATH, json=CALL)

    # A tenth of this month's quota is left, less than such a call may cost.
    assert (status, error_of(body)["code"]) == (402, "insufficient_quota")
    assert running.ledger.window("k/2026-11").posted == 9_000_000
    small = {**CALL, "max_tokens": 10}
    assert (await ask(running, "POST", PATH, json=small))[0] == 200
    assert running.ledger.window("k/2026-11").posted == 9_000_000 + COST
    assert running.ledger.account("main").held == 0
