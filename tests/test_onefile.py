"""One file is the whole program: it does the main job from an empty folder, and is built twice the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from openai import OpenAI

from tests.packed import BARE, does_the_main_job, fastest, started
from tests.served import ROOT, START_S, environment

# They share a file that takes long to make, and with tests/test_compiled.py what is compiled.
pytestmark = pytest.mark.xdist_group("compiled")
BUILD_S = 600.0
PYZ_BYTES_MAX = 6_000_000
EXE_BYTES_MAX = 40_000_000
# To the first answer; on a quiet machine that is about the time that it takes.
START_CPU_MAX_S = 0.8
# The Python below the virtual environment has nothing installed that the file itself should hold.
PYTHON = str(Path(getattr(sys, "_base_executable", sys.executable)))
# Paths that tell where it was made; a Python of the system's is everywhere.
MACHINE = [str(ROOT), *({sys.base_prefix} - {"/usr", "/usr/local"})]
STARTER = ROOT / "scripts/onefile_start.py"


def build(folder: Path, *words: str, **more: str) -> Path:
    if not (ROOT / ".git").exists():
        pytest.skip("a release is built of a commit")
    done = subprocess.run(
        [str(ROOT / "scripts/binary"), *words, str(folder)],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Where there is no C compiler, that is said in one line.
    unsaid = [line for line in done.stderr.splitlines() if "made of the source, not compiled" in line] == []
    assert unsaid == has_compiler(**more)
    return folder


def has_compiler(**more: str) -> bool:
    command = [sys.executable, "-c", "import native; native.compiler()"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), **more}
    return subprocess.run(command, env=environ, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("pyz"), "--pyz") / "tokenhub-proxy.pyz"


@pytest.fixture(scope="module")
def unpacked(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the file has unpacked itself, as the variable that says so."""
    more = {"SHIV_ROOT": str(tmp_path_factory.mktemp("unpacked"))}
    told = start(pyz, "--version", **more).stdout
    assert told.startswith("tokenhub-proxy ")
    assert told.endswith(", compiled\n") == has_compiler()
    return more


def start(pyz: Path, *words: str, python: str = PYTHON, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, str(pyz), *words],
        env=environment(**BARE, **more),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


def test_the_archive_does_the_main_job_from_an_empty_folder(
    pyz: Path, unpacked: dict[str, str], tmp_path: Path
) -> None:
    timed = does_the_main_job([PYTHON, str(pyz)], tmp_path, **unpacked)
    print(f"\n{pyz.stat().st_size} bytes; {timed}")
    assert pyz.stat().st_size < PYZ_BYTES_MAX


def test_an_archive_that_is_unpacked_starts_at_once(
    pyz: Path, unpacked: dict[str, str], tmp_path: Path
) -> None:
    assert fastest([PYTHON, str(pyz)], tmp_path, 3, **unpacked).cpu_s < START_CPU_MAX_S


def test_a_first_start_unpacks_and_compiles_nothing(pyz: Path, tmp_path: Path) -> None:
    more = {"SHIV_ROOT": str(tmp_path / "root"), "PYTHONDONTWRITEBYTECODE": "1"}
    served, timed = started([PYTHON, str(pyz)], tmp_path, **more)
    served.kill()
    print(f"\nthe first start: {timed}")
    told = start(pyz, "explain", "--help", PYTHONVERBOSE="1", **more).stderr
    loaded = [line for line in told.splitlines() if line.startswith("# code object from") and "root/" in line]
    assert len(loaded) > 5
    assert [line for line in loaded if ".pyc" not in line] == []
    # A first answer of a server without anything compiled takes 1.1 s of a CPU.
    assert timed.cpu_s < 1.0


def test_the_same_commit_gives_the_same_archive(pyz: Path, tmp_path: Path) -> None:
    again = build(tmp_path, "--pyz", TZ="Asia/Tokyo", PYTHONHASHSEED="7", HOME=str(tmp_path))
    assert (again / "tokenhub-proxy.pyz").read_bytes() == pyz.read_bytes()


def test_without_a_compiler_it_is_made_of_the_source(tmp_path: Path) -> None:
    made = build(tmp_path, "--pyz", CC="/nowhere/cc") / "tokenhub-proxy.pyz"
    told = start(made, "--version", SHIV_ROOT=str(tmp_path / "unpacked"))
    assert told.stdout.startswith("tokenhub-proxy ")
    assert "compiled" not in told.stdout
    with zipfile.ZipFile(made) as archive:
        assert not [name for name in archive.namelist() if "/tokenhub_proxy" in name and ".so" in name]


