"""Where providers are and what they speak, by the names that other gateways have for them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider: its dialect, its address without the version, and what is added to an address.

    `base_url` is None where the dialect's own default serves. `suffix` is what an operator's own
    address lacks. `variable` holds the key where the config names none. `local` ones cost nothing.
    """

    name: str
    dialect: str
    base_url: str | None = None
    suffix: str = ""
    variable: str | None = None
    local: bool = False


def _compatible(name: str, url: str, variable: str, suffix: str = "/v1") -> Provider:
    return Provider(name, "openai", url, suffix, variable)


_OPENAI = Provider("openai", "openai", None, "", "OPENAI_API_KEY")
_OLLAMA = Provider("ollama", "openai", "http://127.0.0.1:11434", "/v1", None, local=True)

# LiteLLM's prefixes. Of an address that is given there, only what `suffix` says is missing.
BY_PREFIX: dict[str, Provider] = {
    "openai": _OPENAI,
    "custom_openai": _OPENAI,
    "openai_like": _OPENAI,
    "litellm_proxy": Provider("litellm", "openai", None, "", "LITELLM_PROXY_API_KEY"),
    "anthropic": Provider("anthropic", "anthropic", None, "/v1", "ANTHROPIC_API_KEY"),
    "gemini": Provider("gemini", "gemini", None, "", "GEMINI_API_KEY"),
    "azure": Provider("azure", "azure", None, "", "AZURE_API_KEY"),
    "bedrock": Provider("bedrock", "bedrock", None, "", None),
    "openrouter": _compatible("openrouter", "https://openrouter.ai/api", "OPENROUTER_API_KEY"),
    "groq": _compatible("groq", "https://api.groq.com/openai", "GROQ_API_KEY"),
    "mistral": _compatible("mistral", "https://api.mistral.ai", "MISTRAL_API_KEY"),
    "codestral": _compatible("codestral", "https://codestral.mistral.ai", "CODESTRAL_API_KEY"),
    "deepseek": _compatible("deepseek", "https://api.deepseek.com", "DEEPSEEK_API_KEY"),
    "together_ai": _compatible("together", "https://api.together.xyz", "TOGETHERAI_API_KEY"),
    "fireworks_ai": _compatible("fireworks", "https://api.fireworks.ai/inference", "FIREWORKS_AI_API_KEY"),
    "xai": _compatible("xai", "https://api.x.ai", "XAI_API_KEY"),
    "perplexity": _compatible("perplexity", "https://api.perplexity.ai", "PERPLEXITYAI_API_KEY", ""),
    "deepinfra": _compatible("deepinfra", "https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY", ""),
    "nvidia_nim": _compatible("nvidia", "https://integrate.api.nvidia.com", "NVIDIA_NIM_API_KEY"),
    "cerebras": _compatible("cerebras", "https://api.cerebras.ai", "CEREBRAS_API_KEY"),
    "sambanova": _compatible("sambanova", "https://api.sambanova.ai", "SAMBANOVA_API_KEY"),
    "moonshot": _compatible("moonshot", "https://api.moonshot.ai", "MOONSHOT_API_KEY"),
    "dashscope": _compatible(
        "dashscope", "https://dashscope-intl.aliyuncs.com/compatible-mode", "DASHSCOPE_API_KEY"
    ),
    "volcengine": _compatible(
        "volcengine", "https://ark.cn-beijing.volces.com", "VOLCENGINE_API_KEY", "/api/v3"
    ),
    "nebius": _compatible("nebius", "https://api.studio.nebius.ai", "NEBIUS_API_KEY"),
    "novita": _compatible("novita", "https://api.novita.ai/v3/openai", "NOVITA_API_KEY", ""),
    "hyperbolic": _compatible("hyperbolic", "https://api.hyperbolic.xyz", "HYPERBOLIC_API_KEY"),
    "ollama": _OLLAMA,
    "ollama_chat": _OLLAMA,
    "hosted_vllm": Provider("vllm", "openai", None, "", "HOSTED_VLLM_API_KEY", local=True),
    "lm_studio": Provider("lm-studio", "openai", None, "", "LM_STUDIO_API_KEY", local=True),
    "llamafile": Provider("llamafile", "openai", "http://127.0.0.1:8080", "/v1", None, local=True),
}

