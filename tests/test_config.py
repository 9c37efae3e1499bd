"""The config's rules: what is understood, and the exact words for what is not."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tokenhub_proxy.config import OPTIONS, Config, ConfigError, load, load_file, nearest, nodes, values
from tokenhub_proxy.keys import Networks, Scope, digest
from tokenhub_proxy.ledger import Account
from tokenhub_proxy.pricelist import Listed
from tokenhub_proxy.prices import NANOS_MAX, Price, parse_usd
from tokenhub_proxy.routes import Timeouts

SECRET = "sk-th-" + "x" * 16
EXAMPLE = Path(__file__).parent.parent / "config.example.yaml"
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def read(
    text: str, environ: dict[str, str] | None = None, files: dict[str, str] | None = None, **more
) -> Config:
    def read_file(path: Path) -> str:
        if str(path) not in (files or {}):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return files[str(path)]

    return load(text, name="c.yaml", folder=Path("etc"), environ=environ or {}, read_file=read_file, **more)


def complaints(text: str, **more) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, **more)
    return str(caught.value).split("\n")


def upstream(options: str) -> str:
    return f"upstreams: {{u: {{dialect: openai, {options}}}}}"


DEMO = "upstreams: {u: {dialect: demo}}"


def model(options: str) -> str:
    return f"models: {{m: {{targets: [{{upstream: u}}], price: free, {options}}}}}\n{DEMO}"


def priced(price: str) -> str:
    return (
        f"models: {{m: {{price: {price}, targets: [{{upstream: u}}]}}}}\nupstreams: {{u: {{dialect: demo}}}}"
    )


def key(options: str) -> str:
    return f"keys: [{{name: k, key: env:K, {options}}}]"


# --- what is understood ----------------------------------------------------------------------


def test_an_empty_file_is_all_defaults_and_says_that_it_serves_nothing() -> None:
    config = read("")

    assert config == Config(
        listen_host="127.0.0.1",
        listen_port=8900,
        ledger_url="sqlite:///etc/tokenhub.db",
        body_max_bytes=32 * 2**20,
        durability="full",
        trusted_proxies=Networks([]),
        upstreams={},
        routes={},
        accounts=(Account("default", unlimited=True),),
        keys=(),
        cors_origins=("*",),
        log_format="auto",
        warnings=("c.yaml:1:1: no models: nothing can be called",),
    )


@pytest.mark.parametrize(
    "text", ["# nothing\n", "---\n", "models: {}", "upstreams:\nmodels:\nkeys:\n", "\ufeff"]
)
def test_nothing_said_is_the_same_as_an_empty_file(text: str) -> None:
    assert replace(read(text), warnings=()) == replace(read(""), warnings=())


def test_a_whole_file_becomes_our_types() -> None:
    config = read(
        """
