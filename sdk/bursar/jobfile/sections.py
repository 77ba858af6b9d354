"""The parts of a job file with a form of their own: project, labels, dependencies, money, retry, environment.

Input   the node of one part; what is wrong goes to `Faults` and the default comes back, so the
        caller reads on and every fault of the file is found at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from bursar.clock import SECOND_US, Instant
from bursar.errors import InvalidRequest
from bursar.jobfile.arrays import TEXT_MAX as ARRAY_TEXT_MAX
from bursar.jobfile.arrays import parse_array
from bursar.jobfile.reading import read_mapping
from bursar.model import ArraySpec, CheckpointSpec, Dependency, IdleSpec, RetrySpec
from bursar.model.check import (
    DEPENDENCY_WHEN,
    IDLE_ACTIONS,
    MAX_COST_PER,
    ON_EXCEED,
    ON_EXCEED_BUILT,
    RETRY_CAUSES,
    SIGNALS,
    UNCOUNTED_CAUSES,
    quote,
)
from bursar.money import Money
from bursar.resources import MICRO
from bursar.yamlfile import (
    Faults,
    Node,
    nearest,
    read_bool,
    read_decimal,
    read_duration,
    read_entries,
    read_enum,
    read_instant,
    read_int,
    read_items,
    read_money,
    read_money_per,
    read_string,
    read_text,
)

GRACE_DEFAULT_US: Final = 60 * SECOND_US
"""Time to save when a checkpoint signal is given without `grace`."""

_RETRY_HINTS = {
    "oom": "out-of-memory",
    "out_of_memory": "out-of-memory",
    "preempted": "preemption",
    "node_lost": "node-failure",
    "node-lost": "node-failure",
    "failed": "failure",
    "error": "failure",
    "timeout": "time-limit",
    "start_failed": "start-failure",
    "image_failed": "image-failure",
    "image-pull": "image-failure",
}
_COUNTED = re.compile(r"(.*[A-Z0-9])X([1-9]\d{0,5})", re.ASCII)
"""`A100X4`; not `GTX1080`."""
PRIORITIES: Final = {"low": 25, "normal": 50, "high": 75}
T = TypeVar("T")


class Caps(NamedTuple):
    """The `budget:` part, read."""

    max_cost: Money | None = None
    max_price: Money | None = None
    on_exceed: str = "stop"
    per: str = "job"


def read_priority(node: Node, faults: Faults) -> int | None:
    """`low`, `normal`, `high` or 0 to 100."""
    if node.kind == "scalar" and node.text in PRIORITIES:
        return PRIORITIES[node.text]
    if node.kind == "scalar" and not node.is_null and not re.fullmatch(r"[+-]?\d+", node.text):
        near = nearest(node.text[:40], PRIORITIES)
        faults.add(node, f"{quote(node.text)} is not low, normal, high or 0 to 100", nearest=near)
        return None
    return read_int(node, faults)


def read_pairs(node: Node, faults: Faults) -> tuple[tuple[str, str], ...]:
    """Labels or environment variables, sorted: `1e3`, `yes` and `010` stay what they look like."""
    pairs = []
    for name, child in read_entries(node, faults).items():
        value = read_text(child, faults)
        if value is not None:
            pairs.append((name, value))
    return tuple(sorted(pairs))


def read_throughput(node: Node, faults: Faults) -> tuple[tuple[str, int, int], ...]:
    """`{A100: 1, H100: 2.6, A100x4: 3.1}`: (type, GPUs in all or 0, millionths), sorted."""
    found = []
    for name, child in read_entries(node, faults).items():
        speed = read_decimal(child, faults)
        counted = _COUNTED.fullmatch(name.upper())
        kind, gpus = (counted[1], int(counted[2])) if counted is not None else (name.upper(), 0)
        if speed is None:
            continue
        if speed * MICRO % 1:
            faults.add(child, f"is {speed}; a speed has at most 6 decimals")
        found.append((kind, gpus, int(speed * MICRO)))
    return tuple(sorted(found))


def read_secrets(node: Node, faults: Faults) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A list of names or `{name, file}`, in the order given: all names, and those wanted as files."""
    names: list[str] = []
    files: list[str] = []
    for item in read_items(node, faults):
        name_node, as_file = item, False
        if item.kind == "mapping":
            fields = read_mapping(item, faults, ("name", "file"))
            if fields is None:
                continue
            if "file" in fields:
                as_file = bool(read_bool(fields["file"], faults))
            if "name" not in fields:
                faults.add(item, "the key 'name' is missing", field="name")
                continue
            name_node = fields["name"]
        name = read_text(name_node, faults)
        if name is not None:
            names.append(name)
            if as_file:
                files.append(name)
    return tuple(names), tuple(files)


