"""The example, the config without a file, and a config as people read it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenhub_proxy.config import OPTIONS, ConfigError, load, load_file
from tokenhub_proxy.config.describe import describe
from tokenhub_proxy.config.embedded import PROVIDERS, embedded, embedded_text
from tokenhub_proxy.prices import Price

EXAMPLE = Path(__file__).parent.parent / "config.example.yaml"


def read(text: str, environ: dict[str, str] | None = None):
    return load(text, name="c.yaml", folder=Path(), environ=environ or {}, read_file=Path.read_text)


# --- the example --------------------------------------------------------------------------------


def test_the_example_loads_as_it_is_with_nothing_in_the_environment() -> None:
    config = load_file(EXAMPLE, {})

    assert set(config.routes) == {"claude-sonnet-4-5", "text-embedding-3-small", "llama3.2", "demo"}
    assert all("the environment variable" in warning for warning in config.warnings)


def test_the_example_with_its_variables_set_has_no_warning() -> None:
    text = EXAMPLE.read_text()
    environ = dict.fromkeys(re.findall(r"env:(\w+)", text), "sk-th-0123456789abcdef0123456789abcdef")

    assert load_file(EXAMPLE, environ).warnings == ()


@pytest.mark.parametrize("option", sorted({name for names in OPTIONS.values() for name in names}))
def test_the_example_shows_every_option(option: str) -> None:
    assert re.search(rf"(^|[\s{{#-]){option}:", EXAMPLE.read_text(), re.MULTILINE)


def test_the_example_shows_the_defaults() -> None:
    config, bare = load_file(EXAMPLE, {}), load_file(EXAMPLE.with_name("config.example.yaml"), {})
    empty = load("", name="c.yaml", folder=EXAMPLE.parent, environ={}, read_file=Path.read_text)

    for name in (
        "listen_host", "listen_port", "ledger_url", "body_max_bytes", "durability", "trusted_proxies",
        "cors_origins", "log_format",
    ):  # fmt: skip
        assert getattr(config, name) == getattr(empty, name)
    assert bare == config
    quirkless = {**config.upstreams["openai"].options}
    assert quirkless.pop("quirks") == {}
    plain = read("upstreams: {openai: {dialect: openai, api_key: env:NONE}}").upstreams["openai"]
    shown = config.upstreams["openai"]
    assert (shown.base_url, shown.timeouts, shown.connections_max, shown.proxy, shown.ca_file) == (
        plain.base_url, plain.timeouts, plain.connections_max, plain.proxy, plain.ca_file
    )  # fmt: skip
    assert (shown.headers, shown.allow_fields, quirkless) == (
        plain.headers,
        plain.allow_fields,
        plain.options,
    )
    target = config.routes["claude-sonnet-4-5"].targets[0]
    demo = config.routes["demo"].targets[0]
    assert (target.weight, target.priority) == (demo.weight, demo.priority)
    assert config.routes["claude-sonnet-4-5"].image_tokens_max == config.routes["demo"].image_tokens_max


# --- without a file -----------------------------------------------------------------------------


def test_without_keys_and_ollama_there_is_the_demo() -> None:
    config = embedded({}, None)

    assert (config.listen_host, config.listen_port, config.ledger_url) == (
        "127.0.0.1",
        8900,
        "sqlite:///tokenhub.db",
    )
    assert list(config.routes) == ["demo"]
    assert config.routes["demo"].price == Price()
    assert config.routes["demo"].targets[0].upstream.dialect == "demo"
    assert config.keys == config.warnings == ()


def test_every_provider_key_adds_its_upstream_and_models() -> None:
    for provider in PROVIDERS:
        config = embedded({provider.variable: "secret"}, None)

        assert list(config.upstreams) == ["demo", provider.name]
        assert config.upstreams[provider.name].credentials == ("secret",)
        assert list(config.routes) == ["demo", *(offer.model for offer in provider.offers)]
        assert 2 <= len(provider.offers) <= 4
        assert config.warnings == ()


def test_all_providers_together_share_no_model_name_and_none_is_free() -> None:
    config = embedded({provider.variable: "secret" for provider in PROVIDERS}, None)

    assert len(config.routes) == 1 + sum(len(provider.offers) for provider in PROVIDERS)
    assert [name for name, route in config.routes.items() if route.price.free] == ["demo"]
    assert [route.model for route in config.routes.values() if route.embeddings_only] == [
        "text-embedding-3-small"
    ]
    assert all(
        route.output_max
        for route in config.routes.values()
        if not route.price.free and not route.embeddings_only
    )


def test_an_empty_variable_adds_nothing() -> None:
    assert embedded({"OPENAI_API_KEY": ""}, None) == embedded({}, None)


def test_ollama_models_are_free_and_never_take_a_provider_s_name() -> None:
    config = embedded({"OPENAI_API_KEY": "secret"}, ["llama3.2:latest", "gpt-5.1", "demo", "llama3.2:latest"])

    assert config.routes["gpt-5.1"].targets[0].upstream.name == "openai"
    assert config.routes["demo"].targets[0].upstream.name == "demo"
    llama = config.routes["llama3.2:latest"]
    assert (llama.price, llama.targets[0].upstream.base_url) == (Price(), "http://127.0.0.1:11434/v1")


@given(st.lists(st.text(max_size=20), max_size=5))
def test_any_name_that_ollama_tells_is_served_or_left_out(names: list[str]) -> None:
    config = embedded({}, names)

    assert set(config.routes) - {"demo"} <= set(names)
    assert all(name in config.routes for name in names if name.isalnum())


def test_the_embedded_config_can_be_saved_without_a_secret_and_loads_the_same() -> None:
    environ = {provider.variable: "Canary" for provider in PROVIDERS}
    text = embedded_text(environ, ["llama3.2"])

    assert "Canary" not in text
    assert read(text, environ) == embedded(environ, ["llama3.2"])


# --- as people read it --------------------------------------------------------------------------


def test_a_config_is_described_in_tables() -> None:
    config = read(
        """
