"""Faults asked for by a request header: whose key may, and what becomes of a real upstream's answer."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests.conftest import KEY, Serve
from tests.upstream import FakeUpstream
from tokenhub_proxy.faults import HEADER

BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
OTHER = "sk-th-otherotherotherother"


def config(base_url: str) -> str:
    return f"""
upstreams: {{u: {{dialect: openai, base_url: "{base_url}"}}}}
models:
  m: {{targets: [{{upstream: u}}], price: {{input: 1.00, output: 2.00}}, defaults: {{seed: 1}}}}
keys:
  - {{name: tester, key: {KEY}, test: true}}
  - {{name: customer, key: {OTHER}}}
"""


async def ask(url: str, secret: str, fault: str) -> tuple[int, bytes, bool]:
    """The status, the body as far as it came, and whether it ended cleanly."""
    headers = {"Authorization": f"Bearer {secret}", HEADER: fault}
    said = b""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/chat/completions", json=BODY, headers=headers) as answer,
    ):
        try:
            async for data in answer.content.iter_any():
                said += data
        except aiohttp.ClientPayloadError:
            return answer.status, said, False
        return answer.status, said, True


@pytest.fixture
async def upstream_url(upstream: FakeUpstream) -> str:
    return upstream.base_url


async def test_a_test_key_breaks_a_real_upstreams_answer(serve: Serve, upstream_url: str) -> None:
    running = await serve(config(upstream_url))
    assert await ask(running.base_url, KEY, "pause-s=0") == (*(await ask(running.base_url, KEY, "seed=1")),)
    status, said, clean = await ask(running.base_url, KEY, "cut=1")
    assert (status, clean) == (200, False)
    assert b'"Hel"' in said
    assert b"upstream_unavailable" in said
    assert b"[DONE]" not in said
    assert running.exchanges[-1].billing == "estimate"


async def test_a_customers_key_may_not_ask_for_faults(
    serve: Serve, upstream: FakeUpstream, upstream_url: str
) -> None:
    running = await serve(config(upstream_url))
    status, said, _ = await ask(running.base_url, OTHER, "cut=1")
    assert status == 400
    assert b"Only keys made for tests" in said
    assert upstream.asked == []
    assert running.exchanges[-1].hold is None


async def test_a_fault_before_the_first_byte_is_an_http_error(serve: Serve, upstream_url: str) -> None:
    running: Any = await serve(config(upstream_url))
    assert (await ask(running.base_url, KEY, "cut=0"))[0] == 502
    assert (await ask(running.base_url, KEY, "html"))[0] == 502
    assert [exchange.charge for exchange in running.exchanges] == [0, 0]
