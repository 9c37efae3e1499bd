"""LiteLLM's config.yaml: its deployments become upstreams and models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from tokenhub_proxy.dialects import DIALECTS
from tokenhub_proxy.importers import (
    PER_MILLION,
    Draft,
    DraftModel,
    DraftTarget,
    Fields,
    NotReadable,
    dearest,
    nanos,
    priced,
    report_rest,
)
from tokenhub_proxy.importers.litellm_settings import MODEL_INFO, PARAMETERS, read_settings
from tokenhub_proxy.importers.litellm_upstreams import REFERENCE, Deployment, upstream_of
from tokenhub_proxy.importers.providers import BY_PREFIX
from tokenhub_proxy.pricelist import Listed, shipped
from tokenhub_proxy.prices import Price
from tokenhub_proxy.routes import Upstream

COSTS = {
    "input": "input_cost_per_token",
    "cached": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "output": "output_cost_per_token",
}
# Request fields that a deployment may state, and that our `defaults` take.
DEFAULTS = (
    "temperature", "top_p", "max_tokens", "max_completion_tokens", "presence_penalty", "frequency_penalty",
    "stop", "seed", "reasoning_effort", "response_format", "tool_choice", "n", "logit_bias",
    "parallel_tool_calls", "service_tier", "thinking", "verbosity", "dimensions",
)  # fmt: skip
# What clients can call here; the other modes have endpoints that are not served.
SERVED_MODES = frozenset({"chat", "embedding", "responses", "completion"})
WEIGHT_MAX = 1_000_000


@dataclass(slots=True)
class _Member:
    """A deployment as it was read: its target, what it says of price and limits, and its weights."""

    path: str
    target: DraftTarget
    price: Price | None
    price_note: str
    embeddings: bool
    limits: tuple[int | None, int | None]
    weights: Mapping[str, Decimal]
    defaults: Mapping[str, Any]
    description: str | None


def read_config(draft: Draft, data: object) -> dict[str, list[str]]:
    """Read a config into the draft; gives the models of each access group.

    `data` is what `texts.read_yaml` gave. Raises NotReadable where this is no config of LiteLLM's.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("model_list"), list):
        raise NotReadable("is no config of LiteLLM's: it has no model_list")
    top = Fields(data, "")
    draft.named |= set(_variables(data))
    credentials = _credentials(draft, top.take("credential_list"))
    members: dict[str, list[_Member]] = {}
    groups: dict[str, list[str]] = {}
    for place, row in enumerate(top.take("model_list")):
        for name, member in _members(draft, row, f"model_list[{place}]", credentials, groups):
            members.setdefault(name, []).append(member)
    for name, found in members.items():
        draft.models[name] = _model(draft, name, found)
    read_settings(draft, top)
    return groups


def _variables(value: object) -> Iterator[str]:
    """The variables that a config names, and those that a deployment without a key goes by."""
    if isinstance(value, str) and value.startswith(REFERENCE):
        yield value.removeprefix(REFERENCE)
    elif isinstance(value, Mapping):
        provider = BY_PREFIX.get(str(value.get("model", "")).partition("/")[0])
        if provider is not None and provider.variable and not value.get("api_key"):
            yield provider.variable
        for child in value.values():
            yield from _variables(child)
    elif isinstance(value, list):
        for child in value:
            yield from _variables(child)


def _credentials(draft: Draft, given: object) -> dict[str, Mapping[str, Any]]:
    """The values that deployments name by `litellm_credential_name`."""
    found: dict[str, Mapping[str, Any]] = {}
    for place, row in enumerate(given if isinstance(given, list) else ()):
        fields = Fields(row, f"credential_list[{place}]")
        name, value = fields.text("credential_name"), fields.take("credential_values")
        fields.take("credential_info")
        if name and isinstance(value, Mapping):
            found[name] = value
        else:
            draft.lost(fields.path, "a credential needs credential_name and credential_values")
    return found


