"""What the verbs say of an end, of an array on its way, and of what can never start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bursar.cli.ends import attempt_end
from bursar.cli.main import run
from bursar.cli.progress import progress_text
from bursar.client.fake import FakeServer
from bursar.clock import SECOND_US
from bursar.errors import NotFound
from bursar.model.ends import hint_of
from bursar.v1 import jobs_pb2 as pb
from bursar.v1 import types_pb2 as types

END = types.End(cause="failed", rank=1, exit_code=7, message="failed: rank 1 of 2 ended", remedy="mend it")
MEMBERS = [types.Member(rank=0, node="n1", started_at=5), types.Member(rank=1, node="n2", started_at=5)]
GANG = types.Job(
    id="job_1", number=1, state="FAILED", exit_code=7, end=END,
    attempts=[types.Attempt(id="att_1", number=1, state="ENDED", members=MEMBERS)],
)  # fmt: skip
LOG = [pb.LogChunk(data=b"".join(b"line %d\n" % i for i in range(20)))]
NEVER = types.Reason(code="ExceedsNodeCapacity", message="no node has GPUs", remedy="add one")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        server.answers |= {"Jobs/Get": GANG, "Jobs/Logs": LOG, "Jobs/Watch": [GANG]}
        yield server


@pytest.mark.parametrize("words", ["show 1", "explain 1", "wait 1"])
def test_an_end_is_told_with_the_last_lines_of_the_rank_that_caused_it(
    words: str, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["Jobs/Explain"] = pb.ExplainResponse(job=GANG)
    assert run(words.split()) == (1 if words == "wait 1" else 0)
    said = capsys.readouterr()
    shown = said.err if words == "wait 1" else said.out
    assert "failed: rank 1 of 2 ended\nremedy: mend it\n" in shown
    lines = [line.strip() for line in shown.splitlines()]
    at = lines.index("last lines of rank 1:")
    assert lines[at + 1 : at + 21] == [f"line {i}" for i in range(20)]
    [asked] = [request for name, request in fake.requests if name == "Jobs/Logs"]
    assert (asked.job, asked.rank, asked.tail_lines) == ("job_1", 1, 20)


@pytest.mark.parametrize("words", ["show 1", "explain 1", "wait 1", "run --follow -- true"])
def test_what_the_last_lines_say_of_an_end_is_told_below_them(
    words: str, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["Jobs/Explain"] = pb.ExplainResponse(job=GANG)
    fake.answers["Jobs/Logs"] = [
        pb.LogChunk(data=b"step 1\ntorch.OutOfMemoryError: CUDA out of memory. Tried\n")
    ]
    run(words.split())
    told = capsys.readouterr()
    assert (
        (told.err if words[0] in "wr" else told.out)
        .rstrip()
        .endswith(
            "its last lines say: it ran out of GPU memory: make batches smaller, spread the\n"
            "model over more GPUs, or ask for larger ones (`gpus: H100:80GB:1`)"
        )
    )


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("jaxlib.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while", "it ran out of GPU memory:"),
        ("RuntimeError: CUDA error: out of memory", "it ran out of GPU memory:"),
        ("Traceback\nMemoryError", "it could not get the memory it wanted:"),
        ("terminate called: std::bad_alloc", "it could not get the memory it wanted:"),
        ("OSError: [Errno 28] No space left on device", "a disk was full:"),
        ("ModuleNotFoundError: No module named 'torch'", "a module of Python is not there:"),
        (
            "mpirun has detected an attempt to run as root.\n",
            "Open MPI does not run as root unless it is told to:",
        ),
        (
            "notebook: no jupyter-lab, jupyter-notebook or jupyter-server is on the PATH of n1; `python3`\n",
            "Jupyter is missing there: `python3 -m pip install jupyterlab`",
        ),
        (
            "prterun has detected an attempt to run as root",
            "Open MPI does not run as root unless it is told to:",
        ),
        ("mpirun was unable to find the specified executable file, and", "mpirun did not find the program:"),
        (
            'The application appears to have been direct launched using "srun",\nbut OMPI was not built',
            "srun starts no MPI world:",
        ),
        ("cannot be retrieved (gai error: -2 - Name or service", "a name has no address there:"),
        ("socket.gaierror: [Errno -2] Name or service not known", "a name has no address there:"),
        ("[Errno -3] Temporary failure in name resolution", "a name has no address there:"),
        ("No space left on device\nlater: CUDA out of memory", "it ran out of GPU memory:"),
        ("MyMemoryErrors are none\nKeyError: 'a'", ""),
        ("", ""),
    ],
)
def test_a_hint_is_what_was_said_last(text: str, hint: str) -> None:
    assert hint_of(text).partition(":")[0] == hint.partition(":")[0]


DONE = types.Job(
    id="job_1", number=1, state="SUCCEEDED", exit_code=0,
    end=types.End(cause="completed", message="completed"),
    attempts=[types.Attempt(id="att_1", number=1, state="ENDED", members=MEMBERS)],
)  # fmt: skip


@pytest.mark.parametrize("words", ["show 1", "explain 1", "wait 1", "run --follow -- true"])
def test_what_a_shell_could_not_run_is_told_of_a_job_that_completed(
    words: str, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    early = b"/x/script: line 4: conda: command not found\n"
    fake.answers |= {
        "Jobs/Get": DONE, "Jobs/Watch": [DONE], "Jobs/Explain": pb.ExplainResponse(job=DONE),
        "Jobs/Submit": pb.SubmitResponse(job=DONE), "Jobs/Logs": [pb.LogChunk(data=early), *LOG],
    }  # fmt: skip
    assert run(words.split()) == 0
    said = capsys.readouterr()
    text = " ".join((said.out if words.split()[0] in ("show", "explain") else said.err).split())
    assert (
        "its log says line 4: conda: command not found: a script goes on after that, unless `set -e`" in text
    )


def test_of_a_long_log_the_beginning_and_the_end_are_read_and_no_more(
    fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers |= {"Jobs/Get": DONE, "Jobs/Logs": [pb.LogChunk(data=b"x\n" * 30_000) for _ in range(50)]}
    assert run(["show", "1"]) == 0
    asked = [request for name, request in fake.requests if name == "Jobs/Logs"]
    assert [request.tail_bytes for request in asked] == [0, 65_536]
    assert "its log says" not in capsys.readouterr().out


def test_nobody_reads_the_log_of_a_session_that_was_typed(fake: Any) -> None:
    session = types.Job()
    session.CopyFrom(DONE)
    session.spec.interactive = True
    fake.answers["Jobs/Get"] = session
    assert run(["show", "1"]) == 0
    assert [name for name, _ in fake.requests if name == "Jobs/Logs"] == []


def test_an_end_is_told_though_its_log_is_gone(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["Jobs/Logs"] = NotFound("the log is not there")
    assert run(["show", "1"]) == 0
    assert "last lines" not in capsys.readouterr().out


def test_a_follower_sees_a_rank_that_ended_before_its_siblings_started(
    fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["Jobs/Submit"] = pb.SubmitResponse(job=types.Job(id="job_1", number=1, state="PENDING"))
    assert run(["run", "--follow", "--", "true"]) == 7
    said = capsys.readouterr()
    assert said.out == LOG[0].data.decode()
    assert "last lines of rank 1:" in said.err
    assert [request.rank for name, request in fake.requests if name == "Jobs/Logs"] == [0, 1]


def tries(number: int, state: str, **last: Any) -> types.Job:
    """A job whose first attempt failed, which its second one follows."""
    first = types.Attempt(
        id="att_1", number=1, state="ENDED", members=MEMBERS[:1], started_at=5, end_cause="node_lost",
        exit_code=4, message="node n1 was lost",
    )  # fmt: skip
    attempts = [first, types.Attempt(id="att_2", number=2, members=MEMBERS[:1], started_at=6)][:number]
    return types.Job(id="job_1", number=12, state=state, attempts=attempts, **last)


@pytest.mark.parametrize("words", ["run --follow -- true", "run --wait -- true", "wait 12", "logs -f 12"])
def test_whoever_waits_hears_once_how_each_attempt_ended(
    words: str, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    running = tries(1, "RUNNING")
    running.attempts[0].state = "RUNNING"
    fake.answers |= {
        "Jobs/Get": running,
        "Jobs/Submit": pb.SubmitResponse(job=types.Job(id="job_1", number=12, state="PENDING")),
        "Jobs/Watch": [running, tries(1, "PENDING"), tries(2, "RUNNING"), tries(2, "SUCCEEDED", exit_code=0)],
    }
    assert run(words.split()) == 0
    told = capsys.readouterr().err
    assert told.count("job 12: attempt 1 ended: node lost, exit code 4: node n1 was lost\n") == 1
    assert "attempt 2 ended" not in told


def test_an_attempt_that_somebody_requeued_is_said_to_be_requeued() -> None:
    attempt = types.Attempt(
        number=1, state="ENDED", end_cause="preempted", exit_code=143, message="requeued by request"
    )
    assert attempt_end(attempt) == "attempt 1 ended: requeued by request"


@pytest.mark.parametrize(("flag", "out"), [("--follow", LOG[0].data.decode()), ("--wait", "job_1\n")])
def test_quiet_tells_nothing_of_the_way(
    flag: str, out: str, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["Jobs/Submit"] = pb.SubmitResponse(job=types.Job(id="job_1", number=1, state="PENDING"))
    assert run(["run", flag, "-q", "--", "true"]) == (7 if flag == "--follow" else 1)
    assert capsys.readouterr() == (out, "")


def test_a_task_is_called_by_its_array_and_its_index(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    task = types.Job(
        id="job_1.3",
        number=12,
        parent_id="job_1",
        array_index=3,
        state="FAILED",
        spec={"name": "sweep"},
        end=END,
    )
    fake.answers |= {
        "Jobs/Get": task, "Jobs/Watch": [task], "Jobs/Explain": pb.ExplainResponse(job=task),
        "Jobs/Cancel": pb.JobsResponse(jobs=[task]), "Jobs/List": pb.ListJobsResponse(jobs=[task]),
    }  # fmt: skip
    for words, begin in (
        ("show 12[3]", "job 12[3]  sweep  FAILED"), ("explain 12[3]", "job 12[3] sweep is FAILED"),
        ("wait 12[3]", "job 12[3] sweep FAILED"), ("cancel 12[3]", "job 12[3] job_1.3 FAILED"),
    ):  # fmt: skip
        run(words.split())
        said = capsys.readouterr()
        assert (said.out or said.err).splitlines()[0] == begin
    assert run(["ls", "--tasks", "12", "--columns", "number,state"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["12[3]", "FAILED"]


@pytest.mark.parametrize("flag", ["--follow", "--wait"])
def test_what_can_never_start_is_not_submitted_and_not_waited_for(
    flag: str, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["Jobs/Plan"] = pb.PlanResponse(reason=NEVER)
    assert run(["run", flag, "--", "true"]) == 1
    assert "Jobs/Submit" not in {name for name, _ in fake.requests}
    assert "--queue" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--follow", "--wait"])
def test_queue_submits_it_and_waits(flag: str, fake: Any) -> None:
    fake.answers["Jobs/Plan"] = pb.PlanResponse(reason=NEVER)
    stuck = types.Job(id="job_1", number=1, state="PENDING", reason=NEVER)
    fake.answers["Jobs/Submit"] = pb.SubmitResponse(job=stuck)
    fake.answers["Jobs/Watch"] = [stuck, GANG]
    assert run(["run", flag, "--queue", "--", "true"]) == (7 if flag == "--follow" else 1)


def test_a_wait_says_each_state_and_the_end_once(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    states = [types.Job(id="job_1", number=1, state=state) for state in ("PENDING", "RUNNING", "SUCCEEDED")]
    fake.answers["Jobs/Submit"] = pb.SubmitResponse(job=states[0])
    fake.answers["Jobs/Watch"] = states
    assert run(["run", "--wait", "--", "true"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("job 1 ")]
    assert told[0] == "job 1 RUNNING"
    assert [line.split(":")[0] for line in told[1:]] == ["job 1 SUCCEEDED"]


@pytest.mark.parametrize("words", ["run --follow -- true", "run --wait -- true", "wait 1"])
def test_a_wait_ends_once_its_job_has_come_to_where_it_can_never_start(
    words: str, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stuck = types.Job(id="job_1", number=1, state="PENDING", reason=NEVER)
    fake.answers["Jobs/Submit"] = pb.SubmitResponse(job=stuck)
    fake.answers["Jobs/Watch"] = [stuck]
    assert run(words.split()) == 1
    said = capsys.readouterr().err
    assert "job 1 cannot start: ExceedsNodeCapacity: no node has GPUs\nremedy: add one\n" in said
    assert "`bursar cancel 1`" in said


def test_a_wait_for_several_goes_on_while_one_of_them_can_end(fake: Any) -> None:
    stuck = types.Job(id="job_2", number=2, state="PENDING", reason=NEVER)
    live = types.Job(id="job_1", number=1, state="RUNNING")
    fake.answers["Jobs/Watch"] = [stuck, live, GANG]
    assert run(["wait", "1", "2"]) == 1
    assert len([name for name, _ in fake.requests if name == "Jobs/Logs"]) == 1


@pytest.mark.parametrize(
    ("counts", "after_s", "text"),
    [
        ({"PENDING": 20}, 0, "0/20 done"),
        ({"SUCCEEDED": 6, "FAILED": 1, "RUNNING": 13}, 97, "7/20 done, 1 failed, about 3 min left"),
        ({"SUCCEEDED": 19, "RUNNING": 1}, 95, "19/20 done, about 5 s left"),
        ({"SUCCEEDED": 1, "RUNNING": 19}, 3600, "1/20 done, about 19 h left"),
        ({"SUCCEEDED": 17, "FAILED": 2, "CANCELLED": 1}, 9, "20/20 done, 2 failed, 1 cancelled"),
    ],
)
def test_an_array_on_its_way_says_how_far_it_is(counts: dict[str, int], after_s: int, text: str) -> None:
    job = types.Job(started_at=SECOND_US, array=types.ArrayStatus(size=20, counts=counts))
    assert progress_text(job, (1 + after_s) * SECOND_US) == text


def test_each_change_of_a_followed_array_is_a_line(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def sweep(state: str, **counts: int) -> types.Job:
        return types.Job(
            id="job_1", number=1, state=state, array=types.ArrayStatus(size=2, counts=counts), exit_code=0
        )

    fake.answers["Jobs/Submit"] = pb.SubmitResponse(job=sweep("PENDING", PENDING=2))
    fake.answers["Jobs/Watch"] = [
        sweep("RUNNING", RUNNING=2),
        sweep("RUNNING", RUNNING=2),
        sweep("RUNNING", RUNNING=1, SUCCEEDED=1),
        sweep("SUCCEEDED", SUCCEEDED=2),
    ]
    assert run(["run", "--follow", "--array", "0-1", "--", "true"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if " done" in line]
    assert lines == ["0/2 done", "1/2 done", "2/2 done"]
