"""Which machines are rented for a job: the cheapest offer that could hold it, within what bounds spending.

Owns    the match of waiting jobs and offers, what a launch holds, and why nothing is rented. A gang gets all
        that it lacks, of one offer, or nothing.
Why     an offer is looked at as a node that nobody has yet: the same filters say whether it could serve the
        job, the same arithmetic what its share costs, so what is rented is what the plan then gives it.

No call and no clock: offers, prices and the instant are given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np

from bursar.clock import Instant
from bursar.model import Device, DeviceShare, Hold, NodeFacts, Reason
from bursar.money import cumulative, format_nanos
from bursar.projects import top_of
from bursar_policies.compile import PriceTable
from bursar_policies.decision import JobClass, NodeColumns
from bursar_policies.filters import FILTERS, Ask
from bursar_policies.specs import CloudPoolSpec
from bursard.ledger import held_nanos
from bursard.machines.errors import Blocks
from bursard.machines.in_time import in_time, spare_us
from bursard.machines.provider import Billing, MachineOffer
from bursard.place import LastPlan, holds_for
from bursard.scheduler.candidates import Candidates, asks_of
from bursard.scheduler.free import Free
from bursard.scheduler.pricing import share_rates
from bursard.scheduler.windows import windows_of
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
        holds: per budget of the job, for one machine. boot_nanos, run_nanos: what they are made of.
        rate_nanos_per_hour: of a member's share.
        machines: so many. whole_nanos: all of them, and the run of all members at their price.
    """

    offer: MachineOffer
    facts: NodeFacts
    holds: tuple[Hold, ...]
    boot_nanos: int
    run_nanos: int
    rate_nanos_per_hour: int
    machines: int
    whole_nanos: int


class Later(NamedTuple):
    """Nothing is rented yet: a job with a deadline has time to wait for a spot machine, until an instant."""

    until: int
    why: str


class Have(NamedTuple):
    """What a job has of machines already.

    Attributes:
        members: by alternative, for how many members there is room, on nodes or on what is on its way.
        place: where machines of its own are, None while there are none. own: how many these are.
        paid: members whose run is held for by machines of its own.
    """

    members: Sequence[int]
    place: NodeFacts | None = None
    own: int = 0
    paid: int = 0


class Look(NamedTuple):
    """What an offer is to a job: `choice`, when it would be rented; else `why` not, and how far it came
    (unfit | unpriced | blocked | dear | money).
    """

    offer: MachineOffer
    step: str
    why: str
    choice: Choice | None = None


class _Sight(msgspec.Struct):
    """Why offers were passed over, by how far they came."""

    seen: int = 0
    unpriced: int = 0
    blocked: str = ""
    dear: str = ""
    money: str = ""

    def saw(self, look: Look) -> None:
        """Another one was."""
        self.seen += 1
        if look.step == "unpriced":
            self.unpriced += 1
        elif look.step == "blocked":
            place = look.offer.place
            self.blocked = self.blocked or f"{place.instance_type} in {place.zone}: {look.why}"
        elif look.step == "dear":
            self.dear = self.dear or look.why
        elif look.step == "money":
            self.money = self.money or look.why

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
        return f"pool {pool}: none of its {self.seen} offers could hold the job"


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


def room_in(
    pool: Pool, machines: Sequence[MachineRecord], rate: int, more: int, for_job: int, job: JobRecord
) -> str:
    """Why the pool's own limits do not allow so many more machines at this rate; "" when they do.

    Args:
        for_job: machines that the job has already.
    """
    own, spec = [machine for machine in machines if machine.pool == pool.name], pool.spec
    if len(own) + more > spec.machines:
        asked = f", and {more} more are wanted together" if more > 1 else ""
        return f"has {len(own)} machines, its limit is {spec.machines}{asked}"
    if 0 < spec.per_job_machines < for_job + more:
        return f"a job would have {for_job + more} machines, its per_job_machines is {spec.per_job_machines}"
    of_user, tenant = sum(machine.user == job.user for machine in own), top_of(job.spec.project)
    if 0 < spec.per_user_machines < of_user + more:
        most = f"its per_user_machines is {spec.per_user_machines}"
        return f"jobs of user {job.user} would have {of_user + more} machines, {most}"
    of_project = sum(top_of(machine.project) == tenant for machine in own)
    if 0 < spec.per_project_machines < of_project + more:
        most = f"its per_project_machines is {spec.per_project_machines}"
        return f"jobs of project {tenant} would have {of_project + more} machines, {most}"
    limit = spec.spend_rate
    spent = sum(machine.rate for machine in own)
    if limit is not None and spent + rate * more > limit.nanos:
        return (
            f"spends {_money(spent)} an hour, and {_money(rate * more)} more would pass its limit of"
            f" {_money(limit.nanos)} {limit.currency}/h"
        )
    return ""


