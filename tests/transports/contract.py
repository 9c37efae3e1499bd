"""What every Incoming promises, for whatever upstream can play steps: bytes, pauses and failures.

A subclass says `opened(steps, timeouts)`: a context whose value is the Incoming of these steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import pytest

from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.routes import Timeouts
from tokenhub_proxy.transports.script import Fail, Pause, Step
from tokenhub_proxy.wire import HOLD, Incoming

# Longer than any test may take: who waits for it was not woken.
LONG_S = 60.0
SOON_S = 0.02
TIMEOUTS = Timeouts(first_byte_s=LONG_S, idle_s=LONG_S, total_s=LONG_S)


def kind(error: pytest.ExceptionInfo[UpstreamUnavailable]) -> tuple[str, bool]:
    return error.value.kind, error.value.executed


class IncomingContract:
    """Inherited by the tests of a transport."""

    def opened(
        self, steps: Sequence[Step], timeouts: Timeouts = TIMEOUTS
    ) -> AbstractAsyncContextManager[Incoming]:
        raise NotImplementedError

    async def test_a_body_is_pumped_in_order_to_its_clean_end(self) -> None:
        async with asyncio.timeout(5), self.opened([b"one", Pause(SOON_S), b"two", b"three"]) as incoming:
            said: list[bytes] = []
            assert await incoming.pump(said.append) is True
            assert b"".join(said) == b"onetwothree"
            assert await incoming.pump(said.append) is True
            assert b"".join(said) == b"onetwothree"

    async def test_an_empty_body_ends_at_once(self) -> None:
        async with asyncio.timeout(5), self.opened([]) as incoming:
            assert await incoming.pump(pytest.fail) is True

    async def test_a_sink_that_holds_gets_the_rest_later(self) -> None:
        async with asyncio.timeout(5), self.opened([b"one", Pause(SOON_S), b"two"]) as incoming:
            said: list[bytes] = []

            def first(data: bytes) -> bool:
                said.append(data)
                return HOLD

            assert await incoming.pump(first) is False
            assert said == [b"one"]
            assert await incoming.pump(said.append) is True
            assert said == [b"one", b"two"]

    async def test_what_the_sink_raises_comes_out(self) -> None:
        def refuse(data: bytes) -> None:
            raise KeyError(data)

        async with asyncio.timeout(5), self.opened([b"one", b"two"]) as incoming:
            with pytest.raises(KeyError, match="one"):
                await incoming.pump(refuse)

    async def test_a_body_that_breaks_off_is_no_clean_end(self) -> None:
        async with (
            asyncio.timeout(5),
            self.opened([b"one", Pause(SOON_S), Fail("reset_read"), b"no"]) as incoming,
        ):
            said: list[bytes] = []
            with pytest.raises(UpstreamUnavailable) as error:
                await incoming.pump(said.append)
            assert kind(error) == ("reset_read", True)
            assert said == [b"one"]
            with pytest.raises(UpstreamUnavailable):
                await incoming.pump(said.append)
            assert said == [b"one"]

    async def test_silence_breaks_the_body_off(self) -> None:
        idle = replace(TIMEOUTS, idle_s=0.05)
        async with asyncio.timeout(5), self.opened([b"one", Pause(LONG_S), b"two"], idle) as incoming:
            with pytest.raises(UpstreamUnavailable) as error:
                await incoming.pump(lambda data: None)
            assert kind(error) == ("idle", True)

    async def test_a_body_that_never_ends_is_broken_off(self) -> None:
        endless = [step for _ in range(500) for step in (b"x", Pause(0.01))]
        short = replace(TIMEOUTS, total_s=0.05)
        async with asyncio.timeout(5), self.opened(endless, short) as incoming:
            with pytest.raises(UpstreamUnavailable) as error:
                await incoming.pump(lambda data: None)
            assert kind(error) == ("max_duration", True)

    async def test_while_paused_nothing_is_said_and_nobody_is_idle(self) -> None:
        idle = replace(TIMEOUTS, idle_s=0.05)
        async with asyncio.timeout(5), self.opened([b"one", Pause(SOON_S), b"two"], idle) as incoming:
            said: list[bytes] = []

            def slow(data: bytes) -> None:
                said.append(data)
                incoming.pause()
                incoming.pause()

            pumping = asyncio.ensure_future(incoming.pump(slow))
            await asyncio.wait([pumping], timeout=0.15)
            assert (said, pumping.done()) == ([b"one"], False)
            incoming.resume()
            incoming.resume()
            while len(said) < 2:
                await asyncio.sleep(0.001)
            incoming.resume()
            assert await pumping is True

    async def test_a_cut_wakes_the_pump_from_silence(self) -> None:
        async with asyncio.timeout(5), self.opened([b"one", Pause(LONG_S)]) as incoming:

            def sink(data: bytes) -> None:
                asyncio.get_running_loop().call_later(SOON_S, incoming.cut, KeyError("draining"))

            with pytest.raises(KeyError, match="draining"):
                await incoming.pump(sink)

    async def test_a_cut_wakes_a_paused_pump(self) -> None:
        async with asyncio.timeout(5), self.opened([b"one", b"two"]) as incoming:

            def stuck(data: bytes) -> None:
                incoming.pause()
                asyncio.get_running_loop().call_later(SOON_S, incoming.cut, KeyError("draining"))

            with pytest.raises(KeyError, match="draining"):
                await incoming.pump(stuck)

    async def test_a_cut_without_a_pump_is_raised_by_the_next(self) -> None:
        async with asyncio.timeout(5), self.opened([b"one", Pause(LONG_S)]) as incoming:
            assert await incoming.pump(lambda data: HOLD) is False
            incoming.cut(KeyError("first"))
            incoming.cut(KeyError("second"))
            with pytest.raises(KeyError, match="first"):
                await incoming.pump(pytest.fail)

    async def test_an_answer_that_is_complete_lingers_only_so_long(self) -> None:
        async with asyncio.timeout(5), self.opened([b"one", Pause(LONG_S)]) as incoming:
            assert await incoming.pump(lambda data: incoming.linger(SOON_S)) is False

    async def test_a_body_that_ends_while_lingering_ended_cleanly(self) -> None:
        async with asyncio.timeout(5), self.opened([b"one", Pause(SOON_S), b"two"]) as incoming:
            said: list[bytes] = []

            def sink(data: bytes) -> None:
                said.append(data)
                incoming.linger(4.0)

            assert await incoming.pump(sink) is True
            assert said == [b"one", b"two"]

    async def test_lingering_ends_even_while_paused(self) -> None:
        async with asyncio.timeout(5), self.opened([b"one", b"two"]) as incoming:

            def sink(data: bytes) -> None:
                incoming.linger(SOON_S)
                incoming.pause()

            assert await incoming.pump(sink) is False

    async def test_a_cancelled_pump_stops_and_the_rest_stays(self) -> None:
        async with asyncio.timeout(5), self.opened([b"one", Pause(LONG_S)]) as incoming:
            said: list[bytes] = []
            pumping = asyncio.ensure_future(incoming.pump(said.append))
            while not said:
                await asyncio.sleep(0)
            pumping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pumping
