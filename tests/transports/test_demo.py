"""The demo model: OpenAI's own types accept what it says, and it says the same every time."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tokenhub_proxy import sse
from tokenhub_proxy.calls import parse
from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.routes import Upstream
from tokenhub_proxy.transports.demo import DIMENSIONS, TOOL_CALL_TOKENS, Demo
from tokenhub_proxy.transports.script import Pause
from tokenhub_proxy.wire import Outgoing

UPSTREAM = Upstream("demo", "demo", "demo://")
MESSAGES = [{"role": "user", "content": "Hello there"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
NEWS = {"type": "function", "function": {"name": "news", "parameters": {"type": "object", "properties": {}}}}


def said(path: str, body: dict[str, Any]) -> bytes:
    """Everything the model answers, its pauses left out."""
    scripted = Demo(0.5).answer(Outgoing(UPSTREAM, path, (), orjson.dumps(body)))
    assert scripted.status == 200
    return b"".join(step for step in scripted.steps if isinstance(step, bytes))


def chat(**fields: Any) -> ChatCompletion:
    raw = said("/chat/completions", {"model": "demo", "messages": MESSAGES, **fields})
    return ChatCompletion.model_validate_json(raw, strict=True)


def chunks(**fields: Any) -> list[ChatCompletionChunk]:
    body = {"model": "demo", "messages": MESSAGES, "stream": True, **fields}
    events = sse.Splitter().feed(said("/chat/completions", body))
    assert events.pop() == sse.DONE
    return [ChatCompletionChunk.model_validate_json(sse.data(event) or b"", strict=True) for event in events]


def embed(**fields: Any) -> CreateEmbeddingResponse:
    body = {"model": "demo", "input": "Hello", **fields}
    return CreateEmbeddingResponse.model_validate_json(said("/embeddings", body))


def test_a_whole_answer_is_openai_s() -> None:
    answer = chat()
    [choice] = answer.choices
    assert choice.message.content == (
        "You said: Hello there I am the demo model: I answer the same to the same question."
    )
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens == len((choice.message.content or "").split())


def test_a_stream_says_the_same_word_by_word() -> None:
    parts = chunks()
    words = [part.choices[0].delta.content for part in parts]
    assert "".join(word or "" for word in words) == chat().choices[0].message.content
    assert sum(bool(word) for word in words) > 10
    assert parts[0].choices[0].delta.role == "assistant"
    assert [part.choices[0].finish_reason for part in parts][-1] == "stop"
    assert len({part.id for part in parts}) == 1


def test_words_come_with_pauses_and_the_first_byte_at_once() -> None:
    body = orjson.dumps({"model": "demo", "messages": MESSAGES, "stream": True})
    scripted = Demo(0.5).answer(Outgoing(UPSTREAM, "/chat/completions", (), body))
    steps = list(scripted.steps)
    assert isinstance(steps[0], bytes)
    assert steps[1] == Pause(0.5)
    assert scripted.headers["content-type"].startswith("text/event-stream")


def test_the_same_question_has_the_same_answer_and_another_has_another() -> None:
    body = {"model": "demo", "messages": MESSAGES}
    assert said("/chat/completions", body) == said("/chat/completions", body)
    assert said("/chat/completions", body) != said("/chat/completions", {**body, "seed": 1})


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_is_kept_and_told(name: str) -> None:
    answer = chat(**{name: 3})
    assert answer.choices[0].message.content == "You said: Hello"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    assert chat(**{name: 1000}).choices[0].finish_reason == "stop"


def test_of_two_limits_the_smaller_is_kept() -> None:
    assert chat(max_tokens=5, max_completion_tokens=2).choices[0].message.content == "You said:"


def test_all_choices_are_written_and_counted() -> None:
    answer = chat(n=3, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    streamed = chunks(n=3, max_tokens=4)
    assert {part.choices[0].index for part in streamed} == {0, 1, 2}
    assert sum(part.choices[0].finish_reason == "length" for part in streamed) == 3


def test_usage_is_streamed_where_it_was_asked_for() -> None:
    [*parts, last] = chunks(stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens > 0
    assert all(part.usage is None for part in [*parts, *chunks()])


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        (None, "weather"),
        ("auto", "weather"),
        ("required", "weather"),
        ({"type": "function", "function": {"name": "news"}}, "news"),
        ("none", None),
    ],
)
def test_the_chosen_tool_is_called(choice: Any, called: str | None) -> None:
    answer = chat(tools=[WEATHER, NEWS], tool_choice=choice).choices[0]
    if called is None:
        assert answer.message.tool_calls is None
        assert answer.finish_reason == "stop"
        return
    [call] = answer.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == called
    assert orjson.loads(call.function.arguments) == ({"city": "demo"} if called == "weather" else {})
    assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)


def test_a_streamed_tool_call_adds_up_to_the_whole_one() -> None:
    whole = (chat(tools=[WEATHER]).choices[0].message.tool_calls or [])[0]
    assert whole.type == "function"
    deltas = [call for part in chunks(tools=[WEATHER]) for call in part.choices[0].delta.tool_calls or []]
    assert [call.index for call in deltas] == [0, 0]
    assert deltas[0].function is not None
    assert deltas[0].function.name == "weather"
    arguments = "".join(call.function.arguments or "" for call in deltas if call.function is not None)
    assert arguments == whole.function.arguments
    assert (deltas[0].id or "").startswith("call_")


def test_a_tool_s_answer_ends_the_loop() -> None:
    answered = [*MESSAGES, {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]
    choice = chat(messages=answered, tools=[WEATHER]).choices[0]
    assert choice.message.content == "The tool answered: sunny"
    assert choice.finish_reason == "stop"


def test_a_tool_call_counts_no_more_than_the_limit() -> None:
    for limit, counted in ((5, 5), (1000, TOOL_CALL_TOKENS)):
        usage = chat(tools=[WEATHER], max_tokens=limit, n=2).usage
        assert usage is not None
        assert usage.completion_tokens == 2 * counted


def test_structured_answers_follow_their_schema() -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"enum": [3]}}}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    assert orjson.loads(chat(response_format=form).choices[0].message.content or "") == {"ok": True, "n": 3}
    assert orjson.loads(chat(response_format={"type": "json_object"}).choices[0].message.content or "")


def test_parts_of_text_are_read_and_others_are_not() -> None:
    content = [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": "https://e.com/a.png"}},
    ]
    answer = chat(messages=[{"role": "user", "content": content}])
    assert (answer.choices[0].message.content or "").startswith("You said: Look I am")


# --- embeddings


def test_embeddings_are_openai_s() -> None:
    answer = embed(input=["Hello", "there"])
    assert [item.index for item in answer.data] == [0, 1]
    assert answer.model == "demo"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 4
    for item in answer.data:
        assert len(item.embedding) == DIMENSIONS
        assert math.isclose(sum(value * value for value in item.embedding), 1.0)
    assert answer.data[0].embedding != answer.data[1].embedding


@pytest.mark.parametrize(
    ("given", "count", "tokens"),
    [("Hello", 1, 2), (["Hello"], 1, 2), ([1, 2, 3], 1, 3), ([[1], [2, 3]], 2, 3)],
)
def test_every_form_of_input_is_embedded(given: Any, count: int, tokens: int) -> None:
    answer = embed(input=given)
    assert (len(answer.data), answer.usage.prompt_tokens) == (count, tokens)


def test_base64_holds_the_same_numbers_as_little_endian_floats() -> None:
    plain = embed().data[0].embedding
    raw = orjson.loads(said("/embeddings", {"model": "demo", "input": "Hello", "encoding_format": "base64"}))
    packed = struct.unpack(f"<{DIMENSIONS}f", base64.b64decode(raw["data"][0]["embedding"]))
    assert list(packed) == pytest.approx(plain, abs=1e-7)


@pytest.mark.parametrize(
    ("asked", "given"), [(8, 8), (4096, 4096), (0, 64), (4097, 64), ("8", 64), (None, 64)]
)
def test_dimensions_are_as_asked_within_reason(asked: Any, given: int) -> None:
    assert len(embed(dimensions=asked).data[0].embedding) == given


def test_a_large_batch_comes_in_pieces() -> None:
    body = orjson.dumps({"model": "demo", "input": ["x"] * 50})
    scripted = Demo().answer(Outgoing(UPSTREAM, "/embeddings", (), body))
    assert sum(1 for _ in scripted.steps) == 52


# --- whatever clients send

anything = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "function", "name", "parameters", "json_schema", "schema", "text"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["tools", "tool_choice", "response_format", "stream_options", "stream", "n", "max_tokens"]
        ),
        anything,
    ),
    st.lists(anything, max_size=2),
)
def test_every_call_that_is_let_through_is_answered(fields: dict[str, Any], parts: list[Any]) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": parts}], **fields}
    try:
        call = parse(orjson.dumps(body), "chat")
    except InvalidRequest:
        return
    assert said("/chat/completions", dict(call.body))


WHOLE = "You said: Hello there I am the demo model: I answer the same to the same question."


@pytest.mark.parametrize(
    ("stop", "heard"),
    [("said", "You "), (["Hello", "ou"], "Y"), ([], WHOLE), ("nowhere", WHOLE), (None, WHOLE)],
)
def test_it_stops_where_it_is_told_to(stop: object, heard: str) -> None:
    choice = chat(stop=stop).choices[0]
    assert (choice.message.content, choice.finish_reason) == (heard, "stop")
