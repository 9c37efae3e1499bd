"""Every block of the README is run, and the other pages say nothing that is not so."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.served import ROOT, START_S, Served, environment
from tokenhub_proxy import config

README = (ROOT / "README.md").read_text()
BLOCKS = [
    (kind, text) for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
]
NODE_MODULES = ROOT / "tests/node/node_modules"
SAID = "You said: Hello!"


def block(kind: str, containing: str) -> str:
    (found,) = [text for name, text in BLOCKS if name == kind and containing in text]
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The embedded default, as the README's first command starts it."""
    one = Served(tmp_path_factory.mktemp("readme"), "--listen", "127.0.0.1:0")
    yield one
    one.stop()


def run(served: Served, *command: str, folder: Path | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=folder or served.folder,
        env=environment(OPENAI_BASE_URL=served.base_url, OPENAI_API_KEY=served.secret),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_block_is_left_out() -> None:
    """Each block of the README belongs to a test below."""
    kinds = [kind for kind, _ in BLOCKS]
    assert kinds == ["bash", "text", "bash", "python", "javascript", "bash", "bash", "python", "yaml"]


def test_both_languages_have_the_same_blocks_and_the_same_links() -> None:
    russian = (ROOT / "README.ru.md").read_text()
    assert re.findall(r"^```(\w+)\n(.*?)^```$", russian, re.MULTILINE | re.DOTALL) == BLOCKS
    links = [set(re.findall(r"\]\(([^)]+)\)", text)) for text in (README, russian)]
    assert links[0] ^ links[1] == {"README.md", "README.ru.md", "docs/payments.ru.md"}
    assert README.count("\n## ") == russian.count("\n## ")


def test_the_two_commands_are_scripts_that_can_be_run() -> None:
    for line in block("bash", "scripts/serve ").splitlines():
        script = ROOT / line.split()[0]
        assert script.stat().st_mode & 0o111, script
        subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_text_of_the_first_minute_is_what_serve_says(served: Served) -> None:
    exports = block("text", "export")
    assert f"OPENAI_BASE_URL=http://{config.LISTEN}/v1" in exports
    assert served.secret.startswith("sk-th-")


def test_the_curl_block_streams(served: Served) -> None:
    said = run(served, "bash", "-c", block("bash", "curl -N"))
    assert said.endswith("data: [DONE]\n\n")


def test_the_python_block_streams(served: Served) -> None:
    assert run(served, sys.executable, "-c", block("python", "stream=True")).startswith(SAID)


def test_the_test_without_a_network_passes(served: Served, tmp_path: Path) -> None:
    (tmp_path / "test_hello.py").write_text(block("python", "def test_it_greets"))
    plain = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_hello.py"]
    assert "1 passed" in run(served, *plain, folder=tmp_path)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.skipif(not NODE_MODULES.is_dir(), reason="run npm ci --prefix tests/node first")
def test_the_node_block_streams(served: Served) -> None:
    # Modules are found from the folder that node is started in.
    source = block("javascript", "OpenAI")
    said = run(served, "node", "--input-type=module", "-e", source, folder=NODE_MODULES.parent)
    assert said.startswith(SAID)


def test_the_block_of_commands_does_what_it_says(served: Served) -> None:
    commands = block("bash", "keys create friend") + block("bash", "users invite friend")
    called = f'tokenhub-proxy() {{ "{sys.executable}" -m tokenhub_proxy "$@"; }}\nset -e\n'
    said = run(served, "bash", "-c", called + commands)
    secret = re.search(r"sk-th-\w+", said)
    assert secret is not None
    assert "The books add up." in said
    assert served.chat(secret[0])[0] == 401, "it was revoked at the end"
    assert "/dashboard/link/" in said


def test_the_config_block_loads_without_a_complaint(tmp_path: Path) -> None:
    environ = {"ANTHROPIC_API_KEY": "sk-ant-x", "OPENROUTER_API_KEY": "sk-or-x"}
    text = block("yaml", "upstreams")
    found = config.load(text, name="README", folder=tmp_path, environ=environ, read_file=Path.read_text)
    assert list(found.routes) == ["claude-sonnet-4-5"]
    assert found.warnings == ()


def test_pytest_without_its_plugins_runs_a_test_in_this_checkout(tmp_path: Path) -> None:
    """Who tries the fixture has what the README tells to install: pytest and openai."""
    (tmp_path / "test_hello.py").write_text(block("python", "def test_it_greets"))
    alone = ["-p", "tokenhub_proxy.pytest_plugin", "-p", "no:cacheprovider", "-c", str(ROOT / "setup.cfg")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *alone, str(tmp_path / "test_hello.py")],
        cwd=ROOT,
        env=environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- the other pages

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    """`relay.py`, `ledger/`, `scripts/test`, or `relay.py: Relay.handle` in backticks."""
    package = ROOT / "tokenhub_proxy"
    for named in re.findall(r"`(\w[\w./]*(?:\.py|/))`", page.read_text()):
        assert any((folder / named).exists() for folder in (ROOT, package)), f"{page.name} names {named}"
    for named in re.findall(r"`((?:scripts|tests|docs)/[\w./]+)", page.read_text()):
        assert (ROOT / named).exists(), f"{page.name} names {named}"


def test_every_function_that_the_walk_names_exists() -> None:
    pairs = re.findall(r"`([\w/]+\.py): ([\w.]+)`", (ROOT / "docs/walk.md").read_text())
    assert len(pairs) > 10
    for file, name in pairs:
        body: list[ast.stmt] = ast.parse((ROOT / "tokenhub_proxy" / file).read_text()).body
        for part in name.split("."):
            found = [node for node in body if getattr(node, "name", None) == part]
            assert found, f"docs/walk.md names {file}: {name}"
            body = getattr(found[0], "body", [])


def test_the_page_of_the_command_line_is_its_help() -> None:
    told = subprocess.run(
        [sys.executable, str(ROOT / "scripts/cli_docs.py")],
        capture_output=True,
        text=True,
        check=True,
        timeout=START_S,
    )
    assert (ROOT / "docs/cli.md").read_text() == told.stdout, "run scripts/docs"
