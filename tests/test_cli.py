"""The command line against a running server, and without one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import is_compiled
from tests.served import COMMAND, START_S, Served, environment, run
from tokenhub_proxy import cli
from tokenhub_proxy.keys import well_formed

PRESSED_AGAIN_S = 3.0
KEY = "sk-th-clickclickclickclick"
CONFIG = f"""
listen: 127.0.0.1:0
ledger: sqlite:///books.db
upstreams: {{demo: {{dialect: demo}}}}
models:
  demo: {{targets: [{{upstream: demo}}], price: free}}
  paid:
    targets: [{{upstream: demo, model: demo}}]
    price: {{input: 3.00, output: 15.00}}
    max_output_tokens: 1000
accounts: {{main: {{balance: prepaid}}}}
keys: [{{name: laptop, key: {KEY}, account: main}}]
"""


@dataclass
class Told:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Type = Callable[..., Told]


@pytest.fixture
def type_in(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Type]:
    """Type a command in a folder; the process is this one, because starting one takes a while."""
    mask = os.umask(0o077)
    monkeypatch.delenv("TOKENHUB_CONFIG", raising=False)

    def typed(folder: Path, *words: str) -> Told:
        monkeypatch.chdir(folder)
        capsys.readouterr()
        try:
            code = cli.main(words)
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Told(code, *capsys.readouterr())

    yield typed
    os.umask(mask)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all that only adds keys and accounts of its own."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "config.yaml").write_text(CONFIG)
    one = Served(folder)
    yield one
    one.stop()


@pytest.fixture(params=["running", "alone"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a config, beside a running server and without one."""
    if request.param == "running":
        return request.getfixturevalue("served").folder
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name that no other test has taken in the shared ledger."""
    return f"n{abs(hash(request.node.name)) % 10**12}"


# --- keys and accounts, by the owner and alone


def test_keys_create_prints_exactly_name_id_and_secret(folder, name, type_in) -> None:
    told = type_in(folder, "keys", "create", name, "--json")
    assert told.code == 0
    assert list(told.json) == ["name", "id", "secret"]
    assert told.json["name"] == name
    assert well_formed(told.json["secret"])
    shown = type_in(folder, "keys", "show", name)
    assert told.json["secret"] not in shown.out


def test_a_key_has_the_scope_it_was_given(folder, name, type_in) -> None:
    options = [
        "--account",
        "main",
        "--models",
        "demo, p*",
        "--ips",
        "10.0.0.0/8,::1",
        "--quota",
        "20.00/month",
    ]
    options += ["--requests-per-minute", "5", "--tokens-per-minute", "1000", "--concurrent", "2"]
    assert type_in(folder, "keys", "create", name, *options, "--expires", "2999-01-01", "--test").code == 0
    key = type_in(folder, "keys", "show", name, "--json").json
    assert key["account"] == "main"
    assert key["models"] == ["demo", "p*"]
    assert key["ips"] == ["10.0.0.0/8", "::1"]
    assert (key["quota_usd"], key["quota_per"], key["used_usd"]) == ("20.00", "month", "0.00")
    assert (key["requests_per_minute"], key["tokens_per_minute"], key["concurrent"]) == (5, 1000, 2)
    assert key["expires_at"] == "2999-01-01T00:00:00.000Z"
    assert key["test"] is True
    lifted = [f"--{limit}=none" for limit in ("ips", "quota", "requests-per-minute", "concurrent", "expires")]
    key = type_in(folder, "keys", "update", name, *lifted, "--no-test", "--json").json
    assert (key["ips"], key["quota_usd"], key["requests_per_minute"]) == ([], None, None)
    assert (key["expires_at"], key["test"], key["tokens_per_minute"]) == (None, False, 1000)


@pytest.mark.parametrize(
    "option",
    [
        "--quota=-5/month", "--quota=1e3", "--quota=NaN", "--quota=20/year", "--quota=20/", "--quota=",
        "--quota=$5", "--quota=1.0000000001", "--requests-per-minute=0", "--requests-per-minute=-1",
        "--requests-per-minute=x", "--tokens-per-minute=1.5", "--concurrent=٣", "--expires=tomorrow",
        "--expires=2001-01-01", "--expires=2999-13-01", "--ips=300.1.1.1", "--ips=", "--ips=10.0.0.1/8",
        "--models=", "--models=a,,b", "--account=nobody",
    ],
)  # fmt: skip
def test_a_slip_in_an_option_is_named_and_makes_no_key(served, name, type_in, option) -> None:
    told = type_in(served.folder, "keys", "create", name, option)
    assert told.code == 2
    assert told.out == ""
    assert len(told.err.strip().splitlines()) == 1
    assert type_in(served.folder, "keys", "show", name).code == 2


@pytest.mark.parametrize(
    "amount", ["-5", "1e3", "NaN", "inf", "0", "", "5 USD", "1,50", "0.0000000001", "9" * 30]
)
@pytest.mark.parametrize("verb", ["credit", "debit"])
def test_a_bad_amount_moves_no_money(served, type_in, verb, amount) -> None:
    before = type_in(served.folder, "accounts", "list", "--json").json
    told = type_in(served.folder, "accounts", verb, "main", "--", amount)
    assert told.code == 2
    assert "Traceback" not in told.err
    assert type_in(served.folder, "accounts", "list", "--json").json == before


def test_an_account_starts_at_nothing_and_every_change_is_an_entry_with_its_note(
    folder, name, type_in
) -> None:
    assert type_in(folder, "accounts", "create", name, "--json").json == {
        "name": name,
        "unlimited": False,
        "balance_usd": "0.00",
        "held_usd": "0.00",
    }
    assert type_in(folder, "accounts", "create", name).code == 2
    assert type_in(folder, "accounts", "credit", name, "10.00", "--note", "a gift").code == 0
    assert type_in(folder, "accounts", "debit", name, "1.50").code == 0
    refused = type_in(folder, "accounts", "debit", name, "100")
    assert refused.code in (1, 2)
    assert "8.50 USD" in refused.err
    lines = [json.loads(line) for line in type_in(folder, "ledger", "export").out.splitlines()]
    mine = [line for line in lines if name in (line["debit"], line["credit"])]
    assert [list(line) for line in mine] == [
        ["id", "at", "kind", "debit", "credit", "amount_usd", "request_id", "note"]
    ] * 2
    assert [(line["kind"], line["amount_usd"], line["note"]) for line in mine] == [
        ("credit", "10.00", "a gift"),
        ("debit", "1.50", ""),
    ]


def test_a_key_of_the_config_is_updated_rotated_and_revoked_too(tmp_path, type_in) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    one = Served(tmp_path)
    try:
        assert one.chat(KEY)[0] == 200
        assert type_in(tmp_path, "keys", "update", "laptop", "--models", "paid").code == 0
        assert one.chat(KEY)[0] == 403
        assert type_in(tmp_path, "keys", "update", "laptop", "--models", "*").code == 0
        secret = type_in(tmp_path, "keys", "rotate", "laptop", "--overlap", "1h", "--json").json["secret"]
        assert (one.chat(KEY)[0], one.chat(secret)[0]) == (200, 200)
        again = type_in(tmp_path, "keys", "rotate", "laptop", "--json").json["secret"]
        assert (one.chat(KEY)[0], one.chat(secret)[0], one.chat(again)[0]) == (401, 401, 200)
        assert type_in(tmp_path, "keys", "revoke", "laptop").code == 0
        assert one.chat(again)[0] == 401
        assert one.stop() == 0
        one = Served(tmp_path)
        assert (one.chat(KEY)[0], one.chat(again)[0]) == (401, 401), "a restart forgets nothing"
        assert type_in(tmp_path, "keys", "rotate", "laptop").code == 2
    finally:
        one.stop()


def test_what_a_command_changes_binds_the_very_next_request(served, name, type_in) -> None:
    folder = served.folder
    type_in(folder, "accounts", "create", name)
    secret = type_in(folder, "keys", "create", name, "--account", name, "--json").json["secret"]
    assert served.chat(secret, "paid")[0] == 402
    type_in(folder, "accounts", "credit", name, "1.00")
    assert served.chat(secret, "paid")[0] == 200
    type_in(folder, "keys", "update", name, "--quota", "0.000001/day")
    assert served.chat(secret, "paid")[0] == 402
    type_in(folder, "keys", "update", name, "--quota", "none", "--requests-per-minute", "1")
    assert [served.chat(secret, "paid")[0] for _ in range(2)] == [200, 429]
    type_in(folder, "keys", "revoke", name)
    assert served.chat(secret, "demo")[0] == 401
    usage = type_in(folder, "usage", "--by", "key", "--since", "1d", "--json").json
    (row,) = [row for row in usage if row["key"] == name]
    spent = row["cost_usd"]
    (account,) = [one for one in type_in(folder, "accounts", "list", "--json").json if one["name"] == name]
    assert float(account["balance_usd"]) == pytest.approx(1 - float(spent))
    csv = type_in(folder, "usage", "--by", "model", "--csv").out.splitlines()
    assert csv[0].startswith("model,requests,input_tokens,")
    assert any(line.startswith("paid,") for line in csv[1:])


def test_reports_are_tables_for_people(served, type_in) -> None:
    folder = served.folder
    assert type_in(folder, "keys", "list").out.splitlines()[0].split()[:3] == ["name", "id", "account"]
    assert type_in(folder, "accounts", "list").code == 0
    assert type_in(folder, "usage", "--by", "day").code == 0
    assert type_in(folder, "usage", "--since", "yesterday").code == 2
    verified = type_in(folder, "ledger", "verify")
    assert (verified.code, verified.out) == (0, "The books add up.\n")
    assert type_in(folder, "ledger", "verify", "--json").json == {"differences": []}


# --- the ledger


def test_a_backup_is_whole_and_never_written_over_anything(folder, name, type_in, tmp_path) -> None:
    copy = tmp_path / "copy.db"
    type_in(folder, "accounts", "create", name)
    assert type_in(folder, "ledger", "backup", str(copy), "--json").json == {"path": str(copy)}
    assert type_in(tmp_path, "ledger", "verify", "--ledger", str(copy)).code == 0
    accounts = type_in(tmp_path, "accounts", "list", "--ledger", f"sqlite:///{copy}", "--json").json
    assert name in [account["name"] for account in accounts]
    size = copy.stat().st_size
    again = type_in(folder, "ledger", "backup", str(copy))
    assert again.code == 2
    assert "exists" in again.err
    assert copy.stat().st_size == size
    assert type_in(folder, "ledger", "backup", str(tmp_path / "no/such/folder.db")).code == 2


@pytest.mark.damaged
def test_verify_finds_what_was_changed_behind_our_back(tmp_path, type_in) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    type_in(tmp_path, "accounts", "credit", "main", "10.00")
    with sqlite3.connect(tmp_path / "books.db") as books:
        books.execute("UPDATE accounts SET posted = posted + 1 WHERE name = 'main'")
    told = type_in(tmp_path, "ledger", "verify")
    assert told.code == 1
    assert "main" in told.out


def test_reading_commands_make_no_ledger(tmp_path, type_in) -> None:
    for words in (
        ["keys", "list"],
        ["accounts", "list"],
        ["usage"],
        ["ledger", "verify"],
        ["ledger", "export"],
    ):
        told = type_in(tmp_path, *words)
        assert told.code == 3
        assert "There is no ledger" in told.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["postgresql://user:pw@host/db", "mysql://x", "sqlite://x.db", "sqlite:///", "sqlite:///:memory:"]
)
def test_a_ledger_that_is_none_is_told_in_a_sentence(tmp_path, type_in, url) -> None:
    told = type_in(tmp_path, "keys", "list", "--ledger", url)
    assert told.code == 2
    assert told.err.startswith("--ledger: ")
    assert "pw" not in told.err


def test_a_damaged_ledger_is_refused_with_its_own_exit_code(tmp_path, type_in) -> None:
    (tmp_path / "tokenhub.db").write_bytes(b"x" * 8192)
    told = type_in(tmp_path, "ledger", "verify")
    assert told.code == 3
    assert "Traceback" not in told.err


def test_a_running_server_is_asked_though_the_config_here_is_broken(served, tmp_path, type_in) -> None:
    (tmp_path / "config.yaml").write_text("models: [")
    assert type_in(tmp_path, "keys", "list").code == 2
    assert type_in(tmp_path, "keys", "list", "--ledger", str(served.folder / "books.db")).code == 0


# --- check and explain


def test_check_tells_every_complaint_and_exits_with_2(tmp_path, type_in) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.replace("price: free", "price: fre").replace("main, ", ""))
    (tmp_path / "two.yaml").write_text(CONFIG.replace("price: free", "price: fre") + "durabilty: full\n")
    told = type_in(tmp_path, "check", "--config", "two.yaml")
    assert told.code == 2
    assert "models.demo.price" in told.err
    assert "durability" in told.err
    asked = type_in(tmp_path, "check", "--config", "two.yaml", "--json")
    assert (asked.code, len(asked.json["complaints"])) == (2, 2)
    assert type_in(tmp_path, "check", "--config", "none.yaml").code == 2


def test_check_prints_the_routes_and_their_prices(served, type_in) -> None:
    told = type_in(served.folder, "check")
    assert told.code == 0
    assert "15.00" in told.out
    assert KEY not in told.out
    model = type_in(served.folder, "check", "--json").json["models"][1]
    assert model["model"] == "paid"
    assert model["price"] == {"input": "3.00", "cached": "3.00", "cache_write": "3.00", "output": "15.00"}
    without = type_in(served.folder.parent, "check")
    assert (without.code, without.err.startswith("There is no config")) == (2, True)


def test_explain_tells_people_and_programs_and_its_exit_code_is_the_verdict(
    folder, type_in, tmp_path
) -> None:
    told = type_in(folder, "explain", "--key", "laptop", "--model", "demo")
    assert told.code == 0
    assert "target 1" in told.out
    refused = type_in(folder, "explain", "--key", "laptop", "--model", "dem", "--json")
    assert (refused.code, refused.json["refusal"]["code"]) == (1, "model_not_found")
    body = tmp_path / "body.json"
    body.write_text('{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}')
    paid = type_in(folder, "explain", "--key", "laptop", "--model", "paid", "--body", str(body))
    assert paid.code == 1
    assert "402 insufficient_quota" in paid.out
    assert type_in(folder, "explain", "--key", "nobody", "--model", "demo").code == 2
    assert type_in(folder, "explain", "--key", "laptop", "--model", "demo", "--body", "none").code == 2


# --- as a process


def test_output_that_nobody_reads_on_is_no_error(served) -> None:
    line = " ".join([*(f"'{word}'" for word in COMMAND), "keys", "list", "--json", "|", "true"])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=served.folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_ctrl_c_ends_a_command_without_a_traceback(tmp_path) -> None:
    fifo = tmp_path / "body"
    os.mkfifo(fifo)
    words = ["explain", "--key", "k", "--model", "demo", "--body", str(fifo)]
    command = subprocess.Popen(
        [*COMMAND, *words], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + START_S
    while True:  # until it reads what nobody writes
        try:
            writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:
            assert time.monotonic() < deadline, "it never opened the body"
            time.sleep(0.02)
    deadline = time.monotonic() + START_S
    while command.poll() is None:
        # A signal may fall between Python's last look for one and its read: a person would press again.
        assert time.monotonic() < deadline, "it reads on"
        command.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.wait(PRESSED_AGAIN_S)
    _, said = command.communicate()
    os.close(writer)
    assert command.returncode == 130
    assert said == ""


def test_the_tree_of_commands_imports_nothing_heavy() -> None:
    code = "import sys; from tokenhub_proxy import cli; cli.parser(); print(*sys.modules)"
    done = subprocess.run(
        [COMMAND[0], "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=True,
    )
    assert not {"aiohttp", "asyncio", "yaml", "sqlite3", "ssl", "orjson"} & set(done.stdout.split())


def test_help_and_version_and_a_wrong_command(tmp_path) -> None:
    said = run(tmp_path, "--version").stdout
    assert said.startswith("tokenhub-proxy ")
    assert said.endswith(", compiled\n") == is_compiled()
    assert run(tmp_path, "keys").returncode == 2


def test_a_command_in_the_wrong_folder_says_that_it_makes_a_ledger(tmp_path: Path) -> None:
    """A key that is made where no server runs is none that a client could use."""
    made = run(tmp_path, "accounts", "create", "a")
    assert made.returncode == 0
    assert "a new ledger is made" in made.stderr
    assert "tokenhub.db" in made.stderr
    assert run(tmp_path, "accounts", "create", "b").stderr == ""
