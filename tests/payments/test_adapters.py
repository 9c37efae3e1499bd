"""The adapters as pure functions: what they ask, what they understand, what they refuse to believe."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ledger.shelf import NOW
from tokenhub_proxy.ledger.orders import Order
from tokenhub_proxy.payments import (
    Ask,
    Created,
    Forged,
    Refused,
    Said,
    Unavailable,
    codes,
    cryptopay,
    tron,
    yookassa,
)
from tokenhub_proxy.payments.cryptopay import CryptoPay, sign
from tokenhub_proxy.payments.operator import Operator
from tokenhub_proxy.payments.tron import CONTRACT, Tron
from tokenhub_proxy.payments.yookassa import Receipt, YooKassa

TOKEN = "12345:AAtesttoken"
VECTOR = (
    b'{"update_id":1,"update_type":"invoice_paid","request_date":"2026-11-22T10:00:00.000Z",'
    b'"payload":{"invoice_id":7,"status":"paid","amount":"10","payload":"ord_1"}}'
)
VECTOR_AT = 1_795_341_600.0
SHOP = YooKassa("1234", "test_" + "s" * 40, "https://hub.example/orders/{order}")
APP = CryptoPay(TOKEN, "https://hub.example/orders/{order}")
ADDRESS = "TR7NHqjeKQxGTCi8q8ZY4pL8otSzgjLj6t"
WALLET = Tron(ADDRESS, api_key="index-key")
ORDER = Order(
    "ord_1", "main", "yookassa", "bank_card", 95_000, "RUB", 10 * 10**9, NOW, NOW + 3600, payment="2d-0f"
)


class Line:
    """A sender that answers from a list and keeps what was asked."""

    def __init__(self, *answers: tuple[int, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[Ask] = []

    async def __call__(self, ask: Ask) -> Said:
        self.asked.append(ask)
        status, body = self.answers.pop(0)
        return Said(status, body if isinstance(body, bytes) else json.dumps(body).encode())


def run(work: Any) -> Any:
    return asyncio.run(work)


def payment(**fields: Any) -> dict[str, Any]:
    made = {
        "id": "2d-0f", "status": "succeeded", "paid": True, "amount": {"value": "950.00", "currency": "RUB"},
        "metadata": {"order_id": "ord_1"}, "test": False,
        "refunded_amount": {"value": "0.00", "currency": "RUB"},
    }  # fmt: skip
    return {**made, **fields}


def invoice(**fields: Any) -> dict[str, Any]:
    made = {
        "invoice_id": 7, "status": "paid", "currency_type": "fiat", "fiat": "USD", "amount": "10.00",
        "paid_asset": "USDT", "payload": "ord_1", "bot_invoice_url": "https://t.me/CryptoBot?start=7",
    }  # fmt: skip
    return {**made, **fields}


# --- YooKassa


def test_a_payment_is_asked_for_with_a_key_that_follows_from_the_order() -> None:
    line = Line(
        (200, payment(status="pending", paid=False, confirmation={"confirmation_url": "https://pay"}))
    )
    assert run(SHOP.create(ORDER, line)) == Created("2d-0f", "https://pay")
    (ask,) = line.asked
    assert (ask.method, ask.url) == ("POST", "https://api.yookassa.ru/v3/payments")
    assert ask.headers["Idempotence-Key"] == "th-ord_1-create"
    assert ask.headers["Authorization"].startswith("Basic ")
    assert json.loads(ask.body) == {
        "amount": {"value": "950.00", "currency": "RUB"},
        "capture": True,
        "confirmation": {"type": "redirect", "return_url": "https://hub.example/orders/ord_1"},
        "description": "Balance top-up ord_1",
        "metadata": {"order_id": "ord_1"},
        "payment_method_data": {"type": "bank_card"},
    }


def test_the_same_order_asks_the_same_bytes() -> None:
    asked = []
    for _ in range(2):
        line = Line((200, payment()))
        run(SHOP.create(ORDER, line))
        asked += line.asked
    assert asked[0] == asked[1]


def test_a_receipt_names_the_customer_and_the_whole_sum() -> None:
    line = Line((200, payment()))
    shop = replace(SHOP, receipt=Receipt(1))
    run(shop.create(replace(ORDER, customer="a@example.org"), line))
    receipt = json.loads(line.asked[0].body)["receipt"]
    assert receipt["customer"] == {"email": "a@example.org"}
    assert receipt["items"][0]["amount"] == {"value": "950.00", "currency": "RUB"}
    assert shop.capabilities.needs_customer


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (202, {"type": "processing"}, Unavailable),
        (500, {}, Unavailable),
        (429, {}, Unavailable),
        (200, b"<html>", Unavailable),
        (200, [1], Unavailable),
        (400, {"type": "error", "description": "Bad\nsum"}, Refused),
        (401, {"type": "error"}, Refused),
    ],
)
def test_what_yookassa_says_instead_of_a_payment(status: int, body: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        run(SHOP.create(ORDER, Line((status, body))))


def test_a_payment_is_understood_exactly() -> None:
    (found,) = run(
        SHOP.fetch([ORDER], Line((200, payment(refunded_amount={"value": "1.01", "currency": "RUB"}))))
    )
    assert (found.id, found.state, found.amount, found.currency) == ("2d-0f", "paid", 95_000, "RUB")
    assert (found.order, found.test, found.refunded) == ("ord_1", False, 101)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"status": "pending"}, "pending"),
        ({"status": "waiting_for_capture"}, "pending"),
        ({"paid": False}, "pending"),
        ({"paid": "true"}, "pending"),
        ({"status": "canceled", "cancellation_details": {"reason": "expired"}}, "canceled"),
    ],
)
def test_only_a_payment_that_is_paid_is_paid(change: dict[str, Any], state: str) -> None:
    (found,) = run(SHOP.fetch([ORDER], Line((200, payment(**change)))))
    assert found.state == state


@pytest.mark.parametrize(
    "change",
    [
        {"amount": {"value": 950.0, "currency": "RUB"}},
        {"amount": {"value": "950.001", "currency": "RUB"}},
        {"amount": {"value": "1e5", "currency": "RUB"}},
        {"amount": {"value": "-950.00", "currency": "RUB"}},
        {"amount": None},
        {"status": "won"},
        {"id": "../me"},
    ],
)
def test_a_payment_that_can_t_be_read_is_asked_for_again_and_never_guessed(change: dict[str, Any]) -> None:
    with pytest.raises(Unavailable):
        run(SHOP.fetch([ORDER], Line((200, payment(**change)))))


def test_a_refund_s_key_follows_from_its_sum() -> None:
    line = Line((200, {"id": "r", "status": "succeeded"}))
    run(SHOP.refund(replace(ORDER, refunding=50_000, refunded=20_000), line))
    assert line.asked[0].headers["Idempotence-Key"] == "th-ord_1-refund-50000"
    assert json.loads(line.asked[0].body)["amount"]["value"] == "300.00"
    said = {"status": "canceled", "cancellation_details": {"reason": "insufficient_funds"}}
    with pytest.raises(Refused, match="insufficient_funds"):
        run(SHOP.refund(replace(ORDER, refunding=1), Line((200, said))))


def notification(event: str, **fields: Any) -> bytes:
    return json.dumps({"type": "notification", "event": event, "object": fields}).encode()


def test_a_notification_is_only_a_hint() -> None:
    notice = SHOP.verify({}, notification("payment.succeeded", **payment()), "203.0.113.9", NOW)
    assert (notice.event, notice.payment, notice.order, notice.seen) == (
        "payment.succeeded", "2d-0f", "ord_1", None,
    )  # fmt: skip
    notice = SHOP.verify({}, notification("refund.succeeded", id="r-1", payment_id="2d-0f"), "", NOW)
    assert (notice.payment, notice.order) == ("2d-0f", "")


@pytest.mark.parametrize(
    ("peer", "known"),
    [("77.75.153.7", True), ("2a02:5180:0:1509::1", True), ("203.0.113.9", False), ("", False)],
)
def test_addresses_are_looked_at_where_that_is_asked_for(peer: str, known: bool) -> None:
    shop, body = replace(SHOP, check_address=True), notification("payment.succeeded", **payment())
    if known:
        shop.verify({}, body, peer, NOW)
    else:
        with pytest.raises(Forged, match="foreign_address"):
            shop.verify({}, body, peer, NOW)


# --- Crypto Pay


def test_the_signature_is_the_vector_s() -> None:
    assert sign(TOKEN, VECTOR) == "a802e67112935fcf9313aa0f8518aeab24cf356e3435b4f9bc75366b1d4461cd"


def update(at: str = "2026-11-22T10:00:00.000Z", **fields: Any) -> bytes:
    made = {"update_id": 1, "update_type": "invoice_paid", "request_date": at, "payload": invoice(**fields)}
    return json.dumps(made).encode()


def signed(body: bytes, token: str = TOKEN) -> dict[str, str]:
    return {"crypto-pay-api-signature": sign(token, body)}


def test_a_signed_update_proves_a_payment() -> None:
    body = update()
    seen = APP.verify(signed(body), body, "", VECTOR_AT).seen
    assert seen is not None
    assert (seen.id, seen.state, seen.amount, seen.currency, seen.order) == (
        "7",
        "paid",
        1000,
        "USD",
        "ord_1",
    )


@given(place=st.integers(0, len(VECTOR) - 1), bit=st.integers(0, 7))
@settings(deadline=None)
def test_one_bit_of_another_body_is_a_forgery(place: int, bit: int) -> None:
    changed = bytearray(VECTOR)
    changed[place] ^= 1 << bit
    with pytest.raises(Forged, match="bad_signature"):
        APP.verify(signed(VECTOR), bytes(changed), "", VECTOR_AT)


def test_the_same_json_in_other_bytes_is_a_forgery() -> None:
    body = update()
    for other in (json.dumps(json.loads(body), indent=1).encode(), body + b" ", b" " + body):
        with pytest.raises(Forged, match="bad_signature"):
            APP.verify(signed(body), other, "", VECTOR_AT)


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, TOKEN),
        ({"crypto-pay-api-signature": ""}, TOKEN),
        ({"crypto-pay-api-signature": "é" * 64}, TOKEN),
        ({"crypto-pay-api-signature": hmac.new(b"", VECTOR, hashlib.sha256).hexdigest()}, TOKEN),
        ({"crypto-pay-api-signature": sign("", VECTOR)}, ""),
    ],
)
def test_no_secret_and_no_signature_prove_nothing(headers: Mapping[str, str], token: str) -> None:
    with pytest.raises(Forged):
        replace(APP, token=token).verify(headers, VECTOR, "", VECTOR_AT)


@pytest.mark.parametrize("off_s", [cryptopay.STALE_S + 1, -cryptopay.AHEAD_S - 1])
def test_an_old_update_is_a_replay(off_s: float) -> None:
    body = update()
    with pytest.raises(Forged, match="stale"):
        APP.verify(signed(body), body, "", VECTOR_AT + off_s)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b'{"request_date": 5}', b"\xff"])
def test_signed_nonsense_is_refused_too(body: bytes) -> None:
    with pytest.raises(Forged, match="malformed"):
        APP.verify(signed(body), body, "", VECTOR_AT)


def test_an_invoice_is_priced_in_dollars_and_paid_in_tether() -> None:
    line = Line((200, {"ok": True, "result": invoice(status="active")}))
    order = replace(ORDER, provider="cryptopay", method="usdt", amount=1000, currency="USD")
    assert run(APP.create(order, line)) == Created("7", "https://t.me/CryptoBot?start=7")
    said = json.loads(line.asked[0].body)
    assert line.asked[0].url == "https://pay.crypt.bot/api/createInvoice"
    assert line.asked[0].headers["Crypto-Pay-API-Token"] == TOKEN
    assert (said["currency_type"], said["fiat"], said["accepted_assets"]) == ("fiat", "USD", "USDT")
    assert (said["amount"], said["payload"]) == ("10.00", "ord_1")


def test_invoices_are_fetched_many_at_a_time() -> None:
    orders = [replace(ORDER, payment=str(number)) for number in range(150)]
    line = Line((200, {"ok": True, "result": {"items": [invoice()]}}), (200, {"ok": True, "result": []}))
    (found,) = run(APP.fetch(orders, line))
    assert found.id == "7"
    assert [len(parse_qs(urlsplit(ask.url).query)["invoice_ids"][0].split(",")) for ask in line.asked] == [
        100,
        50,
    ]


def test_another_asset_is_not_what_was_agreed_on() -> None:
    assert APP.payment_of(invoice(paid_asset="TON")).currency == "TON"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {"ok": False, "error": {"code": 401, "name": "UNAUTHORIZED"}}, Refused),
        (500, {"ok": False, "error": {"code": 500, "name": "INTERNAL"}}, Unavailable),
        (200, b"<html>", Unavailable),
        (200, {"ok": True, "result": {"invoice_id": "7"}}, Unavailable),
    ],
)
def test_what_crypto_pay_says_instead_of_an_invoice(status: int, body: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        run(APP.create(replace(ORDER, method="usdt", currency="USD"), Line((status, body))))


# --- TRON


def transfer(**fields: Any) -> dict[str, Any]:
    made = {
        "transaction_id": "ab" * 32, "block_timestamp": int(NOW * 1000) + 5000, "from": "T" + "x" * 33,
        "to": ADDRESS, "type": "Transfer", "value": "10000400",
        "token_info": {"symbol": "USDT", "address": CONTRACT, "decimals": 6, "name": "Tether USD"},
    }  # fmt: skip
    return {**made, **fields}


def page(*transfers: Any, fingerprint: str = "") -> tuple[int, Any]:
    return 200, {"success": True, "data": list(transfers), "meta": {"fingerprint": fingerprint}}


ASKED = replace(ORDER, provider="tron", amount=10_000_400, currency="USDT", payment=None)


def test_a_transfer_of_the_very_amount_pays_its_order() -> None:
    line = Line(page(transfer()))
    (found,) = run(WALLET.fetch([ASKED], line))
    assert (found.order, found.amount, found.currency, found.state) == ("ord_1", 10_000_400, "USDT", "paid")
    assert found.id == f"{'ab' * 32}:10000400"
    query = parse_qs(urlsplit(line.asked[0].url).query)
    assert query["only_confirmed"] == ["true"]
    assert query["contract_address"] == [CONTRACT]
    assert line.asked[0].headers == {"TRON-PRO-API-KEY": "index-key"}


@pytest.mark.parametrize(
    "change",
    [
        {"token_info": {"symbol": "USDT", "address": "TFakeFakeFakeFakeFakeFakeFakeFakeF", "decimals": 6}},
        {"token_info": {"symbol": "USDT", "address": CONTRACT, "decimals": 18}},
        {"type": "Approval"},
        {"to": "T" + "y" * 33},
        {"value": "1e7"},
        {"value": "-10000400"},
        {"transaction_id": "../x"},
    ],
)
def test_what_only_looks_like_tether_pays_nothing(change: dict[str, Any]) -> None:
    assert run(WALLET.fetch([ASKED], Line(page(transfer(**change))))) == []


def test_a_transfer_of_another_amount_or_an_earlier_time_belongs_to_nobody() -> None:
    early = int((NOW - tron.SKEW_S - 1) * 1000)
    line = Line(page(transfer(value="10000500"), transfer(block_timestamp=early)))
    assert [found.order for found in run(WALLET.fetch([ASKED], line))] == ["", ""]


def test_pages_are_followed_to_their_end() -> None:
    line = Line(page(transfer(value="1"), fingerprint="next"), page(transfer()))
    assert [found.order for found in run(WALLET.fetch([ASKED], line))] == ["", "ord_1"]
    assert parse_qs(urlsplit(line.asked[1].url).query)["fingerprint"] == ["next"]


def test_an_order_keeps_the_address_that_its_client_was_told() -> None:
    made = run(WALLET.create(ASKED, Line()))
    assert tron.amount_asked(made.redirect_url) == "10.000400"
    elsewhere = replace(ASKED, redirect_url=made.redirect_url.replace(ADDRESS, "TElsewhere"))
    assert run(WALLET.fetch([elsewhere], Line())) == []


@pytest.mark.parametrize("body", [b"<html>", {"success": False}, {"success": True, "data": [1]}])
def test_an_index_that_talks_nonsense_is_asked_again(body: Any) -> None:
    with pytest.raises(Unavailable):
        run(WALLET.fetch([ASKED], Line((200, body))))


def test_a_slip_in_an_address_is_found() -> None:
    assert tron.check_address(ADDRESS) == ADDRESS
    for place in range(1, len(ADDRESS)):
        other = "2" if ADDRESS[place] != "2" else "3"
        with pytest.raises(ValueError, match="slip"):
            tron.check_address(ADDRESS[:place] + other + ADDRESS[place + 1 :])


# --- those that take no money from outside


@pytest.mark.parametrize("provider", [WALLET, Operator()])
def test_who_sends_no_webhooks_believes_none(provider: Any) -> None:
    with pytest.raises(Forged):
        provider.verify({}, b"{}", "", NOW)


@pytest.mark.parametrize("provider", [APP, WALLET, Operator()])
def test_who_can_pay_nothing_back_says_so(provider: Any) -> None:
    with pytest.raises(Refused):
        run(provider.refund(ORDER, Line()))


@given(st.binary(min_size=16, max_size=16))
@settings(deadline=None)
def test_a_code_survives_being_typed(randomness: bytes) -> None:
    code = codes.mint(randomness)
    assert codes.digest(code) is not None
    typed: list[Callable[[str], str]] = [
        str.lower, lambda text: text.replace("-", " "), lambda text: text.replace("0", "O").replace("1", "l"),
    ]  # fmt: skip
    assert {codes.digest(change(code)) for change in typed} == {codes.digest(code)}
    assert codes.digest(code[:-1]) is None
    assert code.encode() not in (codes.digest(code) or b"")


def test_secrets_are_in_no_repr() -> None:
    for one in (SHOP, APP, WALLET, Ask("GET", "u", {"k": "secret-header"})):
        assert not any(
            secret in repr(one) for secret in (SHOP.secret_key, TOKEN, "index-key", "secret-header")
        )
    assert yookassa.BASE_URL.startswith("https://")
