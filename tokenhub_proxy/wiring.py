"""Config → a running proxy. The only place that chooses implementations."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from tokenhub_proxy import observers
from tokenhub_proxy.admin import PAYMENT_VERBS, Administration, Verb
from tokenhub_proxy.arguments import Arguments
from tokenhub_proxy.audience import Audience
from tokenhub_proxy.calls import Call
from tokenhub_proxy.carriers import Transports, scripted
from tokenhub_proxy.config import Config
from tokenhub_proxy.dialects import Dialect, Memory, dialect
from tokenhub_proxy.errors import InvalidRequest, LedgerUnavailable, ShuttingDown
from tokenhub_proxy.front import Front
from tokenhub_proxy.instruments import Instruments
from tokenhub_proxy.leasing import Leasing
from tokenhub_proxy.ledger.sqlite import SqliteLedger, open_ledger
from tokenhub_proxy.limits import Limits
from tokenhub_proxy.mount import Mount
from tokenhub_proxy.pulse import Pulse
from tokenhub_proxy.relay import Relay, Serving
from tokenhub_proxy.request_ids import RequestIds
from tokenhub_proxy.routes import Routes, Target
from tokenhub_proxy.server import Application, listen
from tokenhub_proxy.snapshot import Snapshots
from tokenhub_proxy.users import COMMAND_LINE
from tokenhub_proxy.wire import Transport

if TYPE_CHECKING:
    from tokenhub_proxy.payments.office import Office

log = logging.getLogger(__name__)

DAY_S = 86_400.0
# How often old requests are looked for; a round without any costs one query.
PURGE_S = 3600.0
# What was accepted before the listener closed has become a connection after some rounds of the loop.
ACCEPT_S = 0.01
# Who connected before the proxy was told to stop gets so long to send a request, which is served.
GREET_S = 1.0
# A lease ends to the moment; its last line comes this much later at most.
LEASES_S = 5.0
# What is cut when the proxy stops gets so long to be told, settled and written.
CUT_S = 12.0


request_id = RequestIds(os.urandom)


def serving_of(config: Config) -> Serving:
    """What a config says about serving."""
    return Serving(
        routes=Routes(config.routes),
        trusted_proxies=config.trusted_proxies,
        body_max_bytes=config.body_max_bytes,
        body_codings=config.body_codings,
        keep_alive_s=config.keep_alive_s,
    )


class _Dialects(dict[str, Dialect]):
    """Dialects by name, each made, and its module imported, when it is first spoken."""

    def __init__(self) -> None:
        super().__init__()
        self._memory = Memory()

    def __missing__(self, name: str) -> Dialect:
        self[name] = dialect(name, self._memory)
        return self[name]


def make_relay(
    config: Config,
    ledger: SqliteLedger,
    *,
    transport: Callable[[Target, Call], Transport],
    told: Sequence[observers.Observer] = (),
    clock: Callable[[], float] = time.time,
    hop: str = "",
) -> Relay:
    """A relay over an open ledger."""
    return Relay(
        serving=serving_of(config),
        ledger=ledger,
        limits=Limits(),
        transport=transport,
        dialects=_Dialects(),
        observers=told,
        clock=clock,
        monotonic=time.monotonic,
        fraction=random.random,
        request_id=request_id,
        hop=hop,
    )


@dataclass(slots=True)
class Proxy:
    """A running proxy."""

    config: Config
    relay: Relay
    application: Application
    ledger: SqliteLedger
    base_url: str
    leasing: Leasing
    _transports: Transports
    _server: Front
    _listener: asyncio.Server
    _pages: Mount
    instruments: Instruments
    _audience: Audience
    _keeping: tuple[asyncio.Task[None], ...] = ()
    office: Office | None = None  # where payments are taken, if they are

    @property
    def administration(self) -> Administration:
        """The operator's verbs, the same for every door."""
        return self.leasing.administration

    def keep(self) -> None:
        """Begin to forget requests that are too old by the config, to end leases, and to watch the clocks."""
        self._pages.open(self.administration, self.base_url)
        snapshots = Snapshots(self.relay, self.ledger, self.instruments, self.base_url)
        self.administration.verbs["top"] = snapshots.take
        self.open_office()
        pulse = Pulse(self.relay.clock, self.relay.monotonic, self.instruments.late)
        loop = asyncio.get_running_loop()
        self._keeping = tuple(
            loop.create_task(work) for work in (self._forget(), self._end_leases(), pulse.run())
        )

    async def _end_leases(self) -> None:
        while True:
            with contextlib.suppress(LedgerUnavailable):  # they have ended all the same; this is told later
                await self.leasing.sweep()
            await asyncio.sleep(LEASES_S)

    async def _forget(self) -> None:
        while True:
            days = self.config.retention_days
            if days is not None:
                with contextlib.suppress(LedgerUnavailable):  # told by /readyz; the next round tries again
                    await self.ledger.purge(self.relay.clock() - days * DAY_S)
            await asyncio.sleep(PURGE_S)

    async def reload(self, config: Config) -> None:
        """Take a new config: all of it, or, where it raises, nothing."""
        serving = serving_of(config)

        def taken() -> None:
            self.config = self._pages.config = config
            self.relay.serving = serving
            self.application.cors_origins = config.cors_origins

        await self.ledger.declare(config.keys, config.accounts, taken)
        self._transports.retain(config)
        self.take_payments()

    def open_office(self) -> None:
        """Begin to take payments where the config wants that, now or after a reload."""
        offer_payments(self.leasing.administration, lambda: self.office)
        self.take_payments()

    def take_payments(self) -> None:
        """Open the office where the config wants one, or tell an open one what has changed."""
        settings = self.config.payments
        if settings is None and self.office is None:
            return
        from tokenhub_proxy.payments.office import NOTHING, Office

        if self.office is None:
            self.office = Office(
                self.ledger, settings or NOTHING, clock=self.relay.clock, randomness=os.urandom
            )
            self.office.start()
        self.office.desk.settings = settings or NOTHING
        self.application.webhooks = self.office.webhooks

    async def stop(self, drain_s: float | None = None, hurry: asyncio.Event | None = None) -> None:
        """Drain, then close the books."""
        await self.drain(drain_s, hurry)
        await self.ledger.aclose()

    async def drain(self, drain_s: float | None = None, hurry: asyncio.Event | None = None) -> None:
        """Say that we leave, refuse what is new, let streams end, cut the rest, settle everything.

        `drain_s` is the config's where it is None. `hurry` cuts the waiting short, never the settling.
        """
        pre_stop_s, drain_s = self.config.pre_stop_s, self.config.drain_s if drain_s is None else drain_s
        hurry = hurry or asyncio.Event()
        self.relay.leaving = True
        log.info(
            "drain_start in_flight=%d pre_stop_s=%g drain_s=%g",
            len(self.relay.in_flight),
            pre_stop_s,
            drain_s,
        )
        if pre_stop_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), pre_stop_s)
        for task in self._keeping:
            task.cancel()
        self._listener.close()
        await asyncio.sleep(ACCEPT_S)
        self._server.retire()
        await self._greeted(hurry)
        self.relay.draining = True
        self._server.retire(greeted=True)
        await self._drained(drain_s, hurry)
        cut = len(self.relay.in_flight)
        self.relay.cut(ShuttingDown)
        await self._drained(CUT_S, asyncio.Event())
        await self._server.shutdown(0.1)
        await self._listener.wait_closed()
        await self._transports.aclose()
        if self.office is not None:
            await self.office.aclose()
        await self._audience.aclose()
        log.info("drain_end cut=%d unsettled=%d", cut, len(self.relay.in_flight))

    async def _greeted(self, hurry: asyncio.Event) -> None:
        """Let those who had just connected say what they came for: their requests are on the way."""
        deadline = time.monotonic() + GREET_S
        while self._server.expecting and time.monotonic() < deadline:
            if hurry.is_set():
                return
            await asyncio.sleep(0.005)

    async def _drained(self, limit_s: float, hurry: asyncio.Event) -> None:
        """Wait until nothing is in flight; a hurried stop waits no longer."""
        deadline = time.monotonic() + limit_s
        while self.relay.in_flight and time.monotonic() < deadline:
            if hurry.is_set():
                return
            await asyncio.sleep(0.02)


