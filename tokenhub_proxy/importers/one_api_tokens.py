"""one-api's users and tokens as accounts with a balance, and the commands that make their keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from tokenhub_proxy.config import values
from tokenhub_proxy.importers import Draft, Fields, Verdict, name_of, report_rest, unused, usd_text
from tokenhub_proxy.importers.one_api_prices import Ratios

ENABLED = 1
NEVER = "-1"
YEAR_10000_S = 253_402_300_800
_NEW_SECRET = "keys begin with sk-th- here: its clients get a new one"  # noqa: S105 - a sentence
_AUTO = ("", "auto", "default")

_TOKEN: dict[str, tuple[Verdict, str]] = {
    **dict.fromkeys(
        ("id", "uuid", "user_uuid", "created_time", "accessed_time", "created_at", "updated_at", "used_quota",
         "DeletedAt", "deleted_at", "cross_group_retry", "billing_type"),
        ("unneeded", "a fact about the old token"),
    ),
}  # fmt: skip
_USER: dict[str, tuple[Verdict, str]] = {
    **dict.fromkeys(
        ("id", "display_name", "password", "access_token", "verification_code", "used_quota", "request_count",
         "aff_code", "aff_count", "aff_quota", "aff_history", "inviter_id", "last_login_time", "created_time",
         "created_at", "last_login_at", "DeletedAt", "deleted_at", "remark", "stripe_customer"),
        ("unneeded", "people sign in anew: `tokenhub-proxy users invite NAME --account ACCOUNT`"),
    ),
    "setting": ("lost", "people have no settings of their own"),
}  # fmt: skip


def read_tokens(
    draft: Draft,
    tokens: Iterable[Any],
    users: Iterable[Any],
    groups: Mapping[str, list[str]],
    ratios: Ratios,
    now: float,
) -> None:
    """Add an account and its balance for each user, and a key for each token that still works."""
    accounts, in_group = _accounts(draft, users, ratios)
    names: set[str] = set()
    for place, row in enumerate(tokens):
        fields = Fields(row, f"tokens[{place}]")
        _token(draft, fields, accounts, in_group, groups, ratios, names, now)


def _accounts(draft: Draft, users: Iterable[Any], ratios: Ratios) -> tuple[dict[str, str], dict[str, str]]:
    """The account and the group of each user, by id."""
    accounts: dict[str, str] = {}
    in_group: dict[str, str] = {}
    for place, row in enumerate(users):
        fields = Fields(row, f"users[{place}]")
        number, label = str(fields.take("id")), fields.text("username") or f"user-{place}"
        in_group[number] = fields.text("group") or "default"
        if str(fields.take("status") or ENABLED) != str(ENABLED):
            draft.lost(fields.path, f"the user {label} is blocked, so no account is made")
            continue
        account = unused(name_of(label), draft.accounts)
        draft.accounts[account], accounts[number] = "prepaid", account
        fields.take("role")
        balance = ratios.usd(fields.take("quota") or 0)
        if balance is not None and balance > 0:
            draft.command("accounts", "credit", account, usd_text(balance), "--note", "carried over")
        elif balance is None or balance < 0:
            draft.lost(fields.at("quota"), f"the account {account} begins at 0: a balance is never negative")
        for name in fields.names():
            if (name.endswith("_id") or name == "email") and fields.take(name):
                draft.unneeded(
                    fields.at(name), "people sign in anew, with a link: `tokenhub-proxy users invite`"
                )
        report_rest(draft, fields, _USER, "people have nothing like it here")
    return accounts, in_group


def _token(
    draft: Draft,
    fields: Fields,
    accounts: Mapping[str, str],
    in_group: Mapping[str, str],
    groups: Mapping[str, list[str]],
    ratios: Ratios,
    names: set[str],
    now: float,
) -> None:
    label = fields.text("name") or fields.path
    user, status = str(fields.take("user_id")), str(fields.take("status") or ENABLED)
    fields.take("key")
    expires = str(fields.take("expired_time") or NEVER)
    if status != str(ENABLED) or (expires != NEVER and expires.isdecimal() and int(expires) <= now):
        draft.unneeded(fields.path, f"the token {label} is switched off, used up or expired")
        return
    if accounts and user not in accounts:
        draft.lost(fields.path, f"the token {label} belongs to no user who is carried over")
        return
    account = accounts.get(user)
    name = unused(name_of(f"{account}-{label}" if account and label != account else label), names)
    names.add(name)
    words = ["keys", "create", name]
    if account:
        words += ["--account", account]
    models = _models(draft, fields, fields.text("group") or in_group.get(user, "default"), groups)
    if models:
        words += ["--models", ",".join(models)]
    words += _networks(draft, fields)
    unlimited, left = fields.take("unlimited_quota"), ratios.usd(fields.take("remain_quota") or 0)
    if not unlimited or str(unlimited) in ("0", "false"):
        words += ["--quota", f"{usd_text(left) if left is not None and left > 0 else '0.00'}/total"]
    if expires != NEVER and not (expires.isdecimal() and int(expires) < YEAR_10000_S):
        draft.lost(fields.at("expired_time"), "is no time; the new key does not expire")
    elif expires != NEVER:
        words += ["--expires", f"{datetime.fromtimestamp(int(expires), UTC):%Y-%m-%dT%H:%M:%SZ}"]
    draft.command(*words)
    draft.lost(fields.path, f"{label}: {_NEW_SECRET}")
    report_rest(draft, fields, _TOKEN, "no such limit of a key here")


def _models(draft: Draft, fields: Fields, group: str, groups: Mapping[str, list[str]]) -> list[str]:
    """The models that a token names, else those of its group; none are all."""
    named = fields.text("models") or fields.text("model_limits") or ""
    switched = fields.take("model_limits_enabled")
    if switched is not None and str(switched) in ("0", "false", "False"):
        named = ""
    given = [name.strip() for name in named.split(",") if name.strip()]
    theirs = groups.get(group, [])
    if given:
        found = [name for name in given if name in theirs or not theirs]
        if len(found) < len(given):
            draft.changed(
                fields.at("models"), f"models that no channel of the group {group} serves were left out"
            )
        return found or given
    if group not in groups and group not in _AUTO:
        draft.lost(fields.at("group"), f"no channel is for the group {group}; its key may call all models")
    return theirs if theirs and len(theirs) < len(draft.models) else []


def _networks(draft: Draft, fields: Fields) -> list[str]:
    """The addresses of `subnet` (one-api) or `allow_ips` (new-api)."""
    given = fields.text("subnet") or fields.text("allow_ips") or ""
    found = []
    for part in given.replace("\n", ",").split(","):
        if not part.strip():
            continue
        try:
            found.append(values.network(part.strip()))
        except ValueError as error:
            draft.lost(fields.path, f"an address of its list {error}; the key is made without it")
    return ["--ips", ",".join(found)] if found else []
