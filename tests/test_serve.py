"""`serve` as a process: the first minute, signals, reload, and a start that is refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.served import COMMAND, Served, environment, run
from tokenhub_proxy import control, ollama, serve

KEY = "sk-th-servedservedserved"
CONFIG = f"""
listen: 127.0.0.1:0
ledger: sqlite:///books.db
upstreams: {{demo: {{dialect: demo}}}}
models:
  demo: {{targets: [{{upstream: demo}}], price: free}}
keys: [{{name: laptop, key: {KEY}}}]
"""
PRICED = CONFIG.replace("price: free", "price: {input: 3.00, output: 15.00}")
# Much more than it takes, much less than a person waits.
WAIT_S = 15.0
START_S_MAX = 2.0
RSS_MIB_MAX = 60


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start servers in this folder; all are gone at the end."""
    started: list[Served] = []

    def start(*arguments: str, **more: str) -> Served:
        started.append(Served(tmp_path, *arguments, **more))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def in_log(one: Served, text: str) -> Callable[[], bool]:
    return lambda: text in one.log.read_text()


def test_the_first_minute_shows_a_key_once_and_a_line_that_works_when_pasted(tmp_path, served) -> None:
    first = served("--listen", "127.0.0.1:0")
    line = next(line for line in first.said.splitlines() if line.startswith("curl "))
    said = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert said.stdout.endswith("data: [DONE]\n\n")
    assert first.said.splitlines()[-1] == f"ready {first.base_url}"
    secret = first.secret
    assert first.stop() == 0
    # Nothing but what was printed holds the secret.
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes(), file

    again = served("--listen", "127.0.0.1:0")
    assert "sk-th-" not in again.said
    assert again.chat(secret)[0] == 200
    command = next(line for line in again.said.splitlines() if line.endswith("keys create NAME")).strip()
    made = subprocess.run(
        ["bash", "-c", command.replace("NAME", "second") + " --json"],
        cwd=tmp_path,
        env=environment(PATH=f"{Path(COMMAND[0]).parent}:{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    assert '"secret": "sk-th-' in made.stdout


def test_what_serve_writes_is_the_operators_alone(tmp_path, served) -> None:
    one = served("--listen", "127.0.0.1:0")
    assert one.chat(one.secret)[0] == 200
    assert run(tmp_path, "ledger", "backup", "copy.db").returncode == 0
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("*.db*")}
    assert set(modes) >= {"tokenhub.db", "tokenhub.db-wal", "tokenhub.db.sock", "copy.db"}
    assert set(modes.values()) == {0o600}, modes


def test_a_second_server_on_the_same_ledger_is_refused_and_told_who_has_it(tmp_path, served) -> None:
    one = served("--listen", "127.0.0.1:0")
    twin = run(tmp_path, "serve", "--listen", "127.0.0.1:0")
    assert twin.returncode == 3
    assert f"process {one.process.pid}" in twin.stderr
    assert "Traceback" not in twin.stderr
    assert one.chat(one.secret)[0] == 200


def test_a_port_in_use_is_told_in_a_sentence(tmp_path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = run(tmp_path, "serve", "--listen", f"127.0.0.1:{port}")
    assert refused.returncode == 2
    assert f"127.0.0.1:{port} can't be listened on: somebody does" in refused.stderr
    assert "--listen 127.0.0.1:0" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("damage", [b"not a database at all, but long enough to be one" * 100, b""])
def test_a_damaged_ledger_is_refused_and_left_as_it_is(tmp_path, damage) -> None:
    file = tmp_path / "tokenhub.db"
    file.write_bytes(damage)
    if not damage:
        file.mkdir() if file.unlink() is None else None
    refused = run(tmp_path, "serve", "--listen", "127.0.0.1:0")
    assert refused.returncode == 3, refused.stderr
    assert "Traceback" not in refused.stderr
    assert file.is_dir() if not damage else file.read_bytes() == damage


def test_a_stale_socket_after_a_kill_is_replaced(tmp_path, served) -> None:
    one = served("--listen", "127.0.0.1:0")
    one.kill()
    assert (tmp_path / "tokenhub.db.sock").exists()
    # Without an owner the command opens the ledger itself.
    assert run(tmp_path, "keys", "list").returncode == 0
    again = served("--listen", "127.0.0.1:0")
    assert run(tmp_path, "keys", "create", "other").returncode == 0
    assert again.chat(one.secret)[0] == 200


def test_sigterm_lets_a_stream_end_and_a_second_one_hurries(tmp_path, served) -> None:
    one = served("--listen", "127.0.0.1:0")
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %s\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    )
    words = " ".join(["word"] * 4000)
    body = (
        b'{"model": "demo", "stream": true, "messages": [{"role": "user", "content": "%s"}]}' % words.encode()
    )

    def stream(body: bytes) -> socket.socket:
        host, port = one.address.split(":")
        connection = socket.create_connection((host, int(port)), timeout=WAIT_S)
        connection.sendall(request % (one.secret.encode(), len(body), body))
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        return connection

    with stream(body.replace(words.encode(), b"Hi")) as short, stream(body) as long:
        one.process.send_signal(signal.SIGTERM)
        said = b""
        while data := short.recv(2**16):
            said += data
        assert b"data: [DONE]" in said
        time.sleep(serve.ONE_ASKING_S)  # what comes within it belongs to the first
        assert one.process.poll() is None, "the long stream is still going"
        one.process.send_signal(signal.SIGTERM)
        said = b""
        while data := long.recv(2**16):
            said += data
        assert b'"code":"shutting_down"' in said
        assert b"[DONE]" not in said
    assert one.gone() == 0
    assert run(tmp_path, "ledger", "verify").returncode == 0


async def test_one_asking_that_comes_twice_is_no_second_one(monkeypatch) -> None:
    """Ctrl-C and systemd signal the whole group, and a parent in it passes the signal on."""
    stop, hurry, loop = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop()
    serve._on_signals(stop, hurry, asyncio.Event())
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), WAIT_S)
        monkeypatch.setattr(serve, "ONE_ASKING_S", WAIT_S)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(hurry.wait(), 0.1)
        monkeypatch.setattr(serve, "ONE_ASKING_S", 0.0)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(hurry.wait(), WAIT_S)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


