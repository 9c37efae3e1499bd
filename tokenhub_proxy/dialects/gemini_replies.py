"""Gemini's generateContent and batchEmbedContents answers as OpenAI's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import orjson

from tokenhub_proxy.calls import CHOICES_MAX, Call
from tokenhub_proxy.dialects import Asking
from tokenhub_proxy.dialects.gemini_partial import PartialCall
from tokenhub_proxy.dialects.gemini_requests import memory_key
from tokenhub_proxy.dialects.memory import Memory
from tokenhub_proxy.dialects.replies import RETRY_AFTER_MAX_S, refusal
from tokenhub_proxy.dialects.translated import Chunks, Gathered, TranslatedEvents, read_objects
from tokenhub_proxy.dialects.usage import count
from tokenhub_proxy.dialects.vectors import embeddings, read_texts, read_vector
from tokenhub_proxy.errors import ProxyError, UpstreamUnavailable
from tokenhub_proxy.prices import Usage, estimate_tokens

_FILTERED = "content_filter"
FINISH_REASONS: Mapping[str, str] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": _FILTERED,
    "RECITATION": _FILTERED,
    "BLOCKLIST": _FILTERED,
    "PROHIBITED_CONTENT": _FILTERED,
    "SPII": _FILTERED,
    "IMAGE_SAFETY": _FILTERED,
    "IMAGE_PROHIBITED_CONTENT": _FILTERED,
    "IMAGE_RECITATION": _FILTERED,
    "MODEL_ARMOR": _FILTERED,
}
# The answer went wrong; OpenAI has no finish reason for that.
FAILED_REASONS = frozenset(
    {
        "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "LANGUAGE", "NO_IMAGE",
        "IMAGE_OTHER", "MALFORMED_RESPONSE", "MISSING_THOUGHT_SIGNATURE",
    }
)  # fmt: skip
# Some gateways in between send the enum's number; these are those of v1beta.
NUMBERED_REASONS = (
    "FINISH_REASON_UNSPECIFIED", "STOP", "MAX_TOKENS", "SAFETY", "RECITATION", "OTHER", "LANGUAGE",
    "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MALFORMED_FUNCTION_CALL", "IMAGE_SAFETY",
    "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS",
)  # fmt: skip
_SECONDS = re.compile(r"(\d{1,6}(?:\.\d{1,9})?)s")


def error_reader(status: int) -> Any:
    """A reader of error bodies that come with this status, for `Refused`."""

    def read(body: bytes) -> tuple[object, object]:
        for found in read_objects(body):
            if found.get("error"):
                error = error_of(_mapping(found["error"]), status)
                if isinstance(error, UpstreamUnavailable):
                    raise error
                return error.message, None
        return None, None

    return read


def error_of(error: Mapping[str, Any], status: int = 0) -> ProxyError:
    """What an error object means; `status` where HTTP said one, else its `code`."""
    code = error.get("code")
    status = status or (code if type(code) is int else 500)
    message, name = str(error.get("message") or ""), error.get("status")
    details = [_mapping(item) for item in _list(error.get("details"))]
    reasons = {str(item.get("reason")) for item in details}
    if status == 400 and (name == "FAILED_PRECONDITION" or _names_key(message, reasons)):
        # A wrong key, a place or a bill that Google does not accept: the operator's to mend.
        return UpstreamUnavailable(kind="status", upstream_status=401)
    waits = [found.group(1) for item in details if (found := _SECONDS.fullmatch(str(item.get("retryDelay"))))]
    if waits and status in (429, 503):
        seconds = min(max(float(waits[0]), 1.0), RETRY_AFTER_MAX_S)
        return UpstreamUnavailable(kind="status", upstream_status=status, retry_after_s=seconds)
    return refusal(status, message, None, {})


def _names_key(message: str, reasons: set[str]) -> bool:
    said = message.lower()
    return any(reason.startswith("API_KEY_") for reason in reasons) or (
        "api key" in said and any(word in said for word in ("valid", "expired", "found", "missing"))
    )


class Reader:
    """Understands generateContent objects, streamed or whole, and says them."""

    def __init__(self, chunks: Chunks, call: Call, memory: Memory) -> None:
        self.notes: dict[str, object] = {}
        self.usage: Usage | None = None
        self.output_known = False  # the usage tells the visible output too
        self.failure: ProxyError | None = None
        self._chunks = chunks
        self._call = call
        self._memory = memory
        self._reasons: dict[int, str] = {}  # native, by choice
        self._blocked = False  # the prompt was refused: there is no answer
        self._partial: dict[int, PartialCall] = {}  # calls that come in pieces, by choice
        self._seen: set[int] = set()
        self._counts: dict[str, int] = {}

    def read(self, found: Mapping[str, Any]) -> bytes:
        """One object → what it says now. `failure` is set where it is an error."""
        if found.get("error"):
            self.failure = error_of(_mapping(found["error"]))
            return b""
        self._chunks.id = _string(found, "responseId") or self._chunks.id
        self._chunks.model = _string(found, "modelVersion") or self._chunks.model
        self._read_usage(found.get("usageMetadata"))
        said = b"".join([self._candidate(_mapping(item)) for item in _list(found.get("candidates"))])
        blocked = _mapping(found.get("promptFeedback")).get("blockReason")
        if blocked and not self._seen:
            self._seen.add(0)
            self._reasons[0] = str(blocked)
            self._blocked = True
        return said

    def complete(self, choices: int) -> bool:
        """Whether all choices ended: those seen, and at least so many."""
        return bool(self._seen) and self._reasons.keys() >= self._seen and len(self._seen) >= choices

    def finish(self) -> bytes:
        """The ends of all choices: due when nothing more can come, for a call may follow a reason."""
        said: list[bytes] = []
        for choice, native in sorted(self._reasons.items()):
            reason = _FILTERED if self._blocked else FINISH_REASONS.get(native, "stop")
            if reason == "stop" and self._chunks.tools(choice):
                reason = "tool_calls"
            said.append(self._chunks.finish(reason, native, choice=choice))
        self._reasons = {}
        return b"".join(said)

    def _candidate(self, candidate: Mapping[str, Any]) -> bytes:
        index = candidate.get("index", 0)
        if type(index) is not int or not 0 <= index < CHOICES_MAX:
            return b""
        self._seen.add(index)
        parts = _list(_mapping(candidate.get("content")).get("parts"))
        said = b"".join([self._part(_mapping(part), index) for part in parts])
        logprobs = _logprobs(candidate.get("logprobsResult"))
        if logprobs is not None:
            said += self._chunks.delta({}, choice=index, logprobs=logprobs)
        reason = candidate.get("finishReason")
        if type(reason) is int:
            reason = NUMBERED_REASONS[reason] if 0 <= reason < len(NUMBERED_REASONS) else "OTHER"
        if not isinstance(reason, str):
            return said
        if reason in FAILED_REASONS:
            self.failure = UpstreamUnavailable(
                f"The upstream's answer failed: {reason}.", kind="finish_reason", executed=True
            )
        elif reason not in ("", "FINISH_REASON_UNSPECIFIED"):
            self._reasons[index] = reason
        return said

    def _part(self, part: Mapping[str, Any], choice: int) -> bytes:
        text = part.get("text")
        if isinstance(text, str):
            field = "reasoning_content" if part.get("thought") is True else "content"
            return self._chunks.text(text, choice=choice, field=field) if text else b""
        call = part.get("functionCall")
        if isinstance(call, Mapping):
            return self._call_part(call, _string(part, "thoughtSignature"), choice)
        if part.keys() - {"thoughtSignature", "thought"}:
            # Code that the upstream ran, pictures: nothing that a chat message can hold.
            self.notes["other_parts"] = int(str(self.notes.get("other_parts", 0))) + 1
        return b""

    def _call_part(self, call: Mapping[str, Any], signature: str, choice: int) -> bytes:
        if choice in self._partial or call.get("willContinue") is True:
            partial = self._partial.setdefault(choice, PartialCall())
            if not partial.add(call, signature):
                return b""
            del self._partial[choice]
            call = {"id": partial.id, "name": partial.name, "args": partial.arguments}
            signature = partial.signature
        name, arguments = _string(call, "name"), _mapping(call.get("args"))
        id = _string(call, "id") or self._new_id(name, choice)
        if not signature:
            return self._chunks.tool(id, name, orjson.dumps(arguments).decode(), choice=choice)
        self._memory.put(self._call.owner, memory_key(id), signature.encode())
        extra = {"google": {"thought_signature": signature}}
        return self._chunks.tool(
            id, name, orjson.dumps(arguments).decode(), choice=choice, extra_content=extra
        )

    def _new_id(self, name: str, choice: int) -> str:
        """An id of ours: the same for the same answer, another in every other turn."""
        seed = f"{self._chunks.id}/{choice}/{self._chunks.tools(choice)}/{name}"
        return f"call_{sha256(seed.encode()).hexdigest()[:24]}"

    def _read_usage(self, usage: object) -> None:
        """Each object's counts stand over the earlier ones; what one leaves out stays."""
        for name, value in _mapping(usage).items():
            counted = count(value)
            if counted is not None:
                self._counts[name] = counted
        if "promptTokenCount" not in self._counts:
            return
        counts = self._counts
        prompt = counts["promptTokenCount"] + counts.get("toolUsePromptTokenCount", 0)
        cached = min(counts.get("cachedContentTokenCount", 0), prompt)
        thoughts = counts.get("thoughtsTokenCount", 0)
        self.output_known = "candidatesTokenCount" in counts
        self.usage = Usage(
            input=prompt - cached,
            cached=cached,
            output=counts.get("candidatesTokenCount", 0) + thoughts,
            reasoning=thoughts,
            reported=True,
        )