def read_depends_on(node: Node, faults: Faults) -> tuple[Dependency, ...]:
    """A list of `{job, when}` or bare names, ids or numbers."""
    found: list[Dependency] = []
    for item in read_items(node, faults):
        job_node, when = item, "succeeded"
        if item.kind == "mapping":
            fields = read_mapping(item, faults, ("job", "when"), hints={"name": "write job: NAME"})
            if fields is None:
                continue
            if "job" not in fields:
                faults.add(item, "the key 'job' is missing", field="job")
            if "when" in fields:
                when = read_enum(fields["when"], faults, DEPENDENCY_WHEN) or when
            if "job" not in fields:
                continue
            job_node = fields["job"]
        job = read_text(job_node, faults)
        if job is not None:
            found.append(Dependency(job, when))
    return tuple(found)


def read_array(node: Node, faults: Faults) -> ArraySpec | None:
    """`0-99%10`, or `{range: 0-99, max_parallel: 10}`."""
    if node.kind != "mapping":
        return _parsed(node, faults, parse_array)
    fields = read_mapping(node, faults, ("range", "max_parallel"))
    if fields is None:
        return None
    limit = fields.get("max_parallel")
    max_parallel = None
    if limit is not None:
        max_parallel = read_int(limit, faults, minimum=1)
    if "range" not in fields:
        faults.add(node, "the key 'range' is missing", field="range")
        return None
    array = _parsed(fields["range"], faults, parse_array)
    if array is None or limit is None:
        return array
    if array.max_parallel:
        faults.add(limit, "is also given after % in range; keep one")
    return ArraySpec(array.ranges, max_parallel or 0)


def _parsed(node: Node, faults: Faults, parse: Callable[[str], T]) -> T | None:
    text = read_string(node, faults, length_max=ARRAY_TEXT_MAX)
    if text is None:
        return None
    try:
        return parse(text)
    except InvalidRequest as error:
        faults.add(node, error.message)
        return None


def read_budget(node: Node, faults: Faults) -> Caps:
    """The job's own caps; `max_price` is of the whole job, and `max_cost` unless it is `per: task`."""
    hints = {"limit": "write max_cost: 500 USD", "max_hourly_cost": "write max_price: 40 USD/h"}
    fields = read_mapping(node, faults, ("max_cost", "per", "max_price", "on_exceed"), hints=hints)
    if fields is None:
        return Caps()
    cost = price = None
    if "max_cost" in fields:
        cost = read_money(fields["max_cost"], faults, positive=True)
    if "max_price" in fields:
        price = read_money_per(fields["max_price"], faults, "h", positive=True)
    if cost and price and cost.currency != price.currency:
        faults.add(
            fields["max_price"],
            f"is in {price.currency} and max_cost in {cost.currency}; use one currency in a job",
        )
    on_exceed = "stop"
    if "on_exceed" in fields:
        on_exceed = read_enum(fields["on_exceed"], faults, ON_EXCEED_BUILT, later=ON_EXCEED) or "stop"
    per = "job"
    if "per" in fields:
        per = read_enum(fields["per"], faults, MAX_COST_PER) or "job"
        if "max_cost" not in fields:
            faults.add(fields["per"], "says what max_cost is for; write max_cost beside it, or leave it out")
    return Caps(cost, price, on_exceed, per)


def read_checkpoint(node: Node, faults: Faults) -> CheckpointSpec:
    """How the job is asked to save itself."""
    fields = read_mapping(node, faults, ("signal", "grace", "interval", "before", "script_only"))
    if fields is None:
        return CheckpointSpec()
    if "interval" in fields:
        remedy = "let the job save on its own schedule, and on checkpoint.signal"
        faults.not_built(fields["interval"], "a checkpoint interval", instead=remedy)
    signal = _read_signal(fields["signal"], faults) if "signal" in fields else None
    grace = read_duration(fields["grace"], faults) if "grace" in fields else None
    before = (read_duration(fields["before"], faults) if "before" in fields else None) or 0
    alone = bool(read_bool(fields["script_only"], faults)) if "script_only" in fields else False
    if signal is None:
        return CheckpointSpec("", (grace or 0), before, alone) if "signal" not in fields else CheckpointSpec()
    return CheckpointSpec(signal, GRACE_DEFAULT_US if grace is None else grace, before, alone)


