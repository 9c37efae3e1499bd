"""The command line's help as a manual page, on stdout."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Iterator

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tokenhub_proxy import __version__
from tokenhub_proxy.cli import parser

# The day on which the texts below were last read through.
READ_ON = "2026-11-25"
# Lines of roff are kept as short as its own tools want them.
WIDTH = 78

HEAD = r""".\" Written by scripts/docs from the command line's own help.
.TH TOKENHUB-PROXY 1 "DATE" "tokenhub-proxy VERSION" "User Commands"
.SH NAME
tokenhub-proxy \- a streaming LLM gateway with keys, quotas and books of its own
.SH SYNOPSIS
.B tokenhub-proxy
.I COMMAND
.RI [ ARGUMENT ...]
.SH DESCRIPTION
.B tokenhub-proxy
serves every model you use behind one OpenAI-compatible address, with keys
that carry a model allowlist, an address allowlist, a spend quota and rate
limits.
It is one process, one YAML file and one SQLite file.
Commands work while the server runs, and what they change binds the very next
request.
.SH COMMANDS
"""
TAIL = r""".SH ENVIRONMENT
.TP
.B TOKENHUB_CONFIG
The config, where no
.B \-\-config
is given.
.TP
.BR OPENAI_API_KEY ", " ANTHROPIC_API_KEY ", " GEMINI_API_KEY ", ..."
Without a config, a provider is served for each of them that is set.
.SH FILES
.TP
.I config.yaml
The config, in the working directory, where nothing else is said.
.TP
.I tokenhub.db
The ledger.
Beside it stand its log, its lock and the socket of the running server.
.SH EXIT STATUS
.TP
.B 0
Done.
.TP
.B 1
A difference was found, a call would be refused, or the command failed.
.TP
.B 2
The command or the config is wrong.
.TP
.B 3
The ledger can't be opened: it is damaged, of another version, or another
process owns it.
"""


def page() -> str:
    """Every command with its arguments."""
    return (
        HEAD.replace("VERSION", _roff(__version__)).replace("DATE", READ_ON)
        + "".join(_commands(parser()))
        + TAIL
    )


def _commands(command: argparse.ArgumentParser) -> Iterator[str]:
    groups = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
    if groups:
        for child in groups[0].choices.values():
            yield from _commands(child)
        return
    arguments = [action for action in command._actions if not isinstance(action, argparse._HelpAction)]
    named = "".join(f" {_shown(one)}" for one in arguments if not one.option_strings)
    yield f".SS {_roff(command.prog.partition(' ')[2] + named)}\n{_roff(_sentence(command.description))}\n"
    for action in arguments:
        if action.option_strings or action.help:
            yield f".TP\n.B {_roff(_spelled(action))}\n{_roff(_sentence(action.help) or 'See above.')}\n"


def _shown(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    return {"?": f"[{name}]", "+": f"{name}..."}.get(str(action.nargs), name)


def _spelled(action: argparse.Action) -> str:
    if not action.option_strings:
        return _shown(action)
    value = "" if action.nargs == 0 else f" {action.metavar or '|'.join(map(str, action.choices or ()))}"
    return ", ".join(action.option_strings) + value


def _sentence(text: str | None) -> str:
    found = (text or "").replace("\n", " ").strip()
    return f"{found[:1].upper()}{found[1:]}." if found else ""


def _roff(text: str) -> str:
    """Text with what roff would read as its own taken literally."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    lines = textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in lines)


if __name__ == "__main__":
    sys.stdout.write(page())
