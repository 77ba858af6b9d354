"""Gangs that never get their machines, whatever else ends: by the limits of pools and the nodes of a site;
and what those cost at most that do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from bursar.words import plural
from bursar_policies.compile import PriceTable
from bursar_policies.decision import JobClass
from bursar_policies.specs import CloudPoolSpec
from bursard.machines.choose import Choice, Have, Pool, looks, unheld
from bursard.scheduler.candidates import Candidates, asks_of
from bursard.state import JobRecord, State


class Wish(NamedTuple):
    """A job that fits nowhere, and how it would be placed."""

    job: JobRecord
    job_class: JobClass


def never_so_many(state: State, all_pools: Sequence[Pool], job_class: JobClass) -> str:
    """Why a gang never has its machines at once, whatever else ends: by the limits of the pools, and the
    nodes that are nobody's to rent; "" where it may.
    """
    pools = [pool for pool in all_pools if job_class.nodes > 1 and not unheld(pool, job_class)]
    limits = [_most_for_one_job(pool.spec) for pool in pools]
    if not pools or job_class.nodes <= sum(limits):
        return ""
    own = _own_nodes(state, job_class)
    if job_class.nodes <= sum(limits) + own:
        return ""
    said = (
        f"pool {pool.name} rents at most {plural(limit, 'machine')} for one job"
        for pool, limit in zip(pools, limits, strict=True)
    )
    beside = f", beside {plural(own, 'node')} that could hold a member" if own else ""
    return f"{', '.join(said)}{beside}, you ask {job_class.nodes}"


def _most_for_one_job(spec: CloudPoolSpec) -> int:
    """Machines that one job may have of a pool at once, its owner having no other."""
    bounds = spec.per_job_machines, spec.per_user_machines, spec.per_project_machines
    return min(spec.machines, *(bound or spec.machines for bound in bounds))


def _own_nodes(state: State, job_class: JobClass) -> int:
    """Nodes that are not rented and could each hold a member of a gang."""
    rented = [node.row for node in state.nodes.values() if node.facts.name in state.rented]
    columns, most = state.cluster.columns(), 0
    for ask in asks_of(job_class):
        capable = Candidates(msgspec.structs.replace(ask, priced=False), columns).capable.copy()
        capable[rented] = False
        most = max(most, int(capable.sum()))
    return most


def at_most(
    state: State,
    pools: Sequence[Pool],
    wish: Wish,
    prices: PriceTable,
    now: int,
    have: Have,
    choice: Choice,
) -> int:
    """Nanos that launch and run of a job cost at most where `choice` is rented for it.

    A provider may give some of the spot machines that a gang asks for and refuse the rest, by a quota or for
    want of them: those are rented on demand then. So it is what all of them on demand would cost.
    """
    if wish.job_class.nodes == 1 or choice.offer.place.market != "spot":
        return choice.whole_nanos
    instead = []
    for pool in pools:
        pool = pool._replace(offers=[one for one in pool.offers if one.place.market == "on-demand"])
        seen = looks(state, pool, wish.job, wish.job_class, prices, now, have)
        found = next((look.choice for look in seen if look.choice is not None), None)
        if found is not None:
            instead.append(found.whole_nanos)
    return max(choice.whole_nanos, min(instead, default=0))
