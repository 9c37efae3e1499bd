"""One request is one request, however it is written; directly and behind nginx."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from tests.conftest import Running
from tests.nginx import free_port, nginx_running
from tests.payloads import BODY, HIDDEN, ONE, OTHER_VERSIONS, PLAIN, REFUSED
from tests.upstream import FakeUpstream

STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
# Far below the 30 s that a body may take: a refusal does not wait for what can't come.
ANSWER_S = 10.0

# Whoever serves a call, the verdicts are the same.
pytestmark = pytest.mark.usefixtures("front")


async def say(port: int, pieces: list[bytes]) -> bytes:
    """What is answered to these pieces until the connection closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = bytearray()

    async def read() -> None:
        # Read while sending: what we send into a closed connection resets it, answer and all.
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**16):
                said.extend(data)

    reading = asyncio.create_task(read())
    try:
        async with asyncio.timeout(ANSWER_S):
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    if writer.is_closing():
                        break
                    writer.write(piece)
                    await asyncio.sleep(0.02)
            await reading
    finally:
        reading.cancel()
        writer.close()
    return bytes(said)


def whole(payload: bytes) -> list[bytes]:
    return [payload]


def head_first(payload: bytes) -> list[bytes]:
    end = payload.find(b"\r\n\r\n") + 4
    return [payload[:end], payload[end:]]


def in_tenths(payload: bytes) -> list[bytes]:
    size = len(payload) // 10
    return [payload[start : start + size] for start in range(0, len(payload), size)]


CUTS = pytest.mark.parametrize("cut", [whole, head_first, in_tenths])


@CUTS
async def test_what_can_be_read_in_two_ways_gets_a_400_and_a_closed_connection(
    proxy: Running, upstream: FakeUpstream, cut
) -> None:
    async def ask(payload: bytes) -> list[bytes]:
        said = await say(proxy.port, cut(payload))
        head, _, body = said.partition(b"\r\n\r\n")
        error = orjson.loads(body)["error"]
        assert error["code"] == "invalid_request"
        assert f"x-request-id: {error['request_id']}".encode() in head.lower()
        return STATUS.findall(said)

    answers = await asyncio.gather(*map(ask, REFUSED.values()))

    found = dict(zip(REFUSED, answers, strict=True))
    # Without a version it is HTTP/0.9, where all of it comes at once a request with something behind it.
    assert found.pop("no version") in ([b"400"], [b"505"])
    assert {name: said for name, said in found.items() if said != [b"400"]} == {}
    assert upstream.asked == []


@pytest.mark.parametrize("name", OTHER_VERSIONS)
@CUTS
async def test_other_versions_of_http_are_not_spoken(
    proxy: Running, upstream: FakeUpstream, name: str, cut
) -> None:
    alone = OTHER_VERSIONS[name].removesuffix(HIDDEN)

    assert STATUS.findall(await say(proxy.port, cut(alone))) == [b"505"]
    assert STATUS.findall(await say(proxy.port, cut(OTHER_VERSIONS[name]))) in ([b"400"], [b"505"])
    assert upstream.asked == []


@CUTS
async def test_what_can_be_read_in_one_way_is_one_request(
    proxy: Running, upstream: FakeUpstream, cut
) -> None:
    closing = {
        name: payload.replace(b"\r\nHost:", b"\r\nConnection: close\r\nHost:", 1)
        for name, payload in ONE.items()
    }

    answers = await asyncio.gather(*[say(proxy.port, cut(payload)) for payload in closing.values()])

    found = dict(zip(ONE, map(STATUS.findall, answers), strict=True))
    assert {name: said for name, said in found.items() if said != [b"200"]} == {}
    assert len(upstream.asked) == len(ONE)
    assert all(asked.body["messages"] == orjson.loads(BODY)["messages"] for asked in upstream.asked)


