"""Public list prices: the dated table that ships with the package, and tables of others read exactly."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from tokenhub_proxy.prices import Price, format_usd, parse_usd

# Whose list a dialect's upstream goes by, whatever its address is.
_BY_DIALECT = {"anthropic": "anthropic", "gemini": "google", "azure": "azure", "bedrock": "bedrock"}
# A snapshot's date, a channel or an AWS version at the end of a model's name.
_SNAPSHOT = re.compile(r"(?:[-@](?:\d{8}|\d{4}-\d{2}-\d{2}|latest|default))?(?:-v\d+(?::\d+)?)?$")
# Bedrock's inference profiles: every region's costs the same, and the same as the model without one.
_REGION = re.compile(r"^(?:us|eu|apac|ap|jp|au|ca|us-gov)\.")
_TOKENS = {
    "input": "input_cost_per_token",
    "cached": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "output": "output_cost_per_token",
}
_OPENROUTER = {
    "input": "prompt",
    "cached": "input_cache_read",
    "cache_write": "input_cache_write",
    "output": "completion",
}
_LITELLM_PROVIDERS = {"gemini": "google", "bedrock_converse": "bedrock", "text-completion-openai": "openai"}
_PER_MILLION = 10**6
_NANO = Decimal(1).scaleb(-9)


@dataclass(frozen=True, slots=True)
class Listed:
    """What a public list says of one model. `note` is what a flat price can't say."""

    provider: str
    model: str
    price: Price
    context_length: int | None = None
    output_max: int | None = None
    note: str = ""
    as_of: str = ""


class PriceList:
    """A table of list prices in the form of the shipped `prices.json`."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._rows: Mapping[str, Mapping[str, Mapping[str, Any]]] = table["prices"]
        self.hosts: dict[str, str] = dict(table.get("hosts", {}))
        self._as_of: str = table.get("as_of", "")

    def lookup(self, dialect: str, base_url: str, model: str) -> Listed | None:
        """The list price of a model at an upstream, None where this table has none.

        An `openai` upstream is known by its host; the others by their dialect. A dated snapshot
        has the price of its model unless it has a row of its own.
        """
        provider = _BY_DIALECT.get(dialect) or _of_host(base_url, self.hosts)
        rows = self._rows.get(provider or "", {})
        for name in _names(model.lower(), provider == "bedrock"):
            if name in rows:
                return _listed(str(provider), name, rows[name], self._as_of)
        return None

    def rows(self) -> list[Listed]:
        """All rows, in the table's order."""
        return [
            _listed(provider, model, row, self._as_of)
            for provider, rows in self._rows.items()
            for model, row in rows.items()
        ]


@lru_cache(maxsize=1)
def shipped() -> PriceList:
    """The table that ships with the package."""
    return PriceList(json.loads(files("tokenhub_proxy").joinpath("prices.json").read_bytes()))


def lookup(dialect: str, base_url: str, model: str) -> Listed | None:
    """`PriceList.lookup` of the shipped table."""
    return shipped().lookup(dialect, base_url, model)


def read_prices(text: str) -> PriceList:
    """A table that `write_prices` wrote, maybe edited. Raises ValueError with a message for people."""
    try:
        table = json.loads(text)
        # Hosts are facts of the providers, not of a price list: a written table goes by ours.
        found = PriceList({**table, "hosts": shipped().hosts | table.get("hosts", {})})
        found.rows()
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("is no JSON") from None
    except (KeyError, TypeError, AttributeError):
        raise ValueError("is no price table; `tokenhub-proxy prices import` writes one") from None
    return found


def write_prices(listed: Iterable[Listed], as_of: str) -> str:
    """The rows as a table: JSON text with decimal prices in USD per million tokens."""
    prices: dict[str, dict[str, Any]] = {}
    for row in listed:
        found: dict[str, Any] = {name: format_usd(getattr(row.price, name)) for name in _TOKENS}
        if row.context_length is not None:
            found["context_length"] = row.context_length
        if row.output_max is not None:
            found["max_output_tokens"] = row.output_max
        prices.setdefault(row.provider, {})[row.model.lower()] = found
    return json.dumps({"as_of": as_of, "unit": "USD per million tokens", "prices": prices}, indent=1) + "\n"


def row_object(row: Listed) -> dict[str, Any]:
    """A row for people and programs; prices are decimal texts in USD per million tokens."""
    return {
        "provider": row.provider,
        "model": row.model,
        **{name: format_usd(getattr(row.price, name)) for name in _TOKENS},
        "context_length": row.context_length,
        "max_output_tokens": row.output_max,
        "note": row.note or None,
    }


