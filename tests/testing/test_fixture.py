"""The `tokenhub` fixture with the official SDK: what a user's test writes, and what it sees."""

from __future__ import annotations

import os
import statistics
import time
from decimal import Decimal
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tokenhub_proxy import testing
from tokenhub_proxy.testing.fixture import Proxies, Tokenhub

HELLO: Any = [{"role": "user", "content": "Hello"}]
MODELS = ("gpt-4.1-mini", "claude-sonnet-4-5", "gemini-2.5-flash")
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def ask(model: str = "gpt-4.1-mini", **options: Any) -> Any:
    with OpenAI(max_retries=0) as client:
        return client.chat.completions.create(model=model, messages=HELLO, **options)


def streamed(model: str = "gpt-4.1-mini", **options: Any) -> str:
    with OpenAI(max_retries=0) as client:
        stream = client.chat.completions.create(model=model, messages=HELLO, stream=True, **options)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_the_environment_is_the_fixtures_while_the_test_runs(tokenhub: Tokenhub) -> None:
    assert os.environ["OPENAI_BASE_URL"] == tokenhub.base_url
    assert os.environ["OPENAI_API_KEY"] == tokenhub.api_key
    assert os.environ["NO_PROXY"].startswith("127.0.0.1")


@pytest.mark.parametrize("model", MODELS)
def test_every_format_says_texts_streams_and_tools(tokenhub: Tokenhub, model: str) -> None:
    tokenhub.reply("Hello, wörld", usage=(7, 3))
    tokenhub.stream(["Hel", "lo"], delay_s=0.001)
    tokenhub.reply("Wait.", tool_calls=[("weather", {"city": "Paris"}), ("weather", {"city": "Bonn"})])
    tokenhub.reply(tool_calls=[("weather", {"city": "Rome"})])

    whole = ask(model)
    assert whole.choices[0].message.content == "Hello, wörld"
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (7, 3)
    assert streamed(model) == "Hello"
    both = ask(model, tools=TOOLS).choices[0]
    assert (both.message.content, both.finish_reason) == ("Wait.", "tool_calls")
    assert [call.function.arguments for call in both.message.tool_calls] == [
        '{"city":"Paris"}',
        '{"city":"Bonn"}',
    ]
    with OpenAI(max_retries=0) as client:
        asked = client.chat.completions.stream(model=model, messages=HELLO, tools=TOOLS)
        with asked as stream:
            last = stream.get_final_completion().choices[0]
    assert last.message.tool_calls[0].function.arguments == '{"city":"Rome"}'
    assert tokenhub.unused == []
    assert [exchange.status for exchange in tokenhub.exchanges] == [200] * 4
    assert all(exchange.billing == "usage" for exchange in tokenhub.exchanges)


@pytest.mark.parametrize("model", MODELS)
def test_a_reason_to_stop_survives_translation(tokenhub: Tokenhub, model: str) -> None:
    tokenhub.reply("Once upon", finish_reason="length")
    assert ask(model).choices[0].finish_reason == "length"


def test_the_translated_body_is_there_to_assert_on(tokenhub: Tokenhub) -> None:
    tokenhub.reply("Hi")
    ask("claude-sonnet-4-5", max_tokens=10)

    (request,) = tokenhub.requests
    assert request.body["messages"] == HELLO
    assert request.last == "Hello"
    assert (request.dialect, request.path) == ("anthropic", "/messages")
    assert request.upstream_body["max_tokens"] == 10
    assert request.upstream_body["messages"][0]["role"] == "user"
    assert "x-api-key" not in request.headers
    assert request.headers["anthropic-version"] == "2023-06-01"


async def test_an_async_test_uses_it_the_same_way(tokenhub: Tokenhub) -> None:
    tokenhub.stream(["a", "b"])
    async with AsyncOpenAI(max_retries=0) as client:
        stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
        said = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
    assert "".join(piece or "" for piece in said) == "ab"
    assert len(tokenhub.exchanges) == 1


