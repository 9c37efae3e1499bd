"""Sums of money in minor units, and how they follow from nanodollars: integers from end to end."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenhub_proxy.prices import NANOS_MAX

NANOS_PLACES = 9
# A rate is millionths of a currency for one USD, a fee is millionths of the price.
MILLION = 10**6
# How many decimals the minor unit of a currency has.
PLACES = {"RUB": 2, "USD": 2, "EUR": 2, "USDT": 6}
# Longer texts are no sum of money.
_DECIMAL = re.compile(r"([0-9]{1,15})(?:\.([0-9]{0,18}))?")


def parse_minor(text: object, currency: str) -> int:
    """Minor units of a decimal text such as "100.00". Raises ValueError; nothing is rounded."""
    found = _DECIMAL.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError("no sum of money")
    if currency not in PLACES:
        # Nobody orders in it: it is compared by its name, and never credited.
        return 0
    places = PLACES[currency]
    part = (found[2] or "").rstrip("0")
    if len(part) > places:
        raise ValueError("finer than the currency")
    amount = int(found[1] + part.ljust(places, "0"))
    if amount > NANOS_MAX:
        raise ValueError("more money than there is")
    return amount


def format_minor(amount: int, currency: str) -> str:
    """A decimal text of minor units with all its places: 10000 RUB is "100.00"."""
    places = PLACES[currency]
    whole, part = divmod(amount, 10**places)
    return f"{whole}.{part:0{places}d}"


def parse_millionths(text: str) -> int:
    """Millionths of a decimal text such as "95.25". Raises ValueError."""
    found = _DECIMAL.fullmatch(text.strip())
    part = (found[2] or "").rstrip("0") if found is not None else ""
    if found is None or len(part) > 6:
        raise ValueError("must be a decimal number with at most 6 decimals, such as 95.25")
    return int(found[1] + part.ljust(6, "0"))


def format_millionths(number: int) -> str:
    """A decimal text of millionths, without zeros at its end."""
    whole, part = divmod(number, MILLION)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True)
class Quote:
    """What a top-up costs: `amount` minor units, of which `fee` is the fee."""

    amount: int
    fee: int
    currency: str
    rate: int | None


def quote(nanos: int, currency: str, rate: int | None, fee_millionths: int) -> Quote:
    """The price of so many nanodollars, rounded up to a minor unit, and its fee likewise.

    `rate` is None where a unit of the currency is one USD.
    """
    scale = 10**NANOS_PLACES * MILLION
    price = -(-nanos * (rate or MILLION) * 10 ** PLACES[currency] // scale)
    fee = -(-price * fee_millionths // MILLION)
    return Quote(price + fee, fee, currency, rate)
