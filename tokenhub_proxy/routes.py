"""Upstreams, targets and routes: which model a key may call, and who is asked in which order."""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from typing import Any, Final

from tokenhub_proxy.calls import Call
from tokenhub_proxy.errors import InvalidRequest, ModelNotAllowed, ModelNotFound, shown
from tokenhub_proxy.keys import Scope
from tokenhub_proxy.prices import Price

# A chat model without a configured limit gets this one, sent upstream: an answer without a bound
# could cost anything.
OUTPUT_MAX_ASSUMED: Final = 4096
# What a call can read that names files or searches, where the model's context length isn't told.
CONTEXT_ASSUMED = 128_000
# The least a client gets of an answer whose limit the balance decides; less is refused.
OUTPUT_MIN_AFFORDABLE = 256
# Comparing names letter by letter costs 0.1 ms each. A typo hardly changes a name's length, so
# only so many names of the nearest lengths are compared.
NEAREST_AMONG_MAX = 50
# Each kind of key remembers the models it sees; so many kinds are remembered at a time.
VISIBLE_MAX = 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines of one upstream, in seconds. Each wait of an exchange has one of them."""

    connect_s: float = 5.0
    first_byte_s: float = 120.0  # long prompts and reasoning models think before they speak
    idle_s: float = 60.0  # no byte at all
    progress_s: float = 300.0  # bytes, but no data event: only comments or pings
    total_s: float = 1800.0
    # The one that passes first, once there is a connection; `progress_s` is another timer's.
    nearest_s: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nearest_s", min(self.first_byte_s, self.idle_s, self.total_s))


@dataclass(frozen=True, slots=True)
class Upstream:
    """Somebody who answers: a row of the config. `credentials` are tried in turn.

    What may hold a secret is not in the repr.
    """

    name: str
    dialect: str
    base_url: str
    credentials: tuple[str, ...] = field(default=(), repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeouts: Timeouts = Timeouts()
    connections_max: int = 1000
    proxy: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    allow_fields: frozenset[str] = frozenset()
    # What only one dialect understands: `region`, `api_version`, `secret_access_key`, `quirks`, …
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """One way to serve a model: this upstream, under that name there."""

    upstream: Upstream
    model: str
    weight: int = 1
    priority: int = 1

    def check(self, call: Call) -> None:
        """Refuse fields that choose models or hosts past the scope, unless they may go there."""
        for name in call.scope_fields:
            if name not in self.upstream.allow_fields:
                raise InvalidRequest(f"The field {name!r} is not allowed here.", param=name)


@dataclass(frozen=True, slots=True)
class Route:
    """A model as clients name it, what it costs, and who can answer."""

    model: str
    targets: tuple[Target, ...]
    price: Price
    context_length: int | None = None
    output_max: int | None = None
    image_tokens_max: int = 4096
    embeddings_only: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    description: str | None = None  # for people

    def order(self, fraction: float) -> Sequence[Target]:
        """The targets in the order to try them.

        Lower priority numbers come first; among equals the first is drawn by weight with
        `fraction` (0 <= fraction < 1), and the others follow in the config's order.
        """
        if len(self.targets) == 1:
            return self.targets
        found: list[Target] = []
        for priority in sorted({target.priority for target in self.targets}):
            group = [target for target in self.targets if target.priority == priority]
            first = _draw(group, fraction)
            found += [first, *(target for target in group if target is not first)]
        return found

    def bound(self, call: Call, left: int | None) -> tuple[int, int | None]:
        """The most a call can cost in nanodollars, and the output limit to send upstream, if any.

        A limit that the client states is covered as it is. Where it states none the model's own
        counts; and where `left` can't cover that, as much as it buys, if that is worth an answer.
        """
        price, input_max = self.price, call.input_max(self.image_tokens_max)
        if call.reads_more:
            input_max = max(input_max, self.context_length or CONTEXT_ASSUMED)
        if call.endpoint == "embeddings":
            return price.ceiling(input_max, 0), None
        if self.embeddings_only:
            raise InvalidRequest(f"The model {self.model!r} serves embeddings only.", param="model")
        if call.output_max is not None:
            return price.ceiling(input_max, call.output_max * call.choices), None
        if price.output == 0:
            return price.ceiling(input_max, 0), None
        output_max = self.output_max or OUTPUT_MAX_ASSUMED
        amount = price.ceiling(input_max, output_max * call.choices)
        if left is not None and amount > left:
            affordable = price.affordable_output(input_max, left)
            if affordable is not None and affordable >= OUTPUT_MIN_AFFORDABLE * call.choices:
                output_max = affordable // call.choices
                return price.ceiling(input_max, output_max * call.choices), output_max
        return amount, None if self.output_max else output_max


def _draw(group: list[Target], fraction: float) -> Target:
    point = fraction * sum(target.weight for target in group)
    for target in group:
        point -= target.weight
        if point < 0:
            return target
    return group[-1]


class Routes:
    """All models of one config, and what each scope can see of them."""

    __slots__ = ("_by_model", "_visible")

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._by_model = dict(routes)
        self._visible: dict[tuple[str, ...], dict[str, Route]] = {}

    def visible(self, scope: Scope) -> Mapping[str, Route]:
        """The models that a key may call, by name: the list and the check are this one."""
        found = self._visible.get(scope.models)
        if found is None:
            found = {name: route for name, route in self._by_model.items() if matches(scope.models, name)}
            if len(self._visible) >= VISIBLE_MAX:
                self._visible.clear()
            self._visible[scope.models] = found
        return found

    def find(self, model: str, scope: Scope) -> Route:
        """The route of a model. Raises ModelNotAllowed or ModelNotFound."""
        seen = self._visible.get(scope.models)
        route = (self.visible(scope) if seen is None else seen).get(model)
        if route is not None:
            return route
        if not matches(scope.models, model):
            raise ModelNotAllowed(
                f"This key may not call the model {shown(model)}.", param="model", reason=shown(model)
            )
        message = f"The model {shown(model)} does not exist."
        nearest = _nearest(model, self.visible(scope))
        if nearest is not None:
            message += f" Did you mean {nearest!r}?"
        raise ModelNotFound(message, param="model", reason=shown(model))


def _nearest(model: str, names: Iterable[str]) -> str | None:
    candidates = heapq.nsmallest(NEAREST_AMONG_MAX, names, key=lambda name: abs(len(name) - len(model)))
    found = difflib.get_close_matches(model, candidates, n=1)
    return found[0] if found else None


def matches(patterns: tuple[str, ...], model: str) -> bool:
    """True when one of the shell-style patterns matches the whole name, case and all."""
    return any(_compiled(pattern).match(model) is not None for pattern in patterns)


@lru_cache(maxsize=1024)  # patterns come from keys, not from requests
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))
