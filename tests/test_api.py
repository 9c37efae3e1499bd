"""The JSON API: an operator's token opens it, the command line's verbs answer, the trail remembers."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.browsing import visitor
from tests.conftest import KEY, Running
from tests.test_server import ask, error_of
from tokenhub_proxy.dashboard.api import CALLS
from tokenhub_proxy.users import COMMAND_LINE


@pytest.fixture
async def token(proxy: Running) -> str:
    made = await proxy.proxy.administration.perform("tokens create", {"name": "script"}, COMMAND_LINE)
    return str(made["secret"])


async def asked(
    proxy: Running, token: str | None, method: str, path: str, body: Any = None
) -> tuple[int, Any]:
    options = {"data": orjson.dumps(body)} if body is not None else {}
    status, headers, answer = await ask(proxy, method, path, key=token, **options)
    assert headers["x-request-id"]
    assert "access-control-allow-origin" not in headers
    if status >= 400:
        error_of(answer)
    return status, orjson.loads(answer)


async def test_nothing_else_opens_it(proxy: Running, token: str) -> None:
    session = await visitor(proxy, "root")
    await proxy.proxy.administration.perform("tokens create", {"name": "old"}, COMMAND_LINE)
    for call in CALLS:
        path = call.path.replace("{}", "tester")
        for wrong in (None, KEY, token[:-1], token + "0", "th-op-", session.secret):
            status, _ = await asked(proxy, wrong, call.method, path)
            assert status == 401, path
        cookie = await session.ask(call.method, path)
        assert cookie.status == 401


async def test_keys_and_money_go_through_it_and_are_on_record(proxy: Running, token: str) -> None:
    status, account = await asked(proxy, token, "POST", "/api/accounts", {"name": "acme"})
    assert (status, account["balance_usd"]) == (200, "0.00")
    await asked(proxy, token, "POST", "/api/accounts/acme/credit", {"amount": "5.00", "note": "first"})
    status, made = await asked(
        proxy, token, "POST", "/api/keys", {"name": "new", "account": "acme", "models": ["m", "free"]}
    )
    assert status == 200
    status, key = await asked(proxy, token, "PATCH", "/api/keys/new", {"quota": "1.00/day"})
    assert (status, key["quota_usd"]) == (200, "1.00")
    assert (await asked(proxy, made["secret"], "GET", "/v1/key"))[1]["account"] == "acme"
    await asked(proxy, token, "POST", "/api/keys/new/revoke")
    assert (await asked(proxy, made["secret"], "GET", "/v1/key"))[0] == 401
    status, trail = await asked(proxy, token, "GET", "/api/audit")
    assert [(act["actor"], act["door"], act["verb"]) for act in trail[:4]] == [
        ("script", "api", "keys revoke"),
        ("script", "api", "keys update"),
        ("script", "api", "keys create"),
        ("script", "api", "accounts credit"),
    ]
    assert trail[1]["details"]["quota_usd"] == [None, "1.00"]
    assert made["secret"] not in str(trail)


async def test_what_is_wrong_is_told_as_everywhere(proxy: Running, token: str) -> None:
    for method, path, body, expected in (
        ("GET", "/api/keys/nobody", None, 404),
        ("GET", "/api/nothing", None, 404),
        ("GET", "/api", None, 404),
        ("DELETE", "/api/keys", None, 405),
        ("POST", "/api/keys", {"name": "x", "digest": "y"}, 400),
        ("POST", "/api/keys", [], 400),
        ("POST", "/api/accounts/nobody/credit", {"amount": "1"}, 404),
        ("POST", "/api/accounts/default/credit", {"amount": "-1"}, 400),
        ("GET", "/api/usage?by=moon", None, 400),
        ("GET", "/api/audit?before=x", None, 400),
    ):
        status, _ = await asked(proxy, token, method, path, body)
        assert status == expected, (method, path)


async def test_a_revoked_token_opens_nothing(proxy: Running, token: str) -> None:
    await proxy.proxy.administration.perform("tokens revoke", {"name": "script"}, COMMAND_LINE)
    assert (await asked(proxy, token, "GET", "/api/keys"))[0] == 401
