"""What is known of OpenAI-compatible upstreams, as data: one row each, dated, most general facts first.

A row is recognised by its upstream's host, or named in the config (`quirks: {like: vllm}`); the
members of a row are those of `facts.Facts`. Of `models` every pattern that matches is laid over the
row, in order. Where nothing is written the upstream takes what OpenAI takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AS_OF = "2026-11-22"

_SAMPLING = (
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs",
)  # fmt: skip
# What only OpenAI itself has a service for.
_OPENAI_ONLY = (
    "store", "metadata", "service_tier", "prediction", "verbosity", "prompt_cache_key",
    "prompt_cache_retention", "safety_identifier", "modalities", "audio", "web_search_options", "moderation",
)  # fmt: skip
_XAI_DROPPED = (
    "logit_bias", "store", "metadata", "service_tier", "prediction", "verbosity", "prompt_cache_key",
    "prompt_cache_retention", "safety_identifier",
)  # fmt: skip
_GROK_4_DROPPED = ("presence_penalty", "frequency_penalty", "stop", "reasoning_effort")
_NEWER = {"developer": "system"}
_LOW_TO_HIGH = {"minimal": "low", "none": "low", "xhigh": "high", "max": "high"}

# Reasoning models refuse what steers sampling; those of 5.1 to 5.4 only once they are told to reason.
_OPENAI_MODELS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("o[134]*", {"drop": _SAMPLING}),
    ("o1-mini*", {"roles": {"system": "user", "developer": "user"}}),
    ("o1-preview*", {"roles": {"system": "user", "developer": "user"}}),
    ("gpt-5*", {"drop": _SAMPLING}),
    ("gpt-5.[1-4]*", {"drop": (), "drop_reasoning": _SAMPLING}),
    ("gpt-5.[1-3]-chat*", {"drop": _SAMPLING}),
    ("gpt-5.*-codex*", {"drop": _SAMPLING}),
    ("gpt-5.[24]-pro*", {"drop": _SAMPLING}),
    ("gpt-5.6*", {"nearest": {"reasoning_effort": {"minimal": "low"}}}),
    ("gpt-5-chat*", {"drop": ()}),
    ("gpt-[6-9]*", {"drop": _SAMPLING}),
)

ROWS: Mapping[str, Mapping[str, Any]] = {
    "openai": {
        "hosts": ("api.openai.com",),
        "limit": "max_completion_tokens",
        "models": _OPENAI_MODELS,
    },
    "azure": {
        "hosts": (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"),
        "limit_added": "max_completion_tokens",
        "refuse_parts": {"file": "Azure takes no file parts on chat"},
        "models": (
            *_OPENAI_MODELS,
            ("o[134]*", {"limit": "max_completion_tokens"}),
            ("gpt-[4-9]*", {"limit": "max_completion_tokens"}),
            ("*mistral*", {"limit": "max_tokens", "stream_options": False, "tool_id_letters": 9}),
            ("*deepseek*", {"limit": "max_tokens"}),
        ),
    },
    "deepseek": {
        "hosts": ("api.deepseek.com",),
        "limit": "max_tokens",
        "roles": _NEWER,
        "json_schema": False,
        "keeps": "reasoning_content",
        "drop": ("seed", "user", "logit_bias", "parallel_tool_calls", *_OPENAI_ONLY),
        "refuse": ("n",),
        "refuse_parts": {"image_url": "DeepSeek takes text only", "file": "DeepSeek takes text only"},
        "models": (("deepseek-reasoner*", {"drop_more": _SAMPLING}),),
    },
    "groq": {
        "hosts": ("api.groq.com",),
        "limit": "max_completion_tokens",
        "usage_in": "x_groq",
        "refuse": ("n",),
        "drop": ("logit_bias", "logprobs", "top_logprobs", "prompt_cache_key", "prompt_cache_retention",
                 "verbosity", "store", "prediction", "modalities", "audio", "safety_identifier"),
        "drop_names": True,
        "refuse_parts": {"file": "Groq takes no files"},
        "models": (
            ("openai/gpt-oss*", {"nearest": {"reasoning_effort": _LOW_TO_HIGH}}),
            ("qwen/*", {"nearest": {"reasoning_effort": {
                "minimal": "default", "low": "default", "medium": "default", "high": "default",
                "xhigh": "default", "max": "default"}}}),
        ),
    },
    "mistral": {
        "hosts": ("api.mistral.ai",),
        "limit": "max_tokens",
        "stream_options": False,
        "tool_id_letters": 9,
        "roles": _NEWER,
        "rename": {"seed": "random_seed", "dimensions": "output_dimension"},
        "values": {"tool_choice": {"required": "any"}},
        "nearest": {"reasoning_effort": {"minimal": "none", "low": "high", "medium": "high", "xhigh": "high",
                                         "max": "high"}},
        "drop": ("user", "logit_bias", "logprobs", "top_logprobs", "store", "service_tier", "verbosity",
                 "safety_identifier", "prompt_cache_retention", "modalities", "audio", "web_search_options"),
        "embeddings_base64": False,
    },
    "ollama": {
        "hosts": (":11434", "ollama.com"),
        "limit": "max_tokens",
        "roles": _NEWER,
        "refuse": ("n",),
        "drop": ("logit_bias", "user", "parallel_tool_calls", *_OPENAI_ONLY),
        "refuse_parts": {"file": "Ollama takes no files"},
        "embeddings_base64": False,
    },
    "lmstudio": {
        "hosts": (":1234",),
        "limit": "max_tokens",
        "roles": _NEWER,
        "refuse": ("n",),
        "refuse_parts": {"file": "LM Studio takes no files"},
        "embeddings_base64": False,
    },
    "vllm": {
        "limit": "max_tokens",
        "roles": _NEWER,
        "drop": ("metadata", "store", "prediction", "verbosity", "service_tier", "modalities", "audio",
                 "web_search_options", "prompt_cache_retention"),
        "refuse_parts": {"file": "vLLM takes no files"},
    },
    "llamacpp": {
        "limit": "max_tokens",
        "roles": _NEWER,
        "drop": _OPENAI_ONLY,
        "refuse_parts": {"file": "llama.cpp takes no files"},
    },
    "openrouter": {
        "hosts": ("openrouter.ai",),
        "limit": "max_tokens",
        "keeps": "reasoning_details",
        "drop": ("store", "prompt_cache_retention"),
    },
    "xai": {
        "hosts": ("api.x.ai",),
        "limit": "max_completion_tokens",
        "reasoning_apart": True,
        "drop": _XAI_DROPPED,
        "refuse_parts": {"file": "xAI takes no files on chat"},
        "models": (
            ("grok-3-mini*", {"drop_more": ("presence_penalty", "frequency_penalty", "stop"),
                              "nearest": {"reasoning_effort": {
                                  "none": "low", "minimal": "low", "medium": "high", "xhigh": "high",
                                  "max": "high"}}}),
            ("grok-4", {"drop_more": _GROK_4_DROPPED}),
            ("grok-4-*", {"drop_more": _GROK_4_DROPPED}),
            ("*non-reasoning*", {"drop": (*_XAI_DROPPED, "reasoning_effort"), "drop_more": ()}),
        ),
    },
    "moonshot": {
        "hosts": ("api.moonshot.ai", "api.moonshot.cn"),
        "limit": "max_tokens",
        "roles": _NEWER,
        "nearest": {"tool_choice": {"required": "auto"}},
        "keeps": "reasoning_content",
        "drop": ("seed", "user", "logit_bias", "logprobs", "top_logprobs", "parallel_tool_calls",
                 *_OPENAI_ONLY),
        "refuse_parts": {"file": "Moonshot takes no files on chat"},
    },
    "zai": {
        "hosts": ("api.z.ai", "open.bigmodel.cn"),
        "limit": "max_tokens",
        "roles": _NEWER,
        "refuse": ("n",),
        "nearest": {"tool_choice": {"required": "auto", "function": "auto"}},
        "drop": ("seed", "user", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs",
                 "top_logprobs", "parallel_tool_calls", *_OPENAI_ONLY),
        "models": (
            ("glm-5.3*", {"nearest": {"reasoning_effort": {
                "none": "low", "minimal": "low", "medium": "high", "xhigh": "max"}}}),
        ),
    },
    "perplexity": {
        "hosts": ("api.perplexity.ai",),
        "limit": "max_tokens",
        "stream_options": False,
        "refuse": ("n",),
        "drop": ("seed", "user", "logit_bias", "logprobs", "top_logprobs", *_OPENAI_ONLY),
    },
}  # fmt: skip
