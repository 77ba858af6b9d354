"""`scontrol show job|node|partition`, and `scontrol update` of a job: asked of `bursar` in Slurm's words.

Why     scripts read one field of what it prints, by its name: `JobState=`, `NumNodes=`, `Gres=`. A field is
        there where its value is known, and a job that is not there is an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from bursar.steps import listing, tables
from bursar.steps.hosts import compress_hosts, expand_hosts
from bursar.steps.listing import Row
from bursar.steps.patterns import fill, words_of
from bursar.steps.queue import job_word, job_words, program
from bursar.steps.sinfo import features_of, gpus_of, partition_of, state_of
from bursar.steps.times import parse_slurm_time

_UPDATED: Final[Mapping[str, str]] = {
    "timelimit": "--time-limit", "jobname": "--name", "name": "--name", "comment": "--comment",
    "account": "--project", "numnodes": "--nodes", "wckey": "--experiment",
}  # fmt: skip


_AFTER: Final[Mapping[str, str]] = {
    "succeeded": "afterok", "failed": "afternotok", "finished": "afterany", "started": "after",
    "task-succeeded": "aftercorr",
}  # fmt: skip


def _write(groups: Sequence[str], one_line: bool) -> None:
    text = (" " if one_line else "\n   ").join(group for group in groups if group)
    sys.stdout.write(text + ("\n" if one_line else "\n\n"))


def jobs(words: Sequence[str], *, one_line: bool) -> int:
    """Any job by its number, or all that have not ended; the exit code."""
    if words:
        found = [listing.job_of(one) for one in job_words(words[0])]
        if None in found:
            sys.stderr.write("slurm_load_jobs error: Invalid job id specified\n")
            return 1
    else:
        found = list(tables.Filters({}).jobs(tables.ACTIVE))
    for job in found:
        _write(list(_job(job or {})), one_line)
    return 0


def _dependencies(job: Row) -> str:
    """What it still waits for, as `afterok:12(unfulfilled)`; of one that waits no more nothing."""
    if job["state"] != "PENDING":
        return ""
    found = []
    for one in job.get("depends_on") or ():
        kind = _AFTER.get(one["when"], one["when"])
        if kind == "singleton":
            found.append(f"{kind}(unfulfilled)")
            continue
        other = listing.job_of(one["job"])
        if other is None or tables.state_of(other) in tables.ACTIVE:
            star = "_*" if kind == "aftercorr" else ""
            found.append(f"{kind}:{tables.id_of(other) if other else one['job']}{star}(unfulfilled)")
    return ",".join(found)


def _job(job: Row) -> Iterator[str]:
    number, task = str(job["number"]), tables.task_of(job)
    yield (
        f"JobId={number}"
        + (f" ArrayJobId={number} ArrayTaskId={task}" if task else "")
        + (f" JobName={job['name']}")
    )
    yield f"UserId={job['user']} Account={job['project']} Priority={job['priority']}"
    restarts = max(len(job.get("attempts") or ()) - 1, 0)
    yield f"JobState={tables.state_of(job)} Reason={tables.reason_of(job)} Restarts={restarts}" + (
        f" ExitCode={tables.exit_of(job)}"
    )
    yield f"Dependency={_dependencies(job) or '(null)'}"
    limit_s = int(job["time_limit_s"] or 0)
    yield f"RunTime={tables.clock(tables.elapsed_s(job), False)}" + (
        f" TimeLimit={tables.clock(limit_s, False) if limit_s else 'UNLIMITED'}"
    )
    yield f"SubmitTime={tables.moment(job['submitted_at'])}"
    ends = tables.QUEUE["e"][1](job)
    yield f"StartTime={tables.moment(job['started_at'])} EndTime={ends}".replace("=N/A", "=Unknown")
    yield f"Partition={tables.partition_of(job)}"
    names = tables.nodes_of(job)
    yield f"NodeList={compress_hosts(names) or '(null)'}" + (f" BatchHost={names[0]}" if names else "")
    yield f"NumNodes={tables.nodes_count(job)} NumCPUs={tables.cpus_of(job)}"
    yield f"TresPerNode={tables.QUEUE['b'][1](job)}" if job["resources"].get("gpus") else ""
    yield f"Comment={job['comment']}" if job.get("comment") else ""
    yield f"Command={job.get('script_file') or ' '.join(job.get('command') or ()) or '(null)'}"
    yield f"WorkDir={job.get('workdir') or '(null)'}"
    out = _file(job, "output_file") or "(null)"
    yield f"StdErr={_file(job, 'error_file') or out}"
    yield f"StdOut={out}"


def _file(job: Row, name: str) -> str:
    """A file of its output, with its pattern filled; empty where it names none."""
    pattern, task, names = job.get(name) or "", tables.task_of(job), tables.nodes_of(job)
    if not pattern:
        return ""
    own = {"SLURM_JOB_ID": str(job["number"])} | ({"SLURM_ARRAY_TASK_ID": task} if task else {})
    node = names[0] if names else "%N"
    words = words_of(own, node=node, index=0, rank=0, user=job["user"], name=job["name"])
    return os.path.join(job.get("workdir") or "", fill(pattern, words))


def nodes(words: Sequence[str], *, one_line: bool) -> int:
    """Nodes by name, or all; the exit code."""
    rows = {node["name"]: node for node in listing.ask("nodes")}
    wanted = expand_hosts(words[0]) if words else list(rows)
    for name in wanted:
        if name not in rows:
            sys.stderr.write(f"Node {name} not found\n")
            return 1
    for name in wanted:
        _write(list(_node(rows[name])), one_line)
    return 0


def _node(node: Row) -> Iterator[str]:
    cpus, mib = f"{node['cpus']:g}", int(node["memory_bytes"]) // 1024**2
    free_mib, gpus = int(node["memory_free_bytes"]) // 1024**2, node.get("gpus") or 0
    used = f"{node['cpus'] - node['cpus_free']:g}"
    yield f"NodeName={node['name']}"
    yield f"CPUAlloc={used} CPUTot={cpus}"
    yield f"AvailableFeatures={features_of(node)}"
    yield f"ActiveFeatures={features_of(node)}"
    yield f"Gres={gpus_of([node])}"
    yield f"NodeAddr={node.get('address') or node['name']} NodeHostName={node['name']}"
    yield f"RealMemory={mib} AllocMem={mib - free_mib} FreeMem={free_mib}"
    yield f"State={state_of(node).upper()}"
    yield f"Partitions={partition_of(node)}"
    yield f"CfgTRES=cpu={cpus},mem={mib}M" + (f",gres/gpu={gpus:g}" if gpus else "")
    held = gpus - (node.get("gpus_free") or 0)
    yield f"AllocTRES=cpu={used},mem={mib - free_mib}M" + (f",gres/gpu={held:g}" if gpus else "")
    yield f"Reason={node['reason']}" if node.get("reason") else ""


def partitions(words: Sequence[str], *, one_line: bool) -> int:
    """Partitions by name, or all; the exit code."""
    found: dict[str, list[Row]] = {}
    for node in listing.ask("nodes"):
        found.setdefault(partition_of(node), []).append(node)
    for name in words[0].split(",") if words else ():
        if name not in found:
            sys.stderr.write(f"Partition {name} not found\n")
            return 1
    for name in words[0].split(",") if words else sorted(found):
        _write(list(_partition(name, found[name])), one_line)
    return 0


def _partition(name: str, members: Sequence[Row]) -> Iterator[str]:
    cpus = f"{sum(node['cpus'] for node in members):g}"
    mib = sum(int(node["memory_bytes"]) for node in members) // 1024**2
    gpus = sum(node.get("gpus") or 0 for node in members)
    yield f"PartitionName={name}"
    yield "MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0"
    yield f"Nodes={compress_hosts(node['name'] for node in members)}"
    yield f"State=UP TotalCPUs={cpus} TotalNodes={len(members)}"
    yield f"TRES=cpu={cpus},mem={mib}M,node={len(members)}" + (f",gres/gpu={gpus:g}" if gpus else "")


def update(words: Sequence[str]) -> int:
    """`update JobId=12 TimeLimit=2:00:00`; the exit code. Raises `ValueError` for what cannot be changed."""
    wanted, limit = "", None
    flags: list[str] = []
    for word in words:
        name, mark, value = word.partition("=")
        key = name.lower()
        if not mark:
            raise ValueError(f"update {word}: it is not of the form NAME=VALUE")
        if key in ("jobid", "job"):
            wanted = value
        elif key == "timelimit":
            limit = _limit(word, value)
        elif key in _UPDATED:
            flags += [_UPDATED[key], value]
        else:
            known = "JobId, TimeLimit, JobName, Comment, Account, NumNodes, WCKey"
            raise ValueError(f"update {name} cannot be done here; these can: {known}")
    if not wanted or not (flags or limit):
        raise ValueError("update: name a job with JobId=, and what to change")
    for one in wanted.split(","):
        more = [_UPDATED["timelimit"], f"{_limit_of(one, *limit)}s"] if limit else []
        command = [*program(os.environ), "update", job_word(one), *flags, *more]
        code = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
        if code:
            return code
    return 0


def _limit(word: str, value: str) -> tuple[str, int]:
    """Sign and seconds of `2:00:00`, `+10:00` (so much more) or `-30`. Raises `ValueError`."""
    sign = value[:1] if value[:1] in ("+", "-") else ""
    seconds = parse_slurm_time(value[len(sign) :])
    if not seconds:
        raise ValueError(f"update {word}: it is no time such as 30, 2:00:00, 1-12:00:00 or +10:00")
    return sign, seconds


def _limit_of(word: str, sign: str, seconds: int) -> int:
    """The limit that a job is to have. Raises `ValueError` where it cannot be changed by so much."""
    if not sign:
        return seconds
    row = listing.job_of(job_word(word))
    if row is None:
        raise ValueError(f"update: there is no job {word}")
    now_s = int(row["time_limit_s"] or 0)
    if not now_s:
        raise ValueError(f"update: job {word} has no time limit to change by {sign}{seconds} s")
    limit_s = now_s + seconds if sign == "+" else now_s - seconds
    if limit_s <= 0:
        raise ValueError(
            f"update: the time limit of job {word} is {now_s} s, from which {seconds} s cannot go"
        )
    return limit_s
