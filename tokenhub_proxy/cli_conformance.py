"""The command `conformance`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any


def add_to(commands: Any) -> None:
    """Add the command to the tree."""
    help = "ask an endpoint for every behaviour that the official SDKs rely on"
    command = commands.add_parser("conformance", help=help, description=help)
    command.add_argument("url", metavar="URL", help="such as http://127.0.0.1:8900/v1")
    command.add_argument("--key", metavar="K", help="the API key; default $OPENAI_API_KEY")
    command.add_argument("--model", metavar="M", required=True, help="a chat model")
    command.add_argument(
        "--embeddings-model", metavar="M", help="a model of embeddings; without, they are skipped"
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    import asyncio
    from dataclasses import asdict

    import aiohttp

    from tokenhub_proxy import conformance, tables

    key = arguments.key or os.environ.get("OPENAI_API_KEY", "none")
    try:
        found = asyncio.run(
            conformance.examine(arguments.url, key, arguments.model, arguments.embeddings_model)
        )
    except (aiohttp.ClientError, OSError, ValueError) as error:
        print(f"{arguments.url} can't be asked: {error or type(error).__name__}", file=sys.stderr)
        return 2
    rows = [asdict(outcome) for outcome in found]
    print(tables.as_json(rows) if arguments.json else tables.table(rows))
    return 1 if any(outcome.verdict == "fail" for outcome in found) else 0
