"""The parts of a job file with a form of their own: project, labels, dependencies, money, retry, environment.

Input   the node of one part; what is wrong goes to `Faults` and the default comes back, so the
        caller reads on and every fault of the file is found at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from bursar.clock import DAY_US, SECOND_US, Instant, parse_instant
from bursar.errors import InvalidRequest
from bursar.jobfile.arrays import TEXT_MAX as ARRAY_TEXT_MAX
from bursar.jobfile.arrays import parse_array
from bursar.jobfile.reading import quote, read_mapping
from bursar.model import ArraySpec, CheckpointSpec, Dependency, RetrySpec
from bursar.money import Money
from bursar.yamlfile import (
    Faults,
    Node,
    nearest,
    read_bool,
    read_duration,
    read_entries,
    read_enum,
    read_instant,
    read_int,
    read_items,
    read_money,
    read_money_per,
    read_project,
    read_string,
)

LABELS_MAX: Final = 64
LABEL_VALUE_MAX: Final = 256
DEPENDENCIES_MAX: Final = 100
ENV_MAX: Final = 500
ENV_VALUE_MAX: Final = 16_384
GRACE_DEFAULT_US: Final = 60 * SECOND_US
"""Time to save when a checkpoint signal is given without `grace`."""
PROJECT_DEPTH_MAX: Final = 8
RETRIES_MAX: Final = 100
SIGNALS: Final = ("USR1", "USR2", "INT", "TERM", "HUP", "QUIT", "CONT")
"""What a job can catch and nothing else needs; KILL and STOP cannot be caught."""
RETRY_CAUSES: Final = {
    "preemption": "preempted",
    "node-failure": "node_lost",
    "out-of-memory": "out_of_memory",
    "failure": "failed",
    "start-failure": "start_failed",
    "time-limit": "time_limit",
}
"""The words of the job file and those of the model."""

_UNCOUNTED = frozenset(("preempted", "node_lost"))
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
}
_PRIORITIES: Final = {"low": 25, "normal": 50, "high": 75}
_JOB_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(?:\[\d{1,7}\])?", re.ASCII)
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}", re.ASCII)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_PROJECT_CHARS = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_EARLIEST = parse_instant("2000-01-01")
_LATEST = parse_instant("2200-01-01")

T = TypeVar("T")


class Caps(NamedTuple):
    """The `budget:` part, read."""

    max_cost: Money | None = None
    max_price: Money | None = None
    on_exceed: str = "stop"


def read_project_path(node: Node, faults: Faults) -> str | None:
    """A project such as `nlp/finetune`; says which part of a malformed path is wrong."""
    if node.kind != "scalar" or node.is_null or len(node.text) > 1000:
        return read_project(node, faults)
    problem = _project_problem(node.text)
    if problem:
        faults.add(node, f"{quote(node.text)} is not a project path: {problem}; write nlp/finetune")
        return None
    return read_project(node, faults)


def _project_problem(text: str) -> str:
    if not text:
        return "it is empty"
    if text.startswith("/") or text.endswith("/"):
        return "it starts or ends with /"
    if any(char.isspace() for char in text):
        return "it holds a space"
    parts = text.split("/")
    if "" in parts:
        return "it has an empty part (//)"
    if any(part in (".", "..") for part in parts):
        return "it has a part . or .., and projects are not directories"
    if len(parts) > PROJECT_DEPTH_MAX:
        return f"it has {len(parts)} levels; at most {PROJECT_DEPTH_MAX}"
    for part in parts:
        if _PROJECT_CHARS.fullmatch(part) is None:
            return f"{quote(part)} holds something else than letters, digits, '.', '_' and '-'"
        if not part[0].isalnum():
            return f"{quote(part)} does not start with a letter or digit"
    return ""


def read_priority(node: Node, faults: Faults) -> int | None:
    """`low`, `normal`, `high` or 0 to 100."""
    if node.kind == "scalar" and node.text in _PRIORITIES:
        return _PRIORITIES[node.text]
    if node.kind == "scalar" and not node.is_null and not re.fullmatch(r"[+-]?\d+", node.text):
        near = nearest(node.text[:40], _PRIORITIES)
        faults.add(node, f"{quote(node.text)} is not low, normal, high or 0 to 100", nearest=near)
        return None
    return read_int(node, faults, minimum=0, maximum=100)


def read_labels(node: Node, faults: Faults) -> tuple[tuple[str, str], ...]:
    """Free key-value pairs, sorted by key."""
    entries = read_entries(node, faults)
    if len(entries) > LABELS_MAX:
        faults.add(node, f"has {len(entries)} labels; at most {LABELS_MAX}")
        return ()
    pairs = []
    for key, child in entries.items():
        if _LABEL_KEY.fullmatch(key) is None:
            faults.add_key(
                child, f"{quote(key)} is not a label name: letters, digits, '.', '_', '/', '-', at most 63"
            )
            continue
        value = read_string(child, faults, length_max=LABEL_VALUE_MAX)
        if value is not None:
            pairs.append((key, value))
    return tuple(sorted(pairs))


def read_env(node: Node, faults: Faults) -> tuple[tuple[str, str], ...]:
    """Environment variables as written: `1e3`, `yes` and `010` stay what they look like."""
    entries = read_entries(node, faults)
    if len(entries) > ENV_MAX:
        faults.add(node, f"has {len(entries)} variables; at most {ENV_MAX}")
        return ()
    pairs = []
    for name, child in entries.items():
        if _ENV_NAME.fullmatch(name) is None:
            faults.add_key(
                child, f"{quote(name)} is not a variable name: letters, digits and '_', no leading digit"
            )
            continue
        if name.upper().startswith("BURSAR_"):
            faults.add_key(child, f"{name} is set by bursar itself; choose another name")
            continue
        value = read_string(child, faults, length_max=ENV_VALUE_MAX, multiline=True)
        if value is not None:
            pairs.append((name, value))
    return tuple(sorted(pairs))


def read_depends_on(node: Node, faults: Faults) -> tuple[Dependency, ...]:
    """A list of `{job, when}` or bare names, ids or numbers."""
    found: dict[str, Dependency] = {}
    for item in read_items(node, faults, items_max=DEPENDENCIES_MAX):
        job_node, when = item, "succeeded"
        if item.kind == "mapping":
            fields = read_mapping(item, faults, ("job", "when"), hints={"name": "write job: NAME"})
            if fields is None:
                continue
            if "job" not in fields:
                faults.add(item, "the key 'job' is missing", field="job")
            if "when" in fields:
                choices = ("succeeded", "failed", "finished")
                when = read_enum(fields["when"], faults, choices) or when
            if "job" not in fields:
                continue
            job_node = fields["job"]
        job = read_string(job_node, faults, length_max=200)
        if job is None:
            continue
        if _JOB_REF.fullmatch(job) is None:
            faults.add(job_node, f"{quote(job)} is not a job: give its id, number or name")
        elif job in found:
            faults.add(job_node, f"{quote(job)} is named twice")
        else:
            found[job] = Dependency(job, when)
    return tuple(found.values())


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
        max_parallel = read_int(limit, faults, minimum=1, maximum=1_000_000)
    if "range" not in fields:
        faults.add(node, "the key 'range' is missing", field="range")
        return None
    array = _parsed(fields["range"], faults, parse_array)
    if array is None or limit is None:
        return array
    if array.max_parallel:
        faults.add(limit, "is also given after % in range; keep one")
    return ArraySpec(array.indices, max_parallel or 0)


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
    """The job's own caps; `max_price` is of the whole job."""
    hints = {"limit": "write max_cost: 500 USD", "max_hourly_cost": "write max_price: 40 USD/h"}
    fields = read_mapping(node, faults, ("max_cost", "max_price", "on_exceed"), hints=hints)
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
        choices = ("stop", "checkpoint-stop", "notify", "hold")
        on_exceed = read_enum(fields["on_exceed"], faults, choices) or "stop"
        if on_exceed in ("notify", "hold"):
            remedy = "use stop or checkpoint-stop"
            faults.not_built(fields["on_exceed"], f"on_exceed: {on_exceed}", instead=remedy)
            on_exceed = "stop"
    return Caps(cost, price, on_exceed)