async def test_nothing_is_served_behind_an_upgrade(proxy: Running, upstream: FakeUpstream) -> None:
    """The parser drops what shares a packet with it; half a request may not begin a new one."""
    for name, payload in ONE.items():
        if "upgrade" in name:
            upstream.asked.clear()
            carrier = PLAIN.replace(BODY, b"").replace(b"Content-Length: ", b"Content-Length: 9")

            said = await say(proxy.port, [payload + carrier, HIDDEN])

            assert STATUS.findall(said) == [b"200"], name
            assert b"connection: close" in said
            assert [asked.body["messages"][0]["content"] for asked in upstream.asked] == ["Hi"]


async def test_a_body_refused_in_its_middle_is_not_answered_twice(proxy: Running) -> None:
    """The key is refused before the body comes; the body's own fault is no second answer."""
    payload = REFUSED["a chunk's size with a sign"].replace(b"Bearer sk-th-", b"Bearer sk-no-")

    assert STATUS.findall(await say(proxy.port, head_first(payload))) in ([b"401"], [b"400"])


async def test_more_requests_than_fit_the_queue_are_all_answered_in_order(
    proxy: Running, upstream: FakeUpstream
) -> None:
    calls = [PLAIN.replace(b"Hi", b"%02d" % number) for number in range(90)]
    calls.append(PLAIN.replace(b"\r\nHost:", b"\r\nConnection: close\r\nHost:", 1))

    said = await say(proxy.port, [b"".join(calls)])

    assert STATUS.findall(said) == [b"200"] * 91
    asked = [asked.body["messages"][0]["content"] for asked in upstream.asked]
    assert asked == [f"{number:02d}" for number in range(90)] + ["Hi"]


# --- behind nginx

CONFIG = """
log_format seen '$remote_port $upstream_status';
access_log access.log seen;
keepalive_timeout 50ms;
upstream proxied {{ server 127.0.0.1:{proxied}; keepalive 4; }}
server {{
    listen 127.0.0.1:{port};
    ignore_invalid_headers off;
    underscores_in_headers on;
    location / {{
        proxy_pass http://proxied;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_request_buffering off;
        proxy_buffering off;
        proxy_next_upstream off;
    }}
}}
"""


class Nginx:
    """A real nginx before the proxy, as permissive as it can be told to be, on connections it keeps."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self._access = folder / "access.log"

    def forwarded(self) -> Counter[int]:
        """How many requests of each client's port were passed on."""
        lines = [line.split() for line in self._access.read_text().splitlines()]
        return Counter(int(client) for client, status in lines if status != "-")


@pytest.fixture
async def nginx(tmp_path: Path, proxy: Running) -> AsyncIterator[Nginx]:
    folder = tmp_path / "nginx"
    folder.mkdir()
    port = free_port()
    async with nginx_running(folder, CONFIG.format(proxied=proxy.port, port=port), port):
        yield Nginx(folder, port)


async def test_behind_nginx_no_request_is_seen_that_it_did_not_forward(
    nginx: Nginx, proxy: Running, upstream: FakeUpstream
) -> None:
    payloads = {**REFUSED, **OTHER_VERSIONS, **ONE}

    async def send(number: int, payload: bytes) -> int:
        """One payload, its calls marked with its number; gives the port it came from."""
        reader, writer = await asyncio.open_connection("127.0.0.1", nginx.port)
        port: int = writer.get_extra_info("sockname")[1]
        mark = b'"%02d"' % number
        try:
            writer.write(payload.replace(b'"Hi"', mark).replace(b'"Ho"', mark))
            async with asyncio.timeout(ANSWER_S):
                await reader.read(-1)
        except ConnectionError:
            pass  # closed while we were sending
        finally:
            writer.close()
        return port

    # One after another over the kept connections, so that a rest left in one is the next one's start.
    ports = [await send(number, payload) for number, payload in enumerate(payloads.values())]

    forwarded = nginx.forwarded()
    seen = Counter(asked.body["messages"][0]["content"] for asked in upstream.asked)
    for number, (name, port) in enumerate(zip(payloads, ports, strict=True)):
        assert seen[f"{number:02d}"] <= forwarded[port], name
        if name in ONE:
            assert seen[f"{number:02d}"] == 1, name
