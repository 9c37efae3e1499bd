"""Values that a JSON Schema allows: what the demo model says in tool calls and structured answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

# Below this depth only what the schema demands is said, so that recursive schemas come to an end.
DEPTH_PLENTY = 4
# A schema that demands itself has no finite value; and a wide one that refers to itself would be
# huge. The sample stops there, wrong but small.
DEPTH_MAX = 24
VALUES_MAX = 10_000
ITEMS_MAX = 16
TEXT_LENGTH_MAX = 1000

_TEXTS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "demo@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
# Keywords whose values are joined when schemas are merged; of all others the last one counts.
_JOINED = ("properties", "required")


def sample(schema: Any) -> Any:
    """A value that the schema allows. It may be any JSON at all, and is never an error."""
    return _Sampler(schema).value(schema, 0)


class _Sampler:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._values = 0

    def value(self, schema: Any, depth: int) -> Any:
        self._values += 1
        if depth > DEPTH_MAX or self._values > VALUES_MAX:
            return None
        sparing = depth > DEPTH_PLENTY
        known = self._flat(schema, sparing)
        for name in ("const", "default"):
            if name in known:
                return known[name]
        if allowed := _list(known.get("enum")):
            return allowed[0]
        kind = _kind(known, sparing)
        if kind == "object":
            return self._object(known, depth, sparing)
        if kind == "array":
            return self._array(known, depth, sparing)
        if kind in ("integer", "number"):
            return _number(known)
        return {"boolean": True, "null": None}[kind] if kind in ("boolean", "null") else _text(known)

    def _object(self, known: Mapping[str, Any], depth: int, sparing: bool) -> dict[str, Any]:
        properties = _mapping(known.get("properties"))
        required = [name for name in _list(known.get("required")) if isinstance(name, str)]
        named = dict.fromkeys([*(() if sparing else properties), *required])
        return {name: self.value(properties.get(name), depth + 1) for name in named}

    def _array(self, known: Mapping[str, Any], depth: int, sparing: bool) -> list[Any]:
        first = _list(known.get("prefixItems"))
        length = max(_count(known, "minItems", 0), len(first), 0 if sparing else 1)
        length = min(length, _count(known, "maxItems", ITEMS_MAX), ITEMS_MAX)
        schemas = [*first, *[known.get("items")] * length][:length]
        return [self.value(schema, depth + 1) for schema in schemas]

    def _flat(self, schema: Any, sparing: bool) -> Mapping[str, Any]:
        """The schema without references and choices: the first choice is taken everywhere."""
        known: dict[str, Any] = {}
        waiting = [schema]
        while waiting and self._values <= VALUES_MAX:
            part = _mapping(waiting.pop())
            self._values += 1 + len(_mapping(part.get("properties")))
            for name, value in part.items():
                known[name] = _joined(known[name], value) if name in _JOINED and name in known else value
            waiting += _list(part.get("allOf"))[:ITEMS_MAX]
            for choices in (_list(part.get("anyOf")), _list(part.get("oneOf"))):
                waiting += [_choice(choices, sparing)] if choices else []
            if isinstance(part.get("$ref"), str):
                waiting.append(self._found(part["$ref"]))
        return known

    def _found(self, reference: str) -> Any:
        found = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            found = _mapping(found).get(part.replace("~1", "/").replace("~0", "~"))
        return found


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return {**first, **second}
    return [*_list(first), *_list(second)]


def _choice(choices: Sequence[Any], sparing: bool) -> Any:
    """The first one; where depth is dear, one that goes no deeper."""
    if sparing:
        for choice in choices:
            if _mapping(choice).get("type") not in (None, "object", "array"):
                return choice
    return choices[0]


def _kind(known: Mapping[str, Any], sparing: bool) -> str:
    kind = known.get("type")
    if isinstance(kind, list) and kind:
        kind = "null" if sparing and "null" in kind else kind[0]
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in known else "array" if "items" in known else "string"


def _number(known: Mapping[str, Any]) -> Any:
    """1 where it is allowed, else the first of the bounds and their neighbours that is."""
    lows = [_numeric(known, "minimum"), _numeric(known, "exclusiveMinimum")]
    highs = [_numeric(known, "maximum"), _numeric(known, "exclusiveMaximum")]
    bounds = [bound for bound in lows + highs if bound is not None]
    near = [bound + change for bound in bounds for change in (0, 1, -1)]
    step = _numeric(known, "multipleOf")
    for number in (1, 0, *near, sum(bounds) / max(1, len(bounds))):
        if step:
            number = -(-number // step) * step
        if not math.isfinite(number):
            continue
        if known.get("type") == "integer":
            number = math.ceil(number)
        if _between(number, lows, highs):
            return number
    return 1


def _between(number: Any, lows: Sequence[Any], highs: Sequence[Any]) -> bool:
    (least, above), (most, below) = lows, highs
    return (
        (least is None or least <= number)
        and (above is None or above < number)
        and (most is None or number <= most)
        and (below is None or number < below)
    )


def _text(known: Mapping[str, Any]) -> str:
    kind = known.get("format")
    text = _TEXTS.get(kind, "demo") if isinstance(kind, str) else "demo"
    text = text.ljust(min(_count(known, "minLength", 0), TEXT_LENGTH_MAX), ".")
    return text[: _count(known, "maxLength", TEXT_LENGTH_MAX)]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _numeric(known: Mapping[str, Any], name: str) -> Any:
    value = known.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _count(known: Mapping[str, Any], name: str, otherwise: int) -> int:
    value = known.get(name)
    return value if isinstance(value, int) and value >= 0 else otherwise
