"""The load of the benchmark: requests over kept connections, measured from outside.

    bench_load.py PORT PATH MODEL CONCURRENCY SECONDS [REQUESTS]

With REQUESTS it ends after so many, all of them at once. Prints one JSON object: requests, chunks,
failures, seconds, and the latencies in microseconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast

import httptools

KEY = "sk-th-benchmark-0123456789"
STREAMED = ("burst", "paced")
# Streams that begin together would be paced together: they begin within one pace.
STAGGER_S = 0.05


class Load:
    """What all connections share."""

    def __init__(self, port: int, path: str, model: str, seconds: float, requests: int | None) -> None:
        self.port = port
        name = model.removeprefix("claude-")
        if "embeddings" in path:
            body = json.dumps({"model": model, "input": ["a text to be embedded"] * 16})
        else:
            messages = [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": "Say something short about the sea, please. " * 4},
            ]
            asked: dict[str, object] = {"model": model, "messages": messages, "max_tokens": 256}
            if name in STREAMED:
                asked |= {"stream": True, "stream_options": {"include_usage": True}}
            body = json.dumps(asked)
        self.request = (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {KEY}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        ).encode()
        self.ends_at = time.perf_counter() + seconds
        self.left = requests
        self.latencies: list[float] = []
        self.chunks = 0
        self.failures = 0

    def more(self) -> bool:
        """Take one more request, if there is one."""
        if self.left is not None:
            self.left -= 1
            return self.left >= 0
        return time.perf_counter() < self.ends_at


class Connection(asyncio.Protocol):
    """One client: a request after the other."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._next()

    def _next(self) -> None:
        if not self._load.more():
            self._transport.close()
            return
        self._parser = httptools.HttpResponseParser(self)
        self._complete = False
        self._began = time.perf_counter()
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)
        if self._complete:
            self._next()

    def on_body(self, body: bytes) -> None:
        self._load.chunks += body.count(b"\n\n")

    def on_message_complete(self) -> None:
        self._complete = True
        if self._parser.get_status_code() == 200:
            self._load.latencies.append(time.perf_counter() - self._began)
        else:
            self._load.failures += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._complete:
            self._load.failures += 1
        self.ended.set_result(None)


async def main(
    port: int, path: str, model: str, concurrency: int, seconds: float, requests: int | None
) -> None:
    loop = asyncio.get_running_loop()
    load = Load(port, path, model, seconds, requests)
    began = time.perf_counter()
    connections = []
    for _ in range(concurrency):
        connections.append((await loop.create_connection(lambda: Connection(load), "127.0.0.1", port))[1])
        if model.endswith("paced"):
            await asyncio.sleep(STAGGER_S / concurrency)
    await asyncio.gather(*(connection.ended for connection in connections))
    found = sorted(load.latencies)
    figures = {
        "requests": len(found),
        "chunks": load.chunks,
        "failures": load.failures,
        "seconds": time.perf_counter() - began,
        "p50_us": found[len(found) // 2] * 1e6 if found else None,
        "p99_us": found[int(len(found) * 0.99)] * 1e6 if found else None,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    given = sys.argv[1:]
    asked = main(
        int(given[0]),
        given[1],
        given[2],
        int(given[3]),
        float(given[4]),
        int(given[5]) if len(given) > 5 else None,
    )
    try:
        import uvloop

        uvloop.run(asked)
    except ImportError:
        asyncio.run(asked)
