"""Shells complete our commands, and the manual page is the help: both come from the one tree."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.served import COMMAND, ROOT, environment
from tokenhub_proxy import cli, completion

WAIT_S = 30.0


def script(shell: str) -> str:
    return completion.script(shell, cli.parser())


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def ran(*command: str, folder: Path = ROOT) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def bash(folder: Path, *words: str) -> list[str]:
    """What a real bash offers for the last of these words."""
    line = shlex.join(("tokenhub-proxy", *words))
    ask = (
        f"{script('bash')}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}\n"
        'complete -p tokenhub-proxy >/dev/null && _tokenhub_proxy && printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return [word for word in ran("bash", "-c", ask, folder=folder).splitlines() if word]


def zsh(folder: Path, *words: str) -> list[str]:
    """What the function hands to zsh's own helpers, which need a terminal to show it."""
    stubs = """
    compdef() { : }
    _describe() { print -rl -- ${${(P)4:-${(P)@[-1]}}%%:*} }
    _files() { print -rl -- $PREFIX*(N) }
    _message() { : }
    compadd() { shift; print -rl -- "$@" }
    """
    ask = (
        f"setopt extendedglob; {stubs}\n{script('zsh')}\nwords=({shlex.join(('tokenhub-proxy', *words))})\n"
        f"CURRENT={len(words) + 1}; PREFIX=${{words[CURRENT]}}; _tokenhub_proxy; true"
    )
    found = ran("zsh", "-fc", ask, folder=folder).splitlines()
    return [word for word in found if word.startswith(words[-1])]


def fish(folder: Path, *words: str) -> list[str]:
    line = shlex.join(("tokenhub-proxy", *words[:-1])) + " " + words[-1]
    ask = f"{script('fish')}\ncomplete -C {shlex.quote(line)}"
    found = ran("fish", "--no-config", "-c", ask, folder=folder).splitlines()
    return [word.partition("\t")[0] for word in found]


SHELLS = [pytest.param(one, id=one.__name__, marks=needs(one.__name__)) for one in (bash, zsh, fish)]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ke"], ["keys"]),
        (["keys", "c"], ["create"]),
        (["keys", "create", "--qu"], ["--quota"]),
        (["payments", "codes", "c"], ["create"]),
        (["ledger", "v"], ["verify"]),
        (["usage", "--by", "m"], ["model"]),
        (["completion", "z"], ["zsh"]),
        (["serve", "--config", "con"], ["config.yaml"]),
        (["import", "litellm", "con"], ["config.yaml"]),
        (["keys", "create", "--quota", "2"], []),
        (["nonsense", "--x"], []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value else None,
)
def test_a_shell_offers_what_may_follow(shell, words: list[str], offered: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}\n")
    assert shell(tmp_path, *words) == offered


@needs("bash")
def test_every_command_is_offered_where_it_belongs(tmp_path: Path) -> None:
    """All places of the tree in one bash."""
    places = [place for place in completion.places(cli.parser()) if place.commands]
    asks = "\n".join(
        f"COMP_WORDS=(tokenhub-proxy {place.path} ''); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ));"
        f' _tokenhub_proxy; echo "${{COMPREPLY[*]}}"'
        for place in places
    )
    told = ran("bash", "-c", f"{script('bash')}\n{asks}", folder=tmp_path).splitlines()
    for place, line in zip(places, told, strict=True):
        assert [word.spellings[0] for word in place.commands] == line.split()[: len(place.commands)]


def test_the_command_prints_the_script() -> None:
    done = subprocess.run(
        [*COMMAND, "completion", "bash"], env=environment(), capture_output=True, check=True
    )
    assert done.stdout.decode() == script("bash")


def test_other_commands_pay_nothing_for_it() -> None:
    ask = (
        "import sys; from tokenhub_proxy import cli; cli.parser();"
        " print('tokenhub_proxy.completion' in sys.modules, 'tokenhub_proxy.importers' in sys.modules,"
        " 'tokenhub_proxy.progress' in sys.modules)"
    )
    assert ran(sys.executable, "-c", ask) == "False False False\n"


# --- what a mistake is answered with


def mistaken(*words: str) -> str:
    done = subprocess.run(
        [*COMMAND, *words], env=environment(), capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["kyes", "list"], "there is no command kyes; did you mean keys?\nTry: tokenhub-proxy --help\n"),
        (["keys", "crate"], "no command crate; did you mean create?\nTry: tokenhub-proxy keys --help\n"),
        (["keys", "create", "x", "--quotas", "5"], "there is no option --quotas here; did you mean --quota?"),
        (
            ["usage", "--by", "modle"],
            "must be one of key, model, upstream, day, not modle; did you mean model?",
        ),
        (["frobnicate"], "there is no command frobnicate; there are serve, check,"),
        (["keys"], "usage: tokenhub-proxy keys"),
        ([], "keys and money:\n"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_nearest(words: list[str], said: str) -> None:
    assert said in mistaken(*words)


def test_the_help_shows_every_command_once_in_a_group() -> None:
    told = cli.parser().format_help()
    names = [line.split()[0] for line in told.splitlines() if line.startswith("  ") and "--" not in line]
    (root, *_) = completion.places(cli.parser())
    assert sorted(names) == sorted(word.spellings[0] for word in root.commands)
    assert "\nmore:\n" not in told, "put the new command into a group of cli_parser.GROUPS"


# --- the manual page

MANUAL = ROOT / "docs/tokenhub-proxy.1"


def test_the_manual_page_is_the_help() -> None:
    assert ran(sys.executable, str(ROOT / "scripts/man_page.py")) == MANUAL.read_text(), "run scripts/docs"


@needs("mandoc")
def test_mandoc_has_no_complaint() -> None:
    assert ran("mandoc", "-T", "lint", str(MANUAL)) == ""


@needs("groff")
def test_groff_has_no_complaint_and_shows_every_command() -> None:
    told = ran("groff", "-man", "-ww", "-Tascii", "-P-cbou", str(MANUAL))
    shown = " ".join(told.split())
    for place in completion.places(cli.parser()):
        if not place.commands:
            assert place.path in shown, place.path
