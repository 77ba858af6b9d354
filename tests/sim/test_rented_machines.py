"""`bursar sim --offers`: machines are rented, paid for, taken back and given back, in numbers by hand."""

from __future__ import annotations

import csv
import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.cli.main import run as bursar
from bursard.machines import provider
from bursard.sim import rented
from bursard.sim.main import _with_pool
from bursard.sim.offers import OfferRow, Times, read_offers
from bursard.sim.rows import read_jobs
from bursard.sim.simulation import Simulation

NONE = "node_id,cpu_milli,memory_mib\n"
JOB = "job_id,submit_s,duration_s,gpus,cpu_milli,memory_mib,checkpoint_s,time_limit_s,user\n"
OFFER = (
    "offer_id,instance_type,cpu_milli,memory_mib,gpus,price_per_hour,market,provision_s,max_count,"
    "availability\n"
)
ONE = OFFER + "o,big,4000,1000,4,3.6,on-demand,100,,\n"
"""A thousandth of a dollar a second."""
WHOLE = "4,4000,1000"
"""What takes all of such a machine."""


class Sim:
    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    def raw(self, jobs: str, offers: str, *flags: str, nodes: str = NONE) -> tuple[int, str, str]:
        code = bursar([
            "sim", "--jobs", self.write("jobs.csv", JOB + jobs), "--nodes", self.write("nodes.csv", nodes),
            "--offers", self.write("offers.csv", offers), "--out-jobs", str(self.folder / "out.csv"), *flags,
        ])  # fmt: skip
        found = self.capsys.readouterr()
        return code, found.out, found.err

    def __call__(self, jobs: str, offers: str, *flags: str, nodes: str = NONE) -> tuple[Any, dict[str, Any]]:
        code, out, err = self.raw(jobs, offers, "-o", "json", *flags, nodes=nodes)
        assert (code, err) == (0, "")
        summary = json.loads(out)
        assert summary["violations"] == 0
        lines = csv.DictReader(io.StringIO((self.folder / "out.csv").read_text()))
        return summary, {row["job_id"]: row for row in lines}

    def pool(self, spec: str) -> tuple[str, str]:
        text = f"kind: CloudPool\nname: burst\nspec: {{provider: local, {spec}}}\n"
        self.write("policies/p.yaml", text)
        return ("--policies", str(self.folder / "policies"))


@pytest.fixture
def sim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Sim:
    return Sim(tmp_path, capsys)


def dollars(summary: Any, key: str) -> Fraction:
    return Fraction(summary["cost"][key]["amount"])


def test_a_job_that_no_node_holds_gets_a_machine_and_pays_for_its_coming_up(sim: Sim) -> None:
    """Two seconds pass before one is rented; it is paid for from then until five minutes after the run."""
    summary, rows = sim(f"a,0,1000,{WHOLE},,3000,u\n", ONE)
    assert (rows["a"]["state"], rows["a"]["start_s"], rows["a"]["end_s"]) == ("SUCCEEDED", "102", "1102")
    assert rows["a"]["nodes"].startswith("offers-")
    assert Fraction(rows["a"]["cost"]) == Fraction("1.1")
    assert dollars(summary, "total") == dollars(summary, "on_demand") == Fraction("1.4")
    assert (dollars(summary, "spot"), dollars(summary, "owned")) == (0, 0)
    assert dollars(summary, "idle") == Fraction("0.3")
    assert summary["end_s"] == 1402


def test_owned_nodes_come_first_and_their_cost_stands_apart(sim: Sim) -> None:
    nodes = "node_id,cpu_milli,memory_mib,gpus,price_per_hour\nn,4000,1000,4,36\n"
    summary, rows = sim(f"a,0,1000,{WHOLE},,3000,u\nb,0,1000,{WHOLE},,3000,u\n", ONE, nodes=nodes)
    assert (rows["a"]["nodes"], rows["b"]["start_s"]) == ("n", "102")
    assert dollars(summary, "owned") == Fraction("0.01") * summary["end_s"]
    assert dollars(summary, "on_demand") == Fraction("1.4")


def test_the_cheaper_market_is_taken_and_left_when_it_is_taken_back(sim: Sim) -> None:
    """Spot until second 500: three checkpoints of a hundred seconds are kept, the rest runs on demand. Half
    a second passes before that is asked for, since spot is asked for first, and there is none.
    """
    sim.write("spot.csv", "from_s,to_s\n0,500\n")
    offers = ONE + "s,big,4000,1000,4,0.36,spot,100,,spot.csv\n"
    summary, rows = sim(f"a,0,1000,{WHOLE},100,3000,u\n", offers)
    assert (rows["a"]["attempts"], rows["a"]["start_s"]) == ("2", "102")
    assert summary["preemptions"] == 1
    assert rows["a"]["end_s"] == str(500 + 2.5 + 100 + 700)
    assert dollars(summary, "spot") == Fraction("0.0498")
    assert dollars(summary, "on_demand") == Fraction(100 + 700 + 300, 1000)
    assert dollars(summary, "wasted_on_preemption") == Fraction("0.0098")


