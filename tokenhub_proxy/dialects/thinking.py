"""How Anthropic's models are told to think, and what they take beside it, wherever they are asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tokenhub_proxy.dialects.fields import Losses
from tokenhub_proxy.dialects.gates import Claude
from tokenhub_proxy.dialects.settings import Effort

THINKING_BUDGETS: Mapping[Effort, int] = {
    "minimal": 1024, "low": 2048, "medium": 10_000, "high": 16_384, "xhigh": 32_768, "max": 32_768,
}  # fmt: skip
THINKING_BUDGET_MIN = 1024
EFFORTS: Mapping[Effort, str] = {
    "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "max", "max": "max",
}  # fmt: skip
# While thinking, nothing below this is taken.
THINKING_TOP_P_MIN = 0.95


def choose_thinking(
    own: Mapping[str, Any] | None,
    effort: Effort | None,
    gate: Claude,
    limit: int,
    losses: Losses,
    *,
    takes_budget: Callable[[], bool],
) -> tuple[Mapping[str, Any] | None, str | None]:
    """`thinking` and the effort beside it; None for what is not sent.

    The client's `own` thinking stands as it is. `limit` is that of the output. `takes_budget` is
    False beside a forced tool, and where the thinking before a tool call can't be sent back.
    """
    thinking = own if own is not None else _of_effort(effort, gate, limit, losses)
    if thinking is not None and thinking.get("type") == "enabled" and not takes_budget():
        losses.drop("reasoning_effort" if own is None else "thinking")
        return None, None
    if own is not None or effort is None or thinking is None or thinking["type"] != "adaptive":
        return thinking, None
    return thinking, effort if effort == "xhigh" and gate.effort_xhigh else EFFORTS[effort]


def _of_effort(effort: Effort | None, gate: Claude, limit: int, losses: Losses) -> Mapping[str, Any] | None:
    if effort is None:
        return None
    if effort == "none":
        # Models with adaptive thinking may think unasked; the others don't.
        return {"type": "disabled"} if gate.thinking == "adaptive" else None
    if gate.thinking == "adaptive":
        # The newest models leave their thinking out unless it is asked for.
        return {"type": "adaptive", "display": "summarized"}
    if gate.thinking == "none" or limit <= THINKING_BUDGET_MIN:
        losses.drop("reasoning_effort")
        return None
    # A fifth of the limit stays for the answer, as far as the least budget allows.
    most = max(THINKING_BUDGET_MIN, limit * 4 // 5)
    return {"type": "enabled", "budget_tokens": min(THINKING_BUDGETS[effort], most)}


def thinks(thinking: Mapping[str, Any] | None) -> bool:
    """Whether a model that is told this thinks."""
    return thinking is not None and thinking.get("type") in ("enabled", "adaptive")


def fit_sampling(
    temperature: float | None, top_p: float | None, gate: Claude, thinking: bool, losses: Losses
) -> tuple[float | None, float | None]:
    """The temperature and top_p that the model takes."""
    if temperature is not None and (not gate.sampling or (thinking and temperature != 1)):
        losses.drop("temperature")
        temperature = None
    refused = not gate.sampling or (thinking and (top_p or 0) < THINKING_TOP_P_MIN)
    if top_p is not None and (refused or (temperature is not None and not gate.sampling_pair)):
        losses.drop("top_p")
        top_p = None
    return temperature, top_p
