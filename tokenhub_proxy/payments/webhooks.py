"""Webhooks: verified over their raw bytes, answered quickly, each with a verdict in the log."""

from __future__ import annotations

import asyncio
import logging

from tokenhub_proxy.errors import InvalidRequest, LedgerUnavailable, NotFound
from tokenhub_proxy.ledger.orders import Log, Order, Webhook
from tokenhub_proxy.payments import Forged, Headers, Notice, Provider, Unavailable
from tokenhub_proxy.payments.desk import Desk

log = logging.getLogger("tokenhub_proxy.payments")

# Providers give up after 3 to 30 s; who was not answered in time sends it again.
ANSWER_S = 8.0
# In progress at a time; more are told to come again.
AT_ONCE_MAX = 64
# Anybody may send what changes nothing: so many of it a minute are kept.
STRANGERS_PER_MINUTE = 60
# What is kept of a stranger's words.
WORDS_MAX = 80
STRANGE = ("refused", "unknown_order", "ignored", "unchanged", "unavailable", "wrong_provider")


class Webhooks:
    """The door for providers. Nothing of a body is kept."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._at_once = 0
        self._minute = 0
        self._strangers = 0

    def knows(self, name: str) -> bool:
        """Whether this provider sends webhooks and has the secret they are checked with."""
        provider = self._desk.settings.providers.get(name)
        return provider is not None and provider.capabilities.webhooks

    async def handle(self, name: str, headers: Headers, body: bytes, peer: str) -> int:
        """The HTTP status for a webhook: 200 once it is booked, 400 for what nobody should send again.

        503 asks for it again later.
        """
        provider = self._desk.settings.providers.get(name)
        if provider is None or not provider.capabilities.webhooks:
            return 404
        if self._at_once >= AT_ONCE_MAX:
            return 503
        self._at_once += 1
        try:
            return await self._judge(provider, headers, body, peer)
        except LedgerUnavailable:
            return 503
        finally:
            self._at_once -= 1

    async def _judge(self, provider: Provider, headers: Headers, body: bytes, peer: str) -> int:
        notice = Notice("", "", "")
        try:
            notice = provider.verify(headers, body, peer, self._desk.clock())
        except Forged as forgery:
            verdict, status = f"refused:{forgery}", 400
        else:
            verdict, status = await self._follow(provider, notice)
        await self._keep(provider, notice, len(body), peer, verdict)
        return status

    async def _follow(self, provider: Provider, notice: Notice) -> tuple[str, int]:
        if not notice.payment:
            return "ignored", 200
        order = await self._order(provider, notice)
        if order is None:
            # 200, or it would be sent again for a day.
            return "unknown_order", 200
        if order.provider != provider.name:
            return "wrong_provider", 400
        try:
            if notice.seen is not None:
                outcome = await self._desk.observe(provider, notice.seen)
            else:
                async with asyncio.timeout(ANSWER_S):
                    outcome = await self._desk.look(order.id, notice.payment)
        except (Unavailable, TimeoutError):
            return "unavailable", 503
        return outcome.verdict, 400 if outcome.verdict in ("wrong_currency", "wrong_provider") else 200

    async def _order(self, provider: Provider, notice: Notice) -> Order | None:
        """By our own id first: a webhook may come before we know the provider's."""
        if notice.order:
            return await self._desk.book.order(notice.order[:WORDS_MAX])
        return await self._desk.book.order_of_payment(provider.name, notice.payment)

    async def _keep(self, provider: Provider, notice: Notice, length: int, peer: str, verdict: str) -> None:
        log.info(
            "webhook provider=%s peer=%s bytes=%d event=%s verdict=%s",
            provider.name, peer, length, notice.event[:WORDS_MAX], verdict,
        )  # fmt: skip
        if verdict.startswith(STRANGE) and not self._within_bounds():
            return
        hook = Webhook(
            self._desk.clock(), provider.name, peer, length, notice.event[:WORDS_MAX],
            notice.payment[:WORDS_MAX], notice.order[:WORDS_MAX], verdict,
        )  # fmt: skip
        await self._desk.book.take(Log(hook))

    def _within_bounds(self) -> bool:
        minute = int(self._desk.clock() // 60)
        if minute != self._minute:
            self._minute, self._strangers = minute, 0
        self._strangers += 1
        return self._strangers <= STRANGERS_PER_MINUTE

    async def replay(self, id: int) -> tuple[str, int]:
        """Follow a webhook of the log once more: its provider is asked, the webhook itself proves nothing.

        Raises NotFound, InvalidRequest.
        """
        hook = next((hook for hook in await self._desk.book.webhooks() if hook.id == id), None)
        if hook is None:
            raise NotFound(f"There is no webhook {id} among the last ones.")
        if not hook.payment or hook.verdict.startswith("refused"):
            raise InvalidRequest(
                f"Webhook {id} names no payment, or was refused; there is nothing to replay."
            )
        provider = self._desk.provider(hook.provider)
        notice = Notice(f"replay of {id}", hook.payment, hook.order)
        verdict, status = await self._follow(provider, notice)
        await self._keep(provider, notice, 0, "", verdict)
        return verdict, status
