"""`bursar sim` as a user meets it: files in, a summary out, and numbers that can be worked out by hand."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from bursar.cli.main import run as bursar
from bursar.errors import InvalidRequest
from bursar.model import DeviceShare, MemberAllocation, ShareRates
from bursard.events import AttemptPlaced
from bursard.scheduler.quotas import Tenancy
from bursard.sim import csvfile, rows
from bursard.sim.checks import node_cost
from bursard.sim.simulation import START_AT, Simulation
from bursard.state.quotas import QuotaTable

NODES = "node_id,cpu_milli,memory_mib,gpus,gpu_type,price_per_hour\n" + (
    "n1,8000,1000,4,A100,8\nn2,8000,1000,4,V100,4\n"
)
HOUR_US = 3_600_000_000


class Sim:
    """Writes files and runs the command."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    def raw(self, jobs: str, *flags: str, nodes: str = NODES) -> tuple[int, str, str]:
        files = ("--jobs", self.write("jobs.csv", jobs), "--nodes", self.write("nodes.csv", nodes))
        code = bursar(["sim", *files, "--out-jobs", str(self.folder / "out.csv"), *flags])
        found = self.capsys.readouterr()
        return code, found.out, found.err

    def __call__(self, jobs: str, *flags: str, nodes: str = NODES) -> tuple[Any, dict[str, dict[str, str]]]:
        code, out, err = self.raw(jobs, "-o", "json", *flags, nodes=nodes)
        assert code == 0, err
        summary = json.loads(out)
        assert summary["violations"] == 0
        lines = csv.DictReader(io.StringIO((self.folder / "out.csv").read_text()))
        return summary, {row["job_id"]: row for row in lines}

    def policy(self, text: str) -> tuple[str, str]:
        self.write("policies/p.yaml", text)
        return ("--policies", str(self.folder / "policies"))


@pytest.fixture
def sim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Sim:
    return Sim(tmp_path, capsys)


def budget(limit: int, period: str = "one-time") -> str:
    return (
        f"kind: Budget\nname: b\nspec:\n  scope: {{project: x}}\n  limit: {limit} USD\n  period: {period}\n"
    )


# ------------------------------------------------------------------ what comes out


def test_the_summary_has_every_key_of_the_contract(sim):
    summary, _ = sim("job_id,submit_s,duration_s,gpus\na,0,60,1\n")
    assert set(summary) >= {
        "jobs", "jct_s", "wait_s", "makespan_s", "gpu", "cost", "deadlines", "preemptions", "budgets",
        "scheduler", "violations",
    }  # fmt: skip
    assert set(summary["jobs"]) >= {"submitted", "finished", "failed", "pending", "never_fit"}
    assert set(summary["jct_s"]) == set(summary["wait_s"]) == {"mean", "p50", "p90", "p99"}
    assert set(summary["gpu"]) == {"capacity_h", "allocated_h", "allocation_ratio", "peak_allocation_ratio"}
    money = {"total", "on_demand", "spot", "owned", "idle", "absorption", "wasted_on_preemption"}
    assert all(set(summary["cost"][key]) == {"amount", "currency"} for key in money)
    assert set(summary["scheduler"]) == {"cycles", "decisions", "cpu_s", "cycle_ms"}


def test_the_cost_of_nodes_is_jobs_plus_idle_to_the_nano(sim):
    jobs = "job_id,submit_s,duration_s,gpus,cpu_milli\na,0,3600,4,8000\nb,0,1234.567891,1,333\n"
    summary, out = sim(jobs)
    assert summary["cost"]["total"]["amount"] == "12.000000000"  # one hour of both nodes
    nanos = [int(out[job]["cost"].replace(".", "")) for job in ("a", "b")]
    idle = int(summary["cost"]["idle"]["amount"].replace(".", ""))
    assert sum(nanos) + idle == 12_000_000_000
    assert summary["gpu"]["capacity_h"] == 8.0


