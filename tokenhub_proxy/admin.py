"""What an operator can do, as verbs over the ledger: the same for every door that leads here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from tokenhub_proxy import keys, leases
from tokenhub_proxy.config import values
from tokenhub_proxy.errors import InvalidRequest, NotFound, shown
from tokenhub_proxy.explain import explain
from tokenhub_proxy.keys import Key, Period, Scope
from tokenhub_proxy.ledger import DEFAULT_ACCOUNT, Account, Entry, Ledger, UsageBy
from tokenhub_proxy.prices import format_usd, parse_usd
from tokenhub_proxy.receipts import timestamp
from tokenhub_proxy.relay import Relay

_DURATION = re.compile(r"(\d{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# A scope's numbers above this are a slip of the hand.
RATE_MAX = 10**9

# What `payments.verbs` answers, where payments are taken.
PAYMENT_VERBS = (
    "payments methods", "payments quote", "payments orders", "payments create", "payments show",
    "payments look", "payments complete", "payments cancel", "payments refund", "payments webhooks",
    "payments replay", "payments codes create", "payments codes list", "payments redeem",
)  # fmt: skip

Arguments = Mapping[str, Any]
Verb = Callable[[Arguments], Awaitable[Any]]


class Administration:
    """The verbs. Each takes JSON arguments and gives a JSON result, or raises a ProxyError.

    `randomness(n)` gives n random bytes for new secrets and ids.
    """

    def __init__(
        self,
        ledger: Ledger,
        relay: Relay,
        *,
        clock: Callable[[], float],
        randomness: Callable[[int], bytes],
    ) -> None:
        self._ledger = ledger
        self._relay = relay
        self._clock = clock
        self._randomness = randomness
        # A key is read, changed and written: two changes of one key must not meet in between.
        self._changing = asyncio.Lock()
        self.verbs: dict[str, Verb] = {
            "keys create": self._alone(self.keys_create),
            "keys list": self.keys_list,
            "keys show": self.keys_show,
            "keys update": self._alone(self.keys_update),
            "keys rotate": self._alone(self.keys_rotate),
            "keys revoke": self._alone(self.keys_revoke),
            "accounts create": self._alone(self.accounts_create),
            "accounts list": self.accounts_list,
            "accounts credit": self.accounts_credit,
            "accounts debit": self.accounts_debit,
            "usage": self.usage,
            "ledger verify": self.ledger_verify,
            "ledger backup": self.ledger_backup,
            "explain": self.explain,
        }

    def _alone(self, verb: Verb) -> Verb:
        async def alone(arguments: Arguments) -> Any:
            async with self._changing:
                return await verb(arguments)

        return alone

    # --- keys

    async def keys_create(self, arguments: Arguments) -> Any:
        base, account = Scope(), arguments.get("account") or DEFAULT_ACCOUNT
        if arguments.get("parent") is not None or arguments.get("lease") is not None:
            parent = self._key(arguments.get("parent"))
            arguments = leases.lease_of(arguments, parent, self._randomness(3).hex())
            base, account = replace(parent.scope, parent=parent.name), parent.account
        name = checked_name(arguments.get("name"))
        for key in self._ledger.list_keys():
            if key.name == name:
                advice = (
                    "rotate or update it" if key.revoked_at is None else "it is revoked; take another name"
                )
                raise InvalidRequest(f"There is a key {name!r} already: {advice}.", param="name")
        self._account(account)
        secret = keys.mint(self._randomness(keys.RANDOM_BYTES))
        key = Key(
            id=f"key_{self._randomness(8).hex()}",
            name=name,
            account=account,
            digest=keys.digest(secret),
            scope=self._narrowed(name, scope_of(arguments, base, self._clock())),
            created_at=self._clock(),
        )
        await self._ledger.put_key(key)
        return {"name": name, "id": key.id, "secret": secret}

    async def keys_list(self, arguments: Arguments) -> Any:
        return [self._key_object(key) for key in self._ledger.list_keys()]

    async def keys_show(self, arguments: Arguments) -> Any:
        return self._key_object(self._key(arguments.get("name")))

    async def keys_update(self, arguments: Arguments) -> Any:
        key = self._key(arguments.get("name"))
        if all(value is None for name, value in arguments.items() if name != "name"):
            raise InvalidRequest("Say what to change.")
        account = arguments.get("account") or key.account
        self._account(account)
        scope = self._narrowed(key.name, scope_of(arguments, key.scope, self._clock()))
        key = replace(key, account=account, scope=scope)
        await self._ledger.put_key(key)
        return self._key_object(key)

    async def keys_rotate(self, arguments: Arguments) -> Any:
        key = self._key(arguments.get("name"))
        if key.revoked_at is not None:
            raise InvalidRequest(f"The key {key.name!r} is revoked; create another.", param="name")
        secret = keys.mint(self._randomness(keys.RANDOM_BYTES))
        overlap_s = duration_s(arguments.get("overlap") or "0s")
        key = replace(
            key,
            digest=keys.digest(secret),
            previous_digest=key.digest if overlap_s else None,
            previous_until=self._clock() + overlap_s if overlap_s else None,
        )
        await self._ledger.put_key(key)
        return {"name": key.name, "id": key.id, "secret": secret}

    async def keys_revoke(self, arguments: Arguments) -> Any:
        key = self._key(arguments.get("name"))
        now = self._clock()
        if key.revoked_at is None:
            for each in (*leases.live(self._ledger.list_keys(), key.name, now), key):
                await self._ledger.put_key(replace(each, revoked_at=now))
        return self._key_object(self._key(key.name))

    def _narrowed(self, name: str, scope: Scope) -> Scope:
        """The scope of a key, if it narrows its parent's and its own leases narrow it.

        Raises InvalidRequest.
        """
        now, known = self._clock(), self._ledger.list_keys()
        for lease in leases.live(known, name, now):
            leases.check_narrows(scope, lease.scope)
        if scope.parent is not None:
            parent = self._key(scope.parent)
            leases.check_narrows(parent.scope, scope)
            others = [lease for lease in leases.live(known, parent.name, now) if lease.name != name]
            spent = [self._spent(lease, now) for lease in others]
            left = self._relay.left(parent, now)
            leases.check_left(left, zip(others, spent, strict=True), scope.quota_nanos)
        return scope

    def _spent(self, key: Key, now: float) -> int:
        """What a key has spent of its quota, in nanodollars."""
        return self._ledger.window(keys.period_name(key.name, key.scope.quota_per, now)).posted

    def _key(self, name: object) -> Key:
        for key in self._ledger.list_keys():
            if key.name == name:
                return key
        raise NotFound(f"There is no key {shown(str(name))}.")

    def _key_object(self, key: Key) -> dict[str, Any]:
        now, scope = self._clock(), key.scope
        state = "active"
        if key.revoked_at is not None:
            state = "revoked"
        elif scope.expires_at is not None and scope.expires_at <= now:
            state = "expired"
        quota = used = None
        if scope.quota_nanos is not None:
            quota, used = format_usd(scope.quota_nanos), format_usd(self._spent(key, now))
        return {
            "name": key.name,
            "id": key.id,
            "account": key.account,
            "state": state,
            "models": list(scope.models),
            "ips": list(scope.ips),
            "quota_usd": quota,
            "quota_per": scope.quota_per if quota is not None else None,
            "used_usd": used,
            "requests_per_minute": scope.requests_per_minute,
            "tokens_per_minute": scope.tokens_per_minute,
            "concurrent": scope.concurrent,
            "expires_at": None if scope.expires_at is None else timestamp(scope.expires_at),
            "test": scope.test,
            "parent": scope.parent,
            "from_config": key.from_config,
        }

    # --- accounts

    async def accounts_create(self, arguments: Arguments) -> Any:
        name = checked_name(arguments.get("name"))
        if self._ledger.account(name) is not None:
            raise InvalidRequest(f"There is an account {name!r} already.", param="name")
        await self._ledger.open_account(Account(name, unlimited=bool(arguments.get("unlimited"))))
        return account_object(self._account(name))

    async def accounts_list(self, arguments: Arguments) -> Any:
        return [account_object(account) for account in self._ledger.list_accounts()]

    async def accounts_credit(self, arguments: Arguments) -> Any:
        name, amount, note = self._posting(arguments)
        entry = await self._ledger.credit(name, amount, at=self._clock(), note=note)
        return entry_object(entry) | {"balance_usd": format_usd(self._account(name).posted)}

    async def accounts_debit(self, arguments: Arguments) -> Any:
        name, amount, note = self._posting(arguments)
        entry = await self._ledger.debit(name, amount, at=self._clock(), note=note)
        return entry_object(entry) | {"balance_usd": format_usd(self._account(name).posted)}

    def _posting(self, arguments: Arguments) -> tuple[str, int, str]:
        account = self._account(arguments.get("name"))
        amount = usd(arguments.get("amount"), "amount")
        if amount == 0:
            raise InvalidRequest("An amount is more than nothing.", param="amount")
        return account.name, amount, str(arguments.get("note") or "")

    def _account(self, name: object) -> Account:
        account = self._ledger.account(name) if isinstance(name, str) else None
        if account is None:
            raise NotFound(f"There is no account {shown(str(name))}.")
        return account

    # --- reports

    async def usage(self, arguments: Arguments) -> Any:
        by = arguments.get("by") or "key"
        if by not in ("key", "model", "upstream", "day"):
            raise InvalidRequest("usage is by key, model, upstream or day.", param="by")
        since = arguments.get("since")
        rows = await self._ledger.usage(cast(UsageBy, by), moment(since, self._clock(), -1) if since else 0.0)
        return [
            {
                by: row.name,
                "requests": row.requests,
                "input_tokens": row.usage.input,
                "cached_tokens": row.usage.cached,
                "cache_write_tokens": row.usage.cache_write,
                "output_tokens": row.usage.output,
                "reasoning_tokens": row.usage.reasoning,
                "cost_usd": format_usd(row.cost),
            }
            for row in rows
        ]

    async def ledger_verify(self, arguments: Arguments) -> Any:
        return {"differences": list(await self._ledger.verify())}

    async def ledger_backup(self, arguments: Arguments) -> Any:
        path = str(arguments.get("path") or "")
        await self._ledger.backup(path)
        return {"path": path}

    async def export(self) -> AsyncIterator[dict[str, Any]]:
        """Every entry, in order."""
        async for entry in self._ledger.entries():
            yield entry_object(entry)

    async def explain(self, arguments: Arguments) -> Any:
        key = self._key(arguments.get("key"))
        return explain(self._relay, key, arguments)


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


def account_object(account: Account) -> dict[str, Any]:
    return {
        "name": account.name,
        "unlimited": account.unlimited,
        "balance_usd": format_usd(account.posted),
        "held_usd": format_usd(account.held),
    }


def entry_object(entry: Entry) -> dict[str, Any]:
    """A line of the books as `ledger export` writes it."""
    return {
        "id": entry.id,
        "at": timestamp(entry.at),
        "kind": entry.kind,
        "debit": entry.debit,
        "credit": entry.credit,
        "amount_usd": format_usd(entry.amount),
        "request_id": entry.request_id,
        "note": entry.note,
    }
