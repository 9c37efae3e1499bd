"""Streams through the whole proxy: bytes unchanged, endings honest, books first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from openai import AsyncOpenAI

from tests import chaos
from tests.conftest import KEY, Running, Serve, one_upstream
from tests.test_server import MESSAGES
from tests.upstream import DONE, STREAM, FakeUpstream, chunk, stream_says, usage_chunk
from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.ledger import Hold
from tokenhub_proxy.prices import Price, Usage

BODY = {"model": "m", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
PRICE = Price(input=3_000_000_000, cached=300_000_000, cache_write=3_000_000_000, output=15_000_000_000)


def request_bytes(body: dict[str, Any], *, version: str = "1.1", close: bool = True) -> bytes:
    """A whole request as it goes over the wire."""
    raw = orjson.dumps(body)
    head = [
        f"POST /v1/chat/completions HTTP/{version}",
        "Host: h",
        f"Authorization: Bearer {KEY}",
        "Content-Type: application/json",
        f"Content-Length: {len(raw)}",
        *(["Connection: close"] if close else []),
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + raw


def unchunked(body: bytes) -> tuple[bytes, bool]:
    """What a chunked body says, and whether its end was said too."""
    said = bytearray()
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return bytes(said), True
        said += rest[:length]
        body = rest[length + 2 :]
    return bytes(said), False


async def stream(running: Running, body: dict[str, Any] = BODY) -> tuple[bytes, bytes, bool]:
    """One request over a socket of its own: the head, what the body says, whether it ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(request_bytes(body))
    async with asyncio.timeout(10):
        raw = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, rest = raw.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head:
        return head, *unchunked(rest)
    return head, rest, True


def answers(pieces: Sequence[bytes], *, ends: bool = True) -> list[chaos.Action]:
    """One chunked answer, each piece a chunk."""
    actions = [chaos.request(), chaos.send(chaos.CHUNKED), *(chaos.send(chaos.chunk(p)) for p in pieces)]
    return [*actions, chaos.send(chaos.chunk(b""))] if ends else actions


async def charged(running: Running, exchange: Exchange) -> tuple[str, int, bool]:
    """How the books say that a call ended: status, cost, and whether usage was estimated."""
    receipt = await running.ledger.receipt(exchange.id)
    estimated = receipt.status == "settled" and not receipt.usage.reported
    return receipt.status, receipt.cost, estimated


