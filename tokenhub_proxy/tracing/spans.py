"""A finished exchange in the words of OpenTelemetry's conventions for generative AI; no content."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.prices import Usage, format_usd
from tokenhub_proxy.tracing import Attempt, Trace

Value = str | int | float | bool | tuple[str, ...]

# A model's name may be a client's invention; no attribute needs to be longer.
NAME_LENGTH_MAX = 256
PATHS = {"chat": "/v1/chat/completions", "embeddings": "/v1/embeddings"}
# Providers as the conventions name them: by dialect, and those that speak OpenAI's by their host.
PROVIDERS = {
    "anthropic": "anthropic",
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "demo": "tokenhub.demo",
}
HOSTS = {
    "api.groq.com": "groq",
    "api.deepseek.com": "deepseek",
    "api.mistral.ai": "mistral_ai",
    "api.x.ai": "x_ai",
    "api.perplexity.ai": "perplexity",
}


class Told(NamedTuple):
    """What is kept of an exchange until it is exported: a few hundred bytes, and nothing of its body."""

    trace: Trace
    endpoint: str
    started_at: float
    started_s: float
    ended_s: float
    first_byte_s: float | None
    request_id: str
    key_id: str
    model: str
    stream: bool
    output_max: int | None
    choices: int
    upstream: str
    upstream_model: str
    status: int
    code: str
    usage: Usage
    charge: int
    billing: str


def told(exchange: Exchange, trace: Trace) -> Told:
    """What is worth telling of an exchange."""
    call, error, key = exchange.call, exchange.error, exchange.key
    return Told(
        trace,
        exchange.endpoint,
        exchange.started_at,
        exchange.started_s,
        exchange.ended_s,
        exchange.first_byte_s,
        exchange.id,
        key.id if key is not None else "",
        call.model[:NAME_LENGTH_MAX] if call is not None else "",
        call.stream if call is not None else False,
        call.output_max if call is not None else None,
        call.choices if call is not None else 1,
        exchange.upstream,
        exchange.upstream_model,
        exchange.told_status,
        "client_gone" if exchange.gone else error.code if error is not None else "",
        exchange.usage,
        exchange.charge,
        exchange.billing,
    )


def request_attributes(said: Told) -> dict[str, Value]:
    """Of the span of the whole request. Usage stands here alone, so that nobody adds it up twice."""
    usage = said.usage
    found: dict[str, Value] = {
        "gen_ai.operation.name": said.endpoint,
        "http.request.method": "POST",
        "http.route": PATHS.get(said.endpoint, said.endpoint),
        "http.response.status_code": said.status,
        "tokenhub.request_id": said.request_id,
        "tokenhub.billing": said.billing,
        "tokenhub.cost_usd": format_usd(said.charge),
    }
    if said.model:
        found["gen_ai.request.model"] = said.model
        found["gen_ai.request.stream"] = said.stream
    if said.output_max is not None:
        found["gen_ai.request.max_tokens"] = said.output_max
    if said.choices != 1:
        found["gen_ai.request.choice.count"] = said.choices
    if said.upstream:
        found["tokenhub.upstream"] = said.upstream
    if said.first_byte_s is not None:
        found["gen_ai.response.model"] = said.upstream_model
        found["gen_ai.response.time_to_first_chunk"] = said.first_byte_s - said.started_s
    if usage.total:
        found["gen_ai.usage.input_tokens"] = usage.input_total
        found["gen_ai.usage.output_tokens"] = usage.output
        found["gen_ai.usage.cache_read.input_tokens"] = usage.cached
        found["gen_ai.usage.cache_creation.input_tokens"] = usage.cache_write
        found["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning
    if said.key_id:
        found["tokenhub.key_id"] = said.key_id
    if said.code:
        found["error.type"] = said.code
    return found


def attempt_attributes(attempt: Attempt, endpoint: str) -> dict[str, Value]:
    """Of the span of one request to an upstream."""
    parts = urlsplit(attempt.base_url)
    found: dict[str, Value] = {
        "gen_ai.operation.name": endpoint,
        "gen_ai.provider.name": provider(attempt.dialect, parts.hostname or ""),
        "gen_ai.request.model": attempt.model,
        "http.request.method": "POST",
        "tokenhub.upstream": attempt.upstream,
    }
    if parts.hostname:
        found["server.address"] = parts.hostname
        found["server.port"] = parts.port or (443 if parts.scheme == "https" else 80)
    if attempt.status:
        found["http.response.status_code"] = attempt.status
    if attempt.error:
        found["error.type"] = attempt.error
    return found


def provider(dialect: str, host: str) -> str:
    """Who is asked, as the conventions name it; what speaks OpenAI's format is told as that."""
    return PROVIDERS.get(dialect) or HOSTS.get(host, "openai")
