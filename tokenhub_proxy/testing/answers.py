"""What a scripted model can say, in no format yet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tokenhub_proxy import errors
from tokenhub_proxy.errors import ProxyError
from tokenhub_proxy.faults import Fault

_WORDS = re.compile(r"\S+\s*|\s+")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants called; `arguments` is a JSON object as text."""

    name: str
    arguments: str = "{}"
    id: str = ""

    @property
    def object(self) -> Mapping[str, Any]:
        """The arguments as an object, for formats that send them so."""
        found: Mapping[str, Any] = orjson.loads(self.arguments or "{}")
        return found


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer. `pieces` is how a stream says the text, `delay_s` the silence before each.

    `usage` is the tokens in and out; None counts words. `finish` is OpenAI's finish_reason; "" is
    what fits the answer.
    """

    pieces: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    finish: str = ""
    usage: tuple[int, int] | None = None
    delay_s: float = 0.0
    fault: Fault | None = None

    @property
    def text(self) -> str:
        """All of the text."""
        return "".join(self.pieces)

    @property
    def finish_reason(self) -> str:
        """OpenAI's finish_reason of it."""
        return self.finish or ("tool_calls" if self.tool_calls else "stop")


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in place of an answer: the proxy's own refusal, or with `upstream` the provider's."""

    status: int
    message: str = ""
    retry_after_s: float | None = None
    upstream: bool = False
    fault: Fault | None = None

    def refusal(self) -> ProxyError:
        """What the proxy itself tells the client with this status."""
        error = _refusal(_REFUSALS[self.status], self.message or "A test asked for this refusal.")
        error.retry_after_s = self.retry_after_s
        return error


Says = Answer | Failure

_REFUSALS: Mapping[int, type[ProxyError]] = {
    kind.status: kind
    for kind in (
        errors.InvalidRequest, errors.InvalidApiKey, errors.InsufficientQuota, errors.ModelNotAllowed,
        errors.ModelNotFound, errors.RequestTimeout, errors.IdempotencyConflict, errors.RequestTooLarge,
        errors.UnsupportedMediaType, errors.RateLimited, errors.InternalError, errors.UpstreamUnavailable,
        errors.ShuttingDown,
    )
}  # fmt: skip


def _refusal(kind: type[ProxyError], message: str) -> ProxyError:
    """An error with the status and code of its kind that takes no part in what the kind does here."""

    class Refusal(ProxyError):
        status, code, type = kind.status, kind.code, kind.type

    return Refusal(message, reason="scripted")


def reply(
    text: str = "",
    *,
    tool_calls: Iterable[Any] = (),
    finish_reason: str = "",
    usage: tuple[int, int] | None = None,
    fault: Fault | None = None,
) -> Answer:
    """An answer of this text, streamed word by word where the client wants a stream.

    A tool call is a pair `("weather", {"city": "Paris"})`, `{"name": …, "arguments": …, "id": …}`,
    or a ToolCall.
    """
    calls = tuple(_tool_call(call) for call in tool_calls)
    return Answer(tuple(_WORDS.findall(text)), calls, finish_reason, usage, fault=fault)


def stream(
    pieces: Sequence[str],
    *,
    delay_s: float = 0.0,
    finish_reason: str = "",
    usage: tuple[int, int] | None = None,
    fault: Fault | None = None,
) -> Answer:
    """An answer in these pieces, each after so much silence; whole where the client wants no stream."""
    return Answer(tuple(pieces), (), finish_reason, usage, delay_s, fault)


def fail(
    status: int, *, retry_after_s: float | None = None, message: str = "", upstream: bool = False
) -> Failure:
    """An error. By default it is what the client sees: the proxy's own refusal with this status.

    With `upstream` the provider answers it in its own format, and the proxy does what it does
    then: it asks the next target, or tells the client that the upstream is unavailable.
    """
    if not upstream and status not in _REFUSALS:
        known = ", ".join(map(str, sorted(_REFUSALS)))
        raise ValueError(f"the proxy never answers {status}, only {known}; upstream=True lets the provider")
    if not 400 <= status <= 599:
        raise ValueError(f"{status} is no error's status")
    return Failure(status, message, retry_after_s, upstream)


def said(item: Says | str) -> Says:
    """An item of a script: what `reply`, `stream` and `fail` give, or a text to reply."""
    return reply(item) if isinstance(item, str) else item


def _tool_call(given: Any) -> ToolCall:
    if isinstance(given, ToolCall):
        return given
    if isinstance(given, tuple):
        given = dict(zip(("name", "arguments", "id"), given, strict=False))
    if isinstance(given, Mapping):
        given = {**given, **given["function"]} if isinstance(given.get("function"), Mapping) else given
        arguments = given.get("arguments", {})
        if not isinstance(arguments, str):
            arguments = orjson.dumps(arguments).decode()
        if isinstance(given.get("name"), str):
            return ToolCall(given["name"], arguments, str(given.get("id") or ""))
    raise TypeError(f"a tool call is a pair such as ('weather', {{'city': 'Paris'}}), not {given!r}")
