"""What goes to an upstream and what comes back: bytes, heads, and the seam that carries them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol

from tokenhub_proxy.routes import Upstream

# Upstream headers that a client may see. Everything else stays here: an upstream's cookies,
# organisation names and rate limits are the operator's business, not the client's.
CROSSING_HEADERS: Final = frozenset(
    {
        "openai-processing-ms",
        "openai-model",
        "openai-version",
        "x-groq-region",
        "cf-ray",
    }
)
# What few requests carry, in lower case: one look tells that none of it needs a look of its own.
SPECIAL_HEADERS = frozenset(
    {
        "api-key",
        "content-encoding",
        "expect",
        "idempotency-key",
        "origin",
        "via",
        "x-api-key",
        "x-goog-api-key",
        "x-tokenhub-fault",
        "x-tokenhub-strict",
    }
)
# A header longer than this tells a client nothing and may be an attack on its parser.
CROSSING_VALUE_LENGTH_MAX = 1024

# What a sink returns when it wants no more for now; `pump` then returns before the end.
HOLD: Final = True

NO_HEADERS: Final[Mapping[str, str]] = {}


@dataclass(slots=True, init=False)
class Outgoing:
    """One request to an upstream, complete: where, what, and with which headers.

    `path` stands after the upstream's `base_url` and may hold a query. `credential` is the index
    of the upstream's credential that `headers` carry. `dropped` names the client's fields that
    this upstream can't be told. `parts`, where there are any, are complete requests to send in
    place of this one; the answer to them is one JSON array of `{"headers": {…}, "body": …}`, in
    their order, and the first of them that fails is the answer instead.
    """

    upstream: Upstream
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    method: str
    dropped: tuple[str, ...]
    parts: tuple[Outgoing, ...]

    def __init__(
        self,
        upstream: Upstream,
        path: str,
        headers: tuple[tuple[str, str], ...],
        body: bytes,
        method: str = "POST",
        dropped: tuple[str, ...] = (),
        parts: tuple[Outgoing, ...] = (),
    ) -> None:
        self.upstream = upstream
        self.path = path
        self.headers = headers
        self.body = body
        self.method = method
        self.dropped = dropped
        self.parts = parts


Sink = Callable[[bytes], bool | None]


class Incoming(Protocol):
    """An upstream's answer whose head has come."""

    status: int
    headers: Mapping[str, str]  # names in lower case; of a repeated header the last one
    complete: bool  # all of it has come with the head, so that nothing is waited for any more

    @property
    def notes(self) -> Mapping[str, object]:
        """Members of the log line that tell how the bytes travelled."""
        ...

    async def pump(self, sink: Sink) -> bool:
        """Call `sink(data)` in the very callback that read the data, until the body ends.

        Returns True at the clean end of the body, False when the sink returned HOLD: what comes
        later waits for the next `pump`, and reading is paused meanwhile. Raises
        UpstreamUnavailable when the body breaks off or a deadline passes, and whatever the sink
        raises. It may be called again after HOLD; at the end it returns True at once.
        """
        ...

    def linger(self, grace_s: float) -> None:
        """The answer is complete: `pump` returns, as at HOLD, if the body has not ended by then."""
        ...

    def cut(self, error: Exception) -> None:
        """Make the running `pump` raise this error; without one it is raised by the next."""
        ...

    def pause(self) -> None:
        """Read no more for now: the client can't keep up. Idempotent."""
        ...

    def resume(self) -> None:
        """Read on. Idempotent."""
        ...


class Sending(Protocol):
    """A request and its answer, as a block: entering it waits for the answer's head."""

    async def __aenter__(self) -> Incoming:
        """Send the request. Raises UpstreamUnavailable, with its `kind`, when no head comes."""
        ...

    def close(self, error: BaseException | None) -> None:
        """Leave the block: nothing is waited for.

        Gives the connection back when the body ended cleanly, and closes it otherwise. `error` is
        what broke the block, if anything did.
        """
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The same as `close`."""
        ...


class Transport(Protocol):
    """Carries bytes to an upstream and back."""

    def send(self, outgoing: Outgoing) -> Sending:
        """The block that sends this request; nothing is sent before it is entered."""
        ...

    async def aclose(self) -> None:
        """Close what is idle; the calls in flight have ended by then."""
        ...


class RequestHeaders(Protocol):
    """The client's headers, names in any case."""

    def get(self, name: str, default: str = "", /) -> str | None: ...
    def getall(self, name: str, default: Sequence[str] = (), /) -> Sequence[str]: ...


class Client(Protocol):
    """The other side: one request and its answer. A client that leaves cancels the exchange."""

    peer: str
    headers: RequestHeaders
    special: Collection[str]  # those of SPECIAL_HEADERS that the request has
    query_credentials: Sequence[str]  # names of query parameters that carry a credential
    digest: bytes | None  # of the secret, once `identify` has read it from this very head
    bytes_out: int
    begun: bool  # the head of the answer is written
    source: Incoming | None  # paused while this client can't keep up

    @property
    def paused(self) -> bool:
        """It can't keep up just now: what is written waits."""
        ...

    @property
    def stalled(self) -> bool:
        """It took nothing for so long that its connection was closed."""
        ...

    async def body(self, bytes_max: int) -> bytes:
        """The whole request body, still in its coding. Raises RequestTooLarge, RequestTimeout."""
        ...

    def begin(self, status: int, lines: list[str]) -> None:
        """Remember the head, which is now this client's own: each text is one line or several.

        It is written with the first bytes, and may get further lines until then.
        """
        ...

    def write(self, data: bytes) -> None:
        """Write to the client in this very callback."""
        ...

    async def end(self, data: bytes) -> None:
        """The last bytes and the clean end. An answer not begun is written at once, whole."""
        ...

    async def abort(self, data: bytes) -> None:
        """The last bytes, and an end that no client takes for a clean one."""
        ...


def lines_of(headers: Mapping[str, str]) -> list[str]:
    """The lines of a head, as `Client.begin` takes them."""
    return [*map(": ".join, headers.items())]


def crossing(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """The upstream's headers that the client may see: known names, printable ASCII values."""
    if CROSSING_HEADERS.isdisjoint(headers):
        return []
    found = [(name, headers[name]) for name in CROSSING_HEADERS.intersection(headers)]
    return [
        (name, value)
        for name, value in found
        if len(value) <= CROSSING_VALUE_LENGTH_MAX and value.isascii() and value.isprintable()
    ]
