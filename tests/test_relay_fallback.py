"""Who is asked next, when, and what is told when nobody answers."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests import chaos
from tests.conftest import KEY, Serve
from tests.test_relay_clients import ended, until
from tests.test_relay_streams import request_bytes
from tests.test_server import MESSAGES, ask, error_of
from tests.upstream import DONE, STREAM, FakeUpstream, Says, chunk, json_says, stream_says, whole
from tokenhub_proxy.transports.live import LiveIncoming

SECRET = "org-acme1234567 of Acme Ltd"
PATH = "/v1/chat/completions"


@pytest.fixture
async def second() -> AsyncIterator[FakeUpstream]:
    fake = FakeUpstream()
    await fake.start()
    yield fake
    await fake.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def two(first: str, second: str) -> str:
    """A config whose model `m` has two targets, the first of them preferred."""
    return f"""
upstreams:
  first: {{dialect: openai, base_url: "{first}", api_key: sk-first, timeouts: {{first_byte: 1}}}}
  second: {{dialect: openai, base_url: "{second}", api_key: sk-second}}
models:
  m:
    targets:
      - {{upstream: second, model: m-2, priority: 2}}
      - {{upstream: first, model: m-1, priority: 1}}
    price: {{input: 3.00, output: 15.00}}
    max_output_tokens: 1000
