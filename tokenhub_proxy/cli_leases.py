"""The command `run`: a command with a key of its own, for a while, up to an amount."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

# What a shell says of a command that it can't run, and of one that a signal ended.
NOT_FOUND, SIGNALLED = 127, 128
# How late a signal is passed on at worst.
LOOK_S = 1.0


def add_to(commands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the tree; `add` makes its parser."""
    run = add(commands, "run", _run, "run a command with a lease: a key that ends with it")
    run.add_argument("--parent", metavar="KEY", required=True, help="the key to narrow")
    run.add_argument("--lease", metavar="30m", required=True, help="how long the key lives at most")
    run.add_argument("--quota", metavar="0.50", required=True, help="USD that it may spend")
    run.add_argument("--models", metavar="P,P", help="shell-style patterns of models; default the parent's")
    run.add_argument("command", metavar="-- CMD", nargs="+", help="what to run, and its arguments")


def _run(arguments: argparse.Namespace) -> int:
    from tokenhub_proxy import cli, leasing

    found = cli.one_result(arguments, "address", {})
    asked = {name: getattr(arguments, name) for name in ("parent", "lease", "quota", "models")}
    lease = cli.one_result(arguments, "keys create", asked)
    try:
        code = _child(
            arguments.command,
            {**os.environ, "OPENAI_BASE_URL": found["base_url"], "OPENAI_API_KEY": lease["secret"]},
        )
    finally:
        told = cli.one_result(arguments, "leases end", {"name": lease["name"]})
        print(leasing.line(told), file=sys.stderr)
    return code or (cli.FOUND if told["cap_hit"] else 0)


def _child(command: list[str], environ: dict[str, str]) -> int:
    """Run it; gives its exit code as a shell would."""
    try:
        child = subprocess.Popen(command, env=environ)  # noqa: S603 - the operator's own command
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return NOT_FOUND
    code: int | None = None
    with _passing_on(child):
        while code is None:
            # A signal may fall between Python's last look for one and its wait, so that it looks again.
            with suppress(subprocess.TimeoutExpired):
                code = child.wait(LOOK_S)
    return code if code >= 0 else SIGNALLED - code


@contextmanager
def _passing_on(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Signals that end us end the child first, so that its lease can be closed and told."""

    def passed_on(number: int, frame: object) -> None:
        child.send_signal(number)

    before = {number: signal.signal(number, passed_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    # A terminal sends ^C to both; the child decides what it means.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
