"""The lean front, driven by hand where a real socket leaves the order to chance, and over real sockets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import pytest
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import KEY, Running
from tests.payloads import BODY, HIDDEN, ONE, OTHER_VERSIONS, PLAIN, REFUSED
from tests.test_server import error_of, raw
from tests.test_smuggling import STATUS
from tests.upstream import FakeUpstream
from tokenhub_proxy import connection, front, heads, sockets
from tokenhub_proxy.connection import HttpClient
from tokenhub_proxy.errors import InvalidRequest, ProxyError
from tokenhub_proxy.wiring import administration

LINES = {
    b"POST /v1/chat/completions HTTP/1.1\r\n": ("POST", "/v1/chat/completions"),
    b"GET /healthz HTTP/1.1\r\n": ("GET", "/healthz"),
}
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
ELSEWHERE = b"GET /elsewhere HTTP/1.1\r\nHost: h\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closing = False
        self.reading = True
        self.protocol: Any = None

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.7", 1) if name == "peername" else default


class Heir(asyncio.Protocol):
    """Stands where aiohttp's connection does."""

    def __init__(self) -> None:
        self.head_s = sockets.HEAD_S
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.socket = sockets.Socket(transport, asyncio.get_running_loop())

    def data_received(self, data: bytes) -> None:
        self.received += data


class Heirs:
    """Stands where aiohttp's server does."""

    def __init__(self) -> None:
        self.own: list[Heir] = []

    def __call__(self) -> Heir:
        self.own.append(Heir())
        return self.own[-1]


class Bench:
    """A front whose calls are answered with their own bodies, and one connection to it."""

    def __init__(self) -> None:
        self.heirs = Heirs()
        self.front = front.Front(self.serve, LINES, lambda: "req_1")
        self.front.aiohttp = cast(Any, self.heirs)
        self.connection = self.front()
        self.wire = Wire()
        self.asked: list[tuple[str, bytes]] = []
        self.clients: list[HttpClient] = []
        self.open = asyncio.Event()
        self.open.set()
        self.connection.connection_made(self.wire)
        self.wire.protocol = self.connection

    async def serve(self, client: HttpClient) -> None:
        self.clients.append(client)
        try:
            if client.headers.get("X-Refuse"):
                raise InvalidRequest("As you wish.")
            body = await client.body(2**20)
        except ProxyError as error:
            await connection.answer_error(client, error, "req_1")
            return
        self.asked.append((client.path, body))
        await self.open.wait()
        await connection.answer(client, 200, {}, body)

    async def feed(self, *pieces: bytes) -> None:
        """Let these bytes come, with time to be answered between them, as long as somebody reads."""
        for piece in pieces:
            if not self.wire.closing:
                self.wire.protocol.data_received(piece)
            await self.rest()

    async def rest(self) -> None:
        for _ in range(8):
            await asyncio.sleep(0)

    async def leave(self) -> None:
        if self.wire.protocol is self.connection:
            self.connection.connection_lost(None)
        await self.rest()


def outcome(pieces: Sequence[bytes]) -> tuple[list[tuple[str, bytes]], bytes, bytes | None, bool]:
    """What was asked and answered, what went to aiohttp, and whether the connection was closed."""

    async def drive() -> tuple[list[tuple[str, bytes]], bytes, bytes | None, bool]:
        bench = Bench()
        await bench.feed(*pieces)
        await bench.leave()
        heir = bench.heirs.own[0].received if bench.heirs.own else None
        return bench.asked, bytes(bench.wire.written), heir, bench.wire.closing

    return asyncio.run(drive())


def cut(data: bytes, offsets: Sequence[int]) -> list[bytes]:
    return [data[start:end] for start, end in pairwise([0, *sorted(offsets), len(data)])]


STREAMS = {
    "calls": PLAIN + HEALTH + HIDDEN,
    "calls and what aiohttp has": PLAIN + HEALTH + ELSEWHERE + HIDDEN,
    "a last call": PLAIN + HEALTH.replace(b"Host", b"Connection: close\r\nHost") + HIDDEN,
    "an unusual call": HEALTH + ONE["a chunked call"] + PLAIN,
    "an empty line first": ONE["an empty line before the request"] + PLAIN,
    "a call with something hidden": PLAIN + REFUSED["two lengths"],
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_cut_at_any_byte_changes_nothing(name: str) -> None:
    stream = STREAMS[name]
    expected = outcome([stream])

    for offset in range(1, len(stream)):
        assert outcome(cut(stream, [offset])) == expected, offset


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_segmentation_changes_anything(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.sampled_from([PLAIN, HEALTH, HIDDEN, ELSEWHERE]), min_size=1, max_size=5))
    stream = b"".join(parts)
    offsets = data.draw(st.lists(st.integers(1, len(stream) - 1), max_size=12, unique=True))
    ours = parts[: parts.index(ELSEWHERE)] if ELSEWHERE in parts else parts

    asked, said, heir, closed = outcome(cut(stream, offsets))

    bodies = [part.partition(b"\r\n\r\n")[2] for part in ours]
    assert [body for _, body in asked] == bodies
    assert said == b"".join(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(b), b) for b in bodies)
    # Every byte is somebody's, and nobody's twice.
    assert (heir or b"") == b"".join(parts[len(ours) :])
    assert not closed


