"""What may happen to the cluster of `cluster_model`: time, people, operators and agents, as rules."""

from __future__ import annotations

from collections.abc import Callable

from cluster_model import (
    BUDGETS,
    GIB,
    LIMITS,
    NODES,
    PROJECTS,
    SCOPES,
    USERS,
    ClusterModel,
    Machine,
    cost_model,
)
from hypothesis import strategies as st
from hypothesis.stateful import (
    rule,
)

from bursar.clock import HOUR_US, SECOND_US, format_instant
from bursar.errors import BursarError
from bursar.model import (
    ArraySpec,
    Dependency,
    EndCause,
    JobSpec,
    RetrySpec,
)
from bursar.resources import GpuRequest, ResourceRequest
from bursard.events import (
    Event,
)
from bursard.housekeeping import Housekeeping
from bursard.place import one_pass
from bursard.services.corrections import standing
from bursard.state import HOLD_MARGIN_US, JobRecord, State
from bursard.state import image as state_image
from bursard.state.decide import corrections, giving, jobs, limits, nodes, policies
from bursard.state.decide.corrections import Target
from bursard.store import ChargeFilter, JobFilter


class ClusterRules(ClusterModel):
    """The cluster, and all that may happen to it."""

    # --- time and the scheduler

    @rule(
        us=st.sampled_from(
            [1, 999_983, 37 * SECOND_US, 601 * SECOND_US + 123_457, HOUR_US - 1, HOUR_US, 25 * HOUR_US]
        ),
        report=st.sampled_from([True, True, False]),
        then_plan=st.booleans(),
    )
    def advance(self, us: int, report: bool, then_plan: bool) -> None:
        self.clock.advance(us)
        self.enforce()
        for machine in self.machines.values() if report else ():
            self.meter_in_order(machine)
        if then_plan:
            self.cycle()

    @rule(us=st.sampled_from([-40 * SECOND_US, SECOND_US, 3 * HOUR_US]))
    def wall_clock_jumps(self, us: int) -> None:
        self.latest = max(self.latest, self.engine.now())
        self.jumped = True
        self.clock.step_wall(us)

    @rule()
    def cycle(self) -> None:
        now = self.engine.now()
        Housekeeping(self.state, lambda: self.engine.prices, self.make_true).turn(now)
        one_pass(self.state, self.engine.ids, now, self.make_true)
        self.everybody_hears()

    # --- users

    @rule(
        user=st.sampled_from(USERS),
        project=st.sampled_from(PROJECTS),
        labels=st.sampled_from([(), (("team", "x"),)]),
        gpus=st.sampled_from([0, 300, 500, 1000, 2000]),
        gang=st.sampled_from([1, 1, 1, 2]),
        limit_us=st.sampled_from([0, 90 * SECOND_US, HOUR_US + 1, 30 * HOUR_US]),
        max_cost=st.sampled_from([0, 0, 200_000_003]),
        retry=st.sampled_from([RetrySpec(), RetrySpec(on=("failed", "time_limit"), max=2)]),
        array=st.sampled_from(
            [None, None, None, ArraySpec((0, 1, 2, 3), 2), ArraySpec((0, 1, 2)), ArraySpec((1, 5), 1)]
        ),
        after=st.none() | st.tuples(st.integers(0, 9), st.sampled_from(["succeeded", "failed", "finished"])),
        held=st.sampled_from([False, False, False, True]),
        begin_in_us=st.sampled_from([0, 0, 0, 2 * HOUR_US]),
        then_plan=st.sampled_from([True, True, True, False]),
    )
    def submit(
        self,
        user: str,
        project: str,
        labels: tuple[tuple[str, str], ...],
        gpus: int,
        gang: int,
        limit_us: int,
        max_cost: int,
        retry: RetrySpec,
        array: ArraySpec | None,
        after: tuple[int, str] | None,
        held: bool,
        begin_in_us: int,
        then_plan: bool,
    ) -> None:
        depends: tuple[Dependency, ...] = ()
        if after is not None and (other := self.job_of(after[0])) is not None and not other.parent_id:
            depends = (Dependency(other.id, after[1]),)
        request = GpuRequest(max(gpus // 1000, 1), milli=min(gpus, 1000)) if gpus else None
        spec = JobSpec(
            name="j",
            project=project,
            labels=labels,
            nodes=gang,
            options=(ResourceRequest(request, 700, GIB),),
            time_limit_us=limit_us,
            max_cost_nanos=max_cost,
            currency="USD" if max_cost else "",
            retry=retry,
            array=array,
            depends_on=depends,
            held=held,
            begin_after=self.engine.now() + begin_in_us if begin_in_us else 0,
        )
        self.key += 1
        try:
            events = jobs.submit(self.state, self.engine.ids, user=user, spec=spec, key=f"k{self.key}")
        except BursarError:
            return
        self.commit(events)
        if then_plan:
            self.cycle()

    @rule(
        pick=st.integers(0, 30),
        aim=st.sampled_from([Target(ppm=0), Target(ppm=1_250_001), Target(1_000_000_007), Target(3)]),
    )
    def correct(self, pick: int, aim: Target) -> None:
        """Finance says what an ended job is to pay."""
        rows = self.store.jobs(JobFilter(limit=50)).rows
        if not rows:
            return
        number = rows[pick % len(rows)].number
        found = standing(self.store.charges(ChargeFilter(kinds=("usage",), job_number=number)))
        try:
            events = corrections.correct(self.state, found, aim, "a test", self.engine.now())
        except BursarError:
            return
        self.commit(events)
        again = standing(self.store.charges(ChargeFilter(kinds=("usage",), job_number=number)))
        assert sum(one.nanos for one in again) == aim.of(sum(one.first_nanos for one in found))

    @rule(pick=st.integers(0, 30), grace_us=st.sampled_from([None, 0, SECOND_US]))
    def cancel(self, pick: int, grace_us: int | None) -> None:
        job = self.job_of(pick)
        if job is None:
            return
        before = job.state
        self.commit(jobs.cancel(self.state, job, grace_us))
        self.everybody_hears()
        self.enforce()
        if job.array is None:
            assert job.state.terminal or job.attempt is not None
            stop = job.attempt.stop_cause if job.attempt else EndCause.CANCELLED
            assert stop is EndCause.CANCELLED, f"cancel of a {before} job was lost to {stop}"

    @rule(pick=st.integers(0, 30), verb=st.sampled_from([jobs.hold, jobs.release, jobs.requeue]))
    def act(self, pick: int, verb: Callable[[State, JobRecord], list[Event]]) -> None:
        job = self.job_of(pick)
        if job is None:
            return
        try:
            events = verb(self.state, job)
        except BursarError:
            return
        self.commit(events)
        self.everybody_hears()

    @rule(
        pick=st.integers(0, 30),
        changes=st.sampled_from(
            [
                {"project": "ops"},
                {"project": "research/vision"},
                {"time_limit_us": 20 * HOUR_US},
                {"time_limit_us": HOUR_US // 4},
                {"max_cost_nanos": 300_000_007, "currency": "USD"},
                {"labels": (("team", "x"),)},
                {"priority": 90, "name": "k"},
            ]
        ),
    )
    def update(self, pick: int, changes: dict[str, object]) -> None:
        job = self.job_of(pick)
        if job is None:
            return
        try:
            events = jobs.update(self.state, job, changes, self.engine.now())
        except BursarError:
            return
        self.commit(events)

    @rule(pick=st.integers(0, 30))
    def take_limit(self, pick: int) -> None:
        """A member hears of another limit, and lives by it from now on."""
        waiting = [one for one in self.state.attempts.values() if one.unlimited()]
        if not waiting:
            return
        attempt = waiting[pick % len(waiting)]
        alloc = attempt.unlimited()[0].alloc
        machine = next(one for one in self.machines.values() if self.record(one).id == alloc.node_id)
        run = machine.runs.get(attempt.id)
        if run is None or run.ended_us or not machine.connected:
            return
        ran_us = self.boot_us(machine) - run.started_us
        limit_us = max(attempt.wanted_limit_us, ran_us) + attempt.grace_us + HOLD_MARGIN_US
        run.limit_us = min(run.limit_us, limit_us) if run.stopping else limit_us
        self.commit(limits.taken(attempt, alloc.rank, attempt.limit_order, ran_us))

    # --- operators

    @rule(
        name=st.sampled_from(BUDGETS),
        scope=st.sampled_from(SCOPES),
        cents=st.sampled_from([50, 400, 1_500, 9_000]),
        period=st.sampled_from(["day", "day", "week", "month", "one-time"]),
        zone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"]),
        enforcement=st.sampled_from(["hard", "hard", "soft"]),
        counts_from=st.sampled_from([None, None, 0, 3]),
        carry_over=st.sampled_from([None, None, "20%", "100%", "3 USD"]),
    )
    def apply_budget(
        self,
        name: str,
        scope: str,
        cents: int,
        period: str,
        zone: str,
        enforcement: str,
        counts_from: int | None,
        carry_over: str | None = None,
        hold: str = "worst-case",
    ) -> None:
        limit = f"{cents // 100}.{cents % 100:02d} USD"
        # So many hours ago, of the wall clock.
        hour = (self.engine.now() // HOUR_US - (counts_from or 0)) * HOUR_US
        since = "" if counts_from is None else f"  counts_from: {format_instant(hour)}\n"
        if carry_over is not None and period != "one-time":
            since += f"  carry_over: {carry_over}\n"
        if enforcement == "hard":
            since += f"  hold: {hold}\n"
        self.try_apply(
            f"kind: Budget\nname: {name}\nspec:\n  scope: {scope}\n  limit: {limit}\n  period: {period}\n"
            f"  timezone: {zone}\n  enforcement: {enforcement}\n{since}"
            "  thresholds: [{at: 50%, do: [notify]}, {at: 100%, do: [notify]}]\n"
        )

    def try_apply(self, text: str) -> None:
        try:
            self.apply(text)
        except BursarError:
            return

    @rule(
        name=st.sampled_from(BUDGETS),
        cents=st.sampled_from([50, 400, 1_500, 9_000]),
        wait_us=st.sampled_from([0, 0, 11 * HOUR_US]),
    )
    def change_limit(self, name: str, cents: int, wait_us: int) -> None:
        self.clock.advance(wait_us)  # perhaps into the next period, which nobody has rolled to
        self.enforce()
        document = self.state.policies.get(("Budget", name))
        if document is None:
            return
        lines = document.text.splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("  limit:"))
        lines[at] = f"  limit: {cents // 100}.{cents % 100:02d} USD"
        self.try_apply("\n".join(lines) + "\n")

    @rule(
        name=st.sampled_from(BUDGETS),
        to=st.sampled_from([None, None, *BUDGETS]),
        cents=st.sampled_from([30, 500, -30, 2_000]),
        key=st.sampled_from(["", "", "k1", "k2"]),
    )
    def give(self, name: str, to: str | None, cents: int, key: str) -> None:
        """Finance grants a budget more, takes a grant back, or lets another budget have it."""
        self.roll()
        nanos = cents * 10**7
        try:
            if to is None:
                self.commit([*giving.grant(self.state, name, nanos, "fin", "a test", key)])
            else:
                self.commit([*giving.transfer(self.state, name, to, nanos, "fin", "a test", key)])
        except BursarError:
            return

    @rule(name=st.sampled_from(BUDGETS))
    def remove_budget(self, name: str) -> None:
        if ("Budget", name) not in self.state.policies:
            return
        self.commit(policies.remove(self.state, "Budget", name))

    @rule(capex=st.sampled_from([100_003, 250_001, 60_000, None]))
    def change_price(self, capex: int | None) -> None:
        if capex:
            self.apply(cost_model(capex))
        elif ("CostModel", "p") in self.state.policies:
            self.commit(policies.remove(self.state, "CostModel", "p"))
            self.commit(nodes.reprice(self.state, self.engine.prices, self.engine.now()))
        self.nodes_have_the_price_in_force()

    def nodes_have_the_price_in_force(self) -> None:
        in_force = self.state.policies.get(("CostModel", "p"))
        if in_force and in_force.effective_at > self.engine.now():
            return  # the wall clock was set back to before it was applied
        for node in self.state.nodes.values():
            version = f"costmodel/p@{in_force.version}" if in_force else ""
            assert node.price_id == version, f"{node.price_id!r} instead of {version!r}"

    @rule(strategy=st.sampled_from(["pack", "spread", None]), name=st.sampled_from(["x", "y"]))
    def change_strategy(self, strategy: str | None, name: str) -> None:
        if strategy:
            self.apply(f"kind: PlacementPolicy\nname: {name}\nspec:\n  strategy: {strategy}\n")
        elif ("PlacementPolicy", name) in self.state.policies:
            self.commit(policies.remove(self.state, "PlacementPolicy", name))

    @rule(name=st.sampled_from(NODES), mode=st.sampled_from(["open", "open", "cordon", "drain"]))
    def schedule_node(self, name: str, mode: str) -> None:
        self.commit(nodes.scheduling(self.record(self.machines[name]), mode, ""))

    @rule()
    def restart_from_a_snapshot(self) -> None:
        """bursard stops and starts again on what it kept."""
        data = state_image.encode(self.state, self.engine.now())
        live = self.state
        again = state_image.decode(data, LIMITS)
        self.engine = self.new_engine(again)
        self.compare(live, again)

    # --- agents

    def meter_in_order(self, machine: Machine) -> None:
        if machine.connected:
            self.report_starts(machine)
            self.report_exits(machine)
            self.send_usage(machine)

    @rule(name=st.sampled_from(NODES))
    def meter_out_of_order(self, name: str) -> None:
        """Usage arrives before what began or ended in its time."""
        machine = self.machines[name]
        if machine.connected:
            machine.late |= any(not run.started_reported or run.ended_us for run in machine.runs.values())
            self.send_usage(machine)

    @rule(name=st.sampled_from(NODES))
    def repeat_a_report(self, name: str) -> None:
        """An old report comes again: it changes nothing."""
        machine = self.machines[name]
        node = self.record(machine)
        stale = [(attempt_id, rank, 1) for attempt_id, rank in node.live.items()]
        boot_us = node.through - node.anchor_at + node.anchor_boot_us
        assert nodes.usage(self.state, node, boot_id=node.boot_id, at_boot_us=boot_us, counters=stale) == []

    @rule(
        pick=st.integers(0, 9),
        cause=st.sampled_from([EndCause.COMPLETED, EndCause.COMPLETED, EndCause.FAILED]),
        tell=st.booleans(),
    )
    def member_exits(self, pick: int, cause: EndCause, tell: bool) -> None:
        found = [
            (machine, run)
            for machine in self.machines.values()
            for run in machine.runs.values()
            if not run.ended_us
        ]
        if not found:
            return
        machine, run = found[pick % len(found)]
        run.ended_us = max(self.boot_us(machine), run.started_us + 1)
        run.cause = run.cause if run.stopping else cause
        if tell and machine.connected and run.ended_us <= self.boot_us(machine):
            self.report_exits(machine)

    @rule(name=st.sampled_from(NODES))
    def contact_is_lost_or_found(self, name: str) -> None:
        machine = self.machines[name]
        machine.connected = not machine.connected
        if machine.connected:
            self.hello(machine)
        else:
            self.commit(nodes.silent(self.state, self.record(machine)))

    @rule(name=st.sampled_from(NODES), tell=st.booleans())
    def reboot(self, name: str, tell: bool) -> None:
        machine = self.machines[name]
        if tell and machine.connected:
            self.report_starts(machine)
            self.report_exits(machine)
        machine.boot += 1
        machine.boot_offset_us = self.clock.boot_us() - 17 * SECOND_US
        machine.runs = {}
        machine.connected = True
        self.hello(machine)
        self.everybody_hears()

    @rule(name=st.sampled_from(NODES))
    def confirm_dead(self, name: str) -> None:
        machine = self.machines[name]
        if machine.connected:
            return
        machine.runs = {}
        self.commit(nodes.confirm_dead(self.state, self.record(machine)))
        self.everybody_hears()
