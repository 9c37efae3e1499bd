"""OpenAI's usage object ⇄ Usage, in disjoint classes."""

from __future__ import annotations

from typing import Any, Final

from tokenhub_proxy.prices import Usage

# Counts above this are no counts: a JSON number that large is already inexact elsewhere.
TOKENS_MAX: Final = 2**53


def count(value: object) -> int | None:
    """A token count, or None for what is none: negative, fractional, boolean, absurd."""
    if type(value) is int and 0 <= value <= TOKENS_MAX:
        return value
    return None


def read_usage(usage: object, *, reasoning_apart: bool = False) -> Usage | None:
    """Usage of an OpenAI-format object, None when it says nothing that can be billed.

    `prompt_tokens` includes the cached and the newly written ones; `completion_tokens` includes
    reasoning, except where an upstream counts it apart (`reasoning_apart`). DeepSeek tells cache
    hits as `prompt_cache_hit_tokens`.
    """
    if not isinstance(usage, dict):
        return None
    prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    # What `count` says, twice: every call is asked.
    if type(prompt) is not int or type(output) is not int:
        return None
    if not (0 <= prompt <= TOKENS_MAX and 0 <= output <= TOKENS_MAX):
        return None
    cached: Any = 0
    written: Any = 0
    reasoning: Any = 0
    details = usage.get("prompt_tokens_details")
    if details is not None and isinstance(details, dict):
        cached, written = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
    cached = cached or usage.get("prompt_cache_hit_tokens") or 0
    details = usage.get("completion_tokens_details")
    if details is not None and isinstance(details, dict):
        reasoning = details.get("reasoning_tokens") or 0
    if not (cached or written or reasoning or reasoning_apart):
        return Usage(prompt, 0, 0, output, 0, True)
    if count(cached) is None or count(written) is None or count(reasoning) is None:
        return None
    if reasoning_apart:
        output += reasoning
    # Classes never overlap: what an upstream counts beyond its own prompt is not billed twice.
    cached = min(cached, prompt)
    written = min(written, prompt - cached)
    return Usage(prompt - cached - written, cached, written, output, min(reasoning, output), True)


def write_usage(usage: Usage) -> dict[str, Any]:
    """The OpenAI-format object of a Usage."""
    found: dict[str, Any] = {
        "prompt_tokens": usage.input_total,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
    if usage.cache_write:
        found["prompt_tokens_details"]["cache_write_tokens"] = usage.cache_write
    return found
