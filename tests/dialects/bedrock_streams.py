"""Bedrock's bytes for tests: frames, written from the public description of the encoding."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any
from zlib import crc32

import orjson


def frame(headers: Mapping[str, str], payload: bytes = b"") -> bytes:
    """One frame with headers of the type text."""
    packed = b"".join(
        bytes([len(name.encode())])
        + name.encode()
        + b"\x07"
        + struct.pack(">H", len(value.encode()))
        + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(packed) + len(payload), len(packed))
    checked = prelude + struct.pack(">I", crc32(prelude)) + packed + payload
    return checked + struct.pack(">I", crc32(checked))


def event(kind: str, **payload: Any) -> bytes:
    """One event as ConverseStream sends it, with the padding that hides its length."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, orjson.dumps({**payload, "p": "abcdefgh"}))


def exception(kind: str, **payload: Any) -> bytes:
    """An exception in the middle of a stream."""
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, orjson.dumps(payload))


def split_frames(raw: bytes) -> list[bytes]:
    """A stream, frame by frame."""
    found = []
    while raw:
        length = int.from_bytes(raw[:4])
        found.append(raw[:length])
        raw = raw[length:]
    return found


def text(index: int, *pieces: str) -> bytes:
    """A block of text: Bedrock announces none, and says when it ends."""
    deltas = [event("contentBlockDelta", contentBlockIndex=index, delta={"text": piece}) for piece in pieces]
    return b"".join(deltas) + event("contentBlockStop", contentBlockIndex=index)


def thinking(index: int, signature: str, *pieces: str) -> bytes:
    deltas = [{"reasoningContent": {"text": piece}} for piece in pieces]
    deltas.append({"reasoningContent": {"signature": signature}})
    said = [event("contentBlockDelta", contentBlockIndex=index, delta=delta) for delta in deltas]
    return b"".join(said) + event("contentBlockStop", contentBlockIndex=index)


def tool(index: int, id: str, name: str, *pieces: str) -> bytes:
    start = event(
        "contentBlockStart", contentBlockIndex=index, start={"toolUse": {"toolUseId": id, "name": name}}
    )
    deltas = [
        event("contentBlockDelta", contentBlockIndex=index, delta={"toolUse": {"input": piece}})
        for piece in pieces
    ]
    return start + b"".join(deltas) + event("contentBlockStop", contentBlockIndex=index)


def ending(reason: str, **usage: int) -> bytes:
    """The stop, and the usage that comes after it."""
    counts = {"inputTokens": 9, "outputTokens": 5, "totalTokens": 14, **usage}
    return event("messageStop", stopReason=reason) + event(
        "metadata", usage=counts, metrics={"latencyMs": 551}
    )


START = event("messageStart", role="assistant")
