"""Random histories of rented machines: calls fail before and after they are done, lists lag and fail, and the
daemon dies at any of its steps. In the end there is one machine for each record, and none besides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bursar.clock import SECOND_US
from bursar.errors import WrongState
from bursar.ids import SequentialIds
from bursar_policies.compile import PriceTable
from bursard.events import ClusterCreated, Event, MachineGone, MachineIntended, MachineUp
from bursard.machines.keeper import Keeper
from bursard.machines.provider import (
    Billing,
    Capabilities,
    Check,
    CloudError,
    CloudEvent,
    CostRow,
    Instance,
    InstanceState,
    Join,
    Kind,
    MachineOffer,
    Order,
    Place,
    PoolTerms,
    PricePoint,
    Quota,
    Wanted,
)
from bursard.state import Applied, MachineState, State
from bursard.state.decide import machines as decide
from bursard.state.decide.machines import Decision

CLUSTER, OTHERS = "cluster_1", "cluster_2"
LAG_US = 20 * SECOND_US
"""A new machine is not listed before it is so old; so is the end of one."""
HERE = Place("r", "z", "f", "f.1", "spot")
FAIR = ("ok",) * 6
Answer = TypeVar("Answer")


class Killed(BaseException):
    """The daemon died here."""


class WildCloud:
    """A cloud that does not know orders: two calls are two machines."""

    name = "wild"
    capabilities = Capabilities(billing=Billing(), notice_us=0)

    def __init__(self, draw: Callable[[Sequence[str]], str]) -> None:
        self.now = 1_000 * SECOND_US
        self.machines: dict[str, Instance] = {}
        self.ended_at: dict[str, int] = {}
        self.touched: set[str] = set()
        self._draw = draw

    def plant(self, cluster: str, machine_id: str) -> str:
        key = f"i-{len(self.machines) + 1}"
        self.machines[key] = Instance(
            provider_id=key,
            cluster=cluster,
            machine_id=machine_id,
            place=HERE,
            state=InstanceState.RUNNING,
            created_at=self.now,
            billed_from=self.now,
        )
        return key

    def create(self, order: Order) -> str:
        how = self._draw((*FAIR, "refused", "never heard", "lost"))
        if how == "refused":
            raise CloudError(Kind.CAPACITY, "NoCapacity", "none", scope=HERE, ttl_us=SECOND_US)
        if how == "never heard":
            raise CloudError(Kind.THROTTLED, "Timeout", "no answer", maybe_created=True)
        key = self.plant(order.cluster, order.machine_id)
        if how == "lost":
            raise CloudError(Kind.THROTTLED, "Timeout", "no answer", maybe_created=True)
        return key

    def list_owned(self, cluster: str, regions: Collection[str] = ()) -> list[Instance]:
        if self._draw((*FAIR, "failed")) == "failed":
            raise CloudError(Kind.THROTTLED, "Unavailable", "not now")
        return [
            self._seen(one)
            for one in self.machines.values()
            if one.cluster == cluster and self.now - one.created_at >= LAG_US and self._remembered(one)
        ]

    def _seen(self, one: Instance) -> Instance:
        ended = self.ended_at.get(one.provider_id)
        if ended is None or self.now - ended < LAG_US:
            return one
        return replace(one, state=InstanceState.GONE, billed_until=ended)

    def _remembered(self, one: Instance) -> bool:
        ended = self.ended_at.get(one.provider_id)
        return ended is None or self.now - ended < 5 * LAG_US

    def terminate(self, provider_id: str) -> bool:
        self.touched.add(provider_id)
        how = self._draw((*FAIR, "failed", "lost"))
        if how == "failed":
            raise CloudError(Kind.THROTTLED, "Unavailable", "not now")
        self.ended_at.setdefault(provider_id, self.now)
        if how == "lost":
            raise CloudError(Kind.THROTTLED, "Unavailable", "done, unheard")
        return False

    def alive(self, cluster: str) -> list[Instance]:
        return [
            one
            for one in self.machines.values()
            if one.cluster == cluster and one.provider_id not in self.ended_at
        ]

    def preflight(self, pools: Sequence[PoolTerms]) -> list[Check]:
        return []

    def offers(self, wanted: Wanted) -> list[MachineOffer]:
        return []

    def prices(self, since: int) -> list[PricePoint]:
        return []

    def quotas(self, region: str) -> list[Quota]:
        return []

    def poll(self, provider_id: str) -> Instance:
        return self.machines[provider_id]

    def query(self, provider_ids: Sequence[str]) -> dict[str, Instance | None]:
        return {key: self.machines.get(key) for key in provider_ids}

    def events(self, since: int) -> list[CloudEvent]:
        return []

    def actuals(self, since: int, until: int) -> Iterable[CostRow]:
        return []


class Life:
    """A daemon that may die before and after each of its commits and calls, and what of it was durable."""

    def __init__(self, draw: Callable[[Sequence[str]], str]) -> None:
        self._draw = draw
        self.calm = False
        self.cloud = WildCloud(self.draw)
        self.state = State()
        self.log: list[Event] = []
        self.ids = SequentialIds()
        self._apply([ClusterCreated(CLUSTER, "USD")])
        self.start()

    def draw(self, choices: Sequence[str]) -> str:
        return choices[0] if self.calm else self._draw(choices)

    def start(self) -> None:
        self.keeper = Keeper(self.cloud, self.state, self)

    def _apply(self, events: Sequence[Event]) -> None:
        for one in events:
            self.state.apply(one, self.cloud.now, Applied())
            self.log.append(one)

    # --- what the keeper needs

    def now(self) -> int:
        return self.cloud.now

    async def commit(self, decisions: Sequence[Decision]) -> None:
        how = self.draw((*FAIR, "killed before", "killed after"))
        if how == "killed before":
            raise Killed
        for decision in decisions:
            self._apply(decision())
        if how == "killed after":
            raise Killed

    def rise(self, machine_id: str, billed_from: int) -> Sequence[Event]:
        return decide.up(self.state, machine_id, billed_from)

    def bury(self, machine_id: str, billed_until: int, reason: str, free: bool) -> Sequence[Decision]:
        return decide.bury(self.state, PriceTable(), machine_id, billed_until, reason, free)

    def cut(self, node_id: str) -> bool:
        return False

    async def call(self, work: Callable[[], Answer]) -> Answer:
        how = self.draw((*FAIR, "killed before", "killed after"))
        if how == "killed before":
            raise Killed
        answer = work()
        if how == "killed after":
            raise Killed
        return answer

    # --- steps

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            work.send(None)
        except StopIteration:
            return
        except Killed:
            event("killed")
            self.start()
            return
        raise AssertionError("nothing in here waits")

    def rent(self) -> None:
        machine_id = self.ids.new("mach")
        intent = [
            MachineIntended(
                machine_id=machine_id,
                provider="wild",
                region="r",
                zone="z",
                instance_type="f.1",
                market="spot",
                why="job 1",
                lease_until=0,
            )
        ]
        join = Join(server="s", name="n", pool="p", token="t")
        wanted = Order(machine_id=machine_id, cluster=CLUSTER, place=HERE, join=join, lifetime_us=1)

        async def order() -> Order:
            return wanted

        self.run(self.keeper.rent({machine_id: order}, intent))

    def unwanted(self) -> None:
        for machine_id in list(self.state.machines)[:1]:
            self._apply(decide.ending(self.state, machine_id, "idle"))

    def turn(self) -> None:
        if self.keeper.due():
            self.run(self.keeper.turn())

    def look(self) -> None:
        """What must hold at any instant."""
        ours = self.cloud.alive(CLUSTER)
        for machine in self.state.machines.values():
            if machine.provider_id and machine.state is not MachineState.ENDING:
                same = [one for one in ours if one.machine_id == machine.id]
                assert [one.provider_id for one in same] in ([machine.provider_id], []), (
                    "one intent, one machine"
                )

    def settle(self) -> None:
        """Nothing fails any more, for long enough."""
        self.calm = True
        for _ in range(300):
            self.cloud.now += SECOND_US
            self.turn()


STEPS = ("rent", "turn", "turn", "turn", "unwanted", "second", "minute", "end there", "others", "forgotten")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(data=st.data(), steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=40))
def test_whatever_fails_there_is_one_machine_for_each_record_and_none_besides(
    data: st.DataObject, steps: list[str]
) -> None:
    life = Life(lambda choices: data.draw(st.sampled_from(choices)))
    cloud, foreign = life.cloud, set[str]()
    for step in steps:
        if step in ("rent", "turn", "unwanted"):
            getattr(life, step)()
        elif step in ("second", "minute"):
            cloud.now += (1 if step == "second" else 60) * SECOND_US
        elif step == "others":
            foreign.add(cloud.plant(OTHERS, "mach_0000000001"))
        elif step == "forgotten":
            cloud.plant(CLUSTER, f"mach_of_a_lost_log_{len(cloud.machines)}")
        elif alive := cloud.alive(CLUSTER):
            cloud.ended_at[alive[0].provider_id] = cloud.now
        life.look()
    life.settle()
    records = life.state.machines.values()
    assert sorted(one.provider_id for one in cloud.alive(CLUSTER)) == sorted(
        one.provider_id for one in records
    )
    assert all(one.state is MachineState.UP for one in records), "what was to end has ended"
    assert not foreign & cloud.touched, "what is not ours is not touched"
    assert {one.provider_id for one in cloud.alive(OTHERS)} == foreign
    _books(life)


def _books(life: Life) -> None:
    """Each intent ends at most once, and is paid for until its machine was gone at the earliest."""
    intended = [one.machine_id for one in life.log if isinstance(one, MachineIntended)]
    gone = [one for one in life.log if isinstance(one, MachineGone)]
    assert sorted({*intended}) == sorted(intended)
    assert sorted([one.machine_id for one in gone] + list(life.state.machines)) == sorted(intended)
    up = {one.machine_id: one.billed_from for one in life.log if isinstance(one, MachineUp)}
    for one in gone:
        ends = [
            life.cloud.ended_at[key]
            for key, machine in life.cloud.machines.items()
            if machine.cluster == CLUSTER and machine.machine_id == one.machine_id
        ]
        if one.machine_id in up and len(ends) == 1:
            assert one.billed_until >= ends[0]
            assert one.billed_until >= up[one.machine_id] + 60 * SECOND_US, "the least that is billed"


def test_a_termination_that_fails_for_an_hour_is_asked_for_ever_and_paid_for_until_it_is_gone() -> None:
    fails = True

    def draw(choices: Sequence[str]) -> str:
        return "failed" if fails and choices == (*FAIR, "failed", "lost") else "ok"

    life = Life(draw)
    life.rent()
    for _ in range(40):
        life.cloud.now += SECOND_US
        life.turn()
    began, asked = life.cloud.now, 0
    life.unwanted()
    end = life.cloud.terminate

    def counted(provider_id: str) -> bool:
        nonlocal asked
        asked += 1
        return end(provider_id)

    life.cloud.terminate = counted  # type: ignore[method-assign]
    for _ in range(3600):
        life.cloud.now += SECOND_US
        life.turn()
    (machine,) = life.state.machines.values()
    assert machine.state is MachineState.ENDING
    assert 60 <= asked <= 70, "after 2, 4, 8, 16, 32, then every 60 seconds"
    fails = False
    for _ in range(120):
        life.cloud.now += SECOND_US
        life.turn()
    gone = life.log[-1]
    assert isinstance(gone, MachineGone)
    assert life.state.machines == {}
    assert gone.billed_until - began >= 3600 * SECOND_US


def test_an_answer_that_cannot_be_is_not_believed() -> None:
    life = Life(lambda choices: "ok")
    life.rent()
    (machine,) = life.state.machines.values()
    with pytest.raises(WrongState, match="one of them must be ended"):
        decide.launched(life.state, machine.id, "i-other")
    life.cloud.plant(CLUSTER, machine.id)
    for _ in range(60):
        life.cloud.now += SECOND_US
        life.turn()
    assert [one.provider_id for one in life.cloud.alive(CLUSTER)] == ["i-1"], (
        "the second of one intent is ended"
    )
