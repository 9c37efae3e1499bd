"""kill -9 under load, compared with what the upstream and the clients saw."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from tests.served import Served
from tests.upstream import DONE, Asked, FakeUpstream, Says, chunk, json_says, stream_says, usage_chunk, whole
from tokenhub_proxy import control

KEY = "sk-th-crashcrashcrashcrash"
# One name a call: what the upstream was asked and what the ledger holds meet in the model's name.
CALLS = 60
CLIENTS = 12
RECOVERED_S = 5.0
# (10 input + 2 output tokens) at 3 and 15 USD per million tokens, in nanodollars
COST = 10 * 3_000 + 2 * 15_000
PRICE = "{input: 3.00, output: 15.00}"
CREDIT = 1_000_000


@dataclass
class Round:
    """What the outside saw of one life of the server."""

    finished: set[str] = field(default_factory=set)
    refused: dict[str, int] = field(default_factory=dict)


def config(upstream: str) -> str:
    models = "\n".join(
        f"  c{number}: {{targets: [{{upstream: up}}], price: {PRICE}, max_output_tokens: 100}}"
        for number in range(CALLS)
    )
    return f"""
listen: 127.0.0.1:0
ledger: sqlite:///books.db
upstreams:
  up: {{dialect: openai, base_url: "{upstream}", api_key: sk-up}}
accounts:
  main: {{balance: prepaid}}
keys: [{{name: crash, key: {KEY}, account: main}}]
models:
{models}
"""


def says(asked: Asked) -> Says:
    if asked.body.get("stream"):
        pieces = (chunk("Hel"), chunk("lo"), chunk(reason="stop"), usage_chunk(10, 2), DONE)
        return stream_says(pieces, pause_s=0.003)
    return json_says(whole())


async def load(base_url: str, seen: Round) -> None:
    """Every call once, from several clients at a time, until the server is gone."""
    waiting = list(range(CALLS))

    async def client(session: aiohttp.ClientSession) -> None:
        while waiting:
            number = waiting.pop()
            await call(session, base_url, f"c{number}", number % 2 == 0, seen)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session) for _ in range(CLIENTS)))


async def call(session: aiohttp.ClientSession, base_url: str, model: str, stream: bool, seen: Round) -> None:
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"Authorization": f"Bearer {KEY}"}
    try:
        async with session.post(f"{base_url}/chat/completions", json=body, headers=headers) as answer:
            said = await answer.read()
    except (aiohttp.ClientError, ConnectionError):
        return
    if answer.status != 200:
        seen.refused[model] = answer.status
    elif not stream or said.endswith(DONE):
        seen.finished.add(model)


class Books:
    """The file as another process sees it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.last_hold = 0

    def query(self, sql: str, *values: object) -> list[tuple]:
        connection = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()

    def new(self) -> list[tuple]:
        """(model, status, cost) of the calls since the last time; status None is an open hold."""
        rows = self.query(
            "SELECT h.id, h.model, e.status, e.cost FROM holds h LEFT JOIN endings e ON e.hold = h.id"
            " WHERE h.id > ? ORDER BY h.id",
            self.last_hold,
        )
        self.last_hold = rows[-1][0] if rows else self.last_hold
        return [row[1:] for row in rows]


def ask(ledger: Path, verb: str, **arguments: object) -> object:
    return list(control.ask(str(ledger), verb, arguments))[-1][1]


async def rounds(folder: Path, upstream: FakeUpstream, count: int, seed: int) -> dict[str, int]:
    """Kill and restart so many times; gives what happened how often."""
    chance = random.Random(seed)
    upstream.says = says
    (folder / "config.yaml").write_text(config(upstream.base_url))
    ledger = folder / "books.db"
    books = Books(ledger)
    happened = {"rounds": 0, "served": 0, "finished": 0, "settled": 0, "released": 0, "expired": 0}
    served = await asyncio.to_thread(Served, folder)
    try:
        ask(ledger, "accounts credit", name="main", amount=str(CREDIT))
        for number in range(1, count + 1):
            upstream.asked.clear()
            seen = Round()
            work = asyncio.create_task(load(served.base_url, seen))
            await asyncio.sleep(chance.uniform(0.005, 0.25))
            served.kill()
            await work
            if number % 5 == 0:
                again = Served(folder, wait=False)
                await asyncio.sleep(chance.uniform(0.1, 1.0))
                again.kill()
            served = await asyncio.to_thread(Served, folder)
            await recovered(ledger)
            compare(seen, {asked.body["model"] for asked in upstream.asked}, books.new(), happened)
            assert ask(ledger, "ledger verify") == {"differences": []}
            happened["rounds"] += 1
        (spent,) = books.query("SELECT sum(cost) FROM endings")[0]
        balance = CREDIT * 10**9 - (spent or 0)
        assert books.query("SELECT posted, held FROM accounts WHERE name = 'main'") == [(balance, 0)]
        assert await asyncio.to_thread(served.stop) == 0
    finally:
        served.process.kill()
        served.process.wait()
    return happened


async def recovered(ledger: Path) -> None:
    deadline = time.monotonic() + RECOVERED_S
    while any(account["held_usd"] != "0.00" for account in ask(ledger, "accounts list")):  # type: ignore[attr-defined]
        assert time.monotonic() < deadline, "holds are open 5 s after the restart"
        await asyncio.sleep(0.02)


def compare(seen: Round, asked: set[str], rows: list[tuple], happened: dict[str, int]) -> None:
    endings = {model: (status, cost) for model, status, cost in rows}
    assert len(endings) == len(rows), "a call was held twice"
    assert asked <= set(endings), "the upstream served what the books don't know"
    for model, (status, cost) in endings.items():
        assert status in ("settled", "released", "expired"), (model, status)
        assert (cost or 0) == 0 or model in asked, f"{model} was charged and never served"
        assert (cost or 0) in (0, COST) or status == "settled"
        happened[status] += 1
    for model in seen.finished:
        assert endings[model] == ("settled", COST), f"{model} was answered in full: {endings[model]}"
    assert not seen.refused, seen.refused
    happened["served"] += len(asked)
    happened["finished"] += len(seen.finished)


async def test_a_killed_server_neither_loses_nor_invents_a_charge(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    happened = await rounds(tmp_path, upstream, 5, seed=1)
    assert happened["rounds"] == 5
    assert happened["finished"] > 0
    assert happened["expired"] + happened["settled"] > happened["finished"] // 2


@pytest.mark.long
async def test_three_hundred_kills(tmp_path: Path, upstream: FakeUpstream) -> None:
    happened = await rounds(tmp_path, upstream, 300, seed=2)
    print(happened)
    assert happened["expired"] > 0