def _members(
    draft: Draft,
    row: object,
    path: str,
    credentials: Mapping[str, Mapping[str, Any]],
    groups: dict[str, list[str]],
) -> Iterator[tuple[str, _Member]]:
    fields = Fields(row, path)
    name, given, said = (
        fields.text("model_name"),
        fields.take("litellm_params"),
        fields.take("model_info") or {},
    )
    report_rest(draft, fields, {}, "not a setting of a deployment")
    if not name or not isinstance(given, Mapping) or not given.get("model"):
        draft.lost(path, "a deployment needs model_name and litellm_params.model")
        return
    named = given.get("litellm_credential_name")
    if named is not None and str(named) not in credentials:
        draft.lost(
            f"{path}.litellm_params.litellm_credential_name", "there is no such row in credential_list"
        )
    params = Fields({**credentials.get(str(named), {}), **given}, f"{path}.litellm_params")
    params.take("litellm_credential_name")
    info = Fields(said, f"{path}.model_info")
    mode = info.text("mode") or "chat"
    if mode not in SERVED_MODES:
        draft.lost(path, f"its mode is {mode}: only chat completions and embeddings are served")
        return
    deployment = upstream_of(draft, params)
    if deployment is None:
        return
    member = _member(draft, path, deployment, params, info, mode == "embedding")
    for group in info.texts("access_groups"):
        groups.setdefault(group, []).append(name)
    report_rest(draft, params, PARAMETERS, "no such setting here")
    report_rest(draft, info, MODEL_INFO, "no such fact is kept of a model")
    if "*" in name or "*" in deployment.model:
        yield from _wildcard(draft, path, name, member)
    else:
        yield name, member


def _member(
    draft: Draft, path: str, deployment: Deployment, params: Fields, info: Fields, embeddings: bool
) -> _Member:
    listed = _listed(draft, deployment, info)
    price, note = _price(draft, params, info, listed, deployment)
    order = params.text("order")
    limits = _limits(info, listed)
    target = DraftTarget(deployment.upstream, deployment.model)
    if order is not None and order.isdecimal():
        target.priority = max(1, int(order))
    weights = {}
    for metric in ("weight", "rpm", "tpm"):
        number = _decimal(params.take(metric))
        if number is not None and number > 0:
            weights[metric] = number
            if metric != "weight":
                draft.lost(
                    params.at(metric),
                    "limits belong to keys, not to a deployment; it still weighs the choice",
                )
    defaults = {name: value for name in DEFAULTS if (value := params.take(name)) is not None}
    return _Member(
        path, target, price, note, embeddings or (listed is not None and _embeds(listed)), limits, weights,
        defaults, info.text("description"),
    )  # fmt: skip


def _price(
    draft: Draft, params: Fields, info: Fields, listed: Listed | None, deployment: Deployment
) -> tuple[Price | None, str]:
    """What the config says, else the shipped list, else nothing for a local one, else None."""
    found: dict[str, int] = {}
    for ours, theirs in COSTS.items():
        for fields in (info, params):  # what stands in litellm_params counts, where both say something
            given = fields.take(theirs)
            if given is None:
                continue
            number = _decimal(given)
            try:
                if number is None:
                    raise ValueError
                found[ours] = nanos(number * PER_MILLION)
            except ValueError:
                draft.lost(fields.at(theirs), "is no price")
    if "input" in found or "output" in found:
        return priced({"input": 0, **found}), ""
    if listed is not None:
        return listed.price, f"the list price of {listed.as_of}"
    if deployment.local:
        draft.changed(params.path, "a local model without a price: written as free")
        return Price(), ""
    return None, ""


def _listed(draft: Draft, deployment: Deployment, info: Fields) -> Listed | None:
    """The row of the price list, by the name that is called or by `base_model`."""
    names = [deployment.model]
    stated = info.text("base_model")
    if stated:
        names.insert(0, stated.rpartition("/")[2])
    for name in names:
        upstream = Upstream(deployment.upstream, deployment.dialect, deployment.base_url or deployment.home)
        row = draft.price_for(upstream, name)
        if row is not None:
            return row
    return None


def _embeds(listed: Listed) -> bool:
    return bool(listed.price.input and not listed.price.output)


def _limits(info: Fields, listed: Listed | None) -> tuple[int | None, int | None]:
    window = _whole(info.take("max_input_tokens")) or (listed.context_length if listed else None)
    stated, older = _whole(info.take("max_output_tokens")), _whole(info.take("max_tokens"))
    return window, stated or older or (listed.output_max if listed else None)


