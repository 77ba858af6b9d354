"""`squeue` and `sacct`: lists of jobs in Slurm's columns.

Why     scripts count their lines and read their first column. A column that is not known is refused by name:
        an empty one would be read as an answer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from bursar.steps import listing
from bursar.steps.hosts import compress_hosts
from bursar.steps.listing import Row, Words, filled, known_letters
from bursar.steps.queue import job_word, refuse

_CODES: Final = {
    "PENDING": "PD", "STARTING": "CF", "RUNNING": "R", "STOPPING": "CG", "SUCCEEDED": "CD", "FAILED": "F",
    "CANCELLED": "CA",
}  # fmt: skip
_LONG: Final = {
    "STARTING": "CONFIGURING", "STOPPING": "COMPLETING", "SUCCEEDED": "COMPLETED",
}  # fmt: skip
_ACTIVE: Final = "pending,starting,running,stopping"
_SQUEUE: Final = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
_SACCT: Final = "JobID,JobName,Partition,Account,AllocCPUS,State,ExitCode"


def _nodes(job: Row) -> list[str]:
    attempts = job.get("attempts") or []
    return [node["node"] for node in attempts[-1]["nodes"]] if attempts else []


def _elapsed_s(job: Row) -> int:
    return int(job.get("elapsed_s") or 0)


def _clock(seconds: int, short: bool) -> str:
    days, rest = divmod(seconds, 86_400)
    hours, minutes, left = rest // 3600, rest // 60 % 60, rest % 60
    if short and not days and not hours:
        return f"{minutes}:{left:02}"
    head = f"{days}-" if days else ""
    return f"{head}{hours if short and not days else format(hours, '02')}:{minutes:02}:{left:02}"


def _moment(text: str | None) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%dT%H:%M:%S") if text else "N/A"


def _reason(job: Row) -> str:
    return str((job["reason"] or {}).get("code") or "None")


def _where(job: Row) -> str:
    return f"({_reason(job)})" if job["state"] == "PENDING" else compress_hosts(_nodes(job))


def _id(job: Row) -> str:
    task = _task(job)
    return f"{job['number']}_{task}" if task else str(job["number"])


def _task(job: Row) -> str:
    """The index of a task of an array, which is a part of its id alone."""
    return str(job.get("id") or "").partition(".")[2]


def _newest(job: Row) -> Row | None:
    """Its newest attempt, unless it waits for another, for which its limit and time do not count."""
    attempts = job.get("attempts") or []
    return attempts[-1] if attempts and job["state"] != "PENDING" else None


def _left(job: Row) -> str:
    attempt = _newest(job) or {"time_limit_s": job["time_limit_s"]}
    limit_s = int(attempt["time_limit_s"] or 0)
    return _clock(max(limit_s - _elapsed_s(attempt), 0), True) if limit_s else "UNLIMITED"


def _end(job: Row) -> str:
    attempt = _newest(job)
    if job["finished_at"] or attempt is None or not (attempt["started_at"] and attempt["time_limit_s"]):
        return _moment(job["finished_at"])
    limit = timedelta(seconds=int(attempt["time_limit_s"]))
    return _moment((datetime.fromisoformat(attempt["started_at"]) + limit).isoformat())


def _memory(job: Row) -> str:
    return f"{int(job['resources'].get('memory_bytes') or 0) // 1024**2}M"


def _cpus(job: Row) -> str:
    return str(int(job["resources"]["cpus"] * job["nodes"]))


def _gres(job: Row) -> str:
    gpus = job["resources"].get("gpus") or 0
    return f"gres/gpu:{gpus:g}" if gpus else "N/A"


def _exit(job: Row) -> str:
    code = job.get("exit_code")
    return f"{code or 0}:0" if code is not None or job["state"] != "FAILED" else "1:0"


QUEUE: Final[Mapping[str, tuple[str, Callable[[Row], str]]]] = {
    "i": ("JOBID", _id),
    "A": ("JOBID", lambda job: str(job["number"])),
    "F": ("ARRAY_JOB_ID", lambda job: str(job["number"])),
    "K": ("ARRAY_TASK_ID", lambda job: _task(job) or "N/A"),
    "P": ("PARTITION", lambda job: "bursar"),
    "j": ("NAME", lambda job: str(job["name"])),
    "u": ("USER", lambda job: job["user"]),
    "a": ("ACCOUNT", lambda job: job["project"]),
    "t": ("ST", lambda job: _CODES[job["state"]]),
    "T": ("STATE", lambda job: _LONG.get(job["state"], str(job["state"]))),
    "M": ("TIME", lambda job: _clock(_elapsed_s(job), True)),
    "l": ("TIME_LIMIT", lambda job: _clock(int(job["time_limit_s"] or 0), True)),
    "L": ("TIME_LEFT", _left),
    "D": ("NODES", lambda job: str(job["nodes"])),
    "R": ("NODELIST(REASON)", _where),
    "N": ("NODELIST", lambda job: compress_hosts(_nodes(job))),
    "r": ("REASON", _reason),
    "C": ("CPUS", _cpus),
    "m": ("MIN_MEMORY", _memory),
    "b": ("TRES_PER_NODE", _gres),
    "e": ("END_TIME", _end),
    "k": ("COMMENT", lambda job: job.get("comment") or "(null)"),
    "Z": ("WORK_DIR", lambda job: job.get("workdir") or "(null)"),
    "V": ("SUBMIT_TIME", lambda job: _moment(job["submitted_at"])),
    "S": ("START_TIME", lambda job: _moment(job["started_at"])),
    "Q": ("PRIORITY", lambda job: str(job["priority"])),
}
LONG_QUEUE: Final[Mapping[str, str]] = {
    "JobID": "A", "JobArrayID": "i", "ArrayJobID": "F", "ArrayTaskID": "K", "Name": "j", "UserName": "u",
    "Account": "a", "Partition": "P", "State": "T", "StateCompact": "t", "TimeUsed": "M", "TimeLeft": "L",
    "TimeLimit": "l", "NumNodes": "D", "NumCPUs": "C", "MinMemory": "m", "NodeList": "N", "ReasonList": "R",
    "Reason": "r", "SubmitTime": "V", "StartTime": "S", "EndTime": "e", "PriorityLong": "Q", "Comment": "k",
    "WorkDir": "Z", "tres-per-node": "b",
}  # fmt: skip
"""Names of `squeue --Format`, each with the letter of `--format`."""
PAST: Final[Mapping[str, Callable[[Row], str]]] = {
    "JobID": _id,
    "JobIDRaw": lambda job: str(job["number"]),
    "JobName": lambda job: job["name"],
    "User": lambda job: job["user"],
    "Account": lambda job: job["project"],
    "Partition": lambda job: "bursar",
    "State": lambda job: _LONG.get(job["state"], str(job["state"])),
    "ExitCode": _exit,
    "Elapsed": lambda job: _clock(_elapsed_s(job), False),
    "ElapsedRaw": lambda job: str(_elapsed_s(job)),
    "Submit": lambda job: _moment(job["submitted_at"]),
    "Start": lambda job: _moment(job["started_at"]),
    "End": lambda job: _moment(job["finished_at"]),
    "NNodes": lambda job: str(job["nodes"]),
    "NodeList": lambda job: compress_hosts(_nodes(job)),
    "AllocCPUS": _cpus,
    "NCPUS": _cpus,
    "ReqMem": _memory,
    "Timelimit": lambda job: _clock(int(job["time_limit_s"] or 0), False),
    "WorkDir": lambda job: job.get("workdir") or "",
    "Comment": lambda job: job.get("comment") or "",
    "MaxRSS": lambda job: f"{job['max_rss_bytes'] // 1024}K" if job.get("max_rss_bytes") else "",
}


def _jobs(found: Mapping[str, str], default: str) -> list[Row]:
    """The jobs that are asked for, whole."""
    if found.get("jobs"):
        return [listing.ask("show", job_word(one)) for one in found["jobs"].split(",")]
    words = ["--state", _states(found["states"]) if "states" in found else default]
    if "me" in found:
        words += ["--user", os.environ.get("USER") or os.environ.get("LOGNAME", "")]
    for name, flag in (("user", "--user"), ("name", "--name"), ("account", "--project")):
        if name in found:
            words += [flag, found[name]]
    return list(listing.ask("ls", *words))


def _states(text: str) -> str:
    own = {code: name for name, code in _CODES.items()} | {long: name for name, long in _LONG.items()}
    return ",".join(own.get(one.upper(), one).lower() for one in text.split(","))


def _tasks_of(jobs: Iterable[Row]) -> Iterator[Row]:
    """Each array as its tasks."""
    for job in jobs:
        if job.get("array"):
            yield from listing.ask("ls", "--tasks", str(job["number"]))
        else:
            yield job


def _long_form(text: str) -> str:
    """`--Format=JobID:10,State` as letters; 20 wide, as in Slurm, unless it says otherwise."""
    known = {name.lower(): letter for name, letter in LONG_QUEUE.items()}
    letters = []
    for each in text.split(","):
        name, _, width = each.partition(":")
        if name.lower() not in known:
            raise ValueError(f"the column {name} is not known here; these are: {' '.join(LONG_QUEUE)}")
        right = "." if width.startswith(".") else ""
        letters.append(f"%{right}{width.strip('.') or 20}{known[name.lower()]}")
    return "".join(letters)


def squeue(arguments: Sequence[str]) -> int:
    """Jobs that wait or run; the exit code."""
    words = Words(
        arguments,
        "noheader/h me array/r long-job all/a",
        "jobs/j user/u states/t name/n account/A format/o Format/O",
    )
    form = words.found.get("format", os.environ.get("SQUEUE_FORMAT", _SQUEUE))
    if "Format" in words.found:
        form = _long_form(words.found["Format"])
    known_letters(form, QUEUE)
    jobs: Iterable[Row] = _jobs(words.found, _ACTIVE)
    if "array" in words.found:
        jobs = _tasks_of(jobs)
    if "noheader" not in words.found:
        sys.stdout.write(filled(form, lambda letter: QUEUE[letter][0]))
    for job in jobs:
        if not {"jobs", "array"} & words.found.keys() or job["state"].lower() in _ACTIVE:
            sys.stdout.write(filled(form, lambda letter, job=job: QUEUE[letter][1](job)))  # type: ignore[misc]
    return 0


def sacct(arguments: Sequence[str]) -> int:
    """Jobs of the last day, ended ones too; the exit code."""
    words = Words(
        arguments,
        "noheader/n parsable/p parsable2/P allocations/X allusers/a",
        "jobs/j user/u state/s name format/o delimiter",
    )
    asked = [one.partition("%")[0] for one in words.found.get("format", _SACCT).split(",")]
    known = {name.lower(): name for name in PAST}
    unknown = [one for one in asked if one.lower() not in known]
    if unknown:
        return refuse("sacct", f"the field {unknown[0]} is not known here; these are: {', '.join(PAST)}")
    columns = [known[one.lower()] for one in asked]
    jobs = _jobs(words.found, "all")
    rows = [[PAST[name](job) for name in columns] for job in jobs]
    head = [] if "noheader" in words.found else [columns]
    if "parsable" in words.found or "parsable2" in words.found:
        mark = words.found.get("delimiter", "|")
        end = mark if "parsable" in words.found else ""
        for cells in [*head, *rows]:
            sys.stdout.write(mark.join(cells) + end + "\n")
        return 0
    if head:
        head.append(["----------"] * len(columns))
    for cells in [*head, *rows]:
        sys.stdout.write(" ".join(cell[:10].rjust(10) for cell in cells) + " \n")
    return 0
