"""Secrets of the config: written `env:NAME`, `file:/path` or literally, and never shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tokenhub_proxy.config import values
from tokenhub_proxy.config.nodes import Node
from tokenhub_proxy.config.walk import Walk

Parsed = TypeVar("Parsed")

_RELATIVE = "; a relative path begins in the config's folder"


class Secrets:
    """Where secrets are found. What can't be read is complained of.

    An `env:` variable that is not set is a warning where the caller can do without: one file
    serves a laptop with two provider keys and a server with ten. A file that can't be read is
    always a complaint: whoever names a file means it to be there.
    """

    __slots__ = ("_environ", "_read_file", "_walk", "folder")

    def __init__(
        self, walk: Walk, folder: Path, environ: Mapping[str, str], read_file: Callable[[Path], str]
    ) -> None:
        self.folder = folder
        self._walk = walk
        self._environ = environ
        self._read_file = read_file

    def read(self, node: Node, parse: Callable[[str], Parsed], unset: str = "") -> Parsed | None:
        """What `parse` makes of a secret; None after a complaint, or after the warning `unset`."""
        walk = self._walk
        text = walk.text(node)
        if text is None:
            return None
        place, colon, rest = text.partition(":")
        if colon and place == "env":
            return self._variable(node, rest, parse, unset)
        if colon and place == "file":
            text = self.file(node, rest).rstrip("\r\n")
        try:
            return parse(values.credential(text))
        except ValueError as exc:
            if text or place != "file":
                walk.complain(node, str(exc))
        return None

    def _variable(self, node: Node, name: str, parse: Callable[[str], Parsed], unset: str) -> Parsed | None:
        if not name.isidentifier() or not name.isascii():
            self._walk.complain(node, "after env: stands the name of a variable: letters, digits and _")
            return None
        value = self._environ.get(name)
        if not value:
            tell = self._walk.warn if unset else self._walk.complain
            tell(node, f"the environment variable {name} is not set{unset}")
            return None
        try:
            return parse(values.credential(value))
        except ValueError as exc:
            self._walk.complain(node, f"in the environment variable {name}: {exc}")
            return None

    def file(self, node: Node, path: str) -> str:
        """A file's text, or "" after a complaint, which never shows the path: it may be a secret."""
        try:
            text = self._read_file(self.folder / path)
        except OSError as exc:
            self._walk.complain(
                node, f"the file can't be read: {exc.strerror or type(exc).__name__}{_RELATIVE}"
            )
        except ValueError:
            self._walk.complain(node, "the file can't be read: it is no text in UTF-8")
        else:
            if not text.strip():
                self._walk.complain(node, "the file is empty")
            return text if text.strip() else ""
        return ""
