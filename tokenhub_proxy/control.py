"""The owner's door: a UNIX socket beside the ledger, over which other processes use its verbs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from tokenhub_proxy.errors import InternalError, InvalidRequest, ProxyError

if TYPE_CHECKING:
    from tokenhub_proxy.admin import Administration

log = logging.getLogger(__name__)

# A request is one line; the longest is an `explain` with a body.
LINE_BYTES_MAX = 4 * 2**20
# Whoever is connected says its next line, or takes ours, within this time, or is let go.
PEER_S = 60.0
# Scripts may ask in parallel; more at once than this is a loop that went wrong.
CONNECTIONS_MAX = 64
# An export waits for its reader beyond so much; asking at every line cost more than the lines.
# It is asyncio's own mark, above which `drain` waits.
UNSENT_BYTES_MAX = 2**16
# Verbs that read millions of rows take their time; a dead owner is noticed by its closed socket.
ANSWER_S = 600.0
# The kernel takes socket paths up to 107 bytes; longer ones go through a descriptor of the folder.
PATH_BYTES_MAX = 100


def socket_path(ledger_path: str) -> str:
    """Where the owner of this ledger listens."""
    return f"{ledger_path}.sock"


class Control:
    """Serves the verbs of an Administration: a JSON line in, JSON lines out.

    A request is `{"verb", "arguments"}`. An answer is `{"result"}` or `{"error": {"code",
    "message"}}`; `ledger export` gives a line `{"item"}` per entry before its result.
    """

    def __init__(self, administration: Administration, ledger_path: str) -> None:
        self._administration = administration
        self._path = socket_path(ledger_path)
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Only one process owns the ledger, so a socket file in the way is a dead one.

        Raises OSError where its folder takes no sockets.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        with _reachable(self._path) as path, contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            mask = os.umask(0o177)  # from its first moment, the operator's alone
            try:
                listener.bind(path)
            finally:
                os.umask(mask)
            self._server = await asyncio.start_unix_server(
                self._accept, sock=listener, limit=LINE_BYTES_MAX, backlog=CONNECTIONS_MAX
            )
            stack.pop_all()

    async def stop(self) -> None:
        """Let everybody go; a verb that has begun is carried out."""
        if self._server is None:
            return
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._serving) >= CONNECTIONS_MAX:
            writer.close()
            return
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        # Not in the task's own finally: one that is cancelled before it ran has none.
        task.add_done_callback(lambda _: writer.close())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await _line(reader):
                async with contextlib.aclosing(self._answers(line)) as answers:
                    async for answer in answers:
                        writer.write(orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE))
                        if writer.transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
                            async with asyncio.timeout(PEER_S):
                                await writer.drain()
        except (ConnectionError, TimeoutError):
            pass  # the other side left, or does nothing

    async def _answers(self, line: bytes) -> AsyncGenerator[dict[str, Any], None]:
        try:
            verb, arguments = _request(line)
            if verb == "ledger export":
                async for item in self._administration.export():
                    yield {"item": item}
                yield {"result": None}
                return
            from tokenhub_proxy.users import COMMAND_LINE  # who only asks needs none of it

            # Who leaves early does not undo half of what was asked for.
            done = self._administration.perform(verb, arguments, COMMAND_LINE)
            yield {"result": await asyncio.shield(done)}
        except ProxyError as error:
            yield {"error": {"code": error.code, "message": error.message}}
        except Exception:
            log.exception("a command failed")
            yield {
                "error": {"code": InternalError.code, "message": "The running server failed; see its log."}
            }


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line; b"" at the end, and for a line beyond the bound."""
    try:
        async with asyncio.timeout(PEER_S):
            return await reader.readline()
    except ValueError:
        return b""


def _request(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        request = orjson.loads(line)
    except orjson.JSONDecodeError:
        request = None
    verb = request.get("verb") if isinstance(request, dict) else None
    arguments = request.get("arguments", {}) if isinstance(request, dict) else None
    if not isinstance(verb, str) or not isinstance(arguments, dict):
        raise InvalidRequest('A request is a line {"verb": "...", "arguments": {...}}.')
    return verb, arguments


class ControlError(Exception):
    """What the owner answered instead of a result."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def ask(ledger_path: str, verb: str, arguments: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Ask the owner: yields ("item", …) lines and at last ("result", …).

    Raises ConnectionRefusedError or FileNotFoundError where no owner runs, ControlError for a
    refusal, and another OSError where the owner can't be reached or does not answer.
    """
    request = orjson.dumps({"verb": verb, "arguments": arguments}, option=orjson.OPT_APPEND_NEWLINE)
    if len(request) > LINE_BYTES_MAX:
        raise ControlError("invalid_request", f"The request is over {LINE_BYTES_MAX} bytes.")
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(_reachable(socket_path(ledger_path)))
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        connection.settimeout(ANSWER_S)
        connection.connect(path)
        try:
            connection.sendall(request)
            for line in stack.enter_context(connection.makefile("rb")):
                answer = orjson.loads(line)
                if "error" in answer:
                    raise ControlError(answer["error"]["code"], answer["error"]["message"])
                if "item" in answer:
                    yield "item", answer["item"]
                else:
                    yield "result", answer["result"]
                    return
        except (ConnectionError, orjson.JSONDecodeError):
            pass  # it died between two bytes
    raise ControlError("internal_error", "The running server closed the connection.")


@contextlib.contextmanager
def _reachable(path: str) -> Iterator[str]:
    """A short enough name for this socket path, valid within the block."""
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        yield path
        return
    folder = os.open(Path(path).resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{Path(path).name}"
    finally:
        os.close(folder)
