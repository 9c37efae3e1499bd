"""The official Python SDK against the proxy, unmodified: only base_url and the key are ours."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncOpenAI

from tests.conftest import KEY, Running, Serve, one_upstream
from tests.upstream import STREAM, FakeUpstream, chunk, json_says, stream_says

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    }
]
HELLO = [{"role": "user", "content": "Привет!"}]


@pytest.fixture
async def client(proxy: Running) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=proxy.base_url, api_key=KEY, max_retries=0) as sdk:
        yield sdk


async def test_a_completion(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="m", messages=HELLO)

    assert answer.choices[0].message.content == "Hello"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 12


async def test_each_chunk_of_a_stream_has_a_choice_when_usage_was_not_asked_for(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)

    assert "".join([part.choices[0].delta.content or "" async for part in stream]) == "Hello"


async def test_a_stream_with_usage_ends_in_the_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    parts = [part async for part in stream]

    assert parts[-1].choices == []
    assert parts[-1].usage is not None
    assert parts[-1].usage.completion_tokens == 2


async def test_the_demo_model_streams_word_by_word(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="demo", messages=HELLO, stream=True)
    words = [part.choices[0].delta.content for part in [part async for part in stream] if part.choices]

    assert "".join(word or "" for word in words).startswith("You said: Привет!")
    assert len(words) > 5


async def test_tools_are_called_and_answered(client: AsyncOpenAI) -> None:
    first = await client.chat.completions.create(model="demo", messages=HELLO, tools=TOOLS)
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls is not None
    call = message.tool_calls[0]
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("weather", '{"city":"demo","days":1}')

    second = await client.chat.completions.create(
        model="demo",
        messages=[*HELLO, message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}],
        tools=TOOLS,
    )

    assert second.choices[0].message.content == "The tool answered: sunny"


async def test_tools_stream_through_the_sdks_own_assembly(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="demo", messages=HELLO, tools=TOOLS) as stream:
        answer = await stream.get_final_completion()

    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.arguments == '{"city":"demo","days":1}'


async def test_structured_output_is_parsed_by_the_sdk(client: AsyncOpenAI) -> None:
    from pydantic import BaseModel

    class City(BaseModel):
        name: str
        people: int

    answer = await client.chat.completions.parse(model="demo", messages=HELLO, response_format=City)

    assert answer.choices[0].message.parsed == City(name="demo", people=1)


async def test_embeddings_come_in_the_base64_that_the_sdk_asks_for(client: AsyncOpenAI) -> None:
    default = await client.embeddings.create(model="demo", input=["one", "two"])
    floats = await client.embeddings.create(model="demo", input=["one", "two"], encoding_format="float")

    assert len(default.data) == 2
    assert default.data[0].embedding == pytest.approx(floats.data[0].embedding)
    assert len(default.data[0].embedding) == 64


async def test_models_are_listed_and_retrieved(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["m", "free", "e", "demo"]
    assert (await client.models.retrieve("demo")).id == "demo"


async def test_errors_are_the_sdks_typed_exceptions(
    serve: Serve, upstream: FakeUpstream, client: AsyncOpenAI, proxy: Running
) -> None:
    stranger = AsyncOpenAI(base_url=proxy.base_url, api_key="sk-th-strangerstranger", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as unknown:
        await stranger.models.list()
    assert unknown.value.code == "invalid_api_key"
    await stranger.close()

    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="nothing", messages=HELLO)
    assert missing.value.code == "model_not_found"
    assert missing.value.request_id is not None

    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model="m", messages=HELLO, max_tokens=-1)
    assert (bad.value.code, bad.value.param) == ("invalid_request", "max_tokens")

    upstream.says = lambda asked: json_says(b'{"error":{"message":"no org acme-123 quota"}}', 429)
    with pytest.raises(openai.InternalServerError) as busy:
        await client.chat.completions.create(model="m", messages=HELLO)
    assert (busy.value.status_code, busy.value.code) == (502, "upstream_unavailable")
    assert "acme" not in str(busy.value)

    poor = await serve(
        one_upstream(
            upstream.base_url,
            f"accounts: {{main: {{balance: prepaid}}}}\nkeys: [{{name: k, key: {KEY}, account: main, "
            "rate: {requests_per_minute: 1}}]",
        )
    )
    async with AsyncOpenAI(base_url=poor.base_url, api_key=KEY, max_retries=3) as sdk:
        with pytest.raises(openai.APIStatusError) as empty:
            await sdk.chat.completions.create(model="m", messages=HELLO)
        assert (empty.value.status_code, empty.value.code) == (402, "insufficient_quota")
        assert len(poor.exchanges) == 1  # and it was not retried
        with pytest.raises(openai.RateLimitError) as limited:
            await sdk.with_options(max_retries=0).chat.completions.create(model="free", messages=HELLO)
        assert limited.value.code == "rate_limited"


async def test_an_unfinished_stream_raises(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.says = lambda asked: stream_says([chunk("Hel"), chunk("lo")])

    stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError) as cut:
        [part async for part in stream]

    assert cut.value.code == "upstream_unavailable"


async def test_closing_the_stream_early_closes_the_upstream(
    client: AsyncOpenAI, upstream: FakeUpstream, proxy: Running
) -> None:
    upstream.says = lambda asked: stream_says([*[chunk("word ")] * 1000, *STREAM], pause_s=0.01)

    stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
    async for _ in stream:
        break
    await stream.close()

    for _ in range(200):
        if upstream.closed_early and proxy.exchanges:
            break
        await __import__("asyncio").sleep(0.005)
    assert upstream.closed_early == 1
    assert proxy.exchanges[0].gone == "stream"
