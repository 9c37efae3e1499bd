"""What the operator decided about payments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenhub_proxy.payments import Provider

MINIMUM_NANOS = 10**9
MAXIMUM_NANOS = 1000 * 10**9


@dataclass(frozen=True, slots=True)
class Settings:
    """`fees` are millionths by provider. A rate is fixed (millionths of a ruble for one USD) or read
    from `rate_url`; `markup` millionths come on top of either.
    """

    providers: Mapping[str, Provider]
    fees: Mapping[str, int] = field(default_factory=dict)
    minimum: int = MINIMUM_NANOS
    maximum: int = MAXIMUM_NANOS
    rate_fixed: int | None = None
    rate_url: str | None = None
    markup: int = 0