def test_an_unknown_price_is_unknown_and_not_nothing(sim):
    summary, out = sim(
        "job_id,submit_s,duration_s\na,0,60\n", nodes="node_id,cpu_milli,memory_mib\nn,1000,1\n"
    )
    assert summary["cost"]["total"] == {"amount": None, "currency": "USD"}
    assert out["a"]["cost"] == ""


def test_a_pool_is_priced_by_its_cost_model(sim):
    model = (
        "kind: CostModel\nname: m\nspec:\n"
        "  {pool: p, node_capex: 87600 USD, useful_life: 1y, practical_capacity: 100%}\n"
    )
    nodes = "node_id,cpu_milli,memory_mib,pool\nn,1000,0,p\n"
    summary, out = sim(
        "job_id,submit_s,duration_s,cpu_milli\na,0,3600,1000\n", *sim.policy(model), nodes=nodes
    )
    assert out["a"]["cost"] == summary["cost"]["owned"]["amount"] == "10.000000000"


def test_what_a_job_pays_beyond_its_share_of_the_nodes_cost_is_absorption(sim):
    model = (
        "kind: CostModel\nname: {}\n{}spec:\n"
        "  {{pool: p, node_capex: {} USD, useful_life: 1y, practical_capacity: 100%}}\n"
    )
    at = "effective_at: 2026-01-01T00:30:00Z\n"
    policies = [*sim.policy(model.format("a", "", 87600) + "---\n" + model.format("b", at, 175200))]
    nodes = "node_id,cpu_milli,memory_mib,pool\nn,1000,0,p\n"
    summary, out = sim("job_id,submit_s,duration_s,cpu_milli\na,0,3600,1000\n", *policies, nodes=nodes)
    # Half an hour at 10 and half at 20 USD/h; the job keeps the 10 at which it was placed.
    assert out["a"]["cost"] == "10.000000000"
    assert summary["cost"]["total"]["amount"] == "15.000000000"
    assert summary["cost"]["absorption"]["amount"] == "-5.000000000"
    assert summary["cost"]["idle"]["amount"] == "0.000000000"
    summary, _ = sim("job_id,submit_s,duration_s,cpu_milli\na,0,1800,1000\n", *policies, nodes=nodes)
    assert summary["cost"]["absorption"] == {"amount": "0.000000000", "currency": "USD"}


def test_the_same_input_gives_the_same_bytes(sim):
    jobs = "job_id,submit_s,duration_s,gpus,gpu_milli\n" + "".join(
        f"j{i},{i * 7},{100 + i * 31 % 900},{1 + i % 2},{1000 if i % 2 else 300}\n" for i in range(60)
    )
    first = (*sim.raw(jobs, "-o", "json"), (sim.folder / "out.csv").read_bytes())
    assert first == (*sim.raw(jobs, "-o", "json"), (sim.folder / "out.csv").read_bytes())
    assert '"cpu_s": null' in first[1]
    assert json.loads(sim.raw(jobs, "-o", "json", "--timing")[1])["scheduler"]["cycle_ms"]["max"] > 0


# ------------------------------------------------------------------ what happens


def test_jobs_wait_their_turn(sim):
    summary, out = sim("job_id,submit_s,duration_s,gpus,gpu_type\na,0,100,4,A100\nb,10,100,4,A100\n")
    assert (out["b"]["start_s"], out["b"]["end_s"], out["b"]["nodes"]) == ("100", "200", "n1")
    assert summary["wait_s"]["mean"] == 45.0
    assert summary["jct_s"]["mean"] == 145.0
    assert summary["makespan_s"] == 200


def test_dropped_jobs_do_not_wait(sim):
    summary, out = sim(
        "job_id,submit_s,duration_s,gpus\na,0,100,4\nb,0,100,4\nc,0,100,1\n", "--drop-unplaced"
    )
    assert [out[job]["state"] for job in "abc"] == ["SUCCEEDED", "SUCCEEDED", "DROPPED"]
    assert summary["jobs"]["dropped"] == 1
    assert summary["gpu"]["peak_allocation_ratio"] == 1.0


