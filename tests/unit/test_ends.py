"""Every end explains itself: the words for each cause, and who of a gang is to blame."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from whole_site import Site, play

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import EndCause, EndFacts, kind_of, phrase_of, remedy_of, sentence_of
from bursar.model.ends import REMEDIES, UNASKED, beginning_of, shell_faults
from bursar.v1 import jobs_pb2
from bursar_agent.runner.removed import MESSAGE
from bursard.events import AttemptEnded, ExitReport
from bursard.fleet import Exited
from bursard.fleet.testing import FACTS, World
from bursard.services.ends import end_view
from bursard.state.decide import attempts
from bursard.state.decide import jobs as decide

C = EndCause


def facts(cause: EndCause, **known: Any) -> EndFacts:
    return EndFacts(job="12", cause=cause, **known)


@pytest.mark.parametrize(
    ("end", "kind", "phrase", "sentence"),
    [
        (facts(C.COMPLETED, exit_code=0), "completed", "completed", "completed"),
        (facts(C.COMPLETED, exit_code=0, members=4), "completed", "completed", "completed, all 4 ranks"),
        (facts(C.CANCELLED, detail="by ann"), "cancelled", "cancelled", "cancelled by ann"),
        (facts(C.CANCELLED, started=False), "cancelled", "cancelled", "cancelled before it started"),
        (
            facts(C.FAILED, started=False, detail="job 3 failed"),
            "never_started", "never started", "ended before it started: job 3 failed",
        ),
        (
            facts(C.OUT_OF_MEMORY, rank=1, members=2, node="n2", exit_code=137, signal=9,
                  memory_bytes=64 * 10**9, max_rss_bytes=63 * 10**9),
            "out_of_memory", "out of memory",
            "out of memory: rank 1 of 2 on n2 was killed by the kernel at its limit of 64GB, after it had"
            " used 63GB, by signal 9 (SIGKILL)",
        ),
        (
            facts(C.TIME_LIMIT, rank=0, node="n1", exit_code=143, time_limit_us=2 * HOUR_US),
            "time_limit", "time limit",
            "time limit: the job on n1 was stopped at its limit of 2h00m (exit code 143)",
        ),
        (
            facts(C.BUDGET, detail="budget.max_cost was reached"), "budget", "budget",
            "budget: it was stopped at what it may cost: budget.max_cost was reached",
        ),
        (
            facts(C.NODE_LOST, rank=3, members=4, node="n4", detail="silent for 300 s"),
            "node_lost", "node lost",
            "node lost: the node of rank 3 of 4 on n4 did not answer any more: silent for 300 s",
        ),
        (
            facts(C.FAILED, rank=0, node="n1", detail="supervisor lost; the job's processes were killed"),
            "supervisor_lost", "supervisor lost",
            "lost: the job on n1 was killed, since what watched over it was: supervisor lost; the job's"
            " processes were killed",
        ),
        (
            facts(C.FAILED, rank=0, exit_code=126, detail="not executable: ./a.sh"),
            "not_executable", "not executable, exit code 126",
            "not executable: the job could not run, ./a.sh (exit code 126)",
        ),
        (
            facts(C.PREEMPTED, detail="requeued by request"), "preempted", "preempted",
            "requeued: it was ended by request, to run again",
        ),
        (facts(C.PREEMPTED), "preempted", "preempted", "preempted: its place was given to others"),
        (facts(C.IDLE), "idle", "idle", "idle: it was stopped by an idle policy"),
        (
            facts(C.IDLE, detail="nobody used it for 1h00m00s (idle policy desks)"), "idle", "idle",
            "idle: it was stopped by an idle policy: nobody used it for 1h00m00s (idle policy desks)",
        ),
        (
            facts(C.START_FAILED, rank=0, node="n1", detail="cannot write the script"),
            "start_failed", "start failed",
            "start failed: the job on n1 could not be started: cannot write the script",
        ),
        (
            facts(C.START_FAILED, rank=0, node="n1", detail="no account of user ann on this node"),
            "no_account", "no account",
            "no account: the job on n1 could not be started: no account of user ann on this node",
        ),
        (
            facts(C.FAILED, rank=0, exit_code=126, detail="working directory '/x': No such file"),
            "workdir", "no working directory",
            "bad working directory: the job could not be started: working directory '/x': No such file",
        ),
        (
            facts(C.START_FAILED, rank=0, node="n1", detail="working directory '/x': No such file"),
            "workdir", "no working directory",
            "bad working directory: the job on n1 could not be started: working directory '/x': No such file",
        ),
        (
            facts(C.FAILED, rank=1, members=2, exit_code=126, detail="output file '/x/o': Denied"),
            "output_file", "no output file",
            "output file cannot be opened: rank 1 of 2 was not started: output file '/x/o': Denied",
        ),
        (
            facts(C.FAILED, rank=0, exit_code=127, detail="no such command: trian"),
            "not_found", "command not found, exit code 127",
            "command not found: the job could not run, no such command: trian (exit code 127)",
        ),
        (
            facts(C.FAILED, rank=0, exit_code=127, detail="no such command: a | b"),
            "not_found", "command not found, exit code 127",
            "command not found: the job could not run, no such command: a | b (exit code 127)",
        ),
        (
            facts(C.FAILED, rank=0, exit_code=127), "not_found", "command not found, exit code 127",
            "command not found: the job said that a command does not exist (exit code 127)",
        ),
        (
            facts(C.FAILED, rank=0, exit_code=126), "not_executable", "not executable, exit code 126",
            "not executable: the job said that a command cannot be executed (exit code 126)",
        ),
        (
            facts(C.FAILED, rank=0, exit_code=4, detail="setup failed; the run text was not started"),
            "setup", "setup failed, exit code 4",
            "setup failed: the job did not get to its command (exit code 4)",
        ),
        (
            facts(C.FAILED, rank=0, exit_code=139, signal=11), "crash", "signal 11 (SIGSEGV)",
            "signal 11 (SIGSEGV) ended the job",
        ),
        (
            facts(C.FAILED, rank=0, exit_code=137), "killed", "signal 9 (SIGKILL)",
            "signal 9 (SIGKILL) ended a command of the job (exit code 137)",
        ),
        (
            facts(C.FAILED, rank=0, exit_code=143, signal=15), "signal", "signal 15 (SIGTERM)",
            "signal 15 (SIGTERM) ended the job",
        ),
        (
            facts(C.FAILED, rank=2, members=3, node="n3", exit_code=3), "exit_code", "exit code 3",
            "failed: rank 2 of 3 on n3 ended with exit code 3",
        ),
        (
            facts(C.FAILED, rank=0, exit_code=255), "exit_code", "exit code 255",
            "failed: the job ended with exit code 255",
        ),
        (facts(C.FAILED, rank=0), "unknown", "unknown end", "failed: the job ended, how is not known"),
    ],
)  # fmt: skip
def test_each_end_has_its_own_words(end: EndFacts, kind: str, phrase: str, sentence: str) -> None:
    assert (kind_of(end), phrase_of(end), sentence_of(end)) == (kind, phrase, sentence)
    assert bool(remedy_of(end)) == (kind not in ("completed", "cancelled"))


def test_remedies_name_the_job_its_rank_and_its_node() -> None:
    assert "`bursar logs 12 --rank 2`" in remedy_of(facts(C.FAILED, rank=2, members=3, exit_code=3))
    assert "`bursar logs 12`" in remedy_of(facts(C.FAILED, rank=0, members=3, exit_code=3))
    assert "`bursar node show n1`" in remedy_of(facts(C.START_FAILED, rank=0, node="n1"))


def test_a_line_that_was_taken_for_a_name_is_told_apart_from_a_program_that_is_not_there() -> None:
    def said(name: str) -> str:
        return remedy_of(facts(C.FAILED, rank=0, exit_code=127, detail=f"no such command: {name}"))

    assert said("python train.py") == said("a | b") != said("trian") == REMEDIES["not_found"]
    assert "`run -- bash -c 'a | b'`" in said("a | b")
    assert said("train.py") == said("run.sh") != said("./train.py") == said("train") == REMEDIES["not_found"]
    assert "`python FILE`" in said("train.py")


def test_a_job_whose_records_were_removed_is_not_told_to_look_for_memory() -> None:
    removed = facts(C.FAILED, rank=0, node="n1", detail=MESSAGE)
    assert remedy_of(removed).startswith("submit it again; its log went with the records")
    assert "on n1" in remedy_of(removed)
    assert "memory" not in remedy_of(removed)
    assert remedy_of(removed) == remedy_of(facts(C.FAILED, rank=0, node="n1", detail=beginning_of(MESSAGE)))
    assert "memory" in remedy_of(facts(C.FAILED, rank=0, node="n1", detail="supervisor lost"))


def test_a_job_that_was_ended_past_the_daemon_is_told_who_does_that_and_not_to_ask_for_memory() -> None:
    ended = facts(C.FAILED, rank=0, node="n1", signal=9, detail=UNASKED)
    assert sentence_of(ended) == (
        "signal 9 (SIGKILL) ended the job on n1: ended as cancelled, which nobody asked the daemon for"
    )
    assert remedy_of(ended).startswith("submit it again. `bursar down` while no daemon answers")
    assert "memory" not in remedy_of(ended)
    assert beginning_of(f"{UNASKED}: more") == UNASKED
    assert "memory" in remedy_of(facts(C.FAILED, rank=0, node="n1", signal=9))


def test_every_cause_but_failed_is_a_kind_of_its_own() -> None:
    assert {kind_of(facts(cause)) for cause in C if cause is not C.FAILED} <= set(REMEDIES)
    assert len({text for text in REMEDIES.values() if text}) == len(
        [text for text in REMEDIES.values() if text]
    )


class Timed(World):
    """A gang of two whose members end at times of their own."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("n-1", "n-2"):
            self.backend.connect(msgspec.structs.replace(FACTS, name=name))
        self.job = self.submit(nodes=2)
        self.cycle()
        self.backend.report()
        assert self.job.attempt is not None
        self.attempt = self.job.attempt
        self.began = self.clock.boot_us()

    def end_at(self, rank: int, cause: EndCause, *, after_s: int, **known: Any) -> None:
        node = self.state.nodes[self.attempt.members[rank].alloc.node_id]
        word = Exited(
            attempt_id=self.attempt.id,
            rank=rank,
            cause=cause,
            held_us=after_s * SECOND_US,
            **({"exit_code": 1} | known),
        )
        self.clock.advance(max(0, after_s * SECOND_US - (self.clock.boot_us() - self.began)))
        self.fleet.exited(node, word)
        self.writer.flush()


