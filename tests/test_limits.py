"""Limits: never more than admitted in any minute, and a wait that suffices, by a simulated clock."""

from __future__ import annotations

import random
from bisect import bisect_right
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenhub_proxy import limits
from tokenhub_proxy.errors import RateLimited
from tokenhub_proxy.keys import Scope
from tokenhub_proxy.limits import Limits, Window


def admitted(table: Limits, scope: Scope, tokens: int, now_s: float) -> bool:
    """One call that ends at once, having used what was counted."""
    try:
        with table.admit("key", scope, tokens, now_s) as admission:
            admission.used(min(tokens, scope.tokens_per_minute or tokens), now_s)
    except RateLimited:
        return False
    return True


def refusal(table: Limits, scope: Scope, tokens: int, now_s: float) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        table.admit("key", scope, tokens, now_s)
    return caught.value


def most_in_a_minute(times: list[float], amounts: list[int]) -> int:
    """The largest sum in any 60 seconds, both ends included, by prefix sums."""
    sums = [0, *accumulate(amounts)]
    return max((sums[bisect_right(times, at + 60.0)] - sums[i] for i, at in enumerate(times)), default=0)


def arrivals(count: int, seed: int) -> list[float]:
    """Times in bursts, pauses and steps that fall on the edges of windows."""
    source, now, times = random.Random(seed), 1000.0, []
    while len(times) < count:
        now += source.choice([0.0, 0.0, 0.001, 0.01, 0.1, 0.1, 0.3, 1.0, source.random(), 59.9, 60.0, 60.1])
        times += [now] * source.choice([1, 1, 1, 2, 5, 40])
    return times[:count]


def check_exactness(count: int) -> None:
    source, table = random.Random(7), Limits()
    scope = Scope(requests_per_minute=60, tokens_per_minute=5000)
    times: list[float] = []
    amounts: list[int] = []
    for now in arrivals(count, 8):
        tokens = source.choice([1, 10, 100, 500, 4000])
        if admitted(table, scope, tokens, now):
            times.append(now)
            amounts.append(tokens)
    assert most_in_a_minute(times, [1] * len(times)) == 60
    assert 4900 < most_in_a_minute(times, amounts) <= 5000
    assert len(times) > count // 20


def test_no_minute_admits_more_than_the_limits() -> None:
    check_exactness(100_000)


@pytest.mark.long
def test_no_minute_admits_more_than_the_limits_in_a_million_arrivals() -> None:
    check_exactness(1_000_000)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 12)), max_size=60), st.integers(1, 20))
def test_whatever_the_times_no_minute_admits_more(steps: list[tuple[float, int]], limit: int) -> None:
    table, scope, now = Limits(), Scope(tokens_per_minute=limit), 0.0
    times: list[float] = []
    amounts: list[int] = []
    for step, tokens in steps:
        now += step
        if admitted(table, scope, tokens, now):
            times.append(now)
            amounts.append(min(tokens, limit))
    assert most_in_a_minute(times, amounts) <= limit


@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 10)), min_size=1, max_size=40),
    st.floats(0, 1e7),
)
def test_who_waits_as_long_as_told_is_admitted(steps: list[tuple[float, int]], now: float) -> None:
    table, scope = Limits(), Scope(requests_per_minute=5, tokens_per_minute=20)
    for step, tokens in steps:
        now += step
        if not admitted(table, scope, tokens, now):
            wait_s = refusal(table, scope, tokens, now).retry_after_s
            assert wait_s is not None
            assert 0 < wait_s <= 60.2
            now += wait_s
            assert admitted(table, scope, tokens, now)


def test_nobody_waits_for_longer_than_needed() -> None:
    table, scope = Limits(), Scope(requests_per_minute=2)
    assert admitted(table, scope, 0, 0.0)
    assert admitted(table, scope, 0, 30.0)
    wait = refusal(table, scope, 0, 45.0).retry_after_s
    assert wait == pytest.approx(15.1, abs=0.01)
    assert not admitted(table, scope, 0, 60.0)
    assert admitted(table, scope, 0, 60.1)
    assert not admitted(table, scope, 0, 60.2)


def test_of_two_limits_the_longer_wait_is_told() -> None:
    table, scope = Limits(), Scope(requests_per_minute=2, tokens_per_minute=100)
    assert admitted(table, scope, 0, 0.0)
    assert admitted(table, scope, 100, 30.0)
    error = refusal(table, scope, 50, 40.0)
    assert error.reason == "tokens"
    assert error.retry_after_s == pytest.approx(50.1, abs=0.01)


