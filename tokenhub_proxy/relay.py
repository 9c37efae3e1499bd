"""One exchange, start to end: who calls, what it may cost, who answers, what it did cost.

Read `_exchange` first: it is the table of contents of the whole proxy.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from tokenhub_proxy import calls, keys
from tokenhub_proxy.calls import Call, Endpoint
from tokenhub_proxy.dialects import Asking, Dialect, Reply
from tokenhub_proxy.errors import (
    InternalError,
    InvalidApiKey,
    InvalidRequest,
    IpNotAllowed,
    LedgerUnavailable,
    ProxyError,
    ShuttingDown,
    UpstreamUnavailable,
)
from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.keys import Key, Networks
from tokenhub_proxy.ledger import Hold, Ledger, holding
from tokenhub_proxy.limits import Admission, Limits
from tokenhub_proxy.prices import format_usd
from tokenhub_proxy.routes import OUTPUT_MAX_ASSUMED, Route, Routes, Target
from tokenhub_proxy.wire import HOLD, Client, Incoming, RequestHeaders, Transport, crossing

# After [DONE] an upstream gets so long to end its body, so that the connection can be kept.
LINGER_S = 2.0
# Other doors that a credential can come through; a second one beside the bearer is refused.
OTHER_CREDENTIALS = ("x-api-key", "api-key", "x-goog-api-key")


@dataclass(frozen=True, slots=True)
class Serving:
    """What one config says about serving; a reload swaps the whole of it."""

    routes: Routes
    trusted_proxies: Networks
    body_max_bytes: int


@dataclass(slots=True)
class Answer:
    """An upstream that has begun to answer: `opening` is what it said first."""

    target: Target
    incoming: Incoming
    reply: Reply
    opening: bytes
    ended: bool
    dropped: tuple[str, ...]


class Relay:
    """Joins the key, the call, the route, the hold, the upstream and the client."""

    def __init__(
        self,
        *,
        serving: Serving,
        ledger: Ledger,
        limits: Limits,
        transport: Callable[[Target], Transport],
        dialects: Mapping[str, Dialect],
        observers: Sequence[Callable[[Exchange], None]],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        fraction: Callable[[], float],
        request_id: Callable[[float], str],
    ) -> None:
        self.serving = serving
        self.ledger = ledger
        self.limits = limits
        # What each exchange is doing: waiting in its task, or being pumped by an Incoming.
        self.in_flight: dict[Exchange, asyncio.Task[None] | Incoming] = {}
        self.draining = False
        self._transport = transport
        self.dialects = dialects
        self._observers = observers
        self.clock = clock
        self.monotonic = monotonic
        self._fraction = fraction
        self._request_id = request_id

    async def handle(self, client: Client, endpoint: Endpoint) -> None:
        """Serve one metered request, tell every refusal to the client, and every end to observers."""
        now = self.clock()
        exchange = Exchange(self._request_id(now), endpoint, now, self.monotonic(), client.peer)
        task = asyncio.current_task()
        assert task is not None, "an exchange runs in a task"
        self.in_flight[exchange] = task
        try:
            await self._exchange(exchange, client)
        except ProxyError as error:
            await self._refuse(exchange, client, error)
        except asyncio.CancelledError:
            if not isinstance(exchange.error, ShuttingDown):
                exchange.gone = exchange.gone or "read"
                raise
            task.uncancel()
            await self._refuse(exchange, client, exchange.error)
        except Exception:
            await self._refuse(exchange, client, InternalError())
            raise
        finally:
            exchange.ended_s = self.monotonic()
            exchange.bytes_out = client.bytes_out
            del self.in_flight[exchange]
            for observe in self._observers:
                observe(exchange)

    async def _exchange(self, exchange: Exchange, client: Client) -> None:
        if self.draining:
            raise ShuttingDown
        serving = self.serving
        key = exchange.key = self.identify(client)
        raw = await client.body(serving.body_max_bytes)
        exchange.bytes_in = len(raw)
        call = exchange.call = parse(raw, exchange.endpoint, key, client.headers)
        route = serving.routes.find(call.model, key.scope)
        call = exchange.call = calls.with_defaults(call, route.defaults)
        with self._admit(key, call, exchange) as admission:
            hold, output_max = self._hold(exchange, key, call, route)
            reply: Reply | None = None
            async with holding(self.ledger, hold, self.clock), AsyncExitStack() as upstream:
                exchange.hold = hold
                try:
                    answer = await self._open(upstream, exchange, route, call, output_max)
                    reply = answer.reply
                    headers = answer_headers(exchange, admission, answer, output_max)
                    client.begin(reply.status, headers)
                    await self._pump(exchange, client, answer)
                finally:
                    self._account(exchange, reply, route, hold)
                    admission.used(exchange.usage.total, self.monotonic())
            if not client.begun:
                headers["x-tokenhub-cost-usd"] = format_usd(exchange.cost)
            # The last bytes, [DONE] among them, are said only now that the books are durable.
            await self._end(exchange, client, reply)

    def cut(self, error: Callable[[], ShuttingDown]) -> None:
        """End every exchange in flight: a stream with an error event, a waiting one with a 503."""
        for exchange, work in list(self.in_flight.items()):
            if isinstance(work, asyncio.Task):
                exchange.error = error()
                work.cancel()
            else:
                work.cut(error())

    # --- the steps, in their order

    def identify(self, client: Client) -> Key:
        """Who calls. Raises InvalidApiKey, or IpNotAllowed."""
        others = [name for name in OTHER_CREDENTIALS if client.headers.get(name)]
        secret = keys.bearer(client.headers.getall("Authorization", ()), (*others, *client.query_credentials))
        digest = keys.digest(secret)
        key = self.ledger.find_key(digest)
        if key is None:
            raise InvalidApiKey("unknown")
        if not key.works(digest, self.clock()):
            raise InvalidApiKey("revoked" if key.revoked_at is not None else "expired")
        if key.scope.ips:
            forwarded = client.headers.getall("X-Forwarded-For", ())
            address = keys.client_address(client.peer, forwarded, self.serving.trusted_proxies)
            if address is None or address not in keys.networks(key.scope.ips):
                raise IpNotAllowed("This key may not be used from your address.", reason=client.peer)
        return key

    def _admit(self, key: Key, call: Call, exchange: Exchange) -> Admission:
        tokens = call.input_estimate(0) + (call.output_max or 0) * call.choices
        return self.limits.admit(key.id, key.scope, tokens, exchange.started_s)

    def _hold(self, exchange: Exchange, key: Key, call: Call, route: Route) -> tuple[Hold, int | None]:
        """The most that this call can cost, and the output limit to send with it, if any."""
        now, quota = exchange.started_at, key.scope.quota_nanos
        amount, output_max = route.bound(call, self.left(key, now))
        hold = Hold(
            request_id=exchange.id,
            key=key,
            model=route.model,
            amount=amount,
            at=now,
            price=route.price,
            window=None if quota is None else keys.period_name(key.name, key.scope.quota_per, now),
            window_limit=quota,
            stream=call.stream,
        )
        return hold, output_max

    def left(self, key: Key, now: float) -> int | None:
        """Nanodollars that the account and the key's window can still hold; None without a limit."""
        account = self.ledger.account(key.account)
        left = account.available if account is not None else 0
        quota = key.scope.quota_nanos
        if quota is not None:
            used = self.ledger.window(keys.period_name(key.name, key.scope.quota_per, now))
            in_window = quota - used.posted - used.held
            left = in_window if left is None else min(left, in_window)
        return left

    async def _open(
        self,
        upstream: AsyncExitStack,
        exchange: Exchange,
        route: Route,
        call: Call,
        output_max: int | None,
    ) -> Answer:
        """The first target that begins to answer. Fallback lives here, and only here."""
        failure: ProxyError | None = None
        for target in route.order(self._fraction()):
            try:
                return await self._ask(upstream, exchange, target, route, call, output_max)
            except UpstreamUnavailable as error:
                exchange.attempts.append(f"{target.upstream.name}:{error.upstream_status or error.kind}")
                failure = worse(failure, error)
            except Unsayable as unsayable:
                exchange.attempts.append(f"{target.upstream.name}:{unsayable.refusal.param or 'refused'}")
                failure = failure or unsayable.refusal
        assert failure is not None, "a route has at least one target"
        raise failure

    async def _ask(
        self,
        upstream: AsyncExitStack,
        exchange: Exchange,
        target: Target,
        route: Route,
        call: Call,
        output_max: int | None,
    ) -> Answer:
        """Ask one target and wait until it has said something that can be committed."""
        dialect = self.dialects[target.upstream.dialect]
        credentials = target.upstream.credentials
        asking = Asking(
            target=target,
            credential=credentials[0] if credentials else None,
            at_s=self.clock(),
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
        exchange.first_byte_s = self.monotonic()
        exchange.attempts.append(f"{target.upstream.name}:{incoming.status}")
        return Answer(target, incoming, reply, opening.said, ended, outgoing.dropped)

    async def _pump(self, exchange: Exchange, client: Client, answer: Answer) -> None:
        """All but the ending, from the upstream's reads straight to the client's socket."""
        reply, incoming = answer.reply, answer.incoming
        if answer.opening:
            client.write(answer.opening)
        if answer.ended:
            return
        client.source = self.in_flight[exchange] = incoming
        try:
            if reply.done:
                incoming.linger(LINGER_S)
            if await incoming.pump(partial(forward, reply, client, incoming)) and not reply.done:
                client.write(reply.feed(b""))
        except ProxyError as error:
            exchange.error = error  # it is told in the stream, after the books
        finally:
            client.source = None

    def _account(self, exchange: Exchange, reply: Reply | None, route: Route, hold: Hold) -> None:
        """Note how the hold ends: by what was produced, however we got here."""
        error = sys.exc_info()[1]
        if isinstance(error, ProxyError):
            exchange.error = error
        elif isinstance(error, asyncio.CancelledError):
            exchange.gone = "ttfb" if reply is None else "stream"
            if isinstance(exchange.error, ShuttingDown):
                exchange.gone = ""
        produced = reply is not None and (reply.begun or reply.finished)
        if reply is not None and produced:
            exchange.usage = reply.usage
            exchange.cost = route.price.cost(exchange.usage)
            exchange.status = reply.status
            exchange.notes.update(reply.notes)
        hold.end(exchange.ending(produced, self.clock()))

    async def _end(self, exchange: Exchange, client: Client, reply: Reply) -> None:
        if reply.finished:
            exchange.error = None  # whatever broke after the model had finished
            await client.end(reply.close())
            return
        error = exchange.error or UpstreamUnavailable(
            "The upstream ended its answer too early.", kind="no_finish", executed=True
        )
        exchange.error = error
        exchange.notes["truncated"] = 1
        await client.abort(reply.close(error, exchange.id))

    async def _refuse(self, exchange: Exchange, client: Client, error: ProxyError) -> None:
        exchange.error = error
        exchange.status = error.http_status
        if client.begun:
            await client.abort(b"")  # the books failed us after the first byte
            return
        if isinstance(error, LedgerUnavailable) and exchange.first_byte_s is not None:
            error.should_retry = False  # the upstream has done the work
        headers = {"content-type": "application/json", "x-request-id": exchange.id, **error.headers()}
        client.begin(error.http_status, headers)
        await client.end(error.body(exchange.id))


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


def forward(reply: Reply, client: Client, incoming: Incoming, data: bytes) -> None:
    """The sink of a stream: one read of the upstream, one write to the client."""
    said = reply.feed(data)
    if said:
        client.write(said)
    if reply.done:
        incoming.linger(LINGER_S)


def parse(raw: bytes, endpoint: str, key: Key, headers: RequestHeaders) -> Call:
    """The client's body as a Call."""
    return calls.parse(
        raw,
        "embeddings" if endpoint == "embeddings" else "chat",
        content_type=headers.get("Content-Type") or "",
        owner=key.account,
        strict=headers.get("x-tokenhub-strict") == "1",
    )


def worse(first: ProxyError | None, second: UpstreamUnavailable) -> UpstreamUnavailable:
    """What to tell when several targets failed: the last failure, and the soonest retry."""
    if not isinstance(first, UpstreamUnavailable):
        return second
    waits = [wait for wait in (first.retry_after_s, second.retry_after_s) if wait is not None]
    second.retry_after_s = min(waits, default=None)
    if first.executed:
        second.executed, second.should_retry = True, False
    return second


def answer_headers(
    exchange: Exchange, admission: Admission, answer: Answer, output_max: int | None
) -> MutableMapping[str, str]:
    """The head of a good answer: ours, the key's standing, and what crosses from the upstream."""
    headers = {
        **answer.reply.headers,
        "x-request-id": exchange.id,
        **admission.headers(),
        **dict(crossing(answer.incoming.headers)),
    }
    if answer.dropped:
        headers["x-tokenhub-dropped"] = ", ".join(answer.dropped)
    if output_max is not None:
        headers["x-tokenhub-output-max"] = str(output_max)
    return headers
