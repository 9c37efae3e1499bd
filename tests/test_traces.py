"""Traces: a span a request and one an attempt, in the conventions' words, told off the event loop."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes

from tests.conftest import KEY, Running, Serve, one_upstream
from tests.served import ROOT, environment, run
from tests.test_metrics import at, parsed, scraped
from tests.upstream import FakeUpstream, json_says
from tokenhub_proxy.tracing import CURRENT, Trace, Tracer, export
from tokenhub_proxy.tracing.spans import provider

WAIT_S = 20.0
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
CANARY = "canary-of-the-prompt"
HEADER_SECRET = "collector-secret"


class Collector:
    """Takes OTLP over HTTP as collectors do, or refuses it."""

    def __init__(self) -> None:
        collector = self
        self.status = 200
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.bodies.append(body)
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(collector.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def spans(self) -> list[Any]:
        found = []
        for body in self.bodies:
            request = ExportTraceServiceRequest.FromString(body)
            found += [
                span for of in request.resource_spans for scope in of.scope_spans for span in scope.spans
            ]
        return found

    async def until(self, count: int) -> list[Any]:
        deadline = time.monotonic() + WAIT_S
        while len(found := self.spans()) < count:
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.02)
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


@pytest.fixture
async def traced(serve: Serve, upstream: FakeUpstream, collector: Collector, monkeypatch: Any) -> Running:
    monkeypatch.setattr(export, "PAUSE_S", 0.02)
    return await serve(one_upstream(upstream.base_url, traces(collector)))


def traces(collector: Collector, more: str = "") -> str:
    return f"traces: {{endpoint: '{collector.endpoint}', headers: {{x-auth: {HEADER_SECRET}}}{more}}}\n"


async def ask(proxy: Running, model: str = "m", headers: Any = (), **more: Any) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": CANARY}], **more}
    async with (
        aiohttp.ClientSession(headers={**proxy.headers, **dict(headers)}) as session,
        session.post(f"{proxy.base_url}/chat/completions", json=body) as answer,
    ):
        await answer.read()
        return answer.status


def attributes(span: Any) -> dict[str, Any]:
    found = {}
    for one in span.attributes:
        kind = one.value.WhichOneof("value")
        found[one.key] = getattr(one.value, kind)
    return found


async def test_a_call_is_a_span_with_its_attempt_below(
    traced: Running, upstream: FakeUpstream, collector: Collector
) -> None:
    before_ns = time.time_ns()
    assert await ask(traced, stream=True, max_tokens=50, headers={"traceparent": TRACEPARENT}) == 200
    root, attempt = await collector.until(2)
    assert (root.name, root.kind, root.status.code) == ("chat m", 2, 0)
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    first = attributes(root)
    assert 0 < first.pop("gen_ai.response.time_to_first_chunk") < WAIT_S
    assert first == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 50,
        "gen_ai.response.model": "real-m",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.cache_creation.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "tokenhub.upstream": "up",
        "tokenhub.request_id": traced.exchanges[0].id,
        "tokenhub.key_id": "config:tester",
        "tokenhub.billing": "usage",
        "tokenhub.cost_usd": "0.00006",
    }
    assert (attempt.name, attempt.kind, attempt.status.code) == ("chat real-m", 3, 0)
    assert (attempt.trace_id, attempt.parent_span_id) == (root.trace_id, root.span_id)
    assert attributes(attempt) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "real-m",
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": int(upstream.base_url.split(":")[2].split("/")[0]),
        "tokenhub.upstream": "up",
    }
    times = [root.start_time_unix_nano, attempt.start_time_unix_nano, attempt.end_time_unix_nano]
    assert [before_ns - 10**6, *times] == sorted([before_ns - 10**6, *times])
    assert root.end_time_unix_nano >= attempt.end_time_unix_nano
    assert upstream.asked[0].headers["traceparent"] == f"00-{TRACE}-{attempt.span_id.hex()}-01"
    assert collector.headers[0]["x-auth"] == HEADER_SECRET


async def test_every_attempt_is_a_span_of_its_own(
    serve: Serve, upstream: FakeUpstream, collector: Collector, monkeypatch: Any
) -> None:
    monkeypatch.setattr(export, "PAUSE_S", 0.02)
    proxy = await serve(
        f"""
