"""The `demo` model: deterministic answers in OpenAI's format, with no network and no key."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from tokenhub_proxy import sse
from tokenhub_proxy.calls import OUTPUT_LIMITS, OUTPUT_MAX
from tokenhub_proxy.prices import estimate_tokens
from tokenhub_proxy.transports.sample import sample
from tokenhub_proxy.transports.script import Pause, Scripted, Step
from tokenhub_proxy.wire import Outgoing

DIMENSIONS = 64
DIMENSIONS_MAX = 4096
STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8"}
# What a tool call counts for, where the client's limit allows it.
TOOL_CALL_TOKENS = 10


class Demo:
    """`answer` is a scripted upstream; `pause_s` is the time between two words of a stream."""

    def __init__(self, pause_s: float = 0.02) -> None:
        self._pause_s = pause_s

    def answer(self, outgoing: Outgoing) -> Scripted:
        body = orjson.loads(outgoing.body)
        if outgoing.path == "/embeddings":
            return Scripted(_embeddings(body))
        answer = _Answer(body)
        if body.get("stream"):
            return Scripted(self._stream(answer), headers=STREAM_HEADERS)
        return Scripted([orjson.dumps(answer.whole())])

    def _stream(self, answer: _Answer) -> Iterator[Step]:
        for number, chunk in enumerate(answer.chunks()):
            if number:
                yield Pause(self._pause_s)
            yield sse.encode(orjson.dumps(chunk))
        yield sse.DONE


class _Answer:
    """What the model says to one request."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(orjson.dumps(body)).hexdigest()
        self._body = body
        self._head = {"id": f"chatcmpl-demo-{digest[:24]}", "created": 1767225600, "model": body["model"]}
        self._call = _tool_call(body, digest)
        words = [] if self._call else _stopped(_words(body), body.get("stop"))
        limit = min((body[name] for name in OUTPUT_LIMITS if body.get(name)), default=OUTPUT_MAX)
        self._words = words[:limit]
        cut = len(words) > limit
        self._reason = "tool_calls" if self._call else "length" if cut else "stop"
        self._choices = body.get("n") or 1
        prompt = estimate_tokens(len(orjson.dumps(body.get("messages"))))
        said = min(TOOL_CALL_TOKENS, limit) if self._call else len(self._words)
        output = said * self._choices
        self._usage = {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
        }

    def whole(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._words) or None}
        if self._call:
            message["tool_calls"] = [self._call]
        choices = [
            {"index": index, "message": message, "logprobs": None, "finish_reason": self._reason}
            for index in range(self._choices)
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": self._usage}

    def chunks(self) -> Iterator[dict[str, Any]]:
        for index in range(self._choices):
            yield self._chunk(index, {"role": "assistant", "content": ""})
            for word in self._words:
                yield self._chunk(index, {"content": word})
            if self._call:
                function = self._call["function"]
                first = {**self._call, "index": 0, "function": {**function, "arguments": ""}}
                yield self._chunk(index, {"tool_calls": [first]})
                piece = {"index": 0, "function": {"arguments": function["arguments"]}}
                yield self._chunk(index, {"tool_calls": [piece]})
            yield self._chunk(index, {}, self._reason)
        if (self._body.get("stream_options") or {}).get("include_usage"):
            yield self._envelope([], self._usage)

    def _chunk(self, index: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return self._envelope([{"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}])

    def _envelope(self, choices: list[dict[str, Any]], usage: object = None) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": choices, "usage": usage}


def _words(body: Mapping[str, Any]) -> list[str]:
    form = _mapping(body.get("response_format"))
    schema = _mapping(form.get("json_schema")).get("schema")
    if schema is not None:
        return [orjson.dumps(sample(schema)).decode()]
    if form.get("type") == "json_object":
        return ['{"demo":true}']
    messages = body.get("messages") or []
    last = messages[-1] if messages else {}
    said = _text(last.get("content"))
    if last.get("role") == "tool":
        answer = f"The tool answered: {said}"
    else:
        answer = f"You said: {said} I am the demo model: I answer the same to the same question."
    return [word if number == 0 else " " + word for number, word in enumerate(answer.split())]


def _stopped(words: list[str], stop: object) -> list[str]:
    """The words up to the first stop sequence."""
    text = "".join(words)
    stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    places = [place for one in stops if one and (place := text.find(str(one))) >= 0]
    if not places:
        return words
    kept, length = [], min(places)
    for word in words:
        kept.append(word[:length])
        length -= len(kept[-1])
    return [word for word in kept if word]


def _text(content: object) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict)).strip()
    return str(content or "")


def _tool_call(body: Mapping[str, Any], digest: str) -> dict[str, Any] | None:
    """A call of the chosen tool, or of the first; none after a tool has answered."""
    tools = [_mapping(tool.get("function")) for tool in body.get("tools") or [] if tool.get("function")]
    messages = body.get("messages") or [{}]
    choice = body.get("tool_choice")
    if not tools or choice == "none" or messages[-1].get("role") == "tool":
        return None
    named = _mapping(_mapping(choice).get("function")).get("name")
    tool = next((tool for tool in tools if tool.get("name") == named), tools[0])
    # Arguments are an object, whatever the schema says.
    arguments = orjson.dumps(_mapping(sample({"type": "object", **_mapping(tool.get("parameters"))})))
    function = {"name": str(tool.get("name", "")), "arguments": arguments.decode()}
    return {"id": f"call_{digest[:24]}", "type": "function", "function": function}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _embeddings(body: Mapping[str, Any]) -> Iterator[Step]:
    """The answer in a read for each input: a large batch takes its time, but never the whole loop's."""
    given = body["input"]
    single = isinstance(given, str) or all(isinstance(item, int) for item in given)
    dimensions = body.get("dimensions")
    if not isinstance(dimensions, int) or not 1 <= dimensions <= DIMENSIONS_MAX:
        dimensions = DIMENSIONS
    tokens = 0
    yield b'{"object":"list","data":['
    for index, item in enumerate([given] if single else given):
        raw = item.encode() if isinstance(item, str) else orjson.dumps(item)
        tokens += estimate_tokens(len(raw)) if isinstance(item, str) else len(item)
        vector: Any = _vector(raw, dimensions)
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
        comma = b"," if index else b""
        yield comma + orjson.dumps({"object": "embedding", "index": index, "embedding": vector})
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    yield b'],"model":%b,"usage":%b}' % (orjson.dumps(body["model"]), orjson.dumps(usage))


def _vector(raw: bytes, dimensions: int) -> list[float]:
    """A unit vector that depends on every byte."""
    stream = hashlib.shake_256(raw).digest(dimensions * 2)
    values = [number / 32768 - 1 for (number,) in struct.iter_unpack("<H", stream)]
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / length for value in values]
