"""USDT on TRON (TRC-20), straight to the operator's address: confirmed transfers, told apart by amount.

The index: https://developers.tron.network/reference/get-trc20-transaction-info-by-account-address
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from tokenhub_proxy.ledger.orders import Order
from tokenhub_proxy.payments import (
    Ask,
    Capabilities,
    Created,
    Forged,
    Headers,
    Notice,
    Payment,
    Refused,
    Send,
    Unavailable,
    with_query,
)
from tokenhub_proxy.payments.amounts import format_minor

BASE_URL = "https://api.trongrid.io"
# Tether's own contract. A token that only calls itself USDT has another one.
CONTRACT = "TR7NHqjeKQxGTCi8q8ZY4pL8otSzgjLj6t"
DECIMALS = 6
# Amounts differ by 0.0001 USDT, of which there are 9,999 below a dollar.
STEP = 100
STEPS = 9_999
# An amount that was asked for is not asked for again so long.
DISTINCT_S = 30 * 86_400.0
# A block's time is a node's, an order's is ours.
SKEW_S = 60.0
PAGE = 200
# Transfers of two days to one address; whoever has more needs a provider.
PAGES_MAX = 50

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_ADDRESS = re.compile(rf"T[{_ALPHABET}]{{33}}")
_TRANSACTION = re.compile(r"[0-9a-fA-F]{64}")
_VALUE = re.compile(r"[0-9]{1,18}")


def check_address(text: str) -> str:
    """An address with a right checksum. Raises ValueError."""
    if _ADDRESS.fullmatch(text):
        number = 0
        for letter in text:
            number = number * 58 + _ALPHABET.index(letter)
        raw = number.to_bytes(26)[1:] if number < 1 << 200 else b""
        tail = hashlib.sha256(hashlib.sha256(raw[:-4]).digest()).digest()[:4]
        if raw[:1] == b"\x41" and tail == raw[-4:]:
            return text
    raise ValueError(
        "must be a TRON address such as TR7NHqjeKQxGTCi8q8ZY4pL8otSzgjLj6t; this one has a slip in it"
    )


@dataclass(frozen=True, slots=True)
class Tron:
    """An address of the operator's. Nobody holds the money in between, and nothing can be asked back."""

    address: str
    api_key: str = field(default="", repr=False)
    base_url: str = BASE_URL
    contract: str = CONTRACT
    test: bool = False
    name: str = "tron"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("USDT", ("usdt_trc20",), fetches=True, distinct_amounts=True)

    async def create(self, order: Order, send: Send) -> Created:
        """Nobody is asked: the client is told where to send how much."""
        return Created("", payment_uri(self.address, self.contract, order.amount))

    async def fetch(self, orders: Sequence[Order], send: Send) -> Sequence[Payment]:
        """The confirmed transfers since the oldest of these orders; `order` is "" where none matches."""
        # The address may have been another one when an order was made.
        ours = [order for order in orders if addressed_to(order) in (None, self.address)]
        if not ours:
            return []
        since = min(order.created_at for order in ours) - SKEW_S
        found: list[Payment] = []
        fingerprint = ""
        for _ in range(PAGES_MAX):
            said = await send(self._ask(since, fingerprint))
            try:
                page = orjson.loads(said.body)
                if said.status != 200 or page["success"] is not True:
                    raise Unavailable(f"the TRON index answered with {said.status}")
                found += self._payments(page["data"], ours)
                fingerprint = page.get("meta", {}).get("fingerprint") or ""
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
                raise Unavailable(f"the TRON index answered with {said.status} and no transfers") from error
            if not fingerprint:
                break
        return found

    async def refund(self, order: Order, send: Send) -> None:
        raise Refused("A transfer can't be asked back; send it yourself and book it as paid back outside.")

    def verify(self, headers: Headers, body: bytes, peer: str, now: float) -> Notice:
        raise Forged("no_webhooks")

    def _ask(self, since: float, fingerprint: str) -> Ask:
        query: dict[str, object] = {
            "only_confirmed": "true", "only_to": "true", "limit": PAGE, "contract_address": self.contract,
            "min_timestamp": max(0, int(since * 1000)), "order_by": "block_timestamp,asc",
        }  # fmt: skip
        if fingerprint:
            query["fingerprint"] = fingerprint
        url = with_query(f"{self.base_url}/v1/accounts/{self.address}/transactions/trc20", **query)
        return Ask("GET", url, {"TRON-PRO-API-KEY": self.api_key} if self.api_key else {})

    def _payments(self, transfers: Iterable[Any], orders: Sequence[Order]) -> Iterable[Payment]:
        for transfer in transfers:
            token = transfer["token_info"]
            genuine = (
                token["address"] == self.contract
                and token["decimals"] == DECIMALS
                and transfer["type"] == "Transfer"
                and transfer["to"] == self.address
                and _TRANSACTION.fullmatch(transfer["transaction_id"])
                and _VALUE.fullmatch(transfer["value"])
            )
            if not genuine:
                continue
            value, at_ms = int(transfer["value"]), int(transfer["block_timestamp"])
            # The newest order that could have been paid by it.
            matching = [
                order
                for order in orders
                if order.amount == value and 1000 * (order.created_at - SKEW_S) <= at_ms
            ]
            order = max(matching, key=lambda order: order.created_at, default=None)
            # One transaction may hold several transfers to us.
            id = f"{transfer['transaction_id'].lower()}:{value}"
            yield Payment(id, "paid", value, "USDT", order.id if order is not None else "", self.test)


def payment_uri(address: str, contract: str, amount: int) -> str:
    """Where to send how much of what."""
    return with_query(f"tron:{address}", amount=format_minor(amount, "USDT"), token=contract)


def addressed_to(order: Order) -> str | None:
    """The address that the client of an order was told."""
    return urlsplit(order.redirect_url).path if order.redirect_url is not None else None


def amount_asked(uri: str) -> str:
    """The amount in a payment URI, as text."""
    return parse_qs(urlsplit(uri).query).get("amount", [""])[0]
