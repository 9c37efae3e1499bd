"""The JSON API for scripts: the command line's verbs, behind an operator's token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from tokenhub_proxy.dashboard.asked import Answer, Asked, named
from tokenhub_proxy.dashboard.hub import Hub
from tokenhub_proxy.errors import InvalidApiKey, InvalidRequest, MethodNotAllowed, NotFound, shown
from tokenhub_proxy.users import TOKEN_PREFIX, Actor, digest


class InvalidToken(InvalidApiKey):
    """401: no operator's token, or one that was revoked; the same words for both."""

    def __init__(self) -> None:
        super().__init__("no token")
        self.message = "No valid token was provided. Send an operator's as 'Authorization: Bearer th-op-...'."


@dataclass(frozen=True, slots=True)
class Call:
    """A method and a path, the verb behind it, and which arguments it takes from body or query."""

    method: str
    path: str
    verb: str
    takes: tuple[str, ...] = ()
    # Which argument stands in the path.
    names: str = "name"


_SCOPE = (
    "models", "ips", "quota", "requests_per_minute", "tokens_per_minute", "concurrent", "expires", "test",
)  # fmt: skip

CALLS: tuple[Call, ...] = (
    Call("GET", "/api/keys", "keys list"),
    Call("POST", "/api/keys", "keys create", ("name", "account", *_SCOPE)),
    Call("GET", "/api/keys/{}", "keys show"),
    Call("PATCH", "/api/keys/{}", "keys update", ("account", *_SCOPE)),
    Call("POST", "/api/keys/{}/rotate", "keys rotate", ("overlap",)),
    Call("POST", "/api/keys/{}/revoke", "keys revoke"),
    Call("GET", "/api/accounts", "accounts list"),
    Call("POST", "/api/accounts", "accounts create", ("name", "unlimited")),
    Call("POST", "/api/accounts/{}/credit", "accounts credit", ("amount", "note")),
    Call("POST", "/api/accounts/{}/debit", "accounts debit", ("amount", "note")),
    Call("POST", "/api/accounts/{}/block", "accounts block"),
    Call("POST", "/api/accounts/{}/unblock", "accounts unblock"),
    Call("GET", "/api/users", "users list"),
    Call("POST", "/api/users", "users invite", ("name", "account", "operator")),
    Call("POST", "/api/users/{}/block", "users block"),
    Call("POST", "/api/users/{}/unblock", "users unblock"),
    Call("GET", "/api/usage", "usage", ("by", "since")),
    Call("GET", "/api/payments/methods", "payments methods"),
    Call("GET", "/api/payments/quote", "payments quote", ("amount", "provider")),
    Call("GET", "/api/payments/webhooks", "payments webhooks"),
    Call("POST", "/api/payments/webhooks/{}/replay", "payments replay", names="id"),
    Call("GET", "/api/payments/codes", "payments codes list"),
    Call("POST", "/api/payments/codes", "payments codes create", ("amount", "count", "expires", "note")),
    Call("GET", "/api/orders", "payments orders", ("account", "state", "provider", "before")),
    Call(
        "POST",
        "/api/orders",
        "payments create",
        ("account", "amount", "provider", "method", "customer", "agreed"),
    ),
    Call("GET", "/api/orders/{}", "payments show", names="id"),
    Call("POST", "/api/orders/{}/look", "payments look", names="id"),
    Call("POST", "/api/orders/{}/complete", "payments complete", ("note", "payment"), "id"),
    Call("POST", "/api/orders/{}/cancel", "payments cancel", ("note",), "id"),
    Call("POST", "/api/orders/{}/refund", "payments refund", ("amount", "outside", "note"), "id"),
    Call("POST", "/api/accounts/{}/redeem", "payments redeem", ("code",), "account"),
    Call("GET", "/api/audit", "audit", ("before",)),
    Call("POST", "/api/ledger/verify", "ledger verify"),
    Call("POST", "/api/explain", "explain", ("key", "model", "ip", "body")),
)


def routes() -> set[tuple[str, str]]:
    """Every method with its path, for the API's description."""
    return {(call.method, call.path) for call in CALLS}


class Api:
    """Answers what is asked under /api."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def answer(self, asked: Asked) -> Answer:
        """One call. Raises ProxyErrors, which the server tells as everywhere."""
        # A session's cookie opens nothing here: what a browser sends by itself is no intention.
        actor = self._actor(asked)
        call, name = self._find(asked)
        arguments = self._arguments(asked, call)
        if name is not None:
            arguments[call.names] = name
        result = await self._hub.verbs.perform(call.verb, arguments, actor)
        return Answer(orjson.dumps(result), content_type="application/json")

    def _actor(self, asked: Asked) -> Actor:
        scheme, _, secret = asked.headers.get("Authorization", "").partition(" ")
        token = None
        if scheme.lower() == "bearer" and secret.startswith(TOKEN_PREFIX):
            token = self._hub.ledger.people.token(digest(secret.strip()))
        if token is None:
            raise InvalidToken
        return Actor(token.name, "api", asked.address)

    def _find(self, asked: Asked) -> tuple[Call, str | None]:
        parts, others = asked.path.split("/"), set()
        for call in CALLS:
            wanted = call.path.split("/")
            if len(wanted) != len(parts) or any(
                pattern not in ("{}", part) or not part
                for pattern, part in zip(wanted[1:], parts[1:], strict=True)
            ):
                continue
            if call.method == asked.method:
                return call, named(parts[wanted.index("{}")]) if "{}" in wanted else None
            others.add(call.method)
        if others:
            allowed = ", ".join(sorted(others))
            raise MethodNotAllowed(f"{asked.path} takes {allowed} only.", allowed=allowed)
        raise NotFound(f"There is no {shown(asked.path)} here.")

    def _arguments(self, asked: Asked, call: Call) -> dict[str, Any]:
        given: Mapping[str, Any] = asked.query
        if asked.method != "GET" and asked.body:
            try:
                given = orjson.loads(asked.body)
            except orjson.JSONDecodeError:
                raise InvalidRequest("The body is not JSON.") from None
            if not isinstance(given, dict):
                raise InvalidRequest("The body is a JSON object.")
        elif asked.method != "GET":
            given = {}
        for name in given:
            if name not in call.takes:
                raise InvalidRequest(f"There is no argument {shown(name)} here.", param=name)
        return {name: given.get(name) for name in call.takes}
