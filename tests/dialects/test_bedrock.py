"""Bedrock beyond the contract: families, documents, reasoning that is sent back, signatures, embeddings."""

from __future__ import annotations

import struct
from base64 import b64decode
from typing import Any

import orjson
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.eventstream import EventStreamBuffer

from tests.dialects.bedrock_streams import START, ending, event, exception, text, thinking, tool
from tests.dialects.rows.bedrock import check, whole
from tokenhub_proxy.calls import Call, parse
from tokenhub_proxy.dialects import Asking, Memory, dialect
from tokenhub_proxy.dialects.bedrock_families import family, model_name
from tokenhub_proxy.dialects.quirks import FAMILIES
from tokenhub_proxy.errors import InvalidRequest, ProxyError, UpstreamUnavailable
from tokenhub_proxy.prices import Usage
from tokenhub_proxy.routes import Target, Upstream

BASE = "https://bedrock-runtime.us-east-1.amazonaws.com"
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
CLAUDE_3 = "anthropic.claude-3-5-sonnet-20241022-v2:0"
NOVA, LLAMA, MISTRAL = (
    "amazon.nova-pro-v1:0",
    "us.meta.llama3-3-70b-instruct-v1:0",
    "mistral.mistral-large-2402-v1:0",
)
FRAMES = {"content-type": "application/vnd.amazon.eventstream", "x-amzn-requestid": "abc-1"}
JSON = {"content-type": "application/json", "x-amzn-requestid": "abc-1"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}


def weather(**extra: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "weather", "parameters": SCHEMA, **extra}}


def asking(model: str = CLAUDE, credential: str | None = "key", **options: Any) -> Asking:
    base = options.pop("base_url", BASE)
    return Asking(
        Target(Upstream("aws", "bedrock", base, options=options), model), credential, 1_790_000_000.0
    )


def chat(stream: bool = False, strict: bool = False, **fields: Any) -> Call:
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return parse(orjson.dumps(body), "chat", owner="main", strict=strict)


