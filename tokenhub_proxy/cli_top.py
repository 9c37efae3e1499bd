"""The command `top`: asks the running server every second, and shows what it said."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenhub_proxy.top.pace import Pace
    from tokenhub_proxy.top.terminal import Screen

# Faster than this is no figure that anybody reads, and more work than it is worth.
INTERVAL_S_MIN, INTERVAL_S_MAX = 0.2, 3600.0
FAILED = 1


def add_to(commands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the tree; `add` makes its parser."""
    top = add(commands, "top", _run, "watch the running server: streams, pace, spend, upstreams")
    top.add_argument("--interval", metavar="S", type=_interval, default=1.0, help="seconds between two looks")
    top.add_argument("--once", action="store_true", help="print one frame and end")
    top.add_argument("--json", action="store_true", help="print one snapshot as JSON and end")


def _interval(text: str) -> float:
    seconds = float(text)
    if not INTERVAL_S_MIN <= seconds <= INTERVAL_S_MAX:
        raise argparse.ArgumentTypeError(f"must be from {INTERVAL_S_MIN:g} to {INTERVAL_S_MAX:g} seconds")
    return seconds


def _run(arguments: argparse.Namespace) -> int:
    from tokenhub_proxy import tables
    from tokenhub_proxy.top import terminal
    from tokenhub_proxy.top.pace import Pace

    path = _ledger_path(arguments)
    pace = Pace()
    pace.add(_first(path))
    if arguments.json:
        print(tables.as_json(pace.now))
        return 0
    if arguments.once:
        time.sleep(arguments.interval)
        pace.add(_first(path))
        _print(pace)
        return 0
    if not terminal.can_draw(os.environ):
        return _scroll(path, pace, arguments.interval)
    with terminal.Screen() as screen:
        View(path, pace, screen, arguments.interval).run()
    return 0


def _ledger_path(arguments: argparse.Namespace) -> str:
    from tokenhub_proxy import cli
    from tokenhub_proxy.ledger.file import path_of

    if arguments.ledger is not None:
        return path_of(cli.ledger_url(arguments.ledger))
    config = cli.load_config(arguments.config)
    return path_of(config.ledger_url if config is not None else cli.LEDGER_URL)


def _first(path: str) -> dict[str, Any]:
    """A snapshot; without a server the command ends."""
    from tokenhub_proxy.cli import fail

    try:
        return look(path)
    except Gone as error:
        fail(FAILED, str(error))


class Gone(Exception):
    """Nobody answers, and why."""


def look(path: str) -> dict[str, Any]:
    """One snapshot of the server that owns this ledger. Raises Gone."""
    from tokenhub_proxy import control

    try:
        *_, (_, found) = control.ask(path, "top", {})
    except (ConnectionRefusedError, FileNotFoundError):
        raise Gone(f"No server runs over {path}; start one with serve.") from None
    except control.ControlError as error:
        raise Gone(f"The running server can't tell: {error}") from None
    except OSError as error:
        raise Gone(f"The server that owns {path} can't be asked: {error.strerror or error}.") from None
    return dict(found)


def _print(pace: Pace) -> None:
    """One frame that is as long as what there is to say, without the line about keys."""
    from tokenhub_proxy.top import frame, terminal

    width, height = terminal.size()
    lines = frame.text_of(frame.frame(pace, width, height))[:-1]
    encoding = sys.stdout.encoding or "utf-8"
    print("\n".join(lines).rstrip("\n").encode(encoding, "replace").decode(encoding), flush=True)


def _scroll(path: str, pace: Pace, interval_s: float) -> int:
    """Where no cursor can be moved: one frame below the other, until the server has gone."""
    while True:
        time.sleep(interval_s)
        try:
            pace.add(look(path))
        except Gone as error:
            print(error, file=sys.stderr)
            return FAILED
        _print(pace)
        print()


class View:
    """The screen, the keys, and a thread that asks: a server that hangs must not hang us."""

    def __init__(self, path: str, pace: Pace, screen: Screen, interval_s: float) -> None:
        self._path = path
        self._pace = pace
        self._screen = screen
        self._interval_s = interval_s
        self._found: dict[str, Any] | Gone | None = None
        self._asking = threading.Event()
        self._paused = False
        self._sort = 0
        self._trouble = ""
        self._asked_s = time.monotonic()

    def run(self) -> None:
        """Until somebody presses q."""
        threading.Thread(target=self._ask, daemon=True).start()
        due_s = time.monotonic() + self._interval_s
        while True:
            self._draw()
            key = self._screen.key(max(0.0, due_s - time.monotonic()))
            if key == "q":
                return
            self._press(key)
            found, self._found = self._found, None
            if isinstance(found, Gone):
                self._trouble = f"{found}   q quit"
            elif found is not None:
                self._trouble = ""
                if not self._paused:
                    self._pace.add(found)
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + self._interval_s
                self._due()

    def _due(self) -> None:
        """Ask again, unless the last answer is still awaited."""
        if not self._asking.is_set():
            self._asked_s = time.monotonic()
            self._asking.set()
        elif time.monotonic() - self._asked_s > 3 * self._interval_s:
            self._trouble = f"no answer for {time.monotonic() - self._asked_s:.0f} s   q quit"

    def _press(self, key: str) -> None:
        from tokenhub_proxy.top.frame import SORTS

        if key == " ":
            self._paused = not self._paused
        elif key == "s":
            self._sort = (self._sort + 1) % len(SORTS)

    def _draw(self) -> None:
        from tokenhub_proxy.top import frame, terminal

        width, height = terminal.size()
        lines = frame.frame(
            self._pace,
            width,
            height,
            sort=frame.SORTS[self._sort],
            paused=self._paused,
            trouble=self._trouble,
        )
        self._screen.draw(frame.text_of(lines, coloured=not os.environ.get("NO_COLOR")))

    def _ask(self) -> None:
        while True:
            self._asking.wait()
            try:
                self._found = look(self._path)
            except Gone as error:
                self._found = error
            self._asking.clear()
            self._screen.wake()