def metrics(one: Served) -> str:
    with urllib.request.urlopen(f"http://{one.address}/metrics") as answer:
        return str(answer.read().decode())


def test_sighup_and_a_changed_file_reload_and_a_bad_file_keeps_the_old_config(tmp_path, served) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    one = served()
    models = lambda: [model["id"] for model in one.get("/v1/models", KEY)[1]["data"]]  # noqa: E731
    assert models() == ["demo"]

    file.write_text(
        CONFIG.replace("  demo: {targets", "  renamed: {targets").replace("}], p", ", model: demo}], p")
    )
    one.process.send_signal(signal.SIGHUP)
    until(in_log(one, "reloaded config.yaml"))
    assert models() == ["renamed"]

    file.write_text(CONFIG.replace("price: free", "price: fre"))
    until(in_log(one, "reload_failed"))
    assert "models.demo.price" in one.log.read_text()
    assert "\ntokenhub_config_current 0\n" in metrics(one)
    assert models() == ["renamed"]

    file.write_text(CONFIG + "durability: process\n")
    until(in_log(one, "durability changes at the next start"))
    assert "\ntokenhub_config_current 1\n" in metrics(one)
    assert models() == ["demo"]


def test_sighup_without_a_config_file_ends_nothing(served) -> None:
    one = served("--listen", "127.0.0.1:0")
    one.process.send_signal(signal.SIGHUP)
    until(in_log(one, "there is no config file"))
    assert one.chat(one.secret)[0] == 200


def test_the_first_answer_comes_within_two_seconds_and_an_idle_server_is_small(tmp_path, served) -> None:
    warm = served("--listen", "127.0.0.1:0")  # modules compiled, a key made
    secret = warm.secret
    warm.stop()
    starts_at = time.monotonic()
    one = served("--listen", "127.0.0.1:0")
    assert one.chat(secret)[0] == 200
    clock_s = time.monotonic() - starts_at
    status, stat_line = Path(f"/proc/{one.process.pid}/status"), Path(f"/proc/{one.process.pid}/stat")
    if not status.exists():
        pytest.skip("this system has no /proc")
    rss = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    assert int(rss.split()[1]) < RSS_MIB_MAX * 1024, rss
    # Where others use the machine too, the process's own CPU time tells what the clock can't.
    ticks = stat_line.read_text().rpartition(")")[2].split()
    cpu_s = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
    assert min(clock_s, cpu_s) < START_S_MAX, (clock_s, cpu_s)


class Ollama:
    """A listener that answers one connection with these bytes."""

    def __init__(self, answer: bytes) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.answer = answer

    def __call__(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            self.request = connection.recv(2**16)
            connection.sendall(self.answer)


@pytest.mark.parametrize(
    ("answer", "models"),
    [
        (b'HTTP/1.0 200 OK\r\n\r\n{"models": [{"name": "llama3.2:latest"}]}', ["llama3.2:latest"]),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", []),
        (b'HTTP/1.0 200 OK\r\n\r\n{"models": 1}', []),
        (b"", []),
    ],
)
def test_an_ollama_is_found_and_anything_else_there_is_not_one(monkeypatch, answer, models) -> None:
    fake = Ollama(answer)
    monkeypatch.setattr(ollama, "OLLAMA", fake.listener.getsockname())
    thread = Thread(target=fake)
    thread.start()
    try:
        assert list(ollama.ollama_models()) == models
    finally:
        thread.join()
        fake.listener.close()
    assert fake.request.startswith(b"GET /api/tags HTTP/1.0\r\n")


def test_without_an_ollama_there_are_no_models_of_it(monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    monkeypatch.setattr(ollama, "OLLAMA", address)
    assert list(ollama.ollama_models()) == []


def test_backups_under_load_are_whole_and_add_up(tmp_path, served) -> None:
    (tmp_path / "config.yaml").write_text(PRICED)
    one = served()
    stop = Event()
    statuses: list[int] = []

    def load() -> None:
        while not stop.is_set():
            statuses.append(one.chat(KEY)[0])

    clients = [Thread(target=load) for _ in range(3)]
    for client in clients:
        client.start()
    ledger = str(tmp_path / "books.db")
    try:
        for number in range(10):
            list(control.ask(ledger, "ledger backup", {"path": str(tmp_path / f"{number}.db")}))
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert set(statuses) == {200}
    charges = []
    for number in range(10):
        copy = tmp_path / f"{number}.db"
        with contextlib.closing(sqlite3.connect(copy)) as books:
            assert books.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            charges += books.execute("SELECT count(*) FROM entries").fetchone()
    assert charges == sorted(charges), "each is a prefix of the next"
    # It was taken from a server with calls in flight: their holds are expired, and all adds up.
    assert run(tmp_path, "ledger", "verify", "--ledger", str(tmp_path / "9.db")).returncode == 0


def test_without_the_c_parser_nothing_is_served(tmp_path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)

    refused = run(tmp_path, "serve", AIOHTTP_NO_EXTENSIONS="1")

    assert refused.returncode == 1
    assert "aiohttp's C parser is missing" in refused.stderr
    assert "Traceback" not in refused.stderr
