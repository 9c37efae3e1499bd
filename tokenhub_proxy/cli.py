"""The command line: one argparse tree, and what each command prints."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tokenhub_proxy import (
    cli_completion,
    cli_conformance,
    cli_health,
    cli_import,
    cli_keys,
    cli_leases,
    cli_ledger,
    cli_parser,
    cli_payments,
    cli_people,
    cli_prices,
    cli_top,
)

if TYPE_CHECKING:
    from tokenhub_proxy.config import Config
    from tokenhub_proxy.pricelist import Listed
    from tokenhub_proxy.routes import Upstream

# Exit codes that scripts rely on: 1 says that something was found or failed, 2 that the command or
# the config is wrong, 3 that the ledger refuses to open.
FOUND, WRONG, LEDGER_REFUSED, INTERRUPTED = 1, 2, 3, 130
CONFIG_FILE = "config.yaml"
LEDGER_URL = "sqlite:///tokenhub.db"
# Verbs that only read: they make no new ledger where there is none.
READING = frozenset(
    {
        "keys list",
        "keys show",
        "accounts list",
        "usage",
        "ledger verify",
        "ledger backup",
        "ledger export",
        "payments orders",
        "payments show",
        "payments webhooks",
        "payments codes list",
        "users list",
        "tokens list",
        "audit",
    }
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit code."""
    arguments = parser().parse_args(argv)
    # Balances and digests are the operator's alone: the ledger, its log, its socket, its backups.
    os.umask(0o077)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def fail(code: int, message: str) -> NoReturn:
    """End the command with a message for people."""
    print(message, file=sys.stderr)
    raise SystemExit(code)


# --- the tree


def parser() -> argparse.ArgumentParser:
    """The whole tree of commands; docs/cli.md and the help come from it."""
    tree = cli_parser.RootParser(
        prog="tokenhub-proxy",
        description="A streaming LLM gateway: every model behind one OpenAI-compatible key.",
    )
    tree.add_argument("--version", action="version", version=_version())
    commands = tree.add_subparsers(
        title="commands", required=True, metavar="COMMAND", parser_class=cli_parser.CommandParser
    )
    _add_serving(commands)
    cli_keys.add_to(commands, _verb)
    _add_accounts(commands)
    cli_people.add_to(commands, _verb)
    _add_reports(commands)
    return tree


def _version() -> str:
    from tokenhub_proxy import __version__, prices

    form = "" if str(prices.__file__).endswith((".py", ".pyc")) else ", compiled"
    return f"tokenhub-proxy {__version__}{form}"


def _add(commands: Any, name: str, run: Any, help: str, *, ledger: bool = True) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    command.add_argument(
        "--config", metavar="FILE", help="the config; default $TOKENHUB_CONFIG, else ./config.yaml"
    )
    if ledger:
        command.add_argument(
            "--ledger", metavar="URL", help="the ledger or its file, in place of the config's"
        )
    command.set_defaults(run=run)
    return command


def _add_serving(commands: Any) -> None:
    serve = _add(commands, "serve", _serve, "run the server")
    serve.add_argument("--listen", metavar="HOST:PORT", help="where to listen; port 0 picks a free one")
    tapes = serve.add_mutually_exclusive_group()
    tapes.add_argument("--record", metavar="DIR", help="record what upstreams answer, a cassette a model")
    tapes.add_argument("--replay", metavar="DIR", help="answer from the cassettes in DIR, and call nobody")
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


def _add_accounts(commands: Any) -> None:
    group = commands.add_parser("accounts", help="accounts and manual top-ups").add_subparsers(
        required=True, metavar="COMMAND"
    )
    create = _verb(group, "accounts", "create", "open an account, prepaid unless said otherwise")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--unlimited", action="store_true", help="no balance is needed")
    _verb(group, "accounts", "list", "show all accounts and their balances")
    for name, help in (
        ("block", "refuse an account's calls, whatever its balance"),
        ("unblock", "take them again"),
    ):
        _verb(group, "accounts", name, help).add_argument("name", metavar="NAME")
    for name, help in (("credit", "book money in"), ("debit", "book money out")):
        command = _verb(group, "accounts", name, help)
        command.add_argument("name", metavar="NAME")
        command.add_argument("amount", metavar="10.00", help="USD")
        command.add_argument("--note", metavar="T", help="why; kept with the entry")


def _add_reports(commands: Any) -> None:
    usage = _add(commands, "usage", ask_verb, "spend and tokens")
    usage.set_defaults(verb="usage")
    usage.add_argument("--by", choices=("key", "model", "upstream", "day"), default="key")
    usage.add_argument("--since", metavar="D", help="whole days from 2026-11-01 on, or from 7d ago on")
    form = usage.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV")
    form.add_argument("--json", action="store_true", help="print JSON")
    cli_ledger.add_to(commands, _add, _verb)
    cli_payments.add_to(commands, _verb)
    audit = _verb(commands, "", "audit", "show who changed what, the newest first")
    audit.add_argument("--before", metavar="ID", type=int, help="only what is older than this line")
    cli_prices.add_to(commands)
    cli_import.add_to(commands)
    cli_leases.add_to(commands, _add)
    cli_top.add_to(commands, _add)
    cli_conformance.add_to(commands)
    cli_health.add_to(commands)
    cli_completion.add_to(commands)


def _verb(group: Any, noun: str, name: str, help: str) -> argparse.ArgumentParser:
    command = _add(group, name, ask_verb, help)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(verb=f"{noun} {name}".strip())
    return command


# --- the commands


def _serve(arguments: argparse.Namespace) -> int:
    from tokenhub_proxy import serve

    return serve.run(
        arguments.config, arguments.listen, arguments.ledger, record=arguments.record, replay=arguments.replay
    )


