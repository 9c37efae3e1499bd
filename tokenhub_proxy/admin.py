"""What an operator can do, as verbs over the ledger: the same for every door that leads here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from tokenhub_proxy import keys, leases
from tokenhub_proxy.arguments import Arguments, checked_name, duration_s, moment, rate, scope_of, usd
from tokenhub_proxy.errors import InvalidRequest, NotFound, shown
from tokenhub_proxy.explain import explain
from tokenhub_proxy.keys import Key, Scope
from tokenhub_proxy.ledger import DEFAULT_ACCOUNT, Account, Entry, UsageBy
from tokenhub_proxy.ledger.people import Act
from tokenhub_proxy.ledger.sqlite import SqliteLedger
from tokenhub_proxy.prices import format_usd
from tokenhub_proxy.receipts import timestamp
from tokenhub_proxy.relay import Relay
from tokenhub_proxy.users import Actor, Users

# Verbs that go on record.
CHANGING = frozenset(
    f"{noun} {verb}"
    for noun, verbs in {
        "keys": ("create", "update", "rotate", "revoke"),
        "accounts": ("create", "credit", "debit", "block", "unblock"),
        "users": ("invite", "block", "unblock"),
        "tokens": ("create", "revoke"),
        "leases": ("end",),
        "payments": ("create", "complete", "cancel", "refund", "replay", "codes create", "redeem"),
        "ledger": ("backup",),
    }.items()
    for verb in verbs
)

# What `payments.verbs` answers, where payments are taken.
PAYMENT_VERBS = (
    "payments methods", "payments quote", "payments orders", "payments create", "payments show",
    "payments look", "payments complete", "payments cancel", "payments refund", "payments webhooks",
    "payments replay", "payments codes create", "payments codes list", "payments redeem",
)  # fmt: skip

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
        self.ledger = ledger
        self._relay = relay
        self._clock = clock
        self._randomness = randomness
        self.users = Users(ledger, ledger.people, clock=clock, randomness=randomness)
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
            "accounts block": self.accounts_block,
            "accounts unblock": self.accounts_unblock,
            "usage": self.usage,
            "ledger verify": self.ledger_verify,
            "ledger backup": self.ledger_backup,
            "explain": self.explain,
            "audit": self.audit,
            **self.users.verbs,
        }

    def _alone(self, verb: Verb) -> Verb:
        async def alone(arguments: Arguments) -> Any:
            async with self._changing:
                return await verb(arguments)

        return alone

    async def perform(self, verb: str, arguments: Arguments, actor: Actor) -> Any:
        """A verb on somebody's behalf; what it changed goes on record. Raises NotFound, ProxyError."""
        handler = self.verbs.get(verb)
        if handler is None:
            raise NotFound(f"The running server knows no {shown(verb)}.")
        if verb not in CHANGING:
            return await handler(arguments)
        about = (arguments.get(each) for each in ("name", "order", "id", "account", "path"))
        name = str(next((each for each in about if each), ""))
        if verb.startswith("payments ") and actor.door != "command line":
            # Whose decision it was is kept with the order too.
            arguments = {**arguments, "actor": actor.name}
        before = self._state(verb, name)
        result = await handler(arguments)
        details = differences(before, self._state(verb, name))
        for given in ("amount", "count", "note", "overlap", "account", "payment", "outside"):
            if arguments.get(given) is not None:
                details.setdefault(given, arguments[given])
        await self.ledger.people.note(
            Act(self._clock(), actor.name, actor.door, actor.address, verb, name, details)
        )
        return result

    def _state(self, verb: str, name: str) -> dict[str, Any]:
        """What a verb is about, as it is now."""
        if verb.startswith(("keys ", "leases ")):
            return next((self._key_object(key) for key in self.ledger.list_keys() if key.name == name), {})
        account = self.ledger.account(name) if verb.startswith("accounts ") else None
        return {} if account is None else account_object(account)

    async def audit(self, arguments: Arguments) -> Any:
        before = arguments.get("before")
        last = None if before is None else rate(before, "before")
        return [act_object(act) for act in await self.ledger.people.acts(last)]

    # --- keys

    async def keys_create(self, arguments: Arguments) -> Any:
        base, account = Scope(), arguments.get("account") or DEFAULT_ACCOUNT
        if arguments.get("parent") is not None or arguments.get("lease") is not None:
            parent = self._key(arguments.get("parent"))
            arguments = leases.lease_of(arguments, parent, self._randomness(3).hex())
            base, account = replace(parent.scope, parent=parent.name), parent.account
        name = checked_name(arguments.get("name"))
        for key in self.ledger.list_keys():
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
        await self.ledger.put_key(key)
        return {"name": name, "id": key.id, "secret": secret}

    async def keys_list(self, arguments: Arguments) -> Any:
        return [self._key_object(key) for key in self.ledger.list_keys()]

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
        await self.ledger.put_key(key)
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
        await self.ledger.put_key(key)
        return {"name": key.name, "id": key.id, "secret": secret}

    async def keys_revoke(self, arguments: Arguments) -> Any:
        key = self._key(arguments.get("name"))
        now = self._clock()
        if key.revoked_at is None:
            for each in (*leases.live(self.ledger.list_keys(), key.name, now), key):
                await self.ledger.put_key(replace(each, revoked_at=now))
        return self._key_object(self._key(key.name))

    def _narrowed(self, name: str, scope: Scope) -> Scope:
        """The scope of a key, if it narrows its parent's and its own leases narrow it.

        Raises InvalidRequest.
        """
        now, known = self._clock(), self.ledger.list_keys()
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
        return self.ledger.window(keys.period_name(key.name, key.scope.quota_per, now)).posted

    def _key(self, name: object) -> Key:
        for key in self.ledger.list_keys():
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
        if self.ledger.account(name) is not None:
            raise InvalidRequest(f"There is an account {name!r} already.", param="name")
        await self.ledger.open_account(Account(name, unlimited=bool(arguments.get("unlimited"))))
        return account_object(self._account(name))

    async def accounts_list(self, arguments: Arguments) -> Any:
        return [account_object(account) for account in self.ledger.list_accounts()]

    async def accounts_credit(self, arguments: Arguments) -> Any:
        name, amount, note = self._posting(arguments)
        entry = await self.ledger.credit(name, amount, at=self._clock(), note=note)
        return entry_object(entry) | {"balance_usd": format_usd(self._account(name).posted)}

    async def accounts_debit(self, arguments: Arguments) -> Any:
        name, amount, note = self._posting(arguments)
        entry = await self.ledger.debit(name, amount, at=self._clock(), note=note)
        return entry_object(entry) | {"balance_usd": format_usd(self._account(name).posted)}

    async def accounts_block(self, arguments: Arguments) -> Any:
        return await self._block(arguments, True)

    async def accounts_unblock(self, arguments: Arguments) -> Any:
        return await self._block(arguments, False)

    async def _block(self, arguments: Arguments, blocked: bool) -> Any:
        account = self._account(arguments.get("name"))
        await self.ledger.block_account(account.name, blocked, at=self._clock())
        return account_object(account) | {"blocked": blocked}

    def _posting(self, arguments: Arguments) -> tuple[str, int, str]:
        account = self._account(arguments.get("name"))
        amount = usd(arguments.get("amount"), "amount")
        if amount == 0:
            raise InvalidRequest("An amount is more than nothing.", param="amount")
        return account.name, amount, str(arguments.get("note") or "")

    def _account(self, name: object) -> Account:
        account = self.ledger.account(name) if isinstance(name, str) else None
        if account is None:
            raise NotFound(f"There is no account {shown(str(name))}.")
        return account

    # --- reports

    async def usage(self, arguments: Arguments) -> Any:
        by = arguments.get("by") or "key"
        if by not in ("key", "model", "upstream", "day"):
            raise InvalidRequest("usage is by key, model, upstream or day.", param="by")
        since = arguments.get("since")
        rows = await self.ledger.usage(cast(UsageBy, by), moment(since, self._clock(), -1) if since else 0.0)
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
        return {"differences": list(await self.ledger.verify())}

    async def ledger_backup(self, arguments: Arguments) -> Any:
        path = str(arguments.get("path") or "")
        await self.ledger.backup(path)
        return {"path": path}

    async def export(self) -> AsyncIterator[dict[str, Any]]:
        """Every entry, in order."""
        async for entry in self.ledger.entries():
            yield entry_object(entry)

    async def explain(self, arguments: Arguments) -> Any:
        key = self._key(arguments.get("key"))
        return explain(self._relay, key, arguments)


# What moves by itself while somebody changes something else.
MOVING = frozenset({"used_usd", "held_usd"})


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What is another thing now, by name: [old, new], or only the new where there was none."""
    changed = {name: new for name, new in after.items() if before.get(name) != new and name not in MOVING}
    return {name: [before[name], new] if before else new for name, new in changed.items()}


def act_object(act: Act) -> dict[str, Any]:
    """A line of the trail."""
    return {
        "id": act.id,
        "at": timestamp(act.at),
        "actor": act.actor,
        "door": act.door,
        "address": act.address,
        "verb": act.verb,
        "subject": act.subject,
        "details": act.details,
    }


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
