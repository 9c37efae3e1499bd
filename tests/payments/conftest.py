"""A proxy that takes payments from simulated providers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.conftest import Running, Serve
from tokenhub_proxy.ledger import Account
from tokenhub_proxy.payments.simulator import Knobs, Simulator

SECRET = "test_" + "s" * 40
TOKEN = "12345:AA" + "t" * 33
ADDRESS = "TR7NHqjeKQxGTCi8q8ZY4pL8otSzgjLj6t"
SOON_S = 10.0


def config(url: str, more: str = "") -> str:
    return f"""
upstreams: {{demo: {{dialect: demo}}}}
models:
  demo: {{targets: [{{upstream: demo}}], price: {{input: 3.00, output: 15.00}}, max_output_tokens: 100}}
accounts: {{main: {{balance: prepaid}}}}
keys: [{{name: tester, key: sk-th-testtesttesttesttest, account: main}}]
payments:
  return_url: https://hub.example/orders/{{order}}
  rate: {{fixed: 80.00}}
  yookassa: {{shop_id: "1", secret_key: {SECRET}, base_url: {url}/v3, test: true, fee_percent: 3.5}}
  cryptopay: {{token: "{TOKEN}", base_url: {url}, test: true}}
  tron: {{address: {ADDRESS}, base_url: {url}, test: true}}
  operator: {{instructions: pay at the counter}}
{more}"""


class Shop:
    """The proxy, its simulated providers, and short ways to both."""

    def __init__(self, running: Running, simulator: Simulator) -> None:
        self.running = running
        self.simulator = simulator
        self.office = running.proxy.office
        self.webhooks = f"{running.url}/payments/webhooks"

    async def verb(self, name: str, **arguments: Any) -> Any:
        return await self.office.verbs.verbs[f"payments {name}"](arguments)

    async def order(self, provider: str = "yookassa", amount: str = "10.00", **more: Any) -> dict[str, Any]:
        return await self.verb("create", account="main", amount=amount, provider=provider, **more)

    @property
    def balance(self) -> int:
        return self.running.ledger.account("main").posted

    async def state(self, id: str) -> str:
        return (await self.verb("show", id=id))["state"]

    async def until(self, id: str, state: str) -> dict[str, Any]:
        """The order, once it is in this state."""
        deadline = time.monotonic() + SOON_S
        while (found := await self.verb("show", id=id))["state"] != state:
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.02)
        return found

    async def entries(self) -> list[tuple[str, int]]:
        return [(entry.kind, entry.amount) async for entry in self.running.ledger.entries()]

    async def verdicts(self) -> list[str]:
        return [hook["verdict"] for hook in reversed(await self.verb("webhooks"))]


Open = Callable[..., Awaitable[Shop]]


@pytest.fixture
async def open_shop(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    simulators = []

    async def open(first_s: float = 3600.0, more: str = "", **knobs: Any) -> Shop:
        """`first_s` is how soon the watch asks; by default only webhooks tell."""
        monkeypatch.setattr("tokenhub_proxy.payments.office.FIRST_S", first_s)
        monkeypatch.setattr("tokenhub_proxy.payments.office.Office.__init__.__kwdefaults__", {
            "send": None, "first_s": first_s,
        })  # fmt: skip
        monkeypatch.setattr("tokenhub_proxy.payments.desk.SUBMIT_PAUSES_S", (0.01, 0.05, 0.1))
        simulator = Simulator(knobs=Knobs(**knobs))
        await simulator.start()
        simulators.append(simulator)
        shop = Shop(await serve(config(simulator.url, more)), simulator)
        simulator.webhooks = shop.webhooks
        await shop.running.ledger.open_account(Account("main"))
        return shop

    yield open
    for simulator in simulators:
        await simulator.stop()


@pytest.fixture
async def shop(open_shop: Open) -> Shop:
    return await open_shop()
