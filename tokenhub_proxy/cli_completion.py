"""The command `completion`: a script that teaches a shell our commands."""

from __future__ import annotations

import argparse
from typing import Any

SHELLS = ("bash", "zsh", "fish")


def add_to(commands: Any) -> None:
    """Add the command to the tree."""
    help = "print a script that completes our commands in a shell"
    command = commands.add_parser("completion", help=help, description=help)
    command.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    import sys

    from tokenhub_proxy import cli, completion

    sys.stdout.write(completion.script(arguments.shell, cli.parser()))
    return 0
