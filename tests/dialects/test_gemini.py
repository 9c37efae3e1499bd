"""The gemini dialect: what requests become, signatures that survive a tool loop, embeddings."""

from __future__ import annotations

import struct
from base64 import b64decode
from typing import Any

import orjson
import pytest

from tests.dialects.contract import call_of, chunks, heard, heard_whole, played
from tests.dialects.rows import gemini as wire
from tokenhub_proxy import calls
from tokenhub_proxy.dialects import Asking, Memory
from tokenhub_proxy.dialects.gemini import Gemini
from tokenhub_proxy.errors import InvalidRequest, ProxyError, UpstreamUnavailable
from tokenhub_proxy.routes import Target, Upstream

FLASH_3 = "gemini-3-flash-preview"
PRO_3 = "gemini-3-pro-preview"
FLASH_25 = "gemini-2.5-flash"
PRO_25 = "gemini-2.5-pro"
FLASH_2 = "gemini-2.0-flash"
JSON = {"content-type": "application/json"}
SSE = {"content-type": "text/event-stream"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "W", "parameters": SCHEMA}}
OTHER = {"type": "function", "function": {"name": "other"}}
FORM = {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA}}
FOREIGN = "skip_thought_signature_validator"


def asking(model: str = FLASH_3, **more: Any) -> Asking:
    return Asking(Target(Upstream("up", "gemini", "http://up.test/v1beta"), model), "AIza", 1.0, **more)


def asked(model: str = FLASH_3, memory: Memory | None = None, **fields: Any) -> tuple[Any, tuple[str, ...]]:
    """The upstream's body and what was dropped."""
    outgoing = Gemini(memory or Memory()).request(call_of(False, **fields), asking(model))
    wire.check(outgoing.body)
    return orjson.loads(outgoing.body), outgoing.dropped


def config(model: str = FLASH_3, **fields: Any) -> tuple[Any, tuple[str, ...]]:
    body, dropped = asked(model, **fields)
    return body.get("generationConfig", {}), dropped


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


# Requests


@pytest.mark.parametrize(
    ("model", "stream", "path"),
    [
        (FLASH_3, False, "/models/gemini-3-flash-preview:generateContent"),
        (FLASH_3, True, "/models/gemini-3-flash-preview:streamGenerateContent?alt=sse"),
        ("models/x", False, "/models/x:generateContent"),
        ("tunedModels/x", False, "/tunedModels/x:generateContent"),
        ("x?y#z", False, "/models/x%3Fy%23z:generateContent"),
    ],
)
def test_the_model_is_in_the_path_and_the_key_in_its_header(model: str, stream: bool, path: str) -> None:
    outgoing = Gemini(Memory()).request(call_of(stream), asking(model))
    assert outgoing.path == path
    assert dict(outgoing.headers) == {"content-type": "application/json", "x-goog-api-key": "AIza"}


def test_the_settings_find_their_places() -> None:
    found, dropped = config(
        max_completion_tokens=9,
        temperature=2,
        top_p=0.9,
        top_k=4,
        stop="END",
        n=2,
        seed=7,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logprobs=True,
        top_logprobs=3,
        logit_bias={"1": 1},
        parallel_tool_calls=True,
        user="u",
    )
    assert found == {
        "maxOutputTokens": 9,
        "temperature": 2,
        "topP": 0.9,
        "topK": 4,
        "stopSequences": ["END"],
        "candidateCount": 2,
        "seed": 7,
        "presencePenalty": 0.5,
        "frequencyPenalty": -0.5,
        "responseLogprobs": True,
        "logprobs": 3,
    }
    assert dropped == ("logit_bias", "user")


def test_no_limit_is_sent_where_nobody_states_one_and_the_holds_where_it_does() -> None:
    assert config() == ({}, ())
    outgoing = Gemini(Memory()).request(call_of(False), asking(output_max=300, output_default=8000))
    assert orjson.loads(outgoing.body)["generationConfig"] == {"maxOutputTokens": 300}


