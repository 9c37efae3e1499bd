"""Answers that break as a test asked: what each fault leaves of an upstream's bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson
import pytest

from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.faults import Fault
from tokenhub_proxy.routes import Timeouts, Upstream
from tokenhub_proxy.transports.faulty import FOREVER, HTML, Faulty, Machine
from tokenhub_proxy.transports.script import Fail, Pause, Script, Scripted, Step
from tokenhub_proxy.wire import HOLD, Outgoing

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
EVENTS = (b'data: {"a":1}\n\n', 'data: {"b":"ж"}\n\n'.encode(), USAGE, DONE)
STREAM = {"content-type": "text/event-stream"}
SHORT = Timeouts(first_byte_s=0.05, idle_s=0.05)


def steps(
    fault: Fault, *events: bytes, kind: str = "text/event-stream", dialect: str = "openai"
) -> list[Step]:
    """What is left of these events."""
    machine = Machine(fault, kind, dialect)
    found = machine.begin()
    for event in events or EVENTS:
        found += machine.feed(event)
    return found + machine.close()


def test_without_a_fault_every_byte_stays_what_it_was() -> None:
    assert b"".join(step for step in steps(Fault()) if isinstance(step, bytes)) == b"".join(EVENTS)


@pytest.mark.parametrize(
    ("fault", "left"),
    [
        (Fault(stall=0), [FOREVER]),
        (Fault(stall=1), [EVENTS[0], FOREVER]),
        (Fault(cut=2), [*EVENTS[:2], Fail("short_body")]),
        (Fault(reset=2), [*EVENTS[:2], Fail("reset_read")]),
        (Fault(cut_character=0), [EVENTS[0], EVENTS[1][:13], Fail("short_body")]),
        (Fault(usage="missing"), [*EVENTS[:2], DONE]),
        (Fault(usage="doubled"), [*EVENTS[:3], USAGE, DONE]),
        (Fault(done="missing"), [*EVENTS[:3]]),
        (Fault(done="doubled"), [*EVENTS, DONE]),
    ],
)
def test_what_is_left_of_a_stream(fault: Fault, left: Sequence[Step]) -> None:
    assert steps(fault) == left


def test_a_cut_inside_an_event_is_inside_it_and_the_same_for_the_same_seed() -> None:
    places = {seed: len(steps(Fault(cut_event=1, seed=seed))[1]) for seed in range(50)}  # type: ignore[arg-type]
    assert all(0 < place < len(EVENTS[1]) - 1 for place in places.values())
    assert len(set(places.values())) > 3
    assert steps(Fault(cut_event=1, seed=7)) == steps(Fault(cut_event=1, seed=7))


def test_pauses_are_even_without_a_seed_and_repeat_with_one() -> None:
    def pauses(fault: Fault) -> list[float]:
        return [step.seconds for step in steps(fault) if isinstance(step, Pause)]

    assert pauses(Fault(pause_s=0.5)) == [0.5] * 4
    assert pauses(Fault(pause_s=0.5, seed=1)) == pauses(Fault(pause_s=0.5, seed=1))
    assert len(set(pauses(Fault(pause_s=0.5, seed=1)))) == 4


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini"])
def test_an_error_event_is_in_the_upstreams_own_format_and_the_last(dialect: str) -> None:
    (first, error) = steps(Fault(error=1), dialect=dialect)
    assert first == EVENTS[0]
    assert isinstance(error, bytes)
    assert orjson.loads(error.partition(b"data: ")[2])["error"]


def test_the_usage_of_other_dialects_goes_too_but_no_word_is_lost_or_doubled() -> None:
    start = b'event: message_start\ndata: {"message":{"id":"m","usage":{"input_tokens":1}}}\n\n'
    last = b'data: {"candidates":[{"content":"said"}],"usageMetadata":{"promptTokenCount":1}}\r\n\r\n'
    assert steps(Fault(usage="missing"), start) == [b'event: message_start\ndata: {"message":{"id":"m"}}\n\n']
    assert steps(Fault(usage="missing"), last) == [b'data: {"candidates":[{"content":"said"}]}\r\n\r\n']
    assert steps(Fault(usage="doubled"), last) == [
        last,
        b'data: {"usageMetadata":{"promptTokenCount":1}}\r\n\r\n',
    ]


def test_an_answer_that_is_no_stream_is_broken_off_in_its_middle() -> None:
    body = b'{"choices":[1],"usage":{"prompt_tokens":3}}'
    for fault in (Fault(cut=1), Fault(cut_event=0), Fault(reset=0), Fault(stall=1)):
        (middle, _) = steps(fault, body, kind="application/json")
        assert isinstance(middle, bytes)
        assert 0 < len(middle) < len(body)
    assert steps(Fault(usage="missing"), body, kind="application/json") == [b'{"choices":[1]}']
    assert steps(Fault(pause_s=1), body, kind="application/json") == [Pause(1), body]


def outgoing(timeouts: Timeouts = SHORT) -> Outgoing:
    return Outgoing(Upstream("u", "openai", "http://u", timeouts=timeouts), "/chat/completions", (), b"{}")


def faulty(fault: Fault, steps: Sequence[Step] = EVENTS) -> Faulty:
    return Faulty(Script(lambda _: Scripted(steps, headers=STREAM)), fault)


async def heard(fault: Fault) -> tuple[bytes, str]:
    """What came, and the kind of failure that ended it."""
    said: list[bytes] = []
    try:
        async with asyncio.timeout(5), faulty(fault).send(outgoing()) as incoming:
            assert await incoming.pump(said.append) is True
    except UpstreamUnavailable as error:
        return b"".join(said), error.kind
    return b"".join(said), ""


async def test_silence_ends_at_the_upstreams_deadline() -> None:
    assert await heard(Fault(stall=1)) == (EVENTS[0], "idle")
    assert await heard(Fault(head_s=1)) == (b"", "ttfb_timeout")


async def test_slow_headers_within_the_deadline_only_take_their_time() -> None:
    assert await heard(Fault(head_s=0.01)) == (b"".join(EVENTS), "")


async def test_broken_connections_fail_as_real_ones_do() -> None:
    assert await heard(Fault(reset=1)) == (EVENTS[0], "reset_read")
    assert await heard(Fault(cut=1)) == (EVENTS[0], "short_body")


async def test_a_page_stands_in_the_place_of_the_answer() -> None:
    async with faulty(Fault(html=True)).send(outgoing()) as incoming:
        said: list[bytes] = []
        await incoming.pump(said.append)
    assert (incoming.status, incoming.headers["content-type"]) == (200, "text/html")
    assert said == [HTML]


async def test_a_sink_that_holds_gets_the_rest_later() -> None:
    async with faulty(Fault(pause_s=0.001)).send(outgoing()) as incoming:
        said: list[bytes] = []

        def one(data: bytes) -> bool:
            said.append(data)
            return HOLD

        for count in range(1, 5):
            assert await incoming.pump(one) is False
            assert len(said) == count
        assert await incoming.pump(one) is True
    assert b"".join(said) == b"".join(EVENTS)


async def test_a_cut_wakes_what_waits_in_silence() -> None:
    async with asyncio.timeout(5), faulty(Fault(stall=0)).send(outgoing(Timeouts())) as incoming:
        asyncio.get_running_loop().call_later(0.01, incoming.cut, KeyError("gone"))
        with pytest.raises(KeyError, match="gone"):
            await incoming.pump(pytest.fail)


async def test_what_lingers_ends() -> None:
    async with (
        asyncio.timeout(5),
        faulty(Fault(), [*EVENTS, Pause(60)]).send(outgoing(Timeouts())) as incoming,
    ):
        said: list[bytes] = []
        incoming.linger(0.01)
        incoming.pause()
        incoming.resume()
        assert await incoming.pump(said.append) is False