async def start(
    config: Config,
    *,
    log: TextIO | None = None,
    demo_pause_s: float = 0.02,
    told: Sequence[observers.Observer] = (),
    clock: Callable[[], float] = time.time,
    inherited: socket.socket | None = None,
    transports: Callable[[str], Transports] | None = None,
) -> Proxy:
    """Open the books, listen, and serve. The caller stops what it got.

    A socket that is `inherited` listens in place of the config's address.
    """
    ledger = await open_ledger(
        config.ledger_url, durability=config.durability, clock=clock, boot_id=os.urandom(8).hex()
    )
    try:
        await ledger.declare(config.keys, config.accounts)
        hop = f"tokenhub-proxy-{os.urandom(8).hex()}"  # of this run, and of nothing else
        carriers = Transports(scripted(demo_pause_s), hop) if transports is None else transports(hop)
        audience = Audience(config, log)
        transport, heard = audience.transports(carriers), [*audience.observers, *told]
        relay = make_relay(config, ledger, transport=transport, told=heard, clock=clock, hop=hop)
        instruments = Instruments(relay, ledger, audience.counters, clock(), audience.outcomes)
        pages = Mount(config, relay, audience.counters)
        application = Application(
            relay,
            cors_origins=config.cors_origins,
            request_id=lambda: request_id(clock()),
            render_metrics=instruments.render,
            started_at=instruments.started_at,
            mounted=pages.handle,
            tracer=audience.tracer,
        )
        server, listener = await listen(application, config.listen_host, config.listen_port, inherited)
    except BaseException:
        await ledger.aclose()
        raise
    base_url = _base_url(listener, config.listen_host if inherited is None else None)
    proxy = Proxy(
        config=config,
        relay=relay,
        application=application,
        ledger=ledger,
        base_url=base_url,
        leasing=leasing(relay, ledger, audience.refusals.by_key, base_url),
        _transports=carriers,
        _server=server,
        _listener=listener,
        _pages=pages,
        instruments=instruments,
        _audience=audience,
    )
    proxy.keep()
    return proxy


