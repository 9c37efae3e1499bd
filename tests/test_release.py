"""What is installed is what is read: built the same each time, of pinned parts, and nothing runs unasked."""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.served import ROOT, Served

# The archives are built once.
pytestmark = pytest.mark.xdist_group("release")
BUILD_S = 120.0
PACKAGE_DATA = {"llms.txt", "openapi.json", "prices.json", "py.typed"}
# What the pages of the dashboard are made of, by folder.
PAGE_DATA = {
    "catalogues": {".json"},
    "static": {".css", ".js", ".json", ".svg", ".txt"},
    "templates": {".html"},
}
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([\w.]+)(?: ; [^\\]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$")
# In pieces, so that this file does not name them.
REGISTRIES = re.compile(
    r"py" + r"pi\.org|python" + r"hosted\.org|npm" + r"js\.org|--(?:extra-)?index-" + r"url\b"
)


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True
    ).stdout


def locked(path: Path) -> dict[str, str]:
    """The versions by name; every entry has at least one digest."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    entries = [PINNED.match(entry) for entry in re.split(r"\n(?! )", text.strip())]
    assert all(entries), path
    return {found[1].lower(): found[2] for found in entries if found}


def declared(section: str, option: str) -> list[str]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return [line for line in parser[section][option].splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    """The archives by name, built twice: in other folders, under another umask, in another time zone."""
    setuptools = pytest.importorskip("setuptools")
    (wanted,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    if int(setuptools.__version__.partition(".")[0]) < int(wanted.removeprefix("setuptools>=")):
        pytest.skip(f"setuptools {setuptools.__version__} is not {wanted}")
    if not (ROOT / ".git").exists():
        pytest.skip("a release is built of a commit")
    found = []
    for umask, zone in ((0o022, "UTC"), (0o077, "Asia/Tokyo")):
        folder = tmp_path_factory.mktemp("dist")
        subprocess.run(
            [sys.executable, str(ROOT / "scripts/release.py"), str(folder)],
            env={**os.environ, "TZ": zone, "PYTHONHASHSEED": str(umask)},
            umask=umask,
            check=True,
            capture_output=True,
            timeout=BUILD_S,
        )
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
    return found


def one(built: list[dict[str, bytes]], ending: str, folder: Path) -> Path:
    (name,) = [name for name in built[0] if name.endswith(ending)]
    path = folder / name
    path.write_bytes(built[0][name])
    return path


def test_the_same_commit_gives_the_same_bytes(built: list[dict[str, bytes]]) -> None:
    first, second = built
    assert sorted(name.rpartition(".")[2] for name in first) == ["gz", "whl"]
    assert first == second


def test_the_wheel_holds_the_package_its_data_and_what_describes_it(built, tmp_path: Path) -> None:
    with zipfile.ZipFile(one(built, ".whl", tmp_path)) as wheel:
        names = set(wheel.namelist())
        (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        described = wheel.read(f"{info}/WHEEL").decode()
        commands = wheel.read(f"{info}/entry_points.txt").decode()
    committed = set(git("ls-tree", "-r", "--name-only", "HEAD", "tokenhub_proxy").split())
    manual = info.replace(".dist-info", ".data") + "/data/share/man/man1/tokenhub-proxy.1"
    assert names == committed | {f"{info}/{name}" for name in METADATA} | {manual}
    data = {Path(name) for name in committed if not name.endswith(".py")}
    pages = {path for path in data if path.parent.parent.name == "dashboard"}
    assert {path.name for path in data - pages} == PACKAGE_DATA
    assert all(path.suffix in PAGE_DATA[path.parent.name] for path in pages)
    assert "Root-Is-Purelib: true\nTag: py3-none-any\n" in described
    # What somebody types, and what pytest loads; every other kind is called by somebody's installer.
    assert set(re.findall(r"^\[(.*)\]$", commands, re.MULTILINE)) <= {"console_scripts", "pytest11"}


def test_every_file_of_the_wheel_is_in_its_record(built, tmp_path: Path) -> None:
    with zipfile.ZipFile(one(built, ".whl", tmp_path)) as wheel:
        (record,) = [name for name in wheel.namelist() if name.endswith(".dist-info/RECORD")]
        for name, digest, _ in csv.reader(wheel.read(record).decode().splitlines()):
            if name != record:
                made = base64.urlsafe_b64encode(hashlib.sha256(wheel.read(name)).digest()).rstrip(b"=")
                assert digest == f"sha256={made.decode()}"


def test_the_source_archive_is_the_commit(built, tmp_path: Path) -> None:
    with tarfile.open(one(built, ".tar.gz", tmp_path)) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
        assert {(member.uid, member.uname, member.mode & 0o022) for member in archive} == {(0, "", 0)}
    committed = set(git("ls-tree", "-r", "--name-only", "HEAD").split())
    assert committed - names == {".ci/run", ".gitignore"}  # what only a checkout needs
    made = names - committed
    assert {name for name in made if not name.startswith("tokenhub_proxy.egg-info/")} == {"PKG-INFO"}


def test_building_runs_no_code_of_ours() -> None:
    assert not (ROOT / "setup.py").exists()
    system = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    assert system.keys() == {"requires", "build-backend"}  # no backend-path: it is not in this checkout
    assert system["build-backend"] == "setuptools.build_meta"
    assert "cmdclass" not in (ROOT / "setup.cfg").read_text()


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_part_is_pinned_with_the_digests_of_its_files(path: Path) -> None:
    assert locked(path)


def test_what_is_pinned_is_what_is_declared() -> None:
    requirements = pytest.importorskip("packaging.requirements")
    needed = declared("options", "install_requires") + declared("options.extras_require", "speed")
    pinned = locked(ROOT / "requirements/release.txt")
    for requirement in map(requirements.Requirement, needed):
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), requirement


def test_what_compiles_the_package_is_what_checks_its_types_and_sees_what_it_runs_on() -> None:
    """One pip installs both locks: a part of both has one version."""
    compiles, runs = (locked(ROOT / f"requirements/{name}.txt") for name in ("compile", "release"))
    assert f"mypy=={compiles['mypy']}" in declared("options.extras_require", "test")
    assert {name for name in compiles.keys() & runs.keys() if compiles[name] != runs[name]} == set()
    assert locked(ROOT / "requirements/build.txt").items() <= compiles.items()


def test_no_file_says_where_packages_come_from() -> None:
    """That is the installer's own business, and some have registries of their own."""
    if not (ROOT / ".git").exists():
        pytest.skip("what is committed is known to git")
    found = [
        name
        for name in git("ls-files").split()
        if (ROOT / name).is_file() and REGISTRIES.search((ROOT / name).read_text(errors="replace"))
    ]
    assert found == []


@pytest.mark.long
def test_the_wheel_serves_in_a_fresh_environment_of_the_pinned_parts(built, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv/bin/python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    locked_parts = ["--require-hashes", "--requirement", str(ROOT / "requirements/release.txt")]
    subprocess.run([*install, *locked_parts], check=True)
    subprocess.run([*install, "--no-deps", str(one(built, ".whl", tmp_path))], check=True)
    subprocess.run([python, "-m", "pip", "check"], check=True, capture_output=True)

    served = Served(
        tmp_path, "--listen", "127.0.0.1:0", command=[python, "-m", "tokenhub_proxy"], PYTHONPATH=""
    )
    try:
        assert served.chat(served.secret)[0] == 200
    finally:
        assert served.stop() == 0