def test_the_retry_header_is_a_whole_second_or_more() -> None:
    table, scope = Limits(), Scope(requests_per_minute=1, concurrent=1)
    assert admitted(table, scope, 0, 0.0)
    assert refusal(table, scope, 0, 60.05).headers()["Retry-After"] == "1"
    assert refusal(table, scope, 0, 0.5).headers()["Retry-After"] == "60"


def test_a_refused_call_counts_nothing() -> None:
    table, scope = Limits(), Scope(requests_per_minute=10, tokens_per_minute=100, concurrent=5)
    assert admitted(table, scope, 90, 0.0)
    for _ in range(20):
        assert not admitted(table, scope, 50, 1.0)
    assert table.standing("key", scope, 1.0)["x-ratelimit-remaining-requests"] == "9"
    assert admitted(table, scope, 10, 1.0)


# --- tokens


def test_the_tokens_that_were_used_replace_the_estimate() -> None:
    table, scope = Limits(), Scope(tokens_per_minute=1000)
    with table.admit("key", scope, 900, 0.0) as admission:
        assert not admitted(table, scope, 200, 0.1)
        admission.used(100, 5.0)
    assert admitted(table, scope, 900, 5.0)
    assert not admitted(table, scope, 1, 5.0)
    # What was amended counts from its own time: all of it has left together.
    assert admitted(table, scope, 100, 60.1)


def test_tokens_beyond_the_estimate_count_from_when_they_were_used() -> None:
    table, scope = Limits(), Scope(tokens_per_minute=1000)
    with table.admit("key", scope, 100, 0.0) as admission:
        admission.used(1000, 30.0)
    assert not admitted(table, scope, 101, 60.1)
    assert admitted(table, scope, 100, 60.1)
    assert admitted(table, scope, 900, 90.1)


def test_an_answer_longer_than_a_minute_amends_nothing_that_has_left() -> None:
    table, scope = Limits(), Scope(tokens_per_minute=1000)
    with table.admit("key", scope, 1000, 0.0) as admission:
        assert admitted(table, scope, 1000, 100.0)
        admission.used(10, 101.0)
    assert refusal(table, scope, 1, 101.0).headers()["x-ratelimit-remaining-tokens"] == "0"
    assert admitted(table, scope, 1000, 160.2)


def test_a_call_that_was_refused_further_on_took_no_tokens() -> None:
    table, scope = Limits(), Scope(requests_per_minute=10, tokens_per_minute=1000)
    with pytest.raises(KeyError), table.admit("key", scope, 1000, 0.0):
        raise KeyError("no balance")
    assert admitted(table, scope, 1000, 0.0)
    assert table.standing("key", scope, 0.0)["x-ratelimit-remaining-requests"] == "8"


def test_only_the_first_word_on_the_tokens_counts() -> None:
    table, scope = Limits(), Scope(tokens_per_minute=1000)
    with table.admit("key", scope, 500, 0.0) as admission:
        admission.used(100, 1.0)
        admission.used(0, 1.0)
    assert table.standing("key", scope, 1.0)["x-ratelimit-remaining-tokens"] == "900"


def test_a_call_larger_than_the_whole_limit_is_admitted_alone() -> None:
    table, scope = Limits(), Scope(tokens_per_minute=1000)
    assert admitted(table, scope, 10**9, 0.0)
    assert not admitted(table, scope, 1, 60.0)
    assert admitted(table, scope, 10**9, 60.1)


@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.integers(0, 50), st.integers(0, 80), st.floats(0, 90)), max_size=30
    )
)
def test_a_window_never_counts_below_zero_and_is_empty_in_the_end(
    calls: list[tuple[float, int, int, float]],
) -> None:
    window, now, places = Window(), 0.0, []
    for step, amount, used, later in calls:
        now += step
        places.append((now + later, window.add(amount, now), used - amount))
    for at, place, change in sorted(places, key=lambda each: each[0]):
        window.expire(max(now, at))
        window.amend(place, change, max(now, at))
        assert window.total >= 0
        assert window.total == sum(counted for _, counted in window._places)
    window.expire(now + 300)
    assert window.total == 0
    assert not window._places


