"""How often somebody may fail to sign in: by name and by address, in bounded memory. Time is an argument."""

from __future__ import annotations

from tokenhub_proxy.errors import RateLimited

# So many wrong passwords are a bad memory; after that each costs twice the wait of the one before.
FREE_OF_NAME, FREE_OF_ADDRESS = 5, 20
FIRST_WAIT_S, WAIT_MAX_S = 30.0, 900.0
# Failures older than this are forgotten.
FORGET_S = 3600.0
# So many names and addresses are remembered; the oldest go.
REMEMBERED_MAX = 10_000


class Throttle:
    """Counts failures, and says how long the next attempt has to wait."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[int, float]] = {}

    def check(self, name: str, address: str, now_s: float) -> None:
        """Raises RateLimited, the same for a name that exists and one that does not."""
        wait_s = max(
            self._wait_s(f"name {name}", FREE_OF_NAME, now_s),
            self._wait_s(f"address {address}", FREE_OF_ADDRESS, now_s),
        )
        if wait_s > 0:
            raise RateLimited("Too many attempts. Wait a while and try again.", retry_after_s=wait_s)

    def failed(self, name: str, address: str, now_s: float) -> None:
        """Count a failure. It counts before the password is checked, so that none run beside it."""
        for what in (f"name {name}", f"address {address}"):
            count, at = self._failed.pop(what, (0, now_s))
            self._failed[what] = (1 if now_s - at > FORGET_S else count + 1, now_s)
        while len(self._failed) > REMEMBERED_MAX:
            del self._failed[next(iter(self._failed))]

    def succeeded(self, name: str, address: str) -> None:
        """The name's failures are forgotten; of the address's, the one that was no failure."""
        self._failed.pop(f"name {name}", None)
        count, at = self._failed.get(f"address {address}", (0, 0.0))
        if count:
            self._failed[f"address {address}"] = (count - 1, at)

    def _wait_s(self, what: str, free: int, now_s: float) -> float:
        count, at = self._failed.get(what, (0, 0.0))
        if count < free:
            return 0.0
        return at + min(FIRST_WAIT_S * (1 << min(count - free, 10)), WAIT_MAX_S) - now_s
