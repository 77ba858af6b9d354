"""Every nano-dollar, seen from outside: hard budgets are never passed, and all views sum to the same."""

from __future__ import annotations

import csv
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cluster import until

from bursar.client import WireClient
from bursar.model import JobSpec
from bursar.resources import ResourceRequest

SECOND = 1_000_000
NANO = Decimal("0.000000001")


def amount(view: Any) -> Decimal:
    """Money of the contract: a decimal string of 9 places."""
    assert set(view) == {"amount", "currency"}
    assert isinstance(view["amount"], str)
    assert len(view["amount"].partition(".")[2]) == 9
    assert view["currency"] == "USD"
    return Decimal(view["amount"])


def settled(job: Any) -> Decimal:
    return amount(job["cost"]["settled"])


def budget(name: str, scope: str, limit: str, more: str = "") -> str:
    return f"kind: Budget\nname: {name}\nspec:\n  scope: {scope}\n  limit: {limit} USD\n  period: month\n" + (
        more or "  enforcement: hard\n"
    )


def ended(cluster: Any, *jobs: str) -> list[Any]:
    cluster.run("wait", "-q", *jobs, "--timeout", "90", code=None)
    return [cluster.show(job) for job in jobs]


@pytest.fixture
def cluster(own_cluster: Any) -> Iterator[Any]:
    yield own_cluster
    own_cluster.doctor_is_content()


def test_a_hard_budget_is_never_passed_under_a_flood(cluster: Any) -> None:
    limit = Decimal("0.000400000")
    cluster.apply(budget("flood", "{project: flood}", str(limit)))
    small = ResourceRequest(cpu_milli=500)
    specs = [
        JobSpec(
            project="flood",
            command=("sleep", "0.5"),
            workdir="/tmp",
            options=(small,),
            time_limit_us=2 * SECOND,
        )
        for _ in range(60)
    ]
    with WireClient(cluster.server) as client:
        ids = [answer.job.id for answer in client.submit_many(specs)]
        looks, quiet, before = 0, 0, (-1, -1)
        deadline = time.monotonic() + 120
        while quiet < 20:
            assert time.monotonic() < deadline
            (now,) = client.budgets(name="flood")
            assert now.settled_nanos + now.held_nanos <= now.limit_nanos == 400_000
            looks += 1
            moved = (
                (now.settled_nanos, now.held_nanos) != before or now.held_nanos > 0 or not now.settled_nanos
            )
            quiet, before = 0 if moved else quiet + 1, (now.settled_nanos, now.held_nanos)
            time.sleep(0.03)
    jobs = [each for each in cluster.ask("ls", "--state", "all", "--limit", "1000") if each["id"] in set(ids)]
    states = {state: [job for job in jobs if job["state"] == state] for state in ("SUCCEEDED", "PENDING")}
    assert 2 <= len(states["SUCCEEDED"]) < 40, "some could be paid for"
    assert len(states["SUCCEEDED"]) + len(states["PENDING"]) == 60
    assert looks > 30
    waiting = states["PENDING"][0]
    assert waiting["reason"]["code"] == "BudgetExhausted", waiting["reason"]
    facts = waiting["reason"]["facts"]
    assert facts["budget"] == "flood"
    assert facts["limit"]
    assert facts["settled"]
    shown = cluster.run("explain", waiting["id"]).stdout
    assert "flood" in shown
    assert "remedy" in shown
    spent = sum(map(settled, jobs))
    assert amount(cluster.ask("budget", "show", "flood")["settled"]) == spent <= limit

    cluster.apply(budget("flood", "{project: flood}", "5.00"))
    kept = [job["id"] for job in states["PENDING"]]
    cluster.run("cancel", "-q", *kept[4:])
    for job in ended(cluster, *kept[:4]):
        assert job["state"] == "SUCCEEDED", "a raised budget lets them go on"


