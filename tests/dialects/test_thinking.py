"""How Claude is told to think: in the same way by whichever dialect asks it."""

from __future__ import annotations

from typing import Any, get_args

import orjson
import pytest

from tokenhub_proxy.calls import parse
from tokenhub_proxy.dialects import Asking, Memory, dialect
from tokenhub_proxy.dialects.settings import Effort
from tokenhub_proxy.dialects.thinking import THINKING_BUDGET_MIN
from tokenhub_proxy.routes import Target, Upstream

ANTHROPIC = Upstream("a", "anthropic", "https://api.anthropic.com/v1")
BEDROCK = Upstream("b", "bedrock", "https://bedrock-runtime.eu-west-1.amazonaws.com")
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
MODELS = ("claude-3-haiku", "claude-3-7-sonnet", "claude-opus-4-5", "claude-sonnet-4-6", "claude-opus-4-8")


def told(upstream: Upstream, model: str, **fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    asking = Asking(Target(upstream, model), "k", output_default=8192)
    outgoing = dialect(upstream.dialect, Memory()).request(parse(orjson.dumps(body), "chat"), asking)
    return orjson.loads(outgoing.body), outgoing.dropped


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("effort", [None, *get_args(Effort)])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": THINKING_BUDGET_MIN},
        {"max_tokens": 2000, "temperature": 0.5, "top_p": 0.9},
        {"temperature": 1, "top_p": 0.97},
        {"tools": [TOOL], "tool_choice": "required"},
        {"thinking": {"type": "enabled", "budget_tokens": 1500}},
    ],
)
def test_both_dialects_tell_claude_the_same(model, effort, fields):
    asked = fields if effort is None else {**fields, "reasoning_effort": effort}
    ours, dropped = told(ANTHROPIC, model, **asked)
    theirs, dropped_too = told(BEDROCK, f"anthropic.{model}", **asked)
    additional, inference = theirs.get("additionalModelRequestFields", {}), theirs.get("inferenceConfig", {})
    assert dropped == dropped_too
    assert ours.get("thinking") == additional.get("thinking")
    assert ours.get("output_config") == additional.get("output_config")
    assert (ours.get("temperature"), ours.get("top_p")) == (
        inference.get("temperature"),
        inference.get("topP"),
    )


def test_a_budget_states_its_limit_and_one_that_is_not_sent_states_none():
    body, _ = told(BEDROCK, "anthropic.claude-3-7-sonnet", reasoning_effort="high")
    assert body["additionalModelRequestFields"]["thinking"]["budget_tokens"] == 8192 * 4 // 5
    assert body["inferenceConfig"] == {"maxTokens": 8192}
    forced = {"tools": [TOOL], "tool_choice": "required"}
    body, dropped = told(BEDROCK, "anthropic.claude-3-7-sonnet", reasoning_effort="high", **forced)
    assert ("inferenceConfig" in body, dropped) == (False, ("reasoning_effort",))
