"""`squeue`: jobs in Slurm's columns; what `sacct` and `scontrol` say of a job in the same words is here too.

Why     scripts count its lines and read their first column. A column or a filter that is not known is refused
        by name: an empty answer would be read as one.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from bursar.steps import listing
from bursar.steps.hosts import compress_hosts, expand_hosts
from bursar.steps.listing import Row, Words, filled, known_letters, long_form
from bursar.steps.queue import job_words, me

_LONG: Final = {"STARTING": "CONFIGURING", "STOPPING": "COMPLETING", "SUCCEEDED": "COMPLETED"}
_OF_END: Final = {
    "time_limit": "TIMEOUT", "out_of_memory": "OUT_OF_MEMORY", "node_lost": "NODE_FAIL",
    "preempted": "PREEMPTED",
}  # fmt: skip
"""What Slurm calls an end that did not go well, by its cause."""
_CODES: Final = {
    "PENDING": "PD", "CONFIGURING": "CF", "RUNNING": "R", "COMPLETING": "CG", "COMPLETED": "CD",
    "FAILED": "F", "CANCELLED": "CA", "TIMEOUT": "TO", "OUT_OF_MEMORY": "OOM", "NODE_FAIL": "NF",
    "PREEMPTED": "PR",
}  # fmt: skip
_NEVER: Final = {
    "BOOT_FAIL": "BF", "DEADLINE": "DL", "REQUEUED": "RQ", "REQUEUE_HOLD": "RH", "RESIZING": "RS",
    "REVOKED": "RV", "SIGNALING": "SI", "SPECIAL_EXIT": "SE", "STAGE_OUT": "SO", "STOPPED": "ST",
    "SUSPENDED": "S",
}  # fmt: skip
"""States of Slurm in which no job of bursar is."""
_OURS: Final = {
    "PENDING": "pending", "CONFIGURING": "starting", "RUNNING": "running", "COMPLETING": "stopping",
    "COMPLETED": "succeeded", "CANCELLED": "cancelled",
}  # fmt: skip
"""Where to look for them; those that are not here ended badly, which is failed, or by order."""
ACTIVE: Final = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")
_FORM: Final = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
_LONG_FORM: Final = "%.18i %.9P %.8j %.8u %.8T %.10M %.9l %.6D %R"
_START_FORM: Final = "%.18i %.9P %.8j %.8u %.2t %.19S %.6D %R"
ANYWHERE: Final = "any"
"""The partition of a job that names none and has not been placed."""


def nodes_of(job: Row) -> list[str]:
    """Names of the nodes of its newest attempt."""
    attempts = job.get("attempts") or []
    return [node["node"] for node in attempts[-1]["nodes"]] if attempts else []


def nodes_count(job: Row) -> int:
    """How many nodes it asks for; of a range, how many it has, and the least of it while it waits."""
    has = len(nodes_of(job)) if job.get("max_nodes") and job["state"] != "PENDING" else 0
    return has or int(job["nodes"])


def elapsed_s(job: Row) -> int:
    """Seconds that it was held."""
    return int(job.get("elapsed_s") or 0)


def clock(seconds: int, short: bool) -> str:
    """`1-02:03:04`; in short form without hours of which there are none."""
    days, rest = divmod(seconds, 86_400)
    hours, minutes, left = rest // 3600, rest // 60 % 60, rest % 60
    if short and not days and not hours:
        return f"{minutes}:{left:02}"
    head = f"{days}-" if days else ""
    return f"{head}{hours if short and not days else format(hours, '02')}:{minutes:02}:{left:02}"


def moment(text: str | None) -> str:
    """An instant in the time zone of whoever asks."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%dT%H:%M:%S") if text else "N/A"


_SLURMS: Final = {
    "Held": "JobHeldUser", "WaitingForResources": "Resources", "WaitingForTopology": "Resources",
    "Provisioning": "Resources", "PreemptionPending": "Resources", "BehindHigherPriority": "Priority",
    "ReservedForOther": "Priority", "WaitingForQuota": "AssocGrpLimit",
    "ExceedsMaxQuota": "AssocMaxLimit", "BudgetExhausted": "AssocGrpBillingMinutes",
    "BudgetCommitted": "AssocGrpBillingMinutes", "ExceedsNodeCapacity": "BadConstraints",
    "Misconfigured": "BadConstraints", "ApprovalRequired": "JobHeldAdmin",
}  # fmt: skip
"""Reasons for which Slurm has a word of its own; `BeginTime` and `Dependency` are the same in both."""