def estimate(events: Sequence[bytes], prompt: bytes) -> int:
    """The reference: what a stream costs whose usage nobody told."""
    if not events:
        return 0
    text = sum(map(len, events)) - len(events) * len(events[0])
    output = max(len(events) - 1, -(-max(0, text) // 4))
    return PRICE.cost(Usage(input=-(-len(prompt) // 4), output=output))


# --- bytes


@pytest.mark.parametrize("every", [1, 3, 7, 64, None])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
async def test_however_the_network_cuts_the_client_gets_the_upstreams_bytes(
    serve: Serve, every: int | None, line_end: bytes
) -> None:
    text = b": hello\n\n" + chunk("Привет, ") + b"event: x\nid: 7\n" + chunk("\u2028 мир 🌍")
    text += chunk(reason="stop") + usage_chunk(10, 2) + DONE
    text = text.replace(b"\n", line_end)
    whole = chaos.CHUNKED + chaos.chunk(text) + chaos.chunk(b"")
    async with chaos.serve([chaos.request(), chaos.send(whole, every)]) as up:
        running = await serve(one_upstream(up.url + "/v1"))

        head, said, ended = await stream(running)

    assert head.startswith(b"HTTP/1.1 200 OK")
    assert said == text
    assert ended
    assert await charged(running, running.exchanges[0]) == ("settled", 60_000, False)


async def test_each_read_of_the_upstream_is_written_before_the_next(serve: Serve) -> None:
    steps = [asyncio.Event() for _ in range(5)]
    script: list[chaos.Action] = [chaos.request(), chaos.send(chaos.CHUNKED)]
    pieces = [chunk(f"word {n} ") for n in range(5)]
    for step, piece in zip(steps, pieces, strict=True):
        script += [chaos.send(chaos.chunk(piece)), chaos.wait(step)]
    script += [chaos.send(chaos.chunk(chunk(reason="stop") + DONE) + chaos.chunk(b""))]
    async with chaos.serve(script) as up:
        running = await serve(one_upstream(up.url + "/v1"))
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(request_bytes(BODY))

        async with asyncio.timeout(5):
            for step, piece in zip(steps, pieces, strict=True):
                await reader.readuntil(piece)  # nothing else will come before we say so
                step.set()
            await reader.read()
        writer.close()
        await writer.wait_closed()


# --- the books first


class Gate:
    """Delays what a ledger says is durable until the test opens it."""

    def __init__(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self.placed, self.finished = asyncio.Event(), asyncio.Event()
        self.asked: list[str] = []
        ledger, place, finish = running.ledger, running.ledger.place, running.ledger.finish

        def slow_place(_: object, hold: Hold) -> Any:
            durable = place(hold)
            return asyncio.ensure_future(self._after("place", self.placed, durable))

        def slow_finish(_: object, hold: Hold) -> Any:
            return asyncio.ensure_future(self._after("finish", self.finished, finish(hold)))

        monkeypatch.setattr(type(ledger), "place", slow_place)
        monkeypatch.setattr(type(ledger), "finish", slow_finish)

    async def _after(self, name: str, event: asyncio.Event, durable: Any) -> None:
        self.asked.append(name)
        await durable
        await event.wait()


async def test_the_hold_is_durable_before_the_upstream_hears_of_the_call(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await serve(one_upstream(upstream.base_url))
    gate = Gate(running, monkeypatch)
    gate.finished.set()

    answering = asyncio.create_task(stream(running))
    while "place" not in gate.asked:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.1)
    assert upstream.asked == []

    gate.placed.set()
    _, said, ended = await answering

    assert (said, ended) == (b"".join(STREAM), True)
    assert len(upstream.asked) == 1


async def test_everything_but_the_ending_is_relayed_before_the_books_are_closed(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await serve(one_upstream(upstream.base_url))
    gate = Gate(running, monkeypatch)
    gate.placed.set()
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(request_bytes(BODY))

    async with asyncio.timeout(5):
        said = await reader.readuntil(usage_chunk(10, 2) + b"\r\n")
        while "finish" not in gate.asked:
            await asyncio.sleep(0.005)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(100_000), 0.2)  # neither [DONE] nor the last chunk
    assert b"[DONE]" not in said

    gate.finished.set()
    rest = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert rest == b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


async def test_a_whole_answer_waits_for_the_books(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await serve(one_upstream(upstream.base_url))
    gate = Gate(running, monkeypatch)
    gate.placed.set()
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(request_bytes({"model": "m", "messages": MESSAGES}))

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.3)
    assert "finish" in gate.asked
    gate.finished.set()

    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
    writer.close()
    await writer.wait_closed()


# --- endings


@pytest.mark.parametrize("how", [chaos.close, chaos.reset])
async def test_a_connection_that_breaks_after_the_finish_is_no_failure(serve: Serve, how: Any) -> None:
    script = [*answers(STREAM[:-1], ends=False), chaos.pause(0.05), how()]
    async with chaos.serve(script) as up:
        running = await serve(one_upstream(up.url + "/v1"))

        _, said, ended = await stream(running)

    assert (said, ended) == (b"".join(STREAM), True)
    assert running.exchanges[0].error is None
    assert await charged(running, running.exchanges[0]) == ("settled", 60_000, False)


async def test_a_stream_cut_before_its_first_event_is_released(serve: Serve) -> None:
    async with chaos.serve([*answers([chunk("Hello")[:30]], ends=False), chaos.close()]) as up:
        running = await serve(one_upstream(up.url + "/v1"))

        head, _, _ = await stream(running)

    assert head.startswith(b"HTTP/1.1 502 ")
    assert b"x-should-retry: false" in head
    assert await charged(running, running.exchanges[0]) == ("released", 0, False)


async def test_a_stream_of_nothing_but_our_usage_is_whole(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.says = lambda asked: stream_says([usage_chunk(10, 0), DONE])
    running = await serve(one_upstream(upstream.base_url))
    body = {name: value for name, value in BODY.items() if name != "stream_options"}

    head, said, _ = await stream(running, body)

    assert head.startswith(b"HTTP/1.1 200 OK")
    assert said == DONE
    assert await charged(running, running.exchanges[0]) == ("settled", 30_000, False)


async def test_nothing_told_and_no_end_is_an_http_error(serve: Serve) -> None:
    async with chaos.serve(
        [*answers([usage_chunk(10, 0)], ends=False), chaos.pause(0.05), chaos.close()]
    ) as up:
        running = await serve(one_upstream(up.url + "/v1"))
        body = {name: value for name, value in BODY.items() if name != "stream_options"}

        head, _, _ = await stream(running, body)

    assert head.startswith(b"HTTP/1.1 502 ")
    assert b"x-should-retry: false" in head


async def test_a_fault_of_ours_in_mid_stream_leaves_the_body_unterminated_and_is_settled(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tokenhub_proxy.dialects.passthrough import Stream

    feed, fed = Stream.feed, 0

    def broken(self: Stream, data: bytes) -> bytes:
        nonlocal fed
        fed += 1
        if fed > 1:
            raise RuntimeError("a bug")
        return feed(self, data)

    monkeypatch.setattr(Stream, "feed", broken)
    upstream.says = lambda asked: stream_says(STREAM, pause_s=0.02)
    running = await serve(one_upstream(upstream.base_url))

    _, said, ended = await stream(running)

    assert (said, ended) == (STREAM[0], False)
    assert "a bug" in caplog.text
    (exchange,) = running.exchanges
    assert exchange.error is not None
    assert exchange.error.code == "internal_error"
    assert (await charged(running, exchange))[0] == "settled"


# --- every cut, through the official SDK


def event(**choice: Any) -> bytes:
    """A chunk of as few bytes as the SDK takes."""
    return b"data: " + orjson.dumps({"choices": [{"index": 0, **choice}]}) + b"\n\n"


SHORT = b"".join(
    [
        event(delta={"content": "Hel"}, finish_reason=None),
        event(delta={"content": "lo wörld 🌍"}, finish_reason=None),
        event(delta={}, finish_reason="stop"),
        b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}\n\n',
        DONE,
    ]
)
LONG = b"".join([chunk(role="assistant"), *map(chunk, ("Hello, ", "wörld ", "🌍!")), *STREAM[-3:]])
# So many calls at a time keep the processor busy and the sockets few.
CONCURRENT = 24


def cut_at(text: bytes, offset: int, how: str) -> list[chaos.Action]:
    """An answer that breaks off after so much of the text."""
    part = text[:offset]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    if how == "between chunks":
        return [chaos.send(chunked + (chaos.chunk(part) if part else b"")), chaos.close()]
    if how == "inside a chunk":
        return [chaos.send(chunked + b"%x\r\n%b" % (len(text) + 1, part)), chaos.close()]
    if how == "short of its length":
        return [chaos.send(head + b"Content-Length: %d\r\n\r\n" % (len(text) + 1) + part), chaos.close()]
    if how == "without framing":
        return [chaos.send(head + b"Connection: close\r\n\r\n" + part), chaos.close()]
    # A reset takes back what the other side has not read; so it waits until that is done.
    return [chaos.send(chunked + (chaos.chunk(part) if part else b"")), chaos.pause(0.02), chaos.reset()]


async def outcomes_of(serve: Serve, text: bytes, how: str) -> dict[int, str]:
    """What the SDK makes of a cut at each offset: "clean", or the name of what it raised."""

    async def follow(peer: chaos.Peer) -> None:
        await chaos.request()(peer)
        # The upstream learns from the model's name where it shall break off.
        offset = int(orjson.loads(peer.requests[0].partition(b"\r\n\r\n")[2])["model"])
        for action in cut_at(text, offset, how):
            await action(peer)

    offsets = range(len(text) + 1)
    models = "".join(f"  c{n}: {{targets: [{{upstream: up, model: '{n}'}}], price: free}}\n" for n in offsets)
    found: dict[int, str] = {}
    places = asyncio.Semaphore(CONCURRENT)
    async with chaos.serve([follow]) as up:
        running = await serve(
            f'upstreams: {{up: {{dialect: openai, base_url: "{up.url}/v1"}}}}\nmodels:\n{models}'
        )
        async with AsyncOpenAI(base_url=running.base_url, api_key=KEY, max_retries=0) as sdk:

            async def one(offset: int) -> None:
                async with places:
                    try:
                        parts = await sdk.chat.completions.create(
                            model=f"c{offset}", messages=[{"role": "user", "content": "?"}], stream=True
                        )
                        async for _ in parts:
                            pass
                    except Exception as error:
                        found[offset] = type(error).__name__
                    else:
                        found[offset] = "clean"

            await asyncio.gather(*map(one, offsets))
    return found


@pytest.mark.parametrize(
    ("text", "how"),
    [
        pytest.param(text, how, id=f"{how}, {name}", marks=marks)
        for name, text, marks in (("short", SHORT, []), ("long", LONG, [pytest.mark.long]))
        for how in ("between chunks", "inside a chunk", "reset", "short of its length", "without framing")
        if name == "long" or how in ("inside a chunk", "reset", "without framing")
    ],
)
async def test_a_cut_at_any_byte_is_never_a_success_for_the_sdk(serve: Serve, text: bytes, how: str) -> None:
    first_at = text.index(b"\n\n") + 2
    finished_at = text.index(b"\n\n", text.index(b'"finish_reason":"stop"')) + 2
    boundaries = {0, *(n + 2 for n in range(len(text)) if text[n : n + 2] == b"\n\n")}

    found = await outcomes_of(serve, text, how)

    assert len(found) == len(text) + 1
    for offset, outcome in found.items():
        if offset >= finished_at:
            assert outcome == "clean", offset
        elif offset < finished_at - 2:  # a finish that lacks its blank line may count as one
            assert outcome != "clean", offset
        if offset < first_at - 2:
            assert outcome == "InternalServerError", offset  # a 502, for nothing was committed
        if offset in boundaries:
            assert outcome != "JSONDecodeError", offset
    told = {outcome for offset, outcome in found.items() if first_at <= offset < finished_at - 2}
    assert told <= {"APIError", "APIConnectionError", "JSONDecodeError", "RemoteProtocolError"}