def told(world: Timed) -> tuple[str, int | None, int | None]:
    end = end_view(world.job, private=True)
    assert end is not None
    return (
        end.cause,
        end.rank if end.HasField("rank") else None,
        end.exit_code if end.HasField("exit_code") else None,
    )


def test_the_member_that_failed_first_is_the_cause_though_it_is_heard_of_last() -> None:
    world = Timed()
    world.end_at(0, C.FAILED, after_s=9, exit_code=1)
    world.end_at(1, C.OUT_OF_MEMORY, after_s=7, exit_code=-1, signal=9)
    assert told(world) == ("out_of_memory", 1, 137)
    [end] = [event for event in world.events if isinstance(event, AttemptEnded)]
    assert (end.cause, end.exit_code, end.message) == (C.OUT_OF_MEMORY, 137, "rank 1 ended: out_of_memory")


def test_of_the_same_instant_the_lower_rank_is_the_cause() -> None:
    world = Timed()
    world.end_at(1, C.FAILED, after_s=7, exit_code=5)
    world.end_at(0, C.FAILED, after_s=7, exit_code=4)
    assert told(world) == ("failed", 0, 4)


def test_what_was_told_to_end_is_not_the_cause_whatever_the_clocks_say() -> None:
    world = Timed()
    world.end_at(1, C.FAILED, after_s=9, exit_code=3)
    world.end_at(0, C.FAILED, after_s=8, exit_code=-1, signal=15, stopped=True)
    assert told(world) == ("failed", 1, 3)


