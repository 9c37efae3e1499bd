"""The models of an Ollama on this machine: what the first minute offers beside the demo."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

import orjson

# An Ollama on this machine answers within milliseconds, or is not there.
OLLAMA = ("127.0.0.1", 11434)
OLLAMA_S = 0.3
OLLAMA_BYTES_MAX = 4 * 2**20


def ollama_models() -> Sequence[str]:
    """The models of an Ollama on this machine; none where it does not answer at once."""
    request = b"GET /api/tags HTTP/1.0\r\nHost: localhost\r\n\r\n"
    deadline, answer = time.monotonic() + OLLAMA_S, b""
    try:
        with socket.create_connection(OLLAMA, timeout=OLLAMA_S) as connection:
            connection.sendall(request)
            while (data := connection.recv(2**16)) and len(answer) < OLLAMA_BYTES_MAX:
                answer += data
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
        # An answer to HTTP/1.0 has no chunks and ends with the connection.
        found = orjson.loads(answer.partition(b"\r\n\r\n")[2])
        return [str(model["name"]) for model in found["models"]]
    except (OSError, ValueError, KeyError, TypeError):
        return ()
