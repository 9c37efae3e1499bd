"""An answer that came compressed although none was asked for: inflated within bounds, then understood."""

from __future__ import annotations

from collections.abc import Mapping

from tokenhub_proxy.dialects import Reply
from tokenhub_proxy.errors import ProxyError, UpstreamUnavailable
from tokenhub_proxy.inflate import CODINGS, Corrupt, Inflater, TooMuch, coding_of
from tokenhub_proxy.prices import Usage

# What one read, 64 KiB at most, may become. Text of a model shrinks to a tenth; a 256th is a bomb.
READ_BYTES_MAX = 16 * 2**20


def plain(reply: Reply, headers: Mapping[str, str]) -> Reply:
    """The reply, with an inflater before it where the answer's head names a coding.

    Identity is all that upstreams are offered, yet some compress regardless. The client gets the
    plain bytes: usage, errors and the ending must be seen here, and it may read no coding at all.
    Raises UpstreamUnavailable for a coding that nobody here reads.
    """
    coding = coding_of(headers.get("content-encoding"))
    if coding is None:
        return reply
    if coding not in CODINGS:
        raise UpstreamUnavailable(kind="encoding", executed=True)
    reply.notes["encoding"] = coding
    return Inflated(reply, coding)


class Inflated:
    """Implements `dialects.Reply`: another reply, fed with what its bytes inflate to."""

    def __init__(self, reply: Reply, coding: str) -> None:
        self._reply = reply
        self._inflater = Inflater(coding)
        self.status = reply.status
        self.headers = reply.headers
        self.notes = reply.notes

    @property
    def finished(self) -> bool:
        return self._reply.finished

    @property
    def begun(self) -> bool:
        return self._reply.begun

    @property
    def done(self) -> bool:
        return self._reply.done

    @property
    def usage(self) -> Usage:
        return self._reply.usage

    @property
    def progress(self) -> int:
        return self._reply.progress

    @property
    def between_events(self) -> bool:
        return self._reply.between_events

    def feed(self, data: bytes) -> bytes:
        if not data:
            return self._reply.feed(b"")
        try:
            inflated = self._inflater.feed(data, READ_BYTES_MAX)
        except (Corrupt, TooMuch) as error:
            if self._reply.done:
                return b""  # the answer is whole, whatever is behind it
            kind = "encoding" if isinstance(error, Corrupt) else "meter_cap"
            raise UpstreamUnavailable(kind=kind, executed=True) from None
        # A piece may hold no whole byte yet, and no bytes would be the end.
        return self._reply.feed(inflated) if inflated else b""

    def close(self, error: ProxyError | None = None, request_id: str = "") -> bytes:
        return self._reply.close(error, request_id)
