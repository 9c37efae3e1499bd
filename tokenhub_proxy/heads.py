"""The head of a request that is written as nearly all are: a line that is known, each field once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from tokenhub_proxy.wire import SPECIAL_HEADERS

# aiohttp takes as much in a single field; official SDKs send a dozen fields in under a kilobyte.
HEAD_BYTES_MAX: Final = 8190
FIELDS_MAX = 100
# Of a body's length, where a head is not parsed anew: far below what any parser of numbers refuses.
LENGTH_DIGITS_MAX: Final = 12


_SPECIAL = frozenset(name.encode("ascii") for name in SPECIAL_HEADERS)


# How the line of a field begins, in lower case; as many as our own code asks for.
_BEGINNINGS: Final[dict[str, bytes]] = {}
_JSON: Final = "application/json"


def _beginning(name: str) -> bytes:
    _BEGINNINGS[name] = found = b"\r\n%b:" % name.lower().encode("ascii")
    return found


class Head:
    """A request but for its body of `length` bytes. Its fields are asked for by names in any case.

    An open stream holds one, so it keeps the text alone, in which a field is looked for. What every call
    asks for is known.
    """

    __slots__ = (
        "_before", "_behind", "_content_type", "_digits", "digest", "keep_alive", "length", "method",
        "path", "size", "special",
    )  # fmt: skip

    def __init__(
        self,
        asked: tuple[str, str],
        before: bytes,
        digits: bytes,
        behind: bytes,
        keep_alive: bool,
        content_type: str | None,
        special: Collection[str],
    ) -> None:
        """`asked` is the method and the path; `before` and `behind` are all that stands around the digits
        of the body's length, of which there may be none.
        """
        self.method, self.path = asked
        self._before = before
        self._digits = digits
        self._behind = behind
        self.size = len(before) + len(digits) + len(behind)  # of the head itself, in bytes
        self.length = int(digits) if digits else 0
        self.keep_alive = keep_alive
        self._content_type = content_type
        self.special = special  # those of SPECIAL_HEADERS that the request has
        self.digest: bytes | None = None  # of the credential in it, once somebody has worked it out

    def again(self, data: bytes) -> Head | None:
        """The head that these bytes begin with, if it differs from this one in nothing but the body's length.

        Only digits stand where digits stood: all else that `read` has looked at is the same.
        """
        if not self._digits:
            return None
        before, behind = self._before, self._behind
        start = len(before)
        end = data.find(behind, start, start + LENGTH_DIGITS_MAX + len(behind))
        if end < 0 or not data.startswith(before):
            return None
        digits = data[start:end]
        if digits == self._digits:
            return self
        if not digits.isdigit() or end + len(behind) > HEAD_BYTES_MAX:
            return None
        asked = self.method, self.path
        found = Head(asked, before, digits, behind, self.keep_alive, self._content_type, self.special)
        found.digest = self.digest
        return found

    def get(self, name: str, default: str | None = None, /) -> str | None:
        """The value of a field."""
        value = self._content_type if name == "Content-Type" else self._find(name)
        return default if value is None else value

    def getall(self, name: str, default: Sequence[str] = (), /) -> Sequence[str]:
        """The values of a field, of which there is one."""
        value = self._find(name)
        return default if value is None else (value,)

    def _find(self, name: str) -> str | None:
        # `read` has seen that a field is a line, and that there is nothing but text in it.
        text = self._before + self._digits + self._behind
        beginning = _BEGINNINGS.get(name) or _beginning(name)
        start = text.lower().find(beginning)
        if start < 0:
            return None
        start += len(beginning)
        return text[start : text.find(b"\r\n", start)].lstrip(b" \t").decode("ascii")


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


def read(head: bytes, lines: Mapping[bytes, tuple[str, str]]) -> Head | None:
    """A whole head, its empty line included; None for what is not written in the usual way.

    That may be good HTTP or bad: another parser decides, so that there is one verdict.
    """
    asked = lines.get(head[: head.find(b"\r\n") + 2])
    if asked is None or len(head) > HEAD_BYTES_MAX or not head.isascii():
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
    kind = fields.get(b"content-type")
    content_type = None if kind is None else _JSON if kind == b"application/json" else kind.decode("ascii")
    special: Collection[str] = ()
    if not _SPECIAL.isdisjoint(fields):
        special = {name.decode("ascii") for name in _SPECIAL.intersection(fields)}
    digits = fields.get(b"content-length")
    if digits is None:
        return Head(asked, head, b"", b"", keep_alive, content_type, special)
    if not digits.isdigit():
        return None
    # Nothing but space stands between the colon and the digits.
    start = head.index(digits, head.lower().index(b"\r\ncontent-length:"))
    before, behind = head[:start], head[start + len(digits) :]
    return Head(asked, before, digits, behind, keep_alive, content_type, special)
