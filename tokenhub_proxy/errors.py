"""Every refusal there is: its HTTP status, its code, and the error body a client reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import orjson


class ProxyError(Exception):
    """A refusal with a name.

    `message` is for the client and never holds a secret, a prompt or an upstream's own words
    uncleaned. `reason` is for the log alone. `retry_after_s` becomes `Retry-After`;
    `should_retry` becomes `x-should-retry`, which the official SDKs obey before anything else.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        reason: str = "",
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry
        self.http_status = status or self.status

    def fields(self, request_id: str) -> dict[str, str | None]:
        """The members of the `error` object, in the order of the contract."""
        return {
            "code": self.code,
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "request_id": request_id,
        }

    def body(self, request_id: str) -> bytes:
        """The whole JSON body of an error answer."""
        return orjson.dumps({"error": self.fields(request_id)})

    def headers(self) -> dict[str, str]:
        """What this refusal says in the answer's head besides its status."""
        found: dict[str, str] = {}
        if self.retry_after_s is not None:
            # A whole number of seconds, never 0: a client that retries at once gains nothing.
            found["Retry-After"] = str(max(1, -int(-self.retry_after_s // 1)))
        if self.should_retry is not None:
            found["x-should-retry"] = "true" if self.should_retry else "false"
        return found


class InvalidRequest(ProxyError):
    """400: the client's request can't be read, or can't be said to the upstream."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class InvalidApiKey(ProxyError):
    """401: one body for a missing, malformed, unknown, revoked, expired or doubled key."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"

    def __init__(self, reason: str) -> None:
        super().__init__(
            "No valid API key was provided. Send it as 'Authorization: Bearer sk-th-...'.",
            reason=reason,
        )


class InsufficientQuota(ProxyError):
    """402: the account's balance or the key's quota can't cover the most a call can cost."""

    status = 402
    code = "insufficient_quota"
    type = "insufficient_quota"

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message, reason=reason, should_retry=False)


class ModelNotAllowed(ProxyError):
    """403: the key's patterns don't match the model, whether or not it exists."""

    status = 403
    code = "model_not_allowed"
    type = "permission_error"


class IpNotAllowed(ProxyError):
    """403: the client's address is outside the key's list."""

    status = 403
    code = "ip_not_allowed"
    type = "permission_error"


class ModelNotFound(ProxyError):
    """404: the key may call it, but no such model is configured."""

    status = 404
    code = "model_not_found"
    type = "invalid_request_error"


class NotFound(ProxyError):
    """404: no such route, or no such thing behind it."""

    status = 404
    code = "not_found"
    type = "invalid_request_error"


class MethodNotAllowed(ProxyError):
    """405: the route exists, the method does not; `allowed` goes into `Allow`."""

    status = 405
    code = "method_not_allowed"
    type = "invalid_request_error"

    def __init__(self, message: str, *, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "Allow": self.allowed}


class RequestTimeout(ProxyError):
    """408: the request's bytes came too slowly."""

    status = 408
    code = "request_timeout"
    type = "invalid_request_error"


class IdempotencyConflict(ProxyError):
    """409: a call with this Idempotency-Key is still running."""

    status = 409
    code = "idempotency_conflict"
    type = "invalid_request_error"


class RequestTooLarge(ProxyError):
    """413: the body is over the limit."""

    status = 413
    code = "request_too_large"
    type = "invalid_request_error"


class UnsupportedMediaType(ProxyError):
    """415: not JSON, or compressed where that is not switched on."""

    status = 415
    code = "unsupported_media_type"
    type = "invalid_request_error"


class RateLimited(ProxyError):
    """429: this key's own limit of requests, tokens or concurrent calls."""

    status = 429
    code = "rate_limited"
    type = "rate_limit_error"


class UpstreamUnavailable(ProxyError):
    """502: a target failed before its answer began, or broke off after that.

    `kind` names the fault for the log (`refused`, `dns`, `reset_read`, `status`, …);
    `executed` says that the upstream may already have done the work, so a retry can cost twice;
    `upstream_status` is the HTTP status it answered, where it answered one; `notes` are further
    members of the log line.
    """

    status = 502
    code = "upstream_unavailable"
    type = "upstream_error"

    def __init__(
        self,
        message: str = "The model's upstream is unavailable.",
        *,
        kind: str,
        executed: bool = False,
        upstream_status: int | None = None,
        retry_after_s: float | None = None,
        notes: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(
            message,
            reason=kind,
            retry_after_s=retry_after_s,
            should_retry=False if executed else None,
        )
        self.kind = kind
        self.executed = executed
        self.upstream_status = upstream_status
        self.notes = notes or {}


class LoopDetected(UpstreamUnavailable):
    """502: the request came from this very proxy, through an upstream that points at it."""

    def __init__(self) -> None:
        super().__init__(
            "This request came from this proxy itself, whose upstream points at it.", kind="loop"
        )
        self.should_retry = False


class LedgerUnavailable(ProxyError):
    """503: the books can't be written, so nothing may be spent."""

    status = 503
    code = "ledger_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__("The ledger can't be written right now.", reason=reason, retry_after_s=5)


class ShuttingDown(ProxyError):
    """503: the server is draining."""

    status = 503
    code = "shutting_down"

    def __init__(self) -> None:
        super().__init__("The server is shutting down.", retry_after_s=1)


class Overloaded(ProxyError):
    """503: there are no files left for another connection, or too many pages wait for their turn."""

    status = 503
    code = "overloaded"

    def __init__(self) -> None:
        super().__init__("The server is too busy to take this right now.", retry_after_s=1)


class InternalError(ProxyError):
    """500: a bug of ours; the log has the traceback, the client has the request id."""

    def __init__(self) -> None:
        # The upstream may have done its work before we failed; asking again would pay it twice.
        super().__init__("Something went wrong inside the proxy.", should_retry=False)


def shown(name: str) -> str:
    """A client's word, quoted and short enough for an error message or a log line."""
    return repr(name if len(name) <= 80 else name[:77] + "...")
