"""`srun --exclusive`: steps of one job that wait for each other's CPUs.

Owns    one lock per CPU of each member, in the job's own directory on the node where its steps are started.
Why     `for f in *; do srun --exclusive -n1 ./work $f & done` is how many scripts fill a node. A lock is gone
        with its holder, however that ended.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Mapping, Sequence

from bursar.steps.request import Member, Place, Refused, Request
from bursar.words import plural

_LOOK_S = 0.1
_COUNT = re.compile(r"(\d+)(?:\(x(\d+)\))?", re.ASCII)


class Slots:
    """The CPUs of a job, as the steps that were started on this node share them."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """Raises `Refused` where there is no directory to keep them in."""
        folder = env.get("SLURM_TMPDIR", "")
        self._folder = f"{folder}/.bursar-cpus"
        try:
            os.makedirs(self._folder, 0o700, exist_ok=True)
        except OSError as problem:
            raise Refused(f"--exclusive: {self._folder}: {problem.strerror}") from None
        self._sizes: list[int] = []
        for match in _COUNT.finditer(env.get("SLURM_JOB_CPUS_PER_NODE", "")):
            self._sizes += [int(match.group(1))] * int(match.group(2) or 1)

    def take(self, request: Request, everybody: Sequence[Member]) -> list[Place]:
        """Wait until the step's CPUs are free, and take them until this process ends. Raises `Refused`."""
        each = request.cpus_per_task or 1
        tasks = request.tasks or request.nodes or 1
        if request.tasks_per_node and request.nodes and not request.tasks:
            tasks = request.nodes * request.tasks_per_node
        named = {one.rank for one in everybody if one.name in request.node} or set(range(len(everybody)))
        if tasks * each > sum(size for rank, size in enumerate(self._sizes) if rank in named):
            raise Refused(
                f"--exclusive: {plural(tasks, 'task')} of {plural(each, 'CPU')}, more than this job has"
            )
        turn = os.open(f"{self._folder}/turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(turn, fcntl.LOCK_EX)
        while True:
            found = self._try(request, everybody, named, tasks, each)
            if found:
                os.close(turn)
                return found
            time.sleep(_LOOK_S)

    def _try(
        self, request: Request, everybody: Sequence[Member], named: set[int], tasks: int, each: int
    ) -> list[Place]:
        held: list[int] = []
        places: list[Place] = []
        left = first = tasks
        for member in everybody:
            if member.rank not in named or not left or len(places) == (request.nodes or len(everybody)):
                continue
            most = min(left, request.tasks_per_node or left)
            if request.nodes:
                most = min(most, -(-left // (request.nodes - len(places))))
            free = self._lock(member.rank, most * each)
            count = len(free) // each
            for fd in free[count * each :]:
                os.close(fd)
            held += free[: count * each]
            if count:
                start = first - left
                places.append(Place(member, list(range(start, start + count))))
                left -= count
        if left or (request.nodes and len(places) < request.nodes):
            for fd in held:
                os.close(fd)
            return []
        return places

    def _lock(self, rank: int, most: int) -> list[int]:
        """Up to so many free CPUs of a member, as locked descriptors."""
        found: list[int] = []
        for cpu in range(self._sizes[rank] if rank < len(self._sizes) else 0):
            if len(found) == most:
                break
            fd = os.open(f"{self._folder}/{rank}.{cpu}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.append(fd)
            except OSError:
                os.close(fd)
        return found
