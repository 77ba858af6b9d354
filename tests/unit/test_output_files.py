"""Where a job's output goes beside its log: how it is asked for, and which file that is for each member."""

from __future__ import annotations

import msgspec
import pytest

from bursar.codec.launch import launch_from_bytes, launch_to_bytes
from bursar.codec.spec import spec_from_wire, spec_to_wire
from bursar.errors import InvalidRequest
from bursar.jobfile import RunFlags, parse_job, parse_script, spec_from_flags
from bursar.jobfile.render import spec_to_yaml
from bursar.model import NO_FILES, EndCause, JobSpec, Launch, OutputFiles, RetrySpec, launch_of
from bursar.steps.patterns import fill, of_a_task, of_an_array_task, words_of
from bursard.fleet.outputs import output_files
from bursard.fleet.testing import FACTS, World
from bursard.fleet.words import Assign
from bursard.state import AttemptRecord, JobRecord

ENV = {"SLURM_JOB_ID": "12", "BURSAR_JOB_NUMBER": "12"}
TASK = {"SLURM_JOB_ID": "48000445", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "37"}


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("out.log", "out.log"),
        ("%x-%j.out", "train-12.out"),
        ("%5j_%3n_%t", "00012_001_1"),
        ("%N/%h-%u", "node-b/node-b-ann"),
        ("%J %s %A", "12 batch 12"),
        ("%a", "4294967294"),
        ("100%%-%q", "100%-%q"),
        ("%3x", "train"),
        (r"a\%j", "a%j"),
    ],
)
def test_a_pattern_names_a_file_as_in_slurm(pattern: str, name: str) -> None:
    assert fill(pattern, words_of(ENV, node="node-b", index=1, rank=1, user="ann", name="train")) == name


def test_a_task_of_an_array_has_its_index_and_the_number_of_all() -> None:
    words = words_of(TASK, node="n", index=0, rank=0)
    assert fill("%A_%a %4a %b %j", words) == "12_37 0037 7 48000445"
    file = words_of({"BURSAR_JOB_NUMBER": "12", "BURSAR_ARRAY_INDEX": "40"}, node="n", index=0, rank=0)
    assert fill("%A_%a %b", file) == "12_40 0"


def test_a_pattern_tells_whether_members_or_tasks_share_its_file() -> None:
    assert [of_a_task(each) for each in ("%N", "%n.log", "%t", "%h", "%j_%a", r"\%N")] == [True] * 4 + [
        False
    ] * 2
    assert [of_an_array_task(each) for each in ("%a", "%j", "%J", "%A", "x", r"\%a")] == [True] * 3 + [
        False
    ] * 3


def files(spec: JobSpec, number: int = 1, rank: int = 0) -> OutputFiles:
    job = JobRecord(id="job_1", number=12, user="ann", spec=spec, order=0, submitted_at=0)
    attempt = AttemptRecord(
        id="att_1",
        job_id=job.id,
        number=number,
        members=[],
        option=0,
        placed_at=0,
        time_limit_us=0,
        grace_us=0,
        holds=(),
    )
    return output_files(job, attempt, rank, f"n{rank}", ENV)


def test_a_member_gets_its_files_with_no_pattern_left() -> None:
    spec = JobSpec(name="train", output_file="out/%x-%j.%n", error_file="%u-%N.err")
    assert files(spec, rank=2) == OutputFiles(output="out/train-12.2", error="ann-n2.err")
    assert files(JobSpec()) is NO_FILES


@pytest.mark.parametrize(
    ("mode", "number", "appends"),
    [("", 1, False), ("", 2, True), ("append", 1, True), ("truncate", 2, False)],
)
def test_a_later_attempt_goes_on_behind_the_first_unless_the_job_says_otherwise(
    mode: str, number: int, appends: bool
) -> None:
    assert files(JobSpec(output_file="o", open_mode=mode), number).append is appends


def test_what_goes_nowhere_needs_no_file_and_keeps_the_other_one_apart() -> None:
    assert files(JobSpec(output_file="/dev/null")) is NO_FILES
    assert files(JobSpec(output_file="/dev/null", error_file="/dev/null")) is NO_FILES
    assert files(JobSpec(error_file="/dev/null")) is NO_FILES
    assert files(JobSpec(output_file="/dev/null", error_file="e")) == OutputFiles(error="e")
    assert files(JobSpec(output_file="o", error_file="/dev/null")) == OutputFiles(
        output="o", error="/dev/null"
    )


def test_a_launch_carries_the_files_of_who_runs_something_alone() -> None:
    named = OutputFiles(output="o", append=True)
    for spec, rank, found in (
        (JobSpec(script="true"), 0, named),
        (JobSpec(script="true", nodes=2), 1, named),
        (JobSpec(script="true", nodes=2, launch="mpi"), 0, named),
        (JobSpec(script="true", nodes=2, launch="once"), 1, NO_FILES),
        (JobSpec(script="true", nodes=2, launch="once", setup="true"), 1, NO_FILES),
    ):
        launch = launch_of(spec, {}, rank, output_files=named)
        assert launch.output_files == found
        assert launch_from_bytes(launch_to_bytes(launch)) == launch
    assert b"output" not in launch_to_bytes(launch_of(JobSpec(script="true"), {}))


# ------------------------------------------------------------------ how it is asked for

ASKED = {"output_file": "out/%j.log", "error_file": "/data/%j.err", "open_mode": "append"}


