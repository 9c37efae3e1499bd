"""Converse's messages and event streams as OpenAI completions and chunks; Bedrock's errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking
from tokenhub_proxy.dialects.anthropic_requests import SIGNATURE_FORMAT
from tokenhub_proxy.dialects.bedrock_messages import memory_key
from tokenhub_proxy.dialects.eventstream import Frame, Frames
from tokenhub_proxy.dialects.gates import Family
from tokenhub_proxy.dialects.memory import Memory
from tokenhub_proxy.dialects.replies import parse_object, refusal
from tokenhub_proxy.dialects.translated import Chunks, Gathered, Translated
from tokenhub_proxy.dialects.usage import count
from tokenhub_proxy.errors import ProxyError, UpstreamUnavailable
from tokenhub_proxy.prices import Usage, estimate_tokens

FINISH_REASONS: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
}
# The model itself went wrong: OpenAI has no finish reason for that.
MALFORMED = ("malformed_model_output", "malformed_tool_use")
# What an exception inside a stream would have been as an answer.
EXCEPTIONS: Mapping[str, int] = {
    "validationException": 400,
    "modelTimeoutException": 408,
    "modelStreamErrorException": 424,
    "throttlingException": 429,
    "internalServerException": 500,
    "serviceUnavailableException": 503,
}
# Words of a 400 that the operator has to mend: the model's name, its region, the account.
_OPERATORS = (
    "model identifier",
    "on-demand throughput",
    "inference profile",
    "model is not supported",
    "end of its life",
    "access to the model",
    "operation not allowed",
)
# Reasoning larger than this before one tool call is not remembered: it is no reasoning of a model.
STATE_BYTES_MAX = 2**20


def error_reader(headers: Mapping[str, str], status: int) -> Any:
    """How to read the body of an error answer with this head: `read(body)` as `Refused` wants it."""
    kind = headers.get("x-amzn-errortype", "").partition(":")[0]

    def read(body: bytes) -> tuple[object, object]:
        found = parse_object(body) or {}
        return _words(found, kind or str(found.get("__type", "")).rpartition("#")[2], status), None

    return read


def _words(found: Mapping[str, Any], kind: str, status: int) -> object:
    """The message of an error. Raises UpstreamUnavailable for a 400 that is not the request's fault."""
    message = found.get("message") or found.get("Message")
    if status in (400, 422):
        said = message.lower() if isinstance(message, str) else ""
        if kind.lower() not in ("", "validationexception") or any(word in said for word in _OPERATORS):
            raise UpstreamUnavailable(kind="status", upstream_status=status)
    return message


def _exception(kind: str, payload: Mapping[str, Any]) -> ProxyError:
    """What an exception inside a stream means."""
    status = EXCEPTIONS.get(kind) or count(payload.get("originalStatusCode")) or 500
    try:
        return refusal(status, _words(payload, kind, status), None, {})
    except UpstreamUnavailable as unavailable:
        return unavailable


def read_usage(usage: object, family: Family) -> Usage | None:
    """Bedrock's counts, None where they can't be billed.

    Input tokens leave the cache out, except for the families that count it inside.
    """
    told = _mapping(usage)
    names = ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheWriteInputTokens")
    fresh, output, cached, written = (count(told.get(name) or 0) for name in names)
    if told.get("inputTokens") is None or told.get("outputTokens") is None:
        return None
    if fresh is None or output is None or cached is None or written is None:
        return None
    if family.cached_inside:
        cached = min(cached, fresh)
        written = min(written, fresh - cached)
        fresh -= cached + written
    return Usage(fresh, cached, written, output, reported=True)


@dataclass(slots=True)
class _Block:
    """A content block that is open: what it is, and what it has said so far."""

    kind: str = "text"
    tool: int = 0  # the index of a tool call among the client's
    said: bool = False
    text: str = ""
    signature: str = ""


