"""A stream whose events are compared says and learns what one does whose events are each looked into."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.dialects.contract import call_of
from tokenhub_proxy.dialects import passthrough
from tokenhub_proxy.dialects.pattern import NOTHING, Pattern
from tokenhub_proxy.errors import ProxyError


def event(delta: object, reason: str | None = None, **more: object) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    found = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": choices, **more}
    return b"data: " + json.dumps(found, separators=(",", ":")).encode() + b"\n\n"


texts = st.one_of(
    st.sampled_from(
        ["", "word", "error", "usage", "finish_reason", '"error"', "\\", "\n\n", "data: {", "[DONE]"]
    ),
    st.text(max_size=5),
)
events = st.one_of(
    texts.map(lambda text: event({"content": text})),
    texts.map(lambda text: event({"content": text})),
    texts.map(lambda text: event({"reasoning_content": text, "content": None})),
    st.tuples(texts, texts).map(lambda pair: event({"content": pair[0]}, obfuscation=pair[1])),
    texts.map(lambda text: event({"content": text}, "stop")),
    texts.map(lambda text: event({"content": text}, error={"message": text})),
    st.just(event({}, usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})),
    st.sampled_from([b": ping\n\n", b'data: {"content":"\n\n', b"data: [DONE]\n\n", b"\n"]),
    # Two events in one, and one that ends where its text should.
    texts.map(lambda text: event({"content": text}).replace(b"}\n\n", b"}\n", 1)),
    texts.map(lambda text: event({"content": text}).replace(b'":"', b'":', 1)),
)


def told(reads: list[bytes], compare: bool) -> tuple[Any, ...]:
    """All that a stream says and knows after these reads."""
    if not compare:
        length = passthrough.MUCH_BYTES - 1
        reads = [data[start : start + length] for data in reads for start in range(0, len(data), length)]
    stream = passthrough.Stream(call_of(True), model="m", hide_usage=True)
    said = b""
    try:
        for data in reads:
            if not compare:
                stream._at_event = False
            said += stream.feed(data)
        said += stream.feed(b"") if not stream.done else b""
    except ProxyError as error:
        return (type(error), error.reason)
    return (said, stream.close(), stream.usage, stream.finished, stream.begun, stream.notes, stream.progress)


ENDING = event({}, "stop") + event({}, usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})
# A read begins and ends anywhere, and most of what comes at once is text.
many = st.tuples(
    st.lists(events, max_size=3).map(b"".join),
    st.lists(texts.map(lambda text: event({"content": text})), max_size=9).map(b"".join),
    st.lists(events, max_size=4).map(b"".join),
).map(b"".join)


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.lists(events, min_size=1, max_size=4).map(b"".join), max_size=8))
@example([event({"content": "a"}), event({"content": "b"}), event({"content": "error"}, "stop")])
@example([event({"content": "a"}) * 2, event({"content": "b"}) * 3])
@example([event({"content": ""}), b"\n\n"])
def test_events_that_are_compared_are_what_they_are_when_looked_into(reads: list[bytes]) -> None:
    assert told(reads, compare=True) == told(reads, compare=False)


@settings(max_examples=1500, deadline=None)
@given(st.lists(many, max_size=4).map(b"".join), st.lists(st.integers(0, 6000), max_size=4))
@example(event({"content": "a"}) * 20 + ENDING + b"data: [DONE]\n\n", [])
@example(event({"content": "a"}) * 20 + ENDING + b"data: [DONE]\n\n", [160, 1000])
@example(event({"content": "a"}) * 9 + ENDING + event({"content": "b"}) * 9, [])
@example(event({"content": "a"}) + b"data: [DONE]\n\n" + event({"content": "a"}) * 9, [])
@example(b"x" * 600, [])
def test_much_that_comes_at_once_is_what_it_is_in_small_pieces(raw: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(raw)]
    reads = [raw[start:end] for start, end in pairwise(places) if raw[start:end]]
    assert told(reads, compare=True) == told(reads, compare=False)


@pytest.mark.parametrize("cut", [0, 100, 7000])
def test_of_a_stream_that_comes_at_once_hardly_an_event_is_looked_into(cut: int) -> None:
    words = b"".join(event({"content": f" {number}"}) for number in range(200))
    raw = event({"role": "assistant", "content": ""}) + words + ENDING + b"data: [DONE]\n\n"
    stream = passthrough.Stream(call_of(True), model="m", hide_usage=False)
    looks = []

    def called(frame: FrameType, what: str, _: object) -> None:
        if what == "call" and frame.f_code.co_name == "_event":
            looks.append(frame)

    sys.setprofile(called)  # a compiled stream has no frames to count
    try:
        said = stream.feed(raw[:cut]) + stream.feed(raw[cut:]) if cut else stream.feed(raw)
    finally:
        sys.setprofile(None)
    assert said + stream.close() == raw
    assert len(looks) <= 6


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(["begin", "end", "quote", "text", "line"]), max_size=8), st.data())
def test_what_matches_is_the_known_event_again_and_again_with_other_texts(
    parts: list[str], data: st.DataObject
) -> None:
    known = event({"content": "known"})
    begin, _, end = known.partition(b"known")
    pieces = {"begin": begin, "end": end, "quote": b'"', "line": b"\n"}
    raw = b""
    for part in parts:
        piece = pieces.get(part, b"text")
        # A piece may share its edge with the one before.
        shared = data.draw(st.integers(0, 2))
        raw = raw + piece if not shared or not raw.endswith(piece[:shared]) else raw + piece[shared:]
    found = Pattern(known).events(raw)
    if found:
        rest = raw
        for _ in range(found):
            assert rest.startswith(begin)
            text, quote, rest = rest[len(begin) :].partition(end)
            assert quote
            assert not {b'"', b"\n", b"\r"} & {text[i : i + 1] for i in range(len(text))}
        assert rest == b""


def test_without_a_text_there_is_nothing_to_compare() -> None:
    for known in (event({}), b"", b"\n", b"data: {}\n\n"):
        assert Pattern(known).events(known) == 0
    assert NOTHING.events(event({"content": "x"})) == 0


def test_a_pattern_takes_one_event_or_many() -> None:
    pattern = Pattern(event({"content": "known"}))
    assert pattern.events(event({"content": "other"})) == 1
    assert pattern.events(event({"content": "other"}) * 5) == 5
    assert pattern.events(event({"content": "other"}) * 5 + event({}, "stop")) == 0
    assert pattern.events(event({"content": "other"})[:-1]) == 0
    assert pattern.events(event({"content": 'quo"ted'})) == 0


def test_an_event_whose_end_is_a_part_of_its_beginning_is_none() -> None:
    pattern = Pattern(b'data: {"content":"x"}\n\n')
    assert pattern.events(b'data: {"content":""}\n\n') == 1
    assert pattern.events(b'data: {"content":"}\n\n') == 0
    assert NOTHING.events(b"\r\r") == NOTHING.events(b"\r") == 0
