"""One HTTP/1.1 connection to an upstream: requests out, and the answers' heads and bodies in."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import ClassVar, Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.outbox import Outbox, descriptor
from tokenhub_proxy.transports import chunks
from tokenhub_proxy.transports.fields import (
    HEAD_BYTES_MAX,
    HEADER_BYTES_MAX,
    HEADERS_MAX,
    KNOWN,
    lower,
    too_big,
)
from tokenhub_proxy.transports.rounds import READ, Readable, Rounds
from tokenhub_proxy.wire import NO_HEADERS, Sink

# What waits for the first `pump`, for the answer began while the caller was deciding; and one read more.
BUFFER_BYTES_MAX: Final = 256 * 1024
_BUFFERS: dict[int, memoryview] = defaultdict(lambda: READ)  # for reads of any size

Lost = Callable[["Connection"], None]


class _PerChunk(Readable):
    """What each chunk looks at: side by side, for a stream's memory is cold when its chunk comes."""

    __slots__ = ("_at_chunk", "_held", "_sink", "heard")

    _at_chunk: bool  # the parser waits for the size of a chunk, as far as we know
    _held: bool  # by the sink, or because the buffer is full
    _sink: Sink | None
    heard: bool  # something has come since `silent_s` was asked


class Connection(_PerChunk, asyncio.BufferedProtocol):
    """Carries one exchange at a time: `begin`, `pump` until the end, `rest`; then the next.

    The waits are wake-ups only: whoever is woken looks at `failure`, `head_done` and `complete`.
    So a cancelled waiter leaves no exception behind that nobody retrieves.
    """

    __slots__ = (
        "_body_end", "_buffer", "_buffered", "_chunked", "_clock", "_fault", "_heard_s", "_interim", "_keep",
        "_loop", "_lost", "_on_lost", "_outbox", "_overhead", "_parser", "_paused", "_pieces", "_raw_headers",
        "_surplus", "_told_lost", "_until_eof", "_waiter", "complete", "failure", "head_done", "headers",
        "idle_since_s", "on_body", "on_header", "reading", "reused", "status",
    )  # fmt: skip

    def __init__(self, clock: Callable[[], float], on_lost: Lost, outbox: Outbox | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._clock = clock
        self._outbox = outbox or Outbox(loop.call_soon)  # one for all connections of a loop
        self._on_lost = on_lost
        self._loop = loop
        self._rounds = None
        self._lost = False
        self._told_lost: asyncio.Future[None] | None = None  # once somebody waits for it
        self._waiter: asyncio.Future[None] | None = None
        # Kept from one exchange to the next; None before the first, and after one that ended badly.
        self._parser: HttpResponseParser | None = None
        self.reused = False
        self.idle_since_s = 0.0
        self.reading = True
        # The parser hands body bytes straight to this list: C calls C, no frame for each piece.
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self._raw_headers: dict[bytes, bytes] = {}  # the parser writes there itself, too
        self.on_header = self._raw_headers.__setitem__
        self._buffer: list[bytes] = []
        self.status = 0
        self.headers = NO_HEADERS
        self.failure: Exception | None = None
        self._heard_s = 0.0
        self._at_chunk = False
        self._sink = None
        self._paused = False  # by the client, who can't keep up
        self._held = False
        self._interim = False
        self._until_eof = False
        self._keep = False
        self._surplus = False
        self._fault = "protocol"  # what a parser error means; the head's limits set it to "headers"
        self._body_end = 0
        self._reset()

    def _reset(self) -> None:
        """What one exchange that ended well leaves behind for the next; one that did not is the last."""
        self.head_done = False
        self.complete = False
        self.heard = True  # noting when would cost a look at the clock
        self._chunked = False
        self._overhead = 0
        self._buffered = 0
        self._raw_headers.clear()

    # The exchange, in the order of its calls

    def usable(self) -> bool:
        """False once the connection is closing."""
        return not self._transport.is_closing()

    @property
    def streaming(self) -> bool:
        """An answer is being read, and came in single events up to now."""
        return self._at_chunk and self._sink is not None and self.reading and not self.complete

    def silent_s(self) -> float:
        """How long nothing has come, or nobody listened, to within the time between two calls."""
        now_s = self._clock()
        if self.heard:
            self.heard = False
            self._heard_s = now_s
        return now_s - self._heard_s

    def begin(self, head: bytes, body: bytes) -> asyncio.Future[None]:
        """Write a request. What it returns is done when the answer's head is there, or a failure."""
        self._reset()
        self._waiter = waiter = self._loop.create_future()
        if self._transport.is_closing():  # it died in the moment between two callbacks
            self._break(UpstreamUnavailable(kind="disconnected"))
            return waiter
        if self._parser is None:
            self._parser = HttpResponseParser(self)
        self._outbox.write(self._transport, self._descriptor, head, body)
        return waiter

    async def pump(self, sink: Sink, rounds: Rounds | None = None) -> bool:
        """What `wire.Incoming.pump` promises; a stream that a sink has held goes on in these rounds."""
        begun = self._held
        if self._buffer:
            data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
            self._buffer.clear()
            self._buffered = 0
            self._push(sink, data)
        else:
            self._held = False
        if not (self._held or self.complete or self.failure):
            self._sink = sink
            self._regulate()
            if begun and rounds is not None and self.streaming:
                self.join_rounds(rounds)
            self._waiter = waiter = self._loop.create_future()
            try:
                await waiter
            finally:
                self._sink = None
        if self._held:  # said before whatever came after it
            return False
        if self.failure is not None:
            raise self.failure
        return True

    def pause(self, paused: bool) -> None:
        """Stop reading because the client can't keep up, or read on."""
        self._paused = paused
        self._regulate()

    def fail(self, kind: str) -> None:
        """Break the exchange off: the request has been written, so it may have been executed."""
        self._break(UpstreamUnavailable(kind=kind, executed=True))

    def cut(self, error: Exception) -> None:
        """Break the exchange off with the caller's own error."""
        self._break(error)

    def hold(self) -> None:
        """Let `pump` return as if its sink had said HOLD."""
        self._held = True
        self._regulate()
        self._wake()

    def rest(self) -> bool:
        """End the exchange. True when the connection may serve another; else it is closed."""
        self.leave_rounds()
        transport = self._transport
        clean = (
            self.complete
            and self._keep
            and not self._surplus
            and self.failure is None
            and not transport.is_closing()
            # The upstream answered without reading all of the request.
            and transport.get_write_buffer_size() == 0
        )
        self._buffer.clear()
        if clean:
            self._paused = self._held = False
            if not self.reading:
                self._regulate()
            self.reused = True
        else:
            self._parser = None
            self.failure = None  # its traceback holds this connection
            self.close()
        return clean

    def close(self) -> None:
        """Close at once, whatever is under way."""
        self.leave_rounds()
        # asyncio's transports fail on `abort` after the connection is lost.
        if not self._lost:
            self._transport.abort()

    def lost(self) -> asyncio.Future[None]:
        """Done when the connection is closed, and its socket with it."""
        if self._told_lost is None:
            self._told_lost = self._loop.create_future()
            if self._lost:
                self._told_lost.set_result(None)
        return self._told_lost

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._descriptor = descriptor(self._transport)

    # Called before each read, always with the same size: C calls C, and looks at nothing of the stream.
    get_buffer: ClassVar[Callable[[int], memoryview]] = _BUFFERS.__getitem__  # type: ignore[assignment]

    def buffer_updated(self, nbytes: int) -> None:
        sink = self._sink
        # An event is a chunk that comes alone, again and again: the parser is at a chunk's beginning after
        # it as it was before, and is spared it.
        if self._at_chunk and sink is not None and nbytes <= chunks.ALONE_BYTES_MAX:
            data, line = READ[:nbytes].tobytes(), chunks.SIZE_LINES[nbytes]
            if data.startswith(line) and data.endswith(b"\r\n"):
                self.heard = True
                self._push(sink, data[len(line) : -2])
                return
        self.received(READ[:nbytes])

    # Not `data_received`: uvloop would make and keep a bound method of that, and never call it.
    def received(self, data: bytes | memoryview) -> None:
        """Take bytes of an answer through the parser."""
        parser = self._parser
        if parser is None or self.complete:
            # Nobody asked for these bytes: what the next answer would begin with can't be trusted.
            self.close()
            return
        self._overhead += len(data)
        sound = True
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            sound = False
        pieces = self._pieces
        self._at_chunk = self._chunked and not self.complete and chunks.at_beginning(data[-3:], pieces)
        if pieces:
            if self._surplus:
                del pieces[self._body_end :]
            # The usual read holds one piece, which is handed on as it is.
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._overhead = 0
            self.heard = True
            if self._sink is not None:
                self._push(self._sink, body)
            else:
                self._store(body)
        elif self._overhead > HEAD_BYTES_MAX:
            self._fault = "headers"
            sound = False
        if not sound:
            if self.complete:
                self._surplus = True
            else:
                self.fail(self._fault)

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave_rounds()
        self._lost = True
        if self._told_lost is not None and not self._told_lost.done():
            self._told_lost.set_result(None)
        self._ended(exc)
        self._parser = None
        self._on_lost(self)

    def _ended(self, exc: Exception | None) -> None:
        if self._parser is None or self.complete or self.failure is not None:
            return
        if self.head_done:
            if self._until_eof and exc is None:
                self.complete = True
                self._wake()
            else:
                self.fail("short_body" if exc is None else "reset_read")
        elif exc is None:
            self.fail("short_head" if self._overhead else "disconnected")
        else:
            self.fail("reset_read" if self._overhead else "reset_send")

    # What the parser calls

    def on_message_begin(self) -> None:
        if self.complete:
            self._surplus = True

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        parser, raw = self._parser, self._raw_headers  # trailers go there later, unread
        assert parser is not None
        status: int = parser.get_status_code()
        if not 200 <= status < 600:
            if not 100 <= status < 200 or status == 101:
                raise HttpParserError("not an answer to what was asked")
            self._interim = True
            raw.clear()
            return
        # Where all that came is no longer than one header may be, none is too long.
        if len(raw) > HEADERS_MAX or (self._overhead > HEADER_BYTES_MAX and too_big(raw)):
            self._fault = "headers"
            raise HttpParserError("too long a head")
        headers = {}
        for name, value in raw.items():
            headers[KNOWN.get(name) or lower(name)] = value.decode("latin-1")
        raw.clear()  # of trailers nobody asks
        coding = headers.get("transfer-encoding")
        if coding is None:
            self._until_eof = "content-length" not in headers and status not in (204, 304)
        elif coding.strip().lower() == "chunked":
            self._until_eof, self._chunked = False, True
        else:
            raise HttpParserError("a transfer coding that was not offered")
        self.status = status
        self.headers = headers
        self.head_done = True
        self._overhead = 0
        self.heard = True
        self._wake()

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif not self.complete:
            assert self._parser is not None
            self.complete = True
            self._keep = self._parser.should_keep_alive()
            self._body_end = len(self._pieces)
            self._wake()  # the waiter runs after this callback: the last piece is out by then

    # What only this class does

    def _push(self, sink: Sink, data: bytes) -> None:
        """Hand data to the sink. Its HOLD stops the reading, its exception ends the exchange."""
        self._held = False
        try:
            held = sink(data)
        except Exception as error:
            self._break(error)
            return
        if held:
            self._held = True
            self._sink = None
            self._regulate()
            self._wake()

    def _store(self, data: bytes) -> None:
        self._buffer.append(data)
        self._buffered += len(data)
        if self._buffered > BUFFER_BYTES_MAX:
            self._held = True
            self._regulate()

    def _regulate(self) -> None:
        """Read, or don't, as the client, the sink and the buffer want it."""
        reading = not (self._paused or self._held)
        if reading is self.reading:
            return
        self.reading = reading
        if reading:
            self.heard = True  # nobody listened meanwhile, so nobody was silent
            self._transport.resume_reading()
        else:
            self.leave_rounds()
            self._transport.pause_reading()

    def _break(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = error
        self.close()
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