# --- one verdict: what the front takes, aiohttp takes in the same way

ALL = {**REFUSED, **OTHER_VERSIONS, **ONE}


def read_by_aiohttp(head: bytes) -> Any:
    """aiohttp's message of this head, None where it refuses it."""

    class Protocol:
        transport = None

        def pause_reading(self) -> None: ...
        def resume_reading(self) -> None: ...

    async def parse() -> Any:
        parser = HttpRequestParser(cast(Any, Protocol()), asyncio.get_running_loop(), 2**16)
        try:
            messages, upgraded, _ = parser.feed_data(head)
        except HttpProcessingError:
            return None
        return messages[0][0] if messages and not upgraded else None

    return asyncio.run(parse())


def agrees(head: bytes) -> bool:
    """True when the front takes this head; then it has read what aiohttp reads."""
    found = heads.read(head, LINES)
    if found is None:
        return False
    message = read_by_aiohttp(head)
    assert message is not None
    assert (found.method, found.path) == (message.method, message.path)
    assert message.version == (1, 1)
    assert found.keep_alive == (not message.should_close)
    assert not message.chunked
    assert found.length == int(message.headers.get("Content-Length", "0"))
    names = [name for name, _ in message.raw_headers]
    assert len({name.lower() for name in names}) == len(names)
    for name, value in message.raw_headers:
        assert found.getall(name.decode()) == (value.decode(),)
    return True


@pytest.mark.parametrize("name", ALL)
def test_the_front_leaves_to_aiohttp_what_can_be_read_in_two_ways(name: str) -> None:
    payload = ALL[name]

    taken = agrees(payload[: heads.end_of(payload)])

    assert taken == (name in ("a plain call", "a name that becomes Transfer-Encoding in CGI"))


def test_what_the_official_sdks_send_is_taken() -> None:
    fields = b"Accept: application/json\r\nUser-Agent: OpenAI/Python 2.0\r\nX-Stainless-Lang: python\r\n"
    head = PLAIN[: heads.end_of(PLAIN)].replace(b"Host:", fields + b"connection: Keep-Alive\r\nhost:")

    assert agrees(head)


HEAD = PLAIN[: heads.end_of(PLAIN)]
SAME = (
    *("method", "path", "size", "length", "keep_alive", "special"),
    *("_before", "_digits", "_behind", "_content_type"),
)
DIGITS = HEAD.index(b"Content-Length: ") + len(b"Content-Length: ")


def test_another_length_is_read_without_parsing_the_head_again() -> None:
    last = heads.read(HEAD, LINES)
    assert last is not None
    assert last.again(HEAD) is last

    found = last.again(HEAD[:DIGITS] + b"12345" + HEAD[HEAD.index(b"\r\n", DIGITS) :])

    assert found is not None
    assert (found.length, found.get("content-length"), found.path) == (12345, "12345", last.path)


@given(
    start=st.one_of(st.integers(DIGITS - 3, DIGITS + 4), st.integers(0, len(HEAD))),
    length=st.integers(0, 8),
    put=st.sampled_from(
        [
            *(b"", b"0", b"07", b"12345", b"9" * 12, b"9" * 30, b" ", b"7 ", b"-1", b"+1", b"1_0", b"0x1"),
            *(b"7,7", b"\r\n", b"7\r\nX: 7", b"7\r\nContent-Length: 7", b"7\r\n\r\n", b"\xb2", b"\x00"),
        ]
    ),
)
@settings(max_examples=400)
def test_a_head_taken_for_the_last_one_is_what_it_would_be_alone(start: int, length: int, put: bytes) -> None:
    last = heads.read(HEAD, LINES)
    assert last is not None
    head = HEAD[:start] + put + HEAD[start + length :]

    for data in (head, head + BODY, head + HEAD):
        found = last.again(data)

        if found is not None:
            alone = heads.read(data[: heads.end_of(data)], LINES)
            assert alone is not None
            for name in SAME:
                assert getattr(found, name) == getattr(alone, name)


