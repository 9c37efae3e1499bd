"""A visitor of the dashboard without a browser: sessions made at once, forms as browsers post them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from typing import Any
from urllib.parse import urlencode

import aiohttp

from tests.conftest import Running
from tokenhub_proxy.ledger import Account
from tokenhub_proxy.ledger.people import Person, Session
from tokenhub_proxy.users import digest


@dataclass(slots=True)
class Seen:
    """An answer: its status, head and text."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def location(self) -> str:
        return self.headers.get("location", "")

    def hidden(self, name: str = "csrf") -> str:
        """The value of a hidden field."""
        found = re.search(rf'name="{name}" value="([^"]*)"', self.text)
        assert found, self.text
        return unescape(found[1])


class Visitor:
    """Somebody with a cookie, or without one."""

    def __init__(self, running: Running, secret: str = "") -> None:
        self.running = running
        self.secret = secret
        self.headers = {"Cookie": f"tokenhub={secret}"} if secret else {}

    async def get(self, path: str, **headers: str) -> Seen:
        return await self.ask("GET", path, headers=headers)

    async def post(self, path: str, fields: Mapping[str, Any] | None = None, **headers: str) -> Seen:
        """A form of our own page: with its origin and its token."""
        token = await self.token() if self.secret else ""
        data = urlencode({"csrf": token, **(fields or {})}, doseq=True)
        own = {"Origin": self.running.url, "Sec-Fetch-Site": "same-origin"}
        return await self.ask("POST", path, data, {**own, **headers})

    async def token(self) -> str:
        return (await self.get("/dashboard/account")).hidden()

    async def ask(
        self, method: str, path: str, data: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Seen:
        sent = {**self.headers, **(headers or {})}
        if data is not None:
            sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method, self.running.url + path, data=data, headers=sent, allow_redirects=False
            ) as answer,
        ):
            head = {name.lower(): value for name, value in answer.headers.items()}
            return Seen(answer.status, head, (await answer.read()).decode())


async def visitor(running: Running, name: str, account: str | None = None) -> Visitor:
    """An operator, or the owner of an account, who has just signed in."""
    people = running.ledger.people
    await people.load()
    now = running.proxy.relay.clock()
    if account is not None and running.ledger.account(account) is None:
        await running.ledger.open_account(Account(account))
        await running.ledger.credit(account, 10**10, at=now, note="a first top-up")
    person = people.named(name)
    if person is None:
        role = "operator" if account is None else "owner"
        person = Person(f"usr_{name}", name, role, account, None, now)
        await people.put_person(person)
    secret = os.urandom(16).hex()
    await people.put_session(Session(digest(secret), person.id, now, now, now, "127.0.0.1", "a test"))
    return Visitor(running, secret)