upstreams:
  bad: {{dialect: openai, base_url: "{upstream.base_url}/bad", api_key: k}}
  gone: {{dialect: openai, base_url: "http://127.0.0.1:9/v1", api_key: k}}
  up: {{dialect: openai, base_url: "{upstream.base_url}", api_key: k}}
models:
  m:
    targets:
      - {{upstream: bad, priority: 1}}
      - {{upstream: gone, priority: 2}}
      - {{upstream: up, priority: 3}}
    price: free
{traces(collector)}"""
    )
    upstream.says = lambda asked: (
        json_says(b"{}", 503) if "/bad" in asked.path else json_says(orjson.dumps(WHOLE))
    )
    assert await ask(proxy) == 200
    root, *attempts = await collector.until(4)
    told = [
        (found["tokenhub.upstream"], found.get("http.response.status_code"), found.get("error.type"))
        for found in map(attributes, attempts)
    ]
    assert told == [("bad", 503, "503"), ("gone", None, "refused"), ("up", 200, None)]
    assert [one.status.code for one in attempts] == [2, 2, 0]
    assert root.status.code == 0
    assert len({one.span_id for one in (root, *attempts)}) == 4


WHOLE = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}  # fmt: skip


async def test_a_refusal_is_a_span_with_its_error_and_no_attempt(
    traced: Running, collector: Collector
) -> None:
    assert await ask(traced, "nosuch") == 404
    assert await ask(traced, headers={"Authorization": "Bearer sk-th-nobody"}) == 401
    unknown, stranger = await collector.until(2)
    assert attributes(unknown)["error.type"] == "model_not_found"
    assert attributes(unknown)["gen_ai.request.model"] == "nosuch"
    assert (stranger.name, attributes(stranger)["error.type"]) == ("chat", "invalid_api_key")
    assert {unknown.status.code, stranger.status.code} == {0}  # the client's fault is no error of a server


async def test_calls_at_once_keep_their_traces_apart(
    traced: Running, upstream: FakeUpstream, collector: Collector
) -> None:
    said = {f"{number:032x}": f"00-{number:032x}-{PARENT}-01" for number in range(1, 21)}
    await asyncio.gather(*(ask(traced, headers={"traceparent": one}) for one in said.values()))
    spans = await collector.until(40)
    roots = {span.span_id: span.trace_id.hex() for span in spans if span.kind == 2}
    assert sorted(roots.values()) == sorted(said)
    assert all(roots[span.parent_span_id] == span.trace_id.hex() for span in spans if span.kind == 3)
    heard = {asked.headers["traceparent"].split("-")[1] for asked in upstream.asked}
    assert heard == set(said)


async def test_the_log_names_the_trace(serve: Serve, upstream: FakeUpstream, collector: Collector) -> None:
    log = io.StringIO()
    proxy = await serve(one_upstream(upstream.base_url, traces(collector)), log=log)
    await ask(proxy, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    await asyncio.sleep(0)
    assert orjson.loads(log.getvalue())["trace_id"] == TRACE


async def test_no_content_and_no_secret_is_told(
    traced: Running, upstream: FakeUpstream, collector: Collector
) -> None:
    await ask(traced, stream=True)
    await ask(traced, "nosuch")
    await collector.until(3)
    told = b"".join(collector.bodies)
    for secret in (CANARY, KEY, "sk-upstream-secret", HEADER_SECRET, "Hello"):
        assert secret.encode() not in told


async def test_the_names_are_those_of_the_conventions(traced: Running, collector: Collector) -> None:
    await ask(traced, stream=True, n=2, max_tokens=5)
    await ask(traced, "nosuch")
    known = {
        value
        for module in (gen_ai_attributes, error_attributes, http_attributes, server_attributes)
        for value in vars(module).values()
        if isinstance(value, str)
    }
    told = {name for span in await collector.until(3) for name in attributes(span)}
    assert {name for name in told if not name.startswith("tokenhub.")} <= known
    values = {each.value for each in gen_ai_attributes.GenAiProviderNameValues}
    hosts = ("api.groq.com", "api.deepseek.com", "api.mistral.ai", "api.x.ai", "api.perplexity.ai", "else")
    named = {provider("openai", host) for host in hosts}
    named |= {provider(dialect, "") for dialect in ("anthropic", "azure", "bedrock", "gemini", "openai")}
    assert named <= values
    assert len(named) == 10


async def test_a_client_that_does_not_sample_is_not_told_of_but_passed_on(
    traced: Running, upstream: FakeUpstream, collector: Collector
) -> None:
    await ask(traced, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    await ask(traced)
    root, attempt = await collector.until(2)
    assert root.trace_id.hex() != TRACE
    assert not root.parent_span_id
    assert upstream.asked[0].headers["traceparent"].startswith(f"00-{TRACE}-")
    assert upstream.asked[0].headers["traceparent"].endswith("-00")
    assert upstream.asked[1].headers["traceparent"] == f"00-{root.trace_id.hex()}-{attempt.span_id.hex()}-01"


async def test_upstreams_hear_nothing_where_the_config_says_so(
    serve: Serve, upstream: FakeUpstream, collector: Collector, monkeypatch: Any
) -> None:
    monkeypatch.setattr(export, "PAUSE_S", 0.02)
    more = traces(collector, ", propagate: false, sample_percent: 0")
    proxy = await serve(one_upstream(upstream.base_url, more))
    await ask(proxy)
    await ask(proxy, headers={"traceparent": TRACEPARENT})
    root, _ = await collector.until(2)
    assert root.trace_id.hex() == TRACE
    assert len(collector.spans()) == 2
    assert not any("traceparent" in {name.lower() for name in asked.headers} for asked in upstream.asked)


async def test_without_the_option_upstreams_hear_nothing_and_nothing_is_counted(
    proxy: Running, upstream: FakeUpstream
) -> None:
    await ask(proxy, headers={"traceparent": TRACEPARENT})
    assert "traceparent" not in {name.lower() for name in upstream.asked[0].headers}
    assert "tokenhub_traced" not in (await scraped(proxy))[0]
    assert CURRENT.get() is None


def test_without_the_option_nothing_of_it_is_imported(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from tokenhub_proxy import config, serve, wiring

async def main():
    read = config.load("listen: 127.0.0.1:0", name="c", folder=Path(), environ={}, read_file=Path.read_text)
    proxy = await wiring.start(read)
    carriers = proxy._transports
    assert proxy.relay.fallback._transport is carriers, "calls are carried by what they would be anyway"
    await proxy.stop(0.0)

asyncio.run(main())
print([name for name in sys.modules if name.startswith(("opentelemetry", "tokenhub_proxy.tracing"))])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


async def test_what_a_collector_refuses_is_counted_and_harms_no_call(
    traced: Running, collector: Collector
) -> None:
    collector.status = 400
    assert await ask(traced) == 200
    deadline = time.monotonic() + WAIT_S
    while (found := parsed((await scraped(traced))[0]))[_outcome("failed")] < 1:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert found[_outcome("exported")] == 0
    collector.status = 200
    assert await ask(traced) == 200
    await collector.until(4)


def _outcome(name: str) -> Any:
    return at("tokenhub_traced_requests_total", outcome=name)


async def test_what_is_left_is_told_at_the_end(
    serve: Serve, upstream: FakeUpstream, collector: Collector, monkeypatch: Any
) -> None:
    monkeypatch.setattr(export, "PAUSE_S", 3600.0)
    proxy = await serve(one_upstream(upstream.base_url, traces(collector)))
    await ask(proxy)
    assert collector.spans() == []
    await proxy.proxy.drain(1.0)
    assert len(collector.spans()) == 2


class Hanging:
    """A collector that takes connections and never answers."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.endpoint = ""
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1/traces"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.connected.set()

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()


