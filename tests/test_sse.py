"""Server-sent events: cut anywhere, and read as the WHATWG standard reads them."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenhub_proxy import sse
from tokenhub_proxy.sse import Splitter

# Everything that matters to the splitter and the readers, many times, with something between.
streams = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b"data", b":", b" ", b"event", b"x", b"\xef\xbb\xbf", b"\xd0\xb9", b"data: "]
    ),
    max_size=40,
).map(b"".join)
ordinary = st.lists(
    st.tuples(
        st.sampled_from(["data: ", "data:", "event: ", ": ", "id: ", ""]),
        st.text(alphabet="ab :é\u2028\u0085", max_size=5),
        st.sampled_from(["\n", "\n\n", "\r\n", "\r\n\r\n"]),
    ).map("".join),
    max_size=12,
).map(lambda lines: "".join(lines).encode())


def reference(stream: bytes) -> list[tuple[str, str]]:
    """The (event type, data) pairs that a client sees, by the standard's own steps."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = re.split("\r\n|\n|\r", text)
    seen, kind, data = [], "", ""
    for line in lines[:-1]:  # what no line end closes is never processed
        if line == "":
            if data:
                seen.append((kind, data.removesuffix("\n")))
            kind, data = "", ""
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                kind = value
            elif field == "data":
                data += value + "\n"
    return seen


def events_of(stream: bytes, cuts: list[int]) -> tuple[list[bytes], bytes]:
    """What the splitter returns when the stream comes in these pieces."""
    splitter, events, start = Splitter(), [], 0
    for cut in [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]:
        events += splitter.feed(stream[start:cut])
        start = cut
    return events, splitter.rest


def read(events: list[bytes]) -> list[tuple[str, str]]:
    pairs = [(sse.name(event), sse.data(event)) for event in events]
    return [(name, data.decode("utf-8", "replace")) for name, data in pairs if data is not None]


@given(streams | ordinary, st.lists(st.integers(0, 10_000), max_size=12))
@example(b"a\r\r\nb", [2, 3])
@example(b"a\n\r\nb", [2, 3])
@example(b"a\r\n\r\nb", [4])
@example(b"a\n\n\r\n", [2, 3])
def test_where_the_network_cuts_never_changes_the_events(stream: bytes, cuts: list[int]) -> None:
    assert events_of(stream, cuts) == events_of(stream, [])


@given(streams | ordinary)
def test_byte_by_byte_is_the_same_as_at_once(stream: bytes) -> None:
    assert events_of(stream, list(range(len(stream)))) == events_of(stream, [])


@given(streams | ordinary, st.lists(st.integers(0, 10_000), max_size=12))
def test_what_comes_out_joined_is_what_went_in(stream: bytes, cuts: list[int]) -> None:
    events, rest = events_of(stream, cuts)
    assert b"".join(events) + rest == stream


@given(ordinary)
def test_events_are_read_as_a_client_reads_them(stream: bytes) -> None:
    events, _ = events_of(stream, [])
    dispatched = [pair for pair in read(events) if pair[1]]
    # An empty data field dispatches nothing or an empty message; no client tells them apart.
    assert dispatched == [pair for pair in reference(stream) if pair[1]]


@given(streams)
def test_even_the_strangest_stream_is_read_as_a_client_reads_it(stream: bytes) -> None:
    stream = stream.replace(b"\xef\xbb\xbf", b"")
    events, rest = events_of(stream, [])
    # A trailing CR after CRLF waits for its LF, where a client need not.
    if rest.endswith(b"\r\n\r"):
        events.append(rest)
    assert [pair for pair in read(events) if pair[1]] == [pair for pair in reference(stream) if pair[1]]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r", b"\r\n\n"])
def test_an_event_is_out_the_moment_its_blank_line_is_in(end: bytes) -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: a") == []
    assert splitter.feed(end) == [b"data: a" + end]
    assert splitter.rest == b""


def test_a_byte_order_mark_before_the_first_event_is_no_part_of_a_name() -> None:
    event = b"\xef\xbb\xbfevent: e\ndata: a\n\n"
    assert (sse.name(event), sse.data(event)) == ("e", b"a")


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\n\n", b"a"),
        (b"data:  a \n\n", b" a "),
        (b"data: a\r\n\r\n", b"a"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data\n\n", b""),
        (b"data:\n\n", b""),
        (b"data: \n\n", b""),
        (b"data: a: b\n\n", b"a: b"),
        (b"id: 1\ndata: a\nevent: e\n\n", b"a"),
        ("data: a\u2028b\u0085c\n\n".encode(), "a\u2028b\u0085c".encode()),
        (b": data: a\n\n", None),
        (b"Data: a\n\n", None),
        (b" data: a\n\n", None),
        (b"datax: a\n\n", None),
        (b"\n\n", None),
        (b"", None),
        (b"data: unfinished", b"unfinished"),
    ],
)
def test_the_data_of_an_event(event: bytes, data: bytes | None) -> None:
    assert sse.data(event) == data


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (b"event: error\ndata: a\n\n", "error"),
        (b"event:error\r\ndata: a\r\n\r\n", "error"),
        (b"data: a\nevent: late\n\n", "late"),
        (b"event: first\nevent: last\n\n", "last"),
        (b"event: first\nevent\n\n", ""),
        (b"event: \xff\n\n", "\ufffd"),
        (b"data: event: a\n\n", ""),
        (b": event: a\n\n", ""),
    ],
)
def test_the_name_of_an_event(event: bytes, name: str) -> None:
    assert sse.name(event) == name


@given(st.binary(max_size=50).filter(lambda payload: b"\n" not in payload and b"\r" not in payload))
def test_what_is_encoded_is_read_back(payload: bytes) -> None:
    assert Splitter().feed(sse.encode(payload)) == [sse.encode(payload)]
    assert sse.data(sse.encode(payload)) == payload
    assert sse.data(sse.DONE) == b"[DONE]"