def choose(
    state: State,
    pool: Pool,
    job: JobRecord,
    job_class: JobClass,
    prices: PriceTable,
    now: int,
    have: Have | None = None,
) -> Choice | Later | str:
    """The cheapest machines of a pool that a job lacks, or why there are none; near those that it has. One
    that has a deadline waits for a spot machine that there is none of now, while it has time for that.
    """
    if job.spec.caps_array:
        return f"pool {pool.name}: an array with a max_cost as a whole is not given rented machines"
    sight, hurry, waits = _Sight(), in_time(job, job_class.hold_us, pool.offers, spare_us(state)), ""
    for look in looks(state, pool, job, job_class, prices, now, have):
        if look.choice is not None:
            spot = look.offer.place.market == "spot"
            if spot or hurry is None or not waits or now >= hurry.wait_until:
                return look.choice
            return Later(hurry.wait_until, f"pool {pool.name}: {waits}")
        if look.step == "blocked" and look.offer.place.market == "spot" and not waits:
            waits = _awaited(look)
        sight.saw(look)
    return sight.says(pool.name)


def _awaited(look: Look) -> str:
    place = look.offer.place
    return f"it has time to wait for a spot {place.instance_type} in {place.zone} ({look.why})"


def looks(
    state: State,
    pool: Pool,
    job: JobRecord,
    job_class: JobClass,
    prices: PriceTable,
    now: int,
    have: Have | None = None,
) -> Iterator[Look]:
    """What each offer of a pool is to a job, those first that are to be taken first: on demand where a spot
    machine, once it was lost, would leave too little time for the job's deadline.
    """
    have = have or Have([0] * len(job_class.options))
    hurry = in_time(job, job_class.hold_us, pool.offers, spare_us(state))
    late = hurry is not None and now >= hurry.spot_until

    def order(offer: MachineOffer) -> tuple[bool, bool, int, tuple[object, ...]]:
        far = have.place is not None and offer.place.zone != have.place.zone
        risky = late and offer.place.market == "spot"
        return risky, far, offer.rate_nanos_per_hour, msgspec.structs.astuple(offer.place)

    wanted = sorted(pool.offers, key=order)
    columns, kinds = _columns(wanted, pool, prices, now)
    asked = [Candidates(ask, columns) for ask in asks_of(job_class)]
    for row, offer in enumerate(wanted):
        option = next((index for index, one in enumerate(asked) if one.capable[row]), None)
        if option is None:
            yield Look(offer, "unfit", _unfit(asked[0], columns, row))
        elif not _near(have, job_class.together, kinds[row]):
            yield Look(offer, "unfit", f"it is not in the {job_class.together} of the others")
        elif int(columns.rate[row]) < 0:
            yield Look(offer, "unpriced", "no price of it is known")
        elif (block := pool.blocks.of(offer.place, now)) is not None:
            yield Look(offer, "blocked", block.why)
        else:
            found = _priced(state, pool, job, job_class, option, have, columns, row)
            made = found(offer, kinds[row]) if isinstance(found, partial) else None
            yield Look(offer, *(("", "") if isinstance(found, partial) else found), made)


def _unfit(asked: Candidates, columns: NodeColumns, row: int) -> str:
    for rule in FILTERS:
        mask = rule.mask(columns, asked.ask)
        if mask is not None and not mask[row]:
            return rule.why_not(columns, row, asked.ask)
    return "it could not hold the job"


def _near(have: Have, together: str, facts: NodeFacts) -> bool:
    """Is it together with the machines that the job has, where its members must be?"""
    if not together or have.place is None:
        return True
    return getattr(facts, together, "") == getattr(have.place, together, "")


