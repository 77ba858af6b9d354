"""What must hold of the cluster of `cluster_rules`: after every step against the model and itself, and at the
end, where the log is replayed and must give the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import msgspec
from cluster_model import LIMITS
from cluster_rules import ClusterRules
from hypothesis.stateful import (
    invariant,
)
from second_book import DIMS, SecondBook

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import JobSpec, JobState
from bursar.money import cumulative
from bursard.audit import problems_of
from bursard.doctor import check_state
from bursard.engine import unposted
from bursard.replay import restore
from bursard.scheduler import plan
from bursard.state import HOLD_MARGIN_US, State
from bursard.state import image as state_image
from bursard.state.budgets import limit_of


class ClusterMachine(ClusterRules):
    """The cluster, all that may happen to it, and what must hold."""

    @invariant()
    def books_are_sound(self) -> None:
        assert self.state.ledger.violations() == []

    @invariant()
    def b1_no_hard_budget_is_passed(self) -> None:
        ledger = self.state.ledger
        for record in self.state.budgets.records.values():
            spent = ledger.settled(record.name, record.period_start)
            held = ledger.held(record.name, record.period_start)
            if record.hard:
                assert spent + held <= limit_of(record, ledger), f"B1: {record.name}: {spent} + {held}"
        for attempt in self.state.attempts.values():
            assert ledger.overrun(attempt.id) == 0, f"B2: {attempt.id} passed its hold"
            for hold in ledger.open_holds(attempt.id):
                now = self.state.budgets.records[hold.budget]
                assert hold.period_start == now.period_start, f"B1: {hold} is out of its period"

    @invariant()
    def b5_a_budget_says_what_cost_says(self) -> None:
        """After every tenth step: it reads all of the books."""
        self.steps += 1
        if self.steps % 10 == 0:
            self.budgets_say_what_cost_says()

    def budgets_say_what_cost_says(self) -> None:
        """Of their scopes and periods, however they came to be. Rows are of whole hours, so where a period
        begins within one they cannot be asked.
        """
        rows = self.usage_rows()
        for record in self.state.budgets.records.values():
            start, end, spec = record.period_start, record.period_end, record.spec
            if not (self.jumped or start % HOUR_US or end % HOUR_US):
                settled = self.state.ledger.settled(record.name, start)
                owed = self.cost_of(rows, spec.scope, max(start, spec.counts_from), end)
                assert settled == owed, f"B5: {record.name} has settled {settled}, its scope cost {owed}"
        for attempt in self.state.attempts.values():
            covering, _ = self.state.budgets.matching(*self.marks_of(attempt.job_id))
            holding = sorted(hold.budget for hold in self.state.ledger.open_holds(attempt.id))
            assert holding == list(covering), f"B5: {attempt.id} is held for by {holding}, not {covering}"
            assert holding == [hold.budget for hold in attempt.holds]

    def marks_of(self, job_id: str) -> tuple[str, JobSpec]:
        job = self.state.jobs[job_id]
        return job.user, job.spec

    @invariant()
    def b3_only_live_attempts_hold_money(self) -> None:
        for job in self.state.jobs.values():
            for attempt in job.attempts:
                assert self.state.ledger.is_live(attempt.id) == (attempt.state != "ENDED")

    @invariant()
    def b4_the_worst_case_of_the_limit_in_force_is_held(self) -> None:
        for attempt in self.state.attempts.values():
            us = attempt.time_limit_us + attempt.grace_us + HOLD_MARGIN_US
            rest = {hold.nanos for hold in self.state.ledger.open_holds(attempt.id)}
            if rest:
                assert rest == {max(cumulative(attempt.rate, us) - attempt.settled_nanos, 0)}, attempt.id

    @invariant()
    def attempts_and_jobs_end_once(self) -> None:
        assert not [a for a, times in self.attempts_ended.items() if times > 1], "J5"
        assert not [j for j, times in self.writer.ended.items() if times > 1], "a job ended twice"

    @invariant()
    def j4_one_attempt_of_a_job_at_a_time(self) -> None:
        live = Counter(attempt.job_id for attempt in self.state.attempts.values())
        assert not [job for job, count in live.items() if count > 1], "J4"
        running = defaultdict(set)
        for machine in self.machines.values():
            for run in machine.runs.values():
                if not run.ended_us:
                    running[run.job_id].add(run.attempt_id)
        assert not [job for job, found in running.items() if len(found) > 1], "J4 on the nodes"

    @invariant()
    def r1_free_is_what_nobody_holds(self) -> None:
        held: dict[str, Counter[object]] = defaultdict(Counter)
        for attempt in self.state.attempts.values():
            for member in attempt.live():
                alloc = member.alloc
                held[alloc.node_id]["cpu"] += alloc.cpu_milli
                held[alloc.node_id]["memory"] += alloc.memory_bytes
                for share in alloc.devices:
                    held[alloc.node_id][share.index] += share.milli
        cluster = self.state.cluster
        for node in self.state.nodes.values():
            used = held[node.id]
            assert cluster.cpu_free[node.row] == node.facts.cpu_milli - used["cpu"] >= 0, "R1"
            assert cluster.memory_free[node.row] == node.facts.memory_bytes - used["memory"] >= 0, "R1"
            for device in node.facts.devices:
                assert cluster.gpu_free[node.row, device.index] == 1000 - used[device.index] >= 0, "R1"

    @invariant()
    def counts_and_slots_are_true(self) -> None:
        state = self.state
        single = [job for job in state.jobs.values() if job.array is None and not job.parent_id]
        tasks_by_array = {
            job.id: [task for i in job.spec.array.indices if (task := state.job(f"{job.id}.{i}")) is not None]
            for job in state.jobs.values()
            if job.array is not None and job.spec.array is not None
        }
        for job_id, tasks in tasks_by_array.items():
            array = state.jobs[job_id].array
            assert array is not None
            live = Counter(task.state for task in tasks if not task.state.terminal)
            assert {k: v for k, v in array.counts.items() if v and not JobState(k).terminal} == dict(live)
            assert array.queued == sum(t.has_slot and t.state is JobState.PENDING for t in tasks)
            used = sum(t.has_slot and not t.state.terminal for t in tasks)
            assert array.open_slots + used == array.max_parallel or not array.max_parallel, "slots"
        (jobs_tie,) = [one for one in check_state(state) if one.check == "jobs"]
        assert jobs_tie.ok, jobs_tie.message
        every = [*single, *(task for tasks in tasks_by_array.values() for task in tasks)]
        counts = Counter(job.state for job in every if not job.state.terminal)
        assert {k: v for k, v in self.state.counts.items() if v} == dict(counts)
        for job in self.state.jobs.values():
            if job.array is not None and job.array.max_parallel:
                tasks = [t for t in self.state.jobs.values() if t.parent_id == job.id]
                out = [t for t in tasks if t.id in self.state.pending or t.attempt is not None]
                assert len(out) <= job.array.max_parallel, "more tasks than parallel slots"

    @invariant()
    def usage_is_what_was_held(self) -> None:
        books = self.writer.with_open(self.state)
        billed, cost = books.billed, books.cost
        for job in self.state.jobs.values():
            if job.array is None:
                assert job.settled_nanos == cost[job.id] == self.state.ledger.job_settled(job.id)
            for attempt in job.attempts:
                for member in attempt.members:
                    key = (attempt.id, member.alloc.rank)
                    assert billed[key] == member.charged_us, f"L5: {key}"
        for machine in self.machines.values():
            for run in machine.runs.values():
                held = (run.ended_us or self.boot_us(machine)) - run.started_us
                assert billed[run.attempt_id, run.rank] <= held, "L5: billed more than was held"

    def owed(self, node_id: str, start: int, end: int) -> int | None:
        """What a node costs in a time: what it cost in each part of it when that part was (L11).

        None when one of the prices is unknown: then it cost what was paid.
        """
        prices = self.prices[node_id]
        total = 0
        for position, (since, rates) in enumerate(prices):
            a = max(start, since) if position else start
            b = min([end, *(later for later, _ in prices[position + 1 :])])
            first = a - a % HOUR_US
            if a < b and rates is None:
                return None
            if a < b and rates is not None:
                for rate in (rates.gpu, rates.cpu, rates.memory):
                    total += rate * (b - first) // HOUR_US - rate * (a - first) // HOUR_US
        return total

    @invariant()
    def every_hour_costs_its_rate(self) -> None:
        sums = self.writer.with_open(self.state).hours
        for machine in self.machines.values():
            node = self.record(machine)
            first = -(-node.axis_start // HOUR_US) * HOUR_US
            last = node.through - node.through % HOUR_US
            if not machine.late:
                for hour in range(first, last, HOUR_US):
                    got, owed = sums[node.id][hour], self.owed(node.id, hour, hour + HOUR_US)
                    assert owed in (got, None), f"L8: {machine.name} {hour}: {got} of {owed}"

    @invariant()
    def balances_are_sums_of_entries(self) -> None:
        """L3: what is posted and what is open make every balance, to the nano."""
        sums = Counter(self.store.balances())
        for hour in self.state.open_hours():
            assert sum(hour.entries.values()) == 0, "L1"
            sums.update(hour.entries)
        for account, nanos in self.state.ledger.balances.items():
            assert sums[account] == nanos, f"L3: {account}: {sums[account]} of {nanos}"

    def teardown(self) -> None:
        if not hasattr(self, "engine") or not hasattr(self, "machines"):
            return
        for machine in self.machines.values():
            if not machine.connected:
                machine.connected = True
                self.hello(machine)
        self.clock.advance(90 * SECOND_US)
        self.enforce()
        for machine in self.machines.values():
            self.report_starts(machine)
            self.report_exits(machine)
        # Twice: what was reported late is made up for in the interval after.
        for _ in range(2):
            self.clock.advance(3 * HOUR_US)
            self.enforce()
            for machine in self.machines.values():
                self.report_exits(machine)
                self.send_usage(machine)
        self.nodes_cost_what_they_cost()
        self.budgets_say_what_cost_says()
        self.a_second_book_says_the_same()
        self.compare(self.state, restore(self.store, LIMITS))
        with self.store.picture() as picture:
            assert problems_of(picture, LIMITS) == []
        assert self.store.verify() == []

    def nodes_cost_what_they_cost(self) -> None:
        """Σ shares + idle + down + overhead + variance = the node's cost, over its whole life."""
        sums = Counter[str]()
        for row in self.store.charges(unposted=unposted(self.state)):
            sums[row.node_id] += row.nanos
        totals = self.store.charge_sums([], None, unposted(self.state))
        assert [total.nanos for total in totals] == [sums.total()], "cost and the rows disagree"
        for machine in self.machines.values():
            node = self.record(machine)
            owed = self.owed(node.id, node.axis_start, node.through)
            assert owed in (sums[node.id], None), f"L8: {machine.name} cost {owed}, charged {sums[node.id]}"

    def a_second_book_says_the_same(self) -> None:
        """Rows, budgets, arrays and jobs against what the payloads of the log add up to."""
        book, state = SecondBook(self.store.events(limit=1 << 30)), self.state
        shown = {
            one.keys: (one.nanos, one.gpu, one.cpu, one.memory, one.held_us)
            for one in self.store.charge_sums(DIMS, None, unposted(state))
        }
        assert shown == book.sums(), "second book: cost"
        held = book.held()
        given = {name: state.ledger.given(*name) for name in book.given}
        assert given == dict(book.given), "second book: what was given"
        for budget, period in {*book.settled, *held}:
            found = (state.ledger.settled(budget, period), state.ledger.held(budget, period))
            owed = (book.settled[budget, period], held[budget, period])
            assert found == owed, f"B4: {budget} in {period}: settled and held {found}, by the log {owed}"
        assert {k: v for k, v in state.corrected.items() if v} == {
            k: v for k, v in book.corrected.items() if v
        }, "second book: corrections"
        for array_id, money in state.array_money.items():
            assert money.settled_nanos == book.of_array[array_id], f"second book: {array_id}"
        with self.store.picture() as picture:
            for row in picture.jobs():
                of = book.of_job if row.parent_id else book.of_array
                assert row.settled_nanos == of[row.id], f"second book: {row.id}"

    def compare(self, live: State, again: State) -> None:
        """L10: the log, or an image of it, gives the same state, ledger and plan."""
        now = self.engine.now()
        for state in (live, again):
            # A job whose time had come stays in the queue when the wall clock is set back.
            state.wake(max(now, self.latest))
        assert again.ledger.image() == live.ledger.image(), "L10: the ledger"
        # Read back: msgspec leaves out a default by identity, so equal states may differ in spelling.
        images = [
            msgspec.json.decode(state_image.encode(state, now), type=state_image.StateImage)
            for state in (live, again)
        ]
        assert images[0] == images[1], "L10: the state"
        assert again.strategy == live.strategy, "L10: the strategy"
        waiting = [{q: s.pending.key_of(q) for q in s.jobs if q in s.pending} for s in (live, again)]
        assert waiting[0] == waiting[1], "L10: the queue"
        ready = [job.state for job in again.jobs.values() if job.state is JobState.PENDING]
        assert len(ready) >= len(waiting[1])
        assert plan(again.snapshot(), now).starts == plan(live.snapshot(), now).starts, "L10: the plan"
