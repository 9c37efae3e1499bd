"""Running out of files: new connections get a 503, what is under way goes on, and the log says it once."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests import chaos
from tests.conftest import Running, Serve, one_upstream
from tests.test_money import in_two_parts
from tests.test_relay_clients import until
from tests.test_relay_streams import stream
from tests.test_server import MESSAGES, ask, error_of
from tests.upstream import STREAM, FakeUpstream
from tokenhub_proxy import overload
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.health import FAILURES_MAX
from tokenhub_proxy.routes import Upstream
from tokenhub_proxy.transports import connect as connecting
from tokenhub_proxy.transports.connect import connect
from tokenhub_proxy.transports.origin import Origin

CALL = {"model": "m", "messages": MESSAGES}
PATH = "/v1/chat/completions"


@contextmanager
def scarce(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A host whose limit is below every new connection's number."""
    with monkeypatch.context() as patch:
        patch.setattr(overload.resource, "getrlimit", lambda _: (8, 8))
        yield


async def knock(running: Running, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(request)
    async with asyncio.timeout(5):
        said = await reader.read()
    writer.close()
    await writer.wait_closed()
    return said


async def test_without_files_new_connections_are_refused_and_streams_go_on(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    middle = asyncio.Event()
    async with in_two_parts(middle) as up:
        running = await serve(one_upstream(up.url + "/v1"))
        streaming = asyncio.create_task(stream(running))
        await until(lambda: any(one.first_byte_s for one in running.proxy.relay.in_flight))

        with scarce(monkeypatch):
            said = [await knock(running, b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n") for _ in range(3)]
        middle.set()
        _, relayed, ended = await streaming
        assert (await ask(running, "GET", "/healthz"))[0] == 200

    for answer in said:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1\r\n" in head
        assert error_of(body)["code"] == "overloaded"
    assert (relayed, ended) == (b"".join(STREAM), True)
    assert caplog.messages == [
        "overload files_max=8: new connections are refused",
        "overload_over refused=3",
    ]


async def test_who_is_refused_and_says_nothing_is_let_go(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "LINGER_S", 0.05)
    running = await serve("models: {}")
    with scarce(monkeypatch):
        assert (await knock(running, b"")).startswith(b"HTTP/1.1 503 ")


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process can open nothing, as long as it lasts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Plain(asyncio.Protocol):
    """A connection that only knows its transport."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport


async def test_a_connection_that_no_file_is_left_for_is_not_the_upstream_s_fault() -> None:
    async with chaos.serve([]) as up:
        origin = Origin.of(Upstream("u", "openai", up.url))
        # The first use of the resolver reads its own files.
        (await connect(origin, 2.0, Plain)).transport.close()
        await until(lambda: up.peers and up.peers[0].ended is not None)
        with no_more_files(), pytest.raises(UpstreamUnavailable) as failed:
            await connect(origin, 2.0, Plain)

    assert (failed.value.kind, failed.value.executed) == ("overload", False)


async def test_calls_that_find_no_file_open_no_breaker(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await serve(one_upstream(upstream.base_url))

    def exhausted(*_: object) -> bool:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(connecting, "_connected", exhausted)
        for _ in range(FAILURES_MAX + 1):
            status, _, body = await ask(running, "POST", PATH, json=CALL)
            assert (status, error_of(body)["code"]) == (502, "upstream_unavailable")

    assert (await ask(running, "POST", PATH, json=CALL))[0] == 200
    assert [one.attempts for one in running.exchanges] == [["up:overload"]] * (FAILURES_MAX + 1) + [
        ["up:200"]
    ]
    assert [one.billing for one in running.exchanges[:-1]] == ["void"] * (FAILURES_MAX + 1)


def test_the_limit_is_raised_to_what_the_host_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
        overload.raise_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, overload.FILES_MAX)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_listener_that_can_not_accept_says_it_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(overload.AcceptFailures())
    failed = {"message": "socket.accept() out of system resource", "exception": OSError(errno.EMFILE, "x")}
    try:
        for _ in range(3):
            loop.call_exception_handler(failed)
        loop.call_exception_handler({"message": "something else"})
    finally:
        loop.close()
    assert caplog.messages == ["overload accept error=EMFILE", "something else"]
