"""Many streams for a while: the memory stays, every byte arrives, and the books add up."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tests.firehose import FILES_PER_STREAM
from tests.soak import Found, Plan, soak

KIB_PER_STREAM_MAX = 64
GROWTH_KIB_MAX = 1024
# Of the least-squares line of a few seconds; below it, what an allocator does now and then.
MINUTES_MIN = 1.0


@pytest.mark.parametrize(
    "plan",
    [
        Plan(streams=100, rate=10, seconds=5, settle_s=1),
        pytest.param(Plan(streams=2000, rate=5, seconds=600, settle_s=120), marks=pytest.mark.long),
    ],
    ids=lambda plan: f"{plan.streams} streams",
)
def test_streams_neither_grow_nor_change_nor_cost_another_price(tmp_path: Path, plan: Plan) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < plan.streams * FILES_PER_STREAM:
        pytest.skip(f"only {hard} files may be open here")

    found = soak(tmp_path, plan)

    print("\n" + found.table())
    assert found.wrong == []
    assert found.differences == ""
    assert list(found.endings) == found.expected_endings
    assert found.kib_per_stream < KIB_PER_STREAM_MAX
    assert found.slope_kib_per_minute * min(1.0, found.measured_s / 60) < GROWTH_KIB_MAX


def test_a_slope_is_found_among_noise() -> None:
    """Two MiB a minute, half a MiB up and down."""
    samples = [(second, 50_000 + second * 2048 // 60 + 512 * (second % 2)) for second in range(480)]
    found = Found(Plan(1, 1, 1, 1), 0, samples, 0.0, [], "", [])

    assert found.slope_kib_per_minute == pytest.approx(2048, rel=0.02)