def test_fractions_share_a_device(sim):
    nodes = "node_id,cpu_milli,memory_mib,gpus\nn,0,0,1\n"
    jobs = "job_id,submit_s,gpus,gpu_milli\na,0,1,400\nb,0,1,600\nc,0,1,1\n"
    summary, out = sim(jobs, "--until", "60", nodes=nodes)
    assert [out[job]["state"] for job in "abc"] == ["RUNNING", "RUNNING", "PENDING"]
    assert summary["gpu"]["allocation_ratio"] == 1.0


def test_the_end_is_what_until_says_while_something_runs(sim):
    summary, out = sim("job_id,submit_s,gpus\na,0,4\nlate,9999,1\n", "--until", "1800")
    assert summary["end_s"] == 1800
    assert summary["gpu"]["allocated_h"] == 2.0
    assert out["late"]["state"] == "NOT_SUBMITTED"
    assert summary["jobs"] == {**summary["jobs"], "submitted": 1, "running": 1}


def test_a_job_that_fits_nowhere_is_told_apart_from_one_that_waits(sim):
    summary, _ = sim("job_id,submit_s,gpus,nodes\nhuge,0,5,1\nwide,0,1,3\nruns,0,4,2\nwaits,1,1,1\n")
    assert summary["jobs"] == {**summary["jobs"], "never_fit": 2, "pending": 1, "running": 1}


def test_speed_depends_on_the_gpu_it_gets(sim):
    jobs = "job_id,submit_s,duration_s,gpus,gpu_type,throughput\n" + (
        "a,0,100,1,A100,A100=2.5;V100=1\nv,0,100,1,V100|K80,A100=2.5\n"
    )
    _, out = sim(jobs)
    assert (out["a"]["end_s"], out["v"]["end_s"]) == ("40", "100")


def test_speed_may_depend_on_how_many_gpus_there_are_in_all(sim):
    jobs = "job_id,submit_s,duration_s,nodes,gpus,gpu_type,throughput\n" + (
        "one,0,120,1,1,A100,A100=2;A100x4=6\nfour,1000,120,1,4,A100,A100=2;A100x4=6\n"
        "two,2000,120,1,2,A100,A100=2;A100x4=6\nold,3000,120,1,1,V100,gtx1080=3;V100=4\n"
    )
    _, out = sim(jobs)
    assert [out[name]["end_s"] for name in ("one", "four", "two", "old")] == ["60", "1020", "2060", "3030"]


def test_an_attempt_after_a_stop_works_only_once_it_has_restarted(sim):
    """`low` has saved its 90 s when it is stopped; at 590 it restarts for 25 s and works for 10 more. A node
    that leaves at 605, before it has worked, takes nothing with it but the restart.
    """
    jobs = "job_id,submit_s,duration_s,time_limit_s,gpus,priority,checkpoint_s,restart_s\n" + (
        "low,0,100,4000,4,50,30,25\nhigh,90,500,500,4,80,,25\n"
    )
    stops = sim.policy(PRIORITY % "preempt: {gap: 20, restart: 30s}")
    _, found = sim(jobs, *stops, nodes=ONE_NODE)
    assert (found["high"]["end_s"], found["low"]["end_s"], found["low"]["attempts"]) == ("590", "625", "2")
    nodes = ONE_NODE.replace("price_per_hour", "price_per_hour,available_until_s,available_from_s")
    first, rest = nodes.splitlines()[1], ",605,0"
    leaves = f"{nodes.splitlines()[0]}\n{first}{rest}\n{first.replace(first.split(',')[0], 'later')},,700\n"
    _, found = sim(jobs, *stops, nodes=leaves)
    assert (found["low"]["end_s"], found["low"]["attempts"]) == ("735", "3")


