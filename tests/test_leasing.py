"""Leases as scripts use them: `keys create --lease`, and `run`, which ends what it began."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Running, Serve
from tests.served import COMMAND, START_S, Served, environment, run
from tokenhub_proxy import wiring

CONFIG = """
listen: 127.0.0.1:0
ledger: sqlite:///books.db
upstreams: {demo: {dialect: demo}}
models:
  m: {targets: [{upstream: demo, model: demo}], price: {input: 1.00, output: 2.00}}
  dear: {targets: [{upstream: demo, model: demo}], price: {input: 9000.00, output: 9000.00}}
keys:
  - {name: ci, key: sk-th-citestcitestcitest, quota: {usd: 1.00, per: month}, models: [m, dear]}
"""
# A client of the child's environment, in a language that every machine here has.
ASK = """
import json, os, sys, urllib.error, urllib.request
body = {"model": sys.argv[1], "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}
request = urllib.request.Request(
    os.environ["OPENAI_BASE_URL"] + "/chat/completions", json.dumps(body).encode(),
    {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"})
try:
    print(json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"])
except urllib.error.HTTPError as error:
    print(json.load(error)["error"]["code"])
"""
LEASE = ("--parent", "ci", "--lease", "30m", "--quota", "0.50")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("leases")
    (folder / "config.yaml").write_text(CONFIG)
    one = Served(folder)
    yield one
    one.stop()


def test_a_lease_is_a_key_for_a_while(served: Served) -> None:
    made = json.loads(run(served.folder, "keys", "create", *LEASE, "--json").stdout)
    assert made["name"].startswith("ci-")
    shown = json.loads(run(served.folder, "keys", "show", made["name"], "--json").stdout)
    assert (shown["parent"], shown["quota_usd"], shown["models"]) == ("ci", "0.50", ["m", "dear"])
    assert served.chat(made["secret"], model="m")[0] == 200

    wider = run(served.folder, "keys", "create", *LEASE, "--models", "*")
    assert wider.returncode == 2
    assert "A lease can only narrow its parent: models" in wider.stderr
    twice = run(served.folder, "keys", "create", "--parent", "ci", "--lease", "1h", "--quota", "0.60")
    assert "leased it already" in twice.stderr
    widened = run(served.folder, "keys", "update", made["name"], "--models", "*")
    assert "can only narrow" in widened.stderr
    narrowed = run(served.folder, "keys", "update", "ci", "--models", "dear")
    assert "can only narrow" in narrowed.stderr

    run(served.folder, "keys", "revoke", made["name"])
    assert served.chat(made["secret"], model="m")[0] == 401


def test_a_command_runs_with_a_key_of_its_own_and_its_spend_is_told(served: Served) -> None:
    done = run(served.folder, "run", *LEASE, "--", sys.executable, "-c", ASK, "m")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("You said: Hi")
    assert " of ci ended: 0.0000" in done.stderr
    assert " of 0.50 USD in 1 requests" in done.stderr
    assert "cap" not in done.stderr
    (spent,) = [
        line for line in served.log.read_text().splitlines() if f"{done.stderr.split()[1]} of ci" in line
    ]
    assert "lease ci-" in spent


def test_a_cap_that_was_hit_fails_the_command(served: Served) -> None:
    done = run(served.folder, "run", *LEASE, "--", sys.executable, "-c", ASK, "dear")
    assert (done.returncode, done.stdout) == (1, "insufficient_quota\n")
    assert "and the cap was hit" in done.stderr


def test_the_commands_own_exit_code_comes_first(served: Served) -> None:
    assert (
        run(served.folder, "run", *LEASE, "--", sys.executable, "-c", "raise SystemExit(7)").returncode == 7
    )
    missing = run(served.folder, "run", *LEASE, "--", "no-such-command")
    assert missing.returncode == 127
    assert "no-such-command" in missing.stderr


def test_a_command_that_is_stopped_leaves_no_lease_behind(served: Served) -> None:
    process = subprocess.Popen(
        [*COMMAND, "run", *LEASE, "--", sys.executable, "-c", "print('up', flush=True); input()"],
        cwd=served.folder, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=START_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert "of ci ended: 0" in said
    keys = json.loads(run(served.folder, "keys", "list", "--json").stdout)
    assert {key["state"] for key in keys if key["parent"] == "ci"} == {"revoked"}


def test_without_a_server_there_is_nothing_to_run_against(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    done = run(tmp_path, "run", *LEASE, "--", "true")
    assert done.returncode == 2
    assert "start one with serve" in done.stderr


async def test_a_lease_whose_time_is_over_revokes_itself(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "LEASES_S", 0.01)
    now = time.time()
    running: Running = await serve(CONFIG.replace("sqlite:///books.db", "sqlite:///x.db"), clock=lambda: now)
    verbs = running.proxy.leasing.administration.verbs
    made = await verbs["keys create"]({"parent": "ci", "lease": "30m", "quota": "0.50"})
    now += 1800
    caplog.set_level("INFO", "tokenhub_proxy.leasing")
    deadline = time.monotonic() + 5
    while (await verbs["keys show"]({"name": made["name"]}))["state"] != "revoked":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    while not caplog.messages:
        await asyncio.sleep(0.005)
    assert caplog.messages == [f"lease {made['name']} of ci ended: 0.00 of 0.50 USD in 0 requests"]


async def test_leases_end_with_their_parent(serve: Serve) -> None:
    running: Running = await serve(CONFIG.replace("sqlite:///books.db", "sqlite:///x.db"))
    verbs = running.proxy.leasing.administration.verbs
    made = await verbs["keys create"]({"parent": "ci", "lease": "30m", "quota": "0.50"})
    await verbs["keys revoke"]({"name": "ci"})
    assert (await verbs["keys show"]({"name": made["name"]}))["state"] == "revoked"
    await verbs["keys revoke"]({"name": made["name"]})
