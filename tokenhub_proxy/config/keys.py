"""The config's accounts and keys: who pays, who may call, and what they may do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokenhub_proxy.config import values
from tokenhub_proxy.config.nodes import Node, did_you_mean, quoted
from tokenhub_proxy.config.secrets import Secrets
from tokenhub_proxy.config.walk import Walk
from tokenhub_proxy.keys import Key, Scope, digest
from tokenhub_proxy.ledger import DEFAULT_ACCOUNT, Account
from tokenhub_proxy.routes import matches

# Which options accounts and keys have, by section; the table in `config` joins those of all sections.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "accounts": ("balance",),
    "keys": ("name", "key", "digest", "account", "models", "ips", "quota", "rate", "expires", "test"),
    "quota": ("usd", "per"),
    "rate": ("requests_per_minute", "tokens_per_minute", "concurrent"),
}

# What narrows a key.
_LIMITS = ("models", "ips", "quota", "rate", "expires")
PERIODS = ("day", "week", "month", "total")
# A bound against slips of the keyboard, far above what anybody needs.
RATE_MAX = 10**9


def read_accounts(walk: Walk, node: Node) -> dict[str, Account]:
    """The accounts by name; the built-in one is there unless the file says otherwise of it."""
    found = {DEFAULT_ACCOUNT: Account(DEFAULT_ACCOUNT, unlimited=True)}
    for name, child in walk.entries(node).items():
        if walk.parsed(node.names[name], values.name) is None:
            continue
        fields = walk.fields(child, OPTIONS["accounts"]) if child.kind != "null" else {}
        balance = walk.choice(fields.get("balance"), ("prepaid", "unlimited"))
        found[name] = Account(name, unlimited=balance == "unlimited")
    return found


class KeyReader:
    """Reads the section `keys`, which names accounts and models.

    A key whose secret is an `env:` variable that is not set is left out.
    """

    __slots__ = ("_accounts", "_models", "_secrets", "_walk")

    def __init__(
        self, walk: Walk, secrets: Secrets, accounts: Mapping[str, Account], models: Iterable[str]
    ) -> None:
        self._walk = walk
        self._secrets = secrets
        self._accounts = accounts
        self._models = tuple(models)

    def read(self, node: Node | None) -> tuple[Key, ...]:
        """The clients' keys. Their secrets are digested here and forgotten."""
        walk = self._walk
        found: list[Key] = []
        names: dict[str, int] = {}
        digests: dict[bytes, str] = {}
        for item in walk.items(node):
            fields = walk.fields(item, OPTIONS["keys"], required=("name",))
            name = walk.parsed(fields.get("name"), values.name)
            if name is not None and name in names:
                walk.complain(fields["name"], f"is the name of another key, in line {names[name]}")
            elif name is not None:
                names[name] = fields["name"].line
            hashed = self._digest(item, fields)
            account = self._account(fields)
            scope = self._scope(item, fields)
            if name is None or hashed is None:
                continue
            if hashed in digests:
                place = fields.get("key") or fields["digest"]
                walk.complain(place, f"is the same key as {quoted(digests[hashed])}")
            digests.setdefault(hashed, name)
            found.append(Key(f"config:{name}", name, account, hashed, scope, from_config=True))
        return tuple(found)

    def _digest(self, node: Node, fields: Mapping[str, Node]) -> bytes | None:
        walk = self._walk
        if "key" in fields and "digest" in fields:
            walk.complain(fields["digest"], "excludes key: give one or the other")
        if "key" in fields:
            secret = self._secrets.read(fields["key"], values.config_key, "; the key is left out until it is")
            if secret is not None and fields["key"].text == secret:
                walk.warn(fields["key"], "the secret stands in the file; env:, file: or digest keep it out")
            return None if secret is None else digest(secret)
        if "digest" in fields:
            return walk.parsed(fields["digest"], values.digest)
        if node.kind == "mapping":
            walk.missing(node, "key", " (or digest)")
        return None

    def _account(self, fields: Mapping[str, Node]) -> str:
        if "account" not in fields:
            return DEFAULT_ACCOUNT
        name = self._walk.text(fields["account"])
        if name is not None and name not in self._accounts:
            self._walk.complain(
                fields["account"], f"no account {quoted(name)}{did_you_mean(name, self._accounts)}"
            )
        return name or DEFAULT_ACCOUNT

    def _scope(self, node: Node, fields: Mapping[str, Node]) -> Scope:
        walk = self._walk
        scope: dict[str, Any] = {}
        for name in _LIMITS:
            # A limit whose lines were commented out would be no limit, silently.
            limit = node.fields.get(name)
            if limit is not None and limit.kind == "null":
                walk.complain(limit, "is empty; leave it out for no limit")
        if "models" in fields:
            scope["models"] = self._patterns(fields["models"])
        if "ips" in fields:
            scope["ips"] = self._networks(fields["ips"])
            if fields["ips"].kind == "list" and not fields["ips"].items:
                walk.complain(fields["ips"], "is an empty list; leave it out for any address")
        if "quota" in fields:
            quota = walk.fields(fields["quota"], OPTIONS["quota"], required=OPTIONS["quota"])
            if "usd" in quota:
                scope["quota_nanos"] = walk.money(quota["usd"])
            if "per" in quota:
                scope["quota_per"] = walk.choice(quota["per"], PERIODS) or "total"
        if "rate" in fields:
            for name, child in walk.fields(fields["rate"], OPTIONS["rate"]).items():
                scope[name] = walk.integer(child, 1, RATE_MAX)
        if "expires" in fields:
            scope["expires_at"] = walk.parsed(fields["expires"], values.expires)
        if "test" in fields:
            scope["test"] = bool(walk.boolean(fields["test"]))
        return Scope(**scope)

    def _patterns(self, node: Node) -> tuple[str, ...]:
        walk = self._walk
        if node.kind == "list" and not node.items:
            walk.complain(node, 'is an empty list; leave it out for all models, as ["*"] does')
        found: list[str] = []
        for item in walk.items(node):
            pattern = walk.parsed(item, values.model)
            if pattern is None:
                continue
            found.append(pattern)
            if not any(matches((pattern,), model) for model in self._models):
                walk.warn(item, f"matches no model{did_you_mean(pattern, self._models)}")
        return tuple(found)

    def _networks(self, node: Node) -> tuple[str, ...]:
        parsed = (self._walk.parsed(item, values.network) for item in self._walk.items(node))
        return tuple(text for text in parsed if text is not None)
