"""Gangs: all members on distinct nodes, or nothing; and which of a job's alternatives.

Why     a gang that holds half of its nodes wastes them and can deadlock with another half gang.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bursar.model import DeviceShare
from bursar_policies.decision import JobClass, Placement
from bursar_policies.filters import Ask
from bursard.scheduler import devices
from bursard.scheduler.admit import Admitted, Refusal, Rooms, limits_money
from bursard.scheduler.pricing import share_rates
from bursard.scheduler.table import NO, Table
from bursard.scheduler.world import World

Keys = Callable[[Table], NDArray[np.int64]]


class Choice(NamedTuple):
    """Where a gang can start: rows best first, and on what terms."""

    option: int
    table: Table
    rows: list[int]
    admitted: Admitted


class NoChoice(NamedTuple):
    """It cannot start now. `refusals`: alternatives that had nodes but were refused for money."""

    refusals: tuple[tuple[int, Refusal], ...]


def asks_of(job_class: JobClass) -> tuple[Ask, ...]:
    """One ask per alternative."""
    priced = limits_money(job_class)
    return tuple(
        Ask(option, job_class.constraints, job_class.spot_policy, job_class.avoid_nodes, priced)
        for option in job_class.options
    )


def best_rows(keys: NDArray[np.int64], count: int) -> list[int]:
    """The `count` best nodes, best first; empty when fewer fit."""
    if count == 1:
        row = int(keys.argmin()) if len(keys) else -1
        return [row] if row >= 0 and keys[row] != NO else []
    if count > len(keys):
        return []
    rows = np.argpartition(keys, count - 1)[:count]
    rows = rows[np.argsort(keys[rows])]
    return rows.tolist() if keys[rows[-1]] != NO else []


def gang_rate(table: Table, rows: list[int]) -> int:
    """Nanos per hour of all members, -1 when any is unknown."""
    rates = [int(table.rates[row]) for row in rows]
    return -1 if min(rates) < 0 else sum(rates)


def choose(
    world: World, job_class: JobClass, asks: tuple[Ask, ...], rooms: Rooms, keys: Keys, limit_us: int = 0
) -> Choice | NoChoice:
    """The alternative and nodes to start on now.

    `ordered` takes the first alternative that fits and is admitted, else the cheapest one; an
    unknown price counts as dearest.

    Args:
        limit_us: the job's time limit; 0: the class has it.
    """
    found: list[tuple[tuple[int, int, int], Table, list[int]]] = []
    for option, ask in enumerate(asks):
        table = world.table(ask)
        if table.usable_count < job_class.nodes:
            continue
        rows = best_rows(keys(table), job_class.nodes)
        if rows:
            rate = gang_rate(table, rows)
            order = (0, 0, option) if job_class.ordered else (int(rate < 0), rate, option)
            found.append((order, table, rows))
    if len(found) > 1:
        found.sort(key=lambda entry: entry[0])
    refusals = []
    for (_, _, option), table, rows in found:
        answer = rooms.admit(job_class, gang_rate(table, rows), limit_us)
        if isinstance(answer, Admitted):
            return Choice(option, table, rows, answer)
        refusals.append((option, answer))
    return NoChoice(tuple(refusals))


def place(world: World, choice: Choice, free: Callable[[int], list[int]]) -> tuple[Placement, ...]:
    """The members of a chosen gang with their devices and prices.

    Args:
        free: thousandths free per device of a row, as far as this job may use them.
    """
    members = []
    request = choice.table.request
    for row in choice.rows:
        held: tuple[DeviceShare, ...] = ()
        if request.gpus is not None:
            indices = devices.choose(free(row), request.gpus)
            assert indices is not None, "a node with a key has room for the devices"
            held = devices.shares(indices, request.gpus)
        rates = share_rates(world.nodes, row, held, request.cpu_milli, request.memory_bytes)
        members.append(Placement(row, held, request.cpu_milli, request.memory_bytes, rates))
    return tuple(members)
