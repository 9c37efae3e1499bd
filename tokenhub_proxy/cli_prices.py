"""The commands `prices show` and `prices import`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_to(commands: Any) -> None:
    """Add the commands to the tree."""
    group = commands.add_parser("prices", help="public list prices").add_subparsers(
        required=True, metavar="COMMAND"
    )
    help = "show the prices that models without one of their own get"
    show = group.add_parser("show", help=help, description=help)
    show.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="such as 'claude-*'")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(run=_show)
    help = "turn LiteLLM's or OpenRouter's table into one for the config's `prices`"
    import_ = group.add_parser("import", help=help, description=help)
    import_.add_argument("file", metavar="FILE", help="their JSON; - is standard input")
    import_.add_argument("--output", metavar="FILE", help="where to write it; default standard output")
    import_.set_defaults(run=_import)


def _show(arguments: argparse.Namespace) -> int:
    from fnmatch import fnmatchcase

    from tokenhub_proxy import pricelist, tables

    rows = [
        pricelist.row_object(row)
        for row in pricelist.shipped().rows()
        if fnmatchcase(row.model, arguments.pattern)
    ]
    print(tables.as_json(rows) if arguments.json else tables.table(rows))
    return 0 if rows else 1


def _import(arguments: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from tokenhub_proxy import pricelist

    try:
        text = sys.stdin.read() if arguments.file == "-" else Path(arguments.file).read_text()
        rows = pricelist.import_prices(text)
        written = pricelist.write_prices(rows, f"{datetime.now(UTC):%Y-%m-%d}")
        if arguments.output is None:
            print(written, end="")
        else:
            Path(arguments.output).write_text(written)
    except (OSError, ValueError) as error:
        print(f"{arguments.file}: {error}", file=sys.stderr)
        return 2
    print(f"{len(rows)} models with a fixed price per token.", file=sys.stderr)
    return 0
