"""Compressed bytes inflated within bounds: request bodies, and answers that nobody asked to compress."""

from __future__ import annotations

import zlib
from collections.abc import Collection

from tokenhub_proxy.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType

# zlib's window bits for each coding (RFC 9110, section 8.4.1: `deflate` means the zlib format).
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
CODINGS = tuple(_WINDOW_BITS)


class Corrupt(Exception):
    """The bytes are not what their coding says, or go on after its end."""


class TooMuch(Exception):
    """The bytes inflate to more than the bound."""


class Inflater:
    """One compressed body, in any pieces. Never holds more than the bound of each `feed`."""

    __slots__ = ("_inflate",)

    def __init__(self, coding: str) -> None:
        """`coding` is one of CODINGS."""
        self._inflate = zlib.decompressobj(_WINDOW_BITS[coding])

    def feed(self, data: bytes, bytes_max: int) -> bytes:
        """The inflated bytes of this piece. Raises Corrupt, or TooMuch where they are over `bytes_max`."""
        inflate = self._inflate
        if inflate.eof:
            raise Corrupt
        try:
            found = inflate.decompress(data, bytes_max + 1)
        except zlib.error:
            raise Corrupt from None
        if len(found) > bytes_max:
            raise TooMuch
        if inflate.unused_data:
            raise Corrupt
        return found

    @property
    def ended(self) -> bool:
        """True when the body is whole: its end has come, and its checksum was right."""
        return self._inflate.eof


def coding_of(header: str | None) -> str | None:
    """The coding that a Content-Encoding names, in lower case; None for a body as it is."""
    name = (header or "").strip().lower()
    return None if name in ("", "identity") else name.removeprefix("x-")


def request_coding(header: str | None, allowed: Collection[str]) -> str | None:
    """The coding of a request's body, before it is read. Raises UnsupportedMediaType."""
    coding = coding_of(header)
    if coding is None or coding in allowed:
        return coding
    taken = f"Only {' and '.join(sorted(allowed))} bodies are" if allowed else "Compressed bodies are not"
    raise UnsupportedMediaType(f"{taken} accepted.", reason="bad_encoding")


def request_body(raw: bytes, coding: str, bytes_max: int) -> bytes:
    """A whole request body, inflated. Raises RequestTooLarge as soon as it is, or InvalidRequest."""
    inflater = Inflater(coding)
    try:
        found = inflater.feed(raw, bytes_max)
    except TooMuch:
        raise RequestTooLarge(f"The body is over {bytes_max} bytes.", reason="too_large inflated") from None
    except Corrupt:
        raise _corrupt(coding) from None
    if not inflater.ended:
        raise _corrupt(coding)
    return found


def _corrupt(coding: str) -> InvalidRequest:
    return InvalidRequest(f"The body is not valid {coding}.", reason="bad_encoding")
