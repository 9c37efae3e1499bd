"""Every command of the documentation is run, or says on the page why it can't be."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.importers.one_api import ONE_API, ONE_API_ROWS, database
from tests.served import ROOT, START_S, Served, environment
from tokenhub_proxy import cli, config

DOCS = ROOT / "docs"
# Pages whose blocks another test runs, because they need more than a server beside them.
ELSEWHERE = {
    "README.md": "test_readme.py",
    "README.ru.md": "test_readme.py",
    "testing.md": "testing/test_page.py",
    "payments.md": "payments/test_cli.py",
    "payments.ru.md": "payments/test_cli.py",
}
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])
OURS = [page for page in PAGES if page.name not in ELSEWHERE]
# A block is several commands, on a machine that may run other suites beside this one.
BLOCK_S = 180.0
# What a block is marked with, in a comment on the line above it.
BLOCK = re.compile(r"^(?:<!-- (.+?) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"not run: \w.+")
EXITS = re.compile(r"exits with (\d): \w.+")


@dataclass(frozen=True)
class Block:
    mark: str
    kind: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in BLOCK.findall(page.read_text())]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The first minute, with the files of another gateway beside it."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("litellm.yaml", "litellm_keys.json"):
        shutil.copy(ROOT / "tests/importers" / name, folder)
    database(folder / "one-api.db", ONE_API, ONE_API_ROWS)
    one = Served(folder, "--listen", "127.0.0.1:0")
    yield one
    one.stop()


def run(served: Served, folder: Path, block: Block) -> None:
    """One block, as somebody types it into a shell."""
    called = f'tokenhub-proxy() {{ "{sys.executable}" -m tokenhub_proxy "$@"; }}\nset -eo pipefail\n'
    command = {
        "bash": ["bash", "-c", called + block.text],
        "python": [sys.executable, "-c", block.text],
    }[block.kind]
    if "def test_" in block.text:
        (folder / "test_of_the_page.py").write_text(block.text)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_of_the_page.py"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=BLOCK_S, check=False,
        env=environment(OPENAI_BASE_URL=served.base_url, OPENAI_API_KEY=served.secret),
    )  # fmt: skip
    expected = EXITS.fullmatch(block.mark)
    assert done.returncode == int(expected[1] if expected else 0), done.stdout + done.stderr


@pytest.mark.parametrize("page", OURS, ids=lambda page: page.name)
def test_the_blocks_of_a_page_do_what_they_say(page: Path, served: Served) -> None:
    """Commands run beside the server of the first minute; after a config, in a folder that holds it."""
    found = [block for block in blocks(page) if not NOT_RUN.fullmatch(block.mark)]
    folder = served.folder
    for block in found:
        if block.kind == "yaml" and "upstreams:" in block.text:
            folder = served.folder / page.stem
            folder.mkdir()
            (folder / "config.yaml").write_text(block.text)
            config.load_file(folder / "config.yaml", {}, cli.listed_price)
        elif block.kind in ("bash", "python"):
            run(served, folder, block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_mark_says_something_that_is_known(page: Path) -> None:
    for block in blocks(page):
        if block.mark.startswith(("not run", "exits")):
            assert NOT_RUN.fullmatch(block.mark) or EXITS.fullmatch(block.mark), block.mark


@pytest.mark.parametrize(("name", "test"), ELSEWHERE.items())
def test_a_page_that_is_run_elsewhere_is_named_there(name: str, test: str) -> None:
    assert name in (ROOT / "tests" / test).read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_within_a_sentence_exists(page: Path) -> None:
    """`tokenhub-proxy keys rotate --overlap 24h` in backticks: its commands and its options are known."""
    for line in re.findall(r"`tokenhub-proxy ([a-z][^`]*)`", page.read_text()):
        parser = cli.parser()
        for word in shlex.split(line.partition(" -- ")[0]):
            children = next(
                (one.choices for one in parser._actions if isinstance(one.choices, dict)), dict[str, Any]()
            )
            if word.startswith("--"):
                assert word.partition("=")[0] in parser._option_string_actions, f"{page.name}: {line}"
            elif children:
                names = word.split("|")
                assert all(name in children or name.isupper() for name in names), f"{page.name}: {line}"
                parser = children.get(names[0], parser)


# --- the page of the config

CONFIG = DOCS / "config.md"


def test_the_page_of_the_config_is_what_its_tables_say() -> None:
    told = subprocess.run(
        [sys.executable, str(ROOT / "scripts/config_docs.py")],
        capture_output=True, text=True, check=True, timeout=START_S,
    )  # fmt: skip
    assert CONFIG.read_text() == told.stdout, "run scripts/docs"


def test_the_page_of_the_config_has_every_option_with_a_meaning() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]* \| (.*) \|$", CONFIG.read_text(), re.MULTILINE)
    assert {name for options in config.OPTIONS.values() for name in options} == {name for name, _ in rows}
    assert [name for name, meaning in rows if not meaning] == []


# --- what leads from page to page


def test_the_table_of_contents_names_every_page() -> None:
    named = set(re.findall(r"\]\(([\w.-]+\.md)\)", (DOCS / "index.md").read_text()))
    assert named == {page.name for page in DOCS.glob("*.md")} - {"index.md"}