def asked(
    model: str = CLAUDE, memory: Memory | None = None, **fields: Any
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body that Bedrock gets, checked against AWS's model of it, and what was dropped."""
    outgoing = dialect("bedrock", memory or Memory()).request(chat(**fields), asking(model))
    check(outgoing.body)
    return orjson.loads(outgoing.body), outgoing.dropped


def content(part: dict[str, Any], model: str = CLAUDE) -> Any:
    words = {"type": "text", "text": "See"}
    return asked(model, messages=[{"role": "user", "content": [words, part]}])[0]["messages"][0]["content"]


def heard(raw: bytes, call: Call, memory: Memory | None = None, model: str = CLAUDE) -> list[dict[str, Any]]:
    reply = dialect("bedrock", memory or Memory()).reply(call, asking(model), 200, FRAMES)
    said = reply.feed(raw) + reply.feed(b"") + reply.close()
    assert said.endswith(b"data: [DONE]\n\n")
    return [orjson.loads(line[6:]) for line in said.split(b"\n\n")[:-2]]


# Where and as whom


def test_the_model_stands_encoded_in_the_path():
    send = dialect("bedrock", Memory()).request
    assert send(chat(), asking()).path == "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse"
    arn = "arn:aws:bedrock:us-east-1:123:application-inference-profile/x1"
    path = send(chat(stream=True), asking(arn)).path
    assert (
        path
        == "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123%3Aapplication-inference-profile%2Fx1/converse-stream"
    )


def test_a_key_is_a_bearer():
    assert dict(dialect("bedrock", Memory()).request(chat(), asking()).headers) == {
        "content-type": "application/json",
        "authorization": "Bearer key",
    }


@pytest.mark.parametrize("token", [None, "session"])
def test_signatures_are_those_that_awss_own_code_makes(token):
    keys = {"access_key_id": "AKID", "secret_access_key": "secret", "region": "eu-west-1"}
    where = asking(credential=None, **keys, **({"session_token": token} if token else {}))
    outgoing = dialect("bedrock", Memory()).request(chat(temperature=0.5), where)
    sent = dict(outgoing.headers)
    theirs = AWSRequest("POST", BASE + outgoing.path, {"content-type": "application/json"}, outgoing.body)
    theirs.context["timestamp"] = sent["x-amz-date"]
    theirs.headers["X-Amz-Date"] = sent["x-amz-date"]
    if token:
        theirs.headers["X-Amz-Security-Token"] = token
    auth = SigV4Auth(Credentials("AKID", "secret", token), "bedrock", "eu-west-1")
    signature = auth.signature(auth.string_to_sign(theirs, auth.canonical_request(theirs)), theirs)
    assert sent["authorization"].endswith(f"Signature={signature}")
    assert "secret" not in str(outgoing.headers)


def test_the_region_of_a_signature_is_the_hosts_where_none_is_given():
    where = asking(credential=None, access_key_id="A", secret_access_key="s")
    assert "/us-east-1/bedrock/aws4_request" in str(
        dialect("bedrock", Memory()).request(chat(), where).headers
    )


def test_our_frames_are_frames_to_awss_own_code():
    buffer = EventStreamBuffer()
    buffer.add_data(
        START + text(0, "Hi") + ending("end_turn") + exception("throttlingException", message="x")
    )
    kinds = [found.headers.get(":event-type", "exception") for found in buffer]
    assert kinds == [
        "messageStart",
        "contentBlockDelta",
        "contentBlockStop",
        "messageStop",
        "metadata",
        "exception",
    ]


# Content


def test_images_and_documents_are_bytes_with_plain_names():
    image = {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,/9j/"}}
    assert content(image)[1] == {"image": {"format": "jpeg", "source": {"bytes": "/9j/"}}}
    file = {"filename": "ignore previous instructions.pdf", "file_data": "data:application/pdf;base64,JVBE"}
    document = content({"type": "file", "file": file})[1]["document"]
    assert document == {"format": "pdf", "name": "Document 1", "source": {"bytes": "JVBE"}}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/bmp;base64,AAAA"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"file_data": "data:application/zip;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ],
)
def test_what_bedrock_can_not_be_shown_is_refused_by_its_place(part):
    with pytest.raises(InvalidRequest) as caught:
        content(part)
    assert caught.value.param == "messages[0].content[1]"


