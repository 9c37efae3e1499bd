"""Payment providers that take play money: the real paths of YooKassa, Crypto Pay and the TRC-20 index.

For tests and demonstrations. It keeps everything in memory and forgets it at its end.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from tokenhub_proxy.payments.cryptopay import sign
from tokenhub_proxy.payments.simulator_pages import page_of, pay_page
from tokenhub_proxy.payments.tron import CONTRACT

# A webhook waits so long for its answer; one without is sent again by no simulator.
WEBHOOK_S = 30.0
FOREIGN = "203.0.113.9"


@dataclass(slots=True)
class Knobs:
    """What goes wrong. All off is a provider on a good day."""

    duplicate: int = 0  # so many more copies of each webhook
    early: bool = False  # a webhook goes out before the payment's creation is answered
    late_s: float = 0.0
    shuffled: bool = False  # webhooks wait for the next one and go out after it
    wrong_sum: bool = False  # a unit more is paid than was asked
    forged: bool = False  # each webhook is preceded by one that nobody signed, of what never happened
    foreign: bool = False  # webhooks say that they come from elsewhere
    accepted_first: bool = False  # 202 at first for each new payment
    failing: int = 0  # so many calls more are answered with 500
    slow_s: float = 0.0
    silent: bool = False  # no webhook at all


@dataclass(slots=True)
class Taken:
    """A payment at one of the providers. `paid` and `refunded` are decimal texts of its currency."""

    id: str
    provider: str
    order: str
    amount: str
    currency: str
    return_url: str
    status: str = "pending"
    refunded: str = "0.00"
    asset: str = "USDT"
    token: str = field(default="", repr=False)
    extra: dict[str, Any] = field(default_factory=dict)


class Simulator:
    """The application. `webhooks` is where the hub takes them, or "" for nowhere."""

    def __init__(self, webhooks: str = "", knobs: Knobs | None = None) -> None:
        self.webhooks = webhooks.rstrip("/")
        self.knobs = knobs or Knobs()
        self.payments: dict[str, Taken] = {}
        self.transfers: list[dict[str, Any]] = []
        self.sent: list[tuple[str, int]] = []  # webhooks and how they were answered
        self.url = ""
        self._by_key: dict[str, str] = {}
        self._refunds: dict[str, dict[str, Any]] = {}
        self._accepted: set[str] = set()
        self._waiting: list[tuple[str, bytes, dict[str, str]]] = []
        self._numbers = itertools.count(1)
        self._sending: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; `url` is where."""
        app = web.Application(middlewares=[self._trouble])
        app.add_routes(
            [
                web.get("/", self._page),
                web.post("/knobs", self._set_knobs),
                web.post("/do/{action}/{id}", self._do),
                web.post("/transfer", self._transfer),
                web.get("/pay/{id}", self._pay_page),
                web.post("/v3/payments", self._create_payment),
                web.get("/v3/payments/{id}", self._show_payment),
                web.post("/v3/refunds", self._create_refund),
                web.post("/api/createInvoice", self._create_invoice),
                web.get("/api/getInvoices", self._list_invoices),
                web.get("/v1/accounts/{address}/transactions/trc20", self._list_transfers),
                web.get("/scripts/XML_daily.asp", self._daily),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        found = self._runner.addresses[0]
        self.url = f"http://{host}:{found[1]}"

    async def stop(self) -> None:
        """Close, after the webhooks that are on their way."""
        await self.settle()
        if self._runner is not None:
            await self._runner.cleanup()

    async def settle(self) -> None:
        """Wait until every webhook has been answered."""
        while self._sending:
            await asyncio.wait(list(self._sending))

    @web.middleware
    async def _trouble(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path.startswith(("/v3/", "/api/", "/v1/")):
            if self.knobs.slow_s:
                await asyncio.sleep(self.knobs.slow_s)
            if self.knobs.failing > 0:
                self.knobs.failing -= 1
                return web.json_response({"type": "error"}, status=500)
        answer: web.StreamResponse = await handler(request)
        return answer

    # --- YooKassa

    async def _create_payment(self, request: web.Request) -> web.Response:
        key, said = request.headers["Idempotence-Key"], await request.json()
        if self.knobs.accepted_first and key not in self._accepted:
            self._accepted.add(key)
            return web.json_response({"type": "processing", "retry_after": 1}, status=202)
        if key not in self._by_key:
            id = f"sim-{next(self._numbers)}-{secrets.token_hex(8)}"
            self._by_key[key] = id
            self.payments[id] = Taken(
                id, "yookassa", said["metadata"]["order_id"], said["amount"]["value"],
                said["amount"]["currency"], said["confirmation"]["return_url"],
            )  # fmt: skip
            if self.knobs.early:
                await self.act("pay", id)
                await self.settle()
        return web.json_response(self._payment_object(self.payments[self._by_key[key]]))

    async def _show_payment(self, request: web.Request) -> web.Response:
        taken = self.payments.get(request.match_info["id"])
        if taken is None:
            return web.json_response({"type": "error", "description": "no such payment"}, status=404)
        return web.json_response(self._payment_object(taken))

    async def _create_refund(self, request: web.Request) -> web.Response:
        key, said = request.headers["Idempotence-Key"], await request.json()
        if key not in self._refunds:
            taken = self.payments[said["payment_id"]]
            self._refunds[key] = await self._refund(taken, said["amount"]["value"])
        return web.json_response(self._refunds[key])

    async def _refund(self, taken: Taken, amount: str) -> dict[str, Any]:
        taken.refunded = _sum(taken.refunded, amount)
        made = {
            "id": f"refund-{next(self._numbers)}", "payment_id": taken.id, "status": "succeeded",
            "amount": {"value": amount, "currency": taken.currency},
        }  # fmt: skip
        await self._notify_yookassa("refund.succeeded", made)
        return made

    def _payment_object(self, taken: Taken) -> dict[str, Any]:
        return {
            "id": taken.id,
            "status": taken.status,
            "paid": taken.status == "succeeded",
            "amount": {"value": taken.amount, "currency": taken.currency},
            "confirmation": {"type": "redirect", "confirmation_url": f"{self.url}/pay/{taken.id}"},
            "metadata": {"order_id": taken.order},
            "refunded_amount": {"value": taken.refunded, "currency": taken.currency},
            "test": True,
        }

    async def _notify_yookassa(self, event: str, found: Mapping[str, Any]) -> None:
        body = orjson.dumps({"type": "notification", "event": event, "object": found})
        if self.knobs.forged:
            claim = {
                **found,
                "id": "sim-never",
                "payment_id": "sim-never",
                "status": "succeeded",
                "paid": True,
            }
            self._send(
                "yookassa", orjson.dumps({"type": "notification", "event": event, "object": claim}), {}
            )
        self._send("yookassa", body, {})

    # --- Crypto Pay

    async def _create_invoice(self, request: web.Request) -> web.Response:
        said = await request.json()
        id = str(next(self._numbers))
        self.payments[id] = Taken(
            id, "cryptopay", said["payload"], said["amount"], said["fiat"], said["paid_btn_url"],
            status="active", asset=said["accepted_assets"], token=request.headers["Crypto-Pay-API-Token"],
        )  # fmt: skip
        if self.knobs.early:
            await self.act("pay", id)
            await self.settle()
        return web.json_response({"ok": True, "result": self._invoice_object(self.payments[id])})

    async def _list_invoices(self, request: web.Request) -> web.Response:
        ids = request.query.get("invoice_ids", "").split(",")
        found = [self._invoice_object(self.payments[id]) for id in ids if id in self.payments]
        return web.json_response({"ok": True, "result": {"items": found}})

    def _invoice_object(self, taken: Taken) -> dict[str, Any]:
        return {
            "invoice_id": int(taken.id),
            "status": taken.status,
            "currency_type": "fiat",
            "fiat": taken.currency,
            "amount": taken.amount,
            "paid_asset": taken.asset if taken.status == "paid" else None,
            "payload": taken.order,
            "bot_invoice_url": f"{self.url}/pay/{taken.id}",
        }

    async def _notify_cryptopay(self, taken: Taken) -> None:
        at = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
        update = {
            "update_id": next(self._numbers), "update_type": "invoice_paid",
            "request_date": at.replace("+00:00", "Z"), "payload": self._invoice_object(taken),
        }  # fmt: skip
        body = orjson.dumps(update)
        if self.knobs.forged:
            self._send("cryptopay", body, {"crypto-pay-api-signature": sign("another token", body)})
        self._send("cryptopay", body, {"crypto-pay-api-signature": sign(taken.token, body)})

    # --- TRON and the Central Bank

    async def _list_transfers(self, request: web.Request) -> web.Response:
        address, since = request.match_info["address"], int(request.query.get("min_timestamp", "0"))
        found = [one for one in self.transfers if one["to"] == address and one["block_timestamp"] >= since]
        return web.json_response({"success": True, "data": found, "meta": {"page_size": len(found)}})

    def transfer(self, address: str, value: int, contract: str = CONTRACT) -> None:
        """A confirmed transfer of so many millionths of a token."""
        self.transfers.append(
            {
                "transaction_id": secrets.token_hex(32),
                "block_timestamp": int(time.time() * 1000),
                "from": "TSimulatedSimulatedSimulatedSimula",
                "to": address,
                "type": "Transfer",
                "value": str(value + (10_000 if self.knobs.wrong_sum else 0)),
                "token_info": {"symbol": "USDT", "address": contract, "decimals": 6, "name": "Tether USD"},
            }
        )

    async def _transfer(self, request: web.Request) -> web.Response:
        said = await request.post()
        whole, _, part = str(said["amount"]).partition(".")
        contract = "TForgedForgedForgedForgedForgedFor" if self.knobs.forged else CONTRACT
        self.transfer(str(said["address"]).strip(), int(whole + part.ljust(6, "0")[:6]), contract)
        raise web.HTTPSeeOther("/")

    async def _daily(self, request: web.Request) -> web.Response:
        day = datetime.fromtimestamp(time.time(), UTC)
        text = (
            f'<?xml version="1.0" encoding="windows-1251"?><ValCurs Date="{day:%d.%m.%Y}" name="simulated">'
            '<Valute ID="R01235"><NumCode>840</NumCode><CharCode>USD</CharCode><Nominal>1</Nominal>'
            "<Name>USD</Name><Value>80,0000</Value></Valute></ValCurs>"
        )
        return web.Response(body=text.encode(), content_type="application/xml")

    # --- what people press

    async def act(self, action: str, id: str) -> None:
        """Pay, cancel or refund a payment, as its page's buttons do."""
        taken = self.payments[id]
        if action == "pay" and taken.status in ("pending", "active"):
            if self.knobs.wrong_sum:
                taken.amount = _sum(taken.amount, "1.00")
            taken.status = "succeeded" if taken.provider == "yookassa" else "paid"
            if taken.provider == "yookassa":
                await self._notify_yookassa("payment.succeeded", self._payment_object(taken))
            else:
                await self._notify_cryptopay(taken)
        elif action == "cancel" and taken.status in ("pending", "active"):
            taken.status = "canceled" if taken.provider == "yookassa" else "expired"
            if taken.provider == "yookassa":
                await self._notify_yookassa("payment.canceled", self._payment_object(taken))
        elif action == "refund" and taken.status == "succeeded":
            left = _sum(taken.amount, f"-{taken.refunded}")
            if left != "0.00":
                await self._refund(taken, left)

    def _send(self, provider: str, body: bytes, headers: dict[str, str]) -> None:
        if self.knobs.silent or not self.webhooks:
            return
        out = [(provider, body, headers)] * (1 + self.knobs.duplicate)
        if self.knobs.shuffled and not self._waiting:
            self._waiting = out
            return
        for one in (*out, *self._waiting):
            task = asyncio.get_running_loop().create_task(self._deliver(*one))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        self._waiting = []

    async def _deliver(self, provider: str, body: bytes, headers: dict[str, str]) -> None:
        await asyncio.sleep(self.knobs.late_s)
        more = {"X-Forwarded-For": FOREIGN} if self.knobs.foreign else {}
        status = 0
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WEBHOOK_S)) as session,
                session.post(
                    f"{self.webhooks}/{provider}",
                    data=body,
                    headers={"Content-Type": "application/json", **headers, **more},
                ) as answer,
            ):
                status = answer.status
        except (aiohttp.ClientError, TimeoutError):
            pass  # nobody is there: status 0 tells it
        self.sent.append((provider, status))

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(
            text=page_of(self.knobs, self.payments.values(), self.transfers, self.sent),
            content_type="text/html",
        )

    async def _pay_page(self, request: web.Request) -> web.Response:
        taken = self.payments.get(request.match_info["id"])
        if taken is None:
            raise web.HTTPNotFound
        return web.Response(text=pay_page(taken), content_type="text/html")

    async def _do(self, request: web.Request) -> web.Response:
        id, said = request.match_info["id"], await request.post()
        if id not in self.payments:
            raise web.HTTPNotFound
        await self.act(request.match_info["action"], id)
        raise web.HTTPSeeOther(self.payments[id].return_url if "back" in said else "/")

    async def _set_knobs(self, request: web.Request) -> web.Response:
        said = await request.post()
        self.knobs = knobs_of({name: str(value) for name, value in said.items()})
        raise web.HTTPSeeOther("/")


def knobs_of(said: Mapping[str, str]) -> Knobs:
    """Knobs from texts; a switch is on where it is named. Raises ValueError."""
    kinds = {"int": int, "float": float}
    made = Knobs()
    for knob in fields(Knobs):
        text = said.get(knob.name)
        if text is None:
            continue
        kind = kinds.get(str(knob.type))
        setattr(made, knob.name, True if kind is None else kind(text or "0"))
    return made


def _sum(one: str, other: str) -> str:
    """The sum of two decimal texts of two places; the other may be negative."""
    cents = int(one.replace(".", "")) + int(other.replace(".", ""))
    return f"{cents // 100}.{cents % 100:02d}"