def _base_url(listener: asyncio.Server, host: str | None) -> str:
    """What clients on this machine set as their base URL; without a host, the socket's own."""
    address = listener.sockets[0].getsockname()
    return f"http://{shown_host(host or address[0])}:{address[1]}/v1"


def shown_host(host: str) -> str:
    """The host of a URL that works on this machine."""
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def administration(relay: Relay, ledger: SqliteLedger) -> Administration:
    """The operator's verbs over this relay and ledger."""
    return Administration(ledger, relay, clock=relay.clock, randomness=os.urandom)


def offer_payments(verbs: Administration, office: Callable[[], Office | None]) -> None:
    """Add the verbs of payments, which say so where there is no office."""
    for name in PAYMENT_VERBS:
        verbs.verbs[name] = _payment_verb(name, office)


def _payment_verb(name: str, office: Callable[[], Office | None]) -> Verb:
    async def verb(arguments: Arguments) -> Any:
        found = office()
        if found is None:
            raise InvalidRequest("No payments are taken: the config has no section `payments`.")
        return await found.verbs.verbs[name](arguments)

    return verb


def leasing(relay: Relay, ledger: SqliteLedger, refused: Mapping[str, int], base_url: str) -> Leasing:
    """The operator's verbs, those of leases among them, and what ends leases."""
    verbs = administration(relay, ledger)
    return Leasing(verbs, ledger, clock=relay.clock, refused=refused, base_url=base_url)


async def administer(
    config: Config, url: str, verb: str, asked: dict[str, Any]
) -> AsyncIterator[tuple[str, Any]]:
    """Own the ledger for the time of one verb; yields what `control.ask` would."""
    ledger = await open_ledger(url, clock=time.time, boot_id=os.urandom(8).hex())
    try:
        await ledger.declare(config.keys, config.accounts)
        relay = make_relay(config, ledger, transport=Transports({}))
        verbs = leasing(relay, ledger, {}, "").administration
        office = _office_for_a_moment(config, ledger) if verb in PAYMENT_VERBS else None
        offer_payments(verbs, lambda: office)
        try:
            if verb == "ledger export":
                async for item in verbs.export():
                    yield "item", item
            else:
                yield "result", await verbs.perform(verb, asked, COMMAND_LINE)
        finally:
            if office is not None:
                await office.aclose()
    finally:
        await ledger.aclose()


def _office_for_a_moment(config: Config, ledger: SqliteLedger) -> Office | None:
    if config.payments is None:
        return None
    from tokenhub_proxy.payments.office import Office

    return Office(ledger, config.payments, clock=time.time, randomness=os.urandom)
