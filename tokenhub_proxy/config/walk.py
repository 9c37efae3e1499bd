"""Typed reading of the config's nodes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from tokenhub_proxy.config.nodes import SHOWABLE, Complaints, Node, did_you_mean, join, quoted, suggestion
from tokenhub_proxy.prices import parse_usd

Parsed = TypeVar("Parsed")

_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,20}")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][-+]?[0-9]{1,3})?")
# JSON numbers that every parser reads back as they were.
_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**64 - 1

_NOTHING = Node("", 0, 0, "null")


class Walk(Complaints):
    """Typed reading of nodes; everything that is wrong is gathered, nothing is raised.

    Every reading function returns None after a complaint, so that the walk goes on and the
    operator sees all complaints at once. Of an option that is not given it makes None too.
    """

    # --- mappings and lists

    def fields(self, node: Node, known: Iterable[str], required: Iterable[str] = ()) -> dict[str, Node]:
        """The options of a mapping that are given; `null` is as good as not given."""
        known = tuple(known)
        entries = self.entries(node)
        for name in entries.keys() - set(known):
            self.complain(node.names[name], f"unknown option{did_you_mean(name, known)}")
        for name in required if node.kind == "mapping" else ():
            if entries.get(name, _NOTHING).kind == "null":
                self.missing(node, name)
        return {name: child for name, child in entries.items() if name in known and child.kind != "null"}

    def missing(self, node: Node, name: str, why: str = "") -> None:
        """Complain that a mapping lacks an option."""
        absent = Node(join(node.path, name), node.line, node.column, "null")
        self.complain(absent, f"missing{why}")

    def entries(self, node: Node) -> Mapping[str, Node]:
        """The entries of a mapping whose names are free."""
        if node.kind == "mapping":
            return node.fields
        self._mistyped(node, "a mapping")
        return {}

    def items(self, node: Node | None) -> tuple[Node, ...]:
        """The items of a list."""
        if node is None:
            return ()
        if node.kind == "list":
            return node.items
        self._mistyped(node, "a list")
        return ()

    def _mistyped(self, node: Node, wanted: str) -> None:
        if node.kind != "alias":  # that one is complained of already
            self.complain(node, f"must be {wanted}, not {node.what}")

    # --- scalars

    def text(self, node: Node | None) -> str | None:
        """A text; a bare number or date is taken as it is written."""
        if node is None:
            return None
        if node.kind == "text":
            return node.text
        if node.kind != "alias":
            self.complain(node, f"must be text, not {node.what}")
        return None

    def parsed(self, node: Node | None, parse: Callable[[str], Parsed]) -> Parsed | None:
        """A text as `parse` understands it; the ValueError it raises becomes the complaint."""
        text = self.text(node)
        if node is None or text is None:
            return None
        try:
            return parse(text)
        except ValueError as exc:
            self.complain(node, str(exc))
            return None

    def texts(self, node: Node | None, parse: Callable[[str], str]) -> tuple[str, ...]:
        """A list of texts, each as `parse` understands it; a single one may stand without brackets."""
        items = (node,) if node is not None and node.kind == "text" else self.items(node)
        parsed = (self.parsed(item, parse) for item in items)
        return tuple(text for text in parsed if text is not None)

    def choice(self, node: Node | None, names: Sequence[str]) -> str | None:
        """One of these words."""
        text = self.text(node)
        if node is None or text is None or text in names:
            return text
        self.complain(node, f"must be one of {', '.join(names)}, not {quoted(text)}{suggestion(text, names)}")
        return None

    def boolean(self, node: Node | None) -> bool | None:
        """`true` or `false`; the other words that YAML 1.1 knew for them are refused."""
        text = self.text(node)
        if node is None or text is None:
            return None
        if node.plain and text in _BOOLEANS:
            return _BOOLEANS[text]
        self.complain(node, f"must be true or false, not {quoted(text)}")
        return None

    def integer(self, node: Node | None, least: int, most: int) -> int | None:
        """A whole number from `least` to `most`, written without quotes."""
        text = self.text(node)
        if node is None or text is None:
            return None
        if node.plain and _INTEGER.fullmatch(text) and least <= int(text) <= most:
            return int(text)
        self.complain(node, f"must be a whole number from {least} to {most}, not {quoted(text)}")
        return None

    def seconds(self, node: Node | None, most: int, *, none: bool = False) -> float | None:
        """A positive number of seconds; with `none` it may be 0 too."""
        text = self.text(node)
        if node is None or text is None:
            return None
        if node.plain and _NUMBER.fullmatch(text) and 0 <= float(text) <= most and (none or float(text) > 0):
            return float(text)
        least = "from 0 to" if none else "above 0 and at most"
        self.complain(node, f"must be a number of seconds {least} {most}, not {quoted(text)}")
        return None

    def money(self, node: Node | None) -> int | None:
        """Nanodollars of a decimal text in USD, exact: it never was a float."""
        text = self.text(node)
        if node is None or text is None:
            return None
        if not SHOWABLE.fullmatch(text):
            self.complain(node, f"must be an amount in USD such as 3.00, not {quoted(text)}")
            return None
        return self.parsed(node, parse_usd)

    def data(self, node: Node) -> Any:
        """Plain JSON data; None for what is none."""
        if node.kind == "mapping":
            return {name: self.data(child) for name, child in node.fields.items()}
        if node.kind == "list":
            return [self.data(child) for child in node.items]
        if node.kind != "text" or not node.plain:
            return node.text if node.kind == "text" else None
        if node.text in _BOOLEANS:
            return _BOOLEANS[node.text]
        number: int | float
        if _INTEGER.fullmatch(node.text):
            number = int(node.text)
            fits = _INTEGER_MIN <= number <= _INTEGER_MAX
        elif _NUMBER.fullmatch(node.text):
            number = float(node.text)
            fits = math.isfinite(number)
        else:
            return node.text
        if not fits:
            self.complain(node, "is too large a number")
        return number
