"""What can go wrong before a connection is there, each with its kind; and TLS that is never unverified."""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.chaos import CHUNKED, Action, answer, chunk, close, request, reset, send, serve, unanswered, wait
from tests.transports.asking import ask, every_call_was_looked_at, outgoing
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.routes import Timeouts
from tokenhub_proxy.transports import connect as connect_module
from tokenhub_proxy.transports import rounds
from tokenhub_proxy.transports.live import Live
from tokenhub_proxy.wire import Outgoing

QUICK = Timeouts(connect_s=0.2)
ANSWERING: list[Action] = [request(), send(answer(b"ok"))]


async def refused(live: Live, asked: Outgoing) -> str:
    """The kind of a refusal for which nothing was sent."""
    with pytest.raises(UpstreamUnavailable) as caught:
        await ask(live, asked)
    assert not caught.value.executed
    assert live.statistics["up"].open == 0
    return caught.value.kind


# Names and addresses


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[int, tuple[Any, ...]]) -> None:
    """Make every name stand for these addresses, in this order."""
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def getaddrinfo(host: str, port: int, **options: Any) -> list[Any]:
        if not host.endswith(".example"):  # uvloop sends numeric addresses through here too
            return await real(host, port, **options)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(family, socket.SOCK_STREAM, 0, "", target) for family, target in addresses]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)


async def test_a_name_that_does_not_exist(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch)
    assert await refused(live, outgoing("http://nowhere.example")) == "dns"


async def test_a_name_that_no_host_can_have(live: Live) -> None:
    assert await refused(live, outgoing(f"http://{'x' * 64}.example")) == "dns"


