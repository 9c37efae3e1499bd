"""Ledgers for the tests, each verified at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.ledger.shelf import LEDGERS, Shelf
from tests.ledger.storage import Storage
from tokenhub_proxy.ledger.sqlite import SqliteLedger


@pytest.fixture(autouse=True)
async def shelf(tmp_path: object, request: pytest.FixtureRequest) -> AsyncIterator[Shelf]:
    """Opens ledgers; what is still open at the end must add up."""
    kind = request.node.callspec.params.get("ledger_kind") if hasattr(request.node, "callspec") else None
    shelf = Shelf(str(tmp_path), **LEDGERS[kind or "file-process"])
    yield shelf
    found = [await ledger.verify() for ledger in shelf.opened]
    for ledger in shelf.opened:
        await ledger.aclose()
    assert not any(found), found


@pytest.fixture(params=list(LEDGERS))
def ledger_kind(request: pytest.FixtureRequest) -> str:
    """One of the ledgers that the contract holds for."""
    return request.param


@pytest.fixture
async def ledger(shelf: Shelf) -> SqliteLedger:
    """A new ledger with the prepaid account `main`, worth 1 USD."""
    ledger = await shelf.open()
    await shelf.fund(ledger, "main", 10**9)
    return ledger


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
async def stored(shelf: Shelf, storage: Storage) -> SqliteLedger:
    """The same, over storage that the test can have fail."""
    ledger = await shelf.open(storage)
    await shelf.fund(ledger, "main", 10**9)
    return ledger
