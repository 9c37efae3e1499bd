"""The operator's pages: accounts and their money, people and tokens, the trail, the config, the system."""

from __future__ import annotations

import asyncio
import glob
import os
import platform
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from tokenhub_proxy.config import Config, describe
from tokenhub_proxy.dashboard.access import Visitor
from tokenhub_proxy.dashboard.asked import Answer, Asked, see_other
from tokenhub_proxy.dashboard.figures_pages import before_of, today
from tokenhub_proxy.dashboard.hub import Hub
from tokenhub_proxy.dashboard.live import memory
from tokenhub_proxy.errors import InvalidRequest, ProxyError, shown
from tokenhub_proxy.ledger import figures
from tokenhub_proxy.ledger.schema import VERSION
from tokenhub_proxy.users import person_object

Named = tuple[str, ...]
BACKUPS_SHOWN = 20


def _refused(page: Answer, problem: ProxyError | None) -> Answer:
    if problem is not None:
        page.status = problem.http_status
    return page


# --- accounts


async def accounts(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    return await _accounts(hub, asked, visitor, None)


async def _accounts(hub: Hub, asked: Asked, visitor: Visitor, problem: ProxyError | None) -> Answer:
    spent = await figures.accounts_spent(hub.ledger.reader, today(hub) - 29)
    rows = [
        (
            account,
            spent.get(account.name, 0),
            sum(1 for key in hub.keys(account.name) if key.revoked_at is None),
            hub.ledger.is_blocked(account.name),
        )
        for account in hub.ledger.list_accounts()
    ]
    return _refused(hub.page(asked, visitor, "accounts.html", rows=rows, problem=problem), problem)


async def create_account(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    arguments = {"name": asked.field("name"), "unlimited": asked.field("unlimited") == "yes"}
    try:
        await hub.perform("accounts create", arguments, asked, visitor)
    except InvalidRequest as error:
        return await _accounts(hub, asked, visitor, error)
    return see_other(f"/dashboard/accounts/{arguments['name']}")


async def account(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    return await _account(hub, asked, visitor, named[0], None)


async def _account(hub: Hub, asked: Asked, visitor: Visitor, name: str, problem: ProxyError | None) -> Answer:
    paying = hub.the_account(name)
    found = await figures.statement(hub.ledger.reader, name, None)
    owners = [person for person in hub.ledger.people.everybody() if person.account == name]
    page = hub.page(
        asked,
        visitor,
        "one-account.html",
        paying=paying,
        lines=[entry for entry in found.entries if entry.kind != "charge"][:20],
        owners=[person_object(person) for person in owners],
        keys=hub.keys(name),
        blocked=hub.ledger.is_blocked(name),
        problem=problem,
    )
    return _refused(page, problem)


async def change_account(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    """Money in or out, or the block: each asks for the password again."""
    name, act = named[0], asked.field("act")
    hub.the_account(name)
    arguments: dict[str, Any] = {"name": name}
    try:
        if act not in ("credit", "debit", "block", "unblock"):
            raise InvalidRequest(f"There is no act {shown(act)}.")
        if act in ("credit", "debit"):
            arguments |= {"amount": asked.field("amount"), "note": asked.field("note")}
            if not arguments["note"]:
                raise InvalidRequest("Say why: the reason is kept with the entry.", param="note")
        await hub.access.confirm(asked, visitor)
        await hub.perform(f"accounts {act}", arguments, asked, visitor)
    except ProxyError as error:
        return await _account(hub, asked, visitor, name, error)
    return see_other(f"/dashboard/accounts/{name}?saved=1")


# --- people


async def people(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    return _people(hub, asked, visitor)


def _people(
    hub: Hub,
    asked: Asked,
    visitor: Visitor,
    problem: ProxyError | None = None,
    made: Mapping[str, Any] | None = None,
) -> Answer:
    everybody = [person_object(person) for person in hub.ledger.people.everybody()]
    tokens = hub.ledger.people.tokens()
    page = hub.page(
        asked, visitor, "people.html", everybody=everybody, tokens=tokens, problem=problem, made=made
    )
    return _refused(page, problem)


_PEOPLE_ACTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "invite": ("users invite", ("name", "account")),
    "invite-operator": ("users invite", ("name",)),
    "block": ("users block", ("name",)),
    "unblock": ("users unblock", ("name",)),
    "create-token": ("tokens create", ("name",)),
    "revoke-token": ("tokens revoke", ("name",)),
}


async def change_people(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    """Who may sign in, and what opens the API: each change asks for the password again."""
    act = asked.field("act")
    if act == "invite" and asked.field("role") == "operator":
        act = "invite-operator"
    try:
        if act not in _PEOPLE_ACTS:
            raise InvalidRequest(f"There is no act {shown(act)}.")
        verb, names = _PEOPLE_ACTS[act]
        arguments: dict[str, Any] = {name: asked.field(name) or None for name in names}
        if act == "invite-operator":
            arguments["operator"] = True
        await hub.access.confirm(asked, visitor)
        made = await hub.perform(verb, arguments, asked, visitor)
    except ProxyError as error:
        return _people(hub, asked, visitor, error)
    if verb in ("users invite", "tokens create"):
        return _people(hub, asked, visitor, made=_with_address(made, asked))
    return see_other("/dashboard/people")


def _with_address(made: Mapping[str, Any], asked: Asked) -> Mapping[str, Any]:
    """A link as the browser that asked for it sees this host."""
    if "link" not in made:
        return made
    path = made["link"][made["link"].index("/dashboard/") :]
    scheme = "https" if asked.secure else "http"
    return {**made, "link": f"{scheme}://{asked.headers.get('Host', '')}{path}"}


# --- the trail, the config, the system


async def audit(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    acts = await hub.ledger.people.acts(before_of(asked))
    return hub.page(asked, visitor, "audit.html", acts=acts, more=len(acts) >= 100)


async def config(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    loaded = hub.config()
    return hub.page(asked, visitor, "config.html", sections=_sections(loaded), warnings=loaded.warnings)


def _sections(loaded: Config) -> Sequence[tuple[str, Sequence[tuple[str, str, int | None]]]]:
    """What was understood: options with their values and source lines. Secrets are masked."""

    def line(path: str) -> int | None:
        return loaded.places[path][0] if path in loaded.places else None

    summary = describe.summary(loaded)
    models_by_name = {row["model"]: row for row in summary["models"]}
    upstreams = {
        f"upstreams.{name}": " · ".join(
            part
            for part in (
                upstream.dialect,
                upstream.base_url,
                ", ".join(_masked(one) for one in upstream.credentials),
            )
            if part
        )
        for name, upstream in loaded.upstreams.items()
    }
    models = {
        f"models.{name}": " · ".join(
            (
                ", ".join(f"{target['upstream']}/{target['model']}" for target in described["targets"]),
                ", ".join(f"{part} ${usd}" for part, usd in described["price"].items() if usd != "0.00")
                or "free",
            )
        )
        for name, described in models_by_name.items()
    }
    accounts = {
        f"accounts.{account.name}": "unlimited" if account.unlimited else "prepaid"
        for account in loaded.accounts
    }
    payments = {f"payments.{name.partition(' ')[0]}": name for name in summary["payments"]}
    names = {"server": _server(loaded), "upstreams": upstreams, "models": models, "accounts": accounts}
    keys = {
        f"keys[{place}]": " · ".join(
            (
                f"{key['key']} → {key['account']}",
                *(f"{name} {value}" for name, value in list(key.items())[2:] if value not in ("-", "any")),
            )
        )
        for place, key in enumerate(summary["keys"])
    }
    return [
        (title, [(path, value, line(path)) for path, value in options.items()])
        for title, options in {**names, "keys": keys, "payments": payments}.items()
        if options
    ]


def _server(loaded: Config) -> Mapping[str, str]:
    """The options that are no list of things, as they are written."""
    return {
        "listen": f"{loaded.listen_host}:{loaded.listen_port}",
        "ledger": loaded.ledger_url,
        "max_body_mib": str(loaded.body_max_bytes // 2**20),
        "durability": loaded.durability,
        "trusted_proxies": ", ".join(loaded.trusted_proxies.texts) or "–",
        "cors_origins": ", ".join(loaded.cors_origins) or "–",
        "log.format": loaded.log_format,
        "retention_days": str(loaded.retention_days or "–"),
        "body_encodings": ", ".join(loaded.body_codings) or "–",
        "streams.keep_alive": "–" if loaded.keep_alive_s is None else f"{loaded.keep_alive_s:g} s",
        "shutdown.pre_stop": f"{loaded.pre_stop_s:g} s",
        "shutdown.drain": f"{loaded.drain_s:g} s",
        "dashboard.sign_up": "true" if loaded.sign_up else "false",
    }


def _masked(credential: str) -> str:
    """Enough of a secret to tell it from another."""
    return f"…{credential[-4:]}" if len(credential) >= 24 else "…"


async def system(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    return await _system(hub, asked, visitor, None)


async def _system(hub: Hub, asked: Asked, visitor: Visitor, problem: ProxyError | None) -> Answer:
    path, top = hub.ledger.path, await hub.verbs.verbs["top"]({})
    page = hub.page(
        asked,
        visitor,
        "system.html",
        path=path,
        size=_size(path) + _size(f"{path}-wal"),
        memory=memory(),
        started_at=top["started_at"],
        software=f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}",
        platform=f"{platform.system()} {platform.machine()}",
        loop=type(asyncio.get_running_loop()).__module__.partition(".")[0],
        durability=hub.config().durability,
        form=VERSION,
        backups=_backups(path),
        vendored=hub.pages.vendored,
        trouble=hub.ledger.unavailable,
        problem=problem,
    )
    return _refused(page, problem)


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _backups(path: str) -> Sequence[tuple[str, int, float]]:
    """The copies beside the ledger, the newest first: name, bytes, when they were made."""
    copies = [(copy, os.stat(copy)) for copy in glob.glob(f"{glob.escape(path)}.*.backup")]
    rows = [(os.path.basename(copy), found.st_size, found.st_mtime) for copy, found in copies]
    return sorted(rows, key=lambda row: -row[2])[:BACKUPS_SHOWN]


async def backup(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    """A copy beside the ledger: a browser may not choose where the server writes."""
    stamp = int(hub.clock())
    try:
        await hub.access.confirm(asked, visitor)
        arguments = {"path": f"{hub.ledger.path}.{stamp}.backup"}
        await hub.perform("ledger backup", arguments, asked, visitor)
    except ProxyError as error:
        return await _system(hub, asked, visitor, error)
    return see_other(f"/dashboard/system?saved={stamp}")
