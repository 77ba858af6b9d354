"""A cluster that began by a clock which was wrong, and what is to hold of its books since."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bursar.clock import SECOND_US, Instant, VirtualClock
from bursard import startup
from bursard.engine import unposted
from bursard.events import decode
from bursard.fleet.testing import FACTS, World
from bursard.replay import restore
from bursard.reports.control import owed
from bursard.state import Limits
from bursard.state import image as state_image
from bursard.steady import SteadyClock
from bursard.store.hours import OpenHours

TRUE = Instant(1_793_494_800 * SECOND_US)  # 2026-11-01T01:00:00Z
MINUTE_US = 60 * SECOND_US
EVER = 2**62
BUDGET = "kind: Budget\nname: p\nspec: {scope: {project: p}, limit: 900 USD, period: month}\n"
MODEL = "kind: CostModel\nname: own\nspec: {pool: local, node_capex: 300007 USD, useful_life: 5y}\n"


class Dated(World):
    """A cluster that began by a clock which was so far off."""

    def __init__(self, off_us: int, folder: Path) -> None:
        super().__init__(clock=VirtualClock(TRUE + off_us))
        self.off_us, self.folder = off_us, folder
        self.engine.clock = self.steady = SteadyClock(self.clock, "daemon-boot")
        self.commits: list[int] = []
        """How many events each commit had."""
        self.writer.enqueue = self.noted(self.writer.enqueue)  # type: ignore[assignment]
        self.apply(BUDGET)
        self.apply(MODEL)
        self.backend.connect(FACTS)

    def noted(self, enqueue: Callable[[Any], None]) -> Callable[[Any], None]:
        def take(batch: Any) -> None:
            self.commits.append(len(batch.events))
            enqueue(batch)

        return take

    def run(self, **spec: Any) -> None:
        """A job runs for ten minutes, and is metered."""
        self.job = self.submit(**spec)
        self.cycle()
        self.backend.report()
        self.meter(10)

    def meter(self, minutes: int) -> None:
        for _ in range(minutes):
            self.clock.advance(MINUTE_US)
            self.backend.report()
            self.writer.flush()

    def set_clock(self) -> None:
        """Somebody sets the machine's clock right."""
        self.clock.step_wall(-self.off_us)
        self.steady.now()

    def settle(self, trusted: bool = False) -> bool:
        if trusted:
            (self.folder / startup.TRUST).touch()
        found = startup.settle_time(self.engine, self.steady, self.folder)
        self.writer.flush()
        return found

    @property
    def period(self) -> int:
        return self.state.budgets.records["p"].period_start

    def rows_of(self, kind: str) -> list[Any]:
        self.writer.flush()
        return [row for row in (*self.writer.charges, *unposted(self.state).rows) if row.kind == kind]

    def check_books(self) -> None:
        """The rows follow from the log, the node cost what it must, and a replay gives the same state."""
        self.writer.flush()
        book = OpenHours()
        for row in self.writer.rows:
            rows = [charge for charge in self.writer.charges if charge.seq == row.seq]
            assert list(book.check(row.seq, decode(row.payload), rows, row.at)) == []
        node = self.node()
        must = owed(self.writer.rows, {node.id: node.through}, 0, EVER).nanos[node.id]
        rows = [*self.writer.charges, *unposted(self.state).rows]
        assert sum(row.nanos for row in rows if row.node_id == node.id) == must
        assert self.state.ledger.violations() == []
        log: Any = SimpleNamespace(
            load=lambda: SimpleNamespace(images=(), events=lambda seq: iter(self.writer.rows))
        )
        again = restore(log, Limits())
        assert state_image.encode(again, 0) == state_image.encode(self.state, 0)
