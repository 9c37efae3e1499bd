"""Gemini in the contract suite: its public wire format, with the odd cases of real traffic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from google.genai import types

from tests.dialects.contract import Failing, Heard, Recorded, Row, ending_after, split_sse, sse
from tokenhub_proxy.errors import InvalidRequest, ProxyError, UpstreamUnavailable
from tokenhub_proxy.prices import Usage

MODEL = "gemini-3-flash-preview"


def piece(*parts: Any, reason: Any = None, usage: dict[str, Any] | None = None, **candidate: Any) -> Any:
    told: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0, **candidate}
    if reason is not None:
        told["finishReason"] = reason
    found: dict[str, Any] = {"candidates": [told], "modelVersion": MODEL, "responseId": "resp-1"}
    return found | ({"usageMetadata": usage} if usage else {})


def tokens(prompt: int, output: int | None = None, **more: int) -> dict[str, Any]:
    told = {"promptTokenCount": prompt, "totalTokenCount": prompt + (output or 0), **more}
    return told if output is None else {**told, "candidatesTokenCount": output}


def recorded(
    heard: Heard, usage: Usage, *objects: Any, mark: bytes = b'"finishReason"', **asked: Any
) -> Recorded:
    raw = sse(*objects, end=b"\r\n\r\n")
    return Recorded(raw, heard, usage, ending_after(raw, mark), asked)


def function(name: str, args: Any = None, **more: Any) -> dict[str, Any]:
    return {"functionCall": {"name": name, **({} if args is None else {"args": args}), **more}}


def in_pieces(*pieces: dict[str, Any]) -> dict[str, Any]:
    return {"functionCall": {"partialArgs": list(pieces), "willContinue": True}}


STREAMS = {
    "plain": recorded(
        Heard("Hello wörld 🎉", finish="stop", native="STOP"),
        Usage(input=8, output=6, reported=True),
        piece({"text": "Hel"}, usage=tokens(8)),
        piece({"text": "lo "}, usage=tokens(8, 2)),
        piece({"text": "wörld 🎉"}, reason="STOP", usage=tokens(8, 6)),
    ),
    "a number for a reason, and an end apart": recorded(
        Heard("Hi", finish="length", native="MAX_TOKENS"),
        Usage(input=8, output=2, reported=True),
        piece({"text": "Hi"}),
        piece(reason=2, usage=tokens(8, 2)),
    ),
    "a reason in every chunk": recorded(
        Heard("Hi there", finish="stop", native="STOP"),
        Usage(input=8, output=2, reported=True),
        piece({"text": "Hi"}, reason="STOP", usage=tokens(8, 1)),
        piece({"text": " there"}, reason="STOP", usage=tokens(8, 2)),
    ),
    "thoughts, cache, tool tokens": recorded(
        Heard("42", reasoning="Let me think.", finish="stop", native="STOP"),
        Usage(input=10 + 3 - 4, cached=4, output=2 + 30, reasoning=30, reported=True),
        piece({"text": "Let me ", "thought": True}, usage=tokens(10, thoughtsTokenCount=10)),
        piece({"text": "think.", "thought": True}, usage=tokens(10, thoughtsTokenCount=30)),
        piece({"text": "42"}),
        piece(
            {"text": "", "thoughtSignature": "c2ln"},
            reason="STOP",
            usage=tokens(10, 2, thoughtsTokenCount=30, cachedContentTokenCount=4, toolUsePromptTokenCount=3),
        ),
    ),
    "parallel tools": recorded(
        Heard(
            "Look.",
            tools=(
                ("call_a", "weather", {"city": "Köln", "days": [1, 2]}),
                ("call_b", "now", {}),
            ),
            finish="tool_calls",
            native="STOP",
        ),
        Usage(input=8, output=20, reported=True),
        piece({"text": "Look."}),
        piece(
            {
                **function("weather", {"city": "Köln", "days": [1, 2]}, id="call_a"),
                "thoughtSignature": "c2ln",
            },
            function("now", id="call_b"),
        ),
        piece({"text": ""}, reason="STOP", usage=tokens(8, 20)),
    ),
    "a call in pieces": recorded(
        Heard(
            "",
            tools=(("call_a", "weather", {"city": "New Delhi", "days": [1, {"x": None}], "now": True}),),
            finish="tool_calls",
            native="STOP",
        ),
        Usage(input=8, output=20, reported=True),
        piece({"functionCall": {"name": "weather", "id": "call_a", "willContinue": True}}),
        piece(in_pieces({"jsonPath": "$.city", "stringValue": "New ", "willContinue": True})),
        piece(
            in_pieces(
                {"jsonPath": "$.city", "stringValue": "Delhi"},
                {"jsonPath": "$.days[0]", "numberValue": 1},
                {"jsonPath": "$.days[1]['x']", "nullValue": "NULL_VALUE"},
                {"jsonPath": "$.days.wrong", "numberValue": 1},
                {"jsonPath": "$['now']", "boolValue": True},
            )
        ),
        piece({"functionCall": {}}),
        piece(reason="STOP", usage=tokens(8, 20)),
    ),
    "safety": recorded(
        Heard("Well", finish="content_filter", native="SAFETY"),
        Usage(input=8, output=1, reported=True),
        piece({"text": "Well"}, usage=tokens(8, 1)),
        {
            "candidates": [{"finishReason": "SAFETY", "index": 0}],
            "usageMetadata": tokens(8),
            "responseId": "resp-1",
        },
    ),
    "a blocked prompt": recorded(
        Heard("", finish="content_filter", native="PROHIBITED_CONTENT"),
        Usage(input=8, reported=True),
        {
            "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
            "usageMetadata": tokens(8),
            "modelVersion": MODEL,
            "responseId": "resp-1",
        },
        mark=b'"blockReason"',
    ),
    "code that ran there": recorded(
        Heard("4", finish="stop", native="STOP"),
        Usage(input=8, output=9, reported=True),
        piece({"executableCode": {"language": "PYTHON", "code": "2+2"}}),
        piece({"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "4"}}),
        piece({"text": "4"}, reason="STOP", usage=tokens(8, 9)),
    ),
    "two candidates": recorded(
        Heard("aa", finish="stop", native="STOP", choices=2),
        Usage(input=8, output=4, reported=True),
        piece({"text": "a"}),
        piece({"text": "b"}, index=1),
        piece({"text": "a"}, reason="STOP", usage=tokens(8, 3)),
        piece({"text": "b"}, reason="MAX_TOKENS", index=1, usage=tokens(8, 4)),
        mark=b'"index":1,"finishReason"',
        n=2,
    ),
}


def whole(heard: Heard, usage: Usage, *objects: Any, **asked: Any) -> Recorded:
    return Recorded(orjson.dumps(objects[0] if len(objects) == 1 else objects), heard, usage, asked=asked)


WHOLES = {
    "plain": whole(
        Heard("Hello", finish="stop", native="STOP"),
        Usage(input=8, output=2, reported=True),
        piece({"text": "Hel"}, {"text": "lo"}, reason="STOP", usage=tokens(8, 2)),
    ),
    "a list of objects": whole(
        Heard("Hello", finish="stop", native="STOP"),
        Usage(input=8, output=2, reported=True),
        piece({"text": "Hel"}),
        piece({"text": "lo"}, reason="STOP", usage=tokens(8, 2)),
    ),
    "tools": whole(
        Heard(
            "",
            reasoning="Hm",
            tools=(("a", "weather", {"city": "Rom"}), ("b", "now", {})),
            finish="tool_calls",
            native="STOP",
        ),
        Usage(input=8, output=12, reasoning=2, reported=True),
        piece(
            {"text": "Hm", "thought": True},
            {**function("weather", {"city": "Rom"}, id="a"), "thoughtSignature": "c2ln"},
            function("now", id="b"),
            reason="STOP",
            usage=tokens(8, 10, thoughtsTokenCount=2),
        ),
    ),
    "a blocked prompt": whole(
        Heard("", finish="content_filter", native="SAFETY"),
        Usage(input=8, reported=True),
        {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": tokens(8)},
    ),
}


def error(code: int, status: str, message: str, *details: Any) -> dict[str, Any]:
    told = {"code": code, "message": message, "status": status}
    return {"error": {**told, "details": list(details)} if details else told}


def failing(
    code: int, status: str, message: str, kind: type[ProxyError], *details: Any, **more: Any
) -> Failing:
    return Failing(code, orjson.dumps(error(code, status, message, *details)), kind, **more)


_INFO = "type.googleapis.com/google.rpc."
FAILURES = {
    "bad request": failing(400, "INVALID_ARGUMENT", "topK is wrong", InvalidRequest, says="topK is wrong"),
    "wrong key": failing(
        400,
        "INVALID_ARGUMENT",
        "API key not valid. Please pass a valid API key.",
        UpstreamUnavailable,
        {"@type": _INFO + "ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"},
        hides="key",
    ),
    "an old key": failing(
        400,
        "INVALID_ARGUMENT",
        "API key expired. Please renew the API key.",
        UpstreamUnavailable,
        hides="key",
    ),
    "a wrong place": failing(
        400,
        "FAILED_PRECONDITION",
        "User location is not supported for the API use.",
        UpstreamUnavailable,
        hides="location",
    ),
    "forbidden": failing(403, "PERMISSION_DENIED", "Project 12", UpstreamUnavailable, hides="Project"),
    "no model": failing(404, "NOT_FOUND", "models/x is not found", UpstreamUnavailable, hides="models/x"),
    "limited": failing(
        429,
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota",
        UpstreamUnavailable,
        {"@type": _INFO + "RetryInfo", "retryDelay": "34.07s"},
        hides="quota",
        retry_after_s=34.07,
    ),
    "limited for long": failing(
        429,
        "RESOURCE_EXHAUSTED",
        "Quota",
        UpstreamUnavailable,
        {"@type": _INFO + "RetryInfo", "retryDelay": "86400s"},
        retry_after_s=120.0,
    ),
    "broken": failing(500, "INTERNAL", "oops", UpstreamUnavailable),
    "overloaded": failing(503, "UNAVAILABLE", "overloaded", UpstreamUnavailable),
    "a list": Failing(
        400,
        orjson.dumps([error(400, "INVALID_ARGUMENT", "topK is wrong")]),
        InvalidRequest,
        says="topK is wrong",
    ),
    "a page": Failing(502, b"<html>Bad gateway</html>", UpstreamUnavailable, hides="html"),
}

_OVERLOADED = error(503, "UNAVAILABLE", "overloaded")
EARLY = {
    "overloaded": (sse(_OVERLOADED, end=b"\r\n\r\n"), UpstreamUnavailable),
    "bare json": (orjson.dumps(_OVERLOADED, option=orjson.OPT_INDENT_2), UpstreamUnavailable),
    "a bare list": (
        orjson.dumps([error(400, "INVALID_ARGUMENT", "No.")], option=orjson.OPT_INDENT_2),
        InvalidRequest,
    ),
    "a call that went wrong": (sse(piece(reason="MALFORMED_FUNCTION_CALL")), UpstreamUnavailable),
    "no candidates": (sse({"usageMetadata": tokens(8)}), UpstreamUnavailable),
    "nothing": (b"", UpstreamUnavailable),
}


def check(body: bytes) -> None:
    """The body against the SDK's own types, which refuse fields that they don't know."""
    given = orjson.loads(body)
    if "requests" in given:
        for request in given["requests"]:
            types.Content.model_validate(request.pop("content"))
            types.EmbedContentConfig.model_validate(
                {name: value for name, value in request.items() if name != "model"}
            )
        return
    assert given["contents"]
    for content in given.pop("contents"):
        types.Content.model_validate(content)
    types.GenerationConfig.model_validate(given.get("generationConfig", {}))
    types.GenerateContentConfig.model_validate({**given.pop("generationConfig", {}), **given})


def read(body: bytes) -> list[tuple[Any, ...]]:
    found = orjson.loads(body)
    said: list[tuple[Any, ...]] = [
        ("system", part["text"]) for part in found.get("systemInstruction", {"parts": []})["parts"]
    ]
    roles = {"user": "user", "model": "assistant"}
    for content in found["contents"]:
        for part in content["parts"]:
            call, result = part.get("functionCall"), part.get("functionResponse")
            if "text" in part:
                said.append((roles[content["role"]], part["text"]))
            elif call:
                said.append(("call", call["id"], call["name"], call["args"]))
            elif result:
                output = result["response"].get("output")
                plain = output if isinstance(output, str) else orjson.dumps(result["response"]).decode()
                said.append(("result", result["id"], result["name"], plain))
    return said


def answer(words: str, tools: Sequence[tuple[str, str, Any]], stream: bool) -> bytes:
    parts: list[Any] = [{"text": words}] if words else []
    parts += [function(name, given, id=id) for id, name, given in tools]
    if not stream:
        return orjson.dumps(piece(*parts, reason="STOP", usage=tokens(8, 5)))
    return sse(*(piece(part) for part in parts), piece(reason="STOP", usage=tokens(8, 5)), end=b"\r\n\r\n")


ROW = Row(
    name="gemini",
    model=MODEL,
    stream_type="text/event-stream",
    streams=STREAMS,
    wholes=WHOLES,
    failures=FAILURES,
    early_errors=EARLY,
    late_errors={
        "overloaded": sse(_OVERLOADED, end=b"\r\n\r\n"),
        "a call that went wrong": sse(piece(reason="MALFORMED_FUNCTION_CALL"), end=b"\r\n\r\n"),
    },
    check=check,
    read=read,
    answer=answer,
    split=split_sse,
    embeddings=True,
)
