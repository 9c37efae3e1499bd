"""The config's upstreams: who can be asked, how they speak, and with which credentials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenhub_proxy.calls import SCOPE_FIELDS
from tokenhub_proxy.config import values
from tokenhub_proxy.config.nodes import Node
from tokenhub_proxy.config.secrets import Secrets
from tokenhub_proxy.config.walk import Walk
from tokenhub_proxy.dialects import DIALECTS, Speech
from tokenhub_proxy.dialects.checks import check_quirks
from tokenhub_proxy.routes import Timeouts, Upstream

# Which options an upstream has, by section; the table in `config` joins those of all sections.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "upstreams": (
        "dialect", "base_url", "api_key", "headers", "timeouts", "max_connections", "proxy", "ca_file",
        "allow_fields", "quirks", *sorted({name for speech in DIALECTS.values() for name in speech.options}),
    ),
    "timeouts": ("connect", "first_byte", "idle", "progress", "total"),
}  # fmt: skip

# Dialect options whose values are secrets.
_SECRET_OPTIONS = frozenset({"access_key_id", "secret_access_key", "session_token"})
# Bounds against slips of the keyboard, far above what anybody needs.
TIMEOUT_S_MAX = 86_400
CONNECTIONS_MAX = 100_000

_DEFAULTS = Upstream("", "", "")


class UpstreamReader:
    """Reads the section `upstreams`.

    An upstream whose key is an `env:` variable that is not set stays configured: its calls fail
    and go on to the next target. Only a proxy is demanded: without it, calls would go past it
    unseen.
    """

    __slots__ = ("_secrets", "_walk")

    def __init__(self, walk: Walk, secrets: Secrets) -> None:
        self._walk = walk
        self._secrets = secrets

    def read(self, node: Node) -> dict[str, Upstream]:
        """The upstreams by name."""
        found: dict[str, Upstream] = {}
        for name, child in self._walk.entries(node).items():
            if self._walk.parsed(node.names[name], values.name) is None:
                continue
            upstream = self._upstream(name, child)
            if upstream is not None:
                found[name] = upstream
        return found

    def _upstream(self, name: str, node: Node) -> Upstream | None:
        walk = self._walk
        fields = walk.fields(node, OPTIONS["upstreams"], required=("dialect",))
        dialect = walk.choice(fields.get("dialect"), tuple(DIALECTS))
        options = self._options(fields, dialect)
        credentials = self._credentials(fields)
        speech = DIALECTS.get(dialect or "")
        if speech is not None:
            self._check_credentials(node, fields, dialect or "", speech)
        upstream = Upstream(
            name=name,
            dialect=dialect or "",
            base_url=self._base_url(node, fields, dialect or "", speech),
            credentials=credentials,
            headers=self._headers(fields),
            timeouts=self._timeouts(fields),
            connections_max=walk.integer(fields.get("max_connections"), 1, CONNECTIONS_MAX)
            or _DEFAULTS.connections_max,
            proxy=self._secrets.read(fields["proxy"], values.proxy) if "proxy" in fields else None,
            ca_file=self._ca_file(fields),
            allow_fields=self._allow_fields(fields),
            options=options,
        )
        return upstream if speech is not None else None

    def _timeouts(self, fields: Mapping[str, Node]) -> Timeouts:
        if "timeouts" not in fields:
            return Timeouts()
        given = self._walk.fields(fields["timeouts"], OPTIONS["timeouts"])
        seconds = {f"{name}_s": self._walk.seconds(child, TIMEOUT_S_MAX) for name, child in given.items()}
        return Timeouts(**{name: value for name, value in seconds.items() if value is not None})

    def _credentials(self, fields: Mapping[str, Node]) -> tuple[str, ...]:
        node = fields.get("api_key")
        if node is None:
            return ()
        if node.kind == "list" and not node.items:
            self._walk.complain(node, "is an empty list")
        secrets = (
            self._secrets.read(item, str, "; the upstream is without this key until it is")
            for item in (node.items if node.kind == "list" else (node,))
        )
        return tuple(secret for secret in secrets if secret is not None)

    def _check_credentials(
        self, node: Node, fields: Mapping[str, Node], dialect: str, speech: Speech
    ) -> None:
        given = "api_key" in fields
        if "access_key_id" in speech.options:
            pair = [name for name in ("access_key_id", "secret_access_key") if name in fields]
            if given and pair:
                self._walk.complain(fields[pair[0]], "excludes api_key: give one or the other")
            for name in {"access_key_id", "secret_access_key"} - set(pair):
                if pair or "session_token" in fields:
                    self._walk.missing(node, name)
            given = given or bool(pair)
        elif not speech.needs_key:
            return
        if not given:
            self._walk.warn(node, f"no api_key: a {dialect} upstream refuses calls without one")

    def _options(self, fields: Mapping[str, Node], dialect: str | None) -> dict[str, Any]:
        """What only this dialect reads, and the quirks as they are."""
        walk = self._walk
        found: dict[str, Any] = {}
        for name in fields.keys() & {name for speech in DIALECTS.values() for name in speech.options}:
            node = fields[name]
            owners = [owner for owner, speech in DIALECTS.items() if name in speech.options]
            if dialect is not None and dialect not in owners:
                walk.complain(node, f"only the dialect {' or '.join(owners)} takes it, not {dialect}")
            value = (
                self._secrets.read(node, str, "; the upstream's calls can't be signed until it is")
                if name in _SECRET_OPTIONS
                else walk.parsed(node, values.region if name == "region" else values.option)
            )
            if value is not None:
                found[name] = value
        if "quirks" in fields:
            walk.entries(fields["quirks"])
            found["quirks"] = walk.data(fields["quirks"])
            if dialect is not None and isinstance(found["quirks"], Mapping):
                try:
                    check_quirks(dialect, found["quirks"])
                except ValueError as problem:
                    walk.complain(fields["quirks"], str(problem))
        return found

    def _base_url(self, node: Node, fields: Mapping[str, Node], dialect: str, speech: Speech | None) -> str:
        walk = self._walk
        given = fields.get("base_url")
        default = speech.base_url if speech is not None else ""
        if given is not None:
            if default is not None and default.endswith("://"):
                walk.complain(given, f"the dialect {dialect} calls nobody and takes no base_url")
                return default
            return walk.parsed(given, values.base_url) or ""
        if default is None:
            walk.missing(node, "base_url", f"; the dialect {dialect} has no default")
            return ""
        if "{region}" in default:
            if "region" not in fields:
                walk.missing(node, "region", "; it names the host (or give base_url)")
                return ""
            return default.replace("{region}", fields["region"].text)
        return default

    def _headers(self, fields: Mapping[str, Node]) -> tuple[tuple[str, str], ...]:
        """The headers that each call is sent; a value may be a secret."""
        node = fields.get("headers")
        if node is None:
            return ()
        walk = self._walk
        found: list[tuple[str, str]] = []
        seen: dict[str, int] = {}
        for name, child in walk.entries(node).items():
            place = node.names[name]
            if walk.parsed(place, values.header) is None:
                continue
            if name.lower() in seen:
                walk.complain(place, f"is the same header as the one in line {seen[name.lower()]}")
            seen[name.lower()] = place.line
            value = self._secrets.read(child, str, "; the header is left out until it is")
            if value is not None:
                found.append((name, value))
        return tuple(found)

    def _ca_file(self, fields: Mapping[str, Node]) -> str | None:
        node = fields.get("ca_file")
        path = self._walk.parsed(node, values.path)
        if node is None or path is None:
            return None
        text = self._secrets.file(node, path)
        if text and "-----BEGIN CERTIFICATE-----" not in text:
            self._walk.complain(node, "the file holds no certificate in PEM form")
        return str(self._secrets.folder / path)

    def _allow_fields(self, fields: Mapping[str, Node]) -> frozenset[str]:
        items = self._walk.items(fields.get("allow_fields"))
        names = (self._walk.choice(item, SCOPE_FIELDS) for item in items)
        return frozenset(name for name in names if name is not None)
