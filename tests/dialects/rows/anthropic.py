"""Anthropic in the contract suite: its public wire format, with the odd cases of real traffic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
from anthropic.types.message_create_params import (
    MessageCreateParamsNonStreaming,
    MessageCreateParamsStreaming,
)
from pydantic import TypeAdapter

from tests.dialects.contract import Failing, Heard, Recorded, Row, ending_after, split_sse, sse
from tokenhub_proxy.errors import InvalidRequest, ProxyError, RequestTooLarge, UpstreamUnavailable
from tokenhub_proxy.prices import Usage

MODEL = "claude-sonnet-4-5-20250929"
_REQUESTS = {
    True: TypeAdapter(MessageCreateParamsStreaming),
    False: TypeAdapter(MessageCreateParamsNonStreaming),
}
STOPPED = b'"stop_reason":"'


def start(usage: Mapping[str, Any] | None = None) -> dict[str, Any]:
    usage = usage or {"input_tokens": 11, "output_tokens": 1}
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    return {"type": "message_start", "message": message}


def block(index: int, content: Mapping[str, Any], *deltas: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": content},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text(index: int, *pieces: str) -> list[dict[str, Any]]:
    return block(
        index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": piece} for piece in pieces)
    )


def tool(index: int, id: str, name: str, *pieces: str) -> list[dict[str, Any]]:
    return block(
        index,
        {"type": "tool_use", "id": id, "name": name, "input": {}},
        *({"type": "input_json_delta", "partial_json": piece} for piece in pieces),
    )


def thinking(index: int, signature: str, *pieces: str) -> list[dict[str, Any]]:
    return block(
        index,
        {"type": "thinking", "thinking": "", "signature": ""},
        *({"type": "thinking_delta", "thinking": piece} for piece in pieces),
        {"type": "signature_delta", "signature": signature},
    )


def stop(reason: str, usage: Mapping[str, Any], **delta: Any) -> list[dict[str, Any]]:
    told = {"stop_reason": reason, "stop_sequence": None, **delta}
    return [{"type": "message_delta", "delta": told, "usage": usage}, {"type": "message_stop"}]


PING = {"type": "ping"}


def recorded(heard: Heard, usage: Usage, *parts: Any, raw: bytes | None = None, **asked: Any) -> Recorded:
    items = [item for part in parts for item in (part if isinstance(part, list) else [part])]
    raw = raw or sse(*items, named=True)
    return Recorded(raw, heard, usage, ending_after(raw, STOPPED), asked)


_PLAIN = [start(), PING, *text(0, "Hel", "lo ", "wörld 🎉"), *stop("end_turn", {"output_tokens": 7})]

STREAMS = {
    "plain": recorded(
        Heard("Hello wörld 🎉", finish="stop", native="end_turn"),
        Usage(input=11, output=7, reported=True),
        _PLAIN,
    ),
    "crlf, padding, comments": recorded(
        Heard("Hello wörld 🎉", finish="stop", native="end_turn"),
        Usage(input=11, output=7, reported=True),
        raw=b": hi\r\n\r\n" + sse(*_PLAIN, end=b"\r\n\r\n", named=True).replace(b"}\r\n", b"    }   \r\n"),
    ),
    "length": recorded(
        Heard("a", finish="length", native="max_tokens"),
        Usage(input=11, output=1, reported=True),
        start(),
        text(0, "a"),
        stop("max_tokens", {"output_tokens": 1}),
    ),
    "nothing said": recorded(
        Heard("", finish="stop", native="end_turn"),
        Usage(input=11, output=1, reported=True),
        start(),
        stop("end_turn", {"output_tokens": 1}),
    ),
    "refusal": recorded(
        Heard("Well", finish="content_filter", native="refusal", refusal="Not that."),
        Usage(input=11, output=3, reported=True),
        start(),
        text(0, "Well"),
        stop(
            "refusal",
            {"output_tokens": 3},
            stop_details={"type": "refusal", "category": None, "explanation": "Not that."},
        ),
    ),
    "parallel tools": recorded(
        Heard(
            "Let me see.",
            tools=(
                ("toolu_a", "weather", {"city": "Köln", "days": [1, 2]}),
                ("toolu_b", "now", {}),
                ("toolu_c", "now", {"zone": "UTC"}),
            ),
            finish="tool_calls",
            native="tool_use",
        ),
        Usage(input=11, output=40, reported=True),
        start(),
        text(0, "Let me see."),
        tool(1, "toolu_a", "weather", "", '{"city": "K', 'öln", "days"', ": [1, 2]}"),
        tool(2, "toolu_b", "now"),
        tool(3, "toolu_c", "now", "", '{"zone":"UTC"}'),
        stop("tool_use", {"output_tokens": 40}),
    ),
    "thinking": recorded(
        Heard(
            "Paris",
            reasoning="Hm, France?",
            tools=(("toolu_a", "now", {}),),
            finish="tool_calls",
            native="tool_use",
        ),
        Usage(input=11, output=50, reasoning=30, reported=True),
        start(),
        thinking(0, "sig==", "Hm, ", "France?"),
        block(1, {"type": "redacted_thinking", "data": "ENC"}),
        text(2, "Paris"),
        tool(3, "toolu_a", "now"),
        stop("tool_use", {"output_tokens": 50, "output_tokens_details": {"thinking_tokens": 30}}),
    ),
    "what the upstream runs itself": recorded(
        Heard("Found.", finish="stop", native="pause_turn"),
        Usage(input=20, output=9, reported=True),
        start({"input_tokens": 11, "output_tokens": 1}),
        block(
            0,
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
            {"type": "input_json_delta", "partial_json": '{"query":"x"}'},
        ),
        block(1, {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}),
        block(
            2,
            {"type": "text", "text": ""},
            {"type": "text_delta", "text": "Found."},
            {"type": "citations_delta", "citation": {"type": "char_location", "cited_text": "x"}},
        ),
        {"type": "something_new", "index": 9},
        stop("pause_turn", {"input_tokens": 20, "output_tokens": 9}),
    ),
    "cache, compaction and usage said twice": recorded(
        Heard("ok", finish="stop", native="end_turn"),
        Usage(input=3 + 90, cached=100 + 5, cache_write=7, output=6 + 20, reported=True),
        start(
            {
                "input_tokens": 2,
                "cache_creation_input_tokens": 7,
                "cache_read_input_tokens": 100,
                "output_tokens": 1,
            }
        ),
        text(0, "ok"),
        {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 2}},
        stop(
            "end_turn",
            {
                "input_tokens": 3,
                "cache_read_input_tokens": None,
                "output_tokens": 6,
                "iterations": [
                    {
                        "type": "compaction",
                        "input_tokens": 90,
                        "output_tokens": 20,
                        "cache_read_input_tokens": 5,
                    },
                    {"type": "message", "input_tokens": 3, "output_tokens": 6},
                ],
            },
        ),
    ),
}


def whole(
    heard: Heard, counted: Usage, content: Sequence[Any], reason: str, usage: Mapping[str, Any] | None = None
) -> Recorded:
    usage = usage or {"input_tokens": 11, "output_tokens": 7}
    message = {**start()["message"], "content": content, "stop_reason": reason, "usage": usage}
    return Recorded(orjson.dumps(message), heard, counted)


WHOLES = {
    "plain": whole(
        Heard("Hello", finish="stop", native="end_turn"),
        Usage(input=11, output=7, reported=True),
        [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}],
        "end_turn",
    ),
    "tools": whole(
        Heard(
            "",
            reasoning="Hm",
            tools=(("toolu_a", "weather", {"city": "Rom"}), ("toolu_b", "now", {})),
            finish="tool_calls",
            native="tool_use",
        ),
        Usage(input=11, cached=4, cache_write=2, output=7, reported=True),
        [
            {"type": "thinking", "thinking": "Hm", "signature": "s"},
            {"type": "tool_use", "id": "toolu_a", "name": "weather", "input": {"city": "Rom"}},
            {"type": "tool_use", "id": "toolu_b", "name": "now", "input": {}},
        ],
        "tool_use",
        usage={
            "input_tokens": 11,
            "output_tokens": 7,
            "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 2,
        },
    ),
    "nothing": whole(
        Heard("", finish="length", native="model_context_window_exceeded"),
        Usage(input=11, output=7, reported=True),
        [],
        "model_context_window_exceeded",
    ),
}


def error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_up"}


def failing(status: int, kind: str, message: str, error_type: type[ProxyError], **more: Any) -> Failing:
    return Failing(status, orjson.dumps(error(kind, message)), error_type, **more)


FAILURES = {
    "bad request": failing(
        400, "invalid_request_error", "max_tokens: too large", InvalidRequest, says="too large"
    ),
    "no money": failing(
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the API.",
        UpstreamUnavailable,
        hides="credit",
    ),
    "wrong key": failing(
        401, "authentication_error", "invalid x-api-key", UpstreamUnavailable, hides="x-api-key"
    ),
    "forbidden": failing(403, "permission_error", "Your organization", UpstreamUnavailable, hides="organ"),
    "no model": failing(404, "not_found_error", "model: claude-9", UpstreamUnavailable, hides="claude-9"),
    "too large": failing(413, "request_too_large", "too many bytes", RequestTooLarge),
    "limited": failing(
        429, "rate_limit_error", "your organization's limit", UpstreamUnavailable, hides="org"
    ),
    "broken": failing(500, "api_error", "oops", UpstreamUnavailable),
    "overloaded": failing(529, "overloaded_error", "Overloaded", UpstreamUnavailable),
    "a page": Failing(502, b"<html>Bad gateway</html>", UpstreamUnavailable, hides="html"),
}

_OVERLOADED = sse(error("overloaded_error", "Overloaded"), named=True)
EARLY = {
    "overloaded": (_OVERLOADED, UpstreamUnavailable),
    "overloaded after the head": (sse(start(), PING, named=True) + _OVERLOADED, UpstreamUnavailable),
    "bad request": (sse(error("invalid_request_error", "No.")), InvalidRequest),
    "bare json": (orjson.dumps(error("api_error", "oops")), UpstreamUnavailable),
    "nothing but the head": (sse(start(), named=True), UpstreamUnavailable),
    "nothing": (b"", UpstreamUnavailable),
}


def check(body: bytes) -> None:
    """The body against the SDK's own parameter types; a field that they don't know fails too."""
    given = orjson.loads(body)
    # The version that is asked for has them; the SDK's types follow a later one, which has not.
    for name in ("temperature", "top_p", "top_k"):
        given.pop(name, None)
    assert _plain(_REQUESTS[given.get("stream", False)].validate_python(given)) == given


def _plain(value: Any) -> Any:
    """Iterables are validated while they are walked."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)) or hasattr(value, "__next__"):
        return [_plain(inner) for inner in value]
    return value


