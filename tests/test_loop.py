"""A proxy whose upstream is itself: refused at the second round, and told to the operator."""

from __future__ import annotations

import socket

import pytest

from tests.conftest import KEY, Serve, one_upstream
from tests.test_server import MESSAGES, ask, error_of
from tests.upstream import FakeUpstream

PATH = "/v1/chat/completions"
CALL = {"model": "m", "messages": MESSAGES}


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_an_upstream_that_is_this_proxy_is_asked_once_and_no_more(serve: Serve, free_port: int) -> None:
    running = await serve(f"""
listen: 127.0.0.1:{free_port}
upstreams: {{up: {{dialect: openai, base_url: "http://127.0.0.1:{free_port}/v1", api_key: {KEY}}}}}
models: {{m: {{targets: [{{upstream: up}}], price: free}}}}
""")

    status, _, body = await ask(running, "POST", PATH, json=CALL)

    assert (status, error_of(body)["code"]) == (502, "upstream_unavailable")
    inner, outer = running.exchanges
    assert inner.error is not None
    assert (inner.error.reason, inner.billing, inner.attempts) == ("loop", "none", [])
    assert (outer.attempts, outer.billing) == (["up:502"], "void")


async def test_another_proxy_of_the_same_kind_is_an_upstream_like_any(
    serve: Serve, upstream: FakeUpstream
) -> None:
    behind = await serve(one_upstream(upstream.base_url))
    front = await serve(
        one_upstream(behind.base_url).replace("sk-upstream-secret", KEY).replace("real-m", "m")
    )

    assert (await ask(front, "POST", PATH, json=CALL))[0] == 200

    via = [asked.headers["Via"] for asked in upstream.asked]
    assert len(via) == 1
    assert via[0].startswith("1.1 tokenhub-proxy-")
    assert (await ask(front, "POST", PATH, json=CALL, headers={"Via": "1.1 nginx"}))[0] == 200
    status, _, body = await ask(behind, "POST", PATH, json=CALL, headers={"Via": f"1.1 nginx, {via[0]}"})
    assert (status, error_of(body)["message"]) == (
        502,
        "This request came from this proxy itself, whose upstream points at it.",
    )


async def test_a_stranger_learns_nothing_of_loops(serve: Serve, upstream: FakeUpstream) -> None:
    running = await serve(one_upstream(upstream.base_url))
    await ask(running, "POST", PATH, json=CALL)

    via = upstream.asked[0].headers["Via"]

    assert (await ask(running, "POST", PATH, json=CALL, headers={"Via": via}, key="sk-th-nobody"))[0] == 401
