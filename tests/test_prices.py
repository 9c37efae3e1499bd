"""Money: integer nanodollars, rounded up once, read and written as decimal text."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tokenhub_proxy.prices import (
    NANOS_MAX,
    NANOS_PER_USD,
    Price,
    Usage,
    estimate_tokens,
    format_usd,
    format_usd_per_token,
    parse_usd,
)

nanos_per_million = st.integers(0, 10**15)
tokens = st.integers(0, 2**53)
prices = st.builds(Price, nanos_per_million, nanos_per_million, nanos_per_million, nanos_per_million)
usages = st.builds(Usage, tokens, tokens, tokens, tokens)


def test_a_cost_is_known_to_the_nanodollar() -> None:
    price = Price(
        input=parse_usd("3.00"),
        cached=parse_usd("0.30"),
        cache_write=parse_usd("3.75"),
        output=parse_usd("15.00"),
    )
    usage = Usage(input=1_000, cached=2_000, cache_write=400, output=500)
    # 0.003 + 0.0006 + 0.0015 + 0.0075 USD
    assert price.cost(usage) == 12_600_000


def test_a_fraction_of_a_nanodollar_is_rounded_up_once_not_per_class() -> None:
    price = Price(input=1, cached=1, cache_write=1, output=1)
    assert price.cost(Usage(input=1, cached=1, cache_write=1, output=1)) == 1
    assert price.cost(Usage()) == 0


def test_reasoning_is_output_and_not_billed_again() -> None:
    price = Price(output=10**6)
    assert price.cost(Usage(output=10, reasoning=8)) == price.cost(Usage(output=10)) == 10


@given(prices, usages)
def test_the_cost_is_the_exact_sum_rounded_up(price: Price, usage: Usage) -> None:
    exact = sum(
        (
            Fraction(count * each, 10**6)
            for count, each in (
                (usage.input, price.input),
                (usage.cached, price.cached),
                (usage.cache_write, price.cache_write),
                (usage.output, price.output),
            )
        ),
        Fraction(),
    )
    assert price.cost(usage) == math.ceil(exact)


@given(prices, usages, tokens, tokens)
def test_no_usage_within_the_bounds_costs_more_than_the_ceiling(
    price: Price, usage: Usage, input_more: int, output_more: int
) -> None:
    ceiling = price.ceiling(usage.input_total + input_more, usage.output + output_more)
    assert price.cost(usage) <= ceiling


@given(prices, tokens, tokens)
def test_some_usage_within_the_bounds_costs_exactly_the_ceiling(
    price: Price, input_max: int, output_max: int
) -> None:
    dearest = [
        Usage(input=input_max, output=output_max),
        Usage(cached=input_max, output=output_max),
        Usage(cache_write=input_max, output=output_max),
    ]
    assert max(price.cost(usage) for usage in dearest) == price.ceiling(input_max, output_max)


@given(prices, tokens, st.integers(-(10**18), NANOS_MAX))
def test_the_affordable_output_is_the_largest_that_fits(price: Price, input_max: int, nanos: int) -> None:
    assume(price.output > 0)
    affordable = price.affordable_output(input_max, nanos)
    assert affordable is not None
    assert affordable >= 0
    assert price.ceiling(input_max, affordable + 1) > nanos
    assert affordable == 0 or price.ceiling(input_max, affordable) <= nanos


def test_free_output_has_no_affordable_limit() -> None:
    assert Price(input=5).affordable_output(10, 0) is None


@pytest.mark.parametrize("name", ["input", "cached", "cache_write", "output"])
def test_only_a_price_of_nothing_is_free(name: str) -> None:
    assert Price().free
    assert not Price(**{name: 1}).free


def test_the_classes_of_usage_add_up() -> None:
    usage = Usage(input=1, cached=20, cache_write=300, output=4000, reasoning=1000)
    assert usage.input_total == 321
    assert usage.total == 4321


def test_an_estimate_is_a_quarter_of_the_bytes_rounded_up() -> None:
    assert [estimate_tokens(length) for length in (0, 1, 4, 5, 8)] == [0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("3.00", 3_000_000_000),
        ("0.0375", 37_500_000),
        (" 20 ", 20_000_000_000),
        ("0", 0),
        ("-0.00", 0),
        ("+1", 1_000_000_000),
        (".5", 500_000_000),
        ("5.", 5_000_000_000),
        ("0.000000001", 1),
        ("0.0000000010000", 1),
        ("0" * 5000 + "1", 1_000_000_000),
        ("9000000000", NANOS_MAX),
    ],
)
def test_a_decimal_text_is_read_exactly(text: str, nanos: int) -> None:
    assert parse_usd(text) == nanos


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a plain decimal number"),
        (".", "not a plain decimal number"),
        ("abc", "not a plain decimal number"),
        ("NaN", "not a plain decimal number"),
        ("Infinity", "not a plain decimal number"),
        ("1e3", "not a plain decimal number"),
        ("1_000", "not a plain decimal number"),
        ("1,5", "not a plain decimal number"),
        ("0x10", "not a plain decimal number"),
        ("$5", "not a plain decimal number"),
        ("１.00", "not a plain decimal number"),
        ("1.0\n0", "not a plain decimal number"),
        ("-1", "negative"),
        ("-0.000000001", "negative"),
        ("0.0000000001", "finer than a nanodollar"),
        # Decimal's own context would have rounded this one to a whole number.
        ("1." + "0" * 40 + "1", "finer than a nanodollar"),
        ("9000000000.000000001", "more than 9000000000 USD"),
        ("1" + "0" * 5000, "more than 9000000000 USD"),
    ],
)
def test_what_is_no_exact_amount_is_refused_with_its_reason(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_usd(text)


@given(st.text(alphabet="0123456789.+-eE_ \t", max_size=40))
def test_whatever_is_read_is_what_decimal_arithmetic_reads(text: str) -> None:
    try:
        nanos = parse_usd(text)
    except ValueError:
        return
    assert Fraction(Decimal(text.strip())) * NANOS_PER_USD == nanos


@given(st.integers(0, NANOS_MAX))
def test_an_amount_survives_being_written_and_read(nanos: int) -> None:
    assert parse_usd(format_usd(nanos)) == nanos


@given(st.integers(-NANOS_MAX, NANOS_MAX))
def test_an_amount_is_written_with_two_decimals_or_more_and_no_exponent(nanos: int) -> None:
    text = format_usd(nanos)
    whole, point, part = text.partition(".")
    assert Fraction(Decimal(text)) == Fraction(nanos, NANOS_PER_USD)
    assert point == "."
    assert 2 <= len(part) <= 9
    assert whole.removeprefix("-").isdigit()
    assert part.isdigit()


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "0.00"), (1, "0.000000001"), (-1_500_000_000, "-1.50"), (20_000_000_000, "20.00")],
)
def test_amounts_look_as_people_write_them(nanos: int, text: str) -> None:
    assert format_usd(nanos) == text


@given(st.integers(0, NANOS_MAX))
def test_a_price_per_token_is_exact_and_has_no_exponent(nanos: int) -> None:
    text = format_usd_per_token(nanos)
    assert Fraction(Decimal(text)) == Fraction(nanos, 10**15)
    assert set(text) <= set("0123456789.")
    assert not text.endswith((".", "0")) or "." not in text


def test_prices_per_token_look_as_people_write_them() -> None:
    assert format_usd_per_token(parse_usd("3.00")) == "0.000003"
    assert format_usd_per_token(parse_usd("0.0375")) == "0.0000000375"
    assert format_usd_per_token(0) == "0"
