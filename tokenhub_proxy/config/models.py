"""The config's models: who answers for each, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tokenhub_proxy.calls import OUTPUT_MAX, SCOPE_FIELDS
from tokenhub_proxy.config import values
from tokenhub_proxy.config.nodes import Node, did_you_mean, quoted
from tokenhub_proxy.config.walk import Walk
from tokenhub_proxy.pricelist import Listed
from tokenhub_proxy.prices import Price
from tokenhub_proxy.routes import Route, Target, Upstream

# What a price list says of a model at an upstream, where it knows it.
PriceFor = Callable[[Upstream, str], Listed | None]

# Which options a model has, by section; the table in `config` joins those of all sections.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "models": (
        "targets", "price", "context_length", "max_output_tokens", "image_tokens_max", "defaults",
        "description",
    ),
    "targets": ("upstream", "model", "weight", "priority"),
    "price": ("input", "cached", "cache_write", "output"),
}  # fmt: skip

# What a client's body says and an operator's default must not: it would change who is asked, what
# is asked, or how the answer is framed.
_NO_DEFAULTS = ("model", "messages", "input", "stream", "stream_options", *SCOPE_FIELDS)
# Weights and priorities are small numbers; the bound keeps their sums exact as floats.
RANK_MAX = 1_000_000

_DEFAULTS = Route("", (), Price())


class ModelReader:
    """Reads the section `models`.

    `upstreams` are those that can be asked; `named` holds the broken ones too, which are
    complained of elsewhere.
    """

    __slots__ = ("_named", "_price_for", "_upstreams", "_walk")

    def __init__(
        self,
        walk: Walk,
        upstreams: Mapping[str, Upstream],
        named: Mapping[str, Node],
        price_for: PriceFor | None,
    ) -> None:
        self._walk = walk
        self._upstreams = upstreams
        self._named = named
        self._price_for = price_for

    def read(self, node: Node) -> dict[str, Route]:
        """The models by name."""
        found: dict[str, Route] = {}
        for name, child in self._walk.entries(node).items():
            if self._walk.parsed(node.names[name], values.model) is not None:
                found[name] = self._route(name, child)
        return found

    def _route(self, name: str, node: Node) -> Route:
        walk = self._walk
        fields = walk.fields(node, OPTIONS["models"], required=("targets",))
        targets = self._targets(name, fields["targets"]) if "targets" in fields else ()
        listed = self._listed(targets)
        price, embeddings_only = self._price(node, fields, listed)
        return Route(
            model=name,
            targets=targets,
            price=price,
            context_length=walk.integer(fields.get("context_length"), 1, OUTPUT_MAX)
            or _least(row.context_length for row in listed),
            output_max=walk.integer(fields.get("max_output_tokens"), 1, OUTPUT_MAX)
            or _least(row.output_max for row in listed),
            image_tokens_max=walk.integer(fields.get("image_tokens_max"), 1, OUTPUT_MAX)
            or _DEFAULTS.image_tokens_max,
            embeddings_only=embeddings_only,
            defaults=self._defaults(fields),
            description=walk.text(fields.get("description")),
        )

    def _defaults(self, fields: Mapping[str, Node]) -> dict[str, Any]:
        node = fields.get("defaults")
        if node is None:
            return {}
        for name in self._walk.entries(node):
            if name.casefold() in _NO_DEFAULTS:
                self._walk.complain(node.names[name], "is the client's own to say; it can't be a default")
        found = self._walk.data(node)
        return found if isinstance(found, dict) else {}

    def _targets(self, model: str, node: Node) -> tuple[Target, ...]:
        items = self._walk.items(node)
        if node.kind == "list" and not items:
            self._walk.complain(node, "is an empty list: nobody could answer")
        targets = (self._target(model, item) for item in items)
        return tuple(target for target in targets if target is not None)

    def _target(self, model: str, node: Node) -> Target | None:
        walk = self._walk
        fields = walk.fields(node, OPTIONS["targets"], required=("upstream",))
        upstream = walk.text(fields.get("upstream"))
        if upstream is not None and upstream not in self._named:
            walk.complain(
                fields["upstream"], f"no upstream {quoted(upstream)}{did_you_mean(upstream, self._named)}"
            )
        theirs = walk.parsed(fields["model"], values.model) if "model" in fields else model
        weight = walk.integer(fields.get("weight"), 1, RANK_MAX)
        priority = walk.integer(fields.get("priority"), 1, RANK_MAX)
        found = self._upstreams.get(upstream or "")
        if found is None or theirs is None:
            return None
        return Target(found, theirs, weight or 1, priority or 1)

    def _price(self, node: Node, fields: Mapping[str, Node], listed: Sequence[Listed]) -> tuple[Price, bool]:
        """The price, and whether it has no output: then the model serves embeddings only."""
        walk = self._walk
        place = fields.get("price")
        if place is None:
            if not listed and node.kind == "mapping":
                walk.missing(
                    node, "price", "; a model without a price is refused (a free one says so: price: free)"
                )
            # The dearest of each class, so that no target is sold at a loss.
            price = Price(
                *(max((getattr(row.price, name) for row in listed), default=0) for name in OPTIONS["price"])
            )
            return price, bool(price.input and not price.output)
        if place.kind == "text":
            if place.text != "free":
                walk.complain(place, "must be free, or a mapping such as {input: 3.00, output: 15.00}")
            return Price(), False
        given = {
            name: walk.money(child)
            for name, child in walk.fields(place, OPTIONS["price"], required=("input",)).items()
        }
        if place.kind == "mapping" and given and not any(given.values()) and None not in given.values():
            walk.warn(place, "costs nothing; if that is meant, say price: free")
        input_ = given.get("input") or 0
        cached, cache_write = given.get("cached"), given.get("cache_write")
        price = Price(
            input=input_,
            cached=input_ if cached is None else cached,
            cache_write=input_ if cache_write is None else cache_write,
            output=given.get("output") or 0,
        )
        return price, place.kind == "mapping" and "output" not in given

    def _listed(self, targets: tuple[Target, ...]) -> Sequence[Listed]:
        """What the price list says of the targets, where it knows all of them."""
        if self._price_for is None:
            return ()
        rows = [self._price_for(target.upstream, target.model) for target in targets]
        known = [row for row in rows if row is not None]
        return known if len(known) == len(rows) else ()


def _least(limits: Iterable[int | None]) -> int | None:
    """The smallest limit, which every target keeps; None where one of them is not known."""
    found = list(limits)
    known = [limit for limit in found if limit is not None]
    return min(known) if known and len(known) == len(found) else None
