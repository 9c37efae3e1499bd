"""one-api's ratios as prices: a ratio of 1 is 2 USD per million tokens of input."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from tokenhub_proxy.importers import PER_MILLION, Draft, DraftModel, dearest, nanos, priced
from tokenhub_proxy.pricelist import Listed
from tokenhub_proxy.prices import NANOS_MAX, NANOS_PER_USD

QUOTA_PER_USD = Decimal(500_000)
USD_MAX = NANOS_MAX // NANOS_PER_USD
_TABLES = {
    "ModelRatio": "input",
    "CompletionRatio": "output",
    "CacheRatio": "cached",
    "CreateCacheRatio": "cache_write",
}
# What the options table says besides, and where it went.
_NOT_OURS = "an option of the old program"


@dataclass(slots=True)
class Ratios:
    """What the options say of money. `per_usd` are the units of quota in one USD."""

    tables: dict[str, dict[str, Decimal]] = field(default_factory=dict)
    per_call: dict[str, Decimal] = field(default_factory=dict)
    groups: dict[str, Decimal] = field(default_factory=dict)
    per_usd: Decimal = QUOTA_PER_USD

    def usd(self, quota: object) -> Decimal | None:
        """USD of units of quota, exact; None for what is no amount of money that there could be."""
        number = _decimal(quota)
        usd = None if number is None else number / self.per_usd
        return usd if usd is not None and abs(usd) < USD_MAX else None

    def give(
        self, draft: Draft, model: DraftModel, name: str, path: str, rows: Sequence[Listed | None]
    ) -> None:
        """Give a model its price: of its ratios, else of the shipped list, else none."""
        listed = [row for row in rows if row is not None]
        known = [row.price for row in listed] if len(listed) == len(rows) else []
        model.embeddings_only = bool(known) and all(price.input and not price.output for price in known)
        if name in self.per_call:
            draft.lost(
                f"options.ModelPrice.{name}", "a price per call can't be kept: a model is sold by its tokens"
            )
        given = self.tables.get("input", {}).get(name)
        if given is not None:
            try:
                model.price = priced(self._classes(draft, name, given, model.embeddings_only))
            except ValueError as error:
                draft.lost(f"options.ModelRatio.{name}", f"as a price in USD, {error}")
            model.price_note = "of its ratios"
        elif known:
            model.price, model.price_note = dearest(known), f"the list price of {listed[0].as_of}"
        else:
            draft.lost(
                path,
                f"no price of {name} is known: neither a ratio nor the price list has one;"
                " the model is written as a comment, to be given one",
            )

    def _classes(self, draft: Draft, name: str, ratio: Decimal, embeddings: bool) -> dict[str, int]:
        """Nanodollars per million tokens: ratio / per_usd a token, times the ratio of the class."""
        base = ratio * PER_MILLION / self.per_usd
        found = {"input": nanos(base)}
        for kind in ("cached", "cache_write", "output"):
            times = self.tables.get(kind, {}).get(name)
            if times is None and kind == "output" and not embeddings:
                times = Decimal(1)
                draft.changed(
                    f"options.CompletionRatio.{name}",
                    "not given: output costs what input costs, which the old program may have known better",
                )
            if times is not None:
                found[kind] = nanos(base * times)
        return found


def read_ratios(draft: Draft, options: Iterable[Any]) -> Ratios:
    """The ratios of the options table: rows of a key and a JSON text."""
    found = Ratios()
    for place, row in enumerate(options):
        if not isinstance(row, Mapping):
            continue
        name, value = str(row.get("key", "")), row.get("value")
        if name in _TABLES:
            found.tables[_TABLES[name]] = _numbers(draft, f"options.{name}", value)
        elif name == "ModelPrice":
            found.per_call = _numbers(draft, "options.ModelPrice", value)
        elif name in ("GroupRatio", "GroupGroupRatio"):
            _read_groups(draft, found, name, value)
        elif name == "QuotaPerUnit":
            number = _decimal(value)
            if number is None or number < 1:
                draft.lost("options.QuotaPerUnit", f"is no number of units; {QUOTA_PER_USD} was taken")
            else:
                found.per_usd = number
        elif value not in (None, "", "false", "{}", "[]"):
            draft.lost(f"options.{name or place}", _NOT_OURS)
    return found


def _read_groups(draft: Draft, found: Ratios, name: str, value: object) -> None:
    if name == "GroupGroupRatio":
        if value not in (None, "", "{}"):
            draft.lost("options.GroupGroupRatio", "a model has one price for everybody")
        return
    found.groups = _numbers(draft, "options.GroupRatio", value)
    for group, ratio in found.groups.items():
        if ratio != 1:
            draft.lost(
                f"options.GroupRatio.{group}",
                f"a model has one price for everybody, not {ratio:f} times of it",
            )


def _numbers(draft: Draft, path: str, value: object) -> dict[str, Decimal]:
    try:
        table = json.loads(str(value), parse_float=Decimal, parse_int=Decimal) if value else {}
    except (json.JSONDecodeError, RecursionError):
        table = None
    if not isinstance(table, dict):
        draft.lost(path, "is no JSON object")
        return {}
    found: dict[str, Decimal] = {}
    for name, number in table.items():
        if isinstance(number, Decimal) and number.is_finite() and number >= 0:
            found[name] = number
        else:
            draft.lost(f"{path}.{name}", "is no number")
    return found


def _decimal(given: object) -> Decimal | None:
    try:
        found = Decimal(str(given))
    except InvalidOperation:
        return None
    return found if found.is_finite() else None
