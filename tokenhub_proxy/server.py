"""The HTTP server: which route is whose, and every answer and every error in the contract's shape."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from urllib.parse import unquote

import orjson

from tokenhub_proxy import keys
from tokenhub_proxy.calls import Endpoint
from tokenhub_proxy.connection import HttpClient, answer, answer_error
from tokenhub_proxy.errors import (
    InternalError,
    LedgerUnavailable,
    MethodNotAllowed,
    NotFound,
    ProxyError,
    ShuttingDown,
    shown,
)
from tokenhub_proxy.front import Front, require_parser
from tokenhub_proxy.keys import Key
from tokenhub_proxy.prices import format_usd, format_usd_per_token
from tokenhub_proxy.receipts import receipt_json, timestamp
from tokenhub_proxy.relay import Relay
from tokenhub_proxy.routes import Route
from tokenhub_proxy.wire import RequestHeaders

if TYPE_CHECKING:
    from tokenhub_proxy.tracing import Tracer

log = logging.getLogger(__name__)

# What the kernel takes of an answer before the client's window lets it go. By itself it takes 4 MiB
# for each client that reads nothing, and all of that is read from an upstream, and paid for.
UNSENT_BYTES_MAX = 128 * 1024

METERED: Final[dict[str, Endpoint]] = {"/v1/chat/completions": "chat", "/v1/embeddings": "embeddings"}
# What most requests are: served without aiohttp, where they are written in the usual way.
PLAIN = (
    *(("POST", path) for path in METERED),
    *(("GET", path) for path in ("/v1/models", "/healthz", "/readyz")),
)
# What a browser's script may read of an answer.
EXPOSED = (
    "x-request-id, retry-after, x-should-retry, x-tokenhub-cost-usd, x-tokenhub-dropped, "
    "x-tokenhub-output-max, x-tokenhub-replayed, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    "x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, "
    "x-ratelimit-reset-tokens"
)
_HEADER_NAMES = re.compile(r"[A-Za-z0-9, _-]{1,2000}")


@dataclass(frozen=True, slots=True)
class Page:
    """A whole answer."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"


# Writing the metrics holds up the event loop for about so long at once.
METRICS_AT_ONCE_S = 0.001
# A webhook has a few KB; nothing is read of a longer one.
WEBHOOK_BYTES_MAX = 64 * 2**10
WEBHOOKS_PATH = "/payments/webhooks/"


class Webhooks(Protocol):
    """What takes the webhooks of payment providers."""

    def knows(self, name: str) -> bool:
        """Whether there is a route for this provider."""
        ...

    async def handle(self, name: str, headers: RequestHeaders, body: bytes, peer: str) -> int:
        """The status of the answer."""
        ...


Handler = Callable[[HttpClient, str], Awaitable[Page]]
# A request that belongs to what is mounted: it answers, or raises a ProxyError.
Mounted = Callable[[HttpClient, str], Awaitable[None]]
# Where the pages and their JSON API are.
MOUNTS = ("/dashboard/", "/api/")


