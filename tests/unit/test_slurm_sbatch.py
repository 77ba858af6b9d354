"""`sbatch`: where its options end, what becomes of them, and that no line of the script moves."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bursar.errors import InvalidRequest
from bursar.jobfile import options
from bursar.jobfile.script import Caller, parse_script
from bursar.model import JobSpec
from bursar.steps import names, queue, sbatch, srun

SCRIPT = "#!/bin/bash\n#SBATCH --nodes=2\necho\n"
BURSAR = "/steps/bin/bursar"


class Ran:
    """Each command of `bursar` that was run, the file it was given, and the options told beside it."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.scripts: list[str] = []
        self.options: list[str] = []
        self.stdout = "77\n"
        self.code = 0

    def __call__(self, command: list[str], env: dict[str, str] | None = None, **kwargs: Any) -> Any:
        files = [Path(word) for word in command if "/tmp" in word and Path(word).is_file()]
        self.scripts += [path.read_text() for path in files]
        self.commands.append([Path(word).name if Path(word) in files else word for word in command])
        self.options.append((env or {}).get(names.SBATCH_WORDS, ""))
        return subprocess.CompletedProcess(command, self.code, self.stdout)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    made = Ran()
    monkeypatch.setattr(sbatch.subprocess, "run", made)
    monkeypatch.setenv(names.DIRECTORY, "/steps")
    for name in sbatch.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return made


def test_its_table_is_that_of_directives() -> None:
    """The programs of steps run without the libraries that directives are read with."""
    known = {one.name: one.value for one in options.OPTIONS.values()}
    known |= {alias: known[name] for alias, name in options.ALIASES.items()}
    known["kill-on-invalid-dep"] = "yes"
    assert {name for name, value in known.items() if value == "yes"} == sbatch.VALUES
    assert {name for name, value in known.items() if value != "yes"} == sbatch.FLAGS
    assert options.SHORT == sbatch.SHORT


def test_a_script_goes_on_as_it_is_and_its_options_beside_it(
    ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "run.sh"
    script.write_text(SCRIPT)
    words = ["-N4", "--job-name", "a b", "-H", "--time=1:00", str(script), "x", "-y"]
    assert queue.main("sbatch", words) == 0
    assert ran.commands == [[BURSAR, "submit", "--parsable", "run.sh", "x", "-y"]]
    assert ran.scripts == [SCRIPT]
    assert ran.options == ["--nodes=4 '--job-name=a b' --hold --time=1:00"]
    assert capsys.readouterr().out == "Submitted batch job 77\n"


class Waits:
    """`bursar` with a job that ends so: the codes of the job, and of its tasks."""

    def __init__(self, waited: int, *codes: int | None) -> None:
        self.waited, self.codes, self.asked = waited, codes, list[str]()
        self.said_before = ""

    def __call__(self, command: list[str], **kwargs: Any) -> Any:
        verb = command[1]
        self.asked.append(verb)
        if verb == "wait":
            self.said_before = sys.stdout.getvalue()  # type: ignore[attr-defined]
            return subprocess.CompletedProcess(command, self.waited, "")
        shown = {"submit": "77\n", "show": json.dumps({"exit_code": self.codes[0] if self.codes else None})}
        listed = json.dumps([{"exit_code": code} for code in self.codes[1:]])
        return subprocess.CompletedProcess(command, 0, shown.get(verb, listed))


@pytest.mark.parametrize(
    ("waited", "codes", "code"),
    [
        (0, (0,), 0),
        (1, (3,), 3),
        (1, (None, 0, 4, 2), 4),
        (1, (None,), 1),
        (5, (), 5),
    ],
)
def test_with_wait_it_says_the_number_at_once_and_ends_as_the_job_does(
    monkeypatch: pytest.MonkeyPatch, waited: int, codes: tuple[int | None, ...], code: int
) -> None:
    made = Waits(waited, *codes)
    monkeypatch.setenv(names.DIRECTORY, "/steps")
    monkeypatch.setattr(sbatch.subprocess, "run", made)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert queue.main("sbatch", ["-W", "--wrap", "a"]) == code
    assert made.said_before == "Submitted batch job 77\n"


@pytest.mark.parametrize(
    ("words", "command", "said"),
    [
        (["--parsable"], ["submit", "--parsable", "run.sh"], "77\n"),
        (["--quiet"], ["submit", "--parsable", "run.sh"], ""),
        (["-Q", "--pars"], ["submit", "--parsable", "run.sh"], ""),
        (["--test-only"], ["plan", "run.sh"], ""),
        (["-vv", "--"], ["submit", "--parsable", "run.sh"], "Submitted batch job 77\n"),
    ],
)
def test_the_number_is_said_as_it_is_asked_to(
    ran: Ran,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    command: list[str],
    said: str,
) -> None:
    (tmp_path / "run.sh").write_text(SCRIPT)
    assert sbatch.sbatch([*words, str(tmp_path / "run.sh")]) == 0
    assert (ran.commands, ran.scripts, ran.options) == ([[BURSAR, *command]], [SCRIPT], [""])
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--nice", "--propagate", "--get-user-env", "--exclusive"],
         "--nice --propagate --get-user-env --exclusive"),
        (["--nice=10", "--exclusive=user", "--resv-ports"], "--nice=10 --exclusive=user --resv-ports"),
        (["--depend=afterok:1", "--no-req", "--cpus_per_task", "2"],
         "--dependency=afterok:1 --no-requeue --cpus-per-task=2"),
        (["-N", "2", "-n4", "-t=5", "-s", "-k"], "--nodes=2 --ntasks=4 --time=5 --oversubscribe --no-kill"),
        (["--nodez=3"], "--nodez=3"),
        (["-L", "a", "-B", "2:2:2", "-S1"], "--licenses=a --extra-node-info=2:2:2 --core-spec=1"),
    ],
)  # fmt: skip
def test_what_stands_behind_an_option_is_its_value_only_where_it_has_one(
    ran: Ran, tmp_path: Path, words: list[str], told: str
) -> None:
    (tmp_path / "run.sh").write_text(SCRIPT)
    assert sbatch.sbatch([*words, str(tmp_path / "run.sh"), "word"]) == 0
    assert (ran.options, ran.commands[0][-2:]) == ([told], ["run.sh", "word"])


