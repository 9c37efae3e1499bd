"""Clients that ask for what they may not have."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.conftest import KEY, one_upstream
from tests.faults.scene import (
    COMPLETE,
    COST,
    JSON,
    RETRY_FORBIDDEN,
    SECONDS,
    STREAMED,
    WHOLE,
    Scene,
    fault,
    parsed,
    request,
    until,
)
from tests.faults.test_clients import PATH
from tests.upstream import STREAM, FakeUpstream, stream_says, usual

# --- who may not


REVOKED = "sk-th-revokedrevokedrevoked"
EXPIRED = "sk-th-expiredexpiredexpired"
CREDENTIALS: dict[str, tuple[Sequence[str], str]] = {
    "none": ((), "missing"),
    "malformed": (("Authorization: Bearer nonsense",), "malformed"),
    "another scheme": (("Authorization: Basic dXNlcjpwYXNz",), "not a bearer token"),
    "bad checksum": (("Authorization: Bearer sk-th-" + "0" * 34,), "unknown"),
    "unknown": (("Authorization: Bearer sk-th-unknownunknownunknown",), "unknown"),
    "revoked": ((f"Authorization: Bearer {REVOKED}",), "revoked"),
    "expired": ((f"Authorization: Bearer {EXPIRED}",), "expired"),
    "two": ((f"Authorization: Bearer {KEY}", f"x-api-key: {KEY}"), "second credential in x-api-key"),
    "twice": ((f"Authorization: Bearer {KEY}",) * 2, "two Authorization headers"),
}


@fault(
    "The key is missing, malformed, unknown, revoked or expired, or there are two",
    "401 invalid_api_key",
    "none",
    log={"key_id": None, "reason": ..., "model": None},
    note="one body for all of them, but for the request id",
)
async def test_every_bad_credential_gets_the_same_answer(scene: Scene, upstream: FakeUpstream) -> None:
    running = await scene.start(
        one_upstream(
            upstream.base_url,
            f"keys: [{{name: k, key: {KEY}}}, {{name: r, key: {REVOKED}}},"
            f" {{name: x, key: {EXPIRED}, expires: 2020-01-01}}]",
        )
    )
    revoked = next(key for key in running.ledger.list_keys() if key.name == "r")
    await running.ledger.put_key(replace(revoked, revoked_at=1.0))
    said = set()

    for headers, reason in CREDENTIALS.values():
        told = await scene.call(WHOLE, *headers, key=None)
        error = told.error
        said.add(told.body.replace(error["request_id"].encode(), b""))
        assert scene.lines[-1]["reason"] == reason

    assert len(said) == 1
    assert upstream.asked == []


@pytest.mark.parametrize("forwarded", [(), ("X-Forwarded-For: 203.0.113.9",), ("X-Real-IP: 203.0.113.9",)])
@fault(
    "The client's address is not on the key's list, whatever `X-Forwarded-For` claims",
    "403 ip_not_allowed",
    "none",
    log={"reason": "127.0.0.1"},
)
async def test_an_address_is_the_sockets_and_not_the_claimed_one(
    scene: Scene, upstream: FakeUpstream, forwarded: Sequence[str]
) -> None:
    keys = f"keys: [{{name: k, key: {KEY}, ips: [203.0.113.0/24]}}]"
    await scene.start(one_upstream(upstream.base_url, keys))
    await scene.call(WHOLE, *forwarded)


@pytest.mark.parametrize(
    ("model", "client"),
    [("m", "403 model_not_allowed"), ("nowhere", "403 model_not_allowed"), ("fre", "404 model_not_found")],
)
@fault(
    "The model is outside the key's patterns, or not configured",
    ("403 model_not_allowed", "404 model_not_found"),
    "none",
    log={"reason": ("'m'", "'nowhere'", "'fre'"), "hold_n": 0},
    note="403 whether or not it exists; 404 names the nearest that the key may call",
)
async def test_a_model_out_of_reach_is_not_told_from_one_that_is_not_there(
    scene: Scene, upstream: FakeUpstream, model: str, client: str
) -> None:
    keys = f"keys: [{{name: k, key: {KEY}, models: ['fr*']}}]"
    await scene.start(one_upstream(upstream.base_url, keys))
    told = await scene.call({**WHOLE, "model": model})
    assert str(told) == client
    assert ("'free'" in told.error["message"]) is (model == "fre")


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (
            f"accounts: {{a: {{balance: prepaid}}}}\nkeys: [{{name: k, key: {KEY}, account: a}}]",
            "balance need=",
        ),
        (f"keys: [{{name: k, key: {KEY}, quota: {{usd: 0.001, per: day}}}}]", "quota need="),
    ],
    ids=["balance", "quota"],
)
@fault(
    "The balance or the key's quota can't cover the hold",
    "402 insufficient_quota",
    "none",
    headers=RETRY_FORBIDDEN,
    log={"reason": ..., "hold_n": 0},
    note="the log says what was needed and what is left",
)
async def test_what_can_not_be_paid_is_not_asked(
    scene: Scene, upstream: FakeUpstream, keys: str, reason: str
) -> None:
    await scene.start(one_upstream(upstream.base_url, keys))
    await scene.call({**WHOLE, "max_tokens": 900})
    assert scene.lines[-1]["reason"].startswith(reason)
    assert " have=" in scene.lines[-1]["reason"]
    assert upstream.asked == []


@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute", "concurrent"])
@fault(
    "The key is over its rate, or has too many calls under way",
    "429 rate_limited",
    "none",
    headers={"retry-after": SECONDS},
    log={"reason": ("requests", "tokens", "concurrent")},
    note="with `x-ratelimit-*` where the key has such a limit",
)
async def test_a_call_over_a_limit_is_a_429_that_says_when(
    scene: Scene, upstream: FakeUpstream, limit: str
) -> None:
    most = {"requests_per_minute": 1, "tokens_per_minute": 50, "concurrent": 1}[limit]
    keys = f"keys: [{{name: k, key: {KEY}, rate: {{{limit}: {most}}}}}]"
    await scene.start(one_upstream(upstream.base_url, keys))
    waits = asyncio.Event()
    upstream.says = lambda asked: (
        stream_says(STREAM, waits=waits) if asked.body.get("stream") else usual(asked)
    )
    first = scene.asking(request({**STREAMED, "max_tokens": 40}))
    await until(lambda: upstream.asked)

    told = await scene.call({**WHOLE, "max_tokens": 40})

    waits.set()
    assert str(parsed(await first)) == COMPLETE
    assert len(upstream.asked) == 1
    unit = limit.partition("_")[0]
    if unit != "concurrent":
        assert told.headers[f"x-ratelimit-limit-{unit}"] == str(most)
        assert told.headers[f"x-ratelimit-remaining-{unit}"].isdigit()
        assert told.headers[f"x-ratelimit-reset-{unit}"].endswith("s")


ELSEWHERE = [
    ("OPTIONS", PATH, "204"),
    ("GET", PATH, "405 method_not_allowed"),
    ("HEAD", "/v1/models", "405"),
    ("TRACE", "/healthz", "405 method_not_allowed"),
    ("DELETE", "/v1/models/m", "405 method_not_allowed"),
    ("CONNECT", "elsewhere:443", "400 invalid_request"),
    ("GET", "/nowhere", "404 not_found"),
    ("POST", "//v1/chat/completions", "404 not_found"),
    ("POST", "/v1/%63hat/completions", "404 not_found"),
    ("POST", "/v1/%2e%2e/v1/chat/completions", "404 not_found"),
    ("POST", "/v1/../v1/chat/completions", "404 not_found"),
]


@pytest.mark.parametrize(("method", "target", "client"), ELSEWHERE)
@fault(
    "Another method, another path, or one in disguise: OPTIONS, HEAD, TRACE, CONNECT, `//v1`, `%2e%2e`",
    ("204", "405", "405 method_not_allowed", "404 not_found", "400 invalid_request"),
    "none",
    note="never forwarded",
)
async def test_what_is_no_route_is_never_forwarded(
    scene: Scene, upstream: FakeUpstream, method: str, target: str, client: str
) -> None:
    await scene.start(one_upstream(upstream.base_url))
    told = await scene.send(request(b"", path=target, method=method))
    assert str(told) == client
    if told.status == 405:
        assert told.headers["allow"]
    assert upstream.asked == []
    assert scene.lines == []


@pytest.mark.parametrize("again", ["running", "ended", "another body"])
@fault(
    "An `Idempotency-Key` comes again: while its call runs, after it has ended, or with another body",
    ("409 idempotency_conflict", JSON, "400 invalid_request"),
    "none",
    log={"hold_n": 0},
    note="told by its receipt once it has ended; one charge in all",
)
async def test_a_call_is_made_once_under_its_idempotency_key(
    scene: Scene, upstream: FakeUpstream, again: str
) -> None:
    running = await scene.start(one_upstream(upstream.base_url))
    named = "Idempotency-Key: order-7"
    waits = asyncio.Event()
    if again == "running":
        upstream.says = lambda asked: stream_says(STREAM, waits=waits)
    first = scene.asking(request(STREAMED if again == "running" else WHOLE, [named]))
    await until(lambda: upstream.asked if again == "running" else first.done())

    body: dict[str, Any] = STREAMED if again == "running" else WHOLE
    told = await scene.call({**body, "temperature": 0} if again == "another body" else body, named)

    waits.set()
    paid = parsed(await first)
    assert str(told) == {"running": "409 idempotency_conflict", "ended": JSON}.get(
        again, "400 invalid_request"
    )
    if again == "ended":
        assert orjson.loads(told.body)["request_id"] == paid.headers["x-request-id"]
        assert scene.lines[-1]["idem_replay"] == paid.headers["x-request-id"]
    await until(lambda: len(scene.lines) == 2)
    assert len(upstream.asked) == 1
    assert [entry.amount async for entry in running.ledger.entries()] == [COST]
