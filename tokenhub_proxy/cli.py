"""The command line: one argparse tree, and what each command prints."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from tokenhub_proxy.config import Config

# Exit codes that scripts rely on: 1 says that something was found or failed, 2 that the command or
# the config is wrong, 3 that the ledger refuses to open.
FOUND, WRONG, LEDGER_REFUSED = 1, 2, 3
CONFIG_FILE = "config.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit code."""
    arguments = parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except BrokenPipeError:
        # Whoever read our output has had enough of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND
    except KeyboardInterrupt:
        return 130
    return code


def fail(code: int, message: str) -> NoReturn:
    """End the command with a message for people."""
    print(message, file=sys.stderr)
    raise SystemExit(code)


# --- the tree


def parser() -> argparse.ArgumentParser:
    """The whole tree of commands; docs/cli.md and the help come from it."""
    tree = argparse.ArgumentParser(
        prog="tokenhub-proxy",
        description="A streaming LLM gateway: every model behind one OpenAI-compatible key.",
    )
    tree.add_argument("--version", action="version", version=_version())
    commands = tree.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_serving(commands)
    _add_keys(commands)
    _add_accounts(commands)
    _add_reports(commands)
    return tree


def _version() -> str:
    from tokenhub_proxy import __version__

    return f"tokenhub-proxy {__version__}"


def _add(commands: Any, name: str, run: Any, help: str, *, ledger: bool = True) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    command.add_argument(
        "--config", metavar="FILE", help="the config; default $TOKENHUB_CONFIG, else ./config.yaml"
    )
    if ledger:
        command.add_argument("--ledger", metavar="URL", help="the ledger, in place of the config's")
    command.set_defaults(run=run)
    return command


def _add_serving(commands: Any) -> None:
    serve = _add(commands, "serve", _serve, "run the server")
    serve.add_argument("--listen", metavar="HOST:PORT", help="where to listen; port 0 picks a free one")
    check = _add(
        commands, "check", _check, "validate the config and show its routes and prices", ledger=False
    )
    check.add_argument("--json", action="store_true", help="print JSON")
    explain = _add(commands, "explain", _explain, "show what would happen to a call, without making it")
    explain.add_argument("--key", required=True, metavar="NAME", help="the key that calls")
    explain.add_argument("--model", required=True, metavar="M", help="the model it asks for")
    explain.add_argument("--ip", help="the client's address")
    explain.add_argument("--body", metavar="FILE", help="the request body; - is standard input")
    explain.add_argument("--json", action="store_true", help="print JSON")


def _add_keys(commands: Any) -> None:
    group = commands.add_parser("keys", help="keys kept in the ledger").add_subparsers(
        required=True, metavar="COMMAND"
    )
    for name, help in (
        ("create", "make a key and show its secret, once"),
        ("update", "change what a key may do"),
    ):
        command = _verb(group, "keys", name, help)
        command.add_argument("name", metavar="NAME")
        command.add_argument("--account", metavar="A", help="who pays; default the account 'default'")
        command.add_argument("--models", metavar="P,P", help="shell-style patterns of models")
        command.add_argument("--ips", metavar="C,C", help="addresses and CIDR ranges, or none")
        command.add_argument(
            "--quota", metavar="20.00/month", help="USD per day, week, month or total; or none"
        )
        command.add_argument("--requests-per-minute", metavar="N")
        command.add_argument("--tokens-per-minute", metavar="N")
        command.add_argument("--concurrent", metavar="N", help="calls at a time")
        command.add_argument("--expires", metavar="WHEN", help="2027-01-01, or 30m from now; or none")
        command.add_argument("--test", action="store_true", default=None, help="may ask for scripted faults")
    _verb(group, "keys", "list", "show all keys")
    _verb(group, "keys", "show", "show one key").add_argument("name", metavar="NAME")
    rotate = _verb(group, "keys", "rotate", "give a key a new secret and show it, once")
    rotate.add_argument("name", metavar="NAME")
    rotate.add_argument(
        "--overlap", metavar="24h", help="how long the old secret still works; default not at all"
    )
    _verb(group, "keys", "revoke", "end a key; the very next request is refused").add_argument(
        "name", metavar="NAME"
    )


def _add_accounts(commands: Any) -> None:
    group = commands.add_parser("accounts", help="accounts and manual top-ups").add_subparsers(
        required=True, metavar="COMMAND"
    )
    create = _verb(group, "accounts", "create", "open an account, prepaid unless said otherwise")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--unlimited", action="store_true", help="no balance is needed")
    _verb(group, "accounts", "list", "show all accounts and their balances")
    for name, help in (("credit", "book money in"), ("debit", "book money out")):
        command = _verb(group, "accounts", name, help)
        command.add_argument("name", metavar="NAME")
        command.add_argument("amount", metavar="10.00", help="USD")
        command.add_argument("--note", metavar="T", help="why; kept with the entry")


