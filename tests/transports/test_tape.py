"""Record and replay below the dialect: read boundaries, times, failures, modes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tokenhub_proxy.cassettes import CassetteError, load
from tokenhub_proxy.errors import InvalidRequest, UpstreamUnavailable
from tokenhub_proxy.routes import Upstream
from tokenhub_proxy.transports.script import Fail, Pause, Script, Scripted, Step
from tokenhub_proxy.transports.tape import Mode, Tape
from tokenhub_proxy.wire import HOLD, Outgoing, Transport

STREAM = {"content-type": "text/event-stream", "set-cookie": "session=1"}
SECRET = "sk-live-0123456789abcdef"


class Asked:
    """An upstream that counts how often it is asked."""

    def __init__(self, *steps: Step) -> None:
        self.count = 0
        self.transport = Script(self._answer)
        self._steps = steps

    def _answer(self, outgoing: Outgoing) -> Scripted:
        self.count += 1
        return Scripted(self._steps, headers=STREAM)


def outgoing(body: bytes = b'{"model":"real"}') -> Outgoing:
    upstream = Upstream("u", "openai", "http://u", (SECRET,))
    return Outgoing(upstream, "/chat/completions", (("authorization", f"Bearer {SECRET}"),), body)


async def heard(transport: Transport, body: bytes = b'{"model":"real"}') -> tuple[list[bytes], str]:
    """Each read, and the kind of failure that ended them."""
    said: list[bytes] = []
    try:
        async with transport.send(outgoing(body)) as incoming:
            assert incoming.status == 200
            assert incoming.notes == {}
            await incoming.pump(said.append)
    except UpstreamUnavailable as error:
        return said, error.kind
    return said, ""


@pytest.mark.parametrize(
    "steps",
    [
        (b"data: 1\n\nda", b"ta: \xd0", b"\xb6\n\n"),
        (b"data: 1\n\n", Fail("reset_read")),
        (b"data: 1\n\n", Fail("idle")),
        (),
    ],
)
async def test_the_same_reads_and_the_same_end_come_from_tape(tmp_path: Path, steps: Sequence[Step]) -> None:
    path, upstream = tmp_path / "deep" / "tape.jsonl", Asked(*steps)
    recorded = await heard(Tape(path, mode="once").of("m", upstream.transport))
    assert recorded == ([step for step in steps if isinstance(step, bytes)], recorded[1])
    assert await heard(Tape(path).of("m")) == recorded
    assert upstream.count == 1


async def test_times_are_kept_and_played_at_the_pace_that_is_asked_for(tmp_path: Path) -> None:
    path, now = tmp_path / "tape.jsonl", iter([0.0, 0.1, 0.15, 0.4, 0.5])
    tape = Tape(path, mode="once", clock=lambda: next(now))
    await heard(tape.of("m", Asked(b"one", b"two").transport))

    (recorded,) = load(path.read_bytes(), path.name)
    assert (recorded.head_ms, [read.at_ms for read in recorded.reads], recorded.end_ms) == (
        100,
        [150, 400],
        500,
    )
    exact = list(Tape(path, timing="exact")._steps(recorded))
    assert exact == [Pause(0.05), b"one", Pause(0.25), b"two"]
    assert next(Tape(path, timing="scaled", scale=0.5)._steps(recorded)) == Pause(0.025)
    assert list(Tape(path)._steps(recorded)) == [b"one", b"two"]


@pytest.mark.parametrize(
    ("mode", "asked"), [("none", (0, None)), ("once", (0, None)), ("new_episodes", (0, 1)), ("all", (1, 2))]
)
async def test_each_mode_asks_the_upstream_when_it_should(
    tmp_path: Path, mode: Mode, asked: tuple[int, int | None]
) -> None:
    path, known, new = tmp_path / "tape.jsonl", b'{"model":"known"}', b'{"model":"new"}'
    await heard(Tape(path, mode="once").of("m", Asked(b"old").transport), known)

    upstream = Asked(b"fresh")
    transport = Tape(path, mode=mode).of("m", upstream.transport)
    assert await heard(transport, known) == ([b"fresh"] if mode == "all" else [b"old"], "")
    assert upstream.count == asked[0]
    if asked[1] is None:
        with pytest.raises(InvalidRequest, match="differs in body.model"):
            await heard(transport, new)
        assert upstream.count == 0
    else:
        assert await heard(transport, new) == ([b"fresh"], "")
        assert upstream.count == asked[1]
        assert len(load(path.read_bytes(), path.name)) == 2


async def test_a_new_tape_holds_every_call_also_equal_ones(tmp_path: Path) -> None:
    path, upstream = tmp_path / "tape.jsonl", Asked(b"said")
    transport = Tape(path, mode="once").of("m", upstream.transport)
    await heard(transport)
    await heard(transport)
    assert upstream.count == 2
    assert len(load(path.read_bytes(), path.name)) == 2


async def test_no_secret_is_on_tape_not_even_one_that_two_reads_share(tmp_path: Path) -> None:
    path, half = tmp_path / "tape.jsonl", len(SECRET) // 2
    upstream = Asked(b"your key is " + SECRET[:half].encode(), SECRET[half:].encode() + b" I think")
    body = f'{{"model":"real","key":"{SECRET}"}}'.encode()
    said, _ = await heard(Tape(path, mode="once", secrets=[SECRET]).of("m", upstream.transport), body)
    assert SECRET.encode() in b"".join(said)  # the recording run sees what it would have seen

    text = path.read_text()
    assert SECRET not in text
    assert SECRET[:half] not in text
    assert SECRET[half:] not in text
    assert "session" not in text
    replayed, _ = await heard(Tape(path, secrets=["another-secret"]).of("m"), body)
    assert [len(piece) for piece in replayed] == [len(piece) for piece in said]


async def test_who_leaves_early_leaves_an_answer_that_broke_off(tmp_path: Path) -> None:
    path = tmp_path / "tape.jsonl"
    transport = Tape(path, mode="once").of("m", Asked(b"one", Pause(60)).transport)
    async with transport.send(outgoing()) as incoming:
        assert await incoming.pump(lambda data: HOLD) is False
    assert await heard(Tape(path).of("m")) == ([b"one"], "short_body")


async def test_who_has_heard_enough_leaves_a_whole_answer(tmp_path: Path) -> None:
    path = tmp_path / "tape.jsonl"
    transport = Tape(path, mode="once").of("m", Asked(b"one", Pause(60)).transport)
    async with transport.send(outgoing()) as incoming:
        incoming.pause()
        incoming.resume()
        incoming.linger(0.01)
        assert await incoming.pump(lambda data: None) is False
    assert await heard(Tape(path).of("m")) == ([b"one"], "")


async def test_an_upstream_that_can_t_be_reached_is_not_recorded(tmp_path: Path) -> None:
    path = tmp_path / "tape.jsonl"
    down = Script(lambda _: Scripted(before=Fail("refused")))
    assert await heard(Tape(path, mode="once").of("m", down)) == ([], "refused")
    assert not path.exists()


async def test_a_folder_plays_all_that_is_in_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tape = Tape(tmp_path / f"{name}.jsonl", mode="once")
        await heard(tape.of("m", Asked(name.encode()).transport), b'{"model":"%b"}' % name.encode())
    transport = Tape(tmp_path).of("m")
    assert await heard(transport, b'{"model":"two"}') == ([b"two"], "")
    assert await heard(transport, b'{"model":"one"}') == ([b"one"], "")


def test_a_file_that_is_no_cassette_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{}\n")
    with pytest.raises(CassetteError, match="x.jsonl:1"):
        Tape(tmp_path / "x.jsonl")