class Reader:
    """Understands the blocks of one message and says them; a whole message is a short stream."""

    def __init__(
        self, chunks: Chunks, call: Call, family: Family, memory: Memory, format_tool: str | None
    ) -> None:
        """`format_tool` is the tool whose arguments are the answer itself."""
        self.notes: dict[str, object] = {}
        self._chunks = chunks
        self._call = call
        self._family = family
        self._memory = memory
        self._format_tool = format_tool
        self._blocks: dict[object, _Block] = {}
        self._thoughts: list[dict[str, Any]] = []  # since the last tool call, to be remembered
        self._thoughts_said = 0
        self._formatted = False

    def whole(self, content: list[Any]) -> None:
        """The blocks of a message that came at once."""
        for index, item in enumerate(content):
            block = _mapping(item)
            if "toolUse" in block:
                self.start(index, block)
            elif "citationsContent" in block:
                for cited in _list(_mapping(block["citationsContent"]).get("content")):
                    self.delta(index, {"text": _mapping(cited).get("text")})
                self.notes["citations"] = 1
            elif "reasoningContent" in block:
                self._whole_reasoning(index, _mapping(block["reasoningContent"]))
            else:
                self.delta(index, block)
            self.stop(index)

    def _whole_reasoning(self, index: int, reasoning: Mapping[str, Any]) -> None:
        told = _mapping(reasoning.get("reasoningText"))
        pieces = {"text": told.get("text"), "signature": told.get("signature")}
        pieces["redactedContent"] = reasoning.get("redactedContent")
        for name, value in pieces.items():
            if value:
                self.delta(index, {"reasoningContent": {name: value}})

    def start(self, index: object, start: Mapping[str, Any]) -> bytes:
        """A block begins; only tool calls are announced."""
        use = _mapping(start.get("toolUse"))
        if not use:
            return b""
        if use.get("type") == "server_tool_use":
            # What the upstream runs itself is none of the client's calls.
            self._blocks[index] = _Block("server")
            self.notes["server_blocks"] = 1
            return b""
        id, name, given = _string(use, "toolUseId"), _string(use, "name"), use.get("input")
        arguments = orjson.dumps(given).decode() if given and isinstance(given, Mapping) else ""
        state = self._blocks[index] = _Block("tool", said=bool(arguments))
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
        state = self._blocks.get(index)
        text = _string(delta, "text")
        if text:
            return self._chunks.text(text)
        if state is not None and state.kind in ("tool", "format"):
            return self._arguments(state, _string(_mapping(delta.get("toolUse")), "input"))
        reasoning = _mapping(delta.get("reasoningContent"))
        if reasoning:
            return self._reasoning(index, reasoning)
        if "citation" in delta:
            self.notes["citations"] = 1
        return b""

    def _arguments(self, state: _Block, piece: str) -> bytes:
        if not piece:
            return b""
        state.said = True
        if state.kind == "format":
            return self._chunks.text(piece)
        return self._chunks.arguments(piece, state.tool)

    def _reasoning(self, index: object, reasoning: Mapping[str, Any]) -> bytes:
        state = self._blocks.setdefault(index, _Block("reasoning"))
        state.signature += _string(reasoning, "signature")
        redacted = _string(reasoning, "redactedContent") or _string(reasoning, "data")
        if redacted:
            self._thoughts.append({"reasoningContent": {"redactedContent": redacted}})
            return self._detail({"type": "reasoning.encrypted", "data": redacted})
        text = _string(reasoning, "text")
        state.text += text
        return self._chunks.text(text, field="reasoning_content") if text else b""

    def stop(self, index: object) -> bytes:
        """A block ends: a call without arguments has none, reasoning is whole."""
        state = self._blocks.pop(index, None)
        if state is None:
            return b""
        if state.kind in ("tool", "format") and not state.said:
            return self._arguments(state, "{}")
        if state.kind == "reasoning" and state.signature:
            said = {"text": state.text, "signature": state.signature}
            self._thoughts.append({"reasoningContent": {"reasoningText": said}})
            return self._detail({"type": "reasoning.text", **said})
        if state.kind == "reasoning" and state.text and self._family.reasoning_back == "text":
            self._thoughts.append({"reasoningContent": {"reasoningText": {"text": state.text}}})
        return b""

    def _detail(self, detail: dict[str, Any]) -> bytes:
        self._thoughts_said += 1
        numbered = {**detail, "format": SIGNATURE_FORMAT, "index": self._thoughts_said - 1}
        return self._chunks.detail(numbered)

    def finish(self, native: str) -> bytes:
        """The end of the message; a block that was left open ends with it."""
        said = b"".join([self.stop(index) for index in [*self._blocks]])
        reason = FINISH_REASONS.get(native, "stop")
        if reason == "tool_calls" and self._formatted and not self._chunks.tools():
            reason = "stop"
        return said + self._chunks.finish(reason, native)


