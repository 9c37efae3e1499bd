"""Streams whose bytes or usage are odd: relayed as they are, and counted all the same."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from tests import chaos
from tests.conftest import one_upstream
from tests.faults.scene import COMPLETE, COST, STREAMED, TOLD, Scene, Told, fault
from tests.faults.test_streams import EVENTS, FINISH, chunked, estimated, truncated
from tests.faults.test_upstream import one
from tests.hop import Way, hop
from tests.test_relay_streams import estimate
from tests.upstream import DONE, STREAM, FakeUpstream, chunk, stream_says, usage_chunk
from tokenhub_proxy import forwarding

# --- bytes as they come


@fault(
    "Characters, line ends and JSON are split over packets",
    COMPLETE,
    "usage",
    log={"status": 200, "bad_events": None},
    note="identical bytes",
)
async def test_single_byte_packets_change_no_byte(scene: Scene, upstream: FakeUpstream) -> None:
    pieces = [*EVENTS, *STREAM[2:]]
    upstream.says = lambda _: stream_says([piece.replace(b"\n", b"\r\n") for piece in pieces])
    async with hop(
        int(upstream.base_url.rpartition(":")[2].removesuffix("/v1")), answers=Way(slice_bytes=1)
    ) as line:
        await scene.start(one(f"http://127.0.0.1:{line.port}"))
        told = await scene.call()
    assert told.body == b"".join(pieces).replace(b"\n", b"\r\n")
    assert await scene.charged() == COST


ODD = [
    b"\xef\xbb\xbf: a byte order mark before it\r\n\r\n",
    chunk("one").replace(b"data: ", b"data:"),
    b"id: 7\nretry: 3000\nx-unknown: y\n" + chunk("two \u2028 \u0085 three"),
    b'data: {"choices":[{"index":0,\ndata: "delta":{"content":"four"},"finish_reason":null}]}\n\n',
    chunk("five").replace(b"\n", b"\r"),
    chunk("six").replace(b"\n", b"\r\n"),
    *STREAM[2:],
]


@fault(
    "Line ends of CR, of LF and of CRLF, a BOM, `data:` without a space, data of several lines, "
    "unknown fields, U+2028 and U+0085 in a text",
    COMPLETE,
    "usage",
    log={"status": 200, "bad_events": None},
    note="identical bytes",
)
async def test_odd_but_legal_events_are_understood_and_unchanged(
    scene: Scene, upstream: FakeUpstream
) -> None:
    upstream.says = lambda _: stream_says([b"".join(ODD)])
    await scene.start(one_upstream(upstream.base_url))
    told = await scene.call()
    assert told.body == b"".join(ODD)
    assert await scene.charged() == COST


@fault(
    "One event has 10 MB (an image)",
    COMPLETE,
    "usage",
    log={"big_event": 1, "status": 200},
    note="relayed as it comes",
)
async def test_an_event_of_ten_megabytes_passes_as_it_comes(scene: Scene, upstream: FakeUpstream) -> None:
    pieces = [STREAM[0], chunk("A" * 10_000_000), *STREAM[2:]]
    upstream.says = lambda _: stream_says(pieces)
    await scene.start(one_upstream(upstream.base_url))
    told = await scene.call()
    assert told.body == b"".join(pieces)
    assert await scene.charged() == COST


def zipped(body: bytes) -> chaos.Action:
    """A whole gzip stream as one chunked answer."""
    head = chaos.CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    return chaos.send(head + chaos.chunk(body) + chaos.chunk(b""))


@fault(
    "The upstream compresses its stream, although it was asked not to",
    COMPLETE,
    "usage",
    log={"encoding": "gzip", "status": 200},
    note="inflated, within bounds: the client gets the plain bytes, and the usage in them is billed",
)
async def test_a_compressed_stream_is_relayed_plain_and_counted(scene: Scene) -> None:
    async with chaos.serve([chaos.request(), zipped(gzip.compress(b"".join(STREAM)))]) as up:
        await scene.start(one(up.url))
        told = await scene.call()
    assert "content-encoding" not in told.headers
    assert told.body == b"".join(STREAM)
    assert await scene.charged() == COST


@fault(
    "A compressed stream inflates without end",
    TOLD,
    "estimate",
    log=truncated("meter_cap", encoding="gzip"),
    note="cut at the read that inflates to more than 16 MiB; before the first byte another target is asked",
)
async def test_a_bomb_in_a_stream_is_cut_before_it_fills_the_memory(scene: Scene) -> None:
    pack = zlib.compressobj(wbits=31)
    first = pack.compress(b"".join(EVENTS)) + pack.flush(zlib.Z_SYNC_FLUSH)
    bomb = b"".join(pack.compress(b" " * 2**20) for _ in range(64)) + pack.flush()
    head = chaos.CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    begun = chaos.send(head + chaos.chunk(first))
    script = [chaos.request(), begun, chaos.pause(0.2), chaos.send(chaos.chunk(bomb))]
    async with chaos.serve(script) as up:
        await scene.start(one(up.url))
        async with asyncio.timeout(5):
            told = await scene.call()
    await estimated(scene, told, EVENTS)


# --- usage


def counts(prompt: object, output: object) -> bytes:
    """A usage event with anything in it."""
    return (
        b"data: "
        + orjson.dumps({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output}})
        + b"\n\n"
    )


async def streamed(scene: Scene, upstream: FakeUpstream, pieces: Sequence[bytes], more: str = "") -> Told:
    """One call that is answered with these pieces and [DONE], all of which arrive unchanged."""
    upstream.says = lambda _: stream_says([*pieces, DONE])
    await scene.start(one_upstream(upstream.base_url, more))
    told = await scene.call()
    assert told.body == b"".join([*pieces, DONE])
    return told


async def test_the_estimate_of_a_whole_stream_is_the_references(scene: Scene, upstream: FakeUpstream) -> None:
    await streamed(scene, upstream, [*EVENTS, FINISH])
    assert await scene.charged() == estimate([*EVENTS, FINISH], orjson.dumps(STREAMED))


@fault(
    "Usage stands in every chunk, cumulative",
    COMPLETE,
    "usage",
    log={"usage_chunks": 3},
    note="the last counts",
)
async def test_of_cumulative_usage_the_last_counts(scene: Scene, upstream: FakeUpstream) -> None:
    def told(n: int) -> dict[str, int]:
        return {"prompt_tokens": 10, "completion_tokens": n, "total_tokens": 10 + n}

    await streamed(
        scene,
        upstream,
        [chunk("a", usage=told(1)), chunk("b", usage=told(2)), chunk(reason="stop", usage=told(2))],
    )
    assert await scene.charged() == COST


@fault("The final usage comes twice", COMPLETE, "usage", log={"usage_chunks": 2}, note="charged once")
async def test_usage_that_comes_twice_is_charged_once(scene: Scene, upstream: FakeUpstream) -> None:
    await streamed(scene, upstream, [*EVENTS, FINISH, usage_chunk(10, 2), usage_chunk(10, 2)])
    assert await scene.charged() == COST


@fault("Usage stands in a chunk with choices", COMPLETE, "usage", log={"usage_chunks": 1})
async def test_usage_beside_choices_counts(scene: Scene, upstream: FakeUpstream) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    await streamed(scene, upstream, [*EVENTS, chunk("end", reason="stop", usage=usage)])
    assert await scene.charged() == COST


@pytest.mark.parametrize("end", [[], [b'data: {"choices":[],"usage":null}\n\n']])
@fault("Usage is missing, or null", COMPLETE, "estimate", log={"usage": "missing"})
async def test_without_usage_the_relayed_text_is_estimated(
    scene: Scene, upstream: FakeUpstream, end: list[bytes]
) -> None:
    await streamed(scene, upstream, [*EVENTS, FINISH, *end])
    assert await scene.charged() > 0


@pytest.mark.parametrize(
    ("prompt", "output"),
    [(-1, 2), (10, -2), (10.5, 2), ("10", 2), (True, 2), (10, 2**53 + 1), (10, 2**63)],
)
@fault(
    "Usage is negative, fractional, a string, a boolean, or above 2^53",
    COMPLETE,
    "estimate",
    log={"usage": "invalid"},
    note="never negative",
)
async def test_usage_that_is_none_is_estimated(
    scene: Scene, upstream: FakeUpstream, prompt: Any, output: Any
) -> None:
    await streamed(scene, upstream, [*EVENTS, FINISH, counts(prompt, output)])
    assert await scene.charged() > 0


@fault("Usage is zero, in so many words", COMPLETE, "usage", log={"usage_zero": 1}, note="nothing is charged")
async def test_usage_of_zero_is_kept_and_flagged(scene: Scene, upstream: FakeUpstream) -> None:
    await streamed(scene, upstream, [*EVENTS, FINISH, counts(0, 0)])
    assert await scene.charged() == 0


@fault("The first chunk has no choices (Azure)", COMPLETE, "usage", log={"status": 200})
async def test_a_first_chunk_without_choices_is_relayed(scene: Scene, upstream: FakeUpstream) -> None:
    first = b'data: {"choices":[],"prompt_filter_results":[{"prompt_index":0}]}\n\n'
    await streamed(scene, upstream, [first, *STREAM[:-1]])
    assert await scene.charged() == COST


@pytest.mark.parametrize("after", [b": bye\n\n", None])
@fault(
    "Bytes follow `[DONE]`, or the upstream stays open after it",
    COMPLETE,
    "usage",
    log={"status": 200, "after_done": (1, None)},
    note="relayed with it; after a grace of 2 s the upstream is closed",
)
async def test_what_follows_done_has_a_short_grace(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, after: bytes | None
) -> None:
    monkeypatch.setattr(forwarding, "LINGER_S", 0.2)
    end = chaos.chunk(after) + chaos.chunk(b"") if after else b""
    async with chaos.serve([chaos.request(), chaos.send(chunked(STREAM) + end)]) as up:
        await scene.start(one(up.url))
        async with asyncio.timeout(1.5):
            told = await scene.call()
        if after is None:
            await up.peers[0].gone()
    assert told.body == b"".join(STREAM) + (after or b"")
    assert scene.lines[-1].get("after_done") == (1 if after else None)


@fault(
    "The upstream's usage costs more than was held",
    COMPLETE,
    "usage",
    log={"hold_exceeded": 1, "writeoff_n": ...},
    events=["ERROR", "hold_exceeded"],
    note="the hold is charged, the rest is booked to `writeoff`",
)
async def test_usage_above_the_hold_is_written_off(scene: Scene, upstream: FakeUpstream) -> None:
    greedy = 10**6
    await streamed(scene, upstream, [*EVENTS, FINISH, usage_chunk(greedy, greedy)])
    line = scene.lines[-1]
    assert await scene.charged() == line["charge_n"] == line["hold_n"]
    assert line["writeoff_n"] == greedy * 18_000 - line["hold_n"]


@fault(
    "The upstream answers with the name of another model",
    COMPLETE,
    "usage",
    log={"model_mismatch": "cheaper-model"},
    note="identical bytes, priced as the model that was asked for",
)
async def test_another_models_name_changes_no_price(scene: Scene, upstream: FakeUpstream) -> None:
    await streamed(scene, upstream, [piece.replace(b'"real-m"', b'"cheaper-model"') for piece in STREAM[:-1]])
    assert await scene.charged() == COST


@pytest.mark.parametrize("usage", [True, False])
@fault(
    "An event holds malformed JSON",
    COMPLETE,
    ("usage", "estimate"),
    log={"bad_events": 2},
    note="identical bytes",
)
async def test_malformed_events_are_relayed_and_counted(
    scene: Scene, upstream: FakeUpstream, usage: bool
) -> None:
    bad = [b'data: {"error": {\n\n', b'data: {"usage": [}\n\n']
    pieces = [EVENTS[0], *bad, *EVENTS[1:], FINISH, *([usage_chunk(10, 2)] if usage else [])]
    await streamed(scene, upstream, pieces)
    assert (scene.seen[-1].billing == "usage") is usage
