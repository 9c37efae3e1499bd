"""The official SDKs through the proxy to a real language model on this machine."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.conftest import KEY, Running, Serve
from tests.test_sdk_node import needs_node, run_node

START = os.environ.get("TOKENHUB_REAL_MODEL", "")
pytestmark = [
    pytest.mark.real_model,
    pytest.mark.xdist_group("real_model"),
    pytest.mark.skipif(not START, reason="TOKENHUB_REAL_MODEL names no script that starts a real model"),
]
HELLO = [{"role": "user", "content": "Привет!"}]


@pytest.fixture
async def real(serve: Serve, real_model: dict[str, str]) -> Running:
    """The proxy in front of the model, under the name of another."""
    return await serve(f"""
upstreams:
  local: {{dialect: openai, base_url: "{real_model["base_url"]}"}}
  vectors: {{dialect: openai, base_url: "{real_model["embeddings_base_url"]}"}}
  messages: {{dialect: anthropic, base_url: "{real_model["anthropic_base_url"]}/v1", api_key: none}}
  demo: {{dialect: demo}}
models:
  claude-3-5-sonnet:
    targets: [{{upstream: local, model: {real_model["model"]}}}]
    price: {{input: 3.00, output: 15.00}}
    max_output_tokens: 512
  through-messages:
    targets: [{{upstream: messages, model: {real_model["model"]}}}]
    price: {{input: 3.00, output: 15.00}}
    max_output_tokens: 512
  embedder:
    targets: [{{upstream: vectors, model: {real_model["embeddings_model"]}}}]
    price: {{input: 0.02}}
  demo: {{targets: [{{upstream: demo}}], price: free}}
""")


@pytest.fixture
async def client(real: Running) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=real.base_url, api_key=KEY, max_retries=0) as sdk:
        yield sdk


async def test_a_real_completion_is_billed_by_the_models_own_count(
    client: AsyncOpenAI, real: Running
) -> None:
    answer = await client.chat.completions.create(
        model="claude-3-5-sonnet", messages=HELLO, max_tokens=24, temperature=0
    )

    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert (
        real.exchanges[0].cost == answer.usage.prompt_tokens * 3000 + answer.usage.completion_tokens * 15000
    )


async def test_a_real_stream_has_a_choice_in_every_chunk_and_the_same_words(client: AsyncOpenAI) -> None:
    plain = await client.chat.completions.create(
        model="claude-3-5-sonnet", messages=HELLO, max_tokens=24, temperature=0
    )
    stream = await client.chat.completions.create(
        model="claude-3-5-sonnet", messages=HELLO, max_tokens=24, temperature=0, stream=True
    )
    words = [part.choices[0].delta.content or "" async for part in stream]

    assert "".join(words) == plain.choices[0].message.content


WEATHER: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the current weather in a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "The city"}},
                "required": ["city"],
            },
        },
    }
]


async def loop(client: AsyncOpenAI, model: str) -> tuple[Any, Any]:
    """Two turns of a tool loop, streamed: what the SDK made of each."""
    asked: list[Any] = [{"role": "user", "content": "What's the weather like in Paris right now?"}]
    async with client.chat.completions.stream(
        model=model, messages=asked, tools=WEATHER, temperature=0, max_tokens=64
    ) as stream:
        first = (await stream.get_final_completion()).choices[0]
    calls = first.message.tool_calls or []
    answers = [{"role": "tool", "tool_call_id": call.id, "content": '{"celsius": 21}'} for call in calls]
    async with client.chat.completions.stream(
        model=model, messages=[*asked, first.message, *answers], tools=WEATHER, temperature=0, max_tokens=64
    ) as stream:
        return first, (await stream.get_final_completion()).choices[0]


async def test_a_tool_loop_has_the_same_shape_through_both_of_the_models_formats(
    client: AsyncOpenAI, real: Running
) -> None:
    native = await loop(client, "claude-3-5-sonnet")
    translated = await loop(client, "through-messages")

    for first, second in (native, translated):
        assert first.finish_reason == "tool_calls"
        (call,) = first.message.tool_calls
        assert call.id
        assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
        assert second.finish_reason in ("stop", "length", "tool_calls")
    assert all(exchange.cost > 0 for exchange in real.exchanges)


async def test_a_stream_has_the_same_shape_through_both_of_the_models_formats(client: AsyncOpenAI) -> None:
    told = []
    for model in ("claude-3-5-sonnet", "through-messages"):
        stream = await client.chat.completions.create(
            model=model,
            messages=HELLO,
            max_tokens=24,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        parts = [part async for part in stream]
        text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        reasons = [part.choices[0].finish_reason for part in parts if part.choices]
        assert reasons[:-1] == [None] * (len(reasons) - 1)
        # The model's Anthropic stream may lack its start, and with it the count of the input.
        assert parts[-1].usage is not None
        told.append((text, reasons[-1]))
    assert told[0] == told[1]


async def test_real_embeddings_have_length_one(client: AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="embedder", input=["one text", "another"])

    assert len(answer.data) == 2
    assert sum(value * value for value in answer.data[1].embedding) == pytest.approx(1, abs=1e-3)


async def test_leaving_a_real_stream_stops_the_model(client: AsyncOpenAI, real: Running) -> None:
    stream = await client.chat.completions.create(
        model="claude-3-5-sonnet", messages=[{"role": "user", "content": "Tell a long story."}], stream=True
    )
    async for _ in stream:
        break
    await stream.close()

    async with asyncio.timeout(5):
        while not real.exchanges:
            await asyncio.sleep(0.01)
    assert real.exchanges[0].gone == "stream"
    assert real.exchanges[0].billing == "estimate"


@needs_node
async def test_the_node_sdk_talks_to_the_real_model(real: Running) -> None:
    told = await run_node("sdk.mjs", real.base_url, KEY, "claude-3-5-sonnet")

    assert told["plain"]
    assert told["stream"]
