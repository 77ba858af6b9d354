"""An updated job is planned as if it had been submitted so, at the place that it has in the queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.clock import HOUR_US, SECOND_US
from bursar.ids import SequentialIds
from bursar.model import ArraySpec, Device, JobSpec, NodeFacts
from bursar.resources import GpuRequest, ResourceRequest
from bursar_policies.compile import PriceTable
from bursard.events import ClusterCreated, Event
from bursard.scheduler import plan
from bursard.state import State
from bursard.state.decide import jobs, nodes
from bursard.state.tables import Applied

NOW = 1_793_494_800_000_000


class World:
    """A state of two nodes with 8 CPUs and two GPUs each, and the ids of the jobs in their order."""

    def __init__(self) -> None:
        self.state = State()
        self.ids = SequentialIds()
        self.jobs: list[str] = []
        self.make([ClusterCreated("c1", "USD")])
        for name in ("n1", "n2"):
            devices = tuple(Device(i, f"{name}{i}", "H100", 80 << 30) for i in range(2))
            facts = NodeFacts(name=name, cpu_milli=8_000, memory_bytes=64 << 30, devices=devices, pool="p")
            self.make(
                nodes.hello(
                    self.state, self.ids, PriceTable(()), facts=facts, boot_id="b", boot_us=1, now=NOW
                )
            )

    def make(self, events: list[Event]) -> None:
        for event in events:
            self.state.apply(event, NOW, Applied())

    def submit(self, spec: JobSpec) -> None:
        events = jobs.submit(self.state, self.ids, user="ann", spec=spec)
        self.make(events)
        self.jobs.append(events[0].job_id)  # type: ignore[union-attr]

    def update(self, which: int, changes: Mapping[str, object]) -> None:
        self.make(jobs.update(self.state, self.state.jobs[self.jobs[which]], changes))


specs = st.builds(
    JobSpec,
    command=st.just(("true",)),
    nodes=st.integers(1, 2),
    priority=st.sampled_from((25, 50, 75)),
    time_limit_us=st.sampled_from((60 * SECOND_US, HOUR_US)),
    array=st.sampled_from((None, None, ArraySpec((0, 1, 2), 2))),
    options=st.sampled_from((1_000, 4_000, 8_000)).flatmap(
        lambda cpu: st.sampled_from((None, GpuRequest(1), GpuRequest(2))).map(
            lambda gpus: (ResourceRequest(gpus, cpu, 1 << 30),)
        )
    ),
)
CHANGEABLE = ("nodes", "priority", "time_limit_us", "options")


@settings(max_examples=40, deadline=None)
@given(st.lists(specs, min_size=1, max_size=6), st.integers(0, 5), specs)
def test_update_then_plan_is_submit_of_the_changed_job_at_the_old_place(
    asked: list[JobSpec], which: int, other: JobSpec
) -> None:
    which %= len(asked)
    changes = {name: getattr(other, name) for name in CHANGEABLE}
    updated, submitted = World(), World()
    for index, spec in enumerate(asked):
        updated.submit(spec)
        submitted.submit(msgspec.structs.replace(spec, **changes) if index == which else spec)
    updated.update(which, changes)
    # What jobs usually ask for is learned from what was submitted: it is not part of the place.
    updated.state.typical = submitted.state.typical
    assert shape(updated) == shape(submitted)


def shape(world: World) -> Any:
    """What the plan does, and what it says of the jobs that wait, by queue."""
    found = plan(world.state.snapshot(), NOW)
    return found.starts, found.verdicts, [world.state.jobs[job_id].spec for job_id in world.jobs]