def test_a_hard_budget_holds_and_ties_when_the_daemon_is_killed_under_it(cluster: Any) -> None:
    cluster.apply(budget("crash", "{project: crash}", "0.0006"))
    flags = ("--project", "crash", "--cpus", "0.4", "--time-limit", "2s", "--array", "0-19")
    array = cluster.job(*flags, "--", "sleep", "0.4")
    for _ in range(3):
        time.sleep(0.6)  # not a wait for anything: the kills should fall into different moments
        assert cluster.kill("-m bursard ") == 1
        cluster.ready()
        now = cluster.ask("budget", "show", "crash")
        assert amount(now["settled"]) + amount(now["held"]) <= Decimal("0.0006")
    (job,) = ended(cluster, array)
    tasks = cluster.ask("ls", "--tasks", array, "--state", "all", "--limit", "100")
    assert job["state"] == "SUCCEEDED", job
    assert [len(cluster.show(f"{array}[{n}]")["attempts"]) for n in (0, 7, 19)] == [1, 1, 1]
    spent = amount(cluster.ask("budget", "show", "crash")["settled"])
    assert spent == settled(job) == sum(map(settled, tasks)) <= Decimal("0.0006")


def test_what_waits_for_held_money_says_committed_and_what_can_never_be_paid_is_refused(cluster: Any) -> None:
    cluster.apply(budget("tight", "{project: tight}", "0.01"))
    first = cluster.job("--project", "tight", "--time-limit", "2m", "--cpus", "0.9", "--", "sleep", "60")
    second = cluster.job("--project", "tight", "--time-limit", "3m", "--cpus", "0.9", "--", "true")
    reason = cluster.show(second)["reason"]
    assert reason["code"] == "BudgetCommitted"
    assert "tight" in reason["message"]
    assert reason["remedy"]
    assert int(reason["facts"]["held"]) > 0
    words = ("run", "--project", "tight", "--time-limit", "9h", "--", "true")
    refused = cluster.run(*words, code=3)
    assert refused.stdout == ""
    for fragment in ("tight", "0.01", "time limit", "raise the budget", "BudgetExhausted"):
        assert fragment in refused.stderr, refused.stderr
    assert cluster.run(*words[:-2], "--dry-run", "--", "true", code=3).stdout == ""
    cluster.run("cancel", first)
    for job, state in zip(ended(cluster, first, second), ("CANCELLED", "SUCCEEDED"), strict=True):
        assert job["state"] == state
    assert amount(cluster.show(first)["cost"]["settled"]) > 0, "a cancelled job pays for what it held"


def test_every_budget_above_and_beside_a_job_is_charged(cluster: Any) -> None:
    scopes = {
        "top": "{project: tree}",
        "leaf": "{project: tree/a}",
        "other": "{project: tree/b}",
        "exp": "{experiment: tree-exp}",
        "mod": "{model: tree-model}",
        "lab": "{label: {team: green}}",
        "who": "{user: root}",
    }
    for name, scope in scopes.items():
        cluster.apply(budget(f"tree-{name}", scope, "50"))
    before = {each["name"]: amount(each["settled"]) for each in cluster.ask("budget", "ls")}
    flags = ("--cpus", "0.5", "--time-limit", "1m")
    whole = ("--experiment", "tree-exp", "--model", "tree-model", "--label", "team=green")
    a = cluster.job(*flags, *whole, "--project", "tree/a", "--", "sleep", "0.5")
    b = cluster.job(*flags, "--project", "tree/b", "--", "sleep", "0.4")
    cost_a, cost_b = map(settled, ended(cluster, a, b))
    after = {
        each["name"]: amount(each["settled"]) - before[each["name"]] for each in cluster.ask("budget", "ls")
    }
    user = cluster.show(a)["user"]
    assert after["tree-top"] == cost_a + cost_b > 0
    assert (after["tree-leaf"], after["tree-other"]) == (cost_a, cost_b)
    assert after["tree-exp"] == after["tree-mod"] == after["tree-lab"] == cost_a
    assert after["tree-who"] == (cost_a + cost_b if user == "root" else 0)
    assert {each["name"] for each in cluster.show(a)["budgets"]} >= {"tree-top", "tree-leaf", "tree-exp"}
    assert all(amount(each["held"]) == 0 for each in cluster.ask("budget", "ls"))


def test_a_child_is_held_back_by_its_parents_budget(cluster: Any) -> None:
    cluster.apply(budget("roof", "{project: roof}", "0.004"))
    cluster.apply(budget("room", "{project: roof/room}", "5"))
    said = cluster.run("run", "--project", "roof/room", "--time-limit", "5m", "--", "true", code=3).stderr
    assert "roof" in said


