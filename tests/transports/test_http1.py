"""Wherever the network cuts an answer, the same bytes come out, and nothing after them counts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos import CHUNKED, answer, chunk
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.transports.http1 import BUFFER_BYTES_MAX, HEAD_BYTES_MAX, Connection


class Wire:
    """A transport that only remembers: the socket tests have the real ones."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.reading = True

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> None:
        return None

    def abort(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def connection() -> tuple[Connection, Wire]:
    wire = Wire()
    made = Connection(lambda: 0.0, lambda _: None)
    made.connection_made(cast(Any, wire))
    return made, wire


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted({place % (len(raw) + 1) for place in places}), len(raw)]
    return [raw[start:end] for start, end in pairwise(bounds) if start < end]


async def read(reads: list[bytes], eof: bool, pumped_after: int) -> tuple[int, bytes, str, bool]:
    """Status, body, kind of failure and reusability of an answer that comes in these reads."""
    made, _ = connection()
    head = made.begin(b"GET / HTTP/1.1\r\n\r\n", b"")
    got: list[bytes] = []
    pumping: asyncio.Task[bool] | None = None
    for index, data in enumerate(reads):
        if index >= pumped_after and pumping is None and made.head_done:
            pumping = asyncio.ensure_future(made.pump(got.append))
            await asyncio.sleep(0)
        if not made.failure:
            made.received(data)
    if eof:
        made.eof_received()
    kind = ""
    try:
        await head
        assert await (pumping or made.pump(got.append))
    except UpstreamUnavailable as error:
        kind = error.kind
        if pumping is not None and not pumping.done():
            pumping.cancel()
    return made.status, b"".join(got), kind, made.rest()


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One loop for all examples."""
    with asyncio.Runner() as made:
        yield made


bodies = st.lists(st.binary(max_size=40), max_size=6)
cuts = st.lists(st.integers(min_value=0, max_value=10_000), max_size=12)


@settings(max_examples=300, deadline=None)
@given(pieces=bodies, places=cuts, pumped_after=st.integers(0, 5), framing=st.sampled_from("clx"))
def test_where_the_network_cuts_never_changes_the_body(
    runner: asyncio.Runner, pieces: list[bytes], places: list[int], pumped_after: int, framing: str
) -> None:
    body = b"".join(pieces)
    if framing == "c":
        raw = CHUNKED + b"".join(chunk(piece) for piece in pieces if piece) + chunk(b"")
    elif framing == "l":
        raw = b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + answer(body)
    else:
        raw = b"HTTP/1.1 200 OK\r\n\r\n" + body
    until_eof = framing == "x"
    found = runner.run(read(cut(raw, places), until_eof, pumped_after))
    assert found == (200, body, "", not until_eof)


@settings(max_examples=300, deadline=None)
@given(pieces=bodies, places=cuts, lost=st.integers(1, 10_000), chunked=st.booleans())
def test_a_body_cut_short_anywhere_is_a_prefix_and_a_failure(
    runner: asyncio.Runner, pieces: list[bytes], places: list[int], lost: int, chunked: bool
) -> None:
    body = b"".join(pieces) + b"."
    framed = CHUNKED + b"".join(chunk(piece) for piece in [*pieces, b"."] if piece) + chunk(b"")
    raw = framed if chunked else answer(body)
    short = raw[: max(1, len(raw) - lost)]
    _, got, kind, reusable = runner.run(read(cut(short, places), eof=True, pumped_after=0))
    assert kind in {"short_head", "short_body"}
    assert body.startswith(got)
    assert not reusable


@settings(max_examples=200, deadline=None)
@given(surplus=st.binary(min_size=1, max_size=60), places=cuts)
def test_bytes_after_the_end_are_never_part_of_an_answer(
    runner: asyncio.Runner, surplus: bytes, places: list[int]
) -> None:
    raw = answer(b"whole")
    reads = [raw[:-1], *cut(raw[-1:] + surplus + answer(b"forged"), places)]
    status, got, kind, reusable = runner.run(read(reads, eof=False, pumped_after=0))
    assert (status, got, kind, reusable) == (200, b"whole", "", False)


@settings(max_examples=300, deadline=None)
@given(
    junk=st.binary(max_size=300), places=cuts, lead=st.sampled_from([b"", CHUNKED, b"HTTP/1.1 200 OK\r\n"])
)
def test_no_bytes_whatever_make_the_parser_raise_anything_else(
    runner: asyncio.Runner, junk: bytes, places: list[int], lead: bytes
) -> None:
    runner.run(read(cut(lead + junk, places), eof=True, pumped_after=1))


async def test_what_waits_for_the_first_pump_is_bounded_by_not_reading() -> None:
    made, wire = connection()
    made.begin(b"GET / HTTP/1.1\r\n\r\n", b"")
    made.received(b"HTTP/1.1 200 OK\r\n\r\n")
    made.received(bytes(BUFFER_BYTES_MAX))
    assert wire.reading
    made.received(b".")
    assert not wire.reading
    got: list[bytes] = []
    pumping = asyncio.ensure_future(made.pump(got.append))
    await asyncio.sleep(0)
    assert wire.reading
    assert len(got[0]) == BUFFER_BYTES_MAX + 1
    made.eof_received()
    assert await pumping


async def test_a_connection_paused_at_the_end_reads_again_when_it_rests() -> None:
    made, wire = connection()
    made.begin(b"GET / HTTP/1.1\r\n\r\n", b"")
    made.received(answer(b"x"))
    made.pause(True)
    assert not wire.reading
    assert made.rest()
    assert wire.reading


async def test_a_piece_is_handed_on_as_the_parser_made_it() -> None:
    made, _ = connection()
    made.begin(b"GET / HTTP/1.1\r\n\r\n", b"")
    made.received(CHUNKED)
    got: list[bytes] = []
    pumping = asyncio.ensure_future(made.pump(got.append))
    await asyncio.sleep(0)
    for data in (b"a" * 100, b"b" * 100):
        made.received(chunk(data))
    made.received(chunk(b""))
    assert await pumping
    assert got == [b"a" * 100, b"b" * 100]


async def test_a_request_on_a_connection_that_just_closed_was_not_sent() -> None:
    made, wire = connection()
    wire.closed = True
    await made.begin(b"GET / HTTP/1.1\r\n\r\n", b"")
    assert isinstance(made.failure, UpstreamUnavailable)
    assert (made.failure.kind, made.failure.executed, wire.written) == ("disconnected", False, b"")


async def test_a_peer_that_speaks_first_is_hung_up_on() -> None:
    made, wire = connection()
    made.received(answer(b"to nobody"))
    assert wire.closed


async def test_the_limit_on_framing_counts_from_the_last_byte_of_the_body() -> None:
    made, _ = connection()
    made.begin(b"GET / HTTP/1.1\r\n\r\n", b"")
    made.received(CHUNKED)
    pumping = asyncio.ensure_future(made.pump(lambda data: None))
    await asyncio.sleep(0)
    for _ in range(HEAD_BYTES_MAX // 8):
        made.received(b"8\r\n")
        made.received(b"12345678\r\n")
    made.received(chunk(b""))
    assert await pumping