def test_limits_of_time_and_money_end_a_job(sim):
    jobs = "job_id,submit_s,duration_s,time_limit_s,max_cost,gpus\n" + (
        "t,0,100,60,,1\nm,0,100000,,1,4\nlong,0,900000,,,1\n"
    )
    _, out = sim(jobs)
    assert (out["t"]["state"], out["t"]["end_s"]) == ("FAILED", "60")
    assert out["m"]["state"] == "FAILED"
    assert 0.9 < float(out["m"]["cost"]) <= 1
    assert out["long"]["state"] == "SUCCEEDED"


def test_a_node_that_leaves_takes_unsaved_work_with_it(sim):
    nodes = (
        "node_id,cpu_milli,memory_mib,gpus,price_per_hour,available_from_s,available_until_s\n"
        "n1,1000,0,1,3600,0,95\nn2,1000,0,1,3600,200,\n"
    )
    jobs = "job_id,submit_s,duration_s,gpus,cpu_milli,checkpoint_s\na,0,100,1,1000,30\n"
    summary, out = sim(jobs, nodes=nodes)
    assert (out["a"]["attempts"], out["a"]["end_s"], out["a"]["nodes"]) == (
        "2",
        "210",
        "n2",
    )  # 90 s were saved
    assert summary["preemptions"] == 1
    assert summary["cost"]["wasted_on_preemption"]["amount"] == "5.000000000"
    # Each component of a part of an hour is rounded down by itself.
    assert summary["cost"]["total"]["amount"] == "104.999999999"


def test_a_gang_that_loses_one_node_starts_again_as_one(sim):
    nodes = "node_id,cpu_milli,memory_mib,gpus,available_until_s\nn1,0,0,1,50\nn2,0,0,1,\nn3,0,0,1,\n"
    summary, out = sim("job_id,submit_s,duration_s,gpus,nodes\na,0,100,1,2\n", nodes=nodes)
    assert out["a"]["state"] == "SUCCEEDED"
    assert (out["a"]["end_s"], out["a"]["attempts"]) in (("150", "2"), ("100", "1"))
    assert summary["gpu"]["allocated_h"] == pytest.approx(int(out["a"]["end_s"]) * 2 / 3600, abs=1e-5)


def test_deadlines_are_counted(sim):
    jobs = "job_id,submit_s,duration_s,gpus,gpu_type,deadline_s\n" + (
        "a,0,100,4,A100,100\nb,0,100,4,A100,199\nc,0,,9,,500\n"
    )
    assert sim(jobs)[0]["deadlines"] == {"met": 1, "missed": 2}


# ------------------------------------------------------------------ money that is limited


def test_a_hard_budget_is_never_passed(sim):
    jobs = "job_id,submit_s,duration_s,time_limit_s,gpus,project\n" + "".join(
        f"j{i},{i},3000,3600,4,{'x' if i % 3 else 'y'}\n" for i in range(30)
    )
    summary, _ = sim(jobs, *sim.policy(budget(40)))
    (found,) = summary["budgets"]
    settled, peak = (float(found[key]["amount"]) for key in ("settled", "peak_settled_plus_held"))
    assert 0 < settled <= peak <= 40
    assert summary["jobs"]["pending"] > 0  # out of money, and it never renews


