"""A config as people read it: what listens, which models there are, what they cost, who may call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from tokenhub_proxy.config import Config
from tokenhub_proxy.keys import Key
from tokenhub_proxy.prices import format_usd
from tokenhub_proxy.routes import Route

_MODEL_HEAD = (
    "MODEL", "UPSTREAM", "ITS NAME", "PRIORITY", "WEIGHT", "INPUT", "CACHED", "WRITE", "OUTPUT", "OUTPUT MAX",
)  # fmt: skip
_KEY_HEAD = ("KEY", "ACCOUNT", "MODELS", "ADDRESSES", "QUOTA", "PER MINUTE", "CONCURRENT", "EXPIRES")


def describe(config: Config) -> str:
    """The normalised routes with their prices, the keys without their secrets, and the warnings.

    Prices are USD per million tokens. The targets of a model stand in the order of their
    priority; those of equal priority share by weight.
    """
    host = f"[{config.listen_host}]" if ":" in config.listen_host else config.listen_host
    parts = [
        f"listen  {host}:{config.listen_port}\nledger  {config.ledger_url}, durability {config.durability}"
    ]
    if config.routes:
        rows = [row for route in config.routes.values() for row in _model(route)]
        parts.append(_table([_MODEL_HEAD, *rows]) + "\n(prices in USD per million tokens)")
    if config.keys:
        parts.append(_table([_KEY_HEAD, *(_key(key) for key in config.keys)]))
    if config.payments is not None:
        parts.append(f"payments  {', '.join(_providers(config)) or 'codes only'}")
    if config.warnings:
        parts.append("\n".join(f"warning: {warning}" for warning in config.warnings))
    return "\n\n".join(parts) + "\n"


def summary(config: Config) -> dict[str, Any]:
    """The same as `describe` for programs: JSON's types, prices as decimal texts in USD."""
    return {
        "listen": f"{config.listen_host}:{config.listen_port}",
        "ledger": config.ledger_url,
        "durability": config.durability,
        "models": [_summary(route) for route in config.routes.values()],
        "accounts": [{"name": account.name, "unlimited": account.unlimited} for account in config.accounts],
        "keys": [dict(zip(map(str.lower, _KEY_HEAD), _key(key), strict=True)) for key in config.keys],
        "payments": _providers(config),
        "warnings": list(config.warnings),
    }


def _providers(config: Config) -> list[str]:
    providers = config.payments.providers if config.payments is not None else {}
    return [f"{name} (test)" if one.test else name for name, one in providers.items()]


def _summary(route: Route) -> dict[str, Any]:
    price = route.price
    classes = {
        "input": price.input,
        "cached": price.cached,
        "cache_write": price.cache_write,
        "output": price.output,
    }
    return {
        "model": route.model,
        "targets": [
            {
                "upstream": target.upstream.name,
                "model": target.model,
                "priority": target.priority,
                "weight": target.weight,
            }
            for target in sorted(route.targets, key=lambda target: target.priority)
        ],
        "price": {name: format_usd(nanos) for name, nanos in classes.items()},
        "context_length": route.context_length,
        "max_output_tokens": route.output_max,
        "embeddings_only": route.embeddings_only,
    }


def _model(route: Route) -> Iterator[Sequence[str]]:
    price = route.price
    if price.free:
        prices = ["free"] * 4
    else:
        prices = [format_usd(nanos) for nanos in (price.input, price.cached, price.cache_write, price.output)]
    if route.embeddings_only:
        prices[3] = "embeddings"
    first = [route.model]
    last = [*prices, str(route.output_max or "-")]
    for target in sorted(route.targets, key=lambda target: target.priority):
        yield [*first, target.upstream.name, target.model, str(target.priority), str(target.weight), *last]
        first, last = [""], [""] * len(last)


def _key(key: Key) -> Sequence[str]:
    scope = key.scope
    rates = ((scope.requests_per_minute, "requests"), (scope.tokens_per_minute, "tokens"))
    quota = "-" if scope.quota_nanos is None else f"{format_usd(scope.quota_nanos)} USD/{scope.quota_per}"
    expires = (
        "-"
        if scope.expires_at is None
        else f"{datetime.fromtimestamp(scope.expires_at, UTC):%Y-%m-%d %H:%M}Z"
    )
    return [
        key.name,
        key.account,
        " ".join(scope.models),
        " ".join(scope.ips) or "any",
        quota,
        " ".join(f"{limit} {unit}" for limit, unit in rates if limit is not None) or "-",
        str(scope.concurrent or "-"),
        expires,
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
