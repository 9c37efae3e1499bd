"""Reasoning in tool loops: a client that echoes only what it knows, against upstreams that want more."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from tests.dialects.contract import cuts, split_sse, sse
from tokenhub_proxy.calls import Call, parse
from tokenhub_proxy.dialects import Asking, Memory, dialect
from tokenhub_proxy.dialects.passthrough import EVENT_BYTES_MAX
from tokenhub_proxy.dialects.reasoning import CALLS_MAX, KEPT_BYTES_MAX
from tokenhub_proxy.routes import Target, Upstream

SSE = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}
DEEPSEEK, OPENROUTER = "https://api.deepseek.com/v1", "https://openrouter.ai/api/v1"
DONE = b"data: [DONE]\n\n"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
ASKED = [{"role": "user", "content": "Weather?"}]
THOUGHT = "Let me see: 雨 or not."
DETAILS = [
    {"type": "reasoning.text", "text": "First.", "signature": "sig+/=", "format": "a-v1", "index": 0},
    {"type": "reasoning.encrypted", "data": "opaque", "id": None, "format": "a-v1", "index": 1},
]


def asking(base: str = DEEPSEEK, **quirks: Any) -> Asking:
    options = {"quirks": quirks} if quirks else {}
    return Asking(Target(Upstream("up", "openai", base, options=options), "m"), "k")


def chat(messages: Any = ASKED, owner: str = "ann", **fields: Any) -> Call:
    body = {"model": "m", "messages": messages, "tools": [TOOL], **fields}
    return parse(orjson.dumps(body), "chat", owner=owner)


def tool_call(id: str = "call_1", arguments: str = '{"city": "Oslo", "days": 2}', name: str = "look") -> dict:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def whole(*calls: dict, finish: str = "tool_calls", **said: Any) -> bytes:
    message = {"role": "assistant", "content": None, "tool_calls": list(calls), **said}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return orjson.dumps(
        {
            "id": "a",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }
    )


def chunk(delta: dict, finish: str | None = None, index: int = 0) -> dict:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def piece(index: int, id: str | None = None, arguments: str = "") -> dict:
    named = {"id": id, "type": "function"} if id else {}
    function = {"name": "look", "arguments": arguments} if id else {"arguments": arguments}
    return {"tool_calls": [{"index": index, **named, "function": function}]}


CALLING = [
    chunk(piece(0, "call_1", '{"city": ')),
    chunk(piece(0, arguments='"Oslo", "days": 2}')),
    chunk(piece(1, "call_2", "{}")),
    chunk({}, "tool_calls"),
]
DEEPSEEK_STREAM = sse(
    chunk({"role": "assistant", "content": None, "reasoning_content": ""}),
    *(chunk({"content": None, "reasoning_content": letter}) for letter in THOUGHT),
    *CALLING,
)
OPENROUTER_STREAM = b": OPENROUTER PROCESSING\n\n" + sse(
    chunk(
        {
            "role": "assistant",
            "content": "",
            "reasoning_details": [DETAILS[0] | {"text": "Fi", "signature": None}],
        }
    ),
    chunk({"content": "", "reasoning_details": [{"type": "reasoning.text", "text": "rst.", "index": 0}]}),
    chunk(
        {"content": "", "reasoning_details": [{"type": "reasoning.text", "signature": "sig+/=", "index": 0}]}
    ),
    chunk({"reasoning_details": [DETAILS[1]]}),
    *CALLING,
)
STREAMS = [
    (DEEPSEEK, "reasoning_content", DEEPSEEK_STREAM, THOUGHT),
    (OPENROUTER, "reasoning_details", OPENROUTER_STREAM, DETAILS),
]


def relay(memory: Memory, where: Asking, call: Call, pieces: list[bytes]) -> tuple[bytes, dict[str, object]]:
    """What the client gets of an answer that came in these pieces, and the notes on it."""
    reply = dialect("openai", memory).reply(call, where, 200, SSE if call.stream else JSON)
    said = b"".join(reply.feed(data) for data in (*pieces, b""))
    return said + reply.close(), reply.notes


def echoed(*calls: dict, **said: Any) -> list[dict]:
    """The second turn of a client that knows OpenAI's fields only."""
    turn = {"role": "assistant", "content": None, "tool_calls": list(calls), **said}
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "rain"} for call in calls]
    return [*ASKED, turn, *results]


def sent(memory: Memory, where: Asking, messages: list[dict], owner: str = "ann") -> list[dict]:
    """The messages as the upstream gets them."""
    call = chat(messages, owner)
    before = orjson.dumps(call.body)
    outgoing = dialect("openai", memory).request(call, where)
    assert orjson.dumps(call.body) == before
    return orjson.loads(outgoing.body)["messages"]


