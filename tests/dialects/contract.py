"""What the contract of the dialects is stated in: rows, what a client hears, and how bytes are cut.

A dialect joins the suite with a module `rows/NAME.py` that holds one `ROW`, see `rows/__init__.py`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import orjson
from openai.types.chat import ChatCompletionChunk

from tokenhub_proxy import calls
from tokenhub_proxy.dialects import Asking, Memory, Reply, dialect
from tokenhub_proxy.errors import ProxyError, UpstreamUnavailable
from tokenhub_proxy.prices import Usage
from tokenhub_proxy.routes import Target, Upstream

CUT = UpstreamUnavailable(kind="reset_read", executed=True)
AT_S = 1_790_000_000.25


@dataclass(frozen=True)
class Heard:
    """What a client understands of an answer: of the first choice, unless it says otherwise."""

    text: str = ""
    reasoning: str = ""
    tools: tuple[tuple[str, str, Any], ...] = ()  # id, name, arguments parsed
    finish: str | None = None
    native: str | None = None
    refusal: str = ""
    choices: int = 1


@dataclass(frozen=True)
class Recorded:
    """An upstream's answer as bytes, and what must become of it.

    Before the first `ending` bytes of it have come the model has not finished.
    """

    raw: bytes
    heard: Heard
    usage: Usage
    ending: int = 0
    asked: Mapping[str, Any] = field(default_factory=dict)  # request fields it answers


@dataclass(frozen=True)
class Failing:
    """An error answer and what the client must see of it."""

    status: int
    body: bytes
    error: type[ProxyError]
    says: str = ""  # a piece of the message
    hides: str = ""  # what the client must not read
    retry_after_s: float | None = None


@dataclass(frozen=True, repr=False)
class Row:
    """One dialect in the suite."""

    name: str
    model: str
    stream_type: str
    streams: Mapping[str, Recorded]
    wholes: Mapping[str, Recorded]
    failures: Mapping[str, Failing]
    early_errors: Mapping[str, tuple[bytes, type[ProxyError]]]  # instead of a stream's first words
    late_errors: Mapping[str, bytes]  # complete events, to be put between any two of a stream
    check: Callable[[bytes], None]  # the body against the SDK's own types
    read: Callable[[bytes], Any]  # a body → what `said_in` makes of the messages
    answer: Callable[[str, Sequence[tuple[str, str, Any]], bool], bytes]  # text, calls, stream? → bytes
    split: Callable[[bytes], list[bytes]]  # a stream → its events
    translated: bool = True
    embeddings: bool = False

    def __repr__(self) -> str:
        return self.name

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self.name)  # what Hypothesis prints of a failing case


def call_of(stream: bool, **fields: Any) -> calls.Call:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream, **fields}
    return calls.parse(orjson.dumps(body), "chat", owner="main")


def asking_of(row: Row, **options: Any) -> Asking:
    upstream = Upstream("up", row.name, "http://up.test", ("k",), options=options)
    return Asking(Target(upstream, row.model), "k", AT_S)


def reply_of(
    row: Row, call: calls.Call, *, status: int = 200, kind: str | None = None, memory: Memory | None = None
) -> Reply:
    kind = kind or (row.stream_type if call.stream else "application/json")
    made = dialect(row.name, memory or Memory())
    return made.reply(call, asking_of(row), status, {"content-type": kind})


def played(reply: Reply, pieces: Sequence[bytes], *, clean: bool = True) -> tuple[bytes, bytes]:
    """What the client gets on the way and at the close. After a cut there is no end of the body."""
    said = b"".join([reply.feed(piece) for piece in pieces if piece])
    if clean:
        said += reply.feed(b"")
    return said, reply.close(None if reply.finished else CUT, "req_1")


def events(said: bytes) -> list[bytes]:
    """The data of the client's events; asserts that what it got is whole events."""
    if not said:
        return []
    assert said.endswith(b"\n\n")
    # An event that was relayed up to its last line end may be closed with one blank line too many.
    found = [event for event in re.split(rb"\n\n+", said[:-2]) if not event.startswith(b":")]
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in found), said
    return [event[6:] for event in found]


def chunks(said: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(event) for event in events(said) if event != b"[DONE]"]


