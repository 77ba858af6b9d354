"""A cloud without an account: a spot machine is rented, taken back and replaced, and all of it is given back.

Owns    the order of the commands and a check after each, as `demo.py` beside it.
Why     stock-outs, spot notices and failover are seen in a minute, for play money, before a real cloud shows
        them for real; `tests/acceptance` runs the same steps.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time

from demo import HERE_SHOWN, ROOT, Cluster, Surprise, amount, environment, expect, say

NAME = "cloud-train"
PATIENCE_S = 150
"""It takes seconds on a quiet machine."""


def start(cluster: Cluster) -> None:
    """A daemon that may rent machines."""
    say("1. A cluster with a cloud of its own: zones, machine types, prices, quotas, and what goes wrong.")
    cluster.show("up", "--cloud", "demo", "--state-dir", cluster.state_dir, "--detach")
    cluster.environ["BURSAR_SERVER"] = cluster.ask("status", "--state-dir", cluster.state_dir)["server"]
    cluster.show("cloud", "check")


def rent(cluster: Cluster) -> None:
    """A job that fits on no node gets a machine where there is one."""
    say("2. A job that needs a GPU: no node has one, so the cheapest machine that has is rented for it.")
    checkpoint = ROOT / cluster.state_dir / "step"  # where machines share a disk, it outlives them
    cluster.show("submit", "--env", f"CHECKPOINT={checkpoint}", str(HERE_SHOWN / "cloud-train.yaml"))
    cluster.until(NAME, lambda job: bool(job["state"] == "RUNNING"), "running", limit_s=PATIENCE_S)
    cluster.show("cloud", "ls")
    expect(all(one["market"] == "spot" for one in cluster.ask("cloud", "ls")), "it is no spot machine")
    say("   In the first zone that was asked there was none left: the next one had it.")
    gone = cluster.ask("events", "--kind", "machine-gone")
    expect("NoCapacity" in json.dumps(gone), "no zone was short of machines")


def lose(cluster: Cluster) -> None:
    """Its provider takes the machine back; the job goes on elsewhere."""
    say(
        "3. Its provider says that it takes the machine back. The job writes a checkpoint, waits again,\n"
        "   and goes on where it was, on another machine."
    )
    for machine in cluster.ask("cloud", "ls"):
        folder = ROOT / cluster.state_dir / "daemon" / "machines" / machine["provider_id"]
        with contextlib.suppress(FileNotFoundError):  # its provider was quicker
            (folder / "take-back").touch()
    cluster.until(NAME, lambda job: len(job["attempts"]) > 1, "in another attempt", limit_s=PATIENCE_S)
    cluster.show("wait", NAME, "--timeout", str(PATIENCE_S))
    cluster.show("show", NAME)
    cluster.show("logs", NAME)
    job = cluster.ask("show", NAME)
    first = job["attempts"][0]
    expect(first["end_cause"] == "preempted", f"the first attempt ended {first['end_cause']}")
    expect("begins at step 0" not in cluster.read_log(NAME), "the second attempt began anew")


def pay(cluster: Cluster) -> None:
    """Who pays for what."""
    say("4. What it cost: the job pays for its launches and its share; what was kept alive is the pool's.")
    cluster.show("cost", "--by", "project,job")
    cluster.show("report", "statement", "--period", time.strftime("%Y-%m", time.gmtime()))
    expect(amount(cluster.ask("show", NAME)["cost"]["settled"]) > 0, "the job cost nothing")


def give_back(cluster: Cluster) -> None:
    """Idle for ten seconds, a machine is given back."""
    say("5. Nobody needs the machine any more: after ten idle seconds it is given back.")
    deadline = time.monotonic() + PATIENCE_S
    while cluster.ask("cloud", "ls"):
        expect(time.monotonic() < deadline, "the machine is still there")
        time.sleep(0.5)
    cluster.show("cloud", "ls")
    cluster.show("events", "--kind", "machine-gone")


def main(state_dir: str = ".demo-cloud") -> int:
    """The whole story; 1 when the system did not do as told."""
    began = time.monotonic()
    cluster = Cluster(environment(), state_dir, "")
    if (ROOT / state_dir).exists():
        cluster.stop()
        shutil.rmtree(ROOT / state_dir)
    try:
        for step in (start, rent, lose, pay, give_back):
            step(cluster)
        say("6. Everything stops; had a machine been left, it would be given back now.")
        cluster.show("down", "--state-dir", state_dir)
    except Surprise as surprise:
        print(f"\nthe demo failed: {surprise}\nlogs: {state_dir}/logs", file=sys.stderr)
        cluster.stop()
        return 1
    except KeyboardInterrupt:
        cluster.stop()
        return 130
    print(f"\nDone in {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
