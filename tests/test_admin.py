"""The operator's verbs over a ledger: what they refuse, and what happens when two come at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import Running
from tokenhub_proxy import wiring
from tokenhub_proxy.admin import Administration
from tokenhub_proxy.arguments import duration_s, moment, quota_of, usd
from tokenhub_proxy.errors import InvalidRequest, NotFound
from tokenhub_proxy.keys import well_formed


@pytest.fixture
def admin(proxy: Running) -> Administration:
    return wiring.administration(proxy.proxy.relay, proxy.ledger)


async def test_of_many_who_make_a_key_at_once_one_does(admin: Administration) -> None:
    made = await asyncio.gather(
        *(admin.verbs["keys create"]({"name": "new"}) for _ in range(20)), return_exceptions=True
    )
    keys = [one for one in made if isinstance(one, dict)]
    assert len(keys) == 1
    assert well_formed(keys[0]["secret"])
    assert all(isinstance(one, InvalidRequest) for one in made if not isinstance(one, dict))


async def test_changes_of_one_key_at_once_all_count(admin: Administration) -> None:
    await admin.verbs["keys create"]({"name": "new"})
    await asyncio.gather(
        admin.verbs["keys update"]({"name": "new", "quota": "5.00/day"}),
        admin.verbs["keys update"]({"name": "new", "concurrent": "3"}),
        admin.verbs["keys update"]({"name": "new", "models": "m"}),
        admin.verbs["keys revoke"]({"name": "new"}),
        admin.verbs["keys update"]({"name": "new", "requests_per_minute": 7}),
    )
    key = await admin.verbs["keys show"]({"name": "new"})
    assert (key["quota_usd"], key["concurrent"], key["models"]) == ("5.00", 3, ["m"])
    assert (key["state"], key["requests_per_minute"]) == ("revoked", 7)


async def test_a_revoked_key_stays_revoked_and_its_name_taken(admin: Administration) -> None:
    await admin.verbs["keys create"]({"name": "new"})
    first = await admin.verbs["keys revoke"]({"name": "new"})
    assert await admin.verbs["keys revoke"]({"name": "new"}) == first
    with pytest.raises(InvalidRequest, match="revoked"):
        await admin.verbs["keys rotate"]({"name": "new"})
    with pytest.raises(InvalidRequest, match="another name"):
        await admin.verbs["keys create"]({"name": "new"})


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("keys create", {}),
        ("keys create", {"name": "a/b"}),
        ("keys create", {"name": "x" * 65}),
        ("keys create", {"name": ""}),
        ("keys update", {"name": "tester"}),
        ("keys rotate", {"name": "tester", "overlap": "soon"}),
        ("accounts create", {"name": "system:world"}),
        ("accounts create", {"name": "default"}),
        ("accounts credit", {"name": "default", "amount": None}),
        ("usage", {"by": "moon"}),
        ("ledger backup", {}),
    ],
)
async def test_what_is_no_argument_is_refused(admin: Administration, verb: str, arguments: Any) -> None:
    with pytest.raises(InvalidRequest):
        await admin.verbs[verb](arguments)


@pytest.mark.parametrize(
    "verb", ["keys show", "keys update", "keys rotate", "keys revoke", "accounts credit"]
)
async def test_what_does_not_exist_is_not_found(admin: Administration, verb: str) -> None:
    with pytest.raises(NotFound):
        await admin.verbs[verb]({"name": "nobody", "amount": "1", "concurrent": "1"})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("20.00/month", (20_000_000_000, "month")),
        ("0.5/day", (500_000_000, "day")),
        ("7", (7_000_000_000, "total")),
        ("1/week", (1_000_000_000, "week")),
        ("none", (None, "total")),
    ],
)
def test_a_quota_is_an_amount_and_a_period(text: str, found: object) -> None:
    assert quota_of(text) == found


@pytest.mark.parametrize("text", ["1/month/day", "1/Month", "/day", "-1/day", "1 / day", "one", "1e1/day"])
def test_another_text_is_no_quota(text: str) -> None:
    with pytest.raises(InvalidRequest):
        quota_of(text)


def test_durations_and_moments() -> None:
    assert [duration_s(text) for text in ("5s", "30m", "24h", "7d")] == [5, 1800, 86400, 604800]
    assert moment("30m", 1000.0, +1) == 2800.0
    assert moment("10s", 1000.0, -1) == 990.0
    assert moment("1970-01-02", 0.0, +1) == 86400.0
    assert moment("1970-01-01T01:00:00+01:00", 0.0, +1) == 0.0
    for text in ("1w", "-5m", "1.5h", "", "2027-13-01", "2027-01-01T00:00"):
        with pytest.raises(InvalidRequest):
            moment(text, 0.0, +1)


def test_an_amount_is_plain_decimal_text() -> None:
    assert usd("10.00", "amount") == 10_000_000_000
    for text in ("1e3", "NaN", "-1", "", None, True, "1_000", "0x10"):
        with pytest.raises(InvalidRequest):
            usd(text, "amount")
