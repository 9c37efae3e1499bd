"""Scripted answers in the formats that providers really speak: OpenAI's, Anthropic's, Gemini's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from tokenhub_proxy import sse
from tokenhub_proxy.prices import estimate_tokens
from tokenhub_proxy.testing.answers import Answer, Failure, ToolCall
from tokenhub_proxy.transports.script import Pause, Scripted, Step
from tokenhub_proxy.wire import Outgoing

CREATED = 1767225600
JSON = {"content-type": "application/json"}
STREAM = {"content-type": "text/event-stream; charset=utf-8"}

Object = dict[str, Any]


class Format(ABC):
    """One way of speaking. `number` counts the answers of a test, so that ids differ and repeat."""

    def __init__(self, outgoing: Outgoing, number: int) -> None:
        self._body: Mapping[str, Any] = orjson.loads(outgoing.body)
        self._path = outgoing.path
        self._number = number

    def scripted(self, answer: Answer) -> Scripted:
        """The answer as an upstream gives it: a read of the network for each event."""
        if not self.streams:
            steps: list[Step] = [orjson.dumps(self.whole(answer))]
            return Scripted(steps, headers=JSON)
        return Scripted(self._steps(answer), headers=STREAM)

    def failed(self, failure: Failure) -> Scripted:
        """The error as this provider tells it."""
        headers = dict(JSON)
        if failure.retry_after_s is not None:
            headers["retry-after"] = f"{failure.retry_after_s:g}"
        message = failure.message or "A test asked for this error."
        return Scripted([orjson.dumps(self.error(failure.status, message))], failure.status, headers)

    def _steps(self, answer: Answer) -> Iterator[Step]:
        for event, spoken in self.events(answer):
            if spoken and answer.delay_s:
                yield Pause(answer.delay_s)
            yield event

    @property
    @abstractmethod
    def streams(self) -> bool:
        """Whether this request wants a stream."""

    @abstractmethod
    def whole(self, answer: Answer) -> Object:
        """The body of an answer that is no stream."""

    @abstractmethod
    def events(self, answer: Answer) -> Iterator[tuple[bytes, bool]]:
        """The events of a stream, and whether each says a piece of the text."""

    @abstractmethod
    def error(self, status: int, message: str) -> Object:
        """The body of an error."""

    def _usage(self, answer: Answer) -> tuple[int, int]:
        if answer.usage is not None:
            return answer.usage
        said = self._body.get("messages") or self._body.get("contents")
        called = sum(estimate_tokens(len(call.arguments)) + 1 for call in answer.tool_calls)
        return estimate_tokens(len(orjson.dumps(said))), len(answer.pieces) + called

    def _call_id(self, call: ToolCall, index: int) -> str:
        return call.id or f"call_{self._number}_{index}"


class OpenAI(Format):
    """Chat completions."""

    @property
    def streams(self) -> bool:
        return bool(self._body.get("stream"))

    def whole(self, answer: Answer) -> Object:
        message: Object = {"role": "assistant", "content": answer.text or None, "refusal": None}
        if answer.tool_calls:
            message["tool_calls"] = [self._call(call, index) for index, call in enumerate(answer.tool_calls)]
        choices = [
            {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
            for index in range(self._choices)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": self._usage_object(answer)}

    def events(self, answer: Answer) -> Iterator[tuple[bytes, bool]]:
        for index in range(self._choices):
            yield self._chunk(index, {"role": "assistant", "content": ""}), False
            for piece in answer.pieces:
                yield self._chunk(index, {"content": piece}), True
            for number, call in enumerate(answer.tool_calls):
                first = {"index": number, **self._call(call, number)}
                first["function"] = {"name": call.name, "arguments": ""}
                yield self._chunk(index, {"tool_calls": [first]}), False
                for piece in _halves(call.arguments):
                    delta = {"index": number, "function": {"arguments": piece}}
                    yield self._chunk(index, {"tool_calls": [delta]}), False
            yield self._chunk(index, {}, answer.finish_reason), False
        if (self._body.get("stream_options") or {}).get("include_usage"):
            yield self._event([], self._usage_object(answer)), False
        yield sse.DONE, False

    def error(self, status: int, message: str) -> Object:
        kinds = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error"}
        codes = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
        kind = kinds.get(status, "server_error")
        return {"error": {"message": message, "type": kind, "param": None, "code": codes.get(status)}}

    @property
    def _choices(self) -> int:
        return int(self._body.get("n") or 1)

    def _head(self, kind: str) -> Object:
        id = f"chatcmpl-test{self._number}"
        return {"id": id, "object": kind, "created": CREATED, "model": self._body["model"]}

    def _call(self, call: ToolCall, index: int) -> Object:
        function = {"name": call.name, "arguments": call.arguments}
        return {"id": self._call_id(call, index), "type": "function", "function": function}

    def _chunk(self, index: int, delta: Object, reason: str | None = None) -> bytes:
        return self._event([{"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}])

    def _event(self, choices: list[Object], usage: Object | None = None) -> bytes:
        head = self._head("chat.completion.chunk")
        return sse.encode(orjson.dumps({**head, "choices": choices, "usage": usage}))

    def _usage_object(self, answer: Answer) -> Object:
        prompt, output = self._usage(answer)
        return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


class Anthropic(Format):
    """Messages, API version 2023-06-01."""

    _STOPS: Mapping[str, str] = {
        "stop": "end_turn",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "content_filter": "refusal",
    }
    _ERRORS: Mapping[int, str] = {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        529: "overloaded_error",
    }

    @property
    def streams(self) -> bool:
        return bool(self._body.get("stream"))

    def whole(self, answer: Answer) -> Object:
        text = [{"type": "text", "text": answer.text}] if answer.pieces else []
        calls = [
            {**self._block(call, index), "input": call.object} for index, call in enumerate(answer.tool_calls)
        ]
        prompt, output = self._usage(answer)
        return {
            **self._message(),
            "content": [*text, *calls],
            "stop_reason": self._stop(answer),
            "usage": {"input_tokens": prompt, "output_tokens": output},
        }

    def events(self, answer: Answer) -> Iterator[tuple[bytes, bool]]:
        prompt, output = self._usage(answer)
        message = {**self._message(), "usage": {"input_tokens": prompt, "output_tokens": 1}}
        yield _named("message_start", message=message), False
        index = 0
        if answer.pieces:
            yield _named("content_block_start", index=0, content_block={"type": "text", "text": ""}), False
            yield _named("ping"), False
            for piece in answer.pieces:
                delta = {"type": "text_delta", "text": piece}
                yield _named("content_block_delta", index=0, delta=delta), True
            yield _named("content_block_stop", index=0), False
            index = 1
        for number, call in enumerate(answer.tool_calls):
            place, block = index + number, self._block(call, number)
            yield _named("content_block_start", index=place, content_block=block), False
            for piece in ("", *_halves(call.arguments)):
                delta = {"type": "input_json_delta", "partial_json": piece}
                yield _named("content_block_delta", index=place, delta=delta), False
            yield _named("content_block_stop", index=place), False
        told = {"stop_reason": self._stop(answer), "stop_sequence": None}
        yield _named("message_delta", delta=told, usage={"output_tokens": output}), False
        yield _named("message_stop"), False

    def error(self, status: int, message: str) -> Object:
        kind = self._ERRORS.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}

    def _message(self) -> Object:
        return {
            "id": f"msg_test{self._number}",
            "type": "message",
            "role": "assistant",
            "model": self._body["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _block(self, call: ToolCall, index: int) -> Object:
        return {"type": "tool_use", "id": self._call_id(call, index), "name": call.name, "input": {}}

    def _stop(self, answer: Answer) -> str:
        return self._STOPS.get(answer.finish_reason, answer.finish_reason)


class Gemini(Format):
    """generateContent and streamGenerateContent."""

    _REASONS: Mapping[str, str] = {
        "stop": "STOP",
        "tool_calls": "STOP",
        "length": "MAX_TOKENS",
        "content_filter": "SAFETY",
    }
    _ERRORS: Mapping[int, str] = {
        400: "INVALID_ARGUMENT",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        429: "RESOURCE_EXHAUSTED",
        503: "UNAVAILABLE",
    }

    @property
    def streams(self) -> bool:
        return ":streamGenerateContent" in self._path

    def whole(self, answer: Answer) -> Object:
        parts: list[Object] = [{"text": answer.text}] if answer.pieces else []
        return self._object([*parts, *self._calls(answer)], answer, True)

    def events(self, answer: Answer) -> Iterator[tuple[bytes, bool]]:
        for piece in answer.pieces:
            yield self._event(self._object([{"text": piece}], answer, False)), True
        if answer.tool_calls:
            yield self._event(self._object(self._calls(answer), answer, False)), False
        yield self._event(self._object([{"text": ""}], answer, True)), False

    def error(self, status: int, message: str) -> Object:
        kind = self._ERRORS.get(status, "INTERNAL")
        return {"error": {"code": status, "message": message, "status": kind}}

    def _event(self, body: Object) -> bytes:
        return b"data: " + orjson.dumps(body) + b"\r\n\r\n"

    def _calls(self, answer: Answer) -> list[Object]:
        return [{"functionCall": {"name": call.name, "args": call.object}} for call in answer.tool_calls]

    def _object(self, parts: list[Object], answer: Answer, last: bool) -> Object:
        prompt, output = self._usage(answer)
        candidate: Object = {"content": {"role": "model", "parts": parts}, "index": 0}
        usage = {"promptTokenCount": prompt, "totalTokenCount": prompt}
        if last:
            candidate["finishReason"] = self._REASONS.get(answer.finish_reason, answer.finish_reason)
            usage = {**usage, "candidatesTokenCount": output, "totalTokenCount": prompt + output}
        return {
            "candidates": [candidate],
            "usageMetadata": usage,
            "modelVersion": self._path.removeprefix("/models/").partition(":")[0],
            "responseId": f"test{self._number}",
        }


def _named(kind: str, **members: Any) -> bytes:
    body = orjson.dumps({"type": kind, **members})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), body)


def _halves(text: str) -> tuple[str, ...]:
    """Arguments come in pieces: a client that reads only the first is found out."""
    middle = len(text) // 2
    return tuple(piece for piece in (text[:middle], text[middle:]) if piece)


FORMATS: Mapping[str, type[Format]] = {"openai": OpenAI, "anthropic": Anthropic, "gemini": Gemini}