"""


def error_says(status: int, **headers: str) -> Says:
    body = orjson.dumps({"error": {"message": f"limit of {SECRET}", "type": "x", "code": "y"}})
    return json_says(body, status, **headers)


FAULTS: dict[str, tuple[Says, str]] = {
    **{str(status): (error_says(status), str(status)) for status in (401, 402, 403, 404, 429, 500, 503, 529)},
    "a page for people": (Says([b"<html>busy</html>"], 200, {"Content-Type": "text/html"}), "content_type"),
    "a page with a status": (Says([b"<html>busy</html>"], 520, {"Content-Type": "text/html"}), "520"),
    "an error under 200": (error_says(200), "error_in_200"),
    "an error as the first event": (
        stream_says([b'data: {"error": {"message": "overloaded", "code": 529}}\n\n']),
        "error_in_200",
    ),
    "an empty stream": (stream_says([]), "empty"),
    "only [DONE]": (stream_says([DONE]), "empty"),
    "only comments": (stream_says([b": busy\n\n", b": busy\n\n"]), "empty"),
    "half an event": (stream_says([chunk("Hello")[:40]]), "empty"),
    "nonsense": (json_says(b'{"choices": [}'), "bad_json"),
    "half an answer": (json_says(whole()[:50]), "bad_json"),
    "an answer of no content": (Says([], 204, {"Content-Type": "application/json"}), "content_type"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_failure_before_the_first_byte_goes_to_the_next_target(
    serve: Serve, upstream: FakeUpstream, second: FakeUpstream, fault: str, stream: bool
) -> None:
    says, outcome = FAULTS[fault]
    upstream.says = lambda asked: says
    running = await serve(two(upstream.base_url, second.base_url))

    status, _, body = await ask(
        running, "POST", PATH, json={"model": "m", "messages": MESSAGES, "stream": stream}
    )

    assert status == 200
    assert (b"Hello" if not stream else b'"Hel"') in body
    assert (len(upstream.asked), len(second.asked)) == (1, 1)
    assert (upstream.asked[0].body["model"], second.asked[0].body["model"]) == ("m-1", "m-2")
    (exchange,) = running.exchanges
    assert exchange.attempts[1] == "second:200"
    if not stream and says.headers["Content-Type"] == "text/event-stream":
        outcome = "content_type"
    assert exchange.attempts[0] == f"first:{outcome}"
    # One hold and one settlement, whatever the number of attempts.
    receipt = await running.ledger.receipt(exchange.id)
    assert (receipt.status, receipt.upstream, receipt.attempts) == (
        "settled",
        "second",
        tuple(exchange.attempts),
    )
    entries = [entry async for entry in running.ledger.entries()]
    assert [(entry.kind, entry.amount) for entry in entries] == [("charge", 60_000)]


@pytest.mark.parametrize(
    ("url", "kind"), [("http://127.0.0.1:{port}/v1", "refused"), ("http://nowhere.invalid/v1", "dns")]
)
async def test_an_upstream_that_is_not_there_is_passed_over(
    serve: Serve, second: FakeUpstream, url: str, kind: str
) -> None:
    running = await serve(two(url.format(port=free_port()), second.base_url))

    status, _, _ = await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES})

    assert status == 200
    assert running.exchanges[0].attempts == [f"first:{kind}", "second:200"]


async def test_a_silent_upstream_is_passed_over_after_its_deadline(
    serve: Serve, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    never = asyncio.Event()
    upstream.says = lambda asked: Says(waits=never)
    running = await serve(two(upstream.base_url, second.base_url))

    status, _, _ = await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES})

    assert status == 200
    assert running.exchanges[0].attempts == ["first:ttfb_timeout", "second:200"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_its_target_is_not_contacted(
    serve: Serve, upstream: FakeUpstream, second: FakeUpstream, status: int
) -> None:
    elsewhere = second.base_url + "/chat/completions"
    upstream.says = lambda asked: Says([], status, {"Location": elsewhere})
    running = await serve(two(upstream.base_url, f"http://127.0.0.1:{free_port()}/v1"))

    answered, headers, _ = await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES})

    assert answered == 502
    assert "location" not in headers
    assert second.asked == []
    assert running.exchanges[0].attempts == [f"first:{status}", "second:refused"]


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_upstream_says_against_the_request_is_told_and_not_retried(
    serve: Serve, upstream: FakeUpstream, second: FakeUpstream, status: int, stream: bool
) -> None:
    words = "Unknown\r\nparameter: 'x' for sk-abcdefghijkl at org-acme1234567"
    refusal = orjson.dumps({"error": {"message": words, "param": "x", "type": "invalid_request_error"}})
    upstream.says = lambda asked: json_says(refusal, status)
    running = await serve(two(upstream.base_url, second.base_url))

    answered, _, body = await ask(
        running, "POST", PATH, json={"model": "m", "messages": MESSAGES, "stream": stream}
    )
    error = error_of(body)

    assert (answered, error["code"], error["param"]) == (400, "invalid_request", "x")
    assert error["message"] == "Unknown parameter: 'x' for [redacted] at [redacted]"
    assert second.asked == []
    (exchange,) = running.exchanges
    assert exchange.attempts == [f"first:{status}"]
    receipt = await running.ledger.receipt(exchange.id)
    assert (receipt.status, receipt.cost, receipt.http_status) == ("released", 0, 400)


async def test_a_request_too_large_for_the_upstream_is_413(
    serve: Serve, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    upstream.says = lambda asked: error_says(413)
    running = await serve(two(upstream.base_url, second.base_url))

    answered, _, body = await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES})

    assert (answered, error_of(body)["code"]) == (413, "request_too_large")
    assert second.asked == []


@pytest.mark.parametrize(
    ("waits", "told"),
    [
        (("7", "30"), "7"),
        (("30", "7"), "7"),
        (("0", "9"), "1"),
        (("9999", None), "120"),
        ((None, None), None),
    ],
)
async def test_when_all_have_failed_the_soonest_retry_is_told(
    serve: Serve,
    upstream: FakeUpstream,
    second: FakeUpstream,
    waits: tuple[str | None, str | None],
    told: str | None,
) -> None:
    for fake, wait in zip((upstream, second), waits, strict=True):
        headers = {"Retry-After": wait} if wait is not None else {}
        fake.says = lambda asked, headers=headers: error_says(503, **headers)  # type: ignore[misc]
    running = await serve(two(upstream.base_url, second.base_url))

    status, headers, body = await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES})

    assert (status, error_of(body)["code"]) == (502, "upstream_unavailable")
    assert headers.get("retry-after") == told
    assert "x-should-retry" not in headers  # nobody has done the work
    assert running.exchanges[0].attempts == ["first:503", "second:503"]
    assert running.exchanges[0].billing == "void"


@pytest.mark.parametrize("fault", sorted({*FAULTS} - {"an answer of no content"}))
async def test_no_word_of_an_upstreams_trouble_reaches_the_client(
    serve: Serve, upstream: FakeUpstream, second: FakeUpstream, fault: str
) -> None:
    upstream.says = lambda asked: FAULTS[fault][0]
    second.says = lambda asked: error_says(429)
    running = await serve(two(upstream.base_url, second.base_url))

    status, headers, body = await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES})

    assert status == 502
    told = (str(headers).encode() + body).lower()
    for word in (b"acme", b"html", b"busy", b"overloaded", b"sk-first", b"m-1", b"127.0.0.1"):
        assert word not in told


async def test_a_retry_is_forbidden_when_any_attempt_may_have_done_the_work(
    serve: Serve, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    upstream.says = lambda asked: json_says(b"nonsense")
    second.says = lambda asked: error_says(503)
    running = await serve(two(upstream.base_url, second.base_url))

    status, headers, _ = await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES})

    assert (status, headers["x-should-retry"]) == (502, "false")


async def test_a_refusal_after_an_attempt_that_may_have_done_the_work_forbids_a_retry(
    serve: Serve, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    upstream.says = lambda asked: json_says(b"nonsense")
    second.says = lambda asked: error_says(400)
    running = await serve(two(upstream.base_url, second.base_url))

    status, headers, _ = await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES})

    assert (status, headers["x-should-retry"]) == (400, "false")


async def test_equals_share_by_weight(serve: Serve, upstream: FakeUpstream, second: FakeUpstream) -> None:
    running = await serve(
        f"""
