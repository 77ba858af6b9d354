"""The protocol of an allocator: who of many jobs runs, on which GPUs and how large, until the next round.

Why     where jobs run at different speeds on different GPUs, or at different sizes, what is best for one
        depends on all others: so they are decided together, every `round`, and `plan` goes by the answer. An
        allocator sees counts of GPUs, never nodes: on which of them a job is put is the plan's to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import msgspec

ONE = 1_000_000
"""Speed 1, in millionths."""
SPARE_MAX = 100
"""So many allotments more than there are contenders are looked at, and so many faults are told."""


class Size(msgspec.Struct, frozen=True, order=True):
    """One way a job may run.

    Attributes:
        gpu_type: of all its GPUs. nodes: >= 1. gpus: on each node, >= 1, whole ones.
        speed: millionths of the job's own unit; comparable among the sizes of one job alone.
        option: which of the job's alternatives it is of.
    """

    gpu_type: str
    nodes: int = 1
    gpus: int = 1
    speed: int = ONE
    option: int = 0

    @property
    def gpus_in_all(self) -> int:
        """On all its nodes."""
        return self.nodes * self.gpus


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """A job that an allocator decides about.

    Attributes:
        order: of submission, unique: what is otherwise equal goes by it.
        sizes: how it may run, at least one way, no two alike in type, nodes and GPUs.
        holds: how it runs now; None: it waits.
        movable: it may be stopped, moved or resized; else it keeps what it holds, and no allocator is asked.
        age_us: since it was submitted. priority: 0..100, higher first.
        work_us: what it has done, microseconds at speed 1.
        held_us: GPUs times microseconds that it has held.
        owed_us: GPUs times microseconds that it has had too little lately: less than the part `fair` of an
            equal share (`allocators.fair`); 0 when it has had as much.
        restarts: attempts that it has had beside the first.
        restart_us: what it loses when it is stopped now: the restart, and work that is not saved.
        left_us: what is left to do, microseconds at speed 1; -1: nobody knows, which the daemon says of every
            job: what runs like it took is known at the sizes that they had alone.
        deadline_us: until when it is to be done, from now on; 0: it has none. Below 0: it has passed.
        promised: the deadline was promised. The daemon asks about no such job: its place is kept.
    """

    job_id: str
    order: int
    sizes: tuple[Size, ...]
    holds: Size | None = None
    movable: bool = True
    age_us: int = 0
    priority: int = 50
    work_us: int = 0
    held_us: int = 0
    owed_us: int = 0
    restarts: int = 0
    restart_us: int = 0
    left_us: int = -1
    deadline_us: int = 0
    promised: bool = False

    @property
    def waits(self) -> bool:
        """It holds nothing."""
        return self.holds is None


class Supply(msgspec.Struct, frozen=True):
    """The GPUs of one type that contenders may share, those that they hold among them.

    Attributes:
        nodes: (GPUs of a node, how many nodes have so many for contenders), largest first, both >= 1.
    """

    gpu_type: str
    nodes: tuple[tuple[int, int], ...]

    @property
    def gpus(self) -> int:
        """In all."""
        return sum(gpus * count for gpus, count in self.nodes)


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What an allocator is asked.

    Attributes:
        contenders: by `order`. supply: by type, each type once.
        round_us: until it is asked again. weights: every one that it declares, as the document has it.
        now: microseconds; an instant to measure `age_us` and deadlines from, nothing else.
    """

    contenders: tuple[Contender, ...]
    supply: tuple[Supply, ...]
    round_us: int
    weights: Mapping[str, float]
    now: int = 0


class Allotment(msgspec.Struct, frozen=True):
    """What a job gets until the next round; of 0 `nodes`: it waits, as does one that is not named at all."""

    job_id: str
    gpu_type: str = ""
    nodes: int = 0
    gpus: int = 0


class Weight(NamedTuple):
    """A number that the document may set."""

    default: float
    least: float
    most: float


class Allocator(Protocol):
    """Decides once a round. Pure: the same problem has the same answer, whatever was asked before."""

    @property
    def name(self) -> str:
        """As documents say it."""
        ...

    @property
    def weights(self) -> Mapping[str, Weight]:
        """The numbers that `spec.allocator` may set."""
        ...

    def allot(self, problem: Problem) -> Sequence[Allotment]:
        """Who runs how. What `answered` cannot give is left out, so that nothing is ever given twice."""
        ...


