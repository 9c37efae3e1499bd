"""Many streams cheaply: an upstream, and clients that read or don't, each in a process of its own.

    python -m tests.firehose upstream                       # prints its port; streams what it is asked for
    python -m tests.firehose clients PORT KEY STREAMS EVENTS RATE RAMP
    python -m tests.firehose deaf PORT KEY CLIENTS

Each tells what it saw as one JSON line when its standard input is closed (the clients: when all is read).
What to stream is the message that the client sends: "steady ID EVENTS RATE", or "flood ID BYTES".
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import httptools
import orjson

from tests.served import ROOT, environment
from tests.upstream import DONE, chunk, usage_chunk

PROMPT_TOKENS = 10
FLOOD_PIECE = chunk("x" * 2**16)
# One socket of a stream in each of two processes, two in the proxy, and what else is open.
FILES_PER_STREAM = 3


def raise_file_limit(streams: int) -> None:
    """Let this process, and those that it starts, open what so many streams need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = streams * FILES_PER_STREAM + 200
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


class Process:
    """One of the processes: what it says line by line, and its end."""

    def __init__(self, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.firehose", *map(str, arguments)],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def says(self) -> Any:
        """Its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "it ended without a word"
        return json.loads(line)

    def ask_to_end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


# --- the upstream


class Answer(asyncio.Protocol):
    """One connection to the upstream: a stream, then another, whatever it is asked."""

    def __init__(self, told: dict[str, str]) -> None:
        self._told = told  # the digest of what was sent, by the stream's id
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._open = True
        self._flood = 0
        self._timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        words = orjson.loads(self._body)["messages"][0]["content"].split()
        self._body = b""
        self._id, self._digest = words[1], hashlib.sha256()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        if words[0] == "steady":
            self._number, self._events, self._pause_s = 0, int(words[2]), 1 / float(words[3])
            self._due_s = self._loop.time()
            self._tick()
        else:
            self._flood = int(words[2])
            self._pour()

    def _say(self, data: bytes) -> None:
        self._digest.update(data)
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _tick(self) -> None:
        """One event, unlike all others of all streams."""
        if not self._open:
            return
        self._say(chunk(f"{self._id} {self._number:07d} "))
        self._number += 1
        if self._number == self._events:
            self._finish()
            return
        self._due_s += self._pause_s
        self._timer = self._loop.call_at(self._due_s, self._tick)

    def _finish(self) -> None:
        for last in (chunk(reason="stop"), usage_chunk(PROMPT_TOKENS, self._events), DONE):
            self._say(last)
        self._transport.write(b"0\r\n\r\n")
        self._told[self._id] = self._digest.hexdigest()

    def _pour(self) -> None:
        """As much as is taken, at once."""
        while self._flood > 0 and self._open:
            self._flood -= len(FLOOD_PIECE)
            self._transport.write(b"%x\r\n%b\r\n" % (len(FLOOD_PIECE), FLOOD_PIECE))
            if self._transport.get_write_buffer_size() > 2**18:
                return  # until the kernel has room again

    def resume_writing(self) -> None:
        self._pour()

    def connection_lost(self, error: Exception | None) -> None:
        self._open = False
        if self._flood:
            self._told[self._id] = "left"
        if self._timer is not None:
            self._timer.cancel()


async def upstream() -> None:
    told: dict[str, str] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answer(told), "127.0.0.1", 0, backlog=4096)
    # Hundreds of floods, stopped at 4 MiB each, would be all the memory that the kernel has for TCP; in
    # earnest it is another machine's.
    server.sockets[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 2**17)
    say(server.sockets[0].getsockname()[1])
    await asyncio.to_thread(sys.stdin.read)
    say(told)
    server.close()


# --- the clients


def request(key: str, content: str) -> bytes:
    body = orjson.dumps(
        {
            "model": "m",
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": content}],
        }
    )
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Reader(asyncio.Protocol):
    """One client of one stream."""

    def __init__(self, asked: bytes) -> None:
        self._asked = asked
        loop = asyncio.get_running_loop()
        self.began: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()  # the digest of what came, or what was wrong

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._digest = hashlib.sha256()
        cast(asyncio.Transport, transport).write(self._asked)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._digest.update(body)
        if not self.began.done():
            self.began.set_result(None)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self.ended.set_result(self._digest.hexdigest() if status == 200 else f"status {status}")

    def connection_lost(self, error: Exception | None) -> None:
        for each in (self.began, self.ended):
            if not each.done():
                each.set_result("cut")  # type: ignore[arg-type]


async def clients(port: int, key: str, streams: int, events: int, rate: float, ramp: float) -> None:
    """So many streams at once, `ramp` of them begun in a second; says when all run, and what came."""
    loop = asyncio.get_running_loop()
    readers: dict[str, Reader] = {}
    for number in range(streams):
        asked = request(key, f"steady {number} {events} {rate}")
        _, reader = await loop.create_connection(lambda asked=asked: Reader(asked), "127.0.0.1", port)  # type: ignore[misc]
        readers[str(number)] = reader
        await asyncio.sleep(1 / ramp)
    await asyncio.gather(*[reader.began for reader in readers.values()])
    say("all run")
    await readers["0"].ended
    say("the first has ended")
    say({id: await reader.ended for id, reader in readers.items()})


async def deaf(port: int, key: str, count: int) -> None:
    """So many clients that ask for a gigabyte and read nothing of it; says when all have asked."""
    sockets = []
    for number in range(count):
        one = socket.create_connection(("127.0.0.1", port))
        one.sendall(request(key, f"flood {number} {2**30}"))
        sockets.append(one)
        await asyncio.sleep(0.005)
    say("all asked")
    await asyncio.to_thread(sys.stdin.read)
    for one in sockets:
        one.close()


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


def main(role: str, *arguments: str) -> None:
    import uvloop

    roles: dict[str, Callable[..., Awaitable[None]]] = {
        "upstream": upstream,
        "clients": clients,
        "deaf": deaf,
    }
    kinds = {"upstream": (), "clients": (int, str, int, int, float, float), "deaf": (int, str, int)}[role]
    given = [kind(text) for kind, text in zip(kinds, arguments, strict=True)]

    async def play() -> None:
        await roles[role](*given)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())


def resident_kib(pid: int) -> int:
    """The memory of a process, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
