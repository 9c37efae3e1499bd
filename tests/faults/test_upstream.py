"""An upstream that fails before its answer has begun: nothing is committed, nothing is charged."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import trustme

from tests import chaos
from tests.conftest import one_upstream
from tests.faults.scene import (
    COMPLETE,
    COST,
    JSON,
    RETRY_FORBIDDEN,
    WHOLE,
    Scene,
    fault,
    parsed,
    request,
    say,
)
from tests.test_relay_fallback import free_port
from tests.test_server import MESSAGES
from tests.upstream import FakeUpstream, Says, json_says, whole

UNAVAILABLE = "502 upstream_unavailable"
PAGE = b"<html><body>Bad gateway</body></html>"
# What an upstream says of the operator, and no client may read.
WORDS = "limit of org-acme1234567 of Acme Ltd"


def one(url: str, **timeouts: float) -> str:
    """A config with one upstream of these timeouts."""
    written = ", ".join(f"{name}: {seconds}" for name, seconds in timeouts.items())
    return one_upstream(url + "/v1").replace("api_key:", f"timeouts: {{{written}}}, api_key:")


async def passed_over(scene: Scene, url: str, outcome: str, **timeouts: float) -> None:
    """With another target behind it, the same fault is nothing that a client notices."""
    healthy = FakeUpstream()
    await healthy.start()
    first = one(url, **timeouts)
    second = f'  second: {{dialect: openai, base_url: "{healthy.base_url}"}}\n'
    text = first.replace("  demo: {dialect", second + "  demo: {dialect").replace(
        "targets: [{upstream: up, model: real-m}]",
        "targets: [{upstream: up, model: real-m}, {upstream: second, model: real-m, priority: 2}]",
    )
    running = await scene.start(text)
    told = parsed(await say(running.port, request({"model": "m", "messages": MESSAGES, "stream": True})))
    assert str(told) == COMPLETE
    assert scene.lines[-1]["attempts"] == [f"up:{outcome}", "second:200"]
    assert await scene.billing(scene.lines[-1]) == "usage"
    assert await scene.charged() == COST
    assert len(healthy.asked) == 1
    await healthy.stop()


def error_says(status: int, code: str | None = None, **headers: str) -> Says:
    return json_says(
        orjson.dumps({"error": {"message": WORDS, "type": "x", "code": code}}), status, **headers
    )


def clean(told: Any) -> None:
    """No word of the upstream's is in the answer."""
    said = (str(dict(told.headers)).encode() + told.body).lower()
    for word in (b"acme", b"<html", b"gateway<", b"sk-upstream", b"real-m", b"127.0.0.1"):
        assert word not in said


# --- no connection


@fault(
    "The upstream's name can't be resolved",
    UNAVAILABLE,
    "void",
    log={"reason": "dns", "attempts": ["up:dns"]},
    note="another target answers, where there is one",
)
async def test_a_name_that_can_not_be_resolved_is_told_as_502_and_costs_nothing(scene: Scene) -> None:
    await scene.start(one("http://nowhere.invalid"))
    told = await scene.call()
    assert "x-should-retry" not in told.headers
    await passed_over(scene, "http://nowhere.invalid", "dns")


@fault(
    "The upstream refuses the connection",
    UNAVAILABLE,
    "void",
    log={"reason": "refused", "attempts": ["up:refused"]},
    note="another target answers, where there is one",
)
async def test_an_upstream_that_refuses_the_connection_is_told_as_502_and_costs_nothing(scene: Scene) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    await scene.start(one(url))
    told = await scene.call()
    assert "x-should-retry" not in told.headers
    await passed_over(scene, url, "refused")


@fault(
    "The upstream never answers the connection (`timeouts.connect`)",
    UNAVAILABLE,
    "void",
    log={"reason": "connect_timeout", "attempts": ["up:connect_timeout"]},
    note="another target answers, where there is one",
)
async def test_a_connection_that_nobody_answers_is_given_up_in_time_and_costs_nothing(scene: Scene) -> None:
    with chaos.unanswered() as (host, port):
        await scene.start(one(f"http://{host}:{port}", connect=0.3))
        async with asyncio.timeout(3):
            told = await scene.call()
        assert "x-should-retry" not in told.headers
        await passed_over(scene, f"http://{host}:{port}", "connect_timeout", connect=0.3)


