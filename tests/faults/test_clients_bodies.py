"""Clients whose bodies can't be read, or can be read in two ways."""

from __future__ import annotations

import gzip
from typing import Any

import orjson
import pytest

from tests.conftest import KEY, one_upstream
from tests.faults.scene import (
    COST,
    JSON,
    WHOLE,
    Scene,
    fault,
    parsed,
    request,
    say,
)
from tests.upstream import FakeUpstream

# --- bodies that can't be read


def with_field(text: bytes) -> bytes:
    """A good call with one more field, as it is written."""
    return orjson.dumps(WHOLE)[:-1] + b"," + text + b"}"


BAD_JSON = {
    "syntax": b'{"model": "m",}',
    "empty": b"",
    "no object": b"[1]",
    "a byte order mark": b"\xef\xbb\xbf" + orjson.dumps(WHOLE),
    "UTF-16": orjson.dumps(WHOLE).decode().encode("utf-16"),
    "bad UTF-8": with_field(b'"x":"\xff"'),
    "a NUL": with_field(b'"x":"\x00"'),
    "100,000 levels": with_field(b'"x":' + b"[" * 100_000 + b"]" * 100_000),
    "200 levels": with_field(b'"x":' + b"[" * 200 + b"]" * 200),
    "an integer of 5,000 digits": with_field(b'"x":' + b"1" * 5000),
    "NaN": with_field(b'"x":NaN'),
    "Infinity": with_field(b'"x":Infinity'),
    "1e999": with_field(b'"x":1e999'),
    "a lone surrogate": with_field(b'"x":"\\ud800"'),
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON)
@fault(
    "The body is no JSON that everybody reads alike: syntax, nothing, a BOM, UTF-16, bad UTF-8, NUL, "
    "100,000 levels, an integer of 5,000 digits, NaN, Infinity, 1e999, a lone surrogate",
    "400 invalid_request",
    "none",
    log={"reason": "bad_json", "model": None},
)
async def test_json_that_is_none_is_refused(scene: Scene, upstream: FakeUpstream, body: bytes) -> None:
    await scene.start(one_upstream(upstream.base_url))
    await scene.call(body)
    assert upstream.asked == []


@pytest.mark.parametrize("name", [b'"model"', b'"mod\\u0065l"'])
@fault(
    "A key stands twice in the body, spelt alike or with an escape",
    JSON,
    "usage",
    log={"model": "m"},
    note="one reading for all: the last counts for the check, for the price and for the upstream",
)
async def test_of_a_doubled_key_the_last_counts_for_everybody(
    scene: Scene, upstream: FakeUpstream, name: bytes
) -> None:
    keys = f"keys: [{{name: k, key: {KEY}, models: [m]}}]"
    running = await scene.start(one_upstream(upstream.base_url, keys))
    twice = orjson.dumps(WHOLE).replace(b'"model":"m"', b'"model":"e",' + name + b':"m"')

    await scene.call(twice)

    assert [asked.body["model"] for asked in upstream.asked] == ["real-m"]
    assert await scene.charged() == COST
    refused = twice.replace(b'"e"', b'"m"').replace(name + b':"m"', name + b':"e"')
    assert str(parsed(await say(running.port, request(refused)))) == "403 model_not_allowed"


WRONG: list[tuple[str, Any]] = [
    *[
        (name, value)
        for name in ("max_tokens", "max_completion_tokens")
        for value in (True, "5", 1.5, -1, 0, 2**63)
    ],
    *[("n", value) for value in (0, -1, 10**9, "2", 1.5)],
    *[("stream", value) for value in ("yes", 1)],
    *[("model", value) for value in (["m"], "m" * 10_000, "", None, 7)],
    *[("messages", value) for value in ([], "Hi", None)],
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: repr(value)[:12])
@fault(
    "A field has the wrong type, or a limit that can't be meant",
    "400 invalid_request",
    "none",
    log={"reason": "bad_param", "hold_n": 0},
    note="`param` names it",
)
async def test_a_wrong_field_is_named(scene: Scene, upstream: FakeUpstream, name: str, value: Any) -> None:
    await scene.start(one_upstream(upstream.base_url))
    told = await scene.call({**WHOLE, name: value})
    assert told.error["param"] == name
    assert upstream.asked == []


@pytest.mark.parametrize("limits", [(50, 500), (500, 50)])
@fault(
    "`max_tokens` and `max_completion_tokens` disagree",
    JSON,
    "usage",
    log={"hold_n": ...},
    note="the larger one is held",
)
async def test_the_larger_of_two_limits_is_held(
    scene: Scene, upstream: FakeUpstream, limits: tuple[int, int]
) -> None:
    await scene.start(one_upstream(upstream.base_url))
    body = {**WHOLE, "max_tokens": limits[0], "max_completion_tokens": limits[1]}
    await scene.call(body)
    assert scene.lines[-1]["hold_n"] == len(orjson.dumps(body)) * 3_000 + 500 * 15_000


ZIPPED = gzip.compress(orjson.dumps(WHOLE))
INFLATING = "body_encodings: [gzip]\nmax_body_mib: 1\n"


@pytest.mark.parametrize(
    ("config", "coding", "body", "client"),
    [
        ("", "gzip", ZIPPED, "415 unsupported_media_type"),
        ("", "br", b"x", "415 unsupported_media_type"),
        (INFLATING, "br", b"x", "415 unsupported_media_type"),
        (INFLATING, "gzip", ZIPPED[:-9], "400 invalid_request"),
        (INFLATING, "gzip", b"x" * 50, "400 invalid_request"),
        (INFLATING, "gzip", gzip.compress(b" " * 2**22), "413 request_too_large"),
    ],
    ids=["switched off", "unknown, switched off", "unknown", "cut", "corrupt", "bomb"],
)
@fault(
    "The body is compressed: in a way that is not taken, corrupt, or a bomb",
    ("415 unsupported_media_type", "400 invalid_request", "413 request_too_large"),
    "none",
    log={"hold_n": 0, "model": None},
    note="inflated only where `body_encodings` says so, and never beyond `max_body_mib`",
)
async def test_a_compressed_body_is_taken_within_bounds_or_refused(
    scene: Scene, upstream: FakeUpstream, config: str, coding: str, body: bytes, client: str
) -> None:
    await scene.start(config + one_upstream(upstream.base_url))
    assert str(await scene.call(body, f"Content-Encoding: {coding}")) == client
    assert upstream.asked == []


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/json; charset=x",
    ],
)
@fault(
    "The body is not said to be JSON, or in a charset that is not UTF-8",
    "415 unsupported_media_type",
    "none",
    log={"reason": ("content_type", "charset")},
)
async def test_a_body_that_is_not_said_to_be_json_is_a_415(
    scene: Scene, upstream: FakeUpstream, content_type: str
) -> None:
    await scene.start(one_upstream(upstream.base_url))
    await scene.call(WHOLE, content_type=content_type)
    assert upstream.asked == []
