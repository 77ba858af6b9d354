"""`scontrol`: lists of nodes, the running job, and putting it back into the queue.

Owns    its words; `shown` has what must be asked for.
Why     scripts ask it for host names, for what they are, and to run again; the rest is an administrator's.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

from bursar.steps import names
from bursar.steps.hosts import compress_hosts, expand_hosts

_SHOWN: Final = (["job"], ["jobs"], ["jobid"], ["node"], ["nodes"], ["partition"], ["partitions"])
_PORT: Final = 6818
"""Of Slurm's own daemon, which its `getaddrs` says as well; scripts cut it off."""
_KNOWN: Final = (
    "show hostnames, show job, show node, show partition, update, getaddrs, requeue, hold and release"
)
_IDLE: Final = ("-a", "-d", "-dd", "-Q", "--all", "--details", "--quiet")
_ONE_LINE: Final = ("-o", "--oneliner")


def main(arguments: Sequence[str]) -> int:
    """The exit code: 2 for what is not done here."""
    words = [word for word in arguments if word not in (*_ONE_LINE, *_IDLE)]
    words[1:2] = "".join(words[1:2]).split("=", 1) if words[:1] in (["show"], ["SHOW"]) else words[1:2]
    what = [word.lower() for word in words[:2]]
    if what in (["show", "hostnames"], ["show", "hostname"]):
        return _hostnames(words[2:])
    if what == ["show", "hostlist"] and len(words) == 3:
        sys.stdout.write(compress_hosts(words[2].split(",")) + "\n")
        return 0
    one_line = not {*_ONE_LINE}.isdisjoint(arguments)
    if what in (["show", "job"], ["show", "jobs"], ["show", "jobid"]) and _is_own(words[2:], os.environ):
        return _job(os.environ, one_line)
    if what[:1] == ["update"] or (what[:1] == ["show"] and what[1:] in _SHOWN):
        return _asked(what, words, one_line)
    if what[:1] == ["getaddrs"]:
        return _addresses(words[1:], os.environ)
    if what[:1] in (["requeue"], ["hold"], ["release"]) and len(words) >= 2:
        from bursar.steps import queue

        return queue.verb(what[0], words[1:])
    shown = " ".join(words[:2]) or "without words"
    return _refuse(f"{shown} cannot be done here; {_KNOWN} can")


def _is_own(words: Sequence[str], env: Mapping[str, str]) -> bool:
    """Is it the running job that is asked for, of which its environment tells all?"""
    own = env.get("SLURM_JOB_ID", "")
    task = f"{env.get('SLURM_ARRAY_JOB_ID')}_{env.get('SLURM_ARRAY_TASK_ID')}"
    return bool(own) and (not words or words[0] in (own, task))


def _asked(what: Sequence[str], words: Sequence[str], one_line: bool) -> int:
    from bursar.steps import shown

    try:
        if what[0] == "update":
            return shown.update(words[1:])
        kind = what[1].removesuffix("s").removesuffix("id")
        show = {"job": shown.jobs, "node": shown.nodes, "partition": shown.partitions}[kind]
        return show(words[2:], one_line=one_line)
    except ValueError as problem:
        return _refuse(str(problem))


def _refuse(text: str) -> int:
    sys.stderr.write(f"scontrol: error: {text}\n")
    return 2


def _hostnames(words: Sequence[str]) -> int:
    text = words[0] if words else os.environ.get("SLURM_JOB_NODELIST", "")
    try:
        sys.stdout.write("\n".join(expand_hosts(text)) + "\n")
    except ValueError as problem:
        return _refuse(f"show hostnames {text}: {problem}")
    return 0


def _addresses(words: Sequence[str], env: Mapping[str, str]) -> int:
    """`getaddrs`: a line for each node, `n1: 10.0.0.1:6818`."""
    text = words[0] if words else env.get("SLURM_JOB_NODELIST", "")
    nodes = env.get(names.NODE_NAMES, "").split(",")
    known = dict(zip(nodes, env.get("BURSAR_NODE_ADDRESSES", "").split(","), strict=False))
    try:
        hosts = expand_hosts(text)
    except ValueError as problem:
        return _refuse(f"getaddrs {text}: {problem}")
    strange = [host for host in hosts if not known.get(host)]
    if strange:
        return _refuse(f"getaddrs {text}: {strange[0]} is no node of this job")
    sys.stdout.write("".join(f"{host}: {known[host]}:{_PORT}\n" for host in hosts))
    return 0


def _job(env: Mapping[str, str], one_line: bool) -> int:
    def at(name: str) -> str:
        text = env.get(name, "")
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(int(text))) if text.isdigit() else "Unknown"

    limit_s = int(env.get("SLURM_JOB_END_TIME", 0)) - int(env.get("SLURM_JOB_START_TIME", 0))
    hours, minutes, seconds = limit_s // 3600, limit_s // 60 % 60, limit_s % 60
    groups = (
        f"JobId={env['SLURM_JOB_ID']} JobName={env.get('SLURM_JOB_NAME', '')}",
        f"UserId={env.get('SLURM_JOB_USER', '')}({os.getuid()}) Account={env.get('SLURM_JOB_ACCOUNT', '')}"
        f" QOS={env.get('SLURM_JOB_QOS', '')}",
        f"JobState=RUNNING Reason=None Requeue=1 Restarts={env.get('SLURM_RESTART_COUNT', '0')}",
        f"TimeLimit={hours:02}:{minutes:02}:{seconds:02}",
        f"StartTime={at('SLURM_JOB_START_TIME')} EndTime={at('SLURM_JOB_END_TIME')}",
        f"Partition={env.get('SLURM_JOB_PARTITION', '')}",
        f"NodeList={env.get('SLURM_JOB_NODELIST', '')}",
        f"NumNodes={env.get('SLURM_JOB_NUM_NODES', '')} NumTasks={env.get('SLURM_NTASKS', '')}"
        f" CPUs/Task={env.get('SLURM_CPUS_PER_TASK', '')}",
        f"Command={env.get(names.SCRIPT_FILE, '(null)')}",
        f"WorkDir={env.get('SLURM_SUBMIT_DIR', '')}",
        f"StdErr={env.get(names.ERROR_FILE) or env.get(names.OUTPUT_FILE, '(null)')}",
        "StdIn=/dev/null",
        f"StdOut={env.get(names.OUTPUT_FILE, '(null)')}",
    )
    sys.stdout.write((" " if one_line else "\n   ").join(groups) + "\n")
    return 0
