"""Every block of docs/testing.md is run, and its tables are what the commands say."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.served import ROOT, Served, environment
from tokenhub_proxy.faults import parse
from tokenhub_proxy.testing.answers import reply
from tokenhub_proxy.testing.rules import Request, Rule, Rules

PAGE = (ROOT / "docs/testing.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
RECORDED = next(text for text in PYTHON if "cassette=" in text)
CONFIG = """
listen: 127.0.0.1:0
upstreams: {demo: {dialect: demo}}
models:
  demo: {targets: [{upstream: demo}], price: free}
keys: [{name: tester, key: sk-th-testtesttesttesttest}]
"""
KEY = "sk-th-testtesttesttesttest"
# What vitest does with such a test, in Node's own words.
VITEST = """
import assert from "node:assert";
export { test } from "node:test";
export const expect = (found) => ({ toContain: (part) => assert(found.includes(part), found) });
"""
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def block(kind: str, containing: str) -> str:
    (found,) = [text for name, text in BLOCKS if name == kind and containing in text]
    return found


def run(folder: Path, *command: str, **more: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_no_block_is_left_out() -> None:
    kinds = [kind for kind, _ in BLOCKS]
    assert kinds == [
        *("python", "python", "text", "python", "python", "python"),
        *("bash", "bash", "javascript", "bash", "bash"),
    ]


def run_tests(folder: Path, blocks: list[str], *options: str, **more: str) -> str:
    names = []
    for number, text in enumerate(blocks):
        names.append(f"test_block_{number}.py")
        (folder / names[-1]).write_text(text)
    command = (sys.executable, "-m", "pytest", "-q", "-p", "tokenhub_proxy.pytest_plugin", *options, *names)
    return run(folder, *command, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", **more)


def test_every_test_of_the_page_passes(tmp_path: Path) -> None:
    blocks = [text for text in PYTHON if text != RECORDED]
    count = sum(text.count("\ndef test_") for text in blocks)
    assert f"{count} passed" in run_tests(tmp_path, blocks)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    one = Served(tmp_path_factory.mktemp("page"), "--listen", "127.0.0.1:0")
    yield one
    one.stop()


def test_the_recorded_test_records_and_replays(tmp_path: Path, served: Served) -> None:
    (option,) = re.findall(r"`pytest (--tokenhub-record=\w+)`", PAGE)
    real = {"OPENAI_BASE_URL": served.base_url, "OPENAI_API_KEY": served.secret}
    assert "1 passed" in run_tests(tmp_path, [RECORDED], option, **real)
    assert (tmp_path / "cassettes/greeting.jsonl").exists()
    assert "1 passed" in run_tests(tmp_path, [RECORDED])


def test_the_diff_is_what_a_miss_says() -> None:
    rules = Rules()
    rules.add(Rule(reply("x"), last="Goodbye"))
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    request = Request("gpt-4.1-mini", body, False, "openai", "/chat/completions", {}, body)
    assert block("text", "no rule answers") == f"tokenhub: {rules.miss(request)}\n"


def test_every_fault_of_the_table_is_one() -> None:
    rows = re.findall(
        r"^\| (`[^|]+`) \|", PAGE.partition("## Faults")[2].partition("## Record")[0], re.MULTILINE
    )
    words = [word for row in rows for word in re.findall(r"`([^`]+)`", row)]
    assert len(words) == 14
    for word in words:
        parse(word)


@needs_node
def test_other_languages_record_and_replay(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "node_modules/vitest").mkdir(parents=True)
    (tmp_path / "node_modules/vitest/package.json").write_text('{"type":"module","exports":"./index.js"}')
    (tmp_path / "node_modules/vitest/index.js").write_text(VITEST)
    (tmp_path / "greeting.test.mjs").write_text(block("javascript", "vitest"))
    told = []
    for line in block("bash", "--record").splitlines():
        one = Served(tmp_path, *shlex.split(line, comments=True)[2:])
        client = {"OPENAI_BASE_URL": one.base_url, "OPENAI_API_KEY": KEY}
        told.append(run(tmp_path, "bash", "-c", block("bash", "curl -sN"), **client))
        run(tmp_path, "node", "--test", "greeting.test.mjs", **client)
        one.stop()
    assert told[0] == told[1]
    assert "data: [DONE]" in told[0]
    assert [path.name for path in (tmp_path / "cassettes").iterdir()] == ["demo.jsonl"]


@pytest.mark.parametrize("containing", ["--lease", "conformance"])
def test_the_commands_do_what_they_say(served: Served, containing: str) -> None:
    called = f'tokenhub-proxy() {{ "{sys.executable}" -m tokenhub_proxy "$@"; }}\nset -e\n'
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    client = {"OPENAI_BASE_URL": served.base_url, "OPENAI_API_KEY": served.secret, "PATH": path}
    said = run(served.folder, "bash", "-c", called + block("bash", containing), **client)
    if containing == "--lease":
        assert f"\n{served.base_url}\n" in said
        assert re.search(r"lease ci-\w+ of ci ended: 0\.00 of 0\.50 USD in 0 requests", said)
    else:
        assert "fail" not in said
