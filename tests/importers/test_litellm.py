"""A LiteLLM config with virtual keys becomes one that `check` accepts, and what is lost is told."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.served import Served, run
from tokenhub_proxy import pricelist
from tokenhub_proxy.importers import Draft, NotReadable, document, litellm, litellm_keys, texts
from tokenhub_proxy.prices import Price, format_usd

HERE = Path(__file__).parent
CONFIG = HERE / "litellm.yaml"
KEYS = HERE / "litellm_keys.json"
NOW = 1_795_000_000.0
LITERAL = "sk-ant-api03-a-literal-secret-of-the-old-file"
USD = 10**9


def read(text: str, **environ: str) -> Draft:
    draft = Draft("config.yaml", pricelist_row, environ=environ)
    litellm.read_config(draft, texts.read_yaml(text))
    return draft


def pricelist_row(upstream, model):
    return pricelist.lookup(upstream.dialect, upstream.base_url, model)


@pytest.fixture(scope="module")
def draft() -> Draft:
    draft = Draft("litellm.yaml", pricelist_row, environ={})
    groups = litellm.read_config(draft, texts.read_yaml(CONFIG.read_text()))
    litellm_keys.read_keys(draft, texts.read_json(KEYS.read_text()), "keys", groups, NOW)
    return draft


def reasons(draft: Draft, verdict: str) -> dict[str, str]:
    return {one.path: one.reason for one in draft.findings if one.verdict == verdict}


def imported(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "import", "litellm", *arguments, **more)


def test_check_accepts_it_and_the_report_is_on_the_other_channel(tmp_path: Path) -> None:
    done = imported(tmp_path, str(CONFIG), "--keys", str(KEYS), "-o", "config.yaml")
    assert done.returncode == 1, "some of it is lost"
    assert done.stdout == ""
    assert "Not carried over" in done.stderr
    checked = run(tmp_path, "check", "--json")
    assert checked.returncode == 0, checked.stderr
    told = json.loads(checked.stdout)
    models = {model["model"]: model for model in told["models"]}
    assert {"gpt-4o", "gpt-4", "hidden-gpt", "claude-sonnet", "gemini-flash", "llama-70b", "local"} <= set(
        models
    )
    assert models["claude-sonnet"]["price"] == {
        "input": "3.30", "cached": "1.25", "cache_write": "4.125", "output": "16.50",
    }  # fmt: skip
    assert [account["name"] for account in told["accounts"]] == ["default", "research"]


def test_no_secret_of_the_source_is_in_what_is_written(tmp_path: Path) -> None:
    done = imported(tmp_path, str(CONFIG), "--secrets-to", "secrets.env")
    assert LITERAL not in done.stdout + done.stderr
    assert "api_key: env:anthropic" not in done.stdout
    assert "api_key: env:ANTHROPIC_API_KEY" in done.stdout
    written = tmp_path / "secrets.env"
    assert written.read_text() == f"ANTHROPIC_API_KEY={LITERAL}\n"
    assert written.stat().st_mode & 0o077 == 0
    kept = imported(tmp_path, str(CONFIG), "--keep-secrets")
    assert LITERAL in kept.stdout
    assert LITERAL not in kept.stderr


def test_a_reference_stays_one_and_is_named_once(draft: Draft) -> None:
    assert draft.upstreams["azure"]["api_key"] == "env:AZURE_API_KEY"
    assert draft.upstreams["openai"] == {
        "dialect": "openai", "api_key": "env:OPENAI_API_KEY", "timeouts": {"first_byte": "600"},
    }  # fmt: skip
    assert [name for name in draft.upstreams if name.startswith("openai")] == ["openai", "openai-2"]
    assert draft.upstreams["openai-2"]["api_key"] == "env:HOUSE_API_KEY"
    assert draft.upstreams["bedrock"]["secret_access_key"] == "env:AWS_SECRET_ACCESS_KEY"


def test_a_secret_that_was_written_out_gets_no_variable_that_the_file_names() -> None:
    rows = "{model_name: a, litellm_params: {model: openai/gpt-4o, api_key: sk-written-out-1234567890}}"
    named = "{model_name: b, litellm_params: {model: openai/gpt-4.1, api_key: os.environ/OPENAI_API_KEY}}"
    unnamed = "{model_name: b, litellm_params: {model: openai/gpt-4.1}}"
    for other in (named, unnamed):
        draft = read(f"model_list: [{rows}, {other}]")
        assert draft.secrets == {"OPENAI_API_KEY_2": "sk-written-out-1234567890"}
        assert [row["api_key"] for row in draft.upstreams.values()] == [
            "env:OPENAI_API_KEY_2", "env:OPENAI_API_KEY",
        ]  # fmt: skip


def test_an_address_that_only_a_variable_knows_is_looked_up_or_told(draft: Draft) -> None:
    lost = reasons(draft, "lost")
    assert "$AZURE_API_BASE is not set here" in lost["model_list[0].litellm_params.api_base"]
    assert draft.upstreams["azure"]["base_url"] == "https://RESOURCE.openai.azure.com"
    known = read(CONFIG.read_text(), AZURE_API_BASE="https://ours.openai.azure.com/")
    assert known.upstreams["azure"]["base_url"] == "https://ours.openai.azure.com"


def test_prices_are_exact_and_the_dearest_deployment_counts(draft: Draft) -> None:
    assert draft.models["claude-sonnet-bedrock"].price is not None
    row = pricelist.lookup("openai", "https://api.groq.com/openai/v1", "llama-3.3-70b-versatile")
    assert row is not None
    assert draft.models["llama-70b"].price == Price(
        input=max(row.price.input, 880_000_000),
        cached=max(row.price.cached, 880_000_000),
        cache_write=max(row.price.cache_write, 880_000_000),
        output=max(row.price.output, 880_000_000),
    )
    assert "cost differently" in reasons(draft, "changed")["model_list[5]"]
    price = (
        read(
            "model_list: [{model_name: m, litellm_params: {model: openai/m,"
            " input_cost_per_token: 0.000_000_1, output_cost_per_token: 3e-7}}]"
        )
        .models["m"]
        .price
    )
    assert price is not None
    assert (format_usd(price.input), format_usd(price.output)) == ("0.10", "0.30")


def test_a_model_without_a_price_is_a_comment_and_never_free(draft: Draft) -> None:
    assert draft.models["house-model"].price is None
    text = document.config_text(draft)
    assert "  # house-model:" in text
    assert "no price of house-model is known" in reasons(draft, "lost")["model_list[11]"]
    assert draft.models["local"].price == Price(), "Ollama on one's own machine costs nothing"


def test_shares_are_by_weight_else_by_requests_per_minute(draft: Draft) -> None:
    assert [(one.upstream, one.weight) for one in draft.models["gpt-4o"].targets] == [
        ("azure", 600), ("openai", 300),
    ]  # fmt: skip
    assert [one.weight for one in draft.models["llama-70b"].targets] == [700, 300]


def test_fallbacks_are_later_targets_and_aliases_are_models(draft: Draft) -> None:
    targets = [(one.upstream, one.priority) for one in draft.models["claude-sonnet"].targets]
    assert targets == [("anthropic", 1), ("bedrock", 2), ("azure", 3), ("openai", 3)]
    assert draft.models["gpt-4"].targets == draft.models["gpt-4o"].targets
    assert "router_settings.model_group_alias.hidden-gpt.hidden" in reasons(draft, "lost")


def test_a_wildcard_becomes_the_models_of_the_price_list(draft: Draft) -> None:
    found = {name for name in draft.models if name.startswith("mistral/")}
    listed = {row.model for row in pricelist.shipped().rows() if row.provider == "mistral"}
    assert found == {f"mistral/{name}" for name in listed}
    assert f"{len(listed)} models" in reasons(draft, "lost")["model_list[9].model_name"]


@pytest.mark.parametrize(
    "path",
    [
        "x-shared", "model_list[2].litellm_params.max_retries", "model_list[10].litellm_params.model",
        "model_list[12]", "router_settings.routing_strategy", "router_settings.num_retries",
        "litellm_settings.context_window_fallbacks", "litellm_settings.success_callback",
        "general_settings.master_key", "general_settings.alerting", "keys[0].user_id", "keys[1].tags",
        "keys[1].soft_budget", "keys[1].budget_duration", "keys[4]",
    ],
)  # fmt: skip
def test_what_has_no_place_here_is_told_with_its_path(draft: Draft, path: str) -> None:
    assert reasons(draft, "lost")[path]


def test_every_setting_of_the_file_is_in_the_config_or_in_the_report(draft: Draft) -> None:
    """Each option whose name the report does not know must be one that was carried over."""
    carried = {
        "model_name", "model", "api_key", "api_version", "mode", "base_model", "access_groups", "weight",
        "input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost",
        "cache_creation_input_token_cost", "max_input_tokens", "max_output_tokens", "aws_region_name",
        "aws_access_key_id", "aws_secret_access_key", "temperature", "fallbacks", "credential_name",
        "credential_values", "credential_info", "litellm_credential_name", "claude-sonnet", "gpt-4", "gpt-4o",
        "description",
        "vertex_project", "vertex_location",  # of a deployment that is lost as a whole
    }  # fmt: skip
    told = {part for one in draft.findings for part in one.path.replace("[", ".").split(".")}

    def names(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {name for each in value.values() for name in names(each)}
        return {name for each in value for name in names(each)} if isinstance(value, list) else set()

    sections = {"model_list", "credential_list", "litellm_params", "model_info"}
    shared = {"timeout", "max_retries", "api_base"}  # told where they are used
    left = names(texts.read_yaml(CONFIG.read_text())) - told - carried - sections - shared
    assert left - {"model_group_alias", "supports_vision"} == set()


def test_keys_become_commands_of_the_same_scope(draft: Draft) -> None:
    commands = [shlex.split(command) for command in draft.commands]
    assert commands == [
        ["tokenhub-proxy", "keys", "create", "laptop-of-anna", "--account", "research", "--models",
         "gpt-4o,claude-sonnet,local", "--quota", "20.10/month", "--requests-per-minute", "60",
         "--tokens-per-minute", "200000", "--concurrent", "4", "--expires",
         "2099-01-31T10:30:00.000000+00:00"],
        ["tokenhub-proxy", "keys", "create", "ci", "--quota", "0.50/total"],
        ["tokenhub-proxy", "keys", "create", "everything"],
    ]  # fmt: skip
    assert "has expired" in reasons(draft, "unneeded")["keys[3]"]
    assert "only the digest of its secret is known" in reasons(draft, "lost")["keys[0]"]


def test_the_commands_make_the_keys(tmp_path: Path) -> None:
    done = imported(tmp_path, str(CONFIG), "--keys", str(KEYS), "-o", "config.yaml", "--json")
    report = json.loads(done.stderr)
    assert not report["complete"]
    served = Served(tmp_path, "--listen", "127.0.0.1:0")
    try:
        for command in report["commands"]:
            made = run(tmp_path, *shlex.split(command)[1:], "--json")
            assert made.returncode == 0, made.stderr
        shown = json.loads(run(tmp_path, "keys", "show", "laptop-of-anna", "--json").stdout)
    finally:
        served.stop()
    assert shown["account"] == "research"
    assert shown["models"] == ["gpt-4o", "claude-sonnet", "local"]


def test_a_table_of_ones_own_comes_before_the_list_that_ships(tmp_path: Path) -> None:
    table = {
        "sample_spec": {"mode": "chat"},
        "together_ai/some/model": {
            "litellm_provider": "together_ai", "mode": "chat",
            "input_cost_per_token": 1.2e-07, "output_cost_per_token": 0.0000003, "max_output_tokens": 8192,
        },
        "gpt-4o": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 9e-06},
    }  # fmt: skip
    (tmp_path / "prices.json").write_text(json.dumps(table))
    (tmp_path / "c.yaml").write_text(
        "model_list:\n"
        "  - {model_name: a, litellm_params: {model: together_ai/some/model, api_key: os.environ/T}}\n"
        "  - {model_name: b, litellm_params: {model: gpt-4o, api_key: os.environ/O}}\n"
    )
    assert "# a has no price" in imported(tmp_path, "c.yaml").stdout
    done = imported(tmp_path, "c.yaml", "--prices", "prices.json")
    assert done.returncode == 0, done.stderr
    assert "price: {input: 0.12, output: 0.30}" in done.stdout
    assert "price: {input: 9.00" in done.stdout
    refused = imported(tmp_path, "c.yaml", "--prices", "c.yaml")
    assert (refused.returncode, refused.stdout) == (2, "")


def test_nothing_is_written_over_without_force(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine\n")
    refused = imported(tmp_path, str(CONFIG), "-o", "config.yaml")
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert (tmp_path / "config.yaml").read_text() == "mine\n"
    assert imported(tmp_path, str(CONFIG), "-o", "config.yaml", "--force").returncode == 1
    assert "gpt-4o" in (tmp_path / "config.yaml").read_text()


def test_what_is_carried_over_whole_exits_with_0(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(
        "model_list: [{model_name: gpt-4o, litellm_params: {model: gpt-4o, api_key: os.environ/OPENAI_KEY}}]"
    )
    done = imported(tmp_path, "small.yaml")
    assert done.returncode == 0, done.stderr
    assert "Not carried over" not in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a list", "no model_list"),
        ("model_list: {}", "no model_list"),
        ("model_list: [\n", "line 2: not YAML"),
        ("model_list: []\nmodel_list: []\n", "line 1: model_list is given twice"),
    ],
)
def test_what_is_no_such_config_is_refused(text: str, said: str) -> None:
    with pytest.raises(NotReadable, match=said.replace("[", r"\[")):
        read(text)


def test_a_missing_file_is_an_error_of_the_command(tmp_path: Path) -> None:
    done = imported(tmp_path, "nowhere.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such file" in done.stderr


def test_rubbish_in_every_place_is_told_and_never_a_crash() -> None:
    """Each value of the file in turn becomes something that it should not be."""
    whole = texts.read_yaml(CONFIG.read_text())
    keys = texts.read_json(KEYS.read_text())
    for rubbish in (None, [None], {"a": {"b": []}}, "x", True):
        for section in (whole, keys):
            for parent, name in list(places(section)):
                before = parent[name]
                parent[name] = rubbish
                draft = Draft("x", pricelist_row, environ={})
                try:
                    groups = litellm.read_config(draft, whole)
                    litellm_keys.read_keys(draft, keys, "keys", groups, NOW)
                except NotReadable:
                    pass
                document.config_text(draft)
                parent[name] = before


def places(value: object):
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, child in children:
        yield value, name
        yield from places(child)