class Application:
    """All routes over one relay. `render_metrics` gives the Prometheus text in pieces."""

    def __init__(
        self,
        relay: Relay,
        *,
        cors_origins: tuple[str, ...],
        request_id: Callable[[], str],
        render_metrics: Callable[[], Iterator[str]],
        started_at: float,
        mounted: Mounted | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._relay = relay
        self.request_id = request_id
        self._render_metrics = render_metrics
        self._created = int(started_at)
        self._mounted = mounted
        package = resources.files("tokenhub_proxy")
        self._description = Page(package.joinpath("openapi.json").read_bytes())
        guide = package.joinpath("llms.txt").read_bytes()
        self._guide = Page(guide, content_type="text/plain; charset=utf-8")
        self.cors_origins = cors_origins
        self._tracer = tracer
        self.webhooks: Webhooks | None = None  # none where no payments are taken
        self._routes: dict[str, Handler] = {
            "/v1/models": self._models,
            "/v1/key": self._key,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
            "/llms.txt": self._llms,
        }
        # A path's last part may be anything: a model's name has slashes.
        self._prefixes: dict[str, Handler] = {
            "/v1/models/": self._model,
            "/v1/receipts/": self._receipt,
        }

    def routes(self) -> set[tuple[str, str]]:
        """Every method with its path; `{}` stands for what may be anything."""
        found = {("POST", path) for path in METERED} | {("GET", path) for path in self._routes}
        return found | {("GET", prefix + "{}") for prefix in self._prefixes}

    async def serve(self, client: HttpClient) -> None:
        """Answer one request, whichever connection it came on."""
        if "origin" in client.special:
            client.extra_headers = self._cors(client)
        refusal = client.check()
        if refusal is not None:
            await answer_error(client, refusal, self.request_id())
            return
        endpoint = METERED.get(client.path) if client.method == "POST" else None
        try:
            if endpoint is not None:
                if self._tracer is not None:
                    self._tracer.begin(client.headers)
                await self._relay.handle(client, endpoint)
            else:
                await self._plain(client)
            return
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception:
            # The relay has told the client already; the others are told here.
            log.exception("unexpected error in %s %s", client.method, shown(client.path))
        if not client.begun:
            await answer_error(client, InternalError(), self.request_id())

    async def _plain(self, client: HttpClient) -> None:
        id = self.request_id()
        refusal: ProxyError | None = None
        try:
            if self._mounted is not None and f"{client.path}/".startswith(MOUNTS):
                # What answers with a cookie's authority is for no other origin's scripts.
                client.extra_headers = {}
                await self._mounted(client, id)
                return
            if client.method == "OPTIONS":
                await answer(client, 204, {"x-request-id": id, **self._preflight(client.headers)}, b"")
                return
            handler = self._find(client.method, client.path)
            page = await handler(client, client.path)
        except ProxyError as error:
            refusal = error.with_traceback(None)  # which would hold this frame
        if refusal is not None:
            await answer_error(client, refusal, id)
            return
        await answer(client, page.status, {"content-type": page.content_type, "x-request-id": id}, page.body)

    def _find(self, method: str, path: str) -> Handler:
        handler, allowed = self._routes.get(path), "GET, OPTIONS"
        if handler is None:
            for prefix, candidate in self._prefixes.items():
                if path.startswith(prefix) and len(path) > len(prefix):
                    handler = candidate
        if self.webhooks is not None and path.startswith(WEBHOOKS_PATH):
            allowed = "POST"
            if not self.webhooks.knows(path.removeprefix(WEBHOOKS_PATH)):
                raise NotFound(f"There is no {shown(path)} here.")
            if method == "POST":
                return self._webhook
        elif handler is None and path in METERED:
            allowed = "POST, OPTIONS"
        elif handler is None:
            raise NotFound(f"There is no {shown(path)} here.")
        elif method == "GET":
            return handler
        raise MethodNotAllowed(f"{path} takes {allowed.partition(',')[0]} only.", allowed=allowed)

    # --- browsers

    def _cors(self, client: HttpClient) -> Mapping[str, str]:
        origin = client.headers.get("Origin")
        if origin is None or not self.cors_origins:
            return {}
        if "*" in self.cors_origins:
            return {"access-control-allow-origin": "*", "access-control-expose-headers": EXPOSED}
        if origin not in self.cors_origins:
            return {"vary": "Origin"}
        return {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": EXPOSED,
            "vary": "Origin",
        }

    def _preflight(self, headers: RequestHeaders) -> Mapping[str, str]:
        asked = headers.get("Access-Control-Request-Headers") or ""
        found = {"allow": "GET, POST, OPTIONS"}
        if headers.get("Origin") is not None:
            found["access-control-allow-methods"] = "GET, POST, OPTIONS"
            found["access-control-max-age"] = "86400"
            if _HEADER_NAMES.fullmatch(asked):
                found["access-control-allow-headers"] = asked
        return found

    # --- the routes

    async def _models(self, client: HttpClient, path: str) -> Page:
        key = self._relay.identify(client)
        visible = self._relay.serving.routes.visible(key.scope)
        data = [model_object(route, self._created) for route in visible.values()]
        return _json({"object": "list", "data": data})

    async def _model(self, client: HttpClient, path: str) -> Page:
        key = self._relay.identify(client)
        route = self._relay.serving.routes.find(unquote(path.removeprefix("/v1/models/")), key.scope)
        return _json(model_object(route, self._created))

    async def _key(self, client: HttpClient, path: str) -> Page:
        return _json(key_object(self._relay.identify(client), self._relay))

    async def _receipt(self, client: HttpClient, path: str) -> Page:
        key = self._relay.identify(client)
        id = path.removeprefix("/v1/receipts/")
        receipt = await self._relay.ledger.receipt(id)
        if receipt is None or receipt.account != key.account:
            raise NotFound(f"There is no receipt {shown(id)}.")
        return Page(receipt_json(receipt))

    async def _webhook(self, client: HttpClient, path: str) -> Page:
        assert self.webhooks is not None
        body = await client.body(WEBHOOK_BYTES_MAX)
        forwarded = client.headers.getall("X-Forwarded-For", ())
        address = keys.client_address(client.peer, forwarded, self._relay.serving.trusted_proxies)
        peer = "" if address is None else str(address)
        status = await self.webhooks.handle(path.removeprefix(WEBHOOKS_PATH), client.headers, body, peer)
        return Page(b"{}", status)

    async def _healthz(self, client: HttpClient, path: str) -> Page:
        return _json({"status": "ok"})

    async def _readyz(self, client: HttpClient, path: str) -> Page:
        if self._relay.leaving or self._relay.draining:
            raise ShuttingDown
        reason = self._relay.ledger.unavailable
        if reason is not None:
            raise LedgerUnavailable(reason)
        return _json({"status": "ok"})

    async def _metrics(self, client: HttpClient, path: str) -> Page:
        loop, parts = asyncio.get_running_loop(), []
        begun_s = loop.time()
        for part in self._render_metrics():
            parts.append(part)
            if loop.time() - begun_s > METRICS_AT_ONCE_S:  # streams come first
                await asyncio.sleep(0)
                begun_s = loop.time()
        text = "".join(parts)
        return Page(text.encode(), content_type="text/plain; version=0.0.4; charset=utf-8")

    async def _openapi(self, client: HttpClient, path: str) -> Page:
        return self._description

    async def _llms(self, client: HttpClient, path: str) -> Page:
        return self._guide


def _json(found: object) -> Page:
    return Page(orjson.dumps(found))


def model_object(route: Route, created: int) -> dict[str, Any]:
    """A model as `/v1/models` lists it; prices are decimal strings, USD per token."""
    price = route.price
    return {
        "id": route.model,
        "object": "model",
        "created": created,
        "owned_by": "tokenhub",
        "context_length": route.context_length,
        "max_output_tokens": route.output_max,
        "pricing": {
            "prompt": format_usd_per_token(price.input),
            "completion": format_usd_per_token(price.output),
            "input_cache_read": format_usd_per_token(price.cached),
            "input_cache_write": format_usd_per_token(price.cache_write),
        },
    }


def key_object(key: Key, relay: Relay) -> dict[str, Any]:
    """What `/v1/key` tells a key about itself."""
    scope, account = key.scope, relay.ledger.account(key.account)
    quota = None
    if scope.quota_nanos is not None:
        window = relay.ledger.window(keys.period_name(key.name, scope.quota_per, relay.clock()))
        quota = {
            "usd": format_usd(scope.quota_nanos),
            "per": scope.quota_per,
            "used_usd": format_usd(window.posted),
            "left_usd": format_usd(max(0, scope.quota_nanos - window.posted - window.held)),
        }
    limited = account is not None and not account.unlimited
    return {
        "name": key.name,
        "account": key.account,
        "balance_usd": format_usd(account.posted) if account is not None and limited else None,
        "held_usd": format_usd(account.held if account is not None else 0),
        "quota": quota,
        "rate": {
            "requests_per_minute": scope.requests_per_minute,
            "tokens_per_minute": scope.tokens_per_minute,
            "concurrent": scope.concurrent,
        },
        "models": list(scope.models),
        "ips": list(scope.ips),
        "expires_at": None if scope.expires_at is None else timestamp(scope.expires_at),
    }


async def listen(
    application: Application, host: str, port: int, inherited: socket.socket | None = None
) -> tuple[Front, asyncio.Server]:
    """Accept connections; port 0 picks a free one. A socket that listens already is used in its place.

    Raises ParserMissing.
    """
    require_parser()
    lines = {f"{method} {path} HTTP/1.1\r\n".encode(): (method, path) for method, path in PLAIN}
    front = Front(application.serve, lines, application.request_id)
    where: dict[str, Any] = {"host": host, "port": port} if inherited is None else {"sock": inherited}
    # A burst of clients at once waits in the kernel rather than being refused.
    listener = await asyncio.get_running_loop().create_server(front, **where, backlog=2048)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        for each in list(cast(Any, listener).sockets):  # what they accept inherits it
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)
    return front, listener
