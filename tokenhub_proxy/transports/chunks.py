"""What can be told of chunked bodies at a glance, so that the parser is spared most of a stream."""

from __future__ import annotations

from typing import Final

# A chunk that comes alone in a read is recognised up to this length: an event, as a rule.
ALONE_BYTES_MAX: Final = 2048


def _size_lines() -> tuple[bytes, ...]:
    """By the length of a read: the size line of the one chunk that fills it, in its usual form."""
    # Some lengths no chunk has, and no read of such a length begins with so many bytes.
    lines = [bytes(ALONE_BYTES_MAX + 1)] * (ALONE_BYTES_MAX + 1)
    for size in range(1, ALONE_BYTES_MAX):
        line = b"%x\r\n" % size
        length = len(line) + size + len(b"\r\n")
        if length <= ALONE_BYTES_MAX:
            lines[length] = line
    return tuple(lines)


SIZE_LINES: Final = _size_lines()


def at_beginning(last: bytes | memoryview, pieces: list[bytes]) -> bool:
    """Whether a chunk's size comes next, after a read that the parser took and these pieces of body in it.

    `last` are the read's last three bytes. False where it can't be told. A line end before CRLF is in no
    size line and no trailer, so that this CRLF ends the head or a chunk; unless it is the body's own, and
    then the last piece ends with it.
    """
    return last == b"\n\r\n" and not (pieces and pieces[-1].endswith(b"\r\n"))
