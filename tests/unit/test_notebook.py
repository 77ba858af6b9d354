"""`bursar notebook`: the job that it makes, what runs in it, and where its token is not."""

from __future__ import annotations

import contextlib
import inspect
import json
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import jupyter_stub
import pytest

from bursar.cli import notebookjob
from bursar.cli.main import run
from bursar.cli.notebook import Found, notebook_job
from bursar.client.fake import FakeServer
from bursar.errors import InvalidRequest
from bursar.jobfile.flags import RunFlags
from bursar.model.check import check
from bursar.v1 import jobs_pb2, types_pb2

HOUR_US = 3_600_000_000
NOTHING: dict[str, Any] = {one.name: None for one in fields(RunFlags) if one.name != "command"}


def flags(**given: Any) -> dict[str, Any]:
    return NOTHING | given


def test_it_is_an_interactive_job_with_its_idle_policy_on_and_no_token() -> None:
    spec = notebook_job(flags(gpus="H100:1", time_limit="8h"))
    assert check(spec) == []
    assert (spec.interactive, spec.name, dict(spec.labels)) == (True, "notebook", {"bursar-notebook": "1"})
    policy = spec.idle_policy
    assert (policy.window_us, policy.warn_after_us, policy.detached_us) == (HOUR_US, HOUR_US // 2, HOUR_US)
    assert policy.action == "stop"
    assert inspect.getsource(notebookjob) in spec.script
    assert (spec.command, spec.env) == ((), ())


def test_without_gpus_it_is_stopped_when_nobody_uses_it() -> None:
    policy = notebook_job(flags(), "2h").idle_policy
    assert (policy.window_us, policy.detached_us) == (0, 2 * HOUR_US)


@pytest.mark.parametrize("given", [{"nodes": "2"}, {"array": "0-3"}])
def test_it_is_one_job_on_one_node(given: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="one job on one node"):
        notebook_job(flags(**given))


def test_what_runs_there_is_read_by_old_pythons() -> None:
    import ast

    ast.parse(inspect.getsource(notebookjob), feature_version=(3, 8))


class Desk:
    """A job's directory, and a stand-in for Jupyter on its PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder / "session", folder / "bin"
        self.folder.mkdir()
        self.bin.mkdir()
        self.kernel = self.bin / "kernel"
        self.kernel.write_text("idle")
        self.progress = folder / "progress"
        program = self.bin / "jupyter-lab"
        program.write_text(f"#!{sys.executable}\n{inspect.getsource(jupyter_stub)}")
        program.chmod(0o755)

    @contextlib.contextmanager
    def runs(self, **env: str) -> Iterator[subprocess.Popen[bytes]]:
        own = {
            "PATH": f"{self.bin}:/usr/bin:/bin", "BURSAR_SESSION_DIR": str(self.folder),
            "BURSAR_PROGRESS_FILE": str(self.progress),
        }  # fmt: skip
        code = inspect.getsource(notebookjob)
        with subprocess.Popen(
            [sys.executable, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=own | env,
        ) as child:  # fmt: skip
            assert child.stdin is not None
            child.stdin.write(code.encode())
            child.stdin.close()
            child.stdin = None
            try:
                yield child
            finally:
                child.kill()

    def file(self, name: str) -> Any:
        """Once it is there."""
        until = time.monotonic() + 20
        path = self.folder / name if name != "progress" else self.progress
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.02)
        return json.loads(path.read_text())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def ask(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def test_it_listens_with_a_token_that_stands_in_private_files_alone(desk: Desk) -> None:
    desk.kernel.write_text("busy")
    with desk.runs() as child:
        told = desk.file("notebook.json")
        found = Found(told["port"], told["token"], told["page"])
        assert ask(found.url(found.port)) == 200
        assert ask(f"http://127.0.0.1:{found.port}/lab?token=wrong") == 403
        assert found.page == "lab"
        assert desk.file("progress") == {"step": 0, "attended": True}
        for name in ("notebook.json", "notebook-settings.json"):
            assert stat.S_IMODE((desk.folder / name).stat().st_mode) == 0o600
        arguments = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (child.pid, *children(child.pid))]
        environs = [Path(f"/proc/{pid}/environ").read_bytes() for pid in (child.pid, *children(child.pid))]
        assert len(arguments) == 2
        assert not any(found.token.encode() in one for one in (*arguments, *environs))
        child.terminate()
        output, _ = child.communicate(timeout=20)
    assert b"arguments" in output
    assert b"the notebook listens" in output
    assert found.token.encode() not in output
    assert child.returncode == 143


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("env", "why"),
    [
        (
            {"PATH": "/usr/bin:/bin"},
            "notebook: no jupyter-lab, jupyter-notebook or jupyter-server is on",
        ),
        ({"JUPYTER": "/nowhere/jupyter"}, "notebook: JUPYTER names /nowhere/jupyter, which is not on"),
        ({"BURSAR_SESSION_DIR": ""}, "notebook: this is no interactive job"),
    ],
)
def test_a_node_without_jupyter_says_what_to_install(desk: Desk, env: dict[str, str], why: str) -> None:
    with desk.runs(**env) as child:
        output, _ = child.communicate(timeout=20)
    assert why in output.decode()
    assert child.returncode == 1
    if "PATH" in env:
        assert b"pip install jupyterlab" in output


def test_a_kernel_that_does_not_say_is_not_called_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [[{"execution_state": state}] for state in ("idle", "busy")]
    answers: list[Any] = [None, {"message": "?"}, [], *kernels]
    monkeypatch.setattr(notebookjob, "ask", lambda port, path: answers.pop(0))
    assert [notebookjob.attended(1) for _ in range(5)] == [True, True, False, False, True]


# ------------------------------------------------------------------ the verb


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with FakeServer(tmp_path / "run") as made:
        monkeypatch.setenv("BURSAR_SERVER", made.url)
        yield made


def shown(state: str, message: str = "", **labels: str) -> types_pb2.Job:
    spec = types_pb2.JobSpec(labels=labels)
    return types_pb2.Job(
        id="job_9", number=9, state=state, spec=spec, reason=types_pb2.Reason(message=message)
    )


def test_a_job_that_is_no_notebook_is_neither_opened_nor_ended(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["Jobs/Get"] = shown("RUNNING")
    assert run(["notebook", "9"]) == 2
    assert run(["notebook", "--stop", "9"]) == 2
    assert "job 9 is no notebook" in capsys.readouterr().err


def test_one_that_ended_says_why_in_its_own_words(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["Jobs/Get"] = shown("FAILED", **{"bursar-notebook": "1"})
    last = b"x\nnotebook: no jupyter-lab is on the PATH of n1\n"
    server.answers["Jobs/Logs"] = [jobs_pb2.LogChunk(data=last, offset=0)]
    assert run(["notebook", "9"]) == 1
    assert "notebook 9 has ended: notebook: no jupyter-lab is on the PATH of n1" in capsys.readouterr().err


def test_one_that_ends_before_it_could_be_used_says_why_all_the_same(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without Jupyter it is over before the first look at it."""
    ended = shown("FAILED", **{"bursar-notebook": "1"})
    ended.end.message = "failed: the job on n1 ended with exit code 1"
    server.answers["Jobs/Plan"] = jobs_pb2.PlanResponse()
    server.answers["Jobs/Submit"] = jobs_pb2.SubmitResponse(job=shown("PENDING", **{"bursar-notebook": "1"}))
    server.answers["Jobs/Watch"] = [ended]
    server.answers["Jobs/Get"] = ended
    last = b"notebook: no jupyter-lab is on the PATH of n1; `python3 -m pip install jupyterlab`\n"
    server.answers["Jobs/Logs"] = [jobs_pb2.LogChunk(data=last, offset=0)]
    assert run(["notebook", "--cpus", "1", "--time-limit", "1h"]) == 1
    assert "no jupyter-lab is on the PATH of n1; `python3 -m pip install" in capsys.readouterr().err
    server.answers["Jobs/Logs"] = []
    assert run(["notebook", "--cpus", "1", "--time-limit", "1h"]) == 1
    assert "notebook 9 has ended: failed: the job on n1 ended with exit code 1" in capsys.readouterr().err


def test_to_stop_what_has_ended_says_so_as_cancel_does(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = shown("SUCCEEDED", **{"bursar-notebook": "1"})
    ended.end.message = "completed"
    server.answers["Jobs/Get"] = ended
    assert run(["notebook", "--stop", "9"]) == 0
    assert "notebook 9 has ended already: completed" in capsys.readouterr().err
    assert all("Cancel" not in method for method, _ in server.requests)


def test_stop_ends_it(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers["Jobs/Get"] = shown("RUNNING", **{"bursar-notebook": "1"})
    server.answers["Jobs/Cancel"] = jobs_pb2.JobsResponse()
    assert run(["notebook", "--stop", "9"]) == 0
    assert "job 9 is asked to end" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--stop"], "name the notebook's job"),
        (["--gpus", "1", "9"], "flags are of a new notebook"),
        (["--idle", "2h", "9"], "flags are of a new notebook"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], why: str, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["notebook", *words]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("until", "said"),
    [
        (1_795_000_000_000_000, "its idle policies are put off until 2026-11-18 "),
        (0, "its idle policies are put off no longer; their time begins anew now"),
    ],
)
def test_a_snooze_says_until_when(
    until: int, said: str, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    job = shown("RUNNING")
    job.spec.idle_policy.snoozed_until = until
    server.answers["Jobs/Update"] = job
    assert run(["snooze", "9", "2h" if until else "0s"]) == 0
    assert said in capsys.readouterr().err
