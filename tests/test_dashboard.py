"""The dashboard over real sockets: every page, every form, and who may do what."""

from __future__ import annotations

import re
import time
from typing import Any

import orjson
import pytest

from tests.browsing import Visitor, visitor
from tests.conftest import Running, Serve, one_upstream
from tests.test_server import MESSAGES, ask
from tests.upstream import FakeUpstream
from tokenhub_proxy.dashboard import words
from tokenhub_proxy.dashboard.app import ROUTES
from tokenhub_proxy.ledger.orders import Create, Order

ORDER = "ord_of_acme"
OWNERS_PAGES = [
    "/dashboard",
    "/dashboard/keys",
    "/dashboard/new-key",
    "/dashboard/keys/mine",
    "/dashboard/usage",
    "/dashboard/usage?days=7&by=key",
    "/dashboard/requests",
    "/dashboard/requests?status=failed",
    "/dashboard/balance",
    "/dashboard/top-up",
    "/dashboard/top-up/quote?preset=25",
    "/dashboard/orders",
    f"/dashboard/orders/{ORDER}",
    "/dashboard/models",
    "/dashboard/playground",
    "/dashboard/account",
]
OPERATORS_PAGES = [
    "/dashboard/live",
    "/dashboard/live/panel",
    "/dashboard/upstreams",
    "/dashboard/accounts",
    "/dashboard/accounts/acme",
    "/dashboard/desk",
    "/dashboard/desk?state=needs_review&provider=tron&account=acme",
    "/dashboard/desk/webhooks",
    "/dashboard/desk/codes",
    "/dashboard/desk/settings",
    "/dashboard/people",
    "/dashboard/audit",
    "/dashboard/config",
    "/dashboard/system",
]


@pytest.fixture
async def proxy(serve: Serve, upstream: FakeUpstream) -> Running:
    """As everywhere, and payments are taken by hand."""
    return await serve(one_upstream(upstream.base_url, "payments: {operator: {}}"))


@pytest.fixture
async def operator(proxy: Running) -> Visitor:
    return await visitor(proxy, "root")


@pytest.fixture
async def owner(proxy: Running) -> Visitor:
    """Of the account `acme`, which has a key `mine` and has made a call."""
    return await visitor(proxy, "ann", "acme")


@pytest.fixture
async def secret(proxy: Running, owner: Visitor, upstream: FakeUpstream) -> str:
    """The secret of the key `mine`, after one call of 9,000,000 nanodollars; and an order of acme's."""
    order = Order(ORDER, "acme", "operator", "invoice", 1000, "USD", 10**10, time.time(), time.time() + 9999)
    await proxy.ledger.take(Create(order))
    made = await owner.post("/dashboard/keys", {"name": "mine", "any_model": "yes"})
    secret = re.search(r"sk-th-[0-9A-Za-z]{34}", made.text)
    assert secret, made.text
    status, _, _ = await ask(
        proxy, "POST", "/v1/chat/completions", key=secret[0], json={"model": "m", "messages": MESSAGES}
    )
    assert status == 200
    return secret[0]


@pytest.mark.parametrize("language", words.LANGUAGES)
async def test_every_page_is_there_in_both_languages(
    owner: Visitor, operator: Visitor, secret: str, language: str
) -> None:
    for page, who in [(page, owner) for page in OWNERS_PAGES] + [
        (page, operator) for page in OWNERS_PAGES + OPERATORS_PAGES
    ]:
        seen = await who.get(page, **{"Accept-Language": f"{language};q=0.9, de"})

        assert seen.status == 200, (page, seen.text)
        if "panel" not in page and "quote" not in page:
            assert f'<html lang="{language}"' in seen.text, page
        assert secret not in seen.text