# --- concurrency


def test_so_many_calls_run_at_a_time_and_no_more() -> None:
    table, scope = Limits(), Scope(concurrent=2)
    first = table.admit("key", scope, 0, 0.0)
    second = table.admit("key", scope, 0, 0.0)
    error = refusal(table, scope, 0, 0.0)
    assert (error.reason, error.headers()) == ("concurrent", {"Retry-After": "1"})
    with pytest.raises(KeyError), first:
        raise KeyError("however it ends")
    with table.admit("key", scope, 0, 0.0):
        assert not admitted(table, scope, 0, 0.0)
    with second:
        pass
    assert admitted(table, scope, 0, 0.0)


def test_keys_do_not_count_for_each_other() -> None:
    table, scope = Limits(), Scope(requests_per_minute=1, concurrent=1)
    table.admit("one", scope, 0, 0.0)
    table.admit("two", scope, 0, 0.0)
    with pytest.raises(RateLimited):
        table.admit("one", scope, 0, 0.0)


# --- what is told


def test_the_headers_tell_where_a_key_stands() -> None:
    table, scope = Limits(), Scope(requests_per_minute=60, tokens_per_minute=1000)
    with table.admit("key", scope, 100, 0.0) as admission:
        assert admission.headers() == {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "1m1s",
            "x-ratelimit-limit-tokens": "1000",
            "x-ratelimit-remaining-tokens": "900",
            "x-ratelimit-reset-tokens": "1m1s",
        }


def test_a_refusal_tells_the_same_and_forgets_what_has_left() -> None:
    table, scope = Limits(), Scope(requests_per_minute=1, tokens_per_minute=1000)
    assert admitted(table, scope, 1000, 0.0)
    with table.admit("key", Scope(requests_per_minute=1), 0, 60.2):
        pass
    headers = refusal(table, scope, 0, 61.0).headers()
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-remaining-tokens"] == "1000"
    assert headers["x-ratelimit-reset-tokens"] == "0ms"
    assert headers["Retry-After"] == "60"


def test_a_limit_that_the_key_has_not_is_not_told() -> None:
    table = Limits()
    with table.admit("key", Scope(), 10, 0.0) as admission:
        assert admission.headers() == {}
    with table.admit("key", Scope(tokens_per_minute=10), 1, 0.0) as admission:
        assert set(admission.headers()) == {
            f"x-ratelimit-{word}-tokens" for word in ("limit", "remaining", "reset")
        }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0ms"), (0.12, "120ms"), (0.9995, "1s"), (1.0, "1s"), (1.2, "2s"), (59.9, "1m0s"), (61.0, "1m1s")],
)  # fmt: skip
def test_a_duration_is_written_as_openai_writes_it(seconds: float, text: str) -> None:
    assert limits._duration(seconds) == text


# --- changes


def test_a_changed_limit_binds_the_next_call() -> None:
    table = Limits()
    for _ in range(5):
        assert admitted(table, Scope(requests_per_minute=5), 0, 0.0)
    assert not admitted(table, Scope(requests_per_minute=5), 0, 1.0)
    assert admitted(table, Scope(requests_per_minute=6), 0, 1.0)
    assert not admitted(table, Scope(requests_per_minute=2), 0, 30.0)
    assert (
        refusal(table, Scope(requests_per_minute=2), 0, 30.0).headers()["x-ratelimit-remaining-requests"]
        == "0"
    )


def test_a_limit_of_nothing_admits_nothing() -> None:
    assert refusal(Limits(), Scope(requests_per_minute=0), 0, 0.0).retry_after_s == 60.0


# --- memory


def test_a_window_has_at_most_a_place_for_each_tenth_of_a_second() -> None:
    window = Window()
    for step in range(200_000):
        now = step / 1000
        window.expire(now)
        window.add(1, now)
    assert len(window._places) <= 602


def test_meters_of_idle_keys_are_swept_away_and_others_stay() -> None:
    table, scope = Limits(), Scope(requests_per_minute=1)
    running = table.admit("running", scope, 0, 0.0)
    for number in range(10_000):
        with table.admit(f"key{number}", scope, 0, number / 10):
            pass
    assert len(table._meters) <= 2 * limits.METERS_MIN
    assert "running" in table._meters
    with pytest.raises(RateLimited):
        table.admit("key9999", scope, 0, 1000.0)
    with running:
        pass
