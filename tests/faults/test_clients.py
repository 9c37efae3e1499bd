"""Clients that leave, stall, crawl, lie, or ask for what they may not have."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests import chaos
from tests.conftest import KEY, Running, one_upstream
from tests.faults.scene import (
    COMPLETE,
    COST,
    GONE,
    JSON,
    NOTHING,
    RETRY_FORBIDDEN,
    SECONDS,
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
from tests.test_relay_clients import deaf_socket, flooded, leave
from tests.test_relay_streams import Gate, estimate
from tests.upstream import DONE, STREAM, FakeUpstream, chunk, stream_says, usage_chunk, usual

PATH = "/v1/chat/completions"
HEAD = (
    f"POST {PATH} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
).encode()


async def connected(running: Running, payload: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that has sent this much."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=2**26)
    writer.write(payload)
    return reader, writer


async def closed_within(peer: chaos.Peer, seconds: float, since_s: float) -> None:
    """The upstream's connection has ended so soon after the client's."""
    await peer.gone()
    assert peer.ended_at_s is not None
    assert peer.ended_at_s - since_s < seconds


# --- clients that leave


@fault("A client leaves before its request is whole", GONE, "none", log={"status": 499, "reason": "read"})
async def test_a_client_that_leaves_before_its_request_is_whole_costs_nothing(
    scene: Scene, upstream: FakeUpstream
) -> None:
    running = await scene.start(one_upstream(upstream.base_url))
    _, writer = await connected(running, HEAD + b"Content-Length: 1000\r\n\r\n{")
    await until(lambda: running.proxy.relay.in_flight)
    leave(writer, "close")
    await scene.saw(GONE)
    assert upstream.asked == []


@fault(
    "A client leaves while its hold is being written",
    GONE,
    "void",
    log={"status": 499, "reason": "held", "upstream": None},
    note="the upstream is never called",
)
async def test_a_client_that_leaves_while_its_hold_is_written_never_reaches_the_upstream(
    scene: Scene, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await scene.start(one_upstream(upstream.base_url))
    gate = Gate(running, monkeypatch)
    gate.finished.set()
    _, writer = await connected(running, request(STREAMED))
    await until(lambda: "place" in gate.asked)
    leave(writer, "close")
    await scene.saw(GONE)
    assert upstream.asked == []


@pytest.mark.parametrize("body", [STREAMED, WHOLE], ids=["stream", "whole"])
@pytest.mark.parametrize("how", ["close", "reset"])
@fault(
    "A client leaves while it waits for the first byte",
    GONE,
    "void",
    log={"status": 499, "reason": "ttfb", "cost_at_risk": 1},
    note="the upstream is closed within a second",
)
async def test_a_client_that_leaves_before_the_first_byte_is_not_charged(
    scene: Scene, how: str, body: dict[str, Any]
) -> None:
    async with chaos.serve([chaos.request()]) as up:
        running = await scene.start(one(up.url))
        _, writer = await connected(running, request(body))
        await until(lambda: up.peers and up.peers[0].requests)
        leave(writer, how)
        await closed_within(up.peers[0], 1.0, time.monotonic())
        await scene.saw(GONE)


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("how", ["close", "reset"])
@fault(
    "A client leaves in mid-stream",
    GONE,
    ("estimate", "usage"),
    log={"status": 499, "reason": "stream"},
    note="the upstream is closed within a second; usage is charged if it was seen",
)
async def test_a_client_that_leaves_in_mid_stream_pays_what_was_relayed(
    scene: Scene, how: str, usage: bool
) -> None:
    pieces = [*EVENTS, *([usage_chunk(10, 2)] if usage else [])]
    async with chaos.serve([chaos.request(), chaos.send(chunked(pieces))]) as up:
        running = await scene.start(one(up.url))
        reader, writer = await connected(running, request(STREAMED))
        await reader.readuntil(pieces[-1])
        leave(writer, how)
        await closed_within(up.peers[0], 1.0, time.monotonic())
        await scene.saw(GONE)
    expected = COST if usage else estimate(EVENTS, orjson.dumps(STREAMED))
    assert await scene.charged() == expected


@pytest.mark.parametrize("how", ["close", "reset"])
@fault(
    "A client leaves as soon as it has read `[DONE]`",
    GONE,
    "usage",
    log={"status": 200, "reason": None},
    note="it has had its answer",
)
async def test_a_client_that_leaves_after_done_has_had_its_answer(
    scene: Scene, upstream: FakeUpstream, how: str
) -> None:
    running = await scene.start(one_upstream(upstream.base_url))
    reader, writer = await connected(running, request(STREAMED, close=False))
    await reader.readuntil(DONE)
    leave(writer, how)
    await scene.saw(GONE)
    assert await scene.charged() == COST


@fault(
    "A client closes its sending side after the request (half-close)",
    NOTHING,
    "void",
    log={"status": 499, "reason": "ttfb", "cost_at_risk": 1},
    note="it is taken for one that has left",
)
async def test_a_half_closed_client_is_taken_for_one_that_left(scene: Scene) -> None:
    async with chaos.serve([chaos.request()]) as up:
        running = await scene.start(one(up.url))
        reader, writer = await connected(running, request(STREAMED))
        await until(lambda: up.peers and up.peers[0].requests)
        leave(writer, "half")
        await closed_within(up.peers[0], 1.0, time.monotonic())
        async with asyncio.timeout(5):
            await scene.saw(NOTHING if await reader.read() == b"" else "something")
        writer.close()


# --- clients that read slowly


def stuck(peer: chaos.Peer) -> Callable[[], bool]:
    """Whether the upstream has more to say and nobody has taken any of it for a while."""
    left, since_s = -1, time.monotonic()

    def look() -> bool:
        nonlocal left, since_s
        size = peer.transport.get_write_buffer_size()
        if size != left:
            left, since_s = size, time.monotonic()
        return size > 0 and time.monotonic() - since_s > 0.3

    return look


@fault(
    "A client reads slowly",
    COMPLETE,
    "usage",
    log={"status": 200, "write_stall_ms": ...},
    note="the upstream is read no faster, and nothing is lost",
)
async def test_a_slow_reader_slows_the_upstream_and_gets_every_byte(scene: Scene) -> None:
    event = chunk("x" * 60_000)
    pieces = [STREAM[0], *[event] * 600, *STREAM[2:]]
    async with chaos.serve([chaos.request(), chaos.send(chunked(pieces) + chaos.chunk(b""))]) as up:
        running = await scene.start(one(up.url))
        with deaf_socket(running) as deaf:
            deaf.sendall(request(STREAMED))
            await until(lambda: up.peers and up.peers[0].requests)
            await until(stuck(up.peers[0]))
            deaf.setblocking(False)
            said = bytearray()
            while piece := await asyncio.get_running_loop().sock_recv(deaf, 2**16):
                said += piece
    told = parsed(bytes(said))
    assert told.body == b"".join(pieces)
    await scene.saw(str(told))
    assert scene.lines[-1]["write_stall_ms"] >= 200
    assert await scene.charged() == COST


@fault(
    "A client stops reading for 60 s",
    GONE,
    "estimate",
    log={"status": 499, "reason": "write_timeout"},
    note="both connections are closed",
)
async def test_a_client_that_stops_reading_is_closed_and_so_is_the_upstream(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, WRITE_STALL_S=0.4)
    running, flood, server = await flooded(scene.start, 64 * 2**20)
    with deaf_socket(running) as deaf:
        deaf.sendall(request(STREAMED))
        await asyncio.wait_for(flood.lost.wait(), 5.0)
        await scene.saw(GONE)
    assert flood.sent < 32 * 2**20
    server.close()
    await server.wait_closed()


# --- clients that send slowly, or too much


async def patient(port: int, first: bytes, drop: bytes, seconds: float) -> bytes:
    """Send `first`, then `drop` for as long as the server listens; gives all that it says."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reading = asyncio.ensure_future(reader.read())
    writer.write(first)
    async with asyncio.timeout(seconds):
        while not reading.done():
            await asyncio.wait([reading], timeout=0.05)
            if drop and not reading.done():
                writer.write(drop)
    writer.close()
    return b"" if reading.exception() else reading.result()


