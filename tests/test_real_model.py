"""The official SDKs through the proxy to a real language model on this machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from tests.conftest import KEY, Running, Serve
from tests.test_sdk_node import needs_node, run_node

START = os.environ.get("TOKENHUB_REAL_MODEL", "")
pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(not START, reason="TOKENHUB_REAL_MODEL names no script that starts a real model"),
]
HELLO = [{"role": "user", "content": "Привет!"}]


@pytest.fixture(scope="session")
def real_model() -> dict[str, str]:
    """What the start script prints: base_url, model, embeddings_base_url, embeddings_model, …"""
    import subprocess

    told = subprocess.run([START], check=True, capture_output=True, text=True, timeout=300).stdout
    return dict(line.split("=", 1) for line in told.split() if "=" in line)


@pytest.fixture
async def real(serve: Serve, real_model: dict[str, str]) -> Running:
    """The proxy in front of the model, under the name of another."""
    return await serve(f"""
upstreams:
  local: {{dialect: openai, base_url: "{real_model["base_url"]}"}}
  vectors: {{dialect: openai, base_url: "{real_model["embeddings_base_url"]}"}}
  demo: {{dialect: demo}}
models:
  claude-3-5-sonnet:
    targets: [{{upstream: local, model: {real_model["model"]}}}]
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
