"""The parser of commands: help in groups, and the nearest name where one is misspelt."""

from __future__ import annotations

import argparse
import difflib
from typing import Any, NoReturn

# The order in which the help shows the commands; one that is missing here is shown at the end.
GROUPS = {
    "serve models": ("serve", "check", "explain", "health", "top"),
    "keys and money": ("keys", "accounts", "usage", "payments", "prices"),
    "people": ("users", "tokens", "audit"),
    "the books": ("ledger",),
    "for developers": ("run", "conformance"),
    "getting started": ("import", "completion"),
}


class CommandParser(argparse.ArgumentParser):
    """An argparse parser whose mistakes are answered in a sentence and with the nearest name.

    Abbreviated options are refused: what a script abbreviates today means something else tomorrow.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Exit 2 with the complaint and where help is, or with the help where a command is missing."""
        if message.endswith("required: COMMAND"):
            self.exit(2, self.format_help())
        self.exit(2, f"{self.prog}: {message}\nTry: {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, with a suggestion for an option that nobody knows."""
        found, unknown = super().parse_known_args(args, namespace)
        options = [word for word in unknown if word.startswith("--")]
        if options and unknown[0] == options[0]:
            name = options[0].partition("=")[0]
            known = [option for option in self._option_string_actions if option.startswith("--")]
            self.error(f"there is no option {name} here{_did_you_mean(name, known)}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        names = [str(choice) for choice in action.choices]
        if isinstance(action, argparse._SubParsersAction):
            nearest = _did_you_mean(str(value), names) or f"; there are {', '.join(names)}"
            raise argparse.ArgumentError(None, f"there is no command {value}{nearest}")
        raise argparse.ArgumentError(
            action, f"must be one of {', '.join(names)}, not {value}{_did_you_mean(str(value), names)}"
        )


class RootParser(CommandParser):
    """The parser of the program itself, whose help shows the commands in groups."""

    def format_help(self) -> str:
        """Usage, the groups of commands, the options."""
        (group,) = [one for one in self._actions if isinstance(one, argparse._SubParsersAction)]
        told = {one.dest: one.help or "" for one in group._choices_actions}
        shown = {name for names in GROUPS.values() for name in names}
        groups = {**GROUPS, "more": tuple(name for name in told if name not in shown)}
        lines = [f"usage: {self.prog} COMMAND ...", "", str(self.description), ""]
        for heading, names in groups.items():
            rows = [f"  {name:<12} {told[name]}" for name in names if name in told]
            if rows:
                lines += [f"{heading}:", *rows, ""]
        lines += [
            "options:",
            "  --help       show this, or the help of a command: keys create --help",
            "  --version    show the version",
            "",
            "Without a config, `serve` runs a model named demo and prints a key and a line to try it with.",
        ]
        return "\n".join(lines) + "\n"


def _did_you_mean(name: str, names: list[str]) -> str:
    found = difflib.get_close_matches(name[:100], names, n=1)
    return f"; did you mean {found[0]}?" if found else ""