def test_an_archive_tells_nothing_of_the_machine_that_made_it(pyz: Path) -> None:
    with zipfile.ZipFile(pyz) as archive:
        for name in archive.namelist():
            if not name.endswith(".so") or "/tokenhub_proxy" in name:
                data = archive.read(name)
                assert not [path for path in MACHINE if path.encode() in data], name
            assert not name.endswith(("/RECORD", "direct_url.json")), name


def test_its_parts_are_unpacked_where_they_can_be(pyz: Path, tmp_path: Path) -> None:
    """In the cache of who starts it; where there is none, in a folder of theirs alone."""
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    nowhere = {"XDG_CACHE_HOME": "/proc/none", "TMPDIR": str(temporary)}
    assert start(pyz, "--version", HOME=str(home), XDG_CACHE_HOME="", TMPDIR="").returncode == 0
    assert len(list((home / ".cache/tokenhub-proxy").glob("tokenhub-proxy.pyz_*"))) == 1

    assert start(pyz, "--version", **nowhere).returncode == 0
    place = temporary / f"tokenhub-proxy-{os.getuid()}"
    assert place.stat().st_mode & 0o777 == 0o700

    place.chmod(0o777)  # anybody may have put code there
    told = start(pyz, "--version", **nowhere)
    assert told.returncode == 2
    assert told.stderr == (
        "tokenhub-proxy.pyz unpacks itself once, and can't write to /proc/none/tokenhub-proxy or "
        f"{place}. Set SHIV_ROOT to a folder of your own that it can write to.\n"
    )
    told = start(pyz, "--version", SHIV_ROOT="/proc/none")
    assert (told.returncode, "can't write to /proc/none." in told.stderr) == (2, True)


def test_a_python_that_does_not_fit_is_told_so_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "tokenhub-proxy.pyz"
    fit = 'BUILT_FOR = ["", ""]'
    assert fit in STARTER.read_text()
    file.write_text(STARTER.read_text().replace(fit, 'BUILT_FOR = ["cpython-399", "sparc-linux-gnu"]'))
    told = start(file, "--version")
    assert told.returncode == 2
    assert told.stderr.startswith(
        "tokenhub-proxy.pyz is made for cpython-399 on sparc-linux-gnu; this Python is cpython-3"
    )
    assert told.stderr.endswith("Start it with one that fits, or take the file that needs no Python.\n")


# --- the program that needs no Python


@pytest.fixture(scope="module")
def exe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("exe")) / "tokenhub-proxy"


@pytest.mark.long
def test_the_program_without_python_does_the_main_job_from_an_empty_folder(exe: Path, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    timed = does_the_main_job([str(exe)], tmp_path / "job", PATH="/nowhere", HOME="/nowhere")
    print(f"\n{exe.stat().st_size} bytes; {timed}")
    assert exe.stat().st_size < EXE_BYTES_MAX
    assert fastest([str(exe)], tmp_path, 3, PATH="/nowhere").cpu_s < 2 * START_CPU_MAX_S


@pytest.mark.long
def test_the_same_commit_gives_the_same_program(exe: Path, tmp_path: Path) -> None:
    again = build(tmp_path, TZ="Asia/Tokyo", HOME=str(tmp_path))
    assert (again / "tokenhub-proxy").read_bytes() == exe.read_bytes()


@pytest.mark.long
def test_a_stop_that_reaches_both_its_processes_lets_a_stream_end(exe: Path, tmp_path: Path) -> None:
    """Its loader passes signals on, and Ctrl-C or a supervisor signals the program beside it too."""
    served, _ = started([str(exe)], tmp_path)
    try:
        with OpenAI(base_url=served.base_url, api_key=served.secret, max_retries=0) as client:
            said = " ".join(["word"] * 100)  # two seconds of the demo
            messages = [{"role": "user", "content": said}]
            stream = client.chat.completions.create(model="demo", messages=messages, stream=True)
            answer = next(stream).choices[0].delta.content or ""
            loader = served.process.pid
            (program,) = Path(f"/proc/{loader}/task/{loader}/children").read_text().split()
            for pid in (loader, int(program)):
                os.kill(pid, signal.SIGTERM)
            answer += "".join(part.choices[0].delta.content or "" for part in stream)
            assert said in answer, "it was cut"
    finally:
        assert served.gone() == 0
    assert "drain_end cut=0 unsettled=0" in served.log.read_text()