def heard(said: bytes) -> Heard:
    """Puts the chunks together as the official client's users do, checking each on the way."""
    text = reasoning = refusal = ""
    tools: dict[int, list[str]] = {}
    finish = native = None
    seen: set[int] = set()
    ids: set[str] = set()
    for chunk in chunks(said):
        check_chunk(chunk)
        ids.add(chunk["id"])
        for choice in chunk["choices"]:
            seen.add(choice["index"])
            if choice["index"] != 0:
                continue
            delta = choice["delta"]
            assert finish is None, "nothing follows a finish reason"
            text += delta.get("content") or ""
            reasoning += delta.get("reasoning_content") or ""
            refusal += delta.get("refusal") or ""
            for piece in delta.get("tool_calls") or []:
                if piece["index"] not in tools:
                    assert piece["index"] == len(tools), "indices are dense"
                    tools[piece["index"]] = [piece["id"], piece["function"]["name"], ""]
                tools[piece["index"]][2] += piece["function"].get("arguments") or ""
            finish, native = choice["finish_reason"], choice.get("native_finish_reason")
    assert len(ids) <= 1
    listed = tuple((id, name, orjson.loads(arguments)) for id, name, arguments in tools.values())
    return Heard(text, reasoning, listed, finish, native, refusal, len(seen))


def heard_whole(body: bytes) -> Heard:
    found = orjson.loads(body)
    choice = found["choices"][0]
    message = choice["message"]
    listed = tuple(
        (tool["id"], tool["function"]["name"], orjson.loads(tool["function"]["arguments"]))
        for tool in message.get("tool_calls") or []
    )
    return Heard(
        message["content"] or "",
        message.get("reasoning_content") or "",
        listed,
        choice["finish_reason"],
        choice.get("native_finish_reason"),
        message.get("refusal") or "",
        len(found["choices"]),
    )


def check_chunk(chunk: dict[str, Any]) -> None:
    """One chunk against the official types, and against what they leave open."""
    ChatCompletionChunk.model_validate(chunk, strict=True)
    assert chunk["object"] == "chat.completion.chunk"
    assert chunk["id"]
    for choice in chunk["choices"]:
        assert isinstance(choice["delta"], dict)


def cuts(raw: bytes, at: Sequence[int]) -> list[bytes]:
    """The bytes cut at these places."""
    places = [0, *sorted(at), len(raw)]
    return [raw[start:end] for start, end in pairwise(places)]


JUNK: tuple[Any, ...] = (None, True, -1, 0, 2**60, 1.5, "", "junk", [], {}, [None], [[]], {"a": 1}, ["x"])


def mutated(value: Any, rng: random.Random) -> Any:
    """A JSON value with one of its nodes replaced by junk, left out, or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(list(value))
        if rng.random() < 0.15:
            return {key: inner for key, inner in value.items() if key != name}
        return {**value, name: mutated(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        return [*value[:place], mutated(value[place], rng), *value[place : place + rng.randrange(2)]]
    return rng.choice(JUNK)


def said_in(messages: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """The messages as what any upstream must be told, in order."""
    found: list[tuple[Any, ...]] = [
        ("system", message["content"]) for message in messages if message["role"] == "system"
    ]
    names: dict[str, str] = {}
    for message in messages:
        if message["role"] == "system":
            continue
        if message["role"] == "tool":
            id = message["tool_call_id"]
            found.append(("result", id, names[id], message["content"]))
            continue
        if message.get("content"):
            found.append((message["role"], message["content"]))
        for tool in message.get("tool_calls") or []:
            name, arguments = tool["function"]["name"], orjson.loads(tool["function"]["arguments"])
            names[tool["id"]] = name
            found.append(("call", tool["id"], name, arguments))
    return found


def sse(*objects: Any, end: bytes = b"\n\n", named: bool = False) -> bytes:
    """Objects as server-sent events, with their `type` as the event's name where it is `named`."""
    line = end[: len(end) // 2]
    return b"".join(
        (b"event: " + item["type"].encode() + line if named else b"") + b"data: " + orjson.dumps(item) + end
        for item in objects
    )


def split_sse(raw: bytes) -> list[bytes]:
    """A stream of server-sent events, event by event."""
    end = b"\r\n\r\n" if b"\r\n\r\n" in raw else b"\n\n"
    return [event + end for event in raw.split(end) if event]


def ending_after(raw: bytes, mark: bytes) -> int:
    """The place right after the mark."""
    return raw.index(mark) + len(mark)