FIELD_NAMES = [b"Content-Length", b"content-length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"X-A"]
FIELD_VALUES = [
    b"5",
    b" 5",
    b"5 ",
    b"",
    b"chunked",
    b"close",
    b"keep-alive",
    b"Keep-Alive",
    b"upgrade",
    b"a\tb",
]
field_lines = st.lists(
    st.tuples(
        st.sampled_from(FIELD_NAMES),
        st.sampled_from([b": ", b":", b" : ", b":\t", b":\r\n "]),
        st.sampled_from(FIELD_VALUES),
        st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"]),
    ).map(b"".join),
    max_size=4,
)
START = b"POST /v1/chat/completions HTTP/1.1\r\n"


@given(field_lines, st.data())
@settings(max_examples=400, deadline=None)
def test_whatever_head_the_front_takes_aiohttp_reads_the_same(
    lines: list[bytes], data: st.DataObject
) -> None:
    head = START + b"Host: h\r\n" + b"".join(lines) + b"\r\n"
    if data.draw(st.booleans()):
        # Any byte at any place, but for the line that makes it ours.
        at = data.draw(st.integers(len(START), len(head) - 4))
        head = head[:at] + bytes([data.draw(st.integers(0, 255))]) + head[at + data.draw(st.integers(0, 1)) :]
    agrees(head[: heads.end_of(head)])


@pytest.mark.parametrize(
    "fields",
    [
        b"X: " + b"a" * heads.HEAD_BYTES_MAX + b"\r\n",
        b"".join(b"X-%d: y\r\n" % number for number in range(heads.FIELDS_MAX + 1)),
        "X: ü\r\n".encode(),
    ],
)
def test_a_head_beyond_the_usual_is_aiohttps_to_judge(fields: bytes) -> None:
    request = PLAIN.replace(b"Host:", fields + b"Host:")

    asked, said, heir, _ = outcome(cut(request, [100, 5000] if len(request) > 6000 else [100]))

    assert (asked, said, heir) == ([], b"", request)


# --- bounds and deadlines


async def test_what_is_sent_ahead_of_an_answer_is_bounded_and_read_on_afterwards() -> None:
    bench = Bench()
    bench.open.clear()
    await bench.feed(PLAIN, HEALTH * 100)
    assert bench.wire.reading
    await bench.feed(HEALTH * (front.AHEAD_BYTES_MAX // len(HEALTH)))
    assert not bench.wire.reading
    assert len(bench.asked) == 1

    bench.open.set()
    async with asyncio.timeout(20):
        while len(bench.asked) < 101 + front.AHEAD_BYTES_MAX // len(HEALTH):
            await bench.rest()

    assert bench.wire.reading
    await bench.leave()


async def test_the_rest_of_a_refused_body_is_not_kept() -> None:
    bench = Bench()
    length = 2**30
    refused = PLAIN[: heads.end_of(PLAIN)].replace(b"Length: %d" % len(BODY), b"Length: %d" % length)
    await bench.feed(refused + b"x" * 1000)
    assert bench.wire.written.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in bench.wire.written
    assert not bench.wire.closing  # until the client has seen the answer

    await bench.feed(*[b"x" * 2**16] * 8)

    assert bench.connection.missing == length - 1000 - 2**19
    assert bench.connection.taken() == b""
    await bench.leave()


async def test_a_body_that_comes_after_its_refusal_is_no_request() -> None:
    bench = Bench()
    refused = PLAIN.replace(b"Host:", b"X-Refuse: 1\r\nHost:").replace(BODY, HEALTH * 3)
    refused = refused.replace(b"Length: %d" % len(BODY), b"Length: %d" % (3 * len(HEALTH)))

    await bench.feed(refused[:-50], refused[-50:] + PLAIN)

    assert STATUS.findall(bytes(bench.wire.written)) == [b"400", b"200"]
    assert [body for _, body in bench.asked] == [BODY]
    await bench.leave()


async def test_a_body_is_put_together_from_its_pieces() -> None:
    bench = Bench()
    end = heads.end_of(PLAIN)

    await bench.feed(*cut(PLAIN, [end, end + 1, end + 20]))

    assert bench.asked == [("/v1/chat/completions", BODY)]
    await bench.leave()


@pytest.mark.parametrize(
    "pieces",
    [[], [HEALTH], [HEALTH + PLAIN[:40]], [PLAIN[:2], PLAIN[2:40]], [HEALTH, PLAIN[:2], PLAIN[2:99]]],
    ids=["silence", "idle", "half a later head", "half a head", "half a later head in pieces"],
)
async def test_silence_and_half_a_head_have_their_deadlines(
    monkeypatch: pytest.MonkeyPatch, pieces: list[bytes]
) -> None:
    monkeypatch.setattr(front, "SWEEP_S", 0.01)
    idle = pieces == [HEALTH]
    monkeypatch.setattr(sockets, "HEAD_S", 30.0 if idle else 0.1)
    monkeypatch.setattr(sockets, "KEEP_ALIVE_S", 0.1 if idle else 30.0)
    bench = Bench()
    started = asyncio.get_running_loop().time()
    await bench.feed(*pieces)

    async with asyncio.timeout(5):
        while not bench.wire.closing:
            await asyncio.sleep(0.005)

    assert asyncio.get_running_loop().time() - started >= 0.09
    assert bench.wire.written.count(b"HTTP/1.1 ") == b"".join(pieces).count(HEALTH)
    await bench.leave()


async def test_a_head_that_is_handed_over_keeps_its_deadline() -> None:
    bench = Bench()
    bench.connection.due_s -= 10.0

    await bench.feed(b"GET /h", b"ttp")

    assert bench.heirs.own[0].received == b"GET /http"
    assert sockets.HEAD_S - 10.5 < bench.heirs.own[0].head_s <= sockets.HEAD_S - 10.0


async def test_a_later_request_that_is_handed_over_has_all_its_time() -> None:
    bench = Bench()

    await bench.feed(HEALTH, b"GET /elsewhere")

    assert sockets.HEAD_S - 0.5 < bench.heirs.own[0].head_s <= sockets.HEAD_S


async def test_the_sweep_ends_with_the_last_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "SWEEP_S", 0.01)
    bench = Bench()
    await bench.leave()

    async with asyncio.timeout(5):
        while bench.front._sweeping:
            await asyncio.sleep(0.005)


# --- aiohttp is imported when it is needed


def test_nothing_imports_aiohttp_before_it_is_needed() -> None:
    code = "import sys, tokenhub_proxy.serve; print(*(name for name in sys.modules if 'aiohttp' in name))"

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )

    assert done.stdout.split() == []


class Late(Bench):
    """A bench where aiohttp comes when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failure: Exception | None = None) -> None:
        super().__init__()
        self.front.aiohttp = None
        self.come = threading.Event()

        def imported() -> Any:
            assert self.come.wait(10)
            if failure is not None:
                raise failure
            return lambda serve, request_id: self.heirs

        monkeypatch.setattr(front, "_aiohttp_server", imported)

    async def arrive(self) -> None:
        self.come.set()
        async with asyncio.timeout(10):
            while self.front._importing is not None:
                await asyncio.sleep(0.002)


async def test_a_connection_waits_for_aiohttp_and_is_read_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch)
    await late.feed(HEALTH + ELSEWHERE + PLAIN)
    assert (late.wire.reading, late.heirs.own) == (False, [])
    other = late.front()
    other.connection_made(Wire())
    other.data_received(HEALTH)
    await late.rest()
    assert len(late.asked) == 2  # nobody else waits

    await late.arrive()

    assert late.wire.reading
    assert late.heirs.own[0].received == ELSEWHERE + PLAIN
    assert late.connection not in late.front.connections
    other.connection_lost(None)


async def test_a_client_that_leaves_while_aiohttp_is_awaited_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch)
    await late.feed(ELSEWHERE)
    late.wire.close()
    await late.leave()

    await late.arrive()

    assert late.heirs.own == []
    assert late.front.connections == []


async def test_without_an_aiohttp_the_connection_is_closed_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    late = Late(monkeypatch, ImportError("no such module"))
    await late.feed(ELSEWHERE)

    await late.arrive()

    assert late.wire.closing
    assert "no such module" in caplog.text
    await late.leave()


# --- over real sockets


def handed_over(proxy: Running) -> int:
    """How many connections are aiohttp's by now."""
    aiohttp = proxy.proxy._server.aiohttp
    return 0 if aiohttp is None else len(aiohttp.own)


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bytes]:
    """One request on a connection that stays open."""
    writer.write(request)
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head[9:12]), await reader.readexactly(length)


