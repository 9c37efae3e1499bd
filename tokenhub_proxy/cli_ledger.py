"""The commands under `ledger`: the books themselves."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any


def add_to(
    commands: Any,
    add: Callable[..., argparse.ArgumentParser],
    verb: Callable[[Any, str, str, str], argparse.ArgumentParser],
) -> None:
    """Add the commands to the tree; `add` makes the parser of one, `verb` of one that asks the owner."""
    group = commands.add_parser("ledger", help="the books themselves").add_subparsers(
        required=True, metavar="COMMAND"
    )
    verify = add(group, "verify", _verify, "re-add every balance from its entries; exit 1 on a difference")
    verify.add_argument("--json", action="store_true", help="print JSON")
    backup = verb(group, "ledger", "backup", "copy the ledger while it is in use")
    backup.add_argument("path", metavar="PATH", type=os.path.abspath, help="a file that is not there yet")
    backup.set_defaults(run=_backup)
    add(group, "export", _export, "print every entry as a JSON line")


def _verify(arguments: argparse.Namespace) -> int:
    from tokenhub_proxy import cli, tables
    from tokenhub_proxy.progress import Progress

    with Progress("re-adding the books"):
        result = cli.one_result(arguments, "ledger verify", {})
    if arguments.json:
        print(tables.as_json(result))
    else:
        print("\n".join(result["differences"]) or "The books add up.")
    return cli.FOUND if result["differences"] else 0


def _backup(arguments: argparse.Namespace) -> int:
    from tokenhub_proxy import cli, progress

    copied = progress.of_file(f"{arguments.path}.unfinished", cli.ledger_path(arguments))
    with progress.Progress("copying", fraction=copied):
        return cli.ask_verb(arguments)


def _export(arguments: argparse.Namespace) -> int:
    import orjson

    from tokenhub_proxy import cli
    from tokenhub_proxy.progress import Progress

    # Where the entries themselves are read on the terminal, a line among them would be in the way.
    with Progress(
        "exporting", unit="entries", stream=None if not sys.stdout.isatty() else _nowhere()
    ) as shown:
        for kind, item in cli.results(arguments, "ledger export", {}):
            if kind == "item":
                sys.stdout.write(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE).decode())
                shown.count += 1
    return 0


def _nowhere() -> Any:
    import io

    return io.StringIO()