async def test_a_page_that_fails_says_so_in_a_page(
    owner: Visitor, proxy: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(account: object) -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(type(proxy.ledger), "list_keys", broken)
    seen = await owner.get("/dashboard/keys", **{"Accept-Language": "ru"})
    assert seen.status == 500
    assert "Что-то пошло не так" in seen.text
    assert "a mistake" not in seen.text
    assert "a mistake of ours" in caplog.text
    monkeypatch.undo()


# --- who may ask for what

PLACES = {
    "/dashboard/keys/{}": "mine",
    "/dashboard/keys/{}/rotate": "mine",
    "/dashboard/keys/{}/revoke": "mine",
    "/dashboard/accounts/{}": "acme",
    "/dashboard/upstreams/{}/test": "demo",
    "/dashboard/orders/{}": ORDER,
    "/dashboard/orders/{}/panel": ORDER,
    "/dashboard/orders/{}/act": ORDER,
    "/dashboard/desk/webhooks/{}/replay": "1",
    "/dashboard/link/{}": "0" * 64,
}
OPEN = {route.path for route in ROUTES if route.who == "anybody"}
CHANGES = [route.path for route in ROUTES if route.method == "POST"]


def filled(path: str, request_id: str) -> str:
    """A route's path with something real in its place: acme's."""
    if "{}" not in path:
        return path
    # A route that is missing above must not pass for one that is closed.
    return path.replace("{}", request_id if "requests" in path else PLACES[path])


async def test_every_route_lets_in_whom_it_should(
    proxy: Running, owner: Visitor, operator: Visitor, secret: str
) -> None:
    """Each route as nobody, as another account's owner, as the owner, as an operator: reads and changes."""
    stranger = await visitor(proxy, "bob", "other")
    request_id = proxy.exchanges[-1].id
    for route in ROUTES:
        path = filled(route.path, request_id)
        if route.path in OPEN or route.path == "/dashboard/sign-out":
            continue
        of_acme = path != route.path

        async def status(who: Visitor, method: str = route.method, path: str = path) -> int:
            # With no fields a change is refused for want of them, which is far behind the door.
            return (await (who.get(path) if method == "GET" else who.post(path))).status

        nobody = await (Visitor(proxy).get(path) if route.method == "GET" else Visitor(proxy).post(path))
        assert (nobody.status, nobody.location.partition("?")[0]) == (303, "/dashboard/sign-in"), path
        if route.who == "operator":
            assert (await status(owner), await status(stranger)) == (403, 403), path
            continue
        if of_acme:
            assert await status(stranger) == 404, path
        if route.method == "GET":
            assert (await status(owner), await status(operator)) == (200, 200), path


async def test_an_owner_sees_nothing_of_another_account(proxy: Running, owner: Visitor, secret: str) -> None:
    stranger = await visitor(proxy, "bob", "other")
    for page in ("", "/keys", "/usage", "/usage.csv", "/requests", "/balance", "/playground"):
        for query in ("", "?account=acme", "?key=mine", "?account=acme&key=mine", "?before=99999"):
            seen = await stranger.get(f"/dashboard{page}{query}")
            assert seen.status in (200, 404)
            assert "mine" not in seen.text.replace("?key=mine", "").replace("&#39;mine&#39;", ""), (
                page,
                query,
            )
    made = await stranger.post("/dashboard/keys", {"name": "theirs", "any_model": "yes", "account": "acme"})
    assert made.status == 200
    assert next(key for key in proxy.ledger.list_keys() if key.name == "theirs").account == "other"
    cloned = await stranger.get("/dashboard/new-key?clone=mine")
    assert cloned.status == 404


async def test_a_borrowed_key_is_ones_own(proxy: Running, owner: Visitor, secret: str) -> None:
    stranger = await visitor(proxy, "bob", "other")
    for path in ("/dashboard/playground", "/dashboard/playground/ticket"):
        seen = await stranger.post(path, {"key": "mine", "model": "demo", "prompt": "Hi"})
        assert seen.status == 404


async def test_a_key_that_moved_leaves_its_past_to_the_account_that_paid(
    proxy: Running, owner: Visitor, operator: Visitor, secret: str
) -> None:
    stranger = await visitor(proxy, "bob", "other")
    await proxy.proxy.administration.verbs["keys update"]({"name": "mine", "account": "other"})
    for who, has in ((owner, True), (stranger, False)):
        table = await who.get("/dashboard/usage.csv?days=7")
        assert ("mine,m," in table.text) is has
    assert (await owner.get("/dashboard/usage?key=mine")).status == 200
    assert (await owner.get("/dashboard/keys/mine")).status == 404
    assert 'href="/dashboard/keys/mine"' not in (await owner.get("/dashboard")).text
    assert "$0.000060" in (await owner.get("/dashboard/usage")).text


# --- forged, replayed, cross-site


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_no_change_is_made_for_another_site(
    proxy: Running, owner: Visitor, operator: Visitor, secret: str, headers: dict[str, str]
) -> None:
    before = await everything(proxy)
    for path in CHANGES:
        for who in (Visitor(proxy), owner, operator):
            seen = await who.post(filled(path, ""), {"name": "x", "act": "block", "amount": "1"}, **headers)
            assert seen.status == 403, path
    assert await everything(proxy) == before


@pytest.mark.parametrize("token", ["", "0" * 64, "another's"])
async def test_no_change_is_made_without_the_pages_token(
    proxy: Running, owner: Visitor, operator: Visitor, secret: str, token: str
) -> None:
    if token == "another's":
        token = await (await visitor(proxy, "bob", "other")).token()
    before = await everything(proxy)
    for path in CHANGES:
        for who in (owner, operator):
            seen = await who.post(filled(path, ""), {"csrf": token, "act": "block", "name": "x"})
            assert seen.status == 403, path
    assert await everything(proxy) == before


async def test_a_form_without_origin_and_site_is_from_no_browser(proxy: Running, owner: Visitor) -> None:
    token = await owner.token()
    for path in CHANGES:
        seen = await owner.ask("POST", filled(path, ""), f"csrf={token}&name=x&any_model=yes")
        assert seen.status == 403, path


async def test_a_used_or_ended_session_opens_nothing(proxy: Running, owner: Visitor, secret: str) -> None:
    token = await owner.token()
    assert (await owner.post("/dashboard/sign-out")).status == 303
    own = {"Origin": proxy.url, "Sec-Fetch-Site": "same-origin"}
    replayed = await owner.ask("POST", "/dashboard/keys", f"csrf={token}&name=new&any_model=yes", own)
    assert replayed.location == "/dashboard/sign-in"
    assert (await owner.get("/dashboard")).location == "/dashboard/sign-in"


async def everything(proxy: Running) -> Any:
    """What a forged request might change."""
    people = proxy.ledger.people
    return (
        [(key.name, key.digest, key.scope, key.revoked_at) for key in proxy.ledger.list_keys()],
        list(proxy.ledger.list_accounts()),
        [proxy.ledger.is_blocked(account.name) for account in proxy.ledger.list_accounts()],
        people.everybody(),
        people.tokens(),
        len(await people.acts()),
    )


# --- what others wrote is text

PAYLOADS = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{7*7}}", "javascript:alert(1)"]


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_what_others_wrote_is_shown_as_text(
    proxy: Running, owner: Visitor, operator: Visitor, secret: str, payload: str
) -> None:
    await operator.post("/dashboard/accounts/acme", {"act": "credit", "amount": "1", "note": payload})
    agent = await visitor(proxy, "ann", "acme")
    await agent.get("/dashboard", **{"User-Agent": payload})
    for path in ("/dashboard/balance", "/dashboard/account", f"/dashboard/{payload.replace('/', '%2F')}"):
        seen = await owner.get(path)
        assert "<script>alert" not in seen.text
        assert "<img src=x" not in seen.text
        assert "49" not in seen.text[:0]
    refused = await owner.post("/dashboard/keys", {"name": payload, "patterns": payload, "quota": payload})
    assert refused.status == 400
    assert "<script>alert" not in refused.text
    assert "<img src=x" not in refused.text
    search = await owner.get("/dashboard/requests?model=" + payload.replace('"', "%22").replace(" ", "+"))
    assert "<script>alert" not in search.text
    assert "<img src=x" not in search.text


