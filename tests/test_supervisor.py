"""What the service manager hears, over the kind of socket that systemd listens on."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.served import START_S, Served
from tokenhub_proxy.supervisor import Supervisor

KEY = "sk-th-managermanagermanager"
CONFIG = f"""
listen: 127.0.0.1:0
ledger: sqlite:///books.db
shutdown: {{drain: 7}}
upstreams: {{demo: {{dialect: demo}}}}
models:
  demo: {{targets: [{{upstream: demo}}], price: free}}
keys: [{{name: laptop, key: {KEY}}}]
"""
SILENCE_S = 0.2


class Manager:
    """The end of a service manager: what was told, one datagram after the other."""

    def __init__(self, line: socket.socket, address: str) -> None:
        self._line = line
        self.address = address

    def told(self, wanted: str = "") -> dict[str, str]:
        """The next datagram that has this field."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            said = self._line.recv(4096).decode()
            fields = dict(part.split("=", 1) for part in said.split("\n"))
            if not wanted or wanted in fields:
                return fields
        raise AssertionError(f"never told {wanted}")

    def falls_silent(self) -> bool:
        """True when nothing comes any more for a while."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if not select.select([self._line], [], [], SILENCE_S)[0]:
                return True
            self._line.recv(4096)
        return False

    def waits(self) -> bool:
        """True when something has been told that was not read."""
        return bool(select.select([self._line], [], [], 0)[0])


@contextmanager
def managing(name: str) -> Iterator[Manager]:
    """Listen under a path, or under `@name` in the abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind("\0" + name[1:] if name[0] == "@" else name)
        line.settimeout(START_S)
        yield Manager(line, name)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@tokenhub-{os.getpid()}"
    with managing(name) as found:
        yield found


def microseconds() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_server_tells_its_manager_how_it_stands_from_its_start_to_its_end(
    manager: Manager, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    served = Served(tmp_path, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="400000")
    try:
        told = manager.told()
        assert told == {"READY": "1", "STATUS": f"Serving {served.base_url}, 0 in flight"}
        assert served.chat(KEY)[0] == 200, "it accepts when it says so"
        for _ in range(3):
            assert manager.told("WATCHDOG")["STATUS"].startswith("Serving")

        for text in (CONFIG + "retention_days: 9\n", "nonsense: 1\n"):
            file.write_text(text)  # a bad config keeps the old one: it serves on, and says so too
            before = microseconds()
            served.process.send_signal(signal.SIGHUP)
            assert before <= int(manager.told("RELOADING")["MONOTONIC_USEC"]) <= microseconds()
            assert manager.told("READY")["STATUS"].startswith("Serving")
    finally:
        assert served.stop() == 0
    told = manager.told("STOPPING")
    assert told["STOPPING"] == "1"
    assert int(told["EXTEND_TIMEOUT_USEC"]) == 22_000_000, "the drain and 15 s"


def test_a_loop_that_hangs_misses_its_beats_and_one_that_drains_does_not(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.replace("{drain: 7}", "{pre_stop: 2}"))
    with managing(str(tmp_path / "notify")) as manager:
        served = Served(tmp_path, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="100000")
        try:
            manager.told("WATCHDOG")
            served.process.send_signal(signal.SIGSTOP)
            assert manager.falls_silent()
            served.process.send_signal(signal.SIGCONT)
            served.process.send_signal(signal.SIGTERM)
            manager.told("STOPPING")
            assert manager.told("WATCHDOG")["STATUS"] == "Draining, 0 in flight"
        finally:
            assert served.stop() == 0


def test_nothing_is_told_where_nobody_asked_and_children_never_hear_of_it() -> None:
    environ = {"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "7", "HOME": "/"}
    supervisor = Supervisor.of(environ, 7)
    supervisor.ready("Serving")
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    "variables",
    [{"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "8"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {}],
)
async def test_a_watchdog_that_is_not_ours_hears_no_beat(variables: dict[str, str], tmp_path: Path) -> None:
    with managing(str(tmp_path / "notify")) as manager:
        await Supervisor.of({"NOTIFY_SOCKET": manager.address, **variables}, 7).watch(lambda: "Serving")
        assert not manager.waits()


@pytest.mark.parametrize("address", ["/nowhere/notify", "@nobody-listens-here"])
def test_a_manager_that_is_gone_is_a_line_in_the_log(address: str, caplog: pytest.LogCaptureFixture) -> None:
    Supervisor(address).ready("Serving")
    assert "the service manager can't be told READY=1" in caplog.text


def test_an_address_of_another_kind_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor.of({"NOTIFY_SOCKET": "vsock:2:1234"}, 7)
    supervisor.ready("Serving")
    assert "vsock:2:1234 is no Unix socket" in caplog.text
    assert len(caplog.records) == 1


def test_a_manager_that_is_slow_is_waited_for_with_a_state_and_not_with_a_beat(tmp_path: Path) -> None:
    with managing(str(tmp_path / "notify")) as manager:
        supervisor = Supervisor(manager.address)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
            filler.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    filler.sendto(b"FILLER=1", manager.address)
        supervisor._tell("WATCHDOG=1", 0.0)  # is lost
        hears = threading.Timer(SILENCE_S, manager.told, ["FILLER"])
        hears.start()
        supervisor.ready("Serving")
        hears.join()
        assert manager.told("READY")["STATUS"] == "Serving"
        assert not manager.waits(), "the beat was lost, and held up nobody"