listen: "[::1]:80"
upstreams: {a: {dialect: demo}, bb: {dialect: openai, api_key: env:NONE}}
models:
  chat:
    targets: [{upstream: bb, priority: 2}, {upstream: a, model: x, weight: 3}]
    price: {input: 3.00, cached: 0.0375, output: 15}
    max_output_tokens: 8192
  embed: {targets: [{upstream: a}], price: {input: 0.02}}
  gift: {targets: [{upstream: a}], price: free}
keys:
  - {name: all, key: env:K}
  - name: some
    digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"
    models: ["chat*", gift]
    ips: ["10.0.0.0/8"]
    quota: {usd: 20.00, per: month}
    rate: {requests_per_minute: 60, tokens_per_minute: 5, concurrent: 2}
    expires: 2027-01-01
""",
        {"K": "sk-th-0123456789abcdef"},
    )

    assert (
        describe(config)
        == """\
listen  [::1]:80
ledger  sqlite:///tokenhub.db, durability full

MODEL  UPSTREAM  ITS NAME  PRIORITY  WEIGHT  INPUT  CACHED  WRITE  OUTPUT      OUTPUT MAX
chat   a         x         1         3       3.00   0.0375  3.00   15.00       8192
       bb        chat      2         1
embed  a         embed     1         1       0.02   0.02    0.02   embeddings  -
gift   a         gift      1         1       free   free    free   free        -
(prices in USD per million tokens)

KEY   ACCOUNT  MODELS      ADDRESSES   QUOTA            PER MINUTE            CONCURRENT  EXPIRES
all   default  *           any         -                -                     -           -
some  default  chat* gift  10.0.0.0/8  20.00 USD/month  60 requests 5 tokens  2           2027-01-01 00:00Z

warning: c.yaml:3:64: upstreams.bb.api_key: the environment variable NONE is not set; the upstream is without this key until it is
"""  # noqa: E501
    )


def test_an_empty_config_is_described_by_its_warning() -> None:
    assert describe(read("")).endswith("\n\nwarning: c.yaml:1:1: no models: nothing can be called\n")


def test_the_example_of_the_documentation_is_refused_in_the_promised_words() -> None:
    text = (
        "upstreams: {groq: {dialect: openai}}\n"
        "models: {llama-3.3-70b: {price: free, targets: [{upstream: groc}]}}\n"
    )  # fmt: skip

    with pytest.raises(ConfigError) as caught:
        load(text, name="config.yaml", folder=Path(), environ={}, read_file=Path.read_text)

    (complaint,) = caught.value.complaints
    assert f"config.yaml: {complaint.path}: {complaint.message}" == (
        'config.yaml: models.llama-3.3-70b.targets[0].upstream: no upstream "groc"; did you mean "groq"?'
    )
