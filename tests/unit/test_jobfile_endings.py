"""Scripts that lose the end of what they start are told so, by line, with what helps; and no other."""

from __future__ import annotations

import pytest

from bursar.jobfile import shell
from bursar.jobfile.endings import lost_ends
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
        ("(cd x; ./run.sh > log 2>&1) &\n", ""),
    ],
)
def test_whatever_is_last_and_in_the_background_is_told(body: str, name: str) -> None:
    found = said(body)
    assert [one.split()[1] for one in found] == ([name] if name else [])


@pytest.mark.parametrize("body", ["nvidia-smi dmon > gpu.log &\npython train.py\n", "python a &\nwait\n"])
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
        "python x | tee y\n",
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