def test_a_member_ends_with_its_own_process_not_with_what_that_left_behind() -> None:
    world = Timed()
    world.end_at(1, C.FAILED, after_s=5, exit_code=5)
    world.end_at(0, C.FAILED, after_s=9, exit_code=4, ran_us=SECOND_US)
    assert told(world) == ("failed", 0, 4)


def test_a_cancel_is_nobody_s_fault() -> None:
    world = Timed()
    world.stop(world.attempt)
    world.end_at(0, C.CANCELLED, after_s=3, exit_code=-1, signal=15, stopped=True)
    world.end_at(1, C.CANCELLED, after_s=3, exit_code=-1, signal=15, stopped=True)
    assert told(world) == ("cancelled", None, 143)


def test_whoever_may_not_see_the_program_reads_the_end_without_what_quotes_it() -> None:
    world = Timed()
    world.end_at(0, C.FAILED, after_s=1, exit_code=127, message="no such command: secret-tool")
    world.end_at(1, C.FAILED, after_s=2, exit_code=-1, signal=15, stopped=True)
    seen, hidden = end_view(world.job, private=True), end_view(world.job, private=False)
    assert seen is not None
    assert hidden is not None
    assert "secret-tool" in seen.message
    assert "secret-tool" not in hidden.message
    assert hidden.message.startswith("command not found: rank 0 of 2 on n-1")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("working directory /home/bob/x: Permission denied", "bad working directory: rank 0 of 2 on n-1"),
        ("output file /home/bob/out: Permission denied", "output file cannot be opened: rank 0 of 2 on n-1"),
    ],
)
def test_whoever_may_not_see_it_is_told_the_kind_of_end_that_it_was(message: str, said: str) -> None:
    world = Timed()
    world.end_at(0, C.FAILED, after_s=1, exit_code=126, message=message)
    world.end_at(1, C.FAILED, after_s=2, exit_code=-1, signal=15, stopped=True)
    seen, hidden = end_view(world.job, private=True), end_view(world.job, private=False)
    assert seen is not None
    assert hidden is not None
    assert seen.message.startswith(said)
    assert hidden.message.startswith(said)
    assert "/home/bob" not in hidden.message
    assert not hidden.message.endswith(message.split("/")[0].strip()), "nor does it repeat itself"
    assert hidden.remedy == seen.remedy


