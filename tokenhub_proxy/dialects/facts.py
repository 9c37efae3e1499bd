"""Facts about one OpenAI-compatible upstream and model, and a request's body made to fit them."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from tokenhub_proxy.calls import OUTPUT_LIMITS
from tokenhub_proxy.dialects.fields import Losses
from tokenhub_proxy.dialects.quirks import ROWS
from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.routes import Target, Upstream

# Values that ask for what happens anyway: leaving them out is no loss.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "temperature": (1,),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "n": (1,),
    "store": (False,),
    "metadata": ({},),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
    "parallel_tool_calls": (True,),
    "modalities": (["text"],),
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What one upstream takes for one model, where that is not what OpenAI's reference says.

    `limit` is the name of the output limit; None keeps the client's, and a limit that we add goes
    as `limit_added`. `drop`, `drop_more` and, where reasoning is asked for, `drop_reasoning` are
    left out and reported; `refuse` is a 400. `values` are said in another word, `nearest` in one
    that means less, which is reported. `usage_in` names an object that may hold the usage. `keeps`
    names a field of answers that must come back with their tool calls. `tool_id_letters`: the ids
    of tool calls must be so many letters and digits, 0 where any will do.
    """

    limit: str | None = None
    limit_added: str = "max_tokens"
    stream_options: bool = True
    drop: tuple[str, ...] = ()
    drop_more: tuple[str, ...] = ()
    drop_reasoning: tuple[str, ...] = ()
    drop_names: bool = False  # of messages
    refuse: tuple[str, ...] = ()
    refuse_parts: Mapping[str, str] = field(default_factory=dict)  # type of part → why
    rename: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    nearest: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    json_schema: bool = True
    usage_in: str | None = None
    reasoning_apart: bool = False
    embeddings_base64: bool = True
    keeps: str | None = None
    tool_id_letters: int = 0


_ID_LETTERS = string.ascii_letters + string.digits

PLAIN = Facts()
_NAMES = frozenset(fact.name for fact in fields(Facts))


def facts_of(target: Target, default_row: str | None = None) -> Facts:
    """What is known of a target, its config's own facts laid over ours; PLAIN where that is nothing."""
    upstream = target.upstream
    given = upstream.options.get("quirks") or {}
    row = ROWS.get(given.get("like") or _recognised(upstream) or default_row or "", {})
    known = {name: value for name, value in row.items() if name in _NAMES}
    model = target.model.lower()
    for pattern, laid_over in row.get("models", ()):
        if fnmatchcase(model, pattern):
            known.update(laid_over)
    known.update((name, _frozen(value)) for name, value in given.items() if name in _NAMES)
    return replace(PLAIN, **known) if known else PLAIN


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _recognised(upstream: Upstream) -> str | None:
    """The row of the upstream's host: `.x` and `x` match it and what is under it, `:n` a port."""
    parts = urlsplit(upstream.base_url)
    host, port = (parts.hostname or "").lower(), f":{parts.port}"
    for name, row in ROWS.items():
        for known in row.get("hosts", ()):
            if known == port or host == known.lstrip(".") or host.endswith("." + known.lstrip(".")):
                return name
    return None


def fit(body: dict[str, Any], facts: Facts, losses: Losses) -> None:
    """Change a body, a copy of the client's top level, into what the upstream takes.

    What is lost goes to `losses`. Raises InvalidRequest for what must not be lost.
    """
    _fit_limit(body, facts)
    dropped = facts.drop + facts.drop_more
    if body.get("reasoning_effort") not in (None, "none"):
        dropped += facts.drop_reasoning
    for name in dropped:
        value = body.pop(name, None)
        if value is not None and value not in NEUTRAL.get(name, ()):
            losses.drop(name)
    for name in facts.refuse:
        value = body.pop(name, None)
        if value is not None and value not in NEUTRAL.get(name, ()):
            raise InvalidRequest(f"This model's upstream does not take {name}.", param=name)
    for name, words in facts.values.items():
        _say(body, name, words)
    for name, words in facts.nearest.items():
        if _say(body, name, words):
            losses.drop(name)
    for name, other in facts.rename.items():
        if name in body:
            body[other] = body.pop(name)
    if not facts.json_schema:
        _fit_format(body, losses)
    if facts.roles or facts.drop_names or facts.refuse_parts or facts.tool_id_letters:
        _fit_messages(body, facts, losses)


def _fit_limit(body: dict[str, Any], facts: Facts) -> None:
    """One limit under the upstream's name; of several the smallest keeps every promise."""
    if facts.limit is None:
        return
    given = [body.pop(name) for name in OUTPUT_LIMITS if name in body]
    limits = [limit for limit in given if limit is not None]
    if limits:
        body[facts.limit] = min(limits)


def _say(body: dict[str, Any], name: str, words: Mapping[str, str]) -> bool:
    """Replace a value by the upstream's word for it; a named tool choice is looked up by its type."""
    value = body.get(name)
    word = words.get(str(value.get("type") if isinstance(value, Mapping) else value))
    if word is None:
        return False
    body[name] = word
    return True


def _fit_format(body: dict[str, Any], losses: Losses) -> None:
    asked = body.get("response_format")
    if isinstance(asked, Mapping) and asked.get("type") == "json_schema":
        body["response_format"] = {"type": "json_object"}
        losses.drop("response_format.json_schema")


def _fit_messages(body: dict[str, Any], facts: Facts, losses: Losses) -> None:
    messages = body.get("messages")
    if messages is None:
        return
    fitted = []
    for index, message in enumerate(messages):
        role = facts.roles.get(message["role"])
        if role is not None:
            message = {**message, "role": role}
        if facts.drop_names and "name" in message:
            message = {name: value for name, value in message.items() if name != "name"}
            losses.drop("messages.name")
        if facts.refuse_parts and isinstance(message.get("content"), list):
            _refuse_parts(message["content"], f"messages[{index}].content", facts.refuse_parts)
        if facts.tool_id_letters:
            message = _fit_tool_ids(message, facts.tool_id_letters)
        fitted.append(message)
    body["messages"] = fitted


def _refuse_parts(parts: list[Any], where: str, refused: Mapping[str, str]) -> None:
    for index, part in enumerate(parts):
        why = refused.get(str(part.get("type"))) if isinstance(part, Mapping) else None
        if why is not None:
            raise InvalidRequest(f"{why}.", param=f"{where}[{index}]")


def _fit_tool_ids(message: Mapping[str, Any], letters: int) -> Mapping[str, Any]:
    """The message with ids that fit: a foreign one becomes another, always the same."""
    if "tool_call_id" in message:
        return {**message, "tool_call_id": _fitting_id(message["tool_call_id"], letters)}
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    fitted = [
        {**call, "id": _fitting_id(call["id"], letters)}
        if isinstance(call, Mapping) and "id" in call
        else call
        for call in calls
    ]
    return {**message, "tool_calls": fitted}


def _fitting_id(id: object, letters: int) -> object:
    if not isinstance(id, str) or (len(id) == letters and id.isascii() and id.isalnum()):
        return id
    number = int.from_bytes(hashlib.sha256(id.encode()).digest(), "big")
    found = ""
    for _ in range(letters):
        number, place = divmod(number, len(_ID_LETTERS))
        found += _ID_LETTERS[place]
    return found
