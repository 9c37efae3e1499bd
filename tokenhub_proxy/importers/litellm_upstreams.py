"""A deployment of LiteLLM's as an upstream: who is asked, where, and with which credential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenhub_proxy.dialects import DIALECTS
from tokenhub_proxy.importers import NO_ADDRESS, Draft, Fields, base_url, variable_of
from tokenhub_proxy.importers.providers import BY_PREFIX, NOT_SPOKEN, Provider, address

REFERENCE = "os.environ/"
# Models that LiteLLM knows without a prefix, by how they begin.
_BARE = {
    "gpt-": "openai", "o1": "openai", "o3": "openai", "o4": "openai", "chatgpt-": "openai",
    "text-embedding-": "openai", "ft:gpt-": "openai", "claude-": "anthropic", "anthropic.": "bedrock",
    "amazon.": "bedrock", "us.anthropic.": "bedrock", "eu.anthropic.": "bedrock",
}  # fmt: skip
# What stands before a model's name in Bedrock's prefixes and is no part of it.
_BEDROCK_ROUTES = ("converse/", "invoke/", "converse_like/")


@dataclass(frozen=True, slots=True)
class Deployment:
    """The upstream of a deployment by its name in the draft, and the model as it is called there."""

    upstream: str
    model: str
    dialect: str
    base_url: str | None
    home: str
    local: bool


def upstream_of(draft: Draft, params: Fields) -> Deployment | None:
    """The upstream of `litellm_params`, made where there is none like it; None after a finding."""
    model = params.text("model") or ""
    prefix, model = _split(params, model)
    provider = BY_PREFIX.get(prefix)
    if provider is None:
        family = "vertex_ai" if prefix.startswith("vertex_ai") else prefix.removesuffix("_chat")
        why = NOT_SPOKEN.get(family, f"no address of {prefix} is known here" if prefix else "")
        draft.lost(params.at("model"), why or "its provider is not said: write it as PROVIDER/MODEL")
        return None
    if prefix == "fireworks_ai" and "/" not in model:
        model = f"accounts/fireworks/models/{model}"
    options: dict[str, Any] = {"dialect": provider.dialect}
    if provider.dialect == "bedrock":
        model = _bedrock(draft, params, options, model)
    else:
        _address(draft, params, options, provider)
        _key(draft, params, options, provider)
    if provider.dialect == "azure":
        _azure_version(draft, params, options)
    _headers(draft, params, options)
    _timeouts(draft, params, options)
    home = DIALECTS[provider.dialect].base_url or ""
    local = provider.local and provider.dialect == "openai"
    name = draft.upstream(provider.name, options)
    return Deployment(name, model, provider.dialect, options.get("base_url"), home, local)


def _split(params: Fields, model: str) -> tuple[str, str]:
    """The provider's prefix, and the model without it."""
    stated = params.text("custom_llm_provider")
    prefix, slash, rest = model.partition("/")
    if stated:
        return stated, rest if slash and prefix == stated else model
    known = prefix in BY_PREFIX or prefix in NOT_SPOKEN or prefix.startswith("vertex_ai")
    if slash and known:
        return prefix, rest
    for start, name in _BARE.items():
        if model.startswith(start):
            return name, model
    return (prefix, rest) if slash else ("", model)


def _resolved(draft: Draft, params: Fields, name: str, placeholder: str) -> str | None:
    """A setting that is no secret: a reference is looked up now, because here it can't be one."""
    text = params.text(name)
    if text is None or not text.startswith(REFERENCE):
        return text
    variable = text.removeprefix(REFERENCE)
    found = draft.environ.get(variable)
    if found:
        draft.changed(params.at(name), f"the value that ${variable} has now was written out")
        return found
    draft.lost(params.at(name), f"${variable} is not set here; {placeholder} was written: put yours there")
    return placeholder


def _address(draft: Draft, params: Fields, options: dict[str, Any], provider: Provider) -> None:
    place = "api_base" if "api_base" in params.names() else "base_url"
    missing = "https://RESOURCE.openai.azure.com" if provider.dialect == "azure" else NO_ADDRESS
    given = _resolved(draft, params, place, missing)
    if given is None and provider.base_url is None and (provider.dialect == "azure" or provider.local):
        draft.lost(params.at("api_base"), f"not given; {missing} was written: put yours there")
        given = missing
    if given and "://" not in given:
        given = f"https://{given}"
    url = address(provider, given)
    if url is not None:
        options["base_url"] = base_url(draft, params.at(place), url)
    params.take("base_url")


