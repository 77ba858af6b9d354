"""`advise`, of GPUs: what was held and did nothing, what was waited for, and what is wrong with a device.

Why     a device is paid for by the hour, and utilization hides what it does in it. What is said here rests on
        the sums that its node made of multiprocessors, tensor units, memory, clocks and faults; time that was
        not heard is in none of them, and is never called idle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from statistics import median
from typing import Final, NamedTuple

from bursar.cli.output import Row
from bursar.cli.terminal import clean, seconds_text
from bursar.clock import SECOND_US, parse_instant
from bursar.model.deviceuse import KINDS, use_of
from bursar.words import plural

PPM: Final = 1_000_000
TOLD_PPM: Final = 50_000
"""Of the time that GPUs were held, from where on idleness is told."""
MOSTLY_PPM: Final = 500_000
THROTTLED_PPM: Final = 50_000
CPU_BOUND: Final = 0.75
SLOW: Final = 0.85
"""A member whose clock is below so much of the others' holds them back."""
HALF: Final = 0.45
_HEADROOM: Final = 1.2


class Finding(NamedTuple):
    """One thing to change.

    Attributes:
        code: of what kind it is. evidence: what was seen, in words.
        cost_nanos: what it cost. saves_nanos: what of it would have been saved. None: no money, or not known.
        ask: what to do instead. confidence: high, medium or low, and why.
    """

    code: str
    evidence: str
    cost_nanos: int | None
    saves_nanos: int | None
    ask: str
    confidence: str


class Held(NamedTuple):
    """What a job's GPUs cost, and what is known of what they did.

    Attributes:
        gpu_nanos: of all its attempts; None: no known price.
        uses: of each member that told, as its JSON, with `node`, `rank` and `attempt` beside it.
        held_s: seconds of devices, of all members that had any.
        cpu_ratio: of its CPUs, how much was used in the mean; None: not known.
    """

    gpu_nanos: int | None
    uses: Sequence[Row]
    held_s: float
    cpu_ratio: float | None


def held_of(job: Row, gpu_nanos: int | None, cpu_ratio: float | None) -> Held:
    """Of all its attempts that have ended."""
    uses, held_s = [], 0.0
    for attempt in job["attempts"]:
        for member in attempt.get("nodes", ()):
            if not member["devices"] or attempt["end_cause"] is None:
                continue
            held_s += member["held_s"] * len(member["devices"])
            if member["device_use"] is not None:
                of = {"node": member["node"], "rank": member["rank"], "attempt": attempt["number"]}
                uses.append({**member["device_use"], **of})
    return Held(gpu_nanos, uses, held_s, cpu_ratio)


def held_while_it_runs(profile: Row, gpu_nanos: int | None) -> Held:
    """Of the newest attempt, as the daemon has its curves: means of spans, of no more than a day."""
    uses, held_s = [], 0.0
    span_s = profile["step_s"] or 0
    since, until = (parse_instant(profile[end]) if profile[end] else 0 for end in ("since", "until"))
    for member in profile["members"]:
        gpus = member["gpus"]
        if not gpus:
            continue
        held_s += max(until - since, 0) / SECOND_US * gpus
        sums = dict.fromkeys(("heard", "busy", *KINDS), 0.0)
        sm = 0.0
        for point in (one for one in profile["rows"] if one["rank"] == member["rank"]):
            ratio = point["sm_ratio"]
            kind = use_of(ratio, point["gpu_utilization_ratio"], point["tensor_ratio"])
            if kind is not None:
                sums["heard"] += span_s * gpus
                sums["busy" if kind in ("working", "partial") else kind] += span_s * gpus
                sums["partial"] += span_s * gpus if kind == "partial" else 0
                sm += (ratio or 0) * span_s * gpus
        if sums["heard"]:
            uses.append(_as_use(member, sums, sm))
    return Held(gpu_nanos, uses, held_s, None)


def _as_use(member: Row, sums: dict[str, float], sm: float) -> Row:
    """As a member tells it at its end; what curves do not have is nothing."""
    nothing = dict.fromkeys(
        ("throttled_s", "unused_devices", "memory_bytes", "ecc_uncorrected", "remapped_rows"), 0
    )
    return {
        **nothing,
        "heard_s": sums["heard"],
        "empty_s": 0.0,
        "idle_s": sums["idle"],
        "launch_bound_s": sums["launch"],
        "memory_bound_s": sums["memory"],
        "partial_s": sums["partial"],
        "busy_s": sums["busy"],
        "sm_ratio": sm / sums["heard"],
        "busy_clock_mhz": None,
        "devices": member["gpus"],
        "xid": None,
        "node": member["node"],
        "rank": member["rank"],
        "attempt": 0,
    }


