"""Short ways to say whom a test asks, and to read the whole of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.chaos import Peer
from tokenhub_proxy import looks
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.routes import Timeouts, Upstream
from tokenhub_proxy.transports.live import Live
from tokenhub_proxy.wire import Outgoing

HEADERS = (("Authorization", "Bearer sk-upstream"), ("Content-Type", "application/json"))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
    retried: bool


def outgoing(url: str, body: bytes = b'{"model": "m"}', **row: Any) -> Outgoing:
    """A request to an upstream with this base_url; `row` holds more fields of the upstream."""
    row.setdefault("timeouts", Timeouts(connect_s=5.0, first_byte_s=5.0, idle_s=5.0))
    upstream = Upstream(name="up", dialect="openai", base_url=url, **row)
    return Outgoing(upstream, "/chat/completions", HEADERS, body)


async def ask(live: Live, request: Outgoing) -> Answer:
    """The whole answer. Raises what `send` and `pump` raise."""
    async with live.send(request) as incoming:
        pieces: list[bytes] = []
        ended = await incoming.pump(pieces.append)
        assert ended
        return Answer(incoming.status, incoming.headers, b"".join(pieces), incoming.retried)


async def failing(live: Live, asked: Outgoing) -> tuple[UpstreamUnavailable, bytes]:
    """The refusal that a call ends in, and what of the body came before it."""
    pieces: list[bytes] = []
    with pytest.raises(UpstreamUnavailable) as caught:
        async with live.send(asked) as incoming:
            await incoming.pump(pieces.append)
    return caught.value, b"".join(pieces)


async def upstream_has_the_request(peers: list[Peer]) -> None:
    """Wait until the first connection has brought a whole request."""
    while not (peers and peers[0].requests):
        await asyncio.sleep(0.005)


async def every_call_was_looked_at(live: Live) -> None:
    """Wait for a whole round of looks to come, so that what they could have done is done."""
    async with asyncio.timeout(10):
        for _ in range(looks.TURNS + 1):
            turn = live._turn
            while live._turn == turn:
                await asyncio.sleep(0.001)