def back(memory: Memory, field: str, where: Asking, messages: list[dict], owner: str = "ann") -> Any:
    """The field that the assistant's message has when it reaches the upstream."""
    return sent(memory, where, messages, owner)[1].get(field)


@pytest.mark.parametrize(
    ("base", "field", "value"),
    [(DEEPSEEK, "reasoning_content", THOUGHT), (OPENROUTER, "reasoning_details", DETAILS)],
)
def test_a_tool_loop_of_whole_answers_goes_on(base, field, value):
    memory, body = Memory(), whole(tool_call(), tool_call("call_2", "{}"), **{field: value})
    said, _ = relay(memory, asking(base), chat(), [body[:50], body[50:]])
    assert said == body
    # What the official types hold, as everybody writes it back.
    message = ChatCompletion.model_validate_json(said).choices[0].message
    calls = [call.model_dump(include={"id", "type", "function"}) for call in message.tool_calls or ()]
    messages = echoed(*calls)
    assert sent(memory, asking(base), messages) == [ASKED[0], {**messages[1], field: value}, *messages[2:]]


@pytest.mark.parametrize(("base", "field", "raw", "value"), STREAMS)
@pytest.mark.parametrize("stream_options", [None, {"include_usage": True}])
def test_a_tool_loop_of_streams_goes_on(base, field, raw, value, stream_options):
    memory, call = Memory(), chat(stream=True, stream_options=stream_options)
    said, notes = relay(memory, asking(base), call, [raw + DONE])
    assert said == raw + DONE
    assert "reasoning" not in notes
    messages = echoed(tool_call(), tool_call("call_2", "{}"))
    assert sent(memory, asking(base), messages) == [ASKED[0], {**messages[1], field: value}, *messages[2:]]


