"""What `quirks` in the config may say, read off the tables that they are laid over."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tokenhub_proxy.dialects.facts import Facts
from tokenhub_proxy.dialects.gates import Claude, Family, Gemini
from tokenhub_proxy.dialects.quirks import ROWS

# The rows whose members an upstream of a dialect may set.
_TABLES: Mapping[str, tuple[type, ...]] = {
    "openai": (Facts,),
    "azure": (Facts,),
    "demo": (Facts,),
    "anthropic": (Claude,),
    "gemini": (Gemini,),
    "bedrock": (Family, Claude),
}


def check_quirks(dialect: str, given: object) -> None:
    """Raises ValueError, with a message for people, unless this can be the `quirks` of such an upstream."""
    if not isinstance(given, Mapping):
        raise ValueError("must be a mapping of facts")
    known = _known(dialect)
    for name, value in given.items():
        if name == "like" and Facts in _TABLES[dialect]:
            if not isinstance(value, str) or value not in ROWS:
                raise ValueError(f"like: no such upstream {value!r}{_nearest(str(value), ROWS)}")
            continue
        if name not in known:
            raise ValueError(f"no such fact {name!r}{_nearest(str(name), known)}")
        wanted = _wanted(known[name], value)
        if wanted:
            raise ValueError(f"{name} must be {wanted}")


def quirk_names(dialect: str) -> tuple[str, ...]:
    """The facts that `quirks` of such an upstream may set."""
    return tuple(_known(dialect))


def _known(dialect: str) -> dict[str, Any]:
    """The facts of a dialect and their types. A row inside a row is no fact: its members are."""
    found: dict[str, Any] = {}
    for table in _TABLES[dialect]:
        hints = get_type_hints(table)
        found |= {name: hint for name, hint in hints.items() if not set(get_args(hint)) & {Claude}}
    return found


def _wanted(hint: Any, value: object) -> str:
    """What a value of this type must be, in words; "" for one that is."""
    origin, inner = get_origin(hint), get_args(hint)
    if type(None) in inner:
        return "" if value is None else _wanted(next(one for one in inner if one is not type(None)), value)
    if origin is Literal:
        return "" if value in inner else f"one of {', '.join(inner)}"
    if origin is tuple:
        each = f"one of {', '.join(get_args(inner[0]))}" if get_origin(inner[0]) is Literal else "text"
        good = isinstance(value, (list, tuple)) and not any(_wanted(inner[0], item) for item in value)
        return "" if good else f"a list, each {each}"
    if origin is Mapping:
        good = isinstance(value, Mapping) and not any(_wanted(inner[1], item) for item in value.values())
        return "" if good else "a mapping of " + ("texts" if inner[1] is str else "mappings")
    if hint is bool:
        return "" if isinstance(value, bool) else "true or false"
    if hint is int:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return "" if good else "a whole number of at least 0"
    return "" if isinstance(value, str) else "text"


def _nearest(name: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
