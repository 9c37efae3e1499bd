"""YAML text as a tree whose nodes know their place and path, and complaints about them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from yaml.reader import Reader as _YamlReader

Kind = Literal["mapping", "list", "text", "null", "alias"]

# The deepest option stands at 5; `defaults` and `quirks` hold JSON of any shape. More is an attack
# on the stack.
DEPTH_MAX = 40
# Many YAML files of this kind are a few KB; a megabyte is somebody's mistake.
LENGTH_MAX = 2**20
# After so many complaints nobody reads on, and a reload logs them all.
COMPLAINTS_MAX = 100

# libyaml's parser where PyYAML was built with it: the same events, about ten times faster.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})

# A word that may be shown to people. Whatever has spaces may be two lines run together, the second
# of them a secret; '@' and '?' stand in addresses that carry passwords.
SHOWABLE = re.compile(r"[\w.:/*+~-]{1,64}")
# What looks like an API key is one, wherever it was put by mistake.
_SECRET_LIKE = re.compile(r"\b(sk[-_]|pk[-_]|rk[-_]|gsk_|AIza|AKIA|ASIA|Bearer )[\w.~+/-]{8,}")
# A YAML parser may quote the text where it stumbled; its own tokens look like '<scalar>' or ','.
_QUOTED_BY_PARSER = re.compile(r" ?(?:'(?!<)[^']{3,}'|\"[^\"]{3,}\")")


@dataclass(frozen=True, slots=True)
class Node:
    """One value of the file: its path, its place (both counted from 1), and what it holds.

    `text` is the scalar's own text; `plain` tells that it had no quotes. `names` are the places
    of a mapping's names. The text may be a secret and is never in a repr.
    """

    path: str
    line: int
    column: int
    kind: Kind
    text: str = field(default="", repr=False)
    plain: bool = False
    items: tuple[Node, ...] = ()
    fields: Mapping[str, Node] = field(default_factory=dict)
    names: Mapping[str, Node] = field(default_factory=dict, repr=False)

    @property
    def what(self) -> str:
        """The kind in words."""
        return {"null": "nothing", "alias": "an alias", "text": "text"}.get(self.kind, f"a {self.kind}")


@dataclass(frozen=True, slots=True, order=True)
class Complaint:
    """What is wrong, and where; line and column count from 1, 0 is the file as a whole."""

    line: int
    column: int
    path: str
    message: str

    def told(self, name: str) -> str:
        """The complaint as people read it: `config.yaml:7:28: path: message`."""
        place = f"{name}:{self.line}:{self.column}" if self.line else name
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigError(Exception):
    """A config that can't be used: all complaints about it, by place. No secret is in its text."""

    def __init__(self, name: str, complaints: Iterable[Complaint]) -> None:
        self.name = name
        self.complaints = sorted(complaints)[:COMPLAINTS_MAX]
        super().__init__("\n".join(complaint.told(name) for complaint in self.complaints))


class Complaints:
    """What is wrong with one file, gathered; nothing is raised before the end."""

    def __init__(self) -> None:
        self.complaints: list[Complaint] = []
        self.warnings: list[Complaint] = []

    def complain(self, node: Node, message: str) -> None:
        """The file can't be used because of this."""
        self.complaints.append(Complaint(node.line, node.column, _withheld(node.path), _withheld(message)))

    def warn(self, node: Node, message: str) -> None:
        """The file can be used, but this may not be what was meant."""
        self.warnings.append(Complaint(node.line, node.column, _withheld(node.path), _withheld(message)))


def join(path: str, name: str) -> str:
    """The path of an option below another one."""
    shown = name if SHOWABLE.fullmatch(name) else "(...)"
    return f"{path}.{shown}" if path else shown


def quoted(text: str) -> str:
    """A word of the file as a complaint may show it: short, and surely no secret."""
    if SHOWABLE.fullmatch(text):
        return f'"{text}"'
    return "an empty text" if not text else f"(a text of {len(text)} characters)"


def _withheld(text: str) -> str:
    return _SECRET_LIKE.sub(r"\1...", text)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name most like this one, case aside, or None where none is like it."""
    by_folded = {known.casefold(): known for known in names}
    # The bound keeps a line of rubbish from costing seconds.
    found = difflib.get_close_matches(name[:100].casefold(), by_folded, n=1)
    return by_folded[found[0]] if found else None


def suggestion(name: str, names: Iterable[str]) -> str:
    found = nearest(name, names)
    return f'; did you mean "{found}"?' if found is not None and SHOWABLE.fullmatch(found) else ""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of a complaint about a name that nobody knows: the nearest, or else all of a few."""
    names = sorted(names)
    found = suggestion(name, names)
    if found or not 1 <= len(names) <= 8 or not all(SHOWABLE.fullmatch(known) for known in names):
        return found
    return f"; there is {', '.join(names)}"


