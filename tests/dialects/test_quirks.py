"""Quirks of OpenAI-compatible upstreams: what each is told, and what is reported as lost."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from tokenhub_proxy.calls import parse
from tokenhub_proxy.dialects import DIALECTS, Asking, Memory, dialect
from tokenhub_proxy.dialects.checks import check_quirks
from tokenhub_proxy.dialects.facts import PLAIN, facts_of
from tokenhub_proxy.dialects.quirks import AS_OF, ROWS
from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.prices import Usage
from tokenhub_proxy.routes import Target, Upstream

BASES = {
    "openai": "https://api.openai.com/v1",
    "azure": "https://me.openai.azure.com/openai/v1",
    "deepseek": "https://api.deepseek.com/v1",
    "groq": "https://api.groq.com/openai/v1",
    "mistral": "https://api.mistral.ai/v1",
    "ollama": "http://127.0.0.1:11434/v1",
    "lmstudio": "http://127.0.0.1:1234/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "xai": "https://api.x.ai/v1",
    "moonshot": "https://api.moonshot.ai/v1",
    "zai": "https://api.z.ai/api/paas/v4",
    "perplexity": "https://api.perplexity.ai",
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def target(row: str, model: str = "m", **quirks: Any) -> Target:
    base = BASES.get(row, "http://10.0.0.5:8000/v1")
    if row not in BASES and row != "unknown":
        quirks["like"] = row
    return Target(Upstream("up", "openai", base, options={"quirks": quirks} if quirks else {}), model)


def chat(strict: bool = False, **fields: Any):
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return parse(orjson.dumps(body), "chat", strict=strict)


def asked(row: str, model: str = "m", *, output_max: int | None = None, strict: bool = False, **fields: Any):
    """The body that the upstream gets, and what was reported as dropped."""
    outgoing = dialect("openai", Memory()).request(
        chat(strict, **fields), Asking(target(row, model), "k", output_max=output_max)
    )
    return orjson.loads(outgoing.body), outgoing.dropped


def test_the_table_has_its_date_and_every_fact_in_it_is_one():
    assert len(AS_OF) == 10
    for name, row in ROWS.items():
        models = dict(row.get("models", ()))
        for facts in (row, *models.values()):
            check_quirks(
                "openai", {key: value for key, value in facts.items() if key not in ("hosts", "models")}
            )
        assert facts_of(target(name)) is not PLAIN


def test_each_host_is_recognised_and_an_unknown_one_has_no_quirks():
    for row in BASES:
        assert facts_of(target(row)) == facts_of(
            Target(Upstream("x", "openai", "http://h/v1", options={"quirks": {"like": row}}), "m")
        )
    assert facts_of(target("unknown")) is PLAIN
    lookalike = Upstream("x", "openai", "https://api.openai.com.evil.test/v1")
    assert facts_of(Target(lookalike, "m")) is PLAIN


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("openai", "max_completion_tokens"),
        ("groq", "max_completion_tokens"),
        ("xai", "max_completion_tokens"),
        ("deepseek", "max_tokens"),
        ("mistral", "max_tokens"),
        ("ollama", "max_tokens"),
        ("openrouter", "max_tokens"),
        ("moonshot", "max_tokens"),
        ("zai", "max_tokens"),
        ("llamacpp", "max_tokens"),
        ("vllm", "max_tokens"),
    ],
)
def test_one_limit_is_told_under_the_name_the_upstream_takes(row, name):
    other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}[name]
    for fields, expected in (
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 9, "max_completion_tokens": 7}, 7),
    ):
        body, dropped = asked(row, **fields)
        assert body[name] == expected
        assert other not in body
        assert dropped == ()
    assert asked(row, output_max=50)[0][name] == 50


def test_an_unknown_server_keeps_the_limits_as_they_came():
    body, _ = asked("unknown", max_completion_tokens=7)
    assert (body["max_completion_tokens"], "max_tokens" in body) == (7, False)
    body, _ = asked("unknown", max_tokens=9, max_completion_tokens=7)
    assert (body["max_completion_tokens"], body["max_tokens"]) == (7, 9)


@pytest.mark.parametrize(
    "model",
    [
        "o1",
        "o3-mini",
        "o4-mini-2025-04-16",
        "gpt-5",
        "gpt-5-mini",
        "gpt-5.6",
        "gpt-5.2-pro",
        "gpt-5.1-chat-latest",
        "gpt-5.1-codex",
    ],
)
def test_reasoning_models_are_not_told_how_to_sample(model):
    body, dropped = asked("openai", model, temperature=0.2, top_p=0.9, presence_penalty=1, logprobs=True)
    assert not body.keys() & {"temperature", "top_p", "presence_penalty", "logprobs"}
    assert set(dropped) == {"temperature", "top_p", "presence_penalty", "logprobs"}


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-5-chat-latest", "gpt-5.1", "gpt-5.4"])
def test_models_that_do_not_reason_by_default_are_told(model):
    body, dropped = asked("openai", model, temperature=0.2)
    assert (body["temperature"], dropped) == (0.2, ())


def test_a_model_told_to_reason_is_no_longer_told_how_to_sample():
    assert asked("openai", "gpt-5.1", temperature=0.2, reasoning_effort="low")[1] == ("temperature",)
    assert asked("openai", "gpt-5.1", temperature=0.2, reasoning_effort="none")[1] == ()


def test_a_value_that_asks_for_nothing_is_left_out_without_a_report():
    body, dropped = asked("openai", "o3", temperature=1, top_p=1.0, presence_penalty=0, logprobs=False)
    assert dropped == ()
    assert not body.keys() & {"temperature", "top_p", "presence_penalty", "logprobs"}


def test_strict_refuses_what_would_be_dropped():
    with pytest.raises(InvalidRequest, match="temperature") as caught:
        asked("openai", "o3", strict=True, temperature=0.5)
    assert caught.value.param == "temperature"
    asked("openai", "gpt-4o", strict=True, temperature=0.5)


def test_o1_mini_takes_instructions_from_the_user_only():
    messages = [{"role": "developer", "content": "Be brief"}, {"role": "user", "content": "Hi"}]
    assert [m["role"] for m in asked("openai", "o1-mini", messages=messages)[0]["messages"]] == [
        "user",
        "user",
    ]
    assert [m["role"] for m in asked("openai", "o3", messages=messages)[0]["messages"]] == [
        "developer",
        "user",
    ]
    assert asked("mistral", messages=messages)[0]["messages"][0]["role"] == "system"


def test_mistral():
    body, dropped = asked(
        "mistral",
        stream=True,
        stream_options={"include_usage": True},
        seed=7,
        user="u",
        tools=[TOOL],
        tool_choice="required",
        n=2,
        presence_penalty=0.5,
        parallel_tool_calls=False,
    )
    assert (body["random_seed"], body["tool_choice"], body["n"], body["stream"]) == (7, "any", 2, True)
    assert not body.keys() & {"seed", "user", "stream_options"}
    assert dropped == ("user",)
    named = {"type": "function", "function": {"name": "f"}}
    assert asked("mistral", tools=[TOOL], tool_choice=named)[0]["tool_choice"] == named
    assert asked("mistral", reasoning_effort="low") == (
        {**chat().body, "reasoning_effort": "high"},
        ("reasoning_effort",),
    )


def test_deepseek():
    shape = {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}
    body, dropped = asked("deepseek", response_format=shape, seed=1, thinking={"type": "enabled"})
    assert body["response_format"] == {"type": "json_object"}
    assert body["thinking"] == {"type": "enabled"}
    assert set(dropped) == {"seed", "response_format.json_schema"}
    assert asked("deepseek", "deepseek-reasoner", temperature=0)[1] == ("temperature",)
    assert asked("deepseek", "deepseek-chat", temperature=0)[1] == ()
    assert asked("deepseek", n=1)[1] == ()
    with pytest.raises(InvalidRequest, match="does not take n"):
        asked("deepseek", n=2)


def test_groq():
    body, dropped = asked(
        "groq",
        "openai/gpt-oss-120b",
        prompt_cache_key="k",
        store=True,
        verbosity="low",
        reasoning_effort="xhigh",
        messages=[{"role": "user", "name": "ann", "content": "Hi"}],
        reasoning_format="hidden",
    )
    assert (body["reasoning_effort"], body["reasoning_format"]) == ("high", "hidden")
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert set(dropped) == {"prompt_cache_key", "store", "verbosity", "reasoning_effort", "messages.name"}
    assert asked("groq", "qwen/qwen3-32b", reasoning_effort="low")[0]["reasoning_effort"] == "default"
    assert asked("groq", "qwen/qwen3-32b", reasoning_effort="none")[1] == ()


def test_xai_moonshot_and_zai():
    assert asked("xai", "grok-4-0709", stop=["x"], reasoning_effort="high")[1] == ("stop", "reasoning_effort")
    assert asked("xai", "grok-4-fast-non-reasoning", stop=["x"])[1] == ()
    body, dropped = asked("moonshot", tools=[TOOL], tool_choice="required")
    assert (body["tool_choice"], dropped) == ("auto", ("tool_choice",))
    named = {"type": "function", "function": {"name": "f"}}
    assert asked("zai", tools=[TOOL], tool_choice=named)[0]["tool_choice"] == "auto"


@pytest.mark.parametrize("row", ["deepseek", "groq", "ollama", "vllm", "llamacpp", "azure", "xai"])
def test_files_are_refused_where_they_can_not_be_said(row):
    part = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}}
    with pytest.raises(InvalidRequest) as caught:
        asked(row, messages=[{"role": "user", "content": [{"type": "text", "text": "x"}, part]}])
    assert caught.value.param == "messages[0].content[1]"


def test_facts_of_the_config_are_laid_over_ours_one_by_one():
    facts = facts_of(target("mistral", "m", limit="max_completion_tokens", drop=["seed"]))
    assert (facts.limit, facts.drop, facts.stream_options) == ("max_completion_tokens", ("seed",), False)
    assert facts_of(target("vllm")).limit == "max_tokens"


@pytest.mark.parametrize(
    ("quirks", "words"),
    [
        ([], "must be a mapping"),
        ({"like": "grok"}, "did you mean 'groq'"),
        ({"limits": "x"}, "did you mean 'limit'"),
        ({"stream_options": "no"}, "true or false"),
        ({"drop": "seed"}, "a list"),
        ({"roles": []}, "a mapping"),
        ({"limit": 5}, "text"),
        ({"like": ["groq"]}, "no such upstream"),
        ({"roles": {"developer": 1}}, "a mapping of texts"),
        ({"nearest": {"tool_choice": "auto"}}, "a mapping of mappings"),
        ({"tool_id_letters": True}, "a whole number"),
        ({"tool_id_letters": -1}, "a whole number"),
    ],
)
def test_quirks_that_can_not_be_read_are_complained_about(quirks, words):
    with pytest.raises(ValueError, match=words):
        check_quirks("openai", quirks)


@pytest.mark.parametrize(
    ("name", "quirks", "words"),
    [
        ("anthropic", {"like": "groq"}, "no such fact 'like'"),
        ("anthropic", {"thinking": "much"}, "one of none, budget, adaptive"),
        ("anthropic", {"sampling": 1}, "true or false"),
        ("anthropic", {"levels": ["low"]}, "no such fact"),
        ("gemini", {"levels": ["low", "huge"]}, "a list, each one of minimal, low, medium, high"),
        ("gemini", {"budget_max": 1.5}, "a whole number of at least 0"),
        ("gemini", {"signature": True}, "did you mean 'signatures'"),
        ("bedrock", {"reasoning": ["claude"]}, "one of none, claude, effort, qwen, nova"),
        ("bedrock", {"top_k": "k"}, "a list, each text"),
        ("bedrock", {"claude": {}}, "no such fact 'claude'"),
        ("demo", {"limits": "x"}, "did you mean 'limit'"),
        ("azure", {"limits": "x"}, "did you mean 'limit'"),
    ],
)
def test_quirks_are_those_of_the_upstreams_own_dialect(name, quirks, words):
    with pytest.raises(ValueError, match=words):
        check_quirks(name, quirks)


@pytest.mark.parametrize(
    ("name", "quirks"),
    [
        ("openai", {"like": "vllm", "limit": None, "drop": ["seed"], "roles": {"developer": "system"}}),
        ("openai", {"nearest": {"tool_choice": {"required": "auto"}}, "keeps": "reasoning"}),
        ("anthropic", {"thinking": "adaptive", "forced_tools": False}),
        ("gemini", {"thinking": "level", "levels": ["low", "high"], "budget_min": 0}),
        ("bedrock", {"choices": [], "top_k": ["inferenceConfig", "topK"], "sampling_pair": False}),
    ],
)
def test_quirks_that_are_some_are_taken(name, quirks):
    check_quirks(name, quirks)


def test_every_dialect_has_its_quirks():
    for name in DIALECTS:
        check_quirks(name, {})


# Tool ids


def tool_turn(*ids: str) -> list[dict[str, Any]]:
    calls = [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in ids]
    results = [{"role": "tool", "tool_call_id": id, "content": "ok"} for id in ids]
    return [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": calls}, *results]


def ids_in(messages: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    called = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    return called, [message["tool_call_id"] for message in messages if "tool_call_id" in message]


@pytest.mark.parametrize("row", ["mistral", "azure"])
def test_mistral_is_told_tool_ids_of_nine_letters_and_digits(row):
    foreign = ("call_00_Zq3dXk", "toolu_01A", "call-9ch!", "äbcdefghi", "functions.f:0", "")
    messages = tool_turn(*foreign, "D681PevKs")
    body, dropped = asked(row, "mistral-large-latest", messages=messages)
    called, answered = ids_in(body["messages"])
    assert called == answered
    assert called[-1] == "D681PevKs"
    assert all(re.fullmatch("[a-zA-Z0-9]{9}", id) for id in called)
    assert len(set(called)) == len(called)
    assert dropped == ()
    assert ids_in(messages)[0] == [*foreign, "D681PevKs"]
    again, _ = asked(row, "mistral-large-latest", messages=messages)
    assert again == body


def test_other_upstreams_get_tool_ids_as_they_came():
    for row in ("openai", "unknown", "azure", "vllm"):
        body, _ = asked(row, messages=tool_turn("call_00_Zq3dXk"))
        assert ids_in(body["messages"]) == (["call_00_Zq3dXk"],) * 2


@given(st.lists(st.text(min_size=1), unique=True, max_size=5), st.integers(1, 40))
def test_an_id_fits_and_stays_another_one(ids, letters):
    call = chat(messages=[*tool_turn(*ids)])
    where = target("unknown", tool_id_letters=letters)
    body = orjson.loads(dialect("openai", Memory()).request(call, Asking(where)).body)
    called, answered = ids_in(body["messages"])
    assert called == answered
    assert all(re.fullmatch(f"[a-zA-Z0-9]{{{letters}}}", id) for id in called)
    assert letters < 9 or len(set(called)) == len(ids)


def test_tool_calls_that_are_none_are_left_to_the_upstream():
    messages = [{"role": "assistant", "content": "x", "tool_calls": calls} for calls in (None, "x", [1, {}])]
    messages += [{"role": "tool", "content": "x", "tool_call_id": 5}]
    assert asked("mistral", messages=messages)[0]["messages"] == messages


def test_facts_are_worked_out_once_for_each_target():
    speaker, one = dialect("openai", Memory()), target("mistral")
    assert speaker.facts(one) is speaker.facts(one)  # type: ignore[attr-defined]


# Usage

SSE = {"content-type": "text/event-stream"}


def usage_of(row: str, *bodies: dict[str, Any]) -> Usage:
    reply = dialect("openai", Memory()).reply(chat(stream=True), Asking(target(row)), 200, SSE)
    for body in bodies:
        reply.feed(b"data: " + orjson.dumps(body) + b"\n\n")
    return reply.usage


def test_groqs_usage_is_found_in_its_own_member():
    first = {"choices": [{"index": 0, "delta": {"content": "x"}}], "x_groq": {"id": "req"}}
    last = {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        "x_groq": {"usage": {"prompt_tokens": 5, "completion_tokens": 6}},
    }
    assert usage_of("groq", first, last) == Usage(input=5, output=6, reported=True)
    assert not usage_of("unknown", first, last).reported


def test_reasoning_that_xai_counts_apart_is_output_and_never_twice():
    details = {"completion_tokens_details": {"reasoning_tokens": 30}}
    apart = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 41, **details}
    inside = {"prompt_tokens": 5, "completion_tokens": 36, "total_tokens": 41, **details}
    for usage in (apart, inside):
        assert usage_of("xai", {"choices": [], "usage": usage}).output == 36


def test_deepseeks_cache_hits_are_cached_input():
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "prompt_cache_hit_tokens": 8}
    found = usage_of("deepseek", {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage})
    assert (found.input, found.cached) == (2, 8)


def test_usage_is_not_hidden_where_it_was_not_asked_for():
    event = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
    for row, said in (("mistral", event), ("unknown", b"")):
        reply = dialect("openai", Memory()).reply(chat(stream=True), Asking(target(row)), 200, SSE)
        reply.feed(b'data: {"choices":[{"delta":{}}]}\n\n')
        assert reply.feed(event) == said


# Everything that goes out is a request to the official types


@pytest.mark.parametrize("row", [name for name in ROWS if name not in ("mistral",)])
def test_requests_are_requests_to_the_official_types(row):
    body, _ = asked(
        row,
        max_tokens=5,
        temperature=0.5,
        tools=[TOOL],
        tool_choice="required",
        stop=["x"],
        seed=3,
        user="u",
        response_format={"type": "json_object"},
        parallel_tool_calls=True,
    )
    TypeAdapter(CompletionCreateParamsNonStreaming).validate_python(body)