def test_a_machine_that_is_taken_back_while_it_comes_up_is_nobodys(sim: Sim) -> None:
    sim.write("spot.csv", "from_s,to_s\n0,50\n5000,9000\n")
    offers = OFFER + "s,big,4000,1000,4,3.6,spot,100,,spot.csv\n"
    summary, rows = sim(f"a,0,1000,{WHOLE},,3000,u\n", offers)
    assert rows["a"]["state"] == "SUCCEEDED"
    assert int(rows["a"]["start_s"]) >= 5100
    assert dollars(summary, "spot") == Fraction("1.4") + Fraction("0.048")


def test_who_finds_no_machine_waits_until_one_is_to_be_had(sim: Sim) -> None:
    sim.write("spot.csv", "from_s,to_s\n4000,9000\n")
    _, rows = sim(f"a,0,1000,{WHOLE},,3000,u\n", OFFER + "s,big,4000,1000,4,3.6,spot,100,,spot.csv\n")
    assert 4100 <= int(rows["a"]["start_s"]) <= 4100 + 600


def test_a_gang_keeps_its_first_machine_while_the_one_that_was_taken_back_is_rented_again(sim: Sim) -> None:
    """The other one is taken back while it comes up, and what comes in its place takes three times as long as
    a machine is kept alive. It is the gang's first machine all the same that it runs on.
    """
    sim.write("spot.csv", "from_s,to_s\n0,500\n")
    offers = (
        OFFER
        + "o,big,4000,1000,4,3.6,on-demand,100,1,\n"
        + "p,big2,4000,1000,4,3.60001,spot,900,1,spot.csv\n"
        + "q,big3,4000,1000,4,3.60002,on-demand,900,,\n"
    )
    jobs = sim.write(
        "gang.csv",
        "job_id,submit_s,duration_s,nodes,gpus,cpu_milli,memory_mib,time_limit_s\na,0,1000,2,4,4000,1000,3000\n",
    )
    sim.raw("", offers)
    files = ("--nodes", str(sim.folder / "nodes.csv"), "--offers", str(sim.folder / "offers.csv"))
    out = sim.folder / "out.csv"
    assert bursar(["sim", "--jobs", jobs, *files, "--out-jobs", str(out), "-o", "json"]) == 0
    summary = json.loads(sim.capsys.readouterr().out)
    (row,) = csv.DictReader(io.StringIO(out.read_text()))
    assert (row["start_s"], row["nodes"].count("|")) == ("1402.5", 1)
    assert abs(dollars(summary, "on_demand") - Fraction("4.9")) < Fraction(1, 1000), (
        "2.5 s to 2702.5 s, and 502.5 s to it"
    )
    assert abs(Fraction(row["cost"]) - Fraction("3")) < Fraction(1, 1000), (
        "1000 s of two, and 100 s and 900 s to come up"
    )


DUE = (
    "job_id,submit_s,duration_s,gpus,cpu_milli,memory_mib,time_limit_s,saves,restart_s,"
    "deadline_s,deadline_policy\n"
)


def test_a_job_with_a_deadline_waits_for_spot_while_it_has_time_and_is_done_in_time(sim: Sim) -> None:
    """There is spot from second 500 to 3000, and never again: until its deadline at 20,000 eight thousand
    seconds of work are left on demand, by their limit of nine thousand.
    """
    sim.write("spot.csv", "from_s,to_s\n500,3000\n9000000,9000001\n")
    offers = ONE + "s,big,4000,1000,4,0.36,spot,100,,spot.csv\n"
    job = sim.write("due.csv", DUE + "a,0,10000,4,4000,1000,11000,1,60,20000,best-effort\n")
    sim.raw("", offers)
    files = ("--nodes", str(sim.folder / "nodes.csv"), "--offers", str(sim.folder / "offers.csv"))
    out = sim.folder / "out.csv"
    assert bursar(["sim", "--jobs", job, *files, "--out-jobs", str(out), "-o", "json"]) == 0
    summary = json.loads(sim.capsys.readouterr().out)
    (row,) = csv.DictReader(io.StringIO(out.read_text()))
    assert (row["state"], row["attempts"]) == ("SUCCEEDED", "2")
    assert 600 <= int(row["start_s"]) <= 1200, "it waited for spot, which is looked for every ten minutes"
    on_demand_s = dollars(summary, "on_demand") * 1000
    left_s = 10_000 - (3_000 - int(row["start_s"])) + 60
    assert abs(on_demand_s - left_s - 100 - 300) < 5
    assert 3_000 + left_s + 100 < float(row["end_s"]) <= 20_000, "it waited for more of it"


