"""A cluster under budgets whose clock somebody sets, and whose months somebody closes; and what is to hold of
it: every budget has spent what `cost` says of its scope and period, and no hard limit is passed.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from dated_world import MINUTE_US, Dated

from bursar.clock import DAY_US
from bursar.errors import BursarError, WrongState
from bursar_policies.document import parse_documents
from bursar_policies.periods import period_bounds
from bursard.events import PeriodClosed
from bursard.fleet.testing import FACTS
from bursard.state.budgets import limit_of
from bursard.state.decide import periods, policies
from bursard.state.decide.opening import Before, Opening, openings, reopened, reopenings

SOFT = "kind: Budget\nname: {}\nspec: {{scope: {}, limit: 900 USD, period: {}}}\n"
HARD = (
    "kind: Budget\nname: {}\nspec: {{scope: {}, limit: {} USD, period: {}, enforcement: hard, hold: {},"
    " carry_over: 50%}}\n"
)
BUDGETS = {
    "p": SOFT.format("p", "{project: p}", "month"),
    "day": SOFT.format("day", "{user: ann}", "day"),
    "week": HARD.format("week", "{project: p}", 2, "week", "worst-case"),
    "month": HARD.format("month", "{project: p}", 4, "month", "lease"),
}


class Life(Dated):
    """A cluster under budgets, whose clock somebody sets, and whose months somebody closes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(0, folder)
        for text in BUDGETS.values():
            self.apply(text)
        self.entered: dict[str, set[int]] = {}
        """In which periods each budget has been."""
        self.late: set[str] = set()
        """Budgets that were applied when some of what they count may have been used: none refused that."""
        self.boots = 1

    def step(self, days: int) -> None:
        """The wall clock jumps, and an operator trusts it."""
        self.clock.step_wall(days * DAY_US)
        self.settle(trusted=True)

    def close(self, count: int) -> None:
        """So many months that have charges, the oldest first, as if finance insisted."""
        for month in sorted({period_bounds("month", "UTC", row.start_at) for row in self.rows()})[:count]:
            since, until = month[0], month[1] or 0
            name = f"{since}"
            if since < self.state.closed.until:
                continue
            events: list[PeriodClosed] = []
            try:
                events = periods.close(
                    self.state, name, since, until, by="ann", now=self.engine.now(), earlier=[], lacking=[],
                    force=True,
                )  # fmt: skip
            except WrongState:
                return
            self.roll()
            self.engine.commit(events, "ann")

    def excursion(self, days: int) -> None:
        """The clock is ahead, is believed, months are closed by it, and it is put right."""
        self.step(days)
        self.meter(3)
        self.check()
        self.close(3)
        self.meter(3)
        self.check()
        self.step(-days)

    def again(self, name: str) -> None:
        """It is removed, and applied again: its account begins with what its scope has cost."""
        if name in self.state.budgets.records:
            self.engine.commit(policies.remove(self.state, "Budget", name), "ann")
        documents = parse_documents(BUDGETS[name], "test")
        (opening,) = openings(self.state, documents, self.engine.now())
        try:
            self.apply(BUDGETS[name], {name: self.cost_of(opening)})
        except BursarError:
            return  # its limit is passed, so it cannot be applied now
        self.late.add(name)
        self.entered[name] = {self.state.budgets.records[name].period_start}

    def cost_of(self, opening: Opening) -> int:
        until = opening.until or 2**62
        rows = self.rows_of("usage")
        return sum(row.nanos for row in rows if opening.since <= row.start_at < until)

    def read_accounts(self) -> None:
        """What the daemon does a moment after a clock was put right."""
        wanted = reopenings(self.state, self.engine.now())
        spent = {one.budget: self.cost_of(one) for one in wanted}
        self.engine.commit(reopened(self.state, wanted, spent, dict[str, Before]()), "bursard")

    def start(self, minutes: int) -> None:
        try:
            self.submit(time_limit_us=minutes * MINUTE_US)
        except BursarError:
            return
        self.cycle()
        self.backend.report()

    def finish(self) -> None:
        for attempt_id, rank in list(self.backend.running("n-1")):
            self.backend.finish(attempt_id, rank)
        self.meter(1)
        self.cycle()

    def roll(self) -> None:
        self.engine.commit(policies.roll_periods(self.state, self.engine.now()), "bursard")

    def reboot(self) -> None:
        self.boots += 1
        self.backend.disconnect("n-1")
        self.backend.connect(FACTS, f"boot-{self.boots}")

    def rows(self) -> list[Any]:
        return [row for kind in ("usage", "idle", "down") for row in self.rows_of(kind)]

    def check(self) -> None:
        self.roll()
        self.read_accounts()
        self.writer.flush()
        ledger, rows = self.state.ledger, self.rows_of("usage")
        for name, record in self.state.budgets.records.items():
            spec = record.spec
            cost = Counter[int]()
            for row in rows:
                cost[period_bounds(spec.period, spec.timezone, row.start_at)[0]] += row.nanos
            mine = self.entered.setdefault(name, set())
            mine.add(record.period_start)
            for start in mine:
                settled, held = ledger.settled(name, start), ledger.held(name, start)
                assert settled == cost[start], f"B5: {name} has spent {settled}, cost says {cost[start]}"
                over = settled + held - limit_of(record, ledger, start)
                assert over <= 0 or not record.hard or name in self.late, f"B1: {name} is over by {over}"
            assert sum(ledger.held(name, start) for start in ledger.periods_of(name)) == ledger.held(
                name, record.period_start
            ), f"{name} holds in a period that it is not in"
        assert ledger.violations() == []


ACTS: dict[str, tuple[object, ...]] = {
    "step": (-45, -31, -20, -1, 1, 20, 31, 45),
    "excursion": (20, 31, 45, 80),
    "close": (1, 3),
    "meter": (1, 7, 70),
    "start": (20, 60, 200),
    "finish": (),
    "again": tuple(sorted(BUDGETS)),
    "reboot": (),
}
"""What may happen, and with what."""


def act(life: Life, what: str, how: object) -> None:
    """Do one of `ACTS`, and look at everything."""
    do = getattr(life, what)
    if ACTS[what]:
        do(how)
    else:
        do()
    life.check()
