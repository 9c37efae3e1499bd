"""Server-sent events: bytes in any pieces → whole events with their raw bytes, and back."""

from __future__ import annotations

import re

DONE = b"data: [DONE]\n\n"
# A comment, which every reader of events leaves out.
KEEP_ALIVE = b": keep-alive\n\n"
_BOM = b"\xef\xbb\xbf"
# Two line ends in a row. A line ends in LF, CRLF or CR; `\r(?!\n)` keeps CRLF from counting twice.
# After LF or CR a second CR ends the event at once, for streams of CR alone must not lag by one
# event; if an LF follows, it begins the next event, where a blank line means nothing.
_BOUNDARY = re.compile(rb"\r\n(?:\r\n|\n|\r)|(?:\n|\r(?!\n))[\r\n]")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Splitter:
    """Cuts a byte stream after each blank line. What it returns, joined, is what it was fed.

    `rest` is the unfinished event. The splitter has no bound of its own: who feeds it bounds
    `rest`, for only they know what an unfinished event may cost.
    """

    __slots__ = ("_searched", "rest")

    def __init__(self) -> None:
        self.rest = b""
        # How far `rest` was searched already: a long event in small pieces stays linear enough.
        self._searched = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes, each with its blank line."""
        whole = self.rest + data if self.rest else data
        events: list[bytes] = []
        start = 0
        if b"\r" not in whole:
            position = whole.find(b"\n\n", self._searched)
            while position >= 0:
                events.append(whole[start : position + 2])
                start = position + 2
                position = whole.find(b"\n\n", start)
        else:
            for match in _BOUNDARY.finditer(whole, self._searched):
                if match.group() == b"\r\n\r" and match.end() == len(whole):
                    break  # the LF of the second CRLF is still on its way
                events.append(whole[start : match.end()])
                start = match.end()
        self.rest = whole[start:] if start else whole
        self._searched = max(0, len(self.rest) - 3)
        return events


def data(event: bytes) -> bytes | None:
    """The data of one raw event, its lines joined by LF; None for comments and blank lines."""
    # One line of data, as nearly every event is, with or without its name before it.
    if event.endswith(b"\n\n") and event.find(b"\r") < 0:
        lines = event.count(b"\n") - 1
        if lines == 1 and event.startswith(b"data: "):
            return event[6:-2]
        if lines == 2 and event.startswith(b"event: ") and (end := event.find(b"\ndata: ")) > 0:
            return event[end + 7 : -2]
    found: list[bytes] = []
    for line in _LINE_END.split(event.removeprefix(_BOM)):
        name, _, value = line.partition(b":")
        if name == b"data":
            found.append(value.removeprefix(b" "))
    return b"\n".join(found) if found else None


def name(event: bytes) -> str:
    """The last `event:` field of one raw event, "" where it has none."""
    found = b""
    for line in _LINE_END.split(event.removeprefix(_BOM)):
        field, _, value = line.partition(b":")
        if field == b"event":
            found = value.removeprefix(b" ")
    return found.decode("utf-8", "replace")


def encode(payload: bytes) -> bytes:
    """One event of one line of data."""
    return b"data: " + payload + b"\n\n"
