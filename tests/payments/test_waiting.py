"""What is found without a webhook: refunds in a provider's cabinet, and payments that somebody waits for."""

from __future__ import annotations

import time

import pytest

from tests.payments.conftest import Open, Shop
from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.payments import refund_watch
from tokenhub_proxy.payments.refund_watch import RefundWatch

USD = 10**9
HOUR_S = 3600.0


class Hours:
    """The desk's clock, some hours ahead."""

    def __init__(self, shop: Shop) -> None:
        self.ahead = 0.0
        shop.office.desk.clock = lambda: time.time() + self.ahead * HOUR_S


async def paid(shop: Shop) -> str:
    order = await shop.order()
    await shop.simulator.act("pay", order["payment"])
    assert (await shop.verb("look", id=order["id"]))["state"] == "paid"
    return str(order["id"])


async def asked(shop: Shop, watch: RefundWatch, hours: Hours, span: range) -> int:
    """How often the provider was asked in these hours."""
    count = 0
    look = shop.office.desk.look

    async def counted(id: str, payment: str | None = None) -> object:
        nonlocal count
        count += 1
        return await look(id, payment)

    shop.office.desk.look = counted
    for hour in span:
        hours.ahead = float(hour)
        await watch.round()
    shop.office.desk.look = look
    return count


async def test_a_refund_whose_webhook_was_lost_is_found_and_booked_once(open_shop: Open) -> None:
    shop = await open_shop(silent=True)
    hours, watch = Hours(shop), RefundWatch(shop.office.desk)
    id = await paid(shop)
    payment = shop.simulator.payments[(await shop.verb("show", id=id))["payment"]]
    await shop.simulator._refund(payment, "207.00")
    await watch.round()
    assert shop.balance == 10 * USD  # not so soon

    hours.ahead = 1.1
    for _ in range(3):
        await watch.round()
    found = await shop.verb("show", id=id)
    assert (found["state"], found["refunded"], shop.balance) == ("paid", "207.00", 7_500_000_000)

    await shop.simulator.act("refund", payment.id)
    hours.ahead = 3.0
    for _ in range(3):
        await watch.round()
    assert (await shop.state(id), shop.balance) == ("refunded", 0)
    assert [kind for kind, _ in await shop.entries()] == ["credit", "debit", "debit"]


async def test_a_payment_is_asked_about_rarely_and_for_thirty_days(open_shop: Open) -> None:
    shop = await open_shop(silent=True)
    hours, watch = Hours(shop), RefundWatch(shop.office.desk)
    await paid(shop)

    days = [await asked(shop, watch, hours, range(24 * day, 24 * day + 24)) for day in range(33)]

    assert 8 <= days[0] <= 12
    assert set(days[7:29]) <= {0, 1, 2}
    assert sum(days) <= 60
    assert days[31:] == [0, 0]


async def test_what_is_due_at_once_after_a_restart_is_asked_about_in_parts(
    open_shop: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await open_shop(silent=True)
    monkeypatch.setattr(refund_watch, "ROUND_MAX", 2)
    monkeypatch.setattr(refund_watch, "PAGE", 2)
    hours, watch = Hours(shop), RefundWatch(shop.office.desk)
    ids = [await paid(shop) for _ in range(5)]
    hours.ahead = 2.0
    for _ in range(3):
        assert await asked(shop, watch, hours, range(2, 3)) <= 2
    assert set(watch._asked_at) == set(ids)


async def test_a_provider_that_is_down_stops_no_other_question(open_shop: Open) -> None:
    shop = await open_shop(silent=True)
    hours, watch = Hours(shop), RefundWatch(shop.office.desk)
    ids = [await paid(shop) for _ in range(2)]
    for taken in list(shop.simulator.payments.values()):
        await shop.simulator.act("refund", taken.id)
    shop.simulator.knobs.failing = 1
    hours.ahead = 2.0
    await watch.round()
    assert sorted([await shop.state(id) for id in ids]) == ["paid", "refunded"]
    hours.ahead = 4.0
    await watch.round()
    assert shop.balance == 0


async def test_an_order_that_somebody_waits_for_is_asked_about_at_once(open_shop: Open) -> None:
    shop = await open_shop(silent=True)  # and the watch would ask in an hour
    order = await shop.order()
    await shop.simulator.act("pay", order["payment"])
    await shop.verb("show", id=order["id"], waiting=True)
    await shop.until(order["id"], "paid")
    assert shop.balance == 10 * USD


async def test_nobody_pays_another_price_than_the_one_that_was_told(shop: Shop) -> None:
    with pytest.raises(InvalidRequest, match="price has changed"):
        await shop.order(agreed="827.00 RUB")
    assert await shop.verb("orders") == []
    assert (await shop.order(agreed="828.00 RUB"))["state"] == "pending"
    assert len(await shop.verb("orders", provider="yookassa")) == 1
    assert await shop.verb("orders", provider="tron") == []
