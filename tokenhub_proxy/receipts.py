"""A receipt as clients read it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from tokenhub_proxy.ledger import Receipt
from tokenhub_proxy.prices import format_usd


def receipt_object(receipt: Receipt) -> dict[str, Any]:
    """A receipt as `/v1/receipts/{id}` shows it."""
    usage = receipt.usage
    return {
        "request_id": receipt.request_id,
        "status": receipt.status,
        "model": receipt.model,
        "upstream": receipt.upstream or None,
        "usage": None
        if usage is None
        else {
            "input_tokens": usage.input,
            "cached_tokens": usage.cached,
            "cache_write_tokens": usage.cache_write,
            "output_tokens": usage.output,
            "reasoning_tokens": usage.reasoning,
        },
        "estimated": usage is not None and receipt.status == "settled" and not usage.reported,
        "reason": receipt.reason or None,
        "hold_usd": format_usd(receipt.hold),
        "cost_usd": format_usd(receipt.cost),
        "attempts": list(receipt.attempts),
        "started_at": timestamp(receipt.started_at),
        "ended_at": None if receipt.ended_at is None else timestamp(receipt.ended_at),
    }


def receipt_json(receipt: Receipt) -> bytes:
    """The JSON text of a receipt."""
    return orjson.dumps(receipt_object(receipt))


def timestamp(at: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC, with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