# Why a provider of LiteLLM's is not among them, where there is more to say than that.
NOT_SPOKEN: dict[str, str] = {
    "vertex_ai": "Vertex AI signs calls with a Google service account, which is not spoken here; the same"
    " Gemini models are served with an API key as dialect gemini",
    "azure_ai": "write it by hand: a row with dialect openai and base_url https://RESOURCE.services.ai.azure"
    ".com/openai/v1",
    "cohere": "Cohere has an OpenAI-compatible address, https://api.cohere.ai/compatibility/v1: a row with"
    " dialect openai",
    "text-completion-openai": "the endpoint /v1/completions is not served here",
}

# The channel types of one-api and new-api; above 26 the two count differently.
_BOTH: dict[int, Provider] = {
    1: Provider("openai", "openai", None, "/v1", None),
    3: Provider("azure", "azure", None, "", None),
    6: _compatible("openaimax", "https://api.openaimax.com", ""),
    7: _compatible("ohmygpt", "https://api.ohmygpt.com", ""),
    8: Provider("custom", "openai", None, "/v1", None),
    10: _compatible("aiproxy", "https://api.aiproxy.io", ""),
    12: _compatible("api2gpt", "https://api.api2gpt.com", ""),
    13: _compatible("aigc2d", "https://api.aigc2d.com", ""),
    14: Provider("anthropic", "anthropic", None, "/v1", None),
    16: _compatible("zhipu", "https://open.bigmodel.cn", "", "/api/paas/v4"),
    17: _compatible("dashscope", "https://dashscope.aliyuncs.com", "", "/compatible-mode/v1"),
    19: _compatible("360", "https://api.360.cn", ""),
    20: _compatible("openrouter", "https://openrouter.ai/api", ""),
    24: Provider("gemini", "gemini", None, "/v1beta", None),
    25: _compatible("moonshot", "https://api.moonshot.cn", ""),
    31: _compatible("lingyiwanwu", "https://api.lingyiwanwu.com", ""),
    33: Provider("bedrock", "bedrock", None, "", None),
}
ONE_API_TYPES: dict[int, Provider] = {
    **_BOTH,
    2: _compatible("api2d", "https://oa.api2d.net", ""),
    4: _compatible("closeai", "https://api.closeai-proxy.xyz", ""),
    5: _compatible("openai-sb", "https://api.openai-sb.com", ""),
    26: _compatible("baichuan", "https://api.baichuan-ai.com", ""),
    28: _compatible("mistral", "https://api.mistral.ai", ""),
    29: _compatible("groq", "https://api.groq.com/openai", ""),
    30: _OLLAMA,
    32: _compatible("stepfun", "https://api.stepfun.com", ""),
    36: _compatible("deepseek", "https://api.deepseek.com", ""),
    39: _compatible("together", "https://api.together.xyz", ""),
    40: _compatible("doubao", "https://ark.cn-beijing.volces.com", "", "/api/v3"),
    41: _compatible("novita", "https://api.novita.ai/v3/openai", "", ""),
}
NEW_API_TYPES: dict[int, Provider] = {
    **_BOTH,
    4: _OLLAMA,
    26: _compatible("zhipu", "https://open.bigmodel.cn", "", "/api/paas/v4"),
    27: _compatible("perplexity", "https://api.perplexity.ai", "", ""),
    40: _compatible("siliconflow", "https://api.siliconflow.cn", ""),
    42: _compatible("mistral", "https://api.mistral.ai", ""),
    43: _compatible("deepseek", "https://api.deepseek.com", ""),
    45: _compatible("volcengine", "https://ark.cn-beijing.volces.com", "", "/api/v3"),
    46: _compatible("qianfan", "https://qianfan.baidubce.com", "", "/v2"),
    48: _compatible("xai", "https://api.x.ai", ""),
}


def address(provider: Provider, given: str | None) -> str | None:
    """The `base_url` of an upstream: all that stands before the endpoint; None for the dialect's default."""
    if given is None:
        return None if provider.base_url is None else provider.base_url + provider.suffix
    url = given.strip().rstrip("/")
    for ending in ("/chat/completions", "/completions", "/embeddings", "/messages"):
        url = url.removesuffix(ending)
    if provider.dialect == "azure":
        return url.partition("/openai")[0]
    if provider.suffix and not url.endswith(provider.suffix):
        url += provider.suffix
    return url