def test_a_clients_own_config_passes_but_for_its_limits() -> None:
    own = {
        "maxOutputTokens": 10**6,
        "candidateCount": 8,
        "topK": 2,
        "mediaResolution": "MEDIA_RESOLUTION_LOW",
    }
    body, dropped = asked(
        generation_config=own,
        top_k=3,
        safety_settings=[{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        cachedContent="cachedContents/1",
    )
    assert body["generationConfig"] == {"topK": 3, "mediaResolution": "MEDIA_RESOLUTION_LOW"}
    assert body["safetySettings"][0]["threshold"] == "BLOCK_NONE"
    assert body["cachedContent"] == "cachedContents/1"
    assert set(dropped) == {"generationConfig.maxOutputTokens", "generationConfig.candidateCount"}


def test_turns_results_and_pictures() -> None:
    listed = [
        {"id": id, "type": "function", "function": {"name": "weather", "arguments": "{}"}} for id in "ab"
    ]
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    body, dropped = asked(
        messages=[
            {"role": "system", "content": "s"},
            {"role": "user", "content": [picture, {"type": "text", "text": "Hi", "cache_control": {}}]},
            {"role": "assistant", "content": None, "reasoning_content": "Hm", "tool_calls": listed},
            {"role": "tool", "tool_call_id": "a", "content": '{"sun": 1}'},
            {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "[1]"}, picture]},
            {"role": "user", "content": "and?"},
        ]
    )
    inline = {
        "inlineData": {"mimeType": "image/png", "data": "AAAA"},
        "mediaResolution": {"level": "MEDIA_RESOLUTION_LOW"},
    }
    assert body["systemInstruction"] == {"parts": [{"text": "s"}]}
    assert body["contents"] == [
        {"role": "user", "parts": [inline, {"text": "Hi"}]},
        {
            "role": "model",
            "parts": [
                {
                    "functionCall": {"id": "a", "name": "weather", "args": {}},
                    "thoughtSignature": FOREIGN,
                },
                {"functionCall": {"id": "b", "name": "weather", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "a", "name": "weather", "response": {"sun": 1}}},
                {"functionResponse": {"id": "b", "name": "weather", "response": {"output": "[1]"}}},
                {"text": "and?"},
                inline,
            ],
        },
    ]
    assert dropped == ("cache_control",)


def test_files_sound_and_addresses() -> None:
    body, dropped = asked(
        FLASH_25,
        messages=user(
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERg=="}},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "high"}},
        ),
    )
    assert body["contents"][0]["parts"] == [
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBERg=="}},
        {"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}},
        {"fileData": {"fileUri": "https://x.test/a.png"}},
    ]
    assert dropped == ("image_url.detail",)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "image_url", "image_url": {"url": "data:;base64,AAAA"}},
    ],
)
def test_parts_that_can_not_be_said_are_refused_by_their_place(part: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(messages=user(part))
    assert caught.value.param == "messages[0].content[0]"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        (
            {"type": "function", "function": {"name": "other"}},
            {"mode": "ANY", "allowedFunctionNames": ["other"]},
        ),
    ],
)
def test_every_form_of_tool_choice(choice: Any, expected: Any) -> None:
    body, dropped = asked(tools=[TOOL, OTHER], tool_choice=choice)
    declared = body["tools"][0]["functionDeclarations"]
    assert [tool["name"] for tool in declared] == ["weather", "other"]
    assert declared[0]["parametersJsonSchema"] == SCHEMA
    assert body.get("toolConfig", {}).get("functionCallingConfig") == expected
    assert dropped == ()


