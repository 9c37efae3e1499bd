"""Heads of requests: what is in them, and what is never let into one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tokenhub_proxy import __version__
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.routes import Upstream
from tokenhub_proxy.transports.origin import Heads, Origin
from tokenhub_proxy.wire import Outgoing


def head(base_url: str = "http://host/v1", proxy: str | None = None, **changes: Any) -> list[str]:
    """The lines of the head of a request."""
    upstream = Upstream("up", "openai", base_url, proxy=proxy)
    asked = Outgoing(upstream, "/chat", (("Authorization", "Bearer k"),), b"{}")
    lines = Heads(Origin.of(upstream)).of(replace(asked, **changes)).decode("latin-1")
    assert lines.endswith("\r\n\r\n")
    return lines[:-4].split("\r\n")


def test_a_head_is_complete() -> None:
    assert head() == [
        "POST /v1/chat HTTP/1.1",
        "Host: host",
        "Accept-Encoding: identity",
        f"User-Agent: tokenhub-proxy/{__version__}",
        "Authorization: Bearer k",
        "Content-Length: 2",
    ]


@pytest.mark.parametrize(
    ("base_url", "target", "host"),
    [
        ("http://host", "/chat", "host"),
        ("http://host/", "/chat", "host"),
        ("https://host:443/a/b/", "/a/b/chat", "host"),
        ("http://host:443", "/chat", "host:443"),
        ("http://HOST:8080/A", "/A/chat", "host:8080"),
        ("http://[::1]:8080", "/chat", "[::1]:8080"),
        ("http://bücher.example", "/chat", "xn--bcher-kva.example"),
    ],
)
def test_target_and_host_follow_the_base_url(base_url: str, target: str, host: str) -> None:
    assert head(base_url)[:2] == [f"POST {target} HTTP/1.1", f"Host: {host}"]


@pytest.mark.parametrize("base_url", ["demo://", "host/v1", "ftp://host", "http://", "http://host:port"])
def test_only_http_urls_are_origins(base_url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Origin.of(Upstream("up", "openai", base_url))


@pytest.mark.parametrize("proxy", ["https://proxy:1", "socks5://proxy:1", "proxy:1"])
def test_only_http_proxies_are_proxies(proxy: str) -> None:
    with pytest.raises(ValueError, match="proxy"):
        Origin.of(Upstream("up", "openai", "http://host", proxy=proxy))


def test_a_header_of_the_dialect_replaces_ours() -> None:
    lines = head(headers=(("host", "signed.example"), ("USER-AGENT", "mine")))
    assert "host: signed.example" in lines
    assert "USER-AGENT: mine" in lines
    assert len(lines) == 5


def test_a_get_without_a_body_has_no_length() -> None:
    assert not any(line.startswith("Content-Length") for line in head(method="GET", body=b""))
    assert head(method="POST", body=b"")[-1] == "Content-Length: 0"


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": (("Authorization", "Bearer k\r\nX: y"),)},
        {"headers": (("Authorization", "Bearer k\n"),)},
        {"headers": (("Authorization", "Bearer\0k"),)},
        {"headers": (("Authorization", "Bearer \u20ac"),)},
        {"headers": (("Bad Name", "v"),)},
        {"headers": (("Bad\r\nName", "v"),)},
        {"headers": (("", "v"),)},
        {"headers": (("Twice", "1"), ("twice", "2"))},
        {"headers": (("Content-Length", "7"),)},
        {"headers": (("transfer-encoding", "chunked"),)},
        {"headers": (("Connection", "close"),)},
        {"headers": (("Expect", "100-continue"),)},
        {"path": "/a b"},
        {"path": "/a\r\nHost: other"},
        {"path": "/\u00e9"},
        {"method": "POST /other HTTP/1.1\r\n"},
        {"method": ""},
    ],
)
def test_nothing_that_could_split_or_reframe_a_request_gets_into_a_head(changes: dict[str, Any]) -> None:
    with pytest.raises(UpstreamUnavailable) as caught:
        head(**changes)
    assert (caught.value.kind, caught.value.executed) == ("request_head", False)
    assert "Bearer" not in str(caught.value) + caught.value.reason


def test_what_is_kept_of_heads_is_bounded_and_never_mixed_up() -> None:
    upstream = Upstream("up", "openai", "http://host")
    heads = Heads(Origin.of(upstream))
    for number in range(1000):
        asked = Outgoing(upstream, "/chat", (("X-Signature", str(number)),), b"x" * number)
        for _ in range(2):
            text = heads.of(asked).decode()
            assert f"\r\nX-Signature: {number}\r\nContent-Length: {number}\r\n\r\n" in text
    assert len(heads._kept) <= 256