def unheld(pool: Pool, job_class: JobClass) -> str:
    """Why no machine of a pool could ever hold a job of a class, whatever it cost; "" where one could."""
    cluster = Cluster()
    for row, offer in enumerate(pool.offers):
        cluster.add(str(row), facts_of(offer, pool.name, pool.provider))
    columns = cluster.columns()
    asks = (msgspec.structs.replace(ask, priced=False) for ask in asks_of(job_class))
    if any(Candidates(ask, columns).capable.any() for ask in asks):
        return ""
    return _Sight(seen=len(pool.offers)).says(pool.name)


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
    option: int,
    have: Have,
    columns: NodeColumns,
    row: int,
) -> partial[Choice] | tuple[str, str]:
    """The choice of an offer whose price is within what the job and the pool allow; else how far it came, and
    why no further.
    """
    request = job_class.options[option]
    missing = max(job_class.nodes - have.members[option], 1)
    gpus = request.gpus
    devices = tuple(DeviceShare(index, gpus.milli) for index in range(gpus.count)) if gpus is not None else ()
    rates = share_rates(columns, row, devices, request.cpu_milli, request.memory_bytes)
    whole = int(columns.rate[row])
    if 0 < job_class.max_price_nanos_per_hour < rates.total * job_class.nodes:
        dear = _money(rates.total * job_class.nodes)
        return "dear", f"its share would cost {dear} an hour, above max_price"
    run = held_nanos(rates, job_class.start_hold_us)
    boot = cumulative(whole, max(pool.billing.least_us, pool.spec.boot_timeout_us))
    cap, boots, runs = job_class.max_cost_nanos, boot * missing, run * (job_class.nodes - have.paid)
    if cap and boots + run * job_class.nodes > cap:
        why = f"max_cost leaves {_money(max(cap, 0))}"
        return "money", _needs(missing, boots, run * job_class.nodes, why)
    if problem := room_in(pool, list(state.machines.values()), whole, missing, have.own, job):
        return "money", problem
    # The members on nodes that are here are not held for yet; without room for them the gang would not start.
    all_of_it = holds_for(state, job, boots + runs, {})
    if isinstance(all_of_it, Reason):
        return "money", _needs(missing, boots, runs, all_of_it.message)
    holds = tuple(msgspec.structs.replace(hold, nanos=boot + run) for hold in all_of_it)
    return partial(
        Choice,
        holds=holds,
        boot_nanos=boot,
        run_nanos=run,
        rate_nanos_per_hour=rates.total,
        machines=missing,
        whole_nanos=boots + run * job_class.nodes,
    )


def _needs(machines: int, boot: int, run: int, why: str) -> str:
    what = "a machine needs" if machines == 1 else f"{machines} machines need"
    return f"{what} {_money(boot + run)} ({_money(boot)} to come up, {_money(run)} to run), and {why}"


def _money(nanos: int) -> str:
    text = format_nanos(nanos)
    return text.rstrip("0").rstrip(".") if "." in text else text


class Coming:
    """Machines that are on their way, or wait for such, and what of them is promised to jobs that wait."""

    def __init__(self, machines: Sequence[MachineRecord]) -> None:
        self._free = list[list[int]]()
        self._facts = list[NodeFacts]()
        for one in machines:
            if one.facts is not None and (not one.node_id or one.waits):
                self.add(one.facts)

    def takes(self, job_class: JobClass, here: Sequence[int] = ()) -> bool:
        """Will there be room for a job on them and what is here? Then it has that.

        Args:
            here: by alternative, for how many of its members there is room on nodes.
        """
        for option, ask in enumerate(asks_of(job_class)):
            missing = job_class.nodes - (here[option] if here else 0)
            needs, rows = _needs_of(ask), self._rows(ask)
            if len(rows) >= missing:
                for row in rows[: max(missing, 0)]:
                    self._free[row] = [have - need for have, need in zip(self._free[row], needs, strict=True)]
                return True
        return False

    def members(self, job_class: JobClass) -> list[int]:
        """By alternative, how many members there will be room for."""
        return [len(self._rows(ask)) for ask in asks_of(job_class)]

    def _rows(self, ask: Ask) -> list[int]:
        needs, found = _needs_of(ask), []
        ask = msgspec.structs.replace(ask, priced=False)
        for row, (free, facts) in enumerate(zip(self._free, self._facts, strict=True)):
            if all(have >= need for have, need in zip(free, needs, strict=True)):
                cluster = Cluster()
                cluster.add("", facts)
                if Candidates(ask, cluster.columns()).capable[0]:
                    found.append(row)
        return found

    def add(self, facts: NodeFacts) -> None:
        """Another one is on its way."""
        self._free.append([facts.cpu_milli, facts.memory_bytes, 1000 * len(facts.devices)])
        self._facts.append(facts)


def _needs_of(ask: Ask) -> tuple[int, int, int]:
    request = ask.request
    gpus = request.gpus.count * request.gpus.milli if request.gpus is not None else 0
    return request.cpu_milli, request.memory_bytes, gpus


def room_here(last: LastPlan, job_class: JobClass, place: NodeFacts | None) -> list[int]:
    """By alternative, on how many nodes there was room for another member after the newest plan; where
    members must be together, of those that are with `place`.
    """
    nodes, free = last.snapshot.nodes, Free.after(last.snapshot.nodes, last.plan.starts)
    windows, asks = windows_of(nodes, last.snapshot.reservations), asks_of(job_class)
    if windows is not None:
        asks = windows.asks(asks, windows.closing(job_class, last.plan.at, job_class.hold_us))
    candidates = [Candidates(ask, nodes, windows) for ask in asks]
    together = job_class.together
    if together:
        wanted = getattr(place, together, "")
        near = np.array([facts.get(together, "") == wanted for facts in nodes.attributes], dtype=np.bool_)
        near &= bool(wanted)
    else:
        near = np.ones(len(nodes.ids), dtype=np.bool_)
    return [int((one.usable & free.fitting(one.request) & near).sum()) for one in candidates]
