"""Keys: the list, the form of a scope, and the one time that a secret is shown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tokenhub_proxy import keys
from tokenhub_proxy.dashboard.access import Visitor
from tokenhub_proxy.dashboard.asked import Answer, Asked, see_other
from tokenhub_proxy.dashboard.hub import Hub
from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.keys import Key, Period, Scope
from tokenhub_proxy.ledger import DEFAULT_ACCOUNT, figures
from tokenhub_proxy.ledger.rows import DAY_S
from tokenhub_proxy.prices import format_usd

Named = tuple[str, ...]
RATES = ("requests_per_minute", "tokens_per_minute", "concurrent")
OVERLAPS = ("0s", "1h", "24h", "7d")
MONTH_DAYS = 30


def state_of(key: Key, now: float) -> str:
    """Whether a key works."""
    if key.revoked_at is not None:
        return "revoked"
    expires = key.scope.expires_at
    return "expired" if expires is not None and expires <= now else "active"


def used_of(hub: Hub, key: Key) -> int:
    """What a key used in its present quota window."""
    window = hub.ledger.window(keys.period_name(key.name, key.scope.quota_per, hub.clock()))
    return window.posted


def _next_period(per: Period, now: float) -> float | None:
    """When the next quota window begins; None where there is one for all of time."""
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if per == "day":
        return (day + timedelta(days=1)).timestamp()
    if per == "week":
        return (day + timedelta(days=7 - day.weekday())).timestamp()
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp() if per == "month" else None


async def listed(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    account, now = hub.account(asked, visitor), hub.clock()
    order = {"active": 0, "expired": 1, "revoked": 2}
    today = int(now // DAY_S)
    lately = await figures.keys_used(hub.ledger.reader, account, today - MONTH_DAYS + 1)
    rows = [
        (key, state_of(key, now), used_of(hub, key), *lately.get(key.name, (None, 0)))
        for key in hub.keys(account)
    ]
    rows.sort(key=lambda row: (order[row[1]], row[0].name))
    return hub.page(asked, visitor, "keys.html", rows=rows, account=account)


async def new(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    account, scope = hub.account(asked, visitor), Scope()
    if "clone" in asked.query:
        cloned = hub.key(asked.query["clone"], visitor)
        account, scope = cloned.account, cloned.scope
    return _form(hub, asked, visitor, None, _values(scope), account=account)


async def create(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    account = hub.account(asked, visitor) or DEFAULT_ACCOUNT
    try:
        arguments = {"name": asked.field("name"), "account": account, **_scope(asked)}
        made = await hub.perform("keys create", arguments, asked, visitor)
    except InvalidRequest as error:
        return _form(hub, asked, visitor, None, _typed(asked), problem=error, account=account)
    return _secret(hub, asked, visitor, made)


async def shown_key(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    key = hub.key(named[0], visitor)
    return _form(hub, asked, visitor, key, _values(key.scope), account=key.account)


async def update(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    key = hub.key(named[0], visitor)
    try:
        await hub.perform("keys update", {"name": key.name, **_scope(asked)}, asked, visitor)
    except InvalidRequest as error:
        return _form(hub, asked, visitor, key, _typed(asked), problem=error, account=key.account)
    return see_other(f"/dashboard/keys/{key.name}?saved=1")


async def rotate(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    key = hub.key(named[0], visitor)
    overlap = asked.field("overlap", "0s")
    made = await hub.perform("keys rotate", {"name": key.name, "overlap": overlap}, asked, visitor)
    return _secret(hub, asked, visitor, made)


async def revoke(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    key = hub.key(named[0], visitor)
    await hub.perform("keys revoke", {"name": key.name}, asked, visitor)
    return see_other("/dashboard/keys")


def _secret(hub: Hub, asked: Asked, visitor: Visitor, made: dict[str, Any]) -> Answer:
    """Shown in the answer to the form itself, so that no address leads to it again."""
    key = hub.key(made["name"], visitor)
    model = example_model(hub, key.scope)
    return hub.page(
        asked, visitor, "secret.html", key=key, secret=made["secret"], base_url=base_url(asked), model=model
    )


def example_model(hub: Hub, scope: Scope) -> str:
    """A model that an example may chat with."""
    routes = hub.relay.serving.routes.visible(scope)
    return next((name for name, route in routes.items() if not route.embeddings_only), "demo")


def base_url(asked: Asked) -> str:
    """What clients of this host set as their base URL."""
    return f"{'https' if asked.secure else 'http'}://{asked.headers.get('Host', 'localhost')}/v1"


def _form(
    hub: Hub,
    asked: Asked,
    visitor: Visitor,
    key: Key | None,
    values: dict[str, Any],
    *,
    problem: InvalidRequest | None = None,
    account: str | None,
) -> Answer:
    routes = hub.relay.serving.routes.visible(Scope())
    known = [(name, name in values["models"]) for name in routes]
    # What is no model's name is a pattern; it has a field of its own.
    patterns = [pattern for pattern in values["models"] if pattern not in routes and pattern != "*"]
    page = hub.page(
        asked,
        visitor,
        "key.html",
        key=key,
        state=None if key is None else state_of(key, hub.clock()),
        used=0 if key is None else used_of(hub, key),
        resets=None if key is None else _next_period(key.scope.quota_per, hub.clock()),
        values=values,
        known=known,
        patterns=", ".join(patterns),
        locked_out=_locked_out(values["ips"], asked.address),
        problem=problem,
        account=account,
        overlaps=OVERLAPS,
    )
    if problem is not None:
        page.status = 400
    return page


def _locked_out(ips: Sequence[str], address: str) -> bool:
    """Whether a list leaves out the address that is looking at it."""
    here = keys.parse_address(address)
    if not ips or here is None:
        return False
    try:
        return here not in keys.Networks(ips)
    except ValueError:
        return False


def _values(scope: Scope) -> dict[str, Any]:
    """A scope as the form shows it."""
    expires = scope.expires_at
    return {
        "name": "",
        "any_model": "*" in scope.models,
        "models": list(scope.models),
        "ips": list(scope.ips),
        "quota": "" if scope.quota_nanos is None else format_usd(scope.quota_nanos),
        "per": scope.quota_per if scope.quota_nanos is not None else "month",
        "expires": "" if expires is None else datetime.fromtimestamp(expires, UTC).date().isoformat(),
        **{rate: getattr(scope, rate) or "" for rate in RATES},
    }


def _typed(asked: Asked) -> dict[str, Any]:
    """What was typed, for a form that is shown again."""
    return {
        "name": asked.field("name"),
        "any_model": asked.field("any_model") == "yes",
        "models": _models(asked),
        "ips": asked.field("ips").split(),
        "quota": asked.field("quota"),
        "per": asked.field("per", "month"),
        "expires": asked.field("expires"),
        **{rate: asked.field(rate) for rate in RATES},
    }


def _models(asked: Asked) -> list[str]:
    typed = [part.strip() for part in asked.field("patterns").split(",") if part.strip()]
    return [*asked.fields("models"), *typed]


def _scope(asked: Asked) -> dict[str, Any]:
    """The form as the verbs' arguments: every limit is stated, and an empty one lifted.

    Raises InvalidRequest where no model is chosen, or the list of addresses would lock its maker out.
    """
    models = ["*"] if asked.field("any_model") == "yes" else _models(asked)
    if not models:
        raise InvalidRequest("Choose at least one model, or all of them.", param="models")
    ips = asked.field("ips").replace(",", " ").split()
    if _locked_out(ips, asked.address) and asked.field("locked_out") != "yes":
        raise InvalidRequest("Your own address is not in the list.", param="ips")
    quota, per = asked.field("quota"), asked.field("per", "month")
    return {
        "models": models,
        "ips": ips or "none",
        "quota": f"{quota}/{per}" if quota else "none",
        "expires": asked.field("expires") or "none",
        **{rate: asked.field(rate) or "none" for rate in RATES},
    }
