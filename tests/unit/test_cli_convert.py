"""`bursar convert`, and what `submit` says of another system's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.jobfile.document import unexpanded

KUBERNETES = "apiVersion: batch/v1\nkind: Job\nspec: {template: {spec: {containers: [{image: x, tty: 1}]}}}\n"


def test_a_file_of_another_system_is_named_in_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "k.yaml").write_text(KUBERNETES)
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        assert run(["submit", "k.yaml"]) == 2
    said = capsys.readouterr().err
    assert (
        "k.yaml: this looks like a Kubernetes manifest: `bursar convert k.yaml` makes a job file of it"
        in said
    )
    assert "unknown key" not in said


def test_convert_writes_a_job_file_and_says_what_has_no_equal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "k.yaml").write_text(KUBERNETES)
    assert run(["convert", "k.yaml"]) == 0
    shown = capsys.readouterr()
    assert "k.yaml:3: spec.template.spec.containers[0].tty has no equal" in shown.err
    assert shown.out.startswith("# From k.yaml, a Kubernetes manifest.")
    assert run(["convert", "k.yaml", "--out", "job.yaml"]) == 0
    assert (tmp_path / "job.yaml").read_text() == shown.out
    assert run(["convert", "k.yaml", "--out", "job.yaml"]) == 2
    assert "job.yaml cannot be written: File exists" in capsys.readouterr().err
    (tmp_path / "own.yaml").write_text("run: echo\n")
    assert run(["convert", "own.yaml"]) == 2


def test_a_variable_that_is_not_expanded_is_said_with_its_line() -> None:
    text = 'name: a\nenv: {A: b,\n  PATH: "/opt/x/bin:$PATH"}\nrun: echo $HOME\n'
    assert unexpanded(text, "job.yaml") == [
        "job.yaml:3: env.PATH: '/opt/x/bin:$PATH' is taken as it is, nothing in it is expanded; "
        "write `export PATH=...` in run"
    ]
    assert unexpanded("env: {A: '5$'}\nrun: x\n", "job.yaml") == []


@pytest.mark.parametrize("text", ["#!/bin/bash\necho hello\n", "#SBATCH --nodes=2\nsrun hostname\n"])
def test_a_script_is_told_to_be_one(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my train.sh"
    file.write_text(text)
    assert run(["convert", str(file)]) == 2
    assert capsys.readouterr().err == (
        f"error: {file} is a script, which needs no other form: bursar submit '{file}'\n"
    )


def test_a_job_file_given_to_convert_and_a_policy_given_to_submit_are_named_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text("name: a\nrun: hostname\nresources: {gpus: 1}\nzone: x\n")
    assert run(["convert", "job.yaml"]) == 2
    said = "error: job.yaml is a job file of Bursar already: bursar submit job.yaml\n"
    assert capsys.readouterr().err == said
    (tmp_path / "policy.yaml").write_text("kind: Budget\nname: b\nspec: {limit: 1 USD}\n")
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        assert run(["submit", "policy.yaml"]) == 2
        assert not server.requests
    said = "policy.yaml:1:1: this is a policy, not a job; `bursar policy apply policy.yaml` takes it"
    assert capsys.readouterr().err == f"error: {said}\n"
