"""Topping up in a real browser: ordered, paid at a simulated provider on another site, and used."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import openai
import pytest

from tests.browsing import visitor
from tests.conftest import KEY
from tests.payments.conftest import ADDRESS, Open, Shop
from tests.test_browser import (
    EVERY_DRESS,
    NARROW,
    SHOTS,
    WIDE,
    Complaints,
    browser,
    dresses_in_turn,
    look,
    opened,
    pytestmark,
    serious,
    submit,
)
from tokenhub_proxy.ledger.orders import Log, Webhook

__all__ = ["browser", "pytestmark"]

USD = 10**9
OWNERS_PAGES = {
    "top-up": "/dashboard/top-up",
    "top-up-tron": "/dashboard/top-up?way=tron.usdt_trc20&preset=other&amount=33.5",
    "top-up-refused": "/dashboard/top-up?preset=other&amount=ten",
    "orders": "/dashboard/orders",
    "balance-top-up": "/dashboard/balance",
}
OPERATORS_PAGES = {
    "desk": "/dashboard/desk",
    "desk-review": "/dashboard/desk?state=needs_review",
    "desk-webhooks": "/dashboard/desk/webhooks",
    "desk-codes": "/dashboard/desk/codes",
    "desk-settings": "/dashboard/desk/settings",
}
LOCALES = {"en": "en-GB", "ru": "ru-RU"}
PASSWORD = "correct horse battery"


@pytest.fixture
async def hub(open_shop: Open) -> Shop:
    """A hub whose providers live on another site than itself, as real ones do."""
    shop = await open_shop(first_s=0.2)
    away(shop)
    return shop


def away(shop: Shop) -> None:
    """`localhost` is another site than `127.0.0.1` to a browser: cookies and policies see a stranger."""
    shop.simulator.url = shop.simulator.url.replace("127.0.0.1", "localhost")
    back = f"{shop.running.url}/dashboard/orders/{{order}}"
    for provider in shop.office.desk.settings.providers.values():
        if hasattr(provider, "return_url"):
            object.__setattr__(provider, "return_url", back)


async def owner_of_main(shop: Shop) -> str:
    """Invites somebody; gives the link."""
    verbs = shop.running.proxy.administration.verbs
    return str((await verbs["users invite"]({"name": "ann", "account": "main"}))["link"])


async def ask(shop: Shop) -> str:
    """A completion by the official SDK."""
    client = openai.AsyncOpenAI(base_url=shop.running.base_url, api_key=KEY, max_retries=0)
    async with client:
        made = await client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "Hello"}], max_tokens=20
        )
    return str(made.choices[0].message.content)


async def signed_in(shop: Shop, page: Any) -> None:
    await page.goto(await owner_of_main(shop))
    await page.fill("#new_password", PASSWORD)
    await page.fill("#again", PASSWORD)
    await submit(page, "main button.main")


async def ordered(page: Any, url: str, way: str, scripts: bool) -> None:
    """Choose 10 USD and a way, see the price, agree to it."""
    await page.goto(f"{url}/dashboard/balance")
    await submit(page, "a[href='/dashboard/top-up']")
    # The chips and cards are labels over their radios, as people click them.
    await page.check("input[name=preset][value='10']", force=True)
    await page.check(f"input[name=way][value='{way}']", force=True)
    if scripts:
        await page.wait_for_selector(f"#quote input[name=way][value='{way}']", state="attached")
    else:
        await submit(page, "noscript button, form#choose button")
        assert await page.get_attribute("#quote input[name=way]", "value") == way


@pytest.mark.parametrize(
    ("language", "scripts"),
    [
        pytest.param("en", True, id="English, with scripts"),
        pytest.param("ru", False, id="Russian, without scripts"),
        pytest.param("ru", True, id="Russian, with scripts", marks=pytest.mark.long),
        pytest.param("en", False, id="English, without scripts", marks=pytest.mark.long),
    ],
)
async def test_ten_dollars_by_card_and_in_tether_three_times_over(
    hub: Shop, browser: Any, language: str, scripts: bool
) -> None:
    """By card, through Crypto Pay and over TRC-20: each makes the balance grow, and calls go through."""
    complaints = Complaints()
    page = await opened(
        browser, complaints, None, hub.running.url, java_script_enabled=scripts, locale=LOCALES[language]
    )
    await signed_in(hub, page)
    with pytest.raises(openai.APIStatusError) as refused:
        await ask(hub)
    assert refused.value.status_code == 402

    for way in ("yookassa.bank_card", "cryptopay.usdt"):
        before = hub.balance
        await ordered(page, hub.running.url, way, scripts)
        # An impatient hand orders once, however slow the provider is; without scripts nobody can help it.
        hub.simulator.knobs.slow_s = 0.3
        await page.click("#pay", click_count=2 if scripts else 1, delay=40)
        await page.wait_for_url(f"{hub.simulator.url}/pay/**")
        order = hub.simulator.payments[page.url.rpartition("/")[2]].order
        hub.simulator.knobs.slow_s = 0.0
        assert hub.balance == before
        await page.click("#pay")
        await page.wait_for_url(f"{hub.running.url}/dashboard/orders/{order}")
        await page.wait_for_selector("#order-state.paid")
        assert hub.balance == before + 10 * USD
        assert await ask(hub)

    before = hub.balance
    await ordered(page, hub.running.url, "tron.usdt_trc20", scripts)
    await submit(page, "#pay")
    amount = await page.inner_text("#amount")
    assert re.fullmatch(r"10\.\d{2,4}", amount)
    assert await page.inner_text("#address") == ADDRESS
    assert await page.locator("figure.code svg").count() == 1
    hub.simulator.transfer(ADDRESS, round(float(amount) * 10**6))
    await page.wait_for_selector("#order-state.paid", timeout=20_000)
    if scripts:
        assert await page.locator("#address").count() == 0
    assert hub.balance == before + round(float(amount) * 10**6) * 1000
    assert await ask(hub)
    await page.goto(f"{hub.running.url}/dashboard/orders")
    assert await page.locator(".orders tbody tr").count() == 3
    assert await page.locator(".orders .state.active").count() == 3
    assert not complaints, "\n".join(complaints)


async def history(shop: Shop) -> dict[str, str]:
    """Orders in every state, webhooks with every kind of verdict, codes; gives the orders' ids."""
    simulator, ids = shop.simulator, {}
    paid = await shop.order("yookassa", amount="25.00")
    await simulator.act("pay", paid["payment"])
    part = await shop.order("yookassa", amount="50.00", method="sbp")
    await simulator.act("pay", part["payment"])
    away_ = await shop.order("yookassa")
    await simulator.act("cancel", away_["payment"])
    await simulator.settle()
    await shop.verb("refund", id=part["id"], amount="1035.00", note="a quarter was not needed", actor="root")
    whole = await shop.order("cryptopay", amount="5.00")
    await simulator.act("pay", whole["payment"])
    await simulator.settle()
    await shop.verb("refund", id=whole["id"], outside=True, note="sent back by hand", actor="root")
    simulator.knobs.wrong_sum = simulator.knobs.forged = True
    wrong = await shop.order("yookassa", amount="100.00")
    await simulator.act("pay", wrong["payment"])
    await simulator.settle()
    simulator.knobs.wrong_sum = simulator.knobs.forged = False
    waiting = await shop.order("yookassa")
    by_hand = await shop.order("operator", amount="40.00")
    tron = await shop.order("tron", amount="20.00")
    (code, *_) = await shop.verb(
        "codes create", amount="5.00", count="4", expires="30d", note="For the meetup"
    )
    used = await shop.verb("redeem", account="main", code=code["code"])
    desk = shop.office.desk
    for verdict in ("unknown_order", "refused:bad_signature", "unmatched"):
        hook = Webhook(desk.clock(), "cryptopay", "203.0.113.9", 612, "invoice_paid", "4711", "", verdict)
        await desk.book.take(Log(hook))
    for name, order in {
        "paid": paid, "part": part, "canceled": away_, "refunded": whole, "review": wrong, "waiting": waiting,
        "by-hand": by_hand, "tron": tron, "code": used,
    }.items():  # fmt: skip
        ids[name] = str(order["id"])
    return ids


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)], ids=["turns", "every"])
async def test_every_page_of_payments_is_well_in_every_dress(
    open_shop: Open, browser: Any, every: bool
) -> None:
    """By turns each page in two dresses, one of each language; all eight where somebody looks at them."""
    shop, complaints = await open_shop(), Complaints()
    away(shop)
    ids = await history(shop)
    owner, operator = await visitor(shop.running, "ann", "main"), await visitor(shop.running, "root")
    orders = {f"order-{name}": f"/dashboard/orders/{id}" for name, id in ids.items()}
    owners = {**OWNERS_PAGES, **orders}
    operators = {
        **OPERATORS_PAGES,
        **{f"desk-order-{name}": orders[f"order-{name}"] for name in ("part", "review", "waiting")},
    }
    pages = [
        (secret, name, path)
        for secret, group in ((owner.secret, owners), (operator.secret, operators))
        for name, path in group.items()
    ]

    async def in_a_dress(dress: tuple[str, str, str], secret: str) -> int:
        language, theme, size = dress
        page = await opened(
            browser, complaints, secret, shop.running.url, viewport=WIDE if size == "wide" else NARROW,
            color_scheme=theme, locale=LOCALES[language], timezone_id="UTC",
        )  # fmt: skip
        seen = 0
        for place, (whose, name, path) in enumerate(pages):
            if whose == secret and (every or SHOTS or dress in dresses_in_turn(place)):
                await page.goto(shop.running.url + path, wait_until="load")
                await look(page, f"pay-{name}-{language}-{theme}-{size}")
                complaints.extend(f"{name} {dress}: {line}" for line in await serious(page))
                wide = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
                if wide > 0:
                    complaints.append(f"{name} {dress}: {wide} px wider than the screen")
                seen += 1
        await page.context.close()
        return seen

    seen = [
        count
        for dress in EVERY_DRESS
        for count in await asyncio.gather(
            *(in_a_dress(dress, secret) for secret in (owner.secret, operator.secret))
        )
    ]
    assert sum(seen) == len(pages) * (len(EVERY_DRESS) if every or SHOTS else 2)
    assert not complaints, "\n".join(complaints)
