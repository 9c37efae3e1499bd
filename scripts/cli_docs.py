"""The command line's help as one page of Markdown, on stdout."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tokenhub_proxy.cli import parser

HEAD = """# The command line

Written by `scripts/docs` from `tokenhub-proxy --help`; a test compares the two.

Exit codes: 0 done; 1 a difference was found, a call would be refused, or the command failed; 2 the
command or the config is wrong; 3 the ledger can't be opened: it is damaged, of another version, or
another process owns it.
"""


def page() -> str:
    """Every command with its arguments."""
    return HEAD + "".join(_sections(parser()))


def _sections(command: argparse.ArgumentParser) -> Iterator[str]:
    groups = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
    if groups:
        for name in groups[0].choices:
            yield from _sections(groups[0].choices[name])
        return
    yield f"\n## {command.prog.partition(' ')[2]}\n\n{(command.description or '').capitalize()}.\n\n"
    yield "| argument | |\n|---|---|\n"
    for action in command._actions:
        if not isinstance(action, argparse._HelpAction):
            yield f"| `{_spelled(action)}` | {_told(action)} |\n"


def _spelled(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    value = "" if action.nargs == 0 else f" {action.metavar or _choices(action) or action.dest.upper()}"
    return ", ".join(action.option_strings) + value


def _choices(action: argparse.Action) -> str:
    return "\\|".join(map(str, action.choices or ()))


def _told(action: argparse.Action) -> str:
    default = f"; default {action.default}" if action.choices and action.default else ""
    needed = " (required)" if action.required and action.option_strings else ""
    return f"{action.help or ''}{default}{needed}".removeprefix("; ")


if __name__ == "__main__":
    sys.stdout.write(page())
