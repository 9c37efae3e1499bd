"""Random bytes at every parser: what comes is understood or refused, the same however it is cut.

    python -m tests.fuzz --inputs 1000000          # a table of what was tried and how it ended
    python -m tests.fuzz --again reply 12345       # one input once more, with its traceback

An input is made from its target's name, the seed and its number alone, so a number is all it takes
to see a failure again.
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import os
import random
import re
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson
from openai.types.chat import ChatCompletion

from tests.dialects.contract import Row, asking_of, call_of, cuts, events, mutated, played
from tests.dialects.rows import ROWS
from tokenhub_proxy import calls, sse
from tokenhub_proxy.dialects import Asking, Memory, Reply, dialect
from tokenhub_proxy.dialects.eventstream import Frame, Frames
from tokenhub_proxy.dialects.inflated import plain
from tokenhub_proxy.errors import ProxyError, UpstreamUnavailable
from tokenhub_proxy.inflate import CODINGS
from tokenhub_proxy.prices import Price
from tokenhub_proxy.routes import Route

# CPU time of one input. They take microseconds; a tenth of this would be a way to stop the proxy.
INPUT_S_MAX = 1.0
FINDINGS_MAX = 20
PRICE = Price(input=3_000_000_000, cached=300_000_000, cache_write=3_750_000_000, output=15_000_000_000)

Item = TypeVar("Item")


@dataclass(frozen=True)
class Tally:
    """What became of a run of inputs."""

    ended: Counter[str] = field(default_factory=Counter)  # how, and how many
    findings: tuple[str, ...] = ()
    slowest_s: float = 0.0
    slowest: str = ""  # target and number

    def __add__(self, other: Tally) -> Tally:
        slower = self if self.slowest_s >= other.slowest_s else other
        return Tally(
            self.ended + other.ended,
            (*self.findings, *other.findings),
            slower.slowest_s,
            slower.slowest,
        )


# --- making inputs

WORDS = (
    b"data: ", b"data:", b"event: ", b"\n\n", b"\r\n\r\n", b"\r", b"\n", b": ping\n\n", b"data: [DONE]\n\n",
    b"[DONE]", b"{", b"}", b"[", b"]", b'"', b"\\", b"\\u0000", b"\\ud800", b"\0", b"\xff", b"\xef\xbb\xbf",
    b"null", b"true", b"-1", b"1e999", b"NaN", b"9" * 25, b"0.1", b"[" * 200, b'{"a":' * 200, b"\xe2\x80\xa8",
    b'"usage":', b'"choices":', b'"error":', b'"model":', b'"n":', b'"max_tokens":', b"data:image/png,",
)  # fmt: skip


def damaged(raw: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """The bytes with one to four of the damages that networks, proxies and bugs do."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(raw) + 1)
        end = min(len(raw), start + rng.choice((1, 2, 8, 40, 400)))
        kind = rng.randrange(8)
        if kind == 0:
            raw = raw[:start] + rng.randbytes(end - start) + raw[end:]
        elif kind == 1:
            raw = raw[:start] + raw[end:]
        elif kind == 2:
            raw = raw[:end] + raw[start:]
        elif kind == 3:
            raw = raw[:start]
        elif kind == 4 and others:
            other = rng.choice(others)
            raw = raw[:start] + other[rng.randrange(len(other) + 1) :]
        elif kind == 5 and rng.random() < 0.02:
            raw = raw[:start] + raw[start:end] * (2**16 // max(1, end - start)) + raw[end:]
        else:
            raw = raw[:start] + rng.choice(WORDS) + raw[start if kind == 6 else end :]
    return raw


def replaced(raw: bytes, rng: random.Random) -> bytes:
    """A JSON text with nodes replaced by junk; as it is where it is none."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return raw
    for _ in range(rng.randint(1, 3)):
        value = mutated(value, rng)
    return orjson.dumps(value)


def segments(raw: bytes, rng: random.Random) -> list[bytes]:
    """The bytes as a network could bring them."""
    if len(raw) < 400 and rng.random() < 0.2:
        return [raw[place : place + 1] for place in range(len(raw))]
    return cuts(raw, [rng.randrange(len(raw) + 1) for _ in range(rng.randrange(1, 12))])


# --- the targets: each makes an input and checks it; gives a word for how it ended


def splitter(rng: random.Random) -> str:
    if rng.random() < 0.5:
        raw = b"".join(rng.choices(WORDS[:13], k=rng.randrange(1, 30)))
    else:
        raw = damaged(rng.choice(SSE_STREAMS), rng, SSE_STREAMS)
    whole, cut = sse.Splitter(), sse.Splitter()
    found = whole.feed(raw)
    again = [event for piece in segments(raw, rng) for event in cut.feed(piece)]
    assert (again, cut.rest) == (found, whole.rest)
    assert b"".join(found) + whole.rest == raw
    for event in found:
        data = sse.data(event)
        assert data is None or b"\r" not in data
        sse.name(event)
    return "events" if found else "no event"


def frames(rng: random.Random) -> str:
    """AWS event streams: the frames before the damage, then a refusal, wherever it is cut."""
    raw = damaged(rng.choice(FRAME_STREAMS), rng, FRAME_STREAMS)

    def read(pieces: Sequence[bytes]) -> tuple[list[Frame], bool]:
        reader, found = Frames(), []
        try:
            for piece in pieces:
                found += _kept(reader.feed(piece), found)
        except UpstreamUnavailable:
            return found, True
        return found, False

    def _kept(new: Iterator[Frame], found: list[Frame]) -> list[Frame]:
        for frame in new:
            found.append(frame)
        return []

    whole = read([raw])
    assert read(segments(raw, rng)) == whole
    return "refused" if whole[1] else "frames"


def refused(error: ProxyError, word: str = "refused") -> str:
    """A client's own fault has a status that says so."""
    assert 400 <= error.http_status < 500
    return word


def request(rng: random.Random) -> str:
    """A client's body: parsed, bounded and priced, and written for an upstream."""
    endpoint, bodies = rng.choice((("chat", CHATS), ("chat", CHATS), ("embeddings", EMBEDDINGS)))
    raw = rng.choice(bodies)
    if rng.random() < 0.75:
        raw = replaced(raw, rng)
    if rng.random() < 0.2:
        raw = damaged(raw, rng, bodies)
    try:
        call = calls.parse(raw, endpoint, owner="main", strict=rng.random() < 0.1)
        call = calls.with_defaults(call, rng.choice(DEFAULTS))
    except ProxyError as error:
        return refused(error)
    row = rng.choice(list(ROWS.values()))
    asking = asking_of(row, **(rng.choice(OPTIONS) if row.name == "openai" else {}))
    if endpoint == "embeddings":
        asking = replace(asking, target=replace(asking.target, model=rng.choice(EMBEDDERS)))
    route = Route("m", (asking.target,), PRICE, output_max=4096)
    try:
        amount, output_max = route.bound(call, rng.choice((None, 0, 10**6, 10**12)))
        assert amount >= PRICE.ceiling(0, 0)
        asking = replace(asking, output_max=output_max, output_default=4096)
        outgoing = dialect(row.name, Memory()).request(call, asking)
    except ProxyError as error:
        return refused(error, "unsayable")
    for one in outgoing.parts or [outgoing]:
        assert orjson.loads(one.body) is not None
        # What an HTTP head can't hold must not come from a body.
        assert all(31 < ord(letter) < 127 for letter in one.path), one.path
        assert not any(set(name + value) & {"\r", "\n", "\0"} for name, value in one.headers)
    return "sent"


def reply(rng: random.Random) -> str:
    """An upstream's answer, damaged: cut anywhere it comes to the same."""
    answer = answered(rng)
    whole = answer.told([answer.raw])
    assert answer.told(segments(answer.raw, rng)) == whole
    return whole.word


def inflated(rng: random.Random) -> str:
    """An answer that comes compressed: the same again; and where that is damaged, no more than refused."""
    answer = answered(rng)
    coding = rng.choice(CODINGS)
    packed = gzip.compress(answer.raw, 1) if coding == "gzip" else zlib.compress(answer.raw, 1)
    if rng.random() < 0.4:
        return "damaged, " + answer.told(segments(damaged(packed, rng), rng), coding).word
    found = answer.told(segments(packed, rng), coding)
    assert found == answer.told([answer.raw])
    return found.word


def answered(rng: random.Random) -> Answered:
    """An upstream's answer to a call of any kind, with any damage."""
    row = rng.choice(list(ROWS.values()))
    stream = rng.random() < 0.7
    call = call_of(stream, **({"stream_options": {"include_usage": True}} if rng.random() < 0.7 else {}))
    kind, status = "application/json", 200
    if rng.random() < 0.1:
        failing = rng.choice(list(row.failures.values()))
        raw, status = replaced(failing.body, rng), failing.status
    elif stream:
        raw, kind = _stream(row, rng), row.stream_type
    else:
        raw = replaced(rng.choice(list(row.wholes.values())).raw, rng)
    if rng.random() < 0.4:
        raw = damaged(raw, rng, [one.raw for one in row.streams.values()])
    if rng.random() < 0.03:
        kind, status = rng.choice(KINDS), rng.choice((200, 204, 206, 302, 400, 404, 429, 500, 529))
    asking = asking_of(row, **(rng.choice(OPTIONS) if row.name == "openai" else {}))
    return Answered(row, call, asking, raw, kind, status, clean=rng.random() < 0.7)


def vectors(rng: random.Random) -> str:
    """An upstream's answer to a request for embeddings."""
    name, model, raw = rng.choice(VECTORS)
    raw = replaced(raw, rng)
    if name == "bedrock":
        raw = (
            b"["
            + b",".join(FANNED % part for part in (raw, replaced(raw, rng))[: rng.choice((1, 2, 2))])
            + b"]"
        )
    elif rng.random() < 0.3:
        raw = damaged(raw, rng)
    form = rng.choice(("float", "base64", None))
    body = {"model": "m", "input": ["a", "b"], **({"encoding_format": form} if form else {})}
    call = calls.parse(orjson.dumps(body), "embeddings", owner="main")
    row = ROWS[name]
    asking = asking_of(row)
    asking = replace(asking, target=replace(asking.target, model=model))
    answer = Answered(row, call, asking, raw)
    whole = answer.told([raw])
    assert answer.told(segments(raw, rng)) == whole
    return whole.word


@dataclass(frozen=True)
class Told:
    """What a client was told of an answer, and how it counts."""

    word: str
    said: bytes = b""
    usage: object = None


@dataclass(frozen=True)
class Answered:
    """What an upstream answers to a call, and how its head describes it."""

    row: Row
    call: calls.Call
    asking: Asking
    raw: bytes
    kind: str = "application/json"
    status: int = 200
    clean: bool = True  # its body ends, rather than being cut

    def told(self, pieces: Sequence[bytes], coding: str = "") -> Told:
        """Play it, in these pieces, and hold it to what every answer promises."""
        row, call = self.row, self.call
        headers = {"content-type": self.kind, **({"content-encoding": coding} if coding else {})}
        answer: Reply | None = None
        try:
            answer = plain(
                dialect(row.name, Memory()).reply(call, self.asking, self.status, headers), headers
            )
            said, rest = played(answer, pieces, clean=self.clean)
        except ProxyError as error:
            assert coding or answer is None or not answer.begun, "what has begun can't be refused"
            return Told("refused", error.code.encode())
        usage = answer.usage
        assert min(usage.input, usage.cached, usage.cache_write, usage.output, usage.reasoning) >= 0
        assert PRICE.cost(usage) >= 0
        told = said + rest
        if row.translated and call.stream:
            _check_stream(told, answer.finished)
        elif row.translated and call.endpoint == "chat" and told:
            ChatCompletion.model_validate(orjson.loads(told), strict=True)
        return Told("finished" if answer.finished else "unfinished", told, usage)


def _check_stream(told: bytes, finished: bool) -> None:
    found = events(told)
    assert found.count(b"[DONE]") == finished
    for event in found:
        if event != b"[DONE]":
            body = orjson.loads(event)
            assert "error" in body or body["object"] == "chat.completion.chunk"


def _stream(row: Row, rng: random.Random) -> bytes:
    """A stream of the row's, its events damaged, shuffled, doubled, or followed by those of another."""
    recorded = list(row.streams.values())
    parts = row.split(rng.choice(recorded).raw)
    if rng.random() < 0.2:
        parts += row.split(rng.choice(recorded).raw)
    if rng.random() < 0.1 and row.late_errors:
        parts.insert(rng.randrange(len(parts) + 1), rng.choice(list(row.late_errors.values())))
    chance = rng.choice((0.0, 0.1, 0.4))
    parts = [_event(row, part, rng) if rng.random() < chance else part for part in parts]
    if rng.random() < 0.15:
        rng.shuffle(parts)
    return b"".join(parts)


def _event(row: Row, part: bytes, rng: random.Random) -> bytes:
    """One event with JSON nodes replaced; a frame gets its checksums anew."""
    start, end = part.find(b"{"), part.rfind(b"}") + 1
    if start < 0:
        return part
    changed = replaced(part[start:end], rng)
    if row.name != "bedrock":
        return part[:start] + changed + part[end:]
    (frame,) = Frames().feed(part)
    return framed(frame.headers, changed)


def framed(headers: Mapping[str, str], payload: bytes) -> bytes:
    from tests.dialects.bedrock_streams import frame

    return frame(headers, payload)


TARGETS: dict[str, Callable[[random.Random], str]] = {
    "splitter": splitter,
    "frames": frames,
    "request": request,
    "reply": reply,
    "inflated": inflated,
    "vectors": vectors,
}
# Of a hundred inputs, so many go to each target: the more code behind it, the more.
SHARES = {"splitter": 15, "frames": 10, "request": 30, "reply": 35, "inflated": 5, "vectors": 5}

# --- the corpus

SSE_STREAMS = [one.raw for name in ("openai", "anthropic", "gemini") for one in ROWS[name].streams.values()]
FRAME_STREAMS = [one.raw for one in ROWS["bedrock"].streams.values()]
KINDS = ("text/html", "text/event-stream", "application/json", "", "application/json; charset=x", "*/*")
OPTIONS: Sequence[Mapping[str, Any]] = tuple(
    {"quirks": {"like": like}} if like else {} for like in (None, "mistral", "deepseek", "openrouter", "groq")
)
EMBEDDERS = ("text-embedding-3-small", "amazon.titan-embed-text-v2:0", "cohere.embed-english-v3", "e")
DEFAULTS: Sequence[Mapping[str, Any]] = ({}, {"temperature": 0.5}, {"max_tokens": 9, "user": "u"})

_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "It rains.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"$ref": "#/$defs/unit"}},
            "required": ["city"],
            "additionalProperties": False,
            "$defs": {"unit": {"enum": ["C", "F"]}},
        },
    },
}
_LOOP = [
    {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
    {"role": "user", "content": "Köln?", "name": "u"},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city":"K"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_a", "content": "rain"},
]
_PARTS = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
    {"type": "image_url", "image_url": {"url": "https://pictures.test/a.png"}},
    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
    {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
]


