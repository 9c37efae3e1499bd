"""The targets of a route, asked one after the other until one begins to answer."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking, Dialect, Reply
from tokenhub_proxy.errors import InvalidRequest, ProxyError, UpstreamUnavailable
from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.routes import OUTPUT_MAX_ASSUMED, Route, Target, Upstream
from tokenhub_proxy.wire import HOLD, Incoming, Transport

# What an upstream says of one credential: another one of the same upstream may be better off.
CREDENTIAL_STATUSES = frozenset({401, 402, 403, 429})


@dataclass(slots=True)
class Answer:
    """An upstream that has begun to answer: `opening` is what it said first."""

    target: Target
    incoming: Incoming
    reply: Reply
    opening: bytes
    ended: bool
    dropped: tuple[str, ...]


class Fallback:
    """Finds the first target that begins to answer. Fallback lives here, and only here."""

    def __init__(
        self,
        transport: Callable[[Target], Transport],
        dialects: Mapping[str, Dialect],
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._transport = transport
        self._dialects = dialects
        self._clock = clock
        self._monotonic = monotonic
        self._turns: Counter[str] = Counter()  # by the upstream's name: how often it was asked

    async def open(
        self,
        upstream: AsyncExitStack,
        exchange: Exchange,
        route: Route,
        call: Call,
        output_max: int | None,
        fraction: float,
    ) -> Answer:
        """The answer of the first target that begins one; `upstream` closes it.

        Raises the upstream's own refusal of the request at once, and the failure of the last
        target when all have failed.
        """
        failure: ProxyError | None = None
        for target in route.order(fraction):
            for credential in self._in_turn(target.upstream):
                try:
                    return await self._ask(upstream, exchange, target, credential, route, call, output_max)
                except Unsayable as unsayable:
                    exchange.attempts.append(f"{target.upstream.name}:{unsayable.refusal.param or 'refused'}")
                    failure = failure or unsayable.refusal
                    break
                except UpstreamUnavailable as error:
                    exchange.attempts.append(f"{target.upstream.name}:{error.upstream_status or error.kind}")
                    failure = worse(failure, error)
                    if error.upstream_status not in CREDENTIAL_STATUSES:
                        break
                except ProxyError as refusal:
                    outcome = refusal.reason.removeprefix("upstream_status=") or refusal.code
                    exchange.attempts.append(f"{target.upstream.name}:{outcome}")
                    if isinstance(failure, UpstreamUnavailable) and failure.executed:
                        refusal.should_retry = False
                    raise
        assert failure is not None, "a route has at least one target"
        raise failure

    def _in_turn(self, upstream: Upstream) -> Sequence[str | None]:
        """All credentials of an upstream, another one first each time."""
        credentials = upstream.credentials
        if len(credentials) < 2:
            return credentials or (None,)
        first = self._turns[upstream.name] % len(credentials)
        self._turns[upstream.name] += 1
        return credentials[first:] + credentials[:first]

    async def _ask(
        self,
        upstream: AsyncExitStack,
        exchange: Exchange,
        target: Target,
        credential: str | None,
        route: Route,
        call: Call,
        output_max: int | None,
    ) -> Answer:
        """Ask one target and wait until it has said something that can be committed."""
        dialect = self._dialects[target.upstream.dialect]
        asking = Asking(
            target=target,
            credential=credential,
            at_s=self._clock(),
            output_max=output_max,
            output_default=route.output_max or OUTPUT_MAX_ASSUMED,
        )
        try:
            target.check(call)
            outgoing = dialect.request(call, asking)
        except InvalidRequest as refusal:
            raise Unsayable(refusal) from None
        exchange.upstream, exchange.upstream_model = target.upstream.name, target.model
        context = self._transport(target).send(outgoing)
        incoming = await context.__aenter__()
        try:
            reply = dialect.reply(call, asking, incoming.status, incoming.headers)
            opening = Opening(reply)
            ended = await incoming.pump(opening)
            if ended:
                opening(b"")
        except BaseException:
            await context.__aexit__(*sys.exc_info())
            raise
        upstream.push_async_exit(context)
        exchange.first_byte_s = self._monotonic()
        exchange.attempts.append(f"{target.upstream.name}:{incoming.status}")
        return Answer(target, incoming, reply, opening.said, ended, outgoing.dropped)


class Unsayable(Exception):
    """One target can't be told this call; another one may."""

    def __init__(self, refusal: InvalidRequest) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Opening:
    """The sink until the reply says its first bytes."""

    __slots__ = ("_reply", "said")

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.said = b""

    def __call__(self, data: bytes) -> bool | None:
        self.said += self._reply.feed(data)
        return HOLD if self.said or self._reply.done else None


def worse(first: ProxyError | None, second: UpstreamUnavailable) -> UpstreamUnavailable:
    """What to tell when several targets failed: the last failure, and the soonest retry."""
    if not isinstance(first, UpstreamUnavailable):
        return second
    waits = [wait for wait in (first.retry_after_s, second.retry_after_s) if wait is not None]
    second.retry_after_s = min(waits, default=None)
    if first.executed:
        second.executed, second.should_retry = True, False
    return second
