"""From an origin to an open connection: names, addresses, proxies, TLS, under one deadline."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.transports.origin import Origin, Proxy

# The head start of one address over the next, as RFC 8305 (section 8) recommends it.
_ATTEMPT_DELAY_S = 0.25
# A proxy's answer to CONNECT is a status line and a few headers.
_TUNNEL_HEAD_MAX = 8192
_TUNNEL_OPEN = re.compile(rb"HTTP/1\.[01] 2\d\d[ \r]")

# The addresses of this machine that need no resolver.
_OWN = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}

_Address = tuple[Any, ...]
_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)

# What the deadline cut short, or what an OSError broke, by the stage it happened in.
_TIMEOUT_KINDS = {"dns": "dns", "tcp": "connect_timeout", "proxy": "connect_timeout", "tls": "tls_timeout"}
_ERROR_KINDS = {"dns": "dns", "tcp": "unreachable", "proxy": "proxy", "tls": "tls"}

# Making a context reads the system's certificates: tens of milliseconds, so once per ca_file.
_contexts: dict[str | None, ssl.SSLContext] = {}


async def connect(origin: Origin, connect_s: float, factory: Callable[[], _Protocol]) -> _Protocol:
    """An open connection to the origin, through its proxy if it has one.

    Raises UpstreamUnavailable, nothing having been sent: `dns`, `refused`, `unreachable`,
    `connect_timeout`, `proxy`, `tls_verify`, `tls`, `tls_timeout`, `overload`. `connect_s` covers it all.
    """
    stage = "dns"
    loop = asyncio.get_running_loop()
    proxy = origin.proxy
    try:
        if proxy is None and origin.scheme == "http":
            stage = "tcp"
            sock = _at_once(origin.host, origin.port)
            if sock is not None:
                # Nothing is left to wait for but a turn of the loop.
                return (await loop.create_connection(factory, sock=sock))[1]
            stage = "dns"
        async with asyncio.timeout(connect_s):
            near = origin if proxy is None else proxy
            addresses = await loop.getaddrinfo(near.host, near.port, type=socket.SOCK_STREAM)
            stage = "tcp"
            sock = await _first_to_answer(loop, _interleaved(addresses))
            secure: dict[str, Any] = {}
            try:
                if proxy is not None and origin.scheme == "https":
                    stage = "proxy"
                    await _open_tunnel(loop, sock, origin, proxy)
                if origin.scheme == "https":
                    stage = "tls"
                    context = await _context(loop, origin.ca_file)
                    # Our own deadline comes first; this one only lifts the loop's default.
                    secure = {"ssl": context, "server_hostname": origin.host}
                    secure["ssl_handshake_timeout"] = connect_s + 1.0
            except BaseException:
                sock.close()
                raise
            # From here on the socket is the loop's, which closes it on any failure.
            _, protocol = await loop.create_connection(factory, sock=sock, **secure)
            return protocol
    except (OSError, UnicodeError) as error:  # UnicodeError: no host can have this name
        raise UpstreamUnavailable(kind=_kind(error, stage)) from error


def _kind(error: Exception, stage: str) -> str:
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "overload"  # ours, not the upstream's: we have no file left for the connection
    if isinstance(error, ssl.SSLCertVerificationError):
        return "tls_verify"
    if isinstance(error, TimeoutError):
        return _TIMEOUT_KINDS[stage]
    if isinstance(error, ConnectionRefusedError) and stage == "tcp":
        return "refused"
    return _ERROR_KINDS[stage]


async def _context(loop: asyncio.AbstractEventLoop, ca_file: str | None) -> ssl.SSLContext:
    context = _contexts.get(ca_file)
    if context is None:
        context = await loop.run_in_executor(None, _new_context, ca_file)
        _contexts[ca_file] = context
    return context


def _new_context(ca_file: str | None) -> ssl.SSLContext:
    """Certificates and host names are always checked; `ca_file` replaces the system's authorities."""
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _interleaved(addresses: Sequence[_Address]) -> list[_Address]:
    """IPv6 and IPv4 in turn, beginning with the family that the resolver prefers."""
    preferred = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for pair in zip_longest(preferred, others) for address in pair if address is not None]


async def _first_to_answer(loop: asyncio.AbstractEventLoop, addresses: list[_Address]) -> socket.socket:
    """Happy eyeballs: a connected socket to the first address that answers (RFC 8305, section 5).

    Written out because uvloop's `create_connection` has no `happy_eyeballs_delay`.
    """
    if len(addresses) == 1:
        return await _attempt(loop, addresses[0])
    waiting = list(reversed(addresses))
    attempts: set[asyncio.Task[socket.socket]] = set()
    error: BaseException = OSError("the name has no address")
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(loop.create_task(_attempt(loop, waiting.pop())))
            done, _ = await asyncio.wait(
                attempts,
                timeout=_ATTEMPT_DELAY_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in done:
                attempts.discard(attempt)
                failure = attempt.exception()
                if failure is None:
                    return attempt.result()
                error = failure
    finally:
        for attempt in attempts:
            attempt.add_done_callback(_close_unused)
            attempt.cancel()
    raise error


def _close_unused(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _attempt(loop: asyncio.AbstractEventLoop, address: _Address) -> socket.socket:
    family, kind, protocol, _, target = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        if not _connected(sock, target):
            await loop.sock_connect(sock, target)
    except BaseException:
        sock.close()
        raise
    return sock


def _at_once(host: str, port: int) -> socket.socket | None:
    """A socket connected to an address of this machine; None for all others, or if it would have to wait.

    Neither a resolver nor a deadline is needed then: 7 µs less.
    """
    if host not in _OWN:
        return None
    sock = socket.socket(_OWN[host], socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        connected = _connected(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    if connected:
        return sock
    sock.close()
    return None


def _connected(sock: socket.socket, target: Any) -> bool:
    """Begin to connect; True if that is all. Raises OSError.

    A server on this machine has answered by the time of the second look, before any turn of the loop.
    """
    if os.name != "posix":
        return False  # the loop of Windows takes no socket that has begun
    error = sock.connect_ex(target)
    if error == errno.EINPROGRESS:
        error = sock.connect_ex(target)
    if error in (errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK):
        return False
    if error not in (0, errno.EISCONN):
        raise OSError(error, os.strerror(error))
    return True


async def _open_tunnel(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, origin: Origin, proxy: Proxy
) -> None:
    """Ask the proxy for a tunnel to the origin. Raises OSError when it gives none."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    request = f"CONNECT {host}:{origin.port} HTTP/1.1\r\nHost: {host}:{origin.port}\r\n"
    if proxy.authorization is not None:
        request += f"Proxy-Authorization: {proxy.authorization}\r\n"
    await loop.sock_sendall(sock, request.encode() + b"\r\n")
    head = b""
    while b"\r\n\r\n" not in head:
        data = await loop.sock_recv(sock, _TUNNEL_HEAD_MAX)
        head += data
        if not data or len(head) > _TUNNEL_HEAD_MAX:
            raise OSError("the proxy did not answer CONNECT")
    # Nobody speaks in the tunnel before we do: bytes after the head are not the origin's.
    if not _TUNNEL_OPEN.match(head) or not head.endswith(b"\r\n\r\n"):
        raise OSError("the proxy refused to open a tunnel")
