"""Configs of other gateways read into a draft of ours, with an account of all that it can't hold."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any, Literal

from tokenhub_proxy.config import values
from tokenhub_proxy.config.models import PriceFor
from tokenhub_proxy.prices import Price, format_usd, parse_usd

# What became of a setting: nothing at all, something that must be looked at, or nothing because it
# is so here anyway. Only the first makes an import incomplete.
Verdict = Literal["lost", "changed", "unneeded"]

# A line of the price list is USD per million tokens.
PER_MILLION = Decimal(10**6)
# An address that nobody has (RFC 2606), where the source's own can't be known.
NO_ADDRESS = "https://write-the-address-here.invalid"
_NANO = Decimal(1).scaleb(-9)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_NOT_IN_VARIABLES = re.compile(r"[^A-Z0-9]+")


class NotReadable(ValueError):
    """The file is not what it was said to be; the message is for people."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one setting, by its path in the file that was read."""

    path: str
    verdict: Verdict
    reason: str


@dataclass(slots=True)
class DraftTarget:
    """An upstream of a model; `source` is the path it was read from."""

    upstream: str
    model: str
    weight: int = 1
    priority: int = 1


@dataclass(slots=True)
class DraftModel:
    """A model of the draft. Without a price it is written as a comment, because nobody may call it."""

    targets: list[DraftTarget] = field(default_factory=list)
    price: Price | None = None
    price_note: str = ""
    embeddings_only: bool = False
    context_length: int | None = None
    output_max: int | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    description: str | None = None


@dataclass(slots=True)
class Draft:
    """All that an import found: the config to be, the commands that finish it, and the findings.

    `secrets` are the values that were written out in the source, by the variable that stands for
    each; they are in no repr.
    """

    source: str
    price_for: PriceFor
    keep_secrets: bool = False
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    upstreams: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    models: dict[str, DraftModel] = field(default_factory=dict)
    accounts: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    # Variables that the source itself names: what was written out must not be put into one of them.
    named: set[str] = field(default_factory=set)

    def lost(self, path: str, reason: str) -> None:
        """This was not carried over."""
        self._find(path, "lost", reason)

    def changed(self, path: str, reason: str) -> None:
        """This was carried over as something else."""
        self._find(path, "changed", reason)

    def unneeded(self, path: str, reason: str) -> None:
        """Nothing stands for this, and nothing has to."""
        self._find(path, "unneeded", reason)

    def _find(self, path: str, verdict: Verdict, reason: str) -> None:
        finding = Finding(path, verdict, reason)
        if finding not in self.findings:
            self.findings.append(finding)

    @property
    def complete(self) -> bool:
        """Whether all was carried over."""
        return not any(finding.verdict == "lost" for finding in self.findings)

    def upstream(self, name: str, options: dict[str, Any]) -> str:
        """The name of the upstream with these options, a new one where there is none yet."""
        for known, theirs in self.upstreams.items():
            if theirs == options:
                return known
        name = unused(name_of(name), self.upstreams)
        self.upstreams[name] = options
        return name

    def secret(self, path: str, value: str, variable: str) -> str:
        """How the config names a secret that the source wrote out: the secret itself only when asked."""
        if self.keep_secrets:
            self.changed(path, "the secret stands in the new file too, as was asked")
            return value
        for known, theirs in self.secrets.items():
            if theirs == value:
                return f"env:{known}"
        name = unused(variable_of(variable), {*self.secrets, *self.named}, separator="_")
        self.secrets[name] = value
        self.changed(path, f"the secret was not copied: set the environment variable {name} to it")
        return f"env:{name}"

    def command(self, *words: str) -> None:
        """A command that finishes the import, quoted for a shell."""
        self.commands.append(shlex.join(("tokenhub-proxy", *words)))


def base_url(draft: Draft, path: str, url: str) -> str:
    """The address where it is one; else a placeholder, which the findings tell."""
    try:
        return values.base_url(url)
    except ValueError as error:
        draft.lost(path, f"{error}; {NO_ADDRESS} was written: put yours there")
        return NO_ADDRESS


class Fields:
    """The settings of one mapping, and which of them nobody has looked at yet."""

    def __init__(self, given: object, path: str) -> None:
        self.path = path
        self._given: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        self._left = {
            str(name): value for name, value in self._given.items() if value is not None and value != ""
        }

    def at(self, name: str) -> str:
        """The path of a setting."""
        return f"{self.path}.{name}" if self.path else name

    def take(self, name: str) -> Any:
        """A setting, None where it is not given; whoever takes it answers for it."""
        return self._left.pop(name, None)

    def text(self, name: str) -> str | None:
        """A setting as text."""
        found = self.take(name)
        return None if found is None else str(found).strip()

    def texts(self, name: str) -> list[str]:
        """A setting that is a list of texts, or one."""
        found = self.take(name)
        return (
            [str(one) for one in found] if isinstance(found, list) else [] if found is None else [str(found)]
        )

    def names(self) -> tuple[str, ...]:
        """Those that are left."""
        return tuple(self._left)

    def rest(self) -> Iterator[tuple[str, Any]]:
        """Path and value of all that nobody took; empty lists and mappings say nothing."""
        for name, value in self._left.items():
            if value not in ([], {}, False):
                yield self.at(name), value


def report_rest(draft: Draft, fields: Fields, reasons: Mapping[str, tuple[Verdict, str]], other: str) -> None:
    """Account for all settings that nobody took: by their own reason, or by this one."""
    for path, _ in fields.rest():
        verdict, reason = reasons.get(path.rpartition(".")[2], ("lost", other))
        {"lost": draft.lost, "changed": draft.changed, "unneeded": draft.unneeded}[verdict](path, reason)


def name_of(text: str) -> str:
    """The nearest name of an upstream, an account or a key."""
    return _NOT_IN_NAMES.sub("-", text).strip("-")[:60] or "unnamed"


def variable_of(text: str) -> str:
    """The nearest name of an environment variable."""
    found = _NOT_IN_VARIABLES.sub("_", text.upper()).strip("_") or "SECRET"
    return f"_{found}" if found[0].isdecimal() else found


def unused(name: str, taken: Iterable[str], separator: str = "-") -> str:
    """The name, or with a number where it is taken."""
    taken, number, found = set(taken), 1, name
    while found in taken:
        number += 1
        found = f"{name}{separator}{number}"
    return found


def nanos(usd: Decimal) -> int:
    """Nanodollars of USD, rounded up to a whole one. Raises ValueError for what is no amount."""
    try:
        rounded = usd.quantize(_NANO, ROUND_CEILING)
    except InvalidOperation:
        raise ValueError("is no amount") from None
    return parse_usd(f"{rounded:f}")


def priced(options: Mapping[str, int]) -> Price:
    """A price of the classes that are known; cached input and cache writes cost what input costs."""
    given = options["input"]
    return Price(
        given, options.get("cached", given), options.get("cache_write", given), options.get("output", 0)
    )


def dearest(prices: Iterable[Price]) -> Price:
    """The dearest of each class, so that no target is sold at a loss."""
    found = list(prices)
    return Price(
        *(
            max(getattr(price, name) for price in found)
            for name in ("input", "cached", "cache_write", "output")
        )
    )


def usd_text(amount: Decimal) -> str:
    """USD as an argument of our commands."""
    return format_usd(nanos(amount))
