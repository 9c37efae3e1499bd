"""Streams that say nothing: upstreams that only ping are ended, silent clients hear a comment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import orjson
import pytest

from tests import chaos
from tests.conftest import Running, Serve, one_upstream
from tests.test_relay_streams import BODY, answers, charged, estimate, request_bytes, stream, unchunked
from tests.test_server import MESSAGES, ask
from tests.upstream import DONE, chunk
from tokenhub_proxy import looks, sse, watch
from tokenhub_proxy.calls import parse
from tokenhub_proxy.dialects import Asking, Memory, Reply, dialect
from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.routes import Target, Upstream

PINGS = {
    "comments": b": OPENROUTER PROCESSING\n\n",
    "blank lines": b"\n",
    "events without data": b"data: \n\n",
    "events without a space": b"data:\r\n\r\n",
    "named events without data": b"event: ping\ndata:\n\n",
}
TIMEOUTS = "timeouts: {idle: 5, progress: 0.4}"


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_S", 0.05)


def pings(ping: bytes, *, times: int = 100) -> list[chaos.Action]:
    return [action for _ in range(times) for action in (chaos.send(chaos.chunk(ping)), chaos.pause(0.05))]


def config(url: str, more: str = "") -> str:
    return one_upstream(url + "/v1").replace("api_key:", f"{TIMEOUTS}, api_key:") + more


# --- upstreams that only ping


@pytest.mark.parametrize("ping", PINGS.values(), ids=PINGS)
async def test_an_upstream_that_only_pings_is_ended_with_an_error_event(serve: Serve, ping: bytes) -> None:
    pieces = [chunk("Hel"), chunk("lo")]
    async with chaos.serve([*answers(pieces, ends=False), *pings(ping)]) as up:
        running = await serve(config(up.url))

        _, said, ended = await stream(running)
        await up.peers[0].gone()

    relayed, _, event = said.rpartition(b"data: ")
    assert relayed.replace(ping, b"") == b"".join(pieces).replace(
        ping, b""
    )  # the pings were relayed meanwhile
    assert orjson.loads(event)["error"]["code"] == "upstream_unavailable"
    assert not ended
    exchange = running.exchanges[0]
    assert exchange.error is not None
    assert exchange.error.reason == "no_progress"
    status, cost, estimated = await charged(running, exchange)
    assert (status, estimated) == ("settled", True)
    if ping in (PINGS["comments"], PINGS["blank lines"]):
        assert cost == estimate(pieces, orjson.dumps(BODY))


async def test_pings_before_the_first_event_give_the_next_target_its_turn(serve: Serve) -> None:
    script = [chaos.request(), chaos.send(chaos.CHUNKED), *pings(PINGS["comments"])]
    whole = answers([chunk("Hi"), chunk(reason="stop"), DONE])
    async with chaos.serve(script) as pinging, chaos.serve(whole) as good:
        running = await serve(f"""
upstreams:
  a: {{dialect: openai, base_url: "{pinging.url}/v1", {TIMEOUTS}}}
  b: {{dialect: openai, base_url: "{good.url}/v1"}}
models:
  m: {{targets: [{{upstream: a}}, {{upstream: b, priority: 2}}], price: free}}
""")

        _, said, ended = await stream(running)

    assert (said, ended) == (chunk("Hi") + chunk(reason="stop") + DONE, True)
    assert running.exchanges[0].attempts == ["a:no_progress", "b:200"]


async def test_blank_lines_before_a_whole_answer_are_no_progress_either(serve: Serve) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with chaos.serve([chaos.request(), chaos.send(head), *pings(b"\n")]) as up:
        running = await serve(config(up.url))

        status, headers, _ = await ask(
            running, "POST", "/v1/chat/completions", json={"model": "m", "messages": MESSAGES}
        )

    assert (status, headers["x-should-retry"]) == (502, "false")
    assert running.exchanges[0].attempts == ["up:no_progress"]
    assert running.exchanges[0].billing == "void"


async def test_an_upstream_that_had_finished_loses_nothing_by_pinging_on(serve: Serve) -> None:
    pieces = [chunk("Hi"), chunk(reason="stop")]
    async with chaos.serve([*answers(pieces, ends=False), *pings(PINGS["comments"])]) as up:
        running = await serve(config(up.url))

        _, said, ended = await stream(running)

    assert said.replace(PINGS["comments"], b"") == b"".join(pieces) + DONE
    assert ended


async def test_a_stream_that_goes_on_slowly_is_left_alone(serve: Serve) -> None:
    script: list[chaos.Action] = [chaos.request(), chaos.send(chaos.CHUNKED)]
    pieces = [chunk("a"), chunk("b"), chunk("c"), chunk("d", reason="stop") + DONE]
    for piece in pieces:
        script += [*pings(PINGS["comments"], times=5), chaos.send(chaos.chunk(piece))]
    async with chaos.serve([*script, chaos.send(chaos.chunk(b""))]) as up:
        running = await serve(config(up.url))

        _, said, ended = await stream(running)

    assert said.replace(PINGS["comments"], b"") == b"".join(pieces)
    assert ended


# --- comments for silent clients


@asynccontextmanager
async def halves(first: bytes, second: bytes) -> AsyncIterator[tuple[chaos.Chaos, asyncio.Event]]:
    """An upstream that says one piece, and the other when the test lets it."""
    rest = asyncio.Event()
    script = [*answers([first], ends=False), chaos.wait(rest)]
    script += [chaos.send(chaos.chunk(second)), chaos.send(chaos.chunk(b""))]
    async with chaos.serve(script) as up:
        yield up, rest


END = chunk(reason="stop") + DONE
KEEP_ALIVE = "\nstreams: {keep_alive: 0.1}\n"


async def silent(running: Running, rest: asyncio.Event, silence_s: float = 0.6) -> tuple[bytes, bytes, bool]:
    """A stream through a silence of its upstream: what is said by its end, the rest, whether it ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(request_bytes(BODY))
    await asyncio.sleep(silence_s)
    rest.set()
    async with asyncio.timeout(5):
        head, _, raw = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return head, *(unchunked(raw) if b"transfer-encoding: chunked" in head else (raw, True))


