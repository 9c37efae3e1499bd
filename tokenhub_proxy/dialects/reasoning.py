"""Reasoning that an upstream wants back with its tool calls, kept for clients that don't carry it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson

from tokenhub_proxy.dialects.memory import Memory

# What is collected of one answer, tool calls included. The longest reasoning there is stays far
# below it; half of one would be refused, so that beyond this nothing is kept.
KEPT_BYTES_MAX = 2**20
# Parallel calls are a few. Each of them can bring the reasoning back, for a client may leave one out.
CALLS_MAX = 32
# The members of a detail that come in pieces.
_TEXTS = ("text", "summary")


class Keeper:
    """Collects one field of an answer, and keeps it under each tool call of the same choice."""

    def __init__(self, memory: Memory, owner: str, field: str) -> None:
        self.complete = True  # False once something could not be collected: nothing more is kept
        self._memory = memory
        self._owner = owner
        self._field = field
        self._left = KEPT_BYTES_MAX
        self._turns: dict[object, _Turn] = {}

    def chunk(self, found: Mapping[str, Any]) -> None:
        """One event of a stream. A choice is kept at its finish, and again if more of it follows."""
        self._read(found, "delta")

    def answer(self, found: Mapping[str, Any]) -> None:
        """A whole answer."""
        self._read(found, "message")

    def forget(self) -> None:
        """A part of the answer went by unread: what is without it must not be sent back."""
        self.complete = False
        self._turns.clear()

    def _read(self, found: Mapping[str, Any], member: str) -> None:
        choices = found.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            message = choice.get(member) if isinstance(choice, Mapping) else None
            finish = choice.get("finish_reason") if isinstance(choice, Mapping) else None
            said = message if isinstance(message, Mapping) else {}
            value, calls = said.get(self._field), said.get("tool_calls")
            if not value and not calls and not finish:
                continue
            self._left -= _size((value, calls))
            if not self.complete or self._left < 0:
                self.forget()
                return
            index = choice.get("index")
            turn = self._turns.setdefault(index if isinstance(index, int) else 0, _Turn())
            turn.add_calls(calls)
            if member == "delta":
                turn.add_piece(value)
            else:
                turn.value = value
            turn.ended = turn.ended or (member == "message" or finish not in (None, "", "error"))
            if turn.ended and turn.value:
                self._keep(turn)

    def _keep(self, turn: _Turn) -> None:
        state = orjson.dumps(turn.value)
        for id, name, arguments in list(turn.calls.values())[:CALLS_MAX]:
            if id:
                self._memory.put(self._owner, memory_key(self._field, id, name, arguments), state)


class _Turn:
    """One choice as far as it has come."""

    __slots__ = ("_places", "calls", "ended", "value")

    def __init__(self) -> None:
        self.value: Any = None
        self.calls: dict[int, tuple[str, str, str]] = {}  # id, name, arguments
        self.ended = False
        self._places: dict[tuple[object, object], dict[str, Any]] = {}  # the open details

    def add_calls(self, pieces: object) -> None:
        for piece in pieces if isinstance(pieces, list) else ():
            if not isinstance(piece, Mapping):
                continue
            index = piece.get("index")
            if not isinstance(index, int):  # whole calls need none
                index = len(self.calls) if piece.get("id") else max(0, len(self.calls) - 1)
            id, name, arguments = self.calls.get(index, ("", "", ""))
            more_id, more_name, more = _read_call(piece)
            self.calls[index] = (id or more_id, name or more_name, arguments + more)

    def add_piece(self, value: object) -> None:
        """More of the field: text is joined, a list of details goes on where it was."""
        if isinstance(value, str):
            self.value = (self.value if isinstance(self.value, str) else "") + value
        elif isinstance(value, list):
            if not isinstance(self.value, list):
                self.value = []
            for detail in value:
                self._add_detail(detail)

    def _add_detail(self, detail: object) -> None:
        """A detail goes on in the one of its type and index, until that one has its signature."""
        if not isinstance(detail, dict):
            self.value.append(detail)
            return
        place = (detail.get("type"), detail.get("index"))
        earlier = self._places.get(place)
        goes_on = any(isinstance(detail.get(name), str) for name in _TEXTS) or detail.get("signature")
        if earlier is None or not goes_on or (earlier.get("signature") and _text(detail)):
            self.value.append(detail)
            if goes_on:
                self._places[place] = detail
            return
        for name, value in detail.items():
            if name in _TEXTS and isinstance(value, str):
                earlier[name] = (earlier.get(name) or "") + value
            elif value is not None:
                earlier[name] = value


def restored(messages: list[Any], field: str, owner: str, memory: Memory) -> list[Any]:
    """The messages with the field wherever an assistant's tool calls left it behind.

    Nothing given is changed. What a client sends back itself stands.
    """
    return [_restored(message, field, owner, memory) for message in messages]


def _restored(message: Mapping[str, Any], field: str, owner: str, memory: Memory) -> Mapping[str, Any]:
    calls = message.get("tool_calls")
    if message.get("role") != "assistant" or message.get(field) is not None or not isinstance(calls, list):
        return message
    for call in calls[:CALLS_MAX]:
        id, name, arguments = _read_call(call) if isinstance(call, Mapping) else ("", "", "")
        state = memory.get(owner, memory_key(field, id, name, arguments)) if id else None
        if state is not None:
            return {**message, field: orjson.loads(state)}
    return message


def memory_key(field: str, id: str, name: str, arguments: str) -> str:
    """Where the field that came with a tool call is kept.

    Some upstreams count their ids, `functions.look_up:0`, so that an id alone may be that of
    another conversation's call. Clients write the arguments anew, in other spaces.
    """
    # What is no JSON was cut off, as a rule, and comes back as it is.
    with suppress(orjson.JSONDecodeError, orjson.JSONEncodeError):
        arguments = orjson.dumps(orjson.loads(arguments or "{}"), option=orjson.OPT_SORT_KEYS).decode()
    said = orjson.dumps((id, name, arguments))
    return f"{field} {hashlib.sha256(said).hexdigest()}"


def _read_call(call: Mapping[str, Any]) -> tuple[str, str, str]:
    """The id, the name and the arguments of a tool call, or of a piece of one, as far as it has them."""
    function = call.get("function")
    function = function if isinstance(function, Mapping) else {}
    id, name, arguments = call.get("id"), function.get("name"), function.get("arguments")
    if arguments is not None and not isinstance(arguments, str):
        arguments = orjson.dumps(arguments).decode()
    return id if isinstance(id, str) else "", name if isinstance(name, str) else "", arguments or ""


def _size(value: object) -> int:
    """The length of a value as JSON; of one nested too deep to be written, more than may be kept."""
    try:
        return len(orjson.dumps(value))
    except orjson.JSONEncodeError:
        return KEPT_BYTES_MAX + 1


def _text(detail: Mapping[str, Any]) -> bool:
    return any(detail.get(name) for name in _TEXTS)
