"""`explain`: the same checks as a call, with nothing sent, held or counted."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import Running, Serve, one_upstream
from tests.upstream import FakeUpstream
from tokenhub_proxy import tables, wiring
from tokenhub_proxy.explain import explain
from tokenhub_proxy.keys import Key, Scope

Told = Callable[..., dict[str, Any]]
ANYTHING = Scope()


@pytest.fixture
def told(proxy: Running) -> Told:
    """Explain a call of the test key with another scope."""
    (key,) = proxy.ledger.list_keys()

    def explained(scope: Scope = ANYTHING, key: Key = key, **arguments: Any) -> dict[str, Any]:
        return explain(proxy.proxy.relay, replace(key, scope=scope), {"model": "m", **arguments})

    return explained


def test_it_tells_the_target_the_body_and_the_hold(told: Told, upstream: FakeUpstream) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 7})
    found = told(body=body)
    (target,) = found["targets"]
    assert target["upstream"] == "up"
    assert target["url"] == f"{upstream.base_url}/chat/completions"
    assert target["body"]["model"] == "real-m"
    assert target["body"]["max_tokens"] == 7
    assert found["left_usd"] is None
    assert found["hold_usd"] > "0.000105"
    assert "sk-upstream-secret" not in json.dumps(found)
    assert upstream.asked == []


@pytest.mark.parametrize(
    ("scope", "arguments", "code"),
    [
        (Scope(expires_at=1.0), {}, "invalid_api_key"),
        (Scope(ips=("10.0.0.0/8",)), {"ip": "192.0.2.1"}, "ip_not_allowed"),
        (Scope(ips=("10.0.0.0/8",)), {"ip": "nowhere"}, "ip_not_allowed"),
        (Scope(models=("gpt-*",)), {}, "model_not_allowed"),
        (Scope(), {"model": "n"}, "model_not_found"),
        (Scope(), {"body": "{"}, "invalid_request"),
        (Scope(), {"body": "[]"}, "invalid_request"),
        (Scope(), {"body": '{"messages": 1}'}, "invalid_request"),
        (Scope(quota_nanos=1), {}, "insufficient_quota"),
    ],
)
def test_it_refuses_what_the_call_would_be_refused_for(
    told: Told, scope: Scope, arguments: dict[str, Any], code: str
) -> None:
    found = told(scope, **arguments)
    assert found["refusal"]["code"] == code
    assert "request_id" not in found["refusal"]
    assert code in tables.explanation(found)


def test_an_address_in_the_list_passes(told: Told) -> None:
    assert "refusal" not in told(Scope(ips=("10.0.0.0/8",)), ip="10.1.2.3")


def test_a_small_balance_limits_the_output_and_says_so(told: Told) -> None:
    found = told(Scope(quota_nanos=8_000_000))
    assert 256 <= found["output_max_sent"] < 1000
    assert "sent upstream" in tables.explanation(found)


def test_an_embedding_is_told_from_its_body(told: Told) -> None:
    found = told(model="e", body='{"input": "text"}')
    assert found["targets"][0]["url"].endswith("/embeddings")


async def test_the_verdict_is_the_calls_own(serve: Serve, upstream: FakeUpstream) -> None:
    """What explain says of a body is what the server then does with it."""
    running = await serve(one_upstream(upstream.base_url, "accounts: {main: {balance: prepaid}}\n"))
    verbs = wiring.administration(running.proxy.relay, running.ledger).verbs
    ask: Callable[[dict[str, Any]], Awaitable[Any]] = verbs["explain"]
    found = await ask({"key": "tester", "model": "m"})
    assert "refusal" not in found
    assert running.ledger.account("default").held == 0
    assert tables.explanation(found).splitlines()[0].startswith("key")
