"""The tables of one-api and new-api: channels become upstreams and models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenhub_proxy.dialects import DIALECTS
from tokenhub_proxy.importers import (
    Draft,
    DraftModel,
    DraftTarget,
    Fields,
    NotReadable,
    Verdict,
    base_url,
    report_rest,
)
from tokenhub_proxy.importers.one_api_prices import Ratios, read_ratios
from tokenhub_proxy.importers.one_api_tokens import read_tokens
from tokenhub_proxy.importers.providers import NEW_API_TYPES, ONE_API_TYPES, Provider, address
from tokenhub_proxy.pricelist import Listed
from tokenhub_proxy.routes import Upstream

ENABLED = 1
TABLES = ("channels", "tokens", "users", "options")
# Columns that only new-api has; below type 26 the two agree.
_NEW_API_COLUMNS = frozenset({"channel_info", "setting", "settings", "auto_ban", "tag", "param_override"})

_CHANNEL: dict[str, tuple[Verdict, str]] = {
    **dict.fromkeys(
        ("id", "created_time", "test_time", "response_time", "balance", "balance_updated_time", "used_quota",
         "test_model", "tag", "remark", "other_info", "channel_info", "used_count", "tested_time",
         "model_test",         "auto_ban", "max_input_tokens"),
        ("unneeded", "a fact about the old channel"),
    ),
    "system_prompt": ("lost", "messages are the client's own"),
    "param_override": ("lost", "request fields are added as a model's defaults, where the client sends none"),
    "status_code_mapping": ("lost", "errors are told as the contract promises them"),
    "setting": ("lost", "see proxy, quirks and defaults in docs/config"),
    "settings": ("lost", "see proxy, quirks and defaults in docs/config"),
    "plugin": ("lost", "there are no plugins"),
    "rate_limited": ("lost", "limits belong to keys"),
    "ratelimit": ("lost", "limits belong to keys"),
}  # fmt: skip


@dataclass(slots=True)
class _Offer:
    """A model of a channel: who is asked, as what, and for which groups."""

    path: str
    channel: str
    upstream: str
    listed: Listed | None
    model: str
    weight: int
    priority: int
    groups: frozenset[str] = field(default_factory=frozenset)


def read_tables(draft: Draft, tables: Mapping[str, list[Any]], now: float) -> str:
    """Read the tables of a database or of an export into the draft; gives which of the two it was.

    Raises NotReadable where there are no channels.
    """
    channels = [row for row in tables.get("channels", ()) if isinstance(row, Mapping)]
    if not channels:
        raise NotReadable("holds no channels of one-api or new-api")
    is_new = any(_NEW_API_COLUMNS & row.keys() for row in channels)
    types = NEW_API_TYPES if is_new else ONE_API_TYPES
    ratios = read_ratios(draft, tables.get("options", ()))
    offers: dict[str, list[_Offer]] = {}
    for place, row in enumerate(channels):
        for name, offer in _channel(draft, Fields(row, f"channels[{place}]"), types):
            offers.setdefault(name, []).append(offer)
    for name, found in offers.items():
        draft.models[name] = _model(draft, name, found, ratios)
    groups = _groups(draft, offers)
    read_tokens(draft, tables.get("tokens", ()), tables.get("users", ()), groups, ratios, now)
    return "new-api" if is_new else "one-api"


def tables_of(data: object) -> dict[str, list[Any]]:
    """The tables in JSON: an object of them, or one answer of the API. Raises NotReadable."""
    if isinstance(data, Mapping) and any(isinstance(data.get(name), list) for name in TABLES):
        return {name: list(data[name]) for name in TABLES if isinstance(data.get(name), list)}
    if isinstance(data, Mapping) and "data" in data:
        data = data["data"]
    if isinstance(data, Mapping):
        data = data.get("items", data.get("channels", [data]))
    rows = [row for row in data if isinstance(row, Mapping)] if isinstance(data, list) else []
    if not rows:
        raise NotReadable("holds no rows of one-api or new-api")
    first = rows[0]
    for name, column in (("tokens", "remain_quota"), ("users", "username"), ("channels", "models")):
        if column in first:
            return {name: rows}
    if "key" in first and "value" in first:
        return {"options": rows}
    raise NotReadable("its rows are neither channels, tokens, users nor options")


def _channel(draft: Draft, fields: Fields, types: Mapping[int, Provider]) -> Iterable[tuple[str, _Offer]]:
    label = fields.text("name") or fields.path
    number, status = _whole(fields.take("type")), _whole(fields.take("status"))
    names = _listed_names(fields.take("models"))
    if status is not None and status != ENABLED:
        draft.lost(fields.path, f"the channel {label} is switched off, so it was left out")
        return
    provider = types.get(number or 0)
    if provider is None:
        draft.lost(fields.path, f"the channel {label} has the type {number}, which is not spoken here")
        return
    mapping = _object(draft, fields, "model_mapping")
    options = _options(draft, fields, provider, label)
    upstream = draft.upstream(label if label != fields.path else provider.name, options)
    groups = frozenset(_listed_names(fields.take("group")) or ("default",))
    weight, priority = _whole(fields.take("weight")) or 0, _whole(fields.take("priority")) or 0
    home = Upstream(
        upstream,
        provider.dialect,
        options.get("base_url") or DIALECTS[provider.dialect].base_url or "",
    )
    if not names:
        draft.lost(fields.at("models"), f"the channel {label} names no models")
    for name in dict.fromkeys(names):
        theirs = str(mapping.pop(name, name))
        yield (
            name,
            _Offer(
                fields.path, label, upstream, draft.price_for(home, theirs), theirs, max(1, weight), priority,
                groups,
            ),
        )  # fmt: skip
    for name in mapping:
        draft.unneeded(f"{fields.at('model_mapping')}.{name}", "the channel does not serve this model")
    report_rest(draft, fields, _CHANNEL, "there is nothing like it here")


def _options(draft: Draft, fields: Fields, provider: Provider, label: str) -> dict[str, Any]:
    options: dict[str, Any] = {"dialect": provider.dialect}
    given, config = fields.text("base_url"), _object(draft, fields, "config")
    other = fields.text("other")
    if provider.dialect == "bedrock":
        _bedrock(draft, fields, config, options)
        return options
    if provider.dialect == "azure" and not given:
        draft.lost(fields.at("base_url"), "not given; a placeholder was written: put yours there")
        given = "https://RESOURCE.openai.azure.com"
    url = address(provider, given)
    if url is not None and url != DIALECTS[provider.dialect].base_url:
        options["base_url"] = base_url(draft, fields.at("base_url"), url)
    keys = [key for key in (fields.text("key") or "").splitlines() if key.strip()]
    variable = f"{label}_API_KEY"
    secrets = [draft.secret(fields.at("key"), key.strip(), variable) for key in keys]
    if not secrets and provider.name != "ollama":
        draft.changed(
            fields.at("key"), f"the export holds no key of the channel {label}: set a variable to it"
        )
        secrets = [draft.secret(fields.at("key"), f"(of the channel {label})", variable)]
    if secrets:
        options["api_key"] = secrets[0] if len(secrets) == 1 else secrets
    version = config.pop("api_version", None) or (other if provider.dialect == "azure" else None)
    if version and provider.dialect == "azure":
        options["api_version"] = str(version)
    elif other:
        draft.lost(fields.at("other"), "it means something else for every type of channel")
    _headers(draft, fields, options)
    for name, value in config.items():
        if value:
            draft.lost(f"{fields.at('config')}.{name}", "there is nothing like it here")
    return options


def _headers(draft: Draft, fields: Fields, options: dict[str, Any]) -> None:
    headers: dict[str, str] = {}
    for option in ("header_override", "headers"):
        for name, value in _object(draft, fields, option).items():
            if "{" in str(value):
                draft.lost(f"{fields.at(option)}.{name}", "nothing is put into headers at run time")
            elif any(word in name.lower() for word in ("key", "auth", "token", "secret")):
                headers[name] = draft.secret(f"{fields.at(option)}.{name}", str(value), name)
            else:
                headers[name] = str(value)
    organization = fields.text("openai_organization")
    if organization:
        headers["OpenAI-Organization"] = organization
    if headers:
        options["headers"] = headers


def _bedrock(draft: Draft, fields: Fields, config: dict[str, Any], options: dict[str, Any]) -> None:
    """one-api keeps region, ak and sk in `config`; new-api writes AK|SK|REGION, or KEY|REGION, as the key."""
    parts = [part.strip() for part in (fields.text("key") or "").split("|")]
    if config.get("ak"):
        parts = [str(config.pop(name, "") or "") for name in ("ak", "sk", "region")]
    if len(parts) < 2:
        draft.lost(fields.at("key"), "neither AK|SK|REGION nor KEY|REGION; variables were written")
        parts = ["", "", "us-east-1"]
    options["region"] = parts[-1] or "us-east-1"
    path = fields.at("key")
    if len(parts) == 2:
        options["api_key"] = draft.secret(path, parts[0], "AWS_BEARER_TOKEN_BEDROCK")
    else:
        for name, variable, value in (
            ("access_key_id", "AWS_ACCESS_KEY_ID", parts[0]),
            ("secret_access_key", "AWS_SECRET_ACCESS_KEY", parts[1]),
        ):
            options[name] = draft.secret(path, value, variable) if value else f"env:{variable}"


def _model(draft: Draft, name: str, offers: list[_Offer], ratios: Ratios) -> DraftModel:
    ranks = {
        priority: rank
        for rank, priority in enumerate(sorted({one.priority for one in offers}, reverse=True), 1)
    }
    model = DraftModel(
        [DraftTarget(one.upstream, one.model, one.weight, ranks[one.priority]) for one in offers]
    )
    rows = [one.listed for one in offers]
    known = [row for row in rows if row is not None]
    if len(known) == len(rows):
        windows, outputs = [row.context_length for row in known], [row.output_max for row in known]
        model.context_length = min((limit for limit in windows if limit), default=None)
        model.output_max = min((limit for limit in outputs if limit), default=None)
    ratios.give(draft, model, name, offers[0].path, rows)
    return model


def _groups(draft: Draft, offers: Mapping[str, list[_Offer]]) -> dict[str, list[str]]:
    """The models of each group; what one model is for different groups can't be told apart here."""
    found: dict[str, list[str]] = {}
    for name, given in offers.items():
        if len({one.groups for one in given}) > 1:
            draft.lost(
                given[0].path,
                f"channels of {name} are for different groups; now all of them serve whoever may call",
            )
        for group in dict.fromkeys(group for one in given for group in sorted(one.groups)):
            found.setdefault(group, []).append(name)
    return found


def _object(draft: Draft, fields: Fields, name: str) -> dict[str, Any]:
    """A column that holds JSON."""
    given = fields.take(name)
    if isinstance(given, Mapping):
        return dict(given)
    if given is None or not str(given).strip():
        return {}
    try:
        found = json.loads(str(given), parse_float=str)
    except (json.JSONDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        draft.lost(fields.at(name), "is no JSON object")
        return {}
    return found


def _listed_names(given: object) -> list[str]:
    return [name.strip() for name in str(given or "").split(",") if name.strip()]


def _whole(given: object) -> int | None:
    text = str(given)
    return int(text) if text.removeprefix("-").isdecimal() else None
