"""Which of an upstream's headers a client may see."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenhub_proxy.wire import CROSSING_HEADERS, CROSSING_VALUE_LENGTH_MAX, crossing


def test_known_headers_cross_as_they_are() -> None:
    headers = {"openai-processing-ms": "12", "cf-ray": "8f-FRA", "content-type": "text/html"}
    assert dict(crossing(headers)) == {"openai-processing-ms": "12", "cf-ray": "8f-FRA"}


@pytest.mark.parametrize(
    "name",
    [
        "set-cookie",
        "authorization",
        "openai-organization",
        "openai-project",
        "x-ratelimit-limit-requests",
        "retry-after",
        "content-length",
        "content-encoding",
        "transfer-encoding",
        "connection",
        "location",
        "server",
        "x-request-id",
        "x-should-retry",
        "strict-transport-security",
        "access-control-allow-origin",
    ],
)
def test_what_is_the_operator_s_business_or_frames_the_answer_stays_here(name: str) -> None:
    assert dict(crossing({name: "1"})) == {}


@pytest.mark.parametrize(
    "value",
    [
        "a\r\nset-cookie: x=1",
        "a\nb",
        "a\rb",
        "a\x00b",
        "a\x7fb",
        "é",
        "\udc80",
        "x" * (CROSSING_VALUE_LENGTH_MAX + 1),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_value_that_could_split_or_flood_a_head_stays_here(value: str) -> None:
    assert dict(crossing({"cf-ray": value})) == {}


@given(st.dictionaries(st.sampled_from([*sorted(CROSSING_HEADERS), "server"]), st.text(max_size=20)))
def test_every_header_that_crosses_is_known_and_printable(headers: dict[str, str]) -> None:
    for name, value in crossing(headers):
        assert name in CROSSING_HEADERS
        assert all(" " <= character <= "~" for character in value)
        assert headers[name] == value
