"""`advise`: what was held and not used, in the money that it cost, with what it rests on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.cli.advice import Finding, Paid, findings, row_of

GB = 10**9
DOLLAR = 10**9
PAID = Paid(
    nanos=100 * DOLLAR, cpu_nanos=20 * DOLLAR, memory_nanos=10 * DOLLAR, cpu_held_s=16 * 3600.0, attempts={}
)


def job(**more: Any) -> dict[str, Any]:
    base = {
        "state": "SUCCEEDED", "resources": {"cpus": 16, "memory_bytes": 64 * GB, "gpus": 1},
        "max_rss_bytes": 60 * GB, "cpu_s": 15 * 3600.0, "time_limit_s": 4000, "progress": None,
        "attempts": [attempt("a", 3600, "completed")],
    }  # fmt: skip
    return base | more


def attempt(name: str, elapsed_s: float, cause: str | None) -> dict[str, Any]:
    return {"id": name, "elapsed_s": elapsed_s, "end_cause": cause}


def told(**seconds: float) -> dict[str, Any]:
    spans = dict.fromkeys(("data_wait_s", "compute_s", "communication_s", "checkpoint_s"), 0.0)
    return {"elapsed_s": 1000.0, **spans, **seconds}


def only(found: list[Finding]) -> Finding:
    [one] = found
    return one


def test_of_a_job_that_used_what_it_asked_for_nothing_is_said() -> None:
    assert findings(job(), PAID) == []


def test_memory_that_nobody_touched_is_told_with_what_would_do() -> None:
    one = only(findings(job(max_rss_bytes=13_100_000_000), PAID))
    assert (one.code, one.ask, one.cost_nanos) == ("over-requested-memory", "--memory 16GB", 10 * DOLLAR)
    assert one.saves_nanos == 10 * DOLLAR * 48 // 64
    assert one.evidence == "13.1GB of 64GB were used at the most"
    small = only(findings(job(max_rss_bytes=1_000_000), PAID))
    assert small.ask == "--memory 100MB"


@pytest.mark.parametrize(("peak", "said"), [(0, False), (39 * GB, True), (40_000_000_001, False)])
def test_a_peak_near_the_request_or_none_is_no_finding(peak: int, said: bool) -> None:
    found = findings(job(max_rss_bytes=peak), PAID)
    assert [one.code for one in found] == (["over-requested-memory"] if said else [])


def test_cpus_that_stood_still_are_told_by_their_mean() -> None:
    one = only(findings(job(cpu_s=4 * 3600.0), PAID))
    assert (one.code, one.ask, one.cost_nanos) == ("over-requested-cpus", "--cpus 5", 20 * DOLLAR)
    assert one.saves_nanos == 20 * DOLLAR * 11 // 16
    assert one.evidence == "4 of 16 CPUs were busy in the mean"
    assert only(findings(job(cpu_s=1.0), PAID)).ask == "--cpus 1"


def test_cpus_of_which_nothing_is_known_or_one_alone_are_no_finding() -> None:
    assert findings(job(cpu_s=0.0), PAID) == []
    assert findings(job(cpu_s=1.0), PAID._replace(cpu_held_s=0.0)) == []
    asked = {"cpus": 1, "memory_bytes": 0, "gpus": 0}
    assert findings(job(cpu_s=1.0, resources=asked), PAID) == []


def test_a_time_limit_of_more_than_twice_the_run_is_told_and_has_no_price() -> None:
    one = only(findings(job(time_limit_s=86_400), PAID))
    assert (one.code, one.ask, one.cost_nanos, one.saves_nanos) == (
        "over-requested-time", "--time-limit 90m", None, None,
    )  # fmt: skip
    assert one.evidence == "it ran 1h00m of 1d00h; money was held for all of them"
    assert findings(job(time_limit_s=10_799), PAID) == []
    assert findings(job(time_limit_s=86_400, state="FAILED"), PAID) == []
    short = job(time_limit_s=600, attempts=[attempt("a", 3, "completed")])
    assert findings(short, PAID) == []


def test_waiting_for_data_is_told_by_the_program_and_costs_its_part() -> None:
    one = only(findings(job(progress=told(data_wait_s=250)), PAID))
    assert (one.code, one.cost_nanos, one.confidence.split(":")[0]) == ("waits-for-data", 25 * DOLLAR, "high")
    assert one.evidence == "its loop waited for data for 25 % of its time"
    assert "--cpus 32 and more workers" in one.ask
    idle = only(findings(job(progress=told(data_wait_s=250), cpu_s=12.5 * 3600), PAID._replace(cpu_held_s=0)))
    assert "--cpus" not in idle.ask
    assert findings(job(progress=told(data_wait_s=99)), PAID) == []
    assert only(findings(job(progress=told(checkpoint_s=100)), PAID)).code == "slow-checkpoints"


def test_of_a_job_that_runs_only_what_it_told_itself_is_said() -> None:
    running = job(state="RUNNING", cpu_s=1.0, max_rss_bytes=1, progress=told(checkpoint_s=500))
    assert [one.code for one in findings(running, PAID)] == ["slow-checkpoints"]


def test_attempts_that_were_ended_from_outside_cost_at_most_what_they_cost() -> None:
    tries = [attempt("a", 60, "preempted"), attempt("b", 60, "node_lost"), attempt("c", 3600, "completed")]
    paid = PAID._replace(attempts={"a": 5 * DOLLAR, "b": 2 * DOLLAR, "c": 93 * DOLLAR})
    one = only(findings(job(attempts=tries), paid))
    assert (one.code, one.cost_nanos, one.evidence) == (
        "interrupted", 7 * DOLLAR, "2 attempts of 3 interrupted",
    )  # fmt: skip
    failed = [attempt("a", 60, "out_of_memory"), attempt("c", 3600, "completed")]
    assert only(findings(job(attempts=failed), paid)).code == "failed-attempts"
    assert findings(job(state="FAILED", attempts=[attempt("a", 60, "failed")]), paid) == []
    twice = [attempt("a", 60, "failed"), attempt("b", 60, "failed")]
    one = only(findings(job(state="FAILED", attempts=twice), paid))
    assert (one.cost_nanos, one.evidence) == (5 * DOLLAR, "1 attempt of 2 failed")


def test_at_no_known_price_the_advice_stands_and_the_money_is_not_known() -> None:
    unknown = PAID._replace(nanos=None, cpu_nanos=0, memory_nanos=0)
    wasteful = job(max_rss_bytes=GB, cpu_s=60.0, progress=told(data_wait_s=500))
    found = findings(wasteful, unknown)
    assert {one.code for one in found} == {"over-requested-memory", "over-requested-cpus", "waits-for-data"}
    assert {(one.cost_nanos, one.saves_nanos) for one in found} == {(None, None)}


def test_the_dearest_finding_comes_first() -> None:
    wasteful = job(max_rss_bytes=GB, cpu_s=60.0, progress=told(data_wait_s=500), time_limit_s=86_400)
    assert [one.code for one in findings(wasteful, PAID)] == [
        "waits-for-data", "over-requested-cpus", "over-requested-memory", "over-requested-time",
    ]  # fmt: skip


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.integers(2, 512), st.floats(0.01, 10**7))
def test_what_is_advised_is_enough_for_what_was_used_and_saves_no_more_than_was_paid(
    asked: int, peak: int, cpus: int, cpu_s: float
) -> None:
    resources = {"cpus": cpus, "memory_bytes": asked, "gpus": 0}
    for one in findings(job(resources=resources, max_rss_bytes=peak, cpu_s=cpu_s), PAID):
        assert one.cost_nanos is not None
        assert one.saves_nanos is not None
        assert 0 < one.saves_nanos <= one.cost_nanos
        if one.code == "over-requested-cpus":
            assert cpu_s / PAID.cpu_held_s * cpus <= int(one.ask.split()[1]) < cpus


def test_a_program_reads_each_part_of_what_is_told() -> None:
    told = row_of(Finding("memory", "seen", 5 * DOLLAR, None, "ask less", "high: a peak"), "EUR")
    assert told == {
        "finding": "memory", "evidence": "seen", "cost": {"amount": "5.000000000", "currency": "EUR"},
        "saves": None, "ask": "ask less", "confidence": "high: a peak",
    }  # fmt: skip
    saved = row_of(Finding("memory", "seen", None, 2 * DOLLAR, "", ""), "EUR")
    assert (saved["cost"], saved["saves"]) == (None, {"amount": "2.000000000", "currency": "EUR"})
