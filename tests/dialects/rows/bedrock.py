"""Bedrock in the contract suite: ConverseStream's frames, Converse's answers, errors as documented."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import orjson
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from tests.dialects.bedrock_streams import (
    START,
    ending,
    event,
    exception,
    frame,
    split_frames,
    text,
    thinking,
    tool,
)
from tests.dialects.contract import Failing, Heard, Recorded, Row
from tokenhub_proxy.errors import InvalidRequest, UpstreamUnavailable
from tokenhub_proxy.prices import Usage

MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
COUNTED = Usage(input=9, output=5, reported=True)


def recorded(heard: Heard, usage: Usage, *parts: bytes) -> Recorded:
    raw = START + b"".join(parts)
    stop = next(part for part in split_frames(raw) if b"messageStop" in part)
    return Recorded(raw, heard, usage, raw.index(stop) + len(stop))


STREAMS = {
    "plain": recorded(
        Heard("Hello wörld 🎉", finish="stop", native="end_turn"),
        COUNTED,
        text(0, "Hel", "lo ", "wörld 🎉"),
        ending("end_turn"),
    ),
    "length": recorded(
        Heard("a", finish="length", native="max_tokens"), COUNTED, text(0, "a"), ending("max_tokens")
    ),
    "nothing said": recorded(Heard(finish="stop", native="end_turn"), COUNTED, ending("end_turn")),
    "guarded": recorded(
        Heard("Sorry.", finish="content_filter", native="guardrail_intervened"),
        COUNTED,
        text(0, "Sorry."),
        ending("guardrail_intervened"),
    ),
    "parallel tools": recorded(
        Heard(
            "Let me see.",
            tools=(
                ("tooluse_a", "weather", {"city": "Köln", "days": [1, 2]}),
                ("tooluse_b", "now", {}),
                ("tooluse_c", "now", {"zone": "UTC"}),
            ),
            finish="tool_calls",
            native="tool_use",
        ),
        COUNTED,
        text(0, "Let me see."),
        tool(1, "tooluse_a", "weather", "", '{"city": "K', 'öln", "days"', ": [1, 2]}"),
        tool(2, "tooluse_b", "now"),
        tool(3, "tooluse_c", "now", '{"zone":"UTC"}'),
        ending("tool_use"),
    ),
    "thinking": recorded(
        Heard(
            "Paris",
            reasoning="Hm, France?",
            tools=(("tooluse_a", "now", {}),),
            finish="tool_calls",
            native="tool_use",
        ),
        COUNTED,
        thinking(0, "sig==", "Hm, ", "France?"),
        event(
            "contentBlockDelta", contentBlockIndex=1, delta={"reasoningContent": {"redactedContent": "RU5D"}}
        ),
        event("contentBlockStop", contentBlockIndex=1),
        text(2, "Paris"),
        tool(3, "tooluse_a", "now"),
        ending("tool_use"),
    ),
    "what the upstream runs itself, citations, and what is new": recorded(
        Heard("Found.", finish="stop", native="end_turn"),
        COUNTED,
        event(
            "contentBlockStart",
            contentBlockIndex=0,
            start={"toolUse": {"toolUseId": "srv", "name": "nova_grounding", "type": "server_tool_use"}},
        ),
        event("contentBlockDelta", contentBlockIndex=0, delta={"toolUse": {"input": '{"q":1}'}}),
        event("contentBlockStop", contentBlockIndex=0),
        event("contentBlockDelta", contentBlockIndex=1, delta={"text": "Found."}),
        event("contentBlockDelta", contentBlockIndex=1, delta={"citation": {"title": "t"}}),
        event("somethingNew", contentBlockIndex=7),
        ending("end_turn"),
    ),
    "cache": recorded(
        Heard("ok", finish="stop", native="stop_sequence"),
        Usage(input=9, cached=100, cache_write=7, output=5, reported=True),
        text(0, "ok"),
        ending("stop_sequence", cacheReadInputTokens=100, cacheWriteInputTokens=7, totalTokens=121),
    ),
}


def whole(reason: str, *content: dict[str, Any], **usage: int) -> bytes:
    """An answer of Converse."""
    counts = {"inputTokens": 9, "outputTokens": 5, "totalTokens": 14, **usage}
    message = {"role": "assistant", "content": list(content)}
    told = {"metrics": {"latencyMs": 551}, "output": {"message": message}}
    return orjson.dumps({**told, "stopReason": reason, "usage": counts})


WHOLES = {
    "plain": Recorded(
        whole("end_turn", {"text": "Hel"}, {"text": "lo"}),
        Heard("Hello", finish="stop", native="end_turn"),
        COUNTED,
    ),
    "tools": Recorded(
        whole(
            "tool_use",
            {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "s"}}},
            {"toolUse": {"toolUseId": "a", "name": "weather", "input": {"city": "Rom"}}},
            {"toolUse": {"toolUseId": "b", "name": "now", "input": {}}},
            cacheReadInputTokens=4,
        ),
        Heard(
            reasoning="Hm",
            tools=(("a", "weather", {"city": "Rom"}), ("b", "now", {})),
            finish="tool_calls",
            native="tool_use",
        ),
        Usage(input=9, cached=4, output=5, reported=True),
    ),
    "citations": Recorded(
        whole("end_turn", {"citationsContent": {"content": [{"text": "Cited."}], "citations": []}}),
        Heard("Cited.", finish="stop", native="end_turn"),
        COUNTED,
    ),
    "nothing": Recorded(
        whole("model_context_window_exceeded"),
        Heard(finish="length", native="model_context_window_exceeded"),
        COUNTED,
    ),
}

FAILURES = {
    "bad request": Failing(
        400, b'{"message":"The text field is blank."}', InvalidRequest, says="text field is blank"
    ),
    "wrong model": Failing(
        400,
        b'{"message":"The provided model identifier is invalid."}',
        UpstreamUnavailable,
        hides="identifier",
    ),
    "no profile": Failing(
        400,
        b'{"message":"Invocation of model ID x with on-demand throughput isn\xe2\x80\x99t supported."}',
        UpstreamUnavailable,
        hides="throughput",
    ),
    "wrong key": Failing(
        403,
        b'{"Message":"Authentication failed: Please make sure your API Key is valid."}',
        UpstreamUnavailable,
        hides="Key",
    ),
    "quota": Failing(
        400,
        b'{"__type":"com.amazon#ServiceQuotaExceededException","message":"Your account"}',
        UpstreamUnavailable,
        hides="account",
    ),
    "limited": Failing(
        429, b'{"message":"Too many tokens, your account"}', UpstreamUnavailable, hides="account"
    ),
    "model error": Failing(424, b'{"message":"boom","originalStatusCode":500}', UpstreamUnavailable),
    "broken": Failing(500, b"", UpstreamUnavailable),
}

_THROTTLED = exception("throttlingException", message="Too many requests")
EARLY = {
    "throttled": (_THROTTLED, UpstreamUnavailable),
    "throttled after the head": (START + _THROTTLED, UpstreamUnavailable),
    "bad request": (exception("validationException", message="No."), InvalidRequest),
    "wrong model": (
        exception("validationException", message="The model identifier is bad"),
        UpstreamUnavailable,
    ),
    "an error": (
        frame({":message-type": "error", ":error-code": "500", ":error-message": "x"}),
        UpstreamUnavailable,
    ),
    "no frames": (b'{"message":"Internal server error"}', UpstreamUnavailable),
    "nothing but the head": (START, UpstreamUnavailable),
    "nothing": (b"", UpstreamUnavailable),
    "a malformed answer": (START + ending("malformed_model_output"), UpstreamUnavailable),
}


@cache
def _shape() -> Any:
    model = ServiceModel(Loader().load_service_model("bedrock-runtime", "service-2"))
    return model.operation_model("Converse").input_shape


def check(body: bytes) -> None:
    """The body against AWS's own model of the call."""
    report = ParamValidator().validate({"modelId": MODEL, **orjson.loads(body)}, _shape())
    assert not report.has_errors(), report.generate_report()