upstreams:
  first: {{dialect: openai, base_url: "{upstream.base_url}"}}
  second: {{dialect: openai, base_url: "{second.base_url}"}}
models:
  m:
    targets:
      - {{upstream: first, model: m-1, weight: 3}}
      - {{upstream: second, model: m-2, weight: 1}}
    price: free
"""
    )
    drawn = iter([0.0, 0.25, 0.5, 0.74, 0.76, 0.99])
    running.proxy.relay._fraction = lambda: next(drawn)

    for _ in range(6):
        assert (await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES}))[0] == 200

    assert Counter(exchange.upstream for exchange in running.exchanges) == {"first": 4, "second": 2}


async def test_credentials_are_used_in_turn_and_a_refused_one_is_left_alone(
    serve: Serve, upstream: FakeUpstream
) -> None:
    bad = "Bearer sk-two"
    upstream.says = lambda asked: (
        error_says(401) if asked.headers["Authorization"] == bad else json_says(whole())
    )
    running = await serve(
        f"""
upstreams:
  up: {{dialect: openai, base_url: "{upstream.base_url}", api_key: [sk-one, sk-two, sk-three]}}
models:
  m: {{targets: [{{upstream: up, model: m-1}}], price: free}}
"""
    )

    for _ in range(5):
        assert (await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES}))[0] == 200

    used = [asked.headers["Authorization"].removeprefix("Bearer sk-") for asked in upstream.asked]
    assert used.count("two") == 1
    assert min(used.count("one"), used.count("three")) >= 2
    assert ["up:401", "up:200"] in [exchange.attempts for exchange in running.exchanges]


async def test_a_target_that_keeps_failing_is_left_alone_and_nothing_is_held_for_it(
    serve: Serve, upstream: FakeUpstream
) -> None:
    upstream.says = lambda asked: error_says(500)
    running = await serve(
        f"""
upstreams:
  up: {{dialect: openai, base_url: "{upstream.base_url}"}}
models:
  m: {{targets: [{{upstream: up, model: m-1}}], price: {{input: 1.00, output: 1.00}}}}