def test_what_a_script_left_in_the_background_is_told_beside_its_good_end() -> None:
    world = Timed()
    world.end_at(0, C.COMPLETED, after_s=1, exit_code=0, message="2 left in the background")
    world.end_at(1, C.COMPLETED, after_s=2, exit_code=0)
    seen = end_view(world.job, private=False)
    assert seen is not None
    left = "2 processes that it had left in the background were ended with it"
    assert (seen.cause, seen.message) == ("completed", f"completed, all 2 ranks; {left}")
    assert seen.remedy == "write `wait` as the script's last line, where their work is wanted"
    assert world.job.state.value == "SUCCEEDED"
    one = facts(C.COMPLETED, detail="1 left in the background")
    assert sentence_of(one) == "completed; 1 process that it had left in the background was ended with it"
    assert remedy_of(facts(C.COMPLETED, detail="what nobody knows")) == ""


def test_an_interpreter_that_is_not_there_is_not_told_as_a_command() -> None:
    end = facts(
        C.FAILED,
        rank=0,
        node="n1",
        exit_code=127,
        detail="the interpreter /bin/csh of its first line is not there",
    )
    assert sentence_of(end).endswith(
        "the interpreter /bin/csh of its first line is not there (exit code 127)"
    )
    assert "have it installed on n1" in remedy_of(end)
    assert "whole path" not in remedy_of(end)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/var/x/script: line 4: conda: command not found", "line 4: conda: command not found"),
        ("bash: line 1: nosuch: command not found", "line 1: nosuch: command not found"),
        (
            "./s.sh: line 3: /root/conda.sh: No such file or directory",
            "line 3: /root/conda.sh: No such file or directory",
        ),
        ("/x/script: line 9: ./worker.sh: Permission denied", "line 9: ./worker.sh: Permission denied"),
        (
            "/x/script: line 2: ./a: cannot execute: required file not found",
            "line 2: ./a: cannot execute: required file not found",
        ),
        ("/x/script: 4: conda: not found", "line 4: conda: not found"),
        ("/x/script: 2: .: cannot open env.sh", "line 2: cannot open env.sh"),
        ("rm: cannot remove 'x': No such file or directory", ""),
        ("INFO line 4: loss not found", ""),
        ("grep: x: No such file or directory", ""),
        ("loss 4: step: found", ""),
    ],
)
def test_what_a_shell_could_not_run_is_found_in_a_log(line: str, told: str) -> None:
    assert shell_faults(f"a\n{line}\nb\n{line}\n") == ([told] if told else [])


