"""Bars and lines as numbers for an SVG: whole units, so that a page is the same on every machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 180
GAP = 3
# A chart tells so many series apart; the rest is one more, called the others.
SERIES_MAX = 5
STEPS = (1, 2, 4, 6, 8, 10, 12, 16, 20, 24, 30, 40, 50, 60, 80, 100)


@dataclass(frozen=True, slots=True)
class Piece:
    """A rectangle: a series' part of a bar."""

    series: int
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A day: what it is called, how much it is, and its pieces from the bottom up."""

    at: float
    x: int
    width: int
    total: int
    parts: tuple[tuple[str, int], ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """Stacked bars, the names of their series, and the lines of the scale with their heights."""

    bars: tuple[Bar, ...]
    series: tuple[str, ...]
    scale: tuple[tuple[int, int], ...]
    total: int


def stacked(days: Sequence[float], found: Mapping[float, Mapping[str, int]], others: str) -> Stack:
    """Bars of amounts by day and name; the names that matter most have a colour of their own."""
    sums: dict[str, int] = {}
    for parts in found.values():
        for name, amount in parts.items():
            sums[name] = sums.get(name, 0) + amount
    ranked = sorted((name for name in sums if sums[name]), key=lambda name: (-sums[name], name))
    series = ranked if len(ranked) <= SERIES_MAX + 1 else [*ranked[:SERIES_MAX], others]
    top = ceiling(max((sum(parts.values()) for parts in found.values()), default=0))
    step = WIDTH // max(1, len(days))
    bars = []
    for number, day in enumerate(days):
        amounts = [0] * len(series)
        for name, amount in found.get(day, {}).items():
            if amount:
                amounts[series.index(name) if name in series else len(series) - 1] += amount
        x = (WIDTH - step * len(days)) // 2 + number * step
        bars.append(_bar(day, x, max(1, step - GAP), amounts, series, top))
    scale = tuple((top * part // 4, HEIGHT - HEIGHT * part // 4) for part in (0, 2, 4)) if top else ()
    return Stack(tuple(bars), tuple(series), scale, sum(sums.values()))


def _bar(day: float, x: int, width: int, amounts: Sequence[int], series: Sequence[str], top: int) -> Bar:
    pieces, below = [], 0
    for number, amount in enumerate(amounts):
        low, high = HEIGHT * below // top if top else 0, HEIGHT * (below + amount) // top if top else 0
        if high > low:
            pieces.append(Piece(number, x, HEIGHT - high, width, high - low))
        below += amount
    parts = tuple((name, amount) for name, amount in zip(series, amounts, strict=True) if amount)
    return Bar(day, x, width, below, parts, tuple(pieces))


def ceiling(amount: int) -> int:
    """A number not below an amount that is round, and so is its half: 12, 16, 20, 24, … and zeros."""
    if amount <= 0:
        return 0
    # Tenths of the power of ten below the amount, which for a nanodollar or two are none.
    unit = int("1".ljust(len(str(amount)) - 1, "0"))
    return next(unit * step for step in STEPS if unit * step >= amount)
