"""What the replies of all dialects share: bodies that are collected, and refusals."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import orjson

from tokenhub_proxy import sse
from tokenhub_proxy.errors import InvalidRequest, ProxyError, RequestTooLarge, UpstreamUnavailable
from tokenhub_proxy.prices import Usage
from tokenhub_proxy.wire import NO_HEADERS

# An answer that is no stream is kept whole until its cost is known. The largest real ones are
# embeddings: 2,048 inputs of 3,072 floats are about 60 MiB of text.
BODY_BYTES_MAX: Final = 96 * 2**20
# An error page tells nothing after its first lines.
ERROR_BYTES_MAX = 64 * 2**10
MESSAGE_LENGTH_MAX = 600
# A client told to wait longer than this does not wait: the official SDKs give up.
RETRY_AFTER_MAX_S = 120.0

JSON_HEADERS: Final[Mapping[str, str]] = {"content-type": "application/json"}
STREAM_HEADERS: Final[Mapping[str, str]] = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # asks nginx not to collect the stream
}

# What looks like a credential or names the operator's account at the upstream.
_SECRET = re.compile(r"\b(?:sk|pk|rk|org|proj|key|AIza|AKIA|gsk|xai)[-_]?[A-Za-z0-9*_\-.]{8,}")
_HOST = re.compile(r"(?:https?:)?//(?:[^/?#@]*@)?([^/?#]+)", re.IGNORECASE)
# A 429 that no waiting ends: the account is out of credit. OpenAI and who speaks like it say so here.
_UNPAID = re.compile(rb'"(?:code|type)"\s*:\s*"(?:insufficient_quota|billing_not_active)"')
_NO_USAGE: Final = Usage()
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def cleaned(message: object) -> str:
    """An upstream's words for a client: one line, short, without what looks like a secret."""
    text = message if isinstance(message, str) else ""
    text = _SECRET.sub("[redacted]", _CONTROL.sub(" ", text)).strip()
    return text if len(text) <= MESSAGE_LENGTH_MAX else text[: MESSAGE_LENGTH_MAX - 3] + "..."


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The upstream's Retry-After in seconds, kept between 1 and 120; dates are not read."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / scale
        except (KeyError, ValueError):
            continue
        if seconds == seconds and seconds >= 0:
            return min(max(seconds, 1.0), RETRY_AFTER_MAX_S)
    return None


def refusal(status: int, message: object, param: object, headers: Mapping[str, str]) -> ProxyError:
    """The error that an upstream's error answer becomes.

    400 and 422 are the request's fault and keep their words. Everything else is the operator's or
    the upstream's trouble: its words stay here, for they name the operator's organisation and
    limits, and the client learns only that another try may help.
    """
    if status in (400, 422):
        return InvalidRequest(
            cleaned(message) or "The upstream refused the request.",
            param=param if isinstance(param, str) else None,
            reason=f"upstream_status={status}",
        )
    if status == 413:
        return RequestTooLarge(
            "The upstream says that the request is too large.", reason="upstream_status=413"
        )
    return UpstreamUnavailable(kind="status", upstream_status=status, retry_after_s=retry_after_s(headers))


def media_type(headers: Mapping[str, str]) -> str:
    return _media_type(headers.get("content-type", ""))


@lru_cache(maxsize=256)
def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def parse_object(body: bytes) -> dict[str, Any] | None:
    """A JSON object, or None for anything else."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


class Whole:
    """An answer that is no stream: collected, understood at its end, and said at once.

    `understand(body)` gives the client's body and the usage, or raises; it is the dialect's part.
    Where it knows no usage it gives an estimate, or None and leaves that to `estimate`.
    """

    __slots__ = (
        "_body", "_bytes_left", "_estimate", "_pieces", "_understand", "begun", "between_events", "done",
        "finished", "headers", "notes", "progress", "status", "usage",
    )  # fmt: skip

    def __init__(
        self,
        understand: Callable[[bytes], tuple[bytes, Usage | None]],
        estimate: Callable[[], Usage] = Usage,
        bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        self.status = 200
        self.headers = JSON_HEADERS
        self.notes: dict[str, object] = {}
        self.usage = _NO_USAGE
        self.finished = self.begun = self.done = self.between_events = False
        self.progress = 0  # how often something was read
        self._body = b""
        self._understand = understand
        self._estimate = estimate
        self._bytes_left = bytes_max
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        if data:
            self._bytes_left = left = self._bytes_left - len(data)
            if left < 0:
                raise UpstreamUnavailable(kind="too_large", executed=True)
            self._pieces.append(data)
            if not data.isspace():  # blank lines, which keep a waiting client's connection
                self.progress += 1
            return b""
        pieces = self._pieces
        received = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._body, found = self._understand(received)
        self.usage = usage = self._estimate() if found is None else found
        if not usage.reported:
            self.notes["usage"] = "missing"
        self.finished = True
        return b""

    def close(self, error: ProxyError | None = None, request_id: str = "") -> bytes:
        return self._body


class Refused:
    """An error answer: collected, and raised at its end as what it means."""

    between_events = False

    def __init__(
        self, status: int, headers: Mapping[str, str], read: Callable[[bytes], tuple[object, object]]
    ) -> None:
        """`read(body)` gives the message and the parameter that the error names, or raises what it
        knows the error to be."""
        self.status = status
        self.headers = NO_HEADERS
        self.usage = Usage()
        self.finished = False
        self.begun = False
        self.done = False
        self.notes: dict[str, object] = {"upstream_status": status}
        self._headers = headers
        self._read = read
        self._body = b""

    @property
    def progress(self) -> int:
        return len(self._body)

    def feed(self, data: bytes) -> bytes:
        if data and len(self._body) < ERROR_BYTES_MAX:
            self._body += data[: ERROR_BYTES_MAX - len(self._body)]
            return b""
        message, param = self._read(self._body)
        found = refusal(self.status, message, param, self._headers)
        if isinstance(found, UpstreamUnavailable):
            if self.status == 429 and found.retry_after_s is None and _UNPAID.search(self._body):
                found.kind = found.reason = "quota"
            found.notes = self._noted()
        raise found

    def _noted(self) -> dict[str, object]:
        """What tells an operator who has answered in the upstream's place."""
        found: dict[str, object] = {}
        if media_type(self._headers) == "text/html":
            found["html"] = 1
        if "cf-ray" in self._headers:
            found["cf_ray"] = cleaned(self._headers["cf-ray"])
        host = _HOST.match(self._headers.get("location", ""))
        if host is not None:
            found["redirect_host"] = cleaned(host[1])
        return found

    def close(self, error: ProxyError | None = None, request_id: str = "") -> bytes:
        return b""


def error_event(error: ProxyError, request_id: str) -> bytes:
    """The event that tells a client that its stream failed."""
    return sse.encode(error.body(request_id))
