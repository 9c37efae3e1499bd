"""Requests that two parsers may read differently, each with another request hidden in or behind it.

A payload is what one client sends at once. Both requests in it are complete calls with a good key, so that
whoever reads the hidden one serves it, and is found out.
"""

from __future__ import annotations

from tests.conftest import KEY

BODY = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'
LENGTH = str(len(BODY)).encode()
START = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"Host: proxy.test\r\n"
FIELDS = b"Content-Type: application/json\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n"
CONTENT_LENGTH = b"Content-Length: " + LENGTH + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
PLAIN = START + HOST + FIELDS + CONTENT_LENGTH + b"\r\n" + BODY
HIDDEN = PLAIN.replace(b'"Hi"', b'"Ho"')


def _call(fields: bytes, body: bytes, *, start: bytes = START, host: bytes = HOST) -> bytes:
    return start + host + FIELDS + fields + b"\r\n" + body


def _sized(value: bytes) -> bytes:
    """The body under a Content-Length written in another way."""
    return _call(b"Content-Length: " + value + b"\r\n", BODY + HIDDEN)


def _coded(value: bytes, body: bytes = CHUNKS) -> bytes:
    """The chunked body under a Transfer-Encoding written in another way."""
    return _call(b"Transfer-Encoding:" + value + b"\r\n", body + HIDDEN)


def _chunked(size: bytes) -> bytes:
    """The body in one chunk whose size line is written in another way."""
    return _call(CHUNKED, size + BODY + b"\r\n0\r\n\r\n" + HIDDEN)


def _start(line: bytes) -> bytes:
    return _call(CONTENT_LENGTH, BODY + HIDDEN, start=line)


SIZE = b"%x" % len(BODY)
EVERYTHING = str(len(CHUNKS + HIDDEN)).encode()

