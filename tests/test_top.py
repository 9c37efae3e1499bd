"""`top`: a frame fits any terminal, figures are right, and the terminal is always given back."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyte
import pytest

from tests.conftest import Running
from tests.served import COMMAND, Served, environment, run
from tests.test_metrics import chat
from tokenhub_proxy.prices import parse_usd
from tokenhub_proxy.top.frame import SORTS, frame, text_of
from tokenhub_proxy.top.pace import Pace, quantile
from tokenhub_proxy.top.terminal import ENTER, LEAVE

TOP = [*COMMAND, "top", "--interval", "0.2"]
WAIT_S = 20.0
CONFIG = """
listen: 127.0.0.1:0
ledger: sqlite:///books.db
upstreams: {demo: {dialect: demo}}
models: {demo: {targets: [{upstream: demo}], price: {input: 3.00, output: 15.00}, max_output_tokens: 100}}
keys: [{name: laptop, key: sk-th-laptoplaptoplaptop}]
"""
SECRET = "sk-th-laptoplaptoplaptop"


def flight(age_s: float = 1.5, **more: Any) -> dict[str, Any]:
    return {
        "id": "req_1", "key": "laptop", "model": "m", "upstream": "up", "phase": "stream", "age_s": age_s,
        "first_byte_s": 0.31, "bytes": 2048, "output_tokens": 40, **more,
    }  # fmt: skip


def upstream(name: str = "up", **more: Any) -> dict[str, Any]:
    return {
        "name": name, "asked": 10, "failed": 0, "in_flight": 1, "open": {}, "cooling": 0, "credentials": 1,
        **more,
    }  # fmt: skip


def snapshot(steady_s: float = 100.0, **more: Any) -> dict[str, Any]:
    return {
        "version": "1.2.3",
        "base_url": "http://127.0.0.1:8900/v1",
        "at": 1_000_000.0 + steady_s,
        "steady_s": steady_s,
        "started_at": 999_900.0,
        "draining": False,
        "ledger": None,
        "loop_lag_s": 0.0012,
        "process": {
            "process_cpu_seconds_total": steady_s / 10,
            "process_resident_memory_bytes": 50 * 2**20,
            "process_open_fds": 42,
        },
        "holds": {"open": 1, "held_usd": "0.015", "unsettled": 0},
        "spend_today_usd": "12.345678",
        "requests": 10,
        "failures": 0,
        "tokens": {"input": 1000, "output": 500},
        "spend_usd": "0.10",
        "errors": {},
        "first_byte_counts": [0] * 16,
        "upstreams": [upstream()],
        "in_flight": 1,
        "answering": 1,
        "flying": [flight()],
        **more,
    }


def paced(*snapshots: dict[str, Any]) -> Pace:
    pace = Pace()
    for one in snapshots:
        pace.add(one)
    return pace


LATER = snapshot(
    102.0,
    requests=34,
    failures=2,
    tokens={"input": 25_000, "output": 2500},
    spend_usd="0.25",
    errors={"rate_limited": 3, "upstream_unavailable": 2},
    first_byte_counts=[0] * 4 + [10] + [0] * 11,
    upstreams=[
        upstream(asked=30, failed=4),
        upstream("dead", asked=0, open={"m": 4.9}),
        upstream("idle", asked=0),
    ],
    flying=[flight(), flight(75.0, key="ci", output_tokens=3), flight(0.1, first_byte_s=None, phase="ttfb")],
    in_flight=3,
)
EXPECTED = """\
tokenhub-proxy 1.2.3  http://127.0.0.1:8900/v1  up 3m22s  13:48:22Z
requests  12.0/s  failed 1.0/s  in flight 3  first byte p50 150ms p95 195ms
tokens    12k/s in  1000/s out   spend $0.150000/min  today $12.345678
process   lag 1ms  50.0 MiB  cpu 10%  files 42   ledger ok  1 holds $0.015000

UPSTREAM        ASKED/s  FAILED/s  IN FLIGHT  STATE
dead                0.0       0.0          1  m off 4.90s
up                 10.0       2.0          1  ok
idle                0.0       0.0          1  not asked yet
errors    rate_limited 3, upstream_unavailable 2  (last 2.00s)

   AGE  KEY           MODEL → UPSTREAM               PHASE    FIRST  TOKENS
 75.0s  ci            m → up                         stream   310ms       3
 1.50s  laptop        m → up                         stream   310ms      40
 100ms  laptop        m → up                         ttfb