def _chat(**fields: Any) -> bytes:
    return orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


CHATS = (
    _chat(),
    _chat(stream=True, stream_options={"include_usage": True}, max_tokens=5, temperature=0.5, seed=1),
    _chat(messages=_LOOP, tools=[_TOOL], tool_choice="auto", parallel_tool_calls=False),
    _chat(tools=[_TOOL], tool_choice={"type": "function", "function": {"name": "weather"}}, stream=True),
    _chat(messages=[{"role": "user", "content": _PARTS}], max_completion_tokens=100),
    _chat(
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "a", "strict": True, "schema": _TOOL["function"]["parameters"]},  # type: ignore[index]
        }
    ),
    _chat(response_format={"type": "json_object"}, reasoning_effort="high", n=2, stop=["a", "b"], top_p=0.9),
    _chat(logprobs=True, top_logprobs=3, logit_bias={"1": -100}, metadata={"a": "b"}, user="u", store=False),
    _chat(
        messages=[{"role": "system", "content": "S"}, {"role": "assistant", "content": "A"}],
        modalities=["text"],
    ),
)
EMBEDDINGS = tuple(
    orjson.dumps({"model": "m", **fields})
    for fields in (
        {"input": "a"},
        {"input": ["a", "b"], "encoding_format": "base64", "dimensions": 3},
        {"input": [1, 2, 3]},
        {"input": [[1], [2, 3]], "user": "u", "encoding_format": "float", "input_type": "search_query"},
    )
)
_USAGE = {"prompt_tokens": 4, "total_tokens": 4}
_FLOATS = [{"object": "embedding", "index": index, "embedding": [0.5, -1]} for index in range(2)]
_BASE64 = [{"object": "embedding", "index": index, "embedding": "AAAAPwAAgL8="} for index in range(2)]

