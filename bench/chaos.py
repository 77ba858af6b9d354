"""kill -9 of anything at any moment, under a mixed load: nothing acknowledged is lost, nothing runs twice.

Run     make judge-kill, or python bench/chaos.py [--kills 1000] [--seed 1] [--minutes 60] [--batch 60]
Prints  after each batch what was killed and checked so far; every promise that was broken, with the seed.
        Exit code 1 when one was; the state directory is kept then.
Why     a crash between two lines is found by many crashes, not by thinking of one.

A cluster of three agents runs singles, batches, arrays, gangs, chains, retries, steps on two nodes, long
jobs, and bursts of short ones that wait at their node behind one another, under two hard budgets, while
clients hold, release and cancel. The killer waits for progress, then for a random moment.
After each batch the load stops, everything ends, and all is compared: what clients were told, what jobs did
(a file that each appends to, and a lock that each holds), what the books say, and which processes are left.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

from cluster import TERMINAL, Cluster, processes  # type: ignore[import-not-found]

from bursar.client import WireClient
from bursar.errors import BursarError, ServerUnavailable
from bursar.model import ArraySpec, Dependency, JobSpec, RetrySpec
from bursar.resources import ResourceRequest

SECOND_US = 1_000_000
BUDGETS = {"chaos/a": 40_000_000, "chaos/b": 40_000_000}
"""Nanos: what a few jobs hold at once, so that holds are asked for and given back all the time."""
STEP_S = 20.0
"""How long the killer waits for progress at most; the check after the batch judges whether there was any."""
DRAIN_S = 240.0
JOB = """
exec 9>>{work}/locks/$BURSAR_JOB_ID.$BURSAR_NODE_RANK
flock -n 9 || echo "double $BURSAR_JOB_ID $BURSAR_ATTEMPT $BURSAR_NODE_RANK" >> {work}/did
echo "start $BURSAR_JOB_ID $BURSAR_ATTEMPT $BURSAR_NODE_RANK" >> {work}/did
sleep {seconds}
echo "end $BURSAR_JOB_ID $BURSAR_ATTEMPT $BURSAR_NODE_RANK" >> {work}/did
exit {code}
"""
STEP = "exec bursar step --ntasks {tasks} -- sh -c {script}"
BURST, BURST_MILLI = 40, 600
"""Short jobs that come at once, each with most of a node. Once a few have ended, others wait behind them."""
AHEAD = "ahead of need: "


@dataclass
class Told:
    """What the daemon acknowledged: the job of each key, and what was asked of it."""

    jobs: dict[str, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    refusals: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Load(threading.Thread):
    """One client: it submits with keys until each is acknowledged, and orders its jobs about."""

    def __init__(self, name: str, cluster: Cluster, told: Told, seed: str) -> None:
        super().__init__(name=name, daemon=True)
        self.random = Random(seed)
        self.cluster, self.told, self.wanted = cluster, told, threading.Event()
        self.over = threading.Event()
        self.idle = threading.Event()
        self._count = 0
        self._mine: list[str] = []

    def run(self) -> None:
        with WireClient(self.cluster.server, patience_s=5) as client:
            while not self.over.is_set():
                if not self.wanted.wait(0.2):
                    self.idle.set()
                    continue
                self.idle.clear()
                try:
                    self._step(client)
                except ServerUnavailable:
                    time.sleep(0.05)
                except Exception as error:
                    self.told.wrong.append(f"{self.name}: {type(error).__name__}: {error}")
                time.sleep(self.random.uniform(0, 0.15))

    def _step(self, client: WireClient) -> None:
        ask = self.random.choices(
            (self._submit, self._submit_many, self._burst, self._order),
            weights=(5, 2, 0.4, 4 if self._mine else 0),
        )[0]
        ask(client)

    def _key(self) -> str:
        self._count += 1
        return f"{self.name}-{self._count}"

    def _submit(self, client: WireClient) -> None:
        key = self._key()
        spec = self._spec(key)
        while not self.over.is_set():
            try:
                self._took(key, client.submit(spec, idempotency_key=key).job.id)
                return
            except ServerUnavailable:
                time.sleep(0.1)
            except BursarError as error:
                self.told.refusals[type(error).__name__] += 1
                return

    def _submit_many(self, client: WireClient) -> None:
        keys = [self._key() for _ in range(self.random.randint(2, 10))]
        self._submit_all(client, [(self._spec(key), key) for key in keys])

    def _burst(self, client: WireClient) -> None:
        """Short jobs of one class, of which a node has room for one: the others wait behind it."""
        keys = [self._key() for _ in range(BURST)]
        script = JOB.format(work=self.cluster.work, seconds=0, code=0)
        self._submit_all(client, [(self._job(key, script, cpu_milli=BURST_MILLI), key) for key in keys])

    def _submit_all(self, client: WireClient, pairs: list[tuple[JobSpec, str]]) -> None:
        done = 0
        while done < len(pairs) and not self.over.is_set():
            with contextlib.suppress(ServerUnavailable):
                for answer in client.submit_many(pairs[done:]):
                    if answer.error:
                        self.told.refusals[answer.error] += 1
                    else:
                        self._took(pairs[done][1], answer.job.id)
                    done += 1

    def _took(self, key: str, job: str) -> None:
        if self.told.jobs.setdefault(key, job) != job:
            self.told.wrong.append(f"key {key} was {self.told.jobs[key]} and is {job}")
        self._mine.append(job)

    def _order(self, client: WireClient) -> None:
        """A verb for one of the newest jobs; what has ended meanwhile refuses it."""
        job = self.random.choice(self._mine[-20:])
        verb = self.random.choice(("hold", "release", "release", "cancel", "requeue"))
        try:
            getattr(client, verb)([job])
            if verb == "cancel":
                self.told.cancelled.add(job)
        except ServerUnavailable:
            if verb == "cancel":  # it may have come through
                self.told.cancelled.add(job)
        except BursarError as error:
            self.told.refusals[type(error).__name__] += 1

    def _spec(self, key: str) -> JobSpec:
        random = self.random
        kind = random.choice(("single", "single", "array", "gang", "chain", "failing", "long", "steps"))
        seconds = 600 if kind == "long" else random.choice((0, 0.05, 0.2, 0.6))
        code = random.choice((0, 1)) if kind == "failing" else 0
        script = JOB.format(work=self.cluster.work, seconds=seconds, code=code)
        chain = kind == "chain" and self._mine
        fields: dict[str, Any] = {"nodes": random.choice((2, 3))} if kind == "gang" else {}
        if kind == "steps":  # its tasks are counted as members of a gang are
            script = STEP.format(
                tasks=2, script=shlex.quote(script.replace("$BURSAR_NODE_RANK", "$BURSAR_STEP_RANK"))
            )
            fields = {"nodes": 2, "launch": "once"}
        if kind == "array":
            fields = {"array": ArraySpec(tuple(range(random.randint(2, 6))), random.choice((0, 2)))}
        return self._job(
            key,
            script,
            cpu_milli=random.choice((50, 100, 200)),
            depends_on=(Dependency(random.choice(self._mine[-5:]), "finished"),) if chain else (),
            retry=RetrySpec(on=("failed", "node_lost"), max=random.choice((0, 2))),
            held=random.random() < 0.05,
            **fields,
        )

    def _job(self, key: str, script: str, *, cpu_milli: int, **fields: Any) -> JobSpec:
        return JobSpec(
            name=key,
            project=self.random.choice([*BUDGETS, "free"]),
            command=("sh", "-c", script),
            env=(("CHAOS_HOME", str(self.cluster.home)),),
            workdir="/tmp",
            options=(ResourceRequest(cpu_milli=cpu_milli),),
            time_limit_us=20 * SECOND_US,
            **fields,
        )


class Killer:
    """It knows every process of the cluster, and when."""

    def __init__(self, cluster: Cluster, random: Random, progress: Callable[[], int]) -> None:
        self.cluster, self.random, self.progress = cluster, random, progress
        self.killed: Counter[str] = Counter()

    def once(self) -> None:
        """Wait for progress and a random moment, kill something, and have it started again."""
        before, deadline = self.progress(), time.monotonic() + STEP_S
        while self.progress() < before + self.random.randint(1, 6) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(self.random.uniform(0, 0.2))
        kinds = {
            "daemon": 6, "daemon twice": 2, "agent": 6, "agents": 2, "launcher": 4, "launchers": 1,
            "supervisor": 8, "supervisors": 2, "keeper": 1, "everything": 2,
        }  # fmt: skip
        getattr(self, self.random.choices(list(kinds), weights=list(kinds.values()))[0].replace(" ", "_"))()

    def _kill(self, kind: str, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.killed[kind] += 1

    def _one(self, pids: list[int]) -> list[int]:
        return [self.random.choice(sorted(pids))] if pids else []

    def _by_name(self, name: str) -> list[int]:
        """Launchers and supervisors call themselves so; they hold the cluster's directory."""
        found = []
        for pid in self.cluster.pids("bursar_agent.runner.launcher"):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    found.append(pid)
        return found

    def daemon(self) -> None:
        self._kill("daemon", self.cluster.pids("-m bursard "))

    def daemon_twice(self) -> None:
        """The second time while it reads its log."""
        self.daemon()
        deadline = time.monotonic() + STEP_S
        while not self.cluster.pids("-m bursard ") and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(self.random.uniform(0, 0.8))
        self.daemon()

    def agent(self) -> None:
        self._kill("agent", self._one(self.cluster.pids("-m bursar_agent ")))

    def agents(self) -> None:
        self._kill("agent", self.cluster.pids("-m bursar_agent "))

    def launcher(self) -> None:
        self._kill("launcher", self._one(self._by_name("bursar-launcher")))

    def launchers(self) -> None:
        self._kill("launcher", self._by_name("bursar-launcher"))

    def supervisor(self) -> None:
        self._kill("supervisor", self._one(self._by_name("bursar-attempt")))

    def supervisors(self) -> None:
        self._kill("supervisor", self._by_name("bursar-attempt"))

    def keeper(self) -> None:
        self._kill("keeper", self.cluster.pids("bursar.local.keeper"))
        self.cluster.up()

    def everything(self) -> None:
        self._kill("keeper", self.cluster.pids("bursar.local.keeper"))
        self._kill("daemon", self.cluster.pids("-m bursard "))
        self._kill("agent", self.cluster.pids("-m bursar_agent "))
        self._kill("launcher", self._by_name("bursar-launcher"))
        self._kill("supervisor", self._by_name("bursar-attempt"))
        self.cluster.up()