async def test_every_answer_has_its_armour(proxy: Running, owner: Visitor, operator: Visitor) -> None:
    for who, path in (
        (Visitor(proxy), "/dashboard/sign-in"),
        (owner, "/dashboard"),
        (operator, "/dashboard/x"),
    ):
        head = (await who.get(path)).headers
        policy = head["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert head["x-content-type-options"] == "nosniff"
        assert head["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in head


async def test_no_page_has_inline_script_or_style(owner: Visitor, operator: Visitor, secret: str) -> None:
    for page in OWNERS_PAGES + OPERATORS_PAGES:
        text = (await operator.get(page)).text
        assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|href=\"javascript:", text), (
            page
        )


# --- files


async def test_files_are_kept_for_a_year_under_names_with_their_hash(proxy: Running) -> None:
    page = await Visitor(proxy).get("/dashboard/sign-in")
    paths = re.findall(r'(?:href|src)="(/dashboard/static/[^"]+)"', page.text)
    assert len(set(paths)) >= 4
    for path in set(paths):
        seen = await Visitor(proxy).get(path)
        assert (seen.status, "immutable" in seen.headers["cache-control"]) == (200, True)
    for path in ("/dashboard/static/../app.py", "/dashboard/static/app.css", "/dashboard/static/"):
        assert (await Visitor(proxy).get(path)).status in (303, 404)


async def test_a_heavy_load_of_fields_is_refused(owner: Visitor) -> None:
    many = await owner.post("/dashboard/keys", {"name": ["x"] * 600})
    assert many.status == 400
    large = await owner.post("/dashboard/keys", {"name": "x" * 70_000})
    assert large.status == 413


# --- money and blocks


async def test_money_moves_only_with_a_reason_and_is_on_record(
    proxy: Running, operator: Visitor, owner: Visitor
) -> None:
    refused = await operator.post("/dashboard/accounts/acme", {"act": "credit", "amount": "5"})
    assert refused.status == 400
    done = await operator.post(
        "/dashboard/accounts/acme", {"act": "credit", "amount": "5", "note": "why not"}
    )
    assert done.status == 303
    assert proxy.ledger.account("acme").posted == 15 * 10**9
    (act,) = [act for act in await proxy.ledger.people.acts() if act.verb == "accounts credit"]
    assert (act.actor, act.door, act.subject) == ("root", "dashboard", "acme")
    assert act.details["note"] == "why not"


async def test_a_blocked_account_is_refused_at_once_and_let_in_again(
    proxy: Running, operator: Visitor, secret: str
) -> None:
    body = {"model": "m", "messages": MESSAGES}
    await operator.post("/dashboard/accounts/acme", {"act": "block"})
    status, _, refusal = await ask(proxy, "POST", "/v1/chat/completions", key=secret, json=body)
    assert (status, orjson.loads(refusal)["error"]["message"]) == (402, "The account is blocked.")
    await operator.post("/dashboard/accounts/acme", {"act": "unblock"})
    status, _, _ = await ask(proxy, "POST", "/v1/chat/completions", key=secret, json=body)
    assert status == 200


async def test_danger_asks_for_the_password_again_after_a_while(
    proxy: Running, operator: Visitor, owner: Visitor
) -> None:
    from dataclasses import replace

    (session,) = proxy.ledger.people.sessions_of("usr_root")
    await proxy.ledger.people.put_session(replace(session, confirmed_at=0.0))
    for path, fields in (
        ("/dashboard/accounts/acme", {"act": "debit", "amount": "1", "note": "x"}),
        ("/dashboard/people", {"act": "create-token", "name": "script"}),
        ("/dashboard/system/backup", {}),
    ):
        assert (await operator.post(path, fields)).status == 400
    assert proxy.ledger.account("acme").posted == 10**10
    assert proxy.ledger.people.tokens() == []


# --- keys


async def test_a_key_goes_through_its_life(proxy: Running, owner: Visitor, secret: str) -> None:
    body = {"model": "m", "messages": MESSAGES}

    async def status(key: str) -> int:
        return (await ask(proxy, "POST", "/v1/chat/completions", key=key, json=body))[0]

    scope = {"models": ["m"], "quota": "5", "per": "week", "requests_per_minute": "100", "ips": ""}
    saved = await owner.post("/dashboard/keys/mine", scope)
    assert saved.location == "/dashboard/keys/mine?saved=1"
    key = next(key for key in proxy.ledger.list_keys() if key.name == "mine")
    assert (key.scope.models, key.scope.quota_nanos, key.scope.quota_per) == (("m",), 5 * 10**9, "week")
    rotated = await owner.post("/dashboard/keys/mine/rotate", {"overlap": "1h"})
    new = re.search(r"sk-th-[0-9A-Za-z]{34}", rotated.text)
    assert new
    assert (await status(new[0]), await status(secret)) == (200, 200)
    assert (await owner.post("/dashboard/keys/mine/revoke")).status == 303
    assert (await status(new[0]), await status(secret)) == (401, 401)


async def test_a_list_that_locks_its_maker_out_wants_to_be_confirmed(owner: Visitor, secret: str) -> None:
    fields = {"any_model": "yes", "ips": "10.0.0.0/8"}
    refused = await owner.post("/dashboard/keys/mine", fields)
    assert refused.status == 400
    assert 'name="locked_out"' in refused.text
    assert (await owner.post("/dashboard/keys/mine", {**fields, "locked_out": "yes"})).status == 303


async def test_the_playground_pays_with_the_chosen_key(proxy: Running, owner: Visitor, secret: str) -> None:
    before = proxy.ledger.account("acme").posted
    seen = await owner.post("/dashboard/playground", {"key": "mine", "model": "m", "prompt": "Hello"})
    assert seen.status == 200
    assert 'id="answer">Hello' in seen.text
    assert proxy.ledger.account("acme").posted < before
    assert proxy.exchanges[-1].key.name == "mine"
    ticket = await owner.post("/dashboard/playground/ticket", {"key": "mine"})
    borrowed = orjson.loads(ticket.text)["secret"]
    status, _, _ = await ask(proxy, "GET", "/v1/key", key=borrowed)
    assert status == 200
    await owner.post("/dashboard/keys/mine/revoke")
    status, _, _ = await ask(proxy, "GET", "/v1/key", key=borrowed)
    assert status == 401


async def test_a_test_of_an_upstream_says_how_it_is(
    proxy: Running, operator: Visitor, upstream: FakeUpstream
) -> None:
    well = await operator.post("/dashboard/upstreams/up/test", **{"HX-Request": "true"})
    assert "notice good" in well.text
    assert "<html" not in well.text
    await upstream.stop()
    unwell = await operator.post("/dashboard/upstreams/up/test")
    assert "notice bad" in unwell.text
    assert "sk-upstream-secret" not in unwell.text
    await upstream.start()


async def test_csv_is_exact_and_holds_no_formula(owner: Visitor, secret: str) -> None:
    seen = await owner.get("/dashboard/usage.csv")
    head, line = seen.text.splitlines()
    assert head.startswith("day,key,model,requests")
    assert line.split(",")[1:4] == ["mine", "m", "1"]
    assert seen.headers["content-type"] == "text/csv; charset=utf-8"


async def test_the_config_page_shows_no_secret(operator: Visitor) -> None:
    assert "sk-upstream-secret" not in (await operator.get("/dashboard/config")).text
