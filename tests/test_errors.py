"""Refusals: their status, their code, the body and the headers a client reads."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenhub_proxy import errors
from tokenhub_proxy.errors import ProxyError

REFUSALS: list[tuple[ProxyError, int, str]] = [
    (errors.InvalidRequest("m"), 400, "invalid_request"),
    (errors.InvalidApiKey("r"), 401, "invalid_api_key"),
    (errors.InsufficientQuota("m"), 402, "insufficient_quota"),
    (errors.ModelNotAllowed("m"), 403, "model_not_allowed"),
    (errors.IpNotAllowed("m"), 403, "ip_not_allowed"),
    (errors.ModelNotFound("m"), 404, "model_not_found"),
    (errors.NotFound("m"), 404, "not_found"),
    (errors.MethodNotAllowed("m", allowed="GET"), 405, "method_not_allowed"),
    (errors.RequestTimeout("m"), 408, "request_timeout"),
    (errors.IdempotencyConflict("m"), 409, "idempotency_conflict"),
    (errors.RequestTooLarge("m"), 413, "request_too_large"),
    (errors.UnsupportedMediaType("m"), 415, "unsupported_media_type"),
    (errors.RateLimited("m"), 429, "rate_limited"),
    (errors.InternalError(), 500, "internal_error"),
    (errors.UpstreamUnavailable(kind="refused"), 502, "upstream_unavailable"),
    (errors.LoopDetected(), 502, "upstream_unavailable"),
    (errors.LedgerUnavailable("r"), 503, "ledger_unavailable"),
    (errors.ShuttingDown(), 503, "shutting_down"),
    (errors.Overloaded(), 503, "overloaded"),
]


@pytest.mark.parametrize(("error", "status", "code"), REFUSALS, ids=lambda value: str(value))
def test_a_refusal_has_the_status_and_the_code_of_the_contract(
    error: ProxyError, status: int, code: str
) -> None:
    assert (error.http_status, error.code) == (status, code)


def test_every_refusal_is_in_the_table() -> None:
    named = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ProxyError)
    }
    assert named - {ProxyError} == {type(error) for error, _, _ in REFUSALS}


@pytest.mark.parametrize("error", [error for error, _, _ in REFUSALS], ids=lambda error: error.code)
def test_the_body_has_exactly_the_five_members(error: ProxyError) -> None:
    body = orjson.loads(error.body("req_1"))
    assert list(body) == ["error"]
    assert list(body["error"]) == ["code", "message", "type", "param", "request_id"]
    assert body["error"]["request_id"] == "req_1"
    assert body["error"]["message"]
    assert body["error"]["param"] is None


def test_every_bad_key_gets_the_same_body() -> None:
    reasons = ["missing", "malformed", "unknown", "revoked", "expired", "two Authorization headers"]
    answers = [errors.InvalidApiKey(reason) for reason in reasons]
    assert len({error.body("req_1") for error in answers}) == 1
    assert all(error.headers() == answers[0].headers() for error in answers)
    assert [error.reason for error in answers] == reasons


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "1"), (0.2, "1"), (1, "1"), (1.001, "2"), (59.9, "60"), (60, "60")]
)
def test_retry_after_is_whole_seconds_never_too_few_and_never_zero(seconds: float, told: str) -> None:
    error = errors.RateLimited("m", retry_after_s=seconds)
    assert error.headers() == {"Retry-After": told}


@given(st.floats(0, 1e6))
def test_retry_after_never_ends_before_the_wait(seconds: float) -> None:
    told = int(errors.RateLimited("m", retry_after_s=seconds).headers()["Retry-After"])
    assert told >= seconds
    assert 1 <= told < seconds + 1 or told == 1


def test_what_the_upstream_may_have_done_is_not_asked_for_again() -> None:
    assert errors.UpstreamUnavailable(kind="idle", executed=True).headers() == {"x-should-retry": "false"}
    assert errors.UpstreamUnavailable(kind="refused").headers() == {}
    assert errors.InternalError().headers() == {"x-should-retry": "false"}
    assert errors.InsufficientQuota("m").headers() == {"x-should-retry": "false"}
    assert errors.ProxyError("m", should_retry=True).headers() == {"x-should-retry": "true"}


def test_a_wrong_method_is_told_the_right_ones() -> None:
    assert errors.MethodNotAllowed("m", allowed="GET, HEAD").headers() == {"Allow": "GET, HEAD"}


def test_a_storage_failure_and_a_drain_say_when_to_come_back() -> None:
    assert errors.LedgerUnavailable("disk full").headers() == {"Retry-After": "5"}
    assert errors.ShuttingDown().headers() == {"Retry-After": "1"}
    assert "disk full" not in errors.LedgerUnavailable("disk full").message


def test_a_status_of_its_own_replaces_the_class_s() -> None:
    assert errors.InvalidRequest("m", status=417).http_status == 417


@given(st.text())
def test_a_shown_word_is_short_printable_and_fits_into_json(name: str) -> None:
    shown = errors.shown(name)
    assert shown.isprintable()
    assert len(shown) <= 80 * 10 + 2
    error = errors.ModelNotFound(f"The model {shown} does not exist.", param="model")
    assert orjson.loads(error.body("r"))["error"]["message"] == error.message


@given(st.text(st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF), min_size=1))
def test_bytes_that_are_no_text_can_be_shown(undecodable: str) -> None:
    error = errors.NotFound(f"No route {errors.shown(undecodable)}.")
    assert orjson.loads(error.body("r"))["error"]["message"] == error.message