@pytest.fixture
async def hanging(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hanging]:
    monkeypatch.setattr(export, "PAUSE_S", 0.02)
    monkeypatch.setattr(export, "CLOSE_S", 0.2)
    one = Hanging()
    await one.start()
    yield one
    await one.stop()


async def test_a_collector_that_hangs_delays_nobody_and_what_is_too_much_is_counted(
    serve: Serve, upstream: FakeUpstream, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "QUEUE_MAX", 2)
    proxy = await serve(one_upstream(upstream.base_url, f"traces: {{endpoint: '{hanging.endpoint}'}}\n"))
    begun_s = time.monotonic()
    assert await ask(proxy) == 200
    await asyncio.wait_for(hanging.connected.wait(), WAIT_S)
    for _ in range(5):
        assert await ask(proxy) == 200
    assert parsed((await scraped(proxy))[0])[_outcome("dropped")] == 3
    await proxy.proxy.drain(1.0)
    assert time.monotonic() - begun_s < export.EXPORT_S / 2
    assert parsed("".join(proxy.proxy.instruments.render()))[_outcome("dropped")] == 5


# --- W3C Trace Context


def begun(tracer: Tracer, *said: str) -> Trace:
    class Headers:
        def get(self, name: str, default: str = "", /) -> str | None:
            raise NotImplementedError

        def getall(self, name: str, default: Any = (), /) -> Any:
            assert name == "traceparent"
            return said

    tracer.begin(Headers())
    trace = CURRENT.get()
    assert trace is not None
    return trace


