"""Builds the wheel and the source archive of the commit that is checked out, the same bytes each time.

    python scripts/release.py FOLDER        # with the setuptools of requirements/build.txt

Only what is committed goes in, with the commit's time on it; names, modes and owners of this machine don't.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
BACKEND = (
    "import sys; from setuptools import build_meta; folder = sys.argv[1]; "
    "build_meta.build_sdist(folder); build_meta.build_wheel(folder)"
)


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, stdout=subprocess.PIPE).stdout


def export(tree: Path) -> None:
    """The files of the commit, with modes that depend on no umask."""
    with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", "HEAD"))) as archive:
        archive.extractall(tree, filter="data")
    for path in [tree, *tree.rglob("*")]:
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def build(tree: Path, built: Path, made_at: int) -> None:
    """Both archives, by the backend that pyproject.toml names."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(made_at), "PYTHONHASHSEED": "0", "TZ": "UTC"}
    os.umask(0o022)
    command = [sys.executable, "-c", BACKEND, str(built)]
    subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)


def repacked(source: Path, made_at: int) -> bytes:
    """A source archive with its members in order, of no owner, and of the commit's time."""
    plain = io.BytesIO()
    with tarfile.open(source) as old, tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime, member.pax_headers = made_at, {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    return gzip.compress(plain.getvalue(), mtime=made_at)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    made_at = int(git("log", "-1", "--format=%ct"))
    with tempfile.TemporaryDirectory() as work:
        tree, built = Path(work, "tree"), Path(work, "built")
        tree.mkdir()
        built.mkdir()
        export(tree)
        build(tree, built, made_at)
        for path in sorted(built.iterdir()):
            data = repacked(path, made_at) if path.suffix == ".gz" else path.read_bytes()
            (folder / path.name).write_bytes(data)
            print(hashlib.sha256(data).hexdigest(), path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
