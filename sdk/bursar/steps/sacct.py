"""`sacct`: jobs that ran and run, by fields.

Why     scripts and workflow engines ask it how a job ended, and act on the word.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from bursar.clock import SystemClock
from bursar.steps.hosts import compress_hosts
from bursar.steps.listing import Row, Words
from bursar.steps.tables import (
    ACTIVE,
    Filters,
    clock,
    cpus_of,
    elapsed_s,
    exit_of,
    id_of,
    memory_of,
    moment,
    nodes_count,
    nodes_of,
    partition_of,
    reason_of,
    state_of,
    waiting_as_one,
)
from bursar.steps.times import parse_begin

_FORM: Final = "JobID%12,JobName,Partition,Account,AllocCPUS,State,ExitCode%8"
_BRIEF: Final = "JobID%12,State,ExitCode%8"
_WIDTH: Final = 10
_STEP: Final = re.compile(r"\.(?:\d{1,9}|batch|extern)(?=,|$)", re.ASCII)
"""Behind a job's number; a step is told of as its job, of which alone it is known how it does."""
_AGO: Final = re.compile(r"now-(\d{1,8}) ?([a-z]*)", re.ASCII)


def _tres(job: Row) -> str:
    gpus, memory = job["resources"].get("gpus") or 0, job["resources"].get("memory_bytes") or 0
    parts = [f"cpu={cpus_of(job)}", f"gres/gpu={gpus * job['nodes']:g}" if gpus else ""]
    parts += [f"mem={memory * job['nodes'] // 1024**2}M" if memory else "", f"node={job['nodes']}"]
    return ",".join(filter(None, parts))


def _allocated(job: Row) -> str:
    """CPUs that it has or had: a job that has not started has none."""
    return cpus_of(job) if job["started_at"] else "0"


def _tres_held(job: Row) -> str:
    """What it has or had: a job that has not started has nothing."""
    return _tres(job) if job["started_at"] else ""


def _cpu_time_s(job: Row) -> int:
    """CPUs that it held, times seconds."""
    return elapsed_s(job) * int(cpus_of(job))


