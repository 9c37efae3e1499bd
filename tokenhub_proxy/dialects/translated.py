"""What the replies of foreign dialects share: OpenAI chunks and completions, built in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import orjson

from tokenhub_proxy import sse
from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking
from tokenhub_proxy.dialects.replies import STREAM_HEADERS, error_event
from tokenhub_proxy.dialects.usage import write_usage
from tokenhub_proxy.errors import ProxyError, UpstreamUnavailable
from tokenhub_proxy.prices import Usage, estimate_tokens


class Chunks:
    """The OpenAI chunks of one stream: its id, its model, and dense tool-call indices."""

    def __init__(self, created_s: float) -> None:
        self.id = ""
        self.model = ""
        self.text_bytes = 0  # of all that was said, for the estimate
        self._created = int(created_s)
        self._started: set[int] = set()
        self._tools: dict[int, int] = {}  # calls so far, by choice

    def delta(self, delta: dict[str, Any], *, choice: int = 0) -> bytes:
        """A piece of the answer; the first of each choice opens it with its role."""
        said = b""
        if choice not in self._started:
            self._started.add(choice)
            said = self._chunk({"role": "assistant", "content": ""}, choice)
        return said + self._chunk(delta, choice) if delta else said

    def text(self, text: str, *, choice: int = 0, field: str = "content") -> bytes:
        """Text of the answer, or of another text field such as `reasoning_content`."""
        self.text_bytes += len(text.encode())
        return self.delta({field: text}, choice=choice)

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
        body = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": None, **extra}
        return self._encode({"choices": [body]})

    def _encode(self, members: dict[str, Any]) -> bytes:
        head = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self.model,
        }
        return sse.encode(orjson.dumps(head | members))


class Translated(ABC):
    """A stream in a foreign format, said as OpenAI chunks; a subclass understands its events.

    What it says is always whole events, so the client is at an event boundary at any time. Usage,
    where the client asked for it, and [DONE] are said at the close: they come last.
    """

    def __init__(self, call: Call, asking: Asking) -> None:
        self.status = 200
        self.headers = dict(STREAM_HEADERS)
        self.finished = False
        self.begun = False
        self.done = False
        self.notes: dict[str, object] = {}
        self.call = call
        self.asking = asking
        self.chunks = Chunks(asking.at_s)
        self.reported: Usage | None = None
        self._failure: ProxyError | None = None

    @abstractmethod
    def split(self, data: bytes) -> Iterable[Any]:
        """The upstream's bytes → its whole events, in whatever form `event` takes them."""

    @abstractmethod
    def event(self, event: Any) -> bytes:
        """One event → the client's chunks.

        Sets `chunks.id`, `chunks.model`, `reported`, `finished`, `done`. An error event before
        anything was said raises; a later one is given to `fail`.
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
        return Usage(input=self.call.input_estimate(0), output=output)

    def feed(self, data: bytes) -> bytes:
        if data:
            said = b"".join([self.event(event) for event in self.split(data)])
        else:
            said = self.end()
            if not self.begun and not said:
                raise UpstreamUnavailable(kind="empty", executed=True)
            if not self.finished:
                self.notes["kind"] = "no_finish"
        self.begun = self.begun or bool(said)
        return said

    def fail(self, error: ProxyError) -> bytes:
        """An error of the upstream in the middle of its stream; raises while that still can."""
        if not self.begun:
            raise error
        self.finished = False
        self.notes["error_event"] = True
        self._failure = error
        return b""

    def close(self, error: ProxyError | None = None, request_id: str = "") -> bytes:
        if self.finished and self._failure is None:
            usage = self.chunks.usage(self.usage) if self.call.usage_asked else b""
            return usage + sse.DONE
        error = self._failure or error
        return error_event(error, request_id) if self.begun and error is not None else b""


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
