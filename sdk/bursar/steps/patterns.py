"""What one task has for itself: its variables, its files.

Owns    ranks under the names of Bursar, Slurm and torch; `%t` and its kin in names of files.
Why     it is decided on the task's node, for only there are its devices and its directories.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from typing import Any

from bursar.steps import names

_PATTERN = re.compile(r"%(\d{0,2})([AabJjNnstuxh%])", re.ASCII)


_NO_ARRAY = "4294967294"
"""The index of what is no task of an array: Slurm's word for none."""


def task_environment(
    spec: Mapping[str, Any], env: Mapping[str, str], local: int, rank: int
) -> dict[str, str]:
    """What differs from task to task."""
    found = {
        names.STEP_RANK: str(rank),
        names.STEP_LOCAL_RANK: str(local),
        names.STEP_TASKS: str(spec["tasks"]),
    }
    if spec["slurm"]:
        found |= {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(local)}
    if spec["distributed"]:
        found |= {"RANK": str(rank), "LOCAL_RANK": str(local)}
    devices = [one for one in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    if (own := spec.get("gpu_places")) is not None:
        devices = [devices[at] for at in own if at < len(devices)]
    each = spec["gpus_per_task"]
    if spec["gpus_per_node"]:
        found["CUDA_VISIBLE_DEVICES"] = ",".join(devices[: spec["gpus_per_node"]])
    if each:
        found["CUDA_VISIBLE_DEVICES"] = ",".join(devices[local * each : (local + 1) * each])
    elif shared := spec.get("tasks_per_gpu"):
        at = local // shared
        found["CUDA_VISIBLE_DEVICES"] = ",".join(devices[at % max(len(devices), 1) :][:1])
    elif places := spec.get("gpu_map"):
        at = places[local % len(places)]
        found["CUDA_VISIBLE_DEVICES"] = ",".join(devices[at : at + 1])
    return found


def fill(pattern: str, words: Mapping[str, str]) -> str:
    """A pattern with its words in place: `%j`, `%4t` with zeros before a number, `%%`.

    One with a backslash in it is taken as it is, without the backslash, as Slurm takes it.
    """
    if "\\" in pattern:
        return pattern.replace("\\", "")

    def word(match: re.Match[str]) -> str:
        found = words[match.group(2)]
        return found.zfill(int(match.group(1) or 0)) if found.isdigit() else found

    return _PATTERN.sub(word, pattern)


def words_of(
    env: Mapping[str, str],
    *,
    node: str,
    index: int,
    rank: int,
    step: str = "",
    user: str = "",
    name: str = "",
) -> dict[str, str]:
    """What the letters of a pattern stand for.

    Args:
        env: of the job, which has its numbers.
        node, index: its name, and its place among those that run this. rank: of the task.
        step: empty for the job itself.
    """
    job = env.get("SLURM_JOB_ID") or env.get("BURSAR_JOB_NUMBER", "")
    task = env.get("SLURM_ARRAY_TASK_ID", env.get("BURSAR_ARRAY_INDEX", _NO_ARRAY))
    return {
        "A": env.get("SLURM_ARRAY_JOB_ID", job),
        "a": task,
        "b": task[-1:],
        "J": f"{job}.{step}" if step else job,
        "j": job,
        "N": node,
        "h": node,
        "n": str(index),
        "s": step or "batch",
        "t": str(rank),
        "u": user or env.get("USER", ""),
        "x": name or env.get("SLURM_JOB_NAME", ""),
        "%": "%",
    }


def file_name(pattern: str, spec: Mapping[str, Any], env: Mapping[str, str], local: int, rank: int) -> str:
    """The file of one task of a step."""
    words = words_of(env, node=spec["node"], index=spec["node_index"], rank=rank, step=str(spec["step"]))
    return fill(pattern, words)


def of_a_task(pattern: str) -> bool:
    """Does it name a file of its own for each task or node, which is opened there?"""
    return _has_any(pattern, "tnNh")


def of_an_array_task(pattern: str) -> bool:
    """Does it name a file of its own for each task of an array?"""
    return _has_any(pattern, "ajJ")


def _has_any(pattern: str, letters: str) -> bool:
    return "\\" not in pattern and any(match.group(2) in letters for match in _PATTERN.finditer(pattern))


def empty(spec: Mapping[str, Any], env: Mapping[str, str]) -> None:
    """Make the files of this node's tasks, empty unless the step appends. What fails is told by the task."""
    flags = os.O_WRONLY | os.O_CREAT | (0 if spec["append"] else os.O_TRUNC)
    wanted = [pattern for pattern in (spec["output"], spec["error"]) if pattern not in ("", "none")]
    found = {
        file_name(pattern, spec, env, local, rank)
        for pattern in wanted
        for local, rank in enumerate(spec["ranks"])
    }
    for name in found:
        with contextlib.suppress(OSError):
            os.close(os.open(os.path.join(spec["cwd"], name), flags, 0o666))


def redirect(spec: Mapping[str, Any], env: Mapping[str, str], local: int, rank: int) -> None:
    """Put standard input, output and error of the calling process where the step says. Raises `OSError`."""
    for number, pattern in ((1, spec["output"]), (2, spec["error"])):
        if pattern:
            name = os.devnull if pattern == "none" else file_name(pattern, spec, env, local, rank)
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), number)
    if spec["input"]:
        name = os.devnull if spec["input"] == "none" else file_name(spec["input"], spec, env, local, rank)
        os.dup2(os.open(name, os.O_RDONLY), 0)