def reason_of(job: Row) -> str:
    """Why it waits, in the word that Slurm has for it and scripts look for; where it has none, in ours."""
    reason = job["reason"] or {}
    code, facts = str(reason.get("code") or "None"), reason.get("facts") or {}
    if code == "WaitingForQuota" and "max_parallel" in facts:
        return "JobArrayTaskLimit"
    if code == "ReservedForOther" and "reservation" in facts:
        return "ReqNodeNotAvail"
    if code == "Held" and "requeues" in facts:
        return "JobHoldMaxRequeue"
    return _SLURMS.get(code, code)


def _where(job: Row) -> str:
    return f"({reason_of(job)})" if job["state"] == "PENDING" else compress_hosts(nodes_of(job))


def id_of(job: Row) -> str:
    """Its number; of a task with its index, of tasks that wait with all of theirs."""
    task = task_of(job)
    return f"{job['number']}_{task}" if task else str(job["number"])


def state_of(job: Row) -> str:
    """The long name of its state."""
    state = str(job["state"])
    if state in ("FAILED", "CANCELLED"):
        return _OF_END.get((job.get("end") or {}).get("cause") or "", state)
    return _LONG.get(state, state)


def partition_of(job: Row) -> str:
    """What it said, or the pool that it is in."""
    return str(job.get("partition") or ANYWHERE)


def task_of(job: Row) -> str:
    """The index of a task of an array, which is a part of its id alone; `[3-9]` of tasks that wait."""
    if "waiting" in job:
        most = job.get("max_parallel")
        return f"[{_indices(job['waiting'])}{f'%{most}' if most else ''}]"
    return str(job.get("id") or "").partition(".")[2]


def _newest(job: Row) -> Row | None:
    """Its newest attempt, unless it waits for another, for which its limit and time do not count."""
    attempts = job.get("attempts") or []
    return attempts[-1] if attempts and job["state"] != "PENDING" else None


def _left(job: Row) -> str:
    attempt = _newest(job) or {"time_limit_s": job["time_limit_s"]}
    limit_s = int(attempt["time_limit_s"] or 0)
    return clock(max(limit_s - elapsed_s(attempt), 0), True) if limit_s else "UNLIMITED"


def _end(job: Row) -> str:
    attempt = _newest(job)
    if job["finished_at"] or attempt is None or not (attempt["started_at"] and attempt["time_limit_s"]):
        return moment(job["finished_at"])
    limit = timedelta(seconds=int(attempt["time_limit_s"]))
    return moment((datetime.fromisoformat(attempt["started_at"]) + limit).isoformat())


def memory_of(job: Row) -> str:
    """What it asks for on a node."""
    return f"{int(job['resources'].get('memory_bytes') or 0) // 1024**2}M"


def cpus_of(job: Row) -> str:
    """Of all its nodes; Slurm knows whole CPUs, and at least one on each."""
    return str(max(math.ceil(job["resources"]["cpus"]), 1) * nodes_count(job))


def _gres(job: Row) -> str:
    gpus = job["resources"].get("gpus") or 0
    return f"gres/gpu:{gpus:g}" if gpus else "N/A"


def exit_of(job: Row) -> str:
    """Exit code and signal, of which one is 0."""
    code, signal = job.get("exit_code"), (job.get("end") or {}).get("signal")
    if signal:
        return f"0:{signal}"
    return f"{code or 0}:0" if code is not None or job["state"] != "FAILED" else "1:0"


