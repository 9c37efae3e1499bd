"""The pytest plugin in a run of its own: what it imports, and how a test fails that missed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.served import ROOT, environment

TIMEOUT_S = 120


def run(folder: Path, test: str, *options: str, code: int) -> str:
    (folder / "test_it.py").write_text(test)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tokenhub_proxy.pytest_plugin", *options, "test_it.py"],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


MISSES = """
import json, os, urllib.error, urllib.request

def ask():
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}]}).encode(),
        {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"},
    )
    try:
        return json.load(urllib.request.urlopen(request))
    except urllib.error.HTTPError as error:
        return json.load(error)["error"]["message"]

def test_that_swallows_its_error(tokenhub):
    tokenhub.reply("x", last="Goodbye")
    ask()

def test_that_fails_for_it(tokenhub):
    assert ask()["choices"]

def test_that_forgives(tokenhub):
    assert "there is none" in ask()
    tokenhub.unmatched.clear()

def test_that_is_answered(tokenhub):
    tokenhub.reply("Hi")
    assert ask()["choices"][0]["message"]["content"] == "Hi"
"""


def test_a_request_without_an_answer_fails_its_test_with_a_diff(tmp_path: Path) -> None:
    said = run(tmp_path, MISSES, code=1)
    assert "2 failed, 2 passed" in said
    assert "- last message contains: 'Goodbye'" in said
    assert "+ last message: 'Hello'" in said
    assert "no rule answers this request (model 'm', last message 'Hello'): there is none" in said


def test_nothing_is_imported_until_a_fixture_is_used(tmp_path: Path) -> None:
    test = """
import sys
def test_nothing():
    ours = {name for name in sys.modules if name.startswith("tokenhub_proxy")}
    assert ours == {"tokenhub_proxy", "tokenhub_proxy.pytest_plugin"}
    assert not {"aiohttp", "orjson", "sqlite3"} & set(sys.modules)
"""
    assert "1 passed" in run(tmp_path, test, code=0)


def test_workers_of_xdist_have_gateways_of_their_own(tmp_path: Path) -> None:
    test = """
import json, os, pytest, urllib.request

@pytest.mark.parametrize("number", range(8))
def test_one(tokenhub, tokenhub_session, number, worker_id):
    assert os.environ["OPENAI_BASE_URL"] == tokenhub.base_url != tokenhub_session.base_url
    assert worker_id in ("gw0", "gw1")
    for gateway in (tokenhub, tokenhub_session):
        gateway.forget()
        gateway.reply(f"{number} of {worker_id}")
        asked = urllib.request.Request(
            gateway.base_url + "/chat/completions",
            json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}]}).encode(),
            {"Authorization": "Bearer " + gateway.api_key, "Content-Type": "application/json"},
        )
        answer = json.load(urllib.request.urlopen(asked))
        assert answer["choices"][0]["message"]["content"] == f"{number} of {worker_id}"
        assert len(gateway.requests) == 1
"""
    assert "8 passed" in run(tmp_path, test, "-p", "xdist", "-n", "2", code=0)


@pytest.mark.parametrize("fixture", ["tokenhub", "tokenhub_session"])
def test_the_environment_is_left_as_it_was(tmp_path: Path, fixture: str) -> None:
    test = f"""
import os, pytest
@pytest.fixture(scope="session", autouse=True)
def around():
    before = dict(os.environ)
    yield
    assert {{name for name in os.environ if not name.startswith("PYTEST")}} == {{
        name for name in before if not name.startswith("PYTEST")}}
def test_one({fixture}):
    assert os.environ["OPENAI_BASE_URL"] == {fixture}.base_url
"""
    assert "1 passed" in run(tmp_path, test, code=0)
