"""One exchange, start to end: who calls, what it may cost, who answers, what it did cost.

Read `_exchange` first: it is the table of contents of the whole proxy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from tokenhub_proxy import calls, faults, forwarding, inflate, keys, sse
from tokenhub_proxy.calls import Call, Endpoint
from tokenhub_proxy.dialects import Dialect, Reply
from tokenhub_proxy.errors import (
    IdempotencyConflict,
    InternalError,
    InvalidApiKey,
    InvalidRequest,
    IpNotAllowed,
    LedgerUnavailable,
    LoopDetected,
    ProxyError,
    ShuttingDown,
    UpstreamUnavailable,
)
from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.fallback import Answer, Fallback
from tokenhub_proxy.health import Health
from tokenhub_proxy.keys import Key, Networks
from tokenhub_proxy.ledger import REMEMBERED_S, Hold, Ledger
from tokenhub_proxy.ledger.holding import Held, holding
from tokenhub_proxy.limits import Admission, Limits
from tokenhub_proxy.prices import format_usd
from tokenhub_proxy.receipts import receipt_json
from tokenhub_proxy.routes import Route, Routes, Target
from tokenhub_proxy.watch import Watch
from tokenhub_proxy.wire import NO_HEADERS, Client, Incoming, RequestHeaders, Transport, crossing, lines_of

# Other doors that a credential can come through; a second one beside the bearer is refused.
OTHER_CREDENTIALS = ("x-api-key", "api-key", "x-goog-api-key")
# A UUID has 36 characters; a longer key than this is no name for a call.
IDEMPOTENCY_KEY_LENGTH_MAX = 255


@dataclass(frozen=True, slots=True)
class Serving:
    """What one config says about serving; a reload swaps the whole of it."""

    routes: Routes
    trusted_proxies: Networks
    body_max_bytes: int
    body_codings: tuple[str, ...] = ()  # compressed bodies that are taken
    keep_alive_s: float | None = None  # silence after which a stream's client gets a comment


class Relay:
    """Joins the key, the call, the route, the hold, the upstream and the client."""

    def __init__(
        self,
        *,
        serving: Serving,
        ledger: Ledger,
        limits: Limits,
        transport: Callable[[Target, Call], Transport],
        dialects: Mapping[str, Dialect],
        observers: Sequence[Callable[[Exchange], None]],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        fraction: Callable[[], float],
        request_id: Callable[[float], str],
        hop: str = "",
    ) -> None:
        """`hop` is what our own requests to upstreams carry in `Via`; seen here, it is a loop."""
        self.serving = serving
        self.ledger = ledger
        self.limits = limits
        # What each exchange is doing: waiting in its task, being pumped by an Incoming, or (None)
        # ending, which has deadlines of its own.
        self.in_flight: dict[Exchange, asyncio.Task[None] | Incoming | None] = {}
        self.leaving = False  # told by /readyz, so that balancers go elsewhere; all is served yet
        self.draining = False  # what is new is refused
        self.dialects = dialects
        self.health = Health()
        self.watch = Watch(monotonic)
        self.fallback = Fallback(
            transport, dialects, self.health, clock=clock, monotonic=monotonic, watch=self.watch
        )
        self._observers = observers
        self.clock = clock
        self.monotonic = monotonic
        self._fraction = fraction
        self._request_id = request_id
        self._hop = hop

    async def handle(self, client: Client, endpoint: Endpoint) -> None:
        """Serve one metered request, tell every refusal to the client, and every end to observers."""
        now = self.clock()
        exchange = Exchange(self._request_id(now), endpoint, now, self.monotonic(), client.peer)
        self.in_flight[exchange] = asyncio.current_task()
        refusal: ProxyError | None = None
        bug: Exception | None = None
        try:
            # Noted first, told below: where this is compiled (4 µs a call), nothing may wait in an `except`.
            try:
                await self._exchange(exchange, client)
            except ProxyError as error:
                refusal = error.with_traceback(None)  # which would hold this frame
            except asyncio.CancelledError:
                if not isinstance(exchange.error, ShuttingDown):
                    exchange.gone = exchange.gone or exchange.phase
                    raise
                _take_back_cancellation()
                refusal = exchange.error
            except Exception as unexpected:
                refusal, bug = InternalError(), unexpected
            if refusal is not None:
                await self._refuse(exchange, client, refusal)
            if bug is not None:
                raise bug
        finally:
            bug = None  # its traceback holds this frame
            exchange.close(self.monotonic(), client.bytes_out)
            del self.in_flight[exchange]
            for observe in self._observers:
                observe(exchange)

    async def _exchange(self, exchange: Exchange, client: Client) -> None:
        if self.draining:
            raise ShuttingDown
        serving, asked, special = self.serving, client.headers, client.special
        key = exchange.key = self.identify(client)
        if "via" in special:
            self._check_loop(client)
        coding = (
            inflate.request_coding(asked.get("Content-Encoding"), serving.body_codings) if special else None
        )
        raw = await client.body(serving.body_max_bytes)
        exchange.bytes_in = len(raw)  # as it was sent
        if coding is not None:
            raw = inflate.request_body(raw, coding, serving.body_max_bytes)
        call = exchange.call = parse(raw, exchange.endpoint, key, client)
        idempotency = idempotency_of(asked, exchange.endpoint, raw) if special else None
        del raw  # a stream may last an hour, and a body has megabytes
        if idempotency is not None and await self._replayed(exchange, client, call, key, idempotency):
            return
        route = serving.routes.find(call.model, key.scope)
        if route.defaults:
            call = exchange.call = calls.with_defaults(call, route.defaults)
        tokens = call.input_estimate(0) + (call.output_max or 0) * call.choices
        with self.limits.admit(key.id, key.scope, tokens, exchange.started_s) as admission:
            self.fallback.check(route)
            hold, output_max = self._hold(exchange, key, call, route, idempotency)
            answer: Answer | None = None
            with await holding(self.ledger, hold, self.clock) as held:
                try:
                    with await self.fallback.open(
                        exchange, route, call, output_max, self._fraction()
                    ) as answer:
                        reply = answer.reply
                        head = answer_head(exchange, admission, answer, output_max)
                        client.begin(reply.status, head)
                        if answer.opening:
                            client.write(answer.opening)
                            answer.opening = b""
                        if not answer.ended:
                            call.forget_body()
                            await self._forward(exchange, client, answer)
                except BaseException as error:
                    held.failure = error  # raised again once the hold is settled
                self.in_flight[exchange] = None
                self.watch.end(exchange)
                self._account(exchange, client, answer, route, held)
                admission.used(exchange.usage.total, self.monotonic())
            await held.settled()
            if not client.begun:
                head.append(f"x-tokenhub-cost-usd: {format_usd(exchange.charge)}")
            # The last bytes, [DONE] among them, are said only now that the books are durable.
            if exchange.error is None:
                await client.end(reply.close())
            else:
                await self._break_off(exchange, client, reply, exchange.error)

    def cut(self, error: Callable[[], ShuttingDown]) -> None:
        """End every exchange in flight: a stream with an error event, a waiting one with a 503."""
        for exchange, work in list(self.in_flight.items()):
            if isinstance(work, asyncio.Task):
                exchange.error = error()
                work.cancel()
            elif work is not None:
                work.cut(error())

    # --- the steps, in their order

    def identify(self, client: Client) -> Key:
        """Who calls. Raises InvalidApiKey, or IpNotAllowed."""
        digest = client.digest
        if digest is None:
            headers, others = client.headers, client.query_credentials
            if client.special:
                others = [*(name for name in OTHER_CREDENTIALS if headers.get(name)), *others]
            digest = client.digest = keys.digest(keys.bearer(headers.getall("Authorization", ()), others))
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

    def _check_loop(self, client: Client) -> None:
        if self._hop and any(self._hop in via for via in client.headers.getall("Via", ())):
            raise LoopDetected

    async def _replayed(
        self, exchange: Exchange, client: Client, call: Call, key: Key, idempotency: tuple[str, bytes]
    ) -> bool:
        """Tell how a call ended that had this Idempotency-Key before; it is not made, or paid, again.

        Answers are not kept, so what is told is the receipt: as the body of a whole answer, as an
        error event of a stream, which the official SDKs would else take for an empty success.
        """
        text, digest = idempotency
        known = self.ledger.remembered(key.id, text)
        if known is None or known.at < exchange.started_at - REMEMBERED_S:
            return False
        if known.digest != digest:
            raise InvalidRequest(
                "This Idempotency-Key was used with another body.", reason=f"idempotency {known.request_id}"
            )
        receipt = await self.ledger.receipt(known.request_id)
        if known.status == "held" or receipt is None or receipt.status == "held":
            raise IdempotencyConflict(
                f"A call with this Idempotency-Key is still running: {known.request_id}.",
                reason=f"idempotency {known.request_id}",
            )
        ended = IdempotencyConflict(
            f"The call with this Idempotency-Key has ended: see receipt {known.request_id}.",
            reason=f"idempotency {known.request_id}",
            should_retry=False,
        )
        exchange.notes["idem_replay"] = known.request_id
        if known.http_status != 200:
            raise ended
        exchange.status = known.http_status
        body, kind = receipt_json(receipt), "application/json"
        if call.stream:
            body, kind = sse.encode(ended.body(known.request_id)), "text/event-stream; charset=utf-8"
        lines = [f"content-type: {kind}", f"x-request-id: {exchange.id}", "x-tokenhub-replayed: true"]
        client.begin(exchange.status, lines)
        await client.end(body)
        return True

    def _hold(
        self, exchange: Exchange, key: Key, call: Call, route: Route, idempotency: tuple[str, bytes] | None
    ) -> tuple[Hold, int | None]:
        """The most that this call can cost, and the output limit to send with it, if any."""
        now, quota = exchange.started_at, key.scope.quota_nanos
        left = None if call.output_max is not None else self.left(key, now)  # what is stated is held
        amount, output_max = route.bound(call, left)
        window = None if quota is None else keys.period_name(key.name, key.scope.quota_per, now)
        hold = exchange.hold = Hold(
            exchange.id, key, route.model, amount, now, route.price, window, quota, call.stream, idempotency
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

    async def _forward(self, exchange: Exchange, client: Client, answer: Answer) -> None:
        """All but the ending, from the upstream's reads straight to the client's socket."""
        reply, incoming = answer.reply, answer.incoming
        incoming.headers = NO_HEADERS  # all that crosses has crossed
        client.source = self.in_flight[exchange] = incoming
        self.watch.follow(exchange, client, self.serving.keep_alive_s)
        try:
            if reply.done:
                incoming.linger(forwarding.LINGER_S)
            if await incoming.pump(forwarding.sink(reply, client, incoming)) and not reply.done:
                client.write(reply.feed(b""))
        except ProxyError as error:
            exchange.error = error  # it is told in the stream, after the books
        finally:
            client.source = None

    def _account(
        self, exchange: Exchange, client: Client, answer: Answer | None, route: Route, held: Held
    ) -> None:
        """Note how the hold ends: by what was produced, however we got here."""
        error, reply = held.failure, None
        if answer is not None:
            reply = answer.reply
            if answer.incoming.notes:
                exchange.notes.update(answer.incoming.notes)
        if error is None:
            if reply is not None and reply.finished:
                exchange.error = None  # whatever broke after the model had finished
            elif exchange.error is None:
                exchange.error = UpstreamUnavailable(
                    "The upstream ended its answer too early.", kind="no_finish", executed=True
                )
        elif isinstance(error, ProxyError):
            exchange.error = error
        elif isinstance(error, asyncio.CancelledError) and not isinstance(exchange.error, ShuttingDown):
            exchange.gone = "write_timeout" if client.stalled else exchange.phase
        elif isinstance(error, Exception):
            exchange.error = InternalError()
        produced = reply is not None and (reply.begun or reply.finished)
        if reply is not None and produced:
            exchange.usage = reply.usage
            exchange.pay(route.price.cost(exchange.usage))
            exchange.status = reply.status
            if reply.notes:
                exchange.notes.update(reply.notes)
        held.hold.end(exchange.ending(produced, self.clock()))

    async def _break_off(self, exchange: Exchange, client: Client, reply: Reply, error: ProxyError) -> None:
        """Say that the answer is not whole: a refusal where nothing was said yet."""
        last = reply.close(error, exchange.id)
        exchange.notes.update(reply.notes, truncated=1)
        if not client.begun:
            raise error
        await client.abort(last)

    async def _refuse(self, exchange: Exchange, client: Client, error: ProxyError) -> None:
        exchange.error = error
        if client.begun:
            await client.abort(b"")  # the books failed us after the first byte
            return
        exchange.status = error.http_status
        if exchange.upstream and isinstance(error, (LedgerUnavailable, ShuttingDown)):
            error.should_retry = False  # the upstream may have done the work
        lines = ["content-type: application/json", f"x-request-id: {exchange.id}"]
        client.begin(error.http_status, lines + lines_of(error.headers()))
        await client.end(error.body(exchange.id))


def _take_back_cancellation() -> None:
    task = asyncio.current_task()
    assert task is not None, "an exchange runs in a task"
    task.uncancel()


def parse(raw: bytes, endpoint: str, key: Key, client: Client) -> Call:
    """The client's body as a Call."""
    strict, fault = False, None
    if client.special:
        strict = client.headers.get("x-tokenhub-strict") == "1"
        fault = faults.asked(client.headers.get(faults.HEADER), key.scope.test)
    return calls.parse(
        raw,
        "embeddings" if endpoint == "embeddings" else "chat",
        content_type=client.headers.get("Content-Type") or "",
        owner=key.account,
        strict=strict,
        fault=fault,
    )


