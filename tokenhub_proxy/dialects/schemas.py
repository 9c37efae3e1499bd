"""JSON schemas as an upstream takes them: closed objects, unsupported keywords moved to words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

# Where a schema holds further ones: directly or in a list, and by names of the author's.
_SCHEMAS = frozenset(
    {"items", "prefixItems", "anyOf", "allOf", "oneOf", "not", "if", "then", "else", "additionalProperties"}
)
_NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions"})


def adapted(
    schema: Mapping[str, Any],
    *,
    unsupported: Collection[str] = (),
    silent: Collection[str] = (),
    closed: bool = False,
    const_as_enum: bool = False,
    moved: Callable[[str], None],
) -> dict[str, Any]:
    """A copy of the schema without the unsupported keywords.

    Each of them is told to the model in the description instead, and to `moved`; the `silent` ones
    rule nothing and are left out. `closed` adds `additionalProperties: false` to the objects that
    don't speak of it themselves; `const_as_enum` says a constant as the only value of an enum.
    """

    def rewrite(node: Any) -> Any:
        if isinstance(node, list):
            return [rewrite(item) for item in node]
        if not isinstance(node, Mapping):
            return node
        found: dict[str, Any] = {}
        words: list[str] = []
        for name, value in node.items():
            if name in unsupported:
                words.append(f"{name}: {value}")
                moved(name)
            elif name in silent:
                continue
            elif name == "const" and const_as_enum:
                found["enum"] = [value]
            elif name in _SCHEMAS:
                found[name] = rewrite(value)
            elif name in _NAMED_SCHEMAS and isinstance(value, Mapping):
                found[name] = {key: rewrite(inner) for key, inner in value.items()}
            else:
                found[name] = value
        if words:
            told = [str(found["description"])] if found.get("description") else []
            found["description"] = " ".join([*told, f"({', '.join(words)})"])
        if closed and found.get("type") == "object":
            found.setdefault("additionalProperties", False)
        return found

    return {**rewrite(schema)}
