"""Calls: what a client's body may be, and what bounds it."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenhub_proxy import calls
from tokenhub_proxy.calls import Call, parse, with_defaults
from tokenhub_proxy.errors import InvalidRequest, UnsupportedMediaType

MESSAGES = [{"role": "user", "content": "Hi"}]


def chat(**fields: Any) -> bytes:
    """A chat body with these fields; `...` leaves one out."""
    body = {"model": "m", "messages": MESSAGES, **fields}
    return orjson.dumps({name: value for name, value in body.items() if value is not ...})


def refused(raw: bytes, endpoint: Any = "chat") -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(raw, endpoint)
    assert caught.value.http_status == 400
    return caught.value


# --- what is JSON


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"null",
        b"true",
        b"[]",
        b'"model"',
        b"{",
        b'{"model":"m"',
        b'{"model":"m",}',
        b"{'model':1}",
        b"\xef\xbb\xbf" + chat(),
        chat().decode().encode("utf-16"),
        chat().decode().encode("utf-32"),
        chat() + b"\x00",
        chat() + b"{}",
        b'{"model":"\xff"}',
        b'{"model":"m\x00"}',
        b'{"model":"\xc0\x80"}',
        b'{"seed":NaN}',
        b'{"seed":Infinity}',
        b'{"seed":-Infinity}',
        b'{"seed":1e999}',
        b'{"seed":-1e999}',
        b'{"seed":' + b"9" * 4301 + b"}",
        b'{"seed":01}',
        b'{"user":"\\ud800"}',
        b'{"user":"\\udc00\\ud800"}',
        b'{"user":"\xed\xa0\x80"}',
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b"<html>",
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_what_is_no_json_object_is_a_400(raw: bytes) -> None:
    error = refused(raw)
    assert error.reason == "bad_json"
    assert raw.decode("latin-1")[:80] not in error.message or len(raw) < 3


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(raw: bytes) -> None:
    refused(raw)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(
    [
        "model",
        "messages",
        "input",
        "stream",
        "stream_options",
        "n",
        "best_of",
        "tools",
        "max_tokens",
        "max_completion_tokens",
        "models",
        "Model",
        "seed",
        "web_search_options",
    ]
)
parts = st.fixed_dictionaries(
    {},
    optional={
        "type": json_values | st.sampled_from(["text", "image_url", "file"]),
        "image_url": json_values,
        "file": json_values,
        "text": json_values,
    },
)
message_lists = st.lists(
    st.fixed_dictionaries({"role": st.just("user"), "content": st.lists(parts | json_values, max_size=3)}),
    min_size=1,
    max_size=2,
)


@given(st.dictionaries(names, json_values, max_size=6), st.sampled_from(["chat", "embeddings"]))
def test_every_json_object_is_a_call_or_a_400(body: dict[str, Any], endpoint: Any) -> None:
    body.setdefault("model", "m")
    try:
        call = parse(orjson.dumps(body), endpoint)
    except InvalidRequest:
        return
    assert call.model == body["model"]
    assert call.text_bytes >= 0
    assert 1 <= call.choices <= calls.CHOICES_MAX


@given(message_lists, st.lists(parts, max_size=2))
def test_every_shape_of_parts_and_tools_is_a_call_that_can_be_written_again(
    messages: list[Any], tools: list[Any]
) -> None:
    raw = chat(messages=messages, tools=tools)
    call = parse(raw, "chat")
    assert 0 <= call.text_bytes <= len(raw)
    assert orjson.loads(orjson.dumps(call.body)) == call.body


def nested(levels: int) -> bytes:
    """A chat body of so many levels in all."""
    return chat(metadata="@").replace(b'"@"', b"[" * (levels - 1) + b"1" + b"]" * (levels - 1))


def test_a_body_is_as_deep_as_allowed_and_no_deeper() -> None:
    assert parse(nested(calls.DEPTH_MAX), "chat")
    error = refused(nested(calls.DEPTH_MAX + 1))
    assert (error.reason, error.message) == ("bad_json", "The body is nested deeper than 128 levels.")


@pytest.mark.parametrize("levels", [200, 254, 255, 600, 1023, 1024])
def test_what_the_parser_reads_but_the_writer_cannot_say_is_refused(levels: int) -> None:
    refused(nested(levels))
    refused(
        nested(levels)
        .replace(b"[", b'{"a":')
        .replace(b"]", b"}")
        .replace(b'"messages":{"a":', b'"messages":[')
    )


def test_a_wide_body_is_not_a_deep_one() -> None:
    call = parse(chat(messages=MESSAGES * 1000, metadata=[[]] * 1000), "chat")
    assert len(call.body["messages"]) == 1000


def test_of_a_repeated_name_the_last_one_counts_for_the_check_and_the_body_alike() -> None:
    raw = chat(max_tokens=1)[:-1] + b',"model":"dear","max_tokens":9}'
    call = parse(raw, "chat")
    assert (call.model, call.output_max) == ("dear", 9)
    assert orjson.loads(orjson.dumps(call.body))["model"] == "dear"
    assert orjson.dumps(call.body).count(b'"model"') == 1


def test_an_escaped_spelling_of_a_name_is_that_name() -> None:
    call = parse(chat().replace(b"}]}", b'}],"mod\\u0065l":"dear"}'), "chat")
    assert call.model == "dear"
    assert call.body["model"] == "dear"


def test_an_integer_beyond_64_bits_is_forwarded_as_the_double_that_everyone_reads() -> None:
    call = parse(chat(seed="@").replace(b'"@"', b"123456789012345678901234567890"), "chat")
    assert orjson.dumps(call.body["seed"]) == b"1.2345678901234568e+29"
    assert call.body["seed"] == float(123456789012345678901234567890)


# --- content types


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json; x",
        "application/vnd.api+json",
    ],
)
def test_json_in_utf_8_is_read(content_type: str) -> None:
    assert parse(chat(), "chat", content_type=content_type).model == "m"


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "json",
        "application/json; charset=utf-16",
        "application/json; charset=latin-1",
        "application/json; charset=no-such",
    ],
)
def test_any_other_content_type_is_a_415(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        parse(chat(), "chat", content_type=content_type)


# --- names and types


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            ("model", value)
            for value in (..., None, "", 1, True, ["m"], {"m": 1}, "m\n", "m\x00", "x" * 257, "x" * 10240)
        ],
        *[("messages", value) for value in (..., None, "Hi", {}, [], 1)],
        *[("stream", value) for value in ("yes", 1, 0, [], "true")],
        *[("stream_options", value) for value in ("x", 1, True, [])],
        *[("tools", value) for value in ("x", {}, ["x"], [None], 1)],
        *[
            (name, value)
            for name in ("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of")
            for value in (True, False, "5", 1.5, 5.0, -1, 0, 2**63, 2**64 - 1, 1e20, [], {})
        ],
        ("n", 10**9),
        ("n", 129),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_wrong_type_is_a_400_that_names_the_field(name: str, value: Any) -> None:
    assert refused(chat(**{name: value})).param == name


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("Hi", "messages[1]"),
        (None, "messages[1]"),
        ({"content": "Hi"}, "messages[1]"),
        ({"role": 1}, "messages[1]"),
        ({"role": "user", "content": 5}, "messages[1].content"),
        ({"role": "user", "content": {}}, "messages[1].content"),
    ],
)
def test_a_wrong_message_is_named_by_its_place(message: Any, param: str) -> None:
    assert refused(chat(messages=[*MESSAGES, message])).param == param


def test_wrong_stream_options_are_named() -> None:
    error = refused(chat(stream_options={"include_usage": "yes"}))
    assert error.param == "stream_options.include_usage"


@pytest.mark.parametrize(
    "name",
    [
        "Model",
        "MESSAGES",
        "maX_tokens",
        "Max_Completion_Tokens",
        "Stream",
        "ſtream",
        "N",
        "Best_Of",
        "Models",
        "FALLBACKS",
        "Route",
        "PROVIDER",
        "toolS",
        "toolſ",
        "Stream_Options",
    ],
)
def test_a_name_that_differs_from_ours_in_case_only_is_refused(name: str) -> None:
    error = refused(chat(**{name: 1}))
    assert error.param == name
    assert "did you mean" in error.message


def test_the_case_of_stream_options_counts_too() -> None:
    error = refused(chat(stream=True, stream_options={"include_usage": True, "Include_Usage": False}))
    assert error.param == "stream_options.Include_Usage"


@pytest.mark.parametrize("name", ["max_tokens\x00", "N\x00x", " model", "stream\n", "\u00a0n"])
def test_a_name_that_a_sloppier_parser_reads_as_ours_is_refused(name: str) -> None:
    assert refused(chat(**{name: 1})).param == name


def test_fields_we_do_not_read_cross_as_they_are() -> None:
    fields = {"temperature": 0.5, "Seed": 1, "logit_bias": {"50256": -100}, "x": [None, {"Y": 1}]}
    assert parse(chat(**fields), "chat").body == {"model": "m", "messages": MESSAGES, **fields}


def test_null_is_the_same_as_nothing_stated() -> None:
    call = parse(chat(max_tokens=None, n=None, stream=None, stream_options=None, tools=None), "chat")
    assert (call.output_max, call.choices, call.stream, call.usage_asked) == (None, 1, False, False)


def test_fields_that_choose_models_past_the_scope_are_told() -> None:
    call = parse(chat(models=["x"], provider={"order": []}), "chat")
    assert call.scope_fields == ("models", "provider")


# --- what a call says


@pytest.mark.parametrize(
    ("fields", "output_max"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 5, "max_completion_tokens": 500}, 500),
        ({"max_tokens": 500, "max_completion_tokens": 5, "max_output_tokens": 50}, 500),
        ({"max_tokens": 2**31}, 2**31),
    ],
)
def test_the_largest_of_the_stated_limits_counts(fields: dict[str, int], output_max: int | None) -> None:
    assert parse(chat(**fields), "chat").output_max == output_max


@pytest.mark.parametrize(
    ("fields", "choices"),
    [({}, 1), ({"n": 3}, 3), ({"best_of": 4}, 4), ({"n": 2, "best_of": 5}, 5), ({"n": 128}, 128)],
)
def test_all_choices_that_are_written_count(fields: dict[str, int], choices: int) -> None:
    assert parse(chat(**fields), "chat").choices == choices


def test_a_stream_and_its_usage_are_as_asked() -> None:
    asked = parse(chat(stream=True, stream_options={"include_usage": True}), "chat")
    assert (asked.stream, asked.usage_asked) == (True, True)
    unasked = parse(chat(stream=True, stream_options={"include_usage": False}), "chat")
    assert (unasked.stream, unasked.usage_asked) == (True, False)
    assert not parse(b'{"model":"m","input":"Hi","stream":true}', "embeddings").stream


@pytest.mark.parametrize("given", ["Hi", ["a", "b"], [""], [1, 2, 3], [0], [[1], [2, 3]], [2**63]])
def test_embeddings_take_texts_and_tokens(given: Any) -> None:
    call = parse(orjson.dumps({"model": "m", "input": given}), "embeddings")
    assert call.body["input"] == given
    assert call.output_max is None


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        [],
        [[]],
        [[1], []],
        1,
        True,
        {},
        [True],
        [1, True],
        [[1, True]],
        [-1],
        [1.0],
        ["a", 1],
        [1, "a"],
        [["a"]],
        [[[1]]],
        [None],
        [{}],
    ],
)
def test_embeddings_of_anything_else_are_refused(given: Any) -> None:
    assert refused(orjson.dumps({"model": "m", "input": given}), "embeddings").param == "input"


# --- bounds


def test_every_byte_of_text_is_bounded_by_the_body_s_own() -> None:
    raw = chat(tools=[{"type": "function", "function": {"name": "f", "description": "й" * 50}}])
    call = parse(raw, "chat")
    assert call.text_bytes == len(raw)
    assert call.input_max(4096) == len(raw)
    assert call.input_estimate(4096) == -(-len(raw) // 4)


@given(st.text(max_size=200), st.booleans())
def test_a_text_has_never_more_bytes_than_the_bound(text: str, escaped: bool) -> None:
    import json

    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    try:
        raw = json.dumps(body, ensure_ascii=escaped).encode()
    except UnicodeEncodeError:
        return
    assert parse(raw, "chat").input_max(0) >= len(text.encode())


@given(st.lists(st.integers(0, 2**63), min_size=1))
def test_a_token_list_has_never_more_tokens_than_the_bound(given: list[int]) -> None:
    raw = orjson.dumps({"model": "m", "input": given})
    assert parse(raw, "embeddings").input_max(0) >= len(given)


PICTURE = "data:image/png;base64," + base64.b64encode(bytes(3000)).decode()


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_an_inlined_picture_counts_as_an_image_and_not_as_text() -> None:
    plain = parse(chat(messages=[{"role": "user", "content": [image("")]}]), "chat")
    inlined = parse(chat(messages=[{"role": "user", "content": [image(PICTURE)]}]), "chat")
    assert inlined.text_bytes == plain.text_bytes
    assert inlined.images == 1
    assert inlined.input_max(1000) == inlined.text_bytes + 1000
    assert not inlined.reads_more


def test_pictures_count_wherever_they_stand() -> None:
    messages = [
        {
            "role": "user",
            "content": [image(PICTURE), {"type": "text", "text": "a"}, image("https://e.com/a.png")],
        },
        {"role": "tool", "tool_call_id": "1", "content": [image(PICTURE)]},
        {"role": "user", "content": [{"type": "image_url", "image_url": PICTURE}]},
    ]
    raw = chat(messages=messages)
    call = parse(raw, "chat")
    assert call.images == 4
    assert call.text_bytes == len(raw) - 3 * len(PICTURE)


@pytest.mark.parametrize(
    "url",
    [
        "data:text/plain;base64,QUFB",
        "data:application/pdf;base64,QUFB",
        "data:image/svg+xml;base64,QUFB",
        "data:IMAGE/SVG+xml,<svg/>",
        "data:video/mp4;base64,QUFB",
        "data:,Hello",
        "https://e.com/data:image/png",
    ],
)
def test_a_data_url_that_is_no_picture_counts_by_its_bytes(url: str) -> None:
    raw = chat(messages=[{"role": "user", "content": [image(url)]}])
    assert parse(raw, "chat").text_bytes == len(raw)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "a"},
        {"type": "refusal", "refusal": "a"},
        {"type": "input_audio", "input_audio": {"data": "QUFB", "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QUFB"}},
    ],
)
def test_other_inlined_parts_are_bounded_by_their_bytes(part: dict[str, Any]) -> None:
    raw = chat(messages=[{"role": "user", "content": [part]}])
    call = parse(raw, "chat")
    assert (call.text_bytes, call.images, call.reads_more) == (len(raw), 0, False)


@pytest.mark.parametrize(
    "fields",
    [
        *[
            {"messages": [{"role": "user", "content": [part]}]}
            for part in (
                {"type": "file", "file": {"file_id": "file-1"}},
                {"type": "file", "file": {"file_data": "https://example.com/long.pdf"}},
                {"type": "file", "file": "file-1"},
                {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
                {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                {"type": ["text"]},
            )
        ],
        {"web_search_options": {}},
        {"tools": [{"type": "web_search"}]},
    ],
    ids=lambda fields: repr(fields)[:60],
)
def test_what_only_the_upstream_can_size_is_told(fields: dict[str, Any]) -> None:
    assert parse(chat(**fields), "chat").reads_more


def test_the_client_s_own_tools_read_nothing_more() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}, {"type": "custom", "custom": {"name": "g"}}, {}]
    assert not parse(chat(tools=tools), "chat").reads_more


# --- defaults


def call(**fields: Any) -> Call:
    return parse(chat(**fields), "chat", owner="main", strict=True)


def test_a_default_is_added_where_the_client_sent_nothing() -> None:
    before = call(temperature=0.1)
    after = with_defaults(before, {"temperature": 0.9, "seed": 1})
    assert after.body == {**before.body, "seed": 1}
    assert "seed" not in before.body
    assert (after.owner, after.strict, after.model) == ("main", True, "m")


def test_without_anything_to_add_the_call_is_the_same() -> None:
    before = call(temperature=0.1)
    assert with_defaults(before, {}) is before
    assert with_defaults(before, {"temperature": 0.9}) is before


def test_added_fields_count_as_input_and_pictures_still_do_not() -> None:
    before = call(messages=[{"role": "user", "content": [image(PICTURE)]}])
    added = {"tools": [{"type": "function", "function": {"name": "f"}}]}
    after = with_defaults(before, added)
    assert after.text_bytes == before.text_bytes + len(orjson.dumps(added))
    assert after.images == before.images == 1
    assert after.text_bytes >= len(orjson.dumps(after.body)) - len(PICTURE)


def test_a_default_limit_counts_only_where_the_client_states_none() -> None:
    assert with_defaults(call(), {"max_tokens": 100}).output_max == 100
    stated = with_defaults(call(max_completion_tokens=10), {"max_tokens": 100, "seed": 1})
    assert stated.output_max == 10
    assert "max_tokens" not in stated.body
    assert stated.body["seed"] == 1


def test_a_default_n_multiplies_the_choices() -> None:
    assert with_defaults(call(), {"n": 4}).choices == 4