def test_no_more_machines_of_an_offer_than_there_are(sim: Sim) -> None:
    offers = OFFER + "o,big,4000,1000,4,3.6,on-demand,100,1,\n"
    summary, rows = sim("".join(f"{name},0,1000,{WHOLE},,3000,u\n" for name in "abc"), offers)
    ends = sorted(int(row["end_s"]) for row in rows.values())
    assert ends == [1102, 2102, 3102]
    assert dollars(summary, "total") == Fraction("3.4")


def test_a_pool_of_the_policies_bounds_what_is_rented(sim: Sim) -> None:
    two = "".join(f"{name},0,1000,{WHOLE},,3000,u\n" for name in "ab")
    _, rows = sim(two, ONE, *sim.pool("limits: {machines: 1}, keep_alive: 1m"))
    assert sorted(int(row["end_s"]) for row in rows.values()) == [1102, 2102]
    _, rows = sim(two, ONE, *sim.pool("limits: {machines: 9, spend_rate: 4 USD/h}"))
    assert sorted(int(row["end_s"]) for row in rows.values()) == [1102, 2102]
    summary, rows = sim(two, ONE, *sim.pool("offers: {instance_types: ['x*']}, limits: {machines: 9}"))
    assert {row["state"] for row in rows.values()} == {"PENDING"}
    assert summary["jobs"]["never_fit"] == 2
    assert dollars(summary, "total") == 0


def test_a_machine_whose_lifetime_is_over_gives_its_job_back_to_the_queue(sim: Sim) -> None:
    pool = sim.pool("limits: {machines: 9}, max_lifetime: 10m")
    _, rows = sim(f"a,0,1000,{WHOLE},100,3000,u\n", ONE, *pool)
    assert (rows["a"]["state"], rows["a"]["attempts"]) == ("SUCCEEDED", "2")


def test_a_budget_that_cannot_pay_for_a_launch_rents_nothing(sim: Sim) -> None:
    text = "kind: Budget\nname: b\nspec: {scope: {user: u}, limit: 1 USD, period: one-time}\n"
    sim.write("policies/b.yaml", text)
    summary, rows = sim(f"a,0,1000,{WHOLE},,3000,u\n", ONE, "--policies", str(sim.folder / "policies"))
    assert (rows["a"]["state"], dollars(summary, "total")) == ("PENDING", 0)
    assert summary["budgets"][0]["peak_settled_plus_held"]["amount"] == "0.000000000"


def test_what_never_ends_on_a_rented_machine_ends_the_simulation_all_the_same(sim: Sim) -> None:
    summary, rows = sim(f"a,0,,{WHOLE},,,u\nb,0,9,64,1,1,,9,u\n", ONE)
    assert (rows["a"]["state"], rows["b"]["state"]) == ("RUNNING", "PENDING")
    assert summary["jobs"]["never_fit"] == 1


@pytest.mark.parametrize(
    ("offers", "words"),
    [
        ("offer_id\no\n", ("instance_type", "price_per_hour", "missing")),
        (OFFER + "o,big,4000,1000,4,0,on-demand,1,,\n", ("offers.csv:2:6", "more than 0")),
        (OFFER + "o,big,4000,1000,4,1,spit,1,,\n", ("offers.csv:2:7", "spot or on-demand")),
        (OFFER + "o,big,4000,1000,40,1,spot,1,,\n", ("offers.csv:2:5", "out of range")),
        (OFFER + "o,big,0,1000,4,1,spot,1,,\n", ("offers.csv:2:3",)),
        (OFFER + "o,big,1,1000,4,1,spot,1e6,,\n", ("offers.csv:2:8", "within a day")),
        (OFFER + "o,b'g,1,1000,4,1,spot,1,,\n", ("offers.csv:2:2", "letters")),
        (OFFER + "o,big,1,1,1,1,spot,1,,\no,big,1,1,1,1,on-demand,1,,\n", ("offers.csv:3:1", "twice")),
        (OFFER + "o,big,1,1,1,1,spot,1,,nothing.csv\n", ("offers.csv:2:10", "No such file")),
        (OFFER + "o,big,1,1,1,1,spot,1,,bad.csv\n", ("bad.csv:3:1", "in order")),
    ],
)
def test_a_wrong_offer_is_refused_with_place_and_reason(
    sim: Sim, offers: str, words: tuple[str, ...]
) -> None:
    sim.write("bad.csv", "from_s,to_s\n5,9\n7,11\n")
    code, out, err = sim.raw(f"a,0,9,{WHOLE},,9,u\n", offers)
    assert (code, out) == (2, "")
    for word in words:
        assert word in err