def test_a_job_that_lives_has_no_end() -> None:
    assert end_view(Timed().job, private=True) is None


def test_a_job_that_is_cancelled_while_it_waits_again_ends_by_that_not_by_its_last_attempt() -> None:
    world = Timed()
    world.stop(world.attempt, C.PREEMPTED)
    for rank in (0, 1):
        world.end_at(rank, C.PREEMPTED, after_s=3, exit_code=-1, signal=15, stopped=True)
    world.clock.advance(SECOND_US)
    world.engine.commit(decide.cancel(world.state, world.job, None), "ann")
    assert told(world) == ("cancelled", None, None)


@pytest.mark.parametrize(
    ("started", "detail", "sentence"),
    [
        (True, "by ann: wrong data", "cancelled by ann: wrong data"),
        (True, "by ann", "cancelled by ann"),
        (False, "by ann", "cancelled by ann, before it started"),
        (True, "array stopped", "cancelled: array stopped"),
        (True, "", "cancelled"),
    ],
)
def test_who_cancelled_a_job_is_said(started: bool, detail: str, sentence: str) -> None:
    assert sentence_of(EndFacts(job="7", cause=C.CANCELLED, started=started, detail=detail)) == sentence


def test_a_cancelled_job_says_who_asked_for_it_and_why_whether_it_ran_or_not() -> None:
    async def story(site: Site) -> None:
        running, waiting = site.job("ann", "nlp"), site.job("ann", "nlp")
        attempt = site.place(running)
        request = jobs_pb2.CancelRequest(jobs=[running, waiting], reason="wrong data")
        assert (await site.call("Jobs.Cancel", request, token=site.token("oz", "operator")))[0] == "OK"
        node = site.engine.state.nodes[attempt.members[0].alloc.node_id]
        report = ExitReport(cause=C.CANCELLED, signal=15, held_us=1)
        site.engine.commit(attempts.exited(site.engine.state, node, attempt.id, 0, report, 0), "node:n1")
        told = []
        for job in (running, waiting):
            request = jobs_pb2.GetJobRequest(job=job)
            _, (found,) = await site.ask("Jobs.Get", request, token=site.token("oz", "operator"))
            told.append(found.end.message)
        assert told == ["cancelled by oz: wrong data", "cancelled by oz: wrong data, before it started"]

    play(story)


def test_a_reason_that_is_too_long_is_refused_and_nothing_is_cancelled() -> None:
    async def story(site: Site) -> None:
        job = site.job("ann", "nlp")
        request = jobs_pb2.CancelRequest(jobs=[job], reason="x" * 501)
        status, details = await site.call("Jobs.Cancel", request, token=site.token("oz", "operator"))
        assert (status, details) == ("INVALID_ARGUMENT", "reason: 501 characters; at most 500 are kept")
        assert not site.engine.state.jobs[job].state.terminal
        request = jobs_pb2.CancelRequest(jobs=[job], reason="x" * 500)
        assert (await site.call("Jobs.Cancel", request, token=site.token("oz", "operator")))[0] == "OK"

    play(story)


def test_what_nobody_used_is_told_what_keeps_it_and_not_of_devices() -> None:
    used = remedy_of(facts(C.IDLE, detail="all its GPUs were below 5 % for 20m00s, 0 % at most"))
    unused = remedy_of(facts(C.IDLE, detail="nobody used it for 1h00m00s"))
    assert used.startswith("let it end when its work is done")
    assert used.endswith("`bursar snooze 12 2h` puts the policy off before it acts")
    assert unused.startswith("stay attached")
    assert "`bursar snooze 12 2h`" in unused
