"""The words of each language: catalogues, plural forms, and how numbers, money and times are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

import orjson

from tokenhub_proxy.prices import NANOS_PER_USD

LANGUAGES = ("en", "ru")
NARROW_SPACE = "\u202f"
_MONTHS = {
    "en": ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
    "ru": ("янв", "фев", "мар", "апр", "мая", "июн", "июл", "авг", "сен", "окт", "ноя", "дек"),
}
_ACCEPTED = re.compile(r"\s*([A-Za-z]{1,8})(?:-[A-Za-z0-9-]*)?\s*(?:;\s*q=([01](?:\.\d{0,3})?))?\s*")


def _plural_en(n: int) -> str:
    return "one" if n == 1 else "many"


def _plural_ru(n: int) -> str:
    if n % 10 == 1 and n % 100 != 11:
        return "one"
    return "few" if n % 10 in (2, 3, 4) and n % 100 not in (12, 13, 14) else "many"


PLURALS: Mapping[str, Callable[[int], str]] = {"en": _plural_en, "ru": _plural_ru}


@cache
def catalogue(code: str) -> Mapping[str, Any]:
    """The texts of a language by their names; one that counts has a text for each plural form."""
    found = resources.files("tokenhub_proxy.dashboard").joinpath(f"catalogues/{code}.json")
    texts: Mapping[str, Any] = orjson.loads(found.read_bytes())
    return texts


def chosen(cookie: str, accepted: str) -> str:
    """The language of a request: by its cookie, else by Accept-Language, else English."""
    if cookie in LANGUAGES:
        return cookie
    wanted: list[tuple[float, str]] = []
    for part in accepted[:500].split(","):
        found = _ACCEPTED.fullmatch(part)
        if found is not None and found[1].lower() in LANGUAGES:
            wanted.append((-float(found[2] or 1), found[1].lower()))
    best = min(wanted, default=(0.0, "en"), key=lambda pair: pair[0])
    return best[1] if best[0] < 0 else "en"


@cache
def _refusals(code: str) -> Sequence[tuple[re.Pattern[str], str]]:
    """Refusals that have something in them: what they look like in English, and their names."""
    found = []
    for name in catalogue(code):
        if name.startswith("refused.") and "{" in name:
            form = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", re.escape(name.removeprefix("refused.")))
            found.append((re.compile(form, re.DOTALL), name))
    return found


class Words:
    """One language. Amounts are nanodollars, times seconds since 1970, shown in UTC."""

    def __init__(self, code: str) -> None:
        self.code = code
        self._texts = catalogue(code)

    def __call__(self, name: str, /, **values: Any) -> str:
        """A text, with the values in their places; `n` chooses the plural form."""
        text = self._texts[name]
        if isinstance(text, Mapping):
            text = text[PLURALS[self.code](abs(values["n"]))]
            values["n"] = self.number(values["n"])
        return str(text.format(**values)) if values else str(text)

    def has(self, name: str) -> bool:
        """Whether there is a text of this name."""
        return name in self._texts

    def error(self, code: str, message: str) -> str:
        """A refusal in this language, where there are words for it; else as it was said."""
        if self.has(f"refused.{message}"):
            return self(f"refused.{message}")
        for form, name in _refusals(self.code):
            found = form.fullmatch(message)
            if found is not None:
                values = found.groupdict()
                if self.has(f"keys.{values.get('limit')}"):
                    values["limit"] = self(f"keys.{values['limit']}")
                return self(name, **values)
        return message

    def number(self, n: int) -> str:
        """A whole number with its thousands apart."""
        text = f"{n:,}"
        return text if self.code == "en" else text.replace(",", NARROW_SPACE)

    def usd(self, nanos: int, places: int = 2) -> str:
        """An amount cut to so many decimals: what is told is never more than what is there."""
        sign, nanos = ("−" if nanos < 0 else ""), abs(nanos)
        whole, part = divmod(nanos, NANOS_PER_USD)
        decimals = f"{part:09d}"[:places]
        if self.code == "ru":
            return f"{sign}{self.number(whole)},{decimals}{NARROW_SPACE}$"
        return f"{sign}${self.number(whole)}.{decimals}"

    def cost(self, nanos: int) -> str:
        """The cost of one call, down to the micro-dollar."""
        return self.usd(nanos, 6)

    def sum(self, nanos: int) -> str:
        """A sum of costs: cents where there are some, micro-dollars where there are none."""
        return self.usd(nanos, 2 if nanos == 0 or abs(nanos) >= NANOS_PER_USD else 4)

    def price(self, nanos: int) -> str:
        """A price per million tokens, without zeros that say nothing."""
        text = self.usd(nanos, 9)
        body, tail = (
            (text, "") if self.code == "en" else (text.removesuffix(f"{NARROW_SPACE}$"), f"{NARROW_SPACE}$")
        )
        point = "." if self.code == "en" else ","
        whole, _, part = body.rpartition(point)
        return f"{whole}{point}{part.rstrip('0').ljust(2, '0')}{tail}"

    def share(self, part: int, whole: int) -> str:
        """A part in per cent, to a tenth."""
        tenths = 1000 * part // whole if whole else 0
        point = "." if self.code == "en" else ","
        return f"{tenths // 10}{point}{tenths % 10}{'' if self.code == 'en' else NARROW_SPACE}%"

    def decimal(self, text: str) -> str:
        """A decimal text such as "3.5" with this language's point."""
        return text if self.code == "en" else text.replace(".", ",")

    def date(self, at: float) -> str:
        """A day, as people write it."""
        day = datetime.fromtimestamp(at, UTC)
        if self.code == "ru":
            return f"{day.day} {_MONTHS['ru'][day.month - 1]} {day.year}"
        return f"{_MONTHS['en'][day.month - 1]} {day.day}, {day.year}"

    def day(self, at: float) -> str:
        """A day without its year."""
        day = datetime.fromtimestamp(at, UTC)
        month = _MONTHS[self.code][day.month - 1]
        return f"{day.day} {month}" if self.code == "ru" else f"{month} {day.day}"

    def time(self, at: float) -> str:
        """A moment to the second."""
        return f"{self.day(at)}, {datetime.fromtimestamp(at, UTC):%H:%M:%S}"

    def milliseconds(self, ms: int | None) -> str:
        """How long something took."""
        if ms is None:
            return "–"
        if ms < 1000:
            return self("unit.ms", count=ms)
        tenths = ms // 100
        point = "." if self.code == "en" else ","
        return self("unit.s", count=f"{tenths // 10}{point}{tenths % 10}")

    def mebibytes(self, size: int) -> str:
        """A size in MiB, to a tenth."""
        tenths = size * 10 // 2**20
        point = "." if self.code == "en" else ","
        return self("unit.mib", count=f"{self.number(tenths // 10)}{point}{tenths % 10}")