@pytest.mark.parametrize("drop", [b"X: y\r\n", b""], ids=["endless", "silent"])
@fault(
    "A client sends its head slowly, without end, or not at all",
    NOTHING,
    "none",
    note="closed after 15 s; there is no call to log",
)
async def test_a_head_that_does_not_come_is_not_waited_for(
    scene: Scene, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, drop: bytes
) -> None:
    shorten(monkeypatch, HEAD_S=0.3)
    running = await scene.start(one_upstream(upstream.base_url))
    said = await patient(running.port, b"POST /v1/chat/completions HTTP/1.1\r\n", drop, 2.0)
    await scene.saw(str(parsed(said)), lines=0)


@pytest.mark.parametrize("drop", [b" ", b""], ids=["slow", "stopped"])
@fault(
    "A client sends its body slowly", "408 request_timeout", "none", log={"reason": "slow_body", "hold_n": 0}
)
async def test_a_body_that_crawls_is_a_408(
    scene: Scene, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, drop: bytes
) -> None:
    shorten(monkeypatch, BODY_S=0.3, LINGER_S=0.1)
    running = await scene.start(one_upstream(upstream.base_url))
    said = await patient(running.port, HEAD + b"Content-Length: 1000\r\n\r\n{", drop, 3.0)
    await scene.saw(str(parsed(said)))
    assert upstream.asked == []


