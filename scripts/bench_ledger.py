"""What the books cost: holds and settlements per second, their CPU, and the latency they add."""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tokenhub_proxy.keys import Key
from tokenhub_proxy.ledger import Account, Ending, Hold
from tokenhub_proxy.ledger.file import Durability
from tokenhub_proxy.ledger.holding import holding
from tokenhub_proxy.ledger.sqlite import SqliteLedger, open_ledger
from tokenhub_proxy.prices import Price, Usage

SECONDS = 3.0
PRICE = Price(input=3_000_000_000, output=15_000_000_000)
ENDING_USAGE = Usage(input=900, output=200, reported=True)
_ids = itertools.count()


async def call(ledger: SqliteLedger, key: Key, waits: list[float]) -> None:
    """One request: a hold, a settlement, nothing between them."""
    begun = time.perf_counter()
    hold = Hold(
        request_id=f"req_{next(_ids):032x}",
        key=key,
        model="claude-3-5-sonnet",
        amount=30_000_000,
        at=time.time(),
        price=PRICE,
        window="laptop/2026-11",
        window_limit=10**18,
        stream=True,
    )
    with await holding(ledger, hold, time.time) as held:
        hold.end(
            Ending(
                "settled",
                at=time.time(),
                cost=PRICE.cost(ENDING_USAGE),
                usage=ENDING_USAGE,
                upstream="anthropic",
                http_status=200,
                first_byte_ms=312,
            )
        )
    await held.settled()
    waits.append(time.perf_counter() - begun)


async def run(folder: str, durability: Durability, concurrency: int) -> None:
    path = os.path.join(folder, f"{durability}-{concurrency}.db")
    ledger = await open_ledger(f"sqlite:///{path}", durability=durability, clock=time.time)
    await ledger.open_account(Account("main"))
    await ledger.credit("main", 10**18, at=time.time())
    key = Key(id="key_1", name="laptop", account="main", digest=b"0" * 32)
    waits: list[float] = []
    end = time.perf_counter() + SECONDS

    async def client() -> None:
        while time.perf_counter() < end:
            await call(ledger, key, waits)

    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    took, cpu = time.perf_counter() - begun, time.process_time() - cpu
    waits.sort()
    print(
        f"{durability:8} {concurrency:3} {len(waits) / took:10.0f} {cpu / len(waits) * 1e6:10.1f}"
        f" {statistics.median(waits) * 1e3:10.3f} {waits[int(len(waits) * 0.99)] * 1e3:10.3f}"
    )
    assert not await ledger.verify()
    await ledger.aclose()


def main() -> None:
    """Print a table; the arguments are concurrencies, by default 1 and 32."""
    concurrencies = [int(argument) for argument in sys.argv[1:]] or [1, 32]
    print("durability  n  requests/s     cpu us   p50 ms     p99 ms   (hold and settlement together)")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for durability in ("full", "process"):
            for concurrency in concurrencies:
                asyncio.run(run(folder, durability, concurrency))


if __name__ == "__main__":
    main()