def test_file_flags_and_directives_say_it_and_it_is_written_down_and_sent_whole() -> None:
    lines = "".join(f"{key}: {value}\n" for key, value in ASKED.items())
    spec = parse_job(f"run: x\n{lines}", "job.yaml", "/home/u")
    assert {key: getattr(spec, key) for key in ASKED} == ASKED
    assert parse_job(spec_to_yaml(spec), "job.yaml", "/home/u") == spec
    assert spec_from_wire(spec_to_wire(spec)) == spec
    flags = spec_from_flags(RunFlags(command=("x",), **ASKED))
    assert {key: getattr(flags, key) for key in ASKED} == ASKED
    for names in ("--output {} --error {} --open-mode {}", "-o {} -e {} --open-mode=a"):
        text = f"#!/bin/sh\n#SBATCH {names.format(*ASKED.values())}\ntrue\n"
        script, said = parse_script(text, "s.sh", "/home/u")
        assert ({key: getattr(script, key) for key in ASKED}, said) == (ASKED, ())
    own = "#!/bin/sh\n#SBATCH -o a -e b\n#BURSAR --output-file c\ntrue\n"
    script, _ = parse_script(own, "s.sh", "/home/u", flags=RunFlags(error_file="d"))
    assert (script.output_file, script.error_file) == ("c", "d")


def test_the_words_of_others_are_second_names() -> None:
    spec = parse_job("run: x\noutput: a\nerror: b\n", "job.yaml", "/home/u")
    assert (spec.output_file, spec.error_file) == ("a", "b")
    with pytest.raises(InvalidRequest, match="unknown key 'stdout'; write output_file"):
        parse_job("run: x\nstdout: a\n", "job.yaml", "/home/u")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("output_file: ~/x", "job.yaml:2:14: output_file: '~/x': ~ is not expanded; write the whole path"),
        ("output_file: ''", "job.yaml:2:14: output_file: is empty; give a name or leave the key out"),
        (
            "output_file: x\nopen_mode: a",
            "job.yaml:3:12: open_mode: 'a' is not one of truncate, append",
        ),
        ("open_mode: append", "job.yaml:2:12: open_mode: says how output_file is opened; there is none"),
        (
            "nodes: 2\nerror_file: x-%j",
            "job.yaml:3:13: error_file: is one file, and 2 nodes would write into it; put %N (the node) or %n"
            " (its rank) into the name",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(lines: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_job(f"run: x\n{lines}\n", "job.yaml", "/home/u")
    assert said in caught.value.message


def test_one_file_is_right_for_a_gang_of_which_one_member_runs() -> None:
    for lines in ("launch: once", "launch: mpi"):
        assert parse_job(f"run: x\nnodes: 2\noutput: x\n{lines}\n", "j.yaml", "/").output_file == "x"
    assert parse_script("#!/bin/sh\n#SBATCH -N2 -o x\ntrue\n", "s.sh", "/")[0].output_file == "x"
    assert parse_job("run: x\nnodes: 2\noutput: x.%n\n", "j.yaml", "/").output_file == "x.%n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-o log --array=0-3", "--output"),
        ("--open-mode=append", "says how --output is opened, which is not there"),
    ],
)
def test_what_may_surprise_is_said_with_its_line(line: str, said: str) -> None:
    _, notes = parse_script(f"#!/bin/sh\n#SBATCH {line}\ntrue\n", "s.sh", "/home/u")
    assert [note.line for note in notes] == [2]
    assert said in notes[0].message or notes[0].message.startswith(
        "-o is one file for all tasks of the array"
    )


def test_an_array_whose_tasks_have_files_of_their_own_is_no_surprise() -> None:
    for name in ("%A_%a.log", "%j", "/dev/null"):
        assert parse_script(f"#!/bin/sh\n#SBATCH -o {name} -a 0-3\ntrue\n", "s.sh", "/home/u")[1] == ()


def test_a_file_to_read_from_is_refused_with_what_reads_it() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_script("#!/bin/sh\n#SBATCH -i in.txt\nwc\n", "s.sh", "/home/u")
    assert (
        caught.value.message == "s.sh:2:9: -i: standard input is empty; begin the script with `exec < in.txt`"
    )
    assert parse_script("#!/bin/sh\n#SBATCH --input=/dev/null\nwc\n", "s.sh", "/home/u")[1] == ()
    with pytest.raises(InvalidRequest, match="'x' is not append or truncate"):
        parse_script("#!/bin/sh\n#SBATCH --open-mode=x -o f\nwc\n", "s.sh", "/home/u")


def test_specs_that_were_stored_before_have_no_files() -> None:
    assert msgspec.json.decode(b"{}", type=JobSpec).output_file == ""
    assert msgspec.json.encode(JobSpec()) == b"{}"


def test_each_attempt_is_told_its_files_and_the_second_one_to_go_on_with_them() -> None:
    world = World()
    world.backend.connect(FACTS)
    told: list[Launch] = []
    assign = world.backend.assign

    def hear(node_id: str, order: Assign) -> None:
        told.append(launch_from_bytes(order.launch))
        assign(node_id, order)

    world.backend.assign = hear  # type: ignore[method-assign]
    job = world.submit(name="train", output_file="%x-%j.%N", retry=RetrySpec(("failed",), 1))
    world.cycle()
    assert job.attempt is not None
    world.exited_of(job.attempt, EndCause.FAILED, exit_code=1)
    world.writer.flush()
    world.cycle()
    name = f"train-{job.number}.n-1"
    assert [launch.output_files for launch in told] == [
        OutputFiles(output=name), OutputFiles(output=name, append=True),
    ]  # fmt: skip
