"""Answers that came compressed: the same bytes and the same usage as plain ones, within bounds."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import orjson
import pytest

from tests import chaos
from tests.conftest import Serve, one_upstream
from tests.test_relay_streams import BODY, charged, stream
from tests.test_server import MESSAGES, ask
from tests.upstream import STREAM, FakeUpstream, Says, chunk, json_says, whole
from tokenhub_proxy.dialects import Reply, inflated
from tokenhub_proxy.dialects.replies import Whole
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.prices import Usage

COMPRESS = {"gzip": gzip.compress, "deflate": zlib.compress}
PATH = "/v1/chat/completions"
CALL = {"model": "m", "messages": MESSAGES}


def compressed(coding: str) -> bytes:
    """The head of a chunked stream in this coding."""
    return chaos.CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: " + coding.encode() + b"\r\n\r\n")


@pytest.mark.parametrize("every", [1, 17, None])
@pytest.mark.parametrize(("coding", "compress"), COMPRESS.items(), ids=COMPRESS)
async def test_a_compressed_stream_is_relayed_plain_and_metered(
    serve: Serve, coding: str, compress: Callable[[bytes], bytes], every: int | None
) -> None:
    body = chaos.chunk(compress(b"".join(STREAM))) + chaos.chunk(b"")
    script = [chaos.request(), chaos.send(compressed(coding)), chaos.send(body, every)]
    async with chaos.serve(script) as up:
        running = await serve(one_upstream(up.url + "/v1"))

        head, said, ended = await stream(running)

    assert (said, ended) == (b"".join(STREAM), True)
    assert b"content-encoding" not in head.lower()
    assert running.exchanges[0].notes["encoding"] == coding
    assert await charged(running, running.exchanges[0]) == ("settled", 60_000, False)


def test_each_flush_of_the_compressor_reaches_the_client_at_once() -> None:
    compress = zlib.compressobj(wbits=31)
    reply = inflated.plain(opened(), {"content-encoding": "gzip"})
    first = compress.compress(b'{"id"') + compress.flush(zlib.Z_SYNC_FLUSH)
    reply.feed(first)
    assert reply.progress == 1
    # A header alone holds nothing yet; it is not the end of the answer.
    assert inflated.plain(opened(), {"content-encoding": "gzip"}).feed(first[:10]) == b""


def opened() -> Reply:
    return Whole(lambda body: (body, Usage()))


@pytest.mark.parametrize("status", [200, 400])
async def test_whole_answers_and_errors_are_read_too(
    serve: Serve, upstream: FakeUpstream, status: int
) -> None:
    error = orjson.dumps({"error": {"message": "temperature is too high", "param": "temperature"}})
    body = gzip.compress(whole() if status == 200 else error)
    upstream.says = lambda asked: json_says(body, status, **{"Content-Encoding": "gzip"})
    running = await serve(one_upstream(upstream.base_url))

    answered, _, said = await ask(running, "POST", PATH, json=CALL)

    assert answered == status
    assert said == whole() or orjson.loads(said)["error"]["message"] == "temperature is too high"


@pytest.mark.parametrize(
    ("coding", "body", "kind"),
    [
        ("br", b"whatever", "encoding"),
        ("gzip", b"".join(STREAM), "encoding"),
        ("gzip", gzip.compress(b"".join(STREAM))[:40], "empty"),
        ("gzip", gzip.compress(b": " + bytes(64 * 2**20)), "meter_cap"),
    ],
    ids=["unknown", "plain", "cut", "bomb"],
)
async def test_what_can_not_be_read_is_a_502_before_the_first_byte(
    serve: Serve, upstream: FakeUpstream, coding: str, body: bytes, kind: str
) -> None:
    headers = {"Content-Type": "text/event-stream", "Content-Encoding": coding}
    upstream.says = lambda asked: Says([body], 200, headers)
    running = await serve(one_upstream(upstream.base_url))

    answered, headers_out, _ = await ask(running, "POST", PATH, json=BODY)

    assert (answered, headers_out["x-should-retry"]) == (502, "false")
    assert running.exchanges[0].attempts == [f"up:{kind}"]
    assert running.exchanges[0].billing == "void"


async def test_a_bomb_in_the_middle_ends_the_stream_at_what_was_relayed(serve: Serve) -> None:
    compress = zlib.compressobj(9, wbits=31)
    first = compress.compress(chunk("Hel")) + compress.flush(zlib.Z_SYNC_FLUSH)
    bomb = compress.compress(bytes(64 * 2**20)) + compress.flush()
    script = [chaos.request(), chaos.send(compressed("gzip") + chaos.chunk(first)), chaos.pause(0.2)]
    async with chaos.serve([*script, chaos.send(chaos.chunk(bomb))]) as up:
        running = await serve(one_upstream(up.url + "/v1"))

        _, said, ended = await stream(running)

    assert said.startswith(chunk("Hel") + b"data: ")
    assert (
        orjson.loads(said.removeprefix(chunk("Hel") + b"data: "))["error"]["code"] == "upstream_unavailable"
    )
    assert not ended
    assert (await charged(running, running.exchanges[0]))[::2] == ("settled", True)


def test_after_the_end_nothing_is_inflated_any_more() -> None:
    inner = opened()
    reply = inflated.plain(inner, {"content-encoding": "gzip"})
    inner.done = True
    assert reply.feed(b"no gzip at all") == b""
    with pytest.raises(UpstreamUnavailable):
        inflated.plain(opened(), {"content-encoding": "gzip"}).feed(b"no gzip at all")