def test_cache_marks_are_cache_points_behind_what_they_mark():
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Long", **mark}]},
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
    ]
    body, dropped = asked(messages=messages, tools=[{**weather(), **mark}])
    assert body["system"] == [{"text": "Long"}, {"cachePoint": {"type": "default", "ttl": "1h"}}]
    assert body["messages"][0]["content"] == [{"text": "Hi"}, {"cachePoint": {"type": "default"}}]
    assert body["toolConfig"]["tools"][1] == {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert dropped == ()
    body, dropped = asked(LLAMA, messages=messages)
    assert (body["system"], dropped) == ([{"text": "Long"}], ("cache_control",))
    body, _ = asked(cache_control={"type": "ephemeral"})
    assert body["messages"][-1]["content"][-1] == {"cachePoint": {"type": "default"}}


def test_blank_texts_are_left_out_and_turns_are_merged():
    messages = [
        {"role": "user", "content": "One"},
        {"role": "user", "content": " \n"},
        {"role": "user", "content": "Two"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "Three"},
    ]
    assert asked(messages=messages)[0]["messages"] == [
        {"role": "user", "content": [{"text": "One"}, {"text": "Two"}, {"text": "Three"}]}
    ]


def loop(*more: dict[str, Any], id: str = "call/1 ä") -> list[dict[str, Any]]:
    call = {"id": id, "type": "function", "function": {"name": "weather", "arguments": '{"a":1}'}}
    return [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": id, "content": "rain"},
        *more,
    ]


def test_ids_of_other_upstreams_are_made_fit_the_same_in_call_and_result():
    messages = asked(messages=loop(), tools=[weather()])[0]["messages"]
    id = messages[1]["content"][0]["toolUse"]["toolUseId"]
    assert messages[2]["content"][0]["toolResult"] == {"toolUseId": id, "content": [{"text": "rain"}]}
    kept = asked(messages=loop(id="tooluse_1"), tools=[weather()])[0]["messages"]
    assert kept[1]["content"][0]["toolUse"]["toolUseId"] == "tooluse_1"


@pytest.mark.parametrize("model", [LLAMA, MISTRAL])
def test_families_that_take_a_result_alone_are_told_nothing_beside_it(model):
    asked(model, messages=loop())
    with pytest.raises(InvalidRequest, match="nothing beside"):
        asked(model, messages=loop({"role": "user", "content": "And?"}))
    asked(CLAUDE, messages=loop({"role": "user", "content": "And?"}))


# Tools


def test_tools_have_their_whole_schema_and_a_description():
    body, dropped = asked(tools=[weather(strict=True)])
    spec = body["toolConfig"]["tools"][0]["toolSpec"]
    assert (spec["name"], spec["description"], spec["strict"]) == ("weather", "weather", True)
    assert spec["inputSchema"]["json"]["additionalProperties"] is False
    assert dropped == ("tools.minimum",)
    body, dropped = asked(NOVA, tools=[weather(strict=True)])
    assert (body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"], dropped) == (
        {"json": SCHEMA},
        ("tools.strict",),
    )


NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize(
    ("model", "choice", "expected", "dropped"),
    [
        (CLAUDE, "auto", {"auto": {}}, ()),
        (CLAUDE, "required", {"any": {}}, ()),
        (CLAUDE, NAMED, {"tool": {"name": "weather"}}, ()),
        (MISTRAL, NAMED, {"any": {}}, ()),
        (LLAMA, "required", None, ("tool_choice",)),
        (LLAMA, NAMED, None, ("tool_choice",)),
        (LLAMA, "auto", {"auto": {}}, ()),
        ("ai21.jamba-1-5-large-v1:0", "auto", None, ()),
        ("us.anthropic.claude-fable-5-v1:0", "required", None, ("tool_choice",)),
    ],
)
def test_tool_choices_as_far_as_the_family_knows_them(model, choice, expected, dropped):
    other = {"type": "function", "function": {"name": "other"}}
    body, lost = asked(model, tools=[weather(), other], tool_choice=choice)
    assert body["toolConfig"].get("toolChoice") == expected
    assert lost == dropped
    # A tool that must be called but can't be named is the only one that is left.
    alone = choice is NAMED and "tool" not in choices_of(model)
    assert len(body["toolConfig"]["tools"]) == (1 if alone else 2)


def choices_of(model: str) -> tuple[str, ...]:
    return family(model, asking(model).target.upstream).choices


def test_no_tools_is_no_tool_config_but_for_calls_of_the_past():
    assert "toolConfig" not in asked(tools=[weather()], tool_choice="none")[0]
    body, dropped = asked(messages=loop(), tools=[weather()], tool_choice="none")
    assert (len(body["toolConfig"]["tools"]), dropped) == (1, ("tool_choice",))
    body, dropped = asked(messages=loop())
    assert (body["toolConfig"]["tools"][0]["toolSpec"]["name"], dropped) == ("weather", ())


def test_parallel_tool_calls_are_reported():
    assert asked(tools=[weather()], parallel_tool_calls=False)[1] == ("parallel_tool_calls",)
    assert asked(tools=[weather()], parallel_tool_calls=True)[1] == ()


# Settings


def test_limits_sampling_stops_and_vendor_fields():
    body, dropped = asked(
        NOVA,
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        stop=["END", " "],
        service_tier="flex",
        guardrailConfig={"guardrailIdentifier": "g", "guardrailVersion": "1"},
        requestMetadata={"team": "a"},
        performanceConfig={"latency": "optimized"},
        additionalModelRequestFields={"x": 1},
        seed=3,
    )
    assert body["inferenceConfig"] == {
        "maxTokens": 5,
        "temperature": 0.5,
        "topP": 0.9,
        "stopSequences": ["END"],
    }
    assert body["additionalModelRequestFields"] == {"inferenceConfig": {"topK": 7}, "x": 1}
    assert body["serviceTier"] == {"type": "flex"}
    assert body["guardrailConfig"]["guardrailIdentifier"] == "g"
    assert set(dropped) == {"stop", "seed"}


def test_top_k_goes_where_the_family_has_it():
    assert asked(CLAUDE_3, top_k=7)[0]["additionalModelRequestFields"] == {"top_k": 7}
    assert asked("cohere.command-r-v1:0", top_k=7)[0]["additionalModelRequestFields"] == {"k": 7}
    assert asked(LLAMA, top_k=7)[1] == ("top_k",)


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        (CLAUDE, "low", {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
        (
            "global.anthropic.claude-opus-4-6-v1:0",
            "high",
            {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "high"}},
        ),
        ("openai.gpt-oss-120b-1:0", "minimal", {"reasoning_effort": "low"}),
        ("qwen.qwen3-32b-v1:0", "medium", {"reasoning_config": "high"}),
        (
            "us.amazon.nova-2-lite-v1:0",
            "high",
            {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}},
        ),
    ],
)
def test_efforts_in_the_words_of_each_family(model, effort, expected):
    body, dropped = asked(model, reasoning_effort=effort, max_tokens=4000)
    assert (body["additionalModelRequestFields"], dropped) == (expected, ())


