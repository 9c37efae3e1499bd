"""The anthropic dialect: what requests become, and thinking that survives a tool loop."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.dialects.contract import call_of, chunks, heard, heard_whole, played
from tests.dialects.rows import anthropic as wire
from tokenhub_proxy import calls
from tokenhub_proxy.dialects import Asking, Memory
from tokenhub_proxy.dialects.anthropic import Anthropic
from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.prices import Usage
from tokenhub_proxy.routes import Target, Upstream
from tokenhub_proxy.wire import Outgoing

SONNET_4_5 = "claude-sonnet-4-5-20250929"
SONNET_4 = "claude-sonnet-4-20250514"
OPUS_4_7 = "claude-opus-4-7"
HAIKU_3 = "claude-3-haiku-20240307"
FABLE_5 = "claude-fable-5"
JSON = {"content-type": "application/json"}
SSE = {"content-type": "text/event-stream"}
ALL_SAMPLING = {"temperature": 0.5, "top_p": 0.9, "top_k": 5}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "W", "parameters": SCHEMA}}
FORM = {"type": "json_schema", "json_schema": {"name": "a city", "schema": SCHEMA}}


def asking(model: str = SONNET_4_5, **more: Any) -> Asking:
    upstream = Upstream("up", "anthropic", "http://up.test/v1", options=more.pop("options", {}))
    return Asking(Target(upstream, model), "sk-ant", 1.0, **more)


def asked(
    model: str = SONNET_4_5, memory: Memory | None = None, **fields: Any
) -> tuple[Any, tuple[str, ...]]:
    """The upstream's body and what was dropped."""
    outgoing = request(model, memory, **fields)
    wire.check(outgoing.body)
    return orjson.loads(outgoing.body), outgoing.dropped


def request(model: str = SONNET_4_5, memory: Memory | None = None, **fields: Any) -> Outgoing:
    return Anthropic(memory or Memory()).request(call_of(False, **fields), asking(model))


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def image(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


# Requests


def test_the_head_pins_the_version_and_carries_the_key() -> None:
    outgoing = request()
    assert outgoing.path == "/messages"
    assert dict(outgoing.headers) == {
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
        "x-api-key": "sk-ant",
    }


def test_headers_of_the_config_stand_over_ours() -> None:
    upstream = Upstream("up", "anthropic", "http://up.test", headers=(("Anthropic-Version", "x"), ("a", "b")))
    outgoing = Anthropic(Memory()).request(call_of(False), Asking(Target(upstream, SONNET_4)))
    assert dict(outgoing.headers) == {
        "content-type": "application/json",
        "anthropic-version": "x",
        "a": "b",
    }


def test_system_messages_from_anywhere_come_first_in_their_order() -> None:
    body, _ = asked(
        messages=[
            {"role": "system", "content": "one"},
            {"role": "user", "content": "Hi"},
            {"role": "developer", "content": [{"type": "text", "text": "two"}]},
            {"role": "system", "content": " \n"},
            {"role": "assistant", "content": "\t"},
        ]
    )
    assert body["system"] == [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]


def test_system_messages_alone_are_the_question() -> None:
    body, _ = asked(messages=[{"role": "system", "content": "Say hi"}])
    assert "system" not in body
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Say hi"}]}]


def test_results_of_one_turn_stand_together_before_any_text() -> None:
    listed = [
        {"id": id, "type": "function", "function": {"name": "weather", "arguments": arguments}}
        for id, arguments in (("a", ""), ("b", '{"city": "Rom"}'))
    ]
    body, _ = asked(
        messages=[
            {"role": "user", "content": "one"},
            {"role": "user", "content": "two"},
            {"role": "assistant", "content": "", "tool_calls": listed},
            {"role": "tool", "tool_call_id": "a", "content": "sun"},
            {"role": "user", "content": "and?"},
            {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": " "}]},
        ]
    )
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "a", "name": "weather", "input": {}},
                {"type": "tool_use", "id": "b", "name": "weather", "input": {"city": "Rom"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "sun"}]},
                {"type": "tool_result", "tool_use_id": "b"},
                {"type": "text", "text": "and?"},
            ],
        },
    ]


