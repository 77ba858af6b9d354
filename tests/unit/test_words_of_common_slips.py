"""Slips of the hand that everybody makes once: the message names the slip."""

from __future__ import annotations

import pytest

import bursar
from bursar.cli.main import run
from bursar.errors import InvalidRequest, PolicyInvalid
from bursar.jobfile.flags import RunFlags
from bursar.jobfile.request import job_of_file
from bursar.jobfile.script import parse_script
from bursar_policies.document import parse_documents

BUDGET = "kind: Budget\nname: b\nspec:\n  scope: {project: a}\n  limit: 5 USD\n  period: month\n"


@pytest.mark.parametrize("word", ["\u2013-time=60", "\u2014time=60", "\u2212\u2212time=60"])
def test_a_dash_that_an_editor_made_long_is_named(word: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_script(f"#!/bin/bash\n#SBATCH {word}\necho\n", "job.sh", "/")
    assert f"job.sh:2:9: {word!r} begins with a long dash, which an editor put there; write --time=60" in str(
        refused.value
    )


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["stop", "1"], "cancel"), (["kill"], "cancel"), (["delete"], "cancel"), (["ps"], "ls"),
        (["queue"], "ls"), (["exec", "1"], "attach"), (["launch", "x"], "submit"), (["sbatch"], "submit"),
        (["sinfo"], "nodes"), (["policy", "delete"], "rm"), (["policy", "list"], "ls"), (["lst"], "ls"),
        (["run", "-t", "2h", "--", "x"], "--time-limit"), (["run", "-N2", "--", "x"], "--nodes"),
    ],
)  # fmt: skip
def test_a_word_of_another_system_is_answered_with_ours(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    assert f"did you mean {meant!r}?" in capsys.readouterr().err


def test_a_flag_beside_a_script_is_named_and_not_a_line_of_it() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_script("#!/bin/bash\necho\n", "job.sh", "/", flags=RunFlags(max_cost="5"))
    assert str(refused.value).startswith("--max-cost: '5' is not an amount of money")


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ("#!/bin/sh", ". /etc/profile"), ("#!/bin/dash", ". ~/.profile >/dev/null 2>&1"),
        ("#!/bin/sh -l", "true"), ("#!/usr/bin/env sh", "if true; then . /etc/environment; fi"),
    ],
)  # fmt: skip
def test_a_profile_that_a_shell_other_than_bash_reads_before_srun_is_noted(head: str, line: str) -> None:
    _, said = parse_script(f"{head}\n#SBATCH --time=5\n{line}\nsrun true | tee log\n", "job.sh", "/")
    assert [note.message.endswith("then finds no srun; begin with #!/bin/bash") for note in said] == [True]
    for other in (
        f"#!/bin/bash\n#SBATCH --time=5\n{line}\nsrun true\n",
        f"{head.removesuffix(' -l')}\n#SBATCH --time=5\nsrun true\n{line}\n",
        f"{head}\n#SBATCH --time=5\n{line}\ntrue\n",
    ):
        assert parse_script(other, "job.sh", "/")[1] == ()


def test_a_notebook_is_known_as_one() -> None:
    text = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
    with pytest.raises(
        InvalidRequest, match=r"^nb\.ipynb: this is a notebook: `bursar run -- jupyter nbconvert"
    ):
        job_of_file(text, "nb.ipynb", "/")
    with pytest.raises(InvalidRequest, match=r"unknown key 'cells'"):
        job_of_file('{"cells": [], "run": "true"}', "nb.yaml", "/")


def test_a_tab_is_named() -> None:
    with pytest.raises(
        PolicyInvalid, match=r"b\.yaml:4:1: this is not YAML: .*; indent with blanks, not with tabs"
    ):
        parse_documents("kind: Budget\nname: b\nspec:\n\tlimit: 5 USD\n", "b.yaml")


def test_a_percentage_past_its_bound_is_told_as_one() -> None:
    with pytest.raises(PolicyInvalid, match=r"carry_over: is 120%; at most 100% is allowed"):
        parse_documents(BUDGET + "  carry_over: 120%\n", "b.yaml")


def test_a_program_is_told_of_its_own_argument_not_of_a_flag() -> None:
    with pytest.raises(InvalidRequest, match=r"^server: 'foo' is not a server address"):
        bursar.Client(server="foo")


def test_the_name_of_a_secret_is_looked_at_before_its_value_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["secret", "set", "1x", "--server", "unix:///nowhere/s"]) == 2
    assert "'1x' is not a secret's name" in capsys.readouterr().err