def test_allowed_tools_for_auto_are_the_only_ones_offered() -> None:
    allowed = {"mode": "auto", "tools": [OTHER]}
    body, _ = asked(tools=[TOOL, OTHER], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert [tool["name"] for tool in body["tools"][0]["functionDeclarations"]] == ["other"]


def test_strict_tools_are_validated_where_all_are_and_the_model_can() -> None:
    strict = {"type": "function", "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]
    body, dropped = asked(tools=[strict], parallel_tool_calls=False)
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}
    assert dropped == ("parallel_tool_calls",)
    assert asked(tools=[strict, OTHER])[1] == ("tools.strict",)
    assert asked(FLASH_2, tools=[strict])[1] == ("tools.strict",)


def test_schemas_stay_whole_but_for_what_the_upstream_does_not_know() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "const": {"const": "C"},
            "n": {"type": "integer", "exclusiveMinimum": 0, "description": "N."},
            "next": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]},
        },
        "$defs": {"a": {"type": "object", "examples": [1], "additionalProperties": False}},
    }
    tool = {"type": "function", "function": {"name": "t", "parameters": schema}}
    body, dropped = asked(tools=[tool])
    assert body["tools"][0]["functionDeclarations"][0]["parametersJsonSchema"] == {
        "type": "object",
        "properties": {
            "const": {"enum": ["C"]},
            "n": {"type": "integer", "description": "N. (exclusiveMinimum: 0)"},
            "next": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]},
        },
        "$defs": {"a": {"type": "object", "additionalProperties": False}},
    }
    assert dropped == ("tools.exclusiveMinimum",)


def test_response_formats() -> None:
    json = {"responseMimeType": "application/json"}
    assert config(response_format={"type": "json_object"}) == (json, ())
    assert config(response_format=FORM) == ({**json, "responseJsonSchema": SCHEMA}, ())
    assert config(response_format=FORM, tools=[TOOL])[0] == {**json, "responseJsonSchema": SCHEMA}
    with pytest.raises(InvalidRequest) as caught:
        asked(FLASH_25, response_format=FORM, tools=[TOOL])
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    ("model", "effort", "thinking", "dropped"),
    [
        (FLASH_25, "none", {"thinkingBudget": 0}, ()),
        (FLASH_25, "low", {"thinkingBudget": 1024, "includeThoughts": True}, ()),
        (FLASH_25, "max", {"thinkingBudget": 24576, "includeThoughts": True}, ()),
        (PRO_25, "none", {"thinkingBudget": 128}, ("reasoning_effort",)),
        (PRO_25, "max", {"thinkingBudget": 32768, "includeThoughts": True}, ()),
        (FLASH_3, "none", {"thinkingLevel": "MINIMAL"}, ("reasoning_effort",)),
        (FLASH_3, "medium", {"thinkingLevel": "MEDIUM", "includeThoughts": True}, ()),
        (PRO_3, "minimal", {"thinkingLevel": "LOW", "includeThoughts": True}, ()),
        (PRO_3, "medium", {"thinkingLevel": "HIGH", "includeThoughts": True}, ()),
        (PRO_3, "xhigh", {"thinkingLevel": "HIGH", "includeThoughts": True}, ()),
        (FLASH_2, "high", None, ("reasoning_effort",)),
        (FLASH_2, "none", None, ()),
    ],
)
def test_effort_is_what_the_model_knows(model: str, effort: str, thinking: Any, dropped: Any) -> None:
    found, lost = config(model, reasoning_effort=effort)
    assert found.get("thinkingConfig") == thinking
    assert lost == dropped


# Signatures


def answered(memory: Memory, *parts: Any, owner: str = "main") -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    call = calls.parse(orjson.dumps(body), "chat", owner=owner)
    reply = Gemini(memory).reply(call, asking(), 200, SSE)
    said, rest = played(reply, [wire.sse(*(wire.piece(part) for part in parts), wire.piece(reason="STOP"))])
    return said + rest


def again(memory: Memory, tool_calls: list[dict[str, Any]], model: str = FLASH_3) -> list[Any]:
    """The parts of the model's turn when an OpenAI client asks again."""
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": tool_calls},
        *({"role": "tool", "tool_call_id": tool["id"], "content": "x"} for tool in tool_calls),
    ]
    body, _ = asked(model, memory=memory, messages=messages)
    parts: list[Any] = body["contents"][1]["parts"]
    return parts


