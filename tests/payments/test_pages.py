"""The pages of payments over real sockets: what they promise, refuse, ask again for, and put on record."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import pytest

from tests.browsing import Seen, Visitor, visitor
from tests.payments.conftest import ADDRESS, Open, Shop
from tokenhub_proxy.dashboard import order_words
from tokenhub_proxy.dashboard.access import CONFIRMED_S
from tokenhub_proxy.dashboard.qr import drawing
from tokenhub_proxy.dashboard.words import Words
from tokenhub_proxy.payments.yookassa import Receipt
from tokenhub_proxy.users import COMMAND_LINE

USD = 10**9
CARD = {"way": "yookassa.bank_card", "amount": "10", "agreed": "828.00 RUB"}


@pytest.fixture
async def owner(shop: Shop) -> Visitor:
    return await visitor(shop.running, "ann", "main")


@pytest.fixture
async def operator(shop: Shop) -> Visitor:
    return await visitor(shop.running, "root")


async def paid(shop: Shop, provider: str = "yookassa") -> str:
    order = await shop.order(provider)
    await shop.simulator.act("pay", order["payment"])
    await shop.simulator.settle()
    return str(order["id"])


async def acts(shop: Shop) -> list[tuple[str, str, str]]:
    """Who did what to what, the oldest first."""
    trail = await shop.running.ledger.people.acts()
    return [(act.actor, act.verb, act.subject) for act in reversed(trail) if act.verb.startswith("payments")]


def order_in(seen: Seen) -> str:
    found = re.fullmatch(r"/dashboard/orders/(ord_\w+)(\?go=1)?", seen.location)
    assert found, (seen.status, seen.location, seen.text)
    return found[1]


async def test_the_price_is_shown_before_anybody_agrees(shop: Shop, owner: Visitor) -> None:
    seen = await owner.get("/dashboard/top-up?preset=10&way=yookassa.sbp")
    for told in ("828.00\u202f₽", "28.00\u202f₽", "$1.00 = 80.00\u202f₽", "3.5%"):
        assert told in seen.text
    assert await shop.verb("orders") == []
    panel = await owner.get("/dashboard/top-up/quote?preset=other&amount=20,5&way=cryptopay.usdt")
    assert "<html" not in panel.text
    assert "$20.50" in panel.text
    for wrong in ("0.5", "1000.01", "ten", "-1", "1e3", "9" * 400):
        refused = await owner.get(f"/dashboard/top-up?preset=other&amount={wrong}")
        assert (refused.status, "agreed" in refused.text) == (200, False), wrong
        assert "from $1.00 to $1,000.00" in refused.text


async def test_an_order_leads_on_from_a_page_of_ours(shop: Shop, owner: Visitor) -> None:
    """`form-action 'self'` forbids that a form is answered with a redirect to another site."""
    made = await owner.post("/dashboard/orders", CARD)
    id = order_in(made)
    assert (made.status, made.location) == (303, f"/dashboard/orders/{id}?go=1")
    url = (await shop.verb("show", id=id))["redirect_url"]
    going = await owner.get(made.location)
    assert f'<meta http-equiv="refresh" content="0;url={url}">' in going.text
    assert f'href="{url}"' in going.text
    assert await acts(shop) == [("ann", "payments create", "main")]
    back = await owner.get(f"/dashboard/orders/{id}")
    assert "0;url=" not in back.text
    assert "5;url=/dashboard/orders/" in back.text
    assert (await shop.state(id), shop.balance) == ("pending", 0)


async def test_a_price_that_has_changed_is_shown_again(shop: Shop, owner: Visitor) -> None:
    desk = shop.office.desk
    desk.settings = replace(desk.settings, rate_fixed=90_000_000)
    seen = await owner.post("/dashboard/orders", CARD)
    assert seen.status == 400
    assert "The price has changed" in seen.text
    assert 'value="931.50 RUB"' in seen.text
    assert await shop.verb("orders") == []


async def test_where_a_receipt_is_due_an_address_is_asked_for(shop: Shop, owner: Visitor) -> None:
    desk = shop.office.desk
    yookassa = replace(desk.settings.providers["yookassa"], receipt=Receipt(1))
    desk.settings = replace(desk.settings, providers={**desk.settings.providers, "yookassa": yookassa})
    assert 'name="customer" type="email" required' in (await owner.get("/dashboard/top-up")).text
    assert 'name="customer"' not in (await owner.get("/dashboard/top-up?way=cryptopay.usdt")).text
    refused = await owner.post("/dashboard/orders", CARD)
    assert (refused.status, "An e-mail address for the receipt is needed." in refused.text) == (400, True)
    made = await owner.post("/dashboard/orders", {**CARD, "customer": "ann@example.com"})
    assert (await shop.state(order_in(made))) == "pending"


async def test_without_a_rate_no_price_is_told(shop: Shop, owner: Visitor) -> None:
    desk = shop.office.desk
    desk.settings = replace(desk.settings, rate_fixed=None, rate_url="http://127.0.0.1:9/")
    seen = await owner.get("/dashboard/top-up", **{"Accept-Language": "ru"})
    assert (seen.status, "Сейчас не получается узнать курс рубля" in seen.text) == (200, True)
    assert 'name="agreed"' not in seen.text


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "/dashboard", "ftp://x/", "", None]
)
def test_only_web_pages_are_led_to(url: str | None) -> None:
    assert order_words.page_to_pay({"state": "pending", "redirect_url": url}) is None


async def test_coming_back_proves_nothing_and_the_panel_tells_what_is_new(shop: Shop, owner: Visitor) -> None:
    order = await shop.order("cryptopay")
    page = await owner.get(f"/dashboard/orders/{order['id']}")
    poll = re.search(r'hx-get="([^"]+)" hx-trigger="every 3s"', page.text)
    assert poll, page.text
    panel = await owner.get(poll[1])
    assert (panel.status, panel.text) == (204, "")
    assert shop.balance == 0
    await shop.simulator.act("pay", order["payment"])
    await shop.simulator.settle()
    panel = await owner.get(poll[1])
    assert panel.status == 200
    assert "hx-get" not in panel.text
    assert "$10.00 came to the balance. It is $10.00 now." in panel.text


async def test_a_transfer_s_page_has_address_sum_and_code(shop: Shop, owner: Visitor) -> None:
    made = await owner.post(
        "/dashboard/orders", {"way": "tron.usdt_trc20", "amount": "10", "agreed": "10.000000 USDT"}
    )
    assert not made.location.endswith("?go=1")
    seen = await owner.get(made.location)
    amount = (await shop.verb("show", id=order_in(made)))["amount"]
    assert f">{order_words.exact(amount)}</code>" in seen.text
    assert f">{ADDRESS}</code>" in seen.text
    assert drawing(ADDRESS).path in seen.text
    assert "47 hours left." in seen.text
    russian = await owner.get(made.location, **{"Accept-Language": "ru"})
    assert "Осталось 47 часов." in russian.text


async def test_somebody_else_s_orders_are_not_there(shop: Shop, owner: Visitor) -> None:
    id = await paid(shop)
    stranger = await visitor(shop.running, "bob", "other")
    for path in (f"/dashboard/orders/{id}", f"/dashboard/orders/{id}/panel"):
        assert (await stranger.get(path)).status == 404
    assert id not in (await stranger.get("/dashboard/orders?account=main")).text
    assert id in (await owner.get("/dashboard/orders")).text
    made = await stranger.post("/dashboard/orders", {**CARD, "account": "main"})
    assert (await shop.verb("show", id=order_in(made)))["account"] == "other"
    for who in (owner, stranger):
        done = await who.post(f"/dashboard/orders/{id}/act", {"act": "refund", "note": "x"})
        assert done.status == 403


async def test_wrong_codes_make_the_next_one_wait(shop: Shop, owner: Visitor) -> None:
    (made,) = await shop.verb("codes create", amount="5.00")
    for _ in range(5):
        seen = await owner.post("/dashboard/redeem", {"code": "TH-00000-00000-00000-00000"})
        assert (seen.status, "No such code" in seen.text) == (404, True)
    seen = await owner.post("/dashboard/redeem", {"code": made["code"]})
    assert seen.status == 429
    assert int(seen.headers["retry-after"]) > 0
    assert shop.balance == 0


async def test_a_code_is_made_at_the_desk_and_redeemed_by_its_finder(
    shop: Shop, owner: Visitor, operator: Visitor
) -> None:
    asked = {"amount": "5.00", "count": "2", "expires": "30d", "note": "For the meetup"}
    seen = await operator.post("/dashboard/desk/codes", asked)
    codes = re.findall(r"TH(?:-[0-9A-Z]{5}){4}", seen.text)
    assert len(codes) == 2
    listed = await operator.get("/dashboard/desk/codes")
    assert not any(code in listed.text for code in codes)
    assert listed.text.count("For the meetup") == 2
    made = await owner.post("/dashboard/redeem", {"code": codes[0].lower()})
    assert (await shop.state(order_in(made)), shop.balance) == ("paid", 5 * USD)
    assert [act[:2] for act in await acts(shop)] == [
        ("root", "payments codes create"),
        ("ann", "payments redeem"),
    ]
    assert codes[0] not in str(await shop.running.ledger.people.acts())


async def test_the_desk_refunds_a_part_and_completes_by_hand(shop: Shop, operator: Visitor) -> None:
    id = await paid(shop)
    part = {"act": "refund", "amount": "207,00", "note": "a quarter"}
    assert (await operator.post(f"/dashboard/orders/{id}/act", part)).status == 303
    assert shop.balance == 7_500_000_000
    order = await shop.order("operator")
    done = {"act": "complete", "note": "paid in cash"}
    await operator.post(f"/dashboard/orders/{order['id']}/act", done)
    found = await shop.verb("show", id=order["id"])
    assert (found["state"], found["note"]) == ("paid", "paid in cash (by root)")
    await operator.post(f"/dashboard/orders/{order['id']}/act", {"act": "outside", "note": "sent back"})
    assert (await shop.state(order["id"]), shop.balance) == ("refunded", 7_500_000_000)
    assert await acts(shop) == [
        ("root", "payments refund", id),
        ("root", "payments complete", order["id"]),
        ("root", "payments refund", order["id"]),
    ]


@pytest.mark.parametrize("act", ["complete", "cancel", "refund", "outside"])
async def test_what_is_dangerous_needs_a_reason_and_the_password(
    shop: Shop, operator: Visitor, act: str
) -> None:
    id = await paid(shop) if act in ("refund", "outside") else str((await shop.order())["id"])
    before = (await shop.state(id), shop.balance)
    path = f"/dashboard/orders/{id}/act"
    seen = await operator.post(path, {"act": act})
    assert (seen.status, "Say why" in seen.text) == (400, True)
    people = shop.running.ledger.people
    (session,) = people.sessions_of("usr_root")
    await people.put_session(replace(session, confirmed_at=session.confirmed_at - CONFIRMED_S))
    seen = await operator.post(path, {"act": act, "note": "because"})
    assert (seen.status, "Your password is needed" in seen.text) == (400, True)
    codes = await operator.post("/dashboard/desk/codes", {"amount": "5.00"})
    assert (codes.status, "TH-" in codes.text.replace("TH-7K3QZ", "")) == (400, False)
    assert (await shop.state(id), shop.balance) == before
    assert await acts(shop) == []


async def test_the_desk_tells_what_differs_and_ends_the_review(open_shop: Open) -> None:
    shop = await open_shop(wrong_sum=True)
    operator = await visitor(shop.running, "root")
    id = await paid(shop)
    assert "1 order needs your decision" in (await operator.get("/dashboard/desk")).text
    queue = await operator.get("/dashboard/desk?state=needs_review", **{"Accept-Language": "ru"})
    assert "Оплачено 829,00\u202f₽, а не 828,00\u202f₽" in queue.text
    owner = await visitor(shop.running, "ann", "main")
    assert "no money is lost" in (await owner.get(f"/dashboard/orders/{id}")).text
    await operator.post(f"/dashboard/orders/{id}/act", {"act": "complete", "note": "a ruble more is fine"})
    assert (await shop.state(id), shop.balance) == ("paid", 10 * USD)


async def test_webhooks_are_listed_with_verdicts_and_replayed(open_shop: Open) -> None:
    shop = await open_shop()
    operator = await visitor(shop.running, "root")
    order = await shop.order()
    shop.simulator.knobs.failing = 1
    await shop.simulator.act("pay", order["payment"])
    await shop.simulator.settle()
    seen = await operator.get("/dashboard/desk/webhooks")
    assert "provider out of reach" in seen.text
    path = re.search(r"/dashboard/desk/webhooks/\d+/replay", seen.text)
    assert path
    replayed = await operator.post(path[0])
    assert "once more: credited." in replayed.text
    assert 'name="next" value="/dashboard/desk/webhooks"' in replayed.text
    assert shop.balance == 10 * USD


async def test_the_settings_tell_what_is_live_and_no_secret(shop: Shop, operator: Visitor) -> None:
    seen = await operator.get("/dashboard/desk/settings")
    assert seen.text.count(">TEST<") == 3
    assert "3 providers take play money" in seen.text
    assert f"{shop.running.url}/payments/webhooks/yookassa" in seen.text
    assert "test_sss" not in seen.text
    assert "12345:AA" not in seen.text


async def test_nothing_that_others_wrote_is_markup(shop: Shop, owner: Visitor, operator: Visitor) -> None:
    """A stranger's webhook, a reason, a note, a code, an order's name, a filter."""
    payload = '"><script>hurt()</script>'
    order = await shop.order("operator")
    said = {
        "type": "notification",
        "event": payload,
        "object": {"id": "x", "metadata": {"order_id": payload}},
    }
    async with aiohttp.ClientSession() as session:
        await session.post(f"{shop.webhooks}/yookassa", data=json.dumps(said))
    await shop.verb("codes create", amount="1.00", note=payload)
    await operator.post(f"/dashboard/orders/{order['id']}/act", {"act": "complete", "note": payload})
    seen = [
        await owner.post("/dashboard/redeem", {"code": payload}),
        await owner.post("/dashboard/orders", {"way": payload, "amount": payload, "agreed": payload}),
        await owner.get(
            f"/dashboard/top-up?{urlencode({'preset': payload, 'amount': payload, 'way': payload})}"
        ),
        await owner.get(f"/dashboard/orders/{order['id']}"),
        await operator.get(f"/dashboard/orders/{quote(payload, safe='')}"),
        *[await operator.get(f"/dashboard/desk{page}") for page in ("", "/webhooks", "/codes", "/settings")],
    ]
    told = 0
    for page in seen:
        assert "<script>hurt" not in page.text
        told += "&lt;script&gt;hurt" in page.text
    assert told >= 5


async def test_scripts_do_the_same_behind_a_token(shop: Shop) -> None:
    made = await shop.running.proxy.administration.perform("tokens create", {"name": "script"}, COMMAND_LINE)

    async def ask(method: str, path: str, status: int = 200, **body: Any) -> Any:
        headers = {"Authorization": f"Bearer {made['secret']}"}
        data = json.dumps(body) if body else None
        async with aiohttp.ClientSession(headers=headers) as session:
            answer = await session.request(method, f"{shop.running.url}/api/{path}", data=data)
            assert answer.status == status, await answer.text()
            return await answer.json()

    price = await ask("GET", "payments/quote?amount=10&provider=yookassa")
    assert price["amount"] == "828.00"
    order = await ask("POST", "orders", account="main", amount="10", provider="operator")
    done = await ask("POST", f"orders/{order['id']}/complete", note="cash")
    assert (done["state"], done["note"]) == ("paid", "cash (by script)")
    await ask("POST", f"orders/{order['id']}/complete", 400, note="cash", actor="root")
    back = await ask("POST", f"orders/{order['id']}/refund", outside=True, note="sent back", amount="2.50")
    assert (back["returned_usd"], shop.balance) == ("2.50", 7_500_000_000)
    (code,) = await ask("POST", "payments/codes", amount="5.00", count=1)
    await ask("POST", "accounts/main/redeem", code=code["code"])
    await ask("POST", "accounts/main/redeem", 404, code=code["code"])
    assert [one["provider"] for one in await ask("GET", "orders?state=paid")] == ["codes", "operator"]
    assert len((await ask("GET", f"orders/{order['id']}"))["events"]) == 4
    await ask("GET", "orders/ord_nowhere", 404)
    assert await ask("GET", "payments/webhooks") == []


@pytest.mark.parametrize("language", ["en", "ru"])
def test_every_kind_of_step_state_and_verdict_has_words(language: str) -> None:
    from typing import get_args

    from tokenhub_proxy.ledger.orders import State, Verdict
    from tokenhub_proxy.payments.yookassa import METHODS

    t = Words(language)
    silent = {"expired", "refund_asked", "completed", "redeemed", "minted", "logged"}  # of no webhook
    names = [
        *(f"order_state.{state}" for state in get_args(State)),
        *(f"verdict.{one}" for one in get_args(Verdict) if one not in silent),
        *(f"method.{one}" for one in METHODS),
    ]
    assert [name for name in names if not t.has(name)] == []


def test_a_code_is_drawn_whole() -> None:
    import segno

    found, matrix = drawing(ADDRESS), segno.make_qr(ADDRESS, error="m").matrix
    drawn = [[0] * len(matrix) for _ in matrix]
    for x, y, length in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", found.path):
        for place in range(int(length)):
            drawn[int(y) - 4][int(x) - 4 + place] = 1
    assert drawn == [list(row) for row in matrix]
    assert found.size == len(matrix) + 8


def money_of(language: str, text: str, currency: str) -> Any:
    return order_words.money(Words(language), text, currency)


def test_sums_are_written_as_people_do() -> None:
    assert money_of("en", "1234.50", "USD") == "$1,234.50"
    assert money_of("en", "1.189953943", "USD") == "$1.1899"
    assert money_of("en", "828.00", "RUB") == "828.00\u202f₽"
    assert money_of("ru", "1234567.80", "RUB") == "1\u202f234\u202f567,80\u202f₽"
    assert money_of("ru", "10.004200", "USDT") == "10,0042\u202fUSDT"
    assert order_words.exact("10.000000") == "10.00"
