"""The operator's desk: all orders, what needs a decision, webhooks, codes, and which providers are live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, get_args
from urllib.parse import urlencode

from tokenhub_proxy.dashboard import order_words
from tokenhub_proxy.dashboard.access import Visitor
from tokenhub_proxy.dashboard.asked import Answer, Asked, see_other
from tokenhub_proxy.dashboard.hub import Hub
from tokenhub_proxy.dashboard.top_up_pages import PAGE, order_page, page
from tokenhub_proxy.errors import InvalidRequest, ProxyError, shown
from tokenhub_proxy.ledger.orders import CODES, State

Named = tuple[str, ...]
STATES: tuple[str, ...] = get_args(State)
PROVIDERS = ("yookassa", "cryptopay", "tron", "operator")
FILTERS = ("account", "state", "provider")
REVIEW = "needs_review"


async def desk(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    wanted = {name: asked.query.get(name) or None for name in FILTERS}
    if hub.config().payments is None:
        return page(hub, asked, visitor, "desk.html", taken=False)
    verb = partial(hub.perform, asked=asked, visitor=visitor)
    found = await verb("payments orders", {**wanted, "before": asked.query.get("before")})
    review = await verb("payments orders", {"state": REVIEW})
    return page(
        hub, asked, visitor, "desk.html", taken=True, orders=found, more=len(found) >= PAGE, wanted=wanted,
        states=STATES, providers=(*PROVIDERS, CODES), review=len(review), tested=_tested(hub),
        account=wanted["account"], query=urlencode({name: text for name, text in wanted.items() if text}),
    )  # fmt: skip


def _tested(hub: Hub) -> Sequence[str]:
    """The providers that take play money."""
    settings = hub.config().payments
    return [] if settings is None else [name for name, one in settings.providers.items() if one.test]


# --- what is done by hand

# Which fields of the form each act takes to its verb.
_ACTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "look": ("payments look", ()),
    "complete": ("payments complete", ("note", "payment")),
    "cancel": ("payments cancel", ("note",)),
    "refund": ("payments refund", ("note", "amount")),
    "outside": ("payments refund", ("note", "amount")),
}


async def act(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    """One of the operator's acts on an order. All but a look ask for a reason and for the password."""
    id, name = named[0], asked.field("act")
    try:
        if name not in _ACTS:
            raise InvalidRequest(f"There is no act {shown(name)}.")
        verb, fields = _ACTS[name]
        arguments: dict[str, Any] = {field: asked.field(field) or None for field in fields}
        if arguments.get("amount"):
            arguments["amount"] = arguments["amount"].replace(",", ".")
        if name == "outside":
            arguments["outside"] = True
        if name != "look":
            if not arguments["note"]:
                raise InvalidRequest("Say why; the reason is kept.", param="note")
            await hub.access.confirm(asked, visitor)
        await hub.perform(verb, {"id": id, **arguments}, asked, visitor)
    except ProxyError as error:
        return await order_page(hub, asked, visitor, id, error)
    return see_other(f"/dashboard/orders/{id}?done={name}")


# --- webhooks


async def webhooks(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    return await _webhooks(hub, asked, visitor)


async def _webhooks(
    hub: Hub, asked: Asked, visitor: Visitor, problem: ProxyError | None = None, replayed: Any = None
) -> Answer:
    taken = hub.config().payments is not None
    hooks = await hub.perform("payments webhooks", {}, asked, visitor) if taken else []
    return page(
        hub, asked, visitor, "desk-webhooks.html", hooks=hooks, problem=problem, replayed=replayed,
        verdict=partial(order_words.verdict, hub.pages.words(asked)), tested=_tested(hub),
    )  # fmt: skip


async def replay(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    """A webhook once more: its provider is asked, so nothing but the truth comes of it."""
    try:
        replayed = await hub.perform("payments replay", {"id": named[0]}, asked, visitor)
    except ProxyError as error:
        return await _webhooks(hub, asked, visitor, error)
    return await _webhooks(hub, asked, visitor, replayed=replayed)


# --- codes


async def codes(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    return await _codes(hub, asked, visitor)


async def _codes(
    hub: Hub, asked: Asked, visitor: Visitor, problem: ProxyError | None = None, made: Any = ()
) -> Answer:
    taken = hub.config().payments is not None
    listed = await hub.perform("payments codes list", {}, asked, visitor) if taken else []
    return page(
        hub, asked, visitor, "desk-codes.html", codes=listed, problem=problem, made=made, taken=taken,
        tested=_tested(hub),
    )  # fmt: skip


async def create_codes(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    """New codes, shown in the answer to the form itself, so that no address leads to them again."""
    names = ("amount", "count", "expires", "note")
    arguments: dict[str, Any] = {name: asked.field(name) or None for name in names}
    try:
        await hub.access.confirm(asked, visitor)
        made = await hub.perform("payments codes create", arguments, asked, visitor)
    except ProxyError as error:
        return await _codes(hub, asked, visitor, error)
    return await _codes(hub, asked, visitor, made=made)


# --- settings


async def settings(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    """What the config says of payments. It is changed in the file, where its mistakes are told."""
    loaded = hub.config()
    if loaded.payments is None:
        return page(hub, asked, visitor, "desk-settings.html", taken=False)
    ways = await hub.perform("payments methods", {}, asked, visitor)
    scheme = "https" if asked.secure else "http"
    rows = []
    for name in PROVIDERS:
        provider = loaded.payments.providers.get(name)
        hook = f"{scheme}://{asked.headers.get('Host', '')}/payments/webhooks/{name}"
        rows.append(
            {
                "name": name,
                "mode": "off" if provider is None else "test" if provider.test else "live",
                "ways": [way for way in ways if way["provider"] == name],
                "webhook": hook if provider is not None and provider.capabilities.webhooks else "",
            }
        )
    warnings = [text for text in loaded.warnings if "payments" in text]
    return page(
        hub, asked, visitor, "desk-settings.html", taken=True, rows=rows, warnings=warnings,
        tested=_tested(hub), rate=_rate(loaded.payments), bounds=ways[0] if ways else None,
    )  # fmt: skip


def _rate(settings: Any) -> dict[str, Any]:
    """How a dollar's price in rubles comes about."""
    from tokenhub_proxy.payments.amounts import format_millionths

    fixed = settings.rate_fixed
    return {
        "fixed": None if fixed is None else format_millionths(fixed),
        "url": settings.rate_url or "",
        "markup": format_millionths(100 * settings.markup),
    }