@fault(
    "A client announces a body over the limit",
    "413 request_too_large",
    "none",
    headers={"connection": "close"},
    log={"reason": "too_large declared", "bytes_in": 0},
    note="before a byte of it is read, and without a 100",
)
async def test_a_body_announced_too_large_is_refused_unread(
    scene: Scene, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, LINGER_S=0.1)
    await scene.start("max_body_mib: 1\n" + one_upstream(upstream.base_url))
    told = await scene.send(HEAD + b"Expect: 100-continue\r\nContent-Length: 1048577\r\n\r\n")
    assert not told.interim


@fault(
    "A client sends a body over the limit in chunks",
    "413 request_too_large",
    "none",
    headers={"connection": "close"},
    log={"reason": "too_large seen"},
    note="when the limit is crossed",
)
async def test_a_chunked_body_is_refused_where_it_crosses_the_limit(
    scene: Scene, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, LINGER_S=0.1)
    running = await scene.start("max_body_mib: 1\n" + one_upstream(upstream.base_url))
    reader, writer = await connected(running, HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    answering, sent = asyncio.ensure_future(reader.readuntil(b"}}")), 0
    piece = chaos.chunk(b" " * 2**16)
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            while not answering.done() and sent < 2**30:
                writer.write(piece)
                sent += 2**16
                await writer.drain()
                await asyncio.sleep(0)
        told = parsed(await answering)
    writer.close()
    await scene.saw(str(told), told.headers)
    assert sent < 64 * 2**20


@pytest.mark.parametrize(
    "head",
    [
        b"".join(b"X-%d: y\r\n" % n for n in range(100_000)),
        b"X: " + b"a" * 9000 + b"\r\n",
        None,
    ],
    ids=["a hundred thousand headers", "a header of 9 KB", "a target of 1 MB"],
)
@fault(
    "A client sends a hundred thousand headers, one of 9 KB, or a target of 1 MB",
    ("400 invalid_request", "414 invalid_request", "431 invalid_request"),
    "none",
    note="the connection is closed; there is no call to log",
)
async def test_a_head_beyond_the_bounds_is_refused(
    scene: Scene, upstream: FakeUpstream, head: bytes | None
) -> None:
    running = await scene.start(one_upstream(upstream.base_url))
    target = b"/v1/models" if head else b"/" + b"a" * 2**20
    payload = b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n" + (head or b"") + b"\r\n"
    reader, writer = await connected(running, payload)
    async with asyncio.timeout(5):
        told = parsed(await reader.readuntil(b"}}"))
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    await scene.saw(str(told), told.headers, lines=0)


@fault(
    "A client with a bad key waits for `100 Continue` before it sends its body",
    "401 invalid_api_key",
    "none",
    log={"reason": "unknown", "key_id": None},
    note="and is not asked for it",
)
async def test_a_bad_key_is_refused_without_asking_for_the_body(
    scene: Scene, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, LINGER_S=0.1)
    await scene.start(one_upstream(upstream.base_url))
    head = HEAD.replace(KEY.encode(), KEY.encode()[:-1] + b"X") + b"Connection: close\r\n"
    told = await scene.send(head + b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
    assert not told.interim


@fault(
    "A client expects something other than `100-continue`",
    "417 invalid_request",
    "none",
    log={"reason": "expect"},
)
async def test_another_expectation_is_a_417(scene: Scene, upstream: FakeUpstream) -> None:
    await scene.start(one_upstream(upstream.base_url))
    await scene.call(WHOLE, "Expect: the-unexpected")
    assert upstream.asked == []


# --- bodies that can't be read


def with_field(text: bytes) -> bytes:
    """A good call with one more field, as it is written."""
    return orjson.dumps(WHOLE)[:-1] + b"," + text + b"}"


BAD_JSON = {
    "syntax": b'{"model": "m",}',
    "empty": b"",
    "no object": b"[1]",
    "a byte order mark": b"\xef\xbb\xbf" + orjson.dumps(WHOLE),
    "UTF-16": orjson.dumps(WHOLE).decode().encode("utf-16"),
    "bad UTF-8": with_field(b'"x":"\xff"'),
    "a NUL": with_field(b'"x":"\x00"'),
    "100,000 levels": with_field(b'"x":' + b"[" * 100_000 + b"]" * 100_000),
    "200 levels": with_field(b'"x":' + b"[" * 200 + b"]" * 200),
    "an integer of 5,000 digits": with_field(b'"x":' + b"1" * 5000),
    "NaN": with_field(b'"x":NaN'),
    "Infinity": with_field(b'"x":Infinity'),
    "1e999": with_field(b'"x":1e999'),
    "a lone surrogate": with_field(b'"x":"\\ud800"'),
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON)
@fault(
    "The body is no JSON that everybody reads alike: syntax, nothing, a BOM, UTF-16, bad UTF-8, NUL, "
    "100,000 levels, an integer of 5,000 digits, NaN, Infinity, 1e999, a lone surrogate",
    "400 invalid_request",
    "none",
    log={"reason": "bad_json", "model": None},
)
async def test_json_that_is_none_is_refused(scene: Scene, upstream: FakeUpstream, body: bytes) -> None:
    await scene.start(one_upstream(upstream.base_url))
    await scene.call(body)
    assert upstream.asked == []


@pytest.mark.parametrize("name", [b'"model"', b'"mod\\u0065l"'])
@fault(
    "A key stands twice in the body, spelt alike or with an escape",
    JSON,
    "usage",
    log={"model": "m"},
    note="one reading for all: the last counts for the check, for the price and for the upstream",
)
async def test_of_a_doubled_key_the_last_counts_for_everybody(
    scene: Scene, upstream: FakeUpstream, name: bytes
) -> None:
    keys = f"keys: [{{name: k, key: {KEY}, models: [m]}}]"
    running = await scene.start(one_upstream(upstream.base_url, keys))
    twice = orjson.dumps(WHOLE).replace(b'"model":"m"', b'"model":"e",' + name + b':"m"')

    await scene.call(twice)

    assert [asked.body["model"] for asked in upstream.asked] == ["real-m"]
    assert await scene.charged() == COST
    refused = twice.replace(b'"e"', b'"m"').replace(name + b':"m"', name + b':"e"')
    assert str(parsed(await say(running.port, request(refused)))) == "403 model_not_allowed"


WRONG: list[tuple[str, Any]] = [
    *[
        (name, value)
        for name in ("max_tokens", "max_completion_tokens")
        for value in (True, "5", 1.5, -1, 0, 2**63)
    ],
    *[("n", value) for value in (0, -1, 10**9, "2", 1.5)],
    *[("stream", value) for value in ("yes", 1)],
    *[("model", value) for value in (["m"], "m" * 10_000, "", None, 7)],
    *[("messages", value) for value in ([], "Hi", None)],
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: repr(value)[:12])
@fault(
    "A field has the wrong type, or a limit that can't be meant",
    "400 invalid_request",
    "none",
    log={"reason": "bad_param", "hold_n": 0},
    note="`param` names it",
)
async def test_a_wrong_field_is_named(scene: Scene, upstream: FakeUpstream, name: str, value: Any) -> None:
    await scene.start(one_upstream(upstream.base_url))
    told = await scene.call({**WHOLE, name: value})
    assert told.error["param"] == name
    assert upstream.asked == []


@pytest.mark.parametrize("limits", [(50, 500), (500, 50)])
@fault(
    "`max_tokens` and `max_completion_tokens` disagree",
    JSON,
    "usage",
    log={"hold_n": ...},
    note="the larger one is held",
)
async def test_the_larger_of_two_limits_is_held(
    scene: Scene, upstream: FakeUpstream, limits: tuple[int, int]
) -> None:
    await scene.start(one_upstream(upstream.base_url))
    body = {**WHOLE, "max_tokens": limits[0], "max_completion_tokens": limits[1]}
    await scene.call(body)
    assert scene.lines[-1]["hold_n"] == len(orjson.dumps(body)) * 3_000 + 500 * 15_000


ZIPPED = gzip.compress(orjson.dumps(WHOLE))
INFLATING = "body_encodings: [gzip]\nmax_body_mib: 1\n"


@pytest.mark.parametrize(
    ("config", "coding", "body", "client"),
    [
        ("", "gzip", ZIPPED, "415 unsupported_media_type"),
        ("", "br", b"x", "415 unsupported_media_type"),
        (INFLATING, "br", b"x", "415 unsupported_media_type"),
        (INFLATING, "gzip", ZIPPED[:-9], "400 invalid_request"),
        (INFLATING, "gzip", b"x" * 50, "400 invalid_request"),
        (INFLATING, "gzip", gzip.compress(b" " * 2**22), "413 request_too_large"),
    ],
    ids=["switched off", "unknown, switched off", "unknown", "cut", "corrupt", "bomb"],
)
@fault(
    "The body is compressed: in a way that is not taken, corrupt, or a bomb",
    ("415 unsupported_media_type", "400 invalid_request", "413 request_too_large"),
    "none",
    log={"hold_n": 0, "model": None},
    note="inflated only where `body_encodings` says so, and never beyond `max_body_mib`",
)
async def test_a_compressed_body_is_taken_within_bounds_or_refused(
    scene: Scene, upstream: FakeUpstream, config: str, coding: str, body: bytes, client: str
) -> None:
    await scene.start(config + one_upstream(upstream.base_url))
    assert str(await scene.call(body, f"Content-Encoding: {coding}")) == client
    assert upstream.asked == []


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/json; charset=x",
    ],
)
@fault(
    "The body is not said to be JSON, or in a charset that is not UTF-8",
    "415 unsupported_media_type",
    "none",
    log={"reason": ("content_type", "charset")},
)
async def test_a_body_that_is_not_said_to_be_json_is_a_415(
    scene: Scene, upstream: FakeUpstream, content_type: str
) -> None:
    await scene.start(one_upstream(upstream.base_url))
    await scene.call(WHOLE, content_type=content_type)
    assert upstream.asked == []


