"""Slips of the hand that everybody makes once: the message names the slip."""

from __future__ import annotations

import pytest

import bursar
from bursar.cli.main import run
from bursar.errors import InvalidRequest, PolicyInvalid
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
