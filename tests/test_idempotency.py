"""An Idempotency-Key makes a call once: while it runs, after it has ended, and with another body."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import openai
import orjson
import pytest
from openai import AsyncOpenAI

from tests.conftest import KEY, Running, Serve, one_upstream
from tests.test_money import PATH, json_says_when
from tests.test_relay_clients import until
from tests.test_server import MESSAGES, ask, error_of
from tests.upstream import STREAM, FakeUpstream, json_says, stream_says
from tokenhub_proxy.ledger import REMEMBERED_S

CALL = {"model": "m", "messages": MESSAGES}
NAMED = {"Idempotency-Key": "order-7"}


async def charges(running: Running) -> list[int]:
    return [entry.amount async for entry in running.ledger.entries()]


async def test_a_call_that_ended_is_told_by_its_receipt_and_charged_once(
    proxy: Running, upstream: FakeUpstream
) -> None:
    first = await ask(proxy, "POST", PATH, json=CALL, headers=NAMED)

    status, headers, body = await ask(proxy, "POST", PATH, json=CALL, headers=NAMED)

    told = orjson.loads(body)
    assert (first[0], status) == (200, 200)
    assert headers["x-tokenhub-replayed"] == "true"
    assert headers["x-request-id"] != first[1]["x-request-id"]
    assert (told["request_id"], told["status"], told["cost_usd"]) == (
        first[1]["x-request-id"],
        "settled",
        "0.00006",
    )
    assert len(upstream.asked) == 1
    assert await charges(proxy) == [60_000]
    assert proxy.exchanges[1].notes["idem_replay"] == first[1]["x-request-id"]
    assert proxy.exchanges[1].billing == "none"


async def test_a_stream_that_ended_is_an_error_event_and_no_empty_success(
    proxy: Running, upstream: FakeUpstream
) -> None:
    async with AsyncOpenAI(base_url=proxy.base_url, api_key=KEY, max_retries=0) as sdk:
        first = await sdk.chat.completions.create(
            model="m", messages=MESSAGES, stream=True, extra_headers=NAMED
        )
        assert len([part async for part in first]) == 3
        again = await sdk.chat.completions.create(
            model="m", messages=MESSAGES, stream=True, extra_headers=NAMED
        )
        with pytest.raises(openai.APIError, match=f"see receipt {proxy.exchanges[0].id}"):
            [part async for part in again]

    assert len(upstream.asked) == 1
    assert await charges(proxy) == [60_000]


async def test_a_call_that_is_running_is_a_conflict_and_counts_against_no_limit(
    serve: Serve, upstream: FakeUpstream
) -> None:
    keys = f"keys: [{{name: k, key: {KEY}, rate: {{requests_per_minute: 2}}}}]"
    running = await serve(one_upstream(upstream.base_url, keys))
    answering = asyncio.Event()
    upstream.says = lambda asked: json_says_when(answering)
    first = asyncio.create_task(ask(running, "POST", PATH, json=CALL, headers=NAMED))
    await until(lambda: upstream.asked)

    for _ in range(3):
        status, _, body = await ask(running, "POST", PATH, json=CALL, headers=NAMED)
        assert (status, error_of(body)["code"]) == (409, "idempotency_conflict")

    answering.set()
    assert (await first)[0] == 200
    assert (await ask(running, "POST", PATH, json=CALL, headers=NAMED))[0] == 200
    assert (await ask(running, "POST", PATH, json=CALL))[0] == 200  # the second that is counted
    assert len(upstream.asked) == 2


async def test_twenty_at_once_make_one_call(proxy: Running, upstream: FakeUpstream) -> None:
    upstream.says = lambda asked: stream_says(STREAM, pause_s=0.02)

    answers = await asyncio.gather(
        *(ask(proxy, "POST", PATH, json={**CALL, "stream": True}, headers=NAMED) for _ in range(20))
    )

    assert sorted({status for status, _, _ in answers}) == [200, 409]
    assert len(upstream.asked) == 1
    assert await charges(proxy) == [60_000]


@pytest.mark.parametrize(
    ("path", "body"),
    [(PATH, {**CALL, "temperature": 0}), ("/v1/embeddings", {"model": "e", "input": "x"})],
)
async def test_another_body_under_the_same_key_is_refused(
    proxy: Running, upstream: FakeUpstream, path: str, body: dict[str, object]
) -> None:
    await ask(proxy, "POST", PATH, json=CALL, headers=NAMED)

    status, _, answer = await ask(proxy, "POST", path, json=body, headers=NAMED)

    assert (status, error_of(answer)["code"]) == (400, "invalid_request")
    assert len(upstream.asked) == 1


async def test_a_call_that_cost_nothing_may_be_made_again(proxy: Running, upstream: FakeUpstream) -> None:
    upstream.says = lambda asked: json_says(b"{}", 503)
    assert (await ask(proxy, "POST", PATH, json=CALL, headers=NAMED))[0] == 502
    upstream.says = None

    status, headers, _ = await ask(proxy, "POST", PATH, json=CALL, headers=NAMED)

    assert status == 200
    assert "x-tokenhub-replayed" not in headers


async def test_an_answer_that_did_not_arrive_is_a_conflict_that_names_its_receipt(
    proxy: Running, upstream: FakeUpstream
) -> None:
    never = asyncio.Event()
    upstream.says = lambda asked: replace(stream_says(STREAM[:1]), holds_open=never)
    body = {**CALL, "stream": True}
    call = asyncio.create_task(ask(proxy, "POST", PATH, json=body, headers=NAMED))
    await until(lambda: any(one.first_byte_s for one in proxy.proxy.relay.in_flight))
    call.cancel()
    await until(lambda: proxy.exchanges)

    status, headers, answer = await ask(proxy, "POST", PATH, json=body, headers=NAMED)

    assert (status, error_of(answer)["code"]) == (409, "idempotency_conflict")
    assert proxy.exchanges[0].id in error_of(answer)["message"]
    assert headers["x-should-retry"] == "false"
    assert len(upstream.asked) == 1


async def test_keys_of_other_clients_mean_other_calls(serve: Serve, upstream: FakeUpstream) -> None:
    other = KEY + "other"
    keys = f"keys: [{{name: k, key: {KEY}}}, {{name: o, key: {other}}}]"
    running = await serve(one_upstream(upstream.base_url, keys))

    for key in (KEY, other):
        _, headers, _ = await ask(running, "POST", PATH, json=CALL, headers=NAMED, key=key)
        assert "x-tokenhub-replayed" not in headers

    assert len(upstream.asked) == 2


async def test_a_key_is_free_again_after_a_day(proxy: Running, upstream: FakeUpstream) -> None:
    await ask(proxy, "POST", PATH, json=CALL, headers=NAMED)
    proxy.proxy.relay.clock = lambda: time.time() + REMEMBERED_S + 1

    await ask(proxy, "POST", PATH, json=CALL, headers=NAMED)

    assert len(upstream.asked) == 2


@pytest.mark.parametrize("text", ["x" * 256, "naïve"])
async def test_a_key_that_is_no_name_is_refused(proxy: Running, upstream: FakeUpstream, text: str) -> None:
    status, _, body = await ask(proxy, "POST", PATH, json=CALL, headers={"Idempotency-Key": text})

    assert (status, error_of(body)["param"]) == (400, "Idempotency-Key")
    assert upstream.asked == []
