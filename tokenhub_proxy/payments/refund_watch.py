"""Looks after paid orders, slowly: a refund in the provider's own cabinet is found without its webhook."""

from __future__ import annotations

import asyncio
import logging

from tokenhub_proxy.errors import ProxyError
from tokenhub_proxy.ledger.orders import Order
from tokenhub_proxy.payments import Unavailable
from tokenhub_proxy.payments.desk import Desk

log = logging.getLogger("tokenhub_proxy.payments")

# A payment is asked about an hour after it was booked, and then ever more rarely: a quarter of its
# age, a day at most. That is some 45 questions in the days of a payment, and most refunds are early.
FIRST_S = 3600.0
LONGEST_S = 86_400.0
# Later refunds are rare; `payments look` finds them.
DAYS_S = 30 * 86_400.0
# How often the books are read, and how many payments are asked about each time: after a restart all
# of them are due, and a provider allows so many questions a second only.
ROUND_S = 600.0
ROUND_MAX = 50
PAGE = 100


class RefundWatch:
    """One task that asks about what was credited lately, where the provider can pay back by itself."""

    def __init__(self, desk: Desk, *, round_s: float = ROUND_S) -> None:
        self._desk = desk
        self._round_s = round_s
        self._asked_at: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End; a step that is on its way to the books is not taken back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._round_s)
            try:
                await self.round()
            except ProxyError as error:
                log.warning("refund_watch reason=%s", error.reason or error.message)
            except Exception:
                log.exception("refund_watch failed")

    async def round(self) -> None:
        """Ask about what is due, those first that were not asked about for the longest time."""
        now = self._desk.clock()
        orders = await self._lately(now)
        self._asked_at = {
            order.id: self._asked_at[order.id] for order in orders if order.id in self._asked_at
        }
        due = sorted((at, order.id) for order in orders if (at := self._due_at(order)) <= now)
        for _, id in due[:ROUND_MAX]:
            self._asked_at[id] = now
            try:
                outcome = await self._desk.look(id)
            except Unavailable as error:
                log.warning("refund_watch order=%s reason=%s", id, error)
                continue
            if outcome.verdict == "refunded":
                log.warning("refund_found order=%s: nobody told of it", id)

    async def _lately(self, now: float) -> list[Order]:
        """Orders of the last days that were credited and not wholly paid back."""
        found: list[Order] = []
        for name, provider in self._desk.settings.providers.items():
            if not provider.capabilities.refunds:
                continue
            before: tuple[float, str] | None = None
            while True:
                page = await self._desk.book.orders(None, "paid", before, PAGE, provider=name)
                found += [order for order in page if order.created_at >= now - DAYS_S]
                if len(page) < PAGE or page[-1].created_at < now - DAYS_S:
                    break
                before = (page[-1].created_at, page[-1].id)
        return found

    def _due_at(self, order: Order) -> float:
        asked_at = self._asked_at.get(order.id, order.updated_at)
        return asked_at + max(FIRST_S, min((asked_at - order.created_at) / 4, LONGEST_S))