@contextlib.asynccontextmanager
async def certified(ca: trustme.CA, *names: str, **options: Any) -> AsyncIterator[chaos.Chaos]:
    """An upstream behind TLS whose certificate has these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names, **options).configure_cert(context)
    async with chaos.serve([chaos.request(), chaos.send(chaos.answer(whole()))], tls=context) as up:
        yield up


@pytest.mark.parametrize("trouble", ["expired", "another host", "an unknown authority"])
@fault(
    "The upstream's certificate is expired, names another host, or comes from an unknown authority",
    UNAVAILABLE,
    "void",
    log={"reason": "tls_verify", "attempts": ["up:tls_verify"]},
    events=["ERROR", "tls_verify upstream=up"],
    note="there is no switch that turns the check off",
)
async def test_a_certificate_that_can_not_be_verified_is_never_spoken_to(
    scene: Scene, trouble: str, tmp_path: Any
) -> None:
    ca = trustme.CA()
    (tmp_path / "ca.pem").write_bytes(ca.cert_pem.bytes())
    names = ["elsewhere.test"] if trouble == "another host" else ["127.0.0.1"]
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    options = {"not_after": past} if trouble == "expired" else {}
    async with certified(ca, *names, **options) as up:
        text = one(up.url)
        if trouble != "an unknown authority":
            text = text.replace("api_key:", f"ca_file: {tmp_path / 'ca.pem'}, api_key:")
        await scene.start(text)
        await scene.call()
        assert [bytes(peer.received) for peer in up.peers] in ([b""], [])


@fault(
    "The upstream accepts the connection and never answers the TLS handshake",
    UNAVAILABLE,
    "void",
    log={"reason": "tls_timeout", "attempts": ["up:tls_timeout"]},
)
async def test_a_tls_handshake_that_is_never_answered_is_given_up_in_time(scene: Scene) -> None:
    async with chaos.serve([]) as up:
        await scene.start(one(up.url.replace("http://", "https://"), connect=0.4))
        async with asyncio.timeout(3):
            await scene.call()


@pytest.mark.parametrize("second", ["answers", "dies too"])
@fault(
    "A kept connection turns out to be dead, not a byte of an answer has come",
    (JSON, UNAVAILABLE),
    ("usage", "void"),
    log={"retried": 1},
    note="sent once more on a new connection: one hold, one charge; "
    "if that fails too: `x-should-retry: false` and `reason=stale_conn`",
)
async def test_a_dead_connection_is_replaced_once_and_charged_once(scene: Scene, second: str) -> None:
    good = chaos.send(chaos.answer(whole(), headers=["Content-Type: application/json"]))
    again = good if second == "answers" else chaos.close()
    async with chaos.serve(
        [chaos.request(), good, chaos.request(), chaos.close()], [chaos.request(), again]
    ) as up:
        running = await scene.start(one(up.url))
        await say(running.port, request(WHOLE))

        told = await scene.call(WHOLE)

        assert len(up.peers) == 2
    line = scene.lines[-1]
    if second == "answers":
        assert str(told) == JSON
        assert await scene.charged() == COST
    else:
        assert (str(told), told.headers["x-should-retry"]) == (UNAVAILABLE, "false")
        assert (line["reason"], line["cost_at_risk"]) == ("stale_conn", 1)


@fault(
    "The connection is reset while the request is being sent",
    UNAVAILABLE,
    "void",
    headers=RETRY_FORBIDDEN,
    log={"reason": "reset_send", "attempts": ["up:reset_send"], "cost_at_risk": 1},
)
async def test_a_reset_while_the_request_is_sent_forbids_a_retry(scene: Scene) -> None:
    async with chaos.serve([chaos.receive(1), chaos.deaf(), chaos.pause(0.05), chaos.reset()]) as up:
        await scene.start(one(up.url))
        await scene.call({**WHOLE, "messages": [{"role": "user", "content": "x" * 12_000_000}]})


@fault(
    "The upstream sends no head in time (`timeouts.first_byte`)",
    UNAVAILABLE,
    "void",
    headers=RETRY_FORBIDDEN,
    log={"reason": "ttfb_timeout", "attempts": ["up:ttfb_timeout"], "cost_at_risk": 1},
    note="the upstream's connection is closed",
)
async def test_an_upstream_without_a_head_in_time_is_closed_and_a_retry_forbidden(scene: Scene) -> None:
    async with chaos.serve([chaos.request()]) as up:
        await scene.start(one(up.url, first_byte=0.3))
        async with asyncio.timeout(3):
            await scene.call()
        await up.peers[0].gone()
