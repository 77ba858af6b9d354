"""What a day costs on disk: one node with eight one-GPU jobs, metered every minute, by table and index.

    bench/growth.py [--jobs 8] [--days 1] [--short]
    bench/growth.py --updates 1000

In one process: the daemon's own engine and SQLite store (in memory; its pages are counted), a virtual
clock and the reports an agent would send. `--short`: jobs of ten minutes, one after another, instead of
one for the whole time. `--updates`: instead, what so many changes of one waiting job take whose script has
43 kB.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter

from bursar.clock import DAY_US, HOUR_US, SECOND_US, VirtualClock
from bursar.ids import RandomIds
from bursar.model import Device, EndCause, JobSpec, NodeFacts
from bursar.resources import GpuRequest, ResourceRequest
from bursar_policies.document import parse_documents
from bursard.engine import Engine
from bursard.events import ClusterCreated, ExitReport
from bursard.place import one_pass
from bursard.state import NodeRecord, State
from bursard.state.decide import attempts, jobs, nodes, policies
from bursard.store import ScratchStore, SqliteStore
from bursard.writer import Writer

START = 1_793_494_800 * SECOND_US
MINUTE_US = 60 * SECOND_US
BAR_BYTES = 2_000_000
COST_MODEL = (
    "kind: CostModel\nname: local\nspec:\n  pool: local\n  node_capex: 100003 USD\n  useful_life: 5y\n"
)
BUDGET = (
    "kind: Budget\nname: vision\nspec:\n  scope: {project: research}\n  limit: 90000 USD\n  period: month\n"
)


class Day:
    """One node, its agent's reports, and the jobs on it."""

    def __init__(self, store: SqliteStore, jobs_at_once: int) -> None:
        self.clock = VirtualClock(START)
        self.engine = Engine(State(), store, Writer(store), self.clock, RandomIds())
        self.jobs_at_once = jobs_at_once
        commit, state = self.engine.commit, self.engine.state
        commit([ClusterCreated("c1", "USD")], "bursard")
        documents = [*parse_documents(COST_MODEL, "m.yaml"), *parse_documents(BUDGET, "b.yaml")]
        commit(policies.apply_documents(state, documents, self.engine.now()), "ann")
        devices = tuple(Device(i, f"GPU-{i:08x}-0000-0000", "H100", 80 << 30) for i in range(jobs_at_once))
        facts = NodeFacts(
            name="rack-a-01", cpu_milli=96_000, memory_bytes=1 << 40, devices=devices, pool="local"
        )
        self.hello(facts)

    @property
    def node(self) -> NodeRecord:
        """The only one."""
        (node,) = self.engine.state.nodes.values()
        return node

    def hello(self, facts: NodeFacts) -> None:
        """The node presents itself."""
        engine, boot_us = self.engine, self.clock.boot_us()
        events = nodes.hello(
            engine.state,
            engine.ids,
            engine.prices,
            facts=facts,
            boot_id="boot",
            boot_us=boot_us,
            now=engine.now(),
        )
        engine.commit(events, "node:rack-a-01")

    def start_jobs(self, limit_us: int) -> None:
        """As many as there is room for, placed and running."""
        engine, state = self.engine, self.engine.state
        option = ResourceRequest(GpuRequest(1), 1_000, 8 << 30)
        spec = JobSpec(
            name="train", project="research/vision", experiment="exp-42", model="llama-3-8b",
            labels=(("cost-center", "R-1234"),), command=("python", "train.py"), options=(option,),
            time_limit_us=limit_us,
        )  # fmt: skip
        while len(state.attempts) < self.jobs_at_once:
            events = jobs.submit(state, engine.ids, user="ann", spec=spec, key=engine.ids.new("key"))
            engine.commit(events, "ann")
            one_pass(state, engine.ids, engine.now(), lambda _, found: bool(engine.commit(found, "bursard")))
            for attempt_id, rank in list(self.node.live.items()):
                started = attempts.started(state, self.node, attempt_id, rank, self.clock.boot_us(), 4711)
                engine.commit(started, "node:rack-a-01")

    def meter(self) -> None:
        """One report, as an agent sends it each minute."""
        state, node, boot_us = self.engine.state, self.node, self.clock.boot_us()
        counters = [
            (attempt_id, rank, node.axis(boot_us) - state.attempts[attempt_id].members[rank].started_at)
            for attempt_id, rank in node.live.items()
        ]
        events = nodes.usage(state, node, boot_id="boot", at_boot_us=boot_us, counters=counters)
        self.engine.commit(events, "node:rack-a-01")

    def end_jobs(self) -> None:
        """All of them, well."""
        state, node = self.engine.state, self.node
        for attempt_id, rank in list(node.live.items()):
            held_us = node.axis(self.clock.boot_us()) - state.attempts[attempt_id].members[rank].started_at
            report = ExitReport(cause=EndCause.COMPLETED, exit_code=0, held_us=held_us)
            self.engine.commit(attempts.exited(state, node, attempt_id, rank, report, 0), "node:rack-a-01")


