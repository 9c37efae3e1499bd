"""Styles, scripts and icons: read once, served from memory under names that hold their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources

from tokenhub_proxy.dashboard.asked import Answer

PREFIX = "/dashboard/static/"
TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class Assets:
    """Every file of `static/` that a browser may have."""

    def __init__(self) -> None:
        self._paths: dict[str, str] = {}
        self._answers: dict[str, tuple[bytes, str]] = {}
        for file in resources.files("tokenhub_proxy.dashboard").joinpath("static").iterdir():
            stem, _, kind = file.name.rpartition(".")
            if kind not in TYPES:
                continue
            body = file.read_bytes()
            path = f"{PREFIX}{stem}.{hashlib.sha256(body).hexdigest()[:16]}.{kind}"
            self._paths[file.name] = path
            self._answers[path] = (body, TYPES[kind])

    def path(self, name: str) -> str:
        """Where a file is, for a page that refers to it. Raises KeyError for one that is not there."""
        return self._paths[name]

    @property
    def paths(self) -> Mapping[str, str]:
        """All of them, by the files' own names."""
        return self._paths

    def answer(self, path: str) -> Answer | None:
        """A file, which under this name will never be another."""
        found = self._answers.get(path)
        if found is None:
            return None
        headers = {"cache-control": "public, max-age=31536000, immutable"}
        return Answer(found[0], content_type=found[1], headers=headers)
