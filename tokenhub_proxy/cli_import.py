"""The command `import`: another gateway's config and keys as ours, with a report of what is lost."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenhub_proxy.config import PriceFor
    from tokenhub_proxy.importers import Draft
    from tokenhub_proxy.pricelist import Listed
    from tokenhub_proxy.routes import Upstream

SQLITE_MAGIC = b"SQLite format 3\0"
# Tables of one-api that are made of the others.
DERIVED = ("abilities", "sqlite_sequence")


def add_to(commands: Any) -> None:
    """Add the commands to the tree."""
    group = commands.add_parser(
        "import",
        help="turn another gateway's config into one of ours",
        description="turn another gateway's config into one of ours",
    ).add_subparsers(required=True, metavar="COMMAND")
    help = "read LiteLLM's config.yaml; exit 1 where something could not be carried over"
    litellm = group.add_parser("litellm", help=help, description=help)
    litellm.add_argument("file", metavar="FILE", nargs=1, help="the config.yaml; - is standard input")
    litellm.add_argument(
        "--keys", metavar="FILE", action="append", default=[],
        help="virtual keys: the answer of /key/list?return_full_object=true; may be repeated",
    )  # fmt: skip
    help = "read one-api's or new-api's tables; exit 1 where something could not be carried over"
    one_api = group.add_parser("one-api", help=help, description=help)
    one_api.add_argument(
        "file", metavar="FILE", nargs="+", help="its SQLite database, or answers of its API in JSON"
    )
    for command, run in ((litellm, _litellm), (one_api, _one_api)):
        command.add_argument(
            "-o", "--output", metavar="FILE", help="where to write the config; default standard output"
        )
        command.add_argument(
            "--prices",
            metavar="FILE",
            help="a price table of LiteLLM's or OpenRouter's, before the one that ships",
        )
        command.add_argument("--force", action="store_true", help="write over files that are there")
        secrets = command.add_mutually_exclusive_group()
        secrets.add_argument(
            "--secrets-to", metavar="FILE", help="write secrets of the source here, as NAME=value lines"
        )
        secrets.add_argument(
            "--keep-secrets", action="store_true", help="let secrets of the source stand in the new config"
        )
        command.add_argument(
            "--json", action="store_true", help="print the report, on standard error, as JSON"
        )
        command.set_defaults(run=run)


def _litellm(arguments: argparse.Namespace) -> int:
    import time

    from tokenhub_proxy.importers import NotReadable, litellm, litellm_keys, texts
    from tokenhub_proxy.progress import Progress

    (source,) = arguments.file
    name = source
    try:
        with Progress("reading"):
            draft = _draft(arguments, source)
            groups = litellm.read_config(draft, texts.read_yaml(_text(source)))
            for name in arguments.keys:
                litellm_keys.read_keys(draft, texts.read_json(_text(name)), _stem(name), groups, time.time())
    except NotReadable as error:
        return _wrong(f"{name}: {error}")
    return _finish(arguments, draft)


def _one_api(arguments: argparse.Namespace) -> int:
    import time

    from tokenhub_proxy.importers import NotReadable, one_api, texts
    from tokenhub_proxy.progress import Progress

    tables: dict[str, list[Any]] = {}
    source = ""
    try:
        with Progress("reading", unit="rows") as shown:
            draft = _draft(arguments, ", ".join(arguments.file))
            for source in arguments.file:
                if _is_sqlite(source):
                    found = _database(source, draft)
                else:
                    found = one_api.tables_of(texts.read_json(_text(source)))
                for name, rows in found.items():
                    tables.setdefault(name, []).extend(rows)
                    shown.count += len(rows)
            one_api.read_tables(draft, tables, time.time())
    except NotReadable as error:
        return _wrong(f"{source}: {error}")
    return _finish(arguments, draft)


def _draft(arguments: argparse.Namespace, source: str) -> Draft:
    from tokenhub_proxy.importers import Draft

    shown = ", ".join("standard input" if part == "-" else Path(part).name for part in source.split(", "))
    price_for = _price_for(arguments.prices)
    return Draft(shown, price_for, keep_secrets=arguments.keep_secrets, environ=os.environ)


def _price_for(path: str | None) -> PriceFor:
    """What the operator's table says of a model, else the one that ships."""
    from datetime import UTC, datetime
    from urllib.parse import urlsplit

    from tokenhub_proxy import pricelist
    from tokenhub_proxy.cli import listed_price
    from tokenhub_proxy.importers import NotReadable
    from tokenhub_proxy.importers.providers import BY_PREFIX

    if path is None:
        return listed_price
    try:
        rows = pricelist.import_prices(_text(path))
    except ValueError as error:
        raise NotReadable(f"--prices {path}: {error}") from None
    # LiteLLM's table goes by its own names of providers, whose hosts are known here.
    urls = {name: provider.base_url for name, provider in BY_PREFIX.items() if provider.base_url}
    hosts = {name: urlsplit(url).hostname or "" for name, url in urls.items()}
    table = json.loads(pricelist.write_prices(rows, f"{datetime.now(UTC):%Y-%m-%d}"))
    own = pricelist.PriceList({**table, "hosts": hosts | pricelist.shipped().hosts})

    def found(upstream: Upstream, model: str) -> Listed | None:
        row = own.lookup(upstream.dialect, upstream.base_url, model)
        return row or listed_price(upstream, model)

    return found


