"""The demo: a real cluster, a real training, and what it cost, through the command line alone.

Owns    the order of the commands and a check after each: what is printed comes from the system, and
        the demo fails where the system does not do what the text above it says.
Why     a stranger should see the whole way of a job (hold, place, run, meter, charge, report) in a
        minute or two, and `tests/acceptance` runs the same steps.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
HERE_SHOWN = HERE.relative_to(ROOT)
LIMIT = Decimal(3)
"""USD, as budget.yaml says it."""

REFUSED = 3
"""Exit code of the contract for a refusal by a budget."""


class Surprise(Exception):
    """The system did something else than the text says."""


class Cluster:
    """The command line, seen by the demo: every command is printed before it runs."""

    def __init__(self, environ: dict[str, str], state_dir: str, export: str) -> None:
        self.environ = environ
        self.state_dir = state_dir
        self.export = export

    def show(self, *words: str, exit_code: int = 0) -> None:
        """Print the command, run it with its output on our own, insist on its exit code."""
        print(f"\n{_bold('$ bursar ' + shlex.join(words))}", flush=True)
        found = subprocess.run(self._argv(words), env=self.environ, cwd=ROOT, check=False).returncode
        expect(found == exit_code, f"`bursar {words[0]}` ended with exit code {found}, not {exit_code}")

    def ask(self, *words: str, expected: Sequence[int] = (0,)) -> Any:
        """The JSON of a command that is not part of the story."""
        end = words.index("--") if "--" in words else len(words)
        argv = self._argv((*words[:end], "-o", "json", *words[end:]))
        done = subprocess.run(argv, env=self.environ, cwd=ROOT, check=False, capture_output=True, text=True)
        expect(done.returncode in expected, f"`bursar {shlex.join(words)}`: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def until(
        self, job: str, wanted: Callable[[dict[str, Any]], bool], what: str, limit_s: float = 30
    ) -> dict[str, Any]:
        """Ask for a job until it is as wanted; that it takes longer than so long is a defect."""
        deadline = time.monotonic() + limit_s
        while True:
            found: dict[str, Any] = self.ask("show", job)
            if wanted(found):
                return found
            expect(time.monotonic() < deadline, f"{job} is {found['state']} and not {what}")
            time.sleep(0.2)

    def read_log(self, job: str) -> str:
        """What a job wrote."""
        argv = self._argv(("logs", job))
        return subprocess.run(
            argv, env=self.environ, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def stop(self) -> None:
        """End what runs, if anything does, without a word."""
        argv, nowhere = self._argv(("down", "--state-dir", self.state_dir)), subprocess.DEVNULL
        subprocess.run(argv, env=self.environ, cwd=ROOT, check=False, stdout=nowhere, stderr=nowhere)

    def _argv(self, words: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "bursar.cli.main", *words]


def expect(holds: bool, message: str) -> None:
    """Stop the demo where it would begin to lie."""
    if not holds:
        raise Surprise(message)


def amount(money: dict[str, str]) -> Decimal:
    """Money of the JSON output."""
    return Decimal(money["amount"])


# --- the story ------------------------------------------------------------------------------------


def start(cluster: Cluster) -> None:
    """Two nodes from nothing."""
    say("1. A whole cluster on this machine: one daemon, two nodes, the shipped price catalogue.")
    cluster.show("up", "--agents", "2", "--state-dir", cluster.state_dir, "--detach")
    # Another `bursar up` of the same user may be running: talk to ours.
    cluster.environ["BURSAR_SERVER"] = cluster.ask("status", "--state-dir", cluster.state_dir)["server"]
    cluster.show("nodes")


def set_budget(cluster: Cluster) -> None:
    """A hard limit on everything below `research`."""
    say("2. A budget of 3 USD a month for everything below project `research`. It is never passed.")
    cluster.show("policy", "apply", str(HERE_SHOWN / "budget.yaml"))
    (budget,) = cluster.ask("budget", "ls")
    expect(amount(budget["limit"]) == LIMIT, f"the budget says {budget['limit']}")


def train(cluster: Cluster) -> None:
    """The distributed training."""
    say("3. A training of a small convolutional network on two nodes (PyTorch, torchrun, gloo).")
    cluster.show("submit", str(HERE_SHOWN / "train.yaml"), "--follow")
    cluster.show("show", "digits-ddp")
    job = cluster.ask("show", "digits-ddp")
    (attempt,) = job["attempts"]
    expect(job["state"] == "SUCCEEDED", f"the training is {job['state']}")
    expect(len({node["node"] for node in attempt["nodes"]}) == 2, "the gang was not on two nodes")
    expect(amount(job["cost"]["settled"]) > 0, "the training cost nothing")
    expect(amount(job["cost"]["held"]) == 0, "money is still held for a job that has ended")
    log = cluster.read_log("digits-ddp")
    reached = re.findall(r"test accuracy ([\d.]+)%", log)
    expect(bool(reached) and float(reached[-1]) > 95, "the training did not pass 95 %")


def sweep(cluster: Cluster) -> None:
    """Six tasks from one file."""
    say("4. A sweep over six learning rates: one file, six tasks, as many at once as fit.")
    cluster.show("submit", str(HERE_SHOWN / "sweep.yaml"), "--wait")
    cluster.show("ls", "--tasks", "digits-sweep", "--columns", "id,state,where,elapsed,cost")
    job = cluster.ask("show", "digits-sweep")
    expect(job["array"]["counts"] == {"SUCCEEDED": 6}, f"the tasks are {job['array']['counts']}")
    lines = [cluster.read_log(f"digits-sweep[{index}]").strip() for index in range(6)]
    expect(all("test accuracy" in line for line in lines), "a task of the sweep wrote no result")
    loop = '$ for i in 0 1 2 3 4 5; do bursar logs "digits-sweep[$i]"; done'
    print(f"\n{_bold(loop)}")
    print("\n".join(lines), flush=True)


def hold_back(cluster: Cluster) -> None:
    """One job waits for money that another one holds."""
    say(
        "5. Now a long job. Its worst case is held at once; a second one must wait until the budget\n"
        "   can pay for both, although a node is free."
    )
    hours = hours_for(cluster, LIMIT * Decimal("0.55"))
    common = ("--project", "research/vision", "--experiment", "nightly", "--model", "digits-cnn")
    work = ("--", "sleep", "3600")
    cluster.show("run", "--name", "evaluation", *common, "--time-limit", f"{hours}h", *work)
    cluster.until("evaluation", lambda job: bool(job["state"] == "RUNNING"), "running")
    cluster.show("run", "--name", "second", *common, "--time-limit", f"{hours}h", *work)
    cluster.until("second", waits_for_money, "waiting for the budget")
    cluster.show("explain", "second")
    cluster.show("budget", "ls")
    (budget,) = cluster.ask("budget", "ls")
    expect(amount(budget["held"]) > LIMIT / 2, "the budget holds nothing for the running job")
    expect(amount(budget["settled"]) + amount(budget["held"]) <= LIMIT, "the hard budget was passed")

    say("   When the first one ends, what it did not use is free again, and the second one starts.")
    cluster.show("cancel", "evaluation")
    cluster.until("second", lambda job: bool(job["state"] == "RUNNING"), "running")
    cluster.show("ls", "--project", "research", "--columns", "number,name,state,where,elapsed,cost")
    cluster.show("cancel", "second")
    for name in ("evaluation", "second"):
        cluster.until(name, lambda job: bool(job["state"] == "CANCELLED"), "cancelled")


def waits_for_money(job: dict[str, Any]) -> bool:
    """PENDING, and the budget is the reason."""
    codes = ("BudgetCommitted", "BudgetExhausted")
    return job["state"] == "PENDING" and (job["reason"] or {}).get("code") in codes


def hours_for(cluster: Cluster, money: Decimal) -> int:
    """The time limit whose worst case on one CPU of this machine is about `money`."""
    plan = cluster.ask("run", "--dry-run", "--project", "research/vision", "--time-limit", "1h", "--", "true")
    return max(1, math.ceil(money / amount(plan["rate_per_hour"])))


def refuse(cluster: Cluster) -> None:
    """A job that the budget could never pay for."""
    say("6. A job that this budget can never pay for is refused before it waits for nothing.")
    hours = hours_for(cluster, LIMIT * 2)
    cluster.show(
        *("run", "--name", "too-large", "--project", "research/vision", "--nodes", "2"),
        *("--time-limit", f"{hours}h", "--", "python", "train.py"),
        exit_code=REFUSED,
    )
    names = [job["name"] for job in cluster.ask("ls", "--state", "all")]
    expect("too-large" not in names, "the refused job is in the queue")


def report(cluster: Cluster, period: str) -> None:
    """What it cost, three ways, and that they agree."""
    say("7. What it cost, by experiment and model; the budget; and the export for the finance department.")
    cluster.show("cost", "--by", "experiment,model")
    cluster.show("budget", "ls")
    cluster.show("report", "focus", "--period", period, "--out", cluster.export)
    say("   The same money in the jobs, the cost table, the budget and the export, to the nano-dollar:")
    command = f"python {HERE_SHOWN / 'check_sums.py'} {cluster.export}"
    print(f"\n{_bold('$ ' + command)}", flush=True)
    argv = [sys.executable, str(HERE / "check_sums.py"), cluster.export]
    code = subprocess.run(argv, env=cluster.environ, cwd=ROOT, check=False).returncode
    expect(code == 0, "the sums do not tie")


# --- the frame ------------------------------------------------------------------------------------


def say(text: str) -> None:
    """A heading of the story."""
    print(f"\n{text}", flush=True)


def _bold(text: str) -> str:
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return text if plain else f"\x1b[1m{text}\x1b[0m"


def environment() -> dict[str, str]:
    """Jobs shall find this very Python, and no other cluster's address or key may interfere."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BURSAR")}
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ.get('PATH', os.defpath)}"
    return environ


def main(state_dir: str = ".demo", export: str = "demo-focus.csv") -> int:
    """The whole story; 1 when the system did not do as told. Paths are relative to the checkout."""
    began, period = time.monotonic(), time.strftime("%Y-%m", time.gmtime())
    cluster = Cluster(environment(), state_dir, export)
    if (ROOT / state_dir).exists():  # an earlier demo's, perhaps interrupted
        cluster.stop()
        shutil.rmtree(ROOT / state_dir)
    try:
        for step in (start, set_budget, train, sweep, hold_back, refuse):
            step(cluster)
        report(cluster, period)
        say("8. Everything stops; the state stays, and `bursar up` would go on from it.")
        cluster.show("down", "--state-dir", state_dir)
    except Surprise as surprise:
        print(f"\nthe demo failed: {surprise}\nlogs: {state_dir}/logs", file=sys.stderr)
        cluster.stop()
        return 1
    except KeyboardInterrupt:
        cluster.stop()
        return 130
    print(f"\nDone in {time.monotonic() - began:.0f} s. The export is in {export}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
