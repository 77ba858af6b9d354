"""`bursar attach` without a terminal: what goes there, what comes of it, and how it ends here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attached_there import There, ends

from bursar.cli.attach import LEAVE, Leave
from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.errors import BursarError, ServerUnavailable, WrongState
from bursar.steps import frames
from bursar.v1 import jobs_pb2 as pb


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with FakeServer(tmp_path / "run") as made:
        monkeypatch.setenv("BURSAR_SERVER", made.url)
        yield made


def test_output_and_errors_come_apart_and_the_exit_code_is_the_programs(server: Any, capfd: Any) -> None:
    there = There((frames.OUT, 0, b"out\n"), (frames.ERR, 0, b"err\n"), *ends(7))
    server.answers["Jobs/Attach"] = there
    assert run(["attach", "--rank", "2", "9", "--", "prog", "--flag"]) == 7
    assert capfd.readouterr() == ("out\n", "err\n")
    assert (there.opened.job, there.opened.rank, there.opened.kind) == ("9", 2, "program")
    assert there.opened.resumes
    assert there.left, "or what it started would be kept for a minute"
    told = there.spec()
    assert (told["argv"], told["own"], told["terminal"], told["env"]) == (["prog", "--flag"], True, 0, {})


def test_the_end_of_input_is_told(server: Any) -> None:
    there = There(*ends(0))
    there.waits_for = frames.STDIN_END  # a program that ends before need not be told
    server.answers["Jobs/Attach"] = there
    assert run(["attach", "9", "cat"]) == 0
    assert (frames.STDIN_END, 0, b"") in there.heard


def test_a_program_that_a_signal_ended_ends_as_in_a_shell(server: Any) -> None:
    server.answers["Jobs/Attach"] = There(*ends(0, 9))
    assert run(["attach", "9", "prog"]) == 137


@pytest.mark.parametrize("why", ["the job's attempt has ended (time_limit)", ""])
def test_a_stream_that_ends_before_the_program_says_why(why: str, server: Any, capfd: Any) -> None:
    there = There()
    there.closes = why
    server.answers["Jobs/Attach"] = there
    assert run(["attach", "9", "prog"]) == 5
    assert f"error: {why or 'the way to it is gone'}; the program there was ended" in capfd.readouterr().err


def test_who_loses_an_older_daemon_is_told_what_became_of_program_and_job(server: Any, capfd: Any) -> None:
    there, opened = There(), []

    def dies(request: pb.AttachRequest) -> pb.AttachAnswer | ServerUnavailable:
        if opened:
            return ServerUnavailable("Stream removed")
        opened.append(request)
        return there(request)

    server.answers["Jobs/Attach"] = dies
    assert run(["attach", "9", "prog"]) == 5
    said = capfd.readouterr().err
    assert "what was started there is ended; the job goes on: attach to 9 again" in said


class Loses:
    """A daemon that is lost once a program was told, and the next ones; `There` is the member meanwhile."""

    def __init__(self, there: There, *next_ones: BursarError | None) -> None:
        self.there = there
        self.next_ones = list(next_ones)
        self.asked: list[pb.AttachOpen] = []
        self.lost = False

    def __call__(self, request: pb.AttachRequest) -> pb.AttachAnswer | BursarError:
        if request.HasField("open"):
            self.asked.append(request.open)
            refusal = self.next_ones.pop(0) if len(self.asked) > 1 else None
            opened = pb.AttachOpened(job_id="job_9", number=9, attempt_id="att_1", node="n1", channel=77)
            return refusal or pb.AttachAnswer(opened=opened)
        if len(self.asked) == 1:
            self.there.heard += self.there.far.take(request.packet, 0)
            return ServerUnavailable("Stream removed")
        return self.there(request)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursar.cli.attached.AGAIN_S", 0.01)


@pytest.mark.usefixtures("at_once")
def test_who_loses_the_daemon_comes_back_to_the_program_as_it_goes_on(server: Any, capfd: Any) -> None:
    there = There((frames.OUT, 0, b"still here\n"), *ends(7))
    loses = Loses(there, ServerUnavailable("not back yet"), None)
    server.answers["Jobs/Attach"] = loses
    assert run(["attach", "9", "prog"]) == 7
    out, err = capfd.readouterr()
    assert out == "still here\n"
    assert "the daemon does not answer; the job and what runs here go on. Trying again; ctrl-C leaves" in err
    assert "back after" in err
    assert [one.resume for one in loses.asked] == [0, 77, 77]


@pytest.mark.usefixtures("at_once")
def test_what_was_ended_meanwhile_is_said_to_be(server: Any, capfd: Any) -> None:
    server.answers["Jobs/Attach"] = Loses(There(), WrongState("what was started there is ended: it was lost"))
    assert run(["attach", "9", "prog"]) not in (0, 124)
    assert "what was started there is ended: it was lost" in capfd.readouterr().err


@pytest.mark.usefixtures("at_once")
def test_a_script_does_not_wait_for_ever(server: Any, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursar.cli.attach.PATIENCE_S", -1.0)
    server.answers["Jobs/Attach"] = Loses(There(), *[ServerUnavailable("away")] * 1000)
    assert run(["attach", "9", "prog"]) == 5
    assert "what runs there is ended once it is back" in capfd.readouterr().err


def test_a_job_that_does_not_run_is_said_to_be_one(server: Any, capfd: Any) -> None:
    server.answers["Jobs/Attach"] = WrongState("job 9 has ended (failed); only what runs can be attached to")
    assert run(["attach", "9", "prog"]) != 0
    assert "job 9 has ended (failed)" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["attach", "9"], "without a terminal name a program: bursar attach JOB -- CMD"),
        (["attach", "--tty", "9", "prog"], "--tty: standard input and output are no terminal"),
        (
            ["attach", "9", "--tty", "--", "prog"],
            "--tty: options go before the job, and a program after `--`",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anybody_is_asked(
    line: list[str], said: str, server: Any, capfd: Any
) -> None:
    assert run(line) == 2
    assert said in capfd.readouterr().err
    assert server.requests == []


def test_three_of_the_keys_within_a_second_leave_and_nothing_else_does() -> None:
    key = bytes((LEAVE,))
    leave = Leave()
    assert [leave.typed(key, now) for now in (0.0, 0.6, 1.2, 1.5)] == [False, False, False, True]
    assert Leave().typed(key * 3, 0.0)
    assert not Leave().typed(key * 2 + b"x" + key, 0.0)
