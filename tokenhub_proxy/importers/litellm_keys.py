"""LiteLLM's virtual keys as the commands that make keys of the same scope."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from tokenhub_proxy.config import values
from tokenhub_proxy.importers import Draft, Fields, Verdict, name_of, report_rest, unused, usd_text

# How LiteLLM writes the periods that we have, by the letters after the number.
_DAYS = {
    "24h": "day",
    "1d": "day",
    "7d": "week",
    "1w": "week",
    "30d": "month",
    "1mo": "month",
    "31d": "month",
}
_ALL_MODELS = frozenset({"all-proxy-models", "all-team-models", "*"})
_NEW_SECRET = "only the digest of its secret is known, and keys begin with sk-th- here: make a new one"  # noqa: S105 - a sentence

# What a row of /key/list tells besides its scope.
_FACTS: dict[str, tuple[Verdict, str]] = {
    **dict.fromkeys(
        ("token", "token_id", "key_name", "created_at", "updated_at", "created_by", "updated_by",
         "budget_reset_at", "last_active", "rotation_count", "object", "key_rotation_at", "last_rotation_at",
         "litellm_budget_table", "object_permission_id", "organization_id", "end_user_id", "key_type"),
        ("unneeded", "a fact about the old key"),
    ),
    "user_id": ("lost", "a key belongs to an account, not to a user"),
    "aliases": ("lost", "other names of models are made in the config, for all keys"),
    "soft_budget": ("lost", "nobody is warned before a quota ends"),
    "model_max_budget": ("lost", "a quota is for all models of a key"),
    "model_rpm_limit": ("lost", "limits are for all models of a key"),
    "model_tpm_limit": ("lost", "limits are for all models of a key"),
    "allowed_routes": ("lost", "every key may call every endpoint of its models"),
    "guardrails": ("lost", "a request is judged by the key's scope alone"),
    "tags": ("lost", "keys have no tags"),
    "metadata": ("lost", "keys have no metadata"),
    "permissions": ("lost", "a key has models, addresses, a quota and limits"),
    "config": ("lost", "there is one config for all keys"),
    "auto_rotate": ("lost", "keys are rotated by `tokenhub-proxy keys rotate`"),
    "rotation_interval": ("lost", "keys are rotated by `tokenhub-proxy keys rotate`"),
}  # fmt: skip


def read_keys(draft: Draft, data: object, source: str, groups: Mapping[str, list[str]], now: float) -> int:
    """Add the commands for all keys of an export; gives how many keys there were.

    `data` is the answer of /key/list?return_full_object=true, of /key/info or /key/generate, or a
    list of such rows. Expired and blocked keys get none.
    """
    rows = _rows(data)
    names: set[str] = set()
    for place, row in enumerate(rows):
        path = f"{source}[{place}]"
        if not isinstance(row, Mapping):
            draft.lost(path, "no scope is told: export with /key/list?return_full_object=true")
            continue
        _key(draft, Fields(row, path), groups, names, now)
    return len(rows)


def _rows(data: object) -> list[Any]:
    if isinstance(data, Mapping):
        for name in ("keys", "data"):
            if isinstance(data.get(name), list):
                return list(data[name])
        info = data.get("info")
        return [info if isinstance(info, Mapping) else data]
    return list(data) if isinstance(data, list) else []


def _key(draft: Draft, fields: Fields, groups: Mapping[str, list[str]], names: set[str], now: float) -> None:
    alias = fields.text("key_alias") or fields.text("key_name") or "imported"
    fields.take("key")
    name = unused(name_of(alias), names)
    if fields.take("blocked"):
        draft.lost(fields.path, f"{alias} is blocked, so no key is made for it")
        return
    words = ["keys", "create", name]
    expires = _expires(draft, fields, now)
    if expires == "":
        draft.unneeded(fields.path, f"{alias} has expired")
        return
    names.add(name)
    team = fields.text("team_id")
    if team is not None:
        account = name_of(fields.text("team_alias") or team)
        draft.accounts.setdefault(account, "unlimited")
        words += ["--account", account]
    models = _models(draft, fields, groups)
    if models:
        words += ["--models", ",".join(models)]
    words += _quota(draft, fields)
    for theirs, ours in (
        ("rpm_limit", "--requests-per-minute"),
        ("tpm_limit", "--tokens-per-minute"),
        ("max_parallel_requests", "--concurrent"),
    ):
        limit = fields.take(theirs)
        if limit is not None and str(limit).isdecimal() and int(limit) > 0:
            words += [ours, str(limit)]
        elif limit is not None:
            draft.lost(fields.at(theirs), "is no limit above zero")
    if expires is not None:
        words += ["--expires", expires]
    draft.command(*words)
    draft.lost(fields.path, f"{alias}: {_NEW_SECRET}")
    report_rest(draft, fields, _FACTS, "no such limit of a key here")


def _models(draft: Draft, fields: Fields, groups: Mapping[str, list[str]]) -> list[str]:
    """The patterns of a key; none are all."""
    given = fields.texts("models")
    if not given or _ALL_MODELS & set(given):
        if "all-team-models" in given:
            draft.lost(fields.at("models"), "the models of its team are not in this file: it may call all")
        return []
    found: list[str] = []
    for model in given:
        found += groups.get(model, [model])
        if model not in groups and model not in draft.models and "*" not in model:
            draft.changed(
                fields.at("models"), f"there is no model {model}; the new key names it all the same"
            )
    return list(dict.fromkeys(found))


def _quota(draft: Draft, fields: Fields) -> list[str]:
    budget, period, spent = fields.take("max_budget"), fields.text("budget_duration"), fields.take("spend")
    if budget is None:
        return []
    try:
        amount = usd_text(Decimal(str(budget)))
        known = Decimal(str(spent or 0))
    except (InvalidOperation, ValueError):
        draft.lost(fields.at("max_budget"), "is no amount in USD")
        return []
    per = "total" if period is None else _DAYS.get(period)
    if per is None:
        draft.lost(
            fields.at("budget_duration"),
            f"there is no quota per {period}: it is for all time until you choose day, week or month",
        )
    elif per != "total":
        draft.changed(fields.at("budget_duration"), f"{period} became a calendar {per} in UTC")
    if known > 0:
        draft.changed(
            fields.at("spend"), f"the {known:f} USD spent so far are not counted against the new quota"
        )
    return ["--quota", f"{amount}/{per or 'total'}"]


def _expires(draft: Draft, fields: Fields, now: float) -> str | None:
    """The time of `expires` or `duration` as an argument; "" where it is over."""
    when, duration = fields.text("expires"), fields.text("duration")
    if when is None:
        if duration is None:
            return None
        if duration.endswith("mo") and duration[:-2].isdecimal():
            return f"{int(duration[:-2]) * 30}d"
        if duration[:-1].isdecimal() and duration[-1:] in ("s", "m", "h", "d"):
            return duration
        draft.lost(fields.at("duration"), "is no duration such as 30d")
        return None
    text = when if when[-1:] in "Zz" or "+" in when[10:] else f"{when}Z"
    try:
        over = values.expires(text) <= now
    except ValueError:
        draft.lost(fields.at("expires"), "is no time")
        return None
    return "" if over else text.replace(" ", "T")
