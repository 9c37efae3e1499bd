"""The product as its users run it: `serve` in a process of its own, and the command line beside it."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "tokenhub_proxy"]
# A machine that runs several suites at once is slow; a hang is not slow.
START_S = 30.0
STOP_S = 20.0


def environment(**more: str) -> dict[str, str]:
    """The variables of this process without those that `serve` looks at."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.endswith("_API_KEY") and not name.startswith("TOKENHUB_")
    }
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def run(
    folder: Path, *arguments: str, stdin: str | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """One command, in this folder."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(**more),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


def handing_over(listener: socket.socket) -> list[str]:
    """What comes before a command that finds this socket as systemd would hand it over."""
    script = f'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&{listener.fileno()}'
    return ["bash", "-c", script, "bash"]  # dash knows no file numbers above 9


class Served:
    """A running `serve`. What it says on stdout is kept in `said`; stderr goes to `log`.

    A `listener` is handed over to it as a supervisor does.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        wait: bool = True,
        listener: socket.socket | None = None,
        command: Sequence[str] = COMMAND,
        **more: str,
    ) -> None:
        self.folder = folder
        self.log = folder / "serve.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*([] if listener is None else handing_over(listener)), *command, "serve", *arguments],
                cwd=folder,
                env=environment(**more),
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=[] if listener is None else [listener.fileno()],
            )
        self.said = ""
        self.base_url = ""
        if wait:
            try:
                self.ready()
            except BaseException:  # nobody else can end it
                self.kill()
                raise

    def ready(self) -> None:
        """Wait for the line that says where it listens."""
        deadline, raw = time.monotonic() + START_S, b""
        assert self.process.stdout is not None
        output = self.process.stdout.fileno()
        poll = select.poll()  # select() can't wait for a descriptor above 1023
        poll.register(output, select.POLLIN)
        while not (found := re.search(rb"^ready (http://\S+/v1)\n", raw, re.MULTILINE)):
            assert poll.poll(max(0.0, deadline - time.monotonic()) * 1000), "never ready"
            data = os.read(output, 2**16)
            assert data, f"serve ended: {self.log.read_text()}"
            raw += data
        self.said = raw.decode()
        self.base_url = found[1].decode()

    @property
    def address(self) -> str:
        return self.base_url.removeprefix("http://").removesuffix("/v1")

    @property
    def secret(self) -> str:
        """The key of the first minute."""
        found = re.search(r"^  (sk-th-\w+)$", self.said, re.MULTILINE)
        assert found, self.said
        return found[1]

    def get(self, path: str, secret: str) -> tuple[int, Any]:
        return self.ask("GET", path, secret)

    def chat(self, secret: str, model: str = "demo", **more: Any) -> tuple[int, Any]:
        """One completion: the status, and the body as JSON."""
        messages = [{"role": "user", "content": "Hi"}]
        return self.ask(
            "POST", "/v1/chat/completions", secret, {"model": model, "messages": messages, **more}
        )

    def ask(
        self, method: str, path: str, secret: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.address, timeout=START_S)
        try:
            headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.gone()

    def kill(self) -> None:
        self.process.kill()
        self.gone()

    def gone(self) -> int:
        try:
            return self.process.wait(STOP_S)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
