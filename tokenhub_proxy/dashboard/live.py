"""What goes on right now: streams in flight, pace, latency, upstreams, and the process itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenhub_proxy import calls
from tokenhub_proxy.dashboard.access import Visitor
from tokenhub_proxy.dashboard.asked import Answer, Asked
from tokenhub_proxy.dashboard.hub import Hub
from tokenhub_proxy.errors import NotFound, ProxyError, shown
from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.keys import Scope
from tokenhub_proxy.ledger import Receipt, figures
from tokenhub_proxy.prices import Price
from tokenhub_proxy.routes import Route, Target

Named = tuple[str, ...]
# How far back rates and percentiles look.
WINDOW_S = 300.0
IN_FLIGHT_SHOWN = 20
# An upstream that says nothing for so long is not well.
TEST_S = 20.0
TEST_BODY = b'{"model": "test", "max_tokens": 16, "messages": [{"role": "user", "content": "Say ok."}]}'


@dataclass(frozen=True, slots=True)
class Health:
    """One upstream in the last minutes."""

    name: str
    dialect: str
    base_url: str
    calls: int
    failures: int
    first_byte_ms: int | None
    open_s: Mapping[str, int]
    models: Sequence[str]
    credentials: int


def percentile(values: Sequence[int], per_cent: int) -> int | None:
    """The value that so many per cent do not exceed; None where there are none."""
    ranked = sorted(values)
    return ranked[(len(ranked) - 1) * per_cent // 100] if ranked else None


async def page(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    return await _live(hub, asked, visitor, "live.html")


async def panel(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    """The part of the page that is asked for again and again."""
    return await _live(hub, asked, visitor, "live-panel.html")


async def _live(hub: Hub, asked: Asked, visitor: Visitor, template: str) -> Answer:
    begun = asyncio.get_running_loop().time()
    await asyncio.sleep(0)
    lag_us = int((asyncio.get_running_loop().time() - begun) * 1e6)
    recent = await figures.since(hub.ledger.reader, None, hub.clock() - WINDOW_S)
    first = [receipt.first_byte_ms for receipt in recent if receipt.first_byte_ms is not None]
    took = [_took_ms(receipt) for receipt in recent if receipt.ended_at is not None]
    flying = sorted(hub.relay.in_flight, key=lambda exchange: exchange.started_at)
    return hub.page(
        asked,
        visitor,
        template,
        recent=len(recent),
        failed=sum(receipt.failed for receipt in recent),
        per_minute=len(recent) * 60 // int(WINDOW_S),
        first={each: percentile(first, each) for each in (50, 95, 99)},
        took={each: percentile(took, each) for each in (50, 95, 99)},
        in_flight=len(flying),
        flying=[(exchange, _age_ms(hub, exchange)) for exchange in flying[:IN_FLIGHT_SHOWN]],
        upstreams=_healths(hub, recent),
        lag_us=lag_us,
        memory=memory(),
        draining=hub.relay.draining,
        trouble=hub.ledger.unavailable,
    )


def _took_ms(receipt: Receipt) -> int:
    return int(((receipt.ended_at or 0.0) - receipt.started_at) * 1000)


def _age_ms(hub: Hub, exchange: Exchange) -> int:
    return int((hub.relay.monotonic() - exchange.started_s) * 1000)


def memory() -> int:
    """Resident bytes of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


async def upstreams(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    recent = await figures.since(hub.ledger.reader, None, hub.clock() - WINDOW_S)
    return hub.page(asked, visitor, "upstreams.html", upstreams=_healths(hub, recent), tested=None)


def _healths(hub: Hub, recent: Sequence[Receipt]) -> Sequence[Health]:
    attempts: dict[str, list[str]] = {}
    first: dict[str, list[int]] = {}
    for receipt in recent:
        for attempt in receipt.attempts:
            name, _, outcome = attempt.rpartition(":")
            attempts.setdefault(name, []).append(outcome)
        if receipt.first_byte_ms is not None:
            first.setdefault(receipt.upstream, []).append(receipt.first_byte_ms)
    down = hub.relay.health.states(hub.relay.monotonic())
    routes = hub.relay.serving.routes.visible(Scope()).values()
    return [
        Health(
            name,
            upstream.dialect,
            upstream.base_url,
            len(attempts.get(name, ())),
            sum(1 for outcome in attempts.get(name, ()) if outcome != "200"),
            percentile(first.get(name, ()), 50),
            {model: int(wait_s) for (place, model), wait_s in down.items() if place == name},
            [route.model for route in routes for target in route.targets if target.upstream.name == name],
            len(upstream.credentials),
        )
        for name, upstream in hub.config().upstreams.items()
    ]


async def test(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    """Ask an upstream for a few words, past keys and books: that is the operator's own expense."""
    target = _target(hub, named[0])
    outcome, took_ms = await _try(hub, target, asked)
    if not asked.from_htmx:
        tested = (named[0], outcome, took_ms)
        recent = await figures.since(hub.ledger.reader, None, hub.clock() - WINDOW_S)
        return hub.page(asked, visitor, "upstreams.html", upstreams=_healths(hub, recent), tested=tested)
    return hub.page(asked, visitor, "upstream-test.html", outcome=outcome, took_ms=took_ms)


def _target(hub: Hub, name: str) -> Target:
    if name not in hub.config().upstreams:
        raise NotFound(f"There is no upstream {shown(name)}.")
    for route in hub.relay.serving.routes.visible(Scope()).values():
        for target in route.targets:
            if target.upstream.name == name and not route.embeddings_only:
                return target
    raise NotFound(f"No chat model is served by {shown(name)}, so there is nothing to ask it.")


async def _try(hub: Hub, target: Target, asked: Asked) -> tuple[str, int]:
    """ "ok", or the refusal's reason; and how long that took."""
    begun = hub.relay.monotonic()
    route = Route("test", (target,), Price(), output_max=16)
    call = calls.parse(TEST_BODY, "chat", content_type="application/json", owner="", strict=False)
    exchange = Exchange(asked.id, "chat", hub.clock(), begun)
    outcome = "ok"
    try:
        async with (
            asyncio.timeout(TEST_S),
            await hub.relay.fallback.open(exchange, route, call, 16, 0.0) as answer,
        ):
            if not answer.ended:
                await answer.incoming.pump(lambda data: None)
    except ProxyError as error:
        outcome = error.reason or error.code
    except TimeoutError:
        outcome = "timeout"
    finally:
        hub.relay.watch.end(exchange)
    return outcome, int((hub.relay.monotonic() - begun) * 1000)
