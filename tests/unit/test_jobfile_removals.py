"""A removal that begins with a variable that nothing sets is refused by line, in scripts and job files."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bursar import jobfile
from bursar.errors import InvalidRequest
from bursar.jobfile.request import job_of_file

HEAD = "#!/bin/bash\n#SBATCH -t 1\n"


def caller(**environ: str) -> jobfile.Caller:
    return jobfile.Caller(environ, datetime(2026, 1, 1, tzinfo=UTC), "login")


def submitted(body: str, head: str = HEAD, **environ: str) -> list[str]:
    """Notes; the message of the refusal is raised."""
    _, notices = jobfile.parse_script(head + body, "s.sh", "/w", caller=caller(**environ))
    return [str(one) for one in notices]


def refusal(body: str, head: str = HEAD, **environ: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        submitted(body, head, **environ)
    return caught.value.message


@pytest.mark.parametrize(
    ("body", "name", "left"),
    [
        ("rm -rf $LOCAL_SCRATCH/*\n", "LOCAL_SCRATCH", "`/*`"),
        ('rm -rf "$PBS_JOBDIR"/*\n', "PBS_JOBDIR", "`/*`"),
        ('rm -r -f "${FOO}/x" out\n', "FOO", "`/x`"),
        ("rm --recursive ok $FOO*\n", "FOO", "`*`"),
        ("D=$FOO\nE=$D/\nrm -rf $E/*\n", "E", "`/*`"),
        ("rm -rf ${FOO:-}/*\n", "FOO", "`/*`"),
        ("clean() { rm -rf $FOO/tmp; }\ntrap clean EXIT\n", "FOO", "`/tmp`"),
        ("trap 'rm -rf $FOO/tmp' EXIT\npython a.py\n", "FOO", "`/tmp`"),
        ("if [ -d $FOO ]; then rm -rf $FOO/*; fi\n", "FOO", "`/*`"),
        ("srun --ntasks-per-node=1 rm -rf $FOO/*\n", "FOO", "`/*`"),
        ("srun bash -c 'rm -rf $FOO/*'\n", "FOO", "`/*`"),
        ("sudo rm -rf $FOO/*\n", "FOO", "`/*`"),
        ("find $FOO/ -name '*.tmp' -delete\n", "FOO", "`/`"),
        ("rsync -a --delete out/ $FOO/out\n", "FOO", "`/out`"),
        ("chmod -R a+rX $FOO/data\n", "FOO", "`/data`"),
        ("mkdir -p $FOO/a\nexport FOO\nrm -rf $FOO/a\n", "FOO", "`/a`"),
    ],
)
def test_a_removal_that_begins_with_what_nothing_sets_is_refused(body: str, name: str, left: str) -> None:
    said = refusal(body)
    assert said.startswith("s.sh:")
    assert f"nothing sets ${name}, and " in said
    assert f"would begin at {left}" in said
    assert f"--env {name}=DIR" in said


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ("cd $SCRATCH\nrm -rf *\n", "the home directory"),
        ("cd $SCRATCH && rm -rf *\n", "the home directory"),
        ('cd "$SCRATCH"; rm -rf ./out\n', "the directory that it is in"),
        ("cd $SCRATCH/run\nrm -rf *\n", "the wrong directory"),
        ("pushd $SCRATCH/\nfind . -delete\n", "/"),
        ("cd $SCRATCH\ncd run\nrm -rf *\n", "the home directory"),
    ],
)
def test_so_is_one_below_a_cd_to_it(body: str, where: str) -> None:
    tool = "find" if "find" in body else "rm"
    assert f"nothing sets $SCRATCH, and `{tool}` below would run in {where};" in refusal(body)


@pytest.mark.parametrize(
    "body",
    [
        "FOO=/tmp/x\nrm -rf $FOO/*\n",
        "clean() { rm -rf $FOO/*; }\nFOO=$(mktemp -d)\nclean\n",
        "export FOO=/x$BAR\nrm -rf $FOO/*\n",
        "read FOO < name\nrm -rf $FOO/*\n",
        "printf -v FOO '%s' /x\nrm -rf $FOO/*\n",
        "for FOO in a b; do rm -rf $FOO/*; done\n",
        ": ${FOO:?}\nrm -rf $FOO/*\n",
        ": ${FOO:=/tmp/x}\nrm -rf $FOO/*\n",
        "rm -rf ${FOO:?}/*\n",
        "rm -rf ${FOO:-/tmp/x}/*\n",
        'rm -rf "${FOO:+$FOO/x}"\n',
        '[ -n "$FOO" ] && rm -rf $FOO/*\n',
        'if [ -z "$FOO" ]; then exit 1; fi\nrm -rf $FOO/*\n',
        'if [ -d "$FOO" ]; then rm -rf $FOO/*; fi\n',
        "[[ -d $FOO ]] && rm -rf $FOO/*\n",
        "set -u\nrm -rf $FOO/*\n",
        "set -euo pipefail\nrm -rf $FOO/*\n",
        "set -o nounset\nrm -rf $FOO/*\n",
        "rm -rf $FOO\n",
        "rm -f $FOO/x\n",
        "rm -rf $HOME/x $TMPDIR/* $SLURM_TMPDIR/* $SLURM_SUBMIT_DIR/x $BURSAR_CHECKPOINT_DIR/x\n",
        "rm -rf out $1/*\n",
        "echo 'rm -rf $FOO/*'\n# rm -rf $FOO/*\n",
        "cd $SCRATCH\nls\n",
        "cd $SCRATCH\ncd /data\nrm -rf *\n",
        "cd $SCRATCH/run || exit 1\nrm -rf *\n",
        "set -e\ncd $SCRATCH/run\nrm -rf *\n",
        "cd $SCRATCH\nrm -rf /tmp/x\n",
    ],
)
def test_one_that_the_script_sets_or_asks_for_is_not(body: str) -> None:
    assert not [one for one in submitted(body) if "sets $" in one]


def test_what_is_given_to_the_job_is_set() -> None:
    head = "#!/bin/bash\n#SBATCH -t 1\n#SBATCH --export=NONE,FOO=/x\n"
    assert submitted("rm -rf $FOO/*\n", head) == []
    head = "#!/bin/bash\n#BURSAR --env FOO=/x\n#SBATCH -t 1\n"
    assert submitted("rm -rf $FOO/*\n", head) == []
    assert submitted("rm -rf $FOO/*\n", "#!/bin/bash -u\n#SBATCH -t 1\n") == []


@pytest.mark.parametrize(
    ("body", "head"),
    [
        ("source ~/env.sh\nrm -rf $FOO/*\n", HEAD),
        (". ./env.sh\nrm -rf $FOO/*\n", HEAD),
        ("eval $(cat .env)\nrm -rf $FOO/*\n", HEAD),
        ("export $(cat .env | xargs)\nrm -rf $FOO/*\n", HEAD),
        ("clean() { rm -rf $FOO/*; }\nsource env.sh\nclean\n", HEAD),
        ("rm -rf $FOO/*\n", "#!/bin/bash -l\n#SBATCH -t 1\n"),
    ],
)
def test_where_another_file_may_set_it_it_is_said(body: str, head: str) -> None:
    (said,) = submitted(body, head)
    assert (
        "if nothing that this script reads sets $FOO, `rm` would begin at `/*`; write ${FOO:?} to be safe"
        in said
    )


def test_a_variable_of_the_shell_that_submits_is_named_as_one_that_is_not_copied() -> None:
    said = refusal("rm -rf $FOO/*\n", FOO="/data")
    assert said.endswith("; that of your shell is not copied: --env FOO")


def test_a_job_file_is_held_to_the_same_by_its_own_lines() -> None:
    with pytest.raises(InvalidRequest) as caught:
        job_of_file("name: x\nrun: |\n  echo a\n  rm -rf $FOO/*\n", "j.yaml", "/w")
    assert caught.value.message.startswith("j.yaml:4:8: `run`: nothing sets $FOO")
    with pytest.raises(InvalidRequest) as caught:
        job_of_file("setup: rm -rf $TMPDIR/*\nrun: echo a\n", "j.yaml", "/w")
    assert caught.value.message.startswith("j.yaml:1:1: `setup`: nothing sets $TMPDIR")
    assert job_of_file("env: {FOO: /x}\nrun: rm -rf $FOO/*\n", "j.yaml", "/w")[1] == []
    assert job_of_file("secrets: [FOO]\nrun: rm -rf $FOO/*\n", "j.yaml", "/w")[1] == []
    (said,) = job_of_file("image: a/b:1\nrun: rm -rf $FOO/*\n", "j.yaml", "/w")[1]
    assert said.startswith("j.yaml:2: `run`: if nothing that this script reads sets $FOO")
    assert (
        job_of_file("run: |\n  #!/usr/bin/env python3\n  print('rm -rf $FOO/*')\n", "j.yaml", "/w")[1] == []
    )
