"""Completion as the shells do it: each script runs in its shell, with a `bursar` that answers at once."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.shell_completion import CompletionItem

from bursar.cli import shells

ROOT = Path(__file__).parents[2]
SCRIPTS = {"bash": "bursar.bash", "zsh": "_bursar", "fish": "bursar.fish"}
ITEMS = {
    "ls --state pending,ru": [CompletionItem("pending,running")],
    "ls --state=pen": [CompletionItem("pending")],
    "show sw": [
        CompletionItem("sweep", help="job 12 RUNNING"),
        CompletionItem("swap:2", help="job 3 FAILED"),
    ],
    "submit t": [CompletionItem("t", type="file")],
    "up --state-dir=f": [CompletionItem("f", type="dir")],
}
"""What stands behind the program's name, and what is offered for the last word of it."""
EXPECTED = {
    "ls --state pending,ru": ["pending,running"],
    "ls --state=pen": ["--state=pending"],
    "show sw": ["swap:2", "sweep"],
    "submit t": ["train.yaml"],
    "up --state-dir=f": ["--state-dir=folder/"],
}


def classes() -> dict[str, type[shells.ShellComplete]]:
    return {"bash": shells._Bash, "zsh": shells._Zsh, "fish": shells._Fish}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of somebody who types: a file, a folder, and a `bursar` that answers what is in a file."""
    (tmp_path / "train.yaml").touch()
    (tmp_path / "folder").mkdir()
    program = tmp_path / "bin/bursar"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\ncat "$ANSWER"\n')
    program.chmod(0o755)
    return tmp_path


def answered(shell: str, typed: str, folder: Path) -> dict[str, str]:
    """The environment in which `bursar` offers what there is for the words that are typed."""
    form = classes()[shell].format_completion
    made = classes()[shell](None, {}, "bursar", "_BURSAR_COMPLETE")  # type: ignore[arg-type]
    (folder / "answer").write_text("".join(form(made, item) + "\n" for item in ITEMS[typed]))
    return {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder), "TERM": "dumb",
        "ANSWER": str(folder / "answer"), "SCRIPT": str(ROOT / "packaging/completions" / SCRIPTS[shell]),
    }  # fmt: skip


def tried(command: list[str], environ: dict[str, str], folder: Path) -> list[str]:
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return sorted(line.split("\t")[0] for line in done.stdout.splitlines() if line)


def wanting(shell: str) -> str:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"no {shell} on this machine: its completion is NOT tried")
    return found


@pytest.mark.parametrize("typed", EXPECTED)
def test_fish_offers_whole_words(typed: str, folder: Path) -> None:
    command = [wanting("fish"), "--no-config", "-c", 'source $SCRIPT; complete -C "bursar $TYPED"']
    environ = answered("fish", typed, folder) | {"TYPED": typed}
    assert tried(command, environ, folder) == EXPECTED[typed]


BASH = """
source "$SCRIPT"
COMP_WORDS=(bursar "$@"); COMP_CWORD=$#
compopt() { compgen -f -- "${COMP_WORDS[COMP_CWORD]}"; }
_bursar_completion bursar
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""As readline does; `compopt` works in a completion alone, and here offers what readline would."""


@pytest.mark.parametrize("typed", EXPECTED)
def test_bash_offers_what_stands_behind_its_last_break(typed: str, folder: Path) -> None:
    words = typed.replace("=", " = ").split(" ")  # as COMP_WORDBREAKS has it
    environ = answered("bash", typed, folder)
    found = tried([wanting("bash"), "--norc", "-c", BASH, "bash", *words], environ, folder)
    assert found == [one.partition("=")[2].rstrip("/") or one for one in EXPECTED[typed]]


ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
ready() { zpty -r shell seen "*$1*" }
zpty -w shell "PS1=; stty -echo; fpath=(${(q)FOLDER} \$fpath); autoload -U compinit; compinit -u -D"
zpty -w shell "zstyle ':completion:*' menu no; unsetopt auto_menu; setopt list_ambiguous"
zpty -w shell 'finish() { print -r "<LI""NE>${(q)BUFFER}<EN""D>"; BUFFER=; zle accept-line }; zle -N finish'
zpty -w shell "bindkey '^X' finish; bindkey '^I' complete-word; print RE''ADY"
ready 'READY?'
zpty -w -n shell "bursar $TYPED"$'\t\x18'
ready '<LINE>*<END>'
print -r -- ${${seen##*<LINE>}%%<END>*}
"""
"""A terminal with zsh in it, which is typed to. It draws what is typed as well, at whatever moment: what is
waited for is written otherwise where it is typed, so that only what the shell prints can be taken for it."""


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("ls --state pending,ru", r"bursar\ ls\ --state\ pending,running\ "),
        ("ls --state=pen", r"bursar\ ls\ --state=pending\ "),
        ("show sw", r"bursar\ show\ sw"),
        ("submit t", r"bursar\ submit\ train.yaml\ "),
        ("up --state-dir=f", r"bursar\ up\ --state-dir=folder/"),
    ],
)
def test_zsh_puts_the_only_word_there_and_of_several_what_they_share(
    typed: str, line: str, folder: Path
) -> None:
    zsh = wanting("zsh")
    shutil.copy(ROOT / "packaging/completions/_bursar", folder / "_bursar")
    environ = answered("zsh", typed, folder) | {"TYPED": typed, "FOLDER": str(folder), "ZDOTDIR": str(folder)}
    assert tried([zsh, "-f", "-c", ZSH], environ, folder) == [line]


@pytest.mark.parametrize(
    ("words", "at", "args", "last"),
    [
        ("bursar ls --state = pen", 4, ["ls", "--state"], "pen"),
        ("bursar ls --state =", 3, ["ls", "--state"], "="),
        ("bursar ls --user = ann --state pen", 6, ["ls", "--user", "ann", "--state"], "pen"),
        ("bursar run -- a = b", 5, ["run", "--", "a", "="], "b"),
        ("bursar ls ", 2, ["ls"], ""),
    ],
)
def test_an_equals_sign_behind_a_flag_is_no_word_in_bash(
    words: str, at: int, args: list[str], last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(at))
    made = shells._Bash(None, {}, "bursar", "_BURSAR_COMPLETE")  # type: ignore[arg-type]
    assert made.get_completion_args() == (args, last)


def test_zsh_is_told_a_word_and_what_it_is_in_three_lines() -> None:
    made = shells._Zsh(None, {}, "bursar", "_BURSAR_COMPLETE")  # type: ignore[arg-type]
    assert made.format_completion(CompletionItem("a:b")) == "plain\na:b\n"
    assert made.format_completion(CompletionItem("a:b", help="two\nlines")) == "plain\na\\:b\ntwo lines"
