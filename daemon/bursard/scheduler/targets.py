"""Targets: how jobs that contend are to run until the next round, as an allocator says.

Owns    which jobs contend, the sizes that they may have, the GPUs that there are for them, and what follows
        from an answer: who is given what, and who has to end for it.
Why     pure, and asked off the plan: the answer enters the state as what a job asks for, so `plan` knows
        nothing of it. Daemon and simulator ask in the same way (`bursard.rounds`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bursar.model import JobSpec
from bursar.model.constraints import TOPOLOGY
from bursar.resources import MILLI, ResourceRequest, least_gpus
from bursar_policies.allocators import (
    ONE,
    Allocator,
    Answer,
    Contender,
    Problem,
    Room,
    Size,
    Supply,
    answered,
    words_of,
)
from bursar_policies.decision import NodeColumns
from bursar_policies.filters import Ask
from bursard.scheduler.candidates import Candidates

ANY_COUNT = 0
"""In `JobSpec.throughput`: on any number of GPUs."""
FEW_NODES = 8
"""Of a range of nodes, up to here every number is a size; beyond it powers of two, and the most."""
Counts = NDArray[np.int64]


def contends(spec: JobSpec) -> bool:
    """May an allocator decide about it: may it be moved, and is it known that it gains by that? It knows no
    topology.
    """
    if not spec.preemptible or spec.retry.never or spec.service is not None or spec.interactive:
        return False
    if any(key == TOPOLOGY for key, _ in spec.constraints):
        return False
    if spec.deadline_at and spec.deadline_policy == "promise":
        return False  # its place is promised: nobody moves it
    gains = spec.throughput or spec.max_nodes or least_gpus(spec.options, spec.ordered)
    return bool(gains) and all(map(_whole, spec.options))


def scales(spec: JobSpec) -> bool:
    """Does it say how fast it is where, on whole GPUs?"""
    return bool(spec.throughput) and all(map(_whole, spec.options))


def _whole(option: ResourceRequest) -> bool:
    return option.gpus is not None and option.gpus.milli == MILLI


def speed_on(spec: JobSpec, gpu_type: str, gpus: int) -> int:
    """How fast it is on so many GPUs of a type, in millionths; `ONE` where it does not say."""
    told = {(kind, count): speed for kind, count, speed in spec.throughput}
    return told.get((gpu_type, gpus)) or told.get((gpu_type, ANY_COUNT)) or ONE


def numbers_of_nodes(spec: JobSpec) -> list[int]:
    """The numbers of nodes that it may have, rising."""
    least, most = spec.nodes, spec.most_nodes
    doubled = (1 << power for power in range(FEW_NODES.bit_length(), most.bit_length()))
    return sorted({least, most, *range(least, min(most, FEW_NODES) + 1), *(n for n in doubled if n >= least)})


def narrowed(spec: JobSpec, size: Size | None) -> tuple[int, tuple[ResourceRequest, ...]] | None:
    """What a job asks for that was given a size: nodes and the one option; None: no size that it may have."""
    return fitted(spec, size) if size is not None and contends(spec) else None


def fitted(spec: JobSpec, size: Size) -> tuple[int, tuple[ResourceRequest, ...]] | None:
    """The same, whoever gave the size."""
    if not 0 <= size.option < len(spec.options):
        return None
    option = spec.options[size.option]
    gpus = option.gpus
    if gpus is None or gpus.count != size.gpus or not spec.nodes <= size.nodes <= spec.most_nodes:
        return None
    if gpus.types and size.gpu_type not in gpus.types:
        return None
    return size.nodes, (replace(option, gpus=replace(gpus, types=(size.gpu_type,))),)


class Places:
    """On how many nodes of each type of GPU an option could ever run. Of facts, so kept while they last."""

    def __init__(self) -> None:
        self._facts = 0
        self._known: dict[Ask, dict[str, int]] = {}

    def of(self, nodes: NodeColumns, ask: Ask, facts_version: int) -> Mapping[str, int]:
        """Nodes by type that can hold a member when they are empty."""
        if facts_version != self._facts or not facts_version:
            self._facts = facts_version
            self._known.clear()
        found = self._known.get(ask)
        if found is None:
            types = nodes.gpu_type[Candidates(ask, nodes).capable]
            counts = np.bincount(types[types >= 0], minlength=len(nodes.gpu_types)).tolist()
            found = {kind: many for kind, many in zip(nodes.gpu_types, counts, strict=False) if many}
            self._known[ask] = found
        return found


def sizes_of(spec: JobSpec, places: Sequence[Mapping[str, int]]) -> tuple[Size, ...]:
    """How a job may run, by option, type and number of nodes.

    Args:
        places: of each option, on how many nodes of each type it could run.
    """
    found: dict[tuple[str, int, int], Size] = {}
    counts = [option.gpus.count if option.gpus is not None else 0 for option in spec.options]
    for index, (gpus, there) in enumerate(zip(counts, places, strict=True)):
        for gpu_type in sorted(there):
            # A gang grows by nodes that are full of it: the most that it may have on one of this type.
            most = max(count for count, where in zip(counts, places, strict=True) if where.get(gpu_type))
            for nodes in numbers_of_nodes(spec):
                if nodes <= there[gpu_type] and (nodes == spec.nodes or gpus == most):
                    speed = speed_on(spec, gpu_type, nodes * gpus)
                    found.setdefault((gpu_type, nodes, gpus), Size(gpu_type, nodes, gpus, speed, index))
    return tuple(found.values())


def free_devices(nodes: NodeColumns) -> Counts:
    """Whole GPUs that nobody holds, by node (n)."""
    found: Counts = (nodes.gpu_free == MILLI).sum(axis=1, dtype=np.int64)
    return found


def supply_of(
    nodes: NodeColumns, devices: Counts, closed: NDArray[np.bool_] | None = None
) -> tuple[Supply, ...]:
    """What contenders share, by type.

    Args:
        devices: (n), GPUs of each node that are free, or held by those who share them.
        closed: (n), nodes that are not for them.
    """
    open_ = nodes.ready & (devices > 0) & (nodes.gpu_type >= 0)
    if closed is not None:
        open_ &= ~closed
    found = []
    for index, gpu_type in enumerate(nodes.gpu_types):
        sizes, counts = np.unique(devices[open_ & (nodes.gpu_type == index)], return_counts=True)
        pairs = tuple(sorted(zip(sizes.tolist(), counts.tolist(), strict=True), reverse=True))
        if pairs:
            found.append(Supply(gpu_type, pairs))
    return tuple(sorted(found, key=lambda one: one.gpu_type))


class Targets(NamedTuple):
    """What follows from an answer.

    Attributes:
        given: by job, how it is to run; who is not there waits for the next round.
        moves: by job that runs otherwise, or waits, from now on: what it is told when it is stopped.
        refused: what of the answer could not be given, a sentence each.
        failed: there was no answer.
    """

    given: Mapping[str, Size]
    moves: Mapping[str, str]
    refused: tuple[str, ...]
    failed: bool = False


def ask(allocator: Allocator, problem: Problem) -> Targets:
    """Ask an allocator. What it answers wrongly, or with an exception, moves nobody."""
    fixed = [one.holds for one in problem.contenders if one.holds is not None and not one.movable]
    theirs = problem
    if fixed:  # what may not be moved is no question
        open_ = tuple(one for one in problem.contenders if one.holds is None or one.movable)
        theirs = replace(problem, contenders=open_, supply=without(problem.supply, fixed))
    failed = False
    try:
        answer = answered(problem, allocator.allot(theirs))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        failed = True
        kept = {one.job_id: one.holds for one in problem.contenders if one.holds is not None}
        answer = Answer(kept, (f"{allocator.name} failed: {words_of(error)}",))
    moves = {}
    for one in problem.contenders:
        size = answer.given.get(one.job_id)
        if one.holds is not None and one.movable and not _alike(size, one.holds):
            moves[one.job_id] = _told(one, size)
    return Targets(answer.given, moves, answer.refused, failed)


def _alike(one: Size | None, other: Size) -> bool:
    return one is not None and (one.gpu_type, one.nodes, one.gpus) == (
        other.gpu_type,
        other.nodes,
        other.gpus,
    )


def _told(contender: Contender, size: Size | None) -> str:
    if size is None:
        return "others have their turn until the next round"
    assert contender.holds is not None
    resized = size.gpu_type == contender.holds.gpu_type
    return f"{'resized' if resized else 'moved'} from {text_of(contender.holds)} to {text_of(size)}"


def text_of(size: Size) -> str:
    """Such as `2 x 8 H100`, or `8 H100` on one node."""
    return f"{f'{size.nodes} x ' if size.nodes > 1 else ''}{size.gpus} {size.gpu_type}"


def without(supply: Iterable[Supply], taken: Iterable[Size]) -> tuple[Supply, ...]:
    """What is left of a supply once these are given, the largest first; what does not fit takes none."""
    room = Room(supply)
    for size in sorted(taken, key=lambda one: (-one.gpus, -one.nodes)):
        room.take(size)
    return room.left()
