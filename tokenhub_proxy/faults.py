"""Faults that a test asks for on the wire between an upstream and the proxy, as words."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, fields
from typing import Literal, cast

from tokenhub_proxy.errors import InvalidRequest, shown

# The request header that keys marked `test` may send.
HEADER = "x-tokenhub-fault"
# Longer waits than an hour are slips of the hand; counts and seeds have the same bound.
NUMBER_MAX = 3600

Odd = Literal["missing", "doubled"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one answer. Numbers count the data events of a stream.

    An answer that is no stream is one event, and is broken off in its middle. `seed` decides what
    is left to chance: the lengths of pauses, and where in an event it breaks off.
    """

    head_s: float = 0.0  # silence before the head
    pause_s: float = 0.0  # silence before each event
    stall: int | None = None  # silence for good after so many events
    cut: int | None = None  # the connection closes after so many events
    cut_event: int | None = None  # ... inside the event after so many
    cut_character: int | None = None  # ... inside the first UTF-8 character of several bytes after so many
    reset: int | None = None  # the connection is reset after so many events
    error: int | None = None  # an error event after so many, in the upstream's own format
    usage: Odd | None = None
    done: Odd | None = None  # `data: [DONE]`
    html: bool = False  # a page in place of the answer, with status 200
    seed: int | None = None


_NAMES = tuple(field.name for field in fields(Fault))


def asked(text: str | None, allowed: bool) -> Fault | None:
    """The fault that a request's header asks for, by a key that may. Raises InvalidRequest."""
    if text is None:
        return None
    if not allowed:
        raise InvalidRequest(f"Only keys made for tests may send {HEADER}.", param=HEADER)
    return parse(text)


def parse(text: str) -> Fault:
    """The fault of a text such as `stall=3`, `cut-event=2, seed=7` or `html`. Raises InvalidRequest."""
    found: dict[str, object] = {}
    for part in text.replace(";", ",").split(","):
        name, _, value = part.strip().partition("=")
        name = name.strip().replace("-", "_")
        if name not in _NAMES:
            nearest = difflib.get_close_matches(name, _NAMES, n=1)
            hint = f"; did you mean {_spelled(nearest[0])!r}?" if nearest else ""
            raise _refusal(f"there is no fault {shown(name)}{hint}")
        found[name] = _value(name, value.strip())
    return Fault(**found)  # type: ignore[arg-type]


def _value(name: str, text: str) -> object:
    if name == "html":
        if text not in ("", "1"):
            raise _refusal("html takes no value")
        return True
    if name in ("usage", "done"):
        if text not in ("missing", "doubled"):
            raise _refusal(f"{name} is missing or doubled")
        return cast(Odd, text)
    if name.endswith("_s"):
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds <= NUMBER_MAX:
            raise _refusal(f"{_spelled(name)} is a number of seconds")
        return seconds
    if not (text.isascii() and text.isdecimal()) or int(text) > NUMBER_MAX:
        raise _refusal(f"{_spelled(name)} is a whole number")
    return int(text)


def _spelled(name: str) -> str:
    return name.replace("_", "-")


def _refusal(message: str) -> InvalidRequest:
    return InvalidRequest(f"{HEADER}: {message}.", param=HEADER)
