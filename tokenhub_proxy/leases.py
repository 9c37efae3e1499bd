"""Leases: keys for a while, which can only narrow the key that they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.keys import Key, Scope, parse_network
from tokenhub_proxy.routes import matches

# Where a pattern of the parent has only these wildcards, a pattern of the child that it matches as
# a text matches nothing that the parent's does not: `*` alone swallows the child's own wildcards.
_HARD = frozenset("?[")


def check_narrows(parent: Scope, child: Scope) -> None:
    """Refuse a child that may do anything that its parent may not. Raises InvalidRequest."""
    for pattern in child.models:
        if not _covered(pattern, parent.models):
            raise _wider("models", f"{pattern!r} is not within {', '.join(parent.models)}")
    if parent.ips and not (child.ips and all(_within(one, parent.ips) for one in child.ips)):
        raise _wider("ips", f"only {', '.join(parent.ips)}")
    for name in ("requests_per_minute", "tokens_per_minute", "concurrent", "expires_at"):
        limit, asked = getattr(parent, name), getattr(child, name)
        if limit is not None and (asked is None or asked > limit):
            raise _wider("expires" if name == "expires_at" else name, "the parent's limit is lower")
    if parent.quota_nanos is not None and (
        child.quota_nanos is None or child.quota_nanos > parent.quota_nanos
    ):
        raise _wider("quota", "the parent's quota is lower")
    if child.test and not parent.test:
        raise _wider("test", "the parent is no test key")


def lease_of(arguments: Mapping[str, Any], parent: Key, suffix: str) -> Mapping[str, Any]:
    """The arguments of a new key that is a lease of this parent. Raises InvalidRequest.

    It has a name of its own where it is given none, ends when its time is over, and is paid by the
    parent's account.
    """
    if parent.revoked_at is not None or parent.scope.parent is not None:
        raise InvalidRequest(f"The key {parent.name!r} can't be leased: it is revoked or a lease itself.")
    for name in ("lease", "quota"):
        if arguments.get(name) is None:
            raise InvalidRequest(f"A lease of {parent.name!r} needs a {name}.", param=name)
    if str(arguments["quota"]).partition("/")[2] not in ("", "total"):
        raise InvalidRequest("A lease's quota is for all of its time, such as 0.50.", param="quota")
    for name in ("account", "expires"):
        if arguments.get(name) is not None:
            raise InvalidRequest(f"A lease has its {name} from its parent and its time.", param=name)
    name = arguments.get("name") or f"{parent.name}-{suffix}"
    return {**arguments, "name": name, "expires": arguments["lease"]}


def check_left(left: int | None, leases: Iterable[tuple[Key, int]], quota: int | None) -> None:
    """Refuse a quota beyond what the parent has left, in nanodollars, once its leases are counted.

    `leases` are those that live, with what each has spent. Raises InvalidRequest.
    """
    if left is None or quota is None:
        return
    promised = sum(max(0, (lease.scope.quota_nanos or 0) - spent) for lease, spent in leases)
    if quota > left - promised:
        raise _wider("quota", "the parent has less left, or has leased it already")


def live(keys: Iterable[Key], parent: str, now_s: float) -> list[Key]:
    """The leases of a key that have not ended."""
    return [
        key
        for key in keys
        if key.scope.parent == parent
        and key.revoked_at is None
        and (key.scope.expires_at is None or key.scope.expires_at > now_s)
    ]


def over(keys: Iterable[Key], now_s: float) -> list[Key]:
    """The leases whose time is over and that nobody has ended yet."""
    return [
        key
        for key in keys
        if key.scope.parent is not None
        and key.revoked_at is None
        and key.scope.expires_at is not None
        and key.scope.expires_at <= now_s
    ]


def _covered(pattern: str, parents: Iterable[str]) -> bool:
    for parent in parents:
        plain = not set(pattern) & {"*", *_HARD}
        if pattern == parent or ((plain or not set(parent) & _HARD) and matches((parent,), pattern)):
            return True
    return False


def _within(text: str, parents: Iterable[str]) -> bool:
    network = parse_network(text)
    for parent in map(parse_network, parents):
        if network.version == parent.version and (
            int(parent.network_address) <= int(network.network_address)
            and int(network.broadcast_address) <= int(parent.broadcast_address)
        ):
            return True
    return False


def _wider(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"A lease can only narrow its parent: {param}: {why}.", param=param)
