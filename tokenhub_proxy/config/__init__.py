"""The config: YAML text in, a checked Config out, or every complaint about it at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from tokenhub_proxy.config import keys as _keys
from tokenhub_proxy.config import models as _models
from tokenhub_proxy.config import payments as _payments
from tokenhub_proxy.config import traces as _traces
from tokenhub_proxy.config import upstreams as _upstreams
from tokenhub_proxy.config import values
from tokenhub_proxy.config.keys import KeyReader, read_accounts
from tokenhub_proxy.config.models import ModelReader, PriceFor
from tokenhub_proxy.config.nodes import (
    LENGTH_MAX,
    Complaint,
    ConfigError,
    Node,
    nearest,
    parse,
    places,
)
from tokenhub_proxy.config.payments import read_payments
from tokenhub_proxy.config.secrets import Secrets
from tokenhub_proxy.config.traces import Traces, read_traces
from tokenhub_proxy.config.upstreams import UpstreamReader
from tokenhub_proxy.config.walk import Walk
from tokenhub_proxy.inflate import CODINGS
from tokenhub_proxy.keys import Key, Networks
from tokenhub_proxy.ledger import Account
from tokenhub_proxy.pricelist import Listed, read_prices
from tokenhub_proxy.routes import Route, Upstream

if TYPE_CHECKING:
    from tokenhub_proxy.payments.settings import Settings

Durability = Literal["full", "process"]
LogFormat = Literal["auto", "json", "text", "off"]

# Which options there are, by section. Unknown ones are refused by these tables, and the example
# must show each of them.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "": (
        "listen", "ledger", "max_body_mib", "body_encodings", "durability", "trusted_proxies", "cors_origins",
        "log", "prices", "retention_days", "dashboard", "streams", "shutdown", "upstreams", "models",
        "accounts", "keys", "payments", "traces",
    ),
    "log": ("format",),
    "streams": ("keep_alive",),
    "shutdown": ("pre_stop", "drain"),
    "dashboard": ("sign_up",),
    **_upstreams.OPTIONS, **_models.OPTIONS, **_keys.OPTIONS, **_payments.OPTIONS,
    **_traces.OPTIONS,
}  # fmt: skip

LISTEN = "127.0.0.1:8900"
LEDGER = "sqlite:///tokenhub.db"
BODY_MAX_MIB = 32
BODY_MAX_MIB_MAX = 1024
RETENTION_DAYS_MAX = 36_500
# Streams get so long to end by themselves when the proxy is told to stop.
DRAIN_S = 30.0
# Bounds against slips of the keyboard.
KEEP_ALIVE_S_MAX = 3600
STOP_S_MAX = 86_400

_NO_SECTION = Node("", 1, 1, "mapping")


@dataclass(frozen=True, slots=True)
class Config:
    """All that the operator decided. No secret is in its repr.

    `ledger_url` is relative to the working directory, not to the file's folder any more.
    `accounts` always hold the built-in one. `warnings` are lines for people. `places` tells where
    in the file an option stands, by its path: line and column, counted from 1.
    """

    listen_host: str
    listen_port: int
    ledger_url: str
    body_max_bytes: int
    durability: Durability
    trusted_proxies: Networks
    upstreams: Mapping[str, Upstream]
    routes: Mapping[str, Route]
    accounts: tuple[Account, ...]
    keys: tuple[Key, ...]
    cors_origins: tuple[str, ...]
    log_format: LogFormat
    retention_days: int | None = None
    body_codings: tuple[str, ...] = ()
    keep_alive_s: float | None = None
    pre_stop_s: float = 0.0
    drain_s: float = DRAIN_S
    payments: Settings | None = None
    traces: Traces | None = None
    sign_up: bool = False
    warnings: tuple[str, ...] = ()
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)


def load(
    text: str,
    *,
    name: str,
    folder: Path,
    environ: Mapping[str, str],
    read_file: Callable[[Path], str],
    price_for: PriceFor | None = None,
) -> Config:
    """The config that a YAML text describes. Raises ConfigError with all complaints.

    `name` stands before each complaint. Relative paths are relative to `folder`. `environ` and
    `read_file` (which raises OSError, or ValueError for what is no text) are where `env:` and
    `file:` secrets come from; nothing else is read. `price_for` tells what a price
    list says of a model at an upstream; it serves models without a price or limits of their own.

    An empty text is a config too: all defaults and no models.
    """
    walk = Walk()
    root = parse(text, walk, name)
    secrets = Secrets(walk, folder, environ, read_file)
    fields = walk.fields(root, OPTIONS[""])
    sections = {option: fields.get(option, _NO_SECTION) for option in ("upstreams", "models", "accounts")}
    known = UpstreamReader(walk, secrets).read(sections["upstreams"])
    price_for = _price_lists(walk, fields.get("prices"), folder, read_file, price_for)
    models = ModelReader(walk, known, sections["upstreams"].fields, price_for).read(sections["models"])
    accounts = read_accounts(walk, sections["accounts"])
    clients = KeyReader(walk, secrets, accounts, sections["models"].fields).read(fields.get("keys"))
    host, port = walk.parsed(fields.get("listen"), values.listen) or values.listen(LISTEN)
    ledger_url = walk.parsed(fields.get("ledger"), lambda url: values.ledger(url, folder))
    body_max_mib = walk.integer(fields.get("max_body_mib"), 1, BODY_MAX_MIB_MAX)
    durability = walk.choice(fields.get("durability"), ("full", "process"))
    proxies = walk.texts(fields.get("trusted_proxies"), values.network)
    origins = walk.texts(fields.get("cors_origins"), values.origin)
    log_format = _log_format(walk, fields)
    retention_days = walk.integer(fields.get("retention_days"), 1, RETENTION_DAYS_MAX)
    more = {**_serving(walk, fields), **_outside(walk, secrets, fields)}
    if not models and not walk.complaints:
        walk.warn(sections["models"], "no models: nothing can be called")
    if walk.complaints:
        raise ConfigError(name, walk.complaints)
    return Config(
        listen_host=host,
        listen_port=port,
        ledger_url=ledger_url or values.ledger(LEDGER, folder),
        body_max_bytes=(body_max_mib or BODY_MAX_MIB) * 2**20,
        durability=cast(Durability, durability or "full"),
        trusted_proxies=Networks(proxies),
        upstreams=known,
        routes=models,
        accounts=tuple(accounts.values()),
        keys=clients,
        cors_origins=origins if "cors_origins" in fields else ("*",),
        log_format=log_format,
        retention_days=retention_days,
        **{name: value for name, value in more.items() if value is not None},
        warnings=tuple(warning.told(name) for warning in sorted(walk.warnings)),
        places=dict(places(root)),
    )


def _price_lists(
    walk: Walk,
    node: Node | None,
    folder: Path,
    read_file: Callable[[Path], str],
    price_for: PriceFor | None,
) -> PriceFor | None:
    """The operator's own price table, where there is one, and behind it the one that was given."""
    path = walk.parsed(node, values.path)
    if node is None or path is None:
        return price_for
    try:
        own = read_prices(read_file(folder / path))
    except OSError as error:
        walk.complain(node, f"can't be read: {error.strerror or type(error).__name__}")
    except ValueError as error:
        walk.complain(node, str(error))
    else:

        def found(upstream: Upstream, model: str) -> Listed | None:
            listed = own.lookup(upstream.dialect, upstream.base_url, model)
            return listed or (price_for(upstream, model) if price_for is not None else None)

        return found
    return price_for


