"""Observers: one log line an exchange, without a secret."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.served import ROOT
from tokenhub_proxy import readable
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


def noted(exchange: Exchange, **members: Any) -> Exchange:
    """An exchange to which this has happened."""
    for name, value in members.items():
        setattr(exchange, name, value)
    exchange.pay(exchange.cost)
    exchange.close(exchange.ended_s, exchange.bytes_out)
    return exchange


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
    return noted(Exchange("req_1", "chat", 1000.1234567, 50.0, "192.0.2.1"), **members)


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
        noted(Exchange("req_2", "chat", 1.0, 0.0), error=InvalidApiKey("unknown"), status=401, ended_s=0.01)
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


LINES = """\
00:16:42 200  laptop    m → up                 2.50s  250ms       15+20    $0.000004  req_1
00:18:45 200  laptop    m → up                 2m05s  12.3s 12.3k+4.56M   ~$0.000004  req_1
00:16:42 502  laptop    m → up                 2.50s  250ms                        -  upstream_unavailable (reset_read)  req_1
00:16:42 499  laptop    m → up                 2.50s  250ms       15+20    $0.000004  client_gone (stream)  req_1
00:00:01 401  -         chat                    10ms                               -  invalid_api_key (unknown)  req_2
"""  # noqa: E501


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def shown_to_people(*exchanges: Exchange, coloured: bool = False) -> str:
    stream = io.StringIO()
    log = TextLog(stream, coloured=coloured)
    for exchange in exchanges:
        log(exchange)
    return stream.getvalue()


@pytest.mark.usefixtures("utc")
def test_the_lines_for_people_line_up() -> None:
    released = Hold("req_1", KEY, "m", 5000, 1000.0, id=1, ending=Ending("released", 1002.0))
    estimated = Usage(input=12_345, output=4_560_000)
    assert (
        shown_to_people(
            served(),
            served(usage=estimated, first_byte_s=62.3, ended_s=175.0),
            served(
                error=UpstreamUnavailable(kind="reset_read"), status=502, cost=0, usage=Usage(), hold=released
            ),
            served(gone="stream"),
            noted(Exchange("req_2", "chat", 1.0, 0.0), error=InvalidApiKey("unknown"), ended_s=0.01),
        )
        == LINES
    )


@pytest.mark.usefixtures("utc")
def test_a_column_grows_up_to_its_bound_and_then_ends_in_an_ellipsis() -> None:
    long, longer = (Key("key_1", "k" * width, "main", b"") for width in (15, 40))
    first, second, third = shown_to_people(served(), served(key=long), served(key=longer)).splitlines()
    assert "  laptop    m" in first
    assert f"  {'k' * 15}  m" in second
    assert f"  {'k' * 19}…  m" in third


def test_who_was_asked_before_is_told() -> None:
    said = shown_to_people(served(attempts=["a:refused", "b:429", "up:200"]))
    assert said.endswith("  $0.000004  after a:refused, b:429  req_1\n")


def test_colours_change_nothing_of_what_is_said() -> None:
    exchanges = (served(), served(error=UpstreamUnavailable(kind="reset_read"), status=502))
    coloured = shown_to_people(*exchanges, coloured=True)
    assert re.sub(r"\x1b\[\d*m", "", coloured) == shown_to_people(*exchanges)
    assert "\x1b[32m200\x1b[0m" in coloured
    assert "\x1b[31m502\x1b[0m" in coloured


def test_a_client_s_word_moves_no_cursor() -> None:
    call = replace(parse(BODY, "chat"), model="\x1b[2Jm\u202e\nreq")
    said = shown_to_people(served(call=call))
    assert said.count("\n") == 1
    assert said.rstrip("\n").isprintable()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1.0, "0ms"), (0.0, "0ms"), (0.3104, "310ms"), (0.9994, "999ms"), (0.9996, "1.00s"), (9.99, "9.99s"),
        (9.996, "10.0s"), (99.94, "99.9s"), (99.96, "1m40s"), (3599.4, "59m59s"), (3599.6, "1h00m"),
        (172_799.0, "47h59m"), (172_800.0, "2d00h"),
    ],
)  # fmt: skip
def test_a_duration_is_short(seconds: float, said: str) -> None:
    assert readable.duration(seconds) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0"), (9999, "9999"), (10_000, "10k"), (12_345, "12.3k"), (99_960, "100k"), (999_499, "999k"),
        (999_500, "1M"), (4_560_000, "4.56M"), (10**9, "1G"), (10**18, "many"),
    ],
)  # fmt: skip
def test_a_count_is_short(number: int, said: str) -> None:
    assert readable.count(number) == said


@pytest.mark.parametrize(
    ("nanos", "said"),
    [
        (0, "$0.000000"), (1, "<$0.000001"), (500, "$0.000001"), (4_212_499, "$0.004212"),
        (4_212_500, "$0.004213"), (999_999_500, "$1.000000"), (12 * 10**9, "$12.000000"),
    ],
)  # fmt: skip
def test_an_amount_has_six_decimals(nanos: int, said: str) -> None:
    assert readable.dollars(nanos) == said


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


@pytest.mark.parametrize(
    ("stream", "environ", "coloured"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(stream: io.StringIO, environ: Any, coloured: bool) -> None:
    log = log_to(stream, "text", environ=environ)
    assert log is not None
    log(served())
    assert ("\x1b[" in stream.getvalue()) == coloured


def test_the_page_names_every_member_of_a_line() -> None:
    page = (ROOT / "docs/observability.md").read_text()
    told = fields(served(error=UpstreamUnavailable(kind="reset_read")))
    assert [name for name in told if name != "event" and f"`{name}`" not in page] == []
