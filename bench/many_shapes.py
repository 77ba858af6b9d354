"""What another job costs the loop when one user's jobs are all of different shapes.

Load    nodes that are full, and jobs of one user that ask for about the same without being alike: CPUs,
        priority and time limit differ from job to job. Submitted and planned in this process, as the daemon
        does it: a submission, then a pass.
Prints  for each size of the flood: queues that a plan was shown, and milliseconds of CPU of a submission with
        its pass, the median of so many.
"""

from __future__ import annotations

import argparse
import time

import msgspec
import numpy as np

from bursar.resources import ResourceRequest
from bursard.cycle import Cycle
from bursard.fleet.testing import FACTS, World

SECOND_US = 1_000_000


def flood(sizes: list[int], nodes: int, passes: int) -> None:
    """Print one line for each size."""
    world = World()
    for number in range(nodes):
        world.backend.connect(msgspec.structs.replace(FACTS, name=f"n-{number}", cpu_milli=1_000))
    for _ in range(nodes):
        world.submit()
    cycle = Cycle(world.engine)
    cycle.once()
    made = 0
    for size in sizes:
        while made < size - passes:
            submit(world, made)
            made += 1
        cycle.once()
        took = []
        for _ in range(passes):
            began = time.process_time()
            submit(world, made)
            cycle.once()
            took.append((time.process_time() - began) * 1e3)
            made += 1
        world.writer.flush()
        assert cycle.last is not None
        shown = len(cycle.last.snapshot.queues)
        print(
            f"{size:>7} jobs   {shown:>6} queues shown   {np.median(took):8.2f} ms CPU a submission",
            flush=True,
        )


def submit(world: World, number: int) -> None:
    """One more that is like no other."""
    world.submit(
        options=(ResourceRequest(None, 900 + number % 100, 1 << 20),),
        priority=number % 101,
        time_limit_us=(3_600 + number) * SECOND_US,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1_000, 2_000, 4_000, 8_000])
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--passes", type=int, default=15)
    flags = parser.parse_args()
    flood(flags.sizes, flags.nodes, flags.passes)


if __name__ == "__main__":
    main()
