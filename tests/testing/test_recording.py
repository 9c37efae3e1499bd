"""Cassettes as users record them: by the marker of a test, and by `serve --record` and `--replay`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.served import ROOT, Served, environment, run
from tests.testing.test_plugin import TIMEOUT_S

ASK = """
import json, os, urllib.request

def ask(text, **more):
    body = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": text}], **more}
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"},
    )
    try:
        return urllib.request.urlopen(request).read()
    except urllib.error.HTTPError as error:
        return error.read()
"""
TESTS = f"""
import pytest, urllib.error
{ASK}
@pytest.mark.tokenhub(cassette="weather", strict=True)
def test_it(tokenhub):
    said = ask("Is it sunny?")
    assert b"sunny?" in said
    with open("said", "ab") as file:
        file.write(said)
    assert tokenhub.exchanges[0].billing == "usage"
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    folder = tmp_path / "upstream"
    folder.mkdir()
    one = Served(folder, "--listen", "127.0.0.1:0")
    yield one
    one.stop()


def pytest_run(folder: Path, test: str, *options: str, **more: str) -> tuple[int, str]:
    (folder / "test_it.py").write_text(test)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tokenhub_proxy.pytest_plugin", *options, "test_it.py"],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", **more),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_test_records_its_cassette_once_and_needs_nobody_from_then_on(
    tmp_path: Path, served: Served
) -> None:
    code, said = pytest_run(tmp_path, TESTS)
    assert code == 1
    assert "record it with --tokenhub-record=once" in said

    real = {"OPENAI_BASE_URL": served.base_url, "OPENAI_API_KEY": served.secret}
    assert pytest_run(tmp_path, TESTS, "--tokenhub-record=once", **real)[0] == 0
    served.stop()
    code, said = pytest_run(tmp_path, TESTS)
    assert code == 0, said

    cassette = (tmp_path / "cassettes/weather.jsonl").read_text()
    assert served.secret not in cassette
    assert "Bearer" not in cassette
    heard = (tmp_path / "said").read_bytes()
    assert heard[: len(heard) // 2] == heard[len(heard) // 2 :]

    code, said = pytest_run(tmp_path, TESTS.replace("Is it sunny?", "Is it rainy?").replace("sunny?", ""))
    assert code == 1
    assert "differs in body.messages[0].content" in said
    assert "rainy" not in re.sub(r".*def test_it.*?E ", "", said, flags=re.DOTALL).partition("nearest")[2]

    code, said = pytest_run(tmp_path, TESTS.replace('said = ask("Is it sunny?")', "return"))
    assert code == 1
    assert "1 recorded exchange(s) were not asked for: demo /chat/completions" in said


CONFIG = """
listen: 127.0.0.1:0
ledger: sqlite:///books.db
upstreams:
  real: {dialect: openai, base_url: "URL", api_key: env:REAL_API_KEY, headers: {x-team: team-secret}}
models:
  m: {targets: [{upstream: real, model: demo}], price: {input: 1.00, output: 2.00}, max_output_tokens: 99}
keys: [{name: tester, key: sk-th-testtesttesttesttest}]
"""
KEY = "sk-th-testtesttesttesttest"


def ask(base_url: str, folder: Path, text: str, stream: str, secret: str = KEY) -> bytes:
    """The raw answer, by curl, as every other language would get it."""
    body = json.dumps(
        {"model": "m", "stream": stream == "true", "messages": [{"role": "user", "content": text}]}
    )
    done = subprocess.run(
        ["curl", "-sN", f"{base_url}/chat/completions", "-H", f"Authorization: Bearer {secret}",
         "-H", "Content-Type: application/json", "-d", body],
        cwd=folder, capture_output=True, timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    return done.stdout


def test_serve_records_and_replays_for_every_language(tmp_path: Path, served: Served) -> None:
    told = []
    for mode in ("--record", "--replay"):
        folder = tmp_path / mode
        folder.mkdir()
        (folder / "config.yaml").write_text(CONFIG.replace("URL", served.base_url))
        one = Served(folder, mode, str(tmp_path / "tapes"), REAL_API_KEY=served.secret)
        answers = [ask(one.base_url, folder, "Good morning", stream) for stream in ("true", "false")]
        one.stop()
        spent = json.loads(run(folder, "usage", "--json", REAL_API_KEY="x").stdout)
        told.append((answers, spent))
        if mode == "--record":
            served.stop()
    assert told[0] == told[1]
    assert told[0][1][0]["requests"] == 2

    (tape,) = (tmp_path / "tapes").iterdir()
    assert tape.name == "m.jsonl"
    for secret in (served.secret, "team-secret", KEY):
        assert secret not in tape.read_text()


def test_serve_needs_no_config_to_replay(tmp_path: Path, served: Served) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG.replace("URL", served.base_url))
    one = Served(folder, "--record", str(tmp_path / "tapes"), REAL_API_KEY=served.secret)
    recorded = ask(one.base_url, folder, "Good morning", "true")
    one.stop()

    two = Served(tmp_path, "--replay", "tapes", "--listen", "127.0.0.1:0")
    replayed = ask(two.base_url, tmp_path, "Good morning", "true", two.secret)
    two.stop()
    assert replayed == recorded


def test_a_folder_without_cassettes_ends_the_command(tmp_path: Path) -> None:
    (tmp_path / "tapes").mkdir()
    done = run(tmp_path, "serve", "--replay", "tapes")
    assert (done.returncode, done.stderr) == (2, "--replay: there is no cassette (*.jsonl) in tapes.\n")
    (tmp_path / "tapes/x.jsonl").write_text("nonsense\n")
    assert "x.jsonl:1: is no line of JSON" in run(tmp_path, "serve", "--replay", "tapes").stderr
