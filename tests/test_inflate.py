"""Inflating within bounds: any pieces, no bombs, nothing corrupt, nothing after the end."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenhub_proxy.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType
from tokenhub_proxy.inflate import (
    CODINGS,
    Corrupt,
    Inflater,
    TooMuch,
    coding_of,
    request_body,
    request_coding,
)

COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
coding = pytest.mark.parametrize("coding", CODINGS)


def test_every_coding_has_its_test() -> None:
    assert set(COMPRESS) == set(CODINGS)


@coding
@given(body=st.binary(max_size=3000), size=st.integers(1, 64))
def test_where_the_bytes_are_cut_makes_no_difference(coding: str, body: bytes, size: int) -> None:
    inflater, raw = Inflater(coding), COMPRESS[coding](body)
    found = b"".join(inflater.feed(raw[at : at + size], 2**20) for at in range(0, len(raw), size))
    assert (found, inflater.ended) == (body, True)


@coding
def test_a_body_at_the_bound_is_taken_and_one_byte_more_is_not(coding: str) -> None:
    raw = COMPRESS[coding](b"a" * 1000)
    assert request_body(raw, coding, 1000) == b"a" * 1000
    with pytest.raises(RequestTooLarge) as refused:
        request_body(raw, coding, 999)
    assert (refused.value.http_status, refused.value.reason) == (413, "too_large inflated")


@coding
def test_a_bomb_is_refused_before_it_has_gone_off(coding: str) -> None:
    bomb = COMPRESS[coding](bytes(64 * 2**20))
    inflater = Inflater(coding)
    with pytest.raises(TooMuch):
        inflater.feed(bomb, 2**16)
    # What was inflated is one byte over the bound, and the rest is still compressed.
    assert len(inflater._inflate.unconsumed_tail) > len(bomb) // 2


@coding
@pytest.mark.parametrize(
    "broken",
    [
        lambda raw: raw[:-1],
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: b"not compressed at all",
        lambda raw: raw + b"x",
        lambda raw: raw + raw,
        lambda raw: raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:],
    ],
    ids=["cut", "half", "nothing", "plain", "trailing", "twice", "checksum"],
)
def test_what_is_cut_damaged_or_followed_by_more_is_a_400(
    coding: str, broken: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        request_body(broken(COMPRESS[coding](b'{"model": "m"}' * 40)), coding, 2**20)
    assert (refused.value.http_status, refused.value.reason) == (400, "bad_encoding")


@coding
def test_nothing_may_come_after_the_end(coding: str) -> None:
    inflater = Inflater(coding)
    inflater.feed(COMPRESS[coding](b"all"), 100)
    with pytest.raises(Corrupt):
        inflater.feed(b"x", 100)


@pytest.mark.parametrize(
    ("header", "found"),
    [(None, None), ("", None), ("identity", None), (" GZIP ", "gzip"), ("x-gzip", "gzip"), ("br", "br")],
)
def test_a_header_names_its_coding(header: str | None, found: str | None) -> None:
    assert coding_of(header) == found


def test_only_what_is_allowed_is_taken() -> None:
    assert request_coding("identity", ()) is None
    assert request_coding("Gzip", ("gzip",)) == "gzip"
    for header in ("br", "gzip", "gzip, gzip", "deflate;q=1"):
        with pytest.raises(UnsupportedMediaType) as refused:
            request_coding(header, ("deflate",))
        assert (refused.value.http_status, refused.value.message) == (
            415,
            "Only deflate bodies are accepted.",
        )