def test_pictures_and_files_in_all_forms() -> None:
    file = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}
    body, dropped = asked(
        messages=user(
            image("data:image/jpg;base64,/9j/"),
            image("https://x.test/a.png", detail="high"),
            {"type": "file", "file": file},
            {"type": "file", "file": {"file_data": "https://x.test/a.pdf"}},
            {"type": "file", "file": {"file_data": "data:text/markdown;base64,I8Ok"}},
        )
    )
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}
    assert body["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/"}},
        {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}},
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": {"type": "url", "url": "https://x.test/a.pdf"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "#ä"}},
    ]
    assert dropped == ("image_url.detail",)


@pytest.mark.parametrize(
    "part",
    [
        image("data:image/tiff;base64,AAAA"),
        image("data:image/png,AAAA"),
        image("ftp://x.test/a.png"),
        image(""),
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"file_data": "data:application/zip;base64,AAAA"}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,//8="}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "x"}},
        {"type": "text", "text": 3},
        7,
    ],
)
def test_parts_that_can_not_be_said_are_refused_by_their_place(part: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(messages=user({"type": "text", "text": "see"}, part))
    assert str(caught.value.param).startswith("messages[0].content[1]")


def test_cache_marks_pass_on_parts_messages_tools_and_the_whole() -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    body, dropped = asked(
        cache_control=mark,
        tools=[{**TOOL, "cache_control": mark}],
        messages=[
            {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": mark}]},
            {"role": "user", "content": "Hi", "cache_control": mark},
        ],
    )
    assert body["cache_control"] == mark
    assert body["system"][0]["cache_control"] == mark
    assert body["messages"][0]["content"][0]["cache_control"] == mark
    assert body["tools"][0]["cache_control"] == mark
    assert dropped == ()


@pytest.mark.parametrize(
    ("stated", "told", "expected"),
    [
        ({}, {}, 4096),
        ({}, {"output_default": 8000}, 8000),
        ({"max_tokens": 5, "max_completion_tokens": 9}, {"output_default": 8000}, 9),
        ({}, {"output_max": 300, "output_default": 8000}, 300),
    ],
)
def test_a_limit_is_always_sent(stated: Any, told: Any, expected: int) -> None:
    outgoing = Anthropic(Memory()).request(call_of(False, **stated), asking(**told))
    assert orjson.loads(outgoing.body)["max_tokens"] == expected


@pytest.mark.parametrize(
    ("model", "fields", "sent", "dropped"),
    [
        (SONNET_4, ALL_SAMPLING, ALL_SAMPLING, ()),
        (SONNET_4, {"temperature": 1.5}, {"temperature": 1}, ("temperature",)),
        (SONNET_4_5, {"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5}, ("top_p",)),
        (OPUS_4_7, {"temperature": 1, "top_p": 1, "top_k": 5}, {}, ("temperature", "top_p", "top_k")),
        ("claude-new-9", {"temperature": 1}, {}, ("temperature",)),
        ("other-maker", {"temperature": 1, "top_p": 1}, {"temperature": 1, "top_p": 1}, ()),
    ],
)  # fmt: skip
def test_sampling_is_what_the_model_takes(model: str, fields: Any, sent: Any, dropped: Any) -> None:
    body, lost = asked(model, **fields)
    assert {name: body[name] for name in ("temperature", "top_p", "top_k") if name in body} == sent
    assert lost == dropped


def test_small_fields_find_their_places() -> None:
    body, dropped = asked(
        stop=["END", " \n"],
        user="u-1",
        metadata={"user_id": "u-2", "x": "y"},
        service_tier="default",
        seed=3,
        logprobs=False,
        n=1,
        presence_penalty=0,
    )
    assert body["stop_sequences"] == ["END"]
    assert body["metadata"] == {"user_id": "u-1"}
    assert body["service_tier"] == "standard_only"
    assert dropped == ("seed", "stop", "metadata")
    assert asked(stop="END", service_tier="flex")[1] == ("service_tier",)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"modalities": ["audio"]},
        {"functions": [{}]},
        {"web_search_options": {}},
        {"stop": [1]},
        {"temperature": "hot"},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"reasoning_effort": "huge"},
        {"response_format": {"type": "grammar"}},
        {"thinking": True},
    ],
)
def test_what_can_not_be_said_is_refused_by_name(fields: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(**fields)
    assert str(caught.value.param).split("[")[0] == list(fields)[-1]


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        ("auto", None, {"type": "auto"}),
        ("none", False, {"type": "none"}),
        ("required", None, {"type": "any"}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"type": "function", "function": {"name": "weather"}},
            None,
            {"type": "tool", "name": "weather"},
        ),
    ],
)
def test_every_form_of_tool_choice(choice: Any, parallel: Any, expected: Any) -> None:
    body, dropped = asked(tools=[TOOL], tool_choice=choice, parallel_tool_calls=parallel)
    assert body.get("tool_choice") == expected
    assert dropped == ()


