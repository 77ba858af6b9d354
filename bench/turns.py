"""What one caller's valid calls cost everybody else: a plain call's time beside each kind of greedy caller.

Run     python bench/turns.py [alone deadlines submits lists plans servers followers reports refusals]
        BURSAR_BENCH_S: seconds of each kind (8); BURSAR_BENCH_TREE: the checkout whose daemon is tried
        (this one), so that the same bench tells before and after.
Prints  p50, p99 and the longest of `List`, `Submit` and `Nodes.List` of another user, in ms of the clock and
        in ms of CPU that the daemon used meanwhile, which others on the machine do not change much; what the
        greedy caller got done; CPU by kind of process, all counted.
Why     rooms bound how many calls one identity has, not whose turn it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import processes
from grpc import aio

from bursar.codec.spec import spec_to_wire
from bursar.model import JobSpec
from bursar.resources import ResourceRequest
from bursar.v1 import events_pb2, jobs_pb2, money_pb2, nodes_pb2

SECONDS = float(os.environ.get("BURSAR_BENCH_S", "8"))
TREE = Path(os.environ.get("BURSAR_BENCH_TREE", str(Path(__file__).parents[1])))
WAITING = int(os.environ.get("BURSAR_BENCH_WAITING", "4000"))
"""Jobs that wait, of the greedy caller."""
CALL_S = 60.0
HOUR_US = 3_600_000_000
SMALL = (ResourceRequest(None, 100, 1 << 20),)
LARGE = (ResourceRequest(None, 900_000, 1 << 20),)
"""What no node has: it waits."""
FOLLOWERS = 100


def spec(**more: Any) -> Any:
    """As a job of an hour on a tenth of a core."""
    asked = {"command": ("true",), "options": SMALL, "time_limit_us": HOUR_US} | more
    return spec_to_wire(JobSpec(**asked))


# --- the greedy


def deadline_that_cannot_be() -> jobs_pb2.SubmitRequest:
    """By so soon that nothing can be promised; eight alternatives, all of which some node has."""
    options = tuple(ResourceRequest(None, 100 + one, 1 << 20) for one in range(8))
    soon = time.time_ns() // 1000 + 60_000_000
    return jobs_pb2.SubmitRequest(spec=spec(options=options, deadline_at=soon), terse=True)


Work = Callable[[aio.Channel, list[tuple[str, str]], list[int]], Any]


def stream_of(method: str, request: Callable[[], Any]) -> Work:
    """Messages, one after another, as fast as the daemon takes them."""

    async def work(channel: aio.Channel, metadata: list[tuple[str, str]], done: list[int]) -> None:
        call = channel.stream_stream(method, lambda message: message.SerializeToString())

        async def messages() -> AsyncIterator[Any]:
            for _ in itertools.count():
                yield request()

        async for _ in call(messages(), metadata=metadata):
            done[0] += 1

    return work


def calls_of(method: str, request: Callable[[], Any]) -> Work:
    """One call after another."""

    async def work(channel: aio.Channel, metadata: list[tuple[str, str]], done: list[int]) -> None:
        call = channel.unary_unary(method, lambda message: message.SerializeToString())
        while True:
            await call(request(), metadata=metadata)
            done[0] += 1

    return work


def followers(method: str, request: Callable[[], Any]) -> Work:
    """One follower that takes all it is told."""

    async def work(channel: aio.Channel, metadata: list[tuple[str, str]], done: list[int]) -> None:
        call = channel.unary_stream(method, lambda message: message.SerializeToString())
        async for _ in call(request(), metadata=metadata):
            done[0] += 1

    return work


def batch(one: Callable[[], Any], many: int) -> Callable[[], Any]:
    made = jobs_pb2.SubmitBatch(jobs=[one() for _ in range(many)])
    return lambda: made


def plain_submit() -> jobs_pb2.SubmitRequest:
    return jobs_pb2.SubmitRequest(spec=spec(held=True), terse=True)


def greedy() -> dict[str, list[tuple[Work, int]]]:
    """What each kind does, and how often at a time."""
    jobs, events, money = (f"/bursar.v1.{name}/" for name in ("Jobs", "Events", "Money"))
    submits = stream_of(jobs + "SubmitBatches", batch(plain_submit, 64))
    large = jobs_pb2.PlanRequest(spec=spec(options=LARGE))
    page, follow = jobs_pb2.ListJobsRequest(page_size=1000), events_pb2.ListEventsRequest(follow=True)
    return {
        "alone": [],
        "deadlines": [(stream_of(jobs + "SubmitBatches", batch(deadline_that_cannot_be, 64)), 8)],
        "submits": [(submits, 16)],
        "lists": [(calls_of(jobs + "List", lambda: page), 64)],
        "plans": [(calls_of(jobs + "Plan", lambda: large), 64)],
        "servers": [(calls_of(events + "Server", lambda: events_pb2.ServerRequest(census=True)), 64)],
        "followers": [(followers(events + "List", lambda: follow), FOLLOWERS - 1), (submits, 1)],
        "reports": [
            (calls_of(money + "Cost", lambda: money_pb2.CostRequest(by=["job"])), 32),
            (calls_of(events + "Doctor", events_pb2.DoctorRequest), 32),
        ],
        "refusals": [(calls_refused(jobs + "Get", lambda: jobs_pb2.GetJobRequest(job="no-such-job")), 128)],
    }


def calls_refused(method: str, request: Callable[[], Any]) -> Work:
    """One call after another, each of which is refused."""

    async def work(channel: aio.Channel, metadata: list[tuple[str, str]], done: list[int]) -> None:
        call = channel.unary_unary(method, lambda message: message.SerializeToString())
        while True:
            try:
                await call(request(), metadata=metadata)
            except aio.AioRpcError:
                done[0] += 1

    return work


async def be_greedy(kind: str, address: str, token: str) -> None:
    """Until told to end: a process of its own."""
    metadata, done = [("authorization", f"Bearer {token}")], [0]
    faults: list[str] = []

    async def one(work: Work, number: int) -> None:
        options = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        async with aio.insecure_channel(address, options=options) as channel:
            while True:
                try:
                    await work(channel, metadata, done)
                except aio.AioRpcError as error:
                    faults.append(f"{error.code().name}: {error.details()}")
                    await asyncio.sleep(0.05)

    tasks = [
        asyncio.create_task(one(work, number)) for work, many in greedy()[kind] for number in range(many)
    ]
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    print(json.dumps({"done": done[0], "faults": len(faults), "fault": faults[:1]}), flush=True)
    for task in tasks:
        task.cancel()


# --- the modest


Took = dict[str, list[tuple[float, float]]]
"""By call: milliseconds of the clock, and of the daemon's CPU."""