# The transport gathers the answers to a request in parts.
FANNED = b'{"headers":{"x-amzn-bedrock-input-token-count":"3"},"body":%b}'
VECTORS = (
    ("openai", "e", orjson.dumps({"object": "list", "data": _FLOATS, "model": "e", "usage": _USAGE})),
    ("azure", "e", orjson.dumps({"object": "list", "data": _BASE64, "model": "e", "usage": _USAGE})),
    ("gemini", "e", orjson.dumps({"embeddings": [{"values": [0.5, -1, 0]}, {"values": [1e-3, 2, 3]}]})),
    ("bedrock", EMBEDDERS[1], orjson.dumps({"embedding": [1.0, 2.0], "inputTextTokenCount": 3})),
    ("bedrock", EMBEDDERS[2], orjson.dumps({"embeddings": {"float": [[1.0, 2.0], [0.5, 3]]}})),
)


# --- running


def at(target: str, seed: int, number: int) -> random.Random:
    """The source of one input's randomness."""
    return random.Random(f"{target} {seed} {number}")


class TooSlow(Exception):
    """An input took more CPU time than any may."""


@contextmanager
def hanging_ends() -> Iterator[Callable[[], None]]:
    """Raise TooSlow in whatever takes too long; gives what each input calls at its start."""

    def ring(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, ring)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_VIRTUAL, INPUT_S_MAX) and None  # type: ignore[func-returns-value]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def run(numbers: range, seed: int = 0) -> Tally:
    """These inputs, spread over the targets; whatever is no refusal is a finding."""
    names = [name for name, share in SHARES.items() for _ in range(share)]
    ended: Counter[str] = Counter()
    findings: list[str] = []
    slowest_s, slowest = 0.0, ""
    with hanging_ends() as watch:
        for number in numbers:
            name = names[number % len(names)]
            rng = at(name, seed, number)
            watch()
            starts_at = time.process_time()
            try:
                ended[f"{name}: {TARGETS[name](rng)}"] += 1
            except Exception as error:
                ended[f"{name}: FAILED"] += 1
                findings.append(
                    f"--seed {seed} --again {name} {number}: {type(error).__name__}: {error}"[:300]
                )
                if len(findings) >= FINDINGS_MAX:
                    break
            took = time.process_time() - starts_at
            if took > slowest_s:
                slowest_s, slowest = took, f"{name} {number}"
    return Tally(ended, tuple(findings), slowest_s, slowest)


def run_all(inputs: int, seed: int = 0, processes: int | None = None) -> Tally:
    """So many inputs, on all cores."""
    size = 10_000
    batches = [range(start, min(start + size, inputs)) for start in range(0, inputs, size)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes or os.cpu_count(), mp_context=context) as pool:
        return sum(pool.map(run, batches, [seed] * len(batches)), Tally())


def table(tally: Tally, took_s: float) -> str:
    """What was tried, for people."""
    total = tally.ended.total()
    lines = [f"{count:>10,}  {name}" for name, count in sorted(tally.ended.items())]
    lines.append(f"{total:>10,}  in {took_s:.0f} s: {total / took_s:,.0f} a second")
    lines.append(f"{tally.slowest_s * 1000:>10.1f}  ms CPU, the slowest: {tally.slowest}")
    return "\n".join([*lines, *tally.findings])


def main() -> int:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--again", nargs=2, metavar=("TARGET", "NUMBER"))
    given = parser.parse_args()
    if given.again:
        name, number = given.again
        print(TARGETS[name](at(name, given.seed, int(number))))
        return 0
    starts_at = time.monotonic()
    tally = run_all(given.inputs, given.seed, given.processes)
    print(table(tally, time.monotonic() - starts_at))
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
