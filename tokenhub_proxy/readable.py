"""Figures and words as people read them on a terminal: short, of few widths, and harmless."""

from __future__ import annotations

from tokenhub_proxy.prices import NANOS_PER_USD


def duration(seconds: float) -> str:
    """A time in at most six characters: "310ms", "1.24s", "12.3s", "2m05s", "3h20m", "12d03h"."""
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f}ms"
    if seconds < 9.995:
        return f"{seconds:.2f}s"
    if seconds < 99.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 48 else f"{hours // 24}d{hours % 24:02}h"


def count(number: int) -> str:
    """A number in at most five characters: "9999", "12.3k", "4.56M"."""
    if number < 10_000:
        return str(number)
    in_unit = float(number)
    for unit in "kMGT":
        in_unit /= 1000
        if in_unit < 99.95:
            return f"{in_unit:.3g}{unit}"
        if in_unit < 999.5:
            return f"{in_unit:.0f}{unit}"
    return "many"


def size(length: float) -> str:
    """Bytes in at most eight characters: "812 B", "1.5 KiB", "48.9 MiB"."""
    if length < 1024:
        return f"{length:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        length /= 1024
        if length < 1000 or unit == "GiB":
            return f"{length:.1f} {unit}"
    raise AssertionError("the last unit takes all")


def dollars(nanos: int) -> str:
    """An amount with six decimals, which line up; what is less than half of the last one says so."""
    if 0 < nanos < 500:
        return "<$0.000001"
    micros = (nanos + 500) // 1000
    whole, part = divmod(micros, NANOS_PER_USD // 1000)
    return f"${whole}.{part:06}"


def printable(text: str) -> str:
    """A text that moves no cursor and turns no line around, whoever wrote it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def fitted(text: str, width: int) -> str:
    """A text of exactly this width; what is too long ends in an ellipsis."""
    return text.ljust(width) if len(text) <= width else text[: max(0, width - 1)] + "…"
