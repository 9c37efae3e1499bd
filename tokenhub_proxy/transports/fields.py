"""The fields of an answer's head: how many there may be, and what their names are in lower case."""

from __future__ import annotations

from collections.abc import Mapping

# The limits that aiohttp has, so that no upstream's answer depends on which of us reads it.
HEADERS_MAX = 128
HEADER_BYTES_MAX = 8190
# A head in all; also what chunk sizes and trailers may take between two pieces of a body.
HEAD_BYTES_MAX = 64 * 1024
# Of so many spellings the lower case is remembered; upstreams have a hundred between them.
KNOWN_MAX = 1024

# Names in lower case, by how they were written.
KNOWN: dict[bytes, str] = {}


def lower(name: bytes) -> str:
    """A name in lower case, known from now on."""
    if len(KNOWN) >= KNOWN_MAX:
        KNOWN.clear()
    KNOWN[name] = found = name.lower().decode()
    return found


def too_big(raw: Mapping[bytes, bytes]) -> bool:
    """Whether a field, or all of them, take more bytes than they may."""
    sizes = [len(name) + len(value) + 4 for name, value in raw.items()]  # with ": " and the line's end
    return max(sizes, default=0) > HEADER_BYTES_MAX or sum(sizes) > HEAD_BYTES_MAX
