"""Upstreams whose answer is a refusal, or none."""

from __future__ import annotations

import re

import orjson
import pytest

from tests import chaos
from tests.conftest import one_upstream
from tests.faults.scene import (
    COST,
    JSON,
    RETRY_FORBIDDEN,
    SECONDS,
    WHOLE,
    Scene,
    fault,
    parsed,
    request,
    say,
)
from tests.faults.test_upstream import (
    PAGE,
    UNAVAILABLE,
    WORDS,
    clean,
    error_says,
    one,
    passed_over,
)
from tests.upstream import FakeUpstream, Says, json_says, stream_says, whole
from tokenhub_proxy.health import FAILURES_MAX, UNPAID_S

# --- an answer that is a refusal


@pytest.mark.parametrize(("asked", "told_s"), [("7", "7"), ("0", "1"), ("9999", "120")])
@fault(
    "The upstream answers 429 with `Retry-After`",
    UNAVAILABLE,
    "void",
    headers={"retry-after": SECONDS, "x-should-retry": None},
    log={"upstream_status": 429, "attempts": ["up:429"]},
    note="another credential or target answers, where there is one; the wait is kept between 1 and 120 s, "
    "the upstream's words stay here",
)
async def test_an_upstreams_429_is_no_429_of_ours_and_keeps_its_words(
    scene: Scene, upstream: FakeUpstream, asked: str, told_s: str
) -> None:
    upstream.says = lambda _: error_says(429, **{"Retry-After": asked})
    await scene.start(one_upstream(upstream.base_url))
    told = await scene.call()
    assert told.headers["retry-after"] == told_s
    assert not [name for name in told.headers if name.startswith("x-ratelimit")]
    clean(told)
    await passed_over(scene, upstream.base_url.removesuffix("/v1"), "429")


@pytest.mark.parametrize("status", [401, 403])
@fault(
    "The upstream refuses our credential (401, 403)",
    UNAVAILABLE,
    "void",
    log={"upstream_status": (401, 403)},
    events=["ERROR", "upstream_auth upstream=up"],
    note="never a 401: the client's key is good",
)
async def test_a_refused_credential_is_the_operators_alarm_and_not_the_clients_401(
    scene: Scene, upstream: FakeUpstream, status: int
) -> None:
    upstream.says = lambda _: error_says(status)
    await scene.start(one_upstream(upstream.base_url))
    clean(await scene.call())
    assert scene.lines[-1]["attempts"] == [f"up:{status}"]


@pytest.mark.parametrize("says", [error_says(402), error_says(429, "insufficient_quota")])
@fault(
    "The upstream's account is out of credit (402, or 429 with a quota code and no `Retry-After`)",
    UNAVAILABLE,
    "void",
    log={"upstream_status": (402, 429)},
    events=["ERROR", "upstream_quota upstream=up"],
    note="the credential is left alone for minutes, and the next call is refused at once",
)
async def test_an_upstream_out_of_credit_is_told_to_the_operator_and_left_alone(
    scene: Scene, upstream: FakeUpstream, says: Says
) -> None:
    upstream.says = lambda _: says
    running = await scene.start(one_upstream(upstream.base_url))
    clean(await scene.call())

    again = parsed(await say(running.port, request(WHOLE)))

    assert str(again) == UNAVAILABLE
    assert UNPAID_S - 5 < int(again.headers["retry-after"]) <= UNPAID_S
    assert len(upstream.asked) == 1
    assert scene.lines[-1]["billing"] == "none"


@pytest.mark.parametrize("status", [400, 422])
@fault(
    "The upstream finds fault with the request (400, 422)",
    "400 invalid_request",
    "void",
    log={"reason": re.compile(r"upstream_status=4\d\d")},
    note="its message in one line, without what looks like a secret; no other target is asked",
)
async def test_a_fault_of_the_request_is_told_in_the_upstreams_cleaned_words(
    scene: Scene, upstream: FakeUpstream, status: int
) -> None:
    words = {"message": "Unknown\r\nfield for sk-abcdefghijkl", "param": "x", "type": "invalid_request_error"}
    upstream.says = lambda _: json_says(orjson.dumps({"error": words}), status)
    await scene.start(one_upstream(upstream.base_url))
    told = await scene.call()
    assert (told.error["message"], told.error["param"]) == ("Unknown field for [redacted]", "x")
    assert scene.lines[-1]["reason"] == f"upstream_status={status}"


