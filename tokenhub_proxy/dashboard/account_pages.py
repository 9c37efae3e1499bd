"""One's own account: password, sessions, language and theme."""

from __future__ import annotations

from tokenhub_proxy.dashboard.access import Visitor
from tokenhub_proxy.dashboard.asked import Answer, Asked, see_other
from tokenhub_proxy.dashboard.hub import Hub
from tokenhub_proxy.dashboard.passwords import LENGTH_MIN
from tokenhub_proxy.errors import ProxyError

Named = tuple[str, ...]


async def account(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    return _page(hub, asked, visitor, None)


def _page(hub: Hub, asked: Asked, visitor: Visitor, problem: ProxyError | None) -> Answer:
    sessions = hub.ledger.people.sessions_of(visitor.person.id)
    page = hub.page(asked, visitor, "account.html", sessions=sessions, problem=problem, length_min=LENGTH_MIN)
    if problem is not None:
        page.status = problem.http_status
    return page


async def password(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    try:
        cookie = await hub.access.change_password(asked, visitor)
    except ProxyError as error:
        return _page(hub, asked, visitor, error)
    return see_other("/dashboard/account?saved=1", **{"set-cookie": cookie})


async def end_session(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    if asked.field("session") == "others":
        await hub.access.end_others(visitor)
    else:
        await hub.access.end_session(visitor, asked.field("session"))
    return see_other("/dashboard/account")
