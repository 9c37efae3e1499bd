"""What the model families behind Bedrock's Converse differ in, by the start of their names: data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tokenhub_proxy.dialects.gates import CLAUDE, Claude, gate
from tokenhub_proxy.routes import Upstream

# The day on which the table was last compared with the public documentation.
DATED = "2026-11-22"
# An inference profile is a model with the regions that may serve it before its name.
_PROFILE = re.compile(r"^(?:global|us|eu|apac|ap|jp|au|ca|us-gov)\.(?=[a-z0-9-]+\.)")
_MAKER = "anthropic."


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


_CLAUDE = Family(cache=True, reasoning="claude", reasoning_back="signed", top_k=("top_k",))
_CLAUDE_JSON = replace(_CLAUDE, json_schema=True)
_MISTRAL = Family(choices=("auto", "any"), results_alone=True, top_k=("top_k",))
_NOVA = Family(cache=True, top_k=("inferenceConfig", "topK"))

FAMILIES: Mapping[str, Family] = {
    "": Family(),  # a maker newer than this table, or an ARN that tells no model
    "ai21.": Family(choices=()),
    "amazon.nova": _NOVA,
    "amazon.nova-2": replace(_NOVA, reasoning="nova"),
    "amazon.titan": Family(choices=()),
    "anthropic.": _CLAUDE,
    "anthropic.claude-haiku-4-5": _CLAUDE_JSON,
    "anthropic.claude-opus-4-5": _CLAUDE_JSON,
    "anthropic.claude-opus-4-6": _CLAUDE_JSON,
    "anthropic.claude-sonnet-4-5": _CLAUDE_JSON,
    "anthropic.claude-sonnet-4-6": _CLAUDE_JSON,
    "cohere.command": Family(choices=("auto",), top_k=("k",)),
    "deepseek.": Family(json_schema=True),
    "deepseek.r1": Family(choices=(), reasoning_back="text"),
    "google.gemma-3": Family(json_schema=True),
    "meta.": Family(choices=("auto",), results_alone=True),
    "mistral.": _MISTRAL,
    "mistral.magistral": replace(_MISTRAL, json_schema=True),
    "mistral.ministral-3": replace(_MISTRAL, json_schema=True),
    "mistral.mistral-large-3": replace(_MISTRAL, json_schema=True),
    "openai.": Family(cached_inside=True, reasoning="effort"),
    "qwen.": Family(reasoning="qwen"),
    "qwen.qwen3": Family(reasoning="qwen", json_schema=True),
    "zai.glm": Family(json_schema=True),
}


def model_name(model: str) -> str:
    """The model's own name, without the regions of an inference profile."""
    return _PROFILE.sub("", model.rpartition("/")[2] if model.startswith("arn:") else model)


def family(model: str, upstream: Upstream) -> Family:
    """What is known of a model, with the upstream's own `quirks` over it."""
    name = model_name(model)
    found = gate(FAMILIES, name, upstream)
    if found.reasoning == "claude":
        found = replace(found, claude=gate(CLAUDE, name.removeprefix(_MAKER), upstream))
    return found
