"""What models of one dialect differ in, by the start of their names: data, with its date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from tokenhub_proxy.routes import Upstream

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# The day on which the tables below were last compared with the public documentation.
DATED = "2026-11-22"


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


_CLAUDE_4_1 = Claude(sampling_pair=False, json_schema=True)
_CLAUDE_4_6 = replace(_CLAUDE_4_1, thinking="adaptive")
_CLAUDE_4_7 = replace(_CLAUDE_4_6, sampling=False, effort_xhigh=True)
_CLAUDE_5_FABLE = replace(_CLAUDE_4_7, forced_tools=False)

CLAUDE: Mapping[str, Claude] = {
    "": Claude(),  # other makers' models behind the same format
    "claude-": _CLAUDE_4_7,  # a name newer than this table
    "claude-2": Claude(thinking="none"),
    "claude-instant": Claude(thinking="none"),
    "claude-3": Claude(thinking="none"),
    "claude-3-7": Claude(),
    "claude-sonnet-4": Claude(),
    "claude-opus-4": Claude(),
    "claude-opus-4-1": _CLAUDE_4_1,
    "claude-haiku-4-5": _CLAUDE_4_1,
    "claude-sonnet-4-5": _CLAUDE_4_1,
    "claude-opus-4-5": _CLAUDE_4_1,
    "claude-sonnet-4-6": _CLAUDE_4_6,
    "claude-opus-4-6": _CLAUDE_4_6,
    "claude-opus-4-7": _CLAUDE_4_7,
    "claude-opus-4-8": _CLAUDE_4_7,
    "claude-sonnet-5": _CLAUDE_4_7,
    "claude-opus-5": _CLAUDE_4_7,
    "claude-fable-5": _CLAUDE_5_FABLE,
    "claude-mythos-5": _CLAUDE_5_FABLE,
    "claude-mythos-preview": _CLAUDE_5_FABLE,
}


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


_GEMINI_3 = Gemini("level", signatures=True, media_resolution=True, json_with_tools=True)

GEMINI: Mapping[str, Gemini] = {
    "": _GEMINI_3,  # a name newer than this table
    "gemma": Gemini(),
    "gemini-1": Gemini(),
    "gemini-2.0": Gemini(),
    "gemini-2.5": Gemini("budget"),
    "gemini-2.5-flash-image": Gemini(),
    "gemini-2.5-pro": Gemini("budget", budget_min=128, budget_max=32_768),
    "gemini-3": _GEMINI_3,
    "gemini-3-pro": replace(_GEMINI_3, levels=("low", "high")),
    "gemini-3.1-pro": replace(_GEMINI_3, levels=("low", "medium", "high")),
}

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
