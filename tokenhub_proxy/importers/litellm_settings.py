"""LiteLLM's other sections: aliases and fallbacks are carried over, the rest is accounted for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

from tokenhub_proxy.importers import Draft, DraftModel, Fields, Verdict, dearest, report_rest

_OBSERVE = "there are no callbacks: see the log, /metrics and docs/observability"
_NO_DATABASE = "all is kept in one SQLite file"
_REDIS = "one process keeps all in memory and one file; nothing is shared over Redis"
_HEALTH = "an upstream that fails is left alone by the circuit breaker, which has no settings"

# What may stand in litellm_params besides what is carried over.
PARAMETERS: dict[str, tuple[Verdict, str]] = {
    "drop_params": ("unneeded", "what a dialect can't say is dropped and named in x-tokenhub-dropped"),
    "max_retries": ("lost", "a target is asked once; the next one is asked where it can't answer"),
    "num_retries": ("lost", "a target is asked once; the next one is asked where it can't answer"),
    "max_parallel_requests": ("lost", "concurrency is limited by key"),
    "tags": ("lost", "there is no routing by tags; keys have models"),
    "aws_profile_name": ("lost", "credentials are named in the config, not in a profile"),
    "aws_role_name": ("lost", "no role is assumed: give an API key or an access key"),
    "aws_session_name": ("lost", "no role is assumed: give an API key or an access key"),
    "mock_response": ("lost", "the dialect demo answers by itself; tests have the pytest fixture"),
    "extra_body": ("lost", "write request fields as the model's defaults"),
    "region_name": ("lost", "only Bedrock's rows have a region"),
}
# What LiteLLM keeps of a model and nobody needs here, because the upstream itself is asked.
_SUPPORTS = (
    "supports_vision", "supports_function_calling", "supports_parallel_function_calling",
    "supports_response_schema", "supports_system_messages", "supports_prompt_caching", "supports_reasoning",
    "supports_audio_input", "supports_audio_output", "supports_pdf_input", "supports_tool_choice",
    "supports_native_streaming", "supports_web_search", "supports_assistant_prefill",
    "supported_openai_params",
)  # fmt: skip
MODEL_INFO: dict[str, tuple[Verdict, str]] = {
    **dict.fromkeys(_SUPPORTS, ("unneeded", "nothing is refused by such a list: the upstream is asked")),
    "id": ("unneeded", "a target has no id"),
    "db_model": ("unneeded", "all models stand in the config"),
    "litellm_provider": ("unneeded", "the upstream's dialect says it"),
    "team_id": ("lost", "a model belongs to nobody; keys have models"),
    "health_check_model": ("unneeded", "calls themselves show whether an upstream works"),
}
_ROUTER: dict[str, tuple[Verdict, str]] = {
    "routing_strategy": ("lost", "targets are chosen by priority and weight, and by nothing else"),
    "routing_strategy_args": ("lost", "targets are chosen by priority and weight, and by nothing else"),
    "context_window_fallbacks": ("lost", "a prompt that is too long gets its upstream's own error"),
    "content_policy_fallbacks": ("lost", "an answer that an upstream refuses is the answer"),
    "num_retries": ("lost", "a target is asked once; the next one is asked where it can't answer"),
    "max_fallbacks": ("unneeded", "every target is asked once at most"),
    "retry_after": ("unneeded", "nothing is asked twice"),
    "retry_policy": ("lost", "a target is asked once; the next one is asked where it can't answer"),
    "allowed_fails": ("lost", _HEALTH),
    "allowed_fails_policy": ("lost", _HEALTH),
    "cooldown_time": ("lost", _HEALTH),
    "disable_cooldowns": ("lost", _HEALTH),
    "enable_pre_call_checks": ("lost", "the length of a prompt is judged by its upstream"),
    "redis_host": ("unneeded", _REDIS),
    "redis_port": ("unneeded", _REDIS),
    "redis_password": ("unneeded", _REDIS),
    "redis_url": ("unneeded", _REDIS),
    "cache_responses": ("lost", "answers are not cached"),
}
_SETTINGS: dict[str, tuple[Verdict, str]] = {
    **_ROUTER,
    "drop_params": PARAMETERS["drop_params"],
    "modify_params": ("lost", "a request is sent as it was meant, or refused"),
    "set_verbose": ("unneeded", "see log in the config"),
    "json_logs": ("unneeded", "the log is JSON where it is no terminal"),
    "telemetry": ("unneeded", "there is none"),
    "callbacks": ("lost", _OBSERVE),
    "success_callback": ("lost", _OBSERVE),
    "failure_callback": ("lost", _OBSERVE),
    "service_callback": ("lost", _OBSERVE),
    "turn_off_message_logging": ("unneeded", "prompts and answers are in no log"),
    "redact_user_api_key_info": ("unneeded", "secrets are in no log"),
    "cache": ("lost", "answers are not cached"),
    "cache_params": ("lost", "answers are not cached"),
    "max_budget": ("lost", "money is limited by account and key: see docs/money"),
    "budget_duration": ("lost", "money is limited by account and key: see docs/money"),
    "default_internal_user_params": ("lost", "accounts have balances, keys have quotas"),
    "upperbound_key_generate_params": ("lost", "keys are made by operators only"),
    "request_timeout": ("lost", "write timeouts in each upstream"),
}
_GENERAL: dict[str, tuple[Verdict, str]] = {
    "master_key": ("lost", "no key may do everything: operators sign in, or have a token (tokens create)"),
    "salt_key": ("unneeded", "only digests of keys are kept"),
    "database_url": ("unneeded", _NO_DATABASE),
    "database_connection_pool_limit": ("unneeded", _NO_DATABASE),
    "database_connection_timeout": ("unneeded", _NO_DATABASE),
    "store_model_in_db": ("lost", "models that were added on LiteLLM's pages are in its database"),
    "disable_spend_logs": ("unneeded", "the ledger keeps every entry"),
    "alerting": ("lost", "alerts belong to whoever reads /metrics"),
    "proxy_batch_write_at": ("unneeded", "every call is booked before its answer ends"),
    "background_health_checks": ("unneeded", "calls themselves show whether an upstream works"),
    "health_check_interval": ("unneeded", "calls themselves show whether an upstream works"),
    "custom_auth": ("lost", "clients have keys; there is no other way in"),
    "max_parallel_requests": ("lost", "concurrency is limited by key"),
    "allowed_ips": ("lost", "addresses are limited by key: keys create --ips"),
    "ui_access_mode": ("lost", "the dashboard is for operators and for owners of accounts"),
}  # fmt: skip
_TOP: dict[str, tuple[Verdict, str]] = {
    "environment_variables": ("lost", "set them where the proxy is started"),
    "include": ("lost", "other files are not read: put them into one file first"),
    "callback_settings": ("lost", _OBSERVE),
    "guardrails": ("lost", "a request is judged by the key's scope alone"),
    "mcp_servers": ("lost", "MCP is not served"),
    "finetune_settings": ("lost", "fine-tuning is not served"),
    "files_settings": ("lost", "files are not served"),
}
_OTHER = "there is nothing like it here"


def read_settings(draft: Draft, top: Fields) -> None:
    """Read all sections but the deployments, whose models are in the draft already."""
    router = Fields(top.take("router_settings"), "router_settings")
    settings = Fields(top.take("litellm_settings"), "litellm_settings")
    general = Fields(top.take("general_settings"), "general_settings")
    plain = {name: deepcopy(model) for name, model in draft.models.items()}
    for fields in (settings, router):
        _request_timeout(draft, fields, "request_timeout" if fields is settings else "timeout")
    fallbacks = dict(_fallbacks(draft, settings)) | dict(_fallbacks(draft, router))
    _apply(draft, plain, fallbacks)
    for fields in (router, settings):
        _aliases(draft, fields)
    report_rest(draft, router, _ROUTER, _OTHER)
    report_rest(draft, settings, _SETTINGS, _OTHER)
    report_rest(draft, general, _GENERAL, _OTHER)
    report_rest(draft, top, _TOP, _OTHER)


def _request_timeout(draft: Draft, fields: Fields, name: str) -> None:
    given = fields.text(name)
    if given is None:
        return
    if not given.replace(".", "", 1).isdecimal() or float(given) <= 0:
        draft.lost(fields.at(name), "is no number of seconds")
        return
    for options in draft.upstreams.values():
        options.setdefault("timeouts", {"first_byte": given})
    draft.changed(fields.at(name), "became timeouts.first_byte of every upstream without one, in seconds")


def _fallbacks(draft: Draft, fields: Fields) -> Iterator[tuple[str, tuple[str, list[str]]]]:
    """For each model, its path and the models that stand in for it; `*` is for all others."""
    given = fields.take("fallbacks")
    for place, row in enumerate(given if isinstance(given, list) else ()):
        path = f"{fields.at('fallbacks')}[{place}]"
        if not isinstance(row, Mapping):
            draft.lost(path, "must be a mapping of a model to a list of models")
            continue
        for name, names in row.items():
            plain = [str(one) for one in names if isinstance(one, str)] if isinstance(names, list) else []
            if not isinstance(names, list) or len(plain) < len(names):
                draft.lost(f"{path}.{name}", "only names of models stand in for a model")
            yield str(name), (f"{path}.{name}", plain)
    names = fields.take("default_fallbacks")
    if isinstance(names, list) and names:
        yield "*", (fields.at("default_fallbacks"), [str(one) for one in names])


def _apply(
    draft: Draft, plain: Mapping[str, DraftModel], fallbacks: Mapping[str, tuple[str, list[str]]]
) -> None:
    for name in fallbacks.keys() - plain.keys() - {"*"}:
        draft.lost(fallbacks[name][0], f"there is no model {name}")
    for name, model in draft.models.items():
        path, names = fallbacks.get(name) or fallbacks.get("*") or ("", [])
        prices = [model.price]
        for other in dict.fromkeys(names):
            if other == name:
                continue
            if other not in plain:
                draft.lost(path, f"there is no model {other} to stand in for {name}")
                continue
            _append(model, plain[other])
            prices.append(plain[other].price)
        _reprice(draft, name, model, prices, path)


def _append(model: DraftModel, other: DraftModel) -> None:
    """The other's targets come after all that are there, in their own order."""
    last = max((target.priority for target in model.targets), default=0)
    first = min((target.priority for target in other.targets), default=1)
    known = {(target.upstream, target.model) for target in model.targets}
    for target in other.targets:
        if (target.upstream, target.model) not in known:
            model.targets.append(replace(target, priority=target.priority - first + last + 1))
    # A limit is kept by every target, or it is none.
    windows = [limit for limit in (model.context_length, other.context_length) if limit]
    outputs = [limit for limit in (model.output_max, other.output_max) if limit]
    model.context_length, model.output_max = min(windows, default=None), min(outputs, default=None)


