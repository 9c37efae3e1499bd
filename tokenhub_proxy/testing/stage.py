"""What stands where the providers would be: any model there is, and an answer for every call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson

from tokenhub_proxy import pricelist
from tokenhub_proxy.calls import Call
from tokenhub_proxy.carriers import Transports
from tokenhub_proxy.dialects import DIALECTS
from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.keys import Scope
from tokenhub_proxy.prices import Price
from tokenhub_proxy.routes import Route, Routes, Target, Timeouts, Upstream, matches
from tokenhub_proxy.testing.answers import Answer, Failure
from tokenhub_proxy.testing.formats import FORMATS
from tokenhub_proxy.testing.rules import Request, Rules
from tokenhub_proxy.transports.demo import Demo
from tokenhub_proxy.transports.fanout import FanOut
from tokenhub_proxy.transports.faulty import Faulty
from tokenhub_proxy.transports.script import Script, Scripted
from tokenhub_proxy.transports.tape import Tape
from tokenhub_proxy.wire import Outgoing, Sending, Transport

# Headers of upstream requests that carry a credential: a failed assertion prints requests.
CREDENTIALS = frozenset({"authorization", "x-api-key", "x-goog-api-key", "api-key"})
# Silence is noticed soon: a test waits for it.
TIMEOUTS = Timeouts(connect_s=2.0, first_byte_s=10.0, idle_s=10.0, progress_s=30.0, total_s=60.0)
# What models cost that the price list does not know: 1 USD per million tokens, in and out.
PRICE = Price(*[10**9] * 4)
# The models that are listed before one is called.
LISTED = ("gpt-4.1-mini", "claude-sonnet-4-5", "gemini-2.5-flash", "text-embedding-3-small")


# Where the SDKs find each provider: the variables of its address and of its key, and what the SDK
# adds to the address.
_VARIABLES = {
    "openai": ("OPENAI_BASE_URL", "OPENAI_API_KEY", ""),
    "anthropic": ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "/v1"),
    "gemini": ("GOOGLE_GEMINI_BASE_URL", "GEMINI_API_KEY", "/v1beta"),
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a dialect's upstream is, for tests that record it."""

    base_url: str
    credentials: tuple[str, ...] = ()


def origins_of(environ: Mapping[str, str]) -> Mapping[str, Origin]:
    """Where the environment says that the providers are: that is what a cassette is recorded from."""
    found = {}
    for dialect, (url_name, key_name, added) in _VARIABLES.items():
        url, secret = environ.get(url_name, ""), environ.get(key_name, "")
        base_url = url.rstrip("/") + added if url else base_url_of(dialect)
        found[dialect] = Origin(base_url, (secret,) if secret else ())
    return found


class OpenRoutes(Routes):
    """Routes of every model that is asked for: at the provider whose name it has, at its list price."""

    __slots__ = ("_made", "origins", "timeouts")

    def __init__(self) -> None:
        super().__init__({})
        self._made: dict[str, Route] = {}
        self.timeouts = TIMEOUTS
        self.origins: Mapping[str, Origin] = {}
        self.declare(*(self.route(model) for model in LISTED))

    def find(self, model: str, scope: Scope) -> Route:
        if model not in self._made and matches(scope.models, model):
            self.declare(self.route(model))
        return super().find(model, scope)

    def declare(self, *routes: Route) -> None:
        """Take these routes, in place of others of the same models."""
        self._made |= {route.model: route for route in routes}
        super().__init__(self._made)

    def route(
        self,
        model: str,
        dialects: Sequence[str] = (),
        upstream_model: str | None = None,
        price: Price | None = None,
    ) -> Route:
        """A route to a provider of each of these dialects, asked one after the other."""
        dialects = dialects or (dialect_of(model),)
        upstreams = [self._upstream(dialect) for dialect in dialects]
        theirs = upstream_model or model
        listed = pricelist.lookup(dialects[0], base_url_of(dialects[0]), theirs)
        return Route(
            model=model,
            targets=tuple(
                Target(upstream, theirs, priority=number) for number, upstream in enumerate(upstreams, 1)
            ),
            price=price or (listed.price if listed is not None else PRICE),
            context_length=listed.context_length if listed is not None else None,
            output_max=listed.output_max if listed is not None else None,
        )

    def retime(self, timeouts: Timeouts) -> None:
        """Give every upstream these deadlines."""
        self.timeouts = timeouts
        self._anew(lambda upstream: replace(upstream, timeouts=timeouts))

    def settle(self, origins: Mapping[str, Origin]) -> None:
        """Have the upstreams where they really are."""
        self.origins = origins
        self._anew(lambda upstream: self._upstream(upstream.dialect))

    def _anew(self, changed: Callable[[Upstream], Upstream]) -> None:
        self.declare(
            *(
                replace(
                    route,
                    targets=tuple(
                        replace(target, upstream=changed(target.upstream)) for target in route.targets
                    ),
                )
                for route in self._made.values()
            )
        )

    def _upstream(self, dialect: str) -> Upstream:
        origin = self.origins.get(dialect) or Origin(base_url_of(dialect), ("test-credential",))
        return Upstream(dialect, dialect, origin.base_url, origin.credentials, timeouts=self.timeouts)


