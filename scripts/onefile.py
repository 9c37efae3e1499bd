"""Packs the commit and the pinned parts it runs on into one file, the same bytes each time.

python scripts/onefile.py FOLDER pyz|exe…      # with what requirements/binary.txt pins; see scripts/binary

The package is compiled where there is a C compiler (see native.py); with another one the bytes are others.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import os
import py_compile
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from importlib.util import cache_from_source
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import native
import release

NAME = "tokenhub-proxy"
RUNS_ON = release.ROOT / "requirements/release.txt"
STARTER = Path(__file__).with_name("onefile_start.py")
# What pip says of this installation, a starter for a Python that is not there, and what is never run.
LEFT_OUT = (
    *("bin", "share", "*.dist-info/direct_url.json", "*.dist-info/REQUESTED", "*.dist-info/INSTALLER"),
    *("*.dist-info/RECORD", "*/**/*.pyx", "*/**/*.pxd", "*/**/*.pyi", "*/**/*.hash", "*/**/_testcapi*.so"),
)
PARTS = "site-packages/"  # where shiv's archive has them
# What a start imports comes compiled, so that the first is as fast as all others, but for the unpacking.
# What only pages and unusual requests need is twice as large, and compiled when it is first imported.
STARTS = tuple(f"{PARTS}{part}/" for part in ("tokenhub_proxy", "httptools", "orjson", "uvloop", "yaml"))
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def parts(work: Path, made_at: int) -> Path:
    """A folder with the package and all that it imports."""
    wheels, found, tree = work / "wheels", work / "parts", work / "tree"
    tree.mkdir()
    release.export(tree)
    try:
        wheel = native.wheel(tree)
    except native.NoCompiler as problem:
        print(f"{problem}: made of the source, not compiled", file=sys.stderr)
        with contextlib.redirect_stdout(sys.stderr):
            release.main(wheels)
        (wheel,) = wheels.glob("*.whl")
    package = work / "package"
    install(package, "--no-deps", str(wheel))
    shrink(package)
    shutil.copytree(pinned(work), found)
    shutil.copytree(package, found, dirs_exist_ok=True)
    for path in [found, *found.rglob("*")]:
        path.chmod(0o755 if path.is_dir() or path.suffix == ".so" else 0o644)
        os.utime(path, (made_at, made_at))
    return found


def pinned(work: Path) -> Path:
    """What the package imports, kept in build/ for the next time."""
    version = hashlib.sha256(RUNS_ON.read_bytes() + repr((abi(), LEFT_OUT)).encode()).hexdigest()[:16]
    kept = release.ROOT / "build" / f"parts-{version}"
    if not kept.exists():
        fetched = work / "fetched"
        install(fetched, "--require-hashes", "--only-binary", ":all:", "--requirement", str(RUNS_ON))
        shrink(fetched)
        kept.parent.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):  # somebody else was first
            shutil.copytree(fetched, kept.with_suffix(f".{os.getpid()}")).rename(kept)
    return kept


def install(folder: Path, *what: str) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*pip, "--target", str(folder), "--upgrade", *what], check=True)
    for pattern in LEFT_OUT:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def shrink(found: Path) -> None:
    """Half of what wheels hold is there for debuggers."""
    strip = shutil.which("strip")
    if strip is None:
        print("strip (binutils) is not installed: the file is twice as large", file=sys.stderr)
        return
    if compiled := sorted(str(path) for path in found.rglob("*.so")):
        subprocess.run([strip, "--strip-unneeded", "--enable-deterministic-archives", *compiled], check=True)


def pyz(found: Path, work: Path, made_at: int) -> bytes:
    """shiv's archive, with a beginning that says in a sentence why it can't run where it can't."""
    made = work / "made.pyz"
    command = [str(Path(sys.executable).with_name("shiv")), "--site-packages", str(found), "--compressed"]
    command += ["--console-script", NAME, "--python", "/usr/bin/env python3"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(made_at)}
    subprocess.run(
        [*command, "--output-file", str(made)], env=environment, check=True, stdout=subprocess.DEVNULL
    )
    plain = io.BytesIO()
    with (
        zipfile.ZipFile(made) as old,
        zipfile.ZipFile(plain, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new,
    ):
        about = json.loads(old.read("environment.json"))
        start = STARTER.read_text().replace('BUILT_FOR = ["", ""]', f"BUILT_FOR = {abi()!r}")
        start = start.replace('BUILD_ID = ""', f"BUILD_ID = {about['build_id']!r}")
        for name in sorted(old.namelist()):
            data = start.encode() if name == "__main__.py" else old.read(name)
            add(new, name, data)
            source = found / name.removeprefix(PARTS)
            if name.endswith(".py") and name.startswith(STARTS) and not library(source).exists():
                add(new, cache_from_source(name), compiled(source, work))
    return b"#!/usr/bin/env python3\n" + plain.getvalue()


def add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """A member that is the same whenever and by whomever it was made."""
    member = zipfile.ZipInfo(name, ZIP_EPOCH)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = (stat.S_IFREG | (0o755 if name.endswith(".so") else 0o644)) << 16
    archive.writestr(member, data)


def compiled(source: Path, work: Path) -> bytes:
    """A module's bytecode, which never looks at the source."""
    made = work / "made.pyc"
    # Tracebacks show the path that it is imported from; the name in here must not be this machine's.
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(
        str(source), cfile=str(made), dfile=source.name, doraise=True, invalidation_mode=unchecked
    )
    return made.read_bytes()


def library(source: Path) -> Path:
    """Where a module's machine code is, if it has any: Python looks there first."""
    return source.with_suffix(sysconfig.get_config_var("EXT_SUFFIX"))


def imported(found: Path) -> list[str]:
    """What the compiled modules import: PyInstaller sees it in source alone."""
    names = {path.name.partition(".")[0] for path in found.glob("tokenhub_proxy__mypyc*.so")}
    for source in (found / "tokenhub_proxy").rglob("*.py"):
        if library(source).exists():
            for node in ast.walk(ast.parse(source.read_text())):
                if isinstance(node, ast.Import):
                    names |= {one.name for one in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module is not None:
                    names.add(node.module)
    return sorted(names)


def abi() -> list[str]:
    """What compiled parts fit: the Python and the C library, as in the names of their files."""
    return [sys.implementation.cache_tag + sys.abiflags, getattr(sys.implementation, "_multiarch", "")]


def exe(found: Path, work: Path, made_at: int) -> bytes:
    """PyInstaller's program: the interpreter, the parts, and a loader that unpacks them at every start."""
    start = work / "start.py"
    start.write_text("import sys\n\nfrom tokenhub_proxy.cli import main\n\nsys.exit(main())\n")
    command = [sys.executable, "-m", "PyInstaller", "--onefile", "--name", NAME, "--log-level", "ERROR"]
    command += ["--distpath", str(work / "made"), "--workpath", str(work / "build"), "--specpath", str(work)]
    # Parts that are chosen by name, such as dialects and the loop, are imported nowhere that could be seen.
    command += ["--collect-submodules", "tokenhub_proxy", "--collect-submodules", "uvloop"]
    command += ["--collect-data", "tokenhub_proxy", "--copy-metadata", NAME]
    for name in imported(found):
        command += ["--hidden-import", name]
    for name in ("tokenhub_proxy.pytest_plugin", "tkinter", "test", "pydoc", "setuptools", "pip"):
        command += ["--exclude-module", name]
    environment = {
        **os.environ,
        "PYTHONPATH": str(found),
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": str(made_at),
        "PYINSTALLER_CONFIG_DIR": str(work / "config"),
    }
    subprocess.run([*command, "--noconfirm", str(start)], env=environment, cwd=work, check=True)
    return (work / "made" / NAME).read_bytes()


def main(folder: Path, kinds: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    made_at = int(release.git("log", "-1", "--format=%ct"))
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        found = parts(work, made_at)
        for kind in kinds:
            path = folder / (f"{NAME}.pyz" if kind == "pyz" else NAME)
            path.write_bytes({"pyz": pyz, "exe": exe}[kind](found, work, made_at))
            path.chmod(0o755)
            print(hashlib.sha256(path.read_bytes()).hexdigest(), path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
