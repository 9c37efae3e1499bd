"""An owner's pages of payments: choosing a sum and a way, the order that waits for its truth, codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tokenhub_proxy.dashboard import order_words
from tokenhub_proxy.dashboard.access import Visitor
from tokenhub_proxy.dashboard.asked import Answer, Asked, see_other
from tokenhub_proxy.dashboard.hub import Hub
from tokenhub_proxy.dashboard.qr import drawing
from tokenhub_proxy.errors import InvalidRequest, ProxyError
from tokenhub_proxy.ledger import DEFAULT_ACCOUNT
from tokenhub_proxy.prices import parse_usd

Named = tuple[str, ...]
Object = Mapping[str, Any]
# Sums that are offered, in USD, where they are within the operator's bounds.
PRESETS = ("5", "10", "25", "50", "100", "250")
PRESET = "10"
OTHER = "other"
# Where the page of a form is; tastes lead back there.
FORMS = {
    "top-up.html": "/dashboard/top-up",
    "order.html": "/dashboard/orders/{id}",
    "desk-webhooks.html": "/dashboard/desk/webhooks",
    "desk-codes.html": "/dashboard/desk/codes",
}
# A page of the verbs has so many.
PAGE = 100


def account_of(hub: Hub, asked: Asked, visitor: Visitor) -> str:
    """Whose balance is topped up."""
    return hub.account(asked, visitor) or DEFAULT_ACCOUNT


def page(hub: Hub, asked: Asked, visitor: Visitor, template: str, **known: Any) -> Answer:
    """A page with the words that templates of payments need."""
    t = hub.pages.words(asked)
    problem = known.get("problem")
    if asked.method == "POST":
        # The page that a form shows again is under another path than the form's own.
        known.setdefault("here", FORMS[template].format(id=(*asked.path.split("/"), "")[3]))
    found = hub.page(
        asked, visitor, template, money=partial(order_words.money, t), at=order_words.moment,
        step=partial(order_words.step, t), differs=partial(order_words.difference, t), **known,
    )  # fmt: skip
    if isinstance(problem, ProxyError):
        found.status = problem.http_status
        found.headers.update(problem.headers())
    return found


# --- a sum and a way


async def top_up(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    return await _top_up(hub, asked, visitor, asked.query, None)


async def quote_panel(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    """The part of the page that changes with what is chosen."""
    ways = await _ways(hub, asked, visitor)
    known = await _chosen(hub, asked, visitor, ways, asked.query)
    return page(hub, asked, visitor, "top-up-quote.html", **known)


async def _top_up(
    hub: Hub, asked: Asked, visitor: Visitor, given: Mapping[str, str], problem: ProxyError | None
) -> Answer:
    taken = hub.config().payments is not None
    ways = await _ways(hub, asked, visitor) if taken else []
    known = await _chosen(hub, asked, visitor, ways, given)
    return page(hub, asked, visitor, "top-up.html", ways=ways, taken=taken, problem=problem, **known)


async def _ways(hub: Hub, asked: Asked, visitor: Visitor) -> Sequence[Object]:
    """Every way to pay; one that nobody has set up is none."""
    found: Sequence[Object] = await hub.perform("payments methods", {}, asked, visitor)
    return found


async def _chosen(
    hub: Hub, asked: Asked, visitor: Visitor, ways: Sequence[Object], given: Mapping[str, str]
) -> dict[str, Any]:
    """What is chosen and what it costs, or why that can't be told."""
    t, account = hub.pages.words(asked), account_of(hub, asked, visitor)
    known: dict[str, Any] = {"account": account, "way": None, "price": None, "refusal": None, "presets": ()}
    if not ways:
        return {**known, "preset": "", "typed": "", "amount": ""}
    way = next((one for one in ways if way_name(one) == given.get("way")), ways[0])
    least, most = way["minimum_usd"], way["maximum_usd"]
    presets = [each for each in PRESETS if parse_usd(least) <= parse_usd(each) <= parse_usd(most)]
    preset = given.get("preset") or (PRESET if PRESET in presets else (presets or [OTHER])[0])
    typed = given.get("amount", "").strip().replace(",", ".").lstrip("$")
    amount = typed if preset == OTHER else preset
    known |= {"way": way, "presets": presets, "preset": preset, "typed": typed, "amount": amount}
    bounds = {"least": order_words.money(t, least, "USD"), "most": order_words.money(t, most, "USD")}
    known["bounds"] = t("top_up.bounds", **bounds)
    if not amount:
        return known
    try:
        arguments = {"amount": amount, "provider": way["provider"]}
        known["price"] = await hub.perform("payments quote", arguments, asked, visitor)
    except InvalidRequest:
        known["refusal"] = t("top_up.out_of_bounds", **bounds)
    except ProxyError as error:
        known["refusal"] = t.error(error.code, error.message)
    return known