def test_a_rate_limit_is_the_sdks_own_and_its_retry_succeeds(tokenhub: Tokenhub) -> None:
    tokenhub.fail(429, retry_after_s=1)
    tokenhub.fail(429, retry_after_s=1)
    tokenhub.reply("At last")
    with pytest.raises(openai.RateLimitError) as limited:
        ask()
    assert limited.value.code == "rate_limited"
    assert limited.value.response.headers["retry-after"] == "1"
    started = time.monotonic()
    with OpenAI(max_retries=1) as client:
        answer = client.chat.completions.create(model="m", messages=HELLO)
    assert answer.choices[0].message.content == "At last"
    assert time.monotonic() - started >= 0.5
    assert [exchange.status for exchange in tokenhub.exchanges] == [429, 429, 200]


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (400, openai.BadRequestError, "invalid_request"),
        (401, openai.AuthenticationError, "invalid_api_key"),
        (402, openai.APIStatusError, "insufficient_quota"),
        (404, openai.NotFoundError, "model_not_found"),
        (502, openai.InternalServerError, "upstream_unavailable"),
        (503, openai.InternalServerError, "shutting_down"),
    ],
)
def test_a_failure_is_what_the_proxy_says(
    tokenhub: Tokenhub, status: int, error: type[openai.APIStatusError], code: str
) -> None:
    tokenhub.fail(status, message="Nope.", model="m")
    for _ in range(7):  # more than a breaker would let through
        with pytest.raises(error, match="Nope") as refused:
            ask("m")
    assert refused.value.status_code == status
    assert refused.value.code == code
    assert tokenhub.spent_usd == 0


@pytest.mark.parametrize("model", MODELS)
def test_a_provider_that_fails_is_unavailable_or_right(tokenhub: Tokenhub, model: str) -> None:
    tokenhub.fail(503, upstream=True)
    tokenhub.fail(400, upstream=True, message="That is no picture.")
    with pytest.raises(openai.InternalServerError) as down:
        ask(model)
    assert down.value.code == "upstream_unavailable"
    with pytest.raises(openai.BadRequestError, match="no picture"):
        ask(model)


def test_a_fallback_is_tried_when_a_provider_fails(tokenhub: Tokenhub) -> None:
    tokenhub.model("mine", dialect=["anthropic", "openai"], upstream_model="theirs")
    tokenhub.script([testing.fail(529, upstream=True), "from the second"])
    assert ask("mine").choices[0].message.content == "from the second"
    assert [request.dialect for request in tokenhub.requests] == ["anthropic", "openai"]
    assert tokenhub.exchanges[0].attempts == ["anthropic:529", "openai:200"]


def test_money_is_real(tokenhub: Tokenhub) -> None:
    tokenhub.model("mine", price=("2.00", "10.00"))
    tokenhub.reply("x", usage=(1000, 100))
    ask("mine")
    assert tokenhub.spent_usd == Decimal("0.003")


def test_scoped_keys_are_refused_beyond_their_scope(tokenhub: Tokenhub) -> None:
    tokenhub.reply("x", model="*", usage=(10, 10))

    def ask_with(secret: str) -> Any:
        with OpenAI(max_retries=0, api_key=secret) as client:
            return client.chat.completions.create(model="gpt-4.1-mini", messages=HELLO, max_tokens=10)

    with pytest.raises(openai.PermissionDeniedError):
        ask_with(tokenhub.key(models=["claude-*"]))
    poor = [tokenhub.key(quota_usd="0.0000001"), tokenhub.key(balance_usd=0)]
    for secret in poor:
        with pytest.raises(openai.APIStatusError) as refused:
            ask_with(secret)
        assert refused.value.code == "insufficient_quota"
    once = tokenhub.key(requests_per_minute=1, balance_usd="1.00", name="once")
    ask_with(once)
    with pytest.raises(openai.RateLimitError):
        ask_with(once)


