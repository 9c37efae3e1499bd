"""What the text events of one stream have in common, which is nearly everything."""

from __future__ import annotations

from typing import Final

from tokenhub_proxy.dialects.replies import parse_object

# How often a stream may change what its text events have in common before they are no longer compared.
PATTERNS_MAX: Final = 8
# The last key before the text, whether it is `content` or `reasoning_content`.
_KEY = b'content":"'


class Pattern:
    """Events that differ from one known event in nothing but a text in which no quote is escaped."""

    __slots__ = ("_begin", "_between", "_end", "_found", "_quotes")

    def __init__(self, event: bytes) -> None:
        """`event` is one line of data and its blank line; without a text in it nothing matches."""
        before, key, after = event.partition(_KEY)
        _, quote, rest = after.partition(b'"')
        self._found = bool(quote)
        # Nothing with a carriage return in it is taken.
        self._begin, self._end = (before + key, quote + rest) if quote else (b"\r", b"\r")
        self._between: bytes | None = None  # until a read has brought two events

    def events(self, data: bytes) -> int:
        """How many such events these are; 0 where there is anything else, or a part of one.

        All quotes and line ends are in what is known, so there is none in the texts.
        """
        begin, end = self._begin, self._end
        if not (data.startswith(begin) and data.endswith(end)):
            return 0
        first, last = len(begin), len(data) - len(end)
        if first > last:
            return 0
        # One event alone is the rule: its text is short, and all else is known.
        text = data[first:last]
        if self._found and text.find(b'"') < 0 and text.find(b"\n") < 0 and text.find(b"\r") < 0:
            return 1
        between = self._between
        if between is None:
            self._between = between = end + begin
            self._quotes = between.count(b'"')
        events = data.count(between, first, last) + 1
        # `find` is faster than `in`, which first tries whether it was given a number.
        quotes, line_ends = data.count(b'"'), data.count(b"\n")
        if quotes != events * self._quotes or line_ends != 2 * events or data.find(b"\r") >= 0:
            return 0
        return events


NOTHING: Final = Pattern(b"")


class _PerChunk:
    """What each chunk of plain text looks at, side by side: see `transports.http1`."""

    __slots__ = ("_at_event", "_events", "_length", "_pattern")

    _at_event: bool  # what comes next begins an event that need not be looked into for its text
    # For the estimate of a stream without usage: data events, and their bytes.
    _events: int
    _length: int
    _pattern: Pattern


class Texts(_PerChunk):
    """The text events of one stream, told by comparing them with the last and by what they lack."""

    __slots__ = ("_null_finish", "_null_usage", "_patterns")

    def __init__(self) -> None:
        self._at_event = False
        self._events = 0
        self._length = 0
        self._pattern = NOTHING
        self._patterns = 0  # how many there were
        self._null_finish = b'"finish_reason":null'
        self._null_usage = b'"usage":null'

    def _are_text(self, data: bytes) -> bool:
        """True, and counted, when these are whole events of nothing but text."""
        if self._at_event and (events := self._pattern.events(data) or self._text_events(data)):
            self._events += events
            self._length += len(data)
            return True
        return False

    def _text_events(self, data: bytes) -> int:
        """How many events these are, if they are whole, of one line of data each, and nothing but text."""
        if not (data.startswith(b"data: {") and data.endswith(b"\n\n")):
            return 0
        events = data.count(b"\n\ndata: {") + 1
        # `find` is faster than `in`, which first tries whether it was given a number.
        if data.count(b"\n") != 2 * events or data.find(b"\r") >= 0 or not self._only_text(data):
            return 0
        if self._patterns < PATTERNS_MAX:
            last = data if events == 1 else data[data.rfind(b"\n\ndata: {") + 2 :]
            if parse_object(last[len(b"data: ") :]) is not None:
                self._patterns += 1
                self._pattern = Pattern(last)
        return events

    def _only_text(self, data: bytes) -> bool:
        """True when no event in here can be a finish, an error, or usage."""
        return (
            data.count(b'"finish_reason"') == data.count(self._null_finish)
            and (data.find(b'"usage"') < 0 or data.count(b'"usage"') == data.count(self._null_usage))
            and data.find(b'"error"') < 0
        )
