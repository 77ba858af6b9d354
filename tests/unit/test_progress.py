"""How far a job says it has come: from its file to what users see, and what a lie can do (nothing)."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar import progress
from bursar.cli.pace import progress_pairs
from bursar.clock import VirtualClock
from bursar.codec import results, view
from bursar.codec.launch import exit_from_wire, exit_to_wire
from bursar.errors import InvalidRequest
from bursar.model import COUNT_MAX, SECONDS_MAX, EndCause, Exit, Progress, ProgressFile, read_progress
from bursar.money import Money
from bursar.v1 import types_pb2 as pb
from bursar_agent.link.wire import telemetry
from bursar_agent.probes.readings import AttemptReading, ProgressRates, Reading
from bursar_agent.progress import Pace, ProgressFiles, last_told
from bursar_agent.runner import progressfile
from bursard.fleet import door
from bursard.fleet.words import Exited

WHOLE = Progress(
    step=120, total=1_000, samples=7_680, tokens=960_000, elapsed_us=100_000_000, data_wait_us=10_000_000,
    compute_us=70_000_000, communication_us=15_000_000, checkpoint_us=5_000_000, mfu_ppm=412_000,
)  # fmt: skip
FILE = (
    b'{"step":120,"total":1000,"samples":7680,"tokens":960000,"elapsed_s":100,"data_wait_s":10.0,'
    b'"compute_s":70,"communication_s":15,"checkpoint_s":5,"mfu":0.412,"of_a_later_release":[1,{}]}'
)


def test_a_file_is_read_as_it_says() -> None:
    assert read_progress(FILE) == WHOLE
    assert read_progress(b'{"step": 0}') == Progress(step=0)
    assert read_progress(b'{"step": %d}' % COUNT_MAX) == Progress(step=COUNT_MAX)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "truncated"),
        (b"{}", "step"),
        (b"[1]", "object"),
        (b'{"step": -1}', "$.step"),
        (b'{"step": %d}' % (COUNT_MAX + 1), "$.step"),
        (b'{"step": 1.5}', "$.step"),
        (b'{"step": true}', "$.step"),
        (b'{"step": "\xff"}', "$.step"),
        (b'{"step": 1, "mfu": 1.01}', "$.mfu"),
        (b'{"step": 1, "mfu": NaN}', "malformed"),
        (b'{"step": 1, "elapsed_s": 1e999}', "$.elapsed_s"),
        (b'{"step": 1, "elapsed_s": %d}' % (SECONDS_MAX + 1), "$.elapsed_s"),
        (b'{"step": 1, "elapsed_s": 9, "data_wait_s": 6, "compute_s": 5}', "pass elapsed_s"),
        (b'{"x": ' + b"[" * 4000, ""),
        (b'{"step": 1}' + b" " * 4096, "4096 bytes"),
    ],
)
def test_what_cannot_be_is_not_believed_and_says_why(data: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_progress(data)
    assert said in refused.value.message
    assert len(refused.value.message) <= 120
    assert refused.value.message.isprintable()


def test_parts_may_pass_the_whole_by_the_second_of_their_rounding() -> None:
    assert read_progress(b'{"step": 1, "elapsed_s": 9, "compute_s": 10}').compute_us == 10_000_000


# --- the agent


def test_a_rate_is_of_what_was_seen_and_falls_while_nothing_comes() -> None:
    pace = Pace()
    assert pace.rates(0) is None
    for second in range(5):
        pace.take(second * 1_000_000, Progress(step=10 * second, samples=20 * second, tokens=30 * second))
    assert pace.rates(4_000_000) == ProgressRates(
        steps_per_second=10.0, samples_per_second=20.0, tokens_per_second=30.0
    )
    assert pace.rates(5_000_000) == pace.rates(4_000_000)
    pace.take(6_000_000, Progress(step=40, samples=80, tokens=120))
    standing = pace.rates(9_000_000)
    assert standing is not None
    assert standing.steps_per_second == 5.0


def test_counts_that_fall_begin_anew() -> None:
    pace = Pace()
    pace.take(0, Progress(step=100))
    pace.take(1_000_000, Progress(step=200))
    pace.take(2_000_000, Progress(step=50))
    assert pace.rates(2_000_000) is None
    pace.take(3_000_000, Progress(step=51))
    rates = pace.rates(3_000_000)
    assert rates is not None
    assert rates.steps_per_second == 1.0


def reading(*ranks: int) -> Reading:
    return Reading(at=1, attempts=tuple(AttemptReading(attempt_id="att_1", rank=rank) for rank in ranks))


def looked(read: Callable[[str, int], bytes | None], *readings: Reading) -> list[Reading]:
    clock = VirtualClock()

    async def look() -> list[Reading]:
        files = ProgressFiles(read, clock.boot_us)
        found = []
        for one in readings:
            found.append(await files.look(one))
            clock.advance(1_000_000)
        files.close()
        return found

    return asyncio.run(look())


def test_each_member_tells_for_itself_and_a_lie_is_named_beside_it() -> None:
    steps = iter(range(5, 50, 5))

    def read(attempt_id: str, rank: int) -> bytes | None:
        if rank == 3:
            raise OSError
        return b'{"step": %d}' % next(steps) if rank == 0 else (b'{"step": -1}', None)[rank - 1]

    first, second = looked(read, reading(0, 1, 2, 3), reading(0, 1))
    assert [one.progress for one in first.attempts] == [Progress(step=5), None, None, None]
    assert ["$.step" in one.progress_problem for one in first.attempts] == [False, True, False, False]
    assert first.attempts[0].progress_rates is None
    rates = second.attempts[0].progress_rates
    assert rates is not None
    assert (rates.steps_per_second, rates.tokens_per_second) == (5.0, 0.0)


def test_a_file_that_never_answers_stops_the_telling_of_progress_alone() -> None:
    gate = threading.Event()

    def read(attempt_id: str, rank: int) -> bytes | None:
        gate.wait(60)
        return None

    async def look() -> None:
        files = ProgressFiles(read, VirtualClock().boot_us, answer_s_max=0.01)
        assert await files.look(reading(0)) == reading(0)
        assert await files.look(reading(0)) == reading(0)
        gate.set()
        files.close()

    asyncio.run(look())


def test_the_last_word_of_an_end_is_what_can_be() -> None:
    def gone(attempt_id: str, rank: int) -> bytes | None:
        raise FileNotFoundError

    assert last_told(lambda *_: FILE, ("att_1", 0)) == WHOLE
    assert last_told(lambda *_: b"{", ("att_1", 0)) is None
    assert last_told(lambda *_: None, ("att_1", 0)) is None
    assert last_told(gone, ("att_1", 0)) is None


def test_only_a_plain_file_is_read_and_no_more_of_it_than_it_may_have(tmp_path: Path) -> None:
    there = tmp_path / "progress"
    assert progressfile.read(str(there)) is None
    there.write_bytes(b"x" * 10_000)
    assert progressfile.read(str(there)) == b"x" * 4097
    os.mkfifo(tmp_path / "pipe")
    assert progressfile.read(str(tmp_path / "pipe")) is None
    assert progressfile.read(str(tmp_path)) is None
    (tmp_path / "link").symlink_to(there)
    with pytest.raises(OSError, match="symbolic"):
        progressfile.read(str(tmp_path / "link"))


def test_the_last_word_of_another_user_is_copied_unless_it_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    monkeypatch.chdir(ours)
    made = progressfile.identity(str(theirs))
    progressfile.keep(str(theirs), made)
    (theirs / "progress").write_bytes(b"x" * 4097)
    progressfile.keep(str(theirs), made)
    assert list(ours.iterdir()) == []
    (theirs / "progress").write_bytes(FILE)
    progressfile.keep(str(theirs), made)
    assert (ours / "progress").read_bytes() == FILE


@pytest.mark.parametrize("how", ["link", "another directory", "nothing", "file"])
def test_a_job_that_puts_anothers_directory_in_the_place_of_its_own_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    own, anothers, kept = tmp_path / "own", tmp_path / "anothers", tmp_path / "kept"
    for one in (own, anothers, kept):
        one.mkdir()
    monkeypatch.chdir(kept)
    (own / "progress").write_bytes(b"own")
    (anothers / "progress").write_bytes(FILE)
    made = progressfile.identity(str(own))
    start = {"pid": os.getpid(), "progress_dir": [str(own), *made]}
    assert progressfile.read_of_another(start, "m", "progress", 4096) == b"own"
    own.rename(tmp_path / "moved")
    if how == "link":
        own.symlink_to(anothers)
    elif how == "another directory":
        anothers.rename(own)
    elif how == "file":
        own.write_bytes(FILE)
    assert progressfile.read_of_another(start, "m", "progress", 4096) is None
    progressfile.keep(str(own), made)
    assert list(kept.iterdir()) == []


def test_of_a_job_that_an_older_release_started_only_a_directory_of_its_own_account_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progressfile, "directory_of_another", lambda marker: str(tmp_path / marker))
    (tmp_path / "m").mkdir()
    (tmp_path / "m/progress").write_bytes(FILE)
    (tmp_path / "link").symlink_to(tmp_path / "m")
    start = {"pid": os.getpid()}
    assert progressfile.read_of_another(start, "m", "progress", 4096) == FILE
    assert progressfile.read_of_another(start, "link", "progress", 4096) is None
    assert progressfile.open_directory(str(tmp_path / "m"), uid=os.getuid() + 1) is None
    assert progressfile.read_of_another({"pid": 2**22 + 1}, "m", "progress", 4096) is None


# --- the daemon


def test_an_end_carries_it_over_the_wire_and_through_the_door() -> None:
    end = Exit(cause=EndCause.COMPLETED, exit_code=0, progress=WHOLE)
    came = exit_from_wire(exit_to_wire("att_1", 0, end))
    assert came == end
    assert door.exit_report(came).progress == WHOLE
    assert exit_from_wire(exit_to_wire("att_1", 0, Exit(cause=EndCause.FAILED))).progress is None


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("step", COUNT_MAX),
        ("tokens", COUNT_MAX),
        ("elapsed_us", SECONDS_MAX * 10**6),
        ("mfu_ppm", 1_000_000),
    ],
)
def test_an_agent_that_passes_on_what_cannot_be_is_refused(name: str, most: int) -> None:
    def end(value: int) -> Exited:
        told = msgspec.structs.replace(WHOLE, **{name: value})
        return Exited(attempt_id="att_1", rank=0, cause=EndCause.FAILED, progress=told)

    door.exited(end(most))
    with pytest.raises(InvalidRequest, match=f"exited.progress.{name}"):
        door.exited(end(most + 1))


def sample(**fields: Any) -> pb.Sample:
    attempt = AttemptReading(attempt_id="att_1", rank=0, **fields)
    return telemetry("c", "n", (Reading(at=1, attempts=(attempt,)),)).samples[0]


def test_a_reading_carries_it_with_the_rates_of_what_is_told() -> None:
    rates = ProgressRates(steps_per_second=2.0, samples_per_second=3.0, tokens_per_second=0.0)
    whole = sample(progress=Progress(step=4, samples=6), progress_rates=rates)
    door.sample(whole)
    told = view.sample(whole)["attempts"][0]["progress"]
    assert (told["step"], told["steps_per_second"], told["samples_per_second"]) == (4, 2.0, 3.0)
    assert (told["tokens"], told["tokens_per_second"], told["total"], told["left_s"]) == (None,) * 4
    assert view.sample(sample())["attempts"][0]["progress"] is None


@pytest.mark.parametrize("speed", [float("nan"), float("inf"), -1.0])
def test_a_rate_that_is_no_number_is_refused(speed: float) -> None:
    rates = ProgressRates(steps_per_second=speed, samples_per_second=0, tokens_per_second=0)
    with pytest.raises(InvalidRequest, match="steps_per_second"):
        door.sample(sample(progress=Progress(step=1), progress_rates=rates))
    with pytest.raises(InvalidRequest, match="progress_problem"):
        door.sample(sample(progress_problem="\x1b[2J"))


# --- what users see


def job(**fields: Any) -> pb.Job:
    made = pb.Job(currency="USD", settled_nanos=6_000_000_000, accrued_nanos=9_600_000_000, **fields)
    made.progress.CopyFrom(
        pb.Progress(**msgspec.structs.asdict(WHOLE), steps_per_second=2.0, tokens_per_second=16_000.0)
    )
    return made


def test_steps_cost_what_all_attempts_have_cost() -> None:
    told = view.job_progress(job(), "USD")
    assert told == {
        "step": 120, "total": 1_000, "samples": 7_680, "tokens": 960_000, "steps_per_second": 2.0,
        "samples_per_second": None, "tokens_per_second": 16_000.0, "left_s": 440.0, "elapsed_s": 100.0,
        "data_wait_s": 10.0, "compute_s": 70.0, "communication_s": 15.0, "checkpoint_s": 5.0,
        "goodput_ratio": 0.85, "mfu_ratio": 0.412,
        "cost_per_step": {"amount": "0.080000000", "currency": "USD"},
        "cost_per_million_samples": {"amount": "1250.000000000", "currency": "USD"},
        "cost_per_million_tokens": {"amount": "10.000000000", "currency": "USD"},
    }  # fmt: skip
    assert view.job_progress(pb.Job(), "USD") is None
    unknown = view.job_progress(job(cost_unknown=True), "USD")
    assert unknown is not None
    assert unknown["cost_per_step"] is None


def test_the_sdk_has_it_with_money_and_spans() -> None:
    told = results.job(job()).progress
    assert told is not None
    assert told.cost_per_step == Money(80_000_000, "USD")
    assert told.cost_per_million_tokens == Money(10**10, "USD")
    assert told.left is not None
    assert (told.left.total_seconds(), told.goodput_ratio, told.step) == (440.0, 0.85, 120)
    assert results.job(pb.Job()).progress is None


def test_show_says_how_far_how_fast_where_the_time_went_and_what_a_step_costs() -> None:
    told = {"progress": view.job_progress(job(), "USD"), "progress_problem": None}
    assert progress_pairs(told) == [
        ("steps", "120 of 1,000 (12 %), 2/s, 7m20s left"),
        ("samples", "7,680, 1,250.00 USD per million"),
        ("tokens", "960,000, 16,000/s, 10.00 USD per million"),
        ("goodput", "85 %: 70 % compute, 15 % communication, 10 % waiting for data, 5 % checkpoints"),
        ("mfu", "41.2 %"),
        ("cost per step", "0.0800 USD"),
    ]
    lie = {"progress": None, "progress_problem": "Expected `int` >= 0 - at `$.step`"}
    assert progress_pairs(lie) == [
        ("progress", "its file is not believed: Expected `int` >= 0 - at `$.step`")
    ]
    bare = view.job_progress(pb.Job(progress=pb.Progress(step=7)), "USD")
    assert [pair for pair in progress_pairs({"progress": bare, "progress_problem": None}) if pair[1]] == [
        ("steps", "7"), ("cost per step", "0.00 USD"),
    ]  # fmt: skip


# --- the two lines of a program


def test_a_report_is_written_whole_once_a_second_and_at_the_end(tmp_path: Path) -> None:
    clock, file = VirtualClock(), tmp_path / "progress"
    told = progress.Reporter(str(file), clock.boot_us)
    told.report(ProgressFile(step=1, total=9))
    told.report(ProgressFile(step=2))
    assert json.loads(file.read_bytes()) == {"step": 1, "total": 9}
    clock.advance(1_000_000)
    told.report(ProgressFile(step=3))
    assert json.loads(file.read_bytes()) == {"step": 3}
    told.report(ProgressFile(step=4))
    told.flush()
    assert json.loads(file.read_bytes()) == {"step": 4}
    assert [one.name for one in tmp_path.iterdir()] == ["progress"]


def test_a_program_goes_on_where_its_progress_cannot_be_written(tmp_path: Path) -> None:
    for nowhere in (str(tmp_path / "gone" / "progress"), ""):
        progress.Reporter(nowhere, VirtualClock().boot_us).report(ProgressFile(step=1))
    assert list(tmp_path.iterdir()) == []


def test_one_process_of_a_node_tells_and_none_outside_a_job() -> None:
    assert not progress.reporter({}).listens
    assert not progress.reporter({progress.VARIABLE: "/x", "LOCAL_RANK": "1"}).listens
    assert progress.VARIABLE == progressfile.VARIABLE


@pytest.mark.parametrize("step", [-1, 1.5, "7", COUNT_MAX + 1])
def test_a_report_of_what_is_no_count_is_refused_where_it_is_made(step: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"progress.report: .*step"):
        progress.report(step)


# --- the guide


def block(language: str) -> str:
    text = (Path(__file__).parents[2] / "docs/progress.md").read_text()
    return text.split(f"```{language}\n", 1)[1].split("```", 1)[0]


def test_the_guides_python_tells_a_hundred_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = progress.Reporter(str(tmp_path / "progress"), VirtualClock().boot_us)
    monkeypatch.setattr(progress, "_own", told)
    exec(compile(block("python"), "progress.md", "exec"), {})
    told.flush()
    assert read_progress((tmp_path / "progress").read_bytes()) == Progress(step=100, total=100, samples=6_400)


def test_the_guides_shell_tells_three_steps(tmp_path: Path) -> None:
    file = tmp_path / "progress"
    subprocess.run(
        ["bash", "-ec", block("bash")], env={**os.environ, progress.VARIABLE: str(file)}, check=True
    )
    assert read_progress(file.read_bytes()) == Progress(step=3, total=3)


def test_the_guide_shows_what_show_says() -> None:
    told = job()
    told.progress.samples_per_second = 128.0
    pairs = progress_pairs({"progress": view.job_progress(told, "USD"), "progress_problem": None})
    assert block("text") == "".join(f"{name:<13}  {text}\n" for name, text in pairs)
