"""Gangs: all members on distinct nodes, or nothing; and which of a job's alternatives.

Why     a gang that holds half of its nodes wastes them and can deadlock with another half gang.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bursar.model import DeviceShare
from bursar_policies.decision import JobClass, NodeColumns, Placement
from bursard.scheduler.admit import Admitted, Refusal, Rooms
from bursard.scheduler.table import Table

Best = Callable[[Table, int], list[int]]
"""The best nodes for a member each, so many or fewer, best first."""


class Choice(NamedTuple):
    """Where a gang can start: rows best first, and on what terms."""

    option: int
    table: Table
    rows: list[int]
    admitted: Admitted


class NoChoice(NamedTuple):
    """It cannot start now. `refusals`: alternatives that had nodes but were refused for money."""

    refusals: tuple[tuple[int, Refusal], ...]


NO_ROOM = NoChoice(())


def gang_rate(table: Table, rows: list[int]) -> int:
    """Nanos per hour of all members, -1 when any is unknown."""
    if len(rows) == 1:
        return table.rates.item(rows[0])
    rates: list[int] = table.rates[rows].tolist()
    return -1 if min(rates) < 0 else sum(rates)


def choose(
    tables: tuple[Table, ...], job_class: JobClass, rooms: Rooms, best: Best, limit_us: int = 0
) -> Choice | NoChoice:
    """The alternative and nodes to start on now.

    `ordered` takes the first alternative that fits and is admitted, else the cheapest one; an
    unknown price counts as dearest.

    Args:
        limit_us: the job's time limit; 0: the class has it.
    """
    if len(tables) == 1:
        return _only(tables[0], job_class, rooms, best, limit_us)
    found: list[tuple[tuple[int, int, int], Table, list[int]]] = []
    for option, table in enumerate(tables):
        if table.usable_count < job_class.nodes:
            continue
        rows = best(table, job_class.nodes)
        if len(rows) == job_class.nodes:
            rate = gang_rate(table, rows)
            order = (0, 0, option) if job_class.ordered else (int(rate < 0), rate, option)
            found.append((order, table, rows))
    if not found:
        return NO_ROOM
    if len(found) > 1:
        found.sort(key=lambda entry: entry[0])
    refusals = []
    for (_, _, option), table, rows in found:
        answer = rooms.admit(job_class, gang_rate(table, rows), limit_us)
        if isinstance(answer, Admitted):
            return Choice(option, table, rows, answer)
        refusals.append((option, answer))
    return NoChoice(tuple(refusals))


def _only(table: Table, job_class: JobClass, rooms: Rooms, best: Best, limit_us: int) -> Choice | NoChoice:
    """The same when there is one alternative: most jobs have no other."""
    if table.usable_count < job_class.nodes:
        return NO_ROOM
    rows = best(table, job_class.nodes)
    if len(rows) < job_class.nodes:
        return NO_ROOM
    answer = rooms.admit(job_class, gang_rate(table, rows), limit_us)
    return Choice(0, table, rows, answer) if isinstance(answer, Admitted) else NoChoice(((0, answer),))


def place(nodes: NodeColumns, choice: Choice, free: Callable[[int], list[int]]) -> tuple[Placement, ...]:
    """The members of a chosen gang with their devices and prices.

    Args:
        free: thousandths free per device of a row, as far as this job may use them.
    """
    members = []
    table = choice.table
    request = table.request
    for row in choice.rows:
        held: tuple[DeviceShare, ...] = ()
        if request.gpus is not None:
            held = table.devices_of(free(row))
        rates = table.share_rates(nodes, row, held)
        members.append(Placement(row, held, request.cpu_milli, request.memory_bytes, rates))
    return tuple(members)
