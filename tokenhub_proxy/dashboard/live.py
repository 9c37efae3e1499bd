"""What goes on right now: streams in flight, pace, latency, upstreams, and the process itself."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

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
WINDOW_S, STEP_S = 300.0, 10.0
IN_FLIGHT_SHOWN, OUTCOMES_SHOWN = 20, 4
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
    outcomes: Sequence[tuple[str, int]]  # what the failures were
    in_flight: int
    first_byte_ms: tuple[int | None, int | None]  # the median, and what 95 % do not exceed
    open_s: Mapping[str, int]
    models: Sequence[str]
    credentials: int
    cooling: int  # credentials that are left alone for a while


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
    now, top = hub.clock(), await hub.verbs.verbs["top"]({})
    recent = await figures.since(hub.ledger.reader, None, now - WINDOW_S)
    # Where more calls came than are looked at, they tell of a shorter time.
    span_s = WINDOW_S if len(recent) < figures.RECENT_MAX else max(1.0, now - recent[-1].started_at)
    first = [receipt.first_byte_ms for receipt in recent if receipt.first_byte_ms is not None]
    took = [_took_ms(receipt) for receipt in recent if receipt.ended_at is not None]
    return hub.page(
        asked,
        visitor,
        template,
        top=top,
        recent=len(recent),
        span_s=int(span_s),
        failed=sum(receipt.failed for receipt in recent),
        per_minute=int(len(recent) * 60 / span_s),
        first={each: percentile(first, each) for each in (50, 95, 99)},
        took={each: percentile(took, each) for each in (50, 95, 99)},
        flying=top["flying"][:IN_FLIGHT_SHOWN],
        upstreams=_healths(hub, recent),
        series=orjson.dumps(_series(recent, now)).decode(),
        lag_us=int(top["loop_lag_s"] * 1e6),
        memory=memory(),
    )


def _series(recent: Sequence[Receipt], now: float) -> Sequence[Sequence[float | None]]:
    """The window in steps: when each began, calls that went well, calls that failed, median first byte."""
    last = int(now // STEP_S)
    steps = range(last - int(WINDOW_S // STEP_S) + 1, last + 1)
    good, bad, first = Counter[int](), Counter[int](), dict[int, list[int]]()
    for receipt in recent:
        step = int(receipt.started_at // STEP_S)
        (bad if receipt.failed else good)[step] += 1
        if receipt.first_byte_ms is not None:
            first.setdefault(step, []).append(receipt.first_byte_ms)
    return [
        [step * STEP_S for step in steps],
        [good[step] for step in steps],
        [bad[step] for step in steps],
        [percentile(first.get(step, ()), 50) for step in steps],
    ]


def _took_ms(receipt: Receipt) -> int:
    return int(((receipt.ended_at or 0.0) - receipt.started_at) * 1000)


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
    outcomes: dict[str, Counter[str]] = {}
    first: dict[str, list[int]] = {}
    for receipt in recent:
        for attempt in receipt.attempts:
            name, _, outcome = attempt.rpartition(":")
            outcomes.setdefault(name, Counter())[outcome] += 1
        if receipt.first_byte_ms is not None:
            first.setdefault(receipt.upstream, []).append(receipt.first_byte_ms)
    now_s = hub.relay.monotonic()
    down, cooling = hub.relay.health.states(now_s), hub.relay.health.cooling(now_s)
    flying = Counter(exchange.upstream for exchange in hub.relay.in_flight)
    routes = hub.relay.serving.routes.visible(Scope()).values()
    found = []
    for name, upstream in hub.config().upstreams.items():
        seen, times = outcomes.get(name, Counter[str]()), first.get(name, ())
        failures = Counter({outcome: count for outcome, count in seen.items() if outcome[:1] != "2"})
        found.append(
            Health(
                name,
                upstream.dialect,
                upstream.base_url,
                calls=seen.total() - seen["breaker"],
                failures=failures.total() - failures.pop("breaker", 0),
                outcomes=failures.most_common(OUTCOMES_SHOWN),
                in_flight=flying[name],
                first_byte_ms=(percentile(times, 50), percentile(times, 95)),
                open_s={model: int(wait_s) for (place, model), wait_s in down.items() if place == name},
                models=[
                    route.model
                    for route in routes
                    for target in route.targets
                    if target.upstream.name == name
                ],
                credentials=len(upstream.credentials),
                cooling=cooling[name],
            )
        )
    return found


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
        async with asyncio.timeout(TEST_S):
            with await hub.relay.fallback.open(exchange, route, call, 16, 0.0) as answer:
                if not answer.ended:
                    await answer.incoming.pump(lambda data: None)
    except ProxyError as error:
        outcome = error.reason or error.code
    except TimeoutError:
        outcome = "timeout"
    finally:
        hub.relay.watch.end(exchange)
    return outcome, int((hub.relay.monotonic() - begun) * 1000)
