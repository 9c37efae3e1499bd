"""Calls go first: pages are made one at a time, and take a fifth of the event loop at most."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

from tokenhub_proxy.errors import Overloaded

# After a page the loop is without pages for so many times what it took. However often somebody reloads,
# a call meets a page on every fifth of its way at most, and waits for that one only.
REST = 4.0
# What the loop does for calls while a page waits for its figures counts as the page's, so this is bounded.
REST_MAX_S = 0.1
# With more than these before it, a page would come when nobody looks any more.
WAITING_MAX = 64


class Turns:
    """A turn for each page: `async with` waits for it. Raises Overloaded where too many wait already."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(1)
        self._waiting = 0
        self._began_s = 0.0  # of the one whose turn it is, in CPU time of the loop's thread

    async def __aenter__(self) -> None:
        if self._waiting >= WAITING_MAX:
            raise Overloaded
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        self._began_s = time.thread_time()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took_s = time.thread_time() - self._began_s
        asyncio.get_running_loop().call_later(min(took_s * REST, REST_MAX_S), self._free.release)
