"""Cassettes: their lines, what is kept off them, and which exchange a request finds."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenhub_proxy.cassettes import (
    HEAD,
    Ask,
    Cassette,
    CassetteError,
    Read,
    Recorded,
    Redactor,
    differences,
    dump,
    load,
    secrets_of,
)
from tokenhub_proxy.routes import Upstream
from tokenhub_proxy.wire import Outgoing

FIRST = b'{"tokenhub":"cassette","version":1}\n'
SECRET = 'p4ss/w0rd"&key'


def ask(last: str = "Hi", **more: Any) -> Ask:
    return Ask("m", "openai", "POST", "/chat/completions", {"messages": [{"content": last}], **more})


def recorded(asked: Ask, *pieces: bytes, kind: str = "") -> Recorded:
    reads = tuple(Read(float(number), data) for number, data in enumerate(pieces, 10))
    return Recorded(asked, 200, {"content-type": "text/event-stream"}, 9.5, reads, 99.0, kind)


@given(st.lists(st.lists(st.binary(max_size=30), max_size=5), max_size=4))
def test_what_is_written_is_what_is_read(tapes: list[list[bytes]]) -> None:
    exchanges = [recorded(ask(str(number)), *pieces) for number, pieces in enumerate(tapes)]
    lines = b"".join(dump(each, number) for number, each in enumerate(exchanges, 1))
    assert load(FIRST + lines, "x") == exchanges


def test_a_cassette_is_lines_that_people_can_read() -> None:
    lines = dump(recorded(ask(), b"data: 1\n\n", "ж".encode()[:1], kind="reset_read"), 1).splitlines()
    assert lines == [
        b'{"ask":1,"model":"m","dialect":"openai","method":"POST","path":"/chat/completions",'
        b'"body":{"messages":[{"content":"Hi"}]},"base_url":""}',
        b'{"head":1,"at_ms":9.5,"status":200,"headers":{"content-type":"text/event-stream"}}',
        b'{"read":1,"at_ms":10.0,"text":"data: 1\\n\\n"}',
        b'{"read":1,"at_ms":11.0,"base64":"0A=="}',
        b'{"end":1,"at_ms":99.0,"kind":"reset_read"}',
    ]
    assert HEAD == {"tokenhub": "cassette", "version": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "x:1: is no line of JSON"),
        (b"[1]\n", "x:1: is no line of JSON"),
        (b'{"tokenhub":"cassette","version":2}\n', "x:1: is no cassette of version 1"),
        (FIRST + b"{}\n", "x:2: is no line of a cassette"),
        (FIRST + b'{"read":7,"at_ms":1,"text":"x"}\n', "x:2: is no line of a cassette"),
        (FIRST + dump(recorded(ask()), 1).splitlines()[0], "x: ends within exchange 1"),
    ],
)
def test_what_is_no_cassette_is_refused_with_its_line(text: bytes, said: str) -> None:
    with pytest.raises(CassetteError, match=said):
        load(text, "x")


# --- redaction

LOOKALIKES = (
    "sk-proj-abcdefghij0123456789",
    "sk-ant-api03-abcdefghij_0123456789",
    "sk-th-testtesttesttesttest",
    "AIzaSyA0123456789012345678901234567890",
    "AKIAABCDEFGHIJKLMNOP",
    "ghp_0123456789abcdefghij0123456789",
    "Bearer abcdefghijklmnop0123",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
)


@pytest.mark.parametrize("secret", LOOKALIKES)
def test_what_looks_like_a_secret_is_one(secret: str) -> None:
    assert Redactor().text(f'{{"content":"my key: {secret}"}}') == '{"content":"my key: [redacted]"}'


def test_words_and_pictures_are_no_secrets() -> None:
    picture = base64.b64encode(bytes(range(256)) * 200).decode()
    for text in ("ask-me-anything-you-want-to-know", "risk-free-investments-for-all", picture, "none"):
        assert Redactor(["none"]).text(text) == text


@given(st.text(min_size=8, max_size=40), st.text(max_size=20), st.data())
def test_no_known_secret_stays_however_it_is_read_or_spelled(secret: str, around: str, data: Any) -> None:
    import json
    from urllib.parse import quote

    redactor = Redactor([secret])
    for form in (secret, json.dumps(secret, ensure_ascii=False)[1:-1], quote(secret, safe="")):
        assert form not in redactor.text(around + form)
        whole = (around + form + around).encode("utf-8", "surrogatepass")
        place = data.draw(st.integers(0, len(whole)))
        masked = redactor.mask([whole[:place], whole[place:]])
        assert [len(piece) for piece in masked] == [place, len(whole) - place]
        if form not in around * 2:
            assert form.encode() not in b"".join(masked) or set(form) == {"*"}


def test_a_request_on_tape_has_no_headers_and_no_secret() -> None:
    upstream = Upstream("u", "gemini", "https://u", (SECRET,))
    headers = (("x-goog-api-key", SECRET),)
    body = b'{"contents":[{"text":"I am p4ss/w0rd\\"&key"}]}'
    found = Redactor([SECRET]).ask(
        "m", Outgoing(upstream, "/models/g:generateContent?key=abc&x=1", headers, body)
    )
    assert found == Ask(
        "m",
        "gemini",
        "POST",
        "/models/g:generateContent?key=[redacted]&x=1",
        {"contents": [{"text": "I am [redacted]"}]},
    )
    assert found.upstream_model == "g"


def test_only_known_headers_of_an_answer_are_kept() -> None:
    headers = {"content-type": "a", "set-cookie": "b", "openai-organization": "acme", "retry-after": "1"}
    assert Redactor().headers(headers) == {"content-type": "a", "retry-after": "1"}


def test_all_secrets_that_are_known_here_are_told() -> None:
    upstream = Upstream(
        "u", "bedrock", "https://u", ("credential",), (("x-team", "header"),), proxy="http://p:q@h",
        options={"secret_access_key": "option", "quirks": {}},
    )  # fmt: skip
    environ = {"MY_API_KEY": "key", "DB_PASSWORD": "word", "HOME": "home", "GITHUB_TOKEN": "token"}
    found = set(secrets_of([upstream], environ))
    assert found == {"credential", "header", "http://p:q@h", "option", "key", "word", "token"}


# --- finding


def test_equal_requests_get_their_answers_in_order_and_then_the_last_again() -> None:
    one, two = recorded(ask(), b"1"), recorded(ask(), b"2")
    cassette = Cassette([one, two])
    assert cassette.unplayed == [ask(), ask()]
    assert [cassette.take(ask()) for _ in range(4)] == [one, two, two, two]
    assert cassette.unplayed == []


def test_a_strict_cassette_plays_each_exchange_once() -> None:
    cassette = Cassette([recorded(ask(), b"1")], strict=True)
    assert cassette.take(ask()) is not None
    assert cassette.take(ask()) is None
    assert "equal but was played already" in cassette.miss(ask())


def test_a_miss_names_the_fields_that_differ_and_no_value() -> None:
    cassette = Cassette([recorded(ask("Good day", seed=1)), recorded(ask("Hi", tools=[]))])
    assert cassette.take(ask("Hello")) is None
    assert cassette.miss(ask("Hello", tools=[], top_p=1)) == (
        "the nearest is exchange 2, which differs in body.messages[0].content, body.top_p"
    )
    assert Cassette().miss(ask()) == "nothing is recorded"


def test_what_is_ignored_does_not_count() -> None:
    one = recorded(ask(user="a", metadata={"trace": "1", "team": "x"}))
    cassette = Cassette([one], ignore=["user", "metadata.trace"])
    assert cassette.take(ask(user="b", metadata={"trace": "2", "team": "x"})) == one
    assert cassette.take(ask(metadata={"trace": "2", "team": "y"})) is None


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_values_differ_where_they_are_not_equal(one: Any, other: Any) -> None:
    assert (list(differences(one, other)) == []) == (one == other)
