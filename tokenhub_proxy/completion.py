"""Completion scripts for bash, zsh and fish, written from the tree of commands."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

# What an option or an argument takes by the word that stands for it: names of files, or of folders.
_FILES = frozenset({"FILE", "PATH"})
_FOLDERS = frozenset({"DIR"})


@dataclass(frozen=True, slots=True)
class Word:
    """A word that may follow: its spellings, its help, and what its value is: "" for none."""

    spellings: tuple[str, ...]
    help: str
    value: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """A place of the tree: its path such as "keys create", and what may follow there."""

    path: str
    commands: tuple[Word, ...]
    options: tuple[Word, ...]
    arguments: tuple[Word, ...]


def script(shell: str, tree: argparse.ArgumentParser) -> str:
    """The script of a shell: bash, zsh or fish."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](list(places(tree)))


def places(tree: argparse.ArgumentParser, path: str = "") -> Iterator[Command]:
    """Every command of the tree, from its root."""
    groups = [one for one in tree._actions if isinstance(one, argparse._SubParsersAction)]
    told = {one.dest: one.help or "" for group in groups for one in group._choices_actions}
    names = [(name, child) for group in groups for name, child in group.choices.items()]
    rest = [one for one in tree._actions if one not in groups]
    yield Command(
        path,
        tuple(Word((name,), told.get(name, "")) for name, _ in names),
        tuple(_word(one) for one in rest if one.option_strings),
        tuple(_word(one) for one in rest if not one.option_strings),
    )
    for name, child in names:
        yield from places(child, f"{path} {name}".strip())


def _word(action: argparse.Action) -> Word:
    value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    choices = tuple(map(str, action.choices or ()))
    told = "show the help" if action.dest == "help" else (action.help or "")
    return Word(tuple(action.option_strings), told, value, choices)


def _kind(word: Word) -> str:
    """How a value is completed: by names of files, of folders, by choices, or not at all."""
    if word.choices:
        return "choices"
    return "files" if word.value in _FILES else "folders" if word.value in _FOLDERS else "none"


def _valued(places: list[Command]) -> dict[str, Word]:
    """Every option that takes a value, by its spelling; the same one means the same everywhere."""
    return {
        spelling: word
        for place in places
        for word in place.options
        if word.value
        for spelling in word.spellings
    }


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# --- bash


def _bash(places: list[Command]) -> str:
    known = "|".join(_quoted(place.path) for place in places if place.path)
    lines = [
        "# bash completion for tokenhub-proxy: source it, or put it where bash-completion looks.",
        "_tokenhub_proxy() {",
        "    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}",
        "    local path='' word offered",
        '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        '        case "${path:+$path }$word" in',
        f"            {known}) path=${{path:+$path }}$word ;;",
        "        esac",
        "    done",
        "    compopt +o default 2>/dev/null",
        "    COMPREPLY=()",
        '    case "$before" in',
    ]
    for spelling, word in _valued(places).items():
        lines.append(f"        {spelling}) {_bash_value(word)}; return ;;")
    lines += ["    esac", '    case "$path" in']
    for place in places:
        words = [*place.commands, *place.options]
        offered = " ".join(spelling for word in words for spelling in word.spellings)
        positional = next((word for word in place.arguments if _kind(word) != "none"), None)
        lines.append(f"        {_quoted(place.path)})")
        if positional is not None:
            lines.append(f'            [[ "$current" != -* ]] && {{ {_bash_value(positional)}; return; }}')
        lines += [f"            offered={_quoted(offered)} ;;"]
    return "\n".join(
        [
            *lines,
            "    esac",
            '    mapfile -t COMPREPLY < <(compgen -W "$offered" -- "$current")',
            "}",
            "complete -F _tokenhub_proxy tokenhub-proxy",
            "",
        ]
    )


def _bash_value(word: Word) -> str:
    generate = {
        "choices": f"-W {_quoted(' '.join(word.choices))}",
        "files": "-f",
        "folders": "-d",
    }.get(_kind(word))
    if generate is None:
        return ":"
    names = "compopt -o filenames 2>/dev/null; " if _kind(word) != "choices" else ""
    return f'{names}mapfile -t COMPREPLY < <(compgen {generate} -- "$current")'


