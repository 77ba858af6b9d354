"""Random histories of budgets under a clock that is set wrong and right again: are they what `cost` says?

    bench/budget_histories.py [--seconds 60] [--first 0] [--most 100000]

Each history has 14 steps: the clock jumps and is trusted, months are closed by it, jobs start, are metered
and end, budgets are removed and applied again, nodes reboot. After each step every budget has spent what the
rows of its scope and period say, no hard limit is passed of a budget that was there all the time, and nothing
is held in a period that its budget is not in; at its end the rows follow from the log, nodes cost what facts
and time say, and a replay gives the same state.
Output: how many histories and steps, and the seeds of those that broke something; exit code 1 then.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

from clock_lives import ACTS, Life, act

from bursar.clock import HOUR_US

STEPS = 14


def history(seed: int, counts: Counter[str]) -> str:
    """Live through one; what broke, or nothing."""
    choose = random.Random(seed)
    told: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        life = Life(Path(folder))
        try:
            life.run(time_limit_us=HOUR_US)
            life.check()
            for _ in range(STEPS):
                what = choose.choice(list(ACTS))
                how = choose.choice(ACTS[what] or (None,))
                told.append(f"{what} {how}")
                act(life, what, how)
            life.check_books()
        except AssertionError as error:
            return f"{str(error).splitlines()[0]} after {told}"
        counts["steps"] += STEPS
        counts["closed months"] += len(life.state.closed.all)
        counts["late rows"] += sum(bool(row.corrects) for row in life.writer.charges)
        counts["attempts"] += len({row.attempt_id for row in life.writer.charges} - {""})
    return ""


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--most", type=int, default=100_000)
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    counts: Counter[str] = Counter()
    began, broke, done = time.monotonic(), 0, 0
    while done < asked.most and time.monotonic() - began < asked.seconds:
        if found := history(asked.first + done, counts):
            broke += 1
            print(f"seed {asked.first + done}: {found}", flush=True)
        done += 1
    print(f"{done} histories from seed {asked.first}, {dict(counts)}; {broke} broke something")
    return 1 if broke else 0


if __name__ == "__main__":
    sys.exit(main())
