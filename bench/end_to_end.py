"""The whole system's speed: real processes, durable answers, every job charged, beside the machine's limits.

Run     python bench/end_to_end.py [noop submit latency restart]   (all of them without an argument);
        BURSAR_BENCH_JOBS sets the number of no-op jobs
Prints  each figure, the machine's own limit measured in the same run, and the ratio.
Why     a figure without the machine's limit says more about the machine than about the scheduler.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import processes

from bursar.client import AsyncWireClient, WireClient
from bursar.model import JobSpec
from bursar.resources import ResourceRequest

NOOP_JOBS = int(os.environ.get("BURSAR_BENCH_JOBS", "2000"))
ARRAY_TASKS = 1000
PENDING_JOBS = 10_000
PROBE_S = 1.0
POLL_S = 0.05
"""How often the client asks whether all is over: each question costs the server as much as half a job."""
BURSAR = Path(sys.executable).with_name("bursar")


def spawns_per_s() -> tuple[float, float]:
    """posix_spawn of /bin/true from one process, what no scheduler can pass; and CPU ms of each."""
    began, count, before = time.perf_counter(), 0, _own_and_children_s()
    while time.perf_counter() - began < PROBE_S:
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
        count += 1
    return count / (time.perf_counter() - began), 1000 * (_own_and_children_s() - before) / count


def _own_and_children_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def fsyncs_per_s(folder: Path) -> float:
    """Small appends, each synced."""
    fd = os.open(folder / "fsync-probe", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < PROBE_S:
        os.write(fd, b"x" * 200)
        os.fsync(fd)
        count += 1
    os.close(fd)
    return count / (time.perf_counter() - began)


@contextmanager
def cluster(agents: int = 1) -> Iterator[tuple[Path, str]]:
    """A fresh cluster; (state directory, server address)."""
    folder = Path(tempfile.mkdtemp(prefix="bursar-bench-"))
    state = folder / "state"
    try:
        bursar("up", "--agents", str(agents), "--state-dir", str(state), "--detach")
        yield state, status(state)["server"]
    finally:
        bursar("down", "--state-dir", str(state))
        shutil.rmtree(folder, ignore_errors=True)


def bursar(*argv: str) -> str:
    return subprocess.run([BURSAR, *argv], check=True, capture_output=True, text=True).stdout


def status(state: Path) -> dict[str, object]:
    answer: dict[str, object] = json.loads(bursar("status", "--state-dir", str(state), "-o", "json"))
    return answer


def noop(milli: int = 1000, **changes: object) -> JobSpec:
    return JobSpec(command=("/bin/true",), options=(ResourceRequest(cpu_milli=milli),), **changes)  # type: ignore[arg-type]


def percentiles(values: Sequence[float]) -> str:
    ordered = sorted(values)

    def at(q: float) -> float:
        return ordered[min(int(q * len(ordered)), len(ordered) - 1)]

    return f"p50 {at(0.5):.1f}  p90 {at(0.9):.1f}  p99 {at(0.99):.1f}  max {ordered[-1]:.1f}"


# --- the benches


def bench_noop() -> None:
    """No-op jobs from submit to SUCCEEDED and settled, and what each costs of CPU, wherever it is spent."""
    array = f"an array of {ARRAY_TASKS} through the CLI, 0.1 CPU each"
    for label, count, drive in (
        ("1 CPU each, 2 slots", NOOP_JOBS, lambda server: run_noops(server, 1000)),
        ("0.1 CPU each, 20 slots", NOOP_JOBS, lambda server: run_noops(server, 100)),
        (array, ARRAY_TASKS, run_array),
    ):
        spawn, spawn_ms = spawns_per_s()
        with cluster() as (_, server):
            before = processes.cpu_ms()
            seconds = drive(server)
            used = processes.used_ms(before, processes.cpu_ms())
        rate = count / seconds
        print(
            f"noop     {count} jobs, {label}: {rate:.0f} jobs/s = {rate / spawn:.3f} of posix_spawn"
            f" ({spawn:.0f}/s, {spawn_ms:.2f} ms of CPU); goal 0.20; HyperQueue 0.26"
        )
        parts = "  ".join(f"{kind} {ms / count:.2f}" for kind, ms in used.most_common() if ms >= count / 200)
        print(f"         CPU ms/job, every process: {used.total() / count:.2f} (goal 3.3) = {parts}")


def run_noops(server: str, milli: int) -> float:
    """Submit over one `SubmitMany`; seconds until the last is settled."""
    return asyncio.run(_run_noops(server, milli))


def run_array(server: str) -> float:
    """As a user would: one `bursar submit --wait` of a job file."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as job:
        job.write(f"array: 0-{ARRAY_TASKS - 1}\nresources: {{cpus: 0.1}}\ncommand: [/bin/true]\n")
        job.flush()
        began = time.perf_counter()
        bursar("submit", job.name, "--wait", "--server", server)
        return time.perf_counter() - began


def daemon_pid(state: Path) -> int:
    return int(status(state)["daemon"]["pid"])  # type: ignore[index]