def _text(path: str) -> str:
    from tokenhub_proxy.importers import NotReadable

    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise NotReadable(f"can't be read: {error.strerror}") from None
    except ValueError:
        raise NotReadable("can't be read: it is no text in UTF-8") from None


def _stem(path: str) -> str:
    return "keys" if path == "-" else Path(path).stem


def _is_sqlite(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
    except OSError:
        return False  # whoever reads it next says why


def _database(path: str, draft: Draft) -> dict[str, list[Any]]:
    """The tables of a database that may be in use; it is only read."""
    import sqlite3
    from contextlib import closing
    from urllib.parse import quote

    from tokenhub_proxy.importers import NotReadable
    from tokenhub_proxy.importers.one_api import TABLES

    found: dict[str, list[Any]] = {}
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            there = {
                row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            }
            for name in sorted(there - {*TABLES, *DERIVED}):
                # The names are the database's own, and quoted as such.
                quoted = name.replace('"', '""')
                if database.execute(f'SELECT 1 FROM "{quoted}" LIMIT 1').fetchone():  # noqa: S608
                    draft.lost(name, "this table is not read; what it holds stays where it is")
            for name in there.intersection(TABLES):
                # The names are ours, from the list above.
                found[name] = [_living(row) for row in database.execute(f"SELECT * FROM {name}")]  # noqa: S608
    except sqlite3.Error as error:
        raise NotReadable(f"can't be read: {error}") from None
    return {name: [row for row in rows if row] for name, rows in found.items()}


def _living(row: Any) -> dict[str, Any]:
    """A row as a mapping with its decimals as texts; {} for one that was deleted."""
    found = {name: repr(row[name]) if isinstance(row[name], float) else row[name] for name in row.keys()}  # noqa: SIM118 - iterating a row gives its values
    return {} if found.get("deleted_at") else found


def _finish(arguments: argparse.Namespace, draft: Draft) -> int:
    """Check what was made, write it, and report."""
    from tokenhub_proxy import tables
    from tokenhub_proxy.config import ConfigError, load
    from tokenhub_proxy.importers import document

    text = document.config_text(draft)
    try:
        load(
            text,
            name=arguments.output or "(imported)",
            folder=Path(),
            environ=os.environ,
            read_file=Path.read_text,
        )
        wrong = ""
    except ConfigError as error:
        wrong = f"The config needs your hand before `check` accepts it:\n{error}"
    secrets = "".join(f"{name}={_quoted(value)}\n" for name, value in draft.secrets.items())
    try:
        if arguments.secrets_to is not None:
            _write(arguments.secrets_to, secrets, arguments.force)
        if arguments.output is None:
            sys.stdout.write(text)
        else:
            _write(arguments.output, text, arguments.force)
    except FileExistsError as error:
        return _wrong(f"{error.filename} is there already; --force writes over it")
    except OSError as error:
        return _wrong(f"{error.filename} can't be written: {error.strerror}")
    report = tables.as_json(document.report_object(draft)) if arguments.json else document.report_text(draft)
    print(report, file=sys.stderr)
    if wrong:
        print(wrong, file=sys.stderr)
    return 0 if draft.complete and not wrong else 1


def _write(path: str, text: str, force: bool) -> None:
    """Write a file that only its owner reads: it names, or holds, secrets."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    with open(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _quoted(value: str) -> str:
    """A value as a shell and systemd's EnvironmentFile read it alike."""
    plain = value.isascii() and all(letter.isalnum() or letter in "._-/+=:@%," for letter in value)
    return value if plain else "'" + value.replace("'", "'\\''") + "'"


def _wrong(message: str) -> int:
    print(message, file=sys.stderr)
    return 2
