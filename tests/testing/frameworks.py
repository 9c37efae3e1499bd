"""Tests of the frameworks, as a project writes them that has our wheel and nothing of ours else."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

HELLO: Any = [{"role": "user", "content": "Hi"}]


def test_the_official_sdk(tokenhub: Any) -> None:
    client = openai.OpenAI()
    tokenhub.stream(["Hel", "lo"])
    stream = client.chat.completions.create(model="gpt-4.1-mini", messages=HELLO, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Hello"
    tokenhub.reply(tool_calls=[("weather", {"city": "Paris"})])
    answer = client.chat.completions.create(model="gpt-4.1-mini", messages=HELLO)
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"
    tokenhub.script([tokenhub_fail(429, retry_after_s=1), "At last"])
    answer = client.chat.completions.create(model="gpt-4.1-mini", messages=HELLO)
    assert answer.choices[0].message.content == "At last"
    tokenhub.reply("one two three", fault="cut=2")
    with pytest.raises(openai.APIError, match="unavailable"):
        list(client.chat.completions.create(model="gpt-4.1-mini", messages=HELLO, stream=True))


def tokenhub_fail(status: int, **more: Any) -> Any:
    from tokenhub_proxy import testing

    return testing.fail(status, **more)


def test_langchain(tokenhub: Any) -> None:
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    @tool
    def weather(city: str) -> str:
        """The weather of a city."""
        return f"sunny in {city}"

    model = ChatOpenAI(model="claude-sonnet-4-5")
    tokenhub.stream(["Hel", "lo"])
    assert "".join(str(chunk.content) for chunk in model.stream("Hi")) == "Hello"
    tokenhub.reply(tool_calls=[("weather", {"city": "Paris"})])
    assert model.bind_tools([weather]).invoke("Hi").tool_calls[0]["args"] == {"city": "Paris"}
    assert tokenhub.requests[-1].upstream_body["tools"][0]["name"] == "weather"
    tokenhub.script([tokenhub_fail(429, retry_after_s=1), "At last"])
    assert model.invoke("Hi").content == "At last"
    tokenhub.reply("one two three", fault="cut=2")
    with pytest.raises(openai.APIError, match="unavailable"):
        list(model.stream("Hi"))


def test_pydantic_ai(tokenhub: Any) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.exceptions import ModelAPIError
    from pydantic_ai.models.openai import OpenAIChatModel

    agent = Agent(OpenAIChatModel("gemini-2.5-flash"))

    @agent.tool_plain
    def weather(city: str) -> str:
        return f"sunny in {city}"

    async def streamed() -> str:
        async with agent.run_stream("Hi") as run:
            return str(await run.get_output())

    async def told() -> None:
        tokenhub.stream(["Hel", "lo"])
        assert await streamed() == "Hello"
        tokenhub.reply(tool_calls=[("weather", {"city": "Paris"})])
        tokenhub.reply("It is sunny.", last="sunny in Paris")
        assert (await agent.run("Weather?")).output == "It is sunny."
        tokenhub.script([tokenhub_fail(429, retry_after_s=1), "At last"])
        assert (await agent.run("Hi")).output == "At last"
        tokenhub.reply("one two three", fault="cut=2")
        with pytest.raises(ModelAPIError, match="unavailable"):
            await streamed()

    asyncio.run(told())
