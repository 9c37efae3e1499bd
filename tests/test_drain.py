"""Stopping and reloading: streams end by themselves or are told, the books are closed, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests import chaos
from tests.conftest import KEY, Running, Serve, load, one_upstream
from tests.test_money import PATH, in_two_parts
from tests.test_relay_clients import buffered, deaf_socket, flooded, until
from tests.test_relay_streams import BODY, answers, request_bytes, stream, unchunked
from tests.test_server import MESSAGES, ask, error_of
from tests.upstream import STREAM, FakeUpstream, chunk
from tokenhub_proxy import wiring
from tokenhub_proxy.config import Config
from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.keys import Scope

# Whoever serves a call, the verdicts are the same.
pytestmark = pytest.mark.usefixtures("front")


async def books(running: Running) -> tuple[list[str], int, list[str]]:
    """After the end: what does not add up, what is still held, and how each call ended."""
    again = await wiring.open_ledger(running.proxy.config.ledger_url, clock=time.time)
    try:
        held = sum(account.held for account in again.list_accounts())
        return list(await again.verify()), held, [one.status for one in await again.requests()]
    finally:
        await again.aclose()


def pumped(running: Running) -> int:
    """How many streams are under way."""
    return sum(1 for one in running.proxy.relay.in_flight if one.first_byte_s is not None)


async def test_a_stream_shorter_than_the_drain_ends_by_itself(serve: Serve) -> None:
    middle = asyncio.Event()
    async with in_two_parts(middle) as up:
        running = await serve(one_upstream(up.url + "/v1"))
        answering = asyncio.create_task(stream(running))
        await until(lambda: pumped(running) == 1)

        stopping = asyncio.create_task(running.proxy.stop(drain_s=5.0))
        await asyncio.sleep(0.1)
        middle.set()
        _, said, ended = await answering
        await stopping

    assert (said, ended) == (b"".join(STREAM), True)
    assert await books(running) == ([], 0, ["settled"])


@pytest.mark.parametrize("hurried", [False, True])
async def test_what_outlasts_the_drain_is_told_and_settled(serve: Serve, hurried: bool) -> None:
    hurry = asyncio.Event()
    async with chaos.serve(answers([chunk("Hel")], ends=False), [chaos.request()]) as up:
        running = await serve(one_upstream(up.url + "/v1"))
        streaming = asyncio.create_task(stream(running))
        await until(lambda: pumped(running) == 1)
        waiting = asyncio.create_task(ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES}))
        await until(lambda: len(up.peers) == 2 and up.peers[1].requests)
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(request_bytes(BODY)[:-5])  # and one whose body is still on its way
        await until(lambda: len(running.proxy.relay.in_flight) == 3)

        started = time.monotonic()
        if hurried:
            hurry.set()
        await running.proxy.stop(drain_s=30.0 if hurried else 0.3, hurry=hurry)
        assert time.monotonic() - started < 2.0

        _, said, ended = await streaming
        status, headers, body = await waiting
        unfinished = await reader.read()
        writer.close()

    assert not ended
    event = said.removeprefix(chunk("Hel") + b"data: ")
    assert orjson.loads(event)["error"]["code"] == "shutting_down"
    assert (status, error_of(body)["code"]) == (503, "shutting_down")
    assert headers["x-should-retry"] == "false"  # the upstream may be at work
    assert unfinished.startswith(b"HTTP/1.1 503 ")
    assert b"x-should-retry" not in unfinished
    found, held, statuses = await books(running)
    assert (found, held, sorted(statuses)) == ([], 0, ["released", "settled"])


async def test_balancers_are_told_before_the_listener_closes(
    serve: Serve, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    hurry = asyncio.Event()
    running = await serve("shutdown: {pre_stop: 30, drain: 0}\n" + one_upstream(upstream.base_url))
    caplog.set_level("INFO")

    stopping = asyncio.create_task(running.proxy.drain(hurry=hurry))
    await asyncio.sleep(0)

    status, _, body = await ask(running, "GET", "/readyz")
    assert (status, error_of(body)["code"]) == (503, "shutting_down")
    assert (await ask(running, "GET", "/healthz"))[0] == 200
    answer = await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES})
    assert answer[0] == 200  # whoever has not noticed yet is served
    hurry.set()
    async with asyncio.timeout(2):
        await stopping
    with pytest.raises(OSError, match="refused|Connect"):
        await asyncio.open_connection("127.0.0.1", running.port)
    assert [line for line in caplog.messages if line.startswith("drain_")] == [
        "drain_start in_flight=0 pre_stop_s=30 drain_s=0",
        "drain_end cut=0 unsettled=0",
    ]


async def test_after_pre_stop_the_config_s_drain_counts(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with chaos.serve(answers([chunk("Hel")], ends=False)) as up:
        running = await serve("shutdown: {pre_stop: 0.2, drain: 0.3}\n" + one_upstream(up.url + "/v1"))
        streaming = asyncio.create_task(stream(running))
        await until(lambda: pumped(running) == 1)

        started = time.monotonic()
        await running.proxy.stop()

        assert 0.5 <= time.monotonic() - started < 2.0
        _, said, ended = await streaming
    assert b'"shutting_down"' in said
    assert not ended
    assert "drain_end cut=1 unsettled=0" in caplog.messages


async def test_while_draining_new_calls_are_refused_and_connections_are_closed(serve: Serve) -> None:
    middle = asyncio.Event()
    async with in_two_parts(middle) as up:
        running = await serve(one_upstream(up.url + "/v1"))
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", running.port)
        idle_writer.write(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        await idle_reader.readuntil(b"}")
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        # The second request waits behind the first, on the same connection.
        writer.write(request_bytes(BODY, close=False) + request_bytes(BODY, close=False))
        await until(lambda: pumped(running) == 1)

        stopping = asyncio.create_task(running.proxy.stop(drain_s=5.0))
        async with asyncio.timeout(2):
            assert await idle_reader.read() == b""  # an idle connection is closed at once
        with pytest.raises(OSError, match="refused|Connect"):
            await asyncio.open_connection("127.0.0.1", running.port)
        middle.set()
        async with asyncio.timeout(2):
            rest = await reader.read()
        await stopping
        idle_writer.close()
        writer.close()

    assert rest.startswith(b"HTTP/1.1 200 OK")
    assert rest.count(b"HTTP/1.1 ") == 1
    _, ended = unchunked(rest.partition(b"\r\n\r\n")[2])
    assert ended


async def test_who_connected_before_the_stop_is_still_served(serve: Serve, upstream: FakeUpstream) -> None:
    """Its request is on the way, and the kernel has told it that it was heard."""
    running = await serve(one_upstream(upstream.base_url))
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    stopping = asyncio.create_task(running.proxy.stop(drain_s=5.0))
    with contextlib.suppress(ConnectionError):
        while True:  # until it listens no more
            (await asyncio.open_connection("127.0.0.1", running.port))[1].close()

    writer.write(request_bytes(BODY, close=False))
    async with asyncio.timeout(3):
        said = await reader.read()
    await stopping
    writer.close()

    assert said.startswith(b"HTTP/1.1 200 OK")
    assert said.endswith(b"\r\n0\r\n\r\n")
    assert await books(running) == ([], 0, ["settled"])


async def test_who_connected_and_says_nothing_delays_the_stop_by_a_moment(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "GREET_S", 0.3)
    running = await serve(one_upstream(upstream.base_url))
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    started = time.monotonic()

    await running.proxy.stop(drain_s=5.0)

    assert 0.3 <= time.monotonic() - started < 1.5
    assert await reader.read() == b""
    writer.close()


async def test_an_answer_whose_books_are_being_closed_is_not_cut(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await serve(one_upstream(upstream.base_url))
    durable = asyncio.Event()
    finish = running.ledger.finish

    def slow(_: object, hold: Any) -> Awaitable[None]:
        return asyncio.ensure_future(after(finish(hold)))

    async def after(done: Awaitable[None]) -> None:
        await done
        await durable.wait()

    monkeypatch.setattr(type(running.ledger), "finish", slow)
    answering = asyncio.create_task(ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES}))
    await until(lambda: pumped(running) == 1)

    stopping = asyncio.create_task(running.proxy.stop(drain_s=0.0))
    await asyncio.sleep(0.2)
    durable.set()

    assert (await answering)[0] == 200
    await stopping
    assert await books(running) == ([], 0, ["settled"])


async def test_a_client_that_does_not_read_keeps_nobody_from_stopping(serve: Serve) -> None:
    running, flood, server = await flooded(serve, 64 * 2**20)
    with deaf_socket(running) as deaf:
        deaf.sendall(request_bytes(BODY))
        await until(lambda: buffered(running) > 0 and flood.paused)
        transports = [one.transport for one in running.proxy._server.connections]

        async with asyncio.timeout(3):
            await running.proxy.stop(drain_s=0.1)

        # What was not taken is thrown away, not kept until it is.
        assert [one.get_write_buffer_size() for one in transports if one is not None] == [0]
        await flood.lost.wait()
    server.close()
    await server.wait_closed()
    assert await books(running) == ([], 0, ["settled"])


# --- reloads


async def test_a_reload_that_the_ledger_refuses_changes_nothing(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path
) -> None:
    running = await serve(one_upstream(upstream.base_url))
    await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES})
    before = (running.proxy.config, running.proxy.relay.serving, running.ledger.list_keys())
    # The default account is always unlimited, and has spent: the books can't make it prepaid.
    bad = load(one_upstream("http://127.0.0.1:9/v1"), tmp_path)
    accounts = [replace(account, unlimited=False) for account in running.ledger.list_accounts()]

    with pytest.raises(InvalidRequest):
        await running.proxy.reload(replace(bad, accounts=tuple(accounts), keys=()))

    assert (running.proxy.config, running.proxy.relay.serving, running.ledger.list_keys()) == before
    assert (await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES}))[0] == 200


async def test_a_reload_takes_keys_and_routes_at_once(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path
) -> None:
    running = await serve(one_upstream(upstream.base_url))
    key = "sk-th-anotheranotheranother"
    changed = load(one_upstream(upstream.base_url, f"keys: [{{name: other, key: {key}}}]"), tmp_path)

    await running.proxy.reload(replace(changed, ledger_url=running.proxy.config.ledger_url))

    body = {"model": "m", "messages": MESSAGES}
    assert (await ask(running, "POST", PATH, json=body))[0] == 401
    assert (await ask(running, "POST", PATH, json=body, key=key))[0] == 200


async def test_no_moment_has_the_keys_of_one_config_and_the_routes_of_another(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path
) -> None:
    def version(name: str, account: str) -> Config:
        """A new account has to be written first; without one the keys change at once."""
        keys = f"keys: [{{name: tester, key: {KEY}, models: [{name}]}}]"
        text = one_upstream(upstream.base_url, f"accounts: {{{account}: {{balance: unlimited}}}}\n{keys}")
        return replace(load(text.replace("  m:", f"  {name}:"), tmp_path), ledger_url=url)

    running = await serve(one_upstream(upstream.base_url))
    url, seen, stopped = running.proxy.config.ledger_url, set(), asyncio.Event()

    async def watch() -> None:
        while not stopped.is_set():
            (key,) = running.ledger.list_keys()
            models = set(running.proxy.relay.serving.routes.visible(Scope())) - {"free", "e", "demo"}
            seen.add((key.scope.models, *models))
            await asyncio.sleep(0)

    await running.proxy.reload(version("one", "a"))
    watching = asyncio.create_task(watch())
    for number in range(20):
        await asyncio.sleep(0)
        await running.proxy.reload(version("one" if number % 2 else "two", f"a{number // 4}"))
    stopped.set()
    await watching

    assert seen == {(("one",), "one"), (("two",), "two")}


async def test_a_reload_lets_go_of_upstreams_that_are_gone(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path
) -> None:
    running = await serve(one_upstream(upstream.base_url))
    await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES})
    assert running.proxy._transports._live.statistics["up"].open == 1

    gone = one_upstream(upstream.base_url).replace("up:", "new:").replace("upstream: up", "upstream: new")
    await running.proxy.reload(load(gone, tmp_path))

    assert "up" not in running.proxy._transports._live.statistics


async def test_two_hundred_reloads_under_load_fail_no_call(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path
) -> None:
    running = await serve(one_upstream(upstream.base_url))
    one = load(one_upstream(upstream.base_url), tmp_path)
    two = load(one_upstream(upstream.base_url).replace("input: 3.00", "input: 6.00"), tmp_path)
    stopped = asyncio.Event()
    statuses: list[int] = []

    async def client() -> None:
        while not stopped.is_set():
            statuses.append((await ask(running, "POST", PATH, json={"model": "m", "messages": MESSAGES}))[0])

    clients = [asyncio.create_task(client()) for _ in range(8)]
    for number in range(200):
        await running.proxy.reload(one if number % 2 else two)
        await asyncio.sleep(0.002)
    stopped.set()
    await asyncio.gather(*clients)

    assert set(statuses) == {200}
    assert {exchange.cost for exchange in running.exchanges} <= {60_000, 90_000}
