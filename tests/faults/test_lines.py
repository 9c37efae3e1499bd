"""Bad lines on either side of the proxy: late, in crumbs, cut anywhere, swallowed."""

from __future__ import annotations

import asyncio
import random
import time
from typing import get_args

import orjson
import pytest

from tests import chaos
from tests.conftest import one_upstream
from tests.faults.scene import (
    COMPLETE,
    COST,
    CUT,
    NOTHING,
    STREAMED,
    TOLD,
    Scene,
    parsed,
    request,
    say,
    shorten,
    until,
)
from tests.faults.test_streams import EVENTS, FINISH, chunked
from tests.faults.test_upstream import UNAVAILABLE, one
from tests.hop import End, Way, hop
from tests.test_relay_streams import estimate
from tests.upstream import DONE, STREAM, FakeUpstream

ENDS = get_args(End)
WHOLE_STREAM = [*EVENTS, FINISH, DONE]
ANSWER = chunked(WHOLE_STREAM) + chaos.chunk(b"")


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


async def test_late_crumbs_on_all_four_ways_change_no_byte(scene: Scene, upstream: FakeUpstream) -> None:
    crumbs = Way(latency_s=0.001, slice_bytes=7)
    async with hop(port_of(upstream.base_url), requests=crumbs, answers=crumbs) as beyond:
        running = await scene.start(one(f"http://127.0.0.1:{beyond.port}"))
        async with hop(running.port, requests=Way(slice_bytes=1), answers=Way(slice_bytes=1)) as before:
            told = await scene.send(request(STREAMED), before.port)

    assert str(told) == COMPLETE
    assert told.body == b"".join(STREAM)
    assert await scene.charged() == COST


@pytest.mark.parametrize("end", ENDS)
async def test_wherever_the_upstreams_line_ends_no_cut_is_a_success(scene: Scene, end: End) -> None:
    """The line ends after each of many counts of bytes; what was relayed is what is charged."""
    chance = random.Random(end)
    head = len(chaos.CHUNKED)
    counts = sorted(
        {
            0,
            1,
            head,
            len(ANSWER) - 1,
            *(chance.randrange(len(ANSWER)) for _ in range(4 if end == "black_hole" else 20)),
        }
    )
    finished_at = ANSWER.index(FINISH) + len(FINISH)
    async with chaos.serve([chaos.request(), chaos.send(ANSWER)]) as upstream:
        for number, count in enumerate(counts):
            way = Way(limit_bytes=count, end=end)
            async with hop(upstream.port, answers=way) as line:
                await scene.start(one(f"http://127.0.0.1:{line.port}", first_byte=0.3, idle=0.3))
                told = await scene.call()
            assert len(scene.seen) == number + 1
            billing = scene.seen[-1].billing
            if str(told) == UNAVAILABLE:
                assert billing == "void"
                assert count < head + len(EVENTS[0]) + 10
                continue
            assert billing == "estimate"
            if count < finished_at:
                assert str(told) in (TOLD, CUT)
                relayed = told.body.partition(b'data: {"error"')[0]
                assert b"".join(WHOLE_STREAM).startswith(relayed)
                events = [event + b"\n\n" for event in relayed.split(b"\n\n")[:-1]]
                rest = relayed[sum(map(len, events)) :]
                known = [*events, *([rest] if rest else [])]
                assert await scene.charged() == estimate(known, orjson.dumps(STREAMED))
            else:
                assert (str(told), told.body) == (COMPLETE, b"".join(WHOLE_STREAM))


@pytest.mark.parametrize("end", ENDS)
async def test_wherever_a_clients_line_ends_the_upstream_stops_and_nothing_stays_held(
    scene: Scene, end: End
) -> None:
    """The upstream would go on for ever; the line to the client ends after so many bytes."""
    async with chaos.serve([chaos.request(), chaos.send(chunked(EVENTS))]) as up:
        running = await scene.start(one(up.url))
        for number, count in enumerate((1, 200, len(chunked(EVENTS)) // 2, len(chunked(EVENTS)) - 9)):
            async with hop(running.port, answers=Way(limit_bytes=count, end=end)) as line:
                _, writer = await asyncio.open_connection("127.0.0.1", line.port)
                writer.write(request(STREAMED))
                await until(lambda: line.passed >= count + len(request(STREAMED)))  # noqa: B023 - in this turn
                await until(lambda: len(up.peers) > number and up.peers[number].requests)  # noqa: B023
                writer.close()
                left_at = time.monotonic()
                await up.peers[number].gone()
            ended_at_s = up.peers[number].ended_at_s
            assert ended_at_s is not None
            assert ended_at_s - left_at < 1.0
            seen = await scene.saw(NOTHING, {}, number)
            assert seen.line is not None
            assert (seen.line["status"], seen.line["reason"] in ("ttfb", "stream")) == (499, True)
            assert seen.billing in ("void", "estimate")
            # What the proxy had relayed is paid, wherever on the line it was lost.
            paid = estimate(EVENTS, orjson.dumps(STREAMED)) if seen.billing == "estimate" else 0
            assert await scene.charged() == paid
    assert all(account.held == 0 for account in running.ledger.list_accounts())


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
async def test_half_a_request_reaches_no_upstream(
    scene: Scene, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, end: End, share: float
) -> None:
    shorten(monkeypatch, BODY_S=0.3, HEAD_S=0.3, LINGER_S=0.1)
    running = await scene.start(one_upstream(upstream.base_url))
    payload = request(STREAMED)
    limit = int(len(payload) * share)
    async with hop(running.port, requests=Way(limit_bytes=limit, end=end)) as line:
        told = parsed(await say(line.port, payload))

    in_body = limit > payload.index(b"\r\n\r\n") + 4
    assert str(told) == ("408 request_timeout" if in_body and end == "black_hole" else NOTHING)
    if in_body:
        await until(lambda: scene.lines)
        assert (scene.lines[-1]["reason"], scene.lines[-1]["billing"]) == (
            "slow_body" if end == "black_hole" else "read",
            "none",
        )
    assert upstream.asked == []
    assert [entry async for entry in running.ledger.entries()] == []
