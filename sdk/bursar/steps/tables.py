"""`squeue`, `sinfo`, `sacct`: lists of jobs and nodes in Slurm's columns.

Why     scripts count their lines and read their first column. A column that is not known is refused by name:
        an empty one would be read as an answer.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from bursar.steps.hosts import compress_hosts
from bursar.steps.queue import job_word, program, refuse

Row = Mapping[str, Any]
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
_FIELD: Final = re.compile(r"%(\.?)(\d*)([A-Za-z])")


def _nodes(job: Row) -> list[str]:
    attempts = job.get("attempts") or []
    return [node["node"] for node in attempts[-1]["nodes"]] if attempts else []


def _elapsed_s(job: Row) -> int:
    if not job.get("started_at"):
        return 0
    ended = job.get("finished_at")
    end = datetime.fromisoformat(ended) if ended else datetime.now(UTC)  # noqa: TID251  it shows a clock
    return max(int((end - datetime.fromisoformat(job["started_at"])).total_seconds()), 0)


def _clock(seconds: int, short: bool) -> str:
    days, rest = divmod(seconds, 86_400)
    hours, minutes, left = rest // 3600, rest // 60 % 60, rest % 60
    if short and not days and not hours:
        return f"{minutes}:{left:02}"
    head = f"{days}-" if days else ""
    return f"{head}{hours if short and not days else format(hours, '02')}:{minutes:02}:{left:02}"


def _moment(text: str | None) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%dT%H:%M:%S") if text else "N/A"


def _where(job: Row) -> str:
    if job["state"] == "PENDING":
        return f"({job['reason']['code'] or 'None'})"
    return compress_hosts(_nodes(job))


def _exit(job: Row) -> str:
    code = job.get("exit_code")
    return f"{code or 0}:0" if code is not None or job["state"] != "FAILED" else "1:0"


QUEUE: Final[Mapping[str, tuple[str, Callable[[Row], str]]]] = {
    "i": ("JOBID", lambda job: str(job["number"])),
    "A": ("JOBID", lambda job: str(job["number"])),
    "P": ("PARTITION", lambda job: "bursar"),
    "j": ("NAME", lambda job: str(job["name"])),
    "u": ("USER", lambda job: job["user"]),
    "a": ("ACCOUNT", lambda job: job["project"]),
    "t": ("ST", lambda job: _CODES[job["state"]]),
    "T": ("STATE", lambda job: _LONG.get(job["state"], str(job["state"]))),
    "M": ("TIME", lambda job: _clock(_elapsed_s(job), True)),
    "l": ("TIME_LIMIT", lambda job: _clock(int(job["time_limit_s"] or 0), True)),
    "D": ("NODES", lambda job: str(job["nodes"])),
    "R": ("NODELIST(REASON)", _where),
    "N": ("NODELIST", lambda job: compress_hosts(_nodes(job))),
    "r": ("REASON", lambda job: str(job["reason"]["code"] or "None")),
    "V": ("SUBMIT_TIME", lambda job: _moment(job["submitted_at"])),
    "S": ("START_TIME", lambda job: _moment(job["started_at"])),
    "Q": ("PRIORITY", lambda job: str(job["priority"])),
}
PAST: Final[Mapping[str, Callable[[Row], str]]] = {
    "JobID": lambda job: str(job["number"]),
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
    "AllocCPUS": lambda job: str(int(job["resources"]["cpus"] * job["nodes"])),
    "NCPUS": lambda job: str(int(job["resources"]["cpus"] * job["nodes"])),
    "MaxRSS": lambda job: f"{int(job.get('max_rss_bytes') or 0) // 1024}K",
}


class _Words:
    """Options of one command: flags, values, and a list of what is not known."""

    def __init__(self, arguments: Sequence[str], flags: str, values: str) -> None:
        """`flags`, `values`: names by space, `long/s`. Raises `ValueError` for another option."""
        known = {}
        for text, takes in ((flags, False), (values, True)):
            for each in text.split():
                name, _, short = each.partition("/")
                known[f"--{name}"] = known[f"-{short}" if short else f"--{name}"] = (name, takes)
        self.found: dict[str, str] = {}
        rest = list(arguments)
        while rest:
            word = rest.pop(0)
            head, mark, value = word.partition("=")
            if not word.startswith("--") and len(word) > 2 and word[:2] in known:
                head, mark, value = word[:2], "=", word[2:].removeprefix("=")
                if not known[head][1]:
                    rest.insert(0, f"-{value}")
                    mark = value = ""
            if head not in known:
                raise ValueError(f"{word} cannot be done here")
            name, takes = known[head]
            if takes and not mark:
                if not rest:
                    raise ValueError(f"{word} needs a value")
                value = rest.pop(0)
            self.found[name] = value


def _ask(*words: str) -> Any:
    """JSON of a command of bursar. Raises `SystemExit` with its code, its words are said."""
    done = subprocess.run([*program(os.environ), *words, "-o", "json"], stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout)


def _jobs(found: Mapping[str, str], default: str) -> list[Row]:
    """The jobs that are asked for, whole."""
    if found.get("jobs"):
        return [_ask("show", job_word(one)) for one in found["jobs"].split(",")]
    words = ["--state", _states(found["states"]) if "states" in found else default]
    if "me" in found:
        words += ["--user", os.environ.get("USER") or os.environ.get("LOGNAME", "")]
    for name, flag in (("user", "--user"), ("name", "--name"), ("account", "--project")):
        if name in found:
            words += [flag, found[name]]
    return list(_ask("ls", *words))


def _states(text: str) -> str:
    own = {code: name for name, code in _CODES.items()} | {long: name for name, long in _LONG.items()}
    return ",".join(own.get(one.upper(), one).lower() for one in text.split(","))


def squeue(arguments: Sequence[str]) -> int:
    """Jobs that wait or run; the exit code."""
    words = _Words(
        arguments, "noheader/h me array/r long-job all/a", "jobs/j user/u states/t name/n account/A format/o"
    )
    form = words.found.get("format", os.environ.get("SQUEUE_FORMAT", _SQUEUE))
    unknown = [letter for _, _, letter in _FIELD.findall(form) if letter not in QUEUE]
    if unknown:
        return refuse("squeue", f"the column %{unknown[0]} is not known here; these are: {' '.join(QUEUE)}")

    def line(text_of: Callable[[str], str]) -> str:
        def fill(match: re.Match[str]) -> str:
            text, width = text_of(match.group(3)), int(match.group(2) or 0)
            text = text[:width] if width else text
            return text.rjust(width) if match.group(1) else text.ljust(width)

        return _FIELD.sub(fill, form).rstrip() + "\n"

    jobs = _jobs(words.found, _ACTIVE)
    if "noheader" not in words.found:
        sys.stdout.write(line(lambda letter: QUEUE[letter][0]))
    for job in jobs:
        if "jobs" not in words.found or job["state"].lower() in _ACTIVE:
            sys.stdout.write(line(lambda letter, job=job: QUEUE[letter][1](job)))  # type: ignore[misc]
    return 0


def sacct(arguments: Sequence[str]) -> int:
    """Jobs of the last day, ended ones too; the exit code."""
    words = _Words(
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


def sinfo(arguments: Sequence[str]) -> int:
    """Nodes by pool and state; the exit code."""
    words = _Words(arguments, "noheader/h summarize/s", "partition/p")
    groups: dict[tuple[str, str], list[str]] = {}
    for node in _ask("nodes"):
        state = "down" if node["state"] != "up" else "alloc" if node.get("jobs") else "idle"
        if node["state"] in ("draining", "drained", "cordoned"):
            state = "drain"
        groups.setdefault((node["pool"], state), []).append(node["name"])
    if "noheader" not in words.found:
        sys.stdout.write("PARTITION AVAIL  TIMELIMIT  NODES  STATE NODELIST\n")
    for (pool, state), found in sorted(groups.items()):
        if words.found.get("partition", pool) == pool:
            row = f"{pool:<9} {'up':>5} {'infinite':>10} {len(found):>6} {state:>6} {compress_hosts(found)}\n"
            sys.stdout.write(row)
    return 0


def main(name: str, arguments: Sequence[str]) -> int:
    """One of them by name; its exit code."""
    try:
        return {"squeue": squeue, "sacct": sacct, "sinfo": sinfo}[name](arguments)
    except ValueError as problem:
        return refuse(name, str(problem))
