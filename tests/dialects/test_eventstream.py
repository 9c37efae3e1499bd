"""AWS event-stream frames: any cut, every damaged bit, all bounds."""

from __future__ import annotations

import struct
from itertools import pairwise
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dialects.bedrock_streams import frame
from tokenhub_proxy.dialects.eventstream import FRAME_BYTES_MAX, Frame, Frames
from tokenhub_proxy.errors import UpstreamUnavailable


def raw_frame(headers: bytes, payload: bytes = b"") -> bytes:
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    checked = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return checked + struct.pack(">I", crc32(checked))


def read(*pieces: bytes) -> list[Frame]:
    frames = Frames()
    return [found for piece in pieces for found in frames.feed(piece)]


def test_the_documented_example_of_an_empty_message():
    raw = bytes.fromhex("00000010 00000000 05c248eb 7d98c8ff")
    assert read(raw) == [Frame({}, b"")]


def test_the_documented_example_of_a_message_with_a_payload():
    raw = bytes.fromhex("0000001d 00000000 fd528c5a") + b"{'foo':'bar'}" + bytes.fromhex("c365391a")
    # The published example: a 13-byte payload without headers.
    assert len(raw) == 0x1D
    body = raw[:-4]
    assert read(body + struct.pack(">I", crc32(body)))[0].payload == b"{'foo':'bar'}"


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.text("abc:-", min_size=1, max_size=9), st.text(max_size=20), max_size=3),
            st.binary(max_size=60),
        ),
        max_size=5,
    ),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_where_the_network_cuts_never_changes_the_frames(frames, places):
    raw = b"".join(frame(headers, payload) for headers, payload in frames)
    points = [0, *sorted(min(place, len(raw)) for place in places), len(raw)]
    pieces = [raw[start:end] for start, end in pairwise(points)]
    assert read(*pieces) == [Frame(headers, payload) for headers, payload in frames]


def test_a_frame_comes_with_its_last_byte_and_not_before():
    raw = frame({":event-type": "x"}, b"{}")
    frames = Frames()
    for byte in raw[:-1]:
        assert list(frames.feed(bytes([byte]))) == []
        assert frames.unfinished
    assert len(list(frames.feed(raw[-1:]))) == 1
    assert not frames.unfinished


def test_every_damaged_bit_is_noticed():
    raw = frame({":event-type": "messageStop"}, b'{"stopReason":"end_turn"}')
    for place in range(len(raw) * 8):
        damaged = bytearray(raw)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(UpstreamUnavailable) as caught:
            assert not read(bytes(damaged))
        assert caught.value.kind == "protocol"


@pytest.mark.parametrize(("total", "headers"), [
    (15, 0), (20, 8), (FRAME_BYTES_MAX + 1, 0), (2**32 - 1, 0), (200_100, 200_000), (0, 0),
])  # fmt: skip
def test_lengths_that_can_not_be_are_refused_at_once(total, headers):
    prelude = struct.pack(">II", total, headers)
    with pytest.raises(UpstreamUnavailable):
        read(prelude + struct.pack(">I", crc32(prelude)))


def test_text_after_a_stream_of_frames_is_no_frame():
    with pytest.raises(UpstreamUnavailable):
        read(b'{"message":"Internal server error"}')


def test_headers_of_all_types_are_passed_over():
    values = [b"\0", b"\1", b"\2x", b"\3xx", b"\4xxxx", b"\5" + b"x" * 8, b"\6\0\2hi", b"\x08" + b"x" * 8,
              b"\x09" + b"x" * 16]  # fmt: skip
    headers = b"".join(b"\1" + bytes([97 + n]) + value for n, value in enumerate(values))
    assert read(raw_frame(headers + b"\1z\7\0\2ok"))[0].headers == {"z": "ok"}


@pytest.mark.parametrize("headers", [
    b"\5ab", b"\1a", b"\1a\x0a", b"\1a\7\0", b"\1a\7\0\5hi", b"\1a\4xx", b"\1a\7\0\1\xff", b"\1\xff\7\0\1a",
])  # fmt: skip
def test_headers_that_can_not_be_read_are_refused(headers):
    with pytest.raises(UpstreamUnavailable):
        read(raw_frame(headers))
