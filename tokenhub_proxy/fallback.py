"""The targets of a route, asked one after the other until one begins to answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking, Dialect, Reply
from tokenhub_proxy.dialects.inflated import plain
from tokenhub_proxy.errors import InvalidRequest, ProxyError, UpstreamUnavailable
from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.health import CREDENTIAL_STATUSES, Health
from tokenhub_proxy.routes import OUTPUT_MAX_ASSUMED, Route, Target
from tokenhub_proxy.watch import Watch
from tokenhub_proxy.wire import HOLD, Incoming, Sending, Transport


class Answer:
    """An upstream that has begun to answer: `opening` is what it said first.

    Leaving its block gives the connection back.
    """

    __slots__ = ("_connection", "dropped", "ended", "incoming", "opening", "reply")

    def __init__(
        self,
        connection: Sending,
        incoming: Incoming,
        reply: Reply,
        dropped: tuple[str, ...],
    ) -> None:
        self._connection = connection
        self.incoming = incoming
        self.reply = reply
        self.opening = b""
        self.ended = False
        self.dropped = dropped

    def take(self, data: bytes) -> bool | None:
        """The sink until the reply has said something that can be committed."""
        reply = self.reply
        self.opening = opening = self.opening + reply.feed(data)
        return HOLD if opening or reply.done else None

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close(error)


class Fallback:
    """Finds the first target that begins to answer. Fallback lives here, and only here."""

    def __init__(
        self,
        transport: Callable[[Target, Call], Transport],
        dialects: Mapping[str, Dialect],
        health: Health,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        watch: Watch,
    ) -> None:
        self._transport = transport
        self._dialects = dialects
        self._health = health
        self._clock = clock
        self._monotonic = monotonic
        self._watch = watch

    async def open(
        self, exchange: Exchange, route: Route, call: Call, output_max: int | None, fraction: float
    ) -> Answer:
        """The answer of the first target that begins one.

        Raises the upstream's own refusal of the request at once, and the failure of the last
        target when all have failed.
        """
        failure: ProxyError | None = None
        for target in route.order(fraction):
            now_s = self._monotonic()
            down = None if self._health.well(now_s) else self._down(target, now_s)
            if down is not None:
                exchange.attempts.append(f"{target.upstream.name}:{down.kind}")
                failure = worse(failure, down)
                continue
            for _ in target.upstream.credentials or (None,):  # each at most once
                credential = self._health.credential(target.upstream, now_s)
                try:
                    return await self._ask(exchange, target, credential, route, call, output_max)
                except Unsayable as unsayable:
                    exchange.attempts.append(f"{target.upstream.name}:{unsayable.refusal.param or 'refused'}")
                    failure = failure or unsayable.refusal
                    break
                except UpstreamUnavailable as error:
                    now_s = self._monotonic()
                    self._health.failed(target, credential, error, now_s)
                    outcome = error.upstream_status if error.reason == "status" else error.reason
                    exchange.attempts.append(f"{target.upstream.name}:{outcome}")
                    failure = worse(failure, error)
                    if not self._another_may_do(target, error):
                        break
                except ProxyError as refusal:
                    said = refusal.reason.removeprefix("upstream_status=") or refusal.code
                    exchange.attempts.append(f"{target.upstream.name}:{said}")
                    if isinstance(failure, UpstreamUnavailable) and failure.executed:
                        refusal.should_retry = False
                    raise
        assert failure is not None, "a route has at least one target"
        raise failure

    def check(self, route: Route) -> None:
        """Raise UpstreamUnavailable where no target is worth asking now: nothing is held for that."""
        now_s = self._monotonic()
        if self._health.well(now_s):
            return
        failure: UpstreamUnavailable | None = None
        for target in route.targets:
            down = self._down(target, now_s)
            if down is None:
                return
            failure = worse(failure, down)
        if failure is not None:
            raise failure

    def _down(self, target: Target, now_s: float) -> UpstreamUnavailable | None:
        wait_s = self._health.wait_s(target, now_s)
        return UpstreamUnavailable(kind="breaker", retry_after_s=wait_s) if wait_s > 0 else None

    def _another_may_do(self, target: Target, error: UpstreamUnavailable) -> bool:
        """True when the failure was one credential's, and the upstream has one that is not cooling down."""
        if error.upstream_status not in CREDENTIAL_STATUSES:
            return False
        return self._health.spare(target.upstream, self._monotonic())

    async def _ask(
        self,
        exchange: Exchange,
        target: Target,
        credential: str | None,
        route: Route,
        call: Call,
        output_max: int | None,
    ) -> Answer:
        """Ask one target and wait until it has said something that can be committed."""
        upstream = target.upstream
        dialect = self._dialects[upstream.dialect]
        output_default = route.output_max or OUTPUT_MAX_ASSUMED
        asking = Asking(target, credential, self._clock(), output_max, output_default)
        try:
            if call.scope_fields:
                target.check(call)
            outgoing = dialect.request(call, asking)
        except InvalidRequest as refusal:
            raise Unsayable(refusal) from None
        exchange.upstream, exchange.upstream_model = upstream.name, target.model
        breaker = self._health.breaker(target)
        breaker.ask()
        try:
            connection = self._transport(target, call).send(outgoing)
            incoming = await connection.__aenter__()
            try:
                status, headers = incoming.status, incoming.headers
                reply = dialect.reply(call, asking, status, headers)
                if "content-encoding" in headers:
                    reply = plain(reply, headers)
                if not incoming.complete:
                    self._watch.begin(exchange, incoming, reply, upstream.timeouts.progress_s)
                answer = Answer(connection, incoming, reply, outgoing.dropped)
                answer.ended = await incoming.pump(answer.take)
                if answer.ended:
                    answer.take(b"")
            except BaseException as error:
                connection.close(error)
                raise
        except UpstreamUnavailable:
            raise
        except ProxyError:
            breaker.succeeded()  # it answered: the fault is the request's
            raise
        except BaseException:
            breaker.left()
            raise
        breaker.succeeded()
        exchange.first_byte_s = self._monotonic()
        exchange.attempts.append(f"{upstream.name}:{status}")
        return answer


class Unsayable(Exception):
    """One target can't be told this call; another one may."""

    def __init__(self, refusal: InvalidRequest) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def worse(first: ProxyError | None, second: UpstreamUnavailable) -> UpstreamUnavailable:
    """What to tell when several targets failed: the last failure, and the soonest retry."""
    if not isinstance(first, UpstreamUnavailable):
        return second
    waits = [wait for wait in (first.retry_after_s, second.retry_after_s) if wait is not None]
    second.retry_after_s = min(waits, default=None)
    if first.executed:
        second.executed, second.should_retry = True, False
    return second