async def test_a_resolver_that_does_not_answer_is_a_dns_fault(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def getaddrinfo(host: str, port: int, **_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    assert await refused(live, outgoing("http://slow.example", timeouts=QUICK)) == "dns"


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a connection has to be waited for")
async def test_an_address_of_this_machine_is_reached_without_a_resolver(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def getaddrinfo(host: str, port: int, **_: Any) -> None:
        raise AssertionError(host)

    async with serve(ANSWERING) as upstream:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        assert (await ask(live, outgoing(upstream.url))).body == b"ok"


async def test_a_port_where_nobody_listens(live: Live) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert await refused(live, outgoing(f"http://127.0.0.1:{unused.getsockname()[1]}")) == "refused"


async def test_a_host_that_drops_every_packet(live: Live) -> None:
    with unanswered() as (host, port):
        assert await refused(live, outgoing(f"http://{host}:{port}", timeouts=QUICK)) == "connect_timeout"


async def test_a_network_that_can_not_be_reached(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    # A broadcast address is one that TCP refuses to connect to.
    resolving(monkeypatch, (socket.AF_INET, ("255.255.255.255", 80)))
    assert await refused(live, outgoing("http://far.example")) == "unreachable"


async def test_an_address_that_does_not_answer_costs_a_quarter_of_a_second_not_the_deadline(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    with unanswered() as hole:
        async with serve(ANSWERING) as upstream:
            resolving(monkeypatch, (socket.AF_INET, hole), (socket.AF_INET, (upstream.host, upstream.port)))
            begun_s = asyncio.get_running_loop().time()
            assert (await ask(live, outgoing("http://double.example"))).body == b"ok"
            assert 0.2 < asyncio.get_running_loop().time() - begun_s < 2
            await asyncio.sleep(0.01)
            trying = [task for task in asyncio.all_tasks() if "_attempt" in repr(task.get_coro())]
            assert trying == []


async def test_an_address_that_refuses_costs_nothing(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect_module, "_ATTEMPT_DELAY_S", 60)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with serve(ANSWERING) as upstream:
            good = (socket.AF_INET, (upstream.host, upstream.port))
            resolving(monkeypatch, (socket.AF_INET, unused.getsockname()), good)
            assert (await ask(live, outgoing("http://double.example"))).body == b"ok"


async def test_when_all_addresses_fail_the_last_failure_is_told(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        resolving(
            monkeypatch, (socket.AF_INET, ("255.255.255.255", 80)), (socket.AF_INET, unused.getsockname())
        )
        assert await refused(live, outgoing("http://double.example")) == "refused"


async def test_of_addresses_that_answer_in_one_moment_one_socket_stays_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = asyncio.Event()
    sockets: list[socket.socket] = []

    async def attempt(loop: object, address: object) -> socket.socket:
        await moment.wait()
        sockets.append(socket.socket())
        return sockets[-1]

    monkeypatch.setattr(connect_module, "_attempt", attempt)
    monkeypatch.setattr(connect_module, "_ATTEMPT_DELAY_S", 0)
    loop = asyncio.get_running_loop()
    loop.call_later(0.05, moment.set)
    with await connect_module._first_to_answer(loop, [(socket.AF_INET,)] * 5) as first:
        await asyncio.sleep(0)
        assert len(sockets) == 5
        assert [sock for sock in sockets if sock.fileno() != -1] == [first]


async def test_addresses_that_answer_together_leave_one_connection(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect_module, "_ATTEMPT_DELAY_S", 0)
    async with serve(ANSWERING) as upstream:
        resolving(monkeypatch, *[(socket.AF_INET, (upstream.host, upstream.port))] * 5)
        assert (await ask(live, outgoing("http://many.example"))).body == b"ok"
        assert live.statistics["up"].open == 1
        for peer in upstream.peers:
            if not peer.requests:
                await peer.gone()


def test_families_are_tried_in_turn_beginning_with_the_preferred_one() -> None:
    addresses = [(6, "a"), (6, "b"), (6, "c"), (4, "d")]
    assert connect_module._interleaved(addresses) == [(6, "a"), (4, "d"), (6, "b"), (6, "c")]


@pytest.mark.parametrize("after_s", [0.0, 0.1])
async def test_cancelling_while_connecting_leaves_no_socket(
    live: Live, monkeypatch: pytest.MonkeyPatch, after_s: float
) -> None:
    monkeypatch.setattr(connect_module, "_ATTEMPT_DELAY_S", 0.01)
    with unanswered() as hole:
        resolving(monkeypatch, (socket.AF_INET, hole), (socket.AF_INET, hole))
        asking = asyncio.get_running_loop().create_task(ask(live, outgoing("http://hole.example")))
        await asyncio.sleep(after_s)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert live.statistics["up"].in_flight == 0


# TLS


@dataclass(frozen=True)
class Authority:
    """A certificate authority made for the tests, and what a client trusts it by."""

    ca: trustme.CA
    ca_file: str

    def server(self, *names: str, **options: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*names, **options).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    ca = trustme.CA()
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    yield Authority(ca, str(path))
    connect_module._contexts.pop(str(path), None)


async def test_tls_with_the_authority_of_ca_file(live: Live, authority: Authority) -> None:
    script = [request(), send(answer(b"one")), request(), send(CHUNKED + chunk(b"two") + chunk(b""))]
    context = authority.server("127.0.0.1")
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with serve(script, tls=context) as upstream:
        asked = outgoing(upstream.url, ca_file=authority.ca_file)
        assert (await ask(live, asked)).body == b"one"
        assert (await ask(live, asked)).body == b"two"
        assert len(upstream.peers) == 1
        chosen = upstream.peers[0].transport.get_extra_info("ssl_object").selected_alpn_protocol()
        assert chosen == "http/1.1"


async def test_an_unknown_authority_is_refused(live: Live, authority: Authority) -> None:
    async with serve(ANSWERING, tls=authority.server("127.0.0.1")) as upstream:
        assert await refused(live, outgoing(upstream.url)) == "tls_verify"
        assert all(peer.received == b"" for peer in upstream.peers)


async def test_a_certificate_for_another_host_is_refused(live: Live, authority: Authority) -> None:
    async with serve(ANSWERING, tls=authority.server("example.org")) as upstream:
        asked = outgoing(upstream.url, ca_file=authority.ca_file)
        assert await refused(live, asked) == "tls_verify"


async def test_an_expired_certificate_is_refused(live: Live, authority: Authority) -> None:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    context = authority.server("127.0.0.1", not_before=past, not_after=past + datetime.timedelta(days=1))
    async with serve(ANSWERING, tls=context) as upstream:
        asked = outgoing(upstream.url, ca_file=authority.ca_file)
        assert await refused(live, asked) == "tls_verify"


async def test_a_handshake_that_is_never_answered(live: Live) -> None:
    async with serve([]) as upstream:
        url = upstream.url.replace("http:", "https:")
        assert await refused(live, outgoing(url, timeouts=QUICK)) == "tls_timeout"
        await upstream.peers[0].gone()


@pytest.mark.parametrize("actions", [[send(b"HTTP/1.1 400 Plain\r\n\r\n")], [close()], [reset()]])
async def test_a_handshake_that_fails(live: Live, actions: list[Action]) -> None:
    async with serve(actions) as upstream:
        assert await refused(live, outgoing(upstream.url.replace("http:", "https:"))) == "tls"


async def test_a_ca_file_that_is_not_there(live: Live, tmp_path: Path) -> None:
    async with serve([]) as upstream:
        url = upstream.url.replace("http:", "https:")
        assert await refused(live, outgoing(url, ca_file=str(tmp_path / "none.pem"))) == "tls"
        while not upstream.peers:
            await asyncio.sleep(0.005)
        await upstream.peers[0].gone()


async def test_cancelling_in_the_handshake_closes_the_connection(live: Live) -> None:
    async with serve([]) as upstream:
        asked = outgoing(upstream.url.replace("http:", "https:"))
        asking = asyncio.get_running_loop().create_task(ask(live, asked))
        while not (upstream.peers and upstream.peers[0].received):
            await asyncio.sleep(0.005)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await upstream.peers[0].gone()


async def test_leaving_a_tls_stream_closes_it_at_once(live: Live, authority: Authority) -> None:
    async with serve([request(), send(CHUNKED + chunk(b"a"))], tls=authority.server("127.0.0.1")) as upstream:
        async with live.send(outgoing(upstream.url, ca_file=authority.ca_file)):
            pass
        async with asyncio.timeout(1):
            await upstream.peers[0].gone()


@pytest.mark.skipif(rounds.sys.platform != "linux", reason="there are no rounds elsewhere")
async def test_a_tls_stream_is_never_read_in_rounds(
    live: Live, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "CALLS_MAX", 0)
    go = asyncio.Event()
    script = [request(), send(CHUNKED + chunk(b"a")), wait(go), send(chunk(b"b") + chunk(b""))]
    async with serve(script, tls=authority.server("127.0.0.1")) as upstream:
        asking = asyncio.ensure_future(ask(live, outgoing(upstream.url, ca_file=authority.ca_file)))
        await every_call_was_looked_at(live)
        assert live._rounds is not None
        assert len(live._rounds) == 0
        go.set()
        assert (await asking).body == b"ab"


async def test_a_tls_connection_that_is_reset_in_mid_body(live: Live, authority: Authority) -> None:
    script = [request(), send(CHUNKED + chunk(b"a")), reset()]
    async with serve(script, tls=authority.server("127.0.0.1")) as upstream:
        with pytest.raises(UpstreamUnavailable) as caught:
            await ask(live, outgoing(upstream.url, ca_file=authority.ca_file))
        assert caught.value.executed


async def test_tls_reading_stops_while_the_client_is_behind(live: Live, authority: Authority) -> None:
    size = 16 * 1024 * 1024
    script = [request(), send(answer(bytes(size)))]
    async with (
        serve(script, tls=authority.server("127.0.0.1")) as upstream,
        live.send(outgoing(upstream.url, ca_file=authority.ca_file)) as incoming,
    ):
        got = 0

        def sink(data: bytes) -> None:
            nonlocal got
            got += len(data)

        incoming.pause()
        pumping = asyncio.get_running_loop().create_task(incoming.pump(sink))
        await asyncio.sleep(0.3)
        assert got < 2 * 1024 * 1024
        incoming.resume()
        assert await pumping
        assert got == size


# Proxies


async def test_a_proxy_gets_the_absolute_form_of_a_plain_request(live: Live) -> None:
    async with serve(ANSWERING) as proxy:
        asked = outgoing("http://api.example/v1", proxy=f"http://us%40er:pass@{proxy.host}:{proxy.port}")
        assert (await ask(live, asked)).body == b"ok"
        head = proxy.peers[0].requests[0]
        assert head.startswith(
            b"POST http://api.example/v1/chat/completions HTTP/1.1\r\nHost: api.example\r\n"
        )
        assert b"\r\nProxy-Authorization: Basic dXNAZXI6cGFzcw==\r\n" in head


class Tunnel(threading.Thread):
    """A proxy that opens one tunnel and carries bytes both ways, in a thread of its own."""

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.target = target
        self.asked = b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://user:pass@127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self) -> None:
        with self.listener, self.listener.accept()[0] as near, socket.create_connection(self.target) as far:
            while b"\r\n\r\n" not in self.asked:
                self.asked += near.recv(65536)
            near.sendall(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
            back = threading.Thread(target=self.carry, args=(far, near), daemon=True)
            back.start()
            self.carry(near, far)
            back.join()

    @staticmethod
    def carry(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            target.close()


async def test_a_proxy_opens_a_tunnel_for_tls(live: Live, authority: Authority) -> None:
    async with serve(ANSWERING, tls=authority.server("127.0.0.1")) as upstream:
        tunnel = Tunnel((upstream.host, upstream.port))
        tunnel.start()
        asked = outgoing(upstream.url, proxy=tunnel.url, ca_file=authority.ca_file)
        assert (await ask(live, asked)).body == b"ok"
        target = f"127.0.0.1:{upstream.port}".encode()
        assert tunnel.asked.startswith(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n" % (target, target))
        assert b"\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n" in tunnel.asked
        assert b"proxy-authorization" not in upstream.peers[0].requests[0].lower()
        await live.aclose()
        await asyncio.get_running_loop().run_in_executor(None, tunnel.join, 5)


@pytest.mark.parametrize(
    "actions",
    [
        [send(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")],
        [send(b"HTTP/1.1 200 OK\r\n\r\nbytes before the handshake")],
        [send(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 9000)],
        [send(b"nonsense\r\n\r\n")],
        [close()],
        [reset()],
    ],
)
async def test_a_proxy_that_opens_no_tunnel(live: Live, actions: list[Action]) -> None:
    async with serve([request(), *actions]) as proxy:
        asked = outgoing("https://api.example", proxy=proxy.url)
        assert await refused(live, asked) == "proxy"
        await proxy.peers[0].gone()


async def test_a_proxy_that_never_answers(live: Live) -> None:
    async with serve([request()]) as proxy:
        asked = outgoing("https://api.example", proxy=proxy.url, timeouts=QUICK)
        assert await refused(live, asked) == "connect_timeout"
        await proxy.peers[0].gone()
