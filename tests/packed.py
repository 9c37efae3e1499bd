"""The main job, done with a program that stands in one file: what each way to install it has to pass."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openai import OpenAI

from tests.served import START_S, Served, environment

# Nothing of this checkout, and no compiler: only what a bare machine has.
BARE = {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}
HELLO = [{"role": "user", "content": "Hello!"}]
SAID = "You said: Hello!"


@dataclass(frozen=True)
class Timed:
    """Seconds from the start of the process, and the seconds of a CPU that it took.

    The last one is the program's own; the others tell also what else the machine does.
    """

    ready_s: float
    answered_s: float
    cpu_s: float

    def __str__(self) -> str:
        return (
            f"ready in {self.ready_s:.2f} s, answered in {self.answered_s:.2f} s, {self.cpu_s:.2f} s of a CPU"
        )


def cpu_s(pid: int) -> float:
    """What a process and its children have taken of a CPU so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = sum(map(int, fields[11:13]))  # utime and stime, of proc(5)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return ticks / os.sysconf("SC_CLK_TCK") + sum(cpu_s(int(child)) for child in children)


def command(program: Sequence[str], folder: Path, *words: str, **more: str) -> str:
    """One command of the program, which has to succeed."""
    done = subprocess.run(
        [*program, *words],
        cwd=folder,
        env=environment(**BARE, **more),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def started(program: Sequence[str], folder: Path, **more: str) -> tuple[Served, Timed]:
    """`serve` in this folder, with what it took until it was ready and until it had answered."""
    began = time.monotonic()
    served = Served(folder, "--listen", "127.0.0.1:0", command=program, **BARE, **more)
    ready_s = time.monotonic() - began
    try:
        assert served.chat(served.secret)[0] == 200
        answered_s = time.monotonic() - began
        return served, Timed(ready_s, answered_s, cpu_s(served.process.pid))
    except BaseException:
        served.kill()
        raise


def does_the_main_job(program: Sequence[str], folder: Path, inside: Sequence[str] = (), **more: str) -> Timed:
    """From an empty folder: serve, the official SDK, the dashboard's door, a key, the books.

    `inside` enters another root, where what `serve` prints is to be typed.
    """
    assert list(folder.iterdir()) == []
    served, timed = started(program, folder, **more)
    try:
        speaks_to_the_sdk(served.base_url, served.secret)
        shows_its_pages(served.base_url.removesuffix("/v1"))
        made = json.loads(command(program, folder, "keys", "create", "friend", "--json", **more))
        speaks_to_the_sdk(served.base_url, made["secret"])
        assert "gpt-" in command(program, folder, "prices", "show", **more)
        assert command(program, folder, "health", served.base_url, **more).rstrip().endswith('"ok"}')
    finally:
        assert served.stop() == 0, served.log.read_text()
    assert command(program, folder, "ledger", "verify", **more) == "The books add up.\n"
    the_next_step_works_as_it_is_printed(program, folder, inside, **more)
    assert "Traceback" not in served.log.read_text()
    return timed


def the_next_step_works_as_it_is_printed(
    program: Sequence[str], folder: Path, inside: Sequence[str], **more: str
) -> None:
    """Where the ledger has keys already, `serve` says how another one is made."""
    served = Served(folder, "--listen", "127.0.0.1:0", command=program, **BARE, **more)
    try:
        (step,) = [line for line in served.said.splitlines() if line.endswith("keys create NAME")]
        assert "sk-th-" in command([*inside, *shlex.split(step)], folder, **more)
    finally:
        assert served.stop() == 0


def speaks_to_the_sdk(base_url: str, secret: str) -> None:
    with OpenAI(base_url=base_url, api_key=secret, max_retries=0) as client:
        answer = client.chat.completions.create(model="demo", messages=HELLO)
        assert (answer.choices[0].message.content or "").startswith(SAID)
        stream = client.chat.completions.create(model="demo", messages=HELLO, stream=True)
        assert "".join(part.choices[0].delta.content or "" for part in stream).startswith(SAID)


def shows_its_pages(url: str) -> None:
    """What is read from files beside the code: templates, catalogues, a style sheet, the description."""
    for path, wanted in (
        ("/dashboard", b"<form"),
        ("/openapi.json", b'"openapi"'),
        ("/metrics", b"tokenhub_"),
    ):
        with urllib.request.urlopen(url + path, timeout=START_S) as page:
            assert wanted in page.read(), path
    with urllib.request.urlopen(url + "/dashboard", timeout=START_S) as page:
        (sheet,) = [part for part in page.read().decode().split('"') if part.endswith(".css")][:1]
    with urllib.request.urlopen(url + sheet, timeout=START_S) as page:
        assert page.headers.get_content_type() == "text/css"


def fastest(program: Sequence[str], folder: Path, times: int, **more: str) -> Timed:
    """The best of some starts: what else the machine does is no property of the program."""
    found = []
    for number in range(times):
        place = folder / f"start{number}"
        place.mkdir()
        served, timed = started(program, place, **more)
        assert served.stop() == 0
        found.append(timed)
    return min(found, key=lambda timed: timed.answered_s)