QUEUE: Final[Mapping[str, tuple[str, Callable[[Row], str]]]] = {
    "i": ("JOBID", id_of),
    "A": ("JOBID", lambda job: str(job["number"])),
    "F": ("ARRAY_JOB_ID", lambda job: str(job["number"])),
    "K": ("ARRAY_TASK_ID", lambda job: task_of(job) or "N/A"),
    "P": ("PARTITION", partition_of),
    "j": ("NAME", lambda job: str(job["name"])),
    "u": ("USER", lambda job: job["user"]),
    "a": ("ACCOUNT", lambda job: job["project"]),
    "t": ("ST", lambda job: _CODES[state_of(job)]),
    "T": ("STATE", state_of),
    "M": ("TIME", lambda job: clock(elapsed_s(job), True)),
    "l": ("TIME_LIMIT", lambda job: clock(int(job["time_limit_s"] or 0), True)),
    "L": ("TIME_LEFT", _left),
    "D": ("NODES", lambda job: str(nodes_count(job))),
    "R": ("NODELIST(REASON)", _where),
    "N": ("NODELIST", lambda job: compress_hosts(nodes_of(job))),
    "r": ("REASON", reason_of),
    "C": ("CPUS", cpus_of),
    "m": ("MIN_MEMORY", memory_of),
    "b": ("TRES_PER_NODE", _gres),
    "e": ("END_TIME", _end),
    "k": ("COMMENT", lambda job: job.get("comment") or "(null)"),
    "Z": ("WORK_DIR", lambda job: job.get("workdir") or "(null)"),
    "V": ("SUBMIT_TIME", lambda job: moment(job["submitted_at"])),
    "S": ("START_TIME", lambda job: moment(job["started_at"])),
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
_BY_NUMBER: Final[Mapping[str, Callable[[Row], int]]] = {
    "i": lambda job: int(job["number"]),
    "A": lambda job: int(job["number"]),
    "M": elapsed_s,
    "l": lambda job: int(job["time_limit_s"] or 0),
    "D": nodes_count,
    "Q": lambda job: int(job["priority"]),
}
_BY_TEXT: Final = tuple("PjuatTNRrVSe")
"""Columns that `--sort` takes: by their number, or by their text."""


class Filters:
    """Which jobs are asked for: what bursar can be asked itself, and what is looked at afterwards.

    Attributes:
        states: long names; None: all. missing: words for jobs of which there is none, of the `named` ones.
    """

    def __init__(self, found: Mapping[str, str]) -> None:
        """`found`: options by name. Raises `ValueError` for states or nodes that there cannot be."""
        self._found = {**({"user": me(os.environ)} if "me" in found else {}), **found}
        self.states = _states(found["states"]) if "states" in found else None
        self._nodes = set(expand_hosts(found["nodelist"])) if found.get("nodelist") else None
        self.missing: list[str] = []
        self.named = 0

    def jobs(self, states: Sequence[str] | None, since: str = "") -> Iterator[Row]:
        """Those of the ids that were asked for, else those in these states (None: all), whole; of arrays
        their tasks.

        `since`: of those, what was submitted or has ended since.
        """
        found = list(self._named() if self._found.get("jobs") else self._listed(states, since))
        arrays = {row["id"]: row["array"].get("max_parallel") for row in found if row.get("array")}
        tasks: dict[str, list[Row]] = {}
        if arrays:
            words = ["--state", "all" if states is None else _asked_of(states)]
            for row in listing.ask("ls", *words, *(f"--tasks={array}" for array in arrays)):
                array = row["id"].partition(".")[0]
                tasks.setdefault(array, []).append({**row, "max_parallel": arrays[array]})
        for row in found:
            yield from filter(self.take, tasks.get(row["id"], []) if row["id"] in arrays else [row])

    def _named(self) -> Iterator[Row]:
        words = [each for word in ids_of(self._found["jobs"]) for each in job_words(word)]
        rows = {word: listing.job_of(word) for word in words}
        self.named = len(rows)
        self.missing = [word for word in words if rows[word] is None]
        yield from (row for row in rows.values() if row is not None)

    def _listed(self, states: Sequence[str] | None, since: str) -> Iterator[Row]:
        # An array that runs has tasks that wait.
        live = () if states is None or {*ACTIVE}.isdisjoint(states) else ACTIVE
        asked = None if states is None else [*live, *states]
        words = ["--state", "all" if asked is None else _asked_of(asked)]
        for name, flag in (("user", "--user"), ("name", "--name"), ("account", "--project")):
            if "," not in self._found.get(name, ","):
                words += [flag, self._found[name]]
        words += ["--since", since] if since else []
        yield from listing.ask("ls", *words)

    def take(self, job: Row) -> bool:
        """Do all of them let it through?"""
        for name, key in (("user", "user"), ("name", "name"), ("account", "project")):
            # An account has others below it, which only the server knows.
            if "," in self._found.get(name, "") and job[key] not in self._found[name].split(","):
                return False
        if self.states is not None and state_of(job) not in self.states:
            return False
        if self._nodes is not None and self._nodes.isdisjoint(nodes_of(job)):
            return False
        wanted = self._found.get("partition")
        own = partition_of(job).split(",")  # one that may run anywhere may come to run there
        return wanted is None or ANYWHERE in own or not set(own).isdisjoint(wanted.split(","))


def ids_of(text: str) -> list[str]:
    """Words by comma, but for commas in brackets."""
    return re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text)


