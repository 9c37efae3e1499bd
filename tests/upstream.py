"""A fake OpenAI-format upstream on a real socket, which keeps what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web


@dataclass
class Asked:
    """One request as it reached the upstream."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Says:
    """What to answer: pieces of a body with a pause before each, or one whole body."""

    pieces: Sequence[bytes] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pause_s: float = 0.0
    cut: bool = False  # close the socket in the middle of the chunked body
    waits: asyncio.Event | None = None  # hold the answer back until it is set
    holds_open: asyncio.Event | None = None  # keep the body open after the last piece


def chunk(content: str = "", *, reason: str | None = None, usage: object = None, **delta: Any) -> bytes:
    """One stream event in OpenAI's format."""
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "real-m",
        "choices": [
            {
                "index": 0,
                "delta": {"content": content, **delta} if content or delta else {},
                "finish_reason": reason,
            }
        ],
        "usage": usage,
    }
    return b"data: " + orjson.dumps(body) + b"\n\n"


def usage_chunk(prompt: int, output: int) -> bytes:
    """The event that only carries usage."""
    usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "real-m"}
    return b"data: " + orjson.dumps({**body, "choices": [], "usage": usage}) + b"\n\n"


DONE = b"data: [DONE]\n\n"
STREAM = (chunk("Hel"), chunk("lo"), chunk(reason="stop"), usage_chunk(10, 2), DONE)


def whole(content: str = "Hello", prompt: int = 10, output: int = 2) -> bytes:
    """A whole completion."""
    return orjson.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "real-m",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output},
        }
    )


class FakeUpstream:
    """Answers a stream to a stream and a completion to the rest, unless `says` decides otherwise."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.says: Callable[[Asked], Says] | None = None
        self.closed_early = 0  # answers whose client went away
        self.base_url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        application = web.Application(client_max_size=64 * 2**20)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, shutdown_timeout=0.2)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.base_url = f"http://127.0.0.1:{port}/v1"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        asked = Asked(request.path_qs, dict(request.headers), orjson.loads(raw) if raw else {})
        self.asked.append(asked)
        says = self.says(asked) if self.says is not None else usual(asked)
        if says.waits is not None:
            await says.waits.wait()
        response = web.StreamResponse(status=says.status, headers=says.headers)
        try:
            await response.prepare(request)
            for piece in says.pieces:
                if says.pause_s:
                    await asyncio.sleep(says.pause_s)
                await response.write(piece)
            if says.holds_open is not None:
                await says.holds_open.wait()
        except (asyncio.CancelledError, ConnectionError):
            self.closed_early += 1
            raise
        if says.cut:
            assert request.transport is not None
            request.transport.close()
        return response


def usual(asked: Asked) -> Says:
    """The answer of a healthy upstream."""
    if asked.path.endswith("/embeddings"):
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}]
        body = {
            "object": "list",
            "data": data,
            "model": "real-e",
            "usage": {"prompt_tokens": 4, "total_tokens": 4},
        }
        return json_says(orjson.dumps(body))
    if asked.body.get("stream"):
        return stream_says(STREAM)
    return json_says(whole())


def json_says(body: bytes, status: int = 200, **headers: str) -> Says:
    """A whole JSON answer."""
    return Says([body], status, {"Content-Type": "application/json", **headers})


def stream_says(pieces: Sequence[bytes], **options: Any) -> Says:
    """A stream, one write a piece."""
    return Says(pieces, 200, {"Content-Type": "text/event-stream"}, **options)