def read(body: bytes) -> list[tuple[Any, ...]]:
    found = orjson.loads(body)
    said: list[tuple[Any, ...]] = [("system", part["text"]) for part in found.get("system", [])]
    names: dict[str, str] = {}
    for message in found["messages"]:
        for part in message["content"]:
            if "text" in part:
                said.append((message["role"], part["text"]))
            elif "toolUse" in part:
                use = part["toolUse"]
                names[use["toolUseId"]] = use["name"]
                said.append(("call", use["toolUseId"], use["name"], use["input"]))
            elif "toolResult" in part:
                result = part["toolResult"]
                content = "".join(inner["text"] for inner in result["content"])
                said.append(("result", result["toolUseId"], names[result["toolUseId"]], content))
    return said


def answer(words: str, tools: Sequence[tuple[str, str, Any]], stream: bool) -> bytes:
    reason = "tool_use" if tools else "end_turn"
    if not stream:
        content: list[dict[str, Any]] = [{"text": words}] if words else []
        content += [{"toolUse": {"toolUseId": id, "name": name, "input": given}} for id, name, given in tools]
        return whole(reason, *content)
    said = text(0, words[:3], words[3:]) if words else b""
    for index, (id, name, given) in enumerate(tools, 1):
        written = orjson.dumps(given).decode() if given else ""
        said += tool(index, id, name, written[:5], written[5:])
    return START + said + ending(reason)


ROW = Row(
    name="bedrock",
    model=MODEL,
    stream_type="application/vnd.amazon.eventstream",
    streams=STREAMS,
    wholes=WHOLES,
    failures=FAILURES,
    early_errors=EARLY,
    late_errors={"throttled": _THROTTLED, "broken frame": b"\0" * 16},
    check=check,
    read=read,
    answer=answer,
    split=split_frames,
)
