"""The dashboard in a real browser: every page in every dress, and the way a person goes through it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import openai
import pytest

from tests.browsing import visitor
from tests.conftest import Running, Serve
from tests.upstream import Asked, FakeUpstream, Says, chunk, json_says, stream_says
from tokenhub_proxy.dashboard.asked import Asked as Request
from tokenhub_proxy.dashboard.playground import Alone
from tokenhub_proxy.dashboard.words import LANGUAGES
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.keys import Scope
from tokenhub_proxy.users import COMMAND_LINE

playwright = pytest.importorskip("playwright.async_api", reason="pip install playwright")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
AXE = Path(__file__).parent / "node" / "node_modules" / "axe-core" / "axe.min.js"
# Where a person can look at every page; nowhere unless asked for.
SHOTS = os.environ.get("TOKENHUB_SCREENSHOTS")
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
DAYS = 30
CONFIG = """
upstreams:
  openai: {{dialect: openai, base_url: "{url}", api_key: sk-upstream-secret-0123456789}}
  anthropic: {{dialect: openai, base_url: "{url}", api_key: sk-ant-secret-0123456789abcd}}
  direct: {{dialect: openai, api_key: sk-never-asked-0123456789abcd}}
  demo: {{dialect: demo}}
models:
  gpt-4.1:
    targets: [{{upstream: openai}}]
    price: {{input: 2.00, cached: 0.50, output: 8.00}}
    context_length: 1047576
    max_output_tokens: 32768
  claude-sonnet-4-5:
    description: the one for code
    targets: [{{upstream: anthropic}}, {{upstream: openai, model: gpt-4.1, priority: 2}}]
    price: {{input: 3.00, cached: 0.30, cache_write: 3.75, output: 15.00}}
    context_length: 200000
    max_output_tokens: 64000
  gpt-4.1-mini:
    targets: [{{upstream: openai}}]
    price: {{input: 0.40, output: 1.60}}
    max_output_tokens: 32768
  gpt-4o: {{targets: [{{upstream: direct}}], price: {{input: 3.00, output: 12.50}}}}
  text-embedding-3-small: {{targets: [{{upstream: openai}}], price: {{input: 0.02}}}}
  demo: {{targets: [{{upstream: demo}}], price: free}}
accounts:
  studio: {{balance: prepaid}}