@pytest.mark.parametrize(
    "said",
    [
        (), ("",), ("nonsense",), (TRACEPARENT, TRACEPARENT), (TRACEPARENT.upper(),),
        (f"{TRACEPARENT}-more",), (f"ff{TRACEPARENT[2:]}",), (f"00-{'0' * 32}-{PARENT}-01",),
        (f"00-{TRACE}-{'0' * 16}-01",),
        (f"00-{TRACE}-{PARENT}-1",), (f"00-{TRACE[1:]}-{PARENT}-01",),
    ],
)  # fmt: skip
def test_a_malformed_header_begins_a_new_trace(said: tuple[str, ...]) -> None:
    trace = begun(Tracer(1.0, lambda bits: 5), *said)
    assert (trace.trace_id, trace.parent_id, trace.span_id, trace.sampled) == (5, 0, 5, True)


def test_a_later_version_is_read_as_this_one() -> None:
    trace = begun(Tracer(0.0, lambda bits: 5), f"cc-{TRACE}-{PARENT}-09-more")
    assert (f"{trace.trace_id:032x}", f"{trace.parent_id:016x}", trace.sampled) == (TRACE, PARENT, True)
    assert trace.traceparent(7) == f"00-{TRACE}-{7:016x}-01"


@given(st.integers(0, 100), st.integers(0, 2**128 - 1))
def test_so_many_traces_are_sampled_as_the_config_says(percent: int, trace_id: int) -> None:
    trace = begun(Tracer(percent / 100, lambda bits: trace_id & (2**bits - 1)))
    assert trace.sampled == ((trace_id or 1) % 2**56 < int(percent / 100 * 2**56))


def test_a_start_without_the_extra_says_what_is_missing(tmp_path: Any) -> None:
    (tmp_path / "config.yaml").write_text("listen: 127.0.0.1:0\ntraces: {endpoint: http://127.0.0.1:9/v1}\n")
    hidden = tmp_path / "opentelemetry"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("")
    done = run(tmp_path, "serve", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'tokenhub-proxy[otel]'" in done.stderr