listen: "[::1]:0"
ledger: sqlite:////var/books.db
max_body_mib: 1
durability: process
trusted_proxies: [10.0.0.0/8, "::1"]
cors_origins: [https://app.example.com]
log: {format: json}
upstreams:
  claude:
    dialect: anthropic
    base_url: https://gate.example.com/v1/
    api_key: [env:A, "literal-key", file:key.txt]
    headers: {X-Team: env:TEAM, X-Plain: "two words"}
    timeouts: {connect: 2.5, total: 60}
    max_connections: 7
    proxy: http://user:word@proxy:3128
    ca_file: ca.pem
    allow_fields: [provider]
    quirks: {thinking: adaptive, json_schema: true}
  aws: {dialect: bedrock, region: eu-west-1, access_key_id: env:A, secret_access_key: file:/abs/key}
models:
  m:
    description: the one
    targets:
      - {upstream: claude, model: claude-x, weight: 3, priority: 2}
      - {upstream: aws}
    price: {input: 3.00, cached: "0.30", cache_write: 0.0375, output: 20}
    context_length: 1000
    max_output_tokens: 100
    image_tokens_max: 50
    defaults: {temperature: 0.5, stop: ["a"], seed: 7, user: "7", logprobs: false, top_p: null}
accounts: {main: {balance: prepaid}, open: {balance: unlimited}, bare: }
keys:
  - name: laptop
    key: env:K
    account: main
    models: ["m*"]
    ips: [127.0.0.0/8]
    quota: {usd: 20.00, per: month}
    rate: {requests_per_minute: 60, tokens_per_minute: 2000, concurrent: 2}
    expires: 2027-01-01
    test: true
""",
        environ={"A": "secret-a", "TEAM": "red", "K": SECRET},
        files={"etc/key.txt": "from-file\n", "/abs/key": "aws\r\n", "etc/ca.pem": PEM},
    )

    assert (config.listen_host, config.listen_port) == ("::1", 0)
    assert config.ledger_url == "sqlite:////var/books.db"
    assert (config.body_max_bytes, config.durability, config.log_format) == (2**20, "process", "json")
    assert config.trusted_proxies == Networks(["10.0.0.0/8", "::1"])
    assert config.cors_origins == ("https://app.example.com",)
    claude, aws = config.upstreams["claude"], config.upstreams["aws"]
    assert claude.base_url == "https://gate.example.com/v1"
    assert claude.credentials == ("secret-a", "literal-key", "from-file")
    assert claude.headers == (("X-Team", "red"), ("X-Plain", "two words"))
    assert claude.timeouts == Timeouts(connect_s=2.5, total_s=60.0)
    assert (claude.connections_max, claude.proxy) == (7, "http://user:word@proxy:3128")
    assert (claude.ca_file, claude.allow_fields) == ("etc/ca.pem", frozenset({"provider"}))
    assert claude.options == {"quirks": {"thinking": "adaptive", "json_schema": True}}
    assert aws.base_url == "https://bedrock-runtime.eu-west-1.amazonaws.com"
    assert aws.options == {"region": "eu-west-1", "access_key_id": "secret-a", "secret_access_key": "aws"}
    route = config.routes["m"]
    assert route.price == Price(3 * 10**9, 3 * 10**8, 37_500_000, 20 * 10**9)
    assert (route.context_length, route.output_max, route.image_tokens_max) == (1000, 100, 50)
    assert not route.embeddings_only
    assert route.description == "the one"
    assert route.defaults == {
        "temperature": 0.5, "stop": ["a"], "seed": 7, "user": "7", "logprobs": False, "top_p": None
    }  # fmt: skip
    assert [(t.upstream.name, t.model, t.weight, t.priority) for t in route.targets] == [
        ("claude", "claude-x", 3, 2),
        ("aws", "m", 1, 1),
    ]
    assert config.accounts == (
        Account("default", unlimited=True), Account("main"), Account("open", unlimited=True), Account("bare")
    )  # fmt: skip
    (laptop,) = config.keys
    assert (laptop.id, laptop.name, laptop.account, laptop.from_config) == (
        "config:laptop",
        "laptop",
        "main",
        True,
    )
    assert laptop.digest == digest(SECRET)
    assert laptop.scope == Scope(
        models=("m*",),
        ips=("127.0.0.0/8",),
        quota_nanos=20 * 10**9,
        quota_per="month",
        requests_per_minute=60,
        tokens_per_minute=2000,
        concurrent=2,
        expires_at=1798761600.0,
        test=True,
    )
    assert config.warnings == ()
    assert config.places["models.m.targets[1].upstream"] == (27, 20)


def test_a_missing_cache_price_is_the_input_price() -> None:
    assert read(priced("{input: 2, output: 8}")).routes["m"].price == Price(
        2 * 10**9, 2 * 10**9, 2 * 10**9, 8 * 10**9
    )


def test_a_cache_price_of_zero_stays_zero() -> None:
    assert read(priced("{input: 2, cached: 0, output: 8}")).routes["m"].price.cached == 0


def test_a_model_without_an_output_price_serves_embeddings_only() -> None:
    assert read(priced("{input: 0.02}")).routes["m"].embeddings_only


def test_a_free_model_costs_nothing_and_writes() -> None:
    route = read(priced("free")).routes["m"]

    assert route.price == Price()
    assert not route.embeddings_only


def test_prices_of_zero_are_warned_about() -> None:
    assert read(priced("{input: 0, output: 0.00}")).warnings == (
        "c.yaml:1:21: models.m.price: costs nothing; if that is meant, say price: free",
    )


UNPRICED = """
upstreams: {a: {dialect: openai}, b: {dialect: demo}}
models: {m: {targets: [{upstream: a, model: x}, {upstream: b, model: y}]}}
"""


def row(price: Price, context_length: int | None = None, output_max: int | None = None) -> Listed:
    return Listed("p", "m", price, context_length, output_max)


def test_a_price_list_serves_models_without_a_price_by_the_dearest_target_and_the_least_limit() -> None:
    rows = {"x": row(Price(1, 9, 3, 4), 100, 20), "y": row(Price(5, 2, 3, 1), 80, None)}

    route = read(UNPRICED, price_for=lambda upstream, model: rows[model]).routes["m"]

    assert route.price == Price(5, 9, 3, 4)
    assert (route.context_length, route.output_max, route.embeddings_only) == (80, None, False)


def test_a_listed_model_without_an_output_price_serves_embeddings_only() -> None:
    route = read(UNPRICED, price_for=lambda upstream, model: row(Price(5, 5, 5))).routes["m"]

    assert route.embeddings_only


PRICES = '{"prices": {"openai": {"x": {"input": "1.00", "output": "2.00"}}}}'


def test_the_operators_own_table_goes_before_the_one_that_ships() -> None:
    text = (
        "prices: mine.json\nupstreams: {a: {dialect: openai}}\n"
        "models: {x: {targets: [{upstream: a}]}, y: {targets: [{upstream: a}]}}"
    )

    routes = read(text, files={"etc/mine.json": PRICES}, price_for=lambda *_: row(Price(7, 7, 7, 7))).routes

    assert routes["x"].price == Price(10**9, 10**9, 10**9, 2 * 10**9)
    assert routes["y"].price == Price(7, 7, 7, 7)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"prices": {"openai": {"x": {"input": "-1"}}}}'])
def test_a_damaged_price_table_is_complained_about_where_it_is_named(content: str) -> None:
    found = complaints("prices: mine.json", files={"etc/mine.json": content})

    assert len(found) == 1
    assert found[0].startswith("c.yaml:1:9: prices: ")


def test_a_price_list_that_knows_only_some_targets_is_no_price() -> None:
    found = complaints(
        UNPRICED, price_for=lambda upstream, _: row(Price(1, 1, 1, 1)) if upstream.name == "b" else None
    )

    assert found == [
        "c.yaml:3:13: models.m.price: missing; a model without a price is refused "
        "(a free one says so: price: free)"
    ]


@given(st.decimals(0, NANOS_MAX // 10**9, places=9))
def test_every_price_is_read_to_the_nanodollar(amount: Decimal) -> None:
    text = f"{amount:f}"

    assert read(priced(f"{{input: {text}, output: '{text}'}}")).routes["m"].price == Price(
        *[int(amount.scaleb(9))] * 4
    )
    assert parse_usd(text) == int(amount.scaleb(9))


def test_the_same_text_gives_an_equal_config_and_another_text_another() -> None:
    text = f"trusted_proxies: [10.0.0.0/8]\nkeys: [{{name: k, key: {SECRET}}}]\n" + model("context_length: 5")

    assert read(text) == read(text)
    assert read(text) != read(text.replace("10.0.0.0", "11.0.0.0"))
    assert read(text) != read(text.replace("context_length: 5", "context_length: 6"))


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2027-01-01", 1798761600.0),
        ("2027-01-01T12:00:00Z", 1798761600.0 + 43200),
        ('"2027-01-01 12:00:00.5+03:00"', 1798761600.0 + 32400.5),
    ],
)
def test_a_key_expires_at_a_date_or_time(text: str, at: float) -> None:
    (laptop,) = read(key(f"expires: {text}"), environ={"K": SECRET}).keys

    assert laptop.scope.expires_at == at


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:8900", ("127.0.0.1", 8900)),
        ("[::1]:80", ("::1", 80)),
        (":8900", ("0.0.0.0", 8900)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_an_address_to_listen_on(text: str, place: tuple[str, int]) -> None:
    assert values.listen(text) == place


def test_an_absolute_ledger_path_is_not_moved_into_the_folder() -> None:
    assert values.ledger("sqlite:////a/b.db", Path("etc")) == "sqlite:////a/b.db"
    assert values.ledger("sqlite:///b.db", Path("/etc/th")) == "sqlite:////etc/th/b.db"


def test_a_version_that_yaml_takes_for_a_date_stays_as_it_is_written() -> None:
    text = "upstreams: {a: {dialect: azure, base_url: https://a.b, api_key: k, api_version: 2024-10-21}}"

    assert read(text).upstreams["a"].options == {"api_version": "2024-10-21"}


# --- what is not ------------------------------------------------------------------------------

MISTAKES = (Path(__file__).parent / "config_mistakes.txt").read_text().split("\n\n")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_has_one_complaint_with_its_place(mistake: str) -> None:
    """In the table, a ^ stands where the complaint must point to."""
    marked, complaint = mistake.strip().split("\n=> ")
    before, text = marked.split("^")[0], marked.replace("^", "", 1)
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    files = {"etc/empty": " \n", "etc/note": "hello"}

    found = complaints(text, environ={"K": SECRET, "L": SECRET + "y"}, files=files)

    assert found == [f"c.yaml:{line}:{column}: {complaint}"]


SECTIONS = {
    "": "%s",
    "log": "log: {%s}",
    "streams": "streams: {%s}",
    "shutdown": "shutdown: {%s}",
    "dashboard": "dashboard: {%s}",
    "upstreams": "upstreams: {u: {%s}}",
    "timeouts": "upstreams: {u: {timeouts: {%s}}}",
    "models": "models: {m: {%s}}",
    "targets": "models: {m: {targets: [{%s}]}}",
    "price": "models: {m: {price: {%s}}}",
    "accounts": "accounts: {a: {%s}}",
    "keys": "keys: [{%s}]",
    "quota": "keys: [{quota: {%s}}]",
    "rate": "keys: [{rate: {%s}}]",
    "payments": "payments: {%s}",
    "rate_rub": "payments: {rate: {%s}}",
    "yookassa": "payments: {yookassa: {%s}}",
    "receipt": "payments: {yookassa: {receipt: {%s}}}",
    "cryptopay": "payments: {cryptopay: {%s}}",
    "tron": "payments: {tron: {%s}}",
    "operator": "payments: {operator: {%s}}",
    "traces": "traces: {%s}",
}
EVERY_OPTION = [(section, option) for section, options in OPTIONS.items() for option in options]


@pytest.mark.parametrize(("section", "option"), EVERY_OPTION)
def test_every_option_misspelt_is_found(section: str, option: str) -> None:
    found = complaints(SECTIONS[section] % f"{option}x: 1")

    assert any(line.endswith(f'{option}x: unknown option; did you mean "{option}"?') for line in found)


@pytest.mark.parametrize(("section", "option"), EVERY_OPTION)
def test_every_option_refuses_a_value_of_the_wrong_type(section: str, option: str) -> None:
    found = complaints(SECTIONS[section] % f"{option}: [[[]]]")

    assert any(
        re.search(rf"[ .]{option}(\[0\])?: must be (text|a mapping), not a list$", line) for line in found
    )


def test_what_is_said_of_bodies_streams_and_the_end_is_understood() -> None:
    config = read(
        "body_encodings: [gzip, deflate]\nstreams: {keep_alive: 0.5}\nshutdown: {pre_stop: 5, drain: 0}"
    )
    assert (config.body_codings, config.keep_alive_s) == (("gzip", "deflate"), 0.5)
    assert (config.pre_stop_s, config.drain_s) == (5.0, 0.0)

    defaults = read("")
    assert (defaults.body_codings, defaults.keep_alive_s) == ((), None)
    assert (defaults.pre_stop_s, defaults.drain_s) == (0.0, 30.0)


def test_all_complaints_come_at_once_in_the_order_of_the_file() -> None:
    found = complaints(
        """
keys: [{name: a, key: sk-th-short, ips: [nowhere]}]
listen: nowhere
models:
  m: {targets: [{upstream: groc}], price: {input: -1}}
upstreams:
  groq: {dialect: openai, api_version: "a b"}
listen: nowhere
"""
    )

    assert found == [
        "c.yaml:2:23: keys[0].key: a key begins with sk-th- and has 16 characters more at least, "
        "256 in all at most",
        "c.yaml:2:42: keys[0].ips[0]: 'nowhere' is not an IP address or CIDR range",
        'c.yaml:3:9: listen: must be HOST:PORT such as 127.0.0.1:8900, not "nowhere"',
        'c.yaml:5:28: models.m.targets[0].upstream: no upstream "groc"; did you mean "groq"?',
        "c.yaml:5:51: models.m.price.input: '-1' is negative",
        "c.yaml:7:40: upstreams.groq.api_version: must be one word of letters, digits and . _ : / -, "
        "not (a text of 3 characters)",
        "c.yaml:7:40: upstreams.groq.api_version: only the dialect azure takes it, not openai",
        "c.yaml:8:1: listen: is given twice; the first one is in line 3",
    ]


def test_a_broken_upstream_is_not_reported_again_by_its_models() -> None:
    found = complaints(priced("free").replace("dialect: demo", "dialect: dmo"))

    assert [line.split(": ")[1] for line in found] == ["upstreams.u.dialect"]


def test_a_flood_of_complaints_is_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        read("\n".join(f"wrong_{number}: 1" for number in range(5000)))

    assert len(caught.value.complaints) == nodes.COMPLAINTS_MAX


def test_a_control_character_is_no_yaml() -> None:
    assert complaints("listen: :1\nledger: 'a\x07'") == ["c.yaml:2:11: not YAML: a control character"]


def test_a_file_of_megabytes_is_refused_unread() -> None:
    assert complaints("#" * (nodes.LENGTH_MAX + 1)) == ["c.yaml: is longer than 1048576 characters"]


def test_laughs_by_the_billion_are_refused_where_they_stand() -> None:
    text = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )

    assert "c.yaml:2:8: b[0]: aliases are not taken; write the value out" in complaints(text)


@pytest.mark.parametrize("nested", ["[" * 100_000, "{a: " * 100_000, "- " * 5_000])
def test_nesting_without_end_is_a_complaint(nested: str) -> None:
    (found,) = complaints(f"upstreams: {nested}" if nested[0] != "-" else nested)

    # Newer versions of libyaml have a limit of their own.
    limit = "not YAML: exceeded maximum nesting depth"
    assert found.endswith(("is nested deeper than 40 levels", "a list")) or limit in found


@pytest.mark.parametrize(
    "text", ["a: [1, 2", "a: 'x", "a: @x", 'a: "\\q"', "!x!y z", "a:\n\t- b", "%YAML 9.9\n---\na: 1"]
)
def test_both_yaml_parsers_lead_to_a_complaint(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for loader in (getattr(yaml, "CSafeLoader", yaml.SafeLoader), yaml.SafeLoader):
        monkeypatch.setattr(nodes, "_LOADER", loader)
        (found,) = complaints(text)
        assert ": not YAML: " in found


def test_both_yaml_parsers_make_the_same_config(monkeypatch: pytest.MonkeyPatch) -> None:
    text = EXAMPLE.read_text()
    first = read(text)
    monkeypatch.setattr(nodes, "_LOADER", yaml.SafeLoader)

    assert read(text) == first
    assert read(text).places == first.places


# --- warnings -----------------------------------------------------------------------------------


def test_a_variable_that_is_not_set_is_a_warning_and_the_rest_works() -> None:
    config = read(
        "upstreams: {u: {dialect: openai, api_key: [env:A, env:B], headers: {X: env:C, Y: d}}}\n"
        "models: {m: {targets: [{upstream: u}], price: free}}\n"
        "keys: [{name: a, key: env:D}, {name: b, key: env:E}]",
        environ={"B": "second", "D": "", "E": SECRET},
    )

    assert config.upstreams["u"].credentials == ("second",)
    assert config.upstreams["u"].headers == (("Y", "d"),)
    assert [key.name for key in config.keys] == ["b"]
    assert config.warnings == (
        "c.yaml:1:44: upstreams.u.api_key[0]: the environment variable A is not set; "
        "the upstream is without this key until it is",
        "c.yaml:1:72: upstreams.u.headers.X: the environment variable C is not set; "
        "the header is left out until it is",
        "c.yaml:3:23: keys[0].key: the environment variable D is not set; the key is left out until it is",
    )


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("short", "a key begins with sk-th- and has 16 characters more at least, 256 in all at most"),
        (f"{SECRET} {SECRET}", "a key has no spaces"),
        (
            f"{SECRET}\n",
            "the secret holds a line break, a space at its end, or a character that no header takes",
        ),
        ("x" * (values.CREDENTIAL_LENGTH_MAX + 1), "the secret is longer than 16384 characters"),
    ],
)
def test_a_variable_that_holds_no_key_is_a_complaint(value: str, complaint: str) -> None:
    found = complaints("keys: [{name: k, key: env:K}]", environ={"K": value})

    assert found == [f"c.yaml:1:23: keys[0].key: in the environment variable K: {complaint}"]


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            f"keys: [{{name: k, key: {SECRET}}}]",
            "c.yaml:1:23: keys[0].key: the secret stands in the file; env:, file: or digest keep it out",
        ),
        (
            key("models: [n]")
            + "\nmodels: {m: {targets: [{upstream: u}], price: free}}\nupstreams: {u: {dialect: demo}}",
            "c.yaml:1:39: keys[0].models[0]: matches no model; there is m",
        ),
        (
            "upstreams: {u: {dialect: gemini}}",
            "c.yaml:1:16: upstreams.u: no api_key: a gemini upstream refuses calls without one",
        ),
        (
            "upstreams: {u: {dialect: bedrock, region: r}}",
            "c.yaml:1:16: upstreams.u: no api_key: a bedrock upstream refuses calls without one",
        ),
    ],
)
def test_what_may_be_a_slip_is_warned_about(text: str, warning: str) -> None:
    assert warning in read(text, environ={"K": SECRET}).warnings


def test_an_upstream_that_needs_no_key_is_not_warned_about() -> None:
    assert read(priced("free").replace("demo", "openai")).warnings == ()


# --- files and names ----------------------------------------------------------------------------


def test_a_file_is_loaded_with_its_folder_and_its_name(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET + "\n")
    path = tmp_path / "my.yaml"
    path.write_bytes(b"\xef\xbb\xbfkeys: [{name: k, key: file:key}]\nledger: sqlite:///books/t.db\n")

    config = load_file(path, {})

    assert config.keys[0].digest == digest(SECRET)
    assert config.ledger_url == f"sqlite:///{tmp_path}/books/t.db"
    assert config.warnings == (f"{path}:1:1: no models: nothing can be called",)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "can't be read: No such file or directory"),
        (b"listen: \xff", "can't be read: it is no text in UTF-8"),
        (b"#" * (nodes.LENGTH_MAX + 1), "is longer than 1048576 characters"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_complaint(
    tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    path = tmp_path / "my.yaml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        load_file(path, {})

    assert str(caught.value) == f"{path}: {complaint}"


def test_a_secret_file_that_is_no_text_is_a_complaint(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    (tmp_path / "c.yaml").write_text("keys: [{name: k, key: file:key}]")

    with pytest.raises(ConfigError, match="the file can't be read: it is no text in UTF-8"):
        load_file(tmp_path / "c.yaml", {})


def test_the_nearest_name_ignores_case_and_is_none_where_nothing_is_near() -> None:
    assert nearest("OpenAI", ["openai", "azure"]) == "openai"
    assert nearest("groc", ["groq", "openai"]) == "groq"
    assert nearest("zzz", ["groq"]) is None
    assert nearest("x" * 10**6, ["groq"]) is None
