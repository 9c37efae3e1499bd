"""What people do about payments, as verbs: JSON arguments in, JSON results out, for every door."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, get_args

from tokenhub_proxy.arguments import Arguments, moment, usd
from tokenhub_proxy.errors import InvalidRequest, NotFound, UpstreamUnavailable, shown
from tokenhub_proxy.ledger import Ledger
from tokenhub_proxy.ledger.orders import Code, Order, OrderEvent, State, Webhook
from tokenhub_proxy.payments import Unavailable
from tokenhub_proxy.payments.amounts import Quote, format_millionths, format_minor, parse_minor
from tokenhub_proxy.payments.desk import Desk
from tokenhub_proxy.payments.operator import Operator
from tokenhub_proxy.payments.webhooks import Webhooks
from tokenhub_proxy.prices import format_usd
from tokenhub_proxy.receipts import timestamp

Verb = Callable[[Arguments], Awaitable[Any]]


class PaymentVerbs:
    """The verbs. `actor` among the arguments goes into the note of what is done by hand."""

    def __init__(self, ledger: Ledger, desk: Desk, webhooks: Webhooks) -> None:
        self._ledger = ledger
        self._desk = desk
        self._webhooks = webhooks
        self.verbs: Mapping[str, Verb] = {
            "payments methods": self.methods,
            "payments quote": self.quote,
            "payments orders": self.orders,
            "payments create": self.create,
            "payments show": self.show,
            "payments look": self.look,
            "payments complete": self.complete,
            "payments cancel": self.cancel,
            "payments refund": self.refund,
            "payments webhooks": self.webhooks,
            "payments replay": self.replay,
            "payments codes create": self.codes_create,
            "payments codes list": self.codes_list,
            "payments redeem": self.redeem,
        }

    # --- before an order

    async def methods(self, arguments: Arguments) -> Any:
        """Every way to pay."""
        settings = self._desk.settings
        return [
            {
                "provider": name,
                "method": method,
                "currency": provider.capabilities.currency,
                "fee_percent": format_millionths(100 * settings.fees.get(name, 0)),
                "minimum_usd": format_usd(settings.minimum),
                "maximum_usd": format_usd(settings.maximum),
                "needs_customer": provider.capabilities.needs_customer,
                "refunds": provider.capabilities.refunds,
                "test": provider.test,
                "instructions": provider.instructions if isinstance(provider, Operator) else "",
            }
            for name, provider in settings.providers.items()
            for method in provider.capabilities.methods
        ]

    async def quote(self, arguments: Arguments) -> Any:
        """What a top-up would cost."""
        provider = str(arguments.get("provider"))
        nanos = usd(arguments.get("amount"), "amount")
        return {"amount_usd": format_usd(nanos)} | _quote(await self._desk.quote(provider, nanos))

    # --- orders

    async def create(self, arguments: Arguments) -> Any:
        """An order; with `agreed` only at this very price, such as "828.00 RUB"."""
        account = self._account(arguments)
        nanos = usd(arguments.get("amount"), "amount")
        order = await self._desk.create(
            account, nanos, str(arguments.get("provider")), arguments.get("method"),
            str(arguments.get("customer") or ""), agreed=arguments.get("agreed"),
        )  # fmt: skip
        return order_object(order)

    async def orders(self, arguments: Arguments) -> Any:
        state = arguments.get("state")
        if state is not None and state not in get_args(State):
            raise InvalidRequest(f"An order is {', '.join(get_args(State))}.", param="state")
        before = None
        if arguments.get("before") is not None:
            last = await self._desk.book.order(str(arguments["before"]))
            if last is None:
                raise NotFound(f"There is no order {shown(str(arguments['before']))}.")
            before = (last.created_at, last.id)
        found = await self._desk.book.orders(
            arguments.get("account"), state, before, provider=arguments.get("provider")
        )
        return [order_object(order) for order in found]

    async def show(self, arguments: Arguments) -> Any:
        """An order and its steps; where somebody is `waiting` for it, its provider is asked soon."""
        order = await self._order(arguments)
        if arguments.get("waiting") and order.is_open:
            self._desk.on_wait(order.id)
        events = await self._desk.book.order_events(order.id)
        return order_object(order) | {"events": [event_object(event, order) for event in events]}

    async def look(self, arguments: Arguments) -> Any:
        """Ask the provider now."""
        order = await self._order(arguments)
        try:
            outcome = await self._desk.look(order.id)
        except Unavailable as error:
            raise UpstreamUnavailable(
                f"{order.provider} can't be asked right now; try again later.", kind="payments"
            ) from error
        return order_object(outcome.order or order) | {"verdict": outcome.verdict}

    async def complete(self, arguments: Arguments) -> Any:
        order = await self._order(arguments)
        payment = arguments.get("payment")
        done = await self._desk.complete(order.id, _note(arguments), str(payment) if payment else None)
        return order_object(done)

    async def cancel(self, arguments: Arguments) -> Any:
        order = await self._order(arguments)
        return order_object(await self._desk.cancel(order.id, _note(arguments)))

    async def refund(self, arguments: Arguments) -> Any:
        """All that is left, or `amount` in the order's currency; `outside`: it was paid back already."""
        order, note = await self._order(arguments), _note(arguments)
        amount = None
        if arguments.get("amount") is not None:
            try:
                amount = parse_minor(str(arguments["amount"]), order.currency)
            except ValueError as error:
                raise InvalidRequest(f"The amount is in {order.currency}: {error}.", param="amount") from None
            if amount == 0:
                raise InvalidRequest("An amount is more than nothing.", param="amount")
        outside = bool(arguments.get("outside"))
        if outside and not note:
            raise InvalidRequest("Say why; the reason is kept.", param="note")
        return order_object(await self._desk.refund(order.id, amount, outside=outside, note=note))

    # --- webhooks and codes

    async def webhooks(self, arguments: Arguments) -> Any:
        return [webhook_object(hook) for hook in await self._desk.book.webhooks()]

    async def replay(self, arguments: Arguments) -> Any:
        try:
            id = int(arguments.get("id") or "")
        except ValueError:
            raise InvalidRequest("A webhook's id is a number.", param="id") from None
        verdict, status = await self._webhooks.replay(id)
        return {"id": id, "verdict": verdict, "status": status}

    async def codes_create(self, arguments: Arguments) -> Any:
        text = str(arguments.get("count") or 1)
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise InvalidRequest("count is a whole number from 1.", param="count")
        expires = arguments.get("expires")
        made = await self._desk.mint(
            int(text), usd(arguments.get("amount"), "amount"),
            moment(expires, self._desk.clock(), +1) if expires else None, str(arguments.get("note") or ""),
        )  # fmt: skip
        return [{"code": one.code, "amount_usd": format_usd(one.nanos)} for one in made]

    async def codes_list(self, arguments: Arguments) -> Any:
        return [code_object(code) for code in await self._desk.book.codes()]

    async def redeem(self, arguments: Arguments) -> Any:
        order = await self._desk.redeem(self._account(arguments), str(arguments.get("code") or ""))
        return order_object(order)

    async def _order(self, arguments: Arguments) -> Order:
        id = str(arguments.get("id"))
        order = await self._desk.book.order(id)
        owner = arguments.get("account")
        # Another account's order is as good as none.
        if order is None or (owner is not None and order.account != owner):
            raise NotFound(f"There is no order {shown(id)}.")
        return order

    def _account(self, arguments: Arguments) -> str:
        name = arguments.get("account")
        if not isinstance(name, str) or self._ledger.account(name) is None:
            raise NotFound(f"There is no account {shown(str(name))}.")
        return name


