"""What upstreams and models do unlike others, as data with its date; `quirks` in the config is laid over it.

A row of OpenAI-compatible upstreams is recognised by its host, or named in the config
(`quirks: {like: vllm}`); the members of a row are those of `facts.Facts`. Of `models` every pattern
that matches is laid over the row, in order. Where nothing is written the upstream takes what OpenAI
takes. The tables of models, at the end, go by the start of a name: the longest that fits counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tokenhub_proxy.dialects.gates import Claude, Family, Gemini

# The day on which the tables were last compared with the public documentation.
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

# --- Claude, wherever it is served

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

# --- Gemini

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

# --- the families behind Bedrock's Converse

_FAMILY_CLAUDE = Family(cache=True, reasoning="claude", reasoning_back="signed", top_k=("top_k",))
_FAMILY_CLAUDE_JSON = replace(_FAMILY_CLAUDE, json_schema=True)
_FAMILY_MISTRAL = Family(choices=("auto", "any"), results_alone=True, top_k=("top_k",))
_FAMILY_NOVA = Family(cache=True, top_k=("inferenceConfig", "topK"))

FAMILIES: Mapping[str, Family] = {
    "": Family(),  # a maker newer than this table, or an ARN that tells no model
    "ai21.": Family(choices=()),
    "amazon.nova": _FAMILY_NOVA,
    "amazon.nova-2": replace(_FAMILY_NOVA, reasoning="nova"),
    "amazon.titan": Family(choices=()),
    "anthropic.": _FAMILY_CLAUDE,
    "anthropic.claude-haiku-4-5": _FAMILY_CLAUDE_JSON,
    "anthropic.claude-opus-4-5": _FAMILY_CLAUDE_JSON,
    "anthropic.claude-opus-4-6": _FAMILY_CLAUDE_JSON,
    "anthropic.claude-sonnet-4-5": _FAMILY_CLAUDE_JSON,
    "anthropic.claude-sonnet-4-6": _FAMILY_CLAUDE_JSON,
    "cohere.command": Family(choices=("auto",), top_k=("k",)),
    "deepseek.": Family(json_schema=True),
    "deepseek.r1": Family(choices=(), reasoning_back="text"),
    "google.gemma-3": Family(json_schema=True),
    "meta.": Family(choices=("auto",), results_alone=True),
    "mistral.": _FAMILY_MISTRAL,
    "mistral.magistral": replace(_FAMILY_MISTRAL, json_schema=True),
    "mistral.ministral-3": replace(_FAMILY_MISTRAL, json_schema=True),
    "mistral.mistral-large-3": replace(_FAMILY_MISTRAL, json_schema=True),
    "openai.": Family(cached_inside=True, reasoning="effort"),
    "qwen.": Family(reasoning="qwen"),
    "qwen.qwen3": Family(reasoning="qwen", json_schema=True),
    "zai.glm": Family(json_schema=True),
}
