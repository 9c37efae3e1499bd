"""The `tokenhub` fixture: a whole proxy in this process, whose models say what a test scripts."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from tokenhub_proxy import faults, keys
from tokenhub_proxy.cassettes import secrets_of
from tokenhub_proxy.config import Config
from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.faults import Fault
from tokenhub_proxy.keys import Key, Networks, Scope
from tokenhub_proxy.ledger import DEFAULT_ACCOUNT, Account
from tokenhub_proxy.prices import Price, format_usd, parse_usd
from tokenhub_proxy.routes import Timeouts, Upstream
from tokenhub_proxy.testing import answers
from tokenhub_proxy.testing.answers import Says
from tokenhub_proxy.testing.engine import Engine
from tokenhub_proxy.testing.rules import Predicate, Request, Rule
from tokenhub_proxy.testing.stage import OpenRoutes, Origin, Stage, origins_of
from tokenhub_proxy.transports.tape import Mode, Tape, Timing
from tokenhub_proxy.wiring import Proxy, administration, start

BODY_MAX_BYTES = 32 * 2**20
# A call whose answer the client has read to its end is told of within microseconds.
ENDING_S = 5.0
Usd = str | int | Decimal


class Seen:
    """An observer that keeps what it was told, and tells who waits for more."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self._told = asyncio.Event()

    def __call__(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        self._told.set()

    async def another(self) -> None:
        """Until one exchange more has ended."""
        self._told.clear()
        await self._told.wait()


class Tokenhub:
    """One test's proxy: what its models say, and what it saw.

    `base_url` and `api_key` are what a client needs; the fixture puts them into the environment.
    """

    def __init__(self, engine: Engine, proxy: Proxy, stage: Stage, seen: Seen, secret: str) -> None:
        self._engine = engine
        self._proxy = proxy
        self._stage = stage
        self._seen = seen
        self.base_url = proxy.base_url
        self.api_key = secret
        self._strict = False

    def play(
        self,
        path: Path,
        *,
        mode: Mode = "none",
        timing: Timing = "none",
        scale: float = 1.0,
        strict: bool = False,
        ignore: Sequence[str] = (),
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Answer what no rule answers from the cassette in this file, or record it there.

        `mode` is none, once, new_episodes or all; `timing` is exact, scaled (by `scale`) or none.
        With `strict` each exchange is played once and none may be left over. `ignore` names members
        of bodies that don't count, as dotted paths. `environ` says where the providers are, as
        their SDKs read it. Raises CassetteError.
        """
        origins = origins_of(environ)
        upstreams = [Upstream(name, name, "", origin.credentials) for name, origin in origins.items()]
        tape = Tape(
            path,
            mode=mode,
            timing=timing,
            scale=scale,
            strict=strict,
            ignore=ignore,
            secrets=[*secrets_of(upstreams, environ), self.api_key],
        )
        self._strict = strict

        def insert() -> None:
            self._stage.tape = tape
            recorded = {ask.dialect: Origin(ask.base_url, ("test-credential",)) for ask in tape.cassette.asks}
            self._routes.settle(origins if tape.records else recorded)

        self._engine.call(_later(insert))

    # --- what the models say

    def reply(
        self,
        text: str = "",
        *,
        tool_calls: Iterable[Any] = (),
        finish_reason: str = "",
        usage: tuple[int, int] | None = None,
        fault: str | Fault | None = None,
        **match: Any,
    ) -> Rule:
        """Answer with a text, with tool calls, or with both; streamed where the client streams.

        `usage` is the tokens in and out. `fault` breaks the answer on the wire, in the words of
        `x-tokenhub-fault`. `model`, `last`, `when` and `times` choose the requests, as `rule` says.
        """
        said = answers.reply(
            text, tool_calls=tool_calls, finish_reason=finish_reason, usage=usage, fault=_fault(fault)
        )
        return self.rule(said, **match)

    def stream(
        self,
        pieces: Sequence[str],
        *,
        delay_s: float = 0.0,
        finish_reason: str = "",
        usage: tuple[int, int] | None = None,
        fault: str | Fault | None = None,
        **match: Any,
    ) -> Rule:
        """Answer in these pieces, an event each, with so much silence before each."""
        said = answers.stream(
            pieces, delay_s=delay_s, finish_reason=finish_reason, usage=usage, fault=_fault(fault)
        )
        return self.rule(said, **match)

    def fail(
        self,
        status: int,
        *,
        retry_after_s: float | None = None,
        message: str = "",
        upstream: bool = False,
        **match: Any,
    ) -> Rule:
        """Refuse with this status. With `upstream` it is the provider that fails, not the proxy."""
        said = answers.fail(status, retry_after_s=retry_after_s, message=message, upstream=upstream)
        return self.rule(said, **match)

    def script(self, items: Iterable[Says | str], **match: Any) -> Sequence[Rule]:
        """Answer the next requests with these, one after the other: texts, or what
        `tokenhub_proxy.testing` has as `reply`, `stream` and `fail`."""
        return [self.rule(answers.said(item), **{"times": 1, **match}) for item in items]

    def rule(
        self,
        says: Says,
        *,
        model: str | None = None,
        last: str | re.Pattern[str] | None = None,
        when: Predicate | None = None,
        times: int | None = None,
    ) -> Rule:
        """Answer requests for a `model` (a shell-style pattern), whose `last` message contains a
        text, or for which `when(request)` is true. Without any of them the next request is
        answered, once; with one, all that it fits, or `times` of them. The first rule that fits wins.
        """
        if times is None and model is None and last is None and when is None:
            times = 1
        rule = Rule(says, model, last, when, times)
        self._stage.rules.add(rule)
        return rule

    def model(
        self,
        name: str,
        *,
        dialect: str | Sequence[str] = (),
        upstream_model: str | None = None,
        price: tuple[Usd, Usd] | None = None,
    ) -> None:
        """Say how a model is served: by a provider of this dialect, or by several, one after the
        other; under another name there; at a price in USD per million tokens in and out.

        Without this every model is there: `claude*` at an Anthropic, `gemini*` at a Gemini, all
        others at an OpenAI, at their list price, or at 1 USD per million tokens.
        """
        dialects = (dialect,) if isinstance(dialect, str) else tuple(dialect)
        cost = None
        if price is not None:
            asked, said = (parse_usd(str(each)) for each in price)
            cost = Price(asked, asked, asked, said)
        routes = self._routes
        self._engine.call(_later(lambda: routes.declare(routes.route(name, dialects, upstream_model, cost))))

    def timeouts(self, *, first_byte_s: float | None = None, idle_s: float | None = None) -> None:
        """How long the proxy waits for a provider's first byte, and for each one after it."""
        given = {"first_byte_s": first_byte_s, "idle_s": idle_s}
        changed: Timeouts = replace(
            self._routes.timeouts, **{name: value for name, value in given.items() if value is not None}
        )
        self._engine.call(_later(lambda: self._routes.retime(changed)))

    # --- who may call

    def key(
        self,
        *,
        name: str | None = None,
        models: Iterable[str] | None = None,
        quota_usd: Usd | None = None,
        per: str = "total",
        balance_usd: Usd | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        concurrent: int | None = None,
        expires: str | None = None,
        ips: Iterable[str] | None = None,
    ) -> str:
        """A new key with these limits; gives its secret. With `balance_usd` a prepaid account pays."""
        name = name or f"key-{secrets.token_hex(4)}"
        asked: dict[str, Any] = {
            "name": name,
            "models": None if models is None else list(models),
            "ips": None if ips is None else list(ips),
            "quota": None if quota_usd is None else f"{quota_usd}/{per}",
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "concurrent": concurrent,
            "expires": expires,
            "account": None if balance_usd is None else name,
            "test": True,
        }
        return self._engine.call(self._minted(asked, balance_usd))

    async def _minted(self, asked: dict[str, Any], balance_usd: Usd | None) -> str:
        verbs = administration(self._proxy.relay, self._proxy.ledger).verbs
        if balance_usd is not None:
            await verbs["accounts create"]({"name": asked["name"]})
            if Decimal(balance_usd):
                await verbs["accounts credit"]({"name": asked["name"], "amount": str(balance_usd)})
        made = await verbs["keys create"](asked)
        return str(made["secret"])

    # --- what was seen

    @property
    def requests(self) -> Sequence[Request]:
        """Every request that went upstream, translated bodies included, in their order."""
        return tuple(self._stage.requests)

    @property
    def exchanges(self) -> Sequence[Exchange]:
        """The calls that have ended, refused ones included: status, usage, cost, attempts, error."""
        self._engine.call(self._ended())
        return tuple(self._seen.exchanges)

    @property
    def spent_usd(self) -> Decimal:
        """What all calls cost so far."""
        return Decimal(format_usd(sum(exchange.charge for exchange in self.exchanges)))

    @property
    def unmatched(self) -> list[str]:
        """Why requests found no answer. A test that leaves any fails; `clear()` forgives them."""
        return self._stage.misses

    def complaints(self) -> Sequence[str]:
        """What a test has to fail for: requests without an answer, a strict tape not played to its end."""
        found = list(self.unmatched)
        self.unmatched.clear()
        if self._strict and self._stage.tape is not None and (left := self._stage.tape.cassette.unplayed):
            asked = "; ".join(f"{ask.model} {ask.path}" for ask in left)
            found.append(f"{len(left)} recorded exchange(s) were not asked for: {asked}")
        return found

    @property
    def unused(self) -> Sequence[Rule]:
        """The rules that still wait for a request."""
        return self._stage.rules.unused

    def wait(self, timeout_s: float = ENDING_S) -> None:
        """Until no call is in flight, such as one whose client has just left.

        Raises TimeoutError.
        """
        self._engine.call(self._idle(timeout_s))

    def forget(self) -> None:
        """Forget rules, requests, exchanges and misses: for a proxy that several tests share."""
        self._stage.rules.clear()
        self._stage.requests.clear()
        self._stage.misses.clear()
        self._engine.call(self._ended())
        self._seen.exchanges.clear()

    async def _ended(self) -> None:
        """Until every call whose answer is complete has been told of."""
        in_flight = self._proxy.relay.in_flight
        async with asyncio.timeout(ENDING_S):
            while any(work is None or exchange.error is not None for exchange, work in in_flight.items()):
                await self._seen.another()

    async def _idle(self, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while self._proxy.relay.in_flight:
                await self._seen.another()

    @property
    def _routes(self) -> OpenRoutes:
        routes = self._proxy.relay.serving.routes
        assert isinstance(routes, OpenRoutes), "this test's models come from its config"
        return routes


async def _later(do: Any) -> None:
    """What changes the proxy is done on its own loop."""
    do()


def _fault(given: str | Fault | None) -> Fault | None:
    return faults.parse(given) if isinstance(given, str) else given


class Proxies:
    """The proxies of a test run, each started while the test before it runs."""

    def __init__(self) -> None:
        self._engine = Engine()
        self._spare: Future[Tokenhub] = self._submit(self._start())
        self._stopping: list[Future[None]] = []

    def take(self) -> Tokenhub:
        """A proxy with empty books that nobody has used."""
        found = self._spare.result()
        self._spare = self._submit(self._start())
        return found

    def give_back(self, tokenhub: Tokenhub) -> None:
        """Stop it, behind the back of the next test."""
        self._stopping = [future for future in self._stopping if not future.done() or future.result()]
        self._stopping.append(self._submit(tokenhub._proxy.stop(drain_s=0.0)))

    def close(self) -> None:
        """Stop everything."""
        self.give_back(self._spare.result())
        for future in self._stopping:
            future.result()
        self._engine.stop()

    def _submit(self, coroutine: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._engine.loop)

    async def _start(self) -> Tokenhub:
        secret = keys.mint(os.urandom(keys.RANDOM_BYTES))
        stage, seen = Stage(), Seen()
        proxy = await start(_config(secret), told=[seen], transports=lambda hop: stage)
        proxy.relay.serving = replace(proxy.relay.serving, routes=OpenRoutes())
        return Tokenhub(self._engine, proxy, stage, seen, secret)


def _config(secret: str) -> Config:
    """Books in memory, a free port, and one key that may do everything."""
    key = Key("config:test", "test", DEFAULT_ACCOUNT, keys.digest(secret), Scope(test=True), from_config=True)
    return Config(
        listen_host="127.0.0.1",
        listen_port=0,
        ledger_url="sqlite:///:memory:",
        body_max_bytes=BODY_MAX_BYTES,
        durability="process",
        trusted_proxies=Networks(()),
        upstreams={},
        routes={},
        accounts=(Account(DEFAULT_ACCOUNT, unlimited=True),),
        keys=(key,),
        cors_origins=("*",),
        log_format="off",
    )