def test_soft_budgets_let_pass_and_raise_their_thresholds(cluster: Any) -> None:
    more = "  enforcement: soft\n  thresholds: [{at: 1%, do: [notify]}, {at: 100%, do: [notify]}]\n"
    cluster.apply(budget("soft", "{experiment: soft}", "0.00001", more))
    (job,) = ended(cluster, cluster.job("--experiment", "soft", "--cpus", "1", "--", "sleep", "0.6"))
    assert job["state"] == "SUCCEEDED"
    assert settled(job) > Decimal("0.00001")

    def crossed() -> int:
        return sum(e["subject"] == "soft" for e in cluster.ask("events", "--kind", "threshold-crossed"))

    deadline = time.monotonic() + 120
    while crossed() < 2:
        assert time.monotonic() < deadline, "thresholds raise events"
        time.sleep(0.2)
    assert crossed() == 2, "each threshold once"
    assert cluster.ask("budget", "show", "soft")["crossed_percent"] == [1, 100]


def test_every_way_to_end_is_charged(cluster: Any) -> None:
    few = ("--cpus", "0.2", "--project", "ways")
    jobs = {
        "array": cluster.job(*few, "--array", "0-3%2", "--", "sleep", "0.2"),
        "gang": cluster.job(*few, "--nodes", "2", "--", "sleep", "0.3"),
        "failed": cluster.job(*few, "--", "sh", "-c", "sleep 0.2; exit 5"),
        "limited": cluster.job(*few, "--time-limit", "1s", "--", "sleep", "60"),
        "retried": cluster.submit(
            "project: ways\nresources: {cpus: 0.2}\nretry: {on: [failure], max: 2}\n"
            "run: sleep 0.2; test $BURSAR_ATTEMPT = 2\n"
        ),
    }
    stopped = cluster.job(*few, "--", "sleep", "60")
    cluster.until_state(stopped, "RUNNING")
    cluster.run("cancel", stopped)
    found = dict(zip((*jobs, "cancelled"), ended(cluster, *jobs.values(), stopped), strict=True))
    causes = {name: [each["end_cause"] for each in job["attempts"]] for name, job in found.items()}
    assert all(settled(job) > 0 for job in found.values()), found
    assert (found["failed"]["exit_code"], causes["failed"]) == (5, ["failed"])
    assert causes["limited"] == ["time_limit"]
    assert causes["retried"] == ["failed", "completed"]
    assert causes["cancelled"] == ["cancelled"]
    tasks = cluster.ask("ls", "--tasks", jobs["array"])
    assert len(tasks) == 4
    assert sum(map(settled, tasks)) == settled(found["array"])
    assert len({node["node"] for node in found["gang"]["attempts"][0]["nodes"]}) == 2


def read_focus(cluster: Any, name: str = "focus.csv") -> list[dict[str, str]]:
    out = cluster.work / name
    cluster.run("report", "focus", "--period", time.strftime("%Y-%m", time.gmtime()), "--out", str(out))
    with Path(out).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_all_views_of_the_money_tie_to_the_nano(cluster: Any) -> None:
    rows = read_focus(cluster)
    jobs = {job["id"]: settled(job) for job in cluster.ask("ls", "--state", "all", "--limit", "100000")}
    assert not list(cluster.ask("ls", "--state", "pending,starting,running,stopping"))
    total = sum(jobs.values())
    by_job: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        # Adjustments are money alone, of nodes: absorption, and what rounding leaves.
        assert row["ChargeCategory"] == "Usage" or (row["ChargeCategory"], row["x_JobId"]) == (
            "Adjustment",
            "",
        )
        if row["x_JobId"]:
            by_job[row["x_JobId"].partition(".")[0]] += Decimal(row["EffectiveCost"])
    assert {job: cost for job, cost in jobs.items() if cost} == dict(by_job)
    for sample in list(jobs)[:3]:
        assert settled(cluster.show(sample)) == jobs[sample]
    for by in ("project", "experiment", "model", "user", "node", "pool", "day", "project,experiment,node"):
        answer = cluster.ask("cost", "--by", by)
        assert sum(amount(row["cost"]) for row in answer["rows"]) == amount(answer["total"]["cost"]) == total
    for row in cluster.ask("cost", "--by", "project")["rows"]:
        owned = sum(
            Decimal(r["EffectiveCost"]) for r in rows if r["x_JobId"] and r["x_Project"] == row["project"]
        )
        assert owned == amount(row["cost"]), row["project"]
    for each in cluster.ask("budget", "ls"):
        assert amount(each["held"]) == 0
        kind, _, name = each["scope"].partition(" ")
        if kind == "project":
            owned = sum(
                Decimal(r["EffectiveCost"])
                for r in rows
                if r["x_JobId"] and (r["x_Project"] == name or r["x_Project"].startswith(name + "/"))
            )
            if each["name"] not in ("tree-top", "flood"):
                assert owned == amount(each["settled"]), each["name"]


