"""The end of leases: by a verb or by the clock, each with a line that says what it cost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from tokenhub_proxy import keys, leases
from tokenhub_proxy.admin import Administration
from tokenhub_proxy.errors import InvalidRequest, NotFound, shown
from tokenhub_proxy.keys import Key
from tokenhub_proxy.ledger import Ledger
from tokenhub_proxy.prices import format_usd

log = logging.getLogger(__name__)


class Leasing:
    """Adds the verbs `leases end` and `address` to an Administration.

    `refused` counts by key id the calls that a lease's quota could not cover. `base_url` is where
    clients call, "" where nobody listens.
    """

    def __init__(
        self,
        administration: Administration,
        ledger: Ledger,
        *,
        clock: Callable[[], float],
        refused: Mapping[str, int],
        base_url: str,
    ) -> None:
        self.administration = administration
        self._ledger = ledger
        self._clock = clock
        self._refused = refused
        self._base_url = base_url
        administration.verbs["leases end"] = self.end
        administration.verbs["address"] = self.address

    async def end(self, arguments: Mapping[str, Any]) -> Any:
        """Revoke a lease; gives what it spent, of how much, and whether that was not enough."""
        name = arguments.get("name")
        for key in self._ledger.list_keys():
            if key.name == name and key.scope.parent is not None:
                return await self._end(key)
        raise NotFound(f"There is no lease {shown(str(name))}.")

    async def address(self, arguments: Mapping[str, Any]) -> Any:
        """Where clients call."""
        if not self._base_url:
            raise InvalidRequest("No server runs over this ledger; start one with serve.")
        return {"base_url": self._base_url}

    async def sweep(self) -> None:
        """End the leases whose time is over."""
        for key in leases.over(self._ledger.list_keys(), self._clock()):
            await self._end(key)

    async def _end(self, key: Key) -> Mapping[str, Any]:
        await self.administration.verbs["keys revoke"]({"name": key.name})
        scope = key.scope
        spent = self._ledger.window(keys.period_name(key.name, scope.quota_per, self._clock())).posted
        rows = await self._ledger.usage("key", key.created_at)
        requests = sum(row.requests for row in rows if row.name == key.name)
        cap_hit = bool(self._refused.get(key.id)) or spent >= (scope.quota_nanos or 0)
        told = {
            "name": key.name,
            "parent": scope.parent,
            "spent_usd": format_usd(spent),
            "quota_usd": format_usd(scope.quota_nanos or 0),
            "requests": requests,
            "cap_hit": cap_hit,
        }
        log.info("%s", line(told))
        return told


def line(told: Mapping[str, Any]) -> str:
    """The final line of a lease."""
    hit = ", and the cap was hit" if told["cap_hit"] else ""
    return (
        f"lease {told['name']} of {told['parent']} ended: {told['spent_usd']} of {told['quota_usd']} USD "
        f"in {told['requests']} requests{hit}"
    )
