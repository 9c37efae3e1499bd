"""The desk: makes orders, asks providers what became of them, pays back; every step is in the books first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

from tokenhub_proxy.errors import InvalidRequest, NotFound, UpstreamUnavailable, shown
from tokenhub_proxy.ledger.orders import (
    AskRefund,
    Attach,
    Close,
    Code,
    Complete,
    Create,
    Mint,
    Observe,
    Order,
    OrderBook,
    Outcome,
    Redeem,
    Refunded,
    Spread,
)
from tokenhub_proxy.payments import Ask, Payment, Provider, Refused, Send, Unavailable, codes, tron
from tokenhub_proxy.payments.amounts import Quote, format_minor, quote
from tokenhub_proxy.payments.rates import parse_daily, with_markup
from tokenhub_proxy.payments.settings import Settings
from tokenhub_proxy.prices import format_usd

log = logging.getLogger("tokenhub_proxy.payments")

# So long an order waits for its money; what comes later is credited too, once somebody tells us.
WAIT_S = 48 * 3600.0
# An invoice that a person pays by a bank.
INVOICE_WAIT_S = 30 * 86_400.0
# A client waits for the provider's page so long; the watch goes on where it was not enough.
SUBMIT_S = 20.0
SUBMIT_PAUSES_S = (0.5, 2.0, 5.0)
# The Central Bank sets one rate a day; it is read again so often, and used so long where it can't be.
RATE_FRESH_S = 3600.0
RATE_USED_S = 2 * 86_400.0
# Questions that wait for their turn; webhooks that anybody can send make them.
LOOKS_MAX = 256
# Providers know an idempotence key for 24 hours; after that the same question is another refund.
REFUND_AGAIN_S = 20 * 3600.0
CODES_MAX = 1000
CUSTOMER_LENGTH_MAX = 200


@dataclass(frozen=True, slots=True)
class Minted:
    """A new code, shown this once."""

    code: str
    nanos: int


class Desk:
    """Orders, from their making to their refund. `settings` may be replaced at any time.

    `randomness(n)` gives n random bytes.
    """

    def __init__(
        self,
        book: OrderBook,
        settings: Settings,
        send: Send,
        *,
        clock: Callable[[], float],
        randomness: Callable[[int], bytes],
    ) -> None:
        self.book = book
        self.settings = settings
        self.clock = clock
        self._send = send
        self._randomness = randomness
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._queued: dict[tuple[str, str | None], asyncio.Task[Outcome]] = {}
        self._looking: set[asyncio.Task[Outcome]] = set()
        self._rate: tuple[int, float] | None = None
        # Told when an order begins to wait, so that the watch looks after it.
        self.on_open: Callable[[], None] = lambda: None
        # Told which order somebody waits for right now, so that the watch does not keep them waiting.
        self.on_wait: Callable[[str], None] = lambda id: None

    # --- what a top-up costs

    async def quote(self, provider: str, nanos: int) -> Quote:
        """The price of so many nanodollars. Raises InvalidRequest, UpstreamUnavailable."""
        found = self.provider(provider)
        settings = self.settings
        if not settings.minimum <= nanos <= settings.maximum:
            least, most = format_usd(settings.minimum), format_usd(settings.maximum)
            raise InvalidRequest(f"A top-up is from {least} to {most} USD.", param="amount")
        currency = found.capabilities.currency
        rate = await self.rate() if currency == "RUB" else None
        return quote(nanos, currency, rate, settings.fees.get(provider, 0))

    async def rate(self) -> int:
        """Millionths of a ruble for one USD, the markup included. Raises UpstreamUnavailable."""
        settings = self.settings
        if settings.rate_fixed is not None:
            return with_markup(settings.rate_fixed, settings.markup)
        now = self.clock()
        if self._rate is None or now - self._rate[1] >= RATE_FRESH_S:
            try:
                said = await self._send(Ask("GET", settings.rate_url or ""))
                self._rate = (parse_daily(said.body, now), now)
            except (Unavailable, ValueError) as error:
                log.warning("rate_unavailable reason=%s", error)
                if self._rate is None or now - self._rate[1] >= RATE_USED_S:
                    raise UpstreamUnavailable(
                        "The ruble's rate can't be read right now; try again later.", kind="rate"
                    ) from error
        return with_markup(self._rate[0], settings.markup)

    def provider(self, name: object) -> Provider:
        """A provider that is configured. Raises InvalidRequest."""
        found = self.settings.providers.get(name) if isinstance(name, str) else None
        if found is None:
            known = ", ".join(self.settings.providers) or "none"
            raise InvalidRequest(
                f"There is no provider {shown(str(name))}; there is {known}.", param="provider"
            )
        return found

    # --- making an order

    async def create(
        self,
        account: str,
        nanos: int,
        provider: str,
        method: str | None = None,
        customer: str = "",
        agreed: str | None = None,
    ) -> Order:
        """An order, in the books before its provider hears of it; without a page where that can't be had.

        `agreed` is the price that was told before, such as "828.00 RUB": where it is another one now,
        nobody is made to pay it.
        """
        found = self.provider(provider)
        able = found.capabilities
        method = method or able.methods[0]
        if method not in able.methods:
            raise InvalidRequest(
                f"{provider} has no {shown(method)}; it has {', '.join(able.methods)}.", param="method"
            )
        if able.needs_customer and ("@" not in customer or len(customer) > CUSTOMER_LENGTH_MAX):
            raise InvalidRequest("An e-mail address for the receipt is needed.", param="customer")
        price, now = await self.quote(provider, nanos), self.clock()
        if agreed is not None and agreed != f"{format_minor(price.amount, price.currency)} {price.currency}":
            raise InvalidRequest("The price has changed meanwhile. Look at the new one.", param="agreed")
        order = Order(
            id=f"ord_{int(now * 1000):012x}{self._randomness(8).hex()}", account=account, provider=provider,
            method=method, amount=price.amount, currency=price.currency, nanos=nanos, created_at=now,
            expires_at=now + (WAIT_S if able.fetches else INVOICE_WAIT_S), fee=price.fee, rate=price.rate,
            test=found.test, customer=customer if able.needs_customer else "",
        )  # fmt: skip
        spread = None
        if able.distinct_amounts:
            first = int.from_bytes(self._randomness(4)) % tron.STEPS + 1
            spread = Spread(tron.STEP, tron.STEPS, first, now - tron.DISTINCT_S, 10 ** (9 - tron.DECIMALS))
        async with self._turn(order.id):
            outcome = await self.book.take(Create(order, spread))
            made = outcome.order or order
            with suppress(TimeoutError, Unavailable):
                async with asyncio.timeout(SUBMIT_S):
                    made = await self._submit(made, found)
        self.on_open()
        return made

    async def _submit(self, order: Order, provider: Provider) -> Order:
        """Ask the provider for a payment. Raises Unavailable; the same order may be submitted again."""
        for pause_s in (*SUBMIT_PAUSES_S, None):
            try:
                created = await provider.create(order, self._send)
                break
            except Refused as refusal:
                log.error("payment_refused order=%s reason=%s", order.id, refusal)
                return _order(await self.book.take(Close(order.id, self.clock(), "canceled", str(refusal))))
            except Unavailable as error:
                log.warning("payment_unavailable order=%s reason=%s", order.id, error)
                if pause_s is None:
                    raise
                await asyncio.sleep(pause_s)
        step = Attach(order.id, self.clock(), created.payment or None, created.redirect_url)
        return _order(await self.book.take(step))

    # --- what became of it

    async def look(self, id: str, payment: str | None = None) -> Outcome:
        """Ask the provider about an order now; `payment` may be its. Raises NotFound, Unavailable.

        One look at a time and at most one more waiting: whoever asks while a look is under way
        gets the next one, which is newer than what made him ask.
        """
        # By the payment too: what a stranger names must not stand in the way of what is true.
        queued = self._queued.get((id, payment))
        if queued is None:
            if len(self._looking) >= LOOKS_MAX:
                raise Unavailable("too many questions are waiting")
            queued = self._queued[id, payment] = asyncio.ensure_future(self._look_in_turn(id, payment))
            self._looking.add(queued)
            queued.add_done_callback(self._looked)
        return await asyncio.shield(queued)

    def _looked(self, task: asyncio.Task[Outcome]) -> None:
        self._looking.discard(task)
        # Whoever asked may have left; an error that nobody waits for is no news.
        if not task.cancelled():
            task.exception()

    async def _look_in_turn(self, id: str, payment: str | None) -> Outcome:
        # Its own turn, not the order's: a webhook may come while its payment is being made.
        async with self._turn(f"look at {id}"):
            del self._queued[id, payment]
            return await self._look(id, payment)

    async def _look(self, id: str, payment: str | None) -> Outcome:
        order = await self._find(id)
        provider = self.settings.providers.get(order.provider)
        if provider is None:
            return Outcome("unchanged", order)
        if order.refunding > order.refunded:
            async with self._turn(id):
                order = await self._pay_back(await self._find(id), provider)
        if order.state == "created" and payment is None:
            async with self._turn(id):
                order = await self._find(id)
                if order.state == "created":
                    return Outcome("attached", await self._submit(order, provider))
        outcome = Outcome("unchanged", order)
        for seen in await self._fetch(provider, [order]):
            if seen.order == order.id:
                outcome = await self.observe(provider, seen)
        if payment is not None and payment != order.payment:
            # Anybody may have named it. It is this order's only if the provider says so.
            try:
                named = await provider.fetch([replace(order, payment=payment)], self._send)
            except Refused:
                return outcome
            for seen in named:
                if seen.order == order.id:
                    outcome = await self.observe(provider, seen)
        return outcome

    async def _fetch(self, provider: Provider, orders: Sequence[Order]) -> Sequence[Payment]:
        """Raises Unavailable also where the provider refuses to tell: a wrong key may be put right."""
        try:
            return await provider.fetch(orders, self._send)
        except Refused as refusal:
            raise Unavailable(str(refusal)) from refusal

    async def look_at_many(self, provider: Provider, orders: Sequence[Order]) -> Sequence[Payment]:
        """Ask once about many orders; gives the payments that are nobody's. Raises Unavailable."""
        known = {order.id for order in orders}
        payments = await self._fetch(provider, orders)
        for seen in payments:
            if seen.order in known:
                await self.observe(provider, seen)
        return [seen for seen in payments if seen.order not in known]

    async def observe(self, provider: Provider, seen: Payment) -> Outcome:
        """Book what a provider says of a payment, fetched or signed."""
        step = Observe(
            seen.order, self.clock(), provider.name, seen.id, seen.state, seen.amount, seen.currency,
            seen.test, seen.refunded, seen.note,
        )  # fmt: skip
        outcome = await self.book.take(step)
        if outcome.verdict not in ("unchanged", "attached"):
            log.info("payment order=%s provider=%s verdict=%s", seen.order, provider.name, outcome.verdict)
        return outcome

    async def expire(self, order: Order) -> None:
        """Nothing came; if it comes after all, it is credited all the same."""
        await self.book.take(Close(order.id, self.clock(), "expired"))

    # --- by hand

    async def refund(self, id: str, amount: int | None, *, outside: bool, note: str) -> Order:
        """Pay back so many minor units, or all that is left; `outside`: that was done elsewhere already."""
        async with self._turn(id):
            order = await self._find(id)
            total = order.amount if amount is None else order.refunded + amount
            if outside:
                return _order(await self.book.take(Refunded(id, self.clock(), total, note)))
            provider = self.provider(order.provider)
            if not provider.capabilities.refunds:
                raise InvalidRequest(
                    f"{order.provider} can't pay back; do it yourself and book it as paid back outside."
                )
            if order.refunding > order.refunded:
                raise InvalidRequest("A refund of this order is under way.")
            order = _order(await self.book.take(AskRefund(id, self.clock(), total, note)))
        self.on_open()
        with suppress(Unavailable):
            return _order(await self.look(id))
        return order

    async def _pay_back(self, order: Order, provider: Provider) -> Order:
        if order.refunding <= order.refunded or self.clock() - order.updated_at >= REFUND_AGAIN_S:
            return order
        try:
            await provider.refund(order, self._send)
        except Refused as refusal:
            log.error("refund_refused order=%s reason=%s", order.id, refusal)
            step = AskRefund(order.id, self.clock(), order.refunded, f"refund refused: {refusal}")
            return _order(await self.book.take(step))
        return order

    async def complete(self, id: str, note: str, payment: str | None = None) -> Order:
        """Credit an order because a person says so, or end the review of one that was credited."""
        if not note:
            raise InvalidRequest("Say why; the reason is kept.", param="note")
        async with self._turn(id):
            return _order(await self.book.take(Complete(id, self.clock(), note, payment)))

    async def cancel(self, id: str, note: str) -> Order:
        """Close an order that nothing will come of."""
        async with self._turn(id):
            return _order(await self.book.take(Close(id, self.clock(), "canceled", note)))

    async def _find(self, id: str) -> Order:
        order = await self.book.order(id)
        if order is None:
            raise NotFound(f"There is no order {shown(id)}.")
        return order

    # --- codes

    async def mint(
        self, count: int, nanos: int, expires_at: float | None = None, note: str = ""
    ) -> Sequence[Minted]:
        """New redemption codes, to be shown once."""
        if not 1 <= count <= CODES_MAX:
            raise InvalidRequest(f"From 1 to {CODES_MAX} codes are made at a time.", param="count")
        if not 0 < nanos <= self.settings.maximum:
            most = format_usd(self.settings.maximum)
            raise InvalidRequest(f"A code is worth more than nothing and at most {most} USD.", param="amount")
        made = [codes.mint(self._randomness(codes.RANDOM_BYTES)) for _ in range(count)]
        now = self.clock()
        rows = tuple(Code(codes.digest(code) or b"", nanos, now, expires_at, note) for code in made)
        await self.book.take(Mint(rows))
        return [Minted(code, nanos) for code in made]

    async def redeem(self, account: str, code: str) -> Order:
        """Use up a code. Raises NotFound, one and the same for all that can be wrong with it."""
        now = self.clock()
        id = f"ord_{int(now * 1000):012x}{self._randomness(8).hex()}"
        # What can't be a code is looked for too, so that no answer comes sooner than another.
        return _order(await self.book.take(Redeem(codes.digest(code) or b"", account, id, now)))

    async def aclose(self) -> None:
        """Leave what is being asked; a step that is on its way to the books is not taken back."""
        looks = list(self._looking)
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    def _turn(self, id: str) -> asyncio.Lock:
        turn = self._turns.get(id)
        if turn is None:
            turn = self._turns[id] = asyncio.Lock()
        return turn


def _order(outcome: Outcome) -> Order:
    assert outcome.order is not None
    return outcome.order
