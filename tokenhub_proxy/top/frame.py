"""One frame of `top`: snapshots in, lines of a given size out. No clock, no terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tokenhub_proxy.prices import parse_usd
from tokenhub_proxy.readable import count, dollars, duration, fitted, printable, size
from tokenhub_proxy.top.pace import Pace

# Select Graphic Rendition: how a span is shown where colours are.
PLAIN, BOLD, DIM, REVERSE, RED, GREEN, YELLOW, CYAN = "", "1", "2", "7", "31", "32", "33", "36"

Span = tuple[str, str]  # the text, and how it is shown
Line = Sequence[Span]

SORTS = ("age", "tokens", "key", "model", "upstream")
# A loop that is later than the first is worth a look; than the second, streams stutter.
LAG_WARNING_S, LAG_BAD_S = 0.05, 0.25
# From here on there is room for more columns.
WIDE = 100
KEYS = "q quit   space pause   s sort"


def frame(
    pace: Pace, width: int, height: int, *, sort: str = "age", paused: bool = False, trouble: str = ""
) -> list[Line]:
    """At most `height` lines, each of at most `width` columns, from the newest snapshot.

    `trouble` stands in the place of the keys: the proxy does not answer.
    """
    now = pace.now
    lines: list[Line] = [_title(now), *_traffic(pace), _process(pace), ()]
    lines += _upstreams(pace, width, max(3, (height - 8) // 2))
    errors = pace.errors()
    if errors:
        said = ", ".join(f"{code} {number}" for code, number in errors.items())
        lines.append(
            (("errors    ", BOLD), (f"{said}", YELLOW), (f"  (last {duration(pace.window_s)})", DIM))
        )
    lines.append(())
    room = height - len(lines) - 2
    lines += _flying(now, width, room, sort)
    lines = lines[: height - 1]
    lines += [()] * (height - 1 - len(lines))
    state = f"{KEYS}: {sort}" + ("   paused" if paused else "")
    lines.append(((trouble, RED) if trouble else (state, DIM),))
    return [clipped(line, width) for line in lines]


def _title(now: Mapping[str, Any]) -> Line:
    spans = [
        (f"tokenhub-proxy {now['version']}", BOLD),
        (f"  {now['base_url']}  up {duration(now['at'] - now['started_at'])}  ", PLAIN),
        (f"{datetime.fromtimestamp(now['at'], UTC):%H:%M:%S}Z", DIM),
    ]
    if now["draining"]:
        spans.append(("  draining", YELLOW))
    return spans


def _traffic(pace: Pace) -> Iterator[Line]:
    now, failures = pace.now, pace.a_second("failures")
    begun = [pace.first_byte_s(fraction) for fraction in (0.5, 0.95)]
    first = " ".join(
        f"{name} {'-' if found is None else duration(found)}"
        for name, found in zip(("p50", "p95"), begun, strict=True)
    )
    yield (
        ("requests  ", BOLD),
        (f"{pace.a_second('requests'):.1f}/s", PLAIN),
        (f"  failed {failures:.1f}/s", RED if failures > 0 else PLAIN),
        (f"  in flight {now['in_flight']}  first byte {first}", PLAIN),
    )
    tokens = [count(round(pace.a_second("tokens", each))) for each in ("input", "output")]
    yield (
        ("tokens    ", BOLD),
        (f"{tokens[0]}/s in  {tokens[1]}/s out", PLAIN),
        ("   spend ", BOLD),
        (f"{dollars(pace.nanos_a_minute())}/min  today {dollars(parse_usd(now['spend_today_usd']))}", PLAIN),
    )


def _process(pace: Pace) -> Line:
    now, figures, lag_s = pace.now, pace.now["process"], pace.now["loop_lag_s"]
    holds, reason = now["holds"], now["ledger"]
    shown = PLAIN if lag_s < LAG_WARNING_S else YELLOW if lag_s < LAG_BAD_S else RED
    ledger = f"ledger {'ok' if reason is None else printable(reason)}"
    return (
        ("process   ", BOLD),
        (f"lag {duration(lag_s)}", shown),
        (f"  {size(figures.get('process_resident_memory_bytes', 0))}", PLAIN),
        (f"  cpu {pace.cpu_share() * 100:.0f}%  files {figures.get('process_open_fds', 0):.0f}   ", PLAIN),
        (ledger, PLAIN if reason is None else RED),
        (f"  {holds['open']} holds {dollars(parse_usd(holds['held_usd']))}", PLAIN),
    )


def _upstreams(pace: Pace, width: int, most: int) -> Iterator[Line]:
    """The busiest, in a table of so many lines at most."""
    upstreams = pace.now["upstreams"]
    name_width = 14 if width < WIDE else 24
    yield ((f"{cells('UPSTREAM', name_width)}  ASKED/s  FAILED/s  IN FLIGHT  STATE", REVERSE),)
    ranked = sorted(upstreams, key=lambda one: (not one["open"], not one["cooling"], -one["asked"]))
    shown = ranked if len(ranked) < most else ranked[: most - 2]
    for one in shown:
        asked, failed = pace.upstream(one["name"])
        state, how = _state(one)
        yield (
            (f"{cells(one['name'], name_width)}  {asked:7.1f}  ", PLAIN),
            (f"{failed:8.1f}", RED if failed > 0 else PLAIN),
            (f"  {one['in_flight']:9}  ", PLAIN),
            (state, how),
        )
    if len(shown) < len(ranked):
        yield ((f"and {len(ranked) - len(shown)} more", DIM),)


def _state(one: Mapping[str, Any]) -> Span:
    said = [
        f"{printable(model)} off {duration(wait_s)}" if wait_s > 0 else f"{printable(model)} to be probed"
        for model, wait_s in one["open"].items()
    ]
    if one["cooling"]:
        said.append(f"{one['cooling']} of {one['credentials']} keys refused")
    if not said:
        return ("ok", GREEN) if one["asked"] else ("not asked yet", DIM)
    return ", ".join(said), RED if one["open"] else YELLOW


def _flying(now: Mapping[str, Any], width: int, room: int, sort: str) -> Iterator[Line]:
    wide = width >= WIDE
    where = max(16, width - (63 if wide else 51))
    head = (
        f"{'AGE':>6}  {'KEY':<12}  {'MODEL → UPSTREAM':<{where}}  {'PHASE':<6}  {'FIRST':>6}  {'TOKENS':>6}"
    )
    yield ((head + (f"  {'BYTES':>10}" if wide else ""), REVERSE),)
    flying = sorted(now["flying"], key=lambda one: _rank(one, sort))
    shown = flying if len(flying) <= room else flying[: room - 1]
    for one in shown:
        first = one["first_byte_s"]
        text = (
            f"{duration(one['age_s']):>6}  {cells(one['key'] or '-', 12)}  {cells(_where(one), where)}"
            f"  {one['phase']:<6}  {'' if first is None else duration(first):>6}"
            f"  {count(one['output_tokens']) if first is not None else '':>6}"
        )
        yield ((text + (f"  {size(one['bytes']):>10}" if wide else ""), PLAIN),)
    left = now["in_flight"] - len(shown)
    if left > 0:
        yield ((f"and {left} more", DIM),)
    elif not shown:
        yield (("nothing is in flight", DIM),)


def _where(one: Mapping[str, Any]) -> str:
    return " → ".join(filter(None, (one["model"], one["upstream"]))) or "-"


def _rank(one: Mapping[str, Any], sort: str) -> Any:
    age = -one["age_s"]
    if sort == "tokens":
        return -one["output_tokens"], age
    return (one[sort], age) if sort in ("key", "model", "upstream") else age


# --- columns


def cells(text: str, width: int) -> str:
    """A text of exactly so many columns; what takes two columns or none is a question mark."""
    plain = "".join("?" if _odd(character) else character for character in printable(text))
    return fitted(plain, width)


def _odd(character: str) -> bool:
    if character.isascii():
        return False
    return unicodedata.east_asian_width(character) in "WF" or bool(unicodedata.combining(character))


def clipped(line: Line, width: int) -> Line:
    """A line of at most so many columns."""
    kept: list[Span] = []
    for text, shown in line:
        if len(text) > width:
            kept.append((text[: max(0, width)], shown))
            break
        kept.append((text, shown))
        width -= len(text)
    return kept


def text_of(lines: Sequence[Line], *, coloured: bool = False) -> list[str]:
    """The lines as they are written."""
    return ["".join(_shown(span, coloured) for span in line) for line in lines]


def _shown(span: Span, coloured: bool) -> str:
    text, how = span
    return f"\x1b[{how}m{text}\x1b[0m" if coloured and how and text else text
