"""The catalogues say the same in each language, the templates say nothing by themselves."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.served import ROOT
from tokenhub_proxy import arguments, users
from tokenhub_proxy.dashboard.charts import HEIGHT, WIDTH, ceiling, stacked
from tokenhub_proxy.dashboard.words import Words, catalogue, chosen
from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.keys import Scope

DASHBOARD = ROOT / "tokenhub_proxy" / "dashboard"
TEMPLATES = sorted((DASHBOARD / "templates").glob("*.html"))
# What is the same in every language.
NAMES = {"TokenHub", "curl", "Python", "Node", "tokenhub-proxy"}


def places(text: Any) -> set[str]:
    """The placeholders of a text, or of all its plural forms."""
    texts = text.values() if isinstance(text, dict) else [text]
    return {name for one in texts for _, name, _, _ in string.Formatter().parse(one) if name}


def test_every_text_is_in_every_language_with_the_same_places() -> None:
    english, russian = catalogue("en"), catalogue("ru")
    assert english.keys() == russian.keys()
    for name in english:
        assert places(english[name]) == places(russian[name]), name
        if isinstance(english[name], dict):
            assert (set(english[name]), set(russian[name])) == ({"one", "many"}, {"one", "few", "many"})


def test_nothing_russian_is_left_in_english() -> None:
    for name, text in catalogue("en").items():
        assert not re.search("[А-Яа-яЁё]", str(text)), name
    same = [name for name, text in catalogue("ru").items() if text == catalogue("en")[name]]
    assert set(same) <= {"door.api", "provider.cryptopay"}


def test_every_text_that_a_template_asks_for_is_there() -> None:
    for path in TEMPLATES:
        for name in re.findall(r"\bt\('([a-z_]+\.?[\w .]*)'[,)]", path.read_text()):
            assert name in catalogue("en"), (path.name, name)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_speaks_by_itself(path: Path) -> None:
    text = re.sub(r"<pre.*?</pre>|{%.*?%}|{{.*?}}|{#.*?#}", " ", path.read_text(), flags=re.DOTALL)
    said = re.sub(r"<[^>]*>", " ", text)
    words = set(re.findall(r"[A-Za-zА-Яа-я][\w-]{2,}", re.sub(r"&\w+;", " ", said)))
    assert words <= NAMES, words - NAMES


def test_russian_counts_as_russians_do() -> None:
    ru = Words("ru")
    found = [ru("overview.requests", n=n) for n in (1, 2, 5, 11, 12, 21, 22, 25, 101, 111, 1_234_567)]
    assert [text.split()[-1] for text in found] == [
        "запрос", "запроса", "запросов", "запросов", "запросов", "запрос", "запроса", "запросов", "запрос",
        "запросов", "запросов",
    ]  # fmt: skip
    assert found[-1].startswith("1\u202f234\u202f567")


def test_a_refusal_that_names_something_is_said_in_russian() -> None:
    en, ru = Words("en"), Words("ru")
    said = "There is no key 'a.b'."
    assert (en.error("not_found", said), ru.error("not_found", said)) == (said, "Ключа 'a.b' нет.")
    rate = "tokens_per_minute is a whole number from 1, or none."
    assert ru.error("invalid_request", rate) == "Токенов в минуту: целое число от 1 или пусто."
    assert ru.error("invalid_request", "What nobody foresaw {name}.") == "What nobody foresaw {name}."


def test_what_forms_can_be_refused_for_is_in_the_catalogues() -> None:
    """Whatever the verbs behind the forms say to wrong input, Russians read it in Russian."""
    wrong: list[Callable[[], object]] = [
        lambda: arguments.checked_name("<x>"),
        lambda: arguments.networks("10.0.0.300"),
        lambda: arguments.networks("10.0.0.1/8"),
        lambda: arguments.usd("-1", "quota"),
        lambda: arguments.usd("abc", "amount"),
        lambda: arguments.usd("1.0000000001", "amount"),
        lambda: arguments.usd("9" * 20, "amount"),
        lambda: arguments.rate("1.5", "concurrent"),
        lambda: arguments.moment("2020-13-01", 0.0, 1),
        lambda: arguments.quota_of("1/fortnight"),
        lambda: arguments.scope_of({"expires": "2000-01-01"}, Scope(), 1e9),
        lambda: users.login("<x>"),
    ]
    for refused in wrong:
        with pytest.raises(InvalidRequest) as found:
            refused()
        assert re.search("[а-яё]{3}", Words("ru").error("", found.value.message)), found.value.message


@pytest.mark.parametrize(
    ("cookie", "accepted", "expected"),
    [
        ("", "", "en"),
        ("", "ru", "ru"),
        ("", "ru-RU,ru;q=0.9,en;q=0.8", "ru"),
        ("", "en;q=0.8, ru;q=0.9", "ru"),
        ("", "de, fr;q=0.5", "en"),
        ("", "ru;q=0", "en"),
        ("en", "ru", "en"),
        ("de", "ru", "ru"),
        ("", "a;q=x,,;;," * 100, "en"),
    ],
)
def test_the_language_is_the_cookies_then_the_browsers(cookie: str, accepted: str, expected: str) -> None:
    assert chosen(cookie, accepted) == expected


def test_amounts_are_cut_and_never_rounded_up() -> None:
    en, ru = Words("en"), Words("ru")
    assert en.usd(1_234_999_999_999) == "$1,234.99"
    assert ru.usd(1_234_999_999_999) == "1\u202f234,99\u202f$"
    assert en.usd(-5_000_000) == "−$0.00"
    assert en.cost(1999) == "$0.000001"
    assert (en.price(3 * 10**9), en.price(300_000_000), en.price(75_000_000)) == ("$3.00", "$0.30", "$0.075")
    assert ru.price(75_000_000) == "0,075\u202f$"
    assert (en.share(1, 3), ru.share(1, 3), en.share(0, 0)) == ("33.3%", "33,3\u202f%", "0.0%")


@given(
    st.dictionaries(
        st.integers(0, 29), st.dictionaries(st.text("abcdefgh", max_size=1), st.integers(0, 10**12))
    )
)
def test_a_chart_loses_nothing_and_stays_in_its_frame(found: dict[int, dict[str, int]]) -> None:
    days = [float(day) for day in range(30)]
    stack = stacked(days, {float(day): parts for day, parts in found.items()}, "others")
    assert stack.total == sum(bar.total for bar in stack.bars) == sum(sum(p.values()) for p in found.values())
    assert len(stack.series) <= 6
    for bar in stack.bars:
        assert sum(amount for _, amount in bar.parts) == bar.total
        assert bar.x >= 0
        assert bar.x + bar.width <= WIDTH
        for piece in bar.pieces:
            assert piece.y >= 0
            assert piece.y + piece.height <= HEIGHT


@given(st.integers(1, 10**18))
def test_a_scale_ends_close_above(amount: int) -> None:
    assert amount <= ceiling(amount) <= 2.5 * amount


def test_vendored_files_are_what_was_published() -> None:
    import hashlib
    import json

    static = DASHBOARD / "static"
    for each in json.loads((static / "VENDORED.json").read_text()):
        assert hashlib.sha256((static / each["file"]).read_bytes()).hexdigest() == each["sha256"]
        assert (static / f"{each['package']}.LICENSE.txt").read_text().strip()
