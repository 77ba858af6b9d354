"""What one GPU machine shows of detection, isolation, metering and profiling, beside what was known.

Run     python bench/gpu_check.py [--double] [--out FILE]; less than four minutes; `--double` needs no device
Prints  each figure beside the one known of an H200 (docs/metering.md), and BAD where something does not hold;
        then exit code 1.
Why     no test can have a device. Whoever has one for five minutes learns from this whether all of it is so.

It changes no setting of any device. MPS is started and ended by the agent, in its own folder.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from bursar.clock import SystemClock, parse_instant
from bursar_agent import mps
from bursar_agent.probes import recorded, recorded_mps
from bursar_agent.probes.energy import EnergyMeter
from bursar_agent.probes.nvml import NvmlGpus

DOUBLE = "--double" in sys.argv
LOAD = [sys.executable, str(Path(__file__).with_name("gpu_load.py").absolute()), *["--double"] * DOUBLE]
BURSAR = [sys.executable, "-P", "-m", "bursar.cli.main"]
WINDOW_S = 1.5 if DOUBLE else 4.0
JOB_S = 3 if DOUBLE else 12
HALVES_S = 2 if DOUBLE else 9
COUNTER_EVERY_S = 0.2

KNOWN = {
    "idle": recorded.IDLE,
    "held": recorded.HELD,
    "bf16": recorded.BF16_PRODUCT,
    "fp32": recorded.FP32_PRODUCT,
    "memory": recorded.MEMORY_BOUND,
    "tiny": recorded.TINY_KERNELS,
    "bf16+memory": recorded.SHARED,
}


class Report:
    """What was found, printed as it comes and kept as JSON."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {"double": DOUBLE}
        self.bad: list[str] = []
        self.began = time.perf_counter()

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.began:5.1f}] {text}", flush=True)

    def keep(self, name: str, value: Any, text: str = "") -> None:
        self.found[name] = value
        self.say(text or f"{name}: {value}")

    def check(self, holds: bool, text: str) -> None:
        self.say(f"{'ok ' if holds else 'BAD'} {text}")
        if not holds:
            self.bad.append(text)

    def section(self, name: str, work: Callable[[], None]) -> None:
        self.say(f"== {name}")
        try:
            work()
        except Exception as problem:
            said = getattr(problem, "stderr", "") or ""
            self.check(False, f"{name}: {type(problem).__name__}: {problem} {said[-600:]}")


# --- loads under our own eyes