# Nothing but a 400 and a closed connection is right.
REFUSED: dict[str, bytes] = {
    "a length beside chunks": _call(b"Content-Length: " + EVERYTHING + b"\r\n" + CHUNKED, CHUNKS + HIDDEN),
    "chunks beside a length": _call(CHUNKED + CONTENT_LENGTH, CHUNKS + HIDDEN),
    "two lengths": _call(b"Content-Length: 0\r\n" + CONTENT_LENGTH, BODY + HIDDEN),
    "one length twice": _call(CONTENT_LENGTH * 2, BODY + HIDDEN),
    "a list of lengths": _sized(LENGTH + b", " + LENGTH),
    "a length with a sign": _sized(b"+" + LENGTH),
    "a negative length": _sized(b"-1"),
    "a length in two words": _sized(b"1 " + LENGTH),
    "a hexadecimal length": _sized(b"0x" + SIZE),
    "a length beyond 64 bits": _sized(b"18446744073709551616"),
    "a length with an underscore": _sized(LENGTH[:1] + b"_" + LENGTH[1:]),
    "an empty length": _sized(b""),
    "an unknown coding": _coded(b" xchunked"),
    "chunks that are not the last coding": _coded(b" chunked, identity"),
    "chunks twice in a line": _coded(b" chunked, chunked"),
    "chunks in two lines": _coded(b" chunked\r\nTransfer-Encoding: chunked"),
    "a coding with a parameter": _coded(b" chunked;q=1"),
    "a coding behind a vertical tab": _coded(b" \x0bchunked"),
    "a coding on a folded line": _coded(b"\r\n chunked"),
    "a space before the colon": _call(b"Transfer-Encoding : chunked\r\n", CHUNKS + HIDDEN),
    "a chunk's size with a prefix": _chunked(b"0x" + SIZE + b"\r\n"),
    "a chunk's size with a sign": _chunked(b"+" + SIZE + b"\r\n"),
    "a chunk's size with an underscore": _chunked(SIZE[:1] + b"_" + SIZE[1:] + b"\r\n"),
    "a chunk's size beyond 64 bits": _chunked(b"1" + b"0" * 16 + SIZE + b"\r\n"),
    "a space behind a chunk's size": _chunked(SIZE + b" \r\n"),
    "an empty chunk's size": _chunked(b"\r\n"),
    "a chunk's size that ends in a bare LF": _chunked(SIZE + b"\n"),
    "an extension that ends in a bare LF": _chunked(SIZE + b";x\n"),
    "a chunk longer than its size": _call(CHUNKED, b"5\r\n" + BODY + b"\r\n0\r\n\r\n" + HIDDEN),
    "a bare LF behind a header": _call(b"X: y\n" + CONTENT_LENGTH, BODY + HIDDEN),
    "a bare LF behind the request line": _start(START.replace(b"\r\n", b"\n")),
    "a bare CR in a header": _call(b"X: y\rContent-Length: 0\r\n" + CONTENT_LENGTH, BODY + HIDDEN),
    "a folded header": _call(b"X: y\r\n z\r\n" + CONTENT_LENGTH, BODY + HIDDEN),
    "a NUL in a header's value": _call(b"X: a\0b\r\n" + CONTENT_LENGTH, BODY + HIDDEN),
    "a NUL in a header's name": _call(b"X\0Y: a\r\n" + CONTENT_LENGTH, BODY + HIDDEN),
    "a header without a colon": _call(b"X\r\n" + CONTENT_LENGTH, BODY + HIDDEN),
    "a header without a name": _call(b": x\r\n" + CONTENT_LENGTH, BODY + HIDDEN),
    "two hosts": _call(CONTENT_LENGTH, BODY + HIDDEN, host=HOST + b"Host: other.test\r\n"),
    "no host": _call(CONTENT_LENGTH, BODY + HIDDEN, host=b""),
    "an absolute target": _start(START.replace(b" /v1", b" http://other.test/v1")),
    "an asterisk": _start(b"OPTIONS * HTTP/1.1\r\n"),
    "an authority": _start(b"CONNECT other.test:443 HTTP/1.1\r\n"),
    "a version in small letters": _start(START.replace(b"HTTP", b"http")),
    "a version of two digits": _start(START.replace(b"1.1", b"1.10")),
    "no version": _start(START.replace(b" HTTP/1.1", b"")),
    "a fourth word in the request line": _start(START.replace(b" HTTP", b" x HTTP")),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    "a trailer that looks like a length": _call(
        CHUNKED, CHUNKS.removesuffix(b"\r\n") + b"Content-Length: 1\r\n\r\n" + HIDDEN
    ),
    "chunks in HTTP/1.0": _call(CHUNKED, CHUNKS + HIDDEN, start=START.replace(b"1.1", b"1.0")),
}

# Nothing but a 505 and a closed connection is right.
OTHER_VERSIONS: dict[str, bytes] = {
    "HTTP/2.0": _start(START.replace(b"1.1", b"2.0")),
    "HTTP/0.9": _start(START.replace(b"1.1", b"0.9")),
}

# These can be read in one way only, and hide nothing.
ONE: dict[str, bytes] = {
    "a plain call": PLAIN,
    "a chunked call": _call(CHUNKED, CHUNKS),
    "a coding in capitals": _call(b"Transfer-Encoding: CHUNKED\r\n", CHUNKS),
    "a chunk's extension": _call(CHUNKED, CHUNKS.replace(b"\r\n", b";x=y\r\n", 1)),
    "a chunk's size with zeros before it": _call(CHUNKED, b"0000" + CHUNKS),
    "a trailer": _call(CHUNKED, CHUNKS.removesuffix(b"\r\n") + b"X-Sum: 1\r\n\r\n"),
    "a name that becomes Transfer-Encoding in CGI": _call(
        b"Transfer_Encoding: chunked\r\n" + CONTENT_LENGTH, BODY
    ),
    "an empty line before the request": b"\r\n" + PLAIN,
    "an upgrade to h2c": _call(
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
        + CONTENT_LENGTH,
        BODY,
    ),
    "an upgrade to a websocket": _call(
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + CONTENT_LENGTH,
        BODY,
    ),
}
