"""Steps on the own node: no agent and no daemon is asked, so a process can try them alone."""

from __future__ import annotations

import subprocess
import sys

from bursar.steps import names

RUN = """\
import os, resource, sys
from bursar.steps.client import run
from bursar.steps.request import Request
soft = int(sys.argv[1])
if soft:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
env = dict(os.environ)
for name in sys.argv[4:]:
    os.environb[name.encode()] = b"\\xe9" * 90_000
sys.exit(run(Request(["sh", "-c", sys.argv[3]], tasks=int(sys.argv[2])), os.environ))
"""


def step(tasks: int, text: str, *large: str, soft: int = 0) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": "/usr/bin:/bin",
        names.MEMBER: "att_a.0",
        names.DIRECTORY: "/nowhere",
        names.NODE_NAMES: "n1",
        "BURSAR_NODE_ADDRESSES": "127.0.0.1",
    }
    words = [sys.executable, "-c", RUN, str(soft), str(tasks), text, *large]
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_a_step_may_have_more_tasks_than_its_script_may_have_files_and_they_keep_that_limit() -> None:
    done = step(40, "ulimit -Sn", soft=64)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["64"] * 40, "")


def test_an_environment_of_other_bytes_is_no_larger_on_its_way() -> None:
    done = step(1, 'printf %s "$L8" | wc -c', *(f"L{number}" for number in range(10)))
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["90000"], "")


def test_tasks_that_are_lost_are_named_as_ranges() -> None:
    done = step(3, "kill -9 $PPID; sleep 60")
    assert done.returncode == 137
    assert done.stderr.startswith("bursar step: error: n1: lost; its tasks 0-2 are killed")
