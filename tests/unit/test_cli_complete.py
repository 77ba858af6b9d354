"""What the shell offers behind a verb."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import BashComplete

from bursar.cli import complete
from bursar.cli.main import cli, run
from bursar.client.fake import FakeServer
from bursar.v1 import access_pb2, jobs_pb2, money_pb2, nodes_pb2, types_pb2

JOBS = [
    types_pb2.Job(
        number=12, state="RUNNING", user="ann", spec=types_pb2.JobSpec(name="sweep", project="nlp/ft")
    ),
    types_pb2.Job(number=11, state="FAILED", user="bob", spec=types_pb2.JobSpec(project="vision")),
]
NODE = types_pb2.Node(state="up", facts=types_pb2.NodeFacts(name="n1"))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("_BURSAR_COMPLETE", "bash_complete")
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        monkeypatch.setattr(complete, "PATIENCE_S", 30)
        server.answers |= {
            "Jobs/List": jobs_pb2.ListJobsResponse(jobs=JOBS),
            "Nodes/List": nodes_pb2.ListNodesResponse(nodes=[NODE]),
            "Policies/List": money_pb2.ListPoliciesResponse(policies=[money_pb2.Policy(name="rack-a")]),
            "Money/Budgets": money_pb2.BudgetsResponse(budgets=[money_pb2.Budget(name="month")]),
            "Access/Secrets": access_pb2.SecretsResponse(secrets=[access_pb2.Secret(name="HF_TOKEN")]),
        }
        yield server


def offered(*words: str) -> list[str]:
    """What is offered for the last word."""
    shell = BashComplete(cli, {}, "bursar", "_BURSAR_COMPLETE")
    found = shell.get_completions(list(words[:-1]), words[-1])
    return [item.value if item.type == "plain" else f"<{item.type}>" for item in found]


@pytest.mark.parametrize(
    ("words", "items"),
    [
        (("show", ""), ["11", "12", "last", "sweep"]),
        (("logs", "1"), ["11", "12"]),
        (("wait", "11", "s"), ["sweep"]),
        (("cancel", "l"), ["last"]),
        (("ls", "--tasks", "sw"), ["sweep"]),
        (("run", "--after", "12"), ["12"]),
        (("ls", "--project", ""), ["nlp/ft", "vision"]),
        (("run", "--project", "n"), ["nlp/ft"]),
        (("cancel", "--user", ""), ["ann", "bob"]),
        (("cancel", "--name", ""), ["sweep"]),
        (("run", "--secret", "H"), ["HF_TOKEN"]),
        (("node", "show", ""), ["n1"]),
        (("node", "drain", "n"), ["n1"]),
        (("policy", "show", ""), ["rack-a"]),
        (("budget", "show", ""), ["month"]),
        (("secret", "rm", ""), ["HF_TOKEN"]),
        (("ls", "--state", ""), ["all", "pending", "starting", "running", "stopping", "succeeded", "failed",
                                 "cancelled"]),
        (("ls", "--state", "pending,ru"), ["pending,running"]),
        (("ls", "--columns", "number,st"), ["number,state"]),
        (("ls", "--columns", "state,st"), []),
        (("nodes", "--sort-by", "na"), ["name"]),
        (("submit", ""), ["<file>"]),
        (("policy", "apply", "x"), ["<file>"]),
        (("up", "--state-dir", ""), ["<dir>"]),
        (("completion", ""), ["bash", "zsh", "fish"]),
        (("run", "--name", ""), []),
    ],
)  # fmt: skip
def test_each_place_is_offered_what_it_takes(words: tuple[str, ...], items: list[str], fake: Any) -> None:
    assert offered(*words) == items


def test_without_a_server_nothing_is_offered_and_nothing_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_BURSAR_COMPLETE", "bash_complete")
    monkeypatch.setenv("BURSAR_SERVER", "unix:///nowhere/at/all.sock")
    assert offered("node", "show", "") == []
    assert offered("show", "") == []
    assert capfd.readouterr() == ("", "")


def test_a_server_that_does_not_answer_in_time_is_not_waited_for(
    fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def never(request: Any) -> Any:
        asked.wait(60)
        return nodes_pb2.ListNodesResponse(nodes=[NODE])

    fake.answers["Nodes/List"] = never
    monkeypatch.setattr(complete, "PATIENCE_S", 0)
    assert offered("node", "show", "") == []
    asked.set()


@pytest.mark.parametrize(
    ("shell", "sign"), [("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete ")]
)
def test_each_shell_has_its_script(shell: str, sign: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    said = capsys.readouterr().out
    assert sign in said
    assert f"_BURSAR_COMPLETE={shell}_complete" in said


def test_every_verb_with_columns_to_offer_has_them() -> None:
    for verb in complete.COLUMNS:
        assert complete._columns(verb), verb
