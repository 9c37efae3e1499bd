"""The commands of keys: their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Verb = Callable[[Any, str, str, str], argparse.ArgumentParser]


def add_to(commands: Any, verb: Verb) -> None:
    """Add the commands to the tree; `verb` makes the parser of one."""
    group = commands.add_parser("keys", help="keys kept in the ledger").add_subparsers(
        required=True, metavar="COMMAND"
    )
    create = verb(group, "keys", "create", "make a key and show its secret, once")
    create.add_argument("name", metavar="NAME", nargs="?", help="a lease may do without one")
    _add_scope(create)
    create.add_argument("--parent", metavar="KEY", help="make a lease of this key, which can only narrow it")
    create.add_argument("--lease", metavar="30m", help="how long the lease lives; then it revokes itself")
    update = verb(group, "keys", "update", "change what a key may do")
    update.add_argument("name", metavar="NAME")
    _add_scope(update)
    verb(group, "keys", "list", "show all keys")
    verb(group, "keys", "show", "show one key").add_argument("name", metavar="NAME")
    rotate = verb(group, "keys", "rotate", "give a key a new secret and show it, once")
    rotate.add_argument("name", metavar="NAME")
    rotate.add_argument(
        "--overlap", metavar="24h", help="how long the old secret still works; default not at all"
    )
    verb(group, "keys", "revoke", "end a key; the very next request is refused").add_argument(
        "name", metavar="NAME"
    )


def _add_scope(command: argparse.ArgumentParser) -> None:
    command.add_argument("--account", metavar="A", help="who pays; default the account 'default'")
    command.add_argument("--models", metavar="P,P", help="shell-style patterns of models; default *")
    command.add_argument("--ips", metavar="C,C", help="addresses and CIDR ranges, or none")
    command.add_argument("--quota", metavar="20.00/month", help="USD per day, week, month or total; or none")
    command.add_argument("--requests-per-minute", metavar="N", help="a limit, or none")
    command.add_argument("--tokens-per-minute", metavar="N", help="a limit, or none")
    command.add_argument("--concurrent", metavar="N", help="calls at a time, or none")
    command.add_argument("--expires", metavar="WHEN", help="2027-01-01, or 30m from now; or none")
    command.add_argument(
        "--test", action=argparse.BooleanOptionalAction, help="the key may ask for scripted faults"
    )