def test_a_budget_that_renews_lets_jobs_go_on(sim):
    jobs = "job_id,submit_s,duration_s,time_limit_s,gpus,gpu_type,project\n" + "".join(
        f"j{i},0,3600,3600,4,A100,x\n" for i in range(6)
    )
    summary, out = sim(jobs, *sim.policy(budget(15, "day")))
    days = [int(row["start_s"]) // 86_400 for row in out.values()]
    assert days == [0, 0, 1, 1, 2, 2]
    assert float(summary["budgets"][0]["peak_settled_plus_held"]["amount"]) <= 15


def test_a_budget_that_stops_what_runs_stops_it_and_lets_nothing_more_start(sim):
    jobs = "job_id,submit_s,duration_s,time_limit_s,gpus,gpu_type,project\n" + (
        "a,0,3000,3600,1,A100,x\nb,600,3000,3600,1,A100,x\nc,700,100,3600,1,A100,y\n"
    )
    staged = "  thresholds: [{at: 1%, on: settled+held, do: [checkpoint-stop]}]\n"
    summary, out = sim(jobs, *sim.policy(budget(100) + staged))
    assert [out[job]["state"] for job in "abc"] == ["FAILED", "PENDING", "SUCCEEDED"]
    assert out["a"]["end_s"] == "600"
    assert summary["violations"] == 0


def test_what_a_budget_can_never_pay_is_refused_at_once(sim):
    summary, out = sim("job_id,submit_s,duration_s,gpus,project\na,0,7200,4,x\n", *sim.policy(budget(1)))
    assert out["a"]["state"] == "REFUSED"
    assert summary["jobs"]["refused"] == 1


def test_a_job_without_money_does_not_keep_the_simulation_going_for_ever(sim):
    jobs = "job_id,submit_s,duration_s,time_limit_s,gpus,project\na,0,60,60,4,x\nb,0,60,86000,4,x\n"
    summary, _ = sim(jobs, *sim.policy(budget(50, "day")), nodes=NODES.replace("n2", "n0"))
    assert summary["jobs"]["finished"] + summary["jobs"]["pending"] + summary["jobs"]["refused"] == 2


def test_a_placement_policy_is_chosen_by_name(sim):
    jobs = "job_id,submit_s,gpus\na,0,1\nb,0,1\n"
    nodes = "node_id,cpu_milli,memory_mib,gpus\nn1,0,0,4\nn2,0,0,4\n"
    for name, used in (("pack", 1), ("spread", 2), ("default", 1)):
        _, out = sim(jobs, "--policy", name, nodes=nodes)
        assert len({row["nodes"] for row in out.values()}) == used, name
    code, _, err = sim.raw(jobs, "--policy", "spraed")
    assert code == 2
    assert "'spread'" in err


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ("job_id,submit_s,gpu\na,0,1\n", ("jobs.csv:1:3", "'gpu'", "did you mean 'gpus'")),
        ("job_id,duration_s\na,0\n", ("submit_s", "missing")),
        ("job_id,submit_s,gpus\na,0,-1\nb,x,1\n", ("jobs.csv:2:3", "jobs.csv:3:2", "not a number")),
        ("job_id,submit_s\na,0\na,1\n", ("jobs.csv:3:1", "twice")),
        ("job_id,submit_s\na,nan\n", ("not a number",)),
        ("job_id,submit_s\na,1e30\n", ("out of range",)),
        ("job_id,submit_s\na,0,7\n", ("jobs.csv:2", "3 cells")),
        ("job_id,submit_s,gpus,gpu_milli\na,0,2,500\n", ("needs gpus=1",)),
        ("job_id,submit_s,throughput\na,0,A100:2\n", ("TYPE=SPEED",)),
        ("job_id,submit_s,throughput\na,0,A100x4=0\n", ("TYPE=SPEED", "A100x4=3.1")),
        ("job_id,submit_s,restart_s\na,0,-1\n", ("jobs.csv:2:3",)),
        ("job_id,submit_s,deadline_s\na,10,5\n", ("before submit_s",)),
        ("job_id,submit_s,max_cost\na,0,1e-12\n", ("decimal places",)),
        ('job_id,submit_s\n"a,0\n', ("not CSV",)),
        ("", ("empty",)),
    ],
)
def test_a_wrong_file_is_refused_with_place_and_reason(sim, jobs, words):
    code, out, err = sim.raw(jobs)
    assert (code, out) == (2, "")
    for word in words:
        assert word in err


def test_gzip_is_known_by_its_bytes(tmp_path):
    path = tmp_path / "jobs.csv"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbfjob_id,submit_s\r\na,1.5\r\n"))
    assert rows.read_jobs(str(path))[0].submit_us == 1_500_000
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InvalidRequest, match="gzip"):
        csvfile.read_bytes(str(path))


# ------------------------------------------------------------------ the checks can fail


