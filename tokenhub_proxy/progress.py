"""A line on the terminal that says how far a long command is; on a pipe there is none."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

# What ends sooner needs no line; more often than this nobody sees a difference.
DELAY_S = 0.5
EVERY_S = 0.1
BAR_WIDTH = 30
_CLEAR = "\r\x1b[K"


class Progress:
    """Shows, while a block runs, what is done: `label  [####----]  42 %`, or a count, or the time.

    `fraction` gives 0.0 to 1.0, or None while nobody knows. `count` may be raised by the block; it
    is told where there is no fraction. Nothing is written where the stream is no terminal.
    """

    def __init__(
        self,
        label: str,
        *,
        fraction: Callable[[], float | None] | None = None,
        unit: str = "",
        stream: TextIO | None = None,
    ) -> None:
        self.count = 0
        self._label = label
        self._fraction = fraction
        self._unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._began_s = 0.0

    def __enter__(self) -> Progress:
        if self._stream.isatty() and os.environ.get("TERM", "") != "dumb":
            self._began_s = time.monotonic()
            self._thread = threading.Thread(target=self._draw, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *ending: object) -> None:
        if self._thread is not None:
            self._ended.set()
            self._thread.join()

    def _draw(self) -> None:
        drawn = False
        wait_s = DELAY_S
        while not self._ended.wait(wait_s):
            self._stream.write(f"{_CLEAR}{self._line()}")
            self._stream.flush()
            drawn, wait_s = True, EVERY_S
        if drawn:
            self._stream.write(_CLEAR)
            self._stream.flush()

    def _line(self) -> str:
        fraction = self._fraction() if self._fraction is not None else None
        if fraction is not None:
            full = int(BAR_WIDTH * min(1.0, max(0.0, fraction)))
            return (
                f"{self._label}  [{'#' * full}{'-' * (BAR_WIDTH - full)}] {int(100 * min(1.0, fraction)):3} %"
            )
        elapsed_s = int(time.monotonic() - self._began_s)
        told = f"{self.count:,} {self._unit}, " if self.count else ""
        return f"{self._label}  {told}{elapsed_s // 60}:{elapsed_s % 60:02}"


def of_file(growing: str, whole: str) -> Callable[[], float | None]:
    """How much of one file has become another one, by their sizes."""

    def fraction() -> float | None:
        try:
            return os.path.getsize(growing) / max(1, os.path.getsize(whole))
        except OSError:
            return None

    return fraction