def _wildcard(draft: Draft, path: str, name: str, member: _Member) -> Iterator[tuple[str, _Member]]:
    """The models of the price list in place of `openai/*`: here every model has a price of its own."""
    pattern, provider = member.target.model, _provider(draft.upstreams[member.target.upstream])
    rows = [
        row
        for row in shipped().rows()
        if row.provider == provider and fnmatchcase(row.model, pattern.lower())
    ]
    if not rows or "*" not in name or "*" not in pattern:
        draft.lost(f"{path}.model_name", f"{name} stands for models that nobody lists; name each of them")
        return
    draft.lost(
        f"{path}.model_name",
        f"{name} was written out as the {len(rows)} models of the price list; any other needs its own entry",
    )
    for row in rows:
        target = DraftTarget(member.target.upstream, row.model, priority=member.target.priority)
        found = replace(
            member, target=target, price=row.price, price_note=f"the list price of {row.as_of}",
            embeddings=_embeds(row), limits=(row.context_length, row.output_max),
        )  # fmt: skip
        yield name.replace("*", row.model), found


def _provider(upstream: Mapping[str, Any]) -> str | None:
    """Whose price list an upstream goes by, where it is one that can be written out."""
    own = {"anthropic": "anthropic", "gemini": "google"}.get(upstream["dialect"])
    url = upstream.get("base_url") or DIALECTS[upstream["dialect"]].base_url or ""
    hosts = {host: provider for provider, host in shipped().hosts.items()}
    return own or hosts.get(urlsplit(url).hostname or "")


# --- deployments of one name


def _model(draft: Draft, name: str, members: list[_Member]) -> DraftModel:
    model = DraftModel(description=next((one.description for one in members if one.description), None))
    _weigh(draft, members)
    for member in members:
        model.targets.append(member.target)
        if member.defaults and member is not members[0] and member.defaults != members[0].defaults:
            draft.lost(
                f"{member.path}.litellm_params",
                f"its request defaults ({', '.join(member.defaults)}) differ from those of the first"
                f" deployment of {name}; a model has one set",
            )
    model.defaults = dict(members[0].defaults)
    set_price(draft, model, name, [(one.path, one.price, one.price_note) for one in members])
    model.embeddings_only = all(one.embeddings for one in members)
    windows, outputs = [one.limits[0] for one in members], [one.limits[1] for one in members]
    model.context_length = min((limit for limit in windows if limit), default=None)
    model.output_max = None if model.embeddings_only else min((x for x in outputs if x), default=None)
    return model


def set_price(draft: Draft, model: DraftModel, name: str, said: list[tuple[str, Price | None, str]]) -> None:
    """Give a model the price of its deployments: the dearest of each class where they differ."""
    known = [price for _, price, _ in said if price is not None]
    for path, price, _ in said:
        if price is None:
            draft.lost(
                path,
                f"no price of {name} is known: neither the file nor the price list has one;"
                f" the model is written as a comment, to be given one",
            )
    if known and len(known) == len(said):
        model.price = dearest(known)
        model.price_note = next((note for _, _, note in said if note), "")
        if len(set(known)) > 1:
            model.price_note = "the dearest of its targets"
            draft.changed(
                f"{said[0][0]}",
                f"the deployments of {name} cost differently: all are sold at the dearest price",
            )


def _weigh(draft: Draft, members: list[_Member]) -> None:
    """The shares that LiteLLM gives: by weight, else by rpm, else by tpm, else equal ones."""
    if len(members) < 2:
        return
    for metric in ("weight", "rpm", "tpm"):
        numbers = [one.weights.get(metric, Decimal(0)) for one in members]
        if not any(numbers):
            continue
        scale = 1 if all(number == int(number) for number in numbers) else 1000
        for member, number in zip(members, numbers, strict=True):
            member.target.weight = min(WEIGHT_MAX, max(1, int(number * scale)))
            if not number:
                draft.changed(
                    member.path, f"has no {metric} beside others that have one: it gets the least share"
                )
        return


def _decimal(given: object) -> Decimal | None:
    try:
        found = Decimal(str(given).replace("_", "")) if given is not None else None
    except InvalidOperation:
        return None
    return found if found is not None and found.is_finite() else None


def _whole(given: object) -> int | None:
    number = _decimal(given)
    return int(number) if number is not None and number >= 1 else None