def read(body: bytes) -> list[tuple[Any, ...]]:
    found = orjson.loads(body)
    said: list[tuple[Any, ...]] = [("system", part["text"]) for part in found.get("system", [])]
    names: dict[str, str] = {}
    for message in found["messages"]:
        for part in message["content"]:
            if part["type"] == "text":
                said.append((message["role"], part["text"]))
            elif part["type"] == "tool_use":
                names[part["id"]] = part["name"]
                said.append(("call", part["id"], part["name"], part["input"]))
            elif part["type"] == "tool_result":
                content = "".join(inner["text"] for inner in part.get("content", []))
                said.append(("result", part["tool_use_id"], names[part["tool_use_id"]], content))
    return said


def answer(words: str, tools: Sequence[tuple[str, str, Any]], stream: bool) -> bytes:
    reason = "tool_use" if tools else "end_turn"
    if not stream:
        content: list[dict[str, Any]] = [{"type": "text", "text": words}] if words else []
        content += [{"type": "tool_use", "id": id, "name": name, "input": given} for id, name, given in tools]
        return whole(Heard(), Usage(), content, reason).raw
    return sse(start(), *_streamed(words, tools), *stop(reason, {"output_tokens": 5}), named=True)


def _streamed(words: str, tools: Sequence[tuple[str, str, Any]]) -> Iterator[dict[str, Any]]:
    if words:
        yield from text(0, words[:3], words[3:])
    for index, (id, name, given) in enumerate(tools, 1):
        written = orjson.dumps(given).decode() if given else ""
        yield from tool(index, id, name, "", written[:5], written[5:])


ROW = Row(
    name="anthropic",
    model=MODEL,
    stream_type="text/event-stream; charset=utf-8",
    streams=STREAMS,
    wholes=WHOLES,
    failures=FAILURES,
    early_errors=EARLY,
    late_errors={"overloaded": _OVERLOADED},
    check=check,
    read=read,
    answer=answer,
    split=split_sse,
)