def test_the_checks_see_what_they_are_there_for(tmp_path):
    path = tmp_path / "n.csv"
    path.write_text("node_id,cpu_milli,memory_mib,gpus,price_per_hour\nn,1000,1,1,1\n")
    simulation = Simulation([], rows.read_nodes(str(path)))
    simulation._join(rows.read_nodes(str(path))[0])
    node = next(iter(simulation.state.nodes.values()))
    alloc = MemberAllocation(
        rank=0,
        node_id=node.id,
        devices=(DeviceShare(0, 600),),
        cpu_milli=1,
        memory_bytes=1,
        rates=ShareRates(),
        price_id="",
    )
    for number in (1, 2):
        event = AttemptPlaced(
            attempt_id=f"att_{number}",
            job_id="job_1",
            number=number,
            option=0,
            members=(alloc,),
            time_limit_us=1,
            grace_us=1,
            holds=(),
            currency="USD",
        )
        simulation.checks.after(event, ())
    node.through += HOUR_US
    simulation.checks.node_hours(node, priced_once=True)
    assert [sentence[:2] for sentence in simulation.checks.found] == ["J4", "R1", "L8"]


def test_the_cost_of_a_node_is_cut_at_full_hours():
    rates = ShareRates(7_000_000_001, 3, 1)
    assert node_cost(rates, START_AT, START_AT + 5 * HOUR_US) == 5 * rates.total
    assert node_cost(rates, START_AT + 1, START_AT + 1) == 0


PRIORITY = "kind: PriorityPolicy\nname: p\nspec: {%s}\n"
QUEUED = "job_id,submit_s,duration_s,time_limit_s,gpus,project\n" + (
    "first,0,100,100,4,a\nlong,1,1000,1000,4,a\nshort,2,10,10,4,b\nlater,3,500,500,4,b\n"
)
ONE_NODE = "node_id,cpu_milli,memory_mib,gpus,gpu_type,price_per_hour\nn1,8000,1000,4,A100,8\n"


@pytest.mark.parametrize(
    ("spec", "starts"),
    [
        ("", {"long": 100, "short": 1100, "later": 1110}),
        ("weights: {run_time: 1}", {"short": 100, "later": 110, "long": 610}),
        ("weights: {run_time: 1}, max_wait: 105s", {"short": 100, "long": 110, "later": 1110}),
        ("weights: {fair_share: 1}", {"short": 100, "later": 110, "long": 610}),
    ],
)
def test_a_priority_policy_orders_the_queue_of_a_simulation(sim, spec, starts):
    flags = sim.policy(PRIORITY % spec) if spec else ()
    _, found = sim(QUEUED, *flags, nodes=ONE_NODE)
    assert {name: int(float(found[name]["start_s"])) for name in starts} == starts


def test_a_job_of_higher_priority_has_another_stopped_whose_unsaved_work_is_done_again(sim):
    """Eight dollars an hour; `low` has saved 60 of its 90 s when `high` comes, and is done 40 s after it."""
    jobs = "job_id,submit_s,duration_s,time_limit_s,gpus,priority,preemptible,checkpoint_s\n" + (
        "low,0,100,4000,4,50,%d,30\nhigh,90,500,500,4,80,1,\n"
    )
    stops = sim.policy(PRIORITY % "preempt: {gap: 20, restart: 30s}")
    summary, found = sim(jobs % 1, *stops, nodes=ONE_NODE)
    assert (found["high"]["start_s"], found["high"]["end_s"]) == ("90", "590")
    assert (found["low"]["attempts"], found["low"]["end_s"], found["low"]["state"]) == (
        "2",
        "600",
        "SUCCEEDED",
    )
    assert summary["preemptions"] == 1
    _, kept = sim(jobs % 0, *stops, nodes=ONE_NODE)
    assert (kept["low"]["attempts"], kept["high"]["start_s"]) == ("1", "100")
    _, apart = sim(jobs % 1, *sim.policy(PRIORITY % "preempt: {gap: 31}"), nodes=ONE_NODE)
    assert (apart["low"]["attempts"], apart["high"]["start_s"]) == ("1", "100")


