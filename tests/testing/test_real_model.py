"""Recorded from a real language model, replayed without it: nothing differs."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.served import ROOT, Served, run
from tests.test_real_model import WEATHER
from tokenhub_proxy.cassettes import load
from tokenhub_proxy.conformance import examine

START = os.environ.get("TOKENHUB_REAL_MODEL", "")
pytestmark = [
    pytest.mark.real_model,
    pytest.mark.xdist_group("real_model"),
    pytest.mark.skipif(not START, reason="TOKENHUB_REAL_MODEL names no script that starts a real model"),
]
KEY = "sk-th-testtesttesttesttest"
SECRET = "a-credential-of-nobody-0123456789"
CONFIG = """
listen: 127.0.0.1:0
ledger: sqlite:///books.db
upstreams:
  native: {{dialect: openai, base_url: "{base_url}", api_key: env:REAL_API_KEY}}
  messages: {{dialect: anthropic, base_url: "{anthropic_base_url}/v1", api_key: env:REAL_API_KEY}}
  vectors: {{dialect: openai, base_url: "{embeddings_base_url}", api_key: env:REAL_API_KEY}}
models:
  chat: {{targets: [{{upstream: native, model: {model}}}], price: {{input: 3.00, output: 15.00}}}}
  translated: {{targets: [{{upstream: messages, model: {model}}}], price: {{input: 3.00, output: 15.00}}}}
  embedder: {{targets: [{{upstream: vectors, model: {embeddings_model}}}], price: {{input: 0.02}}}}
keys: [{{name: tester, key: {key}, test: true}}]
"""
HELLO = [{"role": "user", "content": "Привет! What is the weather in Paris?"}]
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", {"model": model, "messages": HELLO, "max_tokens": 24, "temperature": 0, **more})
    for model in ("chat", "translated")
    for more in ({}, {"stream": True}, {"stream": True, "tools": WEATHER})
] + [("embeddings", {"model": "embedder", "input": ["one", "two"]})]


def session(folder: Path, config: str, *arguments: str) -> tuple[list[bytes], list[Any]]:
    """Everything that is asked, in a run of its own: the clients' bytes, and the books."""
    folder.mkdir()
    (folder / "config.yaml").write_text(config)
    served = Served(folder, *arguments, REAL_API_KEY=SECRET)
    answers = []
    for path, body in ASKED:
        done = subprocess.run(
            ["curl", "-sN", "--raw", f"{served.base_url}/{path}", "-H", f"Authorization: Bearer {KEY}",
             "-H", "Content-Type: application/json", "-d", json.dumps(body)],
            capture_output=True, timeout=120, check=True,
        )  # fmt: skip
        # A translated answer is dated by the clock and, where its upstream names none, has a new id.
        said = re.sub(rb'"created":\d+', b'"created":0', done.stdout)
        answers.append(
            re.sub(rb'"id":"chatcmpl-\w+"', b'"id":""', said) if body["model"] == "translated" else said
        )
    served.stop()
    entries = run(folder, "ledger", "export", REAL_API_KEY=SECRET).stdout.splitlines()
    usage = run(folder, "usage", "--by", "model", "--json", REAL_API_KEY=SECRET).stdout
    kept = ("kind", "debit", "credit", "amount_usd")
    return answers, [
        json.loads(usage),
        *({name: json.loads(line)[name] for name in kept} for line in entries),
    ]


def test_clients_bytes_books_and_read_boundaries_are_identical(
    tmp_path: Path, real_model: dict[str, str]
) -> None:
    tapes = tmp_path / "tapes"
    config = CONFIG.format(**real_model, key=KEY)
    answers, books = session(tmp_path / "one", config, "--record", str(tapes))
    again, books_again = session(tmp_path / "two", config, "--replay", str(tapes))
    for (_, body), first, second in zip(ASKED, answers, again, strict=True):
        assert b'"error"' not in first
        # Chunks and all: each read of the upstream is one chunk to the client.
        assert second == first, body
    assert books_again == books
    assert len(books) > len(ASKED)

    recorded = [one for path in tapes.iterdir() for one in load(path.read_bytes(), path.name)]
    assert len(recorded) == len(ASKED)
    assert max(len(one.reads) for one in recorded) > 10
    for path in tapes.iterdir():
        for secret in (SECRET, KEY, "Bearer"):
            assert secret not in path.read_text()


async def test_the_page_says_what_conformance_finds(serve: Serve, real_model: dict[str, str]) -> None:
    running = await serve(CONFIG.format(**real_model, key=KEY).replace("env:REAL_API_KEY", SECRET))
    ours = await examine(running.base_url, KEY, "chat", "embedder")
    theirs = await examine(
        real_model["base_url"], "none", real_model["model"], real_model["embeddings_model"]
    )
    page = (ROOT / "docs/testing.md").read_text()
    told = re.findall(r"^\| ([^|]+) \| (\w+) \| (\w+) \|", page.partition("why they differ")[2], re.MULTILINE)
    assert told == [
        (one.behaviour, one.verdict, other.verdict) for one, other in zip(ours, theirs, strict=True)
    ]
