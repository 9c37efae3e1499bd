"""Proxies in a thread with an event loop of its own, for tests that have another loop or none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

# What a test asks of its proxy takes milliseconds; this only keeps a bug from hanging a test run.
ANSWER_S = 30.0


class Engine:
    """A running event loop in a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="tokenhub", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run it there, and wait here for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(ANSWER_S)

    def stop(self) -> None:
        """End the thread; what ran there has been stopped by then."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(ANSWER_S)