@pytest.mark.parametrize(("base", "field", "raw", "value"), STREAMS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_where_the_network_cuts_never_changes_what_is_kept(base, field, raw, value, data):
    raw += DONE
    at = data.draw(st.lists(st.integers(1, len(raw) - 1), max_size=12, unique=True).map(sorted))
    memory = Memory()
    assert relay(memory, asking(base), chat(stream=True), cuts(raw, at))[0] == raw
    assert back(memory, field, asking(base), echoed(tool_call())) == value


@pytest.mark.parametrize(("base", "field", "raw", "value"), STREAMS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_one_byte_or_one_event_at_a_time_keep_the_same(base, field, raw, value, end):
    raw = (raw + DONE).replace(b"\n", end)
    for pieces in (cuts(raw, range(1, len(raw))), split_sse(raw)):
        memory = Memory()
        assert relay(memory, asking(base), chat(stream=True), pieces)[0] == raw
        assert back(memory, field, asking(base), echoed(tool_call())) == value


def test_it_is_kept_when_the_finish_has_come_for_clients_that_leave_then():
    memory = Memory()
    reply = dialect("openai", memory).reply(chat(stream=True), asking(), 200, SSE)
    head, finish = DEEPSEEK_STREAM[: -len(sse(CALLING[-1]))], sse(CALLING[-1])
    reply.feed(head)
    assert back(memory, "reasoning_content", asking(), echoed(tool_call())) is None
    reply.feed(finish)
    assert back(memory, "reasoning_content", asking(), echoed(tool_call())) == THOUGHT


def test_details_that_follow_the_finish_are_kept_too():
    memory = Memory()
    late = sse(chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": "late"}]}, "tool_calls"))
    relay(memory, asking(OPENROUTER), chat(stream=True), [OPENROUTER_STREAM + late + DONE])
    found = back(memory, "reasoning_details", asking(OPENROUTER), echoed(tool_call()))
    assert found == [*DETAILS, {"type": "reasoning.encrypted", "data": "late"}]


def test_a_stream_that_breaks_off_or_fails_leaves_nothing_behind():
    error = sse({"error": {"message": "overloaded"}, "choices": []})
    head = DEEPSEEK_STREAM[: -len(sse(CALLING[-1]))]
    failed = sse(chunk({}, "error"))
    for raw in (head, head + error + sse(CALLING[-1]), head + failed):
        memory = Memory()
        relay(memory, asking(), chat(stream=True), [raw])
        assert back(memory, "reasoning_content", asking(), echoed(tool_call())) is None


def test_nobody_else_ever_gets_it():
    memory = Memory()
    relay(memory, asking(), chat(), [whole(tool_call(), reasoning_content=THOUGHT)])
    assert back(memory, "reasoning_content", asking(), echoed(tool_call()), "ann") == THOUGHT
    assert back(memory, "reasoning_content", asking(), echoed(tool_call()), "bob") is None
    assert back(memory, "reasoning_content", asking(), echoed(tool_call()), "") is None


@pytest.mark.parametrize("own", ["my own words", ""])
def test_what_the_client_sends_back_itself_stands(own):
    memory = Memory()
    relay(memory, asking(), chat(), [whole(tool_call(), reasoning_content=THOUGHT)])
    messages = echoed(tool_call(), reasoning_content=own)
    assert sent(memory, asking(), messages) == messages
    assert back(memory, "reasoning_content", asking(), echoed(tool_call(), reasoning_content=None)) == THOUGHT


def test_a_later_call_of_the_turn_is_enough_and_its_arguments_may_be_written_anew():
    memory = Memory()
    relay(memory, asking(), chat(stream=True), [DEEPSEEK_STREAM + DONE])
    for call in (
        tool_call("call_2", ""),
        tool_call("call_2", "{ }"),
        tool_call("call_1", '{"days":2,"city":"Oslo"}'),
    ):
        assert back(memory, "reasoning_content", asking(), echoed(call)) == THOUGHT
    unknown = tool_call("call_9")
    assert back(memory, "reasoning_content", asking(), echoed(unknown, tool_call())) == THOUGHT
    assert back(memory, "reasoning_content", asking(), echoed(unknown)) is None


def test_an_id_that_counts_is_not_taken_for_another_conversations():
    memory = Memory()
    oslo, rome = (
        tool_call("functions.look:0", '{"city":"Oslo"}'),
        tool_call("functions.look:0", '{"city":"Rome"}'),
    )
    relay(memory, asking(), chat(), [whole(oslo, reasoning_content="Oslo?")])
    relay(memory, asking(), chat(), [whole(rome, reasoning_content="Rome?")])
    assert back(memory, "reasoning_content", asking(), echoed(oslo)) == "Oslo?"
    assert back(memory, "reasoning_content", asking(), echoed(rome)) == "Rome?"


def test_each_choice_is_kept_for_its_own_calls():
    memory = Memory()
    raw = sse(
        *(chunk({"reasoning_content": f"thought {n}"}, index=n) for n in (0, 1)),
        *(chunk(piece(0, f"call_{n}", "{}"), index=n) for n in (1, 0)),
        *(chunk({}, "tool_calls", index=n) for n in (0, 1)),
    )
    where = asking("http://h/v1", keeps="reasoning_content")
    relay(memory, where, chat(stream=True, n=2), [raw + DONE])
    for n in (0, 1):
        call = tool_call(f"call_{n}", "{}")
        assert back(memory, "reasoning_content", where, echoed(call)) == f"thought {n}"


def test_details_stay_as_they_came():
    """Texts of one index are one detail until its signature; all else keeps its place and its members."""
    pieces: list[Any] = [
        {"type": "reasoning.summary", "summary": "A", "index": 0},
        {"type": "reasoning.summary", "summary": "b", "index": 0, "id": "s"},
        {"type": "reasoning.encrypted", "data": "x", "index": 0},
        {"type": "reasoning.encrypted", "data": "y", "index": 0},
        {"type": "reasoning.text", "text": "c", "index": 1},
        {"type": "reasoning.text", "text": "d", "index": 2},
        {"type": "reasoning.text", "text": "e", "index": 1},
        {"type": "reasoning.text", "signature": "1", "index": 1},
        {"type": "reasoning.text", "text": "f", "index": 1},
        "of no known form",
    ]
    memory = Memory()
    raw = sse(*(chunk({"reasoning_details": [item]}) for item in pieces), *CALLING)
    relay(memory, asking(OPENROUTER), chat(stream=True), [raw + DONE])
    assert back(memory, "reasoning_details", asking(OPENROUTER), echoed(tool_call())) == [
        {"type": "reasoning.summary", "summary": "Ab", "index": 0, "id": "s"},
        {"type": "reasoning.encrypted", "data": "x", "index": 0},
        {"type": "reasoning.encrypted", "data": "y", "index": 0},
        {"type": "reasoning.text", "text": "ce", "index": 1, "signature": "1"},
        {"type": "reasoning.text", "text": "d", "index": 2},
        {"type": "reasoning.text", "text": "f", "index": 1},
        "of no known form",
    ]


def test_the_details_of_a_whole_answer_are_never_joined():
    memory, details = Memory(), [{"type": "reasoning.text", "text": text} for text in "ab"]
    relay(memory, asking(OPENROUTER), chat(), [whole(tool_call(), reasoning_details=details)])
    assert back(memory, "reasoning_details", asking(OPENROUTER), echoed(tool_call())) == details


def test_reasoning_too_long_to_keep_is_relayed_and_noted():
    memory, long = Memory(), "x" * (KEPT_BYTES_MAX // 4)
    raw = sse(*(chunk({"reasoning_content": long}) for _ in range(5)), *CALLING) + DONE
    said, notes = relay(memory, asking(), chat(stream=True), [raw])
    assert (said, notes["reasoning"]) == (raw, "lost")
    assert back(memory, "reasoning_content", asking(), echoed(tool_call())) is None
    body = whole(tool_call(), reasoning_content=long * 5)
    assert relay(memory, asking(), chat(), [body])[0] == body
    assert back(memory, "reasoning_content", asking(), echoed(tool_call())) is None


def test_an_event_too_large_to_be_read_leaves_no_half_reasoning_behind():
    memory = Memory()
    giant = sse(chunk({"reasoning_content": "x" * (EVENT_BYTES_MAX + 1)}))
    raw = sse(chunk({"reasoning_content": "before"})) + giant + sse(*CALLING) + DONE
    for pieces in ([raw], cuts(raw, range(100_000, len(raw), 100_000))):
        said, notes = relay(memory, asking(), chat(stream=True), pieces)
        assert (said, notes["reasoning"]) == (raw, "lost")
        assert back(memory, "reasoning_content", asking(), echoed(tool_call())) is None


def test_a_whole_answer_longer_than_others_are_parsed_is_kept():
    memory, long = Memory(), "x" * 500_000
    relay(memory, asking(), chat(), [whole(tool_call(), reasoning_content=long)])
    assert back(memory, "reasoning_content", asking(), echoed(tool_call())) == long


def test_of_very_many_calls_the_first_ones_bring_it_back():
    memory, calls = Memory(), [tool_call(f"call_{n}") for n in range(CALLS_MAX + 1)]
    relay(memory, asking(), chat(), [whole(*calls, reasoning_content=THOUGHT)])
    found = [back(memory, "reasoning_content", asking(), echoed(call)) for call in calls]
    assert found == [THOUGHT] * CALLS_MAX + [None]


def test_upstreams_without_the_fact_keep_and_get_nothing():
    memory, plain = Memory(), asking("http://h/v1")
    relay(memory, plain, chat(stream=True), [DEEPSEEK_STREAM + DONE])
    relay(memory, plain, chat(), [whole(tool_call(), reasoning_content=THOUGHT)])
    assert back(memory, "reasoning_content", asking(), echoed(tool_call())) is None
    relay(memory, asking(), chat(), [whole(tool_call(), reasoning_content=THOUGHT)])
    messages = echoed(tool_call())
    assert sent(memory, plain, messages) == messages


JUNK: tuple[Any, ...] = (
    None,
    0,
    True,
    "",
    "junk",
    [],
    {},
    [None],
    [1, {}],
    [[]],
    {"a": 1},
    [{"function": 5}],
)


@pytest.mark.parametrize("junk", JUNK)
def test_junk_in_the_place_of_anything_is_relayed_as_it_is(junk):
    deltas = [{"reasoning_content": junk}, {"tool_calls": junk}, {"reasoning_details": junk}, junk]
    raw = sse(*(chunk(delta) for delta in deltas), {"choices": [junk]}, *CALLING) + DONE
    for base in (DEEPSEEK, OPENROUTER):
        assert relay(Memory(), asking(base), chat(stream=True), [raw])[0] == raw
        body = (
            whole(reasoning_content=junk, reasoning_details=junk) if junk is None else whole(tool_calls=junk)
        )
        assert relay(Memory(), asking(base), chat(), [body])[0] == body
    turn = {"role": "assistant", "content": "x", "tool_calls": junk}
    assert sent(Memory(), asking(), [*ASKED, turn]) == [*ASKED, turn]


def test_nesting_too_deep_to_be_written_again_is_relayed_and_not_kept():
    deep = b"[" * 300 + b"]" * 300
    head = b'data: {"choices":[{"index":0,"delta":{"reasoning_details":' + deep
    raw = head + b'},"finish_reason":null}]}\n\n' + sse(*CALLING) + DONE
    memory = Memory()
    said, notes = relay(memory, asking(OPENROUTER), chat(stream=True), [raw])
    assert (said, notes["reasoning"]) == (raw, "lost")
    odd = tool_call(arguments=deep.decode())
    assert back(memory, "reasoning_details", asking(OPENROUTER), echoed(odd)) is None
