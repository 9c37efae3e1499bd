"""The options of the config as one page of Markdown, on stdout: from the reader's tables and the example."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tokenhub_proxy.config.nodes import Complaints, Node, parse

ROOT = Path(__file__).resolve().parent.parent

HEAD = """# The config

Written by `scripts/docs` from [config.example.yaml](../config.example.yaml), which shows every option in its
place; a test compares the two, and both with what is read.

The file is found at `--config`, else `$TOKENHUB_CONFIG`, else `./config.yaml`; relative paths in it begin in
its folder. `tokenhub-proxy check` tells every mistake at once, with its line, its path and the nearest valid
name. A changed file is read while the server runs, and so it is on `SIGHUP`: all of the new config, or none.

A secret is written `env:NAME`, `file:/path` or literally; nothing else in the file is substituted. Money is
read as decimal text. Where an option has no default, an example stands in its place, and the text says so.
"""
# Mappings whose names are the operator's own, and those that hold anything at all.
NAMED = {"upstreams": "NAME", "models": "NAME", "accounts": "NAME"}
OPEN = {"headers", "defaults", "quirks"}
COMMENTED = re.compile(r"^(\s*)# (\w+:(?: .*)?)$")
# What the example has no room to say.
MEANINGS = {
    "dashboard": "the web pages",
    "log": "the access log and all other lines",
    "streams": "answers that are streamed",
    "upstreams": "who can be asked, by a name of yours",
    "models": "what clients may ask for, by the name they use",
    "upstreams.NAME.timeouts": "how long each wait may take, in seconds",
    "upstreams.NAME.max_connections": "open connections at a time",
    "upstreams.NAME.proxy": "an HTTP proxy on the way there, such as http://proxy.example.com:3128",
    "upstreams.NAME.region": "bedrock's region; it names the host",
    "upstreams.NAME.access_key_id": "for signed calls, in place of api_key",
    "upstreams.NAME.secret_access_key": "goes with access_key_id",
    "upstreams.NAME.timeouts.connect": "until the connection stands, TLS included",
    "upstreams.NAME.timeouts.total": "the whole call",
    "models.NAME.targets[].upstream": "the name of an upstream above",
    "models.NAME.targets[].model": "the model's name there; default: the name clients use",
    "models.NAME.targets[].weight": "the share among targets of equal priority",
    "models.NAME.targets[].priority": "the lowest is asked first, the next where it can't answer",
    "models.NAME.price.input": "input that no cache had",
    "keys[].name": "how operators know the key",
    "keys[].quota.usd": "the most that the key may spend in one period",
    "keys[].quota.per": "day, week, month (of the calendar, in UTC) or total",
    "keys[].rate.requests_per_minute": "calls begun in a minute",
    "keys[].rate.tokens_per_minute": "input and output together",
    "keys[].rate.concurrent": "calls at a time",
    "payments.maximum_usd": "of one top-up",
    "payments.yookassa.shop_id": "as the shop's pages tell it",
    "payments.yookassa.secret_key": "as the shop's pages tell it, once",
    "payments.yookassa.base_url": "where the provider's API is",
    "payments.yookassa.receipt.vat_code": "1 to 12, as the law numbers them",
    "payments.yookassa.receipt.payment_subject": "what is sold",
    "payments.yookassa.receipt.payment_mode": "how it is paid",
    "payments.cryptopay.token": "of the app, as the bot tells it",
    "payments.cryptopay.test": "true: the test network, whose payments count here",
    "payments.cryptopay.fee_percent": "on top of the price",
    "payments.tron.base_url": "the index that is asked",
    "payments.tron.test": "true: a test network, whose payments count here",
    "payments.tron.fee_percent": "on top of the price",
    "payments.operator.fee_percent": "on top of the price",
}
SECRETS = {"api_key", "key", "access_key_id", "secret_access_key", "session_token", "secret_key", "token"}


def page() -> str:
    """Every section with its options."""
    text = (ROOT / "config.example.yaml").read_text()
    # Options that stand in comments are options too; their lines keep their numbers.
    lines = [COMMENTED.sub(r"\1\2", line) for line in text.splitlines()]
    root = parse("\n".join(lines), Complaints(), "config.example.yaml")
    sections: dict[str, dict[str, tuple[str, str, str]]] = {}
    for path, name, node, line in _options(root, ""):
        sections.setdefault(path, {}).setdefault(
            name, (_type(name, node), _value(node), meaning(path, name, _comment(lines, line)))
        )
    return HEAD + "".join(_section(path, rows) for path, rows in sections.items())


def _options(node: Node, path: str) -> Iterator[tuple[str, str, Node, int]]:
    """Path, name, value and line of every option below a mapping, each section before those inside it."""
    for name, child in node.fields.items():
        yield path, name, child, node.names[name].line
    for name, child in node.fields.items():
        below = f"{path}.{name}".lstrip(".")
        if name in OPEN:
            continue
        if name in NAMED and not path:
            for each in child.fields.values():
                yield from _options(each, f"{below}.{NAMED[name]}")
        elif child.kind == "mapping":
            yield from _options(child, below)
        for item in child.items:
            if item.kind == "mapping":
                yield from _options(item, f"{below}[]")


def meaning(path: str, name: str, comment: str) -> str:
    """What is written here of an option, else what the example says."""
    return MEANINGS.get(f"{path}.{name}".lstrip("."), comment)


def _type(name: str, node: Node) -> str:
    if name in SECRETS:
        return "secret"
    if name == "price":
        return "mapping or `free`"
    if node.kind in ("mapping", "list"):
        return node.kind
    if node.plain and node.text in ("true", "false"):
        return "true or false"
    if node.plain and re.fullmatch(r"\d+", node.text):
        return "whole number"
    if node.plain and re.fullmatch(r"\d+\.\d+", node.text):
        return "decimal"
    return "date" if re.fullmatch(r"\d{4}-\d\d-\d\d", node.text) else "text"


def _value(node: Node) -> str:
    if node.kind == "mapping":
        return "`{}`" if not node.fields else ""
    if node.kind == "list":
        plain = [item.text for item in node.items if item.kind == "text"]
        return f"`[{', '.join(plain)}]`" if len(plain) == len(node.items) else ""
    if node.kind == "null":
        return "none"
    return f"`{node.text}`" if node.text else '`""`'


def _comment(lines: list[str], number: int) -> str:
    """What the example says of a line; a comment that says nothing of its own is left out."""
    found = re.search(r"(?:^|\s)# (.*)$", lines[number - 1])
    return found[1].replace("|", "\\|") if found else ""


def _section(path: str, rows: dict[str, tuple[str, str, str]]) -> str:
    told = [f"| `{name}` | {kind} | {value} | {comment} |\n" for name, (kind, value, comment) in rows.items()]
    heading = f"`{path}`" if path else "The file"
    return f"\n## {heading}\n\n| option | type | default or example | |\n|---|---|---|---|\n{''.join(told)}"


if __name__ == "__main__":
    sys.stdout.write(page())
