"""Anthropic's events and messages as OpenAI chunks and completions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking
from tokenhub_proxy.dialects.anthropic_requests import SIGNATURE_FORMAT, memory_key
from tokenhub_proxy.dialects.memory import Memory
from tokenhub_proxy.dialects.replies import parse_object, refusal
from tokenhub_proxy.dialects.translated import Chunks, Gathered, TranslatedEvents
from tokenhub_proxy.dialects.usage import count
from tokenhub_proxy.errors import ProxyError, UpstreamUnavailable
from tokenhub_proxy.prices import Usage, estimate_tokens

FINISH_REASONS: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "compaction": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
ERROR_STATUSES: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
# Thinking larger than this before one tool call is not remembered: it is no thinking of a model.
STATE_BYTES_MAX = 2**20


def read_error(body: bytes) -> tuple[object, object]:
    """The message of an error body. Raises UpstreamUnavailable for a 400 that the operator has to mend."""
    error = _mapping((parse_object(body) or {}).get("error"))
    return _words(error), None


def _words(error: Mapping[str, Any]) -> object:
    message = error.get("message")
    if isinstance(message, str) and "credit balance" in message.lower():
        # An account without money answers 400, as if the request were wrong.
        raise UpstreamUnavailable(kind="status", upstream_status=402)
    return message


def _error(error: Mapping[str, Any]) -> ProxyError:
    """What an error inside a 200 means."""
    status = ERROR_STATUSES.get(str(error.get("type")), 500)
    try:
        return refusal(status, _words(error), None, {})
    except UpstreamUnavailable as unavailable:
        return unavailable


class UsageReader:
    """Adds up the usage objects of one answer: a later key stands over an earlier one."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._passes: dict[str, int] = {}  # compactions, which the top level leaves out

    def read(self, usage: object) -> Usage | None:
        """The usage so far, None while it says nothing of input and output."""
        told = _mapping(usage)
        self._counts |= _counts(told)
        passes = told.get("iterations")
        if isinstance(passes, list):
            self._passes = {}
            for one in passes:
                if isinstance(one, Mapping) and one.get("type") != "message":
                    for name, value in _counts(one).items():
                        self._passes[name] = self._passes.get(name, 0) + value
        if "input_tokens" not in self._counts or "output_tokens" not in self._counts:
            return None
        output = self._sum("output_tokens")
        return Usage(
            input=self._sum("input_tokens"),
            cached=self._sum("cache_read_input_tokens"),
            cache_write=self._sum("cache_creation_input_tokens"),
            output=output,
            reasoning=min(self._sum("thinking_tokens"), output),
            reported=True,
        )

    def output_alone(self, input_estimate: int) -> Usage | None:
        """A usage that tells no input: the estimate beside the output that is told; None without one.

        llama.cpp's server leaves `message_start` out where the first character takes more than one
        token, and the count of the input with it.
        """
        if "output_tokens" not in self._counts:
            return None
        output = self._sum("output_tokens")
        return Usage(input=input_estimate, output=output, reasoning=min(self._sum("thinking_tokens"), output))

    def _sum(self, name: str) -> int:
        return self._counts.get(name, 0) + self._passes.get(name, 0)


def _counts(usage: Mapping[str, Any]) -> dict[str, int]:
    values = {
        name: usage.get(name)
        for name in (
            "input_tokens",
            "output_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
        )
    }
    values["thinking_tokens"] = _mapping(usage.get("output_tokens_details")).get("thinking_tokens")
    return {name: found for name, value in values.items() if (found := count(value)) is not None}


@dataclass(slots=True)
class _Block:
    """A content block that is open: what it is, and what it has said so far."""

    kind: str
    tool: int = 0  # the index of a tool call among the client's
    said: bool = False
    text: str = ""
    signature: str = ""


