"""Every route over real sockets: its answer, its refusals, and the shape of both."""

from __future__ import annotations

import asyncio
import gzip
import io
import zlib
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
import pytest

from tests.conftest import KEY, Running, Serve, one_upstream
from tests.upstream import STREAM, FakeUpstream, json_says
from tokenhub_proxy import keys, sockets

MESSAGES = [{"role": "user", "content": "Hello"}]

# Whoever serves a call, the verdicts are the same.
pytestmark = pytest.mark.usefixtures("front")


async def ask(
    running: Running, method: str, path: str, *, key: str | None = KEY, **options: Any
) -> tuple[int, dict[str, str], bytes]:
    """One request: the status, the headers in lower case, and the body."""
    headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **options.pop("headers", {})}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, running.url + path, headers=headers, **options) as answer,
    ):
        return (
            answer.status,
            {name.lower(): value for name, value in answer.headers.items()},
            await answer.read(),
        )


async def raw(running: Running, request: bytes) -> bytes:
    """What the server says to these bytes, until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    try:
        writer.write(request)
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


def error_of(body: bytes) -> dict[str, Any]:
    """The error object, which always has these members."""
    error: dict[str, Any] = orjson.loads(body)["error"]
    assert list(error) == ["code", "message", "type", "param", "request_id"]
    return error


async def test_a_completion_is_relayed_with_its_model_renamed_upstream_only(
    proxy: Running, upstream: FakeUpstream
) -> None:
    body = {"model": "m", "messages": MESSAGES, "x_unknown": {"kept": [1]}}

    status, headers, answer = await ask(proxy, "POST", "/v1/chat/completions", json=body)

    assert status == 200
    assert orjson.loads(answer)["model"] == "real-m"
    assert upstream.asked[0].body == {**body, "model": "real-m"}
    assert upstream.asked[0].headers["Authorization"] == "Bearer sk-upstream-secret"
    assert headers["x-request-id"].startswith("req_")
    assert headers["x-tokenhub-cost-usd"] == "0.00006"  # 10 × 3 + 2 × 15 USD per million


async def test_a_stream_reaches_the_client_without_the_usage_that_it_did_not_ask_for(
    proxy: Running, upstream: FakeUpstream
) -> None:
    body = {"model": "m", "messages": MESSAGES, "stream": True}

    status, headers, answer = await ask(proxy, "POST", "/v1/chat/completions", json=body)

    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert answer == b"".join(piece for piece in STREAM if b'"choices":[]' not in piece)
    assert upstream.asked[0].body["stream_options"] == {"include_usage": True}
    assert proxy.exchanges[0].cost == 60_000


async def test_a_stream_with_usage_asked_is_the_upstreams_bytes(proxy: Running) -> None:
    body = {"model": "m", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}

    _, _, answer = await ask(proxy, "POST", "/v1/chat/completions", json=body)

    assert answer == b"".join(STREAM)


async def test_embeddings_are_relayed(proxy: Running) -> None:
    status, headers, answer = await ask(
        proxy, "POST", "/v1/embeddings", json={"model": "e", "input": ["one", "two"]}
    )

    assert status == 200
    assert orjson.loads(answer)["data"][0]["embedding"] == [0.5, -0.5]
    assert headers["x-tokenhub-cost-usd"] == "0.00000008"


async def test_a_model_without_an_output_price_serves_embeddings_only(proxy: Running) -> None:
    status, _, body = await ask(
        proxy, "POST", "/v1/chat/completions", json={"model": "e", "messages": MESSAGES}
    )

    assert (status, error_of(body)["code"]) == (400, "invalid_request")


async def test_models_lists_what_the_key_may_call_with_prices(serve: Serve, upstream: FakeUpstream) -> None:
    running = await serve(
        one_upstream(upstream.base_url, f"keys: [{{name: k, key: {KEY}, models: ['m', 'f*']}}]")
    )

    status, _, body = await ask(running, "GET", "/v1/models")
    found = orjson.loads(body)

    assert status == 200
    assert [model["id"] for model in found["data"]] == ["m", "free"]
    assert found["data"][0]["pricing"] == {
        "prompt": "0.000003",
        "completion": "0.000015",
        "input_cache_read": "0.0000003",
        "input_cache_write": "0.000003",
    }
    assert found["data"][1]["pricing"]["prompt"] == "0"
    one = await ask(running, "GET", "/v1/models/m")
    assert orjson.loads(one[2]) == found["data"][0]
    assert error_of((await ask(running, "GET", "/v1/models/demo"))[2])["code"] == "model_not_allowed"
    assert error_of((await ask(running, "GET", "/v1/models/fr/ee"))[2])["code"] == "model_not_found"


async def test_a_models_name_may_hold_slashes_plain_or_escaped(serve: Serve, upstream: FakeUpstream) -> None:
    text = one_upstream(upstream.base_url).replace("  free:", "  meta/free:")
    running = await serve(text)

    for path in ("/v1/models/meta/free", "/v1/models/meta%2Ffree"):
        status, _, body = await ask(running, "GET", path)

        assert (status, orjson.loads(body)["id"]) == (200, "meta/free")


async def test_key_tells_its_own_standing(serve: Serve, upstream: FakeUpstream) -> None:
    running = await serve(
        one_upstream(
            upstream.base_url,
            "accounts: {main: {balance: prepaid}}\n"
            f"keys: [{{name: k, key: {KEY}, account: main, quota: {{usd: 1.00, per: month}}, "
            "rate: {requests_per_minute: 5}, expires: 2099-01-01}]",
        )
    )
    await running.ledger.credit("main", 2 * 10**9, at=0.0)
    await ask(running, "POST", "/v1/chat/completions", json={"model": "m", "messages": MESSAGES})

    _, _, body = await ask(running, "GET", "/v1/key")

    assert orjson.loads(body) == {
        "name": "k",
        "account": "main",
        "balance_usd": "1.99994",
        "held_usd": "0.00",
        "quota": {"usd": "1.00", "per": "month", "used_usd": "0.00006", "left_usd": "0.99994"},
        "rate": {"requests_per_minute": 5, "tokens_per_minute": None, "concurrent": None},
        "models": ["*"],
        "ips": [],
        "expires_at": "2099-01-01T00:00:00.000Z",
    }


async def test_a_receipt_tells_what_a_request_cost(proxy: Running) -> None:
    _, headers, _ = await ask(
        proxy, "POST", "/v1/chat/completions", json={"model": "m", "messages": MESSAGES}
    )

    status, _, body = await ask(proxy, "GET", f"/v1/receipts/{headers['x-request-id']}")
    found = orjson.loads(body)

    assert status == 200
    assert found["status"] == "settled"
    assert (found["cost_usd"], found["upstream"], found["estimated"]) == ("0.00006", "up", False)
    assert found["usage"]["input_tokens"] == 10
    assert error_of((await ask(proxy, "GET", "/v1/receipts/req_none"))[2])["code"] == "not_found"


@pytest.mark.parametrize(
    ("key", "headers", "path"),
    [
        (None, {}, "/v1/models"),
        ("sk-th-unknownunknownunknown", {}, "/v1/models"),
        ("not-ours", {}, "/v1/chat/completions"),
        (KEY, {"x-api-key": KEY}, "/v1/models"),
        (KEY, {}, f"/v1/models?api_key={KEY}"),
        (None, {"Authorization": "Basic dXNlcjpwYXNz"}, "/v1/key"),
    ],
)
async def test_every_bad_credential_gets_the_same_401(
    proxy: Running, key: str | None, headers: dict[str, str], path: str
) -> None:
    method = "POST" if path.endswith("completions") else "GET"

    status, answered, body = await ask(proxy, method, path, key=key, headers=headers)
    error = error_of(body)

    assert status == 401
    assert error.pop("request_id") == answered["x-request-id"]
    assert error == {
        "code": "invalid_api_key",
        "message": "No valid API key was provided. Send it as 'Authorization: Bearer sk-th-...'.",
        "type": "authentication_error",
        "param": None,
    }


async def test_the_key_is_checked_before_the_body_is_read(
    proxy: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "LINGER_S", 0.2)
    answer = await raw(
        proxy,
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n"
        b"Expect: 100-continue\r\nConnection: close\r\n\r\n",
    )

    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"100 Continue" not in answer


async def test_a_good_key_gets_its_100_continue(proxy: Running) -> None:
    body = orjson.dumps({"model": "demo", "messages": MESSAGES})
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode())

    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    assert await reader.readline() == b"\r\n"
    writer.write(body)
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1", 404, "not_found"),
        ("POST", "//v1/chat/completions", 404, "not_found"),
        ("POST", "/v1/chat/completions/", 404, "not_found"),
        ("POST", "/v1/%63hat/completions", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("HEAD", "/v1/models", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/m", 405, "method_not_allowed"),
        ("TRACE", "/healthz", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there_is_refused_in_our_shape(
    proxy: Running, method: str, path: str, status: int, code: str
) -> None:
    answer = await raw(proxy, f"{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 %d " % status)
    if method != "HEAD":
        assert error_of(body)["code"] == code
    if status == 405:
        assert b"\r\nAllow: " in head


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET http://elsewhere/v1/models HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nBad Header: x\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 20000 + b"\r\n\r\n",
    ],
)
async def test_bad_http_gets_a_400_in_our_shape_and_a_closed_connection(
    proxy: Running, request_bytes: bytes
) -> None:
    head, _, body = (await raw(proxy, request_bytes)).partition(b"\r\n\r\n")

    status, *fields = head.split(b"\r\n")
    assert status == b"HTTP/1.1 400 Bad Request"
    error = error_of(body)
    assert error["code"] == "invalid_request"
    # Nothing but our own fields: who wrote it, and in which version, is nobody's business.
    assert fields == [
        b"content-type: application/json",
        b"x-request-id: " + error["request_id"].encode(),
        b"connection: close",
        b"content-length: %d" % len(body),
    ]


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({"Content-Type": "text/plain"}, b"{}", 415, "unsupported_media_type"),
        (
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
            b"{}",
            415,
            "unsupported_media_type",
        ),
        ({"Content-Type": "application/json; charset=utf-16"}, b"{}", 415, "unsupported_media_type"),
        ({"Content-Type": "application/json"}, b"{", 400, "invalid_request"),
        ({"Content-Type": "application/json"}, b"", 400, "invalid_request"),
        ({"Content-Type": "application/json"}, b"x" * (2 * 2**20), 413, "request_too_large"),
    ],
)
async def test_a_body_that_can_not_be_read_is_refused(
    serve: Serve, headers: dict[str, str], body: bytes, status: int, code: str
) -> None:
    running = await serve("max_body_mib: 1\n" + one_upstream("http://127.0.0.1:9/v1"))

    answered, _, said = await ask(
        running, "POST", "/v1/chat/completions", headers=headers, data=io.BytesIO(body)
    )

    assert (answered, error_of(said)["code"]) == (status, code)


CALL = orjson.dumps({"model": "demo", "messages": MESSAGES, "max_tokens": 5})


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("Deflate", zlib.compress)])
async def test_compressed_bodies_are_taken_where_the_config_says_so(
    serve: Serve, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    running = await serve("body_encodings: [gzip, deflate]\n" + one_upstream("http://127.0.0.1:9/v1"))
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}

    status, _, _ = await ask(
        running, "POST", "/v1/chat/completions", headers=headers, data=io.BytesIO(compress(CALL))
    )

    assert status == 200
    assert running.exchanges[0].bytes_in == len(compress(CALL))


@pytest.mark.parametrize(
    ("coding", "body", "status", "code"),
    [
        ("gzip", gzip.compress(b" " * (2 * 2**20)), 413, "request_too_large"),
        ("gzip", gzip.compress(CALL)[:-1], 400, "invalid_request"),
        ("gzip", gzip.compress(CALL) + b"{}", 400, "invalid_request"),
        ("gzip", CALL, 400, "invalid_request"),
        ("deflate", zlib.compress(CALL), 415, "unsupported_media_type"),
        ("gzip, gzip", gzip.compress(gzip.compress(CALL)), 415, "unsupported_media_type"),
    ],
    ids=["bomb", "cut", "trailing", "plain", "not taken", "twice"],
)
async def test_a_compressed_body_that_is_no_good_is_refused_and_nothing_is_held(
    serve: Serve, coding: str, body: bytes, status: int, code: str
) -> None:
    config = "max_body_mib: 1\nbody_encodings: [gzip]\n"
    running = await serve(config + one_upstream("http://127.0.0.1:9/v1"))
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}

    answered, _, said = await ask(
        running, "POST", "/v1/chat/completions", headers=headers, data=io.BytesIO(body)
    )

    assert (answered, error_of(said)["code"]) == (status, code)
    assert running.exchanges[0].billing == "none"


async def test_a_chunked_body_over_the_limit_is_refused_while_it_comes(serve: Serve) -> None:
    running = await serve("max_body_mib: 1\n" + one_upstream("http://127.0.0.1:9/v1"))
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(
        b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n\r\n"
    )
    for _ in range(20):
        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()
    await writer.wait_closed()


async def test_an_unknown_model_names_the_nearest(proxy: Running) -> None:
    status, _, body = await ask(
        proxy, "POST", "/v1/chat/completions", json={"model": "fre", "messages": MESSAGES}
    )

    assert status == 404
    assert error_of(body)["message"] == "The model 'fre' does not exist. Did you mean 'free'?"


async def test_health_and_readiness(proxy: Running) -> None:
    assert (await ask(proxy, "GET", "/healthz", key=None))[0] == 200
    assert (await ask(proxy, "GET", "/readyz", key=None))[0] == 200

    proxy.proxy.relay.draining = True

    status, headers, body = await ask(proxy, "GET", "/readyz", key=None)
    assert (status, error_of(body)["code"], headers["retry-after"]) == (503, "shutting_down", "1")
    status, _, body = await ask(
        proxy, "POST", "/v1/chat/completions", json={"model": "m", "messages": MESSAGES}
    )
    assert (status, error_of(body)["code"]) == (503, "shutting_down")
    assert (await ask(proxy, "GET", "/healthz", key=None))[0] == 200


async def test_metrics_count_requests_tokens_and_spend(proxy: Running) -> None:
    await ask(proxy, "POST", "/v1/chat/completions", json={"model": "m", "messages": MESSAGES})
    await ask(proxy, "POST", "/v1/chat/completions", json={"model": "no\nsuch", "messages": MESSAGES})

    text = (await ask(proxy, "GET", "/metrics", key=None))[2].decode()

    assert 'tokenhub_requests_total{model="m",upstream="up",status="200",code=""} 1' in text
    assert 'tokenhub_tokens_total{model="m",upstream="up",class="output"} 2' in text
    assert 'tokenhub_spend_usd_total{model="m",upstream="up"} 0.00006' in text
    assert "such" not in text


async def test_a_browser_may_call_and_read_our_headers(proxy: Running) -> None:
    status, headers, _ = await ask(
        proxy,
        "OPTIONS",
        "/v1/chat/completions",
        key=None,
        headers={
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
        },
    )
    assert status == 204
    assert headers["access-control-allow-origin"] == "*"
    assert headers["access-control-allow-headers"] == "authorization,content-type,x-stainless-os"
    assert "POST" in headers["access-control-allow-methods"]

    _, headers, _ = await ask(
        proxy,
        "POST",
        "/v1/chat/completions",
        json={"model": "m", "messages": MESSAGES, "stream": True},
        headers={"Origin": "https://app.example"},
    )
    assert headers["access-control-allow-origin"] == "*"
    assert "x-request-id" in headers["access-control-expose-headers"]


async def test_other_origins_are_refused_where_the_config_names_some(serve: Serve) -> None:
    running = await serve("cors_origins: ['https://app.example']\n" + one_upstream("http://127.0.0.1:9/v1"))

    named = await ask(running, "GET", "/v1/models", headers={"Origin": "https://app.example"})
    other = await ask(running, "GET", "/v1/models", headers={"Origin": "https://evil.example"})

    assert named[1]["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-origin" not in other[1]


async def test_an_address_outside_the_list_is_refused(serve: Serve, upstream: FakeUpstream) -> None:
    running = await serve(
        "trusted_proxies: [127.0.0.1]\n"
        + one_upstream(upstream.base_url, f"keys: [{{name: k, key: {KEY}, ips: [203.0.113.0/24]}}]")
    )

    refused = await ask(running, "GET", "/v1/models")
    allowed = await ask(running, "GET", "/v1/models", headers={"X-Forwarded-For": "1.1.1.1, 203.0.113.9"})
    spoofed = await ask(running, "GET", "/v1/models", headers={"X-Forwarded-For": "203.0.113.9, 1.1.1.1"})

    assert (refused[0], error_of(refused[2])["code"]) == (403, "ip_not_allowed")
    assert allowed[0] == 200
    assert spoofed[0] == 403


async def test_limits_are_told_and_kept(serve: Serve, upstream: FakeUpstream) -> None:
    running = await serve(
        one_upstream(
            upstream.base_url,
            f"keys: [{{name: k, key: {KEY}, rate: {{requests_per_minute: 2, tokens_per_minute: 1000}}}}]",
        )
    )
    body = {"model": "m", "messages": MESSAGES}

    first = await ask(running, "POST", "/v1/chat/completions", json=body)
    second = await ask(running, "POST", "/v1/chat/completions", json=body)
    third = await ask(running, "POST", "/v1/chat/completions", json=body)

    assert first[1]["x-ratelimit-limit-requests"] == "2"
    assert first[1]["x-ratelimit-remaining-requests"] == "1"
    assert (
        first[1]["x-ratelimit-reset-requests"] == "1m0s" or first[1]["x-ratelimit-reset-requests"] == "1m1s"
    )
    assert int(first[1]["x-ratelimit-remaining-tokens"]) < 1000
    assert second[0] == 200
    assert (third[0], error_of(third[2])["code"]) == (429, "rate_limited")
    assert 55 <= int(third[1]["retry-after"]) <= 61
    assert len(upstream.asked) == 2


async def test_a_revoked_key_is_refused_on_the_very_next_request(proxy: Running) -> None:
    from tokenhub_proxy.wiring import administration

    verbs = administration(proxy.proxy.relay, proxy.ledger)
    made = await verbs.keys_create({"name": "second"})
    assert keys.well_formed(made["secret"])
    assert (await ask(proxy, "GET", "/v1/models", key=made["secret"]))[0] == 200

    await verbs.keys_revoke({"name": "second"})

    assert (await ask(proxy, "GET", "/v1/models", key=made["secret"]))[0] == 401


async def test_upstream_headers_cross_by_name_only(proxy: Running, upstream: FakeUpstream) -> None:
    upstream.says = lambda asked: json_says(
        b'{"id":"1","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}',
        **{
            "openai-processing-ms": "12",
            "Set-Cookie": "a=b",
            "x-ratelimit-limit-requests": "9",
            "X-Org": "acme",
        },
    )

    _, headers, _ = await ask(
        proxy, "POST", "/v1/chat/completions", json={"model": "m", "messages": MESSAGES}
    )

    assert headers["openai-processing-ms"] == "12"
    assert not headers.keys() & {"set-cookie", "x-ratelimit-limit-requests", "x-org"}


async def test_a_connection_serves_many_requests(proxy: Running) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        for stream in (False, True, False, True):
            async with session.post(
                proxy.base_url + "/chat/completions",
                json={"model": "m", "messages": MESSAGES, "stream": stream},
                headers=proxy.headers,
            ) as answer:
                assert answer.status == 200
                await answer.read()
                assert answer.connection is None or answer.connection.transport is not None
        assert sum(len(pool) for pool in session.connector._conns.values()) == 1  # type: ignore[union-attr]
