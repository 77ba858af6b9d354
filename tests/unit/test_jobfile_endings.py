"""Scripts that lose the end of what they start are told so, by line, with what helps; and no other."""

from __future__ import annotations

import pytest

from bursar.jobfile import shell
from bursar.jobfile.endings import lost_ends
from bursar.jobfile.request import job_of_file
from bursar.jobfile.script import parse_script

HEAD = "#!/bin/bash\n#SBATCH -N1\n"


def said(body: str, head: str = HEAD) -> list[str]:
    text = head + body
    found = lost_ends(text, shell.scan(text))
    return [f"{text.count(chr(10), 0, offset) + 1}: {sentence}" for offset, sentence in found]


def test_a_launcher_before_a_pipe_is_told_with_its_line_and_what_helps() -> None:
    assert said("cd x\nsrun python train.py 2>&1 | tee log\n") == [
        "4: srun stands before a pipe, which ends as `tee` does: the job can end SUCCEEDED though it failed;"
        " write `set -o pipefail` above it"
    ]
    (one,) = said("srun bash -c 'echo a; exit 3' 2>&1 | tee x.log\n")
    assert "which ends as `tee` does" in one
    (one,) = said("srun a | tee b\ntime srun c |& cat\nmpirun d | tee e\n")
    assert one.endswith("above it (and for 2 more below)")
    (one,) = said("srun a | tee b\n", "#!/bin/sh\n#SBATCH -N1\n")
    assert one.endswith("begin with #!/bin/bash, and write `set -o pipefail` above it")


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("python train.py &\n", "python"),
        ("echo start\nfor s in 1 2; do\n  python train.py $s &\ndone\n", "python"),
        ("nohup ./serve.sh > log 2>&1 &\ndisown\nexit 0\n", "nohup"),
        ("(cd x; ./run.sh > log 2>&1) &\n", "what"),
        ("for s in 1 2; do ./run.sh $s; done &\necho started\n", "what"),
        ("python train.py &\necho started\nsleep 1\nexit 0\n", "python"),
        ("nohup python train.py > log 2>&1 &\nexit 0\n", "nohup"),
    ],
)
def test_whatever_is_last_and_in_the_background_is_told(body: str, name: str) -> None:
    found = said(body)
    assert [one.split()[1] for one in found] == [name]


def test_whatever_tee_hides_the_end_of_is_told() -> None:
    (one,) = said("python train.py 2>&1 | tee log\n")
    assert one.startswith("3: python stands before a pipe, which ends as `tee` does")
    (one,) = said("$LAUNCHER $CMD | tee log\n")
    assert one.startswith("3: what this line starts stands before a pipe")
    assert said("python a | sort > b\necho a | tee b\n") == []


@pytest.mark.parametrize(
    "body",
    [
        "(nvidia-smi dmon > gpu.log) &\npython train.py\n",
        "nvidia-smi dmon > gpu.log &\npython train.py\n",
        "python a &\nwait\n",
    ],
)
def test_what_looks_on_while_others_work_is_not(body: str) -> None:
    assert said(body) == []


def test_one_in_the_background_that_nothing_waits_for_is_told() -> None:
    assert said("srun -N1 a &\nsrun -N1 b &\necho done\n") == [
        "3: srun runs in the background and nothing waits for it: it is ended with the script; write"
        " `wait` below it, unless that is meant (and for 1 more below)"
    ]
    (one,) = said("for i in 1 2; do\n  srun -n1 run $i > o.$i 2>&1 &\ndone\n")
    assert one.startswith("4: srun runs in the background")


@pytest.mark.parametrize(
    "body",
    [
        "set -o pipefail\nsrun a | tee b\n",
        "set -euo pipefail\nsrun a | tee b\n",
        "srun a | tee b\nexit ${PIPESTATUS[0]}\n",
        "X=$(srun a | tail -1)\n",
        "X=`srun a | tail -1`\n",
        "diff <(srun a | sort) b\n",
        "srun hostname | sort\n",
        "srun --ntasks=2 nvidia-smi -L | tee gpus\n",
        "echo a | srun b\n",
        "cat x | srun -n1 y > z\n",
        "srun a || exit 1\nsrun b && srun c\n",
        "# srun a | tee b\necho 'srun a | tee b'\ncat <<E\nsrun a | tee b\nE\n",
        "srun a 2>&1\nsrun b &> log\nsrun c >& log\n",
        "srun a &\nsrun b &\nwait\n",
        "srun a &\nP=$!\nwait $P\n",
        "f() { wait; }\nsrun a &\nf\n",
        "srun hostname &\n",
    ],
)
def test_what_loses_nothing_is_not_told(body: str) -> None:
    assert said(body) == []


