"""The seam to what upstreams speak: requests out, bytes in, bytes out. Pure, no I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol, cast

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects.memory import Memory
from tokenhub_proxy.errors import ProxyError
from tokenhub_proxy.prices import Usage
from tokenhub_proxy.routes import Target, Upstream
from tokenhub_proxy.wire import Outgoing


@dataclass(slots=True, init=False)
class Asking:
    """What a request needs besides the call: whom it asks, as whom, when, and within what.

    `output_max` is the limit to send where the client stated none (the hold was made on it);
    None sends none. `output_default` is the model's own limit, for upstreams that demand one.
    """

    target: Target
    credential: str | None
    at_s: float
    output_max: int | None
    output_default: int | None

    def __init__(
        self,
        target: Target,
        credential: str | None = None,
        at_s: float = 0.0,
        output_max: int | None = None,
        output_default: int | None = None,
    ) -> None:
        self.target = target
        self.credential = credential
        self.at_s = at_s
        self.output_max = output_max
        self.output_default = output_default


class Reply(Protocol):
    """One upstream answer on its way to the client. Feed, then close.

    Nothing that `feed` returned may be taken back. Before it has returned its first byte it may
    raise: UpstreamUnavailable (another target may be asked) or InvalidRequest (the upstream says
    that the request itself is wrong).
    """

    status: int  # for the client, once the first byte is there
    headers: Mapping[str, str]  # at least content-type
    notes: dict[str, object]  # what the log should know: usage=missing, truncated=1, …

    @property
    def finished(self) -> bool:
        """The model ended its answer: [DONE] may be said."""
        ...

    @property
    def begun(self) -> bool:
        """`feed` has returned a byte, or is about to: the status is committed."""
        ...

    @property
    def done(self) -> bool:
        """Nothing more is due from the upstream, its body may end."""
        ...

    @property
    def progress(self) -> int:
        """A number that changes when more of the answer has come; comments and pings are none of it."""
        ...

    @property
    def between_events(self) -> bool:
        """True while the client of a stream that goes on stands between two events."""
        ...

    @property
    def usage(self) -> Usage:
        """What the upstream reported, else an estimate from what was relayed."""
        ...

    def feed(self, data: bytes) -> bytes:
        """The upstream's bytes → what may be written to the client now.

        `b""` tells that the upstream's body ended cleanly; it is fed once, and not after a cut.
        """
        ...

    def close(self, error: ProxyError | None = None, request_id: str = "") -> bytes:
        """What is left to say once the books are closed.

        The whole body of an answer that is no stream; `data: [DONE]` of a finished one. Of an
        unfinished one the error as an event if the client is at an event boundary, else nothing;
        the caller then leaves the HTTP body unterminated.
        """
        ...


class Dialect(Protocol):
    """One way of speaking."""

    def request(self, call: Call, asking: Asking) -> Outgoing:
        """The call as this upstream wants it. Raises InvalidRequest for what it can't be told."""
        ...

    def reply(self, call: Call, asking: Asking, status: int, headers: Mapping[str, str]) -> Reply:
        """The machine that turns the answer with this head into the client's bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Speech:
    """A row of DIALECTS: where the class is, and what an upstream row of it may hold.

    `base_url` is the default; None means that the config must give one. `options` maps the keys
    that only this dialect reads to a line of help. `needs_key` is False where an upstream may
    work without a credential.
    """

    module: str
    factory: str
    base_url: str | None = None
    needs_key: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


DIALECTS: dict[str, Speech] = {
    "openai": Speech("openai", "OpenAI", base_url="https://api.openai.com/v1"),
    "demo": Speech("openai", "OpenAI", base_url="demo://"),
    "anthropic": Speech("anthropic", "Anthropic", base_url="https://api.anthropic.com/v1", needs_key=True),
    "gemini": Speech(
        "gemini",
        "Gemini",
        base_url="https://generativelanguage.googleapis.com/v1beta",
        needs_key=True,
    ),
    "azure": Speech(
        "azure",
        "Azure",
        needs_key=True,
        options={
            "api_version": "with it the classic deployments surface is used, not /openai/v1",
        },
    ),
    "bedrock": Speech(
        "bedrock",
        "Bedrock",
        base_url="https://bedrock-runtime.{region}.amazonaws.com",
        options={
            "region": "the AWS region",
            "access_key_id": "for SigV4, in place of api_key",
            "secret_access_key": "for SigV4",
            "session_token": "for SigV4 with temporary credentials",
        },
    ),
}


def dialect(name: str, memory: Memory) -> Dialect:
    """A new dialect of this name; its module is imported on first use."""
    speech = DIALECTS[name]
    module = import_module(f"tokenhub_proxy.dialects.{speech.module}")
    factory = cast(Callable[[Memory], Dialect], getattr(module, speech.factory))
    return factory(memory)


__all__ = ["DIALECTS", "Asking", "Call", "Dialect", "Memory", "Reply", "Speech", "Upstream", "dialect"]