"""


def test_a_frame_of_80_columns_and_24_lines() -> None:
    lines = [line.rstrip() for line in text_of(frame(paced(snapshot(), LATER), 80, 24))]
    assert len(lines) == 24
    assert "\n".join(lines[:15]) + "\n" == EXPECTED
    assert lines[15:23] == [""] * 8
    assert lines[23] == "q quit   space pause   s sort: age"


@pytest.mark.parametrize("width", [1, 10, 44, 79, 80, 100, 250])
@pytest.mark.parametrize("height", [1, 2, 5, 12, 24, 70])
def test_a_frame_fits_whatever_the_terminal_is(width: int, height: int) -> None:
    many = snapshot(
        103.0,
        upstreams=[upstream(f"up{number}", open={"модель" * 20: 3.0}) for number in range(60)],
        flying=[flight(model="模型" * 30, key="k" * 99) for _ in range(200)],
        in_flight=5000,
        errors={f"code_{number}": 5 for number in range(30)},
    )
    lines = text_of(frame(paced(snapshot(), many), width, height, trouble="gone"))
    assert len(lines) == height
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("sort", SORTS)
def test_streams_are_sorted_as_asked(sort: str) -> None:
    shown = text_of(frame(paced(snapshot(), LATER), 80, 24, sort=sort))[12:15]
    ages = [line.split()[0] for line in shown]
    expected = {"tokens": ["1.50s", "100ms", "75.0s"], "key": ["75.0s", "1.50s", "100ms"]}
    assert ages == expected.get(sort, ["75.0s", "1.50s", "100ms"])


def test_an_upstream_says_how_it_is() -> None:
    probed = upstream("a", open={"m": 0.0, "n": 61.0})
    refused = upstream("b", cooling=1, credentials=2)
    shown = text_of(frame(paced(snapshot(upstreams=[probed, refused])), 120, 24))
    assert shown[6].rstrip().endswith("  m to be probed, n off 61.0s")
    assert shown[7].rstrip().endswith("  1 of 2 keys refused")


def test_a_client_s_word_moves_no_cursor() -> None:
    evil = snapshot(flying=[flight(model="\x1b[2J\u202e\n")])
    assert all(line.isprintable() for line in text_of(frame(paced(evil), 80, 24)))


def test_another_start_of_the_proxy_begins_anew() -> None:
    pace = paced(snapshot(requests=1000), snapshot(1.0, started_at=1_000_000.5, requests=3))
    assert pace.a_second("requests") == 0.0
    assert pace.window_s == 0.0


def test_what_is_told_of_a_minute_looks_back_no_further() -> None:
    pace = paced(*(snapshot(float(number), spend_usd=f"{number}.00") for number in range(200)))
    assert pace.window_s == pytest.approx(60.0, abs=1.01)
    assert pace.nanos_a_minute() == pytest.approx(parse_usd("60.00"), rel=0.02)


@pytest.mark.parametrize(
    ("counts", "fraction", "expected"),
    [([0, 0, 0], 0.5, None), ([4, 0, 0], 0.5, 0.5), ([0, 4, 0], 0.5, 1.5), ([1, 1, 2], 0.99, 2.0)],
)
def test_a_quantile_is_what_prometheus_would_say(counts: list[int], fraction: float, expected: float) -> None:
    assert quantile((1.0, 2.0), counts, fraction) == expected


async def test_a_snapshot_has_the_figures_of_a_running_proxy(proxy: Running) -> None:
    await chat(proxy, "m", stream=True)
    await chat(proxy, "nosuch")
    told = await proxy.proxy.administration.verbs["top"]({})
    json.dumps(told)
    assert told["base_url"] == proxy.base_url
    assert (told["requests"], told["failures"], told["in_flight"]) == (2, 0, 0)
    assert told["errors"] == {"model_not_found": 1}
    assert told["tokens"] == {"input": 10, "output": 2}
    assert told["spend_usd"] == told["spend_today_usd"] == "0.00006"
    assert sum(told["first_byte_counts"]) == 1
    by_name = {one["name"]: one for one in told["upstreams"]}
    assert (by_name["up"]["asked"], by_name["up"]["failed"], by_name["demo"]["asked"]) == (1, 0, 0)


# --- on a terminal


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("top")
    (folder / "config.yaml").write_text(CONFIG)
    one = Served(folder)
    assert one.chat(SECRET)[0] == 200
    yield one
    one.stop()


class Terminal:
    """`top` on a terminal of its own, whose screen can be read."""

    def __init__(self, folder: Path, command: Sequence[str] = TOP, **more: str) -> None:
        variables = environment(**{"TERM": "xterm-256color", **more})
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(command[0], command, variables)
        self.raw = b""
        self.resize(80, 24)

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self.screen)

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self.end)

    def read(self, wait_s: float = 0.1) -> bool:
        """Take what has come; False at the end."""
        if not select.select([self.end], [], [], wait_s)[0]:
            return True
        try:
            data = os.read(self.end, 2**16)
        except OSError:
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def until(self, pattern: str) -> str:
        """The screen, once it shows this."""
        deadline = time.monotonic() + WAIT_S
        while not re.search(pattern, shown := "\n".join(self.screen.display)):
            assert time.monotonic() < deadline, shown
            assert self.read(), shown
        return shown

    def press(self, keys: str) -> None:
        os.write(self.end, keys.encode())

    def code(self) -> int:
        """The exit code, at the end; the terminal must be as it was."""
        deadline = time.monotonic() + WAIT_S
        while (done := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            assert time.monotonic() < deadline, self.screen.display
            self.read()
        while self.read(0.05) and select.select([self.end], [], [], 0.05)[0]:
            pass
        os.close(self.end)
        return os.waitstatus_to_exitcode(done[1])


def is_given_back(raw: bytes) -> bool:
    """The other screen is left, the cursor is there, lines wrap: and nothing is drawn after that."""
    said = raw.decode()
    return said.count(ENTER) == said.count(LEAVE) and LEAVE in said.rpartition(ENTER)[2]


def test_the_keys_work_and_q_gives_the_terminal_back(served: Served) -> None:
    terminal = Terminal(served.folder)
    before = terminal.attributes()
    shown = terminal.until("nothing is in flight")
    assert "ledger ok" in shown
    assert terminal.attributes() != before
    terminal.press("s")
    terminal.until("s sort: tokens")
    terminal.press(" ")
    terminal.until("paused")
    terminal.resize(120, 30)
    assert "BYTES" in terminal.until(r"q quit .*paused")
    terminal.resize(30, 8)
    terminal.until("q quit")
    terminal.press("q")
    while LEAVE.encode() not in terminal.raw:
        assert terminal.read()
    assert terminal.attributes() == before
    assert terminal.code() == 0
    assert is_given_back(terminal.raw)
    assert terminal.raw.decode().endswith(LEAVE)


@pytest.mark.parametrize(
    ("how", "code"), [("\x03", 130), ("\x1c", 131), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_gives_the_terminal_back(served: Served, how: str | signal.Signals, code: int) -> None:
    terminal = Terminal(served.folder)
    before = terminal.attributes()
    terminal.until("q quit")
    if isinstance(how, str):
        terminal.press(how)
    else:
        os.kill(terminal.pid, how)
    while LEAVE.encode() not in terminal.raw:
        assert terminal.read()
    assert terminal.attributes() == before
    assert terminal.code() == code
    assert is_given_back(terminal.raw)
    assert "Traceback" not in terminal.raw.decode()


@pytest.mark.skipif(shutil.which("bash") is None, reason="a shell with jobs is needed")
def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(served: Served) -> None:
    terminal = Terminal(served.folder, command=["bash", "--norc", "--noprofile", "-i"], PS1="> ")
    terminal.until("> ")
    terminal.press(f"{shlex.join(TOP)}\n")
    terminal.until("q quit")
    terminal.press("\x1a")
    terminal.until("Stopped")
    terminal.press("stty -a\n")
    terminal.until("(?m)^isig icanon iexten echo ")
    terminal.press("fg\n")
    while terminal.raw.decode().count(ENTER) < 2:
        assert terminal.read()
    terminal.until("q quit")
    terminal.press("q")
    while not is_given_back(terminal.raw):
        assert terminal.read()
    terminal.press("exit $?\n")
    assert terminal.code() == 0


def test_a_proxy_that_goes_and_comes_back_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    one = Served(tmp_path)
    terminal = Terminal(tmp_path)
    terminal.until("s sort")
    one.stop()
    terminal.until("No server runs over")
    one = Served(tmp_path)
    terminal.until("s sort")
    one.stop()
    terminal.press("q")
    assert terminal.code() == 0
    assert is_given_back(terminal.raw)


def test_a_dumb_terminal_gets_frames_one_below_the_other(served: Served) -> None:
    terminal = Terminal(served.folder, TERM="dumb")
    while terminal.raw.count(b"tokenhub-proxy ") < 2:
        assert terminal.read()
    os.kill(terminal.pid, signal.SIGINT)
    assert terminal.code() == 130
    assert b"\x1b" not in terminal.raw


def test_one_frame_and_one_snapshot_for_scripts(served: Served) -> None:
    once = run(served.folder, "top", "--once", "--interval", "0.2")
    assert (once.returncode, once.stderr) == (0, "")
    assert once.stdout.startswith("tokenhub-proxy ")
    assert "\x1b" not in once.stdout
    assert "q quit" not in once.stdout
    told = json.loads(run(served.folder, "top", "--json").stdout)
    assert told["base_url"] == served.base_url
    assert SECRET not in json.dumps(told)


def test_without_a_server_there_is_nothing_to_watch(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    for form in ((), ("--json",)):
        done = run(tmp_path, "top", *form)
        assert (done.returncode, done.stdout) == (1, "")
        assert "No server runs over" in done.stderr
    assert not (tmp_path / "books.db").exists()
