"""OpenAI's usage object ⇄ Usage, in disjoint classes."""

from __future__ import annotations

from typing import Any

from tokenhub_proxy.prices import Usage

# Counts above this are no counts: a JSON number that large is already inexact elsewhere.
TOKENS_MAX = 2**53


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
    prompt = count(usage.get("prompt_tokens"))
    output = count(usage.get("completion_tokens", 0))
    if prompt is None or output is None:
        return None
    given = usage.get("prompt_tokens_details")
    details = given if isinstance(given, dict) else {}
    cached = count(details.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or 0)
    written = count(details.get("cache_write_tokens") or 0)
    given = usage.get("completion_tokens_details")
    reasoning = count(given.get("reasoning_tokens") or 0) if isinstance(given, dict) else 0
    if cached is None or written is None or reasoning is None:
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
