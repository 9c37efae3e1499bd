"""What pages look like between the ordinary: empty, refused, shown once, asked again, printed, on a phone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.browsing import visitor
from tests.conftest import Running
from tests.test_browser import NARROW, WIDE, Complaints, browser, look, opened, serious, submit
from tests.test_browser import pytestmark as needs_chromium
from tokenhub_proxy.dashboard.passwords import Passwords

pytestmark = needs_chromium
__all__ = ["browser"]
PASSWORD = "correct horse battery"
SIZES = {"wide": WIDE, "narrow": NARROW}


@pytest.mark.parametrize(("language", "theme", "size"), [("en", "dark", "wide"), ("ru", "light", "narrow")])
async def test_every_state_is_well(
    proxy: Running, browser: Any, language: str, theme: str, size: str
) -> None:
    complaints = Complaints()
    people = proxy.ledger.people
    ann, root = await visitor(proxy, "ann", "acme"), await visitor(proxy, "root")
    verifier = await Passwords(lambda n: bytes(n), 2**4).verifier(PASSWORD)
    await people.put_person(replace(people.named("root"), password=verifier))
    for session in people.sessions_of("usr_root"):
        await people.put_session(replace(session, confirmed_at=0.0))
    options = {
        "viewport": SIZES[size],
        "color_scheme": theme,
        "locale": "ru-RU" if language == "ru" else "en-GB",
    }
    page = await opened(browser, complaints, ann.secret, proxy.url, **options)

    async def seen(name: str) -> None:
        await look(page, f"state-{name}-{language}-{theme}-{size}")
        complaints.extend(f"{name}: {line}" for line in await serious(page))
        wide = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, name

    async def go(path: str) -> None:
        await page.goto(f"{proxy.url}/dashboard{path}")

    for name in ("", "/keys", "/usage", "/requests", "/playground"):
        await go(name)
        await seen(f"empty{name.replace('/', '-') or '-overview'}")

    # A key: refused, then warned of locking oneself out, then made, rotated, cloned.
    await go("/new-key")
    await page.fill("#name", "web-app")
    await page.fill("#ips", "10.0.0.300")
    await submit(page, "main button.main")
    assert await page.input_value("#ips") == "10.0.0.300"
    assert await page.evaluate("document.activeElement.matches('#ips[aria-invalid=true]')")
    await seen("key-refused")
    await page.fill("#ips", "10.0.0.0/8")
    await submit(page, "main button.main")
    await page.check("[name=locked_out]")
    await seen("key-locks-out")
    await page.fill("#ips", "127.0.0.1 10.0.0.0/8")
    await submit(page, "main button.main")
    first = await page.inner_text("#secret")
    await seen("key-made")
    await go("/keys/web-app")
    await page.select_option("#overlap", "1h")
    await submit(page, "form[action$=rotate] button")
    assert await page.inner_text("#secret") != first
    await seen("key-rotated")
    await go("/new-key?clone=web-app")
    assert (await page.input_value("#ips")).split() == ["127.0.0.1", "10.0.0.0/8"]

    # A question and its answer, and what is left on paper of the ledger.
    await go("/playground")
    await page.fill("#prompt", "Hello")
    await page.select_option("#model", "m")
    await page.click("#playground button.main")
    await page.wait_for_selector("#play-receipt:visible")
    await seen("answered")
    await go("/balance")
    await page.emulate_media(media="print")
    await seen("balance-printed")
    await page.emulate_media(media="screen")
    if size == "narrow":
        await page.click(".menu")
        assert await page.is_visible("nav a[href='/dashboard/usage']")
        if complaints_of_menu := await serious(page):
            complaints.extend(complaints_of_menu)
        await look(page, f"state-menu-{language}-{theme}-{size}")
        await submit(page, "nav a[href='/dashboard/usage']")
    await page.context.close()

    # The operator is asked for the password again, and a link is shown once.
    page = await opened(browser, complaints, root.secret, proxy.url, **options)
    await go("/accounts/acme")
    await page.fill("#amount", "10")
    await page.fill("#note", "Invoice 2026-119")
    await page.fill("#password-money", "wrong wrong wrong")
    await submit(page, "button[value=credit]")
    await seen("account-refused")
    await page.fill("#password-money", PASSWORD)
    await submit(page, "button[value=credit]")
    await seen("account-credited")
    await go("/people")
    await page.fill("#name", "tim@example.com")
    await submit(page, "form:has(#name) button[value=invite]")
    assert "/dashboard/link/" in await page.inner_text("#made")
    await seen("link-made")
    await go("/system")
    await submit(page, "form[action$=backup] button")
    await seen("backup-made")
    await go("/keys/nobodys")
    await seen("not-found")
    await page.context.close()
    assert not complaints, "\n".join(complaints)
