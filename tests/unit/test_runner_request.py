"""What a start request may say, and what never becomes a path or an argument."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bursar.codec.launch import exit_from_wire, exit_to_wire, launch_from_bytes, launch_to_bytes
from bursar.errors import InvalidRequest
from bursar.model import CheckpointSpec, EndCause, Exit, JobSpec, Launch, launch_of
from bursar.v1 import agents_pb2 as pb
from bursar_agent.runner.layout import member_name, parse_member
from bursar_agent.runner.model import StartRequest, signal_number
from bursar_agent.runner.spawning import CannotStart, Job
from bursar_agent.runner.testing import request


@pytest.mark.parametrize("name", ["att_1.0", "att_7h2k.12", "job_5.3.0"])
def test_member_names_round_trip(name: str) -> None:
    parsed = parse_member(name)
    assert parsed is not None
    assert member_name(*parsed) == name


@pytest.mark.parametrize(
    "bad", ["", "att_", "att", "../x", "att_1/..", "Att_1", "att_1\n", "att_1.", "att_" + "x" * 41]
)
def test_bad_ids_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="refused before it becomes a path"):
        member_name(bad, 0)


@pytest.mark.parametrize("rank", [-1, 1_000_000, True, "0"])
def test_bad_ranks_are_refused(rank: Any) -> None:
    with pytest.raises(ValueError, match="rank"):
        member_name("att_1", rank)


@pytest.mark.parametrize(
    "fields",
    [
        {"launch": b"\xff"},
        {"home": "relative"},
        {"uid": 5},
        {"grace_us": -1},
        {"time_limit_us": -1},
        {"log_cap_bytes": -1},
        {"memory_limit_bytes": -1},
        {"checkpoint_signal": "KILL"},
        {"checkpoint_signal": "NOPE"},
    ],
)
def test_impossible_requests_are_refused_before_they_are_sent(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        StartRequest("att_1", **fields).to_wire({}, "boot")


def opened(launch: bytes, **fields: Any) -> Job:
    """What a supervisor makes of a request."""
    request = StartRequest("att_1", launch=launch, **fields)
    return Job(request.to_wire({"PATH": "/machine", "HOME": "/h"}, "boot"))


@pytest.mark.parametrize(
    ("launch", "message", "end"),
    [
        (b"", "cannot be read", ("start_failed", None)),
        (b"[]", "cannot be read", ("start_failed", None)),
        (b"{}", "either a command", ("failed", 126)),
        (b'{"command": ["x"], "script": "x"}', "either a command", ("failed", 126)),
        (b'{"command": ["x"], "workdir": "relative"}', "not an absolute path", ("failed", 126)),
    ],
)
def test_a_launch_that_means_nothing_fails_the_start_in_words(
    launch: bytes, message: str, end: tuple[str, int | None]
) -> None:
    with pytest.raises(CannotStart, match=message) as told:
        opened(launch)
    assert (told.value.end_cause, told.value.exit_code) == end


def test_a_launch_is_opened_as_it_was_made() -> None:
    made = Launch(command=("a", "b"), setup="s", workdir="/w", env={"K": "v"})
    job = opened(launch_to_bytes(made))
    assert (job.argv, job.script, job.setup, job.cwd, job.env["K"]) == (["a", "b"], "", "s", "/w", "v")
    assert launch_from_bytes(launch_to_bytes(made)) == made
    assert opened(launch_to_bytes(Launch(script="x")), home="/home").cwd == "/home"
    with pytest.raises(InvalidRequest, match="launch"):
        launch_from_bytes(b"[]")


def test_every_field_of_a_job_that_its_process_needs_reaches_the_launch() -> None:
    spec = JobSpec(command=("a",), setup="s", workdir="/w", env=(("IGNORED", "here"),))
    assert launch_of(spec, {"K": "v"}) == Launch(command=("a",), setup="s", workdir="/w", env={"K": "v"})
    assert launch_of(JobSpec(script="x"), {}) == Launch(script="x")


def test_a_start_of_the_tests_takes_any_field_of_the_launch_and_of_the_request() -> None:
    told: dict[str, Any] = {"files": {"K": "v"}, "checkpoint": CheckpointSpec("USR1"), "grace_us": 7}
    made = request("att_1", "true", **told)
    assert launch_from_bytes(made.launch) == Launch(
        script="true", files=told["files"], checkpoint=told["checkpoint"]
    )
    assert made.grace_us == 7
    with pytest.raises(TypeError, match="nicety"):
        request("att_1", "true", nicety=7)


def test_launch_environment_wins_over_the_machines_but_not_over_the_marker() -> None:
    env = {"PATH": "/job", "BURSAR_ATTEMPT_MEMBER": "forged", "BURSAR_ATTEMPT": "2"}
    job = opened(launch_to_bytes(Launch(script="x", env=env)), env={"HOME": "/account"})
    assert job.env == {
        "PATH": "/job",
        "HOME": "/account",
        "BURSAR_ATTEMPT": "2",
        "BURSAR_ATTEMPT_MEMBER": "att_1.0",
        "BURSAR_PROGRESS_FILE": f"{Path.cwd()}/progress",
    }


def test_the_checkpoint_placeholder_becomes_the_nodes_own_path() -> None:
    asked = launch_to_bytes(Launch(script="x", env={"BURSAR_CHECKPOINT_DIR": "@checkpoint"}))
    job = opened(asked, checkpoint_dir="/c/job_1")
    assert job.checkpoint_dir == job.env["BURSAR_CHECKPOINT_DIR"] == "/c/job_1"
    given = launch_to_bytes(Launch(script="x", env={"BURSAR_CHECKPOINT_DIR": "/mine"}))
    job = opened(given, checkpoint_dir="/c/job_1")
    assert (job.checkpoint_dir, job.env["BURSAR_CHECKPOINT_DIR"]) == ("", "/mine")


@pytest.mark.parametrize("cause", list(EndCause))
def test_an_exit_survives_the_wire(cause: EndCause) -> None:
    exit = Exit(
        cause=cause, exit_code=0, signal=9, message="m", held_us=5, cpu_us=6, max_rss_bytes=7, log_bytes=8,
        started=False, started_boot_us=3, gpu_energy_millijoules=4, gpu_energy_source="modelled",
    )  # fmt: skip
    wire = exit_to_wire("att_1", 4, exit)
    assert (wire.attempt_id, wire.rank, exit_from_wire(wire)) == ("att_1", 4, exit)
    nothing = Exit(cause=cause)
    assert exit_from_wire(exit_to_wire("att_1", 0, nothing)) == nothing


def test_an_exit_of_no_known_cause_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"exited\.cause"):
        exit_from_wire(pb.Exited(cause="bored"))


def test_an_exit_whose_energy_comes_from_nowhere_known_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"exited\.gpu_energy_source: .* not 'guessed'"):
        exit_from_wire(pb.Exited(cause="completed", gpu_energy_source="guessed"))


def test_signal_names_with_and_without_prefix_are_one() -> None:
    assert signal_number("USR1") == signal_number("SIGUSR1") == signal_number("usr1") == 10
    assert signal_number(None) is None
