"""Pages that are hammered leave the event loop to the calls."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.browsing import visitor
from tests.conftest import Running
from tokenhub_proxy.dashboard.turns import REST, REST_MAX_S, WAITING_MAX, Turns
from tokenhub_proxy.errors import Overloaded

WORK_S = 0.01


def work() -> None:
    """Hold the loop for so much CPU time."""
    ends_at = time.thread_time() + WORK_S
    while time.thread_time() < ends_at:
        pass


async def test_pages_are_made_one_at_a_time() -> None:
    turns = Turns()
    inside = most = 0

    async def page() -> None:
        nonlocal inside, most
        async with turns:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(page() for _ in range(20)))
    assert most == 1


async def test_after_a_page_the_loop_rests_from_pages_for_longer_than_it_took() -> None:
    turns = Turns()
    loop = asyncio.get_running_loop()
    async with turns:
        work()
    left_at = loop.time()
    async with turns:
        rested_s = loop.time() - left_at
    assert rested_s >= WORK_S * REST * 0.9
    assert WORK_S * REST < REST_MAX_S


async def test_a_page_that_fails_gives_its_turn_back() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="broken"):
        async with turns:
            raise ValueError("broken")
    async with asyncio.timeout(10), turns:
        pass


async def test_a_visitor_who_leaves_while_waiting_takes_no_turn() -> None:
    turns = Turns()
    async with turns:
        waiting = asyncio.ensure_future(turns.__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    async with asyncio.timeout(10), turns:
        pass


async def test_who_would_wait_too_long_is_refused_at_once() -> None:
    turns = Turns()
    async with turns:
        waiting = [asyncio.ensure_future(turns.__aenter__()) for _ in range(WAITING_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await turns.__aenter__()
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)


async def test_pages_that_are_asked_for_at_once_all_come(proxy: Running) -> None:
    operator = await visitor(proxy, "root")
    pages = ("/dashboard", "/dashboard/usage", "/dashboard/live", "/dashboard/requests") * 4
    seen = await asyncio.gather(*(operator.get(page) for page in pages))
    assert {one.status for one in seen} == {200}
