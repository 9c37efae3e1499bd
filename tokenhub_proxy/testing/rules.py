"""Which scripted answer a request gets, and what to say when it gets none."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from tokenhub_proxy.testing.answers import Says

# A value in a diff that is longer than this hides the difference instead of showing it.
SHOWN_LENGTH_MAX = 200


@dataclass(frozen=True, slots=True)
class Request:
    """One request on its way through the proxy.

    `body` is the client's own, `upstream_body` what it was translated into. `path` and `headers`
    are the upstream request's; credentials are not among the headers.
    """

    model: str
    body: Mapping[str, Any]
    stream: bool
    dialect: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    upstream_body: Mapping[str, Any] = field(repr=False)

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The client's messages; none for embeddings."""
        found: Sequence[Mapping[str, Any]] = self.body.get("messages") or ()
        return found

    @property
    def last(self) -> str:
        """The text of the last message, or the input of embeddings."""
        if not self.messages:
            return str(self.body.get("input", ""))
        content = self.messages[-1].get("content")
        if isinstance(content, list):
            return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict)).strip()
        return str(content or "")


Predicate = Callable[[Request], object]


@dataclass(slots=True)
class Rule:
    """An answer and the requests that it is for.

    `model` is a shell-style pattern, `last` a part of the last message or a compiled pattern to
    search it for, `when` a predicate. A rule without any of them is for the next request, whatever
    it is. `times` is how often it answers; None is without end.
    """

    says: Says
    model: str | None = None
    last: str | re.Pattern[str] | None = None
    when: Predicate | None = None
    times: int | None = None
    used: int = 0

    @property
    def spent(self) -> bool:
        """True when it has answered as often as it should."""
        return self.times is not None and self.used >= self.times

    def differences(self, request: Request) -> list[str]:
        """Why it is not for this request: lines of a diff, none where it is."""
        found: list[str] = []
        if self.model is not None and not fnmatchcase(request.model, self.model):
            found += [f"- model: {_shown(self.model)}", f"+ model: {_shown(request.model)}"]
        if self.last is not None and not _contains(request.last, self.last):
            wanted = self.last if isinstance(self.last, str) else self.last.pattern
            kind = "contains" if isinstance(self.last, str) else "matches"
            found += [f"- last message {kind}: {_shown(wanted)}", f"+ last message: {_shown(request.last)}"]
        if self.when is not None and not self.when(request):
            name = getattr(self.when, "__name__", repr(self.when))
            found += [f"- when: {name} is true", f"+ when: {name} is false"]
        if self.spent:
            found += [f"- answers {self.times} request(s)", "+ one more came"]
        return found


class Rules:
    """The rules of one test, in the order in which they were given."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> None:
        """One rule more; those before it are asked first."""
        self._rules.append(rule)

    def clear(self) -> None:
        """Forget all rules."""
        self._rules.clear()

    @property
    def unused(self) -> Sequence[Rule]:
        """The rules that wait for a request: never used, or less often than they should be."""
        return [rule for rule in self._rules if rule.used < (rule.times or 1)]

    def take(self, request: Request) -> Says | None:
        """What the first rule for this request says, or None where there is none."""
        for rule in self._rules:
            if not rule.differences(request):
                rule.used += 1
                return rule.says
        return None

    def miss(self, request: Request) -> str:
        """Why no rule was for this request: a diff against the nearest."""
        asked = f"model {request.model!r}, last message {_shown(request.last)}"
        if not self._rules:
            return f"no rule answers this request ({asked}): there is none; script one with tokenhub.reply()"
        number, lines = min(
            ((number, rule.differences(request)) for number, rule in enumerate(self._rules, 1)),
            key=lambda found: len(found[1]),
        )
        diff = "\n".join(f"  {line}" for line in lines)
        nearest = f"the nearest of {len(self._rules)} is number {number}"
        return f"no rule answers this request ({asked}); {nearest}:\n{diff}"


def _contains(text: str, wanted: str | re.Pattern[str]) -> bool:
    return wanted in text if isinstance(wanted, str) else wanted.search(text) is not None


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_LENGTH_MAX else text[:SHOWN_LENGTH_MAX] + "...")
