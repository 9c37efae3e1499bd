"""Signing in, up and out, the links that set a password, and the tastes of a browser."""

from __future__ import annotations

import os

from tokenhub_proxy.dashboard.access import Visitor, preference
from tokenhub_proxy.dashboard.asked import Answer, Asked, local_path, see_other
from tokenhub_proxy.dashboard.hub import Hub
from tokenhub_proxy.dashboard.passwords import LENGTH_MIN
from tokenhub_proxy.dashboard.rendering import THEMES
from tokenhub_proxy.dashboard.words import LANGUAGES
from tokenhub_proxy.errors import InvalidRequest, NotFound, ProxyError
from tokenhub_proxy.ledger import Account
from tokenhub_proxy.ledger.people import Person
from tokenhub_proxy.users import login

Named = tuple[str, ...]


async def sign_in_page(hub: Hub, asked: Asked, visitor: Visitor | None, named: Named) -> Answer:
    if visitor is not None:
        return see_other("/dashboard")
    return _sign_in(hub, asked, None)


async def sign_in(hub: Hub, asked: Asked, visitor: Visitor | None, named: Named) -> Answer:
    try:
        cookie = await hub.access.sign_in(asked)
    except ProxyError as error:
        return _sign_in(hub, asked, error)
    return see_other(local_path(asked.field("next", "/dashboard")), **{"set-cookie": cookie})


def _sign_in(hub: Hub, asked: Asked, problem: ProxyError | None) -> Answer:
    going = local_path(asked.field("next") or asked.query.get("next", "/dashboard"))
    return _refused(
        hub.page(asked, None, "sign-in.html", problem=problem, next=going, sign_up=hub.config().sign_up),
        problem,
    )


def _refused(page: Answer, problem: ProxyError | None) -> Answer:
    if problem is not None:
        page.status = problem.http_status
        page.headers.update(problem.headers())
    return page


async def sign_up_page(hub: Hub, asked: Asked, visitor: Visitor | None, named: Named) -> Answer:
    _if_open(hub)
    return hub.page(asked, None, "sign-up.html", length_min=LENGTH_MIN)


async def sign_up(hub: Hub, asked: Asked, visitor: Visitor | None, named: Named) -> Answer:
    _if_open(hub)
    try:
        name = login(asked.field("name"))
        account = name.replace("@", ".").replace("+", ".")
        if hub.ledger.people.named(name) is not None or hub.ledger.account(account) is not None:
            raise InvalidRequest("That name is taken already.", param="name")
        person = Person(
            id=f"usr_{os.urandom(8).hex()}",
            name=name,
            role="owner",
            account=account,
            password=None,
            created_at=hub.clock(),
        )
        await hub.ledger.open_account(Account(account))
        cookie = await hub.access.put_owner(asked, person)
    except ProxyError as error:
        return _refused(hub.page(asked, None, "sign-up.html", problem=error, length_min=LENGTH_MIN), error)
    return see_other("/dashboard", **{"set-cookie": cookie})


def _if_open(hub: Hub) -> None:
    if not hub.config().sign_up:
        raise NotFound("Accounts are opened by the operator here.")


async def link_page(hub: Hub, asked: Asked, visitor: Visitor | None, named: Named) -> Answer:
    person = hub.access.invited(named[0])
    return hub.page(asked, None, "link.html", person=person, length_min=LENGTH_MIN)


async def link(hub: Hub, asked: Asked, visitor: Visitor | None, named: Named) -> Answer:
    person = hub.access.invited(named[0])
    try:
        cookie = await hub.access.accept(asked, named[0])
    except InvalidRequest as error:
        return _refused(
            hub.page(asked, None, "link.html", person=person, problem=error, length_min=LENGTH_MIN), error
        )
    return see_other("/dashboard", **{"set-cookie": cookie})


async def sign_out(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    cookie = await hub.access.sign_out(asked, visitor)
    return see_other("/dashboard/sign-in", **{"set-cookie": cookie})


async def settings(hub: Hub, asked: Asked, visitor: Visitor | None, named: Named) -> Answer:
    """One taste at a time: the button that was pressed says which."""
    for name, values in (("language", LANGUAGES), ("theme", THEMES)):
        value = asked.field(name)
        if value in values:
            cookie = preference(asked.secure, name, value)
            return see_other(local_path(asked.field("next")), **{"set-cookie": cookie})
    raise InvalidRequest("There is no such language or theme.")
