"""kill -9 between every two steps of every flow: after a restart each payment is credited exactly once."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from pathlib import Path

import pytest

from tests.payments import crashing
from tests.payments.crashing import AMOUNT, CODE, FLOWS, opened
from tokenhub_proxy.errors import NotFound
from tokenhub_proxy.ledger.orders import Code, Mint
from tokenhub_proxy.payments import codes
from tokenhub_proxy.payments.office import Office
from tokenhub_proxy.payments.simulator import Simulator

RECOVERED_S = 10.0


def process(path: Path, url: str, flow: str, fatal: int) -> int | None:
    """The exit code of a process that was to die at this point; 0 when the flow ended before it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([crashing.__name__])
    child = context.Process(target=crashing.live, args=(str(path), url, flow, fatal))
    child.start()
    child.join(30)
    child.kill()
    return child.exitcode


async def prepared(path: Path, url: str) -> None:
    ledger, _ = await opened(str(path), url)
    await ledger.take(Mint((Code(codes.digest(CODE) or b"", AMOUNT, 0.0),)))
    await ledger.aclose()


async def recovered(path: Path, simulator: Simulator, flow: str) -> tuple[int, int]:
    """What the next run makes of it, once the client has gone on; how much came and went, in entries."""
    ledger, office = await opened(str(path), simulator.url)
    try:
        deadline = time.monotonic() + RECOVERED_S
        while await ledger.open_orders():
            assert time.monotonic() < deadline, await ledger.open_orders()
            await office.watch.round()
            await pay_what_waits(office, simulator)
            await asyncio.sleep(0.01)
        if flow == "code":
            # Whoever saw no answer types the code again.
            try:
                await office.desk.redeem("main", CODE)
            except NotFound:
                assert ledger.account("main").posted == AMOUNT
        if flow == "cabinet":
            for taken in simulator.payments.values():
                await simulator.act("refund", taken.id)
            await crashing.hours_later(office)
        orders = await ledger.orders()
        assert await ledger.verify() == []
        assert len(orders) <= 1
        for order in orders:
            assert order.state in ("paid", "refunded"), order
            assert order.credited == order.nanos
            assert order.returned == (order.nanos if order.state == "refunded" else 0)
        entries = [(entry.kind, entry.amount) async for entry in ledger.entries()]
        came = [amount for kind, amount in entries if kind == "credit"]
        went = [amount for kind, amount in entries if kind == "debit"]
        assert len(came) == len(orders)
        assert len(went) == sum(order.state == "refunded" for order in orders)
        assert ledger.account("main").posted == sum(came) - sum(went)
        for taken in simulator.payments.values():
            assert taken.refunded in ("0.00", taken.amount)
        refunded = sum(taken.refunded == taken.amount for taken in simulator.payments.values())
        assert refunded == len(went)
        return len(came), len(went)
    finally:
        await office.aclose()
        await ledger.aclose()


async def pay_what_waits(office: Office, simulator: Simulator) -> None:
    desk = office.desk
    for order in await desk.book.open_orders():
        if order.provider in ("yookassa", "cryptopay") and order.payment is not None:
            await simulator.act("pay", order.payment)
        elif order.provider == "tron" and not simulator.transfers:
            simulator.transfer(crashing.ADDRESS, order.amount)
        elif order.provider == "operator":
            await desk.complete(order.id, "cash")


@pytest.mark.parametrize(
    "flow",
    [pytest.param(name, marks=pytest.mark.long if name == "cabinet" else ()) for name in sorted(FLOWS)],
)
async def test_death_between_any_two_steps_neither_loses_nor_doubles_a_payment(
    tmp_path: Path, flow: str
) -> None:
    seen, fatal, exit_code = set(), 0, -9
    while exit_code == -9:
        fatal += 1
        simulator = Simulator()
        await simulator.start()
        try:
            path = tmp_path / f"{fatal}.db"
            await prepared(path, simulator.url)
            exit_code = await asyncio.to_thread(process, path, simulator.url, flow, fatal)
            seen.add(await recovered(path, simulator, flow))
        finally:
            await simulator.stop()
    assert exit_code == crashing.FINISHED
    assert fatal > {"card": 18, "cabinet": 10, "crypto": 8, "transfer": 6, "by_hand": 4, "code": 2}[flow]
    assert (1, 1 if flow in ("card", "cabinet") else 0) in seen