def daemon_ms(pid: int) -> float:
    """CPU of all threads of the daemon so far."""
    found = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # a thread that has ended
            found += int(file.read_text().split()[0])
    return found / 1e6


def plain_calls(channel: grpc.Channel, token: str, for_s: float, pid: int) -> Took:
    """One after another with a pause, as a person or a script makes them."""
    metadata = (("authorization", f"Bearer {token}"),)
    asked: list[tuple[str, str, Callable[[], Any]]] = [
        ("ls", "/bursar.v1.Jobs/List", lambda: jobs_pb2.ListJobsRequest(page_size=20, user="modest")),
        ("submit", "/bursar.v1.Jobs/Submit", plain_submit),
        ("nodes", "/bursar.v1.Nodes/List", nodes_pb2.ListNodesRequest),
    ]
    took: Took = {name: [] for name, _, _ in asked}
    failed: list[str] = []
    until = time.monotonic() + for_s
    while time.monotonic() < until:
        for name, method, request in asked:
            call = channel.unary_unary(method, lambda message: message.SerializeToString())
            began, used = time.monotonic(), daemon_ms(pid)
            try:
                call(request(), metadata=metadata, timeout=CALL_S)
            except grpc.RpcError as error:
                failed.append(f"{name}: {error.code().name}: {error.details()}")  # type: ignore[attr-defined]
            took[name].append((1000 * (time.monotonic() - began), daemon_ms(pid) - used))
            time.sleep(0.02)
    if failed:
        print(f"  {len(failed)} calls FAILED, the first: {failed[0]}")
    return took


