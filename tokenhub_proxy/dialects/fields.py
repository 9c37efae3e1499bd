"""The loss report: what becomes of each field of a client's request, as data the code itself obeys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tokenhub_proxy.calls import Call
from tokenhub_proxy.errors import InvalidRequest, shown

# The report is one header. Nobody reads more names than this, and a client chooses how long its own are.
NAMES_MAX = 32
NAME_LENGTH_MAX = 64

Kind = Literal["mapped", "passed", "dropped", "refused"]


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one field at one upstream.

    `mapped`: said in the upstream's own words; `passed`: sent as it is; `dropped`: left out and
    reported; `refused`: a 400. `neutral` are values that ask for nothing, so leaving them out is
    no loss; null is always one.
    """

    kind: Kind
    note: str
    neutral: tuple[object, ...] = ()


# Of what OpenAI's clients say, these are known to no upstream that is translated for.
NO_EQUIVALENT: Mapping[str, Fate] = {
    "logit_bias": Fate("dropped", "has no equivalent", ({},)),
    "store": Fate("dropped", "has no equivalent", (False,)),
    "prediction": Fate("dropped", "has no equivalent"),
    "verbosity": Fate("dropped", "has no equivalent", ("medium",)),
    "moderation": Fate("dropped", "has no equivalent"),
    "functions": Fate("refused", "deprecated, use tools", ([],)),
    "function_call": Fate("refused", "deprecated, use tool_choice", ("auto", "none")),
    "modalities": Fate("refused", "the upstream answers in text", (["text"],)),
    "audio": Fate("refused", "the upstream answers in text"),
    "web_search_options": Fate("refused", "searches at the upstream are not served"),
}
# Claude and the models beside it at Bedrock give one answer, chosen by temperature and little else.
ONE_PLAIN_CHOICE: Mapping[str, Fate] = {
    "n": Fate("refused", "the upstream gives one choice", (1,)),
    "best_of": Fate("refused", "the upstream gives one choice", (1,)),
    "frequency_penalty": Fate("dropped", "has no equivalent", (0,)),
    "presence_penalty": Fate("dropped", "has no equivalent", (0,)),
    "logprobs": Fate("dropped", "has no equivalent", (False,)),
    "top_logprobs": Fate("dropped", "has no equivalent", (0,)),
    "seed": Fate("dropped", "has no equivalent"),
}


def caching(note: str) -> Mapping[str, Fate]:
    """The fates of the fields that steer OpenAI's prompt cache, where another one works as `note` says."""
    names = ("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention")
    return {name: Fate("dropped", note) for name in names}


class Losses:
    """Collects what an upstream can't be told of one call."""

    __slots__ = ("_names", "_strict")

    def __init__(self, call: Call) -> None:
        self._names: dict[str, None] = {}  # in order, each once
        self._strict = call.strict

    def drop(self, name: str) -> None:
        """Note that a field, or the part of one that `name` tells, does not reach the upstream."""
        # Names go into a header: no byte of a client's own choosing that could end it.
        plain = "".join(letter for letter in name if "!" <= letter <= "~" and letter != ",")
        if len(self._names) < NAMES_MAX:
            self._names[plain[:NAME_LENGTH_MAX] or "unnamed"] = None

    def names(self) -> tuple[str, ...]:
        """What was dropped. Raises InvalidRequest for a call that is strict."""
        if self._strict and self._names:
            raise InvalidRequest(
                f"This model's upstream can't be told: {', '.join(self._names)}.",
                param=next(iter(self._names)),
                reason="strict",
            )
        return tuple(self._names)


def sort_fields(call: Call, fields: Mapping[str, Fate], losses: Losses) -> dict[str, Any]:
    """Every field of the call goes its way; returns those that are passed as they are.

    Fields that the table does not know are dropped and reported. Raises InvalidRequest for those
    that are refused.
    """
    passed: dict[str, Any] = {}
    for name, value in call.body.items():
        fate = fields.get(name)
        if value is None or (fate is not None and value in fate.neutral):
            continue
        if fate is None or fate.kind == "dropped":
            losses.drop(name)
        elif fate.kind == "refused":
            raise InvalidRequest(f"{shown(name)}: {fate.note}.", param=name)
        elif fate.kind == "passed":
            passed[name] = value
    return passed
