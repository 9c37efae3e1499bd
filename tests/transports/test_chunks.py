"""A chunk that is recognised at a glance is what the parser makes of it, wherever the network cuts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos import CHUNKED, chunk
from tests.transports.test_http1 import Wire, cut
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.transports import chunks
from tokenhub_proxy.transports.http1 import Connection


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One loop for all examples."""
    with asyncio.Runner() as made:
        yield made


def at_a_glance(connection: Connection, data: bytes) -> None:
    """Give the connection a read as the event loop does."""
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))


def parsed(connection: Connection, data: bytes) -> None:
    """Give the connection a read that all goes through the parser."""
    connection.received(data)


async def outcome(reads: list[bytes], give: Any) -> tuple[int, list[bytes], str, bool]:
    """An answer in these reads: status, pieces of its body, failure, and whether the connection is kept."""
    connection = Connection(lambda: 0.0, lambda _: None)
    connection.connection_made(cast(Any, Wire()))
    connection.begin(b"GET / HTTP/1.1\r\n\r\n", b"")
    got: list[bytes] = []
    pumping: asyncio.Task[bool] | None = None
    kind = ""
    for data in reads:
        if connection.head_done and pumping is None:
            pumping = asyncio.ensure_future(connection.pump(got.append))
            await asyncio.sleep(0)
        if not connection.failure:
            give(connection, data)
    try:
        connection.eof_received()
        if pumping is not None:
            await pumping
    except UpstreamUnavailable as error:
        kind = error.kind
    return connection.status, got, kind, connection.rest()


# What a size line, a chunk's end and an event's end are made of, and little else, so that they come
# where they don't belong.
awkward = st.lists(
    st.sampled_from([b"\r\n", b"\n\n", b"\n", b"\r", b"0", b"5", b"1f", b";", b"data: {}\n\n", b"x" * 30]),
    max_size=5,
).map(b"".join)
framed = awkward.filter(bool).map(chunk)
in_capitals = awkward.filter(bool).map(lambda body: b"%X\r\n%b\r\n" % (len(body), body))
padded = awkward.filter(bool).map(lambda body: b"00%x\r\n%b\r\n" % (len(body), body))
extended = awkward.filter(bool).map(lambda body: b"%x;a=b\r\n%b\r\n" % (len(body), body))
lying = st.tuples(st.integers(0, 40), awkward).map(lambda told: b"%x\r\n%b\r\n" % told)
sequences = st.lists(st.one_of(framed, framed, in_capitals, padded, extended, lying, awkward), max_size=8)


@settings(max_examples=1500, deadline=None)
@given(parts=sequences, places=st.lists(st.integers(0, 10_000), max_size=6), end=st.booleans())
def test_reads_of_whole_chunks_mean_what_the_parser_says(
    runner: asyncio.Runner, parts: list[bytes], places: list[int], end: bool
) -> None:
    # Each part comes alone, as events do, unless it is cut.
    reads = [CHUNKED]
    for index, part in enumerate(parts):
        reads += cut(part, places[index : index + 1])
    reads += [chunk(b"")] if end else []
    assert runner.run(outcome(reads, at_a_glance)) == runner.run(outcome(reads, parsed))


@settings(max_examples=500, deadline=None)
@given(parts=sequences, places=st.lists(st.integers(0, 10_000), max_size=12))
def test_reads_that_join_chunks_anyhow_mean_what_the_parser_says(
    runner: asyncio.Runner, parts: list[bytes], places: list[int]
) -> None:
    reads = cut(CHUNKED + b"".join(parts) + chunk(b""), places)
    assert runner.run(outcome(reads, at_a_glance)) == runner.run(outcome(reads, parsed))


def test_an_answer_cut_at_every_byte_is_the_same_answer(runner: asyncio.Runner) -> None:
    raw = CHUNKED + b"".join(chunk(b"data: {%d}\n\n" % n) for n in range(3)) + chunk(b"")
    for place in range(1, len(raw)):
        reads = [raw[:place], raw[place:]]
        assert runner.run(outcome(reads, at_a_glance)) == runner.run(outcome(reads, parsed))


async def test_the_parser_is_spared_a_chunk_that_comes_alone() -> None:
    connection = Connection(lambda: 0.0, lambda _: None)
    connection.connection_made(cast(Any, Wire()))
    connection.begin(b"GET / HTTP/1.1\r\n\r\n", b"")
    at_a_glance(connection, CHUNKED)
    got: list[bytes] = []
    pumping = asyncio.ensure_future(connection.pump(got.append))
    await asyncio.sleep(0)
    connection._parser = None  # without it any other read would close the connection
    for _ in range(3):
        at_a_glance(connection, chunk(b"data: {}\n\n"))
    pumping.cancel()
    assert got == [b"data: {}\n\n"] * 3


def test_a_size_line_is_known_for_every_length_that_a_chunk_can_have() -> None:
    for size in range(1, chunks.ALONE_BYTES_MAX - 10):
        whole = chunk(b"x" * size)
        assert chunks.SIZE_LINES[len(whole)] == b"%x\r\n" % size
    # Between the longest chunk of so many digits and the shortest of one more there is none.
    for length in (0, 1, 4, 5, 15 + 6, 255 + 7):
        assert len(chunks.SIZE_LINES[length]) > length
