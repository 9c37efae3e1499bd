"""A transport that records what an upstream says, or says it again from a cassette."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

import orjson

from tokenhub_proxy.cassettes import HEAD, Ask, Cassette, Read, Recorded, Redactor, dump, load
from tokenhub_proxy.errors import InvalidRequest, UpstreamUnavailable
from tokenhub_proxy.transports.script import Fail, Pause, Script, Scripted, Step
from tokenhub_proxy.wire import Incoming, Outgoing, Sending, Sink, Transport

# none: only what is on tape. once: a cassette that is not there yet is recorded. new_episodes: what
# is not on it yet is added. all: everything is recorded anew.
Mode = Literal["none", "once", "new_episodes", "all"]
# How the silences on tape are played: as they were, times `scale`, or not at all.
Timing = Literal["exact", "scaled", "none"]


class Tape:
    """Plays and records the cassette in one file, or plays those of a folder.

    `of` gives the transport of a model's calls. `secrets` and what looks like one are kept off the
    tape; the same is taken out of a request before it is compared. Raises CassetteError for a file
    that is no cassette.
    """

    def __init__(
        self,
        path: Path,
        *,
        mode: Mode = "none",
        timing: Timing = "none",
        scale: float = 1.0,
        strict: bool = False,
        ignore: Sequence[str] = (),
        secrets: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._pace = {"exact": 1.0, "scaled": scale, "none": 0.0}[timing]
        self._redactor = Redactor(secrets)
        self._clock = clock
        known = path.exists() and mode != "all"
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if known else []
        recorded = [each for file in files for each in load(file.read_bytes(), file.name)]
        self.cassette = Cassette(recorded, strict=strict, ignore=ignore)
        # A tape that is made now holds each call once for each time that it was made.
        self._plays = known
        self.records = mode in ("new_episodes", "all") or (mode == "once" and not known)
        self._begun = known  # the file has its first line

    def of(self, model: str, inner: Transport | None = None) -> Transport:
        """The transport for calls of this model, by its name for clients.

        What is not on tape goes through `inner` and is recorded, where the mode allows it.
        """
        return _Taped(self, model, inner)

    def send(self, model: str, inner: Transport | None, outgoing: Outgoing) -> Sending:
        """Play the answer to this request, or record it. Raises InvalidRequest for a miss."""
        ask = self._redactor.ask(model, outgoing)
        recorded = self.cassette.take(ask) if self._plays else None
        if recorded is not None:
            scripted = Scripted(
                self._steps(recorded), recorded.status, recorded.headers, Pause(self._s(recorded.head_ms))
            )
            return Script(lambda _: scripted).send(outgoing)
        if self.records and inner is not None:
            return _Recording(self, ask, inner.send(outgoing), self._clock)
        told = f"The cassette {self._path.name} has no answer to this request: {self.cassette.miss(ask)}."
        raise InvalidRequest(told, reason="cassette", should_retry=False)

    def keep(
        self, ask: Ask, incoming: Incoming, head_ms: float, reads: Sequence[Read], end: Read, kind: str
    ) -> None:
        """Write one exchange behind those on tape."""
        masked = self._redactor.mask([read.data for read in reads])
        recorded = Recorded(
            ask=ask,
            status=incoming.status,
            headers=self._redactor.headers(incoming.headers),
            head_ms=head_ms,
            reads=tuple(Read(read.at_ms, data) for read, data in zip(reads, masked, strict=True)),
            end_ms=end.at_ms,
            kind=kind,
        )
        lines = dump(recorded, self.cassette.keep(recorded))
        if not self._begun:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lines = orjson.dumps(HEAD, option=orjson.OPT_APPEND_NEWLINE) + lines
        with self._path.open("ab" if self._begun else "wb") as file:
            file.write(lines)
        self._begun = True

    def _steps(self, recorded: Recorded) -> Iterator[Step]:
        before_ms = recorded.head_ms
        for read in recorded.reads:
            if pause_s := self._s(read.at_ms - before_ms):
                yield Pause(pause_s)
            before_ms = read.at_ms
            yield read.data
        if recorded.kind:
            yield Fail(recorded.kind)

    def _s(self, ms: float) -> float:
        return ms * self._pace / 1000


class _Taped:
    """A Transport over a tape."""

    def __init__(self, tape: Tape, model: str, inner: Transport | None) -> None:
        self._tape = tape
        self._model = model
        self._inner = inner

    def send(self, outgoing: Outgoing) -> Sending:
        return self._tape.send(self._model, self._inner, outgoing)

    async def aclose(self) -> None:
        """The tape keeps nothing open."""


class _Recording:
    """An exchange that is heard while it is recorded: `wire.Incoming` and its context."""

    status: int
    headers: Mapping[str, str]
    complete = False

    def __init__(
        self,
        tape: Tape,
        ask: Ask,
        inner: Sending,
        clock: Callable[[], float],
    ) -> None:
        self._tape = tape
        self._ask = ask
        self._inner = inner
        self._clock = clock
        self._sent_s = clock()
        self._reads: list[Read] = []
        # Who leaves before the end has heard an answer that broke off, unless it was complete.
        self._kind = "short_body"

    async def __aenter__(self) -> Incoming:
        self._incoming = await self._inner.__aenter__()
        self._head_ms = self._ms()
        self.status, self.headers = self._incoming.status, self._incoming.headers
        return self

    def close(self, error: BaseException | None) -> None:
        try:
            self._inner.close(error)
        finally:
            end = Read(self._ms(), b"")
            self._tape.keep(self._ask, self._incoming, self._head_ms, self._reads, end, self._kind)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    async def pump(self, sink: Sink) -> bool:
        refused = False

        def heard(data: bytes) -> bool | None:
            nonlocal refused
            self._reads.append(Read(self._ms(), data))
            refused = True
            wants_more = sink(data)
            refused = False
            return wants_more

        try:
            ended = await self._incoming.pump(heard)
        except UpstreamUnavailable as error:
            if not refused:  # the answer broke off; else it was the reader who had enough
                self._kind = error.kind
            raise
        if ended:
            self._kind = ""
        return ended

    @property
    def notes(self) -> Mapping[str, object]:
        return self._incoming.notes

    def linger(self, grace_s: float) -> None:
        self._kind = ""
        self._incoming.linger(grace_s)

    def cut(self, error: Exception) -> None:
        self._incoming.cut(error)

    def pause(self) -> None:
        self._incoming.pause()

    def resume(self) -> None:
        self._incoming.resume()

    def _ms(self) -> float:
        return round((self._clock() - self._sent_s) * 1000, 3)
