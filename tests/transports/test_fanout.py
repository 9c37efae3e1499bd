"""Calls of many parts: order, bounds, and what one failure does to the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson
import pytest

from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.routes import Upstream
from tokenhub_proxy.transports.fanout import CONCURRENT_MAX, PART_BYTES_MAX, FanOut
from tokenhub_proxy.transports.script import Fail, Pause, Script, Scripted
from tokenhub_proxy.wire import HOLD, Incoming, Outgoing

UPSTREAM = Upstream("up", "bedrock", "https://up.test")
JSON = {"content-type": "application/json"}


def one(body: bytes = b"{}", *parts: Outgoing) -> Outgoing:
    return Outgoing(UPSTREAM, "/p", (), body, parts=parts)


def many(count: int) -> Outgoing:
    return one(b"", *(one(str(number).encode()) for number in range(count)))


async def answered(answer: Callable[[Outgoing], Scripted], outgoing: Outgoing) -> tuple[int, dict, bytes]:
    async with FanOut(Script(answer)).send(outgoing) as incoming:
        pieces: list[bytes] = []
        assert await incoming.pump(pieces.append) is True
        return incoming.status, dict(incoming.headers), b"".join(pieces)


async def test_a_call_without_parts_is_the_inner_transports_alone():
    status, _, body = await answered(lambda outgoing: Scripted([b"in", outgoing.body], 201), one(b"side"))
    assert (status, body) == (201, b"inside")


async def test_the_answers_stand_in_the_order_of_the_parts_whoever_came_first():
    def answer(outgoing: Outgoing) -> Scripted:
        number = int(outgoing.body)
        return Scripted(
            [Pause(0.02 if number == 0 else 0.0), b'{"n":', outgoing.body, b"}"], headers={"x-n": "1"}
        )

    status, headers, body = await answered(answer, many(20))
    assert (status, headers) == (200, JSON)
    assert orjson.loads(body) == [{"headers": {"x-n": "1"}, "body": {"n": n}} for n in range(20)]


async def test_no_more_parts_than_the_bound_are_under_way():
    class Counting:
        now = most = 0

        def send(self, outgoing: Outgoing):
            return self

        async def __aenter__(self) -> Incoming:
            self.now += 1
            self.most = max(self.most, self.now)
            for _ in range(5):
                await asyncio.sleep(0)
            return await Script(lambda outgoing: Scripted([b"1"])).send(one()).__aenter__()

        async def __aexit__(self, *error) -> None:
            self.now -= 1

        async def aclose(self) -> None:
            self.now = -1

    inner = Counting()
    async with FanOut(inner).send(many(50)) as incoming:
        assert incoming.status == 200
    assert (inner.now, inner.most) == (0, CONCURRENT_MAX)
    await FanOut(inner).aclose()
    assert inner.now == -1


async def test_the_first_part_that_fails_is_the_answer_and_ends_the_others():
    ended: list[int] = []

    def answer(outgoing: Outgoing) -> Scripted:
        if outgoing.body == b"2":
            return Scripted([b'{"message":"slow down"}'], 429, {"retry-after": "3"})
        ended.append(int(outgoing.body))
        return Scripted([Pause(30), b"{}"])

    async with asyncio.timeout(5):
        found = await answered(answer, many(40))
    assert found == (429, {"retry-after": "3"}, b'{"message":"slow down"}')
    assert len(ended) <= CONCURRENT_MAX  # those under way, and one that took the free place


@pytest.mark.parametrize(("scripted", "kind"), [
    (Scripted(before=Fail("refused")), "refused"), (Scripted([b"{", Fail("reset_read")]), "reset_read"),
    (Scripted([b"<html>"]), "bad_json"), (Scripted([b"x" * (PART_BYTES_MAX + 1)]), "too_large"),
])  # fmt: skip
async def test_a_part_that_breaks_off_breaks_the_call_and_may_have_cost(scripted, kind):
    def answer(outgoing: Outgoing) -> Scripted:
        return scripted if outgoing.body == b"1" else Scripted([b"{}"])

    with pytest.raises(UpstreamUnavailable) as caught:
        await answered(answer, many(3))
    assert (caught.value.kind, caught.value.executed) == (kind, True)


async def test_a_client_that_leaves_ends_every_part():
    open_parts: set[int] = set()

    class Watching:
        def __init__(self, number: int) -> None:
            self.number = number

        async def __aenter__(self) -> Incoming:
            open_parts.add(self.number)
            await asyncio.Event().wait()
            raise AssertionError

        async def __aexit__(self, *error) -> None:
            raise AssertionError

    class Inner:
        def send(self, outgoing: Outgoing):
            return Watching(int(outgoing.body))

        async def aclose(self) -> None: ...

    async def call() -> None:
        async with FanOut(Inner()).send(many(3)):
            raise AssertionError

    task = asyncio.create_task(call())
    while len(open_parts) < 3:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1


async def test_a_sink_may_hold_and_ask_again_and_a_cut_is_raised():
    async with FanOut(Script(lambda outgoing: Scripted([b"1"]))).send(many(2)) as incoming:
        assert await incoming.pump(lambda data: HOLD) is False
        assert await incoming.pump(lambda data: HOLD) is True
        incoming.pause()
        incoming.resume()
        incoming.linger(1.0)
        incoming.cut(UpstreamUnavailable(kind="client_gone"))
        with pytest.raises(UpstreamUnavailable):
            await incoming.pump(lambda data: None)
