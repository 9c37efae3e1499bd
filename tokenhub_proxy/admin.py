"""What an operator can do, as verbs over the ledger: the same for every door that leads here."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

from tokenhub_proxy import keys
from tokenhub_proxy.errors import InvalidRequest, NotFound, shown
from tokenhub_proxy.explain import explain
from tokenhub_proxy.keys import Key, Period, Scope
from tokenhub_proxy.ledger import DEFAULT_ACCOUNT, Account, Entry, UsageBy
from tokenhub_proxy.ledger.sqlite import SqliteLedger
from tokenhub_proxy.prices import format_usd, parse_usd
from tokenhub_proxy.receipts import timestamp
from tokenhub_proxy.relay import Relay

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DURATION = re.compile(r"(\d{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# A scope's numbers above this are a slip of the hand.
RATE_MAX = 10**9

Arguments = Mapping[str, Any]
Verb = Callable[[Arguments], Awaitable[Any]]


class Administration:
    """The verbs. Each takes JSON arguments and gives a JSON result, or raises a ProxyError.

    `randomness(n)` gives n random bytes for new secrets and ids.
    """

    def __init__(
        self,
        ledger: SqliteLedger,
        relay: Relay,
        *,
        clock: Callable[[], float],
        randomness: Callable[[int], bytes],
    ) -> None:
        self._ledger = ledger
        self._relay = relay
        self._clock = clock
        self._randomness = randomness
        self.verbs: dict[str, Verb] = {
            "keys create": self.keys_create,
            "keys list": self.keys_list,
            "keys show": self.keys_show,
            "keys update": self.keys_update,
            "keys rotate": self.keys_rotate,
            "keys revoke": self.keys_revoke,
            "accounts create": self.accounts_create,
            "accounts list": self.accounts_list,
            "accounts credit": self.accounts_credit,
            "accounts debit": self.accounts_debit,
            "usage": self.usage,
            "ledger verify": self.ledger_verify,
            "ledger backup": self.ledger_backup,
            "explain": self.explain,
        }

    # --- keys

    async def keys_create(self, arguments: Arguments) -> Any:
        name = checked_name(arguments.get("name"))
        if any(key.name == name for key in self._ledger.list_keys()):
            raise InvalidRequest(f"There is a key {name!r} already; rotate or update it.", param="name")
        account = arguments.get("account") or DEFAULT_ACCOUNT
        self._account(account)
        secret = keys.mint(self._randomness(keys.RANDOM_BYTES))
        key = Key(
            id=f"key_{self._randomness(8).hex()}",
            name=name,
            account=account,
            digest=keys.digest(secret),
            scope=scope_of(arguments, Scope(), self._clock()),
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
        account = arguments.get("account") or key.account
        self._account(account)
        key = replace(key, account=account, scope=scope_of(arguments, key.scope, self._clock()))
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
        if key.revoked_at is None:
            key = replace(key, revoked_at=self._clock())
            await self._ledger.put_key(key)
        return self._key_object(key)

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
            window = self._ledger.window(keys.period_name(key.name, scope.quota_per, now))
            quota, used = format_usd(scope.quota_nanos), format_usd(window.posted)
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
        rows = await self._ledger.usage(cast(UsageBy, by), moment(since) if since else 0.0)
        return [
            {
                by: row.name,
                "requests": row.requests,
                "input_tokens": row.usage.input,
                "cached_tokens": row.usage.cached,
                "cache_write_tokens": row.usage.cache_write,
                "output_tokens": row.usage.output,
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
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidRequest(
            "A name has 1 to 64 letters, digits, dots, dashes and underscores.", param="name"
        )
    return name


def scope_of(arguments: Arguments, scope: Scope, now: float) -> Scope:
    """The scope with what the arguments change; "none" lifts a limit."""
    changes: dict[str, Any] = {}
    if (models := arguments.get("models")) is not None:
        changes["models"] = listed(models) or ("*",)
    if (ips := arguments.get("ips")) is not None:
        changes["ips"] = networks(ips)
    if (quota := arguments.get("quota")) is not None:
        changes["quota_nanos"], changes["quota_per"] = quota_of(quota)
    for name in ("requests_per_minute", "tokens_per_minute", "concurrent"):
        if (limit := arguments.get(name)) is not None:
            changes[name] = rate(limit, name)
    if (expires := arguments.get("expires")) is not None:
        changes["expires_at"] = None if expires == "none" else moment(expires, now)
    if arguments.get("test") is not None:
        changes["test"] = bool(arguments["test"])
    return replace(scope, **changes)


def listed(text: object) -> tuple[str, ...]:
    """The parts of a comma-separated text, or of a list."""
    parts = text if isinstance(text, list) else str(text).split(",")
    return tuple(part.strip() for part in parts if part.strip())


def networks(text: object) -> tuple[str, ...]:
    found = () if text == "none" else listed(text)
    try:
        keys.Networks(found)
    except ValueError as error:
        raise InvalidRequest(f"{error}.", param="ips") from None
    return found


def quota_of(text: object) -> tuple[int | None, Period]:
    """`20.00/month` as nanodollars and a period; `none` lifts the quota."""
    if text == "none":
        return None, "total"
    amount, _, per = str(text).partition("/")
    if (per or "total") not in ("day", "week", "month", "total"):
        raise InvalidRequest("A quota is per day, week, month or total, as in 20.00/month.", param="quota")
    return usd(amount, "quota"), cast(Period, per or "total")


def usd(text: object, param: str) -> int:
    try:
        return parse_usd(str(text))
    except ValueError as error:
        raise InvalidRequest(f"{error}; amounts are in USD, such as 20.00.", param=param) from None


def rate(text: object, param: str) -> int | None:
    if text == "none":
        return None
    if not str(text).isdecimal() or not 1 <= int(str(text)) <= RATE_MAX:
        raise InvalidRequest(f"{param} is a whole number from 1, or none.", param=param)
    return int(str(text))


def duration_s(text: object) -> float:
    """`30m`, `24h`, `7d` in seconds."""
    match = _DURATION.fullmatch(str(text))
    if match is None:
        raise InvalidRequest(f"{shown(str(text))} is no duration such as 30m, 24h or 7d.")
    return int(match[1]) * _SECONDS[match[2]]


def moment(text: object, now: float | None = None) -> float:
    """A date (its start, UTC), an RFC 3339 time, or with `now` a duration from then."""
    if now is not None and _DURATION.fullmatch(str(text)):
        return now + duration_s(text)
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        raise InvalidRequest(f"{shown(str(text))} is no date such as 2027-01-01.") from None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


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
