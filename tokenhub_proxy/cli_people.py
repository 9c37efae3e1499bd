"""The commands about people who sign in, and about tokens of the JSON API."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def add_to(commands: Any, verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add them to the tree; `verb(group, noun, name, help)` makes one."""
    group = commands.add_parser("users", help="people who sign in to the dashboard").add_subparsers(
        required=True, metavar="COMMAND"
    )
    invite = verb(group, "users", "invite", "make a link to set a password, for a new or known user")
    invite.add_argument("name", metavar="NAME", help="the name or e-mail address to sign in with")
    role = invite.add_mutually_exclusive_group()
    role.add_argument("--account", metavar="A", help="the account whose owner that is")
    role.add_argument("--operator", action="store_true", default=None, help="may do everything")
    verb(group, "users", "list", "show all users")
    verb(group, "users", "block", "sign a user out everywhere, and not in again").add_argument(
        "name", metavar="NAME"
    )
    verb(group, "users", "unblock", "let a user sign in again").add_argument("name", metavar="NAME")
    group = commands.add_parser("tokens", help="operators' tokens for the JSON API").add_subparsers(
        required=True, metavar="COMMAND"
    )
    for name, help in (("create", "make a token and show it, once"), ("revoke", "end a token")):
        verb(group, "tokens", name, help).add_argument("name", metavar="NAME")
    verb(group, "tokens", "list", "show all tokens")