class Judge:
    """Everything that must be so once all has ended."""

    def __init__(self, cluster: Cluster, told: Told) -> None:
        self.cluster, self.told = cluster, told
        self.checked = 0
        self.ahead = 0
        """Attempts that waited at their node behind another."""
        self.steps = 0
        """Jobs that started steps and succeeded."""

    def drained(self) -> Iterator[str]:
        """Nodes come back, what waits is let go, what would run for long is cancelled, and all ends."""
        self.cluster.ready(120)
        deadline = time.monotonic() + DRAIN_S
        with WireClient(self.cluster.server, patience_s=5) as client:
            while True:
                live = [job for job in client.list() if job.state not in TERMINAL]
                if not live:
                    return
                if time.monotonic() > deadline:
                    for job in live[:5]:
                        yield f"{job.id} ({job.spec.name}) never ended: {job.state}, {job.reason.message}"
                    return
                for job in live:
                    with contextlib.suppress(BursarError):
                        client.release([job.id])
                    with contextlib.suppress(BursarError):
                        client.cancel([job.id], grace_us=0)
                        self.told.cancelled.add(job.id)
                time.sleep(0.5)

    def findings(self) -> Iterator[str]:
        yield from self.told.wrong
        with WireClient(self.cluster.server, patience_s=5) as client:
            jobs = {job.id: job for job in client.list(states=["all"])}
            tasks = {
                task.id: task
                for job in jobs.values() if job.HasField("array")
                for task in client.list(states=["all"], tasks_of=job.id)
            }  # fmt: skip
            yield from self._kept(jobs)
            yield from self._did(client, jobs, tasks)
            yield from self._books(client, jobs)
        yield from self._left()
        for words in (("doctor", "--full"), ("audit", "verify")):
            done = self.cluster.run(*words, code=None)
            if done.returncode:
                yield f"{' '.join(words)}: {done.stdout}{done.stderr}"

    def _kept(self, jobs: dict[str, Any]) -> Iterator[str]:
        """One job for each key, and for each key that was acknowledged the job that was named."""
        names = Counter(job.spec.name for job in jobs.values())
        yield from (f"{name} is {count} jobs" for name, count in names.items() if count > 1)
        for key, job in self.told.jobs.items():
            if job not in jobs:
                yield f"{key}: {job} was acknowledged and is gone"
            elif jobs[job].spec.name != key:
                yield f"{key}: {job} is {jobs[job].spec.name}"

    def _did(self, client: WireClient, jobs: dict[str, Any], tasks: dict[str, Any]) -> Iterator[str]:
        """No member began twice nor beside another attempt; what succeeded did all its work."""
        file = self.cluster.work / "did"
        did = Counter(file.read_text().splitlines() if file.exists() else ())
        self.checked = len(did)
        yield from (f"{line}: {count} times" for line, count in did.items() if count > 1)
        yield from (line for line in did if line.startswith("double"))
        ends = {tuple(line.split()[1:]) for line in did if line.startswith("end")}
        runs = {id: job for id, job in jobs.items() if not job.HasField("array")} | tasks
        placed = [attempt.why for job in runs.values() for attempt in job.attempts]
        self.ahead = sum(AHEAD in why for why in placed)
        self.steps = sum(job.spec.launch == "once" and job.state == "SUCCEEDED" for job in runs.values())
        for id, job in runs.items():
            last = str(job.attempts[-1].number) if job.attempts else ""
            nodes = max(job.spec.nodes, 1)
            if job.state == "SUCCEEDED":
                missing = [rank for rank in range(nodes) if (id, last, str(rank)) not in ends]
                if missing:
                    yield f"{id} succeeded, and its ranks {missing} of attempt {last} did not end"
            elif job.state == "CANCELLED" and id not in self.told.cancelled:
                parent = id.partition(".")[0]
                if parent not in self.told.cancelled and not job.spec.depends_on:
                    yield f"{id} is cancelled, and nobody asked for it: {job.reason.message}"
        known = {(id, str(attempt.number)) for id, job in runs.items() for attempt in job.attempts}
        cut = {id for id, job in runs.items() if job.left_out}
        for line in did:
            id, number = line.split()[1:3]
            if (id, number) not in known and id not in cut:
                yield f"{line}: the books know no such attempt"

    def _books(self, client: WireClient, jobs: dict[str, Any]) -> Iterator[str]:
        """Nothing is held for what has ended; budgets and jobs say the same sum."""
        spent: Counter[str] = Counter()
        for job in jobs.values():
            spent[job.spec.project] += job.settled_nanos
        for budget in client.budgets():
            project = budget.name.replace("-", "/")
            if budget.held_nanos:
                yield f"budget {budget.name} holds {budget.held_nanos} for nothing"
            if project in BUDGETS and budget.settled_nanos != spent[project]:
                yield f"budget {budget.name} settled {budget.settled_nanos}, its jobs {spent[project]}"

    def _left(self) -> Iterator[str]:
        """No process of a job is left. One that was killed a moment ago may need one to be gone."""
        deadline = time.monotonic() + 10
        while left := list(self._jobs_processes()):
            if time.monotonic() > deadline:
                yield from left
                return
            time.sleep(0.2)

    def _jobs_processes(self) -> Iterator[str]:
        mark = f"CHAOS_HOME={self.cluster.home}".encode()
        for pid in processes():
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")[-80:]
                    yield f"process {pid} is left of a job that has ended: {line!r}"