# --- zsh


def _zsh(places: list[Command]) -> str:
    known = "|".join(_quoted(place.path) for place in places if place.path)
    lines = [
        "#compdef tokenhub-proxy",
        "# zsh completion for tokenhub-proxy: a file named _tokenhub-proxy in a folder of $fpath.",
        "_tokenhub_proxy() {",
        "    local place='' word",
        "    local -a offered options",
        "    for word in ${words[2,CURRENT-1]}; do",
        '        case "${place:+$place }$word" in',
        f"            ({known}) place=${{place:+$place }}$word ;;",
        "        esac",
        "    done",
        "    case ${words[CURRENT-1]} in",
    ]
    for spelling, word in _valued(places).items():
        lines.append(f"        ({spelling}) {_zsh_value(word)}; return ;;")
    lines += ["    esac", "    case $place in"]
    for place in places:
        lines.append(f"        ({_quoted(place.path)})")
        lines.append(f"            offered=({' '.join(map(_zsh_word, place.commands))})")
        options = (
            _zsh_word(Word((spelling,), word.help)) for word in place.options for spelling in word.spellings
        )
        lines.append(f"            options=({' '.join(options)})")
        for word in place.arguments:
            if _kind(word) != "none":
                lines.append(f"            [[ $PREFIX != -* ]] && {_zsh_value(word)}")
        lines.append("            ;;")
    lines += [
        "    esac",
        "    (( $#offered )) && _describe -t commands command offered",
        "    [[ $PREFIX == -* || $#offered -eq 0 ]] && _describe -t options option options",
        "}",
        # As an autoloaded file it is called at once; sourced, it is registered.
        'if [[ ${funcstack[1]} == _tokenhub-proxy ]]; then _tokenhub_proxy "$@"',
        "else compdef _tokenhub_proxy tokenhub-proxy; fi",
        "",
    ]
    return "\n".join(lines)


def _zsh_word(word: Word) -> str:
    return _quoted(f"{word.spellings[0]}:{word.help}".replace("\\", "\\\\"))


def _zsh_value(word: Word) -> str:
    if word.choices:
        return f"compadd -- {' '.join(map(_quoted, word.choices))}"
    return {"files": "_files", "folders": "_files -/"}.get(_kind(word), "_message value")


# --- fish


def _fish(places: list[Command]) -> str:
    known = " ".join(_quoted(place.path) for place in places if place.path)
    lines = [
        "# fish completion for tokenhub-proxy: ~/.config/fish/completions/tokenhub-proxy.fish",
        "function __tokenhub_proxy_at",
        "    set -l place ''",
        f"    set -l known {known}",
        "    for word in (commandline -opc)[2..]",
        '        set -l longer (string trim -- "$place $word")',
        '        contains -- "$longer" $known; and set place "$longer"',
        "    end",
        '    test "$place" = "$argv[1]"',
        "end",
        "complete -c tokenhub-proxy -f",
    ]
    for place in places:
        here = f'complete -c tokenhub-proxy -n "__tokenhub_proxy_at {_quoted(place.path)}"'
        for word in place.commands:
            lines.append(f"{here} -a {word.spellings[0]} -d {_fish_quoted(word.help)}")
        for word in place.options:
            spelled = " ".join(
                f"-{'l' if each[:2] == '--' else 's'} {each.lstrip('-')}" for each in word.spellings
            )
            lines.append(f"{here} {spelled}{_fish_value(word)} -d {_fish_quoted(word.help)}")
        if any(_kind(word) == "files" for word in place.arguments):
            lines.append(f"{here} -F")
        for word in place.arguments:
            if word.choices:
                lines.append(f"{here} -a {_fish_quoted(' '.join(word.choices))}")
    return "\n".join([*lines, ""])


def _fish_value(word: Word) -> str:
    if not word.value:
        return ""
    if word.choices:
        return f" -x -a {_fish_quoted(' '.join(word.choices))}"
    return {"files": " -r -F", "folders": " -x -a '(__fish_complete_directories)'"}.get(_kind(word), " -x")


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
