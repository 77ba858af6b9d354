"""The families of `/metrics`: names, labels and what each counts.

Why     names are public: boards and alerts are written against them, and a test holds those of
        `packaging/monitoring` to what stands here. Those with `usd` in them have the currency of the books in
        its place where that is another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from bursar.cli.output import Row
from bursar.clock import SECOND_US, parse_instant
from bursar.codec import view

Sums = dict[tuple[str, ...], Decimal]
"""Amounts by key, of which the last is the class of charge."""
CORRECTION: Final = "correction"
IDLE_KINDS: Final = frozenset({"idle", "reserved", "down", "unknown", "keep-alive"})
"""Kinds of charges that are nobody's."""


class Families(Collector):
    """One scrape.

    Args:
        found: by part, what was answered; None for what was not. currency: of the books.
        unknown_s: of jobs since yesterday, at no known price. now: instant of the scrape.
    """

    def __init__(self, found: Row, currency: str, unknown_s: float, now: int) -> None:
        self._found = found
        self._money = (currency or "USD").lower()
        self._unknown_s = unknown_s
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """Everything that was answered."""
        found = self._found
        told = _gauge(
            "bursar_scrape_ok", "1 if this part of the figures was answered, 0 if it is left out", "part"
        )
        for name, part in found.items():
            told.add_metric([name], float(part is not None))
        yield told
        if found["server"] is not None:
            yield from _of_server(found["server"])
        if found["budgets"] is not None:
            yield from _of_budgets([view.budget(each) for each in found["budgets"]], self._money)
        if found["nodes"] is not None:
            yield from _of_nodes([view.node(each) for each in found["nodes"]], self._now)
        if found["prices"] is not None:
            yield _of_prices([view.policy(each) for each in found["prices"]], self._now)
        if found["cost"] is not None:
            labels = ("project", "experiment", "model")
            yield from _charged(
                f"bursar_job_cost_{self._money}", "What jobs were charged", labels, found["cost"]
            )
            yield GaugeMetricFamily(
                "bursar_cost_unknown_price_seconds",
                "Time of jobs since yesterday at no known price",
                self._unknown_s,
            )
        if found["idle"] is not None:
            idle = {key: nanos for key, nanos in found["idle"].items() if key[1] in IDLE_KINDS}
            about = "What GPUs cost that no job held, by why"
            yield from _charged(f"bursar_gpu_idle_cost_{self._money}", about, ("pool", "cause"), idle)


def _gauge(name: str, about: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, labels=labels)


def _charged(name: str, about: str, labels: Iterable[str], sums: Sums) -> Iterator[Metric]:
    """What was charged, which never falls, and beside it what corrections made of that, which may.

    A counter that falls is taken for one that began anew, and `rate` then has all of it once more.
    """
    charged: Sums = {}
    corrected: Sums = {}
    for (*key, charge_class), amount in sorted(sums.items()):
        of = corrected if charge_class == CORRECTION else charged
        of[tuple(key)] = of.get(tuple(key), Decimal()) + amount
    stem, _, currency = name.rpartition("_")
    counter = CounterMetricFamily(name, f"{about}, without corrections", labels=tuple(labels))
    gauge = _gauge(f"{stem}_corrections_{currency}", f"{about}: what corrections added or took back", *labels)
    for made, found in ((counter, charged), (gauge, corrected)):
        for labelled, total in found.items():
            made.add_metric(list(labelled), float(total))
    yield from (counter, gauge)


