"""A fault as a row: what happens, what the client sees, what it costs, what the log says; and its stage.

    @fault("The upstream refuses", "502 upstream_unavailable", "void", log={"reason": "refused"})
    async def test_…(scene: Scene) -> None:
        await scene.start(one_upstream("http://127.0.0.1:9/v1"))
        await scene.call()

The body plays the fault; `fault` then compares what was seen on the wire, in the books and in the
log with the row, and fails where nothing was seen. `page` makes `docs/faults.md` of all rows.
"""

from __future__ import annotations

import asyncio
import functools
import io
import logging
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from tests.conftest import KEY, Running, Serve
from tests.test_server import MESSAGES
from tests.upstream import DONE

WAIT_S = 10.0
STREAMED = {"model": "m", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
WHOLE = {"model": "m", "messages": MESSAGES}
# The fake upstream tells 10 input and 2 output tokens, at 3 and 15 USD per million.
COST = 60_000

# How the answer of a call can look from outside; any other is "STATUS code" of an error in our shape.
NOTHING = "closed, nothing said"
GONE = "gone"
JSON = "200 JSON"
COMPLETE = "200 stream, complete"
TOLD = "200 stream, error event, cut"
CUT = "200 stream, cut"

# And how it looks when the process itself is the fault.
REFUSED = "`serve` exits with 3"
DROPPED = "the connection drops"

# How a row says what a call costs, by the word of the log line.
BILLING = {
    "none": "nothing; nothing was held",
    "void": "nothing; the hold is released",
    "usage": "the upstream's usage",
    "estimate": "an estimate of what was relayed",
    "open": "held until storage returns, then settled once",
    "expired": "nothing; the hold expires at the next start",
}


@dataclass(frozen=True)
class Fault:
    """One row. `log` are members of the log line (`...`: whatever they are); None stands for no line.

    `events` are words of the process's own log. Several answers or billings are variants of one fault.
    """

    what: str
    client: tuple[str, ...]
    billing: tuple[str, ...]
    headers: Mapping[str, str | None]
    log: Mapping[str, object] | None
    events: tuple[str, ...]
    note: str
    module: str


@dataclass
class Told:
    """An answer as it was on the wire."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False  # the framing says that this is all
    interim: bool = False  # a 100 came first

    @property
    def error(self) -> dict[str, Any]:
        """The error object of a refusal, which always has these members."""
        found: dict[str, Any] = orjson.loads(self.body)["error"]
        assert list(found) == ["code", "message", "type", "param", "request_id"]
        assert self.headers["x-request-id"] == found["request_id"]
        return found

    @property
    def last_event(self) -> dict[str, Any]:
        """The error event at the end of a stream."""
        whole = self.body.endswith(b"\n\n")
        last = self.body.rstrip(b"\n").rpartition(b"\n\n")[2].removeprefix(b"data: ")
        if not whole or b'"error"' not in last:
            return {}
        found: dict[str, Any] = orjson.loads(last).get("error") or {}
        return found

    def __str__(self) -> str:
        if not self.status:
            return NOTHING
        if self.status != 200:
            return f"{self.status} {self.error['code']}" if self.body else str(self.status)
        if not self.headers["content-type"].startswith("text/event-stream"):
            assert self.complete
            return JSON
        assert "content-encoding" not in self.headers
        if self.complete:
            assert self.body.endswith(DONE) or b"data: [DONE]" in self.body
            return COMPLETE
        assert b"[DONE]" not in self.body
        return TOLD if self.last_event else CUT


def parsed(raw: bytes) -> Told:
    """The one answer in these bytes, which ended with the connection."""
    interim = raw.startswith(b"HTTP/1.1 100 ")
    if interim:
        raw = raw.partition(b"\r\n\r\n")[2]
    head, _, rest = raw.partition(b"\r\n\r\n")
    if not head:
        return Told()
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body, complete = rest, True
    if headers.get("transfer-encoding") == "chunked":
        body, complete = unchunked(rest)
    elif "content-length" in headers:
        complete = len(rest) == int(headers["content-length"])
    return Told(int(first.split()[1]), headers, body, complete, interim)


def unchunked(body: bytes) -> tuple[bytes, bool]:
    """What a chunked body says, and whether its end was said too."""
    pieces, position = [], 0
    while (line_end := body.find(b"\r\n", position)) >= 0:
        length = int(body[position:line_end], 16)
        if length == 0:
            return b"".join(pieces), True
        start = line_end + 2
        pieces.append(body[start : start + length])
        position = start + length + 2
    return b"".join(pieces), False


def request(
    body: Mapping[str, Any] | bytes,
    headers: Sequence[str] = (),
    *,
    path: str = "/v1/chat/completions",
    key: str | None = KEY,
    method: str = "POST",
    close: bool = True,
    content_type: str | None = "application/json",
) -> bytes:
    """A whole request as it goes over the wire."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    lines = [f"{method} {path} HTTP/1.1", "Host: h"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    if not any(line.lower().startswith(("content-length:", "transfer-encoding:")) for line in headers):
        lines.append(f"Content-Length: {len(raw)}")
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, *headers]).encode("latin-1") + b"\r\n\r\n" + raw


