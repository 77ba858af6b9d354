"""One node, one daemon in memory, and its keeper of services."""

from __future__ import annotations

from typing import Any

import msgspec

from bursar.clock import SECOND_US
from bursar.model import ServiceSpec
from bursard.doctor import check_state
from bursard.fleet.testing import FACTS, World
from bursard.serving.board import Gateway, Load
from bursard.serving.keeper import Keeper

MINUTE_US = 60 * SECOND_US
BUDGET = "kind: Budget\nname: b\nspec: {scope: {project: p}, limit: 100 USD, period: month}\n"


class Site:
    """One node, one daemon in memory, and its keeper of services."""

    def __init__(self, **service: Any) -> None:
        self.world = World()
        self.world.backend.connect(msgspec.structs.replace(FACTS, cpu_milli=64_000))
        self.keeper = Keeper(self.world.engine)
        self.world.fleet.replicas.readied = self.keeper.readied
        self.job = self.world.submit(name="chat", time_limit_us=0, service=ServiceSpec(**service))
        self.turn()

    def turn(self, seconds: int = 0, ready: bool = False) -> None:
        """Time passes; replicas are placed and start; with `ready`, they all answer."""
        world = self.world
        world.clock.advance(seconds * SECOND_US)
        world.state.wake(world.engine.now())
        self.keeper.look()
        world.cycle()
        world.backend.report()
        world.writer.flush()
        if ready:
            for attempt in self.live():
                world.backend.ready(attempt.id)
            self.keeper.look()
            world.writer.flush()

    def live(self) -> list[Any]:
        return [attempt for _, attempt in self.keeper.live(self.job)]

    def asks(self, waiting: int = 0, busy: int = 0, outstanding: dict[str, int] | None = None) -> None:
        """A gateway tells of its last second."""
        now = self.world.engine.now()
        load = Load(
            job_id=self.job.id, elapsed_us=SECOND_US, busy_us=busy * SECOND_US, waiting=waiting,
            asked=waiting, p50_us=0, p95_us=0, outstanding=outstanding or {},
        )  # fmt: skip
        waits = {self.job.id: waiting}
        self.keeper.heard(Gateway("g", "boot", "", now, outstanding or {}, waits), [load])
        self.world.writer.flush()

    def findings(self) -> list[str]:
        found = check_state(self.world.state, now=self.world.engine.now())
        return [one.message for one in found if not one.ok]