class Reader:
    """Understands the events of one message and says them; a whole message is a short stream."""

    def __init__(self, chunks: Chunks, call: Call, memory: Memory, format_tool: str | None) -> None:
        """`format_tool` is the tool whose arguments are the answer itself."""
        self.notes: dict[str, object] = {}
        self._chunks = chunks
        self._call = call
        self._memory = memory
        self._format_tool = format_tool
        self._blocks: dict[object, _Block] = {}
        self._thoughts: list[dict[str, Any]] = []  # since the last tool call, to be remembered
        self._thoughts_said = 0
        self._formatted = False

    def message(self, message: Mapping[str, Any]) -> None:
        """The head of a message: its id and model."""
        self._chunks.id = _string(message, "id") or self._chunks.id
        self._chunks.model = _string(message, "model") or self._chunks.model

    def whole(self, message: Mapping[str, Any]) -> None:
        """A message that came at once."""
        self.message(message)
        content = message.get("content")
        for index, block in enumerate(content if isinstance(content, list) else []):
            self.start(index, _mapping(block))
            self.stop(index)
        self.finish(message.get("stop_reason"), message.get("stop_details"))

    def start(self, index: object, block: Mapping[str, Any]) -> bytes:
        """A content block begins; what it holds already is said."""
        kind = _string(block, "type")
        state = _Block(kind)
        self._blocks[index] = state
        if kind == "text":
            return self.delta(index, {"type": "text_delta", "text": block.get("text")})
        if kind == "thinking":
            state.signature = _string(block, "signature")
            return self.delta(index, {"type": "thinking_delta", "thinking": block.get("thinking")})
        if kind == "redacted_thinking":
            data = _string(block, "data")
            self._thoughts.append({"type": "redacted_thinking", "data": data})
            return self._detail({"type": "reasoning.encrypted", "data": data})
        if kind == "tool_use":
            return self._tool(state, block)
        # What the upstream runs itself is none of the client's calls.
        self.notes["server_blocks"] = int(str(self.notes.get("server_blocks", 0))) + 1
        return b""

    def _tool(self, state: _Block, block: Mapping[str, Any]) -> bytes:
        id, name, given = _string(block, "id"), _string(block, "name"), block.get("input")
        arguments = orjson.dumps(given).decode() if given and isinstance(given, Mapping) else ""
        state.said = bool(arguments)
        if name == self._format_tool:
            state.kind = "format"
            self._formatted = True
            return self._chunks.text(arguments) if arguments else b""
        state.tool = self._chunks.tools()
        if self._thoughts:
            kept = orjson.dumps(self._thoughts)
            if len(kept) <= STATE_BYTES_MAX:
                self._memory.put(self._call.owner, memory_key(id), kept)
            self._thoughts = []
        return self._chunks.tool(id, name, arguments)

    def delta(self, index: object, delta: Mapping[str, Any]) -> bytes:
        """A piece of the block with this index; pieces of unknown kinds say nothing."""
        kind = delta.get("type")
        state = self._blocks.get(index)
        if state is None:
            return b""
        if kind == "text_delta" and state.kind == "text":
            text = _string(delta, "text")
            return self._chunks.text(text) if text else b""
        if kind == "thinking_delta" and state.kind == "thinking":
            text = _string(delta, "thinking")
            state.text += text
            return self._chunks.text(text, field="reasoning_content") if text else b""
        if kind == "signature_delta" and state.kind == "thinking":
            state.signature += _string(delta, "signature")
        elif kind == "input_json_delta" and state.kind in ("tool_use", "format"):
            return self._arguments(state, _string(delta, "partial_json"))
        elif kind == "citations_delta":
            self.notes["citations"] = int(str(self.notes.get("citations", 0))) + 1
        return b""

    def _arguments(self, state: _Block, piece: str) -> bytes:
        if not piece:
            return b""
        state.said = True
        if state.kind == "format":
            return self._chunks.text(piece)
        return self._chunks.arguments(piece, state.tool)

    def stop(self, index: object) -> bytes:
        """A block ends: a call without arguments has none, thinking is whole."""
        state = self._blocks.pop(index, None)
        if state is None:
            return b""
        if state.kind in ("tool_use", "format") and not state.said:
            return self._arguments(state, "{}")
        if state.kind == "thinking" and state.signature:
            block = {"type": "thinking", "thinking": state.text, "signature": state.signature}
            self._thoughts.append(block)
            return self._detail({"type": "reasoning.text", "text": state.text, "signature": state.signature})
        return b""

    def _detail(self, detail: dict[str, Any]) -> bytes:
        self._thoughts_said += 1
        numbered = {**detail, "format": SIGNATURE_FORMAT, "index": self._thoughts_said - 1}
        return self._chunks.detail(numbered)

    def finish(self, stop_reason: object, stop_details: object) -> bytes:
        """The end of the message; a block that was left open ends with it."""
        said = b"".join([self.stop(index) for index in [*self._blocks]])
        native = stop_reason if isinstance(stop_reason, str) else None
        reason = FINISH_REASONS.get(native or "", "stop")
        if reason == "tool_calls" and self._formatted and not self._chunks.tools():
            reason = "stop"
        explanation = _string(_mapping(stop_details), "explanation")
        if reason == "content_filter" and explanation:
            said += self._chunks.text(explanation, field="refusal")
        return said + self._chunks.finish(reason, native)


