"""What the replies of foreign dialects share: OpenAI chunks and completions, built in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from tokenhub_proxy import sse
from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking
from tokenhub_proxy.dialects.replies import STREAM_HEADERS, error_event, parse_object
from tokenhub_proxy.dialects.usage import write_usage
from tokenhub_proxy.errors import ProxyError, UpstreamUnavailable
from tokenhub_proxy.prices import Usage, estimate_tokens

# One event may hold a whole image in base64. More than this is no event but an attack on memory.
EVENT_BYTES_MAX = 32 * 2**20


class Chunks:
    """The OpenAI chunks of one stream: its id, its model, and dense tool-call indices.

    Every method returns the bytes to say now.
    """

    def __init__(self, created_s: float) -> None:
        self.created_s = created_s
        # Until the upstream names its own.
        self.id = f"chatcmpl-{int(created_s * 1e6):x}"
        self.model = ""
        self.text_bytes = 0  # of all that was said, for the estimate
        self._started: set[int] = set()
        self._tools: dict[int, int] = {}  # calls so far, by choice
        self._head = b""  # of every chunk, as far as its choices
        self._head_id = self._head_model = ""  # what it says

    def delta(self, delta: dict[str, Any], *, choice: int = 0, logprobs: object = None) -> bytes:
        """A piece of the answer; the first of each choice opens it with its role."""
        said = b""
        if choice not in self._started:
            self._started.add(choice)
            said = self._chunk({"role": "assistant", "content": ""}, choice)
        if logprobs is not None:
            return said + self._chunk(delta, choice, logprobs=logprobs)
        return said + self._chunk(delta, choice) if delta else said

    def text(self, text: str, *, choice: int = 0, field: str = "content") -> bytes:
        """Text of the answer, or of another text field such as `reasoning_content`."""
        self.text_bytes += len(text) if text.isascii() else len(text.encode())
        if choice not in self._started:
            return self.delta({field: text}, choice=choice)
        return self._chunk({field: text}, choice)

    def tool(self, id: str, name: str, arguments: str = "", *, choice: int = 0, **extra: Any) -> bytes:
        """The start of a tool call, under the next index of its choice."""
        index = self._tools.get(choice, 0)
        self._tools[choice] = index + 1
        self.text_bytes += len(name.encode()) + len(arguments.encode())
        function = {"name": name, "arguments": arguments}
        call = {"index": index, "id": id, "type": "function", "function": function, **extra}
        return self.delta({"tool_calls": [call]}, choice=choice)

    def arguments(self, piece: str, index: int, *, choice: int = 0) -> bytes:
        """A piece of the arguments of the call with this index."""
        self.text_bytes += len(piece.encode())
        return self.delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}, choice=choice)

    def detail(self, detail: Mapping[str, Any], *, choice: int = 0) -> bytes:
        """One whole entry of `reasoning_details`: what a client may send back unchanged."""
        return self.delta({"reasoning_details": [detail]}, choice=choice)

    def tools(self, choice: int = 0) -> int:
        """How many calls this choice has; the last one's index is one less."""
        return self._tools.get(choice, 0)

    def finish(self, reason: str, native: str | None, *, choice: int = 0) -> bytes:
        """The end of a choice: OpenAI's reason, with the upstream's own word beside it."""
        opened = self.delta({}, choice=choice)
        return opened + self._chunk({}, choice, finish_reason=reason, native_finish_reason=native)

    def usage(self, usage: Usage) -> bytes:
        """The usage chunk, which has no choices."""
        return self._encode({"choices": [], "usage": write_usage(usage)})

    def _chunk(self, delta: dict[str, Any], choice: int, **extra: Any) -> bytes:
        if extra:
            body = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": None, **extra}
            return self._encode({"choices": [body]})
        # Most chunks differ in nothing but this.
        said = orjson.dumps(delta)
        return b'%b,"choices":[{"index":%d,"delta":%b,"logprobs":null,"finish_reason":null}]}\n\n' % (
            self._begun(), choice, said,
        )  # fmt: skip

    def _encode(self, members: dict[str, Any]) -> bytes:
        return b"%b,%b\n\n" % (self._begun(), orjson.dumps(members)[1:])

    def _begun(self) -> bytes:
        """The event up to its first member that can differ from chunk to chunk."""
        if self._head_id != self.id or self._head_model != self.model:
            head = {
                "id": self.id,
                "object": "chat.completion.chunk",
                "created": int(self.created_s),
                "model": self.model,
            }
            self._head = b"data: " + orjson.dumps(head)[:-1]
            self._head_id, self._head_model = self.id, self.model
        return self._head


