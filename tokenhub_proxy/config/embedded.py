"""The config of the first minute: what is served where no config file is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenhub_proxy.calls import MODEL_LENGTH_MAX
from tokenhub_proxy.cassettes import Ask
from tokenhub_proxy.config import LEDGER, LISTEN, Config, PriceFor, load
from tokenhub_proxy.routes import Upstream

OLLAMA_URL = "http://127.0.0.1:11434/v1"
# These are public list prices, and prices change: an operator who bills others keeps a file.
PRICES_AS_OF = "2026-06"


@dataclass(frozen=True, slots=True)
class _Offer:
    """One model of a provider: its prices as decimal texts, USD per million tokens, and its limits."""

    model: str
    price: str
    context_length: int
    output_max: int | None = None


@dataclass(frozen=True, slots=True)
class _Provider:
    name: str
    variable: str
    dialect: str
    offers: tuple[_Offer, ...]
    base_url: str | None = None


PROVIDERS = (
    _Provider(
        "openai",
        "OPENAI_API_KEY",
        "openai",
        (
            _Offer("gpt-5.1", "{input: 1.25, cached: 0.125, output: 10.00}", 400_000, 128_000),
            _Offer("gpt-5-mini", "{input: 0.25, cached: 0.025, output: 2.00}", 400_000, 128_000),
            _Offer("gpt-4.1-mini", "{input: 0.40, cached: 0.10, output: 1.60}", 1_047_576, 32_768),
            _Offer("text-embedding-3-small", "{input: 0.02}", 8_191),
        ),
    ),
    _Provider(
        "anthropic",
        "ANTHROPIC_API_KEY",
        "anthropic",
        (
            _Offer(
                "claude-opus-4-5",
                "{input: 5.00, cached: 0.50, cache_write: 6.25, output: 25.00}",
                200_000,
                64_000,
            ),
            _Offer(
                "claude-sonnet-4-5",
                "{input: 3.00, cached: 0.30, cache_write: 3.75, output: 15.00}",
                200_000,
                64_000,
            ),
            _Offer(
                "claude-haiku-4-5",
                "{input: 1.00, cached: 0.10, cache_write: 1.25, output: 5.00}",
                200_000,
                64_000,
            ),
        ),
    ),
    _Provider(
        "gemini",
        "GEMINI_API_KEY",
        "gemini",
        (
            _Offer("gemini-2.5-flash", "{input: 0.30, cached: 0.075, output: 2.50}", 1_048_576, 65_536),
            _Offer("gemini-2.5-flash-lite", "{input: 0.10, cached: 0.025, output: 0.40}", 1_048_576, 65_536),
        ),
    ),
    _Provider(
        "openrouter",
        "OPENROUTER_API_KEY",
        "openai",
        (
            _Offer(
                "anthropic/claude-sonnet-4.5",
                "{input: 3.00, cached: 0.30, cache_write: 3.75, output: 15.00}",
                200_000,
                64_000,
            ),
            _Offer("openai/gpt-4.1-mini", "{input: 0.40, cached: 0.10, output: 1.60}", 1_047_576, 32_768),
        ),
        "https://openrouter.ai/api/v1",
    ),
    _Provider(
        "deepseek",
        "DEEPSEEK_API_KEY",
        "openai",
        (
            _Offer("deepseek-v4-flash", "{input: 0.14, cached: 0.0028, output: 0.28}", 1_000_000, 384_000),
            _Offer("deepseek-v4-pro", "{input: 0.435, cached: 0.003625, output: 0.87}", 1_000_000, 384_000),
        ),
        "https://api.deepseek.com/v1",
    ),
    _Provider(
        "mistral",
        "MISTRAL_API_KEY",
        "openai",
        (
            _Offer("mistral-large-2512", "{input: 0.50, cached: 0.05, output: 1.50}", 262_144, 262_144),
            _Offer("mistral-small-2603", "{input: 0.15, cached: 0.015, output: 0.60}", 262_144, 262_144),
            _Offer("codestral-2508", "{input: 0.30, cached: 0.03, output: 0.90}", 256_000, 256_000),
        ),
        "https://api.mistral.ai/v1",
    ),
    _Provider(
        "groq",
        "GROQ_API_KEY",
        "openai",
        (
            _Offer("llama-3.3-70b-versatile", "{input: 0.59, output: 0.79}", 131_072, 32_768),
            _Offer("llama-3.1-8b-instant", "{input: 0.05, output: 0.08}", 131_072, 131_072),
            _Offer("openai/gpt-oss-120b", "{input: 0.15, output: 0.60}", 131_072, 65_536),
        ),
        "https://api.groq.com/openai/v1",
    ),
)


def embedded(environ: Mapping[str, str], ollama_models: Sequence[str] | None) -> Config:
    """The config without a file: `demo`, the providers whose keys are set, and these Ollama models.

    `ollama_models` is None where no Ollama answers. The ledger's path is relative to the working
    directory.
    """
    return load(
        embedded_text(environ, ollama_models),
        name="(embedded)",
        folder=Path(),
        environ=environ,
        read_file=Path.read_text,
    )


def embedded_text(environ: Mapping[str, str], ollama_models: Sequence[str] | None) -> str:
    """The same as a file that can be saved and changed. Secrets stay in the environment."""
    upstreams = ["  demo: {dialect: demo}  # inside the process: no network, no key"]
    models = ["  demo: {targets: [{upstream: demo}], price: free}"]
    taken = {"demo"}
    for provider in PROVIDERS:
        if not environ.get(provider.variable):
            continue
        url = f", base_url: {provider.base_url}" if provider.base_url else ""
        upstreams.append(
            f"  {provider.name}: {{dialect: {provider.dialect}{url}, api_key: env:{provider.variable}}}"
        )
        for offer in provider.offers:
            taken.add(offer.model)
            models += _model(provider.name, offer)
    local = [name for name in dict.fromkeys(ollama_models or ()) if _usable(name) and name not in taken]
    if local:
        upstreams.append(f"  ollama: {{dialect: openai, base_url: {OLLAMA_URL}}}")
        # JSON's quotes are YAML's too.
        models += (
            f"  {json.dumps(name, ensure_ascii=False)}: {{targets: [{{upstream: ollama}}], price: free}}"
            for name in local
        )
    return "\n".join(
        (
            f"listen: {LISTEN}",
            f"ledger: {LEDGER}",
            "upstreams:",
            *upstreams,
            f"models:  # USD per million tokens, list prices as of {PRICES_AS_OF}",
            *models,
            "",
        )
    )


def replayed(asks: Iterable[Ask], price_for: PriceFor) -> Config:
    """The config without a file where answers come from tape: the models that are on it.

    They have their list price, or are free.
    """
    upstreams: dict[tuple[str, str], str] = {}
    models = {}
    for ask in asks:
        name = upstreams.setdefault((ask.dialect, ask.base_url), f"{ask.dialect}-{len(upstreams) + 1}")
        upstream = Upstream(name, ask.dialect, ask.base_url)
        free = "" if price_for(upstream, ask.upstream_model) is not None else ", price: free"
        target = f"{{upstream: {name}, model: {json.dumps(ask.upstream_model)}}}"
        models[ask.model] = f"  {json.dumps(ask.model)}: {{targets: [{target}]{free}}}"
    rows = [
        f"  {name}: {{dialect: {dialect}{_place(base_url)}}}"
        for (dialect, base_url), name in upstreams.items()
    ]
    text = "\n".join(["upstreams:", *rows, "models:", *models.values(), ""])
    return load(
        text, name="(tapes)", folder=Path(), environ={}, read_file=Path.read_text, price_for=price_for
    )


def _place(base_url: str) -> str:
    """Where an upstream was: nobody is called there, but it decides how it is spoken to."""
    return "" if base_url.endswith("://") else f", base_url: {json.dumps(base_url)}, api_key: none"


def _model(upstream: str, offer: _Offer) -> list[str]:
    lines = [
        f"  {offer.model}:",
        f"    targets: [{{upstream: {upstream}}}]",
        f"    price: {offer.price}",
        f"    context_length: {offer.context_length}",
    ]
    if offer.output_max is not None:
        lines.append(f"    max_output_tokens: {offer.output_max}")
    return lines


def _usable(model: str) -> bool:
    return 0 < len(model) <= MODEL_LENGTH_MAX and model.isprintable() and model == model.strip()