def gpu_findings(job: Row, held: Held) -> Iterator[Finding]:
    """Everything that they tell."""
    if held.uses and held.held_s > 0:
        yield from _nothing_done(held)
        yield from _bound(held)
        yield from _too_many(job, held)
        yield from _troubled(held)
        yield from _stragglers(held)


def _part(held: Held, name: str) -> int:
    """Of the time that GPUs were held, in millionths."""
    seconds = sum(float(use[name]) for use in held.uses)
    return min(round(seconds * PPM / held.held_s), PPM)


def _cost(held: Held, ppm: int) -> int | None:
    return None if held.gpu_nanos is None else held.gpu_nanos * ppm // PPM


def _percent(ppm: int) -> str:
    return f"{ppm / 10_000:.3g} %"


def _sm(held: Held) -> str:
    heard = sum(use["heard_s"] for use in held.uses)
    sm = sum((use["sm_ratio"] or 0) * use["heard_s"] for use in held.uses) / heard if heard else 0.0
    return f"{100 * sm:.2g} % of multiprocessors at work in the mean"


def _nothing_done(held: Held) -> Iterator[Finding]:
    never = all(use["unused_devices"] == use["devices"] for use in held.uses)
    ask = "no GPUs: none of them ever had work"
    empty, idle, launch = (_part(held, f"{name}_s") for name in ("empty", "idle", "launch_bound"))
    if empty >= TOLD_PPM:
        yield Finding(
            "held-without-a-process",
            f"no process of it was on its GPUs for {_percent(empty)} of the time that it held them",
            _cost(held, empty),
            _cost(held, empty),
            ask if never else "do what needs no GPU in a job of its own before it (depends_on)",
            "high: the driver's list of processes",
        )
    if idle >= TOLD_PPM:
        yield Finding(
            "held-idle",
            f"its GPUs did nothing for {_percent(idle)} of the time, with its processes on them; {_sm(held)}",
            _cost(held, idle),
            _cost(held, idle),
            ask if never else "idle_policy: {time_window: 30m}, and end when the work is done",
            "high: by multiprocessors, below 5 % of them in ten seconds",
        )
    if launch >= TOLD_PPM:
        yield Finding(
            "launch-bound",
            f"only tiny kernels ran for {_percent(launch)} of the time; {_sm(held)}",
            _cost(held, launch),
            None,
            "larger batches, CUDA graphs or torch.compile; or --gpus 0.25",
            "high: utilization without multiprocessors at work",
        )


def _bound(held: Held) -> Iterator[Finding]:
    partial, memory = _part(held, "partial_s"), _part(held, "memory_bound_s")
    if partial >= MOSTLY_PPM // 2 and held.cpu_ratio is not None and held.cpu_ratio >= CPU_BOUND:
        yield Finding(
            "data-starved",
            f"less than half of its GPUs worked for {_percent(partial)} of the time, while"
            f" {100 * held.cpu_ratio:.0f} % of its CPUs were busy",
            _cost(held, partial),
            None,
            "twice the --cpus and workers that load, or data that is prepared before",
            "medium: a mean of CPUs",
        )
    if memory >= MOSTLY_PPM:
        yield Finding(
            "memory-bound",
            f"bound by the memory of its GPUs for {_percent(memory)} of the time, tensor units at rest",
            _cost(held, memory),
            None,
            "fused kernels, bf16 and larger batches; or a GPU with more bandwidth for the money",
            "medium: bandwidth above 60 %, tensor units below 10 %",
        )


