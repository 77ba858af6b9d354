"""Which machine is rented for a job: the cheapest offer that could hold it, within what bounds the spending.

Owns    the match of waiting jobs and offers, what a launch holds, and why nothing is rented.
Why     an offer is looked at as a node that nobody has yet: the same filters say whether it could serve the
        job, the same arithmetic what its share costs, so what is rented is what the plan then gives it.

No call and no clock: offers, prices and the instant are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from bursar.clock import Instant
from bursar.model import Device, DeviceShare, Hold, NodeFacts, Reason
from bursar.money import cumulative, format_nanos
from bursar.resources import ResourceRequest
from bursar_policies.compile import PriceTable
from bursar_policies.decision import JobClass, NodeColumns
from bursar_policies.specs import CloudPoolSpec
from bursard.ledger import held_nanos
from bursard.machines.errors import Blocks
from bursard.machines.provider import Billing, MachineOffer
from bursard.place import holds_for
from bursard.scheduler.candidates import Candidates, asks_of
from bursard.scheduler.pricing import share_rates
from bursard.state import JobRecord, MachineRecord, State
from bursard.state.cluster import Cluster


class Pool(NamedTuple):
    """A CloudPool in force, and its provider's word on what there is."""

    name: str
    spec: CloudPoolSpec
    provider: str
    billing: Billing
    offers: Sequence[MachineOffer]
    blocks: Blocks


class Choice(NamedTuple):
    """What to rent.

    Attributes:
        holds: per budget of the job. boot_nanos, run_nanos: what they are made of.
        rate_nanos_per_hour: of the job's share.
    """

    offer: MachineOffer
    facts: NodeFacts
    holds: tuple[Hold, ...]
    boot_nanos: int
    run_nanos: int
    rate_nanos_per_hour: int


class _Sight(msgspec.Struct):
    """Why offers were passed over, by how far they came."""

    unfit: int = 0
    unpriced: int = 0
    blocked: str = ""
    dear: str = ""
    money: str = ""

    def says(self, pool: str) -> str:
        """The reason that is nearest to a machine."""
        if self.money:
            return f"pool {pool}: {self.money}"
        if self.dear:
            return f"pool {pool}: {self.dear}"
        if self.blocked:
            return f"pool {pool}: {self.blocked}"
        if self.unpriced:
            return f"pool {pool}: {self.unpriced} offers would do, and have no price"
        return f"pool {pool}: none of its {self.unfit} offers could hold the job"


def facts_of(offer: MachineOffer, pool: str, provider: str) -> NodeFacts:
    """What the node on such a machine would be."""
    place = offer.place
    return NodeFacts(
        name=pool,
        cpu_milli=offer.cpu_milli,
        memory_bytes=offer.memory_bytes,
        devices=tuple(
            Device(
                index=index, uuid=f"offer-{index}", type=offer.gpu_type, memory_bytes=offer.gpu_memory_bytes
            )
            for index in range(offer.gpu_count)
        ),
        pool=pool,
        provider=provider,
        region=place.region,
        zone=place.zone,
        instance_type=place.instance_type,
        market=place.market,
    )


def room_in(pool: Pool, machines: Sequence[MachineRecord], rate: int) -> str:
    """Why the pool's own limits do not allow another machine at this rate; "" when they do."""
    own = [machine for machine in machines if machine.pool == pool.name]
    if len(own) >= pool.spec.machines:
        return f"has {len(own)} machines, its limit is {pool.spec.machines}"
    limit = pool.spec.spend_rate
    spent = sum(machine.rate for machine in own)
    if limit is not None and spent + rate > limit.nanos:
        return (
            f"spends {_money(spent)} an hour, and {_money(rate)} more would pass its limit of"
            f" {_money(limit.nanos)} {limit.currency}/h"
        )
    return ""


def choose(
    state: State, pool: Pool, job: JobRecord, job_class: JobClass, prices: PriceTable, now: int
) -> Choice | str:
    """The cheapest machine of a pool for a job, or why there is none."""
    if job_class.nodes > 1:
        return _gang(pool)
    if job.spec.caps_array:
        return f"pool {pool.name}: an array with a max_cost as a whole is not given rented machines"
    wanted = sorted(
        pool.offers, key=lambda offer: (offer.rate_nanos_per_hour, msgspec.structs.astuple(offer.place))
    )
    columns, kinds = _columns(wanted, pool, prices, now)
    capable = [Candidates(ask, columns).capable for ask in asks_of(job_class)]
    sight = _Sight(unfit=len(wanted))
    for row, offer in enumerate(wanted):
        option = next((index for index, mask in enumerate(capable) if mask[row]), None)
        if option is None:
            continue
        if int(columns.rate[row]) < 0:
            sight.unpriced += 1
            continue
        if (block := pool.blocks.of(offer.place, now)) is not None:
            sight.blocked = sight.blocked or f"{offer.place.instance_type} in {offer.place.zone}: {block.why}"
            continue
        request = job_class.options[option]
        choice = _priced(state, pool, job, job_class, request, columns, row, sight)
        if choice is not None:
            boot, run, holds, rate = choice
            return Choice(offer, kinds[row], holds, boot, run, rate)
    return sight.says(pool.name)