def test_efforts_that_can_not_be_said_are_reported():
    assert asked(LLAMA, reasoning_effort="low")[1] == ("reasoning_effort",)
    assert asked(LLAMA, reasoning_effort="none")[1] == ()
    assert asked(CLAUDE_3, reasoning_effort="low")[1] == ("reasoning_effort",)
    assert asked(CLAUDE, reasoning_effort="low", max_tokens=500)[1] == ("reasoning_effort",)
    assert asked(LLAMA, thinking={"type": "enabled", "budget_tokens": 2000})[1] == ("thinking",)
    with pytest.raises(InvalidRequest):
        asked(thinking="yes")


def test_sampling_beside_thinking_is_reported():
    body, dropped = asked(reasoning_effort="low", max_tokens=4000, temperature=0.3, top_k=3)
    assert ("temperature" in body["inferenceConfig"], dropped) == (False, ("temperature", "top_k"))
    assert asked("anthropic.claude-opus-4-7-v1:0", temperature=0.3, top_p=0.5)[1] == ("temperature", "top_p")
    assert asked(NOVA, temperature=1.5)[0]["inferenceConfig"]["temperature"] == 1


def test_strict_calls_are_refused_what_they_would_lose():
    with pytest.raises(InvalidRequest, match="seed"):
        asked(strict=True, seed=1)


FORM = {"type": "json_schema", "json_schema": {"name": "my answer", "schema": SCHEMA}}


def test_structured_output_where_the_model_has_it():
    body, dropped = asked(response_format=FORM)
    form = body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert orjson.loads(form["schema"])["additionalProperties"] is False
    assert dropped == ("response_format.minimum",)
    body, dropped = asked(response_format={"type": "json_object"})
    assert ("JSON" in body["system"][0]["text"], dropped) == (True, ("response_format",))
    with pytest.raises(InvalidRequest, match="structured output"):
        asked(LLAMA, response_format=FORM)


def test_structured_output_by_a_forced_tool_elsewhere():
    body, _ = asked(CLAUDE_3, response_format=FORM)
    assert body["toolConfig"]["toolChoice"] == {"tool": {"name": "my_answer"}}
    call = chat(stream=True, response_format=FORM)
    raw = START + tool(0, "t", "my_answer", '{"a":', "1}") + ending("tool_use")
    said = heard(raw, call, model=CLAUDE_3)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in said) == '{"a":1}'
    assert said[-1]["choices"][0]["finish_reason"] == "stop"


# Answers