def _reprice(draft: Draft, name: str, model: DraftModel, prices: list[Any], path: str) -> None:
    if len(prices) < 2:
        return
    if None in prices:
        if model.price is not None:
            draft.lost(path, f"{name} has a fallback without a price, so its own price is not known either")
        model.price = None
    elif len(set(prices)) > 1:
        model.price, model.price_note = dearest(prices), "the dearest of its targets"
        draft.changed(path, f"{name} has one price whoever answers: the dearest of its targets")


def _aliases(draft: Draft, fields: Fields) -> None:
    """Other names of models. LiteLLM resolves them before fallbacks, so they get the same targets."""
    for option in ("model_group_alias", "model_alias_map"):
        given = fields.take(option)
        for name, target in (given if isinstance(given, Mapping) else {}).items():
            path = f"{fields.at(option)}.{name}"
            if isinstance(target, Mapping):
                if target.get("hidden"):
                    draft.lost(f"{path}.hidden", "/v1/models shows all that a key may call")
                target = target.get("model")
            if str(target) not in draft.models:
                draft.lost(path, f"there is no model {target}")
            elif str(name) in draft.models:
                draft.lost(path, f"there is a model {name} besides, and a name stands once")
            else:
                draft.models[str(name)] = deepcopy(draft.models[str(target)])
                draft.models[str(name)].description = f"another name of {target}"
