"""Machines that a simulation rents: the daemon's own renting, before a cloud that is two files.

Owns    which machines of OFFERS are there and paid for, and when pools are looked at next. What is rented for
        whom, and what is given back, is `bursard.machines.renting`, as in the daemon.
Why     a daemon looks twice a second. Here it is looked when something happened, and when a wait that the
        daemon's code knows of is over: a month with a machine a day costs a few hundred looks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, TypeVar

import msgspec

from bursar.clock import SECOND_US, Instant
from bursar.ids import Ids
from bursar_policies.compile import PriceTable
from bursar_policies.decision import JobClass
from bursar_policies.document import parse_documents
from bursar_policies.specs import CloudPoolSpec, Document
from bursard.events import Event
from bursard.machines.houses import Ground, House, asked, wanted_of
from bursard.machines.provider import (
    LATELY_US,
    Billing,
    Capabilities,
    Check,
    CloudError,
    CloudEvent,
    CostRow,
    Instance,
    InstanceState,
    Kind,
    MachineOffer,
    Order,
    PoolTerms,
    PricePoint,
    Quota,
    Wanted,
)
from bursard.machines.renting import LOOK_EVERY_S, PATIENCE_US, Renting
from bursard.place import LastPlan
from bursard.sim.offers import OfferRow, latest_boot_us
from bursard.state import MachineRecord, MachineState, State
from bursard.state.decide.machines import Decision

Answer = TypeVar("Answer")

POOL: Final = "offers"
"""The pool of all offers, where the policies have none."""
TURNS_MAX: Final = 8
"""A machine that is ended is listed as gone in the next turn: one instant has as many as that takes."""
LOOK_EVERY_US: Final = round(LOOK_EVERY_S * SECOND_US)
NOTICE_US: Final = 120 * SECOND_US
"""What a machine is told before it is taken back."""


def pool_of(rows: Sequence[OfferRow]) -> Document:
    """A pool that may rent all of these, with the defaults of a CloudPool, but for its lifetime."""
    machines = min(sum(row.max_count for row in rows), 1_000)
    boot_s = max(latest_boot_us(rows) // SECOND_US * 2, 900)
    text = (
        f"kind: CloudPool\nname: {POOL}\nspec: {{provider: local, limits: {{machines: {machines}}},"
        f" max_lifetime: 30d, boot_timeout: {min(boot_s, 86_400)}s}}\n"
    )
    return parse_documents(text, "--offers")[0]


class Made(msgspec.Struct):
    """One machine of an offer. `gone_at`: 0 while it is there."""

    row: OfferRow
    order: Order
    made_at: int
    gone_at: int = 0
    interrupted: bool = False


class SimCloud:
    """A provider that has what OFFERS say, under the clock of a simulation: from the order on a machine runs
    and is paid for, and its agent is there after `provision_s`.

    Args:
        begin: the instant of second 0.
    """

    capabilities = Capabilities(billing=Billing(least_us=0), notice_us=NOTICE_US)

    def __init__(
        self, name: str, rows: Sequence[OfferRow], currency: str, now: Callable[[], int], begin: int
    ) -> None:
        self.name = name
        self.rows = rows
        self.made: dict[str, Made] = {}
        self._currency = currency
        self._now = now
        self._begin = begin
        self._count = 0

    # --- what renting asks

    def preflight(self, pools: Sequence[PoolTerms]) -> list[Check]:
        """Nothing can be wrong."""
        return []

    def offers(self, wanted: Wanted) -> list[MachineOffer]:
        """Those that can be had now or ever again."""
        at_us = self._now() - self._begin
        return [
            row.offer(self._currency, self._begin)
            for row in self.rows
            if wanted.includes(row.place, row.gpu_type if row.gpus else "")
            and row.times.again(at_us) is not None
        ]

    def prices(self, since: int) -> list[PricePoint]:
        """None but those of the offers."""
        return []

    def quotas(self, region: str) -> list[Quota]:
        """None but `max_count`."""
        return []

    def create(self, order: Order) -> str:
        """A machine, where there is one."""
        row = next(row for row in self.rows if row.place == order.place)
        if row.times.until(self._now() - self._begin) == 0:
            raise CloudError(Kind.CAPACITY, "Unavailable", f"offer {row.offer_id} has no machine now")
        if self.left(row) <= 0:
            raise CloudError(
                Kind.QUOTA, "MaxCount", f"all {row.max_count} of offer {row.offer_id} are rented"
            )
        self._count += 1
        provider_id = f"{row.offer_id}#{self._count}"
        self.made[provider_id] = Made(row, order, self._now())
        return provider_id

    def poll(self, provider_id: str) -> Instance:
        """One machine."""
        return self._instance(provider_id)

    def query(self, provider_ids: Sequence[str]) -> dict[str, Instance | None]:
        """Some of them."""
        return {one: self._instance(one) if one in self.made else None for one in provider_ids}

    def list_owned(self, cluster: str, regions: Collection[str] = ()) -> list[Instance]:
        """All, and those that went lately."""
        since = self._now() - LATELY_US
        self.made = {key: one for key, one in self.made.items() if not 0 < one.gone_at < since}
        return [self._instance(one) for one in self.made]

    def terminate(self, provider_id: str) -> bool:
        """It is gone at once."""
        if (made := self.made.get(provider_id)) is not None and not made.gone_at:
            made.gone_at = self._now()
        return True

    def events(self, since: int) -> list[CloudEvent]:
        """None: who takes machines back tells them."""
        return []

    def actuals(self, since: int, until: int) -> Iterable[CostRow]:
        """None but what is metered."""
        return ()

    def _instance(self, provider_id: str) -> Instance:
        made = self.made[provider_id]
        return Instance(
            provider_id=provider_id,
            cluster=made.order.cluster,
            machine_id=made.order.machine_id,
            place=made.row.place,
            state=InstanceState.GONE if made.gone_at else InstanceState.RUNNING,
            created_at=made.made_at,
            billed_from=made.made_at,
            billed_until=made.gone_at,
            interrupted=made.interrupted,
            message="it was taken back" if made.interrupted else "",
        )

    # --- what the simulation asks

    def left(self, row: OfferRow) -> int:
        """How many more of an offer there may be at once."""
        return row.max_count - sum(one.row is row and not one.gone_at for one in self.made.values())

    def there(self) -> Iterator[Made]:
        """Machines that are not gone."""
        return (one for one in self.made.values() if not one.gone_at)


class _Books:
    """What renting stands on in a simulation: nothing is on a disk, and all is true at once."""

    def __init__(
        self,
        state: State,
        ids: Ids,
        now: Callable[[], int],
        prices: Callable[[], PriceTable],
        carry_out: Callable[[Sequence[Event]], object],
    ) -> None:
        self.state = state
        self.ids = ids
        self._now = now
        self._prices = prices
        self._carry_out = carry_out

    @property
    def prices(self) -> PriceTable:
        return self._prices()

    def now(self) -> Instant:
        return Instant(self._now())

    def commit_each(self, decisions: Iterable[Decision], actor: str) -> int:
        for decide in decisions:
            self._carry_out(decide())
        return self.state.version

    async def durable(self, seq: int | None = None) -> None:
        return


class _Inline(Renting):
    """Renting whose providers answer at once, at prices that never change."""

    async def call(self, work: Callable[[], Answer], house: House) -> Answer:
        return asked(work)

    async def _prices(self, house: House, specs: Any) -> None:
        if house.priced_for != [wanted_of(spec) for spec in specs.values()]:
            await super()._prices(house, specs)

    def dues(self) -> Iterator[int]:
        """When a wait ends that this code knows of, by the state and its own notes."""
        yield from (since + PATIENCE_US for since in self._wished.values())
        yield from self.waits_until.values()
        yield from self.giving_back.dues(dict(self.pools()))
        for machine in self.engine.state.machines.values():
            if not machine.node_id:
                yield machine.lease_until

    @property
    def wished(self) -> bool:
        return bool(self._wished)

    def could_hold(self, job_class: JobClass) -> bool:
        return bool(self._pools) and not self.why_unheld(job_class)


class Rented:
    """All that is rented in one simulation.

    Args:
        last: the newest plan. cut: the machine of a node is ended; its agent says no more.
        begin: the instant of second 0.
    """

    def __init__(
        self,
        state: State,
        ids: Ids,
        rows: Sequence[OfferRow],
        *,
        begin: int,
        now: Callable[[], int],
        prices: Callable[[], PriceTable],
        carry_out: Callable[[Sequence[Event]], object],
        last: Callable[[], LastPlan | None],
        cut: Callable[[str], None],
    ) -> None:
        self._state, self._now, self._begin = state, now, begin
        names = dict.fromkeys(
            one.spec.provider for one in state.policies.values() if isinstance(one.spec, CloudPoolSpec)
        )
        self.clouds = {name: SimCloud(name, rows, state.currency, now, begin) for name in names}

        def ended(node_id: str) -> bool:
            cut(node_id)
            return False

        books: Ground = _Books(state, ids, now, prices, carry_out)
        self._renting = _Inline(books, list(self.clouds.values()), "sim", last, ended)
        self._told: set[str] = set()

    # --- time

    def look(self) -> bool:
        """Give back and rent what is due now. True when anything became of it."""
        before = self._state.version
        _at_once(self._renting.look())
        self._turns()
        return self._state.version != before

    def _turns(self) -> None:
        for house in self._renting.houses.values():
            for _ in range(TURNS_MAX):
                if all(one.state is MachineState.UP for one in house.keeper.records().values()):
                    break
                _at_once(house.keeper.turn())

    def next_at(self, changed: bool) -> int | None:
        """When to look again; None: not before something else happens. `changed`: by the look before."""
        now = self._now()
        if changed:
            return now + LOOK_EVERY_US
        return min((at for at in chain(self._renting.dues(), self._openings()) if at > now), default=None)

    def _openings(self) -> Iterator[int]:
        """When an offer that was refused may be asked for again, by jobs that wait for one."""
        if not self._renting.notes and not self._renting.movable:
            return
        now = self._now()
        for house in self._renting.houses.values():
            cloud = self.clouds[house.name]
            for row in cloud.rows:
                again = row.times.again(now - self._begin)
                block = house.keeper.blocks.of(row.place, now)
                if again is not None and block is not None and cloud.left(row) > 0:
                    yield max(block.until, again + self._begin)

    # --- machines

    def arriving(self) -> Iterator[tuple[MachineRecord, Made]]:
        """Machines that were made since this was asked last."""
        for cloud in self.clouds.values():
            for made in cloud.there():
                machine = self._state.machines.get(made.order.machine_id)
                if machine is not None and machine.id not in self._told:
                    self._told.add(machine.id)
                    yield machine, made

    def taken(self, made: Made) -> None:
        """Its provider has taken one back."""
        made.gone_at, made.interrupted = self._now(), True
        for house in self._renting.houses.values():
            _at_once(house.keeper.turn())

    @property
    def wished(self) -> bool:
        """Does a job wait for a machine, and for none that is on its way?"""
        return self._renting.wished

    @property
    def any_there(self) -> bool:
        """Is any machine there, to be given back?"""
        return bool(self._state.machines)

    def could_hold(self, job_class: JobClass) -> bool:
        """Could some machine ever hold such a job?"""
        return self._renting.could_hold(job_class)


def _at_once(work: Coroutine[Any, Any, None]) -> None:
    """Run what waits for nobody: each of its waits is for a turn of a loop that does nothing else."""
    try:
        while True:
            work.send(None)
    except StopIteration:
        return