# --- who may not


REVOKED = "sk-th-revokedrevokedrevoked"
EXPIRED = "sk-th-expiredexpiredexpired"
CREDENTIALS: dict[str, tuple[Sequence[str], str]] = {
    "none": ((), "missing"),
    "malformed": (("Authorization: Bearer nonsense",), "malformed"),
    "another scheme": (("Authorization: Basic dXNlcjpwYXNz",), "not a bearer token"),
    "bad checksum": (("Authorization: Bearer sk-th-" + "0" * 34,), "unknown"),
    "unknown": (("Authorization: Bearer sk-th-unknownunknownunknown",), "unknown"),
    "revoked": ((f"Authorization: Bearer {REVOKED}",), "revoked"),
    "expired": ((f"Authorization: Bearer {EXPIRED}",), "expired"),
    "two": ((f"Authorization: Bearer {KEY}", f"x-api-key: {KEY}"), "second credential in x-api-key"),
    "twice": ((f"Authorization: Bearer {KEY}",) * 2, "two Authorization headers"),
}


@fault(
    "The key is missing, malformed, unknown, revoked or expired, or there are two",
    "401 invalid_api_key",
    "none",
    log={"key_id": None, "reason": ..., "model": None},
    note="one body for all of them, but for the request id",
)
async def test_every_bad_credential_gets_the_same_answer(scene: Scene, upstream: FakeUpstream) -> None:
    running = await scene.start(
        one_upstream(
            upstream.base_url,
            f"keys: [{{name: k, key: {KEY}}}, {{name: r, key: {REVOKED}}},"
            f" {{name: x, key: {EXPIRED}, expires: 2020-01-01}}]",
        )
    )
    revoked = next(key for key in running.ledger.list_keys() if key.name == "r")
    await running.ledger.put_key(replace(revoked, revoked_at=1.0))
    said = set()

    for headers, reason in CREDENTIALS.values():
        told = await scene.call(WHOLE, *headers, key=None)
        error = told.error
        said.add(told.body.replace(error["request_id"].encode(), b""))
        assert scene.lines[-1]["reason"] == reason

    assert len(said) == 1
    assert upstream.asked == []


