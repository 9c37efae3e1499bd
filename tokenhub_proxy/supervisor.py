"""What the service manager is told: sd_notify(3), over the datagram socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Self

log = logging.getLogger(__name__)

# A state that is lost costs a start or a stop its deadline, so a full queue is waited for; a beat is not.
STATE_S = 1.0


class Supervisor:
    """Says READY, RELOADING, STOPPING and, while the loop turns, WATCHDOG; nothing where nobody asked."""

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        """`address` is a path, or `@name` in the abstract namespace."""
        self._address = None if address is None else "\0" + address[1:] if address[0] == "@" else address
        self._watchdog_s = watchdog_s if address is not None else None

    @classmethod
    def of(cls, environ: MutableMapping[str, str], pid: int) -> Self:
        """The one that started this process, if it wants to know.

        The variables are taken out of `environ`: what a child says must not be taken for ours.
        """
        address = environ.pop("NOTIFY_SOCKET", "") or None
        limit_us, beats = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", str(pid))
        if address is not None and address[0] not in "/@":
            log.warning("NOTIFY_SOCKET=%s is no Unix socket; nothing is told there", address)
            address = None
        ours = beats == str(pid) and limit_us.isascii() and limit_us.isdigit() and int(limit_us) > 0
        return cls(address, int(limit_us) / 1e6 if ours else None)

    def ready(self, status: str) -> None:
        """Connections are accepted: after the start, or again after a reload."""
        self._tell(f"READY=1\nSTATUS={status}", STATE_S)

    def reloading(self) -> None:
        """A reload begins; `ready` ends it, whether or not the new config was taken."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={now_us}\nSTATUS=Reloading", STATE_S)

    def stopping(self, limit_s: float) -> None:
        """The drain begins. It takes `limit_s` at most: no stop time of the unit's cuts it short."""
        self._tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(limit_s * 1e6)}\nSTATUS=Draining", STATE_S)

    async def watch(self, status: Callable[[], str]) -> None:
        """Beat at half the interval until cancelled: a loop that hangs misses two, and is restarted."""
        if self._watchdog_s is None:
            return
        while True:
            self._tell(f"WATCHDOG=1\nSTATUS={status()}", 0.0)
            await asyncio.sleep(self._watchdog_s / 2)

    def _tell(self, state: str, limit_s: float) -> None:
        """One datagram over a socket of its own: the manager may have been restarted since the last one."""
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.settimeout(limit_s)
                line.sendto(state.encode(), self._address)
        except OSError as error:
            log.warning("the service manager can't be told %s: %s", state.partition("\n")[0], error)