def _note(arguments: Arguments) -> str:
    note, actor = str(arguments.get("note") or ""), arguments.get("actor")
    return f"{note} (by {actor})" if note and actor else note


def _quote(price: Quote) -> dict[str, Any]:
    return {
        "amount": format_minor(price.amount, price.currency),
        "fee": format_minor(price.fee, price.currency),
        "currency": price.currency,
        "rate": None if price.rate is None else format_millionths(price.rate),
    }


def order_object(order: Order) -> dict[str, Any]:
    """An order as people and programs see it: sums as decimal texts."""
    return {
        "id": order.id,
        "account": order.account,
        "state": order.state,
        "amount_usd": format_usd(order.nanos),
        "provider": order.provider,
        "method": order.method,
        **_quote(Quote(order.amount, order.fee, order.currency, order.rate)),
        "refunded": format_minor(order.refunded, order.currency),
        "refunding": order.refunding > order.refunded,
        "credited_usd": format_usd(order.credited),
        "returned_usd": format_usd(order.returned),
        "payment": order.payment,
        "redirect_url": order.redirect_url,
        "test": order.test,
        "created_at": timestamp(order.created_at),
        "updated_at": timestamp(order.updated_at),
        "expires_at": timestamp(order.expires_at),
        "note": order.note,
    }


def event_object(event: OrderEvent, order: Order) -> dict[str, Any]:
    """What happened to an order."""
    return {
        "at": timestamp(event.at),
        "kind": event.kind,
        "payment": event.payment,
        "amount": format_minor(event.amount, order.currency) if event.amount else None,
        "entry": event.entry,
        "note": event.note,
    }


def webhook_object(hook: Webhook) -> dict[str, Any]:
    """A line of the webhook log."""
    return {
        "id": hook.id,
        "at": timestamp(hook.at),
        "provider": hook.provider,
        "peer": hook.peer,
        "bytes": hook.length,
        "event": hook.event,
        "payment": hook.payment,
        "order": hook.order,
        "verdict": hook.verdict,
    }


def code_object(code: Code) -> dict[str, Any]:
    """A code without itself: the beginning of its digest tells one from another."""
    return {
        "digest": code.digest.hex()[:12],
        "amount_usd": format_usd(code.nanos),
        "created_at": timestamp(code.created_at),
        "expires_at": None if code.expires_at is None else timestamp(code.expires_at),
        "order": code.order,
        "used_at": None if code.used_at is None else timestamp(code.used_at),
        "note": code.note,
    }