def node_costs(cluster: Any) -> dict[str, tuple[Decimal, list[Decimal]]]:
    """Of each node what its rows sum to, and what its time cost up to each moment at which it was metered."""
    rows = read_focus(cluster)
    rates = {}
    for node in cluster.ask("nodes"):
        (price,) = cluster.ask("prices", "explain", node["name"])["explanations"]
        (cost,) = (one["per_hour"] for one in price["rates"] if one["rate"] == "cost")
        rates[node["id"]] = amount(cost)
    # Nodes are metered as time goes by, since the rows were read too: they are of one of these moments.
    spans: dict[str, list[tuple[int, int]]] = {}
    for event in cluster.ask("events", "--kind", "node-metered", "--tail", "100000"):
        data = event["data"]
        # Jobs leave something of each node idle, so its own time spans the whole interval.
        for _, from_us, to_us, *_ in data.get("rest", ()):
            start, end = data["through"] - from_us, data["through"] - to_us
            seen = spans.setdefault(data["node_id"], [(start, end)])
            seen.append((min(seen[-1][0], start), max(seen[-1][1], end)))
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        sums[row["ResourceId"]] += Decimal(row["EffectiveCost"])
        assert row["x_Simulated"] == "false"
        assert row["ChargeCategory"] != "Usage" or Decimal(row["ListUnitPrice"]) > 0
    assert set(sums) == set(rates) == set(spans)
    return {
        node: (sums[node], [rates[node] * (end - start) / 3_600_000_000 for start, end in moments])
        for node, moments in spans.items()
    }


def test_each_node_hour_is_jobs_and_idle_exactly(cluster: Any) -> None:
    """A read close behind another is not metered for: the end of a job then stands in the rows before the
    rest of its node does, so it is read until both do.
    """
    cluster.ended(cluster.job("--nodes", "2", "--cpus", "1", "--", "true"))

    def tied() -> dict[str, tuple[Decimal, list[Decimal]]] | None:
        found = node_costs(cluster)
        fits = all(any(abs(told - each) <= 4 * NANO for each in metered) for told, metered in found.values())
        return found if fits else None

    found = until(tied, "each node's rows sum to its time at its price")
    statement = cluster.run("report", "statement", "--period", time.strftime("%Y-%m", time.gmtime())).stdout
    named = {line[:12].strip(): line[12:34].strip() for line in statement.splitlines() if line[34:36] == "  "}
    assert named["difference"] == "0.000000000"
    kinds = ("jobs", "idle", "down", "unknown", "overhead", "variance", "absorption")
    assert (
        sum(Decimal(named[each]) for each in kinds)
        == Decimal(named["node cost"])
        >= sum(told for told, _ in found.values())
    )


def test_prices_change_from_now_and_the_past_stays(cluster: Any, make_file: Callable[..., str]) -> None:
    (before,) = ended(cluster, cluster.job("--cpus", "1", "--project", "prices", "--", "sleep", "0.2"))
    model = cluster.run("policy", "show", "onprem-local").stdout
    assert "CostModel" in model
    then = settled(before)
    changed = make_file("model.yaml", model.replace("practical_capacity: 80%", "practical_capacity: 40%"))
    if "practical_capacity: 80%" in model:
        cluster.run("policy", "apply", changed)
        assert settled(cluster.show(before["id"])) == then
