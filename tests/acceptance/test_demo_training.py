"""The demo as a test: a distributed training on two nodes under a budget, through the command line alone.

The demo checks each of its own claims (states, exit codes, accuracy, sums that tie to the nano) and
ends with 1 where one does not hold; here it runs on a directory of its own, and what it wrote is read.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HANGS_S = 900
"""It takes under a minute on a quiet machine; how long it takes on a busy one is no fault of it."""


@pytest.mark.timeout(HANGS_S + 60)
def test_a_real_training_is_placed_held_metered_charged_and_reported(tmp_path: Path) -> None:
    export = tmp_path / "focus.csv"
    argv = [sys.executable, str(ROOT / "docs/examples/demo/demo.py"), str(tmp_path / "state"), str(export)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=HANGS_S)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr

    reached = [float(each) for each in re.findall(r"test accuracy ([\d.]+)%", done.stdout)]
    assert max(reached) > 95
    assert "BudgetCommitted" in done.stdout
    assert re.search(r"can never pay for this.* ask for a time limit of ", done.stderr)

    with export.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    training = [row for row in rows if row["x_Experiment"] == "digits"]
    assert len({row["ResourceId"] for row in training}) == 2
    assert {row["x_Model"] for row in training} == {"digits-cnn"}