def test_a_pool_without_offers_is_refused(sim: Sim) -> None:
    files = ("--jobs", sim.write("j.csv", JOB), "--nodes", sim.write("n.csv", NONE + "n,1,1\n"))
    assert bursar(["sim", *files, *sim.pool("limits: {machines: 1}")]) == 2
    assert "CloudPool burst: a simulation rents what --offers has" in sim.capsys.readouterr().err


def test_times_are_from_the_first_instant_until_just_before_the_last() -> None:
    times = Times((5, 20), (9, 30))
    assert [times.until(at) for at in (0, 5, 8, 9, 20, 29, 30)] == [0, 9, 9, 0, 30, 30, 0]
    assert [times.again(at) for at in (0, 5, 9, 29, 30)] == [5, 5, 20, 29, None]
    assert (Times().until(7), Times().again(7)) == (None, 7)


JOBS = st.lists(
    st.tuples(
        st.integers(0, 20_000),
        st.integers(1, 9_000),
        st.sampled_from(("1,500,1", WHOLE, "2,100,10", "5,1,1")),
        st.sampled_from(("", "300")), st.integers(1, 12_000), st.sampled_from("uvw"),
    ),
    min_size=1, max_size=12,
)  # fmt: skip
SPANS = st.lists(st.integers(1, 4_000), max_size=8)


@settings(max_examples=40, deadline=None)
@given(jobs=JOBS, spans=SPANS, most=st.integers(0, 3), boot=st.sampled_from((0, 7, 900)))
def test_whatever_comes_all_that_is_paid_is_the_time_of_machines_at_their_price(
    jobs: list[Any], spans: list[int], most: int, boot: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """And nobody's machine is there at the end, but for those that jobs still run on or wait for."""
    folder, at, times = tmp_path_factory.mktemp("sim"), 0, []
    for first, last in zip(spans[::2], spans[1::2], strict=False):
        times.append(f"{at + first},{at + first + last}\n")
        at += first + last + 1
    (folder / "spot.csv").write_text("from_s,to_s\n" + "".join(times))
    offers = (
        OFFER
        + f"o,big,4000,1000,4,3.6,on-demand,{boot},{most},\ns,big,4000,1000,4,1.2,spot,{boot},2,spot.csv\n"
    )
    (folder / "offers.csv").write_text(offers)
    lines = [f"j{n},{a},{b},{c},{d},{e},{f}\n" for n, (a, b, c, d, e, f) in enumerate(jobs)]
    (folder / "jobs.csv").write_text(JOB + "".join(lines))
    made: list[rented.Made] = []

    class Remembers(rented.SimCloud):
        def create(self, order: provider.Order) -> str:
            name = super().create(order)
            made.append(self.made[name])
            return name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rented, "SimCloud", Remembers)
        rows: list[OfferRow] = read_offers(str(folder / "offers.csv"))
        one = Simulation(read_jobs(str(folder / "jobs.csv")), [], _with_pool((), rows), offer_rows=rows)
        one.run()
    assert one.checks.count == 0, one.checks.found
    totals = one.totals
    paid = totals.used_nanos + totals.startup_nanos + totals.idle_nanos - totals.absorbed_nanos
    owed = sum(Fraction(each.row.rate_nanos, 3_600_000_000) * (each.gone_at - each.made_at) for each in made)
    assert all(each.gone_at for each in made)
    # Each hour and part of a machine is rounded by itself.
    assert abs(paid - owed) <= 3 * sum(2 + (each.gone_at - each.made_at) // 3_600_000_000 for each in made)
    assert paid == totals.on_demand_nanos + totals.spot_nanos
    assert {run.state for run in one.runs} <= {"SUCCEEDED", "FAILED", "PENDING"}


def test_an_attempt_that_is_gone_keeps_no_time_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would have ended after a hundred hours on the slow node, which goes away; the other ends it soon."""
    (tmp_path / "j.csv").write_text(
        "job_id,submit_s,duration_s,gpus,throughput,restart_s,checkpoint_s\na,0,3600,1,SLOW=0.01,50,10\n"
    )
    (tmp_path / "n.csv").write_text(
        "node_id,cpu_milli,memory_mib,gpus,gpu_type,price_per_hour,available_from_s,available_until_s\n"
        "slow,1000,1000,1,SLOW,10,0,100\nfast,1000,1000,1,FAST,10,50,\n"
    )
    files = ("--jobs", str(tmp_path / "j.csv"), "--nodes", str(tmp_path / "n.csv"))
    assert bursar(["sim", *files, "-o", "json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["end_s"] == 100 + 50 + 3600 - 1
    assert abs(dollars(summary, "total") - Fraction(100 + 3749 - 50, 360)) < Fraction(1, 10**8)
    assert dollars(summary, "wasted_on_preemption") == 0, "what restarts take is none of it"
