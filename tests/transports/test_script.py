"""The script transport keeps the promises of every transport, and plays heads and failures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager

import pytest

from tests.transports.contract import LONG_S, TIMEOUTS, IncomingContract, kind
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.routes import Timeouts, Upstream
from tokenhub_proxy.transports.script import Fail, Pause, Script, Scripted, Step
from tokenhub_proxy.wire import HOLD, Incoming, Outgoing


def outgoing(timeouts: Timeouts = TIMEOUTS) -> Outgoing:
    upstream = Upstream("up", "openai", "script://", timeouts=timeouts)
    return Outgoing(upstream, "/chat/completions", (), b'{"model":"m"}')


def send(scripted: Scripted, timeouts: Timeouts = TIMEOUTS) -> AbstractAsyncContextManager[Incoming]:
    return Script(lambda _: scripted).send(outgoing(timeouts))


class TestScript(IncomingContract):
    def opened(
        self, steps: Sequence[Step], timeouts: Timeouts = TIMEOUTS
    ) -> AbstractAsyncContextManager[Incoming]:
        return send(Scripted(steps), timeouts)


async def test_the_answer_depends_on_the_request() -> None:
    script = Script(lambda asked: Scripted([asked.body], status=201, headers={"x-path": asked.path}))
    async with script.send(outgoing()) as incoming:
        said: list[bytes] = []
        assert await incoming.pump(said.append)
        assert (incoming.status, incoming.headers["x-path"]) == (201, "/chat/completions")
        assert said == [b'{"model":"m"}']
    await script.aclose()


async def test_each_step_of_bytes_is_one_read() -> None:
    async with send(Scripted([b"a", b"b", b"c"])) as incoming:
        said: list[bytes] = []
        await incoming.pump(said.append)
        assert said == [b"a", b"b", b"c"]


async def test_others_have_a_turn_between_two_reads() -> None:
    turns: list[object] = []

    async def other() -> None:
        for _ in range(3):
            turns.append("other")
            await asyncio.sleep(0)

    async with send(Scripted([b"a", b"b", b"c"])) as incoming:
        task = asyncio.ensure_future(other())
        await incoming.pump(turns.append)
        await task
    assert turns[:4] == [b"a", "other", b"b", "other"]


async def test_steps_are_made_when_their_time_has_come() -> None:
    made: list[str] = []

    def steps() -> Iterator[Step]:
        made.append("first")
        yield b"a"
        made.append("second")
        yield b"b"

    async with send(Scripted(steps())) as incoming:
        assert await incoming.pump(lambda data: HOLD) is False
        assert made == ["first"]


async def test_a_failure_before_the_head_leaves_nothing_to_pump() -> None:
    with pytest.raises(UpstreamUnavailable) as error:
        async with send(Scripted(before=Fail("refused"))):
            pytest.fail("entered")
    assert kind(error) == ("refused", False)
    with pytest.raises(UpstreamUnavailable) as error:
        await send(Scripted(before=Fail("reset_send", executed=True))).__aenter__()
    assert kind(error) == ("reset_send", True)


async def test_a_head_may_come_late_but_not_too_late() -> None:
    async with send(Scripted([b"a"], before=Pause(0.01))) as incoming:
        assert await incoming.pump(lambda data: None)
    with pytest.raises(UpstreamUnavailable) as error:
        await send(Scripted(before=Pause(LONG_S)), Timeouts(first_byte_s=0.01)).__aenter__()
    assert kind(error) == ("ttfb_timeout", True)


async def test_silences_in_a_row_are_one_silence() -> None:
    steps = [b"a", Pause(0.04), Pause(0.04), Pause(0.04), b"b"]
    async with send(Scripted(steps), Timeouts(idle_s=0.08)) as incoming:
        said: list[bytes] = []
        with pytest.raises(UpstreamUnavailable) as error:
            await incoming.pump(said.append)
        assert (kind(error), said) == (("idle", True), [b"a"])