class Stream(TranslatedEvents):
    """A stream of Anthropic's events."""

    def __init__(self, call: Call, asking: Asking, memory: Memory, format_tool: str | None) -> None:
        super().__init__(call, asking)
        self._reader = Reader(self.chunks, call, memory, format_tool)
        self._reader.notes = self.notes
        self._usage = UsageReader()

    def event(self, event: dict[str, Any]) -> bytes:
        kind = event.get("type")
        if self.finished and str(kind).startswith("content_"):
            return b""
        if kind == "content_block_delta":
            return self._reader.delta(_index(event), _mapping(event.get("delta")))
        if kind == "content_block_start":
            return self._reader.start(_index(event), _mapping(event.get("content_block")))
        if kind == "content_block_stop":
            return self._reader.stop(_index(event))
        if kind == "message_start":
            message = _mapping(event.get("message"))
            self._reader.message(message)
            self.prompt = self._usage.read(message.get("usage"))
        elif kind == "message_delta":
            return self._ended(event)
        elif kind == "message_stop":
            said = b"" if self.finished else self._reader.finish(None, None)
            self.finished = self.done = True
            return said
        elif kind == "error" or "error" in event:
            return self.fail(_error(_mapping(event.get("error"))))
        return b""

    def _ended(self, event: Mapping[str, Any]) -> bytes:
        usage = event.get("usage")
        if usage is not None:
            self.reported = self._usage.read(usage)
            if self.reported is None and (alone := self._usage.output_alone(self.call.input_estimate(0))):
                self.reported = alone
                self.notes["usage"] = "partial"
        delta = _mapping(event.get("delta"))
        if delta.get("stop_reason") is None or self.finished:
            return b""
        self.finished = True
        return self._reader.finish(delta["stop_reason"], delta.get("stop_details"))


def whole(
    body: bytes, call: Call, asking: Asking, memory: Memory, format_tool: str | None
) -> tuple[bytes, Usage | None]:
    """A whole message → the completion and its usage. Raises what an error inside it means."""
    found = parse_object(body)
    if found is None:
        raise UpstreamUnavailable(kind="bad_json", executed=True)
    if found.get("type") == "error" or found.get("error"):
        raise _error(_mapping(found.get("error")))
    if not isinstance(found.get("content"), list):
        raise UpstreamUnavailable(kind="bad_json", executed=True)
    chunks = Gathered(asking.at_s)
    Reader(chunks, call, memory, format_tool).whole(found)
    usage = UsageReader().read(found.get("usage"))
    estimate = Usage(input=call.input_estimate(0), output=estimate_tokens(chunks.text_bytes))
    return chunks.completion(usage or estimate), usage or estimate


def _index(event: Mapping[str, Any]) -> int:
    """The block that an event is about; events of a lone block may leave the index out."""
    index = event.get("index")
    return index if type(index) is int else 0


def _string(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
