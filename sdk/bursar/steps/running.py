"""`squeue --steps`: steps that run now.

Input   of the calling job the records that steps leave in their member's directory (`records`), read where
        they are written; of other jobs what the server was told last.
Why     what is told of steps with the end of their job is of no use to whoever looks after them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Final

from bursar.steps import records, tables
from bursar.steps.hosts import compress_hosts
from bursar.steps.listing import Row, job_of
from bursar.steps.queue import job_words

JOBS_MAX: Final = 100
"""Jobs that are asked after, one by one."""
_HEAD: Final = f"{'STEPID':>15} {'NAME':>9} {'PARTITION':>9} {'USER':>8} {'TIME':>9} NODELIST\n"
BYTES_MAX: Final = records.RECORDS_MAX * records.BYTES


def show(env: Mapping[str, str], found: Mapping[str, str]) -> int:
    """The lines; the exit code. Raises `SystemExit` as `bursar` ends."""
    own = env.get("SLURM_JOB_ID", "")
    task = f"{env.get('SLURM_ARRAY_JOB_ID')}_{env.get('SLURM_ARRAY_TASK_ID')}"
    asked = [one for one in found.get("jobs", "").split(",") if one]
    if "noheader" not in found:
        sys.stdout.write(_HEAD)
    if own and all(one in (own, task) for one in asked):
        return _of_this_job(env, own)
    if asked:
        words = job_words(found["jobs"])
    else:
        words = [str(job["id"]) for job in tables.Filters(dict(found)).jobs(["RUNNING"])]
    for word in words[:JOBS_MAX]:
        if (job := job_of(word)) is not None:
            _of_job(job)
    if len(words) > JOBS_MAX:
        sys.stderr.write(f"squeue: steps of the first {JOBS_MAX} jobs; name others with -j\n")
    return 0


def _of_job(job: Row) -> None:
    attempts = job.get("attempts") or []
    nodes = tables.nodes_of(job)
    for step in (attempts[-1].get("steps") or ()) if attempts else ():
        if step["state"] == "running":
            where = compress_hosts(nodes) if step["nodes"] == len(nodes) else f"({step['nodes']} of them)"
            begun = f"{tables.id_of(job)}.{step['number']}" + (f"+{step['rank']}" if step["rank"] else "")
            ran = tables.clock(int(step["elapsed_s"]), True)
            user, partition = str(job["user"]), tables.partition_of(job)
            _line(begun, step["name"] or "", partition, user, ran, where)


def _line(step: str, name: str, partition: str, user: str, ran: str, where: str) -> None:
    sys.stdout.write(f"{step:>15} {name[:9]:>9} {partition[:9]:>9} {user[:8]:>8} {ran:>9} {where}\n")


def _of_this_job(env: Mapping[str, str], own: str) -> int:
    user, partition = env.get("SLURM_JOB_USER", ""), env.get("SLURM_JOB_PARTITION", "")
    now_us = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    for step in steps_of(env):
        ran = tables.clock(max(now_us - step.begun_us, 0) // 1_000_000, True)
        _line(f"{own}.{step.number}", step.name, partition, user, ran, env.get("SLURM_JOB_NODELIST", ""))
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