def base_url_of(dialect: str) -> str:
    """Where the provider is whose prices count, wherever its answers come from."""
    return DIALECTS[dialect].base_url or ""


def dialect_of(model: str) -> str:
    """The dialect of the provider whose models are named so."""
    for start, dialect in (("claude", "anthropic"), ("gemini", "gemini")):
        if model.startswith(start):
            return dialect
    return "openai"


class Stage(Transports):
    """The transports of one proxy under test. Every call comes by here, and is kept."""

    def __init__(self) -> None:
        super().__init__({})
        self.rules = Rules()
        self.requests: list[Request] = []
        self.misses: list[str] = []
        self.tape: Tape | None = None

    def __call__(self, target: Target, call: Call) -> Transport:
        transport: Transport = _Scripted(self, target, call)
        return transport if call.fault is None else Faulty(transport, call.fault)

    def carrier(self, target: Target, call: Call, outgoing: Outgoing) -> Transport:
        """Who answers this request: the tape, a rule, or for embeddings a made-up vector.

        Raises the refusal that a rule asks for, or one that tells why no rule was for it.
        Rules come before the tape, so that a test can let something fail that went well.
        """
        request = Request(
            model=call.model,
            body=call.body,
            stream=call.stream,
            dialect=target.upstream.dialect,
            path=outgoing.path,
            headers={name: value for name, value in outgoing.headers if name.lower() not in CREDENTIALS},
            upstream_body=orjson.loads(outgoing.body),
        )
        self.requests.append(request)
        says = self.rules.take(request)
        if says is None and self.tape is not None:
            return FanOut(self.tape.of(call.model, self._live))
        if says is None:
            if call.endpoint == "embeddings" and target.upstream.dialect == "openai":
                return Script(Demo().answer)
            miss = self.rules.miss(request)
            self.misses.append(miss)
            raise InvalidRequest(f"tokenhub: {miss}", reason="no rule", should_retry=False)
        if isinstance(says, Failure) and not says.upstream:
            raise says.refusal()
        return self._script(says)

    def _script(self, says: Answer | Failure) -> Transport:
        number = len(self.requests)

        def answered(outgoing: Outgoing) -> Scripted:
            speech = FORMATS[outgoing.upstream.dialect](outgoing, number)
            return speech.failed(says) if isinstance(says, Failure) else speech.scripted(says)

        script = Script(answered)
        return script if says.fault is None else Faulty(script, says.fault)


class _Scripted:
    """A Transport that asks the stage when the request is there."""

    def __init__(self, stage: Stage, target: Target, call: Call) -> None:
        self._stage = stage
        self._target = target
        self._call = call

    def send(self, outgoing: Outgoing) -> Sending:
        carrier = self._stage.carrier(self._target, self._call, outgoing)
        try:
            return carrier.send(outgoing)
        except InvalidRequest as miss:  # not on tape
            self._stage.misses.append(miss.message)
            raise

    async def aclose(self) -> None:
        """Nothing is kept."""
