"""CPUs and GPUs of a job that one step has for itself: `srun --exclusive`, `srun --gpus-per-task=1`.

Owns    one lock per CPU and per device of each member, in the job's own directory on the node where its steps
        are started.
Why     `for f in *; do srun --exclusive -n1 ./work $f & done` is how many scripts fill a node, and with a GPU
        for each they would all find the first one. A lock is gone with its holder, however that ended.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from bursar.steps.names import CPUS
from bursar.steps.request import Member, Place, Refused, Request, gpus_held, named, places, refuse_more_gpus
from bursar.words import plural

_LOOK_S = 0.1
_WAITS = "other steps of this job have its GPUs; waiting until they are free (--overlap shares them)"
_TASKS_FREE = 64
"""So many tasks of a step a node takes, however few CPUs the job holds there."""
_TASKS_A_CPU = 8
_CPUS = re.compile(r"\d{1,6}(\.\d{1,6})?", re.ASCII)
_COUNT = re.compile(r"(\d+)(?:\(x(\d+)\))?", re.ASCII)


def take_places(request: Request, env: Mapping[str, str], everybody: Sequence[Member]) -> list[Place]:
    """Which member has which tasks, once what they have for themselves is free. Raises `Refused`."""
    if request.exclusive:
        found = Slots(env).take(request, everybody)
        refuse_more_gpus(request, env, found)
        return found
    found = places(request, everybody)
    refuse_more_tasks(env, found)
    refuse_more_gpus(request, env, found)
    return Slots(env).claim(request, found) if request.gpu_claim and gpus_held(env) else found


class _Asked(NamedTuple):
    """So many tasks of a step on some of these members."""

    request: Request
    members: list[Member]
    tasks: int

    def spread(self, room: Callable[[Member, int], int]) -> list[tuple[Member, list[int]]]:
        """Members with their ranks, in order; none where not all have room. `room`: of a member, at most."""
        request, found, left = self.request, list[tuple[Member, list[int]]](), self.tasks
        for member in self.members:
            if not left or len(found) == (request.nodes or len(self.members)):
                break
            most = min(left, request.tasks_per_node or left)
            if request.nodes:
                most = min(most, -(-left // (request.nodes - len(found))))
            if count := room(member, most):
                start = self.tasks - left
                found.append((member, list(range(start, start + count))))
                left -= count
        return [] if left or len(found) < request.nodes else found


def refuse_more_tasks(env: Mapping[str, str], found: Sequence[Place]) -> None:
    """Raise `Refused` for so many tasks on a node that the job's CPUs there do little but start them."""
    cpus = _CPUS.fullmatch(env.get(CPUS, ""))
    most = max(_TASKS_FREE, int(_TASKS_A_CPU * float(cpus[0])) if cpus else 0)
    for place in found:
        if len(place.ranks) > most:
            raise Refused(
                f"{len(place.ranks)} tasks are asked for on node {place.member.name}; at most {most} run"
                f" there in one step: {_TASKS_A_CPU} for each CPU that the job holds there, and {_TASKS_FREE}"
                " in any case. Give the job more CPUs or nodes, or start fewer tasks at a time"
            )


