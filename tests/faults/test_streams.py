"""An upstream that fails in mid-stream, or streams what few expect: the status 200 is already said."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson
import pytest

from tests import chaos
from tests.conftest import one_upstream
from tests.faults.scene import COMPLETE, COST, CUT, STREAMED, TOLD, Scene, Told, fault
from tests.faults.test_upstream import one
from tests.test_relay_streams import estimate
from tests.upstream import DONE, STREAM, FakeUpstream, chunk, stream_says, usage_chunk

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
EVENTS = [chunk("Hello, "), chunk("wörld 🌍"), chunk("!")]
FINISH = chunk(reason="stop")


def chunked(pieces: Sequence[bytes]) -> bytes:
    """An answer of these chunks, without the last."""
    return chaos.CHUNKED + b"".join(map(chaos.chunk, pieces))


def breaks(answer: bytes, *ends: chaos.Action) -> list[chaos.Action]:
    """An upstream that says this, and breaks off when all of it has been read."""
    return [chaos.request(), chaos.send(answer), chaos.pause(0.05), *(ends or [chaos.close()])]


async def estimated(scene: Scene, told: Told, relayed: Sequence[bytes]) -> None:
    """The client has what was relayed and an error event of ours; the charge is the reference's."""
    assert told.body.startswith(b"".join(relayed))
    if str(told) == TOLD:
        assert told.last_event["code"] == "upstream_unavailable"
        assert told.last_event["request_id"] == scene.lines[-1]["id"]
    assert await scene.charged() == estimate(relayed, orjson.dumps(STREAMED)) > 0


def truncated(kind: str, **more: object) -> dict[str, object]:
    return {"truncated": 1, "status": 200, "reason": kind, "events": ..., "bytes_out": ..., **more}


# --- streams that break off


@fault(
    "The upstream closes inside its chunked body, between two events",
    TOLD,
    "estimate",
    log=truncated("short_body", code="upstream_unavailable"),
)
async def test_a_close_between_two_events_is_told_and_the_body_left_open(scene: Scene) -> None:
    async with chaos.serve(breaks(chunked(EVENTS))) as up:
        await scene.start(one(up.url))
        told = await scene.call()
    await estimated(scene, told, EVENTS)
    assert scene.lines[-1]["events"] == len(EVENTS)


@fault(
    "The upstream closes inside an event",
    CUT,
    "estimate",
    log=truncated("short_body", mid_event=1),
    note="nothing is appended: it would be read as part of the event",
)
async def test_a_close_inside_an_event_is_relayed_as_far_as_it_came_and_nothing_is_added(
    scene: Scene,
) -> None:
    half = EVENTS[2][:-9]
    async with chaos.serve(breaks(chunked([*EVENTS[:2], half]))) as up:
        await scene.start(one(up.url))
        told = await scene.call()
    assert told.body == b"".join(EVENTS[:2]) + half
    await estimated(scene, told, [*EVENTS[:2], half])


@pytest.mark.parametrize(("rest", "client"), [(b"", TOLD), (EVENTS[2][:-9], CUT)])
@fault(
    "The upstream's connection is reset in mid-stream",
    (TOLD, CUT),
    "estimate",
    log=truncated("reset_read"),
    note="as a close: an error event where an event has just ended, nothing inside one",
)
async def test_a_reset_in_mid_stream_is_a_cut_like_any_other(scene: Scene, rest: bytes, client: str) -> None:
    pieces = [*EVENTS[:2], *([rest] if rest else [])]
    async with chaos.serve(breaks(chunked(pieces), chaos.reset())) as up:
        await scene.start(one(up.url))
        told = await scene.call()
    assert str(told) == client
    await estimated(scene, told, pieces)


@pytest.mark.parametrize(("rest", "client"), [(b"", TOLD), (EVENTS[2][:-9], CUT)])
@fault(
    "The body is shorter than its Content-Length",
    (TOLD, CUT),
    "estimate",
    log=truncated("short_body"),
    note="as a close",
)
async def test_a_body_shorter_than_promised_is_a_cut_like_any_other(
    scene: Scene, rest: bytes, client: str
) -> None:
    pieces = [*EVENTS[:2], *([rest] if rest else [])]
    said = b"".join(pieces)
    async with chaos.serve(breaks(HEAD + b"Content-Length: %d\r\n\r\n" % (len(said) + 50) + said)) as up:
        await scene.start(one(up.url))
        told = await scene.call()
    assert str(told) == client
    await estimated(scene, told, pieces)


@fault(
    "A body that ends with its connection stops without a finish reason and without `[DONE]`",
    TOLD,
    "estimate",
    log=truncated("no_finish"),
    note="to HTTP it is a clean end, and still no answer",
)
async def test_a_clean_end_without_a_finish_is_no_success(scene: Scene) -> None:
    async with chaos.serve(breaks(HEAD + b"Connection: close\r\n\r\n" + b"".join(EVENTS))) as up:
        await scene.start(one(up.url))
        told = await scene.call()
    await estimated(scene, told, EVENTS)


