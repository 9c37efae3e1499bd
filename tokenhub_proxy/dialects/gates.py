"""What a row of the tables of models can say, and which row is a model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from tokenhub_proxy.routes import Upstream

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True)
class Claude:
    """What a model behind Anthropic's Messages takes.

    `thinking`: none, with a `budget`, or `adaptive` with an effort. `sampling`: temperature, top_p
    and top_k; `sampling_pair`: temperature beside top_p. `forced_tools`: tool_choice any and tool.
    `json_schema`: output_config.format and strict tools. `effort_xhigh`: xhigh besides max.
    """

    thinking: Literal["none", "budget", "adaptive"] = "budget"
    sampling: bool = True
    sampling_pair: bool = True
    forced_tools: bool = True
    json_schema: bool = False
    effort_xhigh: bool = False


@dataclass(frozen=True, slots=True)
class Gemini:
    """What a model behind Gemini's generateContent takes.

    `thinking`: none, with a `budget` of tokens, or at a `level`. `budget_min` is the least budget:
    0 switches thinking off, models that always think start higher; `budget_max` the most.
    `levels` are the levels there are, in order. `signatures`: a replayed function call without its thought
    signature is refused. `media_resolution`: takes an image's detail. `json_with_tools`: a
    response format beside functions.
    """

    thinking: Literal["none", "budget", "level"] = "none"
    budget_min: int = 0
    budget_max: int = 24_576
    levels: tuple[Literal["minimal", "low", "medium", "high"], ...] = ("minimal", "low", "medium", "high")
    signatures: bool = False
    media_resolution: bool = False
    json_with_tools: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """What one family of models takes.

    `cache`: cache points. `choices`: the tool choices it knows. `results_alone`: beside a tool's
    result nothing else. `json_schema`: outputConfig.textFormat and strict tools. `reasoning`: how
    an effort is said. `reasoning_back`: which reasoning of earlier turns it takes, with its
    signature or as text. `top_k`: where that stands among the additional fields. `cached_inside`:
    its input tokens include those from the cache. `claude`: what Anthropic's own models take.
    """

    cache: bool = False
    choices: tuple[Literal["auto", "any", "tool"], ...] = ("auto", "any", "tool")
    results_alone: bool = False
    json_schema: bool = False
    reasoning: Literal["none", "claude", "effort", "qwen", "nova"] = "none"
    reasoning_back: Literal["none", "signed", "text"] = "none"
    top_k: tuple[str, ...] = ()
    cached_inside: bool = False
    claude: Claude | None = None


GateType = TypeVar("GateType", bound="DataclassInstance")


def gate(table: Mapping[str, GateType], model: str, upstream: Upstream) -> GateType:
    """The row with the longest prefix of the model's name, with the upstream's own `quirks` over it.

    `quirks` in the config is a mapping of the row's fields, checked when it was loaded; a name that
    this row has not is that of another one.
    """
    found = table[max((prefix for prefix in table if model.startswith(prefix)), key=len)]
    quirks = upstream.options.get("quirks")
    if not isinstance(quirks, Mapping):
        return found
    known = {field.name for field in fields(found)}
    given = {name: value for name, value in quirks.items() if name in known}
    return replace(
        found, **{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    )
