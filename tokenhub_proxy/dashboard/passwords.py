"""Passwords: slow to guess, checked off the event loop, a few at a time."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tokenhub_proxy.errors import InvalidRequest, ProxyError

LENGTH_MIN, LENGTH_MAX = 10, 256
# OWASP's first choice of 2023: 64 MiB and about 0.2 s on a small machine.
COST, BLOCK, PARALLEL = 2**16, 8, 1
SALT_BYTES = 16
_MEMORY_MAX = 2 * 128 * BLOCK * COST
# Each check takes 64 MiB: so many at once, so many more waiting, and no more.
AT_ONCE, WAITING_MAX = 2, 16


class Busy(ProxyError):
    """503: too many people are signing in at this moment."""

    status = 503
    code = "busy"

    def __init__(self) -> None:
        super().__init__("Too many people are signing in right now. Try again in a moment.", retry_after_s=2)


class Passwords:
    """Makes and checks verifiers of the form `scrypt$cost$salt$digest`."""

    def __init__(self, randomness: Callable[[int], bytes], cost: int = COST) -> None:
        self._randomness = randomness
        self._cost = cost
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="passwords")
        self._waiting = 0
        # Somebody who is not there takes as long to refuse as somebody who is.
        self._nobody = f"scrypt${cost}${randomness(SALT_BYTES).hex()}${randomness(32).hex()}"

    async def verifier(self, password: str) -> str:
        """What is kept of a password. Raises InvalidRequest for one that is too short, or too long."""
        if not LENGTH_MIN <= len(password) <= LENGTH_MAX:
            raise InvalidRequest(f"A password has {LENGTH_MIN} to {LENGTH_MAX} characters.", param="password")
        salt = self._randomness(SALT_BYTES)
        digest = await self._derived(password, self._cost, salt)
        return f"scrypt${self._cost}${salt.hex()}${digest.hex()}"

    async def right(self, password: str, verifier: str | None) -> bool:
        """Whether a password is the one; for nobody's verifier it takes as long to say no."""
        _, cost, salt, digest = (verifier or self._nobody).split("$")
        derived = await self._derived(password[:LENGTH_MAX], int(cost), bytes.fromhex(salt))
        return hmac.compare_digest(derived, bytes.fromhex(digest)) and verifier is not None

    async def _derived(self, password: str, cost: int, salt: bytes) -> bytes:
        if self._waiting >= AT_ONCE + WAITING_MAX:
            raise Busy
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, _scrypt, password.encode(), cost, salt
            )
        finally:
            self._waiting -= 1


def _scrypt(password: bytes, cost: int, salt: bytes) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=cost, r=BLOCK, p=PARALLEL, maxmem=_MEMORY_MAX)
