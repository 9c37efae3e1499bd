"""The section `traces` of the config: where each call is told to, in OpenTelemetry's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenhub_proxy.config import values
from tokenhub_proxy.config.nodes import Node, quoted
from tokenhub_proxy.config.secrets import Secrets
from tokenhub_proxy.config.walk import Walk

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "traces": ("endpoint", "headers", "sample_percent", "propagate"),
}


@dataclass(frozen=True, slots=True)
class Traces:
    """What is told, and to whom: `endpoint` takes OTLP over HTTP. `sample` is a share from 0 to 1."""

    endpoint: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    sample: float = 1.0
    propagate: bool = True


def read_traces(walk: Walk, secrets: Secrets, node: Node | None) -> Traces | None:
    """None where no endpoint is named: then nothing is traced."""
    fields = walk.fields(node, OPTIONS["traces"]) if node is not None else {}
    endpoint = walk.parsed(fields.get("endpoint"), values.rate_url)
    sample = walk.parsed(fields.get("sample_percent"), _percent)
    propagate = walk.boolean(fields.get("propagate"))
    headers = tuple(_headers(walk, secrets, fields))
    if endpoint is None:
        return None
    return Traces(endpoint, headers, 1.0 if sample is None else sample / 100, propagate is not False)


def _headers(walk: Walk, secrets: Secrets, fields: Mapping[str, Node]) -> list[tuple[str, str]]:
    if "headers" not in fields:
        return []
    found = []
    for name, value in walk.entries(fields["headers"]).items():
        known = walk.parsed(fields["headers"].names[name], values.header)
        secret = secrets.read(value, str)
        if known is not None and secret is not None:
            found.append((known, secret))
    return found


def _percent(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 100:
        raise ValueError(f"must be a number from 0 to 100, not {quoted(text)}")
    return found
