"""Where the dashboard hangs on the server: it is imported and made when somebody first asks for it."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING

from tokenhub_proxy.admin import Administration
from tokenhub_proxy.config import Config
from tokenhub_proxy.metrics.counters import Counters
from tokenhub_proxy.relay import Relay

if TYPE_CHECKING:
    from tokenhub_proxy.connection import HttpClient
    from tokenhub_proxy.dashboard.app import Dashboard


class Mount:
    """The dashboard, imported and made when somebody first asks for it: most processes never do."""

    def __init__(self, config: Config, relay: Relay, counters: Counters) -> None:
        self.config = config
        self.relay = relay
        self.verbs: Administration | None = None  # known once the proxy listens
        self.counters = counters
        self._made: Dashboard | None = None
        self._making = asyncio.Lock()

    def open(self, verbs: Administration, base_url: str) -> None:
        """The proxy listens: from here on there is something to ask for."""
        self.verbs = verbs
        verbs.users.address = base_url.removesuffix("/v1")

    async def handle(self, client: HttpClient, id: str) -> None:
        await (self._made or await self._make()).handle(client, id)

    async def _make(self) -> Dashboard:
        async with self._making:
            if self._made is None:
                assert self.verbs is not None
                # In a thread: streams must not wait a fifth of a second for templates.
                dashboard = await asyncio.to_thread(importlib.import_module, "tokenhub_proxy.dashboard.app")
                made = dashboard.Dashboard(self.relay, self.verbs, lambda: self.config, self.counters)
                await made.begin()
                self._made = made
        return self._made
