"""Scripts with directives: what is taken, what is said, what is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bursar.clock import SECOND_US
from bursar.errors import InvalidRequest, NotBuilt
from bursar.jobfile import Caller, Notice, looks_like_script, parse_job, parse_script
from bursar.jobfile.options import ALIASES, OPTIONS
from bursar.jobfile.site import Site, SiteNode
from bursar.jobfile.slurm import asks_of_site, is_slurm_script
from bursar.model import CheckpointSpec, Dependency, JobSpec, RetrySpec
from bursar.resources import GpuRequest, ResourceRequest

GIB = 2**30
CALLER = Caller(
    {},
    datetime(2026, 11, 27, tzinfo=UTC),
    "",
    Site((SiteNode({"node": "n1", "pool": "a", "modules": "lmod"}, 1, 1),)),
)


def script(*directives: str, body: str = "python train.py") -> str:
    return "\n".join(["#!/bin/bash", *directives, "", body, ""])


def read(*directives: str, body: str = "python train.py") -> tuple[JobSpec, tuple[Notice, ...]]:
    return parse_script(script(*directives, body=body), "dir/train.sh", "/home/u", (), caller=CALLER)


def spec_of(*directives: str) -> JobSpec:
    spec, notices = read(*directives)
    assert notices == ()
    return spec


def test_a_script_becomes_the_job_as_it_is() -> None:
    text = script("#BURSAR --gpus H100:8 --time-limit=2h", "#BURSAR --max-cost '500 USD' --env A=b # why")
    spec, notices = parse_script(text.encode(), "dir/train.sh", "/home/u", ())
    assert notices == ()
    assert spec == JobSpec(
        name="train.sh",
        options=(ResourceRequest(GpuRequest(8, ("H100",))),),
        time_limit_us=7200 * SECOND_US,
        max_cost_nanos=500 * 10**9,
        currency="USD",
        env=(("A", "b"),),
        script=text,
        workdir="/home/u",
    )


def test_the_slurm_options_that_have_a_counterpart() -> None:
    spec = spec_of(
        "#SBATCH --job-name=ft -N 2",
        "#SBATCH --gres=gpu:h100:8",
        "#SBATCH -c16",
        "#SBATCH --mem=64G",
        "#SBATCH --time 1-02:30:00",
        "#SBATCH -A NLP",
        "#SBATCH --array=0-3%2",
        "#SBATCH --dependency=afterok:12:13,afterany:14_3,afternotok:15",
        "#SBATCH --signal=B:USR1@120",
        "#SBATCH --requeue",
        "#SBATCH --comment='a b'",
        "#SBATCH --wckey=exp-1 -D /data --hold",
    )
    assert spec.name == "ft"
    assert spec.nodes == 2
    assert spec.options == (ResourceRequest(GpuRequest(8, ("H100",)), 16_000, 64 * GIB),)
    assert spec.time_limit_us == (26 * 3600 + 1800) * SECOND_US
    assert spec.project == "nlp"
    assert spec.array is not None
    assert (spec.array.indices, spec.array.max_parallel) == ((0, 1, 2, 3), 2)
    assert spec.depends_on == (
        Dependency("12"),
        Dependency("13"),
        Dependency("14[3]", "finished"),
        Dependency("15", "failed"),
    )
    assert spec.checkpoint == CheckpointSpec("USR1", 120 * SECOND_US, 120 * SECOND_US, script_only=True)
    assert spec.retry == RetrySpec(("node_lost", "preempted"))
    assert (spec.comment, spec.experiment, spec.workdir, spec.held) == ("a b", "exp-1", "/data", True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("2:30:15", 9015),
        ("1-0", 86_400),
        ("1-2:3", 86_400 + 7380),
        ("1-02:03:04", 86_400 + 7384),
    ],
)
def test_each_form_of_a_slurm_time(text: str, seconds: int) -> None:
    assert spec_of(f"#SBATCH -t {text}").time_limit_us == seconds * SECOND_US


@pytest.mark.parametrize(
    ("text", "size"),
    [("4000", 4000 * 2**20), ("4G", 4 * GIB), ("512K", 2**19), ("1T", 2**40), ("2GB", 2 * GIB)],
)
def test_slurm_memory_is_binary_and_in_mebibytes_by_default(text: str, size: int) -> None:
    assert spec_of(f"#SBATCH --mem={text}").options[0].memory_bytes == size


@pytest.mark.parametrize(
    ("directive", "gpus"),
    [
        ("--gres=gpu:2", GpuRequest(2)),
        ("--gres=gpu", GpuRequest(1)),
        ("--gres=gpu:a100:4(S:0-1)", GpuRequest(4, ("A100",))),
        ("--gpus-per-node=h100:4 -N 2", GpuRequest(4, ("H100",))),
        ("--gpus=16 --nodes=2", GpuRequest(8)),
        ("-G h100:8", GpuRequest(8, ("H100",))),
        ("--gpus=0", None),
    ],
)
def test_gpus_are_counted_as_slurm_counts_them(directive: str, gpus: GpuRequest | None) -> None:
    assert spec_of(f"#SBATCH {directive}").options[0].gpus == gpus


def test_tasks_become_cpus_of_a_node_and_that_is_said() -> None:
    spec, notices = read("#SBATCH -N 2 -n 8 -c 4 --mem-per-cpu=1G")
    assert spec.options == (ResourceRequest(None, 16_000, 16 * GIB),)
    assert [notice.line for notice in notices] == [2]
    assert notices[0].message.endswith("the script itself runs once, on the first node, and starts them")


@pytest.mark.parametrize(
    ("words", "spreads"),
    [
        ("-n 2", True),
        ("-n 1", False),
        ("-n 2 -N 1", False),
        ("-n 2 -w n1", False),
        ("--ntasks-per-node 2", False),
    ],
)
def test_tasks_without_a_number_of_nodes_are_told_how_slurm_would_spread_them(
    words: str, spreads: bool
) -> None:
    """Where no site is known that could tell whether they must be."""
    _, notices = parse_script(f"#!/bin/bash\n#SBATCH {words}\ntrue\n", "train.sh", "/home/u")
    said = "\n".join(notice.message for notice in notices)
    assert said.endswith("; where no node has so many, -N 2 spreads them, as Slurm would") is spreads
    spec, _ = read("#SBATCH --ntasks=8 --ntasks-per-node=4")
    assert spec.nodes == 2


def test_what_cannot_be_honoured_is_said_by_line() -> None:
    spec, notices = read(
        "#SBATCH --partition=gpu",
        "#SBATCH -o out.%j -e err.%j",
        "#SBATCH --qos=high --mail-type=END",
        "#SBATCH --overcommit",
        "#SBATCH --time=UNLIMITED",
        "#SBATCH --gres=gpu:1,nvme:1 --job-name='my run'",
        body="module load cuda; python train.py\nsqueue -j 1\n#SBATCH --nodes=9",
    )
    assert spec.nodes == 1
    assert spec.name == "my-run"
    said = [str(notice) for notice in notices]
    for line, fragment in [
        (2, "--partition is not honoured"),
        (4, "--mail-type is not honoured"),
        (5, "--overcommit is not honoured"),
        (6, "--time sets no limit"),
        (7, "'nvme:1' is not honoured"),
        (7, "becomes my-run"),
        (9, "module asks for nodes that have it"),
        (11, "after the first command"),
    ]:
        assert any(text.startswith(f"dir/train.sh:{line}: ") and fragment in text for text in said), fragment
    assert len(said) == 8
    assert (spec.output_file, spec.error_file) == ("out.%j", "err.%j")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "cat >a.sh <<EOF\n#!/bin/sh\n#SBATCH -N 2\nEOF\nsbatch a.sh",
            ["4: is of the script that this here-document writes, and is not read here"],
        ),
        (
            "sbatch <<-'E'\n#SBATCH -N 2\n#BURSAR --nodes 2\n#SBATCH -n 2\n\tE\n#SBATCH -c 2",
            [
                "3: is of the script that this here-document writes, and is not read here (nor are 2 more"
                " below)",
                "7: stands after the first command and is not read, as in Slurm",
            ],
        ),
        (
            "echo '<<E'\n#SBATCH -N 2\n#SBATCH -n 2",
            ["3: stands after the first command and is not read, as in Slurm (nor is 1 more below)"],
        ),
    ],
)
def test_a_directive_that_is_not_read_is_said_to_be_of_an_inner_script_or_late(
    body: str, said: list[str]
) -> None:
    _, notices = parse_script(f"#!/bin/bash\n{body}\n", "a.sh", "/w")
    assert [f"{notice.line}: {notice.message}" for notice in notices] == said


@pytest.mark.parametrize(
    ("directive", "fragment"),
    [
        ("#SBATCH --job-nane=a", "did you mean '--job-name'?"),
        (
            "#SBATCH --ntasks-per=4",
            "may be --ntasks-per-core, --ntasks-per-gpu, --ntasks-per-node, --ntasks-per",
        ),
        ("#SBATCH -Z 4", "'-Z' is not a flag of #SBATCH that is known here"),
        ("#SBATCH hetjob", "jobs of unequal parts"),
        ("#SBATCH --nodes=1 : --nodes=2", "jobs of unequal parts"),
        ("#SBATCH --reservation=maint", "leave the line out (`bursar reserve ls`)"),
        ("#SBATCH --licenses=abaqus:2", "licences are not counted"),
        ("#SBATCH --wrap='echo a'", "the script itself is the command"),
        ("#SBATCH --gres=fpga:2", "'fpga:2' cannot be had: only gpu is counted"),
        ("#SBATCH --nodelist=n[1-2] --nodes=3", "--nodelist: names 2 nodes for a job of 3"),
        ("#SBATCH --nodelist=/etc/hosts", "is not a list of nodes"),
        ("#SBATCH --exclude=n[1", "--exclude: 'n[1' is not a list of nodes"),
        ("#SBATCH --constraint=a|b&c", "features are joined by &, and by | where one of several is enough"),
        ("#SBATCH --account=abc@xyz", "'xyz' behind the @ is no type of GPU"),
        ("#SBATCH --account=abc@a100 --gres=gpu:v100:1", "asks for v100, and another line for A100"),
        ("#SBATCH --dependency=after:12+5", "a delay after a start is not supported"),
        ("#SBATCH --dependency=expand:12", "'expand:12' is not supported"),
        ("#SBATCH --nodes", "--nodes: has no value"),
        ("#SBATCH nodes=4", "'nodes=4' is not a flag"),
        ("#SBATCH --comment='a", "close the quotes"),
        ("#SBATCH --mem=lots", "--mem: 'lots' is not a size"),
        ("#SBATCH --mem=99999T", "at most 100 TB"),
        ("#SBATCH --time=1h", "--time: '1h' is not a Slurm time"),
        ("#SBATCH -t 0:00", "-t: '0:00' is no time at all"),
        ("#SBATCH --gres=gpu:h100:4,gpu:a100:4", "GPUs of one type"),
        ("#SBATCH --gres=gpu:h100:many", "gpu:TYPE:COUNT"),
        ("#SBATCH --gpus=3 -N 2", "--gpus: 3 do not divide over 2 nodes"),
        ("#SBATCH --gpus-per-node=99", "--gpus-per-node: is '99' GPUs"),
        ("#SBATCH --ntasks=0", "--ntasks: '0' is not a whole number"),
        ("#SBATCH --dependency=afterok:1?afterok:2", "'?' (any of them)"),
        ("#SBATCH --signal=KILL@60", "--signal: 'KILL' cannot be caught"),
        ("#SBATCH --signal=@@", "[B:]SIGNAL[@SECONDS]"),
        ("#SBATCH --array=0-100000", "--array: '0-100000' has more than 100000"),
        ("#SBATCH --begin=sometime", "--begin: 'sometime' is not a time: now+1hour, 16:00"),
        ("#SBATCH --account=a//b", "--account: 'a//b' is not a project path"),
        ("#SBATCH -J ///", "holds no letter or digit"),
        ("#BURSAR --gpu 8", "did you mean '--gpus'?"),
        ("#BURSAR --gpus", "--gpus: has no value"),
        ("#BURSAR -N 4", "'-N' is not a flag of #BURSAR"),
        ("#BURSAR --time_limit 4h", "did you mean '--time-limit'?"),
        ("#BURSAR --spot=yes", "--spot: takes no value"),
        ("#BURSAR --max-cost 500 USD", "'USD' is not a flag; quote a value"),
        ("#BURSAR --gpus H100:99", "--gpus: is '99' GPUs"),
    ],
)
def test_a_wrong_directive_is_a_fault_on_its_line(directive: str, fragment: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read("# a comment", directive)
    assert {fault.line for fault in caught.value.faults} == {3}
    assert fragment in caught.value.message


def test_the_deadline_of_another_scheduler_is_one_that_is_promised() -> None:
    spec = spec_of("#SBATCH --deadline=2026-10-01T00:00:00")
    assert (spec.deadline_at, spec.deadline_policy) == (1_790_812_800_000_000, "promise")
    with pytest.raises(NotBuilt, match="a promise to an array"):
        read("#SBATCH --deadline=2026-10-01T00:00:00", "#SBATCH --array=0-3")


def test_our_directives_win_over_those_of_slurm() -> None:
    spec = spec_of("#BURSAR --nodes 3 --time-limit 5m --after x", "#SBATCH --nodes=2 --time=99 -d afterok:7")
    assert (spec.nodes, spec.time_limit_us) == (3, 300 * SECOND_US)
    assert spec.depends_on == (Dependency("x"),)


def test_directives_count_only_before_the_first_command() -> None:
    spec, notices = read("set -e", "#SBATCH --nodes=2", "#BURSAR --nodes 3")
    assert spec.nodes == 1
    assert [notice.line for notice in notices] == [3]


def test_a_directive_that_is_commented_out_is_a_comment() -> None:
    assert spec_of("##SBATCH --nodes=2", "# SBATCH --nodes=3", "#SBATCHES").nodes == 1


@pytest.mark.parametrize("first", ["#!/bin/bash", "#!/usr/bin/env python3", "#SBATCH --mem=1G"])
def test_a_script_stays_to_the_letter_what_it_was_whatever_words_it_is_given(first: str) -> None:
    words = ["a b", "$x", "it's", '"', "back\\slash", "#", "", "line\nend"]
    text = f"{first}\n#SBATCH --account=a/b\n\nx = 1\n"
    spec, _ = parse_script(text, "a.sh", "/", words)
    assert (spec.script, spec.arguments, spec.project) == (text, tuple(words), "a/b")
    assert parse_script(spec.script, "a.sh", "/", words)[0] == spec


def test_a_blank_behind_the_word_of_slurm_may_be_left_out() -> None:
    text = "#!/bin/bash\n#SBATCH--mem=1G\n#SBATCH-c2\n#BURSAR--project p/q\ntrue\n"
    spec, notes = parse_script(text, "a.sh", "/", ())
    assert (spec.options[0].memory_bytes, spec.options[0].cpu_milli, spec.project) == (1 << 30, 2_000, "p/q")
    assert notes == ()
    assert is_slurm_script("#SBATCH--mem=1G\n")
    assert not is_slurm_script("#SBATCHES\n")
    assert asks_of_site("#SBATCH--partition=a\n").names


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("#PBS -l walltime=01:00:00", "of PBS, which is not read here; write #BURSAR with --time-limit"),
        ("#PBS -l select=2:ncpus=8", "write #BURSAR with --nodes and --cpus"),
        ("#PBS -lmem=4gb", "write #BURSAR with --memory"),
        ("#PBS -N train", "write #BURSAR with --name"),
        ("#PBS -q fast", "nothing here needs it: leave it out"),
        ("#PBS", "write #BURSAR with --nodes, --cpus, --gpus, --memory or --time-limit"),
        ("#BSUB -W 1:00", "#BSUB is a directive of LSF, which is not read here; write"),
        ("#BSUB -n4", "write #BURSAR with --cpus"),
        ("#$ -pe smp 4", "#$ is a directive of Grid Engine, which is not read here;"),
        ("#$ -l h_rt=3600", "write #BURSAR with --time-limit"),
        ("#OAR -l nodes=2", "a directive of OAR"),
        ("#COBALT -n 2", "write #BURSAR with --nodes"),
        ("#PJM -L elapse=1:00", "write #BURSAR with --time-limit"),
        ("# flux: --time-limit=1h", "write #BURSAR with --time-limit"),
    ],
)  # fmt: skip
def test_directives_of_other_systems_are_refused_by_line_with_what_to_write(line: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_script(f"#!/bin/bash\n\n{line}\ntrue\n", "a.sh", "/", ())
    [fault] = refused.value.faults
    assert fault.line == 3
    assert said in fault.message


def test_a_script_for_us_too_may_hold_the_directives_of_others() -> None:
    for text in ("#PBS -N x\n#SBATCH -N 1\ntrue", "# PBS, #$HOME, #PBSX\ntrue", "true\n#PBS -N x"):
        assert parse_script(f"#!/bin/bash\n{text}\n", "a.sh", "/", ())[0].nodes == 1


@pytest.mark.parametrize(
    ("source", "text", "said"),
    [
        ("plain.sh", "echo hi\n", "begin it with `#!/bin/bash`, or run it: `bursar run -- bash plain.sh`"),
        ("x/my run.sh", "a: b\n", "`bursar run -- bash 'x/my run.sh'`"),
        ("t.py", "import os\nprint({'a': 1})\n", "python3`, or run it: `bursar run -- python3 t.py`"),
        ("t.py", '"""x: y"""\nif a:\n\tb()\n', "looks like a script"),
        ("<stdin>", "echo hi", "`bursar run -- bash FILE`"),
    ],
)  # fmt: skip
def test_a_script_without_its_first_line_is_told_from_a_job_file(source: str, text: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_job(text, source, "/")
    [fault] = refused.value.faults
    assert (fault.line, fault.message.startswith("looks like a script, not a job file")) == (1, True)
    assert said in fault.message


IN_A_JOB_FILE = "a script that runs once is not run in a container; write `image` in a job file"
NOT_DONE = "not done by bursar; docs/containers.md says what a container has"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("container=x", "OCI bundles are not taken; write a job file with `image`"),
        ("container-image=x", IN_A_JOB_FILE),
        ("container-image x", IN_A_JOB_FILE),
        ("container-mounts=/a:/b", IN_A_JOB_FILE),
        *(
            (one, NOT_DONE)
            for one in ("container-name=n", "container-mount-home", "no-container-remap-root",
                        "container-writable", "container-entrypoint", "container-workdir=/w")
        ),
    ],
)  # fmt: skip
def test_every_option_of_containers_says_what_is_done_instead(option: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(f"#SBATCH --{option}")
    [fault] = refused.value.faults
    assert fault.message == said


def test_no_option_is_suggested_that_is_refused_in_its_turn() -> None:
    for name, option in (OPTIONS | {alias: OPTIONS[name] for alias, name in ALIASES.items()}).items():
        with pytest.raises(InvalidRequest) as refused:
            read(f"#SBATCH --{name}x=1")
        near = refused.value.faults[0].nearest
        assert near is None or OPTIONS[ALIASES.get(near[2:], near[2:])].fate != "refused", (name, option)


def test_a_script_of_another_interpreter_keeps_its_first_line() -> None:
    text = "#!/usr/bin/env python3\n#BURSAR --gpus 1\nprint(1)\n"
    spec, _ = parse_script(text, "a.py", "/", ())
    assert spec.script == text


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("#!/bin/bash\r\necho hi\r\n", "DOS line ends"),
        ("#!/bin/bash\n#SBATCH -N 2\n", "has no commands"),
        (b"#!/bin/bash\necho \xff\n", "not UTF-8"),
        (b"\x7fELF\x00\x00", "control character"),
        ("#!/bin/bash\n" + "echo hi\n" * 9000, "64 kB"),
    ],
)
def test_a_file_that_is_no_script_is_refused(text: str | bytes, fragment: str) -> None:
    with pytest.raises(InvalidRequest, match=fragment):
        parse_script(text, "a.sh", "/", ())


def test_a_script_is_told_from_a_job_file() -> None:
    assert looks_like_script("#!/bin/sh\necho\n")
    assert looks_like_script(b"\n# x\n#SBATCH -N 1\necho\n")
    assert looks_like_script("#BURSAR --gpus 1\necho\n")
    assert not looks_like_script("# a job\nrun: |\n  #SBATCH -N 1\n")
    assert not looks_like_script("run: x\n#SBATCH -N 1\n")
    assert not looks_like_script("")
    assert not looks_like_script(b"\xff\xfe")


def test_names_that_are_taken_from_files_are_legal() -> None:
    assert parse_script("echo\n", "-", "/", ())[0].name == ""
    assert parse_script("echo\n", "<stdin>", "/", ())[0].name == ""
    assert parse_script("echo\n", "/x/my job (1).sh", "/", ())[0].name == "my-job-1-.sh"
    assert parse_script("echo\n", "42", "/", ())[0].name == "job-42"


@pytest.mark.parametrize("word", ["BURSAR --name", "SBATCH --job-name"])
def test_a_stray_word_is_shown_where_it_stands(word: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_script(f"#!/bin/bash\n#{word}=my name\ntrue\n", "a.sh", "/w")
    [fault] = refused.value.faults
    assert (fault.line, fault.column, fault.field) == (2, len(word) + 6, "")
    assert fault.message.startswith("'name' is not a flag; quote a value that holds spaces")