async def test_a_connection_is_handed_over_once_and_serves_on(proxy: Running, upstream: FakeUpstream) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert [(await ask(reader, writer, request))[0] for request in (PLAIN, HEALTH, PLAIN)] == [200] * 3
    assert handed_over(proxy) == 0

    assert (await ask(reader, writer, ELSEWHERE))[0] == 404
    assert handed_over(proxy) == 1
    assert [(await ask(reader, writer, request))[0] for request in (PLAIN, ELSEWHERE, HIDDEN)] == [
        200,
        404,
        200,
    ]

    assert [asked.body["messages"][0]["content"] for asked in upstream.asked] == ["Hi", "Hi", "Hi", "Ho"]
    writer.close()
    await writer.wait_closed()


async def test_pipelined_requests_are_answered_in_order_across_a_hand_over(
    proxy: Running, upstream: FakeUpstream
) -> None:
    last = HEALTH.replace(b"Host", b"Connection: close\r\nHost")

    said = await raw(proxy, PLAIN + ELSEWHERE + HIDDEN + last)

    assert STATUS.findall(said) == [b"200", b"404", b"200", b"200"]
    assert [asked.body["messages"][0]["content"] for asked in upstream.asked] == ["Hi", "Ho"]


@pytest.mark.parametrize("name", ["a NUL in a header's name", "two lengths", "a folded header"])
async def test_bad_http_behind_good_calls_has_our_error_body_and_the_last_word(
    proxy: Running, upstream: FakeUpstream, name: str
) -> None:
    said = await raw(proxy, PLAIN + REFUSED[name] + HIDDEN)

    assert STATUS.findall(said) == [b"200", b"400"]
    assert error_of(said.rpartition(b"\r\n\r\n")[2])["code"] == "invalid_request"
    assert len(upstream.asked) == 1