def test_allowed_tools_are_the_only_ones_offered() -> None:
    other = {"type": "function", "function": {"name": "other"}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "other"}}, other]}
    body, _ = asked(tools=[TOOL, other], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert [tool["name"] for tool in body["tools"]] == ["other"]
    assert body["tool_choice"] == {"type": "any"}


def test_a_model_that_can_not_be_forced_gets_the_nearest() -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    other = {"type": "function", "function": {"name": "other"}}
    body, dropped = asked(FABLE_5, tools=[other, TOOL], tool_choice=choice)
    assert [tool["name"] for tool in body["tools"]] == ["weather"]
    assert body["tool_choice"] == {"type": "auto"}
    assert dropped == ("tool_choice",)


def test_strict_tools_where_the_model_has_them() -> None:
    schema = {
        "type": "object",
        "properties": {"days": {"type": "integer", "minimum": 1, "description": "How many."}},
    }
    strict = {"type": "function", "function": {"name": "t", "parameters": schema, "strict": True}}
    body, dropped = asked(tools=[strict])
    assert body["tools"][0]["strict"] is True
    assert body["tools"][0]["input_schema"] == {
        "type": "object",
        "properties": {"days": {"type": "integer", "description": "How many. (minimum: 1)"}},
        "additionalProperties": False,
    }
    assert dropped == ("tools.minimum",)
    body, dropped = asked(SONNET_4, tools=[strict])
    assert "strict" not in body["tools"][0]
    assert body["tools"][0]["input_schema"] == schema
    assert dropped == ("tools.strict",)


# Response formats


def test_a_schema_is_said_where_the_model_has_it() -> None:
    body, dropped = asked(response_format=FORM)
    assert body["output_config"] == {
        "format": {"type": "json_schema", "schema": {**SCHEMA, "additionalProperties": False}}
    }
    assert dropped == ()


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_for_an_older_model_is_a_forced_tool_whose_call_is_the_answer(stream: bool) -> None:
    dialect = Anthropic(Memory())
    call = call_of(stream, response_format=FORM)
    body = orjson.loads(dialect.request(call, asking(SONNET_4)).body)
    assert [tool["name"] for tool in body["tools"]] == ["a_city"]
    assert body["tool_choice"] == {"type": "tool", "name": "a_city"}

    given = [("toolu_1", "a_city", {"city": "Rom"})]
    reply = dialect.reply(call, asking(SONNET_4), 200, SSE if stream else JSON)
    said, rest = played(reply, [wire.answer("", given, stream)])
    found = heard(said + rest) if stream else heard_whole(rest)
    assert orjson.loads(found.text) == {"city": "Rom"}
    assert (found.tools, found.finish, found.native) == ((), "stop", "tool_use")


def test_beside_other_tools_the_format_is_one_of_several_calls() -> None:
    named = {"type": "function", "function": {"name": "a_city", "parameters": SCHEMA}}
    body, _ = asked(SONNET_4, response_format=FORM, tools=[named])
    assert [tool["name"] for tool in body["tools"]] == ["a_city", "a_city_"]
    assert body["tool_choice"] == {"type": "any"}


def test_json_without_a_schema_is_a_hint_and_reported() -> None:
    body, dropped = asked(response_format={"type": "json_object"})
    assert body["system"][-1]["text"].startswith("Answer with one JSON object")
    assert dropped == ("response_format",)


# Reasoning


@pytest.mark.parametrize(
    ("model", "fields", "thinking", "effort", "dropped"),
    [
        (SONNET_4_5, {"reasoning_effort": "low"}, {"type": "enabled", "budget_tokens": 2048}, None, ()),
        (
            SONNET_4_5,
            {"reasoning_effort": "high", "max_tokens": 3000},
            {"type": "enabled", "budget_tokens": 2400},
            None,
            (),
        ),
        (
            SONNET_4_5,
            {"reasoning_effort": "high", "max_tokens": 1100},
            {"type": "enabled", "budget_tokens": 1024},
            None,
            (),
        ),
        (SONNET_4_5, {"reasoning_effort": "high", "max_tokens": 1024}, None, None, ("reasoning_effort",)),
        (SONNET_4_5, {"reasoning_effort": "none"}, None, None, ()),
        (HAIKU_3, {"reasoning_effort": "low"}, None, None, ("reasoning_effort",)),
        (
            OPUS_4_7,
            {"reasoning_effort": "xhigh"},
            {"type": "adaptive", "display": "summarized"},
            "xhigh",
            (),
        ),
        (
            "claude-opus-4-6",
            {"reasoning_effort": "xhigh"},
            {"type": "adaptive", "display": "summarized"},
            "max",
            (),
        ),
        (OPUS_4_7, {"reasoning_effort": "none"}, {"type": "disabled"}, None, ()),
        (
            SONNET_4_5,
            {"thinking": {"type": "enabled", "budget_tokens": 1500}, "reasoning_effort": "low"},
            {"type": "enabled", "budget_tokens": 1500},
            None,
            ("reasoning_effort",),
        ),
        (
            SONNET_4_5,
            {"reasoning_effort": "low", "temperature": 0.2, "top_p": 0.5},
            {"type": "enabled", "budget_tokens": 2048},
            None,
            ("temperature", "top_p"),
        ),
        (
            SONNET_4_5,
            {"reasoning_effort": "low", "tools": [TOOL], "tool_choice": "required"},
            None,
            None,
            ("reasoning_effort",),
        ),
    ],
)
def test_effort_is_what_the_model_knows(
    model: str, fields: Any, thinking: Any, effort: Any, dropped: Any
) -> None:
    body, lost = asked(model, **fields)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort
    assert lost == dropped


def test_gates_can_be_overridden_in_the_config() -> None:
    upstream = asking("claude-new-9", options={"quirks": {"thinking": "budget", "else": 1}})
    outgoing = Anthropic(Memory()).request(call_of(False, reasoning_effort="low"), upstream)
    assert orjson.loads(outgoing.body)["thinking"]["type"] == "enabled"


THINKING = {"type": "thinking", "thinking": "Hm, France?", "signature": "sig=="}
REDACTED = {"type": "redacted_thinking", "data": "ENC"}


def loop(memory: Memory, owner: str = "main", stream: bool = True, **kept: Any) -> list[dict[str, Any]]:
    """A tool loop through a client that keeps only what OpenAI's format has, and `kept`."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    call = calls.parse(orjson.dumps(body), "chat", owner=owner)
    reply = Anthropic(memory).reply(call, asking(), 200, SSE)
    played(reply, [wire.STREAMS["thinking"].raw])
    function = {"name": "now", "arguments": "{}"}
    tool_calls = [{"id": "toolu_a", "type": "function", "function": function}]
    return [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Paris", "tool_calls": tool_calls, **kept},
        {"role": "tool", "tool_call_id": "toolu_a", "content": "noon"},
    ]


def test_thinking_survives_a_tool_loop_of_an_unmodified_client() -> None:
    memory = Memory()
    body, dropped = asked(memory=memory, messages=loop(memory), reasoning_effort="low", tools=[TOOL])
    assert body["messages"][1]["content"] == [
        THINKING,
        REDACTED,
        {"type": "text", "text": "Paris"},
        {"type": "tool_use", "id": "toolu_a", "name": "now", "input": {}},
    ]
    assert body["thinking"]["type"] == "enabled"
    assert dropped == ()


def test_another_account_never_gets_somebodys_thinking() -> None:
    memory = Memory()
    body, dropped = asked(memory=memory, messages=loop(memory, "other"), reasoning_effort="low", tools=[TOOL])
    assert "thinking" not in body
    assert body["messages"][1]["content"][0] == {"type": "text", "text": "Paris"}
    assert dropped == ("reasoning_effort",)


@pytest.mark.parametrize(
    "kept",
    [
        {"thinking_blocks": [THINKING, REDACTED]},
        {
            "reasoning_details": [
                {"type": "reasoning.text", "text": "Hm, France?", "signature": "sig=="},
                {"type": "reasoning.encrypted", "data": "ENC", "format": "anthropic-claude-v1"},
            ]
        },
    ],
)
def test_what_a_client_sends_back_does_where_memory_has_lost_it(kept: Any) -> None:
    body, dropped = asked(messages=loop(Memory(), **kept), reasoning_effort="low", tools=[TOOL])
    assert body["messages"][1]["content"][:2] == [THINKING, REDACTED]
    assert body["thinking"]["type"] == "enabled"
    assert dropped == ()


def test_what_the_reply_says_of_thinking_can_be_sent_back_as_it_is() -> None:
    reply = Anthropic(Memory()).reply(call_of(True), asking(), 200, SSE)
    said, _ = played(reply, [wire.STREAMS["thinking"].raw])
    details = [
        detail
        for chunk in chunks(said)
        for choice in chunk["choices"]
        for detail in choice["delta"].get("reasoning_details", [])
    ]
    assert [detail["index"] for detail in details] == [0, 1]
    messages = loop(Memory(), reasoning_details=details)
    body, _ = asked(messages=messages, reasoning_effort="low", tools=[TOOL])
    assert body["messages"][1]["content"][:2] == [THINKING, REDACTED]


def test_reasoning_that_nobody_signed_is_not_sent_back() -> None:
    foreign = [{"type": "reasoning.encrypted", "data": "x", "format": "google-gemini-v1"}]
    for kept in ({"reasoning_content": "Hm"}, {"reasoning_details": foreign}):
        body, dropped = asked(messages=loop(Memory(), **kept), reasoning_effort="low", tools=[TOOL])
        assert body["messages"][1]["content"][0] == {"type": "text", "text": "Paris"}
        assert dropped == ("reasoning_effort",)


def test_a_loop_that_is_over_needs_no_thinking() -> None:
    messages = [*loop(Memory()), {"role": "assistant", "content": "Noon."}, {"role": "user", "content": "Ok"}]
    body, dropped = asked(messages=messages, reasoning_effort="low", tools=[TOOL])
    assert body["thinking"]["type"] == "enabled"
    assert dropped == ()


def test_thinking_between_calls_goes_back_between_them() -> None:
    memory = Memory()
    reply = Anthropic(memory).reply(call_of(True), asking(OPUS_4_7), 200, SSE)
    raw = wire.sse(
        wire.start(),
        *wire.thinking(0, "s1", "one"),
        *wire.tool(1, "a", "weather"),
        *wire.thinking(2, "s2", "two"),
        *wire.tool(3, "b", "weather"),
        *wire.stop("tool_use", {"output_tokens": 5}),
    )
    said, _ = played(reply, [raw])
    listed = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}}
        for id, name, _ in heard(said).tools
    ]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": listed},
        *({"role": "tool", "tool_call_id": tool["id"], "content": "x"} for tool in listed),
    ]
    body, _ = asked(OPUS_4_7, memory=memory, messages=messages, tools=[TOOL])
    told = [part.get("signature") or part.get("id") for part in body["messages"][1]["content"]]
    assert told == ["s1", "a", "s2", "b"]


# Replies


def test_what_the_upstream_ran_itself_is_noted() -> None:
    reply = Anthropic(Memory()).reply(call_of(True), asking(), 200, SSE)
    played(reply, [wire.STREAMS["what the upstream runs itself"].raw])
    assert reply.notes == {"server_blocks": 2, "citations": 1}


def test_a_cut_after_the_head_bills_the_input_that_was_told_and_the_text_that_was_said() -> None:
    reply = Anthropic(Memory()).reply(call_of(True), asking(), 200, SSE)
    head = {"input_tokens": 100, "cache_read_input_tokens": 50, "output_tokens": 1}
    reply.feed(wire.sse(wire.start(head), *wire.text(0, "x" * 400)))
    assert (reply.usage.input, reply.usage.cached, reply.usage.output) == (100, 50, 100)
    assert not reply.usage.reported


def test_a_usage_without_input_bills_the_output_that_was_told_and_an_estimate_of_the_input() -> None:
    call = call_of(True)
    reply = Anthropic(Memory()).reply(call, asking(), 200, SSE)
    # The stream of a llama.cpp server whose first character took three tokens: it has no head.
    played(reply, [wire.sse(*wire.text(0, "\N{SEEDLING}"), *wire.stop("max_tokens", {"output_tokens": 3}))])
    assert reply.usage == Usage(input=call.input_estimate(0), output=3)
    assert not reply.usage.reported
    assert reply.notes == {"usage": "partial"}


def test_nobody_serves_embeddings_here() -> None:
    call = calls.parse(b'{"model": "claude", "input": "a"}', "embeddings")
    with pytest.raises(InvalidRequest, match="'claude' makes no embeddings"):
        Anthropic(Memory()).request(call, asking())