def test_the_id_is_the_upstreams_and_usage_comes_after_the_stop():
    call = chat(stream=True, stream_options={"include_usage": True})
    said = heard(START + text(0, "Hi") + ending("end_turn", cacheReadInputTokens=3), call)
    assert {chunk["id"] for chunk in said} == {"abc-1"}
    assert said[-1]["usage"]["prompt_tokens"] == 12


def test_cached_tokens_that_openais_models_count_inside_are_not_counted_twice():
    raw = START + text(0, "Hi") + ending("end_turn", cacheReadInputTokens=4)
    reply = dialect("bedrock", Memory()).reply(
        chat(stream=True), asking("openai.gpt-oss-20b-1:0"), 200, FRAMES
    )
    reply.feed(raw)
    assert reply.usage == Usage(input=5, cached=4, output=5, reported=True)


def test_usage_that_is_none_is_estimated():
    reply = dialect("bedrock", Memory()).reply(chat(stream=True), asking(), 200, FRAMES)
    reply.feed(START + text(0, "Hi there") + event("messageStop", stopReason="end_turn"))
    reply.feed(b"")
    assert (reply.finished, reply.usage.reported, reply.usage.output) == (True, False, 2)
    assert reply.notes["usage"] == "missing"


@pytest.mark.parametrize("reason", ["malformed_model_output", "malformed_tool_use"])
def test_a_malformed_answer_is_an_error_whose_usage_is_known(reason):
    reply = dialect("bedrock", Memory()).reply(chat(stream=True), asking(), 200, FRAMES)
    reply.feed(START + text(0, "Hi") + ending(reason))
    assert (reply.finished, reply.usage) == (False, Usage(input=9, output=5, reported=True))
    assert b'"error"' in reply.close(None, "r")
    answer = dialect("bedrock", Memory()).reply(chat(), asking(), 200, JSON)
    answer.feed(whole(reason, {"text": "x"}))
    with pytest.raises(UpstreamUnavailable):
        answer.feed(b"")


@pytest.mark.parametrize("streamed", [True, False])
def test_reasoning_survives_a_tool_loop_through_a_client_that_knows_nothing_of_it(streamed):
    memory = Memory()
    blocks = {"reasoningText": {"text": "Hm, rain", "signature": "sig=="}}
    if streamed:
        raw = (
            START
            + thinking(0, "sig==", "Hm, ", "rain")
            + tool(1, "t1", "weather", '{"a":1}')
            + ending("tool_use")
        )
        heard(raw, chat(stream=True), memory)
    else:
        reply = dialect("bedrock", memory).reply(chat(), asking(), 200, JSON)
        use = {"toolUse": {"toolUseId": "t1", "name": "weather", "input": {"a": 1}}}
        reply.feed(whole("tool_use", {"reasoningContent": blocks}, use))
        reply.feed(b"")
    turn = asked(memory=memory, messages=loop(id="t1"), tools=[weather()])[0]["messages"][1]["content"]
    assert turn[0] == {"reasoningContent": blocks}
    assert turn[1]["toolUse"]["toolUseId"] == "t1"
    stranger = dialect("bedrock", memory).request(
        parse(orjson.dumps({"model": "m", "messages": loop(id="t1")}), "chat", owner="other"), asking()
    )
    assert b"reasoningContent" not in stranger.body
    body, dropped = asked(memory=memory, messages=loop(id="t1"), reasoning_effort="low", max_tokens=4000)
    assert (body["additionalModelRequestFields"]["thinking"]["type"], dropped) == ("enabled", ())
    assert asked(messages=loop(id="t1"), reasoning_effort="low", max_tokens=4000)[1] == ("reasoning_effort",)


def test_reasoning_that_the_client_sends_back_is_used_and_foreign_reasoning_is_not():
    detail = {"type": "reasoning.text", "text": "Hm", "signature": "s", "format": "anthropic-claude-v1"}
    for form, expected in (("anthropic-claude-v1", 2), ("google-gemini-v1", 1)):
        messages = loop(id="t1")
        messages[1]["reasoning_details"] = [{**detail, "format": form}]
        assert len(asked(messages=messages, tools=[weather()])[0]["messages"][1]["content"]) == expected