def test_a_policy_keeps_room_for_short_jobs_in_a_simulation(sim):
    """Two long jobs of two GPUs: the second waits until it leaves one of four, or has waited for too long."""
    jobs = "job_id,submit_s,duration_s,time_limit_s,gpus\none,0,300,300,2\ntwo,1,300,300,2\nbrief,2,10,10,2\n"
    keeps = "max_wait: %ds, short_jobs: {limit: 60s, keep: 25%%}"
    for max_wait_s, starts in ((1_000, (0, 300, 2)), (100, (0, 101, 2))):
        _, found = sim(jobs, *sim.policy(PRIORITY % (keeps % max_wait_s)), nodes=ONE_NODE)
        assert tuple(int(float(found[name]["start_s"])) for name in ("one", "two", "brief")) == starts


def test_a_shorter_job_that_comes_later_goes_into_the_gap_that_its_elders_cannot(sim):
    """It asks for what they ask for, and ends before the claim begins."""
    jobs = "job_id,submit_s,duration_s,time_limit_s,gpus\nholds,0,100,100,3\nclaim,1,50,50,4\n" + (
        "long,2,400,400,1\nshort,3,40,40,1\n"
    )
    _, found = sim(jobs, nodes=ONE_NODE)
    assert {name: found[name]["start_s"] for name in ("claim", "short", "long")} == {
        "claim": "100", "short": "3", "long": "150"
    }  # fmt: skip


def test_jobs_live_by_leases_until_their_budget_has_no_more(sim):
    leased = budget(24).replace("spec:\n", "spec:\n  hold: lease\n  lease: 20m\n")
    jobs = (
        "job_id,submit_s,duration_s,time_limit_s,gpus,project\n"
        "fits,0,3600,360000,1,x\nlong,0,36000,360000,1,x\n"
    )
    nodes = NODES.splitlines()[0] + "\nn1,8000,1000,4,A100,32\n"
    _, rows = sim(jobs, *sim.policy(leased), nodes=nodes)
    assert (rows["fits"]["state"], rows["long"]["state"]) == ("SUCCEEDED", "FAILED")
    # Each costs 8 USD an hour, and 800 in the worst case: in all no more than the limit, and nearly that.
    assert 22 < float(rows["fits"]["cost"]) + float(rows["long"]["cost"]) <= 24


QUOTA = "kind: Quota\nname: nlp\nspec: {scope: {project: nlp}, guaranteed: {gpus: 1}, max: {gpus: 2}}\n"
BORROWERS = "job_id,submit_s,duration_s,gpus,project\n" + (
    "a,0,100,1,nlp\nb,0,100,1,nlp\nc,0,100,1,nlp\nd,0,900,2,cv\ne,150,500,1,cv\ng,210,500,1,cv\nf,250,100,1,nlp\n"
)


def test_quotas_hold_in_a_simulation_and_what_is_guaranteed_is_taken_back(sim):
    """`c` waits for its quota; then others have borrowed all, and `g` loses least when `f` comes."""
    summary, found = sim(BORROWERS, *sim.policy(QUOTA), nodes=ONE_NODE)
    starts = {name: int(float(found[name]["start_s"])) for name in found}
    assert starts == {"a": 0, "b": 0, "c": 100, "d": 0, "e": 150, "g": 210, "f": 250}
    assert (found["g"]["attempts"], found["g"]["end_s"]) == ("2", "850")
    assert (summary["violations"], summary["preemptions"]) == (0, 1)


def test_a_start_beyond_a_quota_is_a_violation(sim, monkeypatch):
    monkeypatch.setattr(Tenancy, "stops", lambda *_: None)
    monkeypatch.setattr(QuotaTable, "beyond", lambda *_: None)
    code, _, said = sim.raw(BORROWERS, "-o", "json", *sim.policy(QUOTA), nodes=ONE_NODE)
    assert (code, "Q1: quota nlp has 3000 of 2000 gpus" in said) == (1, True)
