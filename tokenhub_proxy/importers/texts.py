"""YAML and JSON of other gateways as plain data whose decimal numbers stay texts: no float is made."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tokenhub_proxy.importers import NotReadable

# Files of this kind are a few KB, exports of a large installation a few MB.
LENGTH_MAX = 64 * 2**20


class _Texts(yaml.SafeLoader):
    """Anchors and merge keys are resolved; a name that is given twice is refused, not overwritten."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """One mapping."""
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()
        if twice and not getattr(node, "flattened", False):
            place = node.start_mark
            raise NotReadable(f"line {place.line + 1}: {sorted(map(str, twice))[0]} is given twice")
        node.flattened = True  # type: ignore[attr-defined]  # merged names follow, and may be known ones
        return super().construct_mapping(node, deep)


def _is_number_or_date(tag: str) -> bool:
    return tag in ("tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")


_Texts.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if not _is_number_or_date(tag)]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str) -> Any:
    """What a YAML text says, with decimal numbers and dates as texts. Raises NotReadable."""
    if len(text) > LENGTH_MAX:
        raise NotReadable(f"is longer than {LENGTH_MAX} characters")
    try:
        return yaml.load(text, Loader=_Texts)  # noqa: S506 - a safe loader, made poorer
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark is not None else ""
        raise NotReadable(
            f"{place}not YAML: {getattr(error, 'problem', None) or 'can not be read'}"
        ) from None
    except RecursionError:
        raise NotReadable("is nested too deeply") from None


def read_json(text: str) -> Any:
    """What a JSON text says, with decimal numbers as texts. Raises NotReadable."""
    if len(text) > LENGTH_MAX:
        raise NotReadable(f"is longer than {LENGTH_MAX} characters")
    try:
        return json.loads(text, parse_float=str)
    except json.JSONDecodeError as error:
        raise NotReadable(f"line {error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise NotReadable("is nested too deeply") from None