def watch_budgets(cluster: Cluster, told: Told, over: threading.Event) -> None:
    """Settled and held never pass the limit, whenever one looks."""
    with WireClient(cluster.server, patience_s=5) as client:
        while not over.wait(0.3):
            with contextlib.suppress(BursarError):
                for now in client.budgets():
                    if now.settled_nanos + now.held_nanos > now.limit_nanos:
                        told.wrong.append(f"budget {now.name} was passed: {now}")


def sockets(folder: str, names: list[str]) -> list[str]:
    """What cannot be copied."""
    return [name for name in names if Path(folder, name).is_socket()]


def run(asked: argparse.Namespace) -> int:
    cluster = Cluster(3)
    (cluster.work / "locks").mkdir()
    told, over = Told(), threading.Event()
    loads = [Load(f"c{number}", cluster, told, f"{asked.seed} {number}") for number in range(3)]
    file = cluster.work / "did"

    def progress() -> int:
        return len(told.jobs) + (file.stat().st_size // 40 if file.exists() else 0)

    killer, judge = Killer(cluster, Random(asked.seed), progress), Judge(cluster, told)
    began, batch, found = time.monotonic(), 0, []
    try:
        cluster.up()
        cluster.ready(60)
        for project, nanos in BUDGETS.items():
            spec = f"  scope: {{project: {project}}}\n  limit: {nanos / 1e9:.9f} USD\n  period: month\n"
            cluster.apply(
                f"kind: Budget\nname: {project.replace('/', '-')}\nspec:\n{spec}  enforcement: hard\n"
            )
        threading.Thread(target=watch_budgets, args=(cluster, told, over), daemon=True).start()
        for load in loads:
            load.start()
        while not found and killer.killed.total() < asked.kills:
            if time.monotonic() - began > 60 * asked.minutes:
                print("no more time")
                break
            for load in loads:
                load.wanted.set()
            batch += 1
            while killer.killed.total() < min(batch * asked.batch, asked.kills):
                killer.once()
            for load in loads:
                load.wanted.clear()
                load.idle.clear()
            for load in loads:
                load.idle.wait(60)
            found = [*judge.drained(), *judge.findings()]
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(killer.killed.items()))
            print(
                f"{time.monotonic() - began:6.0f} s  {killer.killed.total()} kills ({kinds}); "
                f"{len(told.jobs)} jobs acknowledged, {judge.checked} things done by jobs, "
                f"{judge.ahead} placed ahead, {judge.steps} with steps succeeded, "
                f"{dict(told.refusals)}: {len(found)} findings",
                flush=True,
            )
    finally:
        over.set()
        for load in loads:
            load.over.set()
        if found:
            kept = f"{cluster.home}-kept"
            print(f"seed {asked.seed}, kept in {kept}:", *found[:40], sep="\n  ", flush=True)
            with contextlib.suppress(shutil.Error):  # what was removed meanwhile
                shutil.copytree(cluster.home, kept, ignore=sockets)
        for pid in cluster.remove():
            found.append(f"process {pid} was left by `bursar down`")
            print(found[-1])
    print(f"{killer.killed.total()} kills, seed {asked.seed}: {len(found)} promises broken")
    return bool(found)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=60)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended with it
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