class Room:
    """What is left of a supply while sizes are taken from it, each from the fullest nodes that have room."""

    def __init__(self, supply: Iterable[Supply]) -> None:
        self._free = {one.gpu_type: dict(one.nodes) for one in supply}

    def gpus(self, gpu_type: str) -> int:
        """Left of a type."""
        return sum(gpus * count for gpus, count in self._free.get(gpu_type, {}).items())

    def left(self) -> tuple[Supply, ...]:
        """What is left, as a supply."""
        kept = (
            (kind, tuple(sorted(free.items(), reverse=True))) for kind, free in sorted(self._free.items())
        )
        pairs = ((kind, tuple(pair for pair in nodes if pair[0])) for kind, nodes in kept)
        return tuple(Supply(kind, nodes) for kind, nodes in pairs if nodes)

    def take(self, size: Size | Allotment) -> bool:
        """Take a size, or nothing at all."""
        free = self._free.get(size.gpu_type, {})
        if sum(count for gpus, count in free.items() if gpus >= size.gpus) < size.nodes or size.gpus < 1:
            return False
        wanted = size.nodes
        for gpus in sorted(gpus for gpus in free if gpus >= size.gpus):
            count = min(wanted, free[gpus])
            free[gpus] -= count
            if not free[gpus]:
                del free[gpus]
            if gpus > size.gpus:
                free[gpus - size.gpus] = free.get(gpus - size.gpus, 0) + count
            wanted -= count
            if not wanted:
                break
        return True


class Answer(NamedTuple):
    """What holds of an allocator's answer.

    Attributes:
        given: by job, in the order of the contenders; who is not there waits.
        refused: what was wrong with the rest, a sentence each.
    """

    given: dict[str, Size]
    refused: tuple[str, ...]


class _Few:
    """Sentences, the first of them in full."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._more = 0

    def append(self, text: str) -> None:
        if len(self._first) < SPARE_MAX:
            self._first.append(text)
        else:
            self._more += 1

    def told(self) -> tuple[str, ...]:
        return (*self._first, *([f"and {self._more} more"] if self._more else ()))


def words_of(error: BaseException) -> str:
    """What is said of an exception that is not ours: it may be one that cannot even say itself."""
    try:
        return f"{type(error).__name__}: {str(error)[:200]}"
    except BaseException:
        return f"{type(error).__name__}, which cannot be put into words"


def answered(problem: Problem, allotments: Iterable[Allotment]) -> Answer:
    """Check an answer: known jobs, each once, at sizes they may have, all together no more than there is.

    What may not be moved comes first and keeps what it holds; then the largest on a node, since the small
    ones fit between them, and of equal ones the first submitted.
    No more is looked at than a few more than there are contenders.
    """
    refused = _Few()
    by_id = {one.job_id: one for one in problem.contenders}
    wanted: dict[str, Size] = {}
    seen: set[str] = set()
    rest_of = iter(allotments)
    for allotment in islice(rest_of, len(by_id) + SPARE_MAX):
        contender = by_id.get(allotment.job_id)
        if contender is None:
            refused.append(f"{allotment.job_id[:60]} is no contender")
            continue
        if allotment.job_id in seen:
            refused.append(f"{allotment.job_id} is given something twice")
            continue
        seen.add(allotment.job_id)
        if allotment.nodes == 0:
            continue
        size = size_of(contender, allotment)
        if size is None:
            what = f"{allotment.nodes} x {allotment.gpus} {allotment.gpu_type[:60]}"
            refused.append(f"{allotment.job_id} may not run on {what}")
            continue
        wanted[allotment.job_id] = size
    if next(rest_of, None) is not None:
        refused.append("more is given than there are contenders; the rest is left out")
    room = Room(problem.supply)
    given: dict[str, Size] = {}
    for one in problem.contenders:
        if not one.movable and one.holds is not None:
            given[one.job_id] = one.holds
            room.take(one.holds)
    rest = (one for one in problem.contenders if one.job_id in wanted and one.job_id not in given)
    for one in sorted(rest, key=lambda one: (-wanted[one.job_id].gpus, -wanted[one.job_id].nodes, one.order)):
        size = wanted[one.job_id]
        if room.take(size):
            given[one.job_id] = size
        else:
            refused.append(
                f"{one.job_id} is given {size.gpus_in_all} {size.gpu_type}, of which too few are left"
            )
    return Answer(
        {one.job_id: given[one.job_id] for one in problem.contenders if one.job_id in given}, refused.told()
    )


def size_of(contender: Contender, allotment: Allotment) -> Size | None:
    """Which of its sizes, or what it holds, an allotment means; None: none of them."""
    known = contender.sizes if contender.holds is None else (*contender.sizes, contender.holds)
    wanted = (allotment.gpu_type, allotment.nodes, allotment.gpus)
    return next((one for one in known if (one.gpu_type, one.nodes, one.gpus) == wanted), None)


def allotted(job_id: str, size: Size) -> Allotment:
    """A size, given to a job."""
    return Allotment(job_id, size.gpu_type, size.nodes, size.gpus)
