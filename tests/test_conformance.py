"""The conformance command: a sound endpoint passes, and each fault is found and named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import KEY, Serve
from tests.served import run
from tests.upstream import DONE, FakeUpstream, chunk, json_says, stream_says, usage_chunk, whole
from tokenhub_proxy.conformance import CHECKS, Broken, Outcome, assembled, examine

CONFIG = """
upstreams: {demo: {dialect: demo}}
models: {demo: {targets: [{upstream: demo}], price: free}}
"""


async def test_our_own_door_passes_everything_that_the_demo_model_can_show(serve: Serve) -> None:
    running = await serve(CONFIG)
    found = await examine(running.base_url, KEY, "demo", "demo")
    assert [outcome.behaviour for outcome in found] == [name for name, _ in CHECKS]
    assert [outcome for outcome in found if outcome.verdict != "pass"] == [
        Outcome("parallel tools", "skip", "the model made 1 call(s) only")
    ]


FIRST, LAST = chunk(role="assistant"), chunk(reason="stop")


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ([FIRST, chunk("a"), LAST], "it does not end in data: [DONE]"),
        ([FIRST, chunk("a"), LAST, DONE, DONE], "[DONE] is said more than once"),
        ([FIRST, chunk("a"), LAST, DONE[:-1]], "the last event has no blank line"),
        ([chunk("a"), LAST, DONE], "the first delta has no role"),
        ([FIRST, LAST, DONE], "no delta has content"),
        ([FIRST, chunk("a"), DONE], "the last chunk's finish_reason is None"),
        ([FIRST, chunk("a", reason="stop"), LAST, DONE], "a finish_reason comes before the last chunk"),
        ([FIRST, chunk("a"), LAST, usage_chunk(1, 1), DONE], "a chunk has no choice"),
        ([FIRST, chunk("a").replace(b"chatcmpl-1", b"other"), LAST, DONE], "different ids"),
        ([b"data: {nonsense\n\n", DONE], "an event holds no JSON"),
    ],
)
async def test_a_stream_out_of_order_is_found(
    upstream: FakeUpstream, pieces: Sequence[bytes], why: str
) -> None:
    upstream.says = lambda asked: stream_says(pieces) if asked.body.get("stream") else json_says(whole())
    found = {one.behaviour: one for one in await examine(upstream.base_url, "k", "m")}
    grammar = found["the grammar of a stream"]
    assert grammar.verdict == "fail"
    assert why in grammar.why
    assert found["a completion"].verdict == "pass"
    assert found["a request id in the head"].why == "no x-request-id header"
    assert found["embeddings as base64"].verdict == "skip"


async def test_an_endpoint_of_another_kind_fails_without_an_accident(upstream: FakeUpstream) -> None:
    upstream.says = lambda asked: json_says(b"[]")
    found = await examine(upstream.base_url, "k", "m", "e")
    assert {outcome.verdict for outcome in found} == {"fail"}


def test_indices_that_are_not_dense_are_found() -> None:
    delta = {"index": 1, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    with pytest.raises(Broken, match="not dense"):
        assembled([{"choices": [{"delta": {"tool_calls": [delta]}}]}])


async def test_the_command_prints_what_it_found(serve: Serve, tmp_path: Path) -> None:
    import asyncio

    running = await serve(CONFIG)
    command = ("conformance", running.base_url, "--model", "demo", "--json")
    done = await asyncio.to_thread(run, tmp_path, *command, OPENAI_API_KEY=KEY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row["verdict"] for row in json.loads(done.stdout)} == {"pass", "skip"}
    wrong = await asyncio.to_thread(run, tmp_path, *command[:-1], "--key", "sk-wrong")
    assert wrong.returncode == 1
    assert "fail" in wrong.stdout


def test_nobody_to_ask_is_another_exit_code(tmp_path: Path) -> None:
    done = run(tmp_path, "conformance", "http://127.0.0.1:1/v1", "--model", "m")
    assert done.returncode == 2
    assert "can't be asked" in done.stderr
