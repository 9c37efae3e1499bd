"""The shipped prices, and the reading of other people's tables."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import date
from importlib.resources import files

import pytest

from tokenhub_proxy.cli import main
from tokenhub_proxy.pricelist import Listed, import_prices, lookup, read_prices, shipped, write_prices
from tokenhub_proxy.prices import Price

USD = 10**9
OPENAI = "https://api.openai.com/v1"
BEDROCK = "https://bedrock-runtime.eu-west-1.amazonaws.com"


def listed(dialect: str, base_url: str, model: str) -> Listed:
    found = lookup(dialect, base_url, model)
    assert found is not None, model
    return found


def test_a_model_is_found_by_its_upstream_and_name():
    found = listed("openai", OPENAI, "gpt-4o")
    assert found.price == Price(25 * USD // 10, 125 * USD // 100, 25 * USD // 10, 10 * USD)
    assert (found.context_length, found.output_max) == (128000, 16384)
    date.fromisoformat(found.as_of)


def test_a_snapshot_has_its_models_price_unless_it_has_its_own():
    assert listed("openai", OPENAI, "gpt-4o-2024-11-20").price == listed("openai", OPENAI, "gpt-4o").price
    assert listed("openai", OPENAI, "gpt-4o-2024-05-13").price.input == 5 * USD
    found = listed("anthropic", "https://proxy.test", "claude-3-5-sonnet-20241022")
    assert found.price == Price(3 * USD, 3 * USD // 10, 375 * USD // 100, 15 * USD)
    assert found.output_max == 8192


def test_bedrocks_profiles_and_versions_are_found():
    regional = listed("bedrock", BEDROCK, "us.anthropic.claude-haiku-4-5-20251001-v1:0")
    for name in ("eu.anthropic.claude-haiku-4-5-20251001-v1:0", "anthropic.claude-haiku-4-5-20251001-v1:0"):
        assert listed("bedrock", BEDROCK, name).price == regional.price
    worldwide = listed("bedrock", BEDROCK, "global.anthropic.claude-haiku-4-5-20251001-v1:0")
    assert worldwide.price.input < regional.price.input
    assert listed("bedrock", BEDROCK, "apac.amazon.nova-lite-v1:0").price.input > 0


@pytest.mark.parametrize(("dialect", "base_url", "model"), [
    ("openai", OPENAI, "gpt-4o-audio-preview"), ("openai", OPENAI, "gpt"), ("openai", OPENAI, ""),
    ("openai", "http://127.0.0.1:11434/v1", "gpt-4o"), ("openai", "", "gpt-4o"),
    ("openai", "https://api.openai.com.evil.test", "gpt-4o"), ("demo", "demo://", "demo"),
])  # fmt: skip
def test_what_is_not_listed_has_no_price(dialect, base_url, model):
    assert lookup(dialect, base_url, model) is None


def test_every_upstream_of_the_table_has_rows_and_every_row_a_price():
    rows = shipped().rows()
    providers = {row.provider for row in rows}
    assert providers == {"openai", "anthropic", "google", "mistral", "deepseek", "groq", "xai", "openrouter",
                         "azure", "bedrock"}  # fmt: skip
    assert len(rows) >= 80
    for row in rows:
        assert row.price.input > 0, row
        assert (row.price.output == 0) == ("embed" in row.model), row
        assert row.price.cached <= row.price.input, row


def test_the_table_is_decimal_text_with_its_date_its_source_and_its_licence():
    table = json.loads(files("tokenhub_proxy").joinpath("prices.json").read_text(), parse_float=pytest.fail)
    assert table["as_of"] >= "2026-11-22"
    assert "price lists" in table["source"]["text"]
    assert any("Permission is hereby granted" in line for line in table["source"]["license"])
    assert any(line.startswith("Copyright") for line in table["source"]["license"])


def test_the_table_is_read_on_first_use_only():
    code = "import tokenhub_proxy.pricelist as p; assert p.shipped.cache_info().currsize == 0"
    subprocess.run([sys.executable, "-c", code], check=True)


LITELLM = """{
 "sample_spec": {"mode": "one of: chat, embedding"},
 "gpt-x": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 3e-07,
   "cache_read_input_token_cost": 0.000000075, "output_cost_per_token": 1.1e-06,
   "max_input_tokens": 200000, "max_output_tokens": "8192"},
 "gemini/embed": {"litellm_provider": "gemini", "mode": "embedding", "input_cost_per_token": 1.5e-07},
 "dall-e": {"litellm_provider": "openai", "mode": "image_generation", "input_cost_per_pixel": 1e-8},
 "unpriced": {"litellm_provider": "openai", "mode": "chat"}
}"""


def test_litellms_table_is_read_exactly():
    chat, embedding = import_prices(LITELLM)
    price = Price(3 * USD // 10, 75 * USD // 1000, 3 * USD // 10, 11 * USD // 10)
    assert chat == Listed("openai", "gpt-x", price, 200000, 8192)
    assert (embedding.provider, embedding.model, embedding.price.input) == (
        "google",
        "embed",
        15 * USD // 100,
    )


def test_openrouters_models_are_read_exactly():
    text = json.dumps({"data": [
        {"id": "a/b", "context_length": 1000, "pricing": {"prompt": "0.0000003", "completion": "0.0000011",
         "input_cache_read": "0.00000003"}, "top_provider": {"max_completion_tokens": 50}},
        {"id": "openrouter/auto", "pricing": {"prompt": "-1", "completion": "-1"}},
        {"id": "free", "pricing": {"prompt": "0", "completion": "0"}, "top_provider": None},
    ]})  # fmt: skip
    priced, free = import_prices(text)
    assert priced.price == Price(3 * USD // 10, 3 * USD // 100, 3 * USD // 10, 11 * USD // 10)
    assert (priced.context_length, priced.output_max) == (1000, 50)
    assert free.price.free


def test_a_price_that_no_binary_float_can_hold_is_kept_whole():
    text = '{"m": {"litellm_provider": "x", "mode": "chat", "input_cost_per_token": 1.23456789e-07}}'
    assert import_prices(text)[0].price.input == 123456789


def test_a_price_that_was_a_float_once_is_rounded_up_to_the_nanodollar():
    """The table as it is downloaded has rows such as this one."""
    text = '{"m": {"mode": "chat", "litellm_provider": "x", "input_cost_per_token": 2.9999900000000002e-06}}'
    (row,) = import_prices(text)
    assert row.price.input == 2_999_990_001


@pytest.mark.parametrize(("text", "words"), [
    ("[]", "no object"), ("{", "Expecting"), ('{"data": [{}]}', "with an id"),
    ('{"m": {"mode": "chat", "input_cost_per_token": "cheap"}}', "m.input_cost_per_token"),
    ('{"m": {"mode": "chat", "input_cost_per_token": NaN}}', "no number"),
    ('{"m": {"mode": "chat", "input_cost_per_token": 1e-20}}', "finer"),
    ('{"m": {"mode": "chat", "input_cost_per_token": []}}', "m.input_cost_per_token"),
    ("[" * 200_000, "nested"),
])  # fmt: skip
def test_what_can_not_be_read_is_complained_about(text, words):
    with pytest.raises(ValueError, match=words):
        import_prices(text)


def test_a_written_table_is_read_back_as_it_was():
    rows = import_prices(LITELLM)
    table = read_prices(write_prices(rows, "2026-11-22"))
    assert [replace(row, as_of="2026-11-22") for row in rows] == table.rows()
    assert table.lookup("openai", "https://api.openai.com/v1", "gpt-x") == table.rows()[0]


def test_every_shipped_row_survives_being_written():
    rows = [replace(row, note="") for row in shipped().rows()]
    assert read_prices(write_prices(rows, "2026-11-22")).rows() == rows


def test_prices_are_shown_and_imported_on_the_command_line(tmp_path, capsys):
    assert main(["prices", "show", "claude-*", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown
    assert all(row["model"].startswith("claude-") for row in shown)
    theirs, ours = tmp_path / "theirs.json", tmp_path / "prices.json"
    theirs.write_text(LITELLM)
    assert main(["prices", "import", str(theirs), "--output", str(ours)]) == 0
    assert read_prices(ours.read_text()).lookup("openai", "https://api.openai.com/v1", "gpt-x")
    theirs.write_text("[]")
    assert main(["prices", "import", str(theirs)]) == 2