async def _run_noops(server: str, milli: int) -> float:
    client = AsyncWireClient(server)
    began = time.perf_counter()
    async for answer in client.submit_many([noop(milli)] * NOOP_JOBS):
        if answer.error:
            raise SystemExit(f"refused: {answer.message}")
    while True:
        info = await client.server()
        if info.pending + info.running == 0:
            break
        await asyncio.sleep(POLL_S)
    seconds = time.perf_counter() - began
    failed = [job.id async for job in client.list(states=["failed", "cancelled"])]
    cost = await client.cost(by=["job"]) if NOOP_JOBS <= 5000 else None
    await client.close()
    if failed or (cost is not None and cost.total.jobs != NOOP_JOBS):
        raise SystemExit(f"not all succeeded and were charged: {len(failed)} failed")
    return seconds


def bench_submit() -> None:
    """Submissions acknowledged durably."""
    with cluster() as (state, server):
        sync = fsyncs_per_s(state)
        many, single = asyncio.run(submissions(server))
        print(f"submit   SubmitMany: {many:.0f}/s over one connection (goal 1500); fsync {sync:.0f}/s")
        print(f"submit   single calls, 8 in flight: {single:.0f}/s (goal 600)")
        job = state / "true.yaml"
        job.write_text("run: 'true'\nheld: true\n")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        for _ in range(10):
            bursar("submit", str(job), "--server", server)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 10
        print(f"submit   `bursar submit` as a process: {1000 * cpu:.0f} ms of CPU (goal 350)")


async def submissions(server: str) -> tuple[float, float]:
    client = AsyncWireClient(server)
    count = 5000
    began = time.perf_counter()
    async for answer in client.submit_many([noop(held=True)] * count):
        assert not answer.error, answer.message
    many = count / (time.perf_counter() - began)
    count, left = 3000, iter(range(3000))

    async def worker() -> None:
        for _ in left:
            await client.submit(noop(held=True), terse=True)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(8)))
    single = count / (time.perf_counter() - began)
    await client.close()
    return many, single


def bench_latency() -> None:
    """Submit → the job's first instruction, on an idle cluster."""
    with cluster() as (state, server):
        client = WireClient(server)
        out = state / "started"
        spec = JobSpec(
            command=("/bin/date", "+%s%N"), options=(ResourceRequest(cpu_milli=100),), workdir=str(state)
        )
        latencies, ends = [], []
        for _ in range(200):
            began_ns = time.time_ns()
            job = client.submit(spec, terse=True).job
            client.wait([job.id])
            ends.append((time.time_ns() - began_ns) / 1e6)
            log = b"".join(chunk.data for chunk in client.logs(job.id))
            latencies.append((int(log) - began_ns) / 1e6)
        out.unlink(missing_ok=True)
        print(f"latency  submit to first instruction, ms: {percentiles(latencies)} (goal p50 25, p99 80)")
        print(f"latency  submit to SUCCEEDED heard by a watch, ms: {percentiles(ends)}")


def bench_restart() -> None:
    """Time from kill -9 with many pending jobs → ready again, nothing acknowledged lost; memory with them."""
    with cluster() as (state, server):
        acknowledged = asyncio.run(fill(server))
        pid = daemon_pid(state)
        rss = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        times = []
        for _ in range(3):
            pid = daemon_pid(state)
            os.kill(pid, signal.SIGKILL)
            began = time.perf_counter()
            times.append(asyncio.run(until_ready(server, began)))
        lost = asyncio.run(missing(server, acknowledged))
        pid = daemon_pid(state)
        again = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    print(
        f"restart  kill -9 with {PENDING_JOBS} pending: ready again after"
        f" {statistics.median(times):.2f} s median of {len(times)} (goal 3), {lost} acked lost (goal 0)"
    )
    print(
        f"memory   bursard with {PENDING_JOBS} pending: {rss / 1e6:.0f} MB; after a restart"
        f" {again / 1e6:.0f} MB (goal 150)"
    )


async def fill(server: str) -> set[str]:
    client = AsyncWireClient(server)
    specs = (
        noop(held=index % 2 == 0, name=f"job-{index}", project="bench/fill", priority=index % 3 * 25)
        for index in range(PENDING_JOBS)
    )
    blocked = (JobSpec(**{**_fields(spec), "nodes": 2}) for spec in specs)
    ids = {answer.job.id async for answer in client.submit_many(blocked)}
    await client.close()
    return ids


def _fields(spec: JobSpec) -> dict[str, object]:
    return {name: getattr(spec, name) for name in spec.__struct_fields__}


async def until_ready(server: str, began: float) -> float:
    while True:
        client = AsyncWireClient(server)
        try:
            info = await asyncio.wait_for(client.server(), 2)
            if info.ready:
                return time.perf_counter() - began
        except Exception:
            await asyncio.sleep(0.02)
        finally:
            await client.close()


async def missing(server: str, acknowledged: set[str]) -> int:
    client = AsyncWireClient(server)
    found = {job.id async for job in client.list(states=["pending"])}
    await client.close()
    return len(acknowledged - found)


BENCHES = {"noop": bench_noop, "submit": bench_submit, "latency": bench_latency, "restart": bench_restart}


def main() -> None:
    processes.become_subreaper()
    processes.compile_as_installed()
    print(f"machine  {os.cpu_count()} CPUs, Python {sys.version.split()[0]}")
    for name in sys.argv[1:] or list(BENCHES):
        BENCHES[name]()


if __name__ == "__main__":
    main()
