"""What was spent on what: overview, usage, requests, balance, models."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from tokenhub_proxy.dashboard import charts
from tokenhub_proxy.dashboard.access import Visitor
from tokenhub_proxy.dashboard.asked import Answer, Asked
from tokenhub_proxy.dashboard.hub import Hub
from tokenhub_proxy.dashboard.key_pages import base_url, example_model
from tokenhub_proxy.errors import InvalidRequest, NotFound, shown
from tokenhub_proxy.keys import Scope
from tokenhub_proxy.ledger import WORLD, Entry, figures
from tokenhub_proxy.ledger.figures import Filter, Spent
from tokenhub_proxy.ledger.rows import DAY_S
from tokenhub_proxy.pricelist import lookup
from tokenhub_proxy.prices import Price, format_usd
from tokenhub_proxy.receipts import timestamp
from tokenhub_proxy.routes import Route, Target

Named = tuple[str, ...]
SPANS = (7, 30, 90)
TOP = 5
# Columns of the usage table that are added up.
SUMS = 6


def today(hub: Hub) -> int:
    """Days since 1970."""
    return int(hub.clock() // DAY_S)


async def overview(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    account, t, day = hub.account(asked, visitor), hub.pages.words(asked), today(hub)
    # Two sums of few rows each; one by both would have as many rows as there are pairs.
    rows = await figures.spent(hub.ledger.reader, account, day - 29, ("model",))
    by_key = await figures.spent(hub.ledger.reader, account, day - 29, ("key",))
    newest = await figures.calls(hub.ledger.reader, figures.Filter(account), None)
    spent = {days: sum(row.cost for row in rows if row.day > day - days) for days in (1, 7, 30)}
    paying = hub.ledger.account(account) if account is not None else None
    stack = charts.stacked(_days(day, 30), _by_day(rows, "model"), t("chart.others"))
    active = [key for key in hub.keys(account) if key.works(key.digest, hub.clock())]
    return hub.page(
        asked,
        visitor,
        "overview.html",
        account=account,
        paying=paying,
        spent=spent,
        days_left=_days_left(paying.available if paying is not None else None, spent[7]),
        requests=sum(row.requests for row in rows if row.day == day),
        requests_month=sum(row.requests for row in rows),
        tokens=sum(row.input + row.cached + row.output for row in rows),
        failed=sum(row.failed for row in rows if row.day > day - 7),
        ended=sum(row.ended for row in rows if row.day > day - 7),
        stack=stack,
        top_models=_top(rows, "model"),
        top_keys=_top(by_key, "key"),
        own_keys={key.name for key in hub.keys(account)},
        newest=newest.receipts[:TOP],
        active=len(active),
        base_url=base_url(asked),
        model=example_model(hub, Scope()),
    )


def _days_left(available: int | None, week: int) -> int | None:
    """How long a balance lasts at the pace of the last seven days; None where nobody can tell."""
    return None if available is None or not week else available * 7 // week


def _days(last: int, count: int) -> Sequence[float]:
    return [float(day * DAY_S) for day in range(last - count + 1, last + 1)]


def _by_day(rows: Sequence[Spent], group: str) -> Mapping[float, Mapping[str, int]]:
    found: dict[float, dict[str, int]] = {}
    for row in rows:
        parts, name = found.setdefault(float(row.at), {}), str(getattr(row, group))
        parts[name] = parts.get(name, 0) + row.cost
    return found


def _top(rows: Sequence[Spent], group: str) -> Sequence[tuple[str, int, int]]:
    """The names that cost most: name, requests, cost."""
    sums: dict[str, tuple[int, int]] = {}
    for row in rows:
        name = str(getattr(row, group))
        requests, cost = sums.get(name, (0, 0))
        sums[name] = (requests + row.requests, cost + row.cost)
    ranked = sorted(sums.items(), key=lambda item: (-item[1][1], -item[1][0], item[0]))
    return [(name, *figures) for name, figures in ranked[:TOP]]


# --- usage


def _span(asked: Asked) -> int:
    text = asked.query.get("days", "30")
    return int(text) if text in map(str, SPANS) else 30


async def _used(
    hub: Hub, asked: Asked, visitor: Visitor, groups: Sequence[str]
) -> tuple[str | None, Sequence[Spent]]:
    account = hub.account(asked, visitor)
    only = {name: asked.query.get(name, "") for name in ("key", "model")}
    rows = await figures.spent(hub.ledger.reader, account, today(hub) - _span(asked) + 1, groups, **only)
    if only["key"] and not rows:
        # A key that has left this account is known by what it used here.
        hub.key(only["key"], visitor)
    return account, rows


async def usage(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    group = "key" if asked.query.get("by") == "key" else "model"
    account, rows = await _used(hub, asked, visitor, (group,))
    t, span = hub.pages.words(asked), _span(asked)
    table: dict[str, list[int]] = {}
    for row in rows:
        sums = table.setdefault(str(getattr(row, group)), [0] * SUMS)
        counts = (row.requests, row.failed, row.input, row.cached, row.output, row.cost)
        for place, amount in enumerate(counts):
            sums[place] += amount
    ranked = sorted(table.items(), key=lambda item: (-item[1][-1], -item[1][0], item[0]))
    days = _days(today(hub), span)
    by_day = _by_day(rows, group)
    return hub.page(
        asked,
        visitor,
        "usage.html",
        account=account,
        rows=ranked[:100],
        others=len(ranked[100:]),
        totals=[sum(sums[place] for sums in table.values()) for place in range(SUMS)],
        stack=charts.stacked(days, by_day, t("chart.others")),
        span=span,
        spans=SPANS,
        group=group,
        keys=[key.name for key in hub.keys(account)],
        models=list(hub.relay.serving.routes.visible(Scope())),
    )


async def usage_csv(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    _, rows = await _used(hub, asked, visitor, ("key", "model"))
    return csv_answer(
        "usage.csv",
        (
            "day",
            "key",
            "model",
            "requests",
            "input_tokens",
            "cached_tokens",
            "output_tokens",
            "cost_usd",
            "failed_requests",
        ),
        (
            (
                timestamp(row.at)[:10],
                row.key,
                row.model,
                row.requests,
                row.input,
                row.cached,
                row.output,
                format_usd(row.cost),
                row.failed,
            )
            for row in rows
        ),
    )


def csv_answer(name: str, head: Sequence[str], rows: Any) -> Answer:
    """A table for a spreadsheet. A text that it would take for a formula gets a quote before it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow(
            [f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" else cell for cell in row]
        )
    return Answer(
        text.getvalue().encode(),
        content_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


# --- requests


async def requests(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    account = hub.account(asked, visitor)
    wanted = Filter(
        account, asked.query.get("key", ""), asked.query.get("model", ""), asked.query.get("status", "")
    )
    found = await figures.calls(hub.ledger.reader, wanted, before_of(asked))
    return hub.page(
        asked,
        visitor,
        "requests.html",
        account=account,
        found=found,
        wanted=wanted,
        keys=[key.name for key in hub.keys(account)],
        models=list(hub.relay.serving.routes.visible(Scope())),
    )


def before_of(asked: Asked) -> int | None:
    """Where a page of a list begins."""
    text = asked.query.get("before", "")
    if text and not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise InvalidRequest("There is no such page.", param="before")
    return int(text) if text else None


async def request(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    receipt = await hub.ledger.receipt(named[0])
    if receipt is None or not (visitor.operator or receipt.account == visitor.person.account):
        raise NotFound(f"There is no request {shown(named[0])}.")
    return hub.page(asked, visitor, "request.html", receipt=receipt, failed=receipt.failed)


# --- balance


async def balance(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    account = hub.the_account(hub.account(asked, visitor) or hub.ledger.list_accounts()[0].name)
    found = await figures.statement(hub.ledger.reader, account.name, before_of(asked))
    running = asked.query.get("balance", "")
    after = int(running) if running.lstrip("-").isdecimal() and before_of(asked) else found.posted
    lines: list[tuple[Entry, int, int]] = []
    for entry in found.entries:
        amount = entry.amount if entry.credit == account.name else -entry.amount
        lines.append((entry, amount, after))
        after -= amount
    return hub.page(
        asked,
        visitor,
        "balance.html",
        account=account.name,
        paying=account,
        lines=lines,
        next_before=found.entries[-1].id if found.more else None,
        next_balance=after,
        world=WORLD,
        blocked=hub.ledger.is_blocked(account.name),
        takes_payments=hub.config().payments is not None,
    )


# --- models


async def models(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    routes = list(hub.relay.serving.routes.visible(Scope()).values())
    down = hub.relay.health.states(hub.relay.monotonic())
    rows = [
        (route, _up(route, down), [_target(route.price, target) for target in route.targets])
        for route in routes
    ]
    return hub.page(asked, visitor, "models.html", rows=rows)


def _up(route: Route, down: Mapping[tuple[str, str], float]) -> bool:
    """Whether some target of a model is worth asking now."""
    return any((target.upstream.name, target.model) not in down for target in route.targets)


def _target(price: Price, target: Target) -> tuple[Target, Price | None, int | None]:
    """A target, its upstream's list price, and the margin on output in tenths of a per cent."""
    listed = lookup(target.upstream.dialect, target.upstream.base_url, target.model)
    cost = listed.price if listed is not None else None
    if cost is None or not price.output:
        return target, cost, None
    return target, cost, 1000 * (price.output - cost.output) // price.output