@fault(
    "The upstream does not know the configured model (404)",
    UNAVAILABLE,
    "void",
    log={"upstream_status": 404, "attempts": ["up:404"]},
    events=["ERROR", "config_mapping upstream=up"],
)
async def test_a_model_that_the_upstream_does_not_know_is_the_operators_mistake(
    scene: Scene, upstream: FakeUpstream
) -> None:
    upstream.says = lambda _: error_says(404)
    await scene.start(one_upstream(upstream.base_url))
    clean(await scene.call())


@fault(
    "The request is too large for the upstream (413)",
    "413 request_too_large",
    "void",
    log={"reason": "upstream_status=413", "attempts": ["up:413"]},
)
async def test_a_request_too_large_for_the_upstream_is_a_413(scene: Scene, upstream: FakeUpstream) -> None:
    upstream.says = lambda _: error_says(413)
    await scene.start(one_upstream(upstream.base_url))
    clean(await scene.call())


@pytest.mark.parametrize("status", [500, 503, 529])
@fault(
    "The upstream answers 500, 503 or 529",
    UNAVAILABLE,
    "void",
    headers={"retry-after": SECONDS},
    log={"upstream_status": (500, 503, 529)},
    note="another target answers, where there is one; `Retry-After` where the upstream told one",
)
async def test_an_upstreams_5xx_is_a_502_with_its_retry_after(
    scene: Scene, upstream: FakeUpstream, status: int
) -> None:
    upstream.says = lambda _: error_says(status, **{"Retry-After": "9"})
    await scene.start(one_upstream(upstream.base_url))
    told = await scene.call()
    assert told.headers["retry-after"] == "9"
    clean(told)
    await passed_over(scene, upstream.base_url.removesuffix("/v1"), str(status))


@pytest.mark.parametrize("status", [502, 520, 522, 524])
@fault(
    "A CDN answers in the upstream's place, with a page (502, 520, 522, 524)",
    UNAVAILABLE,
    "void",
    log={"html": 1, "cf_ray": "8f00-FRA", "upstream_status": (502, 520, 522, 524)},
    note="the page stays here",
)
async def test_a_cdns_error_page_is_never_relayed(scene: Scene, upstream: FakeUpstream, status: int) -> None:
    upstream.says = lambda _: Says([PAGE], status, {"Content-Type": "text/html", "CF-RAY": "8f00-FRA"})
    await scene.start(one_upstream(upstream.base_url))
    clean(await scene.call())


# --- a 200 that is none


@fault(
    "The upstream answers 200 with an HTML page",
    UNAVAILABLE,
    "void",
    headers=RETRY_FORBIDDEN,
    log={"reason": "content_type", "attempts": ["up:content_type"]},
    note="an SDK would take it for an empty success",
)
async def test_a_page_under_a_200_is_a_502(scene: Scene, upstream: FakeUpstream) -> None:
    upstream.says = lambda _: Says([PAGE], 200, {"Content-Type": "text/html"})
    await scene.start(one_upstream(upstream.base_url))
    clean(await scene.call())


@pytest.mark.parametrize(
    ("error", "client"),
    [
        ({"message": WORDS, "type": "server_error"}, UNAVAILABLE),
        ({"message": "too many tokens", "type": "invalid_request_error"}, "400 invalid_request"),
    ],
)
@fault(
    "The upstream answers a stream request with 200 and a JSON error",
    (UNAVAILABLE, "400 invalid_request"),
    "void",
    log={"reason": "error_in_200", "attempts": ["up:error_in_200"]},
    note="400 where the error finds fault with the request",
)
async def test_a_json_error_under_a_200_is_what_it_means(
    scene: Scene, upstream: FakeUpstream, error: dict[str, str], client: str
) -> None:
    upstream.says = lambda _: json_says(orjson.dumps({"error": error}))
    await scene.start(one_upstream(upstream.base_url))
    told = await scene.call()
    assert str(told) == client
    clean(told)


@fault(
    "The upstream answers a stream request with a whole completion",
    JSON,
    "usage",
    log={"not_streamed": 1, "status": 200},
    note="relayed as it is",
)
async def test_a_whole_completion_for_a_stream_request_is_relayed_as_json(
    scene: Scene, upstream: FakeUpstream
) -> None:
    upstream.says = lambda _: json_says(whole())
    await scene.start(one_upstream(upstream.base_url))
    told = await scene.call()
    assert told.body == whole()
    assert await scene.charged() == COST


