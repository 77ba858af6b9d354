"""How long similar runs took: what budgets hold by that pay for what is expected, and what plans tell.

Owns    the last run times of each kind of job: of one project, of one name but for the numbers in it, that
        asks for the same on as many nodes.
Why     a time limit says what a job may cost at most; what it will cost is what its like have
        cost. Kept in the state, so that a decision rests on what the log says alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from bursar.model import JobSpec

RUNS_KEPT: Final = 32
"""Run times of one kind, the newest."""
RUNS_MIN: Final = 3
"""Of fewer nothing is expected."""
KINDS_KEPT: Final = 4_096
"""Kinds, those that a run was added to last."""
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")


class RunTimes(NamedTuple):
    """What is expected of a run: half of its like took no longer than `p50_us`, nine of ten than `p90_us`."""

    p50_us: int
    p90_us: int
    runs: int


class PastRuns:
    """Run times by kind, microseconds, in the order in which the runs ended.

    Attributes:
        whole: it knows all runs of the log: not of an image of before they were kept.
    """

    def __init__(self, kept: Iterable[tuple[str, tuple[int, ...]]] = (), whole: bool = True) -> None:
        self._kept = dict(kept)
        self.whole = whole

    def add(self, spec: JobSpec, ran_us: int) -> None:
        """A run of a job ended as it was meant to. Of a job without a name nothing is learnt."""
        if not spec.name:
            return
        kind = kind_of(spec)
        self._kept[kind] = (*self._kept.pop(kind, ()), ran_us)[-RUNS_KEPT:]
        if len(self._kept) > KINDS_KEPT:
            del self._kept[next(iter(self._kept))]

    def expected(self, spec: JobSpec) -> RunTimes | None:
        """Of a run of a job; None where too few of its like are known."""
        times = sorted(self._kept.get(kind_of(spec), ())) if spec.name else []
        if len(times) < RUNS_MIN:
            return None
        return RunTimes(_share(times, 50), _share(times, 90), len(times))

    def likely_us(self, spec: JobSpec) -> int:
        """So long at most nine of ten took, rounded up by an eighth at most, since what is held for as long
        waits in one queue; 0: not known.
        """
        found = self.expected(spec)
        if found is None:
            return 0
        step = 1 << max(found.p90_us.bit_length() - 4, 0)
        return -(-found.p90_us // step) * step

    def image(self) -> list[tuple[str, tuple[int, ...]]]:
        """All of it as data."""
        return list(self._kept.items())


def _share(ordered: list[int], percent: int) -> int:
    """The least of them that so many percent do not pass."""
    return ordered[-(-len(ordered) * percent // 100) - 1]


def kind_of(spec: JobSpec) -> str:
    """What runs have in common that are alike."""
    name = _NUMBERS.sub("#", spec.name)
    most = (spec.max_nodes,) if spec.max_nodes else ()
    data = msgspec.json.encode((spec.project, name, spec.nodes, spec.options, *most))
    return hashlib.blake2b(data, digest_size=12).hexdigest()
