"""Reloads under load: every answer is judged by one config, whatever is written into the file meanwhile."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import yaml

from tests.dialects.contract import mutated
from tests.served import Served, run
from tests.upstream import DONE, Asked, FakeUpstream, Says, chunk, json_says, stream_says, usage_chunk, whole
from tokenhub_proxy import config, serve

KEY = "sk-th-reloadreloadreload"
CLIENTS = 6
# Ten tokens of input and two of output, in every answer.
PROMPT, OUTPUT = 10, 2
WAIT_S = 30.0


def document(version: int, upstream: str) -> dict[str, Any]:
    """A config that says its version wherever an answer can tell it."""
    return {
        "listen": "127.0.0.1:0",
        "ledger": "sqlite:///books.db",
        "upstreams": {
            f"up{version % 3}": {
                "dialect": "openai",
                "base_url": upstream,
                "api_key": f"sk-{version}",
                "headers": {"x-version": str(version)},
            }
        },
        "models": {
            "m": {
                "targets": [{"upstream": f"up{version % 3}", "model": f"real-{version}"}],
                "price": {"input": f"{version}.00", "output": f"{version}.00"},
                "max_output_tokens": 100,
                "defaults": {"user": str(version)},
            },
            f"v{version}": {"targets": [{"upstream": f"up{version % 3}", "model": "r"}], "price": "free"},
        },
        "keys": [{"name": "laptop", "key": KEY, "rate": {"requests_per_minute": 1_000_000 + version}}],
    }


def cost_usd(version: int) -> str:
    """What one call costs at this version's price: so many dollars per million tokens."""
    return f"0.{version * (PROMPT + OUTPUT):06d}".rstrip("0")


def says(asked: Asked) -> Says:
    """Says what it was told of the version: by the model's name, a header, a default field and the key."""
    told = [
        asked.body["model"].removeprefix("real-"),
        asked.headers.get("x-version", ""),
        asked.body["user"],
        asked.headers["Authorization"].removeprefix("Bearer sk-"),
    ]
    content = " ".join(told)
    if asked.body.get("stream"):
        return stream_says((chunk(content), chunk(reason="stop"), usage_chunk(PROMPT, OUTPUT), DONE))
    return json_says(whole(content, PROMPT, OUTPUT))