class Gathered(Chunks):
    """The same words gathered into the choices of one whole completion; nothing is said on the way."""

    def __init__(self, created_s: float) -> None:
        super().__init__(created_s)
        self._choices: dict[int, dict[str, Any]] = {}

    def _chunk(self, delta: dict[str, Any], choice: int, **extra: Any) -> bytes:
        whole = self._choices.setdefault(
            choice,
            {
                "index": choice,
                "message": {"role": "assistant", "content": None, "refusal": None},
                "logprobs": None,
                "finish_reason": None,
            },
        )
        logprobs = extra.pop("logprobs", None)
        if logprobs is not None and whole["logprobs"] is not None:
            whole["logprobs"]["content"] += logprobs["content"]
        elif logprobs is not None:
            whole["logprobs"] = logprobs
        whole |= extra
        message = whole["message"]
        for name, value in delta.items():
            if name == "tool_calls":
                self._gather_call(message, value[0])
            elif name == "reasoning_details":
                message.setdefault(name, []).extend(value)
            elif name != "role" and value:
                message[name] = (message.get(name) or "") + value
        return b""

    def _gather_call(self, message: dict[str, Any], piece: dict[str, Any]) -> None:
        calls = message.setdefault("tool_calls", [])
        index = piece.pop("index")
        if index == len(calls):
            calls.append(piece)
        else:
            calls[index]["function"]["arguments"] += piece["function"]["arguments"]

    def completion(self, usage: Usage) -> bytes:
        """The whole completion. A message without tool calls always has text, if only ""."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        for choice in choices:
            message = choice["message"]
            if message["content"] is None and not message.get("tool_calls"):
                message["content"] = ""
        return completion(
            id=self.id, model=self.model, created_s=self.created_s, choices=choices, usage=usage
        )


class Translated(ABC):
    """A stream in a foreign format, said as OpenAI chunks; a subclass understands its events.

    What it says is always whole events, so the client is at an event boundary at any time. Usage,
    where the client asked for it, and [DONE] are said at the close: they come last.
    """

    def __init__(self, call: Call, asking: Asking) -> None:
        self.status = 200
        self.headers = STREAM_HEADERS
        self.finished = False
        self.begun = False
        self.done = False
        self.notes: dict[str, object] = {}
        self.call = call
        self.asking = asking
        self.chunks = Chunks(asking.at_s)
        self.reported: Usage | None = None
        # What the upstream told of the input before the output's end, for a stream that is cut.
        self.prompt: Usage | None = None
        self.progress = 0  # how often something was said
        self._failure: ProxyError | None = None

    @property
    def between_events(self) -> bool:
        return self.begun and not self.done

    @abstractmethod
    def split(self, data: bytes) -> Iterable[Any]:
        """The upstream's bytes → its whole events, in whatever form `event` takes them.

        A generator: `event` has dealt with one before the next is looked for.
        """

    @abstractmethod
    def event(self, event: Any) -> bytes:
        """One event → the client's chunks.

        Sets `chunks.id`, `chunks.model`, `reported`, `finished`, `done`. What goes wrong is given
        to `fail`, never raised here.
        """

    def end(self) -> bytes:
        """Chunks that are due only when the upstream's body has ended; by default none."""
        return b""

    @property
    def usage(self) -> Usage:
        if self.reported is not None:
            return self.reported
        if not self.begun:
            return Usage()
        output = estimate_tokens(self.chunks.text_bytes)
        if self.call.output_max is not None:
            output = min(output, self.call.output_max * self.call.choices)
        if self.prompt is not None:
            output = max(output, self.prompt.output)
            return replace(self.prompt, output=output, reasoning=0, reported=False)
        return Usage(input=self.call.input_estimate(0), output=output)

    def feed(self, data: bytes) -> bytes:
        if self.done:
            return b""
        said: list[bytes] = []
        if data:
            # Where the network cut the bytes must make no difference: what was said by an event
            # is committed before the next one is looked at.
            for event in self.split(data):
                self._say(self.event(event), said)
                if self.done:
                    break
        else:
            self._say(self.end(), said)
            self.done = True
            if not self.begun:
                raise UpstreamUnavailable(kind="empty", executed=True)
            if not self.finished:
                self.notes.setdefault("kind", "no_finish")
        if self.done and self.finished and self.reported is None:
            self.notes["usage"] = "missing"
        return b"".join(said)

    def _say(self, words: bytes, said: list[bytes]) -> None:
        if words:
            said.append(words)
            self.begun = True
            self.progress += 1

    def fail(self, error: ProxyError) -> bytes:
        """An error of the upstream in the middle of its stream; raises while that still can."""
        if not self.begun:
            raise error
        self.finished = False
        self.done = True
        self.notes["error_event"] = True
        self._failure = error
        return b""

    def close(self, error: ProxyError | None = None, request_id: str = "") -> bytes:
        if self.finished and self._failure is None:
            usage = self.chunks.usage(self.usage) if self.call.usage_asked else b""
            return usage + sse.DONE
        error = self._failure or error
        return error_event(error, request_id) if self.begun and error is not None else b""


class TranslatedEvents(Translated):
    """A translated stream of server-sent events, each of which holds one JSON object."""

    def __init__(self, call: Call, asking: Asking) -> None:
        super().__init__(call, asking)
        self._splitter = sse.Splitter()

    def split(self, data: bytes) -> Iterable[dict[str, Any]]:
        for event in self._splitter.feed(data):
            payload = sse.data(event)
            found = parse_object(payload) if payload is not None else None
            if found is not None:
                yield found
            elif payload:
                self.bad_event()
        if len(self._splitter.rest) > EVENT_BYTES_MAX:
            self._splitter.rest = b""
            self.fail(UpstreamUnavailable(kind="too_large", executed=True))

    def end(self) -> bytes:
        """The last event may lack its blank line, and an error may come as bare JSON."""
        said: list[bytes] = []
        rest = self._splitter.rest
        payload = sse.data(rest)
        for found in read_objects(payload if payload is not None else rest):
            self._say(self.event(found), said)
            if self.done:
                break
        return b"".join(said)

    def bad_event(self) -> None:
        """Note an event that nobody understands; what follows may still be good."""
        self.notes["bad_events"] = int(str(self.notes.get("bad_events", 0))) + 1


def read_objects(body: bytes) -> list[dict[str, Any]]:
    """The objects of a JSON body that is one or a list of them; none for anything else."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    return [item for item in (found if isinstance(found, list) else [found]) if isinstance(item, dict)]


def completion(
    *,
    id: str,
    model: str,
    created_s: float,
    choices: list[dict[str, Any]],
    usage: Usage,
) -> bytes:
    """A whole chat completion; each choice has `index`, `message`, `finish_reason`."""
    return orjson.dumps(
        {
            "id": id,
            "object": "chat.completion",
            "created": int(created_s),
            "model": model,
            "choices": choices,
            "usage": write_usage(usage),
        }
    )