def _check(arguments: argparse.Namespace) -> int:
    from tokenhub_proxy import tables
    from tokenhub_proxy.config import ConfigError, describe

    path = config_path(arguments.config)
    if path is None:
        fail(
            WRONG,
            f"There is no config: no --config, no $TOKENHUB_CONFIG, no ./{CONFIG_FILE}."
            " (serve does without one.)",
        )
    try:
        config = read_config(path)
    except ConfigError as error:
        if not arguments.json:
            fail(WRONG, str(error))
        print(tables.as_json({"complaints": str(error).splitlines()}))
        return WRONG
    print(tables.as_json(describe.summary(config)) if arguments.json else describe.describe(config))
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    from tokenhub_proxy import tables

    body = None
    if arguments.body is not None:
        try:
            body = sys.stdin.read() if arguments.body == "-" else Path(arguments.body).read_text()
        except (OSError, ValueError) as error:
            fail(WRONG, f"{arguments.body} can't be read: {_cause(error)}.")
    asked = {"key": arguments.key, "model": arguments.model, "ip": arguments.ip, "body": body}
    told = one_result(arguments, "explain", asked)
    print(tables.as_json(told) if arguments.json else tables.explanation(told))
    return FOUND if "refusal" in told else 0


def ask_verb(arguments: argparse.Namespace) -> int:
    """Run the verb of a command and print what it gives."""
    from tokenhub_proxy import tables

    left_out = {"run", "verb", "config", "ledger", "json", "csv"}
    asked = {name: value for name, value in vars(arguments).items() if name not in left_out}
    result = one_result(arguments, arguments.verb, asked)
    if arguments.json:
        print(tables.as_json(result))
    elif getattr(arguments, "csv", False):
        sys.stdout.write(tables.as_csv(result))
    else:
        print(tables.table(result))
    if "secret" in result and sys.stderr.isatty():
        print("The secret is shown this once; only its digest is kept.", file=sys.stderr)
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

    config, url = _ledger_of(arguments)
    path = path_of(url)
    try:
        yield from control.ask(path, verb, asked)
    except (ConnectionRefusedError, FileNotFoundError):
        pass
    except control.ControlError as error:
        fail(WRONG if error.code in ("invalid_request", "not_found") else FOUND, str(error))
    except OSError as error:
        fail(FOUND, f"The server that owns {path} can't be asked: {_cause(error)}.")
    else:
        return
    if not os.path.exists(path):
        if verb in READING:
            fail(
                LEDGER_REFUSED,
                f"There is no ledger {path} yet; serve makes it. (Is the server in another folder?)",
            )
        if verb == "explain":
            url = "sqlite:///:memory:"
        else:
            # Whoever is in another folder than the server would wonder why nothing changes there.
            print(f"No server runs here; a new ledger is made: {path}", file=sys.stderr)
    yield from _results_here(config or load_config(arguments.config), url, verb, asked)


def _ledger_of(arguments: argparse.Namespace) -> tuple[Config | None, str]:
    """The config, where it is needed to know the ledger, and the ledger's URL."""
    if arguments.ledger is not None:
        # A running server is asked though ./config.yaml may be broken right now.
        return None, ledger_url(arguments.ledger)
    config = load_config(arguments.config)
    return config, config.ledger_url if config is not None else LEDGER_URL


def ledger_path(arguments: argparse.Namespace) -> str:
    """The file of the ledger that a command is about."""
    from tokenhub_proxy.ledger.file import path_of

    return path_of(_ledger_of(arguments)[1])


def _results_here(
    config: Config | None, url: str, verb: str, asked: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    import asyncio

    from tokenhub_proxy.config.embedded import embedded
    from tokenhub_proxy.errors import ProxyError
    from tokenhub_proxy.ledger import LedgerRefused
    from tokenhub_proxy.ollama import ollama_models
    from tokenhub_proxy.wiring import administer

    if config is None:
        config = embedded(os.environ, ollama_models() if verb == "explain" else ())
    try:
        with asyncio.Runner() as runner:
            answers = administer(config, url, verb, asked)
            while (answer := runner.run(anext(answers, None))) is not None:
                yield answer
    except ProxyError as error:
        fail(WRONG if error.http_status < 500 else FOUND, error.message)
    except LedgerRefused as error:
        fail(LEDGER_REFUSED, str(error))


def ledger_url(text: str) -> str:
    """The ledger of `--ledger`: a URL, or the path of a file."""
    from tokenhub_proxy.config import values

    try:
        return values.ledger(text if "://" in text else f"sqlite:///{text}", Path())
    except ValueError as error:
        fail(WRONG, f"--ledger: {error}")


def config_path(named: str | None) -> Path | None:
    """The file of --config, $TOKENHUB_CONFIG or ./config.yaml; None where there is none of them."""
    named = named or os.environ.get("TOKENHUB_CONFIG")
    if named is None and not os.path.lexists(CONFIG_FILE):
        return None
    return Path(named or CONFIG_FILE)


def read_config(path: Path) -> Config:
    """The config in this file. Raises ConfigError."""
    from tokenhub_proxy.config import load_file

    return load_file(path, os.environ, listed_price)


def listed_price(upstream: Upstream, model: str) -> Listed | None:
    """What the shipped list says of a model at an upstream."""
    from tokenhub_proxy import pricelist

    return pricelist.lookup(upstream.dialect, upstream.base_url, model)


def load_config(named: str | None) -> Config | None:
    """The config that is found, or None; a bad one ends the command with all complaints."""
    from tokenhub_proxy.config import ConfigError

    path = config_path(named)
    try:
        return None if path is None else read_config(path)
    except ConfigError as error:
        fail(WRONG, str(error))


def _cause(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