def way_name(way: Object) -> str:
    """How a form names a way to pay."""
    return f"{way['provider']}.{way['method']}"


async def create(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    """The order, made at the price that was shown; its own page leads on to the provider.

    Not a redirect to the provider: a form that leaves this host is what `form-action 'self'` forbids,
    and the order's page is where one comes back to.
    """
    provider, _, method = asked.field("way").partition(".")
    arguments = {
        "account": account_of(hub, asked, visitor),
        "amount": asked.field("amount"),
        "provider": provider,
        "method": method or None,
        "customer": asked.field("customer"),
        "agreed": asked.field("agreed"),
    }
    try:
        order = await hub.perform("payments create", arguments, asked, visitor)
    except ProxyError as error:
        given = {name: asked.field(name) for name in ("way", "amount")} | {"preset": OTHER}
        return await _top_up(hub, asked, visitor, given, error)
    going = "?go=1" if order_words.page_to_pay(order) else ""
    return see_other(f"/dashboard/orders/{order['id']}{going}")


# --- orders


async def orders(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    account = hub.account(asked, visitor)
    arguments = {"account": account, "before": asked.query.get("before")}
    taken = hub.config().payments is not None
    found = await hub.perform("payments orders", arguments, asked, visitor) if taken else []
    more = len(found) >= PAGE
    return page(hub, asked, visitor, "orders.html", orders=found, more=more, taken=taken, account=account)


async def order(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    return await order_page(hub, asked, visitor, named[0], None)


async def order_page(hub: Hub, asked: Asked, visitor: Visitor, id: str, problem: ProxyError | None) -> Answer:
    """An order with its steps. Who comes here from the provider is told nothing that is not in the books."""
    found = await shown_order(hub, asked, visitor, id)
    known = await _known(hub, asked, visitor, found)
    return page(hub, asked, visitor, "order.html", problem=problem, going=_going(asked, found), **known)


async def order_panel(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    """What a page that waits asks for again and again; 204 while nothing has changed."""
    found = await shown_order(hub, asked, visitor, named[0])
    known = await _known(hub, asked, visitor, found)
    if asked.query.get("seen") == known["seen"]:
        return Answer(status=204)
    return page(hub, asked, visitor, "order-panel.html", **known)


async def shown_order(hub: Hub, asked: Asked, visitor: Visitor, id: str) -> Object:
    """An order that this visitor may see. Somebody else's is not found, as if it were not there."""
    owner = None if visitor.operator else visitor.person.account
    found: Object = await hub.perform(
        "payments show", {"id": id, "account": owner, "waiting": True}, asked, visitor
    )
    return found


def _going(asked: Asked, found: Object) -> str | None:
    """Where the browser goes on to by itself, right after the order was made."""
    return order_words.page_to_pay(found) if asked.query.get("go") else None


async def _known(hub: Hub, asked: Asked, visitor: Visitor, found: Object) -> dict[str, Any]:
    t, now = hub.pages.words(asked), hub.clock()
    address = order_words.address_to_pay(found)
    left = order_words.time_left(t, found, now) if address else ""
    pace = order_words.pace_s(found, now)
    ways = await _ways(hub, asked, visitor)
    way = next((one for one in ways if one["provider"] == found["provider"]), None)
    paying = hub.ledger.account(found["account"])
    return {
        "order": found,
        "pace": pace,
        "waits": order_words.is_waiting(found),
        "seen": f"{found['state']} {found['updated_at']} {found['refunding']} {pace} {left}",
        "pay_at": order_words.page_to_pay(found),
        "address": address,
        "code": drawing(address) if address else None,
        "exact": order_words.exact(found["amount"]),
        "left": left,
        "way": way,
        "paying": paying,
        "account": found["account"],
    }


# --- codes


async def redeem(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    """A code for money. Wrong ones make the next wait, as wrong passwords do."""
    name, now = visitor.person.name, hub.clock()
    arguments = {"account": account_of(hub, asked, visitor), "code": asked.field("code")}
    try:
        hub.redemptions.check(name, asked.address, now)
        hub.redemptions.failed(name, asked.address, now)
        order = await hub.perform("payments redeem", arguments, asked, visitor)
    except ProxyError as error:
        return await _top_up(hub, asked, visitor, {}, error)
    hub.redemptions.succeeded(name, asked.address)
    return see_other(f"/dashboard/orders/{order['id']}")
