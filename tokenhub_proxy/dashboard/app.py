"""The dashboard's routes: who may ask for each, and what becomes of every refusal."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, cast

from tokenhub_proxy import keys
from tokenhub_proxy.admin import Administration
from tokenhub_proxy.config import Config
from tokenhub_proxy.connection import HttpClient, answer
from tokenhub_proxy.dashboard import (
    account_pages,
    api,
    desk_pages,
    doors,
    figures_pages,
    key_pages,
    live,
    operator_pages,
    playground,
    top_up_pages,
)
from tokenhub_proxy.dashboard.access import Access, Visitor
from tokenhub_proxy.dashboard.asked import (
    FORM_BYTES_MAX,
    Answer,
    Asked,
    Forbidden,
    SignInFirst,
    cookies_of,
    form_of,
    named,
    query_of,
    see_other,
)
from tokenhub_proxy.dashboard.assets import PREFIX, Assets
from tokenhub_proxy.dashboard.hub import Hub
from tokenhub_proxy.dashboard.passwords import Passwords
from tokenhub_proxy.dashboard.rendering import HEADERS, HTTPS_ONLY, Pages
from tokenhub_proxy.dashboard.turns import Turns
from tokenhub_proxy.errors import InternalError, MethodNotAllowed, NotFound, ProxyError, shown
from tokenhub_proxy.metrics.counters import Counters
from tokenhub_proxy.relay import Relay

log = logging.getLogger(__name__)

Who = Literal["anybody", "person", "operator"]
# What stands in the place of `{}` of a path.
Named = tuple[str, ...]
Open = Callable[[Hub, Asked, Visitor | None, Named], Awaitable[Answer]]
Signed = Callable[[Hub, Asked, Visitor, Named], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path, who may ask, and who answers."""

    method: str
    path: str
    who: Who
    open: Open | None = None
    signed: Signed | None = None

    def match(self, method: str, parts: list[str]) -> Named | None:
        """The names in a path's places, or None where it is another path."""
        wanted = self.path.split("/")
        if len(wanted) != len(parts) or self.method != method:
            return None
        found = []
        for pattern, part in zip(wanted, parts, strict=True):
            if pattern == "{}" and part:
                found.append(named(part))
            elif pattern != part:
                return None
        return tuple(found)


def _signed(who: Who, routes: Mapping[str, Signed]) -> list[Route]:
    found = []
    for line, handler in routes.items():
        method, _, path = line.partition(" ")
        found.append(Route(method, path, who, signed=handler))
    return found


# The policy of a route stands here, beside its path: nothing else decides who may ask.
ROUTES: tuple[Route, ...] = (
    Route("GET", "/dashboard/sign-in", "anybody", doors.sign_in_page),
    Route("POST", "/dashboard/sign-in", "anybody", doors.sign_in),
    Route("GET", "/dashboard/sign-up", "anybody", doors.sign_up_page),
    Route("POST", "/dashboard/sign-up", "anybody", doors.sign_up),
    Route("GET", "/dashboard/link/{}", "anybody", doors.link_page),
    Route("POST", "/dashboard/link/{}", "anybody", doors.link),
    Route("POST", "/dashboard/settings", "anybody", doors.settings),
    *_signed(
        "person",
        {
            "GET /dashboard": figures_pages.overview,
            "GET /dashboard/keys": key_pages.listed,
            "GET /dashboard/new-key": key_pages.new,
            "POST /dashboard/keys": key_pages.create,
            "GET /dashboard/keys/{}": key_pages.shown_key,
            "POST /dashboard/keys/{}": key_pages.update,
            "POST /dashboard/keys/{}/rotate": key_pages.rotate,
            "POST /dashboard/keys/{}/revoke": key_pages.revoke,
            "GET /dashboard/usage": figures_pages.usage,
            "GET /dashboard/usage.csv": figures_pages.usage_csv,
            "GET /dashboard/requests": figures_pages.requests,
            "GET /dashboard/requests/{}": figures_pages.request,
            "GET /dashboard/balance": figures_pages.balance,
            "GET /dashboard/top-up": top_up_pages.top_up,
            "GET /dashboard/top-up/quote": top_up_pages.quote_panel,
            "GET /dashboard/orders": top_up_pages.orders,
            "POST /dashboard/orders": top_up_pages.create,
            "GET /dashboard/orders/{}": top_up_pages.order,
            "GET /dashboard/orders/{}/panel": top_up_pages.order_panel,
            "POST /dashboard/redeem": top_up_pages.redeem,
            "GET /dashboard/models": figures_pages.models,
            "GET /dashboard/playground": playground.page,
            "POST /dashboard/playground": playground.ask,
            "POST /dashboard/playground/ticket": playground.ticket,
            "GET /dashboard/account": account_pages.account,
            "POST /dashboard/account/password": account_pages.password,
            "POST /dashboard/account/sessions": account_pages.end_session,
            "POST /dashboard/sign-out": doors.sign_out,
        },
    ),
    *_signed(
        "operator",
        {
            "GET /dashboard/live": live.page,
            "GET /dashboard/live/panel": live.panel,
            "GET /dashboard/upstreams": live.upstreams,
            "POST /dashboard/upstreams/{}/test": live.test,
            "GET /dashboard/accounts": operator_pages.accounts,
            "POST /dashboard/accounts": operator_pages.create_account,
            "GET /dashboard/accounts/{}": operator_pages.account,
            "POST /dashboard/accounts/{}": operator_pages.change_account,
            "GET /dashboard/desk": desk_pages.desk,
            "GET /dashboard/desk/webhooks": desk_pages.webhooks,
            "POST /dashboard/desk/webhooks/{}/replay": desk_pages.replay,
            "GET /dashboard/desk/codes": desk_pages.codes,
            "POST /dashboard/desk/codes": desk_pages.create_codes,
            "GET /dashboard/desk/settings": desk_pages.settings,
            "POST /dashboard/orders/{}/act": desk_pages.act,
            "GET /dashboard/people": operator_pages.people,
            "POST /dashboard/people": operator_pages.change_people,
            "GET /dashboard/audit": operator_pages.audit,
            "GET /dashboard/config": operator_pages.config,
            "GET /dashboard/system": operator_pages.system,
            "POST /dashboard/system/backup": operator_pages.backup,
        },
    ),
)


