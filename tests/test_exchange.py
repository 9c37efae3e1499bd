"""Exchange: what one record says of a call's status, billing and ending."""

from __future__ import annotations

from typing import Any

import pytest

from tests.test_observers import noted
from tokenhub_proxy.errors import InvalidApiKey, LedgerUnavailable, UpstreamUnavailable
from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.keys import Key
from tokenhub_proxy.ledger import Ending, Hold
from tokenhub_proxy.prices import Usage

KEY = Key("key_1", "laptop", "main", b"digest")


def exchange(**fields: Any) -> Exchange:
    return noted(Exchange("req_1", "chat", started_at=1000.0, started_s=50.0), **fields)


def hold(amount: int = 100, ending: Ending | None = None) -> Hold:
    return Hold("req_1", KEY, "m", amount, 1000.0, ending=ending)


def test_times_are_told_in_milliseconds_from_the_request() -> None:
    served = exchange(first_byte_s=50.1234, ended_s=52.5)
    assert served.ending(True, 1002.5).first_byte_ms == 123
    assert served.duration_s == 2.5
    assert exchange().ending(False, 1002.5).first_byte_ms is None


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 0),
        ({"status": 200}, 200),
        ({"error": InvalidApiKey("unknown")}, 401),
        ({"status": 200, "error": UpstreamUnavailable(kind="reset_read")}, 200),
        ({"gone": "ttfb"}, 499),
        ({"status": 200, "gone": "stream"}, 499),
    ],
)
def test_the_told_status_is_what_the_client_saw_or_that_it_had_gone(fields: Any, status: int) -> None:
    assert exchange(**fields).told_status == status


@pytest.mark.parametrize(
    ("fields", "phase"),
    [
        ({}, "read"),
        ({"hold": hold()}, "held"),
        ({"hold": hold(), "upstream": "up"}, "ttfb"),
        ({"hold": hold(), "upstream": "up", "first_byte_s": 51.0}, "stream"),
    ],
)
def test_the_phase_is_how_far_the_call_has_come(fields: Any, phase: str) -> None:
    assert exchange(**fields).phase == phase


@pytest.mark.parametrize(
    ("held", "reported", "billing"),
    [
        (None, True, "none"),
        (hold(), True, "none"),
        (hold(ending=Ending("released", 1.0)), True, "void"),
        (hold(ending=Ending("settled", 1.0)), True, "usage"),
        (hold(ending=Ending("settled", 1.0)), False, "estimate"),
    ],
)
def test_the_billing_says_how_the_call_was_paid(held: Hold | None, reported: bool, billing: str) -> None:
    assert exchange(hold=held, usage=Usage(output=1, reported=reported)).billing == billing


def test_the_charge_is_the_cost_but_never_more_than_the_hold() -> None:
    assert exchange(hold=hold(100), cost=60).charge == 60
    assert exchange(hold=hold(100), cost=101).charge == 100
    assert exchange(cost=60).charge == 0


def test_what_was_produced_is_settled_at_its_full_cost() -> None:
    usage = Usage(input=3, output=4, reported=True)
    served = exchange(
        hold=hold(),
        usage=usage,
        cost=7,
        status=200,
        upstream="up",
        attempts=["a:500", "up:200"],
        first_byte_s=50.01,
    )
    assert served.ending(produced=True, now=1002.0) == Ending(
        status="settled",
        at=1002.0,
        cost=7,
        usage=usage,
        upstream="up",
        http_status=200,
        first_byte_ms=10,
        attempts=("a:500", "up:200"),
    )


def test_where_nothing_was_produced_nothing_is_charged() -> None:
    failed = exchange(hold=hold(), usage=Usage(output=9), cost=7, error=UpstreamUnavailable(kind="refused"))
    ending = failed.ending(produced=False, now=1002.0)
    assert (ending.status, ending.cost, ending.usage) == ("released", 0, Usage())
    assert (ending.http_status, ending.reason) == (502, "refused")


@pytest.mark.parametrize(
    ("fields", "reason", "status"),
    [
        ({"gone": "stream", "error": UpstreamUnavailable(kind="idle")}, "stream", 499),
        ({"error": LedgerUnavailable("")}, "ledger_unavailable", 503),
        ({}, "", 0),
    ],
)
def test_the_ending_says_why(fields: Any, reason: str, status: int) -> None:
    ending = exchange(hold=hold(), **fields).ending(produced=False, now=1.0)
    assert (ending.reason, ending.http_status) == (reason, status)