async def test_models_and_keys_are_the_same_on_both_fronts(proxy: Running) -> None:
    request = f"GET /v1/models HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)

    lean = await ask(reader, writer, request)
    await ask(reader, writer, ELSEWHERE)
    by_aiohttp = await ask(reader, writer, request)

    assert lean == by_aiohttp
    assert lean[0] == 200
    writer.close()
    await writer.wait_closed()


async def test_a_connection_is_whoever_its_latest_head_says_and_what_the_books_say_now(
    proxy: Running,
) -> None:
    verbs = administration(proxy.proxy.relay, proxy.ledger)
    second = (await verbs.keys_create({"name": "second"}))["secret"]
    wrong = second[:-1] + ("a" if second[-1] != "a" else "b")
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)

    async def status(secret: str) -> int:
        return (await ask(reader, writer, PLAIN.replace(KEY.encode(), secret.encode())))[0]

    said = [await status(KEY), await status(second), await status(second), await status(wrong)]
    await verbs.keys_update({"name": "second", "models": ["another"]})
    said.append(await status(second))
    await verbs.keys_update({"name": "second", "models": ["*"]})
    said.append(await status(second))
    fresh = (await verbs.keys_rotate({"name": "second"}))["secret"]
    said += [await status(second), await status(fresh)]
    await verbs.keys_revoke({"name": "second"})
    said += [await status(fresh), await status(KEY)]

    assert said == [200, 200, 200, 401, 403, 200, 401, 200, 401, 200]
    assert proxy.exchanges[-1].key.name == "tester"
    writer.close()
    await writer.wait_closed()


async def test_a_call_that_broke_down_leaves_the_connection_to_the_next() -> None:
    bench, told = Bench(), []
    served = bench.front.serve

    async def breaks(client: HttpClient) -> None:
        await connection.answer(client, 500, {}, b"")
        raise RuntimeError("a bug")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    bench.front.serve = breaks
    await bench.feed(PLAIN)
    bench.front.serve = served
    await bench.feed(PLAIN + PLAIN)

    assert [body for _, body in bench.asked] == [BODY, BODY]
    await bench.leave()


async def test_an_idle_connection_that_is_lost_leaves_no_task_behind() -> None:
    bench = Bench()
    await bench.feed(PLAIN)

    await bench.leave()

    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_body_is_asked_for_only_behind_the_answer_before_it() -> None:
    bench = Bench()
    expecting = PLAIN[: heads.end_of(PLAIN)].replace(b"Host", b"Expect: 100-continue\r\nHost")

    # The first of these is written at once, the second waits for the end of the turn.
    bench.connection.data_received(PLAIN + PLAIN + expecting)
    await bench.rest()
    await bench.feed(BODY)

    written = bytes(bench.wire.written)
    assert written.count(BODY) == 3
    assert written.split(connection.CONTINUE)[0].count(BODY) == 2
    await bench.leave()