def _too_many(job: Row, held: Held) -> Iterator[Finding]:
    asked, nodes = job["resources"]["gpus"], len({use["rank"] for use in held.uses})
    unused = sum(use["unused_devices"] for use in held.uses)
    devices = sum(use["devices"] for use in held.uses)
    attempts = len({use["attempt"] for use in held.uses})
    if 0 < unused < devices and attempts == 1:
        used = devices - unused
        each = ceil(used / nodes) if nodes > 1 else used
        ask = f"--gpus {each}" if each else "no GPUs"
        cost = _cost(held, unused * PPM // devices)
        yield Finding(
            "over-requested-gpus", f"{unused} of {plural(devices, 'GPU')} never had work", cost, cost, ask,
            "high: each was looked at every ten seconds",
        )  # fmt: skip
    elif asked == 1 and nodes == 1 and attempts == 1 and not unused:
        yield from _half_of_one(job, held)
    wanted = job["resources"].get("gpu_memory_bytes") or 0
    peak = max(use["memory_bytes"] / max(use["devices"], 1) for use in held.uses)
    enough = max(ceil(peak * _HEADROOM / 10**9), 1)
    if wanted and peak and enough * 10**9 <= wanted * HALF:
        yield Finding(
            "over-requested-gpu-memory",
            f"{peak / 10**9:.3g} GB of each GPU were held at the most, {wanted / 10**9:.3g} asked for",
            None,
            None,
            f"a GPU with {enough}GB: see `bursar offers`",
            "medium: of these runs",
        )


def _half_of_one(job: Row, held: Held) -> Iterator[Finding]:
    """One device that half of it would have done for."""
    use = held.uses[0]
    size = next((n for n in (job["resources"].get("gpu_memory_bytes") or 0,) if n), 0)
    busy = use["busy_s"] > use["heard_s"] / 2
    small = bool(size) and use["memory_bytes"] <= size * HALF
    if busy and small and use["sm_ratio"] is not None and use["sm_ratio"] < HALF:
        yield Finding(
            "over-requested-gpu",
            f"{_sm(held)}, and {use['memory_bytes'] / 10**9:.3g} GB of it were held",
            held.gpu_nanos,
            _cost(held, PPM // 2),
            "--gpus 0.5",
            "low: a mean; it may be slower beside another",
        )


def _troubled(held: Held) -> Iterator[Finding]:
    throttled = _part(held, "throttled_s")
    if throttled >= THROTTLED_PPM:
        worst = max(held.uses, key=lambda use: use["throttled_s"])
        clock = f", {worst['busy_clock_mhz']:.0f} MHz while at work" if worst["busy_clock_mhz"] else ""
        yield Finding(
            "throttled",
            f"clocks were low for heat or a fault for {_percent(throttled)} of the time, most on"
            f" {clean(worst['node'])} ({seconds_text(worst['throttled_s'])}{clock})",
            _cost(held, throttled),
            None,
            f"tell who runs {clean(worst['node'])}: cooling or power; the power cap is not meant",
            "high: the driver's own reasons",
        )
    for use in held.uses:
        faults = [
            f"{use['ecc_uncorrected']} uncorrected memory errors" if use["ecc_uncorrected"] else "",
            f"{use['remapped_rows']} rows of memory replaced" if use["remapped_rows"] else "",
            f"Xid {use['xid']}" if use["xid"] else "",
        ]
        if any(faults):
            yield Finding(
                "failing-device",
                f"on {clean(use['node'])}: {', '.join(filter(None, faults))}",
                None,
                None,
                f"`bursar node drain {clean(use['node'])}`; until then {_elsewhere(use['node'])}",
                "high: the driver counted it meanwhile",
            )


def _stragglers(held: Held) -> Iterator[Finding]:
    """Of a gang that ran once, a member that is slower than the others: all of them wait for it."""
    last = max(use["attempt"] for use in held.uses)
    clocks = {
        use["node"]: use["busy_clock_mhz"]
        for use in held.uses
        if use["attempt"] == last and use["busy_clock_mhz"]
    }
    if len(clocks) < 2:
        return
    slow, least = min(clocks.items(), key=lambda one: one[1])
    others = median(clock for node, clock in clocks.items() if node != slow)
    if least <= others * SLOW:
        yield Finding(
            "straggler",
            f"{clean(slow)} worked at {least:.0f} MHz, the other {plural(len(clocks) - 1, 'node')} at"
            f" {others:.0f} MHz in the median",
            _cost(held, round((1 - least / others) * PPM)),
            _cost(held, round((1 - least / others) * PPM)),
            _elsewhere(slow),
            "medium: by clocks; how much of each step waits for others is not known",
        )


def _elsewhere(node: str) -> str:
    return f"constraints: {{node: '!{clean(node)}'}}"
