"""The outbox: everything written arrives, in order, by the end of the turn; nobody alone waits."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tokenhub_proxy.connection import EVENT_BYTES_MAX, HttpClient
from tokenhub_proxy.outbox import Outbox


class Wire:
    """A transport that keeps what was written while it was open."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after the end"
        self.got.append(data)


class Turns:
    """An event loop, as far as the outbox knows one."""

    def __init__(self) -> None:
        self._next: list[Callable[[], None]] = []

    def soon(self, step: Callable[[], None]) -> None:
        self._next.append(step)

    def turn(self) -> None:
        steps, self._next = self._next, []
        for step in steps:
            step()


def test_the_first_write_of_a_turn_waits_for_nothing() -> None:
    turns, wire, other = Turns(), Wire(), Wire()
    outbox = Outbox(turns.soon)
    outbox.write(wire, -1, b"a", b"")
    outbox.write(other, -1, b"b", b"")
    assert (wire.got, other.got) == ([b"a"], [])
    turns.turn()
    assert other.got == [b"b"]
    outbox.write(other, -1, b"c", b"")
    assert other.got == [b"b", b"c"]


def test_a_connection_that_has_died_loses_its_own_bytes_alone() -> None:
    turns, wires = Turns(), [Wire() for _ in range(3)]
    outbox = Outbox(turns.soon)
    for wire in wires:
        outbox.write(wire, -1, b"x", b"")
    wires[1].closed = True
    turns.turn()
    assert [wire.got for wire in wires] == [[b"x"], [], [b"x"]]


@given(st.lists(st.one_of(st.integers(0, 2), st.sampled_from(["turn", "flush"])), max_size=60))
def test_every_wire_gets_all_its_bytes_in_their_order(steps: list[int | str]) -> None:
    turns, wires = Turns(), [Wire() for _ in range(3)]
    outbox = Outbox(turns.soon)
    sent: list[list[bytes]] = [[], [], []]
    for number, step in enumerate(steps):
        if step == "turn":
            turns.turn()
        elif step == "flush":
            outbox.flush()
            assert [wire.got for wire in wires] == sent
        else:
            sent[int(step)].append(b"%d" % number)
            outbox.write(wires[int(step)], -1, b"", sent[int(step)][-1])
    turns.turn()
    assert [wire.got for wire in wires] == sent


def client(wire: Wire, outbox: Outbox) -> HttpClient:
    """A client on this wire, whose answer is a stream."""
    socket: Any = SimpleNamespace(
        transport=wire,
        peer="",
        retiring=False,
        writing_paused=False,
        flush=outbox.flush,
        send=lambda head, body: outbox.write(wire, -1, head, body),
    )
    found = HttpClient(socket, "POST", "/", {}, (), 0, keep_alive=True)  # type: ignore[arg-type]
    found.begin(200, [])
    return found


async def test_chunks_of_many_streams_go_out_together_and_each_in_its_order() -> None:
    turns, wires = Turns(), [Wire() for _ in range(3)]
    outbox = Outbox(turns.soon)
    clients = [client(wire, outbox) for wire in wires]
    for one in clients:
        one.write(b"first")  # with the head
    turns.turn()
    told = [len(wire.got) for wire in wires]
    for one in clients:
        one.write(b"second")
    assert [len(wire.got) for wire in wires] == [told[0] + 1, *told[1:]]
    for one in clients:
        await one.end(b"third")
    turns.turn()
    for wire in wires:
        assert b"".join(wire.got).endswith(b"5\r\nfirst\r\n6\r\nsecond\r\n5\r\nthird\r\n0\r\n\r\n")


def test_a_large_piece_of_a_stream_waits_for_nothing_and_follows_what_waits() -> None:
    turns, wire, other = Turns(), Wire(), Wire()
    outbox = Outbox(turns.soon)
    one, large = client(wire, outbox), bytes(EVENT_BYTES_MAX)
    client(other, outbox).write(b"elsewhere")
    one.write(b"first")
    assert not wire.got
    one.write(large)
    assert b"".join(wire.got).endswith(b"5\r\nfirst\r\n1000\r\n" + large + b"\r\n")
