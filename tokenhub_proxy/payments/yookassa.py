"""YooKassa: Russian cards and SBP in rubles.

Its formats: https://yookassa.ru/developers (API v3). Webhooks are not signed: what they name is fetched.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from tokenhub_proxy.keys import Networks, parse_address
from tokenhub_proxy.ledger.orders import Order, PaymentState
from tokenhub_proxy.payments import (
    Ask,
    Capabilities,
    Created,
    Forged,
    Headers,
    Notice,
    Payment,
    Refused,
    Said,
    Send,
    Unavailable,
    cleaned,
)
from tokenhub_proxy.payments.amounts import format_minor, parse_minor

BASE_URL = "https://api.yookassa.ru/v3"
METHODS = ("bank_card", "sbp", "yoo_money", "sberbank", "tinkoff_bank")
# Where its notifications come from, as its SDK 3.13.0 of 2026-10 has it.
ADDRESSES = Networks(
    (
        "77.75.153.0/25", "77.75.154.128/25", "77.75.156.11", "77.75.156.35", "185.71.76.0/27",
        "185.71.77.0/27", "2a02:5180:0:1509::/64", "2a02:5180:0:1533::/64", "2a02:5180:0:2655::/64",
        "2a02:5180:0:2669::/64",
    )
)  # fmt: skip

_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_STATES: Mapping[str, PaymentState] = {
    "pending": "pending",
    "waiting_for_capture": "pending",
    "succeeded": "paid",
    "canceled": "canceled",
}


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the law wants to know of a sale (54-FZ); codes as YooKassa's documentation has them."""

    vat_code: int
    payment_subject: str = "service"
    payment_mode: str = "full_prepayment"


@dataclass(frozen=True, slots=True)
class YooKassa:
    """A shop. `return_url` is where the client comes back to; `{order}` in it becomes the order's id."""

    shop_id: str
    secret_key: str = field(repr=False)
    return_url: str
    base_url: str = BASE_URL
    test: bool = False
    methods: tuple[str, ...] = ("bank_card", "sbp")
    check_address: bool = False
    receipt: Receipt | None = None
    name: str = "yookassa"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            "RUB", self.methods, webhooks=True, fetches=True, refunds=True,
            needs_customer=self.receipt is not None,
        )  # fmt: skip

    async def create(self, order: Order, send: Send) -> Created:
        body: dict[str, Any] = {
            "amount": _amount(order.amount, order.currency),
            "capture": True,
            "confirmation": {
                "type": "redirect",
                "return_url": self.return_url.replace("{order}", order.id),
            },
            "description": f"Balance top-up {order.id}",
            "metadata": {"order_id": order.id},
            "payment_method_data": {"type": order.method},
        }
        if self.receipt is not None:
            body["receipt"] = _receipt(self.receipt, order)
        found = await self._post("payments", body, f"th-{order.id}-create", send)
        confirmation = found.get("confirmation")
        url = confirmation.get("confirmation_url") if isinstance(confirmation, dict) else None
        return Created(_id(found.get("id")), url if isinstance(url, str) else None)

    async def fetch(self, orders: Sequence[Order], send: Send) -> Sequence[Payment]:
        found = []
        for order in orders:
            if order.payment is not None:
                said = await send(self._ask("GET", f"payments/{_id(order.payment)}"))
                found.append(payment_of(_object(said)))
        return found

    async def refund(self, order: Order, send: Send) -> None:
        if order.payment is None:
            raise Refused("The order has no payment.")
        body = {
            "payment_id": order.payment,
            "amount": _amount(order.refunding - order.refunded, order.currency),
        }
        found = await self._post("refunds", body, f"th-{order.id}-refund-{order.refunding}", send)
        if found.get("status") == "canceled":
            details = found.get("cancellation_details")
            raise Refused(f"The refund was canceled: {_reason(details)}")

    def verify(self, headers: Headers, body: bytes, peer: str, now: float) -> Notice:
        if not self.secret_key:
            raise Forged("no_secret")
        if self.check_address:
            address = parse_address(peer)
            if address is None or address not in ADDRESSES:
                raise Forged("foreign_address")
        try:
            notice = orjson.loads(body)
            event, what = notice["event"], notice["object"]
            if notice["type"] != "notification" or not isinstance(event, str):
                raise Forged("malformed")
            if event.startswith("refund."):
                return Notice(cleaned(event), _id(what["payment_id"]), "")
            metadata = what.get("metadata")
            order = metadata.get("order_id") if isinstance(metadata, dict) else None
            return Notice(cleaned(event), _id(what["id"]), order if isinstance(order, str) else "")
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, Refused):
            raise Forged("malformed") from None

    async def _post(self, path: str, body: Mapping[str, Any], key: str, send: Send) -> dict[str, Any]:
        ask = self._ask("POST", path, {"Idempotence-Key": key, "Content-Type": "application/json"})
        return _object(await send(Ask(ask.method, ask.url, ask.headers, orjson.dumps(body))))

    def _ask(self, method: str, path: str, more: Mapping[str, str] | None = None) -> Ask:
        credentials = b64encode(f"{self.shop_id}:{self.secret_key}".encode()).decode()
        return Ask(
            method, f"{self.base_url}/{path}", {"Authorization": f"Basic {credentials}", **(more or {})}
        )


def payment_of(found: Mapping[str, Any]) -> Payment:
    """A payment object. Raises Unavailable for what is none: it may be one at the next try."""
    try:
        amount, currency = _minor(found["amount"])
        state = _STATES[found["status"]]
        if state == "paid" and found["paid"] is not True:
            state = "pending"
        refunded = _minor(found["refunded_amount"])[0] if found.get("refunded_amount") else 0
        metadata = found.get("metadata") or {}
        return Payment(
            id=_id(found["id"]), state=state, amount=amount, currency=currency,
            order=str(metadata.get("order_id", "")), test=found.get("test") is True, refunded=refunded,
            note=_reason(found.get("cancellation_details")) if state == "canceled" else "",
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, Refused) as error:
        raise Unavailable("YooKassa answered with something that is no payment") from error


def _object(said: Said) -> dict[str, Any]:
    """The object of an answer; 202 says that it is still being made."""
    try:
        found = orjson.loads(said.body)
    except orjson.JSONDecodeError:
        found = None
    if said.status == 200 and isinstance(found, dict):
        return found
    if said.status in (400, 401, 403, 404, 405, 410, 415) and isinstance(found, dict):
        raise Refused(f"YooKassa refuses ({said.status}): {cleaned(found.get('description', ''))}")
    raise Unavailable(f"YooKassa answered with {said.status}")


def _amount(amount: int, currency: str) -> dict[str, str]:
    return {"value": format_minor(amount, currency), "currency": currency}


def _minor(found: Any) -> tuple[int, str]:
    currency = found["currency"]
    if not isinstance(currency, str):
        raise ValueError("no currency")
    return parse_minor(found["value"], currency), currency


def _id(text: object) -> str:
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise Refused("YooKassa gave no id")
    return text


def _reason(details: object) -> str:
    return cleaned(details.get("reason", "")) if isinstance(details, dict) else ""


def _receipt(receipt: Receipt, order: Order) -> dict[str, Any]:
    return {
        "customer": {"email": order.customer},
        "items": [
            {
                "description": "API balance top-up",
                "quantity": "1",
                "amount": _amount(order.amount, order.currency),
                "vat_code": receipt.vat_code,
                "payment_subject": receipt.payment_subject,
                "payment_mode": receipt.payment_mode,
            }
        ],
    }
