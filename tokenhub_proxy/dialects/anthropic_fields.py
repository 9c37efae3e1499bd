"""What becomes of each field of an OpenAI request at Anthropic."""

from __future__ import annotations

from collections.abc import Mapping

from tokenhub_proxy.dialects.fields import NO_EQUIVALENT, ONE_PLAIN_CHOICE, Fate, caching

FIELDS: Mapping[str, Fate] = {
    "model": Fate("mapped", "model"),
    "messages": Fate("mapped", "system and messages; roles merged, tool results first"),
    "stream": Fate("mapped", "stream"),
    "stream_options": Fate("mapped", "usage is always known, and said where asked"),
    "max_tokens": Fate("mapped", "max_tokens, which is always sent"),
    "max_completion_tokens": Fate("mapped", "max_tokens"),
    "max_output_tokens": Fate("mapped", "max_tokens"),
    "temperature": Fate("mapped", "temperature; above 1 it is 1 and reported; reported where refused"),
    "top_p": Fate("mapped", "top_p; reported where the model refuses it"),
    "stop": Fate("mapped", "stop_sequences; blank ones are reported"),
    "tools": Fate("mapped", "tools; strict where the model has it, else reported"),
    "tool_choice": Fate("mapped", "tool_choice; allowed_tools by leaving the others out"),
    "parallel_tool_calls": Fate("mapped", "tool_choice.disable_parallel_tool_use"),
    "response_format": Fate(
        "mapped", "output_config.format, on older models a forced tool; json_object is a hint, reported"
    ),
    "reasoning_effort": Fate("mapped", "thinking and output_config.effort; reported where it can't be"),
    "user": Fate("mapped", "metadata.user_id"),
    "safety_identifier": Fate("mapped", "metadata.user_id, where there is no user"),
    "metadata": Fate("mapped", "its user_id; other entries are reported"),
    "service_tier": Fate("mapped", "auto, or standard_only for default; others are reported"),
    "thinking": Fate("passed", "Anthropic's own; stands before reasoning_effort"),
    "top_k": Fate("passed", "Anthropic's own; reported where the model refuses it"),
    "cache_control": Fate("passed", "Anthropic's own, also on parts, messages and tools"),
    **NO_EQUIVALENT,
    **ONE_PLAIN_CHOICE,
    **caching("caching is by cache_control marks"),
}
