"""Signatures against those that AWS publishes, in its test suite and its guides."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tokenhub_proxy.dialects.sigv4 import Signer, canonical_path, canonical_query, signing_key

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
AT_S = datetime(2015, 8, 30, 12, 36, tzinfo=UTC).timestamp()
SUITE = Signer("AKIDEXAMPLE", SECRET, "us-east-1", "service")
HOST = "https://example.amazonaws.com"


def signature(headers: dict[str, str]) -> str:
    return headers["authorization"].rpartition("Signature=")[2]


@pytest.mark.parametrize(("name", "method", "path", "headers", "body", "expected"), [
    ("get-vanilla", "GET", "/", {}, b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    ("post-vanilla", "POST", "/", {}, b"",
     "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    ("get-vanilla-query-order-key-case", "GET", "/?Param2=value2&Param1=value1", {}, b"",
     "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
    ("post-x-www-form-urlencoded", "POST", "/", {"Content-Type": "application/x-www-form-urlencoded"},
     b"Param1=value1", "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"),
])  # fmt: skip
def test_the_published_suite(name, method, path, headers, body, expected):
    assert signature(SUITE.sign(method, HOST + path, headers, body, AT_S)) == expected


def test_the_published_example_of_a_signing_key():
    key = signing_key(SECRET, "20120215", "us-east-1", "iam").hex()
    assert key == "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d"


def test_the_published_example_of_a_request():
    signer = Signer("AKIDEXAMPLE", SECRET, "us-east-1", "iam")
    headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    signed = signer.sign(
        "GET", "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08", headers, b"", AT_S
    )
    assert signed["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date, "
        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    )


def test_a_session_token_is_signed_and_every_part_of_a_request_counts():
    base = ("POST", HOST + "/model/a%3A0/converse", {"content-type": "application/json"}, b"{}", AT_S)
    plain = SUITE.sign(*base)
    token = Signer("AKIDEXAMPLE", SECRET, "us-east-1", "service", "token")
    found = token.sign(*base)
    assert found["x-amz-security-token"] == "token"
    assert "x-amz-security-token" in found["authorization"]
    others = [
        ("GET", *base[1:]),
        (base[0], HOST + "/model/b%3A0/converse", *base[2:]),
        (*base[:2], {"content-type": "text/plain"}, *base[3:]),
        (*base[:3], b"{ }", AT_S),
        (*base[:4], AT_S + 86_400),
    ]
    signatures = {signature(plain), signature(found), *(signature(SUITE.sign(*other)) for other in others)}
    assert len(signatures) == 7


def test_paths_and_queries_in_their_canonical_form():
    assert (
        canonical_path("/model/us.anthropic.claude%3A0/converse")
        == "/model/us.anthropic.claude%253A0/converse"
    )
    assert canonical_path("") == "/"
    assert canonical_path("//a/./b/../c/") == "/a/c/"
    assert canonical_query("b=2&a=%20x&a=") == "a=&a=%20x&b=2"


def test_secrets_are_in_no_repr():
    signer = Signer("AKIDEXAMPLE", SECRET, "us-east-1", "service", "token-1")
    assert SECRET not in repr(signer)
    assert "token-1" not in repr(signer)