# --- the site


@contextmanager
def site() -> Iterator[tuple[str, int, dict[str, str]]]:
    """A daemon with two nodes and users with tokens."""
    folder = Path(tempfile.mkdtemp(prefix="bursar-turns-"))
    tokens = {name: f"secret-of-{name}" for name in ("greedy", "modest")}
    digests = {name: hashlib.sha256(secret.encode()).hexdigest() for name, secret in tokens.items()}
    lines = [
        f'[[token]]\nuser = "{name}"\nrole = "submitter"\nsha256 = "{digest}"'
        for name, digest in digests.items()
    ]
    path = folder / "tokens.toml"
    path.write_text("\n".join(lines))
    path.chmod(0o600)
    env = os.environ | {"BURSARD_TOKENS_FILE": str(path)}
    state = folder / "state"
    bursar = TREE / ".venv/bin/bursar"
    try:
        subprocess.run(
            [bursar, "up", "--agents", "2", "--state-dir", str(state), "--detach"],
            check=True, env=env, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        said = subprocess.run(
            [bursar, "status", "--state-dir", str(state), "-o", "json"], check=True, capture_output=True
        )
        status = json.loads(said.stdout)
        yield status["server"], status["daemon"]["pid"], tokens
    finally:
        subprocess.run([bursar, "down", "--state-dir", str(state)], check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)


async def fill(address: str, token: str) -> None:
    """What waits before anything is measured."""
    async with aio.insecure_channel(address, options=[("grpc.default_authority", "localhost")]) as channel:
        call = channel.stream_stream(
            "/bursar.v1.Jobs/SubmitBatches",
            lambda message: message.SerializeToString(),
            jobs_pb2.SubmitAnswers.FromString,
        )

        async def messages() -> AsyncIterator[Any]:
            for start in range(0, WAITING, 100):
                yield jobs_pb2.SubmitBatch(
                    jobs=[
                        jobs_pb2.SubmitRequest(spec=spec(options=LARGE, held=number % 4 != 0), terse=True)
                        for number in range(start, min(start + 100, WAITING))
                    ]
                )

        async for answer in call(messages(), metadata=(("authorization", f"Bearer {token}"),)):
            for one in answer.answers:
                if one.error:
                    raise SystemExit(one.message)


def at(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)]


def bench(kind: str, address: str, pid: int, tokens: dict[str, str]) -> None:
    """One kind of greed beside plain calls."""
    other = None
    if greedy()[kind]:
        other = subprocess.Popen(
            [sys.executable, __file__, "--greedy", kind, address, tokens["greedy"]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert other.stdout is not None
        other.stdout.readline()
        time.sleep(1.0)
    before = processes.cpu_ms()
    with grpc.insecure_channel(address, options=[("grpc.default_authority", "localhost")]) as channel:
        took = plain_calls(channel, tokens["modest"], SECONDS, pid)
    used = processes.used_ms(before, processes.cpu_ms())
    got = ""
    if other is not None:
        got = other.communicate("end\n")[0].strip()
    print(f"{kind:10} {got}")
    for name, values in took.items():
        clock, cpu = ([one[part] for one in values] for part in (0, 1))
        told = [f"{at(each, 0.5):8.1f} {at(each, 0.99):8.1f} {max(each):8.1f}" for each in (clock, cpu)]
        print(
            f"  {name:7} {len(values):4} calls, p50 p99 max, ms: {told[0]}   of the daemon's CPU: {told[1]}"
        )
    parts = [f"{name} {ms:.0f}" for name, ms in used.most_common() if ms >= 50]
    print("  CPU ms: " + "  ".join(parts), flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--greedy"]:
        asyncio.run(be_greedy(*sys.argv[2:5]))
        return
    processes.become_subreaper()
    kinds = sys.argv[1:] or list(greedy())
    print(f"machine  {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; {WAITING} jobs wait; {TREE}")
    with site() as (address, pid, tokens):
        asyncio.run(fill(address, tokens["greedy"]))
        for kind in dict.fromkeys(["alone", *kinds]):
            bench(kind, address, pid, tokens)


if __name__ == "__main__":
    main()
