"""Money that reaches the operator by a way of its own: the order waits until a person completes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenhub_proxy.ledger.orders import OPERATOR, Order
from tokenhub_proxy.payments import Capabilities, Created, Forged, Headers, Notice, Payment, Refused, Send


@dataclass(frozen=True, slots=True)
class Operator:
    """`instructions` tell the client how to pay: a bank account, or whom to ask."""

    instructions: str = ""
    test: bool = False
    name: str = OPERATOR

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("USD", ("invoice",))

    async def create(self, order: Order, send: Send) -> Created:
        return Created("", None)

    async def fetch(self, orders: Sequence[Order], send: Send) -> Sequence[Payment]:
        return ()

    async def refund(self, order: Order, send: Send) -> None:
        raise Refused("Pay it back the way it came, and book it as paid back outside.")

    def verify(self, headers: Headers, body: bytes, peer: str, now: float) -> Notice:
        raise Forged("no_webhooks")
