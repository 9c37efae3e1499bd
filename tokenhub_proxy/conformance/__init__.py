"""What the official SDKs rely on, asked of an endpoint one behaviour at a time."""

from __future__ import annotations

import asyncio
import math
import struct
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import orjson

from tokenhub_proxy.conformance.endpoint import Answer, Broken, Endpoint, Skipped, require

# A small model on a small machine takes its time; one that takes more has stopped.
CHECK_S = 120.0
# After a client has left, the endpoint must be there for the next one within this time.
NEXT_S = 20.0
REASONS = ("stop", "length", "tool_calls", "content_filter")
WEATHER_ASKED = "What's the weather like in Paris right now?"
WEATHER: Mapping[str, Any] = {
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
NAMED = {"type": "function", "function": {"name": "get_weather"}}
CITY: Mapping[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}

Verdict = Literal["pass", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one behaviour was found."""

    behaviour: str
    verdict: Verdict
    why: str = ""


Check = Callable[[Endpoint], Awaitable[None]]


async def examine(url: str, key: str, model: str, embeddings_model: str | None = None) -> Sequence[Outcome]:
    """Ask everything, in order. Raises OSError where nobody answers at all."""
    timeout = aiohttp.ClientTimeout(total=CHECK_S)
    # A connection each: one that the endpoint closes while it is kept is no fault of its answers.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        endpoint = Endpoint(session, url, key, model, embeddings_model)
        await endpoint.ask("models")
        return [await _outcome(name, check, endpoint) for name, check in CHECKS]


async def _outcome(name: str, check: Check, endpoint: Endpoint) -> Outcome:
    try:
        await check(endpoint)
    except Skipped as skipped:
        return Outcome(name, "skip", str(skipped))
    except Broken as broken:
        return Outcome(name, "fail", str(broken))
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return Outcome(name, "fail", f"{type(error).__name__}: {error}")
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        return Outcome(name, "fail", f"the answer has another shape: {type(error).__name__} {error}")
    return Outcome(name, "pass")


# --- the behaviours


async def models(endpoint: Endpoint) -> None:
    listed = (await endpoint.ask("models")).good()
    require(listed.get("object") == "list", 'object is not "list"')
    require(all(model.get("object") == "model" for model in listed["data"]), 'an object is not "model"')
    ids = [model["id"] for model in listed["data"]]
    require(endpoint.model in ids, f"{endpoint.model!r} is not listed")
    one = (await endpoint.ask(f"models/{endpoint.model}")).good()
    require(one["id"] == endpoint.model, "models/ID tells of another model")


async def chat(endpoint: Endpoint) -> None:
    body = await endpoint.chat()
    require(body["object"] == "chat.completion", f"object is {body['object']!r}")
    require(isinstance(body["id"], str) and isinstance(body["created"], int), "id or created is missing")
    (choice,) = body["choices"]
    require(choice["index"] == 0 and choice["finish_reason"] in REASONS, f"choice {choice!r:.100}")
    require(choice["message"]["role"] == "assistant", "the role is not assistant")
    require(isinstance(choice["message"]["content"], str), "the content is no text")


async def request_id(endpoint: Endpoint) -> None:
    answer = await endpoint.ask("chat/completions", endpoint.body())
    require(answer.headers.get("x-request-id"), "no x-request-id header")


async def output_limit(endpoint: Endpoint) -> None:
    body = await endpoint.chat(max_tokens=2)
    require(body["choices"][0]["finish_reason"] == "length", "finish_reason is not length")


async def usage(endpoint: Endpoint) -> None:
    told = (await endpoint.chat())["usage"]
    prompt, output, total = (told[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    require(prompt > 0 and output > 0, f"{prompt} and {output} tokens")
    require(total == prompt + output, f"{prompt} + {output} is not {total}")


async def stream_grammar(endpoint: Endpoint) -> None:
    chunks = await endpoint.stream()
    require(all(chunk["object"] == "chat.completion.chunk" for chunk in chunks), "an object is no chunk")
    require(len({chunk["id"] for chunk in chunks}) == 1, "the chunks have different ids")
    require(all(chunk["choices"] for chunk in chunks), "a chunk has no choice though usage was not asked for")
    require(chunks[0]["choices"][0]["delta"].get("role") == "assistant", "the first delta has no role")
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    require(text, "no delta has content")
    reasons = [chunk["choices"][0].get("finish_reason") for chunk in chunks]
    require(reasons[-1] in REASONS, f"the last chunk's finish_reason is {reasons[-1]!r}")
    require(not any(reasons[:-1]), "a finish_reason comes before the last chunk")


async def stream_usage(endpoint: Endpoint) -> None:
    chunks = await endpoint.stream(stream_options={"include_usage": True})
    last = chunks[-1]
    require(last["choices"] == [], "the last chunk has choices")
    require(last["usage"]["completion_tokens"] > 0, "it counts nothing")
    require(not any(chunk.get("usage") for chunk in chunks[:-1]), "usage is told more than once")


async def tools(endpoint: Endpoint) -> None:
    body = await endpoint.chat(WEATHER_ASKED, tools=[WEATHER], tool_choice=NAMED)
    choice = body["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    require(choice["finish_reason"] in ("tool_calls", "stop"), f"finish_reason {choice['finish_reason']!r}")
    check_call(call["id"], call["type"], call["function"]["name"], call["function"]["arguments"])
    answered = [
        {"role": "user", "content": WEATHER_ASKED},
        choice["message"],
        {"role": "tool", "tool_call_id": call["id"], "content": '{"celsius": 21}'},
    ]
    again = await endpoint.ask(
        "chat/completions", {**endpoint.body(), "messages": answered, "tools": [WEATHER]}
    )
    require(again.good()["choices"], "the tool's answer is not taken")


async def streamed_tools(endpoint: Endpoint) -> None:
    chunks = await endpoint.stream(WEATHER_ASKED, tools=[WEATHER], tool_choice=NAMED)
    calls = assembled(chunks)
    require(calls, "there is no tool call")
    for call in calls:
        check_call(call["id"], call["type"], call["name"], call["arguments"])


async def parallel_tools(endpoint: Endpoint) -> None:
    asked = "What is the weather in Paris, and what is it in Rome? Ask for both at once."
    calls = assembled(await endpoint.stream(asked, tools=[WEATHER], max_tokens=192))
    if len(calls) < 2:
        raise Skipped(f"the model made {len(calls)} call(s) only")
    require(len({call["id"] for call in calls}) == len(calls), "two calls have the same id")
    for call in calls:
        check_call(call["id"], call["type"], call["name"], call["arguments"])


def assembled(chunks: Sequence[Any]) -> list[dict[str, str]]:
    """The tool calls of a stream, joined by their index as the SDKs do."""
    calls: list[dict[str, str]] = []
    for chunk in chunks:
        for choice in chunk["choices"]:
            for delta in choice["delta"].get("tool_calls") or ():
                function = delta.get("function") or {}
                if delta["index"] == len(calls):
                    first = {"id": delta["id"], "type": delta["type"], "name": function["name"]}
                    calls.append({**first, "arguments": ""})
                require(delta["index"] < len(calls), "the indices are not dense from 0")
                calls[delta["index"]]["arguments"] += function.get("arguments") or ""
    return calls


def check_call(id: str, kind: str, name: str, arguments: str) -> None:
    """Raise Broken unless this is a call of the weather tool."""
    require(id and isinstance(id, str), "the call has no id")
    require(kind == "function" and name == "get_weather", f"it calls {kind} {name!r}")
    try:
        found = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        raise Broken(f"the arguments are no JSON: {arguments!r:.80}") from None
    require(isinstance(found, dict), "the arguments are no object")


async def several_choices(endpoint: Endpoint) -> None:
    choices = (await endpoint.chat(n=2))["choices"]
    require([choice["index"] for choice in choices] == [0, 1], f"{len(choices)} choice(s) instead of 2")


async def stop(endpoint: Endpoint) -> None:
    words = (await endpoint.chat())["choices"][0]["message"]["content"].split()
    word = next((word for word in words[1:] if word.isalpha() and words.index(word) > 0), None)
    if word is None:
        raise Skipped("the model says too little to be stopped")
    choice = (await endpoint.chat(stop=[word]))["choices"][0]
    require(word not in choice["message"]["content"], f"it says {word!r}, where it should stop")
    require(choice["finish_reason"] == "stop", f"finish_reason {choice['finish_reason']!r}")


async def structured_output(endpoint: Endpoint) -> None:
    schema = {"name": "city", "strict": True, "schema": CITY}
    body = await endpoint.chat(
        "Name a city and how many people live there, as JSON.",
        response_format={"type": "json_schema", "json_schema": schema},
        max_tokens=96,
    )
    text = body["choices"][0]["message"]["content"]
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Broken(f"no JSON: {text!r:.80}") from None
    require(found.keys() == {"city", "people"}, f"members {sorted(found)}")
    require(isinstance(found["people"], int), "people is no integer")


async def embeddings(endpoint: Endpoint) -> None:
    if endpoint.embeddings_model is None:
        raise Skipped("no --embeddings-model was given")
    asked = {"model": endpoint.embeddings_model, "input": ["one text", "another"]}
    plain = (await endpoint.ask("embeddings", {**asked, "encoding_format": "float"})).good()
    packed = (await endpoint.ask("embeddings", {**asked, "encoding_format": "base64"})).good()
    require([item["index"] for item in packed["data"]] == [0, 1], "the items are not in order")
    require(plain["usage"]["prompt_tokens"] > 0, "no usage is told")
    for one, other in zip(plain["data"], packed["data"], strict=True):
        require(isinstance(other["embedding"], str), "base64 was asked for, and floats came")
        raw = b64decode(other["embedding"], validate=True)
        values = struct.unpack(f"<{len(raw) // 4}f", raw)
        same = len(values) == len(one["embedding"]) and all(
            math.isclose(a, b, abs_tol=1e-4) for a, b in zip(values, one["embedding"], strict=True)
        )
        require(same, "base64 and float differ")


async def errors(endpoint: Endpoint) -> None:
    for what, answer, statuses in (
        ("a wrong key", await endpoint.ask("chat/completions", endpoint.body(), key="sk-wrong"), (401, 403)),
        ("an unknown model", await _unknown(endpoint), (400, 404)),
        ("no JSON", await endpoint.ask("chat/completions", raw=b'{"model":'), (400,)),
        ("no messages", await endpoint.ask("chat/completions", {"model": endpoint.model}), (400, 422)),
    ):
        require(answer.status in statuses, f"{what} is answered {answer.status}, not {statuses[0]}")
        error = answer.json().get("error")
        require(isinstance(error, dict) and isinstance(error.get("message"), str), f"{what}: no error object")


async def _unknown(endpoint: Endpoint) -> Answer:
    body = {**endpoint.body(), "model": "there-is-no-such-model"}
    return await endpoint.ask("chat/completions", body)


async def cancellation(endpoint: Endpoint) -> None:
    body = endpoint.body("Tell a very long story.", stream=True, max_tokens=2000)
    async with endpoint.open("chat/completions", body) as answer:
        require(answer.status == 200, f"status {answer.status}")
        first = await answer.content.readany()
        require(first.startswith((b"data:", b":", b"event:")), "it is no stream")
        answer.close()
    try:
        async with asyncio.timeout(NEXT_S):
            await endpoint.chat(max_tokens=1)
    except TimeoutError:
        raise Broken(f"after a client left, the next one waits for more than {NEXT_S:g} s") from None


CHECKS: Sequence[tuple[str, Check]] = (
    ("models are listed and told", models),
    ("a completion", chat),
    ("a request id in the head", request_id),
    ("an output limit", output_limit),
    ("usage that adds up", usage),
    ("the grammar of a stream", stream_grammar),
    ("usage in a stream, when asked for", stream_usage),
    ("tools, and their answers", tools),
    ("tools in a stream", streamed_tools),
    ("parallel tools", parallel_tools),
    ("several choices (n)", several_choices),
    ("stop sequences", stop),
    ("structured output", structured_output),
    ("embeddings as base64", embeddings),
    ("errors with an error object", errors),
    ("a client that leaves", cancellation),
)
