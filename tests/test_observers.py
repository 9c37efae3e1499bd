"""Observers: one log line an exchange, without a secret."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest

from tokenhub_proxy.calls import parse
from tokenhub_proxy.errors import InvalidApiKey, UpstreamUnavailable
from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.keys import Key
from tokenhub_proxy.ledger import Ending, Hold
from tokenhub_proxy.observers import JsonLog, TextLog, fields, log_to
from tokenhub_proxy.prices import Usage

KEY = Key("key_1", "laptop", "main", b"secret-digest")
CANARY = "canary-of-the-prompt"
BODY = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": CANARY}]})


def served(**changes: Any) -> Exchange:
    """A call that was answered and settled."""
    hold = Hold("req_1", KEY, "m", 5000, 1000.0, id=1, ending=Ending("settled", 1002.0))
    members: dict[str, Any] = {
        "key": KEY,
        "call": parse(BODY, "chat"),
        "upstream": "up",
        "attempts": ["up:200"],
        "status": 200,
        "usage": Usage(input=10, cached=5, output=20, reported=True),
        "cost": 4000,
        "hold": hold,
        "bytes_in": 80,
        "bytes_out": 900,
        "first_byte_s": 50.25,
        "ended_s": 52.5,
        **changes,
    }
    return Exchange("req_1", "chat", 1000.1234567, 50.0, "192.0.2.1", **members)


def line(exchange: Exchange) -> dict[str, Any]:
    stream = io.StringIO()
    JsonLog(stream)(exchange)
    written = stream.getvalue()
    assert written.endswith("\n")
    assert written.count("\n") == 1
    return dict(orjson.loads(written))


def test_the_line_of_an_answered_call() -> None:
    assert line(served()) == {
        "event": "request_end",
        "id": "req_1",
        "at": 1000.123,
        "key_id": "key_1",
        "endpoint": "chat",
        "model": "m",
        "upstream": "up",
        "status": 200,
        "code": None,
        "bytes_in": 80,
        "bytes_out": 900,
        "ttfb_ms": 250,
        "dur_ms": 2500,
        "hold_n": 5000,
        "charge_n": 4000,
        "billing": "usage",
        "reason": None,
    }


def test_the_line_of_a_call_that_never_had_a_key() -> None:
    found = line(
        Exchange("req_2", "chat", 1.0, 0.0, error=InvalidApiKey("unknown"), status=401, ended_s=0.01)
    )
    assert (found["status"], found["code"], found["reason"]) == (401, "invalid_api_key", "unknown")
    assert (found["key_id"], found["model"], found["upstream"], found["billing"]) == (
        None,
        None,
        None,
        "none",
    )
    assert found["attempts"] == []


def test_a_hold_that_was_never_placed_held_nothing() -> None:
    refused = served(hold=Hold("req_1", KEY, "m", 5000, 1000.0), cost=0)
    assert (line(refused)["hold_n"], line(refused)["billing"]) == (0, "none")


def test_a_fallback_and_the_dialect_s_notes_are_told() -> None:
    found = line(served(attempts=["a:refused", "up:200"], notes={"missing_done": 1}))
    assert found["attempts"] == ["a:refused", "up:200"]
    assert found["missing_done"] == 1


def test_a_client_that_left_is_a_499_with_the_phase() -> None:
    found = line(served(gone="stream"))
    assert (found["status"], found["reason"]) == (499, "stream")


def test_a_cost_above_the_hold_is_charged_up_to_it_and_flagged() -> None:
    found = line(served(cost=5001))
    assert (found["charge_n"], found["hold_exceeded"], found["writeoff_n"]) == (5000, 1, 1)
    assert "hold_exceeded" not in line(served(cost=5000))


def test_an_absurd_cost_still_makes_a_line() -> None:
    assert line(served(cost=10**30))["charge_n"] == 5000


@pytest.mark.parametrize("log", [JsonLog, TextLog])
def test_no_prompt_and_no_digest_is_in_a_line(log: Any) -> None:
    stream = io.StringIO()
    log(stream)(served(error=UpstreamUnavailable(kind="reset_read")))
    assert CANARY not in stream.getvalue()
    assert "secret-digest" not in stream.getvalue()
    assert CANARY not in repr(fields(served()))


def test_the_line_for_people() -> None:
    stream = io.StringIO()
    TextLog(stream)(served())
    assert stream.getvalue() == "200 laptop m → up 2500 ms, 15+20 tokens, usage req_1\n"
    stream = io.StringIO()
    TextLog(stream)(Exchange("req_2", "chat", 1.0, 0.0, error=InvalidApiKey("unknown"), ended_s=0.01))
    assert stream.getvalue() == "401 - chat → - 10 ms, 0+0 tokens, none invalid_api_key (unknown) req_2\n"


@pytest.mark.parametrize("log", [JsonLog, TextLog])
def test_a_stream_that_knows_no_unicode_gets_escapes(log: Any) -> None:
    body = orjson.dumps({"model": "модель", "messages": [{"role": "user", "content": "x"}]})
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii")
    log(stream)(served(call=parse(body, "chat")))
    assert b"\\u043c" in written.getvalue()


class Full(io.StringIO):
    """A log on a full disk."""

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("log", [JsonLog, TextLog])
def test_a_log_that_can_t_be_written_fails_no_request(log: Any) -> None:
    log(Full())(served())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "form", "log"),
    [
        (io.StringIO(), "auto", JsonLog),
        (Terminal(), "auto", TextLog),
        (Terminal(), "json", JsonLog),
        (io.StringIO(), "text", TextLog),
        (Terminal(), "off", type(None)),
    ],
)
def test_the_form_of_the_log_is_as_configured(stream: io.StringIO, form: str, log: type) -> None:
    assert type(log_to(stream, form)) is log
