"""What a node's reboot does to the bill: everything its spool still knows is charged, once."""

from __future__ import annotations

from bursar.clock import HOUR_US, SECOND_US
from bursar.ids import SequentialIds
from bursar.model import JobSpec, NodeFacts, ShareRates
from bursar_policies.compile import PriceTable
from bursar_policies.decision import Placement, Start
from bursard.events import Event, NodeMetered, NodePriced
from bursard.place import verify
from bursard.state import Applied, State
from bursard.state.decide import attempts, jobs, nodes

START = 1_767_225_600 * SECOND_US
RATES = ShareRates(cpu=3_600_000_000_000)


class World:
    """A state with one node that costs a milli-unit a second and one job on half of it."""

    def __init__(self) -> None:
        self.state, self.ids, self.now = State(), SequentialIds(), START
        self.applied = Applied()
        self.facts = NodeFacts(name="a", cpu_milli=2000, memory_bytes=1 << 30)
        self.apply(self.hello("boot-1", 0))
        node_id = self.state.node_names["a"]
        self.apply([NodePriced(node_id, "test", RATES)])
        self.apply(jobs.submit(self.state, self.ids, user="ann", spec=JobSpec(command=("x",))))
        share = ShareRates(cpu=RATES.cpu // 2)
        placement = Placement(node=0, devices=(), cpu_milli=1000, memory_bytes=0, rates=share)
        (self.job,) = self.state.jobs.values()
        start = Start(
            self.job.id,
            0,
            (placement,),
            HOUR_US,
            0,
            (),
            queue=0,
            asked_us=self.state.pending.limit_of(self.job.id),
        )
        placed = verify(self.state, self.ids, self.state.snapshot(), (start,))
        assert isinstance(placed, list)
        self.apply(placed)
        assert self.job.attempt is not None
        self.attempt = self.job.attempt
        self.apply(attempts.started(self.state, self.node, self.attempt.id, 0, 0, 1))

    @property
    def node(self):  # type: ignore[no-untyped-def]
        return self.state.node_by_name("a")

    def apply(self, events: list[Event]) -> None:
        for event in events:
            self.state.apply(event, self.now, self.applied)

    def hello(
        self, boot_id: str, boot_us: int, spooled: dict[tuple[str, int], int] | None = None
    ) -> list[Event]:
        # The table knows no price, so the node keeps the one it was given by hand.
        events = nodes.hello(
            self.state,
            self.ids,
            PriceTable(),
            facts=self.facts,
            boot_id=boot_id,
            boot_us=boot_us,
            now=self.now,
            spooled=spooled,
        )
        return [event for event in events if not isinstance(event, NodePriced)]

    def cost(self, kind: str) -> int:
        return sum(charge.nanos for charge in self.applied.charges if charge.kind == kind)


def test_usage_still_in_the_spool_at_a_reboot_is_billed_once() -> None:
    """1. 10 s are reported. 2. 30 s more are spooled, then the machine loses power. 3. It is back a minute
    later: 40 s are billed, the rest of the time is down, and the sum is the node's cost."""
    world = World()
    world.apply(
        nodes.usage(
            world.state,
            world.node,
            boot_id="boot-1",
            at_boot_us=10 * SECOND_US,
            counters=[(world.attempt.id, 0, 10 * SECOND_US)],
        )
    )
    world.now = START + 100 * SECOND_US
    world.apply(world.hello("boot-2", 5, {(world.attempt.id, 0): 40 * SECOND_US}))
    assert world.cost("usage") == 40 * 500_000_000
    assert world.cost("usage") + world.cost("idle") + world.cost("down") == 100 * 1_000_000_000
    assert world.state.ledger.violations() == []
    again = nodes.usage(
        world.state,
        world.node,
        boot_id="boot-1",
        at_boot_us=40 * SECOND_US,
        counters=[(world.attempt.id, 0, 40 * SECOND_US)],
    )
    assert again == []
    assert not any(isinstance(event, NodeMetered) for event in again)


def test_a_reboot_sends_the_job_back_to_the_queue_without_using_up_a_retry() -> None:
    world = World()
    world.now = START + 20 * SECOND_US
    world.apply(world.hello("boot-2", 5))
    assert world.job.state == "PENDING"
    assert world.job.retries == 0
    assert world.cost("usage") == 0
