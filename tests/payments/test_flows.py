"""Top-ups through the whole proxy, from providers that misbehave in every way they know."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from typing import Any

import aiohttp
import pytest

from tests.payments.conftest import ADDRESS, TOKEN, Open, Shop
from tokenhub_proxy.errors import InvalidRequest, NotFound, UpstreamUnavailable
from tokenhub_proxy.payments.cryptopay import sign

USD = 10**9
CREDITED = [("credit", 10 * USD)]


async def post(url: str, body: bytes, **headers: str) -> int:
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
        return answer.status


async def chat(shop: Shop) -> int:
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{shop.running.base_url}/chat/completions", json=body, headers=shop.running.headers
        ) as answer,
    ):
        return answer.status


@pytest.mark.parametrize("provider", ["yookassa", "cryptopay"])
async def test_a_request_that_got_402_succeeds_after_a_top_up(shop: Shop, provider: str) -> None:
    assert await chat(shop) == 402
    order = await shop.order(provider)
    assert order["state"] == "pending"
    assert order["redirect_url"].startswith(shop.simulator.url)

    await shop.simulator.act("pay", order["payment"])
    await shop.simulator.settle()

    assert (await shop.state(order["id"]), shop.balance, await shop.entries()) == ("paid", 10 * USD, CREDITED)
    assert shop.simulator.sent == [(provider, 200)]
    assert await chat(shop) == 200


async def test_the_price_holds_the_fee_and_the_rate(shop: Shop) -> None:
    order = await shop.order()
    assert (order["amount"], order["fee"], order["currency"], order["rate"]) == (
        "828.00",
        "28.00",
        "RUB",
        "80",
    )
    assert await shop.verb("quote", amount="10.00", provider="yookassa") == {
        "amount_usd": "10.00", "amount": "828.00", "fee": "28.00", "currency": "RUB", "rate": "80",
    }  # fmt: skip


async def test_tether_straight_to_an_address_is_told_apart_by_its_amount(open_shop: Open) -> None:
    shop = await open_shop(first_s=0.05)
    one, other = await shop.order("tron"), await shop.order("tron")
    assert one["amount"] != other["amount"]
    shop.simulator.transfer(ADDRESS, int(other["amount"].replace(".", "")), contract="TFakeContract")
    shop.simulator.transfer(ADDRESS, int(one["amount"].replace(".", "")))
    shop.simulator.transfer(ADDRESS, 77)

    found = await shop.until(one["id"], "paid")

    assert shop.balance == int(one["amount"].replace(".", "")) * 1000
    assert found["credited_usd"] == found["amount_usd"]
    assert await shop.state(other["id"]) == "pending"
    assert await shop.verdicts() == ["unmatched"]
    done = await shop.verb("complete", id=other["id"], payment="somewhere", note="paid 77 too little")
    assert done["state"] == "paid"


async def test_a_lost_webhook_loses_no_money(open_shop: Open) -> None:
    shop = await open_shop(first_s=0.05, silent=True)
    orders = [await shop.order(provider) for provider in ("yookassa", "cryptopay")]
    for order in orders:
        await shop.simulator.act("pay", order["payment"])
        await shop.until(order["id"], "paid")
    assert shop.balance == 20 * USD
    assert await shop.verdicts() == []


@pytest.mark.parametrize("provider", ["yookassa", "cryptopay"])
@pytest.mark.parametrize(
    "knobs",
    [
        {"duplicate": 20},
        {"early": True},
        {"late_s": 0.1},
        {"foreign": True},
        {"forged": True},
        {"accepted_first": True},
        {"failing": 2},
        {"slow_s": 0.05},
        {"duplicate": 5, "forged": True, "accepted_first": True, "failing": 1},
    ],
    ids=str,
)
async def test_whatever_goes_wrong_the_money_is_credited_once(
    open_shop: Open, provider: str, knobs: dict[str, Any]
) -> None:
    shop = await open_shop(**knobs)
    order = await shop.order(provider)
    if order["payment"] in shop.simulator.payments:
        await shop.simulator.act("pay", order["payment"])
    await shop.simulator.settle()
    found = await shop.until(order["id"], "paid")
    assert await shop.entries() == CREDITED
    assert found["redirect_url"] or "early" in knobs
    if "forged" in knobs:
        verdict = "unknown_order" if provider == "cryptopay" else "unchanged"
        refused = (
            {"refused:bad_signature"} if provider == "cryptopay" else {verdict, "unavailable", "credited"}
        )
        assert refused & set(await shop.verdicts())


async def test_another_sum_is_for_people(open_shop: Open) -> None:
    shop = await open_shop(wrong_sum=True)
    for provider in ("yookassa", "cryptopay"):
        order = await shop.order(provider)
        await shop.simulator.act("pay", order["payment"])
        await shop.simulator.settle()
        assert await shop.state(order["id"]) == "needs_review"
    assert shop.balance == 0
    assert await shop.verdicts() == ["wrong_amount"] * 2


async def test_a_cancelled_payment_ends_its_order(shop: Shop) -> None:
    order = await shop.order()
    await shop.simulator.act("cancel", order["payment"])
    await shop.simulator.settle()
    assert (await shop.state(order["id"]), shop.balance) == ("canceled", 0)


async def test_a_refund_is_made_by_the_provider_and_booked_once(shop: Shop) -> None:
    order = await shop.order()
    await shop.simulator.act("pay", order["payment"])
    await shop.simulator.settle()
    part = await shop.verb("refund", id=order["id"], amount="207.00", note="a quarter")
    await shop.simulator.settle()
    assert (part["state"], part["refunded"], part["returned_usd"], shop.balance) == (
        "paid", "207.00", "2.50", 7_500_000_000,
    )  # fmt: skip
    whole = await shop.verb("refund", id=order["id"], note="the rest")
    await shop.simulator.settle()
    assert (whole["state"], shop.balance) == ("refunded", 0)
    assert [kind for kind, _ in await shop.entries()] == ["credit", "debit", "debit"]
    with pytest.raises(InvalidRequest, match="that much"):
        await shop.verb("refund", id=order["id"], amount="1.00")


async def test_a_refund_in_the_provider_s_cabinet_is_booked_too(open_shop: Open) -> None:
    shop = await open_shop(shuffled=True)
    order = await shop.order()
    await shop.simulator.act("pay", order["payment"])
    await shop.simulator.act("refund", order["payment"])
    await shop.simulator.settle()
    assert (await shop.state(order["id"]), shop.balance) == ("refunded", 0)
    assert await shop.entries() == [*CREDITED, ("debit", 10 * USD)]


async def test_a_refund_that_the_provider_can_t_be_asked_for_now_is_made_later(open_shop: Open) -> None:
    shop = await open_shop(first_s=0.05)
    order = await shop.order()
    await shop.simulator.act("pay", order["payment"])
    await shop.until(order["id"], "paid")
    shop.simulator.knobs.failing = 2
    asked = await shop.verb("refund", id=order["id"])
    assert asked["refunding"]
    await shop.until(order["id"], "refunded")
    assert await shop.entries() == [*CREDITED, ("debit", 10 * USD)]


async def test_a_provider_that_is_down_makes_the_order_wait_not_fail(open_shop: Open) -> None:
    shop = await open_shop(first_s=0.05, failing=6)
    order = await shop.order()
    found = await shop.until(order["id"], "pending")
    assert found["redirect_url"]


async def test_fifty_at_once_in_any_order_are_one_credit_and_one_refund(shop: Shop) -> None:
    shop.simulator.knobs.silent = True
    order = await shop.order()
    await shop.simulator.act("pay", order["payment"])
    await shop.simulator.act("refund", order["payment"])
    paid = {"type": "notification", "event": "payment.succeeded", "object": {"id": order["payment"]}}
    back = {
        "type": "notification", "event": "refund.succeeded",
        "object": {"id": "r", "payment_id": order["payment"]},
    }  # fmt: skip
    bodies = [json.dumps(one).encode() for one in [paid, back] * 50]
    random.Random(3).shuffle(bodies)
    statuses = await asyncio.gather(*(post(f"{shop.webhooks}/yookassa", body) for body in bodies))
    assert set(statuses) <= {200, 503}
    assert 200 in statuses
    assert await shop.entries() == [*CREDITED, ("debit", 10 * USD)]
    assert shop.balance == 0


async def test_a_thousand_forged_stale_and_foreign_bodies_credit_nothing(shop: Shop) -> None:
    order = await shop.order("cryptopay")
    other = await shop.order("yookassa")
    chance = random.Random(5)
    now = time.time()

    def body(at: float, payload: str, amount: str = "10.00") -> bytes:
        date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at))
        invoice = {
            "invoice_id": int(order["payment"]), "status": "paid", "currency_type": "fiat", "fiat": "USD",
            "amount": amount, "paid_asset": "USDT", "payload": payload,
        }  # fmt: skip
        update = {"update_type": "invoice_paid", "request_date": date, "payload": invoice}
        return json.dumps(update).encode()

    def attempt(number: int) -> tuple[str, bytes, dict[str, str]]:
        fresh = body(now, order["id"])
        match number % 5:
            case 0:
                return "cryptopay", fresh, {"crypto-pay-api-signature": secrets.token_hex(32)}
            case 1:
                return "cryptopay", fresh, {"crypto-pay-api-signature": sign("", fresh)}
            case 2:
                stale = body(now - 86_400 - number, order["id"])
                return "cryptopay", stale, {"crypto-pay-api-signature": sign(TOKEN, stale)}
            case 3:
                changed = bytearray(fresh)
                changed[chance.randrange(len(changed))] ^= 1
                return "cryptopay", bytes(changed), {"crypto-pay-api-signature": sign(TOKEN, fresh)}
            case _:
                claim = {"id": other["payment"], "status": "succeeded", "paid": True, "metadata": {}}
                said = {"type": "notification", "event": "payment.succeeded", "object": claim}
                return "yookassa", json.dumps(said).encode(), {}

    async with aiohttp.ClientSession() as session:

        async def one(number: int) -> int:
            name, data, headers = attempt(number)
            async with session.post(f"{shop.webhooks}/{name}", data=data, headers=headers) as answer:
                return answer.status

        statuses = []
        for start in range(0, 1000, 20):
            statuses += await asyncio.gather(*(one(start + number) for number in range(20)))
    assert statuses.count(400) == 800
    assert shop.balance == 0
    assert await shop.entries() == []
    assert {await shop.state(order["id"]), await shop.state(other["id"])} == {"pending"}
    assert len(await shop.verb("webhooks")) <= 100


async def test_a_signed_payment_of_another_provider_s_order_is_refused(shop: Shop) -> None:
    order = await shop.order("yookassa")
    date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    invoice = {
        "invoice_id": 99, "status": "paid", "currency_type": "fiat", "fiat": "RUB", "amount": order["amount"],
        "paid_asset": "USDT", "payload": order["id"],
    }  # fmt: skip
    data = json.dumps({"update_type": "invoice_paid", "request_date": date, "payload": invoice}).encode()
    signature = {"crypto-pay-api-signature": sign(TOKEN, data)}
    assert await post(f"{shop.webhooks}/cryptopay", data, **signature) == 400
    assert (await shop.state(order["id"]), await shop.verdicts()) == ("pending", ["wrong_provider"])


async def test_another_currency_is_refused_and_for_people(shop: Shop) -> None:
    order = await shop.order("cryptopay")
    shop.simulator.payments[order["payment"]].asset = "TON"
    await shop.simulator.act("pay", order["payment"])
    await shop.simulator.settle()
    assert shop.simulator.sent == [("cryptopay", 400)]
    assert (await shop.state(order["id"]), shop.balance) == ("needs_review", 0)


async def test_who_has_no_secret_has_no_route(shop: Shop) -> None:
    for name in ("tron", "operator", "stripe", "", "yookassa/x", "../v1"):
        assert await post(f"{shop.webhooks}/{name}", b"{}") == 404
    async with aiohttp.ClientSession() as session, session.get(f"{shop.webhooks}/yookassa") as answer:
        assert answer.status == 405


async def test_a_body_over_64_kib_is_not_read(shop: Shop) -> None:
    assert await post(f"{shop.webhooks}/yookassa", b"x" * (64 * 1024 + 1)) == 413
    assert await post(f"{shop.webhooks}/yookassa", b"x" * (64 * 1024)) == 400


async def test_an_unknown_order_is_answered_with_200_and_told(shop: Shop) -> None:
    said = {"type": "notification", "event": "payment.succeeded", "object": {"id": "2d-never"}}
    assert await post(f"{shop.webhooks}/yookassa", json.dumps(said).encode()) == 200
    (hook,) = await shop.verb("webhooks")
    assert (hook["verdict"], hook["payment"], hook["provider"]) == ("unknown_order", "2d-never", "yookassa")


async def test_a_webhook_is_replayed_by_asking_its_provider(open_shop: Open) -> None:
    shop = await open_shop()
    order = await shop.order()
    shop.simulator.knobs.failing = 1
    await shop.simulator.act("pay", order["payment"])
    await shop.simulator.settle()
    assert shop.simulator.sent == [("yookassa", 503)]
    (hook,) = await shop.verb("webhooks")
    assert hook["verdict"] == "unavailable"
    assert await shop.verb("replay", id=str(hook["id"])) == {
        "id": hook["id"],
        "verdict": "credited",
        "status": 200,
    }
    with pytest.raises(NotFound):
        await shop.verb("replay", id="999")
    with pytest.raises(InvalidRequest):
        await shop.verb("replay", id="one")


async def test_questions_that_strangers_cause_are_bounded(
    open_shop: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await open_shop()
    order = await shop.order()
    monkeypatch.setattr("tokenhub_proxy.payments.desk.LOOKS_MAX", 4)
    shop.simulator.knobs.slow_s = 0.2

    def claim(number: int) -> bytes:
        what = {"id": f"made-up-{number}", "metadata": {"order_id": order["id"]}}
        return json.dumps({"type": "notification", "event": "payment.succeeded", "object": what}).encode()

    statuses = await asyncio.gather(
        *(post(f"{shop.webhooks}/yookassa", claim(number)) for number in range(12))
    )
    assert statuses.count(503) >= 8
    shop.simulator.knobs.slow_s = 0.0
    await shop.simulator.act("pay", order["payment"])
    await shop.simulator.settle()
    assert (await shop.state(order["id"]), shop.balance) == ("paid", 10 * USD)


async def test_what_changes_nothing_fills_no_log(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenhub_proxy.payments.webhooks.STRANGERS_PER_MINUTE", 3)
    monkeypatch.setattr(shop.office.desk, "clock", lambda: 1_795_341_600.0)
    for _ in range(10):
        await post(f"{shop.webhooks}/yookassa", b"nonsense")
    assert await shop.verdicts() == ["refused:malformed"] * 3


async def test_an_order_that_the_provider_refuses_is_closed_with_its_reason(shop: Shop) -> None:
    async def refuse(request: Any) -> Any:
        from aiohttp import web

        return web.json_response({"type": "error", "description": "Shop is blocked"}, status=403)

    shop.simulator._create_payment = refuse  # type: ignore[method-assign]
    router = shop.simulator._runner.app.router  # type: ignore[union-attr]
    for route in router.routes():
        if route.resource.canonical == "/v3/payments":
            route._handler = refuse
    order = await shop.order()
    assert order["state"] == "canceled"
    assert "Shop is blocked" in order["note"]


async def test_an_invoice_waits_for_the_operator(shop: Shop) -> None:
    order = await shop.order("operator")
    assert (order["state"], order["redirect_url"]) == ("pending", None)
    with pytest.raises(InvalidRequest, match="reason"):
        await shop.verb("complete", id=order["id"])
    done = await shop.verb("complete", id=order["id"], note="bank transfer 5", actor="root")
    assert (done["state"], done["note"], shop.balance) == ("paid", "bank transfer 5 (by root)", 10 * USD)
    back = await shop.verb("refund", id=order["id"], outside=True, note="sent back")
    assert (back["state"], shop.balance) == ("refunded", 0)


async def test_codes_are_shown_once_and_redeemed_once(shop: Shop) -> None:
    made = await shop.verb("codes create", amount="5.00", count="3", expires="30d", note="a fair")
    assert len({one["code"] for one in made}) == 3
    typed = made[0]["code"].lower().replace("-", " ")
    order = await shop.verb("redeem", account="main", code=typed)
    assert (order["state"], order["provider"], shop.balance) == ("paid", "codes", 5 * USD)
    for code in (made[0]["code"], "TH-00000-00000-00000-00000", "", "x" * 1000):
        with pytest.raises(NotFound, match="No such code"):
            await shop.verb("redeem", account="main", code=code)
    listed = json.dumps(await shop.verb("codes list"))
    assert not any(one["code"] in listed for one in made)
    assert shop.balance == 5 * USD


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"amount": "0.99"}, "from 1.00 to 1000.00"),
        ({"amount": "1000.01"}, "from 1.00 to 1000.00"),
        ({"amount": "ten"}, "decimal"),
        ({"provider": "stripe"}, "there is yookassa"),
        ({"method": "cash"}, "it has bank_card"),
        ({"account": "nobody"}, "no account"),
    ],
)
async def test_what_can_t_be_ordered_is_told(shop: Shop, arguments: dict[str, str], told: str) -> None:
    asked = {"account": "main", "amount": "10.00", "provider": "yookassa", **arguments}
    with pytest.raises((InvalidRequest, NotFound), match=told):
        await shop.verb("create", **asked)
    assert await shop.verb("orders") == []


async def test_an_account_sees_its_own_orders_alone(shop: Shop) -> None:
    order = await shop.order()
    assert [one["id"] for one in await shop.verb("orders", account="main")] == [order["id"]]
    assert await shop.verb("orders", account="default") == []
    assert (await shop.verb("show", id=order["id"], account="main"))["id"] == order["id"]
    with pytest.raises(NotFound):
        await shop.verb("show", id=order["id"], account="default")


async def test_the_rate_is_the_central_bank_s_and_stays_the_order_s(open_shop: Open) -> None:
    shop = await open_shop()
    from dataclasses import replace

    desk = shop.office.desk
    url = f"{shop.simulator.url}/scripts/XML_daily.asp"
    desk.settings = replace(desk.settings, rate_fixed=None, rate_url=url, markup=20_000)
    assert (await shop.order())["rate"] == "81.6"
    desk.settings = replace(desk.settings, rate_url="http://127.0.0.1:9/")
    assert (await shop.order())["rate"] == "81.6"
    desk._rate = None
    with pytest.raises(UpstreamUnavailable, match="rate"):
        await shop.order()


async def test_a_live_shop_does_not_credit_test_payments(shop: Shop) -> None:
    from dataclasses import replace

    desk = shop.office.desk
    live = {
        name: replace(one, test=False) for name, one in desk.settings.providers.items() if name != "operator"
    }
    desk.settings = replace(desk.settings, providers=live)
    order = await shop.order()
    await shop.simulator.act("pay", order["payment"])
    await shop.simulator.settle()
    assert (await shop.state(order["id"]), shop.balance) == ("needs_review", 0)
    assert await shop.verdicts() == ["wrong_mode"]


async def test_orders_that_nobody_pays_expire_and_are_credited_all_the_same(open_shop: Open) -> None:
    shop = await open_shop(first_s=0.05, silent=True)
    desk = shop.office.desk
    offset = 0.0
    desk.clock = lambda: time.time() + offset
    order = await shop.order()
    offset = 49 * 3600.0
    await shop.until(order["id"], "expired")
    await shop.simulator.act("pay", order["payment"])
    assert (await shop.verb("look", id=order["id"]))["verdict"] == "credited"
    assert shop.balance == 10 * USD


async def test_the_simulator_s_pages_pay_and_lead_back(shop: Shop) -> None:
    order = await shop.order()
    async with aiohttp.ClientSession() as session:
        async with session.get(order["redirect_url"]) as page:
            assert "828.00 RUB" in await page.text()
        url = f"{shop.simulator.url}/do/pay/{order['payment']}"
        async with session.post(url, data={"back": "1"}, allow_redirects=False) as answer:
            assert answer.headers["Location"] == f"https://hub.example/orders/{order['id']}"
        async with session.post(
            f"{shop.simulator.url}/knobs", data={"duplicate": "2", "forged": "on"}
        ) as page:
            assert "checked" in await page.text()
        async with session.post(
            f"{shop.simulator.url}/transfer", data={"address": ADDRESS, "amount": "1.5"}
        ) as page:
            assert "1500000" in await page.text()
    await shop.simulator.settle()
    assert shop.simulator.knobs.duplicate == 2
    assert await shop.state(order["id"]) == "paid"
