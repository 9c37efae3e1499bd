"""A large ledger: no page of the dashboard takes long, however much there is."""

from __future__ import annotations

import importlib.util
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from tests.browsing import Visitor, visitor
from tests.conftest import Running, load
from tests.served import ROOT
from tests.test_dashboard import OPERATORS_PAGES
from tokenhub_proxy import wiring

CALLS = 1_000_000
PAGE_S = 0.150
CONFIG = """
upstreams: {demo: {dialect: demo}}
models: {demo: {targets: [{upstream: demo}], price: free}}
"""
PAGES = [
    "/dashboard",
    "/dashboard/keys",
    "/dashboard/usage",
    "/dashboard/usage?days=90&by=key",
    "/dashboard/requests",
    "/dashboard/requests?model=model3&status=failed",
    "/dashboard/requests?before=500000",
    "/dashboard/balance",
    "/dashboard/models",
    "/dashboard/playground",
]


def filler() -> Any:
    """The script that fills ledgers for the reports' benchmark."""
    found = importlib.util.spec_from_file_location("bench_reports", ROOT / "scripts" / "bench_reports.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.long
async def test_with_a_million_calls_every_page_is_fast(tmp_path: Path) -> None:
    config = load(CONFIG, tmp_path)
    begun = filler().BEGUN
    proxy = await wiring.start(config)
    await proxy.stop()
    filler().fill(str(tmp_path / "tokenhub.db"), CALLS)
    # The newest of the calls were made just now.
    ahead = time.time() - (begun + 365 * 86400)
    proxy = await wiring.start(config, clock=lambda: time.time() - ahead)
    running = Running(proxy, [])
    for number in range(50):
        arguments = {"name": f"key{number}", "account": f"account{number % 10}"}
        await proxy.administration.verbs["keys create"](arguments)
    owner, operator = await visitor(running, "ann", "account3"), await visitor(running, "root")
    slow = []
    try:
        for who, paths in ((owner, PAGES), (operator, PAGES + OPERATORS_PAGES)):
            for path in paths:
                took = await median_s(who, path.replace("mine", "key3").replace("acme", "account3"))
                print(f"{took * 1000:7.1f} ms  {path}")
                if took > PAGE_S:
                    slow.append((path, took))
    finally:
        await proxy.stop()
    assert slow == []


async def median_s(who: Visitor, path: str) -> float:
    """CPU seconds of this process for a page, of five times: the server's, the reader's and the client's."""
    times = []
    for _ in range(5):
        begun = time.process_time()
        seen = await who.get(path)
        times.append(time.process_time() - begun)
        assert seen.status == 200, path
    return statistics.median(times)
