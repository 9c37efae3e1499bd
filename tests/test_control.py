"""The owner's socket: who may use it, what it survives, and how much it holds."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tokenhub_proxy import control
from tokenhub_proxy.control import Control, ControlError, socket_path
from tokenhub_proxy.errors import InvalidRequest, NotFound


class Verbs:
    """An administration that does what the test tells it to."""

    def __init__(self) -> None:
        self.verbs: Any = {"echo": self.echo, "refuse": self.refuse, "fail": self.fail, "wait": self.wait}
        self.begun = asyncio.Event()
        self.released = asyncio.Event()
        self.done = 0
        self.items = 3
        self.made = 0

    async def perform(self, verb: str, arguments: Any, actor: Any) -> Any:
        if verb not in self.verbs:
            raise NotFound(f"The running server knows no {verb!r}.")
        return await self.verbs[verb](arguments)

    async def echo(self, arguments: Any) -> Any:
        return arguments

    async def refuse(self, arguments: Any) -> Any:
        raise InvalidRequest("No.")

    async def fail(self, arguments: Any) -> Any:
        raise KeyError("a bug")

    async def wait(self, arguments: Any) -> Any:
        self.begun.set()
        await self.released.wait()
        self.done += 1

    async def export(self) -> AsyncIterator[Any]:
        for number in range(self.items):
            self.made = number + 1
            yield {"id": number, "note": "x" * 100}


@pytest.fixture
async def verbs() -> Verbs:
    return Verbs()


@pytest.fixture
async def door(tmp_path: Path, verbs: Verbs) -> AsyncIterator[Path]:
    """The path of a ledger whose owner listens."""
    path = tmp_path / "books.db"
    one = Control(verbs, str(path))  # type: ignore[arg-type]
    await one.start()
    yield path
    await asyncio.wait_for(one.stop(), 5)
    assert not Path(socket_path(str(path))).exists()


async def ask(path: Path, verb: str, **arguments: Any) -> list[tuple[str, Any]]:
    return await asyncio.to_thread(lambda: list(control.ask(str(path), verb, arguments)))


async def raw(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    """Say these bytes and hear everything until the end."""
    reader, writer = await asyncio.open_unix_connection(socket_path(str(path)), limit=2**24)
    for line in lines:
        writer.write(line)
    writer.write_eof()
    said = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return [json.loads(line) for line in said.splitlines()]


async def test_a_verb_gives_its_result_and_a_refusal_its_code(door: Path) -> None:
    assert await ask(door, "echo", name="laptop") == [("result", {"name": "laptop"})]
    with pytest.raises(ControlError, match="No") as refused:
        await ask(door, "refuse")
    assert refused.value.code == "invalid_request"
    with pytest.raises(ControlError) as unknown:
        await ask(door, "drop everything")
    assert unknown.value.code == "not_found"


async def test_only_the_operator_can_open_it(door: Path) -> None:
    assert stat.S_IMODE(os.stat(socket_path(str(door))).st_mode) == 0o600


async def test_a_bug_is_logged_and_told_without_its_words(door: Path, caplog: Any) -> None:
    with pytest.raises(ControlError, match="see its log") as failed:
        await ask(door, "fail")
    assert failed.value.code == "internal_error"
    assert "a bug" in caplog.text
    assert await ask(door, "echo") == [("result", {})]


@pytest.mark.parametrize(
    "garbage",
    [b"\n", b"{}\n", b"[]\n", b"null\n", b'"verb"\n', b'{"verb": 1}\n',
     b'{"verb": "echo", "arguments": []}\n', b"GET / HTTP/1.1\r\n\r\n", b"\xff\xfe\n", b'{"verb": "echo"',
     b"[" * 100_000 + b"\n"],
)  # fmt: skip
async def test_garbage_is_refused_and_harms_nobody(door: Path, garbage: bytes) -> None:
    for answer in await raw(door, garbage):
        assert answer["error"]["code"] == "invalid_request"
    assert await ask(door, "echo") == [("result", {})]


async def test_a_line_beyond_the_bound_is_not_kept(door: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ControlError, match="over"):
        await ask(door, "echo", body="x" * control.LINE_BYTES_MAX)

    def flood() -> int:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(socket_path(str(door)))
            sent = 0
            try:
                while sent < 8 * control.LINE_BYTES_MAX:
                    sent += connection.send(b"x" * 2**16)
            except OSError:
                pass
            return sent

    assert await asyncio.to_thread(flood) < 4 * control.LINE_BYTES_MAX
    assert await ask(door, "echo") == [("result", {})]


async def test_many_ask_at_once_and_each_hears_its_own(door: Path) -> None:
    answers = await asyncio.gather(*(ask(door, "echo", number=number) for number in range(40)))
    assert answers == [[("result", {"number": number})] for number in range(40)]


async def test_more_connections_than_the_bound_are_let_go(door: Path) -> None:
    held = [
        await asyncio.open_unix_connection(socket_path(str(door))) for _ in range(control.CONNECTIONS_MAX)
    ]
    reader, writer = await asyncio.open_unix_connection(socket_path(str(door)))
    assert await asyncio.wait_for(reader.read(), 5) == b""
    for _, each in [*held, (reader, writer)]:
        each.close()


async def test_who_says_nothing_is_let_go(door: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "PEER_S", 0.05)
    reader, writer = await asyncio.open_unix_connection(socket_path(str(door)))
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_an_export_that_nobody_reads_waits_and_is_let_go(
    door: Path, verbs: Verbs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PEER_S", 0.2)
    verbs.items = 100_000
    _, writer = await asyncio.open_unix_connection(socket_path(str(door)), limit=2**10)
    writer.write(b'{"verb": "ledger export"}\n')
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while verbs.made == 0:
            await asyncio.sleep(0.01)
        made = -1
        while made != verbs.made:
            made = verbs.made
            await asyncio.sleep(0.3)
    assert 0 < verbs.made < 20_000, "what is not read is not made"
    writer.close()


async def test_an_export_gives_every_line_and_then_its_result(door: Path, verbs: Verbs) -> None:
    verbs.items = 100_000
    seen = await ask(door, "ledger export")
    assert len(seen) == 100_001
    assert [item["id"] for _, item in seen[:-1]] == list(range(100_000))
    assert seen[-1] == ("result", None)


async def test_a_verb_that_began_is_carried_out_though_its_asker_left(door: Path, verbs: Verbs) -> None:
    _, writer = await asyncio.open_unix_connection(socket_path(str(door)))
    writer.write(b'{"verb": "wait"}\n')
    await asyncio.wait_for(verbs.begun.wait(), 5)
    writer.close()
    await asyncio.sleep(0)
    verbs.released.set()
    async with asyncio.timeout(5):
        while not verbs.done:
            await asyncio.sleep(0.01)


async def test_a_path_longer_than_the_kernel_takes_works(tmp_path: Path, verbs: Verbs) -> None:
    folder = tmp_path / ("deep" * 20) / ("deeper" * 20)
    folder.mkdir(parents=True)
    one = Control(verbs, str(folder / "books.db"))  # type: ignore[arg-type]
    await one.start()
    assert (folder / "books.db.sock").exists()
    assert await ask(folder / "books.db", "echo", a=1) == [("result", {"a": 1})]
    await one.stop()
    assert not (folder / "books.db.sock").exists()


async def test_a_stale_socket_is_replaced_and_refuses_until_then(tmp_path: Path, verbs: Verbs) -> None:
    path = tmp_path / "books.db"
    with pytest.raises(FileNotFoundError):
        await ask(path, "echo")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(socket_path(str(path)))
    with pytest.raises(ConnectionRefusedError):
        await ask(path, "echo")
    one = Control(verbs, str(path))  # type: ignore[arg-type]
    await one.start()
    assert await ask(path, "echo") == [("result", {})]
    await one.stop()


async def test_a_stop_waits_for_nobody_who_is_idle(tmp_path: Path, verbs: Verbs) -> None:
    one = Control(verbs, str(tmp_path / "books.db"))  # type: ignore[arg-type]
    await one.start()
    _, writer = await asyncio.open_unix_connection(socket_path(str(tmp_path / "books.db")))
    await asyncio.sleep(0)
    await asyncio.wait_for(one.stop(), 5)
    writer.close()


@pytest.mark.parametrize("said", [b"", b'{"item": ', b"nonsense\n"])
def test_an_owner_that_dies_while_it_answers_is_told_in_a_sentence(tmp_path: Path, said: bytes) -> None:
    path = str(tmp_path / "books.db")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(socket_path(path))
        listener.listen()

        def die() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(said)

        thread = threading.Thread(target=die)
        thread.start()
        with pytest.raises(ControlError, match="closed the connection"):
            list(control.ask(path, "echo", {}))
        thread.join()
