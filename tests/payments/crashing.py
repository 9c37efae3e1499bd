"""A process that takes payments and dies at a step that it was told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

from tests.payments.conftest import ADDRESS, TOKEN
from tokenhub_proxy.ledger import Account
from tokenhub_proxy.ledger.sqlite import SqliteLedger, open_ledger
from tokenhub_proxy.payments.cryptopay import CryptoPay, sign
from tokenhub_proxy.payments.office import Office
from tokenhub_proxy.payments.operator import Operator
from tokenhub_proxy.payments.settings import Settings
from tokenhub_proxy.payments.tron import Tron
from tokenhub_proxy.payments.yookassa import YooKassa

AMOUNT = 10 * 10**9
CODE = "TH-01234-56789-ABCDE-FGHJK"
# Said by the child when it has died of nothing.
FINISHED = 0


def settings(url: str) -> Settings:
    back = "https://hub.example/{order}"
    providers = (
        YooKassa("1", "s" * 40, back, base_url=f"{url}/v3", test=True),
        CryptoPay(TOKEN, back, base_url=url, test=True),
        Tron(ADDRESS, base_url=url, test=True),
        Operator(),
    )
    return Settings({one.name: one for one in providers}, rate_fixed=80_000_000)


async def opened(path: str, url: str, first_s: float = 0.0) -> tuple[SqliteLedger, Office]:
    ledger = await open_ledger(f"sqlite:///{path}", clock=time.time)
    await ledger.open_account(Account("main"))
    office = Office(ledger, settings(url), clock=time.time, randomness=os.urandom, first_s=first_s)
    return ledger, office


class Points:
    """Counts the moments before and after every step; at one of them the process is gone."""

    def __init__(self, fatal: int) -> None:
        self._fatal = fatal
        self._passed = 0

    def _pass(self) -> None:
        self._passed += 1
        if self._passed == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, step: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def passed(what: Any) -> Any:
            self._pass()
            result = await step(what)
            self._pass()
            return result

        return passed


class Book:
    """A ledger each of whose steps may be the last. Compiled, a ledger takes no other method for its own."""

    def __init__(self, ledger: SqliteLedger, points: Points) -> None:
        self.take = points.around(ledger.take)
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


def live(path: str, url: str, flow: str, fatal: int) -> None:
    """The process: one flow, dying at one point."""
    asyncio.run(_live(path, url, flow, fatal))
    os._exit(FINISHED)


async def _live(path: str, url: str, flow: str, fatal: int) -> None:
    ledger, office = await opened(path, url)
    points = Points(fatal)
    book: Any = Book(ledger, points)
    office.desk.book = book
    office.desk._send = points.around(office.desk._send)
    await FLOWS[flow](office, url)
    await office._sender.aclose()
    await ledger.aclose()


def press(url: str, action: str, payment: str) -> None:
    request = urllib.request.Request(f"{url}/do/{action}/{payment}", data=b"", method="POST")
    urllib.request.urlopen(request, timeout=10).close()


async def card(office: Office, url: str) -> None:
    order = await office.desk.create("main", AMOUNT, "yookassa")
    await asyncio.to_thread(press, url, "pay", order.payment or "")
    body = {"type": "notification", "event": "payment.succeeded", "object": {"id": order.payment}}
    await office.webhooks.handle("yookassa", {}, json.dumps(body).encode(), "")
    await office.desk.refund(order.id, None, outside=False, note="")


async def cabinet(office: Office, url: str) -> None:
    """Paid back in the provider's own cabinet, of which no webhook tells."""
    order = await office.desk.create("main", AMOUNT, "yookassa")
    await asyncio.to_thread(press, url, "pay", order.payment or "")
    await office.desk.look(order.id)
    await asyncio.to_thread(press, url, "refund", order.payment or "")
    await hours_later(office)


async def hours_later(office: Office) -> None:
    """The watch over paid orders, once it is time to ask about them again."""
    office.desk.clock = lambda: time.time() + 2 * 3600.0
    await office.refund_watch.round()


async def crypto(office: Office, url: str) -> None:
    order = await office.desk.create("main", AMOUNT, "cryptopay")
    await asyncio.to_thread(press, url, "pay", order.payment or "")
    invoice = {
        "invoice_id": int(order.payment or 0), "status": "paid", "currency_type": "fiat", "fiat": "USD",
        "amount": "10.00", "paid_asset": "USDT", "payload": order.id,
    }  # fmt: skip
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    said = {"update_type": "invoice_paid", "request_date": date, "payload": invoice}
    body = json.dumps(said).encode()
    await office.webhooks.handle("cryptopay", {"crypto-pay-api-signature": sign(TOKEN, body)}, body, "")


async def transfer(office: Office, url: str) -> None:
    order = await office.desk.create("main", AMOUNT, "tron")
    data = f"address={ADDRESS}&amount={order.amount // 10**6}.{order.amount % 10**6:06d}".encode()
    await asyncio.to_thread(lambda: urllib.request.urlopen(f"{url}/transfer", data, 10).close())
    await office.desk.look(order.id)


async def by_hand(office: Office, url: str) -> None:
    order = await office.desk.create("main", AMOUNT, "operator")
    await office.desk.complete(order.id, "cash")


async def code(office: Office, url: str) -> None:
    await office.desk.redeem("main", CODE)


FLOWS = {
    "card": card,
    "cabinet": cabinet,
    "crypto": crypto,
    "transfer": transfer,
    "by_hand": by_hand,
    "code": code,
}