async def say(port: int, payload: bytes, *, answered: bytes | None = None) -> bytes:
    """What is answered to these bytes until the connection ends, or until `answered` has come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
    try:
        async with asyncio.timeout(WAIT_S):
            writer.write(payload)
            if answered is not None:
                return await reader.readuntil(answered)
            said = bytearray()
            try:
                while piece := await reader.read(2**20):
                    said += piece
            except ConnectionResetError:
                pass  # what came before it counts
            return bytes(said)
    finally:
        writer.close()


def shorten(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Set deadlines of the package by their names, wherever they stand."""
    for name, value in seconds.items():
        places = [
            one for at, one in sys.modules.items() if at.startswith("tokenhub_proxy.") and hasattr(one, name)
        ]
        assert places, name
        for place in places:
            monkeypatch.setattr(place, name, value)


async def until(condition: Callable[[], Any], limit_s: float = WAIT_S) -> None:
    """Wait until something has become so."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.002)


@dataclass(frozen=True)
class Seen:
    """What a fault looked like from outside: the client's side, the books and the log line."""

    client: str
    headers: Mapping[str, str]
    billing: str
    line: Mapping[str, object] | None


class Scene:
    """Starts a proxy, calls it over sockets of its own, and keeps what was seen."""

    def __init__(self, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        self._serve = serve
        self._caplog = caplog
        caplog.set_level(logging.INFO, "tokenhub_proxy")
        self._log = io.StringIO()
        self._asking: list[asyncio.Task[bytes]] = []
        self.seen: list[Seen] = []
        self.running: Running

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log lines of the calls so far."""
        return [orjson.loads(line) for line in self._log.getvalue().splitlines()]

    @property
    def events(self) -> str:
        """The process's own log so far."""
        return self._caplog.text

    async def start(self, text: str, **options: Any) -> Running:
        """A proxy of this config, whose log lines are JSON."""
        self.running = await self._serve(text, log=self._log, **options)
        return self.running

    async def call(self, body: Mapping[str, Any] | bytes = STREAMED, *headers: str, **options: Any) -> Told:
        """One call on a connection of its own, which is looked at from all sides."""
        return await self.send(request(body, headers, **options))

    async def send(self, payload: bytes, port: int | None = None) -> Told:
        """These very bytes as one request."""
        before = len(self.lines)
        told = parsed(await say(port or self.running.port, payload))
        await self.saw(str(told), told.headers, before, lines=self._metered(payload))
        return told

    def _metered(self, payload: bytes) -> int:
        """How many lines it will make: what is no call of a metered route makes none."""
        return int(re.match(rb"POST /v1/(chat/completions|embeddings) ", payload) is not None)

    def asking(self, payload: bytes, port: int | None = None) -> asyncio.Task[bytes]:
        """Begin to send these bytes; what is answered is the result, if somebody waits for it."""
        asking = asyncio.get_running_loop().create_task(say(port or self.running.port, payload))
        self._asking.append(asking)
        return asking

    async def aclose(self) -> None:
        """Let go of what a test that failed did not wait for."""
        for asking in self._asking:
            asking.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def saw(
        self,
        client: str,
        headers: Mapping[str, str] | None = None,
        before: int | None = None,
        *,
        lines: int = 1,
    ) -> Seen:
        """Note how the newest call looked to the client; its line and its ending are waited for."""
        line = None
        if lines:
            await until(lambda: len(self.lines) > (len(self.seen) if before is None else before))
            line = self.lines[-1]
        billing = await self.billing(line)
        self.seen.append(Seen(client, headers or {}, billing, line))
        return self.seen[-1]

    def note(self, client: str, billing: str) -> None:
        """What a test has found out by itself, of a process that has no line for it."""
        self.seen.append(Seen(client, {}, billing, None))

    async def billing(self, line: Mapping[str, Any] | None) -> str:
        """How the books say that a call was paid, which is what its line says."""
        if line is None:
            return "none"
        ledger = self.running.ledger
        receipt = await ledger.receipt(line["id"])
        async with asyncio.timeout(WAIT_S):
            # A client that left did not wait for its ending to be durable.
            while receipt is not None and receipt.status == "held" and ledger.unavailable is None:
                await asyncio.sleep(0.01)
                receipt = await ledger.receipt(line["id"])
        if receipt is None:
            found = "none"
        elif receipt.status == "settled":
            found = "usage" if receipt.usage.reported else "estimate"
        else:
            found = {"released": "void", "held": "open", "expired": "expired"}[receipt.status]
        if found != "open":
            assert line["billing"] == found
            assert line["charge_n"] == (receipt.cost if receipt is not None else 0)
        return found

    async def charged(self) -> int:
        """Nanodollars that the newest call cost, by its entry."""
        id = self.lines[-1]["id"]
        return sum(
            [
                entry.amount
                async for entry in self.running.ledger.entries()
                if entry.request_id == id and entry.kind == "charge"
            ]
        )

    def shows(self, row: Fault) -> None:
        """Compare all that was seen with the row."""
        assert self.seen, "the test has seen nothing"
        for seen in self.seen:
            assert seen.client in row.client, seen
            assert seen.billing in row.billing, seen
            for name, value in row.headers.items():
                assert _like(seen.headers.get(name), value), (name, seen.headers.get(name))
            if row.log is None:
                assert seen.line is None
                continue
            assert seen.line is not None
            for member, expected in row.log.items():
                assert _like(seen.line.get(member), expected), (member, seen.line)
        for event in row.events:
            assert event in self.events, self.events


def _like(found: object, expected: object) -> bool:
    if expected is ...:
        return found is not None
    if isinstance(expected, re.Pattern):
        return isinstance(found, str) and expected.fullmatch(found) is not None
    if isinstance(expected, (tuple, frozenset)):
        return found in expected
    return found == expected


# --- the rows

ROWS: list[Fault] = []
# A whole number of seconds that is worth waiting for.
SECONDS = re.compile(r"[1-9]\d{0,2}")
RETRY_FORBIDDEN = {"x-should-retry": "false"}


def fault(
    what: str,
    client: str | tuple[str, ...],
    billing: str | tuple[str, ...],
    *,
    headers: Mapping[str, Any] | None = None,
    log: Mapping[str, object] | None = None,
    events: Sequence[str] = (),
    note: str = "",
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
    """The row of a test. With `log` left out there is no line."""

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        row = Fault(
            what,
            (client,) if isinstance(client, str) else client,
            (billing,) if isinstance(billing, str) else billing,
            headers or {},
            log,
            tuple(events),
            note,
            test.__module__,
        )
        assert all(one in BILLING for one in row.billing)
        ROWS.append(row)

        @functools.wraps(test)
        async def played(*arguments: Any, scene: Scene, **options: Any) -> None:
            await test(*arguments, scene=scene, **options)
            scene.shows(row)

        return played

    return decorate
