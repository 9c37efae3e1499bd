"""What the durable books say of orders, their events, webhooks and codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenhub_proxy.ledger.order_rows import order_of
from tokenhub_proxy.ledger.orders import Code, Order, OrderEvent, Webhook
from tokenhub_proxy.ledger.reader import Reader
from tokenhub_proxy.ledger.schema_orders import ORDER_COLUMNS

PAGE_MAX = 100

# ruff: noqa: S608 - the parts of the queries are our own names, values are bound

_SELECT = f"SELECT {ORDER_COLUMNS} FROM orders"


async def order(reader: Reader, condition: str, *values: Any) -> Order | None:
    """The newest order of a condition."""
    (rows,) = await reader.fetch((f"{_SELECT} WHERE {condition} ORDER BY created_at DESC LIMIT 1", values))
    return order_of(rows[0]) if rows else None


async def orders(
    reader: Reader, wanted: Mapping[str, str | None], before: tuple[float, str] | None, limit: int
) -> Sequence[Order]:
    """A page of orders, the newest first; `wanted` has columns with what they must be, None for anything."""
    conditions, values = ["1"], list[Any]()
    for name, value in wanted.items():
        if value is not None:
            conditions.append(f"{name} = ?")
            values.append(value)
    if before is not None:
        conditions.append("(created_at, id) < (?, ?)")
        values += before
    values.append(max(1, min(limit, PAGE_MAX)))
    (rows,) = await reader.fetch(
        (f"{_SELECT} WHERE {' AND '.join(conditions)} ORDER BY created_at DESC, id DESC LIMIT ?", values)
    )
    return [order_of(row) for row in rows]


async def open_orders(reader: Reader) -> Sequence[Order]:
    """Orders whose provider has something to say yet."""
    (rows,) = await reader.fetch(
        (
            f"{_SELECT} WHERE state = 'created' OR state = 'pending' OR refunding > refunded"
            " ORDER BY created_at",
            (),
        )
    )
    return [order_of(row) for row in rows]


async def events(reader: Reader, order_id: str) -> Sequence[OrderEvent]:
    """What happened to an order."""
    (rows,) = await reader.fetch(
        (
            "SELECT id, at, order_id, provider, payment, kind, amount, entry, note FROM order_events"
            " WHERE order_id = ? ORDER BY id",
            (order_id,),
        )
    )
    return [OrderEvent(*row) for row in rows]


async def webhooks(reader: Reader, limit: int) -> Sequence[Webhook]:
    """The newest webhooks first."""
    (rows,) = await reader.fetch(
        (
            "SELECT at, provider, peer, length, event, payment, order_id, verdict, id FROM webhooks"
            " ORDER BY id DESC LIMIT ?",
            (max(1, min(limit, PAGE_MAX)),),
        )
    )
    return [Webhook(*row) for row in rows]


async def codes(reader: Reader, limit: int) -> Sequence[Code]:
    """The newest codes first."""
    (rows,) = await reader.fetch(
        (
            "SELECT digest, nanos, created_at, expires_at, note, order_id, used_at FROM codes"
            " ORDER BY created_at DESC, digest LIMIT ?",
            (max(1, min(limit, PAGE_MAX)),),
        )
    )
    return [Code(bytes(row[0]), *row[1:]) for row in rows]
