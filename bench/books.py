"""The books of 200 nodes: how long `cost` over a month of them takes, and the whole FOCUS file.

    bench/books.py [--rows 1000000]

Writes so many charges into a SQLite file, hour by hour (of each node eight attempts, and what nobody held),
then asks as the daemon does: `cost` over as many as a month of 200 nodes has with one job on each (288,000:
the bar), and over all; FOCUS over all. Output: seconds of CPU, and of the clock; the peak of memory; that the
sums of `cost` are the sum of what was written, to the nano, and that sums of days are what the rows say.
Bars: `cost` of a month 1 s, FOCUS of a million rows 60 s of CPU and 1 GB. Exit code 1 where one is missed, or
where a sum is another.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from focus_check import NODES, START, charges

from bursar.clock import HOUR_US
from bursar.model import Device, NodeFacts
from bursard.events import JobHeld, encode
from bursard.ledger import PAID
from bursard.reports.cost import cost_table
from bursard.reports.files import FORMATS
from bursard.reports.focus import FocusContext, focus_lines
from bursard.reports.focus_columns import focus_columns
from bursard.store import Batch, ChargeFilter, ChargeRow, Dim, EventRow, SqliteStore, Unposted, days

COST_BAR_S, FOCUS_BAR_S, MEMORY_BAR_MIB = 1.0, 60.0, 1_000
MONTH_ROWS = 288_000
BY = (
    *(["project"], ["project", "user"], ["day"], ["kind"], ["node"], ["month", "model"], ["price", "pool"]),
    *(["attempt"], ["hour"]),
)


def write(store: SqliteStore, count: int) -> int:
    """All charges, an hour in a commit; what they sum to."""
    whole, hour, rows = 0, 0, list[ChargeRow]()
    for row in charges(count):
        if row.start_at >= START + (hour + 1) * HOUR_US:
            _commit(store, hour + 1, rows)
            hour, rows = hour + 1, []
        rows.append(row._replace(seq=hour + 1))
        whole += row.nanos
    _commit(store, hour + 1, rows)
    return whole


def _commit(store: SqliteStore, seq: int, rows: list[ChargeRow]) -> None:
    event = EventRow(seq, START + seq * HOUR_US, "bursard", encode(JobHeld(job_id="job_1")))
    store.append(Batch(events=[event], charges=rows))
    store.sum_days()  # as the daemon's writer does after a commit


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, with seconds of CPU and of the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    found = work()
    return found, time.process_time() - cpu, time.perf_counter() - clock


def costs(store: SqliteStore, count: int, whole: int, seq: int) -> Iterator[bool]:
    """Ask for each grouping, over the first so many rows; is it quick, and does it sum to all?"""
    hours = -(-count // (9 * NODES))
    until = START + hours * HOUR_US
    bar = COST_BAR_S if count <= MONTH_ROWS else float("inf")
    for by in BY:
        kinds = PAID if "project" in by else ()
        query = ChargeFilter(since=START, until=until, kinds=kinds)
        table, cpu, clock = timed(partial(cost_table, store, by, query, Unposted(seq, ())))
        print(
            f"cost --by {','.join(by)} of {count} charges: {len(table.rows)} rows, {cpu:.2f} s of CPU,"
            f" {clock:.2f} s"
        )
        yield cpu <= bar
        if not kinds:
            parts = store.charge_sums([Dim.PROJECT, Dim.KIND], query)
            yield table.total.nanos == sum(one.nanos for one in parts) == (whole or table.total.nanos)


def focus(store: SqliteStore, count: int) -> Iterator[bool]:
    """The file of all, in each form, to nowhere."""
    devices = tuple(Device(i, f"g{i}", "H100", 80 << 30) for i in range(8))
    nodes = {
        f"node_{node:04d}": NodeFacts(
            name=f"rack-{node:03d}", cpu_milli=96_000, memory_bytes=1 << 40, devices=devices, pool="onprem"
        )
        for node in range(NODES)
    }
    about = FocusContext(cluster_id="c1", provider="Bursar c1", currency="USD", nodes=nodes)
    for form, made in FORMATS.items():

        def whole(made: Any = made) -> int:
            return sum(map(len, made(focus_lines(store.charges(), about), focus_columns())))

        size, cpu, clock = timed(whole)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(
            f"focus {form}: {count} rows, {size / 1e6:.0f} MB, {cpu:.1f} s of CPU, {clock:.1f} s, peak"
            f" {peak} MiB"
        )
        yield cpu <= FOCUS_BAR_S * max(count, 1) / 1_000_000 and peak <= MEMORY_BAR_MIB


def main() -> int:
    """Write, ask, and say whether the bars were held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    count = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "books.db")
        whole, cpu, _ = timed(lambda: write(store, count))
        print(f"written: {count} charges of {NODES} nodes, {cpu:.1f} s of CPU")
        seq = -(-count // (9 * NODES))
        held = [*costs(store, min(MONTH_ROWS, count), 0, seq), *costs(store, count, whole, seq)]
        with store._reading() as connection:
            problems, cpu, _ = timed(lambda: list(days.problems(connection)))
        print(f"sums of days held against all charges: {cpu:.1f} s of CPU; problems: {len(problems)}")
        held += [not problems, *focus(store, count)]
        store.close()
    print("all bars held, and all sums tie" if all(held) else "a bar was missed, or a sum is another")
    return int(not all(held))


if __name__ == "__main__":
    sys.exit(main())