def test_embeddings_need_no_rule(tokenhub: Tokenhub) -> None:
    with OpenAI(max_retries=0) as client:
        one, two = (
            client.embeddings.create(model="text-embedding-3-small", input=text).data[0].embedding
            for text in ("one", "two")
        )
    assert one != two
    assert sum(value * value for value in one) == pytest.approx(1, abs=1e-3)
    assert tokenhub.requests[0].last == "one"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "fault", ["cut=2", "cut-event=2, seed=3", "cut-character=0", "reset=2", "error=2", "stall=2"]
)
def test_a_broken_stream_is_an_error_and_never_an_answer(tokenhub: Tokenhub, model: str, fault: str) -> None:
    tokenhub.timeouts(idle_s=0.05)
    tokenhub.reply("Жили-были три медведя", fault=fault)
    with pytest.raises((openai.APIError, httpx2.TransportError)):
        streamed(model)
    assert tokenhub.exchanges[0].error is not None


@pytest.mark.parametrize(
    "fault", ["usage=missing", "usage=doubled", "done=missing", "done=doubled", "pause-s=0"]
)
def test_an_odd_stream_is_made_whole(tokenhub: Tokenhub, fault: str) -> None:
    tokenhub.reply("three small bears", fault=fault, usage=(4, 3))
    assert streamed() == "three small bears"
    (exchange,) = tokenhub.exchanges
    assert exchange.billing == ("estimate" if fault == "usage=missing" else "usage")
    assert exchange.usage.total == 7 or fault == "usage=missing"


def test_a_page_in_place_of_an_answer_is_an_unavailable_upstream(tokenhub: Tokenhub) -> None:
    tokenhub.reply("x", fault="html")
    with pytest.raises(openai.InternalServerError):
        ask()


def test_slow_headers_run_into_the_clients_timeout_or_the_proxys(tokenhub: Tokenhub) -> None:
    tokenhub.timeouts(first_byte_s=0.05)
    tokenhub.reply("x", fault="head-s=1")
    with pytest.raises(openai.InternalServerError):
        ask()


def test_the_header_asks_for_faults_too(tokenhub: Tokenhub) -> None:
    tokenhub.reply("one two three", model="*")
    with pytest.raises(openai.APIError):
        streamed(extra_headers={"x-tokenhub-fault": "cut=2"})
    with pytest.raises(openai.BadRequestError, match="did you mean 'stall'"):
        streamed(extra_headers={"x-tokenhub-fault": "stal=2"})
    assert streamed() == "one two three"


def test_a_client_that_leaves_is_waited_for(tokenhub: Tokenhub) -> None:
    tokenhub.stream(["a", "b"], delay_s=0.05)
    with OpenAI(max_retries=0) as client:
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        next(iter(stream))
        stream.close()
    tokenhub.wait()
    assert tokenhub.exchanges[0].gone == "stream"


def test_a_miss_is_a_clear_error_for_the_client_and_can_be_forgiven(tokenhub: Tokenhub) -> None:
    tokenhub.reply("x", last="Goodbye")
    with pytest.raises(openai.BadRequestError, match="last message contains: 'Goodbye'"):
        ask()
    assert len(tokenhub.unmatched) == 1
    assert len(tokenhub.unused) == 1
    tokenhub.unmatched.clear()


def test_one_for_the_whole_run_forgets_what_it_is_told_to(tokenhub_session: Tokenhub) -> None:
    tokenhub_session.reply("x", model="*")
    assert ask().choices[0].message.content == "x"
    assert len(tokenhub_session.exchanges) == 1
    tokenhub_session.forget()
    assert (tokenhub_session.exchanges, tokenhub_session.requests, tokenhub_session.unused) == ((), (), [])


def test_models_are_listed(tokenhub: Tokenhub) -> None:
    with OpenAI(max_retries=0) as client:
        assert "gpt-4.1-mini" in [model.id for model in client.models.list()]


def test_a_start_takes_milliseconds() -> None:
    """Of the first this process's own time, of the others the fastest quarter: a machine may be busy."""
    started = time.process_time()
    proxies = Proxies()
    proxy = proxies.take()
    first_s = time.process_time() - started
    waits_s = []
    for _ in range(20):
        proxies._spare.result()  # while a test runs, the proxy of the next one is started
        started = time.perf_counter()
        proxies.give_back(proxy)
        proxy = proxies.take()
        waits_s.append(time.perf_counter() - started)
    proxies.give_back(proxy)
    proxies.close()
    assert first_s < 0.06
    assert statistics.quantiles(waits_s)[0] < 0.005
