"""The owner's door: a UNIX socket beside the ledger, over which other processes use its verbs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from tokenhub_proxy.admin import Administration
from tokenhub_proxy.errors import InternalError, NotFound, ProxyError, shown

# A request is one line; the longest is an `explain` with a body.
LINE_BYTES_MAX = 4 * 2**20
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

    async def start(self) -> None:
        """Listen. Only one process owns the ledger, so a socket file in the way is a dead one."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        with _reachable(self._path) as path:
            listener = socket.socket(socket.AF_UNIX)
            mask = os.umask(0o177)  # from its first moment, the operator's alone
            try:
                listener.bind(path)
            finally:
                os.umask(mask)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=LINE_BYTES_MAX)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                async for answer in self._answers(line):
                    writer.write(orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE))
                    await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the other side left, or sent a line beyond the bound
        finally:
            writer.close()

    async def _answers(self, line: bytes) -> Any:
        try:
            request = orjson.loads(line)
            verb, arguments = request["verb"], request.get("arguments") or {}
            if verb == "ledger export":
                async for item in self._administration.export():
                    yield {"item": item}
                yield {"result": None}
                return
            handler = self._administration.verbs.get(verb)
            if handler is None:
                raise NotFound(f"The running server knows no {shown(str(verb))}.")
            yield {"result": await handler(arguments)}
        except ProxyError as error:
            yield {"error": {"code": error.code, "message": error.message}}
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            yield {"error": {"code": "invalid_request", "message": "That is no request."}}
        except Exception:
            yield {"error": {"code": InternalError.code, "message": "The running server failed."}}
            raise


class ControlError(Exception):
    """What the owner answered instead of a result."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def ask(ledger_path: str, verb: str, arguments: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Ask the owner: yields ("item", …) lines and at last ("result", …).

    Raises ConnectionRefusedError or FileNotFoundError where no owner runs, and ControlError.
    """
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(_reachable(socket_path(ledger_path)))
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        connection.settimeout(ANSWER_S)
        connection.connect(path)
        request = {"verb": verb, "arguments": arguments}
        connection.sendall(orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE))
        for line in stack.enter_context(connection.makefile("rb")):
            answer = orjson.loads(line)
            if "error" in answer:
                raise ControlError(answer["error"]["code"], answer["error"]["message"])
            if "item" in answer:
                yield "item", answer["item"]
            else:
                yield "result", answer["result"]
                return
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
