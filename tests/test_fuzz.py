"""Whatever bytes come from clients and upstreams, they are understood or refused, and quickly."""

from __future__ import annotations

import time

import pytest

from tests import fuzz
from tokenhub_proxy import calls, sse

# One ending of each target that only an input gets which came through whole.
REACHED = (
    "splitter: events",
    "frames: frames",
    "request: sent",
    "reply: finished",
    "inflated: finished",
    "vectors: finished",
)


def judge(tally: fuzz.Tally, inputs: int) -> None:
    assert tally.findings == ()
    assert tally.ended.total() == inputs
    # Inputs that are all refused at the door would prove nothing of what is behind it.
    assert all(tally.ended[name] > inputs / 1000 for name in REACHED), tally.ended


def test_six_thousand_damaged_inputs_raise_nothing_but_refusals() -> None:
    judge(fuzz.run(range(6_000)), 6_000)


@pytest.mark.long
def test_a_million_damaged_inputs_raise_nothing_but_refusals() -> None:
    starts_at = time.monotonic()
    tally = fuzz.run_all(1_000_000)
    print("\n" + fuzz.table(tally, time.monotonic() - starts_at))
    judge(tally, 1_000_000)


def test_an_exception_that_is_no_refusal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KeyError("choices")

    monkeypatch.setattr(calls, "parse", fails)
    assert "request" in fuzz.run(range(100)).findings[0]


def test_an_input_that_takes_too_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(*_: object) -> None:
        while True:
            pass

    monkeypatch.setattr(sse, "data", hangs)
    monkeypatch.setattr(fuzz, "INPUT_S_MAX", 0.05)
    monkeypatch.setattr(fuzz, "FINDINGS_MAX", 1)
    assert "TooSlow" in fuzz.run(range(100)).findings[0]


def test_an_event_that_depends_on_where_it_was_cut_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse.Splitter, "feed", lambda self, data: [data])
    assert "splitter" in fuzz.run(range(15)).findings[0]