@pytest.mark.parametrize("usage", [True, False])
@fault(
    "A finish reason came, and `[DONE]` is missing",
    COMPLETE,
    ("usage", "estimate"),
    log={"missing_done": 1, "status": 200, "truncated": None},
    note="the bytes as they are, and one `data: [DONE]`",
)
async def test_a_missing_done_is_added_after_a_finish(
    scene: Scene, upstream: FakeUpstream, usage: bool
) -> None:
    pieces = [*EVENTS, FINISH, *([usage_chunk(10, 2)] if usage else [])]
    upstream.says = lambda _: stream_says(pieces)
    await scene.start(one_upstream(upstream.base_url))
    told = await scene.call()
    assert told.body == b"".join(pieces) + DONE
    assert (await scene.charged() == COST) is usage


@pytest.mark.parametrize("after", [[], [DONE]], ids=["end", "done"])
@pytest.mark.parametrize("usage", [True, False])
@fault(
    "The upstream sends an error event after some tokens",
    TOLD,
    ("usage", "estimate"),
    log={"truncated": 1, "error_event": 1, "error_code": 529},
    note="the upstream's own event, word for word; whatever follows it, the end is unclean",
)
async def test_an_upstreams_error_event_is_relayed_word_for_word(
    scene: Scene, upstream: FakeUpstream, usage: bool, after: list[bytes]
) -> None:
    failed = b'data: {"error": {"message": "overloaded", "code": 529}}\n\n'
    pieces = [*EVENTS, *([usage_chunk(10, 2)] if usage else []), failed]
    upstream.says = lambda _: stream_says([*pieces, *after])
    await scene.start(one_upstream(upstream.base_url))
    told = await scene.call()
    assert told.body == b"".join(pieces)
    assert (scene.seen[-1].billing == "usage") is usage


# --- streams that last


@fault(
    "The upstream is silent for too long (`timeouts.idle`)",
    TOLD,
    "estimate",
    log=truncated("idle"),
    note="the upstream's connection is closed",
)
async def test_silence_ends_in_an_error_event_and_a_closed_upstream(scene: Scene) -> None:
    async with chaos.serve([chaos.request(), chaos.send(chunked(EVENTS))]) as up:
        await scene.start(one(up.url, idle=0.3))
        told = await scene.call()
        await up.peers[0].gone()
    await estimated(scene, told, EVENTS)


@fault(
    "The upstream sends pings and no data for too long (`timeouts.progress`)",
    TOLD,
    "estimate",
    log=truncated("no_progress", pings=...),
    note="the pings are relayed meanwhile",
)
async def test_pings_alone_are_no_progress(scene: Scene) -> None:
    pings = [
        action for _ in range(60) for action in (chaos.send(chaos.chunk(b": ping\n\n")), chaos.pause(0.05))
    ]
    async with chaos.serve([chaos.request(), chaos.send(chunked(EVENTS)), *pings]) as up:
        await scene.start(one(up.url, progress=0.5, idle=1))
        async with asyncio.timeout(2.5):
            told = await scene.call()
        await up.peers[0].gone()
    assert b": ping\n\n" in told.body
    await estimated(scene, told, EVENTS)
    assert scene.lines[-1]["pings"] >= 5


@fault(
    "The answer lasts longer than it may (`timeouts.total`)",
    TOLD,
    "estimate",
    log=truncated("max_duration"),
)
async def test_an_answer_without_end_is_cut_at_its_longest_duration(scene: Scene) -> None:
    more = [
        action
        for n in range(60)
        for action in (chaos.send(chaos.chunk(chunk(f"{n:09d} "))), chaos.pause(0.05))
    ]
    async with chaos.serve([chaos.request(), chaos.send(chunked([])), *more]) as up:
        await scene.start(one(up.url, total=0.6))
        async with asyncio.timeout(2.5):
            told = await scene.call()
        await up.peers[0].gone()
    relayed = [event + b"\n\n" for event in told.body.split(b"\n\n")[:-2]]
    await estimated(scene, told, relayed)


@fault(
    "A living stream lasts longer than five minutes",
    COMPLETE,
    "usage",
    log={"status": 200, "reason": None},
    note="nothing",
)
async def test_a_living_stream_may_last_for_half_an_hour(scene: Scene) -> None:
    now = 0.0
    steps = [asyncio.Event() for _ in range(30)]
    script: list[chaos.Action] = [chaos.request(), chaos.send(chunked([STREAM[0]]))]
    for step in steps:
        script += [chaos.wait(step), chaos.send(chaos.chunk(chunk("still here ")))]
    script += [chaos.send(b"".join(map(chaos.chunk, STREAM[1:])) + chaos.chunk(b""))]

    async def minutes_pass() -> None:
        nonlocal now
        for step in steps:
            await asyncio.sleep(0.03)
            now += 55.0  # half an hour in all, and never a minute of silence
            step.set()

    async with chaos.serve(script) as up:
        running = await scene.start(one(up.url))
        running.proxy._transports._live._clock = lambda: now
        passing = asyncio.create_task(minutes_pass())
        await scene.call()
        await passing
    assert now > 1600.0