@pytest.mark.parametrize("body", ["short", "invalid"])
@fault(
    "A whole answer is shorter than promised, or no JSON",
    UNAVAILABLE,
    "void",
    headers=RETRY_FORBIDDEN,
    log={"reason": ("short_body", "bad_json"), "cost_at_risk": 1},
)
async def test_a_whole_answer_that_is_broken_is_a_502_that_forbids_a_retry(scene: Scene, body: str) -> None:
    good = chaos.answer(whole(), headers=["Content-Type: application/json"])
    broken = chaos.answer(whole()[:-9], headers=["Content-Type: application/json"])
    answer = good[:-9] if body == "short" else broken
    async with chaos.serve([chaos.request(), chaos.send(answer), chaos.close()]) as up:
        await scene.start(one(up.url))
        await scene.call(WHOLE)
    assert scene.lines[-1]["reason"] == ("short_body" if body == "short" else "bad_json")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@fault(
    "The upstream answers with a redirect",
    UNAVAILABLE,
    "void",
    log={"redirect_host": re.compile(r"127\.0\.0\.1:\d+"), "upstream_status": (301, 302, 303, 307, 308)},
    note="its target is not contacted: the key would go there",
)
async def test_a_redirect_is_not_followed(scene: Scene, upstream: FakeUpstream, status: int) -> None:
    async with chaos.serve([]) as elsewhere:
        location = f"{elsewhere.url}/v1/chat/completions"
        upstream.says = lambda _: Says([], status, {"Location": location})
        await scene.start(one_upstream(upstream.base_url))
        told = await scene.call()
        assert "location" not in told.headers
        assert elsewhere.peers == []


@pytest.mark.parametrize("head", ["a long header", "many headers"])
@fault(
    "The upstream's head has a header over 8,190 bytes, or more than 128 of them",
    UNAVAILABLE,
    "void",
    headers=RETRY_FORBIDDEN,
    log={"reason": "headers", "attempts": ["up:headers"]},
)
async def test_a_head_beyond_the_bounds_is_a_502(scene: Scene, head: str) -> None:
    headers = ["X: " + "a" * 9000] if head == "a long header" else [f"X-{n}: y" for n in range(200)]
    async with chaos.serve([chaos.request(), chaos.send(chaos.answer(whole(), headers=headers))]) as up:
        await scene.start(one(up.url))
        await scene.call(WHOLE)


@pytest.mark.parametrize(
    ("first", "client"),
    [
        (b"HTTP/1.1 204 No Content\r\nContent-Type: application/json\r\n\r\n", UNAVAILABLE),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n{}", UNAVAILABLE),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", UNAVAILABLE),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", JSON),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n", JSON),
    ],
    ids=["204", "204 with a body", "101", "103", "100 and 102"],
)
@fault(
    "The upstream answers 204, switches protocols, or sends interim answers first",
    (UNAVAILABLE, JSON),
    ("void", "usage"),
    log={"status": (502, 200)},
    note="interim answers are skipped",
)
async def test_a_head_without_an_answer_is_a_502_and_interim_ones_are_skipped(
    scene: Scene, first: bytes, client: str
) -> None:
    good = chaos.answer(whole(), headers=["Content-Type: application/json"])
    answer = first + (good if client == JSON else b"")
    async with chaos.serve([chaos.request(), chaos.send(answer)]) as up:
        await scene.start(one(up.url))
        assert str(await scene.call(WHOLE)) == client


@fault(
    "The first event of a stream is an error (an overload under a 200)",
    UNAVAILABLE,
    "void",
    log={"reason": "error_in_200", "error_first_event": 1},
    note="nothing is committed before the first event: another target answers, where there is one",
)
async def test_an_error_as_the_first_event_is_an_http_error(scene: Scene, upstream: FakeUpstream) -> None:
    event = b"data: " + orjson.dumps({"error": {"message": WORDS, "code": 529}}) + b"\n\n"
    upstream.says = lambda _: stream_says([b": waiting\n\n", event])
    await scene.start(one_upstream(upstream.base_url))
    clean(await scene.call())
    await passed_over(scene, upstream.base_url.removesuffix("/v1"), "error_in_200")


@fault(
    "Every target of the model has failed so often that it is left alone",
    UNAVAILABLE,
    "none",
    headers={"retry-after": SECONDS},
    log={"reason": "breaker", "hold_n": 0},
    note="at once, without a call",
)
async def test_a_target_that_keeps_failing_is_refused_at_once_without_a_hold(
    scene: Scene, upstream: FakeUpstream
) -> None:
    upstream.says = lambda _: error_says(500)
    running = await scene.start(one_upstream(upstream.base_url))
    for _ in range(FAILURES_MAX):
        await say(running.port, request(WHOLE))
    await scene.call()
    assert len(upstream.asked) == FAILURES_MAX