def idempotency_of(headers: RequestHeaders, endpoint: str, raw: bytes) -> tuple[str, bytes] | None:
    """The client's Idempotency-Key, and its endpoint and body, which it stands for; None for an empty one."""
    text = headers.get("Idempotency-Key")
    if not text:
        return None
    if len(text) > IDEMPOTENCY_KEY_LENGTH_MAX or not (text.isascii() and text.isprintable()):
        raise InvalidRequest(
            f"Idempotency-Key must be printable ASCII and at most {IDEMPOTENCY_KEY_LENGTH_MAX} characters.",
            param="Idempotency-Key",
        )
    return text, sha256(endpoint.encode() + b"\n" + raw).digest()


def answer_head(
    exchange: Exchange, admission: Admission, answer: Answer, output_max: int | None
) -> list[str]:
    """The head of a good answer: ours, the key's standing, and what crosses from the upstream."""
    lines = [f"x-request-id: {exchange.id}", *admission.lines()]
    for name, value in answer.reply.headers.items():
        lines.append(f"{name}: {value}")
    for name, value in crossing(answer.incoming.headers):
        lines.append(f"{name}: {value}")
    if answer.dropped:
        lines.append(f"x-tokenhub-dropped: {', '.join(answer.dropped)}")
    if output_max is not None:
        lines.append(f"x-tokenhub-output-max: {output_max}")
    return lines