def test_a_shell_that_is_told_by_its_first_line_is_heard() -> None:
    assert said("srun a | tee b\n", "#!/bin/bash -o pipefail\n#SBATCH -N1\n") == []


def test_it_is_said_where_the_script_is_read() -> None:
    _, notices = parse_script(HEAD + "srun a | tee b\n", "s.sh", "/w")
    assert [(one.line, one.message.partition(" ")[0]) for one in notices if "pipe" in one.message] == [
        (3, "srun")
    ]


def test_a_command_knows_the_sign_behind_it_and_its_place_in_a_script_in_quotes() -> None:
    found = shell.scan("a; b && c || d | e &\ntrap 'srun f |& g' TERM\n")
    shown = [(one.words[0], one.then, one.offset) for one in found.commands]
    assert shown == [
        ("a", ";", 0), ("b", "&&", 3), ("c", "||", 8), ("d", "|", 13), ("e", "&", 17), ("trap", "", 21),
        ("srun", "|&", 27), ("g", "", 37),
    ]  # fmt: skip


def file_notes(text: str) -> list[str]:
    return job_of_file(text, "j.yaml", "/w")[1]


def test_a_job_file_is_told_the_same_by_its_own_lines() -> None:
    (one,) = file_notes("name: a\nrun: |\n  cd x\n  nosuchcmd | tee log\n")
    assert one.startswith("j.yaml:4: `run`: nosuchcmd stands before a pipe, which ends as `tee` does")
    (one,) = file_notes("run: (sleep 2; echo late) &\n")
    assert one.startswith("j.yaml:1: `run`: what stands before this `&` runs in the background and nothing")
    assert file_notes("run: |\n  python a &\n  wait\n") == []
    assert file_notes("run: |\n  #!/usr/bin/env python3\n  a | tee\n") == []


def test_variables_of_other_systems_that_nothing_sets_are_told() -> None:
    (one,) = file_notes("run: |\n  echo a\n  echo $SKYPILOT_NODE_RANK $SKYPILOT_NODE_RANK ${PBS_X:-0}\n")
    assert one == (
        "j.yaml:3: `run`: $SKYPILOT_NODE_RANK is SkyPilot's, and nothing sets it here; $BURSAR_NODE_RANK says"
        " the like"
    )
    for name, like in (
        ("SLURM_PROCID", "BURSAR_NODE_RANK"),
        ("PBS_ARRAY_INDEX", "BURSAR_ARRAY_INDEX"),
        ("NOMAD_ALLOC_INDEX", "BURSAR_ARRAY_INDEX"),
        ("LSB_JOBID", "BURSAR_JOB_NUMBER"),
    ):
        (one,) = file_notes(f"run: echo ${name}\n")
        assert f"${name} is " in one
        assert f"${like} says the like" in one
    (one,) = file_notes("run: echo $PBS_QUEUE\n")
    assert one.endswith("docs/environment.md lists what a job finds")
    assert file_notes("env: {PBS_QUEUE: a}\nrun: echo $PBS_QUEUE\n") == []
    assert file_notes("run: |\n  PBS_QUEUE=a\n  echo $PBS_QUEUE\n") == []
    _, notices = parse_script(HEAD + "cd $PBS_O_WORKDIR\necho $SLURM_JOB_ID\n", "s.sh", "/w")
    assert [one.message for one in notices] == [
        "$PBS_O_WORKDIR is PBS's, and nothing sets it here; $PWD says the like"
    ]


@pytest.mark.parametrize(
    "line",
    [
        "torchrun --nnodes=2 a.py",
        "python -m torch.distributed.run --nnodes 2 a.py",
        "time torchrun --nnodes $N a",
    ],
)
def test_a_torchrun_of_several_nodes_that_runs_on_one_of_them_is_told(line: str) -> None:
    def told(text: str, nodes: int = 2) -> list[str]:
        _, notices = parse_script(f"#!/bin/bash\n#SBATCH -N {nodes}\nN=2\n{text}\n", "s.sh", "/w")
        return [str(one) for one in notices if "runs once" in one.message]

    (one,) = told(line)
    assert one.startswith(
        "s.sh:4: the text runs once, on the first of 2 nodes: torchrun would wait for the others"
    )
    assert told(f"srun {line}") == told(f"srun bash -c '{line}'") == told(line, nodes=1) == []
    assert told(f"for n in a b; do ssh $n {line} & done; wait") == []
    assert told("torchrun --standalone a.py") == []
