"""A file system that forgets: what was written and not synced is lost or torn when the power goes."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import apsw

# A disk writes a sector whole or not at all; a page of the database has eight of them.
SECTOR = 512


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done to a file: `data` at `offset`, a new length, a sync, or its removal."""

    file: str
    kind: str
    offset: int = 0
    data: bytes = b""


class Disk(apsw.VFS):
    """Writes through to real files, and keeps a log of what was done in which order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.log: list[Step] = []
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _File(self.log, name, flags)

    def xDelete(self, name: str, syncdir: bool) -> None:
        self.log.append(Step(os.path.basename(name), "delete"))
        super().xDelete(name, syncdir)


class _File(apsw.VFSFile):
    def __init__(self, log: list[Step], name: Any, flags: list[int]) -> None:
        self._log = log
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._name = os.path.basename(path or "temporary")
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._log.append(Step(self._name, "write", offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, length: int) -> None:
        self._log.append(Step(self._name, "truncate", length))
        super().xTruncate(length)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._log.append(Step(self._name, "sync"))


class Image:
    """The files as a disk would have them: what was synced for sure, and what came after it."""

    def __init__(self) -> None:
        self._synced: dict[str, bytearray] = {}
        self._pending: dict[str, list[Step]] = defaultdict(list)

    def apply(self, step: Step) -> None:
        if step.kind == "sync":
            for one in self._pending.pop(step.file, ()):
                _do(self._synced, one)
        elif step.kind == "delete":
            self._pending.pop(step.file, None)
            self._synced.pop(step.file, None)
        else:
            self._pending[step.file].append(step)

    def kill(self, folder: str) -> None:
        """Write the files as they are after a process was killed: all that it wrote is there."""
        files = {name: bytearray(data) for name, data in self._synced.items()}
        for steps in self._pending.values():
            for step in steps:
                _do(files, step)
        _write(folder, files)

    def cut(self, folder: str, chance: random.Random, *, torn: bool) -> None:
        """Write the files after a power cut: without all that was not synced, or with torn parts of it."""
        files = {name: bytearray(data) for name, data in self._synced.items()}
        for steps in self._pending.values() if torn else ():
            for step in steps:
                for piece in _pieces(step):
                    if chance.random() < 0.5:
                        _do(files, piece)
        _write(folder, files)


def _write(folder: str, files: dict[str, bytearray]) -> None:
    for name, data in files.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)


def _pieces(step: Step) -> list[Step]:
    if step.kind != "write":
        return [step]
    return [
        Step(step.file, "write", step.offset + start, step.data[start : start + SECTOR])
        for start in range(0, len(step.data), SECTOR)
    ]


def _do(files: dict[str, bytearray], step: Step) -> None:
    data = files.setdefault(step.file, bytearray())
    if step.kind == "truncate":
        del data[step.offset :]
        return
    if len(data) < step.offset:
        data.extend(bytes(step.offset - len(data)))
    data[step.offset : step.offset + len(step.data)] = step.data
