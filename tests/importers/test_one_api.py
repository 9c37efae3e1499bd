"""The databases and exports of one-api and new-api become a config, accounts and commands."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.importers.one_api import (
    ANTHROPIC_KEY,
    NEW_API,
    NEW_API_ROWS,
    ONE_API,
    ONE_API_ROWS,
    OPENAI_KEY,
    database,
)
from tests.served import Served, run
from tokenhub_proxy import pricelist
from tokenhub_proxy.importers import Draft, NotReadable, document, one_api
from tokenhub_proxy.prices import format_usd

NOW = 1_795_000_000.0


def draft_of(rows, now: float = NOW) -> Draft:
    draft = Draft("one-api.db", lambda one, model: pricelist.lookup(one.dialect, one.base_url, model))
    one_api.read_tables(draft, {name: [dict(row) for row in table] for name, table in rows.items()}, now)
    return draft


@pytest.fixture(scope="module")
def draft() -> Draft:
    return draft_of(ONE_API_ROWS)


def reasons(draft: Draft, verdict: str) -> dict[str, str]:
    return {one.path: one.reason for one in draft.findings if one.verdict == verdict}


def imported(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "import", "one-api", *arguments)


def price(draft: Draft, model: str) -> list[str]:
    found = draft.models[model].price
    assert found is not None
    return [format_usd(nanos) for nanos in (found.input, found.cached, found.cache_write, found.output)]


@pytest.mark.parametrize(("schema", "rows"), [(ONE_API, ONE_API_ROWS), (NEW_API, NEW_API_ROWS)])
def test_check_accepts_what_a_database_becomes(tmp_path: Path, schema: str, rows) -> None:
    path = database(tmp_path / "one-api.db", schema, rows)
    before = path.read_bytes()
    done = imported(tmp_path, str(path), "-o", "config.yaml", "--secrets-to", "secrets.env")
    assert done.returncode == 1
    checked = run(tmp_path, "check")
    assert checked.returncode == 0, checked.stderr
    assert path.read_bytes() == before
    written = (tmp_path / "config.yaml").read_text() + done.stderr
    for secret in (OPENAI_KEY, ANTHROPIC_KEY, "AKIANEW", "gemini-key-written-out", "a" * 48):
        assert secret not in written


def test_keys_of_channels_go_to_the_file_that_was_asked_for(tmp_path: Path) -> None:
    path = database(tmp_path / "one-api.db", ONE_API, ONE_API_ROWS)
    imported(tmp_path, str(path), "-o", "config.yaml", "--secrets-to", "secrets.env")
    sourced = subprocess.run(
        ["bash", "-c", "set -a; . ./secrets.env; exec env"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    variables = dict(line.split("=", 1) for line in sourced.stdout.splitlines() if "=" in line)
    assert variables["OPENAI_MAIN_API_KEY"] == OPENAI_KEY
    assert variables["DEEPSEEK_API_KEY_2"] == "sk-another-deepseek"


def test_channels_are_upstreams_and_their_priority_and_weight_stay(draft: Draft) -> None:
    assert draft.upstreams["OpenAI-main"] == {"dialect": "openai", "api_key": "env:OPENAI_MAIN_API_KEY"}
    assert draft.upstreams["azure-eu"]["api_version"] == "2024-10-21"
    assert draft.upstreams["deepseek"]["api_key"] == ["env:DEEPSEEK_API_KEY", "env:DEEPSEEK_API_KEY_2"]
    assert draft.upstreams["ollama"]["base_url"] == "http://gpu-box:11434/v1"
    assert draft.upstreams["aws"]["region"] == "us-west-2"
    targets = [(one.upstream, one.weight, one.priority) for one in draft.models["gpt-4o"].targets]
    assert targets == [("OpenAI-main", 3, 1), ("azure-eu", 1, 1)]
    assert draft.models["my-tuned"].targets[0].model == "ft:gpt-4o:acme::abc"


def test_a_ratio_of_1_is_2_usd_per_million_tokens_exactly(draft: Draft) -> None:
    assert price(draft, "gpt-4o") == ["2.50", "2.50", "2.50", "10.00"]
    assert price(draft, "gpt-4o-mini") == ["0.15", "0.15", "0.15", "0.60"]
    assert price(draft, "deepseek-chat") == ["0.2856", "0.2856", "0.2856", "0.2856"]
    assert (
        "output costs what input costs" in reasons(draft, "changed")["options.CompletionRatio.deepseek-chat"]
    )
    assert price(draft, "claude-sonnet-4-5") == ["3.00", "0.30", "3.75", "15.00"], "of the price list"


def test_a_ratio_that_no_nanodollar_meets_is_rounded_up_and_a_price_per_call_is_lost() -> None:
    draft = draft_of(NEW_API_ROWS)
    assert price(draft, "gemini-2.5-flash") == ["0.30", "0.075", "0.30", "2.500000001"]
    assert "per call" in reasons(draft, "lost")["options.ModelPrice.mistral-large-latest"]


def test_balances_are_exact_and_tokens_become_commands(draft: Draft) -> None:
    commands = [shlex.split(command)[1:] for command in draft.commands]
    assert draft.accounts == {"root": "prepaid", "anna": "prepaid"}
    assert commands == [
        ["accounts", "credit", "root", "1000000.00", "--note", "carried over"],
        ["accounts", "credit", "anna", "12.345678", "--note", "carried over"],
        ["keys", "create", "anna-laptop", "--account", "anna", "--models", "gpt-4o", "--ips", "10.0.0.0/8",
         "--quota", "0.500002/total", "--expires", "2100-01-01T00:00:00Z"],
        ["keys", "create", "root-ci", "--account", "root", "--models",
         "gpt-4o,gpt-4o-mini,my-tuned,claude-sonnet-4-5"],
    ]  # fmt: skip


def test_what_new_api_says_of_a_token_is_kept() -> None:
    draft = draft_of({**NEW_API_ROWS, "tokens": NEW_API_ROWS["tokens"][:1]})
    assert shlex.split(draft.commands[-1])[1:] == [
        "keys", "create", "lee-default", "--account", "lee", "--models", "gemini-2.5-flash",
        "--ips", "10.1.2.3,10.9.0.0/16", "--quota", "1.00/total",
    ]  # fmt: skip
    assert draft.upstreams["mistral"]["headers"] == {"X-Team": "acme"}
    assert draft.upstreams["aws"]["region"] == "eu-west-1"


@pytest.mark.parametrize(
    "path",
    [
        "channels[2].system_prompt", "channels[5]", "channels[6]", "users[2]", "tokens[0]", "tokens[3]",
        "options.GroupRatio.vip", "options.SystemName",
    ],
)  # fmt: skip
def test_what_has_no_place_here_is_told_with_its_path(draft: Draft, path: str) -> None:
    assert reasons(draft, "lost")[path]


def test_a_table_that_is_not_read_is_told(tmp_path: Path) -> None:
    more = "CREATE TABLE redemptions (id integer, key text); INSERT INTO redemptions VALUES (1, 'code');"
    path = database(tmp_path / "one-api.db", ONE_API + more, ONE_API_ROWS)
    report = json.loads(imported(tmp_path, str(path), "--json").stderr)
    told = {one["path"]: one["verdict"] for one in report["findings"]}
    assert told["redemptions"] == "lost"
    assert "abilities" not in told


def test_the_commands_open_the_accounts_and_the_books_add_up(tmp_path: Path) -> None:
    path = database(tmp_path / "one-api.db", ONE_API, ONE_API_ROWS)
    report = json.loads(imported(tmp_path, str(path), "-o", "config.yaml", "--json").stderr)
    served = Served(tmp_path, "--listen", "127.0.0.1:0")
    try:
        for command in report["commands"]:
            done = run(tmp_path, *shlex.split(command)[1:])
            assert done.returncode == 0, done.stderr
        accounts = json.loads(run(tmp_path, "accounts", "list", "--json").stdout)
        assert {one["name"]: one["balance_usd"] for one in accounts}["anna"] == "12.345678"
        assert "add up" in run(tmp_path, "ledger", "verify").stdout
    finally:
        served.stop()


def test_answers_of_the_api_are_read_in_any_order(tmp_path: Path) -> None:
    channels = [
        {name: value for name, value in row.items() if name != "key"} for row in ONE_API_ROWS["channels"]
    ]
    answers = {
        "tokens": {"success": True, "message": "", "data": ONE_API_ROWS["tokens"]},
        "channels": {"success": True, "message": "", "data": {"items": channels, "total": len(channels)}},
        "options": {"success": True, "data": ONE_API_ROWS["options"]},
    }
    for name, answer in answers.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(answer))
    done = imported(tmp_path, *(f"{name}.json" for name in answers), "-o", "config.yaml", "--json")
    report = json.loads(done.stderr)
    assert "gpt-4o" in report["models"]
    assert "OPENAI_MAIN_API_KEY" in report["variables"], "the API tells no keys; a variable stands for each"
    assert any("keys create laptop" in command for command in report["commands"])


@pytest.mark.parametrize("data", [[], {}, {"data": []}, {"data": [{"x": 1}]}, "x", 7, {"channels": []}])
def test_what_is_no_such_export_is_refused(data) -> None:
    with pytest.raises(NotReadable):
        draft_of(one_api.tables_of(data))


def test_rubbish_in_every_column_is_told_and_never_a_crash() -> None:
    for rubbish in (None, "", "x", "{", "[1]", "-1", -1, 0, 10**30, [], {}, {"a": None}, True, "1e999"):
        for table, rows in ONE_API_ROWS.items():
            for place, row in enumerate(rows):
                for column in row:
                    changed = [
                        {**one, column: rubbish} if at == place else one for at, one in enumerate(rows)
                    ]
                    document.config_text(draft_of({**ONE_API_ROWS, table: changed}))
