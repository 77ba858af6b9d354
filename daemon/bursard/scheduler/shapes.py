"""What jobs of one class ask for, as columns over classes: worked out once for the same nodes.

Owns    `Shapes`: of each class its tables, and in numbers what decides whether a queue of it needs a look.
Why     a plan has thousands of queues, and what must be known of each to pass it over (on how many nodes
        there must be room, what its jobs cost at the cheapest place) is the same in every plan. As columns
        it is asked of all queues at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bursar_policies.decision import JobClass
from bursard.scheduler.table import Table

Ints = NDArray[np.int64]
Tables = tuple[Table, ...]
Payers = tuple[tuple[str, ...], tuple[str, ...]]
"""Budgets that must pay, and those whose stages alone count."""
SHAPES_MAX = 1 << 17
"""Past so many classes all are forgotten before the next plan."""
RATE_MAX = 1 << 43
"""Nanos per hour, 8,796 units of money: a gang that costs more is looked at by itself, so that no column
overflows."""
NO_CAP = 1 << 62
ALONE = -1
"""The number of a class whose queues are always looked at by themselves."""
_ROWS_MIN = 64


class Columns(NamedTuple):
    """int64 (classes).

    Attributes:
        ask: the number of its table. nodes: how many must have room.
        rate: nanos per hour at the cheapest place. overhead_us: what it holds for beyond its time limit.
        cap: the most that it may cost, `NO_CAP` for no such bound.
        payers: index into `Shapes.payers`.
        usable: 1 when enough nodes would have room if all were free now.
    """

    ask: Ints
    nodes: Ints
    rate: Ints
    overhead_us: Ints
    cap: Ints
    payers: Ints
    usable: Ints


class Shapes:
    """Classes by number. `tables_of` makes the tables of one that is not known yet."""

    def __init__(self, tables_of: Callable[[JobClass], Tables]) -> None:
        self._tables_of = tables_of
        self._known: dict[int, tuple[JobClass, Tables, int]] = {}
        self._payers: dict[Payers, int] = {}
        self._rows = np.zeros((len(Columns._fields), _ROWS_MIN), dtype=np.int64)
        self._count = 0

    def __len__(self) -> int:
        return len(self._known)

    def of(self, job_class: JobClass) -> tuple[JobClass, Tables, int]:
        """The class, one table per alternative, and its number or `ALONE`. Classes of queues are the same
        objects from plan to plan.

        Raises:
            ArithmeticError: no column can hold one of its figures.
        """
        known = self._known.get(id(job_class))
        if known is None or known[0] is not job_class:
            tables = self._tables_of(job_class)
            number = self._add(job_class, tables[0]) if len(tables) == 1 else ALONE
            known = self._known[id(job_class)] = (job_class, tables, number)
        return known

    def columns(self, numbers: NDArray[np.intp]) -> Columns:
        """Of these classes."""
        return Columns(*self._rows[:, numbers])

    def payers(self) -> list[Payers]:
        """What `Columns.payers` counts."""
        return list(self._payers)

    def _add(self, job_class: JobClass, table: Table) -> int:
        """Another one. What no node could hold, and what its own price limit or cap refuses at the cheapest
        place, stands alone: money or a fault stops it, not room.
        """
        nodes, cap = job_class.nodes, job_class.max_cost_nanos
        if table.capable_count < nodes or cap < 0:
            return ALONE
        rate = max(table.cheapest_rate(nodes), 0)
        limit = job_class.max_price_nanos_per_hour
        if rate > RATE_MAX or 0 < limit < rate:
            return ALONE
        payers = (job_class.budgets, job_class.gates)
        number = self._count
        if number == self._rows.shape[1]:
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)], axis=1)
        self._rows[:, number] = (
            table.number,
            nodes,
            rate,
            job_class.hold_us - job_class.time_limit_us,
            min(cap, NO_CAP) if cap else NO_CAP,
            self._payers.setdefault(payers, len(self._payers)),
            table.usable_count >= nodes,
        )
        self._count += 1
        return number
