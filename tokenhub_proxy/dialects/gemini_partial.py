"""Function calls that Gemini streams in pieces, each of which names a place inside the arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# `$.days[0].name`: names after dots or in brackets, positions in brackets.
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d{1,4})\]|\['([^']*)'\]")
# A call in more pieces than this is no call.
PIECES_MAX = 100_000


class PartialCall:
    """One call that is put together; `id`, `name` and `signature` come with any of its pieces."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.signature = ""
        self.arguments: dict[str, Any] = {}
        self._pieces = 0

    def add(self, call: Mapping[str, Any], signature: str) -> bool:
        """Take a piece; True when it is the last one."""
        for name in ("id", "name"):
            value = call.get(name)
            if isinstance(value, str) and value:
                setattr(self, name, value)
        self.signature = signature or self.signature
        pieces = call.get("partialArgs")
        for piece in pieces if isinstance(pieces, list) else []:
            self._pieces += 1
            if isinstance(piece, Mapping) and self._pieces <= PIECES_MAX:
                self._put(piece)
        return call.get("willContinue") is not True

    def _put(self, piece: Mapping[str, Any]) -> None:
        path = piece.get("jsonPath")
        steps = [
            int(position) if position else name or quoted
            for name, position, quoted in _STEP.findall(path if isinstance(path, str) else "")
        ]
        kinds = ("stringValue", "numberValue", "boolValue", "nullValue")
        kind = next((kind for kind in kinds if kind in piece), None)
        if not steps or kind is None:
            return
        value = None if kind == "nullValue" else piece[kind]
        place: Any = self.arguments
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            if isinstance(place, dict) and isinstance(step, str):
                missing = step not in place
                if missing:
                    place[step] = _empty(following)
            elif isinstance(place, list) and isinstance(step, int) and step <= len(place):
                missing = step == len(place)
                if missing:
                    place.append(_empty(following))
            else:
                return  # a place that the earlier pieces leave no room for
            if following is None:
                # Text comes in pieces too.
                both = not missing and isinstance(place[step], str) and isinstance(value, str)
                place[step] = place[step] + value if both else value
            else:
                place = place[step]


def _empty(following: str | int | None) -> Any:
    if following is None:
        return None
    return [] if isinstance(following, int) else {}