class Stream(TranslatedEvents):
    """A stream of generateContent objects. It has no end mark: the body's end is the end."""

    def __init__(self, call: Call, asking: Asking, memory: Memory) -> None:
        super().__init__(call, asking)
        self._reader = Reader(self.chunks, call, memory)
        self._reader.notes = self.notes

    def event(self, event: dict[str, Any]) -> bytes:
        said = self._reader.read(event)
        self.finished = self._reader.complete(self.call.choices)
        # Before the end the visible output may be missing; then it is estimated, the input is told.
        if self._reader.output_known or self.finished:
            self.reported = self._reader.usage
        self.prompt = self._reader.usage
        if self._reader.failure is not None:
            self.begun = self.begun or bool(said)
            return said + self.fail(self._reader.failure)
        return said

    def end(self) -> bytes:
        said = super().end()
        self.finished = self._failure is None and self._reader.complete(1)
        if not self.finished:
            return said
        self.reported = self._reader.usage
        return said + self._reader.finish()

    def close(self, error: ProxyError | None = None, request_id: str = "") -> bytes:
        # A connection that broke after the last reason: the answer is whole, its ends are due.
        ends = self._reader.finish() if self.finished and self._failure is None else b""
        return ends + super().close(error, request_id)


def whole(body: bytes, call: Call, asking: Asking, memory: Memory) -> tuple[bytes, Usage | None]:
    """A whole answer → the completion and its usage. Raises what an error inside it means."""
    chunks = Gathered(asking.at_s)
    reader = Reader(chunks, call, memory)
    for found in read_objects(body):
        reader.read(found)
        if reader.failure is not None:
            raise reader.failure
    if not reader.complete(1):
        raise UpstreamUnavailable(kind="bad_json", executed=True)
    reader.finish()
    usage = reader.usage or Usage(input=call.input_estimate(0), output=estimate_tokens(chunks.text_bytes))
    return chunks.completion(usage), usage