# Errors and what is no answer


@pytest.mark.parametrize(
    ("status", "kind", "message", "expected"),
    [
        (400, "ValidationException:http://x", "messages.0 is bad", InvalidRequest),
        (400, "ServiceQuotaExceededException", "quota", UpstreamUnavailable),
        (400, "ExpiredTokenException", "expired", UpstreamUnavailable),
        (
            400,
            "ValidationException",
            "Invocation of model ID a with on-demand throughput",
            UpstreamUnavailable,
        ),
        (403, "AccessDeniedException", "You don't have access to the model", UpstreamUnavailable),
        (404, "ResourceNotFoundException", "end of its life", UpstreamUnavailable),
        (429, "ThrottlingException", "slow", UpstreamUnavailable),
        (503, "ServiceUnavailableException", "busy", UpstreamUnavailable),
    ],
)
def test_errors_by_their_type(status, kind, message, expected):
    reply = dialect("bedrock", Memory()).reply(chat(), asking(), status, {**JSON, "x-amzn-errortype": kind})
    reply.feed(orjson.dumps({"message": message}))
    with pytest.raises(expected) as caught:
        reply.feed(b"")
    assert expected is InvalidRequest or message not in caught.value.message


@pytest.mark.parametrize(
    ("stream", "status", "kind"),
    [
        (True, 200, "application/json"),
        (False, 200, "application/vnd.amazon.eventstream"),
        (False, 202, "application/json"),
    ],
)
def test_heads_that_can_not_be_are_refused(stream, status, kind):
    with pytest.raises(UpstreamUnavailable):
        dialect("bedrock", Memory()).reply(chat(stream=stream), asking(), status, {"content-type": kind})


# Families


def test_names_are_found_without_their_regions():
    assert model_name("us-gov.anthropic.claude-3-haiku") == "anthropic.claude-3-haiku"
    assert model_name("arn:aws:bedrock:eu-west-1::foundation-model/mistral.x") == "mistral.x"
    assert model_name("amazon.nova-pro-v1:0") == "amazon.nova-pro-v1:0"
    assert all(prefix == prefix.lower() for prefix in FAMILIES)


def test_the_config_may_say_what_a_model_takes():
    profile = Upstream("aws", "bedrock", BASE, options={"quirks": {"cache": True, "choices": ("auto",)}})
    found = family("arn:aws:bedrock:x:1:application-inference-profile/abc", profile)
    assert (found.cache, found.choices) == (True, ("auto",))


# Embeddings


def embeddings(
    model: str, answers: list[Any] | None = None, **fields: Any
) -> tuple[Any, list[dict[str, Any]], Any]:
    """The bodies that are sent, and the client's answer to these answers."""
    call = parse(orjson.dumps({"model": "m", "input": ["a", "b"], **fields}), "embeddings")
    speaker = dialect("bedrock", Memory())
    outgoing = speaker.request(call, asking(model))
    sent = [orjson.loads(part.body) for part in outgoing.parts]
    if answers is None:
        return outgoing, sent, None
    reply = speaker.reply(call, asking(model), 200, {"content-type": "application/json"})
    reply.feed(orjson.dumps(answers))
    reply.feed(b"")
    return outgoing, sent, (orjson.loads(reply.close()), reply.usage)


def part_answer(body: Any, tokens: str | None = None) -> dict[str, Any]:
    return {"headers": {"x-amzn-bedrock-input-token-count": tokens} if tokens else {}, "body": body}


