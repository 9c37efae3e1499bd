"""A terminal that is taken over for a while and always given back as it was."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Self

# The other screen, no cursor, no line that wraps; and all of it back.
ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
# Without a terminal that says how large it is.
SIZE = (80, 24)
TERMINATED = 128 + signal.SIGTERM


def can_draw(environ: Mapping[str, str]) -> bool:
    """Whether standard output is a terminal that moves its cursor as told."""
    return sys.stdout.isatty() and environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


def size() -> tuple[int, int]:
    """Columns and lines: what the terminal says now, else what the environment says."""
    with contextlib.suppress(OSError, ValueError):
        width, height = os.get_terminal_size(sys.stdout.fileno())
        if width and height:
            return width, height
    return shutil.get_terminal_size(SIZE)


class Screen:
    """Within its block, the terminal is ours. It is given back on every way out.

    SIGTERM, SIGHUP and SIGQUIT leave the block as SystemExit does; Ctrl-C as KeyboardInterrupt; Ctrl-Z gives
    the terminal back until the process goes on.
    """

    def __init__(self) -> None:
        self._input = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._before: list[Any] | None = None
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number, handler in (
            (signal.SIGTERM, _leave),
            (signal.SIGHUP, _leave),
            (signal.SIGQUIT, _leave),
            (signal.SIGTSTP, self._stop),
            (signal.SIGWINCH, self._resized),
        ):
            self._handlers[number] = signal.signal(number, handler)
        self._take()
        return self

    def __exit__(self, *error: object) -> None:
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._wake)
        os.close(self._woken)

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines and nothing else, in one write, so that nothing flickers."""
        drawn = f"{REST_OF_LINE}\r\n".join(lines)
        _say(f"{HOME}{drawn}{REST_OF_LINE}{REST_OF_SCREEN}")

    def wake(self) -> None:
        """Let `key` return now; from any thread."""
        with contextlib.suppress(OSError):  # it is awake already, or gone
            os.write(self._woken, b"\0")

    def key(self, wait_s: float) -> str:
        """A key that is pressed within this time; "" when none was, or somebody woke us."""
        watched = [self._wake, *([] if self._input is None else [self._input])]
        ready, _, _ = select.select(watched, [], [], wait_s)
        if self._wake in ready:
            os.read(self._wake, 4096)
        if self._input is None or self._input not in ready:
            return ""
        pressed = os.read(self._input, 64)
        if not pressed:
            raise SystemExit(TERMINATED)  # the terminal is gone
        # The first byte decides; an arrow key is an escape and no letter.
        return chr(pressed[0])

    def _take(self) -> None:
        if self._input is not None:
            self._before = termios.tcgetattr(self._input)
            tty.setcbreak(self._input, termios.TCSADRAIN)
        _say(ENTER)

    def _give_back(self) -> None:
        if self._input is not None and self._before is not None:
            with contextlib.suppress(termios.error):
                # At once: output may be held up. What was typed for us is not typed to the shell.
                termios.tcsetattr(self._input, termios.TCSANOW, self._before)
                termios.tcflush(self._input, termios.TCIFLUSH)
        with contextlib.suppress(OSError):  # nobody may be there to see it
            _say(LEAVE)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # here we stand until SIGCONT
        signal.signal(signal.SIGTSTP, self._stop)
        self._take()
        self.wake()

    def _resized(self, number: int, frame: FrameType | None) -> None:
        self.wake()


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _say(text: str) -> None:
    """Straight to the descriptor: a signal's handler may come in the middle of another write."""
    data = text.encode("utf-8", "replace")
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]