def unheld(pool: Pool, job_class: JobClass) -> str:
    """Why no machine of a pool could ever hold a job of a class, whatever it cost; "" where one could."""
    if job_class.nodes > 1:
        return _gang(pool)
    cluster = Cluster()
    for row, offer in enumerate(pool.offers):
        cluster.add(str(row), facts_of(offer, pool.name, pool.provider))
    columns = cluster.columns()
    asks = (msgspec.structs.replace(ask, priced=False) for ask in asks_of(job_class))
    if any(Candidates(ask, columns).capable.any() for ask in asks):
        return ""
    return _Sight(unfit=len(pool.offers)).says(pool.name)


def _gang(pool: Pool) -> str:
    return f"pool {pool.name}: a gang is not given rented machines in this version"


def _columns(
    offers: Sequence[MachineOffer], pool: Pool, prices: PriceTable, now: int
) -> tuple[NodeColumns, list[NodeFacts]]:
    """Offers as nodes that nobody has."""
    cluster, kinds = Cluster(), []
    for row, offer in enumerate(offers):
        facts = facts_of(offer, pool.name, pool.provider)
        kinds.append(facts)
        cluster.add(str(row), facts)
        quote = prices.lookup(facts, Instant(now))
        if quote is not None:
            cluster.set_price(row, quote.price_id, quote.components)
    return cluster.columns(), kinds


def _priced(
    state: State,
    pool: Pool,
    job: JobRecord,
    job_class: JobClass,
    request: ResourceRequest,
    columns: NodeColumns,
    row: int,
    sight: _Sight,
) -> tuple[int, int, tuple[Hold, ...], int] | None:
    """(launch, run, holds, rate of the share) where the price is within what the job and the pool allow."""
    gpus = request.gpus
    devices = tuple(DeviceShare(index, gpus.milli) for index in range(gpus.count)) if gpus is not None else ()
    rates = share_rates(columns, row, devices, request.cpu_milli, request.memory_bytes)
    whole = int(columns.rate[row])
    if 0 < job_class.max_price_nanos_per_hour < rates.total:
        sight.dear = sight.dear or f"its share would cost {_money(rates.total)} an hour, above max_price"
        return None
    run = held_nanos(rates, job_class.start_hold_us)
    boot = cumulative(whole, max(pool.billing.least_us, pool.spec.boot_timeout_us))
    cap = job_class.max_cost_nanos
    if cap and boot + run > cap:
        sight.money = sight.money or _needs(boot, run, f"max_cost leaves {_money(max(cap, 0))}")
        return None
    if problem := room_in(pool, list(state.machines.values()), whole):
        sight.money = sight.money or problem
        return None
    holds = holds_for(state, job, boot + run, {})
    if isinstance(holds, Reason):
        sight.money = sight.money or _needs(boot, run, holds.message)
        return None
    return boot, run, holds, rates.total


def _needs(boot: int, run: int, why: str) -> str:
    return (
        f"a machine needs {_money(boot + run)} ({_money(boot)} to come up, {_money(run)} to run), and {why}"
    )


def _money(nanos: int) -> str:
    text = format_nanos(nanos)
    return text.rstrip("0").rstrip(".") if "." in text else text


class Coming:
    """Machines that are on their way, and what of them is promised to jobs that wait."""

    def __init__(self, machines: Sequence[MachineRecord]) -> None:
        self._free = [
            [one.facts.cpu_milli, one.facts.memory_bytes, 1000 * len(one.facts.devices)]
            for one in machines
            if one.facts is not None and not one.node_id
        ]
        self._facts = [one.facts for one in machines if one.facts is not None and not one.node_id]

    def takes(self, job_class: JobClass) -> bool:
        """Will there be room for a job on one of them? Then it has that."""
        for free, facts in zip(self._free, self._facts, strict=True):
            cluster = Cluster()
            cluster.add("", facts)
            columns = cluster.columns()
            for ask in asks_of(job_class):
                request = ask.request
                gpus = request.gpus.count * request.gpus.milli if request.gpus is not None else 0
                needs = (request.cpu_milli, request.memory_bytes, gpus)
                capable = bool(Candidates(msgspec.structs.replace(ask, priced=False), columns).capable[0])
                if capable and all(have >= need for have, need in zip(free, needs, strict=True)):
                    for index, need in enumerate(needs):
                        free[index] -= need
                    return True
        return False

    def add(self, facts: NodeFacts) -> None:
        """Another one is on its way."""
        self._free.append([facts.cpu_milli, facts.memory_bytes, 1000 * len(facts.devices)])
        self._facts.append(facts)
