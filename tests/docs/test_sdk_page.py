"""docs/sdk.md: its programs pass `mypy --strict` and run, and it names every method there is."""

import asyncio
import os
import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
from attached_there import There, ends

import bursar
from bursar.client import Client
from bursar.client.fake import FakeServer
from bursar.steps import frames
from bursar.v1 import jobs_pb2, money_pb2, types_pb2

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/sdk.md").read_text("utf-8")
HEAD = """
import bursar

async def page(client: bursar.Client, prep: bursar.Job, jobs: list[bursar.Job]) -> None:
"""


def test_the_programs_of_the_page_are_what_mypy_strict_takes(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 5
    texts = [
        HEAD.replace("page", f"page{i}") + textwrap.indent(block, "    ") for i, block in enumerate(blocks)
    ]
    (tmp_path / "page.py").write_text("\n".join(texts))
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\n[mypy-bursar.v1.*]\nignore_errors = true\n")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", str(tmp_path / "c")]
    done = subprocess.run(
        [*command, "--explicit-package-bases", "--follow-imports=silent", "page.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT / "sdk")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout


def test_the_page_names_every_method_and_no_other():
    section = PAGE.split("## All methods")[1].split("\nEach ")[0]
    said = set(" ".join(re.findall(r"`([^`]+)`", section)).split())
    assert said == {name for name in vars(Client) if not name.startswith("_")} - {"close", "address"}


ENDED = types_pb2.Job(
    id="job_1",
    number=12,
    state="SUCCEEDED",
    exit_code=0,
    settled_nanos=2_000_000_000,
    accrued_nanos=2_000_000_000,
    currency="USD",
    spec=types_pb2.JobSpec(name="train"),
)
WAITS = types_pb2.Reason(
    code="BudgetCommitted", message="the budget has 1 USD left", remedy="wait for others"
)


def inside(*says):
    """A member of a job that answers each program anew."""
    members = []

    def answer(request):
        if request.HasField("open"):
            members.append(There(*says))
        return members[-1](request)

    return answer


ANSWERS = {
    "Jobs/Submit": jobs_pb2.SubmitResponse(job=ENDED),
    "Jobs/Get": ENDED,
    "Jobs/List": jobs_pb2.ListJobsResponse(jobs=[ENDED]),
    "Jobs/Watch": lambda request: [ENDED],
    "Jobs/Logs": lambda request: [jobs_pb2.LogChunk(data=b"epoch 1\n")],
    "Jobs/Attach": inside((frames.OUT, 0, b"GPU 0\n"), *ends(0)),
    "Jobs/Plan": jobs_pb2.PlanResponse(reason=WAITS, worst_case_nanos=5_000_000_000, currency="USD"),
    "Jobs/Explain": jobs_pb2.ExplainResponse(job=ENDED, reason=WAITS, suggestion="set --time-limit 1h"),
    "Money/Cost": lambda request: money_pb2.CostResponse(
        rows=[money_pb2.CostRow(keys=list(request.by), nanos=3_000_000_000)], currency="USD"
    ),
    "Money/Budgets": money_pb2.BudgetsResponse(
        budgets=[money_pb2.Budget(name="v", enforcement="hard", limit_nanos=9_000_000_000, currency="USD")]
    ),
}
"""What the cluster of the page says: one job that has ended, and what it cost."""


def test_the_programs_of_the_page_run_and_print(tmp_path, monkeypatch, capsys):
    """Each as it stands, with a client, a job and a list of jobs that it may use."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.yaml").write_text("name: train\ntime_limit: 1h\nrun: python train.py\n")
    (tmp_path / "train.sh").write_text("#!/bin/bash\n#SBATCH --time=1:00:00\necho $1\n")
    monkeypatch.delenv("BURSAR_TOKEN", raising=False)
    printed = []
    with (
        warnings.catch_warnings(),
        FakeServer(tmp_path / "run") as server,
        bursar.Client(server.url) as client,
    ):
        warnings.simplefilter("ignore", bursar.BursarWarning)  # of the script that the page submits
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        server.answers |= ANSWERS
        job = client.get("12")
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            names = {"bursar": bursar}
            exec(compile(HEAD + textwrap.indent(block, "    "), "docs/sdk.md", "exec"), names)
            asyncio.run(names["page"](client, job, [job]))
            printed.append(capsys.readouterr().out)
    first, submitted, watched, awaited, executed, spent = printed
    assert executed == "0 GPU 0\n \n"
    assert first.splitlines()[0].startswith("SUCCEEDED 2.000000000 USD")
    assert first.endswith("epoch 1\n\n")
    assert "5.000000000 USD" in submitted
    assert [call.spec.HasField("array") for call in server.calls("Jobs/Submit")[1:5]] == [False] * 3 + [True]
    assert server.calls("Jobs/Submit")[1].spec.env["SEED"] == "7"
    assert "12 train 2.000000000 USD" in watched
    assert "the budget has 1 USD left wait for others set --time-limit 1h" in watched
    assert awaited == "SUCCEEDED\n"
    assert spent.startswith("project user 3.000000000 USD")
    assert "9.000000000 USD" in spent


def test_the_page_says_of_wrong_arguments_what_is_said(tmp_path):
    said = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()
    with bursar.Client(f"unix://{tmp_path}/none.sock") as client:
        for wrong, sentence in zip(
            (lambda: client.submit(command=["x"], gpu=1), lambda: client.list(since="2026-01-01")),
            said,
            strict=True,
        ):
            with pytest.raises(bursar.WrongArgument) as found:
                wrong()
            assert found.value.message == sentence
