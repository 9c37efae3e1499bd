"""Crypto Pay (@CryptoBot): USDT for a price in dollars.

Its formats: https://help.crypt.bot/crypto-pay-api (version 1.5).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

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
    with_query,
)
from tokenhub_proxy.payments.amounts import format_minor, parse_minor

BASE_URL = "https://pay.crypt.bot"
TEST_BASE_URL = "https://testnet-pay.crypt.bot"
# A webhook older than this is a replay, or so late that polling has seen it.
STALE_S = 900.0
# Their clock and ours differ by less.
AHEAD_S = 300.0
# Invoices of one question; they take a thousand.
INVOICES_MAX = 100

_INVOICE_ID = re.compile(r"[0-9]{1,19}")
_STATES: Mapping[str, PaymentState] = {"active": "pending", "paid": "paid", "expired": "canceled"}


@dataclass(frozen=True, slots=True)
class CryptoPay:
    """An app of @CryptoBot. `return_url` is where the client comes back to."""

    token: str = field(repr=False)
    return_url: str
    base_url: str = BASE_URL
    test: bool = False
    assets: tuple[str, ...] = ("USDT",)
    expires_s: int = 3600
    name: str = "cryptopay"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("USD", tuple(asset.lower() for asset in self.assets), webhooks=True, fetches=True)

    async def create(self, order: Order, send: Send) -> Created:
        body = {
            "currency_type": "fiat",
            "fiat": order.currency,
            "accepted_assets": order.method.upper(),
            "amount": format_minor(order.amount, order.currency),
            "description": f"Balance top-up {order.id}",
            "payload": order.id,
            "paid_btn_name": "callback",
            "paid_btn_url": self.return_url.replace("{order}", order.id),
            "allow_comments": False,
            "expires_in": self.expires_s,
        }
        ask = Ask(
            "POST", f"{self.base_url}/api/createInvoice",
            {"Crypto-Pay-API-Token": self.token, "Content-Type": "application/json"}, orjson.dumps(body),
        )  # fmt: skip
        found = _result(await send(ask))
        url = found.get("bot_invoice_url") or found.get("pay_url") if isinstance(found, dict) else None
        if (
            not isinstance(found, dict)
            or type(found.get("invoice_id")) is not int
            or not isinstance(url, str)
        ):
            raise Unavailable("Crypto Pay answered with something that is no invoice")
        return Created(str(found["invoice_id"]), url)

    async def fetch(self, orders: Sequence[Order], send: Send) -> Sequence[Payment]:
        ids = [order.payment for order in orders if order.payment and _INVOICE_ID.fullmatch(order.payment)]
        found: list[Payment] = []
        for start in range(0, len(ids), INVOICES_MAX):
            part = ids[start : start + INVOICES_MAX]
            url = with_query(f"{self.base_url}/api/getInvoices", invoice_ids=",".join(part), count=len(part))
            said = _result(await send(Ask("GET", url, {"Crypto-Pay-API-Token": self.token})))
            items = said.get("items") if isinstance(said, dict) else said
            if not isinstance(items, list):
                raise Unavailable("Crypto Pay answered with something that is no list of invoices")
            found += [self.payment_of(item) for item in items]
        return found

    async def refund(self, order: Order, send: Send) -> None:
        raise Refused("Crypto Pay takes nothing back; pay it back yourself and book it as paid back outside.")

    def verify(self, headers: Headers, body: bytes, peer: str, now: float) -> Notice:
        if not self.token:
            raise Forged("no_secret")
        signature = headers.get("crypto-pay-api-signature") or ""
        if not hmac.compare_digest(signature.encode(), sign(self.token, body).encode()):
            raise Forged("bad_signature")
        try:
            update = orjson.loads(body)
            at = datetime.fromisoformat(update["request_date"]).timestamp()
            if not now - STALE_S <= at <= now + AHEAD_S:
                raise Forged("stale")
            if update["update_type"] != "invoice_paid":
                return Notice(cleaned(update["update_type"]), "", "")
            seen = self.payment_of(update["payload"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError, Unavailable):
            raise Forged("malformed") from None
        return Notice("invoice_paid", seen.id, seen.order, seen)

    def payment_of(self, invoice: Mapping[str, Any]) -> Payment:
        """An invoice object. Raises Unavailable for what is none."""
        try:
            if type(invoice["invoice_id"]) is not int:
                raise ValueError("no id")
            state = _STATES[invoice["status"]]
            currency = invoice.get("fiat") if invoice.get("currency_type") == "fiat" else invoice.get("asset")
            if state == "paid" and invoice.get("paid_asset") not in self.assets:
                # Whatever it is worth, it is not what was agreed on.
                currency = invoice.get("paid_asset")
            currency = currency if isinstance(currency, str) else ""
            return Payment(
                id=str(invoice["invoice_id"]), state=state, amount=parse_minor(invoice["amount"], currency),
                currency=currency, order=str(invoice.get("payload") or ""), test=self.test,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unavailable("Crypto Pay answered with something that is no invoice") from error


def sign(token: str, body: bytes) -> str:
    """The signature of a body: HMAC-SHA-256 over its very bytes, the key being the token's SHA-256."""
    return hmac.new(hashlib.sha256(token.encode()).digest(), body, hashlib.sha256).hexdigest()


def _result(said: Said) -> Any:
    try:
        found = orjson.loads(said.body)
        if found["ok"] is True:
            return found["result"]
        error = cleaned(found["error"]["name"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise Unavailable(f"Crypto Pay answered with {said.status}") from None
    if said.status in (400, 401, 403, 404, 405):
        raise Refused(f"Crypto Pay refuses: {error}")
    raise Unavailable(f"Crypto Pay answered with {said.status}: {error}")