# --- the tree ------------------------------------------------------------------------------------


def parse(text: str, complaints: Complaints, name: str) -> Node:
    """The file's root mapping; an empty file is an empty mapping.

    Duplicate names, anchors, aliases, tags and further documents are complained of. Raises
    ConfigError, with what was found so far, where the text is no YAML at all.
    """
    if len(text) > LENGTH_MAX:
        raise ConfigError(name, [Complaint(0, 0, "", f"is longer than {LENGTH_MAX} characters")])
    control = _YamlReader.NON_PRINTABLE.search(text)
    if control is not None:
        before = text[: control.start()]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        raise ConfigError(name, [Complaint(line, column, "", "not YAML: a control character")])
    tree = _Tree(yaml.parse(text, Loader=_LOADER), complaints)
    try:
        return tree.root()
    except yaml.YAMLError as exc:
        complaints.complaints.append(_syntax(exc))
    except _TooDeep as exc:
        complaints.complain(exc.args[0], f"is nested deeper than {DEPTH_MAX} levels")
    raise ConfigError(name, complaints.complaints)


def _syntax(error: yaml.YAMLError) -> Complaint:
    """The parser's complaint in our words, without the text around the place."""
    mark = getattr(error, "problem_mark", None)
    problem = _QUOTED_BY_PARSER.sub("", str(getattr(error, "problem", None) or "it can't be read"))
    context = _QUOTED_BY_PARSER.sub("", str(getattr(error, "context", None) or ""))
    message = f"not YAML: {problem}{f' ({context})' if context else ''}"
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
    return Complaint(line, column, "", _withheld(message))


class _TooDeep(Exception):
    """Raised with the node that is one too deep."""


class _Tree:
    """Composes nodes from the parser's events.

    PyYAML's own composer knows no duplicate names and shares aliased nodes, which a few lines can
    multiply into billions; from the events both are refused where they stand.
    """

    def __init__(self, events: Iterator[Any], complaints: Complaints) -> None:
        self._events = events
        self._complain = complaints.complain

    def root(self) -> Node:
        root = Node("", 1, 1, "null")
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents == 2:
                    place = self._bare(event, "", "null")
                    self._complain(place, "a second document; the config is one, without ---")
                    break
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event, "", 0)
        if root.kind == "null":
            return Node("", 1, 1, "mapping")
        if root.kind in ("text", "list"):
            self._complain(root, f"must be a mapping of options, not {root.what}")
        return root if root.kind == "mapping" else Node("", 1, 1, "mapping")

    def _bare(self, event: Any, path: str, kind: Kind) -> Node:
        return Node(path, event.start_mark.line + 1, event.start_mark.column + 1, kind)

    def _node(self, event: Any, path: str, depth: int) -> Node:
        place = self._bare(event, path, "alias")
        if depth > DEPTH_MAX:
            raise _TooDeep(place)
        if isinstance(event, yaml.AliasEvent):
            self._complain(place, "aliases are not taken; write the value out")
            return place
        if event.anchor is not None:
            self._complain(place, "anchors are not taken; write the value out where it is used")
        if event.tag is not None:
            self._complain(
                place, "tags such as !!str are not taken; a text that begins with ! stands in quotes"
            )
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(place, depth)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(place, depth)
        plain = event.style in (None, "")
        kind: Kind = "null" if plain and event.value in _NULLS else "text"
        return Node(path, place.line, place.column, kind, event.value, plain)

    def _list(self, place: Node, depth: int) -> Node:
        items: list[Node] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, f"{place.path}[{len(items)}]", depth + 1))
        return Node(place.path, place.line, place.column, "list", items=tuple(items))

    def _mapping(self, place: Node, depth: int) -> Node:
        fields: dict[str, Node] = {}
        names: dict[str, Node] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            name = event.value if isinstance(event, yaml.ScalarEvent) else "?"
            key = self._node(event, join(place.path, name), depth + 1)
            value = self._node(next(self._events), key.path, depth + 1)
            if not isinstance(event, yaml.ScalarEvent):
                if key.kind != "alias":
                    self._complain(key, f"a name must be text, not {key.what}")
            elif name in names:
                self._complain(key, f"is given twice; the first one is in line {names[name].line}")
            elif name == "<<" and key.plain:
                self._complain(key, "merge keys are not taken; write the options out")
            else:
                names[name], fields[name] = key, value
        return Node(place.path, place.line, place.column, "mapping", fields=fields, names=names)


def places(node: Node) -> Iterator[tuple[str, tuple[int, int]]]:
    """The path and place of a node and of all below it."""
    yield node.path, (node.line, node.column)
    for child in (*node.items, *node.fields.values()):
        yield from places(child)
