"""OpenAI's own format in the contract suite: what is relayed as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from pydantic import TypeAdapter

from tests.dialects.contract import Failing, Heard, Recorded, Row, ending_after, said_in, split_sse, sse
from tokenhub_proxy.errors import InvalidRequest, UpstreamUnavailable
from tokenhub_proxy.prices import Usage

MODEL = "gpt-4o-mini"
_REQUESTS = {
    True: TypeAdapter(CompletionCreateParamsStreaming),
    False: TypeAdapter(CompletionCreateParamsNonStreaming),
}
DONE = b"data: [DONE]\n\n"
USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
COUNTED = Usage(input=7, cached=4, output=7, reasoning=3, reported=True)


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [choice],
        "usage": None,
        **more,
    }


OPENING = chunk({"role": "assistant", "content": ""})
ENDING = chunk({}, choices=[], usage=USAGE)


def tool(index: int, piece: str, id: str | None = None, name: str | None = None) -> dict[str, Any]:
    call: dict[str, Any] = {"index": index, "function": {"arguments": piece}}
    if id is not None:
        call |= {"id": id, "type": "function", "function": {"name": name, "arguments": piece}}
    return chunk({"tool_calls": [call]})


def recorded(heard: Heard, *objects: Any, done: bool = True) -> Recorded:
    raw = sse(OPENING, *objects, ENDING) + (DONE if done else b"")
    return Recorded(raw, heard, COUNTED, ending_after(raw, b'"finish_reason":"'))


STREAMS = {
    "plain": recorded(
        Heard("Hello wörld 🎉", finish="stop"),
        chunk({"content": "Hel"}),
        chunk({"content": "lo wörld 🎉"}),
        chunk({}, "stop"),
    ),
    "without done": recorded(
        Heard("Hi", finish="stop"), chunk({"content": "Hi"}), chunk({}, "stop"), done=False
    ),
    "tools": recorded(
        Heard("", tools=(("call_a", "now", {"zone": "UTC"}), ("call_b", "now", {})), finish="tool_calls"),
        tool(0, "", "call_a", "now"),
        tool(0, '{"zone":'),
        tool(0, '"UTC"}'),
        tool(1, "{}", "call_b", "now"),
        chunk({}, "tool_calls"),
    ),
}


def whole(message: dict[str, Any], finish: str) -> bytes:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "refusal": None, **message},
        "finish_reason": finish,
    }
    return orjson.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL,
            "choices": [{**choice, "logprobs": None}],
            "usage": USAGE,
        }
    )


def _error(kind: str, message: str) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}})


def check(body: bytes) -> None:
    found = orjson.loads(body)
    _REQUESTS[found["stream"]].validate_python(found)


def answer(words: str, tools: Sequence[tuple[str, str, Any]], stream: bool) -> bytes:
    finish = "tool_calls" if tools else "stop"
    if stream:
        calls = (
            tool(index, orjson.dumps(given).decode(), id, name)
            for index, (id, name, given) in enumerate(tools)
        )
        return sse(OPENING, chunk({"content": words}), *calls, chunk({}, finish), ENDING) + DONE
    listed = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": orjson.dumps(given).decode()}}
        for id, name, given in tools
    ]
    return whole({"content": words, **({"tool_calls": listed} if listed else {})}, finish)


_FAILED = sse({"error": {"message": "overloaded", "type": "server_error", "param": None, "code": None}})

ROW = Row(
    name="openai",
    model=MODEL,
    stream_type="text/event-stream",
    streams=STREAMS,
    wholes={"plain": Recorded(whole({"content": "Hello"}, "stop"), Heard("Hello", finish="stop"), COUNTED)},
    failures={
        "bad request": Failing(400, _error("invalid_request_error", "No."), InvalidRequest, says="No."),
        "wrong key": Failing(
            401, _error("invalid_request_error", "Incorrect key"), UpstreamUnavailable, hides="key"
        ),
        "broken": Failing(500, _error("server_error", "oops"), UpstreamUnavailable),
    },
    early_errors={"overloaded": (_FAILED, UpstreamUnavailable), "nothing": (b"", UpstreamUnavailable)},
    late_errors={"overloaded": _FAILED},
    check=check,
    read=lambda body: sorted(said_in(orjson.loads(body)["messages"]), key=lambda item: item[0] != "system"),
    answer=answer,
    split=split_sse,
    translated=False,
    embeddings=True,
)