PAST: Final[Mapping[str, Callable[[Row], str]]] = {
    "JobID": id_of,
    "JobIDRaw": lambda job: str(job["number"]),
    "JobName": lambda job: job["name"],
    "User": lambda job: job["user"],
    "Account": lambda job: job["project"],
    "Partition": partition_of,
    "State": state_of,
    "ExitCode": exit_of,
    "DerivedExitCode": exit_of,
    "Reason": reason_of,
    "Elapsed": lambda job: clock(elapsed_s(job), False),
    "ElapsedRaw": lambda job: str(elapsed_s(job)),
    "Submit": lambda job: moment(job["submitted_at"]),
    "Start": lambda job: moment(job["started_at"]),
    "End": lambda job: moment(job["finished_at"]),
    "NNodes": lambda job: str(nodes_count(job)),
    "AllocNodes": lambda job: str(nodes_count(job)),
    "ReqNodes": lambda job: str(job["nodes"]),
    "NodeList": lambda job: compress_hosts(nodes_of(job)),
    "AllocCPUS": _allocated,
    "NCPUS": _allocated,
    "ReqCPUS": cpus_of,
    "AllocTRES": _tres_held,
    "ReqTRES": _tres,
    "ReqMem": memory_of,
    "Timelimit": lambda job: clock(int(job["time_limit_s"] or 0), False),
    "TimelimitRaw": lambda job: str(int(job["time_limit_s"] or 0) // 60),
    "CPUTime": lambda job: clock(_cpu_time_s(job), False),
    "CPUTimeRAW": lambda job: str(_cpu_time_s(job)),
    "TotalCPU": lambda job: clock(int(job.get("cpu_s") or 0), False),
    "Priority": lambda job: str(job["priority"]),
    "WorkDir": lambda job: job.get("workdir") or "",
    "Comment": lambda job: job.get("comment") or "",
    "MaxRSS": lambda job: f"{job['max_rss_bytes'] // 1024}K" if job.get("max_rss_bytes") else "",
}


def _fields(text: str) -> list[tuple[str, int]]:
    """Names and widths, left ones below 0. Raises `ValueError` for a field that is not known."""
    known = {name.lower(): name for name in PAST}
    found = []
    for each in text.split(","):
        name, _, width = each.strip().partition("%")
        if name.lower() not in known or not re.fullmatch(r"-?\d{0,4}", width, re.ASCII):
            raise ValueError(f"the field {each} is not known here; these are: {', '.join(PAST)}")
        found.append((known[name.lower()], int(width) if width.strip("-") else _WIDTH))
    return found


def _cell(text: str, width: int) -> str:
    """As wide as its column; what is cut ends with `+`, as Slurm's does."""
    room = abs(width)
    text = text if len(text) <= room else f"{text[: room - 1]}+"
    return text.rjust(room) if width > 0 else text.ljust(room)


def moment_named(option: str, text: str, now: datetime) -> datetime:
    """`2026-11-01`, `now-7days`, `today`, `08:00` and the like, in the past. Raises `ValueError`."""
    if text.lower() in ("today", "midnight"):
        return now.replace(hour=0, minute=0, second=0, microsecond=0)
    ago = _AGO.fullmatch(text.lower())
    at = parse_begin(f"now+{ago.group(1)}{ago.group(2)}" if ago else text, now)
    if at is None:
        raise ValueError(
            f"--{option} {text} is not a time: 2026-11-01, 2026-11-01T08:00:00, now-7days, today"
        )
    if ago:
        return now - (at - now)
    of_day = at > now and not text.lower().startswith(("now", "20", "tomorrow"))
    return at - timedelta(days=1) if of_day else at


def _between(filters: Filters, since: datetime, until: datetime) -> list[Row]:
    """What there was at some moment between two, by number."""
    live = [state for state in ACTIVE if filters.states is None or state in filters.states]
    found = list(filters.jobs(filters.states, since.isoformat()))
    found += filters.jobs(live) if live else ()
    rows = {
        row["id"]: row
        for row in found
        if datetime.fromisoformat(row["submitted_at"]) <= until
        # Of an end that was heard late the server lists more than was there.
        and (not row["finished_at"] or datetime.fromisoformat(row["finished_at"]) >= since)
    }
    return sorted(rows.values(), key=lambda row: int(row["number"]))


def sacct(arguments: Sequence[str]) -> int:
    """The jobs of these ids, or of today, ended ones too; the exit code."""
    words = Words(
        arguments,
        "noheader/n parsable/p parsable2/P allocations/X allusers/a brief/b duplicates/D truncate/T"
        " noconvert",
        "jobs/j user/u state/s name account/A partition/r nodelist/N starttime/S endtime/E format/o"
        " delimiter",
    )
    found = words.found
    if "jobs" in found:
        found["jobs"] = _STEP.sub("", found["jobs"])
    fields = _fields(found.get("format", _BRIEF if "brief" in found else _FORM))
    filters = Filters({**found, **({"states": found["state"]} if "state" in found else {})})
    now = datetime.fromtimestamp(SystemClock().now() / 1_000_000, UTC).astimezone()
    since = moment_named("starttime", found.get("starttime", "today"), now)
    until = moment_named("endtime", found.get("endtime", "now"), now)
    jobs = list(filters.jobs(None)) if "jobs" in found else _between(filters, since, until)
    rows = [[PAST[name](job) for name, _ in fields] for job in waiting_as_one(jobs)]
    head = [] if "noheader" in found else [[name for name, _ in fields]]
    if "parsable" in found or "parsable2" in found:
        mark = found.get("delimiter", "|")
        end = mark if "parsable" in found else ""
        for cells in [*head, *rows]:
            sys.stdout.write(mark.join(cells) + end + "\n")
        return 0
    if head:
        head.append(["-" * abs(width) for _, width in fields])
    for cells in [*head, *rows]:
        line = (_cell(cell, width) for cell, (_, width) in zip(cells, fields, strict=True))
        sys.stdout.write(" ".join(line) + " \n")
    return 0
