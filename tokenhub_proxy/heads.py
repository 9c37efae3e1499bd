"""The head of a request that is written as nearly all are: one line that is known, each field once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

# Official SDKs send a dozen fields in under a kilobyte. aiohttp takes as much in a single field.
HEAD_BYTES_MAX = 8190
FIELDS_MAX = 100
_END = b"\r\n\r\n"
_KEEP_ALIVE = {b"keep-alive": True, b"close": False}
# A body that is not so many bytes, and bytes behind it that are no request.
_UNUSUAL = frozenset({b"transfer-encoding", b"upgrade"})


class Headers:
    """The fields of a head, each of which came once; names in any case."""

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[bytes, bytes]) -> None:
        """`fields` has its names in lower case."""
        self._fields = fields

    def get(self, name: str, default: str | None = None, /) -> str | None:
        value = self._fields.get(_SPELLED[name])
        return default if value is None else value.decode("ascii")

    def getall(self, name: str, default: Sequence[str] = (), /) -> Sequence[str]:
        value = self._fields.get(_SPELLED[name])
        return default if value is None else (value.decode("ascii"),)


class _Spelled(dict[str, bytes]):
    """Names as the fields have them; as many as our own code asks for."""

    def __missing__(self, name: str) -> bytes:
        self[name] = name.lower().encode("ascii")
        return self[name]


_SPELLED = _Spelled()


class Head(NamedTuple):
    """A request but for its body: `length` bytes that follow the head."""

    line: bytes
    headers: Headers
    length: int
    keep_alive: bool


class _Reader:
    """What the parser is given: it writes the fields straight into a dict, without a call of ours."""

    __slots__ = ("on_header",)


def begins(data: bytes, lines: Collection[bytes]) -> bool:
    """True when these first bytes of a request can become a head that `read` takes.

    `lines` are request lines with the CRLF at their end.
    """
    if len(data) > HEAD_BYTES_MAX:
        return False
    return any(line.startswith(data) or data.startswith(line) for line in lines)


def end_of(data: bytes) -> int:
    """Where the head ends that these bytes begin with; 0 when it is not all there."""
    return data.find(_END) + len(_END) if _END in data else 0


def read(head: bytes, lines: Collection[bytes]) -> Head | None:
    """A whole head, up to and with its empty line; None for what is not written in the usual way.

    That may be good HTTP or bad: another parser decides, so that there is one verdict.
    """
    line, count = head[: head.find(b"\r\n") + 2], head.count(b"\r\n") - 2
    if line not in lines or len(head) > HEAD_BYTES_MAX or count > FIELDS_MAX or not head.isascii():
        return None
    found: dict[bytes, bytes] = {}
    reader = _Reader()
    reader.on_header = found.__setitem__  # type: ignore[attr-defined]
    try:
        HttpRequestParser(reader).feed_data(head)
    except (HttpParserError, HttpParserUpgrade):
        return None
    fields = {name.lower(): value for name, value in found.items()}
    # A field that came twice, or on two lines, leaves fewer names than lines.
    if len(fields) != count or b"host" not in fields or not _UNUSUAL.isdisjoint(fields):
        return None
    keep_alive = _KEEP_ALIVE.get(fields.get(b"connection", b"keep-alive").lower())
    length = fields.get(b"content-length", b"0")
    if keep_alive is None or not length.isdigit():
        return None
    return Head(line, Headers(fields), int(length), keep_alive)