def plain(tools: Any) -> list[dict[str, Any]]:
    """What a plain client keeps of tool calls."""
    return [
        {"id": id, "type": "function", "function": {"name": name, "arguments": orjson.dumps(given).decode()}}
        for id, name, given in tools
    ]


SIGNED = {**wire.function("weather", {"city": "Rom"}), "thoughtSignature": "c2ln"}


def test_signatures_survive_a_tool_loop_of_an_unmodified_client() -> None:
    memory = Memory()
    found = heard(answered(memory, SIGNED, wire.function("other")))
    parts = again(memory, plain(found.tools))
    assert [part.get("thoughtSignature") for part in parts] == ["c2ln", None]
    assert parts[0]["functionCall"]["args"] == {"city": "Rom"}


def test_another_account_never_gets_somebodys_signature() -> None:
    memory = Memory()
    found = heard(answered(memory, SIGNED, owner="other"))
    assert again(memory, plain(found.tools))[0]["thoughtSignature"] == FOREIGN


def test_a_signature_that_the_client_sends_back_is_taken() -> None:
    said = chunks(answered(Memory(), SIGNED))
    (call,) = (
        tool
        for chunk in said
        for choice in chunk["choices"]
        for tool in choice["delta"].get("tool_calls", [])
    )
    assert call["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    del call["index"]
    assert again(Memory(), [call])[0]["thoughtSignature"] == "c2ln"


def test_models_without_signatures_get_none() -> None:
    assert "thoughtSignature" not in again(Memory(), plain([("a", "weather", {})]), FLASH_25)[0]


def test_ids_of_ours_are_the_same_for_the_same_answer_and_never_for_two_calls() -> None:
    calls_ = wire.function("a"), wire.function("a"), wire.function("a")
    first, second = heard(answered(Memory(), *calls_)), heard(answered(Memory(), *calls_))
    assert first == second
    assert len({id for id, _, _ in first.tools}) == 3
    raw = wire.sse(
        {**wire.piece(*calls_), "responseId": "resp-2"}, {**wire.piece(reason="STOP"), "responseId": "resp-2"}
    )
    said, _ = played(Gemini(Memory()).reply(call_of(True), asking(), 200, SSE), [raw])
    assert not {id for id, _, _ in heard(said).tools} & {id for id, _, _ in first.tools}


# Replies


def test_a_stream_of_two_choices_is_not_finished_by_one() -> None:
    reply = Gemini(Memory()).reply(call_of(True, n=2), asking(), 200, SSE)
    reply.feed(wire.sse(wire.piece({"text": "a"}, reason="STOP")))
    assert not reply.finished
    reply.feed(wire.sse(wire.piece({"text": "b"}, reason="STOP", index=1)))
    assert reply.finished


def test_a_connection_that_breaks_after_the_reason_has_a_whole_answer() -> None:
    reply = Gemini(Memory()).reply(call_of(True), asking(), 200, SSE)
    raw = wire.sse(wire.piece({"text": "a"}, reason="STOP", usage=wire.tokens(8, 1)))
    said, rest = played(reply, [raw], clean=False)
    assert heard(said + rest).finish == "stop"
    assert rest.endswith(b"data: [DONE]\n\n")


def test_logprobs_are_openais() -> None:
    token = {"token": "ä", "tokenId": 1, "logProbability": -0.5}
    result = {"chosenCandidates": [token], "topCandidates": [{"candidates": [token]}]}
    raw = orjson.dumps(wire.piece({"text": "ä"}, reason="STOP", logprobsResult=result))
    _, body = played(Gemini(Memory()).reply(call_of(False, logprobs=True), asking(), 200, JSON), [raw])
    told = {"token": "ä", "logprob": -0.5, "bytes": [195, 164]}
    assert orjson.loads(body)["choices"][0]["logprobs"] == {
        "content": [{**told, "top_logprobs": [told]}],
        "refusal": None,
    }


def test_a_failed_call_under_a_whole_answer_is_the_upstreams_fault_and_named() -> None:
    raw = orjson.dumps(wire.piece(reason="MALFORMED_FUNCTION_CALL"))
    with pytest.raises(UpstreamUnavailable, match="MALFORMED_FUNCTION_CALL"):
        played(Gemini(Memory()).reply(call_of(False), asking(), 200, JSON), [raw])


def test_a_missing_usage_is_estimated_and_marked() -> None:
    raw = orjson.dumps(wire.piece({"text": "x" * 40}, reason="STOP"))
    reply = Gemini(Memory()).reply(call_of(False), asking(), 200, JSON)
    _, body = played(reply, [raw])
    assert heard_whole(body).text == "x" * 40
    assert (reply.usage.output, reply.usage.reported) == (10, False)
    assert orjson.loads(body)["usage"]["completion_tokens"] == 10
    assert reply.notes["usage"] == "missing"


# Embeddings


def embedding(given: Any = "a", **fields: Any) -> calls.Call:
    return calls.parse(orjson.dumps({"model": "m", "input": given, **fields}), "embeddings", owner="main")


def test_every_text_is_a_request_of_its_own() -> None:
    outgoing = Gemini(Memory()).request(
        embedding(["a", "b"], dimensions=3, user="u", taskType="RETRIEVAL_QUERY"),
        asking("gemini-embedding-001"),
    )
    assert outgoing.path == "/models/gemini-embedding-001:batchEmbedContents"
    wire.check(outgoing.body)
    requests = orjson.loads(outgoing.body)["requests"]
    assert requests[1] == {
        "model": "models/gemini-embedding-001",
        "content": {"parts": [{"text": "b"}]},
        "outputDimensionality": 3,
        "taskType": "RETRIEVAL_QUERY",
    }
    assert outgoing.dropped == ("user",)


VECTORS = orjson.dumps({"embeddings": [{"values": [0.5, -1, 0]}, {"values": [1e-3, 2, 3]}]})


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_vectors_come_in_the_encoding_that_was_asked_for(encoding: Any) -> None:
    reply = Gemini(Memory()).reply(embedding(["a", "bcde"], encoding_format=encoding), asking("e"), 200, JSON)
    _, body = played(reply, [VECTORS])
    found = orjson.loads(body)
    vectors = [item["embedding"] for item in found["data"]]
    if encoding == "base64":
        vectors = [list(struct.unpack("<3f", b64decode(vector))) for vector in vectors]
    assert vectors == [pytest.approx([0.5, -1, 0]), pytest.approx([1e-3, 2, 3])]
    assert [item["index"] for item in found["data"]] == [0, 1]
    assert found["usage"]["prompt_tokens"] == reply.usage.input > 0
    assert not reply.usage.reported
    assert reply.notes["usage"] == "missing"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"given": [1, 2]}, "input"),
        ({"given": [[1], [2]]}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
    ],
)
def test_what_can_not_be_embedded_is_refused_by_name(fields: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Gemini(Memory()).request(embedding(**fields), asking())
    assert caught.value.param == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"embeddings": []}',
        b'{"embeddings": [{"values": []}]}',
        b'{"embeddings": [{"values": ["x"]}]}',
        b'{"embeddings": [{"values": [1e300]}]}',
        b'{"embeddings": [{"values": [1]}, {"values": [1]}]}',
        b'{"error": {"code": 500, "message": "oops"}}',
    ],
)
def test_vectors_that_are_none_are_the_upstreams_fault(body: bytes) -> None:
    reply = Gemini(Memory()).reply(embedding(encoding_format="base64"), asking("e"), 200, JSON)
    with pytest.raises(ProxyError):
        played(reply, [body])
    assert not reply.finished