async def test_a_silent_stream_s_client_hears_comments_between_events(serve: Serve) -> None:
    async with halves(chunk("Hi"), END) as (up, rest):
        running = await serve(config(up.url, KEEP_ALIVE).replace("0.4", "5"))

        _, said, ended = await silent(running, rest)

    before, comments, after = said.partition(sse.KEEP_ALIVE)
    assert (before, ended) == (chunk("Hi"), True)
    assert 1 <= (comments + after).count(sse.KEEP_ALIVE) <= 6
    assert said.replace(sse.KEEP_ALIVE, b"") == chunk("Hi") + END


async def test_without_the_option_nothing_is_added(serve: Serve) -> None:
    async with halves(chunk("Hi"), END) as (up, rest):
        running = await serve(config(up.url).replace("0.4", "5"))

        assert (await silent(running, rest))[1:] == (chunk("Hi") + END, True)


async def test_nothing_is_said_inside_an_event(serve: Serve) -> None:
    event = chunk("Hello, and more than that")
    middle = event.index(b"more")
    async with halves(chunk("Hi") + event[:middle], event[middle:] + END) as (up, rest):
        running = await serve(config(up.url, KEEP_ALIVE).replace("0.4", "5"))

        assert (await silent(running, rest))[1:] == (chunk("Hi") + event + END, True)


async def test_a_comment_commits_nothing(serve: Serve) -> None:
    error = b'data: {"error": {"message": "overloaded"}}\n\n'
    async with halves(b": one moment\n\n", error) as (up, rest):
        running = await serve(config(up.url, KEEP_ALIVE).replace("0.4", "5"))

        head, _, _ = await silent(running, rest, 0.4)

    assert head.startswith(b"HTTP/1.1 502 ")


async def test_after_the_end_nothing_is_said(serve: Serve) -> None:
    # The upstream keeps its connection open after [DONE], which waits for the end of that.
    async with chaos.serve(answers([chunk("Hi"), END], ends=False)) as up:
        running = await serve(config(up.url, KEEP_ALIVE))

        _, said, ended = await stream(running)

    assert (said, ended) == (chunk("Hi") + END, True)


# --- what replies say of themselves


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini", "bedrock", "azure"])
@pytest.mark.parametrize(("status", "kind"), [(200, "application/json"), (503, "application/json")])
def test_no_comment_fits_into_a_whole_answer_or_an_error(name: str, status: int, kind: str) -> None:
    reply = answered(name, status, kind, stream=False)
    before = reply.progress
    reply.feed(b'{"id": 1,')
    assert reply.progress != before
    assert not reply.between_events


def test_pings_of_a_foreign_dialect_are_no_progress() -> None:
    reply = answered("anthropic", 200, "text/event-stream", stream=True)
    start = {"type": "message_start", "message": {"id": "msg_1", "usage": {"input_tokens": 3}}}
    reply.feed(b"event: message_start\n" + sse.encode(orjson.dumps(start)))
    begun = reply.progress
    reply.feed(b'event: ping\ndata: {"type": "ping"}\n\n')
    assert reply.progress == begun
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    reply.feed(sse.encode(orjson.dumps(block)) + sse.encode(orjson.dumps(delta)))
    assert reply.progress != begun
    assert reply.between_events


def answered(name: str, status: int, kind: str, *, stream: bool) -> Reply:
    upstream = Upstream("u", name, "https://u.example", credentials=("k",), options={"region": "r"})
    call = parse(orjson.dumps({"model": "m", "messages": MESSAGES, "stream": stream}), "chat")
    asking = Asking(Target(upstream, "claude-x"), "k")
    return dialect(name, Memory()).reply(call, asking, status, {"content-type": kind})


# --- how often they are looked at


def test_a_near_deadline_is_looked_at_each_time_and_a_far_one_in_one_look_of_eight() -> None:
    assert [looks.turn(number, 29.9) for number in range(3)] == [looks.ALWAYS] * 3
    turns = [looks.turn(number, looks.FAR_S) for number in range(2 * looks.TURNS)]
    assert turns == [*range(looks.TURNS)] * 2


class Looked:
    """A reply that tells how often somebody looked at its progress."""

    done = False
    looks = 0

    @property
    def progress(self) -> int:
        self.looks += 1
        return 0


@pytest.mark.parametrize(("progress_s", "expected"), [(20.0, 16), (300.0, 2)])
async def test_the_watch_looks_at_an_answer_as_often_as_its_deadline_needs(
    progress_s: float, expected: int
) -> None:
    reply, exchange = Looked(), Exchange("req_1", "chat/completions", 0.0, 0.0, "")
    watching = watch.Watch(lambda: 0.0)
    watching.begin(exchange, cast(Any, None), cast(Any, reply), progress_s)
    for _ in range(16):
        watching._look()
    assert reply.looks == expected
    watching.end(exchange)
