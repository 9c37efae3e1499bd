"""AWS event streams: bytes in any pieces → frames, each with its checksums proved.

A frame is: total length, length of the headers, CRC-32 of these 8 bytes, headers, payload, CRC-32 of
all before it; numbers are big-endian. Source: the "Event stream encoding" of Amazon's API references.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from zlib import crc32

from tokenhub_proxy.errors import UpstreamUnavailable

# The encoding's own bounds: what is larger is no frame but a stream that lost its place.
FRAME_BYTES_MAX = 16 * 2**20
HEADERS_BYTES_MAX = 128 * 2**10
_PRELUDE = struct.Struct(">III")
_OVERHEAD = _PRELUDE.size + 4
# Bytes of a header's value by its type; None has a length of its own before it.
_VALUE_BYTES: Mapping[int, int | None] = {
    0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 6: None, 7: None, 8: 8, 9: 16,
}  # fmt: skip
_TEXT = 7


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. `headers` holds those that are text; the other types carry nothing we read."""

    headers: Mapping[str, str]
    payload: bytes


class Frames:
    """Cuts a byte stream into frames; keeps at most one unfinished frame."""

    __slots__ = ("_needed", "_rest")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = 0  # the length of the frame that is under way, 0 until its prelude is read

    @property
    def unfinished(self) -> bool:
        """True when the stream stands inside a frame."""
        return bool(self._rest)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes. Raises UpstreamUnavailable for bytes that are no frames."""
        self._rest += data
        while len(self._rest) >= (self._needed or _PRELUDE.size):
            if not self._needed:
                self._needed = _length(self._rest)
                continue
            raw = bytes(self._rest[: self._needed])
            del self._rest[: self._needed]
            self._needed = 0
            yield _frame(raw)


def _broken() -> UpstreamUnavailable:
    return UpstreamUnavailable(kind="protocol", executed=True)


def _length(prelude: bytearray) -> int:
    total, headers, checksum = _PRELUDE.unpack_from(prelude)
    if crc32(prelude[:8]) != checksum:
        raise _broken()
    if not _OVERHEAD + headers <= total <= FRAME_BYTES_MAX or headers > HEADERS_BYTES_MAX:
        raise _broken()
    return int(total)


def _frame(raw: bytes) -> Frame:
    if crc32(raw[:-4]) != int.from_bytes(raw[-4:]):
        raise _broken()
    payload_at = _PRELUDE.size + int.from_bytes(raw[4:8])
    try:
        return Frame(dict(_headers(raw[_PRELUDE.size : payload_at])), raw[payload_at:-4])
    except (IndexError, UnicodeDecodeError):
        raise _broken() from None


def _headers(raw: bytes) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(raw):
        name, at = _taken(raw, at + 1, raw[at])
        kind, at = raw[at], at + 1
        if kind not in _VALUE_BYTES:
            raise _broken()
        length = _VALUE_BYTES[kind]
        if length is None:
            size, at = _taken(raw, at, 2)
            length = int.from_bytes(size)
        value, at = _taken(raw, at, length)
        if kind == _TEXT:
            yield name.decode(), value.decode()


def _taken(raw: bytes, at: int, length: int) -> tuple[bytes, int]:
    """So many bytes from there, and the place behind them."""
    if at + length > len(raw):
        raise _broken()
    return raw[at : at + length], at + length