def whole_embeddings(body: bytes, call: Call, asking: Asking) -> tuple[bytes, Usage | None]:
    """A batch of vectors → the answer. The upstream counts no tokens, so they are estimated."""
    found = next(iter(read_objects(body)), {})
    if found.get("error"):
        raise error_of(_mapping(found["error"]))
    vectors = [read_vector(_mapping(item).get("values")) for item in _list(found.get("embeddings"))]
    if len(vectors) != len(read_texts(call)):
        raise UpstreamUnavailable(kind="bad_json", executed=True)
    counted = count(_mapping(found.get("usageMetadata")).get("promptTokenCount"))
    usage = Usage(input=call.input_estimate(0) if counted is None else counted, reported=counted is not None)
    return embeddings(call, vectors, asking.target.model, usage), usage


def _logprobs(result: object) -> dict[str, Any] | None:
    """OpenAI's logprobs of a logprobsResult, None where it holds none."""
    chosen = _list(_mapping(result).get("chosenCandidates"))
    if not chosen:
        return None
    tops = _list(_mapping(result).get("topCandidates"))
    content: list[dict[str, Any]] = []
    for index, token in enumerate(chosen):
        top = _list(_mapping(tops[index]).get("candidates")) if index < len(tops) else []
        content.append({**_token(token), "top_logprobs": [_token(item) for item in top]})
    return {"content": content, "refusal": None}


def _token(token: object) -> dict[str, Any]:
    text, probability = _string(_mapping(token), "token"), _mapping(token).get("logProbability", 0.0)
    logprob = float(probability) if type(probability) in (int, float) else 0.0
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _string(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