class Stream(Translated):
    """An event stream of ConverseStream."""

    def __init__(
        self, call: Call, asking: Asking, family: Family, memory: Memory, format_tool: str | None, id: str
    ) -> None:
        super().__init__(call, asking)
        self.chunks.id = id or self.chunks.id
        self.chunks.model = asking.target.model
        self._family = family
        self._reader = Reader(self.chunks, call, family, memory, format_tool)
        self._reader.notes = self.notes
        self._frames = Frames()
        self._malformed = ""

    def split(self, data: bytes) -> Iterable[Frame]:
        try:
            yield from self._frames.feed(data)
        except UpstreamUnavailable as broken:
            self.fail(broken)

    def event(self, event: Frame) -> bytes:
        payload = parse_object(event.payload) or {}
        message_type = event.headers.get(":message-type", "event")
        if message_type == "exception":
            return self.fail(_exception(event.headers.get(":exception-type", ""), payload))
        if message_type == "error":
            return self.fail(_exception(event.headers.get(":error-code", ""), payload))
        kind = event.headers.get(":event-type")
        if kind == "metadata":
            return self._metadata(payload)
        if self.finished or self._malformed:
            return b""
        index = payload.get("contentBlockIndex")
        index = index if type(index) is int else 0
        if kind == "contentBlockDelta":
            return self._reader.delta(index, _mapping(payload.get("delta")))
        if kind == "contentBlockStart":
            return self._reader.start(index, _mapping(payload.get("start")))
        if kind == "contentBlockStop":
            return self._reader.stop(index)
        if kind == "messageStop":
            return self._stopped(_string(payload, "stopReason"))
        return b""

    def _stopped(self, native: str) -> bytes:
        if native in MALFORMED:
            self._malformed = native  # told once the usage is known
            return b""
        self.finished = True
        return self._reader.finish(native)

    def _metadata(self, payload: Mapping[str, Any]) -> bytes:
        self.reported = read_usage(payload.get("usage"), self._family) or self.reported
        if self._malformed:
            return self.end()
        self.done = self.finished
        return b""

    def end(self) -> bytes:
        if self._malformed:
            return self.fail(UpstreamUnavailable(kind=self._malformed, executed=True))
        return b""


def whole(
    body: bytes,
    call: Call,
    asking: Asking,
    family: Family,
    memory: Memory,
    format_tool: str | None,
    id: str,
) -> tuple[bytes, Usage | None]:
    """A whole answer → the completion and its usage. Raises UpstreamUnavailable for what is none."""
    found = parse_object(body)
    message = _mapping(_mapping((found or {}).get("output")).get("message"))
    content, native = message.get("content"), _string(found or {}, "stopReason")
    if found is None or not isinstance(content, list) or not native:
        raise UpstreamUnavailable(kind="bad_json", executed=True)
    if native in MALFORMED:
        raise UpstreamUnavailable(kind=native, executed=True)
    chunks = Gathered(asking.at_s)
    chunks.id = id or chunks.id
    chunks.model = asking.target.model
    reader = Reader(chunks, call, family, memory, format_tool)
    reader.whole(content)
    reader.finish(native)
    usage = read_usage(found.get("usage"), family)
    estimate = Usage(input=call.input_estimate(0), output=estimate_tokens(chunks.text_bytes))
    return chunks.completion(usage or estimate), usage or estimate


def _string(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
