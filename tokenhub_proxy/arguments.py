"""The arguments of verbs as values: scopes, amounts, durations. What is refused raises InvalidRequest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from tokenhub_proxy import keys
from tokenhub_proxy.config import values
from tokenhub_proxy.errors import InvalidRequest, shown
from tokenhub_proxy.keys import Period, Scope
from tokenhub_proxy.prices import parse_usd

_DURATION = re.compile(r"(\d{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# A scope's numbers above this are a slip of the hand.
RATE_MAX = 10**9

Arguments = Mapping[str, Any]


def checked_name(name: object) -> str:
    """The name of a key or an account. Raises InvalidRequest."""
    try:
        return values.name(name if isinstance(name, str) else "")
    except ValueError as error:
        raise InvalidRequest(f"{shown(str(name))}: {error}.", param="name") from None


def scope_of(arguments: Arguments, scope: Scope, now: float) -> Scope:
    """The scope with what the arguments change; "none" lifts a limit."""
    changes: dict[str, Any] = {}
    if (models := arguments.get("models")) is not None:
        changes["models"] = listed(models, "models")
    if (ips := arguments.get("ips")) is not None:
        changes["ips"] = networks(ips)
    if (quota := arguments.get("quota")) is not None:
        changes["quota_nanos"], changes["quota_per"] = quota_of(quota)
    for name in ("requests_per_minute", "tokens_per_minute", "concurrent"):
        if (limit := arguments.get(name)) is not None:
            changes[name] = rate(limit, name)
    if (expires := arguments.get("expires")) is not None:
        changes["expires_at"] = None if expires == "none" else moment(expires, now, +1)
        if changes["expires_at"] is not None and changes["expires_at"] <= now:
            raise InvalidRequest("That time is over; to end a key, revoke it.", param="expires")
    if arguments.get("test") is not None:
        changes["test"] = bool(arguments["test"])
    return replace(scope, **changes)


def listed(text: object, param: str) -> tuple[str, ...]:
    """The parts of a comma-separated text, or of a list. An empty one is a slip, not a limit lifted."""
    parts = text if isinstance(text, list) else str(text).split(",")
    found = tuple(str(part).strip() for part in parts)
    if not all(found) or not found:
        raise InvalidRequest(f"{param} has an empty part.", param=param)
    return found


def networks(text: object) -> tuple[str, ...]:
    """Addresses and ranges; `none` lifts the list."""
    found = () if text == "none" else listed(text, "ips")
    try:
        keys.Networks(found)
    except ValueError as error:
        raise InvalidRequest(f"{error}.", param="ips") from None
    return found


def quota_of(text: object) -> tuple[int | None, Period]:
    """`20.00/month` as nanodollars and a period; `none` lifts the quota."""
    if text == "none":
        return None, "total"
    amount, slash, per = str(text).partition("/")
    if not slash:
        per = "total"
    if per not in ("day", "week", "month", "total"):
        raise InvalidRequest("A quota is per day, week, month or total, as in 20.00/month.", param="quota")
    return usd(amount, "quota"), cast(Period, per)


def usd(text: object, param: str) -> int:
    """Nanodollars of a decimal text."""
    try:
        return parse_usd(str(text))
    except ValueError as error:
        raise InvalidRequest(f"{error}; amounts are in USD, such as 20.00.", param=param) from None


def rate(text: object, param: str) -> int | None:
    """A limit, or `none`."""
    if text == "none":
        return None
    if not (str(text).isascii() and str(text).isdecimal()) or not 1 <= int(str(text)) <= RATE_MAX:
        raise InvalidRequest(f"{param} is a whole number from 1, or none.", param=param)
    return int(str(text))


def duration_s(text: object) -> float:
    """`30m`, `24h`, `7d` in seconds."""
    match = _DURATION.fullmatch(str(text))
    if match is None:
        raise InvalidRequest(f"{shown(str(text))} is no duration such as 30m, 24h or 7d.")
    return int(match[1]) * _SECONDS[match[2]]


def moment(text: object, now: float, sign: int) -> float:
    """A date (its start, UTC), a time with its zone, or a duration from now on (+1) or ago (-1)."""
    if _DURATION.fullmatch(str(text)):
        return now + sign * duration_s(text)
    try:
        return values.expires(str(text))
    except ValueError:
        raise InvalidRequest(
            f"{shown(str(text))} is neither a date such as 2027-01-01 nor 30m, 24h, 7d."
        ) from None