dashboard: {{sign_up: true}}
"""
PAGES = {
    "overview": "/dashboard",
    "keys": "/dashboard/keys",
    "new-key": "/dashboard/new-key",
    "key": "/dashboard/keys/web-app",
    "usage": "/dashboard/usage",
    "requests": "/dashboard/requests",
    "request": "",  # a real one's
    "balance": "/dashboard/balance",
    "models": "/dashboard/models",
    "playground": "/dashboard/playground",
    "account": "/dashboard/account",
}
OPERATORS_PAGES = {
    "live": "/dashboard/live",
    "upstreams": "/dashboard/upstreams",
    "accounts": "/dashboard/accounts",
    "one-account": "/dashboard/accounts/studio",
    "people": "/dashboard/people",
    "audit": "/dashboard/audit",
    "config": "/dashboard/config",
    "system": "/dashboard/system",
    "operator-overview": "/dashboard",
    "operator-keys": "/dashboard/keys",
    "operator-models": "/dashboard/models",
    "not-found": "/dashboard/nowhere",
}
DOORS = {"sign-in": "/dashboard/sign-in", "sign-up": "/dashboard/sign-up", "link-used": "/dashboard/link/0"}


# So many pages are looked at side by side: a browser has a process for each.
AT_ONCE = 4
STATUSES = {"not-found": 404, "link-used": 404}


class Clock:
    """Time that a test may set."""

    def __init__(self) -> None:
        self.ago_s = 0.0

    def __call__(self) -> float:
        return time.time() - self.ago_s


def answers(asked: Asked) -> Says:
    """A completion whose tokens depend on the question, and now and then a failure."""
    size = len(asked.body["messages"][0]["content"])
    if size % 17 == 0:
        return json_says(b'{"error": {"message": "overloaded"}}', 503)
    usage = {"prompt_tokens": 400 * size, "completion_tokens": 90 * size, "total_tokens": 490 * size}
    message = {"role": "assistant", "content": "All is well."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json_says(
        json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
    )


@pytest.fixture
async def studio(serve: Serve, upstream: FakeUpstream) -> AsyncIterator[Running]:
    """A proxy with a month behind it: an account with an owner, four keys, and calls on every day."""
    clock = Clock()
    clock.ago_s = DAYS * 86400.0
    running = await serve(CONFIG.format(url=upstream.base_url), clock=clock)
    upstream.says = answers
    verbs = running.proxy.administration.verbs
    await visitor(running, "maria", "studio")
    await verbs["accounts credit"]({"name": "studio", "amount": "250.00", "note": "Invoice 2026-118"})
    scopes: dict[str, dict[str, Any]] = {
        "web-app": {"models": "gpt-4.1*,claude-*", "quota": "120.00/month", "requests_per_minute": "600"},
        "nightly-reports": {"models": "gpt-4.1-mini", "ips": "10.0.0.0/8,192.168.7.4"},
        "laptop": {"expires": "400d"},
        "old-prototype": {},
    }
    secrets = {}
    for name, scope in scopes.items():
        made = await verbs["keys create"]({"name": name, "account": "studio", **scope})
        secrets[name] = made["secret"]
    for day in range(DAYS):
        clock.ago_s = (DAYS - 1 - day) * 86400.0 + 1800
        for number in range(2 + day * 7 % 5):
            name = ("web-app", "web-app", "laptop", "old-prototype")[(day + number) % 4]
            model = ("claude-sonnet-4-5", "gpt-4.1", "gpt-4.1-mini")[(day * 3 + number) % 3]
            await call(running, secrets[name], model, "word " * (3 + (day * 5 + number * 11) % 23))
            running.proxy.relay.health._breakers.clear()
    for ago_s in range(290, 0, -10):
        clock.ago_s = float(ago_s)
        model = ("claude-sonnet-4-5", "gpt-4.1", "gpt-4.1-mini")[ago_s // 10 % 3]
        await call(
            running, secrets["web-app"], model, "word " * (17 if ago_s in (90, 210) else 1 + ago_s // 10 % 4)
        )
    clock.ago_s = 0.0
    await verbs["keys revoke"]({"name": "old-prototype"})
    await verbs["accounts debit"]({"name": "studio", "amount": "3.50", "note": "Test run charged by hand"})
    perform = running.proxy.administration.perform
    await perform("keys update", {"name": "laptop", "quota": "25.00/week"}, COMMAND_LINE)
    await perform("accounts credit", {"name": "studio", "amount": "40", "note": "Refund"}, COMMAND_LINE)
    await perform("tokens create", {"name": "deploy-script"}, COMMAND_LINE)
    for person in running.ledger.people.everybody():
        await running.ledger.people.put_person(replace(person, password="they chose one"))
    await perform("users invite", {"name": "tim@example.com", "account": "studio"}, COMMAND_LINE)
    # One stream goes on for as long as somebody looks, and one upstream is left alone.
    upstream.says = lambda asked: stream_says([chunk("and then ")] * 999, pause_s=5.0)
    flying = asyncio.create_task(call(running, secrets["web-app"], "gpt-4.1", "A story", stream=True))
    target = running.proxy.relay.serving.routes.find("claude-sonnet-4-5", Scope()).targets[0]
    asked_to_wait = UpstreamUnavailable(kind="status", retry_after_s=900.0)
    running.proxy.relay.health.failed(target, None, asked_to_wait, running.proxy.relay.monotonic())
    yield running
    flying.cancel()
    with suppress(asyncio.CancelledError):
        await flying


async def call(running: Running, secret: str, model: str, prompt: str, **options: Any) -> None:
    """A call without a socket."""
    asked = Request("POST", "", {}, {}, {}, {}, b"", "127.0.0.1", False, "")
    messages = [{"role": "user", "content": prompt}]
    body = json.dumps({"model": model, "messages": messages, **options}).encode()
    await running.proxy.relay.handle(Alone(secret, body, asked), "chat")


@pytest.fixture
async def browser() -> AsyncIterator[Any]:
    async with playwright.async_playwright() as started:
        launched = await started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        await launched.close()


class Complaints(list[str]):
    """All that a browser has to complain of."""

    def watch(self, page: Any) -> None:
        def on_console(message: Any) -> None:
            # That a page answered 404 or 403 is what the test asked for.
            if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
                self.append(f"console: {message.text}")

        page.on("console", on_console)
        page.on("pageerror", lambda error: self.append(f"script: {error}"))
        page.on(
            "requestfailed",
            lambda request: (
                self.append(f"request: {request.url} {request.failure}")
                if "ERR_ABORTED" not in str(request.failure)
                else None
            ),
        )
        page.on(
            "response",
            lambda answer: (
                self.append(f"answer: {answer.status} {answer.url}")
                if answer.status >= 400 and answer.request.resource_type != "document"
                else None
            ),
        )


async def opened(browser: Any, complaints: Complaints, secret: str | None, url: str, **options: Any) -> Any:
    """A page of a new context, signed in; CSP violations are complaints."""
    context = await browser.new_context(reduced_motion="reduce", **options)
    if secret:
        await context.add_cookies([{"name": "tokenhub", "value": secret, "url": url, "httpOnly": True}])
    await context.add_init_script(
        "document.addEventListener('securitypolicyviolation',"
        " e => console.error('policy: ' + e.violatedDirective + ' ' + e.blockedURI))"
    )
    page = await context.new_page()
    page.set_default_timeout(15_000)
    complaints.watch(page)
    return page


async def look(page: Any, name: str) -> None:
    """A picture of the whole page, where somebody wants to look at it."""
    if SHOTS:
        folder = Path(SHOTS)
        folder.mkdir(parents=True, exist_ok=True)
        await page.screenshot(path=folder / f"{name}.png", full_page=True)


async def serious(page: Any) -> list[str]:
    """What axe finds that would keep somebody out."""
    if not AXE.exists():
        return []
    await page.evaluate(AXE.read_text())
    found = await page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:160]} {each['nodes'][0].get('failureSummary', '')[:200]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]


# Languages, themes, and the width of the window.
EVERY_DRESS = [
    (language, theme, size)
    for language in LANGUAGES
    for theme in ("light", "dark")
    for size in ("wide", "narrow")
]


def dresses_in_turn(place: int) -> set[tuple[str, str, str]]:
    """Two dresses that differ in everything: over four pages each of the eight has its turn."""
    half = len(EVERY_DRESS) // 2
    return {EVERY_DRESS[place % half], EVERY_DRESS[2 * half - 1 - place % half]}


# Which pages, where somebody works on some of them.
ONLY = os.environ.get("TOKENHUB_PAGES", "").split()


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)], ids=["turns", "every"])
async def test_every_page_is_well_in_every_dress(studio: Running, browser: Any, every: bool) -> None:
    """By turns each page in two dresses, one of each language; all eight where somebody looks at them."""
    complaints = Complaints()
    owner, operator = await visitor(studio, "maria", "studio"), await visitor(studio, "root")
    receipts = await studio.ledger.requests("studio")
    paths = {**PAGES, "request": f"/dashboard/requests/{receipts[-1].request_id}"}
    pages = [
        (secret, name, path)
        for secret, group in ((owner.secret, paths), (operator.secret, OPERATORS_PAGES), (None, DOORS))
        for name, path in group.items()
        if not ONLY or name in ONLY
    ]

    at_once = asyncio.Semaphore(AT_ONCE)

    async def in_a_dress(dress: tuple[str, str, str], secret: str | None, scripts: bool = True) -> int:
        mine = [
            (name, path)
            for place, (whose, name, path) in enumerate(pages)
            if whose == secret and (every or SHOTS or dress in dresses_in_turn(place))
        ]
        async with at_once:
            return await dressed(dress, secret, scripts, mine) if mine else 0

    async def dressed(
        dress: tuple[str, str, str], secret: str | None, scripts: bool, mine: list[tuple[str, str]]
    ) -> int:
        language, theme, size = dress
        page = await opened(
            browser,
            complaints,
            secret,
            studio.url,
            viewport=WIDE if size == "wide" else NARROW,
            color_scheme=theme,
            locale="ru-RU" if language == "ru" else "en-GB",
            timezone_id="UTC",
            java_script_enabled=scripts,
        )
        for name, path in mine:
            answer = await page.goto(studio.url + path, wait_until="load")
            if answer.status != STATUSES.get(name, 200):
                complaints.append(f"{name} {dress}: {answer.status}")
            await look(page, f"{name}-{language}-{theme}-{size}{'' if scripts else '-no-scripts'}")
            if scripts:
                complaints.extend(f"{name} {dress}: {line}" for line in await serious(page))
                wide = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
                if wide > 0:
                    complaints.append(f"{name} {dress}: {wide} px wider than the screen")
        await page.context.close()
        return len(mine)

    whose = (owner.secret, operator.secret, None)
    seen = await asyncio.gather(*(in_a_dress(dress, secret) for dress in EVERY_DRESS for secret in whose))
    if every or SHOTS:
        for secret in whose:
            await in_a_dress(("ru", "dark", "narrow"), secret, scripts=False)
    assert sum(seen) == len(pages) * (len(EVERY_DRESS) if every or SHOTS else 2)
    assert not complaints, "\n".join(complaints)
    if not AXE.exists():
        pytest.skip("axe-core is not here: npm ci --prefix tests/node; all but it was looked at")


async def submit(page: Any, selector: str) -> None:
    """Press a button, and wait for the page that it leads to."""
    async with page.expect_navigation():
        await page.click(selector)


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
async def test_a_person_goes_all_the_way(proxy: Running, browser: Any, scripts: bool) -> None:
    """Invited, signed in, a key made and used with the official SDK, its traces seen, revoked, refused."""
    complaints = Complaints()
    verbs = proxy.proxy.administration.verbs
    await verbs["accounts create"]({"name": "acme"})
    await verbs["accounts credit"]({"name": "acme", "amount": "10.00"})
    link = (await verbs["users invite"]({"name": "ann", "account": "acme"}))["link"]
    page = await opened(browser, complaints, None, proxy.url, java_script_enabled=scripts, locale="en-GB")
    await page.goto(link)
    await page.fill("#new_password", "correct horse battery")
    await page.fill("#again", "correct horse battery")
    await submit(page, "main button.main")
    assert await page.inner_text("h1") == "Overview"
    await submit(page, "text=Sign out")
    await page.fill("#name", "ann")
    await page.fill("#password", "correct horse battery")
    await submit(page, "main button.main")

    await page.goto(f"{proxy.url}/dashboard/new-key")
    await page.fill("#name", "scoped")
    await page.uncheck("input[name=any_model]")
    await page.check("input[name=models][value=m]")
    await page.fill("#quota", "2.50")
    await submit(page, "main button.main")
    secret = await page.inner_text("#secret")
    if scripts:
        assert await page.is_visible("[data-copy=secret]")

    client = openai.AsyncOpenAI(base_url=proxy.base_url, api_key=secret, max_retries=0)
    asked: Any = {"messages": [{"role": "user", "content": "Hello"}]}
    made = await client.chat.completions.with_raw_response.create(model="m", **asked)
    request_id = made.headers["x-request-id"]
    with pytest.raises(openai.PermissionDeniedError):
        await client.chat.completions.create(model="free", **asked)

    await page.goto(f"{proxy.url}/dashboard/requests")
    await submit(page, f"a[href$='{request_id}']")
    assert await page.inner_text("#request-id") == request_id
    await page.goto(f"{proxy.url}/dashboard/balance")
    assert await page.locator(f"a[href$='{request_id}']").count() == 1
    await page.goto(f"{proxy.url}/dashboard/usage?by=key")
    assert "scoped" in await page.inner_text("section:has(tfoot) tbody")

    await page.goto(f"{proxy.url}/dashboard/keys/scoped")
    await submit(page, "button.danger")
    with pytest.raises(openai.AuthenticationError):
        await client.chat.completions.create(model="m", **asked)
    await client.close()
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
async def test_the_playground_answers(proxy: Running, browser: Any, scripts: bool) -> None:
    complaints = Complaints()
    ann = await visitor(proxy, "ann", "acme")
    await ann.post("/dashboard/keys", {"name": "mine", "any_model": "yes"})
    page = await opened(browser, complaints, ann.secret, proxy.url, java_script_enabled=scripts)
    await page.goto(f"{proxy.url}/dashboard/playground")
    await page.select_option("#model", "m")
    await page.fill("#prompt", "Hello")
    await page.click("#playground button.main")
    await page.wait_for_selector("#play-receipt:visible")
    assert await page.inner_text("#answer") == "Hello"
    assert proxy.exchanges[-1].call.stream is scripts
    await submit(page, "#play-receipt a")
    assert await page.inner_text("#request-id") == proxy.exchanges[-1].id
    assert not complaints, "\n".join(complaints)


async def test_live_goes_on_by_itself_and_upstreams_are_tested_in_place(proxy: Running, browser: Any) -> None:
    complaints = Complaints()
    root = await visitor(proxy, "root")
    page = await opened(browser, complaints, root.secret, proxy.url)
    await page.goto(f"{proxy.url}/dashboard/live")
    async with page.expect_response("**/dashboard/live/panel"):
        pass
    await page.wait_for_selector("#live-chart canvas")
    await look(page, "live-chart")
    await page.goto(f"{proxy.url}/dashboard/upstreams")
    await page.click("section:has(h2:text-is('up')) button")
    await page.wait_for_selector("#tested-1 .notice.good")
    assert page.url.endswith("/dashboard/upstreams")
    assert not complaints, "\n".join(complaints)


async def test_nothing_that_others_wrote_is_ever_executed(
    proxy: Running, upstream: FakeUpstream, browser: Any
) -> None:
    """As a note, a user agent, a model's name, an upstream's error and an answer."""
    payload = '"><script>window.hurt=1</script><img src=x onerror="window.hurt=1">'
    complaints = Complaints()
    ann, root = await visitor(proxy, "ann", "acme"), await visitor(proxy, "root")
    await ann.post("/dashboard/keys", {"name": "mine", "any_model": "yes"})
    await root.post("/dashboard/accounts/acme", {"act": "credit", "amount": "1", "note": payload})
    upstream.says = lambda asked: json_says(json.dumps({"error": {"message": payload}}).encode(), 400)
    await ann.post("/dashboard/playground", {"key": "mine", "model": payload, "prompt": payload})
    await ann.post("/dashboard/playground", {"key": "mine", "model": "m", "prompt": payload})
    for who, paths in ((ann, PAGES), (root, OPERATORS_PAGES)):
        page = await opened(browser, complaints, who.secret, proxy.url, user_agent=payload)
        for path in paths.values():
            await page.goto(proxy.url + path.replace("web-app", "mine").replace("studio", "acme"))
            assert await page.evaluate("window.hurt") is None, path
        await page.goto(f"{proxy.url}/dashboard/requests?{urlencode({'model': payload, 'key': payload})}")
        assert await page.evaluate("window.hurt") is None
    page = await opened(browser, complaints, ann.secret, proxy.url)
    await page.goto(f"{proxy.url}/dashboard/playground")
    await page.fill("#prompt", payload)
    await page.select_option("#model", "m")
    await page.click("#playground button.main")
    await page.wait_for_selector("#play-problem:visible")
    assert await page.evaluate("window.hurt") is None
    assert [line for line in complaints if "policy" in line] == []