"""
    )
    for _ in range(5):
        await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES})
    assert len(upstream.asked) == 5

    status, headers, body = await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES})

    assert (status, error_of(body)["code"]) == (502, "upstream_unavailable")
    assert 1 <= int(headers["retry-after"]) <= 5
    assert len(upstream.asked) == 5
    assert running.exchanges[-1].billing == "none"


# --- what a target can't be told


@pytest.mark.parametrize("field", ["models", "fallbacks", "route", "provider"])
async def test_fields_that_choose_models_past_the_scope_go_where_they_are_allowed(
    serve: Serve, upstream: FakeUpstream, second: FakeUpstream, field: str
) -> None:
    allowing = await serve(
        two(upstream.base_url, second.base_url).replace(
            "api_key: sk-second", f"api_key: sk-second, allow_fields: [{field}]"
        )
    )
    body: dict[str, Any] = {"model": "m", "messages": MESSAGES, field: {"order": ["x"]}}

    status, _, _ = await ask(allowing, "POST", PATH, json=body)

    assert status == 200
    assert upstream.asked == []
    assert second.asked[0].body[field] == {"order": ["x"]}
    assert allowing.exchanges[0].attempts == [f"first:{field}", "second:200"]


@pytest.mark.parametrize("field", ["models", "fallbacks", "route", "provider"])
async def test_fields_that_choose_models_past_the_scope_are_refused_elsewhere(
    serve: Serve, upstream: FakeUpstream, second: FakeUpstream, field: str
) -> None:
    running = await serve(two(upstream.base_url, second.base_url))

    status, _, body = await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES, field: "x"})

    error = error_of(body)
    assert (status, error["code"], error["param"]) == (400, "invalid_request", field)
    assert (upstream.asked, second.asked) == ([], [])
    assert running.exchanges[0].billing == "void"


async def test_a_dialect_that_can_not_say_it_is_passed_over(serve: Serve, second: FakeUpstream) -> None:
    running = await serve(
        f"""
upstreams:
  claude: {{dialect: anthropic, base_url: "http://127.0.0.1:{free_port()}/v1", api_key: sk-ant}}
  second: {{dialect: openai, base_url: "{second.base_url}"}}
models:
  m:
    targets:
      - {{upstream: claude, model: c}}
      - {{upstream: second, model: m-2, priority: 2}}
    price: free
"""
    )

    # Anthropic's API has no `n`.
    status, _, _ = await ask(
        running,
        "POST",
        PATH,
        json={"model": "m", "messages": MESSAGES, "n": 2},
        headers={"x-tokenhub-strict": "1"},
    )

    assert status == 200
    assert [re.sub(":.*", "", attempt) for attempt in running.exchanges[0].attempts] == ["claude", "second"]
    assert running.exchanges[0].upstream == "second"


async def test_attempts_are_in_the_receipt_as_clients_read_it(
    serve: Serve, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    upstream.says = lambda asked: error_says(503)
    running = await serve(two(upstream.base_url, second.base_url))
    _, headers, _ = await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES})

    _, _, body = await ask(running, "GET", f"/v1/receipts/{headers['x-request-id']}", key=KEY)

    assert orjson.loads(body)["attempts"] == ["first:503", "second:200"]


async def test_nothing_falls_back_after_the_first_byte(
    serve: Serve, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    upstream.says = lambda asked: stream_says(STREAM[:1], cut=True)
    running = await serve(two(upstream.base_url, second.base_url))

    with pytest.raises(Exception, match="payload|closed|Connection"):
        await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES, "stream": True})

    assert second.asked == []
    assert running.exchanges[0].attempts == ["first:200"]


async def test_of_a_call_that_was_left_nothing_waits_for_the_collector(serve: Serve) -> None:
    """Its record and its connection go as soon as it ends; a traceback that holds itself would keep them."""

    asked: list[chaos.Peer] = []

    async def say_nothing(peer: chaos.Peer) -> None:
        await chaos.request()(peer)
        peer.transport.write(chaos.CHUNKED)
        asked.append(peer)
        await peer.gone()

    def kept() -> int:
        return sum(type(one) is LiveIncoming for one in gc.get_objects())

    async with chaos.serve([say_nothing]) as up:
        running = await serve(two(f"{up.url}/v1", f"{up.url}/v1"))
        gc.collect()
        gc.disable()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(request_bytes({"model": "m", "messages": MESSAGES, "stream": True}))
            await until(lambda: kept() and asked)
            writer.close()
            await ended(running)
            await until(lambda: not kept())
        finally:
            gc.enable()
