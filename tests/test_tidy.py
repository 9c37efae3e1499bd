"""The house rules, read from the source itself: who may import whom, how large, how named.

A breach that is known has a line in KNOWN, with its reason; a line that is no longer needed fails,
so that the list only ever gets shorter.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tokenhub_proxy"
GROUP_S = 60.0

# Imports go down only. A line ending in `.*` is a package with all that is in it; the longest
# line that fits a module counts. A new module needs a line here: on the lowest floor that has
# what it imports.
FLOORS: dict[str, int] = {
    # words: the standard library and orjson; no async, no clock, no I/O
    "": 0,
    "calls": 0,
    "errors": 0,
    "faults": 0,
    "health": 0,
    "inflate": 0,
    "keys": 0,
    "leases": 0,
    "limits": 0,
    "looks": 0,
    "prices": 0,
    "readable": 0,
    "request_ids": 0,
    "routes": 0,
    "sse": 0,
    "wire": 0,
    # contracts and pure translators
    "config.*": 1,
    "dialects.*": 1,
    "forwarding": 1,
    "outbox": 1,
    "cassettes": 1,
    "exchange": 1,
    "importers.*": 1,
    "testing.answers": 1,
    "testing.rules": 1,
    "ledger": 1,
    "ledger.balances": 1,
    "ledger.books": 1,
    "ledger.changes": 1,
    "ledger.keyring": 1,
    "ledger.holding": 1,
    "ledger.orders": 1,
    "ledger.schema_orders": 1,
    "ledger.schema_people": 1,
    "payments": 1,
    "payments.amounts": 1,
    "payments.codes": 1,
    "payments.cryptopay": 1,
    "payments.operator": 1,
    "payments.rates": 1,
    "payments.settings": 1,
    "payments.tron": 1,
    "payments.yookassa": 1,
    "pricelist": 1,
    "receipts": 1,
    # side by side: a part knows the contracts, never its neighbours
    "fallback": 2,
    "ledger.*": 2,
    "metrics.*": 2,
    "observers": 2,
    "payments.desk": 2,
    "payments.refund_watch": 2,
    "payments.sender": 2,
    "payments.watch": 2,
    "payments.webhooks": 2,
    "relay": 2,
    "tracing.*": 2,
    "pulse": 2,
    "transports.*": 2,
    "watch": 2,
    # HTTP, and the operator's verbs
    "admin": 3,
    "aiohttp_client": 3,
    "aiohttp_server": 3,
    "arguments": 3,
    "connection": 3,
    "control": 3,
    "conformance.*": 3,
    "dashboard.*": 3,
    "explain": 3,
    "front": 3,
    "heads": 3,
    "instruments": 3,
    "leasing": 3,
    "mount": 3,
    "overload": 3,
    "payments.office": 3,
    "payments.simulator": 3,
    "payments.simulator_pages": 3,
    "payments.verbs": 3,
    "server": 3,
    "snapshot": 3,
    "sockets": 3,
    "users": 3,
    # doors; wiring alone chooses implementations
    "__main__": 4,
    "activation": 4,
    "audience": 4,
    "carriers": 4,
    "cli": 4,
    "cli_completion": 4,
    "cli_conformance": 4,
    "cli_health": 4,
    "cli_import": 4,
    "cli_keys": 4,
    "cli_leases": 4,
    "cli_ledger": 4,
    "cli_parser": 4,
    "cli_payments": 4,
    "cli_people": 4,
    "cli_prices": 4,
    "cli_top": 4,
    "ollama": 4,
    "completion": 4,
    "progress": 4,
    "pytest_plugin": 4,
    "serve": 4,
    "top.*": 4,
    "supervisor": 4,
    "tables": 4,
    "testing.*": 4,
    "wiring": 4,
}
# The relay's other rooms: neighbours to all others, not to each other.
ROOMS = {"fallback": "relay", "watch": "relay"}
IMPURE = {
    "aiohttp",
    "aiosqlite",
    "asyncio",
    "random",
    "secrets",
    "socket",
    "sqlite3",
    "threading",
    "time",
    "uvloop",
}
FLOOR_0_MAY_IMPORT = {
    "__future__",
    "base64",
    "bisect",
    "collections",
    "contextlib",
    "dataclasses",
    "datetime",
    "difflib",
    "enum",
    "fnmatch",
    "functools",
    "hashlib",
    "heapq",
    "ipaddress",
    "itertools",
    "math",
    "orjson",
    "re",
    "types",
    "typing",
    "zlib",
}
# Where sums of money are read and made, besides the ledger.
EXACT = {"prices", *(f"payments.{name}" for name in ("amounts", "rates", "yookassa", "cryptopay", "tron"))}
LINES_MAX = 400
FUNCTION_LINES_MAX = 60
DOCSTRING_LINES_MAX = 6
BANNED_NAMES = {"utils", "util", "core", "base", "models", "helpers", "helper", "common", "misc"}

# (rule, place): the reason.
KNOWN: dict[tuple[str, str], str] = {
    ("docstring", "config.nodes:suggestion"): "its name and types say it all",
    ("docstring", "dialects.replies:media_type"): "its name and types say it all",
    ("float", "ledger.books:float('-inf')"): "a time before all times, not money",
}


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name below `tokenhub_proxy`; "" is the package itself."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text())


def floor_of(name: str) -> int | None:
    """The floor of a module, None where the table does not know it."""
    if name in FLOORS:
        return FLOORS[name]
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        line = ".".join(parts[:length]) + ".*"
        if line in FLOORS:
            return FLOORS[line]
    return None


def house(name: str) -> str:
    """The package that a module stands in, or the module itself: neighbours are other houses."""
    top = name.partition(".")[0]
    return ROOMS.get(top, top)


@cache
def imports(name: str) -> list[tuple[str, int]]:
    """What a module imports at run time, as dotted names, with the lines."""
    found: list[tuple[str, int]] = []
    typing_only = {
        id(inner)
        for node in ast.walk(tree(name))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree(name)):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} imports relatively; write the whole name"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def ours(imported: str) -> str | None:
    """The module of ours that an import names; None for what is not ours."""
    if imported.partition(".")[0] != PACKAGE.name:
        return None
    inside = imported.removeprefix(PACKAGE.name).removeprefix(".")
    return inside if inside in modules() else inside.rpartition(".")[0]


def judge(rule: str, breaches: dict[str, str]) -> None:
    """Fail on a breach that is not known, and on a known one that is none any more."""
    known = {place for each, place in KNOWN if each == rule}
    found = [f"{place}: {what}" for place, what in breaches.items() if place not in known]
    gone = [f"{place}: take its line out of KNOWN, it is tidy now" for place in known - breaches.keys()]
    assert not found + gone, "\n" + "\n".join(found + gone)


def test_every_module_has_its_floor() -> None:
    unknown = [name for name in modules() if floor_of(name) is None]
    assert not unknown, f"add {unknown} to FLOORS in {Path(__file__).name}"


def test_the_floors_name_nothing_that_is_gone() -> None:
    gone = [
        line
        for line in FLOORS
        if not line.endswith(".*") and line not in modules() and line not in ("cli", "pytest_plugin")
    ]
    assert not gone, f"take {gone} out of FLOORS"


def test_imports_go_down_only() -> None:
    breaches = {}
    for name in modules():
        for imported, line in imports(name):
            other = ours(imported)
            if other is not None and (floor_of(other) or 0) > (floor_of(name) or 0):
                breaches[f"{name}:{other}"] = (
                    f"line {line}: floor {floor_of(name)} imports floor {floor_of(other)}"
                )
    judge("down", breaches)


def test_the_parts_of_floor_2_do_not_know_each_other() -> None:
    breaches = {}
    for name in modules():
        for imported, line in imports(name):
            other = ours(imported)
            if other is not None and floor_of(name) == floor_of(other) == 2 and house(name) != house(other):
                breaches[f"{name}:{other}"] = f"line {line}: a neighbour"
    judge("neighbours", breaches)


def test_nobody_imports_wiring_but_the_doors() -> None:
    found = [name for name in modules() for imported, _ in imports(name) if ours(imported) == "wiring"]
    assert all(floor_of(name) == 4 for name in found)


def test_floors_0_and_1_have_no_clock_no_loop_and_no_chance() -> None:
    breaches = {}
    for name in modules():
        for imported, line in imports(name):
            top = imported.partition(".")[0]
            if (floor_of(name) or 0) <= 1 and top in IMPURE:
                breaches[f"{name}:{top}"] = f"line {line}: {top} belongs to floor 2"
    judge("pure", breaches)


def test_floor_0_is_the_standard_library_and_orjson() -> None:
    breaches = {}
    for name in modules():
        for imported, line in imports(name):
            top = imported.partition(".")[0]
            if floor_of(name) == 0 and top not in {*FLOOR_0_MAY_IMPORT, PACKAGE.name}:
                breaches[f"{name}:{top}"] = f"line {line}: not among the words"
    judge("words", breaches)


def test_the_web_server_is_on_floor_3_and_the_loop_is_chosen_on_floor_4() -> None:
    breaches = {}
    for name in modules():
        for imported, line in imports(name):
            if imported.startswith("aiohttp.web") and floor_of(name) != 3:
                breaches[f"{name}:aiohttp.web"] = f"line {line}: only floor 3 serves HTTP"
            if imported.partition(".")[0] == "uvloop" and floor_of(name) != 4:
                breaches[f"{name}:uvloop"] = f"line {line}: only a door chooses the loop"
    judge("doors", breaches)


def test_files_are_short() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    judge("file", {name: f"{lines} lines" for name, lines in lengths.items() if lines > LINES_MAX})


def test_functions_are_short() -> None:
    breaches = {}
    for name in modules():
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    breaches[f"{name}:{node.name}"] = f"{lines} lines"
    judge("function", breaches)


def test_modules_are_named_for_what_they_are() -> None:
    found = [name for name in modules() if BANNED_NAMES & set(name.split("."))]
    # Its models are the section of the config that is called so.
    assert set(found) <= {"config.models"}


def test_every_module_says_its_purpose_shortly() -> None:
    breaches = {}
    for name in modules():
        said = ast.get_docstring(tree(name)) or ""
        if (
            not said
            or len(said.splitlines()) > DOCSTRING_LINES_MAX
            or not said.partition("\n\n")[0].endswith((".", ":"))
        ):
            breaches[name] = "a module says in a sentence or two what it is for"
    judge("purpose", breaches)


def test_what_is_public_on_floors_0_and_1_is_explained() -> None:
    breaches = {}
    for name in modules():
        if (floor_of(name) or 0) > 1:
            continue
        for node in tree(name).body:
            public = isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                breaches[f"{name}:{node.name}"] = f"line {node.lineno}: what goes in, and what comes out?"
    judge("docstring", breaches)


def test_no_float_comes_near_money() -> None:
    breaches = {}
    for name in modules():
        if name not in EXACT and house(name) != "ledger":
            continue
        for node in ast.walk(tree(name)):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id
            if called in ("float", "round") or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)):
                breaches[f"{name}:{ast.unparse(node)}"] = f"line {node.lineno}: money is whole nanodollars"
    judge("float", breaches)


def test_an_assertion_only_looks() -> None:
    """Under `python -O` there are none: what they did would not be done."""
    breaches = {}
    for name in modules():
        for node in ast.walk(tree(name)):
            if not isinstance(node, ast.Assert):
                continue
            for inner in ast.walk(node.test):
                looks = isinstance(inner, ast.Call) and ast.unparse(inner.func) in ("isinstance", "len")
                if isinstance(inner, ast.Call | ast.Await | ast.NamedExpr | ast.Yield) and not looks:
                    breaches[f"{name}:{ast.unparse(node.test)}"] = f"line {node.lineno}: does something"
    judge("assertion", breaches)


@pytest.mark.parametrize(
    "helper", ["served", "upstream", "transports.contract", "ledger.shelf", "faults.scene"]
)
def test_the_asserts_of_the_tests_helpers_hold_without_assert_statements(helper: str) -> None:
    """`python -O` drops them, with the calls inside; those that pytest has rewritten stay."""
    assert "@pytest_ar" in vars(importlib.import_module(f"tests.{helper}"))


def test_what_is_made_once_for_a_group_of_tests_is_made_in_one_worker(tmp_path: Path) -> None:
    (tmp_path / "test_group.py").write_text(
        "import os\nimport pytest\n"
        "@pytest.mark.xdist_group('one')\n"
        "@pytest.mark.parametrize('number', range(8))\n"
        "def test_it(number):\n"
        "    with open('workers', 'a') as told:\n"
        "        told.write(os.environ['PYTEST_XDIST_WORKER'] + ' ')\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:schemathesis", "-n", "2", "--dist", "loadgroup"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=GROUP_S)
    workers = (tmp_path / "workers").read_text().split()
    assert (len(workers), len(set(workers))) == (8, 1)


# In two pieces, so that this file does not find itself.
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
MACHINE_PATH = re.compile(r"""["'\s(=](?:file:/)?/(?:home|root|Users|work|mnt|opt)/\w""")


@pytest.mark.parametrize("folder", ["tokenhub_proxy", "tests", "scripts", "docs"])
def test_nothing_is_left_for_later_and_no_path_is_one_machine_s(folder: str) -> None:
    breaches = {}
    for path in sorted((ROOT / folder).rglob("*")):
        inside = path.relative_to(ROOT)
        if not path.is_file() or "node_modules" in inside.parts or path.suffix in (".pyc", ".db"):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if UNFINISHED.search(line) or MACHINE_PATH.search(line):
                breaches[f"{inside}:{number}"] = line.strip()[:100]
    judge(f"text of {folder}", breaches)