@pytest.mark.parametrize("forwarded", [(), ("X-Forwarded-For: 203.0.113.9",), ("X-Real-IP: 203.0.113.9",)])
@fault(
    "The client's address is not on the key's list, whatever `X-Forwarded-For` claims",
    "403 ip_not_allowed",
    "none",
    log={"reason": "127.0.0.1"},
)
async def test_an_address_is_the_sockets_and_not_the_claimed_one(
    scene: Scene, upstream: FakeUpstream, forwarded: Sequence[str]
) -> None:
    keys = f"keys: [{{name: k, key: {KEY}, ips: [203.0.113.0/24]}}]"
    await scene.start(one_upstream(upstream.base_url, keys))
    await scene.call(WHOLE, *forwarded)


@pytest.mark.parametrize(
    ("model", "client"),
    [("m", "403 model_not_allowed"), ("nowhere", "403 model_not_allowed"), ("fre", "404 model_not_found")],
)
@fault(
    "The model is outside the key's patterns, or not configured",
    ("403 model_not_allowed", "404 model_not_found"),
    "none",
    log={"reason": ("'m'", "'nowhere'", "'fre'"), "hold_n": 0},
    note="403 whether or not it exists; 404 names the nearest that the key may call",
)
async def test_a_model_out_of_reach_is_not_told_from_one_that_is_not_there(
    scene: Scene, upstream: FakeUpstream, model: str, client: str
) -> None:
    keys = f"keys: [{{name: k, key: {KEY}, models: ['fr*']}}]"
    await scene.start(one_upstream(upstream.base_url, keys))
    told = await scene.call({**WHOLE, "model": model})
    assert str(told) == client
    assert ("'free'" in told.error["message"]) is (model == "fre")


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (
            f"accounts: {{a: {{balance: prepaid}}}}\nkeys: [{{name: k, key: {KEY}, account: a}}]",
            "balance need=",
        ),
        (f"keys: [{{name: k, key: {KEY}, quota: {{usd: 0.001, per: day}}}}]", "quota need="),
    ],
    ids=["balance", "quota"],
)
@fault(
    "The balance or the key's quota can't cover the hold",
    "402 insufficient_quota",
    "none",
    headers=RETRY_FORBIDDEN,
    log={"reason": ..., "hold_n": 0},
    note="the log says what was needed and what is left",
)
async def test_what_can_not_be_paid_is_not_asked(
    scene: Scene, upstream: FakeUpstream, keys: str, reason: str
) -> None:
    await scene.start(one_upstream(upstream.base_url, keys))
    await scene.call({**WHOLE, "max_tokens": 900})
    assert scene.lines[-1]["reason"].startswith(reason)
    assert " have=" in scene.lines[-1]["reason"]
    assert upstream.asked == []


