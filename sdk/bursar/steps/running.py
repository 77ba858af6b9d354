"""`squeue --steps`: the steps of the calling job that run now.

Input   the records that steps leave in their member's directory (`records`), read where they are written.
Why     what is told of steps with the end of their job is of no use to a script that looks after them. Those
        of another job lie with that job's account, on its nodes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Final

from bursar.steps import records, tables

_HEAD: Final = f"{'STEPID':>15} {'NAME':>9} {'PARTITION':>9} {'USER':>8} {'TIME':>9} NODELIST\n"
BYTES_MAX: Final = records.RECORDS_MAX * records.BYTES


def show(env: Mapping[str, str], found: Mapping[str, str]) -> int:
    """The lines; the exit code. Raises `ValueError` where another job is asked for, or none runs here."""
    own = env.get("SLURM_JOB_ID", "")
    task = f"{env.get('SLURM_ARRAY_JOB_ID')}_{env.get('SLURM_ARRAY_TASK_ID')}"
    asked = [one for one in found.get("jobs", "").split(",") if one]
    if not own or any(one not in (own, task) for one in asked):
        raise ValueError(
            "--steps shows what runs of the job that asks, within it; `sacct` has the steps of jobs that"
            " ended"
        )
    if "noheader" not in found:
        sys.stdout.write(_HEAD)
    user, partition = env.get("SLURM_JOB_USER", ""), env.get("SLURM_JOB_PARTITION", "")
    now_us = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    for step in steps_of(env):
        ran = tables.clock(max(now_us - step.begun_us, 0) // 1_000_000, True)
        sys.stdout.write(
            f"{own + '.' + str(step.number):>15} {step.name[:9]:>9} {partition[:9]:>9} {user[:8]:>8}"
            f" {ran:>9} {env.get('SLURM_JOB_NODELIST', '')}\n"
        )
    return 0


def steps_of(env: Mapping[str, str]) -> Iterator[records.Told]:
    """Those of the calling member that have begun and not ended; without records none."""
    folder = os.path.dirname(env.get(records.VARIABLE, ""))
    try:
        with open(f"{folder}/{records.FILE}", "rb", opener=_opened) as file:
            data = file.read(BYTES_MAX)
    except OSError:
        return
    for step in records.read(data):
        if step.state == records.CUT_OFF and not step.ended_us:
            yield step


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