def test_titan_is_asked_text_by_text():
    answers = [
        part_answer({"embedding": [1.0, 2.0], "inputTextTokenCount": 3}, "3"),
        part_answer({"embedding": [3, 4], "inputTextTokenCount": 4}),
    ]
    outgoing, sent, (body, usage) = embeddings(
        "amazon.titan-embed-text-v2:0", answers, dimensions=256, normalize=True
    )
    assert sent == [{"inputText": text, "dimensions": 256, "normalize": True} for text in "ab"]
    assert [item["embedding"] for item in body["data"]] == [[1.0, 2.0], [3, 4]]
    assert (usage.input, usage.reported, body["usage"]["total_tokens"]) == (7, True, 7)
    assert outgoing.parts[0].path == "/model/amazon.titan-embed-text-v2%3A0/invoke"
    assert ("authorization", "Bearer key") in outgoing.parts[0].headers
    assert embeddings("amazon.titan-embed-text-v1", dimensions=256)[0].dropped == ("dimensions",)


def test_cohere_is_asked_ninety_six_at_a_time():
    outgoing, sent, _ = embeddings(
        "cohere.embed-english-v3", input=["x"] * 200, input_type="search_query", dimensions=9
    )
    assert [len(body["texts"]) for body in sent] == [96, 96, 8]
    assert (sent[0]["input_type"], outgoing.dropped) == ("search_query", ("dimensions",))
    _, sent, (body, usage) = embeddings(
        "us.cohere.embed-v4:0",
        [part_answer({"embeddings": {"float": [[1.0], [2.0]]}}, "5")],
        dimensions=512,
        encoding_format="base64",
    )
    assert sent == [
        {
            "texts": ["a", "b"],
            "input_type": "search_document",
            "embedding_types": ["float"],
            "output_dimension": 512,
        }
    ]
    assert struct.unpack("<f", b64decode(body["data"][1]["embedding"])) == (2.0,)
    assert usage == Usage(input=5, reported=True)
    _, _, (body, usage) = embeddings(
        "cohere.embed-multilingual-v3", [part_answer({"embeddings": [[1.0], [2.0]]})]
    )
    assert (len(body["data"]), usage.reported) == (2, False)


def test_nova_is_asked_by_task():
    answers = [part_answer({"embeddings": [{"embeddingType": "TEXT", "embedding": [0.5]}]}, "2")] * 2
    _, sent, (body, usage) = embeddings("amazon.nova-2-multimodal-embeddings-v1:0", answers, dimensions=1024)
    assert sent[0] == {
        "taskType": "SINGLE_EMBEDDING",
        "singleEmbeddingParams": {
            "embeddingPurpose": "GENERIC_INDEX",
            "text": {"value": "a", "truncationMode": "END"},
            "embeddingDimension": 1024,
        },
    }
    assert (len(body["data"]), usage.input) == (2, 4)


def test_each_part_is_signed_for_itself():
    call = parse(b'{"model":"m","input":["a","b"]}', "embeddings")
    where = asking("amazon.titan-embed-text-v2:0", None, access_key_id="A", secret_access_key="s")
    parts = dialect("bedrock", Memory()).request(call, where).parts
    assert len({dict(part.headers)["authorization"] for part in parts}) == 2


@pytest.mark.parametrize(
    ("model", "fields", "words"),
    [
        (CLAUDE, {}, "no embeddings"),
        ("amazon.titan-embed-text-v2:0", {"input": [1, 2]}, "no token lists"),
        ("amazon.titan-embed-text-v2:0", {"input": ["x"] * 2049}, "at most 2048"),
        ("amazon.titan-embed-text-v2:0", {"encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_embeddings_that_can_not_be_made_are_refused(model, fields, words):
    with pytest.raises(InvalidRequest, match=words):
        embeddings(model, **fields)


@pytest.mark.parametrize(
    "answers",
    [
        {},
        [],
        [1],
        [{"body": 1}],
        [part_answer({})] * 2,
        [part_answer({"embedding": ["x"]})] * 2,
        [part_answer({"embedding": [1.0]})],
        [part_answer({"embedding": [1.0]})] * 3,
    ],
)
def test_answers_that_are_no_vectors_are_the_upstreams_fault(answers):
    with pytest.raises(ProxyError) as caught:
        embeddings("amazon.titan-embed-text-v2:0", answers)
    assert isinstance(caught.value, UpstreamUnavailable)
