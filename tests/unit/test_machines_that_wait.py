"""A rented machine waits for others of its gang, so long and no longer; and who pays for its coming up."""

from __future__ import annotations

from pathlib import Path

from rented_site import CLOUD, LARGE, POOL, Site

from bursar.clock import SECOND_US
from bursard.access.identity import Identity, Role
from bursard.events import MachineIntended, MachineJoined
from bursard.fleet.testing import FACTS
from bursard.services.clouds import machine_view
from bursard.state import JobRecord, State
from bursard.state.decide import jobs

WIDE = POOL.replace("machines: 2", "machines: 9").replace("keep_alive: 1m", "keep_alive: 10s")
HASTY = WIDE.replace("boot_timeout: 2m", "boot_timeout: 40s")
BUDGET = "kind: Budget\nname: b\nspec: {scope: {project: p}, limit: %s USD}\n"


class Slow(Site):
    """Agents say hello only so many seconds after the others would: by the order in which they start."""

    late: tuple[int, ...] = ()

    def hello(self) -> None:
        names = list(dict.fromkeys([*self.runs.numbers]))
        kept = {}
        for name in list(self.runs.joins):
            place = names.index(name)
            late = self.late[place] if place < len(self.late) else 0
            node = self.world.state.node_by_name(name)
            if node is None or self.world.engine.now() - node.axis_start < (5 + late) * SECOND_US:
                kept[name] = self.runs.joins.pop(name)
        super().hello()
        self.runs.joins |= kept

    def seconds(self, count: int) -> None:
        for _ in range(count):
            self.second()

    def paid(self, job: JobRecord) -> dict[str, int]:
        """By node, what a job paid for its coming up."""
        mine = [row for row in self.rows() if row.kind == "startup" and row.job_id == job.id]
        return {row.node_id: row.nanos for row in mine}

    def finish(self, job: JobRecord) -> None:
        assert job.attempt is not None
        for member in list(job.attempt.members):
            self.world.backend.finish(job.attempt.id, member.alloc.rank)


def gang(site: Site, nodes: int = 2) -> JobRecord:
    return site.world.submit(options=LARGE, nodes=nodes)


def intents(site: Site) -> int:
    return sum(isinstance(one, MachineIntended) for one in site.world.events)


def nodes_of(state: State, job: JobRecord) -> set[str]:
    assert job.attempt is not None
    return {member.alloc.node_id for member in job.attempt.members}


def test_a_machine_is_kept_while_one_that_never_came_is_rented_again(tmp_path: Path) -> None:
    """Its other machine is given up after forty seconds, four times as long as one is kept alive."""
    site = Slow(tmp_path, HASTY, CLOUD)
    site.late = (0, 3_600)
    job = gang(site)
    site.seconds(60)
    first = next(one for one in site.machines if one.node_id)
    site.seconds(30)
    assert job.attempt is not None
    assert first.node_id in nodes_of(site.world.state, job)
    assert intents(site) == 3
    assert set(site.paid(job)) == nodes_of(site.world.state, job)


def test_it_waits_for_so_long_and_no_longer_and_says_so(tmp_path: Path) -> None:
    """None of the others ever comes: after two boot timeouts it is idle as any other."""
    site = Slow(tmp_path, HASTY, CLOUD)
    site.late = (0, *(3_600,) * 9)
    job = gang(site)
    site.seconds(40)
    (first,) = [one for one in site.machines if one.node_id]
    said = machine_view(site.world.state, first, Identity("ann", Role.ADMIN), site.world.engine.now())
    assert said.reason == "waits for the other machines of job 1, for 1m20s at most"
    told = site.renting.reason(job.id)
    assert told is not None
    assert told.message.endswith("; 1 of its machines waits for that, 1m20s at most")
    site.seconds(100)
    ended = {one.machine_id: one.reason for one in site.gone()}
    assert ended[first.id] == "idle for 10s, after 1m20s for the other machines of job 1"
    assert site.paid(job) == {}, "it never ran there"
    assert job.settled_nanos == 0


def test_nothing_else_starts_on_it_before_its_gang_does(tmp_path: Path) -> None:
    site = Slow(tmp_path, WIDE, CLOUD)
    site.late = (0, 60)
    job = gang(site)
    site.seconds(40)
    small = site.world.submit(options=LARGE)
    site.seconds(20)
    assert small.attempt is None
    assert intents(site) == 3, "it gets a machine of its own"
    site.seconds(40)
    assert job.attempt is not None
    assert intents(site) == 3


