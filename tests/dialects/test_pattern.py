"""A stream whose events are compared says and learns what one does whose events are each looked into."""

from __future__ import annotations

import json
from typing import Any

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


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.lists(events, min_size=1, max_size=4).map(b"".join), max_size=8))
@example([event({"content": "a"}), event({"content": "b"}), event({"content": "error"}, "stop")])
@example([event({"content": "a"}) * 2, event({"content": "b"}) * 3])
@example([event({"content": ""}), b"\n\n"])
def test_events_that_are_compared_are_what_they_are_when_looked_into(reads: list[bytes]) -> None:
    assert told(reads, compare=True) == told(reads, compare=False)


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
