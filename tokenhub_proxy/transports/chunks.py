"""What can be told of chunked bodies at a glance, so that the parser is spared most of a stream."""

from __future__ import annotations

# A chunk that comes alone in a read is recognised up to this length: an event, as a rule.
ALONE_BYTES_MAX = 2048


def _size_line(length: int) -> bytes:
    """The size line of the one chunk that is so long with all its framing, in its usual form."""
    for digits in range(1, 4):
        line = b"%x\r\n" % max(0, length - digits - 4)
        if len(line) == digits + 2 and not line.startswith(b"0"):
            return line
    return bytes(length + 1)  # no chunk is so long, and no read of this length begins so


# By the length of the read.
SIZE_LINES = tuple(map(_size_line, range(ALONE_BYTES_MAX + 1)))


def at_beginning(data: bytes, pieces: list[bytes]) -> bool:
    """Whether a chunk's size comes next, after a read that the parser took and these pieces of body in it.

    False where it can't be told. A line end before CRLF is in no size line and no trailer, so that
    this CRLF ends the head or a chunk; unless it is the body's own, and then the last piece ends with it.
    """
    return data.endswith(b"\n\r\n") and not (pieces and pieces[-1].endswith(b"\r\n"))
