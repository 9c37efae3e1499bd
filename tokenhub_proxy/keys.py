"""Keys: minting, checking and digesting them, what each may do, and where a client really is."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from tokenhub_proxy.errors import InvalidApiKey

PREFIX = "sk-th-"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# 28 base62 characters carry 166 random bits; guessing one is hopeless, so a fast digest is right.
RANDOM_LENGTH = 28
RANDOM_BYTES = 32
CHECKSUM_LENGTH = 6
# What a scanner looks for in any text; `well_formed` then tells a real secret from noise.
KEY_PATTERN = r"(?<![0-9A-Za-z])sk-th-[0-9A-Za-z]{34}(?![0-9A-Za-z])"
# A key from the config is the operator's own choice: the prefix and this many characters more.
CONFIG_KEY_LENGTH_MIN = len(PREFIX) + 16
# Longer credentials are nobody's key; refusing them early keeps hashing cheap.
SECRET_LENGTH_MAX = 256

DAY_S = 86400

Period = Literal["day", "week", "month", "total"]


@dataclass(frozen=True, slots=True)
class Scope:
    """What a key may do. None means: no such limit."""

    models: tuple[str, ...] = ("*",)
    ips: tuple[str, ...] = ()
    quota_nanos: int | None = None
    quota_per: Period = "total"
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    expires_at: float | None = None  # seconds since 1970, UTC
    test: bool = False  # may ask for faults on the wire
    parent: str | None = None  # a lease: the name of the key that it narrows


@dataclass(frozen=True, slots=True)
class Key:
    """A client's key: who it is, whom it bills, what it may do. The secret is nowhere.

    `digest` is the SHA-256 of the secret. `previous_digest` works beside it until
    `previous_until` (seconds since 1970), so that a rotation can overlap.
    """

    id: str
    name: str
    account: str
    digest: bytes
    scope: Scope = Scope()
    created_at: float = 0.0
    revoked_at: float | None = None
    previous_digest: bytes | None = None
    previous_until: float | None = None
    from_config: bool = False

    def works(self, digest: bytes, now_s: float) -> bool:
        """True when this digest opens the key at this time."""
        if self.revoked_at is not None and self.revoked_at <= now_s:
            return False
        if self.scope.expires_at is not None and self.scope.expires_at <= now_s:
            return False
        if digest == self.digest:
            return True
        return (
            digest == self.previous_digest and self.previous_until is not None and now_s < self.previous_until
        )


def mint(randomness: bytes) -> str:
    """A new secret from at least 32 random bytes: prefix, 28 characters, checksum."""
    if len(randomness) < RANDOM_BYTES:
        raise ValueError(f"a key needs {RANDOM_BYTES} random bytes, got {len(randomness)}")
    number = int.from_bytes(randomness[:RANDOM_BYTES])
    body = PREFIX + _base62(number % 62**RANDOM_LENGTH, RANDOM_LENGTH)
    return body + checksum(body)


def checksum(body: str) -> str:
    """The 6-character tail of all that stands before it, the prefix included."""
    return _base62(zlib.crc32(body.encode()), CHECKSUM_LENGTH)


def well_formed(secret: str) -> bool:
    """True for a secret that `mint` could have made: prefix, length, alphabet and checksum."""
    body, tail = secret[:-CHECKSUM_LENGTH], secret[-CHECKSUM_LENGTH:]
    return (
        secret.startswith(PREFIX)
        and len(body) == len(PREFIX) + RANDOM_LENGTH
        and all(character in ALPHABET for character in body[len(PREFIX) :])
        and checksum(body) == tail
    )


def digest(secret: str) -> bytes:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def masked(secret: str) -> str:
    """A secret as people may see it again: its first and last four characters."""
    return f"{secret[: len(PREFIX) + 4]}...{secret[-4:]}"


def _base62(number: int, length: int) -> str:
    characters = []
    for _ in range(length):
        number, remainder = divmod(number, 62)
        characters.append(ALPHABET[remainder])
    return "".join(reversed(characters))


def bearer(authorization: Sequence[str], others: Iterable[str]) -> str:
    """The one credential of a request.

    `authorization` holds every Authorization header; `others` names the other credential doors
    that were used (`x-api-key`, a query parameter, …). Raises InvalidApiKey for none, for more
    than one, and for what is no bearer token.
    """
    if len(authorization) != 1:
        raise InvalidApiKey("missing" if not authorization else "two Authorization headers")
    for name in others:
        raise InvalidApiKey(f"second credential in {name}")
    scheme, _, secret = authorization[0].partition(" ")
    secret = secret.strip(" ")
    if scheme.lower() != "bearer" or not secret:
        raise InvalidApiKey("not a bearer token")
    if len(secret) > SECRET_LENGTH_MAX or not secret.startswith(PREFIX) or not secret.isascii():
        raise InvalidApiKey("malformed")
    return secret


# --- addresses ---------------------------------------------------------------------------------

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Networks:
    """A list of addresses and CIDR ranges, tested by integer masks."""

    __slots__ = ("_v4", "_v6", "texts")

    def __init__(self, texts: Iterable[str]) -> None:
        """Raises ValueError, with a message for people, for what is no address or range."""
        self.texts = tuple(texts)
        self._v4: list[tuple[int, int]] = []
        self._v6: list[tuple[int, int]] = []
        for text in self.texts:
            network = parse_network(text)
            pair = (int(network.netmask), int(network.network_address))
            (self._v4 if network.version == 4 else self._v6).append(pair)

    def __bool__(self) -> bool:
        return bool(self.texts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Networks) and self.texts == other.texts

    def __hash__(self) -> int:
        return hash(self.texts)

    def __repr__(self) -> str:
        return f"Networks({list(self.texts)})"

    def __contains__(self, address: Address) -> bool:
        number = int(address)
        pairs = self._v4 if address.version == 4 else self._v6
        return any(number & mask == network for mask, network in pairs)


@lru_cache(maxsize=1024)  # lists come from keys and the config, not from requests
def networks(texts: tuple[str, ...]) -> Networks:
    """The compiled form of a scope's list."""
    return Networks(texts)


def parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """One address or CIDR range; a mapped IPv4 range becomes the IPv4 one it stands for."""
    try:
        network = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address or CIDR range") from None
    address = text.strip().partition("/")[0]
    if network.network_address != ipaddress.ip_address(address):
        raise ValueError(f"{text!r} has host bits set; did you mean {str(network)!r}?")
    if isinstance(network, ipaddress.IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= 96:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


# `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]`, `[::1]:80`: the forms that proxies write.
_HOST = re.compile(r"\[([^\[\]]*)\](?::[0-9]{1,5})?|([0-9.]*):[0-9]{1,5}|(.*)", re.DOTALL)


def parse_address(text: str) -> Address | None:
    """An address without brackets, port, zone or mapping; None for what is none."""
    found = _HOST.fullmatch(text.strip())
    if found is None:
        return None
    bracketed, before_port, bare = found.groups()
    try:
        if bracketed is not None:
            address: Address = ipaddress.IPv6Address(bracketed)
        else:
            address = ipaddress.ip_address(bare if before_port is None else before_port)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.scope_id is not None:
            return ipaddress.IPv6Address(int(address))
    return address


def client_address(peer: str, forwarded: Sequence[str], trusted: Networks) -> Address | None:
    """The client's address, or None when it can't be told; then every list refuses it.

    `forwarded` holds the X-Forwarded-For headers in order. They are believed only from a trusted
    peer, and read right to left up to the first address that is no trusted proxy: everything
    left of that is the client's own invention.
    """
    address = parse_address(peer)
    if address is None or not forwarded or not trusted or address not in trusted:
        return address
    for hop in reversed(",".join(forwarded).split(",")):
        address = parse_address(hop)
        if address is None or address not in trusted:
            return address
    return address


def period_name(key: str, per: Period, now_s: float) -> str:
    """The name of a quota window's counter, such as `laptop/2026-11`, in UTC.

    The window is part of the name, so nothing ever resets.
    """
    return f"{key}/{_period(per, int(now_s // DAY_S))}"


@lru_cache(maxsize=64)  # a window of each length; today's, and those of a clock that jumps
def _period(per: Period, day: int) -> str:
    """What a window is called that holds this day, counted since 1970."""
    date = datetime.fromtimestamp(day * DAY_S, UTC)
    if per == "day":
        return f"{date:%Y-%m-%d}"
    if per == "week":
        year, week, _ = date.isocalendar()
        return f"{year}-W{week:02d}"
    return f"{date:%Y-%m}" if per == "month" else "total"