def sizes(store: ScratchStore) -> Counter[str]:
    """Bytes of pages by table and index."""
    with store._reading() as connection:
        return Counter(
            dict(connection.execute("select name, sum(pgsize) from dbstat group by name").fetchall())
        )


async def play(jobs_at_once: int, days: int, short: bool) -> tuple[Counter[str], Engine]:
    """Growth by table and index over whole days, after everything has been there once."""
    store = ScratchStore()
    day = Day(store, jobs_at_once)
    span_us = 10 * MINUTE_US if short else (days + 1) * DAY_US
    day.start_jobs(span_us + HOUR_US)
    day.clock.advance(MINUTE_US)
    day.meter()
    await day.engine.durable()
    before = sizes(store)
    for minute in range(days * 24 * 60):
        day.clock.advance(MINUTE_US)
        day.meter()
        if short and minute % 10 == 9:
            day.end_jobs()
            day.start_jobs(span_us + HOUR_US)
        if minute % 60 == 0:
            await day.engine.durable()
    await day.engine.durable()
    grown = sizes(store)
    grown.subtract(before)
    await day.engine.writer.close()
    return grown, day.engine


async def updates(many: int) -> Counter[str]:
    """Growth by table and index over changes of the priority of one job with a long script."""
    store = ScratchStore()
    engine = Engine(State(), store, Writer(store), VirtualClock(START), RandomIds())
    engine.commit([ClusterCreated("c1", "USD")], "bursard")
    spec = JobSpec(project="research", script="echo a line of a script\n" * 1_800)
    engine.commit(jobs.submit(engine.state, engine.ids, user="ann", spec=spec), "ann")
    (job,) = engine.state.jobs.values()
    await engine.durable()
    before = sizes(store)
    for number in range(many):
        engine.commit(jobs.update(engine.state, job, {"priority": number % 100}), "ann")
        if number % 100 == 99:
            await engine.durable()
    await engine.durable()
    grown = sizes(store)
    grown.subtract(before)
    await engine.writer.close()
    return grown


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--days", type=int, default=1)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--updates", type=int, default=0)
    options = parser.parse_args()
    if options.updates:
        total = sum(asyncio.run(updates(options.updates)).values())
        print(
            f"{options.updates} changes of one job: {total / 1000:.1f} kB, {total // options.updates} B each"
        )
        return 0
    grown, engine = asyncio.run(play(options.jobs, options.days, options.short))
    total = sum(grown.values())
    for name, count in grown.most_common():
        if count:
            print(f"{name:28} {count / options.days / 1000:10.1f} kB a day")
    print(f"{'all':28} {total / options.days / 1000:10.1f} kB a day, {engine.state.version} events")
    if not options.short:
        verdict = "met" if total / options.days <= BAR_BYTES else "MISSED"
        print(f"bar for a node of 8 jobs: {BAR_BYTES / 1e6} MB a day: {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
