"""The heartbeat: jumps of the wall clock and lateness of the loop are told, and nothing else is."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.conftest import Serve
from tests.test_clock import DAY_S, Wall
from tokenhub_proxy import pulse
from tokenhub_proxy.pulse import BEAT_S, JUMP_S, LATE_S, Pulse


class Clocks:
    """A wall clock and a steady one, moved by hand."""

    def __init__(self) -> None:
        self.wall_s, self.steady_s = 1e9, 50.0
        self.pulse = Pulse(lambda: self.wall_s, lambda: self.steady_s)

    def beat(self, *, wall_s: float = BEAT_S, steady_s: float = BEAT_S) -> None:
        self.wall_s += wall_s
        self.steady_s += steady_s
        self.pulse.beat()


def test_beats_in_time_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    for drift_s in (0.0, 0.3, -0.3, JUMP_S - BEAT_S - 0.01):
        clocks.beat(wall_s=BEAT_S + drift_s)
    clocks.beat(wall_s=BEAT_S + LATE_S - 0.01, steady_s=BEAT_S + LATE_S - 0.01)
    assert caplog.messages == []


@pytest.mark.parametrize(("jump_s", "told"), [(86_400.0, "+86400.0"), (-3600.0, "-3600.0")])
def test_a_jump_of_the_wall_clock_is_told_once(
    caplog: pytest.LogCaptureFixture, jump_s: float, told: str
) -> None:
    clocks = Clocks()
    clocks.beat(wall_s=BEAT_S + jump_s)
    clocks.beat()
    assert caplog.messages == [f"clock_jump by_s={told}"]


def test_a_late_loop_is_told_once_for_a_row_of_late_beats(caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    for late_s in (0.75, 2.0, 0.0, 0.75):
        clocks.beat(wall_s=BEAT_S + late_s, steady_s=BEAT_S + late_s)
    assert caplog.messages == ["overload loop_lag_ms=750", "overload loop_lag_ms=750"]


async def test_a_running_proxy_has_a_pulse_until_it_stops(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "BEAT_S", 0.02)
    wall = Wall()
    running = await serve("models: {}", clock=wall)
    beating = running.proxy._keeping

    wall.jump(DAY_S)
    deadline = time.monotonic() + 5
    while "clock_jump" not in caplog.text and time.monotonic() < deadline:
        await asyncio.sleep(0.01)

    assert "clock_jump by_s=+86400.0" in caplog.messages
    await running.proxy.stop(drain_s=0.0)
    assert all(task.cancelled() for task in beating)
