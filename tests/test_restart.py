"""Restarts under load: with a socket that outlives the process, no request notices."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, nullcontext
from pathlib import Path

import pytest

from tests.nginx import documented_nginx, free_port, nginx_running
from tests.served import COMMAND, START_S, Served, environment, handing_over, run
from tokenhub_proxy.activation import NotListening, inherited

KEY = "sk-th-restartrestartrestart"
CONFIG = f"""
listen: 127.0.0.1:1
ledger: sqlite:///books.db
upstreams: {{demo: {{dialect: demo}}}}
models:
  demo: {{targets: [{{upstream: demo}}], price: {{input: 3.00, output: 15.00}}, max_output_tokens: 100}}
keys: [{{name: laptop, key: {KEY}}}]
"""
# One that comes right after SIGTERM waits for the requests before it, and for the next process.
ANSWER_S = 60.0


def listening() -> socket.socket:
    """What a supervisor holds: it is open whether or not somebody accepts."""
    return socket.create_server(("127.0.0.1", 0), backlog=2048)


class Load:
    """Short calls, every other one streamed, begun at a steady rate and not as others are answered."""

    def __init__(self, port: int, rate: int) -> None:
        """`rate` is in calls a second."""
        self.port = port
        self.rate = rate
        self.ended: Counter[str] = Counter()
        self.took_s: list[float] = []
        self._begun = 0

    @property
    def waiting(self) -> int:
        """Calls under way."""
        return self._begun - self.ended.total()

    async def run(self, until: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            while not until.is_set():
                # A queue that only grows, on a machine that is too slow for the rate, proves nothing.
                if self.waiting < 2 * self.rate:
                    group.create_task(self._call(self._begun % 2 == 0))
                    self._begun += 1
                await asyncio.sleep(1 / self.rate)

    async def _call(self, stream: bool) -> None:
        starts_at = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_S):
                said = await self._ask(stream)
        except (OSError, TimeoutError) as error:
            self.ended[type(error).__name__] += 1
            return
        self.took_s.append(time.monotonic() - starts_at)
        self.ended[outcome(said, stream)] += 1

    async def _ask(self, stream: bool) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request(stream))
            return await reader.read()
        finally:
            writer.close()


def request(stream: bool) -> bytes:
    body = json.dumps(
        {"model": "demo", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def outcome(said: bytes, stream: bool) -> str:
    """`ok`, or what was there in place of a whole answer."""
    head, _, body = said.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        return repr(said[:300]) if said else "closed without a word"
    if stream:
        whole = body.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    else:
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        whole = length is not None and int(length[1]) == len(body)
    return "ok" if whole else "cut"


@asynccontextmanager
async def loaded(folder: Path, port: int, rate: int, behind_nginx: bool) -> AsyncIterator[Load]:
    """Calls at the steady rate to this port, or to an nginx before it; at the end all have ended."""
    front = free_port() if behind_nginx else port
    stop = asyncio.Event()
    before = nginx_running(folder, documented_nginx(port, front), front) if behind_nginx else nullcontext()
    async with before:
        load = Load(front, rate)
        loading = asyncio.create_task(load.run(stop))
        try:
            yield load
        finally:
            stop.set()
            await loading


async def serving(load: Load) -> None:
    """Wait until the process of now has answered for a while, and calls are under way."""
    before = load.ended.total()
    await asyncio.sleep(0.3)
    async with asyncio.timeout(ANSWER_S):
        while load.ended.total() < before + load.rate / 4 or not load.waiting:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("restarts", "rate", "behind_nginx"),
    [
        (2, 40, False),
        (5, 40, True),
        pytest.param(100, 200, False, marks=pytest.mark.long),
        pytest.param(100, 200, True, marks=pytest.mark.long),
    ],
)
async def test_restarts_under_load_fail_no_short_request(
    tmp_path: Path, restarts: int, rate: int, behind_nginx: bool
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    with listening() as listener:
        served = await asyncio.to_thread(Served, tmp_path, listener=listener)
        try:
            async with loaded(tmp_path, listener.getsockname()[1], rate, behind_nginx) as load:
                for _ in range(restarts):
                    await serving(load)
                    assert await asyncio.to_thread(served.stop) == 0
                    served = await asyncio.to_thread(Served, tmp_path, listener=listener)
                await serving(load)
        finally:
            assert await asyncio.to_thread(served.stop) == 0

    took = sorted(load.took_s)
    print(f"\n{restarts} restarts: {load.ended}; p50 {took[len(took) // 2]:.3f} s, longest {took[-1]:.3f} s")
    assert load.ended.keys() == {"ok"}
    assert load.ended["ok"] > restarts * rate / 4
    assert run(tmp_path, "ledger", "verify").returncode == 0
    with closing(sqlite3.connect(tmp_path / "books.db")) as books:
        endings = books.execute("SELECT status, count(*) FROM endings GROUP BY status").fetchall()
    assert endings == [("settled", load.ended["ok"])]


# --- what is handed over


def test_a_socket_that_is_handed_over_is_listened_on_in_place_of_the_configs(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    with listening() as listener:
        served = Served(tmp_path, listener=listener)
        try:
            assert served.address == f"127.0.0.1:{listener.getsockname()[1]}"
            assert served.chat(KEY)[0] == 200
        finally:
            assert served.stop() == 0
        with socket.create_connection(listener.getsockname()):
            pass  # it is not closed with the process: who comes now waits for the next one


async def refused(folder: Path, handed: socket.socket) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *handing_over(handed), *COMMAND, "serve", "--listen", "127.0.0.1:0",
        cwd=folder, env=environment(), pass_fds=[handed.fileno()], stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(START_S):
        said = (await process.communicate())[1].decode()
    return process.returncode, said


async def test_what_does_not_listen_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as deaf:
        code, said = await refused(tmp_path, deaf)
    assert code == 2
    assert said.endswith(
        "LISTEN_FDS hands over another kind of socket, where one listening TCP socket is wanted.\n"
    )
    assert "Traceback" not in said


def test_what_is_for_another_process_is_left_alone() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    assert inherited(environ, 2) is None
    assert environ == {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    assert inherited({}, 2) is None


@pytest.mark.parametrize("count", ["0", "2", "x", ""])
def test_any_number_of_sockets_but_one_is_refused(count: str) -> None:
    environ = {"LISTEN_PID": "2", "LISTEN_FDS": count, "LISTEN_FDNAMES": "http"}
    with pytest.raises(NotListening, match="sockets"):
        inherited(environ, 2)
    assert environ == {}
