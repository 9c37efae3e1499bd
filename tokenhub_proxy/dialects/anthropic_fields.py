"""What becomes of each field of an OpenAI request at Anthropic."""

from __future__ import annotations

from collections.abc import Mapping

from tokenhub_proxy.dialects.fields import Fate

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
    "n": Fate("refused", "the upstream gives one choice", (1,)),
    "best_of": Fate("refused", "the upstream gives one choice", (1,)),
    "functions": Fate("refused", "deprecated, use tools", ([],)),
    "function_call": Fate("refused", "deprecated, use tool_choice", ("auto", "none")),
    "modalities": Fate("refused", "the upstream answers in text", (["text"],)),
    "audio": Fate("refused", "the upstream answers in text"),
    "web_search_options": Fate("refused", "searches at the upstream are not served"),
    "frequency_penalty": Fate("dropped", "has no equivalent", (0,)),
    "presence_penalty": Fate("dropped", "has no equivalent", (0,)),
    "logit_bias": Fate("dropped", "has no equivalent", ({},)),
    "logprobs": Fate("dropped", "has no equivalent", (False,)),
    "top_logprobs": Fate("dropped", "has no equivalent", (0,)),
    "seed": Fate("dropped", "has no equivalent"),
    "store": Fate("dropped", "has no equivalent", (False,)),
    "prediction": Fate("dropped", "has no equivalent"),
    "verbosity": Fate("dropped", "has no equivalent", ("medium",)),
    "moderation": Fate("dropped", "has no equivalent"),
    "prompt_cache_key": Fate("dropped", "caching is by cache_control marks"),
    "prompt_cache_options": Fate("dropped", "caching is by cache_control marks"),
    "prompt_cache_retention": Fate("dropped", "caching is by cache_control marks"),
    "thinking": Fate("passed", "Anthropic's own; stands before reasoning_effort"),
    "top_k": Fate("passed", "Anthropic's own; reported where the model refuses it"),
    "cache_control": Fate("passed", "Anthropic's own, also on parts, messages and tools"),
}