class Slots:
    """The CPUs and GPUs of a job, as the steps that were started on this node share them."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """Raises `Refused` where there is no directory to keep them in."""
        folder = env.get("SLURM_TMPDIR", "")
        self._folder = f"{folder}/.bursar-cpus"
        try:
            os.makedirs(self._folder, 0o700, exist_ok=True)
        except OSError as problem:
            raise Refused(f"steps share no CPUs and GPUs: {self._folder}: {problem.strerror}") from None
        self._gpus = gpus_held(env) or 0
        self._sizes: list[int] = []
        for match in _COUNT.finditer(env.get("SLURM_JOB_CPUS_PER_NODE", "")):
            self._sizes += [int(match.group(1))] * int(match.group(2) or 1)

    def take(self, request: Request, everybody: Sequence[Member]) -> list[Place]:
        """Wait until the step's CPUs are free, and take them until this process ends. Raises `Refused`."""
        each = request.cpus_per_task or 1
        tasks = request.tasks or request.nodes or 1
        if request.tasks_per_node and request.nodes and not request.tasks:
            tasks = request.nodes * request.tasks_per_node
        asked = _Asked(request, named(request, everybody), tasks)
        if not asked.spread(lambda member, most: min(most, self._room(member, request))):
            gpus = max(request.gpus_per_task, request.gpus_per_node) * bool(request.gpu_claim)
            also = f" and {plural(gpus, 'GPU')}" if gpus and self._gpus else ""
            raise Refused(
                f"--exclusive: {plural(tasks, 'task')} of {plural(each, 'CPU')}{also}, more than this job has"
            )
        return self._in_turn(lambda: self._try(asked))

    def _room(self, member: Member, request: Request) -> int:
        """Tasks that a member can have where no other step has any."""
        room = self._size_of(member) // (request.cpus_per_task or 1)
        if not request.gpu_claim or not self._gpus:
            return room
        if request.gpus_per_node > self._gpus:
            return 0
        return min(room, self._gpus // request.gpus_per_task) if request.gpus_per_task else room

    def claim(self, request: Request, wanted: Sequence[Place]) -> list[Place]:
        """The same places with devices of their own, when there are some, or once there are."""
        found = self._with_gpus(request, wanted)
        if found or request.gpu_claim != "wait":
            return found or list(wanted)
        if not request.quiet:
            sys.stderr.write(f"{request.program}: {_WAITS}\n")
        return self._in_turn(lambda: self._with_gpus(request, wanted))

    def _in_turn(self, look: Callable[[], list[Place]]) -> list[Place]:
        """What a look finds, at last; steps that wait find it in the order in which they came."""
        turn = os.open(f"{self._folder}/turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(turn, fcntl.LOCK_EX)
        while True:
            found = look()
            if found:
                os.close(turn)
                return found
            time.sleep(_LOOK_S)

    def _with_gpus(self, request: Request, wanted: Sequence[Place]) -> list[Place]:
        """Devices for each place, or none for any."""
        held: list[int] = []
        found = []
        for place in wanted:
            count = max(request.gpus_per_node, request.gpus_per_task * len(place.ranks))
            locks = self._lock(place.member.rank, count, self._gpus, "gpu")
            held += locks.values()
            if len(locks) < count:
                _give_back(held)
                return []
            found.append(Place(place.member, place.ranks, list(locks)))
        return found

    def _try(self, asked: _Asked) -> list[Place]:
        """Places whose CPUs and devices are held, or none of them."""
        held: list[int] = []
        gpus: dict[int, list[int] | None] = {}

        def room(member: Member, most: int) -> int:
            count, gpus[member.rank], locks = self._take_of(member, asked.request, most)
            held.extend(locks)
            return count

        found = asked.spread(room)
        if not found:
            _give_back(held)
        return [Place(member, ranks, gpus[member.rank]) for member, ranks in found]

    def _take_of(
        self, member: Member, request: Request, most: int
    ) -> tuple[int, list[int] | None, list[int]]:
        """How many tasks have room on a member, with which devices; and the locks that hold both."""
        each = request.cpus_per_task or 1
        cpus = self._lock(member.rank, most * each, self._size_of(member), "")
        count = len(cpus) // each
        gpus: dict[int, int] = {}
        claims = bool(request.gpu_claim and self._gpus)
        if claims and request.gpus_per_task:
            gpus = self._lock(member.rank, count * request.gpus_per_task, self._gpus, "gpu")
            count = len(gpus) // request.gpus_per_task
        elif claims and count:
            gpus = self._lock(member.rank, request.gpus_per_node, self._gpus, "gpu")
            count = count if len(gpus) == request.gpus_per_node else 0
        kept_gpus = request.gpus_per_node * bool(count) or request.gpus_per_task * count
        _give_back([*list(cpus.values())[count * each :], *list(gpus.values())[kept_gpus:]])
        locks = [*list(cpus.values())[: count * each], *list(gpus.values())[:kept_gpus]]
        return count, list(gpus)[:kept_gpus] if claims else None, locks

    def _size_of(self, member: Member) -> int:
        return self._sizes[member.rank] if member.rank < len(self._sizes) else 0

    def _lock(self, rank: int, most: int, size: int, kind: str) -> dict[int, int]:
        """Up to so many free CPUs or devices of a member, each with the descriptor that locks it."""
        found: dict[int, int] = {}
        for number in range(size):
            if len(found) == most:
                break
            name = f"{self._folder}/{rank}.{kind}{number}"
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found[number] = fd
            except OSError:
                os.close(fd)
        return found


def _give_back(locks: Sequence[int]) -> None:
    for fd in locks:
        os.close(fd)
