"""Whether four views of the same money agree to the nano-dollar: jobs, cost table, budget, FOCUS export.

Run     python docs/examples/demo/check_sums.py FOCUS.csv, with the cluster's jobs all ended.
Why     a sum that is nearly right is a sum nobody trusts; this reads the outputs as a stranger would.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from decimal import Decimal
from typing import Any


def ask(*words: str) -> Any:
    """The JSON of one command."""
    argv = [sys.executable, "-m", "bursar.cli.main", *words, "-o", "json"]
    return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def settled(job: dict[str, Any]) -> Decimal:
    """What a job has cost."""
    return Decimal(job["cost"]["settled"]["amount"])


def sums(focus: str) -> dict[str, Decimal]:
    """The same money, read in four places."""
    jobs = ask("ls", "--state", "all", "--limit", "100000")
    with open(focus, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["x_JobId"]]
    return {
        "jobs (bursar show)": sum(map(settled, (ask("show", job["id"]) for job in jobs)), Decimal()),
        "cost (bursar cost)": sum((Decimal(row["cost"]["amount"]) for row in ask("cost")["rows"]), Decimal()),
        "budget (settled)": sum(
            (Decimal(each["settled"]["amount"]) for each in ask("budget", "ls")), Decimal()
        ),
        f"export ({os.path.basename(focus)})": sum(
            (Decimal(row["EffectiveCost"]) for row in rows), Decimal()
        ),
    }


def main() -> int:
    """0 when they agree."""
    found = sums(sys.argv[1])
    width = max(map(len, found))
    for name, total in found.items():
        print(f"{name:<{width}}  {total:.9f} USD")
    if len(set(found.values())) != 1 or not all(found.values()):
        print("these sums should be equal and above zero", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