def _states(text: str) -> list[str] | None:
    """Long names of states; None for all of them. Raises `ValueError` for what is none."""
    known = {code: name for name, code in {**_CODES, **_NEVER}.items()}
    names = []
    for one in text.upper().split(","):
        if one == "ALL":
            return None
        name = known.get(one, one)
        if name not in known.values():
            raise ValueError(f"{one} is no state; these are: {' '.join(_CODES)}")
        names.append(name)
    return names


def _asked_of(states: Sequence[str]) -> str:
    """States of bursar in which those of Slurm are found."""
    found = [_OURS.get(state, "failed,cancelled") for state in states]
    return ",".join(dict.fromkeys(",".join(found).split(",")))


def waiting_as_one(rows: Iterable[Row]) -> Iterator[Row]:
    """Of each array the tasks that wait as one row, `12_[3-9%2]`, before those that have started."""
    waiting: dict[int, list[Row]] = {}
    rows = list(rows)
    for row in rows:
        if task_of(row) and row["state"] == "PENDING":
            waiting.setdefault(row["number"], []).append(row)
    for row in rows:
        if not (task_of(row) and row["state"] == "PENDING"):
            yield row
        elif together := waiting.pop(row["number"], None):
            yield {**row, "waiting": [int(task_of(one)) for one in together]}  # the first has its reason


def _indices(indices: Sequence[int]) -> str:
    """`1,3-5`."""
    text = compress_hosts([f"_{index}" for index in sorted(indices)])
    return text.removeprefix("_").removeprefix("[").removesuffix("]")


def _sorted(jobs: list[Row], text: str) -> list[Row]:
    """By `-S P,-i`: the first letter counts most, `-` from the largest. Raises `ValueError`."""
    for word in reversed(text.split(",")):
        letter = word.strip().lstrip("+-")
        if letter not in _BY_NUMBER and letter not in _BY_TEXT:
            raise ValueError(f"--sort {word} cannot be done; {' '.join((*_BY_NUMBER, *_BY_TEXT))} can")
        key: Callable[[Row], int | str] = _BY_NUMBER.get(letter) or QUEUE[letter][1]
        jobs.sort(key=key, reverse=word.strip().startswith("-"))
    return jobs


def squeue(arguments: Sequence[str]) -> int:
    """Jobs that wait or run; the exit code."""
    words = Words(
        arguments,
        "noheader/h me array/r long/l all/a start array-unique steps/s",
        "jobs/j user/u states/t name/n account/A partition/p nodelist/w sort/S format/o Format/O",
    )
    found = words.found
    if "steps" in found:
        from bursar.steps import running

        return running.show(os.environ, found)
    form = _LONG_FORM if "long" in found else _START_FORM if "start" in found else _FORM
    form = found.get("format", os.environ.get("SQUEUE_FORMAT", form))
    if "Format" in found:
        form = long_form(found["Format"], LONG_QUEUE)
    known_letters(form, QUEUE)
    filters = Filters(found)
    if "states" not in found:
        filters.states = ["PENDING"] if "start" in found else [*ACTIVE]
    jobs = list(filters.jobs(filters.states))
    if filters.missing and len(filters.missing) == filters.named:
        sys.stderr.write("slurm_load_jobs error: Invalid job id specified\n")
        return 1
    if "array" not in found:
        jobs = list(waiting_as_one(jobs))
    if "noheader" not in found:
        sys.stdout.write(filled(form, lambda letter: QUEUE[letter][0]))
    for job in _sorted(jobs, found["sort"]) if found.get("sort") else jobs:
        sys.stdout.write(filled(form, lambda letter, job=job: QUEUE[letter][1](job)))  # type: ignore[misc]
    return 0
