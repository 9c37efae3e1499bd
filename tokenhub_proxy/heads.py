"""The head of a request that is written as nearly all are: a line that is known, each field once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Sequence
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from tokenhub_proxy.wire import SPECIAL_HEADERS

# aiohttp takes as much in a single field; official SDKs send a dozen fields in under a kilobyte.
HEAD_BYTES_MAX: Final = 8190
FIELDS_MAX = 100
# Of a body's length, where a head is not parsed anew: far below what any parser of numbers refuses.
LENGTH_DIGITS_MAX: Final = 12


_SPECIAL = frozenset(name.encode("ascii") for name in SPECIAL_HEADERS)


# Names as a head has them; as many as our own code asks for.
_SPELLED: Final[dict[str, bytes]] = {}


def _spell(name: str) -> bytes:
    _SPELLED[name] = spelled = name.lower().encode("ascii")
    return spelled


class Head:
    """A request but for its body of `length` bytes. Its fields are asked for by names in any case."""

    __slots__ = ("_around", "_fields", "digest", "keep_alive", "length", "line", "size", "special")

    def __init__(
        self,
        line: bytes,
        fields: dict[bytes, bytes],
        size: int,
        length: int,
        keep_alive: bool,
        around: tuple[bytes, bytes] | None = None,
    ) -> None:
        """`fields` has its names in lower case; `line` is the request line with its CRLF.

        `size` is the head's own, in bytes; `around` is all that stands before and behind the digits of the
        length, if it has one.
        """
        self.line = line
        self._fields = fields
        self.size = size
        self.length = length
        self.keep_alive = keep_alive
        self._around = around
        self.digest: bytes | None = None  # of the credential in it, once somebody has worked it out
        # Those of SPECIAL_HEADERS that the request has.
        self.special: Collection[str] = (
            ()
            if _SPECIAL.isdisjoint(fields)
            else {name.decode("ascii") for name in _SPECIAL.intersection(fields)}
        )

    def again(self, data: bytes) -> Head | None:
        """The head that these bytes begin with, if it differs from this one in nothing but the body's length.

        Only digits stand where digits stood: all else that `read` has looked at is the same.
        """
        if self._around is None:
            return None
        before, behind = self._around
        start = len(before)
        end = data.find(behind, start, start + LENGTH_DIGITS_MAX + len(behind))
        if end < 0 or not data.startswith(before):
            return None
        digits = data[start:end]
        if digits == self._fields[b"content-length"]:
            return self
        size = end + len(behind)
        if not digits.isdigit() or size > HEAD_BYTES_MAX:
            return None
        fields = {**self._fields, b"content-length": digits}
        found = Head(self.line, fields, size, int(digits), self.keep_alive, self._around)
        found.digest = self.digest
        return found

    def get(self, name: str, default: str | None = None, /) -> str | None:
        """The value of a field."""
        value = self._fields.get(_SPELLED.get(name) or _spell(name))
        return default if value is None else value.decode("ascii")

    def getall(self, name: str, default: Sequence[str] = (), /) -> Sequence[str]:
        """The values of a field, of which there is one."""
        value = self._fields.get(_SPELLED.get(name) or _spell(name))
        return default if value is None else (value.decode("ascii"),)


class _Fields:
    """What the parser is given: it writes into a dict itself, C calls C."""

    __slots__ = ("on_header",)

    on_header: Callable[[bytes, bytes], None]


def begins(data: bytes, lines: Iterable[bytes]) -> bool:
    """True when these first bytes of a request can become a head that `read` takes."""
    if len(data) > HEAD_BYTES_MAX:
        return False
    return any(line.startswith(data) or data.startswith(line) for line in lines)


def end_of(data: bytes) -> int:
    """Where the head ends that these bytes begin with; 0 when it is not all there."""
    end = data.find(b"\r\n\r\n")
    return end + 4 if end >= 0 else 0


def read(head: bytes, lines: Container[bytes]) -> Head | None:
    """A whole head, its empty line included; None for what is not written in the usual way.

    That may be good HTTP or bad: another parser decides, so that there is one verdict.
    """
    line = head[: head.find(b"\r\n") + 2]
    if line not in lines or len(head) > HEAD_BYTES_MAX or not head.isascii():
        return None
    found: dict[bytes, bytes] = {}
    sink = _Fields()
    sink.on_header = found.__setitem__
    try:
        HttpRequestParser(sink).feed_data(head)
    except (HttpParserError, HttpParserUpgrade):
        return None
    fields = {name.lower(): value for name, value in found.items()}
    count = len(fields)
    # A field that came twice, or went on in a second line, leaves fewer names than lines.
    if count != head.count(b"\r\n") - 2 or count > FIELDS_MAX or b"host" not in fields:
        return None
    # The parser leaves space behind a value where it is.
    if b" \r\n" in head or b"\t\r\n" in head:
        return None
    # A body that is not so many bytes; and bytes behind it that are no request.
    if b"transfer-encoding" in fields or b"upgrade" in fields:
        return None
    keep_alive = True
    if b"connection" in fields:
        connection = fields[b"connection"].lower()
        keep_alive = connection == b"keep-alive"
        if not keep_alive and connection != b"close":
            return None
    length = fields.get(b"content-length")
    if length is None:
        return Head(line, fields, len(head), 0, keep_alive)
    if not length.isdigit():
        return None
    # Nothing but space stands between the colon and the digits.
    start = head.index(length, head.lower().index(b"\r\ncontent-length:"))
    return Head(line, fields, len(head), int(length), keep_alive, (head[:start], head[start + len(length) :]))
