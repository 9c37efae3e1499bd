"""Compiles the package of a folder, once for the same code and tools, and keeps the wheel in build/native.

python scripts/native.py FOLDER          # says where it is; exits with 69 where nothing can be compiled
python scripts/native.py WHEEL FOLDER    # puts what is compiled beside the modules of the folder
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "build/native"
# The newest, of a few megabytes each: the commit's, the checkout's, and what somebody goes back to.
KEPT_MAX = 8
# All that goes into the wheel, and what compiles it.
MADE_OF = (
    *("LICENSE", "MANIFEST.in", "README.md", "docs/tokenhub-proxy.1", "pyproject.toml", "setup.cfg"),
    *("scripts/compile.py", "tokenhub_proxy"),
)
# The libraries as well: what is typed decides what is compiled to what.
LOCKS = ("compile.txt", "release.txt")
FLAGS = ("CC", "LDSHARED", "CFLAGS", "CPPFLAGS", "LDFLAGS")
ZIP_EPOCH = "315532800"  # of 1980, where the dates of archives begin
UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h


class NoCompiler(Exception):
    """There is no C compiler here, or no headers for it."""


def compiler() -> str:
    """What the C compiler says that it is, if it finds the headers of Python and of the C library."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    folders = [f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")]
    try:
        tried = subprocess.run(
            [*command, *folders, "-E", "-x", "c", "-"], input=b"#include <Python.h>\n", capture_output=True
        )
        if tried.returncode == 0:
            return subprocess.run([*command, "--version"], capture_output=True, text=True).stdout
    except OSError:
        pass  # it is not there, and is no program
    raise NoCompiler(
        f"no C compiler {command[0]} that finds Python.h "
        "(on Debian: apt-get install gcc libc6-dev python3-dev)"
    )


def sources(tree: Path) -> Iterator[Path]:
    """The files that the wheel is made of, by their names in the folder."""
    for name in MADE_OF:
        for path in sorted([tree / name, *(tree / name).rglob("*")]):
            if path.is_file() and path.suffix not in (".pyc", ".so"):
                yield path.relative_to(tree)


def state(tree: Path) -> str:
    """What decides what is made: the code, the tools, Python, the compiler, and what that is told."""
    flags = [os.environ.get(name, "") for name in FLAGS]
    digest = hashlib.sha256(repr((sys.version, sysconfig.get_platform(), compiler(), flags)).encode())
    files = [(ROOT / "requirements", Path(name)) for name in LOCKS] + [(tree, name) for name in sources(tree)]
    for folder, name in files:
        data = (folder / name).read_bytes()
        digest.update(f"\0{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:16]


def wheel(tree: Path) -> Path:
    """The compiled wheel of what is in the folder; `NoCompiler` where there is none."""
    KEPT.mkdir(parents=True, exist_ok=True)
    kept = KEPT / state(tree)
    # Who comes while another compiles waits, and finds it done.
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            print("compiling, once for this code; this takes a minute or two", file=sys.stderr)
            with tempfile.TemporaryDirectory(dir=KEPT, prefix="making-") as work:
                build(tree, Path(work, "tree"))
                made = Path(work, "made")
                made.mkdir()
                for path in Path(work, "tree").glob("*.whl"):
                    path.rename(made / path.name)
                made.rename(kept)
            forget()
    kept.touch()
    (found,) = kept.glob("*.whl")
    return found


def build(tree: Path, copy: Path) -> None:
    """Runs scripts/compile.py on a copy of what the wheel is made of: the same bytes each time."""
    for name in sources(tree):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tree / name, copy / name)
        (copy / name).chmod(0o644)
    tools = subprocess.run(
        [ROOT / "scripts/tools", "compiler", *LOCKS], check=True, stdout=subprocess.PIPE, text=True
    )
    done = subprocess.run(
        [tools.stdout.strip(), "scripts/compile.py"],
        cwd=copy,
        env={**os.environ, "SOURCE_DATE_EPOCH": ZIP_EPOCH, "PYTHONHASHSEED": "0", "TZ": "UTC"},
        umask=0o022,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(done.stdout)


def forget() -> None:
    folders = sorted(
        (path for path in KEPT.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime
    )
    for path in folders[:-KEPT_MAX]:
        shutil.rmtree(path)


def put(wheel: Path, folder: Path) -> None:
    """What is compiled, beside the modules of a folder."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".so"):
                archive.extract(name, folder)


def main(source: Path, folder: Path | None = None) -> None:
    if folder is not None:
        put(source, folder)
        return
    try:
        print(wheel(source))
    except NoCompiler as problem:
        print(problem, file=sys.stderr)
        sys.exit(UNAVAILABLE)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
