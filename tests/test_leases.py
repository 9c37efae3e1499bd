"""Leases can only narrow what they come from: the check, which is one place, on every field."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.keys import Key, Networks, Scope, parse_address
from tokenhub_proxy.leases import check_left, check_narrows, lease_of, live, over

PARENT = Scope(
    models=("gpt-*", "claude-3"),
    ips=("10.0.0.0/8", "::1"),
    quota_nanos=100,
    requests_per_minute=10,
    tokens_per_minute=1000,
    concurrent=2,
    expires_at=50.0,
)


def refused(parent: Scope, child: Scope) -> str | None:
    """The field that is wider, if one is."""
    try:
        check_narrows(parent, child)
    except InvalidRequest as refusal:
        return refusal.param
    return None


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"models": ("gpt-5",)},
        {"models": ("gpt-5*", "claude-3")},
        {"ips": ("10.1.0.0/16",)},
        {
            "quota_nanos": 1,
            "requests_per_minute": 1,
            "tokens_per_minute": 1,
            "concurrent": 1,
            "expires_at": 1.0,
        },
    ],
)
def test_less_is_allowed(change: dict[str, Any]) -> None:
    assert refused(PARENT, replace(PARENT, **change)) is None
    assert refused(Scope(), replace(PARENT, **change)) is None


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("models", ("*",), "models"),
        ("models", ("gpt-5", "claude-*"), "models"),
        ("ips", (), "ips"),
        ("ips", ("10.0.0.0/7",), "ips"),
        ("ips", ("192.168.0.1",), "ips"),
        ("quota_nanos", None, "quota"),
        ("quota_nanos", 101, "quota"),
        ("requests_per_minute", None, "requests_per_minute"),
        ("tokens_per_minute", 1001, "tokens_per_minute"),
        ("concurrent", 3, "concurrent"),
        ("expires_at", None, "expires"),
        ("expires_at", 51.0, "expires"),
        ("test", True, "test"),
    ],
)
def test_more_is_refused_by_the_name_of_the_field(field: str, value: Any, param: str) -> None:
    assert refused(PARENT, replace(PARENT, **{field: value})) == param


PATTERNS = st.text("ab*?[]!-", min_size=1, max_size=5)
WORDS = ["".join(word) for length in range(5) for word in itertools.product("ab[-", repeat=length)]


@given(PATTERNS, PATTERNS)
def test_no_lease_matches_a_model_that_its_parent_does_not(parent: str, child: str) -> None:
    if refused(Scope(models=(parent,)), Scope(models=(child,))) is None:
        assert [word for word in WORDS if fnmatchcase(word, child) and not fnmatchcase(word, parent)] == []


@given(st.integers(0, 32), st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(0, 2**32 - 1))
def test_no_lease_holds_an_address_that_its_parent_does_not(a: int, one: int, b: int, two: int) -> None:
    from ipaddress import ip_network

    parent, child = (str(ip_network((number, bits), strict=False)) for number, bits in ((one, a), (two, b)))
    if refused(Scope(ips=(parent,)), Scope(ips=(child,))) is None:
        ends = (ip_network(child)[0], ip_network(child)[-1])
        assert all((parse_address(str(end)) or end) in Networks([parent]) for end in ends)


def key(name: str = "ci", **scope: Any) -> Key:
    return Key(name, name, "main", name.encode(), Scope(**scope))


def test_a_lease_has_a_name_and_an_end_of_its_own() -> None:
    asked = lease_of({"lease": "30m", "quota": "0.50"}, key(), "1a2b")
    assert (asked["name"], asked["expires"]) == ("ci-1a2b", "30m")
    assert lease_of({"lease": "30m", "quota": "0.50/total", "name": "mine"}, key(), "x")["name"] == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"quota": "1"}, "needs a lease"),
        ({"lease": "30m"}, "needs a quota"),
        ({"lease": "30m", "quota": "1/day"}, "for all of its time"),
        ({"lease": "30m", "quota": "1", "account": "other"}, "has its account from its parent"),
        ({"lease": "30m", "quota": "1", "expires": "1h"}, "has its expires from"),
    ],
)
def test_what_is_no_lease_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        lease_of(arguments, key(), "x")


def test_neither_a_revoked_key_nor_a_lease_is_leased() -> None:
    for parent in (replace(key(), revoked_at=1.0), key(parent="other")):
        with pytest.raises(InvalidRequest, match="can't be leased"):
            lease_of({"lease": "30m", "quota": "1"}, parent, "x")


def test_what_is_leased_already_is_not_leased_again() -> None:
    leases = [(key("a", quota_nanos=50), 20)]
    check_left(100, leases, 70)
    check_left(None, leases, 10**9)
    with pytest.raises(InvalidRequest, match="leased it already"):
        check_left(100, leases, 71)


def test_leases_live_until_they_are_revoked_or_over() -> None:
    lives, ended = key("a", parent="ci", expires_at=10.0), key("b", parent="ci", expires_at=5.0)
    gone = replace(key("c", parent="ci", expires_at=5.0), revoked_at=4.0)
    others = [key(), key("d", parent="other", expires_at=10.0)]
    assert live([lives, ended, gone, *others], "ci", 5.0) == [lives]
    assert over([lives, ended, gone, *others], 5.0) == [ended]
