"""The commands under `payments`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

# The simulator's own: its address, and which fields of its knobs are switches and which are numbers.
LISTEN = "127.0.0.1:8950"
WEBHOOKS = "http://127.0.0.1:8900/payments/webhooks"
_SWITCHES = {
    "early": "send the webhook before the payment's creation is answered",
    "shuffled": "send webhooks out of their order",
    "wrong-sum": "let more be paid than was asked for",
    "forged": "send a forged webhook before each real one",
    "foreign": "let webhooks say that they come from a foreign address",
    "accepted-first": "answer 202 at first",
    "silent": "send no webhook at all",
}
_NUMBERS = {
    "duplicate": "so many more copies of each webhook",
    "late-s": "seconds before a webhook is sent",
    "failing": "so many calls are answered with 500 first",
    "slow-s": "seconds before a call is answered",
}


def add_to(commands: Any, verb: Callable[[Any, str, str, str], argparse.ArgumentParser]) -> None:
    """Add the commands to the tree; `verb(group, noun, name, help)` adds one that asks the ledger's owner."""
    group = commands.add_parser("payments", help="top-ups: orders, refunds, codes, webhooks").add_subparsers(
        required=True, metavar="COMMAND"
    )
    verb(group, "payments", "methods", "show every way to pay")
    quote = verb(group, "payments", "quote", "show what a top-up would cost")
    orders = verb(group, "payments", "orders", "show the newest orders")
    orders.add_argument("--account", metavar="A", help="of this account alone")
    orders.add_argument("--state", metavar="S", help="such as pending or needs_review")
    orders.add_argument("--provider", metavar="P", help="such as yookassa")
    orders.add_argument("--before", metavar="ID", help="the page that follows this order")
    create = verb(group, "payments", "create", "make an order and show where to pay it")
    create.add_argument("account", metavar="ACCOUNT")
    for command in (quote, create):
        command.add_argument("amount", metavar="10.00", help="USD")
        command.add_argument("--provider", required=True, metavar="P", help="such as yookassa")
    create.add_argument("--method", metavar="M", help="one of the provider's; default its first")
    create.add_argument("--customer", metavar="E-MAIL", help="for the receipt, where one is needed")
    show = verb(group, "payments", "show", "show an order and all that happened to it")
    look = verb(group, "payments", "look", "ask an order's provider now")
    complete = verb(group, "payments", "complete", "credit an order by hand, or end its review")
    complete.add_argument("--payment", metavar="ID", help="the provider's payment that it was paid with")
    cancel = verb(group, "payments", "cancel", "close an order that nothing will come of")
    refund = verb(group, "payments", "refund", "pay an order back, all of it or a part")
    refund.add_argument(
        "--amount", metavar="100.00", help="in the order's currency; default all that is left"
    )
    refund.add_argument("--outside", action="store_true", help="it was paid back already: only book it")
    for command in (show, look, complete, cancel, refund):
        command.add_argument("id", metavar="ORDER")
    for command, needed in ((complete, True), (cancel, False), (refund, False)):
        command.add_argument("--note", metavar="T", required=needed, help="why; kept with the order")
    verb(group, "payments", "webhooks", "show the newest webhooks and their verdicts")
    replay = verb(group, "payments", "replay", "follow a webhook once more")
    replay.add_argument("id", metavar="N")
    _add_codes(group, verb)
    _add_simulate(group)


def _add_codes(group: Any, verb: Callable[[Any, str, str, str], argparse.ArgumentParser]) -> None:
    codes = group.add_parser("codes", help="redemption codes").add_subparsers(
        required=True, metavar="COMMAND"
    )
    create = verb(codes, "payments codes", "create", "make codes and show them, once")
    create.add_argument("amount", metavar="5.00", help="USD each")
    create.add_argument("--count", metavar="N", default="1", help="how many; default 1")
    create.add_argument("--expires", metavar="WHEN", help="2027-01-01, or 30d from now; default never")
    create.add_argument("--note", metavar="T", help="what they are for")
    verb(codes, "payments codes", "list", "show codes and whether they were used")
    redeem = verb(group, "payments", "redeem", "use up a code for an account")
    redeem.add_argument("account", metavar="ACCOUNT")
    redeem.add_argument("code", metavar="CODE")


def _add_simulate(group: Any) -> None:
    help = "serve providers that take play money, for tests and demonstrations"
    simulate = group.add_parser("simulate", help=help, description=help)
    simulate.add_argument("--listen", metavar="HOST:PORT", default=LISTEN, help=f"where; default {LISTEN}")
    simulate.add_argument(
        "--webhooks", metavar="URL", default=WEBHOOKS, help=f"where they are taken; default {WEBHOOKS}"
    )
    for name, told in _SWITCHES.items():
        simulate.add_argument(f"--{name}", action="store_true", help=told)
    for name, told in _NUMBERS.items():
        simulate.add_argument(f"--{name}", metavar="N", default="0", help=told)
    simulate.set_defaults(run=_simulate)


def _simulate(arguments: argparse.Namespace) -> int:
    import asyncio
    import sys

    from tokenhub_proxy.config import values
    from tokenhub_proxy.payments.simulator import Simulator, knobs_of

    said = {
        name.replace("-", "_"): vars(arguments)[name.replace("-", "_")] for name in (*_SWITCHES, *_NUMBERS)
    }
    try:
        host, port = values.listen(arguments.listen)
        knobs = knobs_of({name: str(value) for name, value in said.items() if value is not False})
    except ValueError as error:
        print(f"--listen or a number: {error}", file=sys.stderr)
        return 2

    async def serve() -> None:
        simulator = Simulator(arguments.webhooks, knobs)
        await simulator.start(host, port)
        print(f"ready {simulator.url}/", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            await simulator.stop()

    try:
        asyncio.run(serve())
    except OSError as error:
        print(f"{arguments.listen} can't be listened on: {error.strerror}.", file=sys.stderr)
        return 2
    return 0