def test_variables_of_the_shell_stand_below_what_is_typed(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ACCOUNT", "nlp"), ("TIMELIMIT", "3"), ("REQUEUE", "1"), ("QOS", "")):
        monkeypatch.setenv(f"SBATCH_{name}", value)
    (tmp_path / "run.sh").write_text(SCRIPT)
    assert sbatch.sbatch(["-t5", str(tmp_path / "run.sh")]) == 0
    assert ran.options == ["--account=nlp --requeue --time=3 --time=5"]


def test_what_is_refused_says_no_number_and_has_its_code(
    ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    ran.code, ran.stdout = 5, ""
    assert sbatch.sbatch(["--wrap", "echo a"]) == 5
    assert ran.scripts == ["#!/bin/sh\necho a\n"]
    assert ran.commands == [[BURSAR, "submit", "--parsable", "wrap"]]
    assert capsys.readouterr().out == ""


def test_what_comes_in_is_a_script(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ([], ["-", "a"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("#!/bin/sh\necho\n"))
        assert sbatch.sbatch(words) == 0
    assert ran.scripts == ["#!/bin/sh\necho\n"] * 2
    assert ran.commands == [
        [BURSAR, "submit", "--parsable", "sbatch"], [BURSAR, "submit", "--parsable", "sbatch", "a"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-Z", "x"], "sbatch: error: -Z is not an option of sbatch here\n"),
        (["--nodes"], "sbatch: error: --nodes needs a value\n"),
        (["--gpus-per", "1", "x"], "sbatch: error: --gpus-per may be --gpus-per-node, --gpus-per-socket, "
         "--gpus-per-task; write it whole\n"),
        (["/no/such.sh"], "sbatch: error: /no/such.sh: No such file or directory\n"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(
    ran: Ran, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert sbatch.sbatch(words) == 2
    assert (capsys.readouterr().err, ran.commands) == (said, [])


# --- the other side, where a script is read


def submitted(text: str, typed: str) -> tuple[JobSpec, list[str]]:
    caller = Caller({names.SBATCH_WORDS: typed}, datetime(2026, 1, 1, tzinfo=UTC), "login")
    spec, notices = parse_script(text, "run.sh", "/w", caller=caller)
    return spec, [str(notice) for notice in notices]


def test_options_stand_above_directives_and_no_line_of_the_script_moves() -> None:
    spec, said = submitted(SCRIPT, "--nodes=4 '--job-name=a' --mail-type=END")
    assert (spec.nodes, spec.name, spec.script) == (4, "a", SCRIPT)
    assert said == [
        "run.sh: --mail-type is not honoured: bursar sends no mail; watch with bursar wait or bursar events"
    ]


@pytest.mark.parametrize("text", ["#!/bin/sh\necho $SLURM_JOB_ID\n", "echo $SLURM_JOB_ID"])
def test_a_script_without_directives_finds_slurms_names_too(text: str) -> None:
    spec, said = submitted(text, "")
    assert (spec.script, said) == (text.rstrip("\n") + "\n#SBATCH\n", [])
    assert ("SLURM_SUBMIT_HOST", "login") in spec.env


def test_what_is_wrong_with_an_option_is_said_of_it_and_of_a_line_by_its_number() -> None:
    with pytest.raises(InvalidRequest) as refused:
        submitted(SCRIPT, "--time=400-0 --nodez=2")
    assert str(refused.value).splitlines() == [
        "--nodez: '--nodez' is not a flag of #SBATCH that is known here; did you mean '--nodes'?",
        "--time: is 400 days; at most 366d",
    ]
    with pytest.raises(InvalidRequest) as refused:
        submitted("#!/bin/bash\n#SBATCH -N1\necho $SLURM_NODES\n", "--time=5 -N1")
    assert str(refused.value).splitlines() == [
        "run.sh:3:6: $SLURM_NODES is not set by bursar; docs/from-slurm.md lists what is; if it may be "
        "missing write ${SLURM_NODES:-} (did you mean $SLURM_NNODES?)",
    ]


def test_a_script_of_another_system_is_one_also_when_sbatch_brings_it() -> None:
    with pytest.raises(InvalidRequest, match=r"run\.sh:1:1: #PBS is a directive of PBS"):
        submitted("#PBS -l nodes=2\necho\n", "--time=5")


# --- and srun's


REAL = (
    "account acctg-freq bb bbf bcast begin chdir cluster-constraint clusters comment compress constraint "
    "container container-id contiguous core-spec cores-per-socket cpu-bind cpu-freq cpus-per-gpu "
    "cpus-per-task deadline delay-boot dependency disable-status distribution epilog error exact exclude "
    "exclusive export external extra extra-node-info gid gpu-bind gpu-freq gpus gpus-per-node "
    "gpus-per-socket gpus-per-task gres gres-flags het-group help hint hold immediate input job-name jobid "
    "kill-on-bad-exit label licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu "
    "mincpus mpi msg-timeout multi-prog network nice no-allocate no-kill nodelist nodes ntasks "
    "ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode output overcommit overlap "
    "oversubscribe partition power prefer preserve-env priority profile prolog propagate pty qos quiet "
    "quit-on-interrupt reboot relative reservation resv-ports send-libs signal slurmd-debug "
    "sockets-per-node spread-job switches task-epilog task-prolog test-only thread-spec threads "
    "threads-per-core time time-min tmp tres-bind tres-per-task treewidth uid unbuffered usage "
    "use-min-nodes verbose version wait wckey whole x11"
)
"""The options of `srun` in its manual of Slurm 23.11."""


def test_srun_knows_every_option_that_slurms_has() -> None:
    known = {option.name for option in srun.TABLE}
    assert set(REAL.split()) <= known
    assert len(known) == len(srun.TABLE)


@pytest.mark.parametrize(
    "words",
    [
        ["--immediate=60", "CMD"], ["-I", "CMD"], ["-I60", "CMD"], ["-K1", "CMD"],
        ["--cpu-bind", "cores", "CMD"],
        ["--quit-on-interrupt", "-E", "CMD"], ["--resv-ports=4", "CMD"], ["--nice", "CMD"],
        ["-T", "2", "CMD"],
        ["--network", "ib", "CMD"], ["--signal=USR1@60", "CMD"],
    ],
)  # fmt: skip
def test_an_option_of_comfort_takes_its_value_and_no_more(words: list[str]) -> None:
    assert srun.parse(words)[1] == ["CMD"]
