"""Everything that takes payments, put together over one ledger."""

from __future__ import annotations

from collections.abc import Callable

from tokenhub_proxy.ledger.sqlite import SqliteLedger
from tokenhub_proxy.payments import Send
from tokenhub_proxy.payments.desk import Desk
from tokenhub_proxy.payments.refund_watch import RefundWatch
from tokenhub_proxy.payments.sender import Sender
from tokenhub_proxy.payments.settings import Settings
from tokenhub_proxy.payments.verbs import PaymentVerbs
from tokenhub_proxy.payments.watch import FIRST_S, Watch
from tokenhub_proxy.payments.webhooks import Webhooks

# What is left when the section is taken out of the config while orders are open.
NOTHING = Settings({})


class Office:
    """The desk, its watches, its door for webhooks and its verbs."""

    def __init__(
        self,
        ledger: SqliteLedger,
        settings: Settings,
        *,
        clock: Callable[[], float],
        randomness: Callable[[int], bytes],
        send: Send | None = None,
        first_s: float = FIRST_S,
    ) -> None:
        self._sender = Sender()
        self.desk = Desk(ledger, settings, send or self._sender, clock=clock, randomness=randomness)
        self.watch = Watch(self.desk, first_s=first_s)
        self.refund_watch = RefundWatch(self.desk)
        self.webhooks = Webhooks(self.desk)
        self.verbs = PaymentVerbs(ledger, self.desk, self.webhooks)

    def start(self) -> None:
        """Look after open orders, and after refunds of paid ones, from now on."""
        self.watch.start()
        self.refund_watch.start()

    async def aclose(self) -> None:
        """Stop looking after orders, and let go of the providers."""
        await self.watch.stop()
        await self.refund_watch.stop()
        await self.desk.aclose()
        await self._sender.aclose()