def _section(walk: Walk, fields: Mapping[str, Node], name: str) -> Mapping[str, Node]:
    return walk.fields(fields[name], OPTIONS[name]) if name in fields else {}


def _serving(walk: Walk, fields: Mapping[str, Node]) -> Mapping[str, Any]:
    """Which bodies are taken, how long streams may be silent and the end may take, who may sign up."""
    codings = (walk.choice(item, CODINGS) for item in walk.items(fields.get("body_encodings")))
    streams = _section(walk, fields, "streams")
    shutdown = _section(walk, fields, "shutdown")
    return {
        "body_codings": tuple(coding for coding in codings if coding is not None),
        "keep_alive_s": walk.seconds(streams.get("keep_alive"), KEEP_ALIVE_S_MAX),
        "pre_stop_s": walk.seconds(shutdown.get("pre_stop"), STOP_S_MAX, none=True),
        "drain_s": walk.seconds(shutdown.get("drain"), STOP_S_MAX, none=True),
        "sign_up": walk.boolean(_section(walk, fields, "dashboard").get("sign_up")),
    }


def _outside(walk: Walk, secrets: Secrets, fields: Mapping[str, Node]) -> Mapping[str, Any]:
    """Who takes payments, and who is told of calls."""
    return {
        "payments": read_payments(walk, secrets, fields.get("payments")),
        "traces": read_traces(walk, secrets, fields.get("traces")),
    }


def _log_format(walk: Walk, fields: Mapping[str, Node]) -> LogFormat:
    log = _section(walk, fields, "log")
    return cast(LogFormat, walk.choice(log.get("format"), ("auto", "json", "text", "off")) or "auto")


def load_file(path: Path, environ: Mapping[str, str], price_for: PriceFor | None = None) -> Config:
    """The config in this file. Raises ConfigError, also where the file can't be read."""
    try:
        text = _read_file(path)
    except OSError as exc:
        complaint = Complaint(0, 0, "", f"can't be read: {exc.strerror or type(exc).__name__}")
        raise ConfigError(str(path), [complaint]) from None
    except ValueError:
        raise ConfigError(str(path), [Complaint(0, 0, "", "can't be read: it is no text in UTF-8")]) from None
    return load(
        text,
        name=str(path),
        folder=path.parent,
        environ=environ,
        read_file=_read_file,
        price_for=price_for,
    )


def _read_file(path: Path) -> str:
    # One character more than is allowed: enough to refuse the rest unread.
    with path.open(encoding="utf-8-sig") as file:
        return file.read(LENGTH_MAX + 1)


__all__ = [
    "OPTIONS", "Complaint", "Config", "ConfigError", "PriceFor", "load", "load_file", "nearest",
]  # fmt: skip
