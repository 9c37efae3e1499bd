"""Looks after open orders until they are final: a webhook that never came loses no money."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence

from tokenhub_proxy.errors import ProxyError
from tokenhub_proxy.ledger.orders import Log, Order, Webhook
from tokenhub_proxy.payments import Payment, Provider, Unavailable
from tokenhub_proxy.payments.desk import Desk

log = logging.getLogger("tokenhub_proxy.payments")

# A young order is asked about soon, an old one rarely: a quarter of its age, within these.
FIRST_S = 15.0
LONGEST_S = 600.0
# A page that waits for an order makes it be asked about so often at most.
WAITED_S = 5.0
# The books are read again at least so often while nothing is due.
ROUND_S = 60.0
# Transfers that are no open order's are looked at once; so many are remembered.
STRANGE_MAX = 10_000


class Watch:
    """One task that asks about every open order with growing pauses."""

    def __init__(self, desk: Desk, *, first_s: float = FIRST_S, longest_s: float = LONGEST_S) -> None:
        self._desk = desk
        self._first_s = first_s
        self._longest_s = longest_s
        self._asked_at: dict[str, float] = {}
        self._strange: dict[str, None] = {}  # in the order of their coming
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._waited_for: set[str] = set()
        desk.on_open = self._wake.set
        desk.on_wait = self.soon

    def start(self) -> None:
        """Begin; orders that an earlier run left open are asked about at once."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def soon(self, id: str) -> None:
        """Somebody waits for this order: it is asked about at once, unless it just was."""
        if self._desk.clock() - self._asked_at.get(id, 0.0) >= WAITED_S:
            self._waited_for.add(id)
            self._wake.set()

    async def stop(self) -> None:
        """End; a step that is on its way to the books is not taken back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            pause_s = self._first_s
            try:
                pause_s = await self.round()
            except ProxyError as error:
                log.warning("payments_watch reason=%s", error.reason or error.message)
            except Exception:
                log.exception("payments_watch failed")
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def round(self) -> float:
        """Ask about what is due; gives how long nothing will be."""
        now = self._desk.clock()
        orders = await self._desk.book.open_orders()
        self._waited_for &= {order.id for order in orders}
        self._asked_at = {
            order.id: self._asked_at[order.id] for order in orders if order.id in self._asked_at
        }
        due: dict[str, list[Order]] = defaultdict(list)
        for order in orders:
            if self._due_at(order) <= now:
                due[order.provider].append(order)
        # Providers side by side: one that is slow keeps nobody else's orders waiting.
        await asyncio.gather(*(self._ask(name, found, now) for name, found in due.items()))
        waits = [self._due_at(order) - now for order in orders]
        return max(min([ROUND_S, *waits]), self._first_s / 15)

    def _due_at(self, order: Order) -> float:
        if order.id in self._waited_for:
            return 0.0
        asked_at = self._asked_at.get(order.id)
        if asked_at is None:
            return order.updated_at + self._first_s
        age_s = asked_at - (order.updated_at if order.refunding > order.refunded else order.created_at)
        return asked_at + max(self._first_s, min(age_s / 4, self._longest_s))

    async def _ask(self, name: str, orders: Sequence[Order], now: float) -> None:
        provider = self._desk.settings.providers.get(name)
        for order in orders:
            self._asked_at[order.id] = now
            self._waited_for.discard(order.id)
        if provider is None:
            return
        many = [order for order in orders if order.state == "pending" and order.refunding <= order.refunded]
        for order in orders:
            if order not in many:
                await self._alone(order)
                if order.state == "created" and order.expires_at <= now:
                    await self._desk.expire(order)
        if many and provider.capabilities.fetches:
            await self._together(provider, many)
        for order in many:
            # Asked about a last time just now, if its provider could be asked.
            if order.expires_at <= now:
                await self._desk.expire(order)

    async def _alone(self, order: Order) -> None:
        try:
            await self._desk.look(order.id)
        except Unavailable as error:
            log.warning("payment_unavailable order=%s reason=%s", order.id, error)

    async def _together(self, provider: Provider, orders: list[Order]) -> None:
        try:
            for seen in await self._desk.look_at_many(provider, orders):
                await self._tell(provider, seen)
        except Unavailable as error:
            log.warning("payments_unavailable provider=%s reason=%s", provider.name, error)
            orders.clear()

    async def _tell(self, provider: Provider, seen: Payment) -> None:
        """Money that is no order's is for people: they can complete the order that it was meant for."""
        if seen.id in self._strange:
            return
        while len(self._strange) >= STRANGE_MAX:
            del self._strange[next(iter(self._strange))]
        self._strange[seen.id] = None
        if seen.order or await self._desk.book.order_of_payment(provider.name, seen.id) is not None:
            return  # that order was paid before
        log.warning("payment_unmatched provider=%s payment=%s amount=%d", provider.name, seen.id, seen.amount)
        hook = Webhook(self._desk.clock(), provider.name, "", 0, "transfer", seen.id, "", "unmatched")
        await self._desk.book.take(Log(hook))
