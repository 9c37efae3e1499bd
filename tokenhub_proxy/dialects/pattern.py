"""What the text events of one stream have in common, which is nearly everything."""

from __future__ import annotations

from typing import Final

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