def read_checkpoint(node: Node, faults: Faults) -> CheckpointSpec:
    """How the job is asked to save itself."""
    fields = read_mapping(node, faults, ("signal", "grace", "interval"))
    if fields is None:
        return CheckpointSpec()
    if "interval" in fields:
        remedy = "let the job save on its own schedule, and on checkpoint.signal"
        faults.not_built(fields["interval"], "a checkpoint interval", instead=remedy)
    signal = _read_signal(fields["signal"], faults) if "signal" in fields else None
    grace = read_duration(fields["grace"], faults) if "grace" in fields else None
    if grace is not None and grace > DAY_US:
        faults.add(fields["grace"], f"is {quote(fields['grace'].text)}; at most 24h")
    if "grace" in fields and "signal" not in fields:
        faults.add(fields["grace"], "needs checkpoint.signal beside it, such as USR1")
    if signal is None:
        return CheckpointSpec()
    return CheckpointSpec(signal, GRACE_DEFAULT_US if grace is None else grace)


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
    fields = read_mapping(node, faults, ("on", "max", "avoid_same_node"), hints=hints)
    if fields is None:
        return RetrySpec()
    if "on" not in fields:
        listed = ", ".join(RETRY_CAUSES)
        faults.add(node, f"say after what: on: [...] with some of {listed}", field="on")
    causes = _read_causes(fields["on"], faults) if "on" in fields else ()
    if "max" in fields:
        retries = read_int(fields["max"], faults, minimum=0, maximum=RETRIES_MAX)
    else:
        retries = 0
        counted = [word for word, cause in RETRY_CAUSES.items() if cause in set(causes) - _UNCOUNTED]
        if counted:
            faults.add(node, f"say how often to try again after {counted[0]}: max: 3", field="max")
    avoid = fields.get("avoid_same_node")
    elsewhere = bool(avoid is not None and read_bool(avoid, faults))
    return RetrySpec(causes, retries or 0, elsewhere)


def _read_causes(node: Node, faults: Faults) -> tuple[str, ...]:
    causes: list[str] = []
    for item in read_items(node, faults, items_max=20):
        if item.kind == "scalar" and item.text in _RETRY_HINTS:
            right = _RETRY_HINTS[item.text]
            faults.add(item, f"{quote(item.text)} is not a cause", nearest=right)
            continue
        word = read_enum(item, faults, tuple(RETRY_CAUSES))
        if word is None:
            continue
        if RETRY_CAUSES[word] in causes:
            faults.add(item, f"{quote(word)} is named twice")
            continue
        causes.append(RETRY_CAUSES[word])
    return tuple(causes)


def read_begin_after(node: Node, faults: Faults) -> Instant | None:
    """The earliest start: an instant, since a file does not know when it is read."""
    at = read_instant(node, faults)
    if at is not None and not _EARLIEST <= at < _LATEST:
        faults.add(node, f"{quote(node.text)} is not between the years 2000 and 2200")
        return None
    return at