def _add_reports(commands: Any) -> None:
    usage = _add(commands, "usage", _ask_verb, "spend and tokens")
    usage.set_defaults(verb="usage")
    usage.add_argument("--by", choices=("key", "model", "upstream", "day"), default="key")
    usage.add_argument("--since", metavar="D", help="whole days from this date on")
    form = usage.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV")
    form.add_argument("--json", action="store_true", help="print JSON")
    group = commands.add_parser("ledger", help="the books themselves").add_subparsers(
        required=True, metavar="COMMAND"
    )
    verify = _add(group, "verify", _verify, "re-add every balance from its entries; exit 1 on a difference")
    verify.add_argument("--json", action="store_true", help="print JSON")
    backup = _verb(group, "ledger", "backup", "copy the ledger while it is in use")
    backup.add_argument("path", metavar="PATH", type=os.path.abspath)
    _add(group, "export", _export, "print every entry as a JSON line")


def _verb(group: Any, noun: str, name: str, help: str) -> argparse.ArgumentParser:
    command = _add(group, name, _ask_verb, help)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(verb=f"{noun} {name}")
    return command


# --- the commands


def _serve(arguments: argparse.Namespace) -> int:
    from tokenhub_proxy import serve

    return serve.run(arguments.config, arguments.listen, arguments.ledger)


def _check(arguments: argparse.Namespace) -> int:
    from tokenhub_proxy.config.describe import describe

    config = load_config(arguments.config)
    if config is None:
        fail(WRONG, f"There is no config: no --config, no $TOKENHUB_CONFIG, no ./{CONFIG_FILE}.")
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(describe(config))
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    body = None
    if arguments.body is not None:
        try:
            body = sys.stdin.read() if arguments.body == "-" else Path(arguments.body).read_text()
        except (OSError, ValueError) as error:
            fail(WRONG, f"{arguments.body}: {error}")
    asked = {"key": arguments.key, "model": arguments.model, "ip": arguments.ip, "body": body}
    told = one_result(arguments, "explain", asked)
    print(told_json(told))
    return FOUND if "refusal" in told else 0


def _ask_verb(arguments: argparse.Namespace) -> int:
    left_out = {"run", "verb", "config", "ledger", "json", "csv"}
    asked = {name: value for name, value in vars(arguments).items() if name not in left_out}
    result = one_result(arguments, arguments.verb, asked)
    if arguments.json:
        print(told_json(result))
    elif getattr(arguments, "csv", False):
        print_csv(result)
    else:
        print_table(result)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    result = one_result(arguments, "ledger verify", {})
    if arguments.json:
        print(told_json(result))
    else:
        print("\n".join(result["differences"]) or "The books add up.")
    return FOUND if result["differences"] else 0


def _export(arguments: argparse.Namespace) -> int:
    import orjson

    for kind, item in results(arguments, "ledger export", {}):
        if kind == "item":
            print(orjson.dumps(item).decode())
    return 0


# --- asking the owner of the ledger, or being it for a moment


def one_result(arguments: argparse.Namespace, verb: str, asked: dict[str, Any]) -> Any:
    """The result of a verb that gives one."""
    *_, (_, found) = results(arguments, verb, asked)
    return found


def results(arguments: argparse.Namespace, verb: str, asked: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Ask the running server; where none runs, open the ledger and do it here."""
    from tokenhub_proxy import control
    from tokenhub_proxy.ledger.file import path_of

    config = load_config(arguments.config)
    url = arguments.ledger or (config.ledger_url if config is not None else "sqlite:///tokenhub.db")
    try:
        yield from control.ask(path_of(url), verb, asked)
    except (ConnectionRefusedError, FileNotFoundError):
        pass
    except control.ControlError as error:
        fail(WRONG, str(error))
    else:
        return
    yield from _results_here(config, url, verb, asked)


def _results_here(
    config: Config | None, url: str, verb: str, asked: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    import asyncio

    from tokenhub_proxy.errors import ProxyError
    from tokenhub_proxy.ledger import LedgerRefused
    from tokenhub_proxy.wiring import administer

    try:
        with asyncio.Runner() as runner:
            answers = administer(config, url, verb, asked)
            while (answer := runner.run(anext(answers, None))) is not None:
                yield answer
    except ProxyError as error:
        fail(WRONG, error.message)
    except LedgerRefused as error:
        fail(LEDGER_REFUSED, str(error))


def load_config(path: str | None) -> Config | None:
    """The config of --config, $TOKENHUB_CONFIG or ./config.yaml; None where there is none of them."""
    from tokenhub_proxy.config import ConfigError, load_file
    from tokenhub_proxy.wiring import listed_price

    named = path or os.environ.get("TOKENHUB_CONFIG")
    if named is None and not Path(CONFIG_FILE).exists():
        return None
    try:
        return load_file(Path(named or CONFIG_FILE), os.environ, listed_price)
    except ConfigError as error:
        fail(WRONG, str(error))


# --- printing


def told_json(result: Any) -> str:
    import orjson

    return orjson.dumps(result, option=orjson.OPT_INDENT_2).decode()


def print_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    import csv

    if rows:
        writer = csv.DictWriter(sys.stdout, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def print_table(result: Any) -> None:
    """A list of objects as a table, an object as lines of name and value."""
    if isinstance(result, Mapping):
        width = max((len(name) for name in result), default=0)
        for name, value in result.items():
            print(f"{name:<{width}}  {shown_value(value)}")
        return
    if not result:
        print("Nothing yet.")
        return
    names = [name for name in result[0] if any(row[name] not in (None, [], False) for row in result)]
    rows = [names, *([shown_value(row[name]) for name in names] for row in result)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(names))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def shown_value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value) or "-"
    if value is None:
        return "-"
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
