"""`health` says with its exit code whether a server can serve, as a container's probe reads it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nginx import free_port
from tests.served import Served, run
from tests.test_cli import Type, type_in

__all__ = ["type_in"]

CONFIG = """
ledger: sqlite:///books.db
upstreams: {demo: {dialect: demo}}
models:
  demo: {targets: [{upstream: demo}], price: free}
"""


def test_it_asks_where_the_config_listens_and_tells_ready_from_alive(tmp_path: Path, type_in: Type) -> None:
    port = free_port()
    file = tmp_path / "config.yaml"
    file.write_text(f"listen: 0.0.0.0:{port}\nshutdown: {{pre_stop: 3}}\n{CONFIG}")
    served = Served(tmp_path)
    try:
        told = type_in(tmp_path, "health")
        assert told.code == 0, told
        assert told.out == f'http://127.0.0.1:{port}/readyz 200 {{"status":"ok"}}\n'
        for url in (served.base_url, f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}"):
            assert type_in(tmp_path, "health", url).code == 0, url
        # What runs was started with another config: that this one is bad says nothing of it.
        file.write_text(f"listen: 127.0.0.1:{port}\nnonsense: env:NOT_SET\n")
        assert type_in(tmp_path, "health").code == 0

        served.process.send_signal(signal.SIGTERM)
        while type_in(tmp_path, "health").code == 0:
            pass  # until the signal has come
        told = type_in(tmp_path, "health")
        assert (told.code, "503" in told.out, "shutting_down" in told.out) == (1, True, True)
        assert type_in(tmp_path, "health", "--live").code == 0, "it drains, and lives"
    finally:
        assert served.stop() == 0
    told = type_in(tmp_path, "health")
    assert (told.code, told.err) == (1, f"http://127.0.0.1:{port} does not answer: Connection refused.\n")


@pytest.mark.parametrize(
    ("config", "words", "said"),
    [
        ("", ["ftp://example.com"], "ftp://example.com is no address such as http://127.0.0.1:8900."),
        ("", ["http://127.0.0.1:99999"], "Port out of range"),
        ("listen: 127.0.0.1:0\n", [], "listens on a port that is free at the start: say the URL."),
        ("listen: [1, 2]\n", [], "config.yaml: listen: must be HOST:PORT"),
        ("listen: {\n", [], "config.yaml can't be read"),
    ],
)
def test_what_can_not_be_asked_is_a_wrong_command_and_no_sick_server(
    tmp_path: Path, type_in: Type, config: str, words: list[str], said: str
) -> None:
    if config:
        (tmp_path / "config.yaml").write_text(config)
    told = type_in(tmp_path, "health", *words)
    assert told.code == 2
    assert said in told.err


def test_a_server_that_says_nothing_or_speaks_no_http_is_unwell_within_the_time(
    tmp_path: Path, type_in: Type
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        told = type_in(tmp_path, "health", f"127.0.0.1:{silent.getsockname()[1]}", "--timeout", "0.1")
        assert (told.code, "does not answer: timed out" in told.err) == (1, True)


def test_it_needs_no_more_than_the_standard_library_to_ask_a_url(tmp_path: Path) -> None:
    """A probe runs every few seconds beside the server."""
    program = (
        "import sys; from tokenhub_proxy.cli import main; main(['health', '127.0.0.1:1']); "
        "sys.exit(bool({'yaml', 'aiohttp', 'asyncio', 'orjson', 'sqlite3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert run(tmp_path, "health", "127.0.0.1:1").returncode == 1
