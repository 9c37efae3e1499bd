"""No secret of a config is ever shown: not in a complaint, not in a warning, not in a repr."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenhub_proxy.config import Config, ConfigError, load
from tokenhub_proxy.config.describe import describe
from tokenhub_proxy.keys import digest

# One that looks like a key and one that looks like nothing.
LIKE_A_KEY = "sk-th-Canary0Canary1Canary2"
OPAQUE = "Zq7Canary/8fK+opaque=Canary"
EXAMPLE = (Path(__file__).parent.parent / "config.example.yaml").read_text()

FILE = f"""
listen: 127.0.0.1:8900
upstreams:
  one:
    dialect: openai
    base_url: https://one.example.com
    api_key: [{OPAQUE}, {LIKE_A_KEY}, env:VARIABLE, file:secret]
    headers:
      X-Token: {OPAQUE}
      X-Other: env:VARIABLE
    proxy: http://user:{OPAQUE.replace("/", "-")}@proxy.example.com
    max_connections: 5
  two:
    dialect: bedrock
    region: us-east-1
    access_key_id: {OPAQUE}
    secret_access_key: {OPAQUE}
    session_token: {OPAQUE}
models:
  m:
    targets: [{{upstream: one}}]
    price: {{input: 1.00}}
keys:
  - name: laptop
    key: {LIKE_A_KEY}
  - name: phone
    key: file:phone
    quota: {{usd: 1, per: day}}
"""
SECRETS = (
    LIKE_A_KEY,
    OPAQUE,
    OPAQUE.replace("/", "-"),
    "FromEnv1Canary",
    "FromFile1Canary",
    "sk-th-PhoneCanaryPhoneCanary",
)


def read(text: str) -> Config:
    return load(
        text, name="c.yaml", folder=Path(), environ={"VARIABLE": "FromEnv1Canary"}, read_file=read_file
    )


def read_file(path: Path) -> str:
    files = {"secret": "FromFile1Canary\n", "phone": "sk-th-PhoneCanaryPhoneCanary\n"}
    if str(path) not in files:
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return files[str(path)]


def shown(text: str) -> str:
    """Everything that people or logs may get to see of a config."""
    try:
        config = read(text)
    except ConfigError as error:
        return f"{error} {error!r} {error.complaints!r}"
    parts = (config, config.upstreams, config.routes, config.keys, config.warnings, describe(config))
    return " ".join(map(repr, parts))


def assert_kept(text: str) -> None:
    told = shown(text)
    for secret in SECRETS:
        assert secret not in told


def test_a_config_shows_no_secret_in_its_repr_and_holds_them_all() -> None:
    config = read(FILE)

    assert_kept(FILE)
    assert config.upstreams["one"].credentials == (OPAQUE, LIKE_A_KEY, "FromEnv1Canary", "FromFile1Canary")
    assert config.upstreams["two"].options["session_token"] == OPAQUE
    assert config.keys[0].digest == digest(LIKE_A_KEY)


PLACES = (
    "api_key",
    "proxy",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "base_url",
    "ca_file",
    "headers",
)
FORMS = (
    "{s}", '"{s}"', "' {s}'", '"{s}\\n{s}"', "[{s}]", "[[{s}]]", "{{{s}: {s}}}", "env:{s}", "file:{s}",
    "*{s}", "&{s} {s}", "!{s} {s}", "https://{s}@host", "https://host/?key={s}", "http://{s}",
    "|\n      {s}\n      {s}",
    '"{s}', "{s}: {s}", "[{s}",
)  # fmt: skip


@pytest.mark.parametrize(("place", "form"), list(itertools.product(PLACES, FORMS)))
def test_no_kind_of_mistake_shows_the_secret(place: str, form: str) -> None:
    value = form.format(s=OPAQUE)

    assert_kept(f"upstreams:\n  u:\n    dialect: bedrock\n    {place}: {value}\n    ca: x\n")
    assert_kept(f"keys:\n  - name: k\n    key: {value}\n")
    assert_kept(f"keys:\n  - name: k\n    digest: {value}\n")
    assert_kept(f"ledger: postgresql://{value}\n")


@pytest.mark.parametrize(
    "option", ["name", "account", "models", "dialect", "upstream", "listen", "per", "made_up"]
)
def test_a_key_in_the_wrong_place_is_withheld(option: str) -> None:
    assert_kept(f"keys: [{{{option}: {LIKE_A_KEY}}}]")
    assert_kept(f"upstreams: {{u: {{{option}: {LIKE_A_KEY}}}}}")
    assert_kept(f"{option}: {LIKE_A_KEY}")
    assert_kept(f"{LIKE_A_KEY}: {option}")


def test_a_line_run_into_the_next_is_withheld() -> None:
    assert_kept(f"upstreams:\n  u:\n    dialect: openai\n      api_key {OPAQUE}\n")
    assert_kept(f"models:\n  m:\n    price:\n      input: 3.00\n        {OPAQUE}\n")


LINES = FILE.strip("\n").split("\n")
JUNK = st.sampled_from(
    [
        "",
        "~",
        "[]",
        "{}",
        "-",
        ": ",
        "\t",
        "'",
        '"',
        "*a",
        "&a",
        "!!int",
        "---",
        "{",
        "}",
        "[",
        "null",
        "-1",
        "1e9",
        "é",
        "\x00",
    ]
)


@st.composite
def mutilated(draw: st.DrawFn) -> str:
    """The file with lines dropped, doubled, moved, re-indented, or with junk in place of harmless values."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 6))):
        index = draw(st.integers(0, len(lines) - 1))
        line = lines[index]
        how = draw(st.sampled_from(["drop", "double", "move", "indent", "junk", "insert", "glue"]))
        if how == "drop" and len(lines) > 1:
            del lines[index]
        elif how == "double":
            lines.insert(index, line)
        elif how == "move":
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(index))
        elif how == "indent":
            lines[index] = " " * draw(st.integers(0, 8)) + line.lstrip()
        elif how == "junk" and "Canary" not in line:
            lines[index] = line.split(":")[0] + ": " + draw(JUNK)
        elif how == "insert":
            lines.insert(index, " " * draw(st.integers(0, 6)) + draw(JUNK))
        elif how == "glue" and index + 1 < len(lines):
            lines[index : index + 2] = [line + " " + lines[index + 1].lstrip()]
    return "\n".join(lines)


@given(mutilated())
def test_a_mutilated_file_never_raises_anything_else_and_never_shows_a_secret(text: str) -> None:
    assert_kept(text)


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(EXAMPLE) - 1),
            st.integers(0, 12),
            st.text("{}[]:-,'\"*&!#|> \n\tab01~", max_size=4),
        ),
        min_size=1,
        max_size=5,
    )
)
@example([(0, len(EXAMPLE), "")])
def test_an_example_cut_and_pasted_at_random_never_raises_anything_else(
    cuts: list[tuple[int, int, str]],
) -> None:
    text = EXAMPLE
    for at, length, inserted in cuts:
        text = text[:at] + inserted + text[at + length :]

    try:
        told = describe(read(text))
    except ConfigError as error:
        told = str(error)

    assert told
