"""What every dialect promises, for each row of the suite."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from tests.dialects import contract
from tests.dialects.contract import (
    CUT,
    Row,
    asking_of,
    call_of,
    check_chunk,
    chunks,
    cuts,
    events,
    heard,
    heard_whole,
    mutated,
    played,
    reply_of,
)
from tests.dialects.rows import ROWS
from tokenhub_proxy import calls
from tokenhub_proxy.dialects import DIALECTS, Memory, dialect
from tokenhub_proxy.errors import InvalidRequest, ProxyError

# `demo` is the openai dialect under another name.
ROWLESS = {"demo"}

DONE = b"[DONE]"
EACH_ROW = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
# What is relayed as it is loses nothing by itself.
EACH_TRANSLATED_ROW = pytest.mark.parametrize(
    "row", [row for row in ROWS.values() if row.translated], ids=lambda row: row.name
)
EACH_STREAM = pytest.mark.parametrize(
    ("dialect_name", "name"), [(row.name, name) for row in ROWS.values() for name in row.streams]
)
EACH_WHOLE = pytest.mark.parametrize(
    ("dialect_name", "name"), [(row.name, name) for row in ROWS.values() for name in row.wholes]
)
FAST = settings(max_examples=60, deadline=None)


def recorded(dialect_name: str, name: str) -> tuple[Row, contract.Recorded, calls.Call]:
    row = ROWS[dialect_name]
    stream = row.streams[name]
    return row, stream, call_of(True, stream_options={"include_usage": True}, **stream.asked)


def test_every_dialect_is_in_the_suite() -> None:
    assert ROWS.keys() | ROWLESS == DIALECTS.keys()


@EACH_STREAM
def test_a_stream_says_what_the_upstream_said(dialect_name: str, name: str) -> None:
    row, stream, call = recorded(dialect_name, name)
    reply = reply_of(row, call)
    said, rest = played(reply, [stream.raw])
    whole = said + rest
    assert heard(whole) == stream.heard
    assert reply.usage == stream.usage
    assert reply.finished
    assert events(whole)[-1] == DONE
    assert events(whole).count(DONE) == 1
    told = chunks(whole)[-1]
    assert told["choices"] == []
    assert told["usage"]["total_tokens"] == stream.usage.total
    assert told["usage"]["prompt_tokens"] == stream.usage.input_total


@EACH_STREAM
def test_where_the_network_cuts_never_changes_the_reply(dialect_name: str, name: str) -> None:
    row, stream, call = recorded(dialect_name, name)
    reply = reply_of(row, call)
    expected, usage = b"".join(played(reply, [stream.raw])), reply.usage
    rng = random.Random(name)
    segmentations = [[at] for at in range(1, len(stream.raw))]
    segmentations.append(list(range(1, len(stream.raw))))
    segmentations += [
        rng.sample(range(1, len(stream.raw)), rng.randint(2, min(40, len(stream.raw) - 1)))
        for _ in range(100)
    ]
    for at in segmentations:
        reply = reply_of(row, call)
        assert b"".join(played(reply, cuts(stream.raw, at))) == expected
        assert reply.usage == usage


@EACH_STREAM
def test_usage_that_nobody_asked_for_is_hidden_and_counted(dialect_name: str, name: str) -> None:
    row, stream, _ = recorded(dialect_name, name)
    reply = reply_of(row, call_of(True, **stream.asked))
    whole = b"".join(played(reply, [stream.raw]))
    assert all(chunk["choices"] for chunk in chunks(whole))
    assert not any(chunk.get("usage") for chunk in chunks(whole))
    assert reply.usage == stream.usage
    assert heard(whole) == stream.heard


@EACH_STREAM
@pytest.mark.parametrize("clean", [True, False])
def test_a_truncated_stream_never_ends_in_done(dialect_name: str, name: str, clean: bool) -> None:
    row, stream, call = recorded(dialect_name, name)
    for length in range(len(stream.raw)):
        reply = reply_of(row, call)
        try:
            said, rest = played(reply, [stream.raw[:length]], clean=clean)
        except ProxyError:
            assert not reply.begun
            continue
        assert reply.finished or (length < len(stream.raw) and DONE not in said + rest)
        if length < stream.ending:
            assert not reply.finished
        if not said and not reply.finished:
            assert rest == b""
        elif not row.translated and not (said + rest).endswith(b"\n\n"):
            assert rest == b""  # relayed up to the middle of an event: nothing can be added
        elif reply.finished:
            assert events(said + rest)[-1] == DONE
            assert events(said + rest).count(DONE) == 1
        else:
            assert "error" in orjson.loads(events(said + rest)[-1])
            assert (said + rest).count(b'{"error":{') == 1


@EACH_STREAM
def test_a_cut_stream_bills_what_was_seen(dialect_name: str, name: str) -> None:
    row, stream, call = recorded(dialect_name, name)
    for length in range(0, len(stream.raw), 7):
        reply = reply_of(row, call)
        said, _ = played(reply, [stream.raw[:length]], clean=False)
        usage = reply.usage
        assert min(usage.input, usage.cached, usage.cache_write, usage.output, usage.reasoning) >= 0
        if not said and not reply.begun and not reply.finished:
            assert usage.output == 0


@EACH_STREAM
def test_an_error_between_two_events_is_said_once_and_ends_the_stream(dialect_name: str, name: str) -> None:
    row, stream, call = recorded(dialect_name, name)
    parts = row.split(stream.raw)
    for error in row.late_errors.values():
        for place in range(len(parts)):
            if len(b"".join(parts[:place])) >= stream.ending:
                break
            reply = reply_of(row, call)
            try:
                said, rest = played(reply, [*parts[:place], error, *parts[place:]])
            except ProxyError:
                assert not reply.begun
                continue
            assert not reply.finished
            assert DONE not in said + rest
            assert (said + rest).count(b'{"error":{') == 1


@EACH_ROW
def test_an_error_before_the_first_word_leaves_another_target_possible(row: Row) -> None:
    for name, (raw, expected) in row.early_errors.items():
        for at in ([], list(range(1, len(raw)))):
            reply = reply_of(row, call_of(True))
            with pytest.raises(expected):
                played(reply, cuts(raw, at))
            assert not reply.begun, name


@EACH_ROW
def test_a_page_for_people_is_no_answer(row: Row) -> None:
    for stream in (False, True):
        with pytest.raises(ProxyError):
            played(reply_of(row, call_of(stream), kind="text/html"), [b"<html></html>"])


@EACH_ROW
@FAST
@given(seed=st.integers(0, 2**32))
def test_damaged_streams_raise_nothing_but_refusals(row: Row, seed: int) -> None:
    rng = random.Random(seed)
    stream = rng.choice(list(row.streams.values()))
    parts = [damaged(part, rng) if rng.random() < 0.3 else part for part in row.split(stream.raw)]
    if rng.random() < 0.3:
        rng.shuffle(parts)
    raw = b"".join(parts)
    places = [rng.randrange(len(raw)) for _ in range(rng.randrange(6))]
    reply = reply_of(row, call_of(True, stream_options={"include_usage": True}))
    try:
        said, rest = played(reply, cuts(raw, places), clean=rng.random() < 0.7)
    except ProxyError:
        assert not reply.begun
        return
    assert reply.usage.total >= 0
    if not row.translated:
        return
    found = events(said + rest)
    assert found.count(DONE) == (1 if reply.finished else 0)
    for event in found:
        parsed = {} if event == DONE else orjson.loads(event)
        if parsed and "error" not in parsed:
            check_chunk(parsed)


def damaged(part: bytes, rng: random.Random) -> bytes:
    """One event with a JSON node replaced, or with its bytes broken."""
    if rng.random() < 0.7:
        start, end = part.find(b"{"), part.rfind(b"}") + 1
        try:
            return part[:start] + orjson.dumps(mutated(orjson.loads(part[start:end]), rng)) + part[end:]
        except orjson.JSONDecodeError:
            return part
    start = rng.randrange(len(part))
    return part[:start] + rng.randbytes(rng.randrange(4)) + part[start + rng.randrange(8) :]


@EACH_ROW
@FAST
@given(raw=st.binary(max_size=200))
def test_noise_is_the_upstreams_fault(row: Row, raw: bytes) -> None:
    for stream in (False, True):
        reply = reply_of(row, call_of(stream))
        try:
            said, rest = played(reply, [raw])
        except ProxyError:
            continue
        assert not reply.finished
        assert DONE not in said + rest


@EACH_WHOLE
def test_a_whole_answer_says_what_the_upstream_said(dialect_name: str, name: str) -> None:
    row = ROWS[dialect_name]
    answer = row.wholes[name]
    for at in ([], list(range(1, len(answer.raw)))):
        reply = reply_of(row, call_of(False, **answer.asked))
        said, body = played(reply, cuts(answer.raw, at))
        assert said == b""
        ChatCompletion.model_validate(orjson.loads(body), strict=True)
        assert heard_whole(body) == answer.heard
        assert reply.usage == answer.usage
        assert orjson.loads(body)["usage"]["total_tokens"] == answer.usage.total


@EACH_WHOLE
def test_a_truncated_answer_is_the_upstreams_fault(dialect_name: str, name: str) -> None:
    row = ROWS[dialect_name]
    answer = row.wholes[name]
    for length in range(len(answer.raw)):
        reply = reply_of(row, call_of(False))
        with pytest.raises(ProxyError):
            played(reply, [answer.raw[:length]])
        assert not reply.finished
        assert reply.close(CUT) == b""


@EACH_ROW
@FAST
@given(seed=st.integers(0, 2**32))
def test_damaged_answers_raise_nothing_but_refusals(row: Row, seed: int) -> None:
    rng = random.Random(seed)
    value = orjson.loads(rng.choice(list(row.wholes.values())).raw)
    for _ in range(rng.randint(1, 4)):
        value = mutated(value, rng)
    reply = reply_of(row, call_of(False))
    try:
        _, body = played(reply, [orjson.dumps(value)])
    except ProxyError:
        return
    assert reply.usage.total >= 0
    if row.translated:
        ChatCompletion.model_validate(orjson.loads(body), strict=True)


@pytest.mark.parametrize(
    ("dialect_name", "name"), [(row.name, name) for row in ROWS.values() for name in row.failures]
)
def test_an_error_answer_means_what_the_contract_says(dialect_name: str, name: str) -> None:
    row = ROWS[dialect_name]
    failing = row.failures[name]
    reply = reply_of(row, call_of(True), status=failing.status, kind="application/json")
    with pytest.raises(failing.error) as caught:
        played(reply, [failing.body])
    assert type(caught.value) is failing.error
    assert failing.says in caught.value.message
    assert not failing.hides or failing.hides not in caught.value.message
    assert caught.value.retry_after_s == failing.retry_after_s
    assert reply.usage.total == 0
    assert not reply.begun


# Requests and round trips.

NAMES = st.from_regex(r"[a-z][a-z_]{0,11}", fullmatch=True)
# Blank texts say nothing, and some upstreams refuse them.
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=20
).filter(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Any conversation with tools that OpenAI takes: each call answered right after its turn."""
    messages: list[dict[str, Any]] = []
    for turn in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            messages.append({"role": "system", "content": draw(TEXTS)})
        messages.append({"role": "user", "content": draw(TEXTS)})
        said = {"role": "assistant", "content": draw(st.none() | TEXTS)}
        listed = [
            {
                "id": f"call_{turn}_{number}",
                "type": "function",
                "function": {"name": draw(NAMES), "arguments": orjson.dumps(draw(OBJECTS)).decode()},
            }
            for number in range(draw(st.integers(0, 3)))
        ]
        if listed:
            said["tool_calls"] = listed
        if listed or said["content"]:
            messages.append(said)
        messages += [{"role": "tool", "tool_call_id": tool["id"], "content": draw(TEXTS)} for tool in listed]
    if messages[-1]["role"] == "assistant":
        messages.append({"role": "user", "content": draw(TEXTS)})
    return messages