def _key(draft: Draft, params: Fields, options: dict[str, Any], provider: Provider) -> None:
    key = params.text("api_key")
    if key is not None:
        if provider.local and not key.startswith(REFERENCE) and len(key) < 16:
            draft.unneeded(params.at("api_key"), "a local server that asks for no key")
            return
        options["api_key"] = credential(draft, params.at("api_key"), key, f"{provider.name}_API_KEY")
    elif provider.variable is not None and not provider.local:
        options["api_key"] = f"env:{provider.variable}"


def credential(draft: Draft, path: str, value: str, variable: str) -> str:
    """A secret: a reference stays one, a literal one is named by a variable."""
    if value.startswith(REFERENCE):
        name = value.removeprefix(REFERENCE)
        if name.isidentifier() and name.isascii():
            return f"env:{name}"
        draft.changed(path, f"the variable is called {variable_of(name)} here: letters, digits and _")
        return f"env:{variable_of(name)}"
    return draft.secret(path, value, variable)


def _azure_version(draft: Draft, params: Fields, options: dict[str, Any]) -> None:
    version = _resolved(draft, params, "api_version", "2024-10-21")
    if version is not None and version not in ("v1", "latest", "preview"):
        options["api_version"] = version
    for name in ("azure_ad_token", "tenant_id", "client_id", "client_secret"):
        if params.take(name) is not None:
            draft.lost(params.at(name), "Azure is asked with an API key only, not with Entra ID")


def _bedrock(draft: Draft, params: Fields, options: dict[str, Any], model: str) -> str:
    for route in _BEDROCK_ROUTES:
        model = model.removeprefix(route)
    region = _resolved(draft, params, "aws_region_name", "us-east-1")
    place, slash, rest = model.partition("/")
    if slash and place.count("-") >= 2 and place.replace("-", "").isalnum() and not place.startswith("arn"):
        region, model = place, rest
    if region is None:
        region = "us-east-1"
        draft.lost(params.at("aws_region_name"), "not given; us-east-1 was written: put yours there")
    options["region"] = region
    endpoint = _resolved(draft, params, "aws_bedrock_runtime_endpoint", NO_ADDRESS)
    if endpoint is not None:
        path = params.at("aws_bedrock_runtime_endpoint")
        options["base_url"] = base_url(draft, path, endpoint.rstrip("/"))
    bearer = params.text("api_key")
    if bearer is not None:
        options["api_key"] = credential(draft, params.at("api_key"), bearer, "AWS_BEARER_TOKEN_BEDROCK")
        return model
    for ours, theirs, variable in (
        ("access_key_id", "aws_access_key_id", "AWS_ACCESS_KEY_ID"),
        ("secret_access_key", "aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
        ("session_token", "aws_session_token", "AWS_SESSION_TOKEN"),
    ):
        given = params.text(theirs)
        if given is not None:
            options[ours] = credential(draft, params.at(theirs), given, variable)
        elif ours != "session_token":
            options[ours] = f"env:{variable}"
    return model


def _headers(draft: Draft, params: Fields, options: dict[str, Any]) -> None:
    headers: dict[str, str] = {}
    for name in ("extra_headers", "headers"):
        given = params.take(name)
        for header, value in (given if isinstance(given, dict) else {}).items():
            text, path = str(value), f"{params.at(name)}.{header}"
            secretive = any(word in header.lower() for word in ("key", "auth", "token", "secret"))
            if text.startswith(REFERENCE) or secretive:
                text = credential(draft, path, text, header)
            headers[str(header)] = text
    organization = params.text("organization")
    if organization is not None:
        path = params.at("organization")
        known = organization.startswith(REFERENCE)
        headers["OpenAI-Organization"] = credential(draft, path, organization, "") if known else organization
    if headers:
        options["headers"] = headers


def _timeouts(draft: Draft, params: Fields, options: dict[str, Any]) -> None:
    timeout, stream = params.text("timeout"), params.text("stream_timeout")
    if timeout is not None:
        if timeout.replace(".", "", 1).isdecimal() and float(timeout) > 0:
            options["timeouts"] = {"first_byte": timeout}
            draft.changed(params.at("timeout"), "became timeouts.first_byte of its upstream, in seconds")
        else:
            draft.lost(params.at("timeout"), "is no number of seconds")
    if stream is not None:
        draft.lost(params.at("stream_timeout"), "streams and plain calls share timeouts.first_byte here")
