"""Sums of money: exact both ways, rounded up once, and rates as the Central Bank tells them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenhub_proxy.payments.amounts import (
    PLACES,
    format_millionths,
    format_minor,
    parse_millionths,
    parse_minor,
    quote,
)
from tokenhub_proxy.payments.rates import parse_daily, with_markup

NOW = 1_795_341_600.0  # 2026-11-22
DAILY = (
    '<?xml version="1.0" encoding="windows-1251"?><ValCurs Date="21.11.2026" name="Foreign Currency Market">'
    '<Valute ID="R01820"><NumCode>392</NumCode><CharCode>JPY</CharCode><Nominal>100</Nominal>'
    "<Name>Иен</Name><Value>60,5</Value></Valute>"
    '<Valute ID="R01235"><NumCode>840</NumCode><CharCode>USD</CharCode><Nominal>1</Nominal>'
    "<Name>Доллар США</Name><Value>81,1234</Value><VunitRate>81,1234</VunitRate></Valute></ValCurs>"
).encode("windows-1251")


@given(st.integers(0, 10**14), st.sampled_from(sorted(PLACES)))
@settings(deadline=None)
def test_a_sum_reads_back_as_it_was_written(amount: int, currency: str) -> None:
    assert parse_minor(format_minor(amount, currency), currency) == amount


@pytest.mark.parametrize("text", ["", "1e2", "-1", "+1", "1,00", " 1", "1.001", "٣", 1.0, 5, None, "1" * 16])
def test_what_is_no_plain_sum_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"no sum|finer"):
        parse_minor(text, "RUB")


def test_no_sum_is_larger_than_the_books_can_hold() -> None:
    with pytest.raises(ValueError, match="more money"):
        parse_minor("9" * 15, "USDT")


def test_a_currency_that_nobody_orders_in_is_worth_nothing() -> None:
    assert parse_minor("10.123456789", "TON") == 0


def test_zeros_at_the_end_are_no_finer() -> None:
    assert parse_minor("10.500000", "USD") == 1050


@given(st.integers(1, 10**15), st.integers(1, 10**9), st.integers(0, 500_000))
@settings(deadline=None)
def test_a_price_is_never_below_its_worth_and_less_than_two_units_above(
    nanos: int, rate: int, fee: int
) -> None:
    made = quote(nanos, "RUB", rate, fee)
    exact = Fraction(nanos, 10**9) * Fraction(rate, 10**6) * 100
    assert exact <= made.amount - made.fee < exact + 1
    assert 0 <= made.fee - Fraction((made.amount - made.fee) * fee, 10**6) < 1


def test_ten_dollars_are_what_they_are() -> None:
    assert quote(10 * 10**9, "USD", None, 0).amount == 1000
    assert quote(10 * 10**9, "USDT", None, 0).amount == 10_000_000
    made = quote(10 * 10**9, "RUB", parse_millionths("81.1234"), parse_millionths("0.035"))
    assert (made.amount, made.fee) == (81124 + 2840, 2840)


@given(st.integers(0, 10**12))
@settings(deadline=None)
def test_a_rate_reads_back_as_it_was_written(number: int) -> None:
    assert parse_millionths(format_millionths(number)) == number


def test_the_dollar_is_found_in_the_daily_file() -> None:
    assert parse_daily(DAILY, NOW) == 81_123_400
    assert with_markup(81_123_400, 20_000) == 82_745_868
    hundred = DAILY.replace(b"<Nominal>1</Nominal>", b"<Nominal>100</Nominal>")
    assert parse_daily(hundred, NOW) == 811_234


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"<html>", "not the Central Bank"),
        (DAILY.replace(b"21.11.2026", b"21.10.2026"), "2026-10-21"),
        (DAILY.replace(b"21.11.2026", b"31.02.2026"), "day is out of range"),
        (DAILY.replace(b"USD", b"EUR"), "no rate"),
        (DAILY.replace(b"81,1234</Value>", b"0,0</Value>"), "no rate"),
        (DAILY + b" " * 2**18, "not the Central Bank"),
    ],
)
def test_a_file_that_is_old_or_something_else_is_refused(body: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_daily(body, NOW)