def _of_server(wire: Any) -> Iterator[Metric]:
    jobs = _gauge("bursar_jobs", "Jobs that have not ended; tasks of arrays count each", "state", "project")
    waiting = _gauge(
        "bursar_scheduler_pending_jobs", "Jobs that wait, by the first reason of their queue", "reason"
    )
    by_state: dict[tuple[str, str], int] = {}
    by_reason: dict[str, int] = {}
    for one in wire.census:
        key = (one.state, one.project)
        by_state[key] = by_state.get(key, 0) + one.jobs
        if one.state == "PENDING":
            by_reason[one.reason] = by_reason.get(one.reason, 0) + one.jobs
    for key, count in sorted(by_state.items()):
        jobs.add_metric(list(key), count)
    for reason, count in sorted(by_reason.items()):
        waiting.add_metric([reason], count)
    yield from (jobs, waiting, _cycles(wire.counters))
    for name, counter, about in (
        ("bursar_scheduler_placed", "placed", "Jobs that passes placed, since the daemon began"),
        ("bursar_scheduler_dropped", "dropped", "Actions of plans that no longer held when they were due"),
        ("bursar_ledger_entries", "ledger_entries", "Entries of the ledger, since the daemon began"),
        ("bursar_store_commits", "commits", "Commits of the log, since the daemon began"),
    ):
        yield CounterMetricFamily(name, about, wire.counters[counter])
    refused = CounterMetricFamily("bursar_calls_refused", "Calls that were refused", labels=("status",))
    for name, count in sorted(wire.counters.items()):
        if name.startswith("refused_"):
            refused.add_metric([name.removeprefix("refused_")], count)
    yield refused
    started = wire.started_at / SECOND_US
    yield GaugeMetricFamily("bursar_start_time_seconds", "When the daemon began, since 1970", started)


def _cycles(counters: Any) -> HistogramMetricFamily:
    """How long passes took, from their cumulative counts."""
    bounds = sorted(
        (int(name.removeprefix("cycle_le_").removesuffix("_us")), count)
        for name, count in counters.items()
        if name.startswith("cycle_le_")
    )
    buckets = [(str(us / SECOND_US), count) for us, count in bounds] + [("+Inf", counters["cycles"])]
    made = HistogramMetricFamily("bursar_scheduler_cycle_seconds", "How long scheduling passes took")
    made.add_metric([], buckets, counters["cycle_total_us"] / SECOND_US)
    return made


def _of_budgets(rows: list[Row], money: str) -> Iterator[Metric]:
    for name, about in (
        ("limit", "Limit in the current period"),
        ("settled", "Spent in the current period"),
        ("held", "Promised to what runs"),
    ):
        made = _gauge(f"bursar_budget_{name}_{money}", about, "budget")
        for row in rows:
            made.add_metric([row["name"]], float(row[name]["amount"]))
        yield made
    ends = _gauge("bursar_budget_period_end_seconds", "When the current period ends, since 1970", "budget")
    for row in rows:
        if row["period_end"]:
            ends.add_metric([row["name"]], parse_instant(row["period_end"]) / SECOND_US)
    yield ends


def _of_nodes(rows: list[Row], now: int) -> Iterator[Metric]:
    up = _gauge("bursar_node_up", "1 while it takes work; else 0, with its state", "node", "pool", "state")
    seen = _gauge("bursar_node_last_seen_seconds", "Since its agent was heard of", "node")
    gpus = _gauge("bursar_node_gpus", "GPUs it has", "node", "pool")
    free = _gauge("bursar_node_gpus_free", "GPUs that no job holds", "node", "pool")
    busy = _gauge("bursar_node_gpu_utilization_ratio", "Of its newest reading, 0 to 1", "node", "gpu")
    for row in rows:
        name, pool = row["name"], row["pool"] or ""
        up.add_metric([name, pool, row["state"]], float(row["state"] == "up"))
        seen.add_metric([name], max(0.0, (now - parse_instant(row["last_seen_at"])) / SECOND_US))
        gpus.add_metric([name, pool], row["gpus"])
        free.add_metric([name, pool], row["gpus_free"])
        for gpu in (row["sample"] or {"gpus": []})["gpus"]:
            if gpu["utilization_ratio"] is not None:
                busy.add_metric([name, str(gpu["index"])], gpu["utilization_ratio"])
    yield from (up, seen, gpus, free, busy)


def _of_prices(rows: list[Row], now: int) -> Metric:
    made = _gauge("bursar_price_book_age_seconds", "Since the book of prices was applied", "price_book")
    for row in rows:
        made.add_metric([row["name"]], max(0.0, (now - parse_instant(row["applied_at"])) / SECOND_US))
    return made
