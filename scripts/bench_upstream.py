"""A fast fake upstream for the benchmark: whole answers, streams at once or paced, and vectors.

    bench_upstream.py PORT

It answers by the model's name: `plain`, `burst`, `paced`, `vectors`; a path that ends in /messages is
answered in Anthropic's format.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import cast

CHUNKS = 200
PACED_CHUNKS = 100
PACE_S = 0.05
EVENTS_PER_WRITE = 10
VECTORS, DIMENSIONS = 16, 1536

_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
_MODEL = re.compile(rb'"model": *"([a-z]+)"')
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: "
_STREAM_HEAD = _HEAD + b"text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_USAGE = {"prompt_tokens": 24, "completion_tokens": 200, "total_tokens": 224}


def _event(found: object, name: str = "") -> bytes:
    """One event as one HTTP chunk."""
    data = found if isinstance(found, str) else json.dumps(found, separators=(",", ":"))
    event = (f"event: {name}\n" if name else "") + f"data: {data}\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event.encode())


def _chunk(delta: object, reason: str | None = None, **more: object) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return _event(
        {
            "id": "c-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": choices,
            **more,
        }
    )


def _openai(chunks: int) -> list[bytes]:
    usage = {
        "id": "c-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [],
        "usage": _USAGE,
    }
    words = [_chunk({"content": f" word{number:04d}"}) for number in range(chunks - 2)]
    return [
        _chunk({"role": "assistant", "content": ""}),
        *words,
        _chunk({}, "stop"),
        _event(usage) + _event("[DONE]"),
    ]


def _anthropic(chunks: int) -> list[bytes]:
    usage = {"input_tokens": 24, "output_tokens": 1}
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "usage": usage,
    }
    begins = _event({"type": "message_start", "message": message}, "message_start")
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    words = [
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": f" word{number:04d}"},
        }
        for number in range(chunks - 2)
    ]
    ends = [
        _event({"type": "content_block_stop", "index": 0}, "content_block_stop"),
        _event(
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 200}},
            "message_delta",
        ),
        _event({"type": "message_stop"}, "message_stop"),
    ]
    return [
        begins + _event(block, str(block["type"])),
        *(_event(one, "content_block_delta") for one in words),
        b"".join(ends),
    ]


def _whole(found: object) -> bytes:
    body = json.dumps(found, separators=(",", ":")).encode()
    return _HEAD + b"application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def _answers() -> dict[tuple[bool, bytes], bytes]:
    message = {"role": "assistant", "content": "A short answer about the sea, as a model might give it."}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    vector = [round(0.001 * number - 0.7, 9) for number in range(DIMENSIONS)]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(VECTORS)]
    content = [{"type": "text", "text": message["content"]}]
    usage = {"input_tokens": 24, "output_tokens": 12}
    return {
        (False, b"plain"): _whole(
            {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices,
             "usage": _USAGE}
        ),
        (False, b"vectors"): _whole(
            {"object": "list", "data": data, "model": "m",
             "usage": {"prompt_tokens": 160, "total_tokens": 160}}
        ),
        (True, b"plain"): _whole(
            {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content,
             "stop_reason": "end_turn", "usage": usage}
        ),
    }  # fmt: skip


ANSWERS = _answers()
STREAMS = {
    (False, b"burst"): _openai(CHUNKS),
    (False, b"paced"): _openai(PACED_CHUNKS),
    (True, b"burst"): _anthropic(CHUNKS),
    (True, b"paced"): _anthropic(PACED_CHUNKS),
}


class Upstream(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or len(body) < (int(length[1]) if length else 0):
            return
        self._received = b""
        model = _MODEL.search(body)
        asked = (head.split(b" ", 2)[1].endswith(b"/messages"), model[1] if model else b"plain")
        if asked in ANSWERS:
            self._transport.write(ANSWERS[asked])
            return
        self._transport.write(_STREAM_HEAD)
        events = STREAMS[asked]
        if asked[1] == b"paced":
            self._say(events, 0)
            return
        for start in range(0, len(events), EVENTS_PER_WRITE):
            self._transport.write(b"".join(events[start : start + EVENTS_PER_WRITE]))
        self._transport.write(b"0\r\n\r\n")

    def _say(self, events: list[bytes], position: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(events[position])
        if position + 1 < len(events):
            asyncio.get_running_loop().call_later(PACE_S, self._say, events, position + 1)
        else:
            self._transport.write(b"0\r\n\r\n")


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main(int(sys.argv[1])))
    except ImportError:
        asyncio.run(main(int(sys.argv[1])))
