"""What scripts/compile makes: the same program, of modules that keep to what the compiler does right."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.served import ROOT

PACKAGE = ROOT / "tokenhub_proxy"
COMPILE = ROOT / "scripts/compile.py"
COPY = ROOT / "build/compiled"
# The compiler's two minutes, on a machine that does other things too.
BUILD_S = 600.0
# Where a call comes through: fronts, relay, streams, transports, dialects and books.
CALLS = [
    *("tests/test_front.py", "tests/test_relay_clients.py", "tests/test_relay_fallback.py"),
    *(
        "tests/test_relay_streams.py",
        "tests/test_smuggling.py",
        "tests/test_watch.py",
        "tests/test_limits.py",
    ),
    *("tests/test_cancellation.py", "tests/test_drain.py", "tests/test_idempotency.py"),
    *("tests/test_sdk_python.py", "tests/test_serve.py"),
    *("tests/faults", "tests/transports", "tests/dialects/test_pattern.py"),
    *("tests/ledger", "tests/payments/test_crash.py"),
]
SUITES_S = 400.0


def compiled() -> list[str]:
    """The modules that scripts/compile.py names."""
    for node in ast.parse(COMPILE.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED":
            assert isinstance(node.value, ast.List)
            return [name for group in node.value.elts for name in ast.literal_eval(group.value)]  # type: ignore[attr-defined]
    raise AssertionError("no COMPILED")


def parsed(name: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{name}.py").read_text())


def functions(name: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (
        node for node in ast.walk(parsed(name)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def waits(*nodes: ast.AST) -> bool:
    return any(
        isinstance(inner, ast.Await | ast.AsyncWith | ast.AsyncFor | ast.Yield | ast.YieldFrom)
        or (isinstance(inner, ast.comprehension) and inner.is_async)
        for node in nodes
        for inner in ast.walk(node)
    )


# What the compiler gets wrong, as it was seen to.


@pytest.mark.parametrize("name", compiled())
def test_nothing_waits_while_an_exception_is_handled(name: str) -> None:
    """What is being handled belongs to the thread there: another task's exception may be in its place.

    The end of `asyncio.timeout` waits for nothing.
    """
    for function in functions(name):
        for node in ast.walk(function):
            if isinstance(node, ast.Try | ast.TryStar):
                handled = [*node.finalbody, *(line for handler in node.handlers for line in handler.body)]
                assert not waits(*handled), f"{name}.py:{node.lineno}"
            if isinstance(node, ast.AsyncWith):
                opened = [ast.unparse(item.context_expr) for item in node.items]
                assert all(one.startswith("asyncio.timeout(") for one in opened), f"{name}.py:{node.lineno}"


@pytest.mark.parametrize("name", compiled())
def test_one_name_is_given_to_one_kind_of_exception(name: str) -> None:
    """In a coroutine it has the type of the first that has the name, and no other fits it."""
    for function in functions(name):
        kinds: dict[str, str] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.ExceptHandler) and node.name is not None and node.type is not None:
                kind = ast.unparse(node.type)
                assert kinds.setdefault(node.name, kind) == kind, f"{name}.py:{node.lineno}"


@pytest.mark.parametrize("name", compiled())
def test_no_slice_counts_from_the_end_what_may_be_less_than_nothing(name: str) -> None:
    """Bytes whose slice ends before it begins are an error there, and nothing in the language."""
    for node in ast.walk(parsed(name)):
        if isinstance(node, ast.Slice) and node.lower is not None and isinstance(node.upper, ast.UnaryOp):
            limits = (node.lower, node.upper)
            constant = all(
                isinstance(one, ast.UnaryOp) and isinstance(one.operand, ast.Constant) for one in limits
            )
            # There a chunk is cut from a read that begins and ends as a chunk of its length does.
            assert constant or name == "transports/http1", f"{name}.py:{node.lineno}"


@pytest.mark.parametrize("name", compiled())
def test_no_generator_has_anything_to_close(name: str) -> None:
    """One that is dropped half-way there does not run what `finally` and `with` would do."""
    for function in functions(name):
        if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in ast.walk(function)):
            closed = [node for node in ast.walk(function) if isinstance(node, ast.With | ast.Try)]
            assert not closed, f"{name}.py:{function.lineno}"


def test_no_class_outside_inherits_from_a_compiled_one() -> None:
    names = {
        node.name: name for name in compiled() for node in parsed(name).body if isinstance(node, ast.ClassDef)
    }
    for path in PACKAGE.rglob("*.py"):
        name = str(path.relative_to(PACKAGE).with_suffix(""))
        tree = ast.parse(path.read_text())
        own = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and name not in compiled():
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases} - own
                assert not bases & names.keys(), f"{name}.py:{node.lineno}"


# What scripts/compile does, with nothing to compile.


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of few files, whose scripts/compile.py notes that it ran and makes a wheel."""
    programs = {
        ".venv/bin/python": f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n",
        "scripts/install": "#!/bin/sh\n",
        "scripts/tools": f"#!/bin/sh\necho '{sys.executable}'\n",
    }
    files = {
        **programs,
        "scripts/compile.py": (
            f"open({str(tmp_path / 'runs')!r}, 'a').write('.')\n"
            "import zipfile\nwith zipfile.ZipFile('one.whl', 'w') as made:\n"
            "    made.writestr('tokenhub_proxy/one.so', open('tokenhub_proxy/one.py').read())\n"
        ),
        "requirements/compile.txt": "mypy==1",
        "requirements/release.txt": "",
        "setup.cfg": "",
        "tokenhub_proxy/one.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in programs:
        (tmp_path / name).chmod(0o755)
    for name in ("compile", "native.py"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    return tmp_path


def run(checkout: Path, **more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(checkout / "scripts/compile")],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode == 69 and not more:
        pytest.skip(done.stderr.strip())
    return done


def runs(checkout: Path) -> int:
    """How often it has been compiled, this time included."""
    assert run(checkout).returncode == 0
    return len((checkout / "runs").read_text())


def test_only_other_code_and_other_tools_compile_again(checkout: Path) -> None:
    assert runs(checkout) == runs(checkout) == 1
    (checkout / "tests").mkdir()
    (checkout / "tests/test_one.py").write_text("")
    assert runs(checkout) == 1
    assert (checkout / "build/compiled/tests/test_one.py").exists()
    (checkout / "tokenhub_proxy/one.py").write_text("ONE = 1")
    assert runs(checkout) == 2
    for name in ("one.py", "one.so"):
        assert (checkout / "build/compiled/tokenhub_proxy" / name).read_text() == "ONE = 1"
    (checkout / "requirements/compile.txt").write_text("mypy==2")
    assert runs(checkout) == 3
    (checkout / "tokenhub_proxy/one.py").write_text("")
    (checkout / "requirements/compile.txt").write_text("mypy==1")
    assert runs(checkout) == 3, "what was made of it before is kept"
    assert (checkout / "build/compiled/tokenhub_proxy/one.so").read_text() == ""


def test_a_test_that_is_deleted_leaves_the_copy(checkout: Path) -> None:
    (checkout / "tests/old").mkdir(parents=True)
    (checkout / "tests/old/test_one.py").write_text("")
    for there in (True, False):
        assert runs(checkout) == 1
        assert (checkout / "build/compiled/tests/old/test_one.py").exists() == there
        (checkout / "tests/old/test_one.py").unlink(missing_ok=True)


def test_the_compiler_is_the_one_that_is_named(checkout: Path) -> None:
    done = run(checkout, CC="/nowhere/cc -m64")
    assert done.returncode == 69
    assert done.stderr == (
        "no C compiler /nowhere/cc that finds Python.h "
        "(on Debian: apt-get install gcc libc6-dev python3-dev)\n"
    )
    assert not (checkout / "runs").exists()


def test_what_could_not_be_compiled_is_told_and_tried_again(checkout: Path) -> None:
    (checkout / "scripts/compile.py").write_text("raise SystemExit('no such type')")
    for _ in range(2):
        done = run(checkout)
        assert (done.returncode, "no such type" in done.stderr) == (1, True)


def test_a_ledger_and_a_configuration_are_not_copied(checkout: Path) -> None:
    """A server that runs in the checkout writes meanwhile, and what it reads holds secrets."""
    ignored = [line for line in (ROOT / ".gitignore").read_text().split() if line.startswith("/")]
    assert ignored
    for line in ignored:
        (checkout / line.strip("/").replace("*", "-wal")).write_text("sk-th-secret")
    for _ in range(2):
        assert run(checkout).returncode == 0
        assert not [path for line in ignored for path in (checkout / "build/compiled").glob(line.strip("/"))]


# What it makes.


@pytest.mark.long
def test_the_same_code_gives_the_same_wheel_in_any_folder(copy: Path, tmp_path: Path) -> None:
    (kept,) = copy.glob("*.whl")
    tree = tmp_path / "another folder"
    shutil.copytree(
        ROOT,
        tree,
        ignore=lambda folder, names: {".git", ".venv", "build", "node_modules"} & {*names},
    )
    (tree / "build").mkdir()
    (tree / ".venv").symlink_to(ROOT / ".venv")
    made = subprocess.run(
        [sys.executable, str(tree / "scripts/native.py"), str(tree)],
        env={**os.environ, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"},
        stdout=subprocess.PIPE,
        text=True,
        umask=0o077,
        timeout=BUILD_S,
        check=True,
    )
    assert Path(made.stdout.strip()).is_relative_to(tree)
    assert Path(made.stdout.strip()).read_bytes() == kept.read_bytes()


@pytest.fixture(scope="module")
def copy() -> Path:
    done = subprocess.run([str(ROOT / "scripts/compile")], capture_output=True, text=True, timeout=BUILD_S)
    if done.returncode == 69:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr[-2000:]
    return COPY


@pytest.mark.xdist_group("compiled")
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a checkout is compiled")
def test_what_is_compiled_serves_calls_as_the_source_does(copy: Path) -> None:
    # These tests wait more than they work.
    words = ["-m", "pytest", "-n", "3", "--dist", "loadgroup", "-p", "no:cacheprovider", "-m"]
    command = [sys.executable, *words, "not long", *CALLS]
    found = subprocess.run(
        command,
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=SUITES_S,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-4000:]