def test_with_the_end_of_its_job_it_is_there_for_everybody(tmp_path: Path) -> None:
    site = Slow(tmp_path, WIDE, CLOUD)
    site.late = (0, 60)
    job = gang(site)
    site.seconds(36)
    small = site.world.submit(options=LARGE)
    site.world.engine.commit(jobs.cancel(site.world.state, job, 0), "ann")
    site.seconds(2)
    assert small.attempt is not None
    assert site.paid(small) == {}, "it came up for another job"
    assert intents(site) == 2
    kinds = {row.kind for row in site.rows() if row.node_id in nodes_of(site.world.state, small)}
    assert "startup" not in kinds


def test_two_jobs_that_get_each_others_machine_pay_for_the_one_that_they_run_on(tmp_path: Path) -> None:
    """The second one's machine is there first, and the first job takes it."""
    site = Slow(tmp_path, WIDE, CLOUD)
    site.world.apply(BUDGET % 100)
    site.late = (30, 0)
    one, two = site.large(), site.large()
    site.seconds(34)
    first, second = (machine.id for machine in site.machines)
    assert one.attempt is not None
    assert site.machine_of(site.machines[1].name).job_id == one.id
    assert site.machines[0].job_id == two.id
    site.seconds(40)
    state = site.world.state
    assert two.attempt is not None
    assert set(site.paid(one)) == nodes_of(state, one)
    assert set(site.paid(two)) == nodes_of(state, two)
    assert {first, second} == {row.attempt_id for row in site.rows() if row.kind == "startup"}
    period = state.budgets.records["b"].period_start
    runs = sum(attempt.holds[0].nanos - attempt.settled_nanos for attempt in state.live_attempts())
    assert state.ledger.held("b", period) == runs, "nothing is held for a launch any more"


def test_a_job_that_runs_elsewhere_in_the_end_pays_for_no_machine(tmp_path: Path) -> None:
    site = Slow(tmp_path, WIDE, CLOUD)
    site.world.apply(BUDGET % 100)
    job = site.large()
    site.seconds(5)
    site.world.backend.connect(FACTS)
    site.seconds(60)
    assert job.attempt is not None
    assert nodes_of(site.world.state, job) == {site.world.node().id}
    assert site.paid(job) == {}
    assert site.gone()[0].reason == "idle for 10s"
    ledger, period = site.world.state.ledger, site.world.state.budgets.records["b"].period_start
    assert ledger.held("b", period) == job.attempt.holds[0].nanos - job.attempt.settled_nanos


def test_a_daemon_that_starts_again_knows_who_waits_and_what_is_not_paid_yet(tmp_path: Path) -> None:
    site = Slow(tmp_path, WIDE, CLOUD)
    site.world.apply(BUDGET % 100)
    site.late = (0, 60)
    job = gang(site)
    site.seconds(40)
    site.die(2)
    site.seconds(70)
    job = site.world.state.jobs[job.id]
    assert job.attempt is not None
    assert intents(site) == 2
    assert set(site.paid(job)) == nodes_of(site.world.state, job)


def test_a_log_of_before_launches_were_pending_reads_as_it_did(tmp_path: Path) -> None:
    """There the job paid with the agent's first word, and all that was held stayed so while others came."""
    site = Slow(tmp_path, WIDE, CLOUD)
    site.world.apply(BUDGET % 100)
    site.late = (3_600, 3_600)
    job = gang(site)
    site.seconds(30)
    state = site.world.state
    machine = site.machines[0]
    node = state.node_by_name(machine.name)
    assert node is not None
    through = site.world.engine.now()
    period = state.budgets.records["b"].period_start
    held = state.ledger.held("b", period)
    site.world.engine.commit([MachineJoined(machine.id, node.id, through, (), keeps=True)], "old")
    assert (machine.node_id, machine.holding, machine.launch, node.through) == (node.id, True, (), through)
    assert state.ledger.held("b", period) == held
    site.world.engine.commit([MachineJoined(machine.id, node.id)], "old")
    assert not machine.holding
    assert state.ledger.held("b", period) == held // 2
    assert job.attempt is None