def import_prices(text: str) -> list[Listed]:
    """The rows of LiteLLM's `model_prices_and_context_window.json` or OpenRouter's `/models` answer.

    Numbers are read as decimal text, never as floats. Rows without a token price are left out.
    Raises ValueError, with a message for people, for anything else.
    """
    try:
        found = json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    if isinstance(found, Mapping) and isinstance(found.get("data"), list):
        return list(_of_openrouter(found["data"]))
    if isinstance(found, Mapping):
        return list(_of_litellm(found))
    raise ValueError("neither LiteLLM's prices nor OpenRouter's models: the top level is no object")


def _of_host(base_url: str, hosts: Mapping[str, str]) -> str | None:
    host = (urlsplit(base_url).hostname or "").lower()
    return next((provider for provider, known in hosts.items() if host == known), None)


def _names(model: str, aws: bool) -> Iterator[str]:
    """The names under which a model may be listed, the most exact first."""
    exact = (model, _SNAPSHOT.sub("", model))
    yield from exact
    if aws:
        for name in exact:
            plain = _REGION.sub("", name)
            yield from (plain, "us." + plain)


def _listed(provider: str, model: str, row: Mapping[str, Any], as_of: str) -> Listed:
    price = {name: parse_usd(row[name]) for name in _TOKENS if name in row}
    return Listed(
        provider,
        model,
        _price(price),
        row.get("context_length"),
        row.get("max_output_tokens"),
        row.get("note", ""),
        as_of,
    )


def _price(nanos: Mapping[str, int]) -> Price:
    """A price per class; cached input and cache writes cost what input costs, where nothing else is said."""
    given = nanos.get("input", 0)
    return Price(given, nanos.get("cached", given), nanos.get("cache_write", given), nanos.get("output", 0))


def _of_litellm(table: Mapping[str, Any]) -> Iterator[Listed]:
    for name, row in table.items():
        if not isinstance(row, Mapping) or row.get("mode") not in (
            "chat",
            "completion",
            "responses",
            "embedding",
        ):
            continue
        provider = str(row.get("litellm_provider", ""))
        provider = _LITELLM_PROVIDERS.get(provider, provider)
        nanos = _per_million(name, row, _TOKENS)
        if nanos is not None and name != "sample_spec":
            limits = (_limit(row.get("max_input_tokens")), _limit(row.get("max_output_tokens")))
            yield Listed(
                provider, name.removeprefix(f"{row.get('litellm_provider')}/"), _price(nanos), *limits
            )


def _of_openrouter(rows: list[Any]) -> Iterator[Listed]:
    for row in rows:
        if not isinstance(row, Mapping) or not isinstance(row.get("id"), str):
            raise ValueError("data: each row must be a model with an id")
        pricing, top = row.get("pricing"), row.get("top_provider")
        nanos = _per_million(row["id"], pricing if isinstance(pricing, Mapping) else {}, _OPENROUTER)
        if nanos is not None:
            limit = top.get("max_completion_tokens") if isinstance(top, Mapping) else None
            yield Listed(
                "openrouter", row["id"], _price(nanos), _limit(row.get("context_length")), _limit(limit)
            )


def _per_million(model: str, row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, int] | None:
    """Nanodollars per million tokens of prices per token; None where there is no fixed one."""
    found: dict[str, int] = {}
    for ours, theirs in names.items():
        given = row.get(theirs)
        if given is None:
            continue
        try:
            amount = Decimal(given) * _PER_MILLION
            if amount < 0:
                return None  # OpenRouter's -1: the price is another model's
            found[ours] = parse_usd(f"{_without_noise(amount):f}")
        except (ValueError, TypeError, ArithmeticError) as exc:
            raise ValueError(f"{model}.{theirs}: {exc}") from None
    return found if "input" in found else None


def _without_noise(amount: Decimal) -> Decimal:
    """A price that was a float once, such as 2.99999000000000020, up to the next nanodollar.

    One that is truly finer stays, and is refused.
    """
    rounded = amount.quantize(_NANO, ROUND_CEILING)
    return rounded if (rounded - amount) * 10**9 <= amount else amount


def _limit(given: object) -> int | None:
    try:
        limit = int(given) if isinstance(given, (str, Decimal)) else 0
    except (ValueError, ArithmeticError):
        return None
    return limit if limit > 0 else None


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")