def read_idle(node: Node, faults: Faults) -> IdleSpec:
    """What becomes of the job when its devices do nothing."""
    if node.kind != "mapping":
        faults.add(node, "expected a mapping, such as {time_window: 30m, action: stop}")
        return IdleSpec()
    fields = read_mapping(
        node,
        faults,
        ("min_gpu_utilization", "min_cpu_utilization", "time_window", "warn_after", "action", "detached"),
    )
    if fields is None:
        return IdleSpec()
    below = read_int(fields["min_gpu_utilization"], faults) if "min_gpu_utilization" in fields else None
    cpu = read_int(fields["min_cpu_utilization"], faults) if "min_cpu_utilization" in fields else None
    window = (read_duration(fields["time_window"], faults) if "time_window" in fields else None) or 0
    warn = read_duration(fields["warn_after"], faults) if "warn_after" in fields else None
    action = read_enum(fields["action"], faults, IDLE_ACTIONS) if "action" in fields else None
    detached = read_duration(fields["detached"], faults) if "detached" in fields else None
    if detached == 0:
        faults.add(fields["detached"], "is 0; at least 1m, or leave it out for 30m")
    default = IdleSpec()
    return IdleSpec(
        default.below_percent if below is None else below,
        window,
        window // 2 if warn is None else warn,
        action or default.action,
        detached_us=detached or 0,
        cpu_below_percent=cpu or 0,
    )


def _read_signal(node: Node, faults: Faults) -> str | None:
    text = read_string(node, faults, length_max=40)
    if text is None:
        return None
    name = text.upper().removeprefix("SIG")
    if name in SIGNALS:
        return name
    if name in ("KILL", "STOP"):
        faults.add(node, f"{quote(text)} cannot be caught by a job; use USR1 or USR2")
        return None
    near = nearest(name, SIGNALS)
    faults.add(node, f"{quote(text)} is not one of {', '.join(SIGNALS)}", nearest=near)
    return None


def read_retry(node: Node, faults: Faults) -> RetrySpec:
    """After which ends another attempt follows, and how often."""
    hints = {"on_events": "write on: [preemption]", "limit": "write max: 3"}
    fields = read_mapping(node, faults, ("on", "max", "avoid_same_node", "never"), hints=hints)
    if fields is None:
        return RetrySpec()
    never = bool(read_bool(fields["never"], faults)) if "never" in fields else False
    if "on" not in fields and not never:
        listed = ", ".join(RETRY_CAUSES)
        faults.add(node, f"say after what: on: [...] with some of {listed}", field="on")
    causes = _read_causes(fields["on"], faults) if "on" in fields else ()
    if "max" in fields:
        retries = read_int(fields["max"], faults)
    else:
        retries = 0
        counted = [word for word, cause in RETRY_CAUSES.items() if cause in set(causes) - UNCOUNTED_CAUSES]
        if counted:
            faults.add(node, f"say how often to try again after {counted[0]}: max: 3", field="max")
    avoid = fields.get("avoid_same_node")
    elsewhere = bool(avoid is not None and read_bool(avoid, faults))
    return RetrySpec(causes, retries or 0, elsewhere, never)


def _read_causes(node: Node, faults: Faults) -> tuple[str, ...]:
    causes: list[str] = []
    for item in read_items(node, faults, items_max=20):
        if item.kind == "scalar" and item.text in _RETRY_HINTS:
            right = _RETRY_HINTS[item.text]
            faults.add(item, f"{quote(item.text)} is not a cause", nearest=right)
            continue
        word = read_enum(item, faults, tuple(RETRY_CAUSES))
        if word is not None:
            causes.append(RETRY_CAUSES[word])
    return tuple(causes)


_FROM_NOW: Final = re.compile(r"\s*(?:now|today|tomorrow|midnight)\b|\s*\d+\s*[smhdw]\s*$", re.IGNORECASE)


def read_moment(node: Node, faults: Faults) -> Instant | None:
    """The earliest start, or a deadline: an instant, since a file does not know when it is read."""
    if node.kind == "scalar" and _FROM_NOW.match(node.text[:100]):
        faults.add(
            node,
            f"{quote(node.text)} is not a time in a file, as it would be another whenever the file is read;"
            " write 2026-10-01T08:00:00Z, or give it as you submit: --deadline now+3h",
        )
        return None
    at = read_instant(node, faults)
    if at is not None and at <= 0:
        faults.add(node, f"{quote(node.text)} is not between the years 2000 and 2200")
        return None
    return at