@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute", "concurrent"])
@fault(
    "The key is over its rate, or has too many calls under way",
    "429 rate_limited",
    "none",
    headers={"retry-after": SECONDS},
    log={"reason": ("requests", "tokens", "concurrent")},
    note="with `x-ratelimit-*` where the key has such a limit",
)
async def test_a_call_over_a_limit_is_a_429_that_says_when(
    scene: Scene, upstream: FakeUpstream, limit: str
) -> None:
    most = {"requests_per_minute": 1, "tokens_per_minute": 50, "concurrent": 1}[limit]
    keys = f"keys: [{{name: k, key: {KEY}, rate: {{{limit}: {most}}}}}]"
    await scene.start(one_upstream(upstream.base_url, keys))
    waits = asyncio.Event()
    upstream.says = lambda asked: (
        stream_says(STREAM, waits=waits) if asked.body.get("stream") else usual(asked)
    )
    first = scene.asking(request({**STREAMED, "max_tokens": 40}))
    await until(lambda: upstream.asked)

    told = await scene.call({**WHOLE, "max_tokens": 40})

    waits.set()
    assert str(parsed(await first)) == COMPLETE
    assert len(upstream.asked) == 1
    unit = limit.partition("_")[0]
    if unit != "concurrent":
        assert told.headers[f"x-ratelimit-limit-{unit}"] == str(most)
        assert told.headers[f"x-ratelimit-remaining-{unit}"].isdigit()
        assert told.headers[f"x-ratelimit-reset-{unit}"].endswith("s")