class Worker:
    """A process that does one load after another."""

    def __init__(self, **env: str) -> None:
        self.process = subprocess.Popen(
            [*LOAD, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, said = self.process.communicate()
            raise RuntimeError(f"the load ended: {said[-600:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def begin(self, name: str, seconds: float) -> None:
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        self.process.stdin.write(f"{name} {seconds}\n")
        self.process.stdin.flush()
        while name not in ("take", "facts") and self.process.stderr.readline().strip() != "READY":
            if self.process.poll() is not None:
                raise RuntimeError("the load ended")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Device:
    """Device 0 as the agent's own probe sees it."""

    def __init__(self) -> None:
        self.double = recorded.RecordedNvml() if DOUBLE else None
        self.probe = NvmlGpus(None if self.double is None else lambda: self.double)

    def counter(self) -> int:
        found = self.probe.energy_millijoules(0)
        if found is None:
            raise RuntimeError("there is no counter of energy")
        return found

    def samples_of(self, seconds: float) -> list[tuple[int, int]]:
        """What the driver keeps of so many seconds: pid and percent of each sample."""
        since_us = SystemClock().now() - round(seconds * 1e6)
        nvml = self.probe._nvml
        return [
            (one.pid, one.smUtil)
            for one in nvml.nvmlDeviceGetProcessUtilization(self.probe._handles[0], since_us)
        ]

    def window(self, seconds: float, ask: Callable[[], Any] | None = None) -> dict[str, Any]:
        """One look over so many seconds. `ask`: what each process does, once a second."""
        ask = ask or (lambda: self.probe.process_activity(0))
        self.probe.look()
        ask()
        before, began = self.counter(), time.perf_counter()
        end = began + seconds
        samples = []
        while time.perf_counter() < end:
            pause = min(1.0, max(end - time.perf_counter(), 0))
            time.sleep(pause)
            if self.double is not None:
                self.double.advance(round(pause * 1_000_000))
            samples.append({str(who): ratio for who, ratio in (ask() or {}).items()})
        passed = seconds if DOUBLE else time.perf_counter() - began
        joules = (self.counter() - before) / 1000
        (reading,) = self.probe.read(0, {})
        activity, health = self.probe.look()[0]
        return {
            "watts_counter": joules / passed,
            "watts_read": reading.power_watts,
            "utilization": reading.utilization_ratio,
            "memory_used": reading.memory_used_bytes,
            "celsius": reading.temperature_celsius,
            "clock": reading.sm_clock_mhz,
            "reasons": reading.clock_reasons,
            "processes": dict(self.probe.process_memory(0) or {}),
            "process_sm": samples,
            "xid": health.xid,
            "ecc": [health.ecc_corrected, health.ecc_uncorrected],
            **{name: getattr(activity, name) for name in activity.__struct_fields__},
        }


def costs(report: Report, device: Device) -> None:
    """Microseconds of each question, mean of some."""
    probe, nvml = device.probe, device.probe._nvml
    handle = probe._handles[0]
    questions: dict[str, tuple[int, Callable[[], object]]] = {
        "a second's reading (7 questions)": (50, lambda: probe.read(0, {})),
        "nvmlDeviceGetTotalEnergyConsumption": (20, device.counter),
        "a look (GPM, ECC, rows)": (20, probe.look),
        "nvmlDeviceGetComputeRunningProcesses": (50, lambda: probe.process_memory(0)),
        "nvmlDeviceGetProcessUtilization": (20, lambda: probe.process_activity(0)),
        "nvmlDeviceGetMPSComputeRunningProcesses": (
            50,
            lambda: nvml.nvmlDeviceGetMPSComputeRunningProcesses(handle),
        ),
        "nvmlDeviceGetMemoryInfo": (50, lambda: nvml.nvmlDeviceGetMemoryInfo(handle)),
    }
    found = {}
    for name, (count, ask) in questions.items():
        ask()
        cpu, began = time.process_time(), time.perf_counter()
        for _ in range(count):
            ask()
        us = 1e6 * (time.perf_counter() - began) / count
        found[name] = {"us": round(us, 1), "cpu_us": round(1e6 * (time.process_time() - cpu) / count, 1)}
        known = recorded.COST_US.get(name)
        report.say(f"{name:40} {us:8.0f} us" + (f"   known {known}" if known else ""))
    report.found["costs"] = found
    first, second = (nvml.nvmlDeviceGetMemoryInfo(handle), probe._memory(handle))
    report.keep(
        "memory", {"v1_used": int(first.used), "v2_used": int(second.used), "total": int(second.total)}
    )


def loads(report: Report, device: Device) -> None:
    """The table: each load in a process of its own, and two at once."""
    workers = [Worker(), Worker()]
    try:
        table: dict[str, Any] = {}
        row(report, table, "idle", device.window(WINDOW_S))
        facts = [worker.answer() for worker in workers]
        report.keep("torch", facts[0])
        for name in ("held", "bf16", "fp32", "memory", "tiny"):
            prepare(device, name, [workers[0].process.pid])
            # One second more on either side, so that the whole window lies within the load.
            workers[0].begin(name, WINDOW_S + 2)
            time.sleep(0 if DOUBLE else 1)
            found = device.window(WINDOW_S)
            row(report, table, name, found | workers[0].answer())
        shared(report, table, device, workers)
        report.found["table"] = table
    finally:
        for worker in workers:
            worker.close()
    held, tiny, bf16 = table["held"], table["tiny"], table["bf16"]
    report.check((held["sm_ratio"] or 0) < 0.05, "held without kernels is idle by its multiprocessors")
    report.check((tiny["sm_ratio"] or 0) < 0.05, "tiny kernels are idle by their multiprocessors")
    report.check((bf16["sm_ratio"] or 0) > 0.5, "a matrix product is not idle")
    if not DOUBLE:
        report.check(held["memory_used"] >= 4 << 30, "memory that is held is seen")


def prepare(device: Device, name: str, pids: list[int]) -> None:
    """The double is told what runs."""
    if device.double is not None:
        one = device.double.devices[0]
        one.load, one.processes = KNOWN[name], dict.fromkeys(pids, 4 << 30)
        one.sm = {pid: sm for pid, sm in zip(pids, (68, 32), strict=False) if one.load.sm > 1}


def row(report: Report, table: dict[str, Any], name: str, found: dict[str, Any]) -> None:
    table[name] = found
    known = KNOWN[name]
    shown = "  ".join(
        f"{label} {_percent(found[key])} ({old:g})"
        for label, key, old in (
            ("util", "utilization", known.utilization),
            ("sm", "sm_ratio", known.sm),
            ("occ", "sm_occupancy_ratio", known.occupancy),
            ("tensor", "tensor_ratio", known.tensor),
            ("dram", "dram_ratio", known.dram),
            ("fp32", "fp32_ratio", known.fp32),
        )
    )
    rate = f"  {found['rate']:.0f} {found['unit']}" if "rate" in found else ""
    report.say(
        f"{name:12} {shown}  {found['watts_counter']:.0f} W ({known.watts}), read {found['watts_read']:.0f} W"
        f"  {found['clock']} MHz ({known.clock_mhz}) {found['reasons']:#x} ({known.reasons:#x}){rate}"
    )


def _percent(ratio: float | None) -> str:
    return "?" if ratio is None else f"{100 * ratio:.4g}"


def shared(report: Report, table: dict[str, Any], device: Device, workers: list[Worker]) -> None:
    """Two at once, and whose energy it was."""
    pids = [worker.process.pid for worker in workers]
    prepare(device, "bf16+memory", pids)
    for worker, name in zip(workers, ("bf16", "memory"), strict=True):
        worker.begin(name, WINDOW_S + 3)
    clock = SystemClock()
    meter = EnergyMeter(device.probe, device.probe.devices())
    keys = [("att_one", 0), ("att_two", 0)]
    for key, pid in zip(keys, pids, strict=True):
        meter.begin(key, ((0, 500),), clock.boot_us())
        meter.bind([pid], key)
    before = device.counter()
    found = device.window(WINDOW_S, lambda: meter.weigh(0))
    report.keep("process_samples_of_5_s", device.samples_of(5.0))
    parts = [meter.end(keys[0], clock.boot_us()), meter.so_far(keys[1])]
    counted = device.counter() - before
    answers = [worker.answer() for worker in workers]
    row(report, table, "bf16+memory", found | answers[0] | {"other": answers[1]})
    told = [(part.millijoules, part.source) for part in parts if part is not None]
    report.keep("split", {"parts": told, "counter": counted, "rates": [one.get("rate") for one in answers]})
    report.check(
        len(told) == 2 and abs(sum(part for part, _ in told) - counted) < 0.1 * counted + 1000,
        "the parts of two that share sum to the counter",
    )


# --- the whole path


class Counter(threading.Thread):
    """The counter of energy and the time, some times a second: an eye that the agent knows nothing of."""

    def __init__(self, device: Device) -> None:
        super().__init__(daemon=True)
        self.device, self.points, self.ending = device, list[tuple[float, int]](), threading.Event()

    def run(self) -> None:
        while not self.ending.wait(COUNTER_EVERY_S):
            self.points.append((SystemClock().now() / 1e6, self.device.counter()))

    def joules(self, began: float, ended: float) -> float:
        """Between two instants, straight lines between the points."""
        return (self._at(ended) - self._at(began)) / 1000

    def _at(self, instant: float) -> float:
        points = list(self.points)
        for (t0, e0), (t1, e1) in itertools.pairwise(points):
            if t0 <= instant <= t1:
                return e0 + (e1 - e0) * (instant - t0) / (t1 - t0)
        raise RuntimeError("the counter was not watched then")


class Site:
    """A cluster of this machine, by its command line."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.state = folder / "s"
        self.server = ""
        self.env = env
        if DOUBLE:
            # A device and MPS that only answer; what runs there is on the CPU.
            recorded.install(folder)
            recorded_mps.install(folder)
            self.env["PATH"] = f"{folder}:{os.environ['PATH']}"
            self.env["PYTHONPATH"] = f"{folder}:{os.environ.get('PYTHONPATH', '')}"

    def call(self, *words: str, check: bool = True, timeout: float = 120) -> str:
        env = {**os.environ, **self.env, **({"BURSAR_SERVER": self.server} if self.server else {})}
        done = subprocess.run(
            [*BURSAR, *words], capture_output=True, text=True, env=env, check=False, timeout=timeout
        )
        if check and done.returncode:
            raise RuntimeError(f"bursar {' '.join(words)}: exit {done.returncode}: {done.stderr[-600:]}")
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.call(*words, "-o", "json"))

    def up(self) -> None:
        self.call("up", "--state-dir", str(self.state), "--detach")
        self.server = self.status()["server"]

    def status(self) -> Any:
        return json.loads(self.call("status", "--state-dir", str(self.state), "-o", "json"))

    def submit(self, gpus: str, load: str, seconds: float | Path) -> str:
        """`seconds`: or a file, at whose appearance it ends."""
        kept = [f"{name}={os.environ[name]}" for name in ("LD_LIBRARY_PATH", "PATH") if name in os.environ]
        words = [word for one in kept for word in ("--env", one)]
        asked = ["--gpus", gpus] if gpus != "0" else []
        answer = self.call(
            "run", *asked, "--cpus", "1", "--memory", "8GB", *words, "--time-limit", "10m", "-o", "json",
            "--", *LOAD, load, str(seconds),
        )  # fmt: skip
        return str(json.loads(answer)["id"])

    def show(self, job: str) -> Any:
        return self.json("show", job)

    def until(self, job: str, holds: Callable[[Any], bool], timeout_s: float = 90) -> Any:
        end = time.monotonic() + timeout_s
        while True:
            found = self.show(job)
            if holds(found):
                return found
            if time.monotonic() > end:
                raise TimeoutError(f"{job} is {found['state']}: {found['reason']}; {self.log(job)}")
            time.sleep(0.5)

    def running(self, job: str) -> Any:
        """Once it runs; a short one may have ended already."""
        return self.until(job, lambda view: view["state"] not in ("PENDING", "STARTING"))

    def ended(self, job: str) -> Any:
        found = self.until(job, lambda view: view["state"] in ("SUCCEEDED", "FAILED", "CANCELLED"))
        if found["state"] != "SUCCEEDED":
            raise RuntimeError(f"{job} {found['state']}: {found['attempts'][-1]['message']} {self.log(job)}")
        return found

    def log(self, job: str) -> str:
        return self.call("logs", job, check=False)[-1500:]

    def said(self, job: str) -> Any:
        """The line of JSON that the load ended with."""
        lines = [line for line in self.log(job).splitlines() if line.startswith("{")]
        return json.loads(lines[-1])

    def agent(self) -> psutil.Process:
        return psutil.Process(self.status()["agents"][0]["pid"])


@contextmanager
def site(**env: str) -> Iterator[Site]:
    # Its path is short, as those of the sockets of MPS must be.
    folder = Path(tempfile.mkdtemp(prefix="gpu-"))
    one = Site(folder, **env)
    try:
        yield one
    finally:
        one.call("down", "--state-dir", str(one.state), check=False)
        shutil.rmtree(folder, ignore_errors=True)


def whole_job(report: Report, device: Device, one: Site) -> None:
    """A job that takes the whole device: facts, price, energy, cost, and nothing for a second one."""
    (node,) = one.json("nodes")
    row = one.json("node", "show", node["name"])
    report.keep("node", {"devices": row["devices"], "limits": row["limits"], "rate": row["rate_per_hour"]})
    report.check(len(row["devices"]) >= 1, "the agent finds the device")
    counter = Counter(device)
    counter.start()
    job = one.submit("1", "bf16", JOB_S)
    second = one.submit("1", "facts", 0)
    waiting = one.show(second)
    one.running(job)
    why = (waiting["reason"] or {}).get("message")
    report.check(waiting["state"] == "PENDING" or DOUBLE, f"a second job waits: {why}")
    found = one.ended(job)
    one.ended(second)
    counter.ending.wait(1)
    counter.ending.set()
    said = one.said(job)
    report.keep(
        "job", {key: found[key] for key in ("gpu_energy_joules", "gpu_energy_source", "cost", "cpu_s")} | said
    )
    report.check(said["devices"] == 1, "a job of one device sees one device")
    report.keep("price_per_gpu_hour", found_rate(one, job))
    report.say(one.call("show", job))
    report.say(one.call("cost", job))
    if not DOUBLE:
        began, ended = (parse_instant(found[name]) / 1e6 for name in ("started_at", "finished_at"))
        energy(report, "whole", found["gpu_energy_joules"], counter.joules(began, ended))
        report.check(found["gpu_energy_source"] == "measured", "its energy is measured")


def found_rate(one: Site, job: str) -> Any:
    (attempt,) = one.show(job)["attempts"]
    return attempt["nodes"][0]["rate_per_hour"]


def energy(report: Report, name: str, told: float, counted: float) -> None:
    off = 100 * (told - counted) / counted
    report.keep(f"energy_{name}", {"told_j": told, "counter_j": counted, "off_percent": off})
    report.check(abs(off) < 5, f"energy of {name}: {told:.0f} J told, {counted:.0f} J counted: {off:+.2f} %")


def shared_in_time(report: Report, device: Device, one: Site) -> None:
    """Two halves without MPS: shared by time, told apart by activity, memory not limited and said so."""
    (node,) = one.json("nodes")
    limits = one.json("node", "show", node["name"])["limits"]
    report.check("gpu" not in limits, "without MPS no limit is claimed")
    counter = Counter(device)
    counter.start()
    jobs = [one.submit("0.5", load, HALVES_S) for load in ("bf16", "memory")]
    found = [one.ended(job) for job in jobs]
    counter.ending.wait(1)
    counter.ending.set()
    said = [one.said(job) for job in jobs]
    report.keep("time_halves", [view["gpu_energy_joules"] for view in found], f"halves by time: {said}")
    report.keep("time_halves_source", [view["gpu_energy_source"] for view in found])
    if not DOUBLE:
        report.check(all(each["sms"] > 100 for each in said), "a half by time sees all multiprocessors")
        sum_of_parts(report, "two halves by time", found, counter)
    hog = one.submit("0.5", "hog", 3 if DOUBLE else 8)
    one.running(hog)
    told = one.until(hog, lambda view: DOUBLE or "more than its share" in one.call("show", hog), timeout_s=30)
    report.keep("hog", told["attempts"][0]["nodes"][0]["sample"])
    report.say(one.call("show", hog))
    report.check(True, "half a device with more than half of its memory is told")
    one.ended(hog)


def sum_of_parts(report: Report, name: str, found: list[Any], counter: Counter) -> None:
    began = min(parse_instant(view["started_at"]) for view in found) / 1e6
    ended = max(parse_instant(view["finished_at"]) for view in found) / 1e6
    told = sum(view["gpu_energy_joules"] for view in found)
    energy(report, name, told, counter.joules(began, ended))


def through_mps(report: Report, device: Device, one: Site) -> None:
    """Fractions held to their share: a story beside a half that works all the while, and a job of none."""
    (node,) = one.json("nodes")
    limits = one.json("node", "show", node["name"])["limits"]
    report.keep("limits", limits)
    report.check("gpu" in limits, "the node holds fractions to their share through MPS")
    if "gpu" not in limits:
        for path in one.state.glob("**/*.log"):
            lines = path.read_text(errors="replace").splitlines()
            report.say("\n".join([str(path), *[line for line in lines if "agent" in line][-10:]]))
        return
    counter = Counter(device)
    counter.start()
    enough = one.state / "enough"
    whole = one.submit("0.5", "bf16", enough)
    other = one.submit("0.5", "memory", HALVES_S)
    none = one.submit("0", "facts", 0)
    one.running(other)
    time.sleep(1 if DOUBLE else 6)
    spoken(report, device, one)
    sample = one.show(other)["attempts"][0]["nodes"][0]["sample"]
    report.keep("mps_member", sample)
    used = (sample or {}).get("gpu_memory_used_bytes")
    report.check(bool(used) or DOUBLE, f"memory of a client of MPS is told: {used}")
    others = [one.ended(other)]
    grab = one.submit("0.5", "grab", 0)
    others.append(one.ended(grab))
    taken = one.said(grab)
    report.keep("mps_memory", taken)
    kept = taken["small"] and not taken["large"]
    report.check(kept, "2 GiB are given, more than half of the memory is refused")
    held = one.submit("0.5", "held", 600)
    one.running(held)
    time.sleep(0 if DOUBLE else 5)
    for process in [process for process in agent_children(one) if "held" in process.cmdline()]:
        process.kill()
    others.append(one.until(held, lambda view: view["state"] == "FAILED"))
    report.keep("mps_killed", others[-1]["attempts"][-1]["message"])
    enough.touch()
    views = [one.ended(whole), *others]
    one.ended(none)
    counter.ending.wait(1)
    counter.ending.set()
    said = one.said(whole)
    report.check(True, f"a half goes on where the other is killed: {said}")
    report.check(one.said(none)["devices"] == 0, "a job without devices sees none")
    report.keep("mps_halves", {"whole_time": said, "beside": one.said(other)})
    if not DOUBLE:
        report.check(said["sms"] == 66, f"a half has 66 of 132 multiprocessors: {said['sms']}")
        sum_of_parts(report, "fractions through MPS", views, counter)
    report.keep("mps_sources", [view["gpu_energy_source"] for view in views])
    names = [process.name() for process in psutil.process_iter()]
    left = [name for name in names if name.startswith("nvidia-cuda-mps")]
    report.check(not left, f"no MPS server is left after the last fraction: {left}")
    on_device = {} if DOUBLE else device.probe.process_memory(0)
    report.check(not on_device, f"no process is left on the device: {on_device}")


def spoken(report: Report, device: Device, one: Site) -> None:
    """What MPS says of itself meanwhile, and what NVML says of its clients."""
    folders = [path.parent for path in one.state.glob("**/mps/*/pipe")]
    program = shutil.which(mps.PROGRAM, path=one.env.get("PATH"))
    if not folders or program is None:
        report.check(False, "a server is there")
        return
    control = mps.Mps(program)
    words = ["get_server_list", "get_default_active_thread_percentage", "ps"]
    servers = control.servers(folders[0], mps.Owner())
    words += [f"{word} {pid}" for pid in servers for word in ("get_server_status", "get_client_list")]
    said = {}
    for word in words:
        try:
            said[word] = control._run(folders[0], mps.Owner(), [], {}, 5.0, f"{word}\n")
        except mps.MpsFailed as problem:
            said[word] = f"FAILED: {problem.message}"
    report.keep("mps_said", said)
    for path in sorted(folders[0].glob("log/*")):
        report.keep(f"mps_{path.name}", path.read_text(errors="replace")[-1500:])
    report.keep("mps_processes", [psutil.Process(pid).name() for pid in mps.processes(folders[0])])
    report.keep("mps_servers", servers)
    report.check(set(servers.values()) == {"ACTIVE"} or DOUBLE, f"its server says that it is well: {servers}")
    if not DOUBLE:
        report.keep("mps_on_device", device.probe.process_memory(0))
        report.keep("mps_samples", device.samples_of(5.0))


def python_of(one: Site) -> Path:
    """This interpreter, with the way to its libraries: jobs do not inherit it."""
    path = one.state.with_name("python")
    libraries = os.environ.get("LD_LIBRARY_PATH", "")
    path.write_text(f"#!/bin/sh\nexport LD_LIBRARY_PATH='{libraries}'\nexec {sys.executable} \"$@\"\n")
    path.chmod(0o755)
    return path


def calibrated(report: Report, one: Site) -> None:
    """What the node delivers, by the operator's own verb."""
    (node,) = one.json("nodes")
    began = time.perf_counter()
    if importlib.util.find_spec("torch") is None:
        report.keep("calibration", None, "there is no torch here: nothing was calibrated")
        return
    told = one.json("node", "calibrate", node["name"], "--python", str(python_of(one)))
    report.keep("calibration", told, f"calibration in {time.perf_counter() - began:.0f} s: {told}")
    kept = one.json("node", "show", node["name"])["calibration"]
    report.check(kept == told, "node show has what was found")
    if not DOUBLE:
        rates = kept["matmul_flops_per_second"]
        report.check(rates["bf16"] > 400e12, f"bf16: {rates['bf16'] / 1e12:.0f} TFLOP/s")
        report.check(kept["memory_bytes_per_second"] > 2e12, "memory is faster than 2 TB/s")


def agent_dies(report: Report, device: Device, one: Site) -> None:
    """The agent is killed (-9) under a job: it goes on, and its energy is whole."""
    counter = Counter(device)
    counter.start()
    job = one.submit("1", "memory", JOB_S)
    one.running(job)
    time.sleep(1 if DOUBLE else 7)
    one.agent().kill()
    found = one.ended(job)
    counter.ending.wait(1)
    counter.ending.set()
    report.check(len(found["attempts"]) == 1, "the job outlived its agent")
    if not DOUBLE:
        began, ended = (parse_instant(found[name]) / 1e6 for name in ("started_at", "finished_at"))
        energy(
            report, "a job whose agent was killed", found["gpu_energy_joules"], counter.joules(began, ended)
        )
        report.keep("killed_agent_source", found["gpu_energy_source"])


def held(report: Report, device: Device, one: Site) -> None:
    """Held without a kernel: seen as idle; what the profiling costs; and the end after kill -9."""
    job = one.submit("1", "held", 600)
    one.running(job)
    agent = one.agent()
    time.sleep(2 if DOUBLE else 11)
    before, began = sum(agent.cpu_times()[:2]), time.perf_counter()
    time.sleep(3 if DOUBLE else 12)
    percent = 100 * (sum(agent.cpu_times()[:2]) - before) / (time.perf_counter() - began)
    report.keep("agent_cpu_percent_of_a_core", round(percent, 2))
    report.check(percent < 1.0 or DOUBLE, f"profiling at 1 Hz takes {percent:.2f} % of a core")
    view = one.show(job)
    gpu = view["attempts"][-1]["nodes"][0]["gpu_samples"]
    report.keep("held_sample", gpu)
    report.keep("held_attempt", view["attempts"][-1]["nodes"][0]["sample"])
    report.check(bool(gpu) and gpu[0]["idle"] is True, "show says that it is held idle")
    report.say(one.call("show", job))
    report.say(one.call("top"))
    main = [process for process in agent_children(one) if "held" in process.cmdline()]
    report.check(len(main) >= 1, "the job's process is found")
    supervisor = main[0].parent()
    assert supervisor is not None
    report.say(f"kill -9 of its supervisor {supervisor.pid} ({' '.join(supervisor.cmdline())[:60]})")
    killed = time.perf_counter()
    os.kill(supervisor.pid, signal.SIGKILL)
    view = one.until(job, lambda view: bool(view["attempts"][0]["end_cause"]))
    attempt = view["attempts"][0]
    gone = not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in main)
    report.keep("killed", {"end_cause": attempt["end_cause"], "after_s": time.perf_counter() - killed})
    report.check(
        gone, f"its process is gone when its end is told ({attempt['end_cause']}: {attempt['message']})"
    )
    one.call("cancel", job, check=False)
    one.until(job, lambda view: view["state"] in ("SUCCEEDED", "FAILED", "CANCELLED"))
    time.sleep(1)
    left = {} if DOUBLE else device.probe.process_memory(0)
    report.check(not left, f"no process is left on the device: {left}")


def agent_children(one: Site) -> list[psutil.Process]:
    """Every process of this machine that carries the mark of an attempt of ours."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(one.state) in process.environ().get("BURSAR_CHECKPOINT_DIR", ""):
                found.append(process)
        except psutil.Error:
            continue
    return found


def main() -> int:
    report = Report()
    device = Device()
    known = device.probe.devices()
    report.keep("devices", [(each.type, each.uuid, each.memory_bytes) for each in known])
    if not known:
        print("no NVIDIA device is here; --double tries this without one")
        return 1
    report.section("what a question costs", lambda: costs(report, device))
    report.section("loads: now (known)", lambda: loads(report, device))
    with site() as one:
        report.section("bursar up", one.up)
        if one.server:
            report.section("a job of the whole device", lambda: whole_job(report, device, one))
            report.section("fractions through MPS", lambda: through_mps(report, device, one))
            report.section("the agent is killed", lambda: agent_dies(report, device, one))
            report.section("held, and killed", lambda: held(report, device, one))
            report.section("what the node delivers", lambda: calibrated(report, one))
    with site(BURSAR_AGENT_MPS="off") as one:
        report.section("bursar up, without MPS", one.up)
        if one.server:
            report.section("fractions by time", lambda: shared_in_time(report, device, one))
    device.probe.close()
    report.keep("seconds", round(time.perf_counter() - report.began, 1))
    print(f"{len(report.bad)} did not hold" + "".join(f"\n  {text}" for text in report.bad))
    if "--out" in sys.argv:
        Path(sys.argv[sys.argv.index("--out") + 1]).write_text(
            json.dumps(report.found, indent=1, default=str)
        )
    return 1 if report.bad else 0


if __name__ == "__main__":
    sys.exit(main())