TOOL_NAMES = st.lists(NAMES, unique=True, max_size=3)


def tools_of(names: list[str]) -> list[dict[str, Any]]:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 1},
            "unit": {"$ref": "#/$defs/unit"},
            "days": {"type": "array", "items": {"type": "integer", "exclusiveMinimum": 0}},
        },
        "required": ["city"],
        "$defs": {"unit": {"const": "C"}},
    }
    return [
        {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": schema}}
        for name in names
    ]


@EACH_ROW
@FAST
@given(
    messages=conversations(),
    names=TOOL_NAMES,
    effort=st.sampled_from([None, "none", "low", "high"]),
    stop=st.sampled_from([None, "END", ["a", "b"]]),
    temperature=st.sampled_from([None, 0, 0.5, 2]),
    form=st.sampled_from([None, "text", "json_object", "json_schema"]),
    choice=st.sampled_from([None, "auto", "none", "required", "named"]),
    parallel=st.sampled_from([None, True, False]),
    stream=st.booleans(),
)
def test_every_request_is_one_to_the_upstreams_own_types(
    row: Row, messages: Any, names: list[str], effort: Any, stop: Any, temperature: Any, form: Any,
    choice: Any, parallel: Any, stream: bool,
) -> None:  # fmt: skip
    fields: dict[str, Any] = {
        "messages": messages,
        "reasoning_effort": effort,
        "stop": stop,
        "temperature": temperature,
        "max_tokens": 3000,
        "seed": 1,
        "user": "u",
    }
    if names:
        fields |= {"tools": tools_of(names), "parallel_tool_calls": parallel, "tool_choice": choice}
        if choice == "named":
            fields["tool_choice"] = {"type": "function", "function": {"name": names[0]}}
    if form == "json_schema":
        schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
        fields["response_format"] = {"type": form, "json_schema": {"name": "answer", "schema": schema}}
    elif form is not None:
        fields["response_format"] = {"type": form}
    call = call_of(stream, **{name: value for name, value in fields.items() if value is not None})
    outgoing = dialect(row.name, Memory()).request(call, asking_of(row))
    row.check(outgoing.body)
    assert row.read(outgoing.body)[: len(messages)] != []
    assert dialect(row.name, Memory()).request(call, asking_of(row)) == outgoing


@EACH_ROW
@FAST
@given(messages=conversations())
def test_a_conversation_reaches_the_upstream_whole_and_in_order(row: Row, messages: Any) -> None:
    outgoing = dialect(row.name, Memory()).request(call_of(False, messages=messages), asking_of(row))
    told = [
        (*item[:3], _parsed(item[3])) if item[0] == "result" else item for item in row.read(outgoing.body)
    ]
    said = contract.said_in(messages)
    expected = [(*item[:3], _parsed(item[3])) if item[0] == "result" else item for item in said]
    assert told == expected


def _parsed(text: str) -> Any:
    """A tool's answer that is a JSON object may be said as one."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return found if isinstance(found, dict) else text


@EACH_ROW
@FAST
@given(
    messages=conversations(),
    words=st.just("") | TEXTS,
    tools=st.lists(st.tuples(NAMES, OBJECTS), max_size=3),
    stream=st.booleans(),
)
def test_an_answer_comes_back_whole_and_its_turn_can_be_sent_again(
    row: Row, messages: Any, words: str, tools: Any, stream: bool
) -> None:
    calls_ = tuple((f"call_new_{number}", name, given) for number, (name, given) in enumerate(tools))
    if not words and not calls_:
        words = "Fine."
    memory = Memory()
    reply = reply_of(row, call_of(stream, messages=messages), memory=memory)
    said, rest = played(reply, [row.answer(words, calls_, stream)])
    found = heard(said + rest) if stream else heard_whole(rest)
    assert (found.text, found.tools) == (words, calls_)
    assert found.finish == ("tool_calls" if calls_ else "stop")

    listed = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": orjson.dumps(given).decode()}}
        for id, name, given in found.tools
    ]
    turn: dict[str, Any] = {"role": "assistant", "content": found.text or None}
    if listed:
        turn["tool_calls"] = listed
    answers = [{"role": "tool", "tool_call_id": tool["id"], "content": "done"} for tool in listed]
    again = [*messages, turn, *(answers or [{"role": "user", "content": "More."}])]
    outgoing = dialect(row.name, memory).request(call_of(stream, messages=again), asking_of(row))
    assert row.read(outgoing.body) == contract.said_in(again) or any(
        _parsed(item[3]) != item[3] for item in contract.said_in(again) if item[0] == "result"
    )


# Embeddings.


@EACH_ROW
def test_embeddings_are_asked_for_or_refused_by_the_models_name(row: Row) -> None:
    call = calls.parse(b'{"model": "the-model", "input": ["a", "b"]}', "embeddings")
    made = dialect(row.name, Memory())
    if row.embeddings:
        assert made.request(call, asking_of(row)).body
        return
    with pytest.raises(InvalidRequest, match="the-model"):
        made.request(call, asking_of(row))


# Strictness.


@EACH_TRANSLATED_ROW
def test_what_is_dropped_is_named_and_refused_to_the_strict(row: Row) -> None:
    call = call_of(False, logit_bias={"1": 2}, **{"vendor, ö: y": 1})
    made = dialect(row.name, Memory())
    dropped = made.request(call, asking_of(row)).dropped
    assert dropped == ("logit_bias", "vendor:y")
    with pytest.raises(InvalidRequest, match="logit_bias, vendor:y"):
        made.request(replace(call, strict=True), asking_of(row))