class Dashboard:
    """The pages and the JSON API over a running relay."""

    def __init__(
        self,
        relay: Relay,
        verbs: Administration,
        config: Callable[[], Config],
        counters: Counters,
        passwords: Passwords | None = None,
    ) -> None:
        self._assets = Assets()
        access = Access(verbs.ledger.people, clock=relay.clock, randomness=os.urandom, passwords=passwords)
        pages = Pages(self._assets, clock=relay.clock)
        self.hub = Hub(relay, verbs.ledger, verbs, config, counters, access, pages, relay.clock)
        self._api = api.Api(self.hub)
        self._turns = Turns()

    async def begin(self) -> None:
        """Read who there is; before the first request."""
        await self.hub.ledger.people.load()

    async def handle(self, client: HttpClient, id: str) -> None:
        """Answer one request. Refusals of the API are raised, those of pages are pages."""
        asked = await self._asked(client, id)
        # Changes may wait for an upstream or a password, and files cost nothing: only pages take turns.
        page = asked.method == "GET" and not asked.path.startswith(PREFIX)
        async with self._turns if page else nullcontext():
            found = await (self._api.answer if asked.path.startswith("/api") else self._page)(asked)
        headers = {
            **HEADERS,
            **(HTTPS_ONLY if asked.secure else {}),
            "content-type": found.content_type,
            "x-request-id": id,
            **found.headers,
        }
        await answer(client, found.status, headers, found.body)

    async def _asked(self, client: HttpClient, id: str) -> Asked:
        trusted = self.hub.relay.serving.trusted_proxies
        headers = client.headers
        forwarded = headers.getall("X-Forwarded-For", ())
        address = keys.client_address(client.peer, list(forwarded), trusted)
        peer = keys.parse_address(client.peer)
        behind = peer is not None and bool(trusted) and peer in trusted
        secure = behind and (headers.get("X-Forwarded-Proto") or "").lower() == "https"
        body = await client.body(FORM_BYTES_MAX) if client.method not in ("GET", "HEAD") else b""
        api_call = client.path.startswith("/api")
        return Asked(
            method="GET" if client.method == "HEAD" else client.method,
            path=client.path,
            query=query_of(client.query),
            headers=cast(Mapping[str, str], headers),
            cookies=cookies_of("; ".join(headers.getall("Cookie", ()))),
            form={} if api_call else form_of(body, headers.get("Content-Type") or ""),
            body=body if api_call else b"",
            address=str(address or client.peer),
            secure=secure,
            id=id,
        )

    async def _page(self, asked: Asked) -> Answer:
        visitor = None
        try:
            static = self._assets.answer(asked.path) if asked.path.startswith(PREFIX) else None
            if static is not None and asked.method == "GET":
                return static
            visitor = await self.hub.access.visitor(asked)
            return await self._routed(asked, visitor)
        except SignInFirst:
            if asked.from_htmx:
                return Answer(status=401, headers={"HX-Refresh": "true"})
            going = f"?next={asked.path}" if asked.method == "GET" and asked.path != "/dashboard" else ""
            return see_other(f"/dashboard/sign-in{going}")
        except ProxyError as error:
            return self._refused(asked, visitor, error)
        except Exception:
            log.exception("unexpected error in %s %s", asked.method, shown(asked.path))
            return self._refused(asked, visitor, InternalError())

    def _refused(self, asked: Asked, visitor: Visitor | None, error: ProxyError) -> Answer:
        page = self.hub.page(asked, visitor, "error.html", error=error)
        page.status = error.http_status
        page.headers.update(error.headers())
        return page

    async def _routed(self, asked: Asked, visitor: Visitor | None) -> Answer:
        parts = asked.path.rstrip("/").split("/")
        for route in ROUTES:
            found = route.match(asked.method, parts)
            if found is None:
                continue
            if asked.method == "POST":
                self.hub.access.check_form(asked, visitor)
            if route.open is not None:
                return await route.open(self.hub, asked, visitor, found)
            if visitor is None:
                raise SignInFirst("Sign in first.")
            if route.who == "operator" and not visitor.operator:
                raise Forbidden("Only operators may do that.")
            assert route.signed is not None
            return await route.signed(self.hub, asked, visitor, found)
        others = {route.method for route in ROUTES if route.match(route.method, parts) is not None}
        if others:
            raise MethodNotAllowed("That can't be done here.", allowed=", ".join(sorted(others)))
        if visitor is None:
            raise SignInFirst("Sign in first.")
        raise NotFound(f"There is no page {shown(asked.path)}.")
