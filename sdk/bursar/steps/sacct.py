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
from bursar.steps.queue import job_words
from bursar.steps.tables import (
    ACTIVE,
    Filters,
    clock,
    cpus_of,
    elapsed_s,
    exit_of,
    id_of,
    ids_of,
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
_STEP: Final = re.compile(r"(.+)\.(\d{1,9}|batch|extern)", re.ASCII)
"""A job's number, and a step of it."""
BATCH: Final = "batch"
"""What Slurm calls the script itself among the steps."""
_AGO: Final = re.compile(r"now-(\d{1,8}) ?([a-z]*)", re.ASCII)


def steps_of(job: Row) -> list[Row]:
    """The script of a job that has begun, and the steps that it started."""
    attempts = job.get("attempts") or []
    if not job["started_at"] or not attempts or job.get("array") or "waiting" in job:
        return []
    return [{"name": BATCH}, *(attempts[-1].get("steps") or ())]


def _batch_state(job: Row) -> str:
    """Slurm ends the script of a job that is at its limit: that is then cancelled."""
    state = state_of(job)
    return "CANCELLED" if state in ("TIMEOUT", "PREEMPTED", "NODE_FAIL") else state


def _is_batch(step: Row) -> bool:
    return "number" not in step


def step_name(step: Row) -> str:
    """Behind the number of its job: `batch`, `0`; of what another node started, with that one's rank."""
    if _is_batch(step):
        return BATCH
    return f"{step['number']}" + (f"+{step['rank']}" if step["rank"] else "")


_STEP_STATES: Final = {
    "completed": "COMPLETED", "failed": "FAILED", "cancelled": "CANCELLED", "time_limit": "TIMEOUT",
    "cut_off": "CANCELLED", "running": "RUNNING",
}  # fmt: skip


def _step_exit(job: Row, step: Row) -> str:
    if _is_batch(step):
        return exit_of(job)
    return f"{step['exit_code'] or 0}:{step['signal'] or 0}"


def _step_end(job: Row, step: Row) -> str:
    if _is_batch(step):
        return moment(job["finished_at"])
    if not step["started_at"] or step["state"] == "running":
        return "Unknown"
    ran = timedelta(seconds=step["elapsed_s"])
    return moment((datetime.fromisoformat(step["started_at"]) + ran).isoformat())


def _step_s(job: Row, step: Row) -> int:
    return elapsed_s(job) if _is_batch(step) else int(step["elapsed_s"])


OF_A_STEP: Final[Mapping[str, Callable[[Row, Row], str]]] = {
    "JobID": lambda job, step: f"{id_of(job)}.{step_name(step)}",
    "JobIDRaw": lambda job, step: f"{job['number']}.{step_name(step)}",
    "JobName": lambda job, step: step["name"] or "",
    "Account": lambda job, step: job["project"],
    "State": lambda job, step: (
        _batch_state(job) if _is_batch(step) else _STEP_STATES.get(step["state"], "UNKNOWN")
    ),
    "ExitCode": _step_exit,
    "Elapsed": lambda job, step: clock(_step_s(job, step), False),
    "ElapsedRaw": lambda job, step: str(_step_s(job, step)),
    "Submit": lambda job, step: moment(job["started_at"] if _is_batch(step) else step["started_at"]),
    "Start": lambda job, step: moment(job["started_at"] if _is_batch(step) else step["started_at"]),
    "End": _step_end,
    "NNodes": lambda job, step: str(step.get("nodes", 1)),
    "AllocNodes": lambda job, step: str(step.get("nodes", 1)),
    "NTasks": lambda job, step: str(step.get("tasks", 1)),
    "MaxRSS": lambda job, step: PAST["MaxRSS"](job) if _is_batch(step) else "",
}
"""Fields that a step has; the others are its job's alone, and empty."""


def _derived(job: Row) -> str:
    """The highest exit code of its steps."""
    codes = [step["exit_code"] or 0 for step in steps_of(job) if not _is_batch(step)]
    return f"{max(codes, default=0)}:0"


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
    "DerivedExitCode": _derived,
    "Reason": reason_of,
    "Elapsed": lambda job: clock(elapsed_s(job), False),
    "ElapsedRaw": lambda job: str(elapsed_s(job)),
    "Submit": lambda job: moment(job["submitted_at"]),
    "Start": lambda job: moment(job["started_at"]),
    "End": lambda job: moment(job["finished_at"]),
    "NNodes": lambda job: str(nodes_count(job)),
    "AllocNodes": lambda job: str(nodes_count(job)),
    "NTasks": lambda job: "",
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


class Wanted:
    """What of each job is asked for: all of it, or single steps, as `-j 12,13.0`.

    Attributes:
        jobs: the ids without steps.
    """

    def __init__(self, text: str, with_steps: bool) -> None:
        """`text`: as `--jobs` has it; empty: all. `with_steps`: beside each job."""
        self._with_steps = with_steps
        self._named: dict[str, set[str]] = {}
        bases: list[str] = []
        for one in ids_of(text):
            match = _STEP.fullmatch(one.strip())
            base = match.group(1) if match else one
            bases.append(base)
            for word in job_words(base):
                self._named.setdefault(word, set()).add(match.group(2) if match else "")
        self.jobs = ",".join(dict.fromkeys(bases))

    def _of(self, job: Row) -> set[str]:
        task = str(job.get("id") or "").partition(".")[2]
        own = f"{job['number']}[{task}]" if task else str(job["number"])
        return self._named.get(own, self._named.get(str(job["number"]), {""}))

    def whole(self, job: Row) -> bool:
        """Is the job itself asked for?"""
        return "" in self._of(job)

    def steps(self, job: Row) -> list[Row]:
        """Those of its steps that are asked for."""
        names = self._of(job)
        found = steps_of(job) if self._with_steps or "" not in names else []
        return [step for step in found if "" in names or step_name(step) in names]


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
    wanted = Wanted(found.get("jobs", ""), "allocations" not in found)
    if "jobs" in found:
        found["jobs"] = wanted.jobs
    fields = _fields(found.get("format", _BRIEF if "brief" in found else _FORM))
    filters = Filters({**found, **({"states": found["state"]} if "state" in found else {})})
    now = datetime.fromtimestamp(SystemClock().now() / 1_000_000, UTC).astimezone()
    since = moment_named("starttime", found.get("starttime", "today"), now)
    until = moment_named("endtime", found.get("endtime", "now"), now)
    jobs = list(filters.jobs(None)) if "jobs" in found else _between(filters, since, until)
    rows = []
    for job in waiting_as_one(jobs):
        if wanted.whole(job):
            rows.append([PAST[name](job) for name, _ in fields])
        rows += [
            [OF_A_STEP[name](job, step) if name in OF_A_STEP else "" for name, _ in fields]
            for step in wanted.steps(job)
        ]
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
