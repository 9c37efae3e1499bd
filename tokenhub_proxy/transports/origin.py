"""Where an upstream is reached, and the heads of the requests that go there."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from tokenhub_proxy import __version__
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.routes import Upstream
from tokenhub_proxy.wire import Outgoing

_PORTS = {"http": 80, "https": 443}
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# What RFC 9110 allows in a field value: no CR, LF, NUL or other control byte but the tab.
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_TARGET = re.compile(r"[\x21-\x7e]+")
# The framing of a request and the life of a connection are this client's own business.
_OURS = frozenset({"connection", "content-length", "expect", "te", "transfer-encoding", "upgrade"})
_DEFAULTS = (
    # A compressed stream is delayed by its compressor, and the usage in it can't be read.
    ("Accept-Encoding", "identity"),
    ("User-Agent", f"tokenhub-proxy/{__version__}"),
)
# Distinct heads kept for each upstream: one for each endpoint, credential and model in the path.
_HEADS_MAX = 256


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; `authorization` is the value of Proxy-Authorization, if it wants one."""

    host: str
    port: int
    authorization: str | None


@dataclass(frozen=True, slots=True)
class Origin:
    """The other end of a connection: `prefix` is what stands before each request's path."""

    scheme: str
    host: str
    port: int
    authority: str
    prefix: str
    proxy: Proxy | None
    ca_file: str | None

    @classmethod
    def of(cls, upstream: Upstream) -> Origin:
        """The origin of an upstream. Raises ValueError for URLs that are not plain http(s)."""
        url = urlsplit(upstream.base_url)
        if url.scheme not in _PORTS or not url.hostname:
            raise ValueError(f"upstream {upstream.name}: base_url is no http or https URL")
        host = url.hostname if url.hostname.isascii() else url.hostname.encode("idna").decode()
        port = url.port or _PORTS[url.scheme]
        authority = f"[{host}]" if ":" in host else host
        if port != _PORTS[url.scheme]:
            authority += f":{port}"
        proxy = None if upstream.proxy is None else _proxy(upstream)
        prefix = url.path.rstrip("/")
        if proxy is not None and url.scheme == "http":
            prefix = f"http://{authority}{prefix}"  # a proxy wants the absolute form
        return cls(url.scheme, host, port, authority, prefix, proxy, upstream.ca_file)


def _proxy(upstream: Upstream) -> Proxy:
    url = urlsplit(upstream.proxy or "")
    if url.scheme != "http" or not url.hostname:
        raise ValueError(f"upstream {upstream.name}: proxy is no http URL")
    authorization = None
    if url.username is not None:
        login = f"{unquote(url.username)}:{unquote(url.password or '')}"
        authorization = "Basic " + b64encode(login.encode()).decode()
    return Proxy(url.hostname, url.port or 80, authorization)


class Heads:
    """Builds request heads for one origin; what doesn't change from call to call is kept."""

    __slots__ = ("_defaults", "_kept", "_origin")

    def __init__(self, origin: Origin, via: str | None = None) -> None:
        self._origin = origin
        self._defaults = (("Host", origin.authority), *_DEFAULTS, *((("Via", via),) if via else ()))
        self._kept: dict[tuple[str, str, tuple[tuple[str, str], ...]], bytes] = {}

    def of(self, outgoing: Outgoing) -> bytes:
        """The whole head, blank line included.

        Raises UpstreamUnavailable (kind `request_head`) where a header or the path holds what may
        not stand in a head: a line break in a credential would be a second request.
        """
        body, method = outgoing.body, outgoing.method
        key = (method, outgoing.path, outgoing.headers)
        start = self._kept.get(key)
        if start is None:
            start = self._start(outgoing)
            if len(self._kept) >= _HEADS_MAX:  # signed requests never repeat their headers
                self._kept.clear()
            self._kept[key] = start
        if body or method != "GET":
            return b"%bContent-Length: %d\r\n\r\n" % (start, len(body))
        return start + b"\r\n"

    def _start(self, outgoing: Outgoing) -> bytes:
        origin = self._origin
        target = origin.prefix + outgoing.path or "/"
        headers = {name.lower(): (name, value) for name, value in outgoing.headers}
        # Dialects give each header once; a second one of a name would be dropped unseen.
        sound = len(headers) == len(outgoing.headers) and not headers.keys() & _OURS
        lines = [(name, value) for name, value in self._defaults if name.lower() not in headers]
        if origin.proxy is not None and origin.proxy.authorization and origin.scheme == "http":
            lines.append(("Proxy-Authorization", origin.proxy.authorization))
        lines += outgoing.headers
        sound = sound and all(_TOKEN.fullmatch(name) and _VALUE.fullmatch(value) for name, value in lines)
        if not (sound and _TOKEN.fullmatch(outgoing.method) and _TARGET.fullmatch(target)):
            raise UpstreamUnavailable(kind="request_head")
        head = f"{outgoing.method} {target} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in lines)
        return head.encode("latin-1")
