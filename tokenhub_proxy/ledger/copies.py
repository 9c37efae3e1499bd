"""A backup's way to its name: written beside it, made durable, then renamed."""

from __future__ import annotations

import os
from contextlib import suppress

from tokenhub_proxy.errors import InvalidRequest


def make_way(unfinished: str, path: str) -> None:
    """Raises InvalidRequest where there is such a file already."""
    if os.path.exists(path):
        raise InvalidRequest(f"{path} exists; a backup is a new file.")
    with suppress(FileNotFoundError):
        os.unlink(unfinished)


def put_in_place(unfinished: str, path: str) -> None:
    """Make a written file durable, then give it its name."""
    for name in (unfinished, None, os.path.dirname(os.path.abspath(path))):
        if name is None:
            os.rename(unfinished, path)
            continue
        descriptor = os.open(name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
