"""The Central Bank of Russia's daily file: rubles for one dollar.

Its form: https://www.cbr.ru/development/SXML/ (XML in windows-1251, sums with a comma).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from tokenhub_proxy.payments.amounts import MILLION, parse_millionths

# Rates are set on working days; the longest holidays have ten days.
STALE_S = 15 * 86_400.0
# The file is of the next day already in the afternoon, Moscow time.
AHEAD_S = 3 * 86_400.0
# The whole file has 10 KB. (Regular expressions, because an XML parser follows entities.)
FILE_BYTES_MAX = 2**18

_DATE = re.compile(rb'<ValCurs\b[^>]{0,200}\bDate="(\d\d)[./](\d\d)[./](\d{4})"')
_CURRENCY = re.compile(rb"<Valute\b[^>]{0,100}>(.{0,2000}?)</Valute>", re.DOTALL)
_CODE = re.compile(rb"<CharCode>\s*USD\s*</CharCode>")
_NOMINAL = re.compile(rb"<Nominal>\s*(\d{1,6})\s*</Nominal>")
_VALUE = re.compile(rb"<Value>\s*(\d{1,7}),(\d{1,6})\s*</Value>")


def parse_daily(body: bytes, now: float) -> int:
    """Millionths of a ruble for one USD. Raises ValueError for what is no such file, or an old one."""
    date = _DATE.search(body)
    if date is None or len(body) > FILE_BYTES_MAX:
        raise ValueError("this is not the Central Bank's daily file")
    day, month, year = map(int, date.groups())
    at = datetime(year, month, day, tzinfo=UTC).timestamp()
    if not now - STALE_S <= at <= now + AHEAD_S:
        raise ValueError(f"the Central Bank's file is of {year}-{month:02d}-{day:02d}")
    for currency in _CURRENCY.findall(body):
        if _CODE.search(currency) is None:
            continue
        nominal, value = _NOMINAL.search(currency), _VALUE.search(currency)
        if nominal is None or value is None or int(nominal[1]) == 0:
            break
        rate = parse_millionths(f"{value[1].decode()}.{value[2].decode()}") // int(nominal[1])
        if rate > 0:
            return rate
        break
    raise ValueError("the Central Bank's file has no rate of the dollar")


def with_markup(rate: int, markup_millionths: int) -> int:
    """The rate that a client pays, rounded up."""
    return -(-rate * (MILLION + markup_millionths) // MILLION)