class Load:
    """Clients that call, stream and list until told to stop, and note what each answer says of versions."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.answers = 0
        self.versions: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._stopped = asyncio.Event()

    async def client(self, session: aiohttp.ClientSession) -> None:
        while not self._stopped.is_set():
            for ask in (self._whole, self._stream, self._models):
                await ask(session)
                self.answers += 1

    def stop(self) -> None:
        self._stopped.set()

    def judge(self, witnesses: list[str]) -> None:
        if len(set(witnesses)) != 1:
            self.wrong.append(f"mixed: {witnesses}")
        self.versions[witnesses[0]] += 1

    async def _ask(
        self, session: aiohttp.ClientSession, stream: bool
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
        async with session.post(f"{self.base_url}/chat/completions", json=body) as answer:
            said = await answer.read()
        if answer.status != 200:
            self.wrong.append(f"{answer.status}: {said!r}")
        return answer, said

    async def _whole(self, session: aiohttp.ClientSession) -> None:
        answer, said = await self._ask(session, False)
        if answer.status == 200:
            told = orjson.loads(said)["choices"][0]["message"]["content"].split()
            limit = int(answer.headers["x-ratelimit-limit-requests"]) - 1_000_000
            self.judge([*told, str(limit)])
            if answer.headers["x-tokenhub-cost-usd"] != cost_usd(int(told[0])):
                self.wrong.append(f"version {told[0]} cost {answer.headers['x-tokenhub-cost-usd']}")

    async def _stream(self, session: aiohttp.ClientSession) -> None:
        answer, said = await self._ask(session, True)
        if answer.status != 200:
            return
        if not said.endswith(DONE):
            self.wrong.append(f"a stream was cut: {said!r}")
            return
        told = orjson.loads(said.partition(b"\n\n")[0][6:])["choices"][0]["delta"]["content"].split()
        self.judge([*told, str(int(answer.headers["x-ratelimit-limit-requests"]) - 1_000_000)])
        id = answer.headers["x-request-id"]
        async with session.get(f"{self.base_url}/receipts/{id}") as receipt:
            cost = (await receipt.json())["cost_usd"]
        if cost != cost_usd(int(told[0])):
            self.wrong.append(f"version {told[0]} cost {cost} in a stream")

    async def _models(self, session: aiohttp.ClientSession) -> None:
        async with session.get(f"{self.base_url}/models") as answer:
            listed = {model["id"]: model["pricing"] for model in (await answer.json())["data"]}
        (other,) = listed.keys() - {"m"}
        price = listed["m"]["prompt"]
        self.judge([other.removeprefix("v"), str(round(float(price) * 1_000_000))])


@asynccontextmanager
async def loaded(base_url: str) -> AsyncIterator[Load]:
    load = Load(base_url)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        clients = [asyncio.create_task(load.client(session)) for _ in range(CLIENTS)]
        try:
            yield load
        finally:
            load.stop()
            await asyncio.gather(*clients)


def written(found: Any, rng: random.Random) -> str:
    """A config as YAML, in one of the styles that people and programs write it in."""
    if isinstance(found, dict):
        names = list(found)
        rng.shuffle(names)
        found = {name: found[name] for name in names}
    return yaml.safe_dump(found, sort_keys=False, default_flow_style=rng.choice((None, True, False)))


def broken(version: int, upstream: str, folder: Path, rng: random.Random) -> str:
    """The config with damage that makes it none: replaced nodes, bytes, lines, or half a file."""
    while True:
        text = written(document(version, upstream), rng)
        kind = rng.randrange(5)
        start = rng.randrange(len(text))
        if kind == 0:
            text = written(mutated(document(version, upstream), rng), rng)
        elif kind == 1:
            text = text[:start]
        elif kind == 2:
            text = text[:start] + rng.choice("\t:{}[]*&!%@`'\"\0€") + text[start + rng.randrange(3) :]
        elif kind == 3:
            lines = text.splitlines(keepends=True)
            del lines[rng.randrange(len(lines))]
            text = "".join(lines)
        else:
            # One that only the books can refuse: this account is always unlimited.
            text = written(
                {**document(version, upstream), "accounts": {"default": {"balance": "prepaid"}}}, rng
            )
        if kind == 4 or not loads(text, folder):
            return text


def loads(text: str, folder: Path) -> bool:
    try:
        config.load(text, name="c", folder=folder, environ={}, read_file=lambda path: path.read_text())
    except config.ConfigError:
        return False
    return True


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("reloads", [30, pytest.param(500, marks=pytest.mark.long)])
async def test_reloads_under_load_fail_no_request_and_are_never_mixed(
    tmp_path: Path, upstream: FakeUpstream, reloads: int
) -> None:
    upstream.says = says
    rng = random.Random(reloads)
    file = tmp_path / "config.yaml"
    file.write_text(written(document(1, upstream.base_url), rng))
    served = await asyncio.to_thread(Served, tmp_path)

    def count(word: str) -> int:
        return served.log.read_text().count(word)

    version, refused, read_by_itself = 1, 0, 0
    try:
        async with loaded(served.base_url) as load:
            for number in range(reloads):
                good = rng.random() < 0.5
                version += good
                base = upstream.base_url
                text = (
                    written(document(version, base), rng)
                    if good
                    else broken(version + 1, base, tmp_path, rng)
                )
                refused += not good
                word = "reloaded config.yaml" if good else "reload_failed"
                before = count(word)
                (tmp_path / "next.yaml").write_text(text)
                (tmp_path / "next.yaml").replace(file)
                if number % 15:
                    served.process.send_signal(signal.SIGHUP)
                else:
                    read_by_itself += 1  # the file is looked at, if nobody asks
                await until(lambda word=word, before=before: count(word) > before)
                # The last good one is in force, and answers.
                await until(lambda version=version: load.versions[str(version)] > 0)
    finally:
        assert await asyncio.to_thread(served.stop) == 0

    print(f"\n{load.answers} answers under {version} configs, {refused} others refused")
    assert load.wrong == []
    assert set(load.versions) == {str(number) for number in range(1, version + 1)}
    assert count("reload_failed") >= refused > reloads / 4
    assert "Traceback" not in served.log.read_text()
    assert read_by_itself > 0
    file.write_text(written(document(version, upstream.base_url), rng))
    assert run(tmp_path, "ledger", "verify").returncode == 0


def test_what_is_looked_at_is_looked_at_often_enough() -> None:
    """The wait above is longer than a look at the file takes to come."""
    assert serve.WATCH_S < WAIT_S / 2