ELSEWHERE = [
    ("OPTIONS", PATH, "204"),
    ("GET", PATH, "405 method_not_allowed"),
    ("HEAD", "/v1/models", "405"),
    ("TRACE", "/healthz", "405 method_not_allowed"),
    ("DELETE", "/v1/models/m", "405 method_not_allowed"),
    ("CONNECT", "elsewhere:443", "400 invalid_request"),
    ("GET", "/nowhere", "404 not_found"),
    ("POST", "//v1/chat/completions", "404 not_found"),
    ("POST", "/v1/%63hat/completions", "404 not_found"),
    ("POST", "/v1/%2e%2e/v1/chat/completions", "404 not_found"),
    ("POST", "/v1/../v1/chat/completions", "404 not_found"),
]


@pytest.mark.parametrize(("method", "target", "client"), ELSEWHERE)
@fault(
    "Another method, another path, or one in disguise: OPTIONS, HEAD, TRACE, CONNECT, `//v1`, `%2e%2e`",
    ("204", "405", "405 method_not_allowed", "404 not_found", "400 invalid_request"),
    "none",
    note="never forwarded",
)
async def test_what_is_no_route_is_never_forwarded(
    scene: Scene, upstream: FakeUpstream, method: str, target: str, client: str
) -> None:
    await scene.start(one_upstream(upstream.base_url))
    told = await scene.send(request(b"", path=target, method=method))
    assert str(told) == client
    if told.status == 405:
        assert told.headers["allow"]
    assert upstream.asked == []
    assert scene.lines == []


@pytest.mark.parametrize("again", ["running", "ended", "another body"])
@fault(
    "An `Idempotency-Key` comes again: while its call runs, after it has ended, or with another body",
    ("409 idempotency_conflict", JSON, "400 invalid_request"),
    "none",
    log={"hold_n": 0},
    note="told by its receipt once it has ended; one charge in all",
)
async def test_a_call_is_made_once_under_its_idempotency_key(
    scene: Scene, upstream: FakeUpstream, again: str
) -> None:
    running = await scene.start(one_upstream(upstream.base_url))
    named = "Idempotency-Key: order-7"
    waits = asyncio.Event()
    if again == "running":
        upstream.says = lambda asked: stream_says(STREAM, waits=waits)
    first = scene.asking(request(STREAMED if again == "running" else WHOLE, [named]))
    await until(lambda: upstream.asked if again == "running" else first.done())

    body: dict[str, Any] = STREAMED if again == "running" else WHOLE
    told = await scene.call({**body, "temperature": 0} if again == "another body" else body, named)

    waits.set()
    paid = parsed(await first)
    assert str(told) == {"running": "409 idempotency_conflict", "ended": JSON}.get(
        again, "400 invalid_request"
    )
    if again == "ended":
        assert orjson.loads(told.body)["request_id"] == paid.headers["x-request-id"]
        assert scene.lines[-1]["idem_replay"] == paid.headers["x-request-id"]
    await until(lambda: len(scene.lines) == 2)
    assert len(upstream.asked) == 1
    assert [entry.amount async for entry in running.ledger.entries()] == [COST]
