"""What a job may ask: every rule about a value of `JobSpec`, in one place.

Input   a spec, from wherever it came. Output: what is wrong with it, each with the path of its field.
Why     a job file, flags, a script and anybody's gRPC call all end in a spec. A rule that stood in one of
        the readers would be missing in the others; here the file adds the line and the wire the field.
Limits  the form of a value (is it a number, a duration, a size?) is its reader's affair.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from bursar.clock import DAY_US, SECOND_US, parse_instant
from bursar.model.constraints import TOGETHER, TOPOLOGY
from bursar.model.job import ENGINES, ArraySpec, CheckpointSpec, JobSpec, RetrySpec, runs_once
from bursar.model.ranges import count
from bursar.model.service import problems_of as service_problems
from bursar.money import AMOUNT_MAX, NANOS_MAX
from bursar.projects import problem_of
from bursar.resources import MILLI, GpuRequest, ResourceRequest, format_size, throughput_key
from bursar.steps.patterns import of_a_task

NAME_MAX: Final = 100
TAG_MAX: Final = 200
LABELS_MAX: Final = 64
LABEL_VALUE_MAX: Final = 256
NODES_MAX: Final = 10_000
GPUS_MAX: Final = 16
"""GPUs of one node; no machine sold today has more behind one operating system."""
CPUS_MAX: Final = 10_000
MEMORY_BYTES_MAX: Final = 100 * 10**12
"""Memory of one node: 100 TB."""
DEVICE_BYTES_MAX: Final = 10 * 10**12
OPTIONS_MAX: Final = 16
THROUGHPUTS_MAX: Final = 64
THROUGHPUT_GPUS_MAX: Final = 160_000
THROUGHPUT_MICRO_MAX: Final = 10**12
TYPES_MAX: Final = 16
CONSTRAINTS_MAX: Final = 32
CONSTRAINT_MAX: Final = 256
TIME_LIMIT_MAX_US: Final = 366 * DAY_US
DEPENDENCIES_MAX: Final = 100
ARRAY_TASKS_MAX: Final = 100_000
RANGES_MAX: Final = 10_000
"""Ranges of one array: an array is kept, sent and shown as its ranges."""
INDEX_MAX: Final = 4_000_000
"""The largest task index, as other schedulers have it."""
PARALLEL_MAX: Final = 1_000_000
RETRIES_MAX: Final = 100
ENV_MAX: Final = 500
ENV_VALUE_MAX: Final = 16_384
CODE_MAX: Final = 65_536
"""Characters of a script, of a setup, of all words of a command together."""
WORDS_MAX: Final = 4096
COMMENT_MAX: Final = 1024
SECRETS_MAX: Final = 64
PATH_MAX: Final = 4096
IMAGE_MAX: Final = 512
MOUNTS_MAX: Final = 64
MAX_COST_PER: Final = ("job", "task")
"""An amount of one job: what the wire's integer holds."""

SPOT_POLICIES: Final = ("auto", "spot", "on-demand")
DEADLINE_POLICIES: Final = ("promise", "best-effort")
DEPENDENCY_WHEN: Final = ("succeeded", "failed", "finished", "started", "singleton", "task-succeeded")
LAUNCHES: Final = ("per-node", "once", *ENGINES)
WITH_TASKS: Final = ("torchrun", "mpi", "dask")
"""Those that start a number of processes on each node."""
TASKS_PER_NODE_MAX: Final = 1024
BOUNDS: Final = {
    "priority": (0, 100),
    "nodes": (1, NODES_MAX),
    "tasks_per_node": (0, TASKS_PER_NODE_MAX),
}
"""Of fields that are plain whole numbers: the least and the most. Editors are told them, too."""
SCRIPT_OF_ENGINE_BYTES_MAX: Final = 100_000
"""Of shell text that an engine starts on nodes without a file of it: Linux takes 128 KiB as one argument."""
OPEN_MODES: Final = ("truncate", "append")
ON_EXCEED: Final = ("stop", "checkpoint-stop", "notify", "hold")
ON_EXCEED_BUILT: Final = ("stop", "checkpoint-stop")
SIGNALS: Final = ("USR1", "USR2", "INT", "TERM", "HUP", "QUIT", "CONT")
"""What a job can catch and nothing else needs; KILL and STOP cannot be caught."""
RETRY_CAUSES: Final = {
    "preemption": "preempted",
    "node-failure": "node_lost",
    "out-of-memory": "out_of_memory",
    "failure": "failed",
    "start-failure": "start_failed",
    "image-failure": "image_failed",
    "time-limit": "time_limit",
}
"""The words of the job file and those of the model."""
UNCOUNTED_CAUSES: Final = frozenset(("preempted", "node_lost"))
"""Not the job's fault: tried again without using up `retry.max`."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]*", re.ASCII)
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}", re.ASCII)
_TAKES_TEXT = re.compile(r"[/ \t](?:ba|da|z|k)?sh\s*(?:-\w+\s*)?$|[/ \t]python[0-9.]*\s*$")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_JOB_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(?:\[\d{1,7}\])?", re.ASCII)
_PATTERN = re.compile(r"!?[A-Za-z0-9*?\[\]{}._:/@-]+(?:, *!?[A-Za-z0-9*?\[\]{}._:/@-]+)*", re.ASCII)
_GPU_TYPE = re.compile(r"[A-Z][A-Z0-9._-]{0,39}", re.ASCII)
_COMPONENT = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{{1,5}})?/)?{_COMPONENT}(?:/{_COMPONENT})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
"""A name as registries have them: `[HOST[:PORT]/]PATH[:TAG][@sha256:DIGEST]`."""
_KEPT_TARGETS = ("/proc", "/sys", "/dev", "/run/bursar", "/tmp")
"""What a container has of its own."""
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_BREAK = re.compile("[\r\n]")
_EARLIEST = parse_instant("2000-01-01")
_LATEST = parse_instant("2200-01-01")

_CAUSE_WORDS = {cause: word for word, cause in RETRY_CAUSES.items()}
_DEFAULT = JobSpec()
IDLE_ACTIONS: Final = ("stop", "notify", "hold", "requeue", "cancel")
IDLE_WINDOW_US_MIN: Final = 60_000_000
_NOT_SECRETS = frozenset(("PATH", "HOME", "USER", "SHELL", "IFS", "PYTHONPATH", "CUDA_VISIBLE_DEVICES"))

Path = tuple[str | int, ...]


class Problem(NamedTuple):
    """One thing wrong with a spec.

    Attributes:
        path: of the value, in the words of the job file: `("resources", "any_of", 1, "gpus")`.
        message: what is wrong and what would be right.
        not_built: the contract names it, this version does not do it.
    """

    path: Path
    message: str
    not_built: bool = False

    @property
    def field(self) -> str:
        """The path as people write it: `resources.any_of[1].gpus`."""
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        return "".join(parts).removeprefix(".")


def quote(text: str) -> str:
    """The text in quotes, cut so that a problem stays one readable line."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def check(spec: JobSpec) -> list[Problem]:
    """Everything wrong with a spec; empty when it may be accepted. Pure, and linear in its size.

    What was not asked for is not looked at: nothing is wrong with a default but that there is nothing to run.
    """
    return [
        *_names(spec),
        *(_labels(spec) if spec.labels else ()),
        *_size(spec),
        *(_constraints(spec) if spec.constraints else ()),
        *_order(spec),
        *(_dependencies(spec) if spec.depends_on else ()),
        *(_array(spec.array) if spec.array is not None else ()),
        *(_service(spec) if spec.service is not None else ()),
        *_caps(spec),
        *(_checkpoint(spec.checkpoint) if spec.checkpoint != _DEFAULT.checkpoint else ()),
        *(_retry(spec.retry) if spec.retry != _DEFAULT.retry else ()),
        *(_idle(spec) if spec.idle_policy != _DEFAULT.idle_policy else ()),
        *(_environment(spec) if spec.env else ()),
        *(_secrets(spec) if spec.secrets or spec.secret_files else ()),
        *_code(spec),
        *(_container(spec) if spec.image or spec.image_auth or spec.mounts else ()),
        *(_output_files(spec) if spec.output_file or spec.error_file or spec.open_mode else ()),
    ]


# ------------------------------------------------------------------ what it is called


def _names(spec: JobSpec) -> Iterator[Problem]:
    name = spec.name
    if len(name) > NAME_MAX:
        yield Problem(("name",), f"has {len(name)} characters; at most {NAME_MAX}")
    elif name and _NAME.fullmatch(name) is None:
        what = "a job name: letters, digits, '.', '_', '-', starting with a letter or digit"
        yield Problem(("name",), f"{quote(name)} is not {what}")
    elif name == "last":
        yield Problem(("name",), f"{quote(name)} means the newest job everywhere; add a word")
    elif name.isdigit() or name.startswith("job_"):
        yield Problem(("name",), f"{quote(name)} would be read as an id or a number; add a word")
    problem = problem_of(spec.project)
    if problem:
        yield Problem(
            ("project",), f"{quote(spec.project)} is not a project path: {problem}; write nlp/finetune"
        )
    for key, tag in (
        ("experiment", spec.experiment),
        ("model", spec.model),
        ("model_version", spec.model_version),
    ):
        if len(tag) > TAG_MAX:
            yield Problem((key,), f"has {len(tag)} characters; at most {TAG_MAX}")
        elif tag and _TAG.fullmatch(tag) is None:
            what = f"a name for {key}: letters, digits and . _ : @ + = - without spaces or slashes"
            yield Problem((key,), f"{quote(tag)} is not {what}")
    yield from _text(("comment",), spec.comment, COMMENT_MAX, lines=True)


def _labels(spec: JobSpec) -> Iterator[Problem]:
    if len(spec.labels) > LABELS_MAX:
        yield Problem(("labels",), f"has {len(spec.labels)} labels; at most {LABELS_MAX}")
        return
    for key, value in spec.labels:
        if _LABEL_KEY.fullmatch(key) is None:
            what = "a label name: letters, digits, '.', '_', '/', '-', at most 63"
            yield Problem(("labels", key), f"{quote(key)} is not {what}")
        else:
            yield from _text(("labels", key), value, LABEL_VALUE_MAX)


# ------------------------------------------------------------------ what it needs


def _size(spec: JobSpec) -> Iterator[Problem]:
    for name, (least, most) in BOUNDS.items():
        yield from _bounds((name,), getattr(spec, name), least, most)
    if spec.max_nodes:
        yield from _bounds(("nodes",), spec.max_nodes, 1, NODES_MAX)
    if spec.max_nodes and spec.max_nodes <= spec.nodes <= NODES_MAX:
        what = "the most comes last and is more than the least, as in 2..8"
        yield Problem(("nodes",), f"goes from {spec.nodes} to {spec.max_nodes}; {what}")
    yield from _throughput(spec.throughput)
    options = spec.options
    listed = ("resources", "ordered" if spec.ordered else "any_of")
    if not 1 <= len(options) <= OPTIONS_MAX:
        yield Problem(listed, f"has {len(options)} elements; at least 1 and at most {OPTIONS_MAX}")
        return
    alone = len(options) == 1
    for position, option in enumerate(options):
        yield from _option(("resources",) if alone else (*listed, position), option)


def _throughput(found: Sequence[tuple[str, int, int]]) -> Iterator[Problem]:
    """How fast it says to be where."""
    if len(found) > THROUGHPUTS_MAX:
        yield Problem(("throughput",), f"has {len(found)} entries; at most {THROUGHPUTS_MAX}")
        return
    for kind, gpus, micro in found:
        path: Path = ("throughput", throughput_key(kind, gpus))
        if _GPU_TYPE.fullmatch(kind) is None:
            yield Problem(path, f"{quote(kind)} is not a GPU type; write a name such as H100 or A100")
        if not 0 <= gpus <= THROUGHPUT_GPUS_MAX:
            yield Problem(path, f"is of {gpus} GPUs; at most {THROUGHPUT_GPUS_MAX}")
        if not 1 <= micro <= THROUGHPUT_MICRO_MAX:
            yield Problem(path, "is not a speed from 0.000001 to 1000000")
    for key in _doubled([throughput_key(kind, gpus) for kind, gpus, _ in found]):
        yield Problem(("throughput",), f"says {quote(key)} twice")


def _option(path: Path, option: ResourceRequest) -> Iterator[Problem]:
    if option.cpu_milli <= 0:
        yield Problem(
            (*path, "cpus"), f"is {option.cpu_milli / MILLI:g}; a job needs some CPU, at least 0.001"
        )
    elif option.cpu_milli > CPUS_MAX * MILLI:
        cpus = f"{option.cpu_milli / MILLI:.15g}"
        yield Problem((*path, "cpus"), f"is {cpus!r}; at most {CPUS_MAX} CPUs on one node")
    yield from _bytes((*path, "memory"), option.memory_bytes, MEMORY_BYTES_MAX, "a node")
    if option.gpus is not None:
        yield from _gpus((*path, "gpus"), option.gpus)


def _bytes(path: Path, size_bytes: int, maximum: int, holder: str) -> Sequence[Problem]:
    if 0 <= size_bytes <= maximum:
        return ()
    return (Problem(path, f"is {format_size(size_bytes)}; at most {maximum // 10**12} TB on {holder}"),)


def _gpus(path: Path, gpus: GpuRequest) -> Iterator[Problem]:
    if gpus.count > GPUS_MAX:
        yield Problem(path, f"is '{gpus.count}' GPUs; at most {GPUS_MAX} on one node: use more nodes")
    elif gpus.count < 1:
        yield Problem(path, f"is {gpus.count}; a count of GPUs is 1 to {GPUS_MAX}")
    if not 0 < gpus.milli <= MILLI:
        share = f"{gpus.milli / MILLI:g}"
        yield Problem(path, f"{share!r} is not a share of one GPU; it is above 0 and at most 1")
    elif gpus.milli < MILLI and gpus.count > 1:
        yield Problem(path, f"a fraction is a share of one GPU; it cannot go with a count of {gpus.count}")
    yield from _bytes(path, gpus.memory_bytes, DEVICE_BYTES_MAX, "a GPU")
    if len(gpus.types) > TYPES_MAX:
        yield Problem(path, f"names {len(gpus.types)} types; at most {TYPES_MAX}")
        return
    for name in gpus.types:
        if _GPU_TYPE.fullmatch(name) is None:
            yield Problem(path, f"{quote(name)} is not a GPU type; write a name such as H100 or A100")
    for name in _doubled(gpus.types):
        yield Problem(path, f"names the type {quote(name)} twice")


def _constraints(spec: JobSpec) -> Iterator[Problem]:
    path: Path = ("resources", "constraints")
    if len(spec.constraints) > CONSTRAINTS_MAX:
        yield Problem(path, f"has {len(spec.constraints)} constraints; at most {CONSTRAINTS_MAX}")
        return
    for key, pattern in spec.constraints:
        if _LABEL_KEY.fullmatch(key) is None:
            yield Problem(
                (*path, key), f"{quote(key)} is not a name of a node property, such as zone or pool"
            )
        elif len(pattern) > CONSTRAINT_MAX:
            yield Problem((*path, key), f"has {len(pattern)} characters; at most {CONSTRAINT_MAX}")
        elif key == TOPOLOGY:
            yield from _choice((*path, key), pattern, tuple(TOGETHER))
        elif _PATTERN.fullmatch(pattern) is None:
            what = "a pattern such as eu-* or '!bad-01' (quote a leading ! or *)"
            yield Problem((*path, key), f"{quote(pattern)} is not {what}")


# ------------------------------------------------------------------ when it runs


def _order(spec: JobSpec) -> Iterator[Problem]:
    yield from _choice(("spot_policy",), spec.spot_policy, SPOT_POLICIES)
    if spec.time_limit_us and spec.time_limit_us < SECOND_US:
        yield Problem(("time_limit",), "is shorter than a second; at least 1s (leave it out for the default)")
    elif spec.time_limit_us > TIME_LIMIT_MAX_US:
        yield Problem(("time_limit",), f"is {spec.time_limit_us // DAY_US} days; at most 366d")
    if spec.begin_after and not _EARLIEST <= spec.begin_after < _LATEST:
        yield Problem(("begin_after",), "is not between the years 2000 and 2200")
    yield from _deadline(spec)


def _deadline(spec: JobSpec) -> Iterator[Problem]:
    yield from _choice(("deadline_policy",), spec.deadline_policy, DEADLINE_POLICIES)
    if not spec.deadline_at:
        if spec.deadline_policy != "promise":
            yield Problem(("deadline_policy",), "is of a deadline, and there is none")
        return
    path: Path = ("deadline",)
    if not _EARLIEST <= spec.deadline_at < _LATEST:
        yield Problem(path, "is not between the years 2000 and 2200")
    elif spec.service is not None:
        yield Problem(path, "a service runs until it is stopped; leave the deadline out")
    elif spec.begin_after and spec.begin_after + max(spec.time_limit_us, SECOND_US) > spec.deadline_at:
        yield Problem(path, "leaves no time for the time_limit between begin_after and itself")
    elif spec.deadline_policy == "promise":
        for what, given in (
            ("an array", spec.array is not None),
            ("a job that waits for others", bool(spec.depends_on)),
            ("a job on hold", spec.held),
        ):
            if given:
                yield _not_built(path, f"a promise to {what}", "add deadline_policy: best-effort")


def _dependencies(spec: JobSpec) -> Iterator[Problem]:
    if len(spec.depends_on) > DEPENDENCIES_MAX:
        yield Problem(("depends_on",), f"has {len(spec.depends_on)} elements; at most {DEPENDENCIES_MAX}")
        return
    for position, dependency in enumerate(spec.depends_on):
        path: Path = ("depends_on", position)
        if _JOB_REF.fullmatch(dependency.job) is None:
            yield Problem(path, f"{quote(dependency.job)} is not a job: give its id, number or name")
        yield from _choice((*path, "when"), dependency.when, DEPENDENCY_WHEN)
    for job in _doubled([one.job for one in spec.depends_on]):
        yield Problem(("depends_on",), f"{quote(job)} is named twice")


def _array(array: ArraySpec) -> Iterator[Problem]:
    ranges, path = array.ranges, ("array",)
    if not ranges:
        yield Problem(path, "has no task; write it as 0-99, 1,3,5-9:2 or 0-99%10")
        return
    if count(ranges) > ARRAY_TASKS_MAX:
        yield Problem(path, f"has more than {ARRAY_TASKS_MAX} tasks; split it into several jobs")
    elif any(before[1] > after[0] for before, after in pairwise(ranges)):
        yield Problem(path, "has indices that do not ascend; each task is named once, in order")
    elif len(ranges) > RANGES_MAX:
        yield Problem(path, f"has more than {RANGES_MAX} ranges; split it into several jobs")
    if ranges[-1][1] - 1 > INDEX_MAX or ranges[0][0] < 0:
        yield Problem(path, f"goes past the largest task index, {INDEX_MAX}")
    yield from _bounds((*path, "max_parallel"), array.max_parallel, 0, PARALLEL_MAX)


def _service(spec: JobSpec) -> Iterator[Problem]:
    """What a service asks, and what of a job it cannot have."""
    assert spec.service is not None
    for path, message in service_problems(spec.service):
        yield Problem(path, message)
    if not spec.name:
        yield Problem(("name",), "is missing; a service is found by its name")
    fallback = spec.service.fallback
    if fallback and (len(fallback) > NAME_MAX or _NAME.fullmatch(fallback) is None):
        yield Problem(("fallback",), f"{quote(fallback)} is no name of a service")
    elif fallback and fallback == spec.name:
        yield Problem(("fallback",), "is this service itself; name another one, or leave it out")
    if spec.array is not None and spec.array.ranges != ((0, max(count(spec.array.ranges), 1), 1),):
        yield Problem(("array",), "a service is no array: it says replicas")
    if spec.most_nodes != 1:
        yield _not_built(("nodes",), "a replica of several nodes", "it takes one")
    if any(one.when == "task-succeeded" for one in spec.depends_on):
        yield Problem(("depends_on",), "a service follows no tasks of an array; say when: succeeded")
    if spec.launch != "per-node":
        yield Problem(("launch",), "a replica is started as it is; leave launch out")
    if spec.max_cost_nanos:
        yield Problem(
            ("budget", "max_cost"),
            "a service has no end that would bound it; give its project a budget, or say max_price",
        )
    if spec.time_limit_us:
        yield Problem(("time_limit",), "a service goes on until it is cancelled; leave time_limit out")
    if spec.retry != _DEFAULT.retry:
        yield Problem(("retry",), "a replica that ends is always started again; leave retry out")


# ------------------------------------------------------------------ what it may cost, how it ends


def _caps(spec: JobSpec) -> Iterator[Problem]:
    capped = bool(spec.max_cost_nanos or spec.max_price_nanos_per_hour)
    amounts = (
        ("max_cost", spec.max_cost_nanos, AMOUNT_MAX),
        ("max_price", spec.max_price_nanos_per_hour, NANOS_MAX),
    )
    for key, nanos, most in amounts:
        if not 0 <= nanos <= most:
            yield Problem(("budget", key), f"is {nanos} nanos; 0 (none) to {most}")
    if (capped or spec.currency) and _CURRENCY.fullmatch(spec.currency) is None:
        yield Problem(("budget", "currency"), f"{quote(spec.currency)} is not a currency code such as USD")
    yield from _choice(("budget", "per"), spec.max_cost_per, MAX_COST_PER)
    if spec.on_exceed in ON_EXCEED and spec.on_exceed not in ON_EXCEED_BUILT:
        what = f"on_exceed: {spec.on_exceed}"
        yield _not_built(("budget", "on_exceed"), what, "use stop or checkpoint-stop")
    else:
        yield from _choice(("budget", "on_exceed"), spec.on_exceed, ON_EXCEED_BUILT)


def _checkpoint(checkpoint: CheckpointSpec) -> Iterator[Problem]:
    if checkpoint.signal:
        yield from _choice(("checkpoint", "signal"), checkpoint.signal, SIGNALS)
    elif checkpoint.before_us or checkpoint.script_only:
        yield Problem(("checkpoint",), "needs checkpoint.signal, such as USR1")
    if not 0 <= checkpoint.before_us <= DAY_US:
        yield Problem(("checkpoint", "before"), "is longer than a day; at most 24h")
    if not 0 <= checkpoint.grace_us <= DAY_US:
        yield Problem(("checkpoint", "grace"), "is longer than a day; at most 24h")
    elif checkpoint.grace_us and not checkpoint.signal:
        yield Problem(("checkpoint", "grace"), "needs checkpoint.signal beside it, such as USR1")


def _idle(spec: JobSpec) -> Iterator[Problem]:
    idle, path = spec.idle_policy, ("idle_policy",)
    if msgspec.structs.replace(idle, snoozed_until=0, snoozes=0) == _DEFAULT.idle_policy:
        return  # its owner has put off what a policy of the site says
    yield from _bounds((*path, "min_gpu_utilization"), idle.below_percent, 1, 100)
    yield from _bounds((*path, "min_cpu_utilization"), idle.cpu_below_percent, 0, 100)
    if idle.detached_us:
        if not IDLE_WINDOW_US_MIN <= idle.detached_us <= 7 * DAY_US:
            yield Problem((*path, "detached"), "is how long nobody may be attached, from 1m to 7d")
        if not spec.interactive:
            yield Problem((*path, "detached"), "is of a job that people attach to; write type: interactive")
        if not idle.window_us and not idle.warn_after_us:
            return
    if not IDLE_WINDOW_US_MIN <= idle.window_us <= 7 * DAY_US:
        yield Problem((*path, "time_window"), "is needed: how long it may be idle, from 1m to 7d")
    elif not 0 < idle.warn_after_us <= idle.window_us:
        yield Problem((*path, "warn_after"), "is to be more than 0 and at most time_window")
    yield from _choice((*path, "action"), idle.action, IDLE_ACTIONS)
    if not idle.cpu_below_percent and not all(option.gpus for option in spec.options):
        yield Problem(
            path,
            "needs GPUs in every alternative: it is judged by what they do; a job without GPUs is judged by"
            " its CPUs, with min_cpu_utilization",
        )


def _retry(retry: RetrySpec) -> Iterator[Problem]:
    for position, cause in enumerate(retry.on[: len(_CAUSE_WORDS) + 1]):
        yield from _choice(("retry", "on", position), cause, tuple(_CAUSE_WORDS))
    for cause in _doubled(retry.on):
        yield Problem(("retry", "on"), f"{quote(_CAUSE_WORDS.get(cause, cause))} is named twice")
    yield from _bounds(("retry", "max"), retry.max, 0, RETRIES_MAX)
    if retry.never and (retry.on or retry.max or retry.avoid_same_node):
        yield Problem(("retry",), "never stands alone: there is no other attempt to say anything about")
    elif not retry.on and (retry.max or retry.avoid_same_node):
        yield Problem(("retry",), f"say after what: on: [...] with some of {', '.join(RETRY_CAUSES)}")


# ------------------------------------------------------------------ what it runs


def _environment(spec: JobSpec) -> Iterator[Problem]:
    if len(spec.env) > ENV_MAX:
        yield Problem(("env",), f"has {len(spec.env)} variables; at most {ENV_MAX}")
        return
    for name, value in spec.env:
        yield from variable(name, value)


def variable(name: str, value: str) -> Iterator[Problem]:
    """What is wrong with one variable of a job's `env`."""
    path: Path = ("env", name)
    if _ENV_NAME.fullmatch(name) is None:
        what = "a variable name: letters, digits and '_', no leading digit"
        yield Problem(path, f"{quote(name)} is not {what}")
    elif name.upper().startswith("BURSAR_"):
        yield Problem(path, f"{name} is set by bursar itself; choose another name")
    else:
        yield from _text(path, value, ENV_VALUE_MAX, lines=True)


def _secrets(spec: JobSpec) -> Iterator[Problem]:
    if len(spec.secrets) > SECRETS_MAX:
        yield Problem(("secrets",), f"has {len(spec.secrets)} names; at most {SECRETS_MAX}")
        return
    variables = {name for name, _ in spec.env}
    for position, name in enumerate(spec.secrets):
        problem = secret_name_problem(name)
        if problem:
            yield Problem(("secrets", position), problem)
        elif name in variables:
            yield Problem(("secrets", position), f"{name} stands in env too; give it once")
    for name in _doubled(spec.secrets):
        yield Problem(("secrets",), f"{quote(name)} is named twice")
    for name in sorted(set(spec.secret_files) - set(spec.secrets)):
        yield Problem(("secret_files",), f"{quote(name)} is not among secrets")
    for name in _doubled(spec.secret_files):
        yield Problem(("secret_files",), f"{quote(name)} is named twice")


def secret_name_problem(name: str) -> str:
    """Why this is no name of a secret; empty when it is one. The job finds the value in that variable."""
    if _ENV_NAME.fullmatch(name) is None:
        return f"{quote(name)} is not a secret's name: letters, digits and '_', no leading digit"
    if name.upper().startswith(("BURSAR_", "LD_")) or name in _NOT_SECRETS:
        return f"{name} means something to the programs that start a job; choose another name"
    return ""


def _code(spec: JobSpec) -> Iterator[Problem]:
    yield from _choice(("launch",), spec.launch, LAUNCHES)
    if spec.tasks_per_node and spec.launch not in WITH_TASKS:
        yield Problem(
            ("tasks_per_node",), f"means something with launch: {' | '.join(WITH_TASKS)} alone; see launch"
        )
    if spec.launch in ENGINES:
        yield from _code_of_engine(spec)
    if spec.interactive:
        yield from _interactive(spec)
    elif not spec.script and not spec.command:
        yield Problem(("run",), "nothing to run: give run: SHELL TEXT, or command: [PROGRAM, ARGUMENT]")
    if spec.script and spec.command:
        yield Problem(("command",), "stands beside run; give one of the two")
    if spec.script and not spec.script.strip():
        yield Problem(("run",), "is blank; write the shell text to run")
    if spec.arguments and not spec.script:
        yield Problem(("arguments",), "are of run; there is none. Words of a command stand in command")
    yield from _text(("run",), spec.script, CODE_MAX, lines=True)
    yield from _text(("setup",), spec.setup, CODE_MAX, lines=True)
    yield from _words("command", spec.command)
    if spec.command and not spec.command[0].strip():
        yield Problem(("command", 0), "is blank; name the program to run")
    yield from _words("arguments", spec.arguments)
    workdir = spec.workdir
    if workdir and not workdir.startswith("/"):
        yield Problem(("workdir",), f"{quote(workdir)} is relative, here to nothing; write the whole path")
    else:
        yield from _text(("workdir",), workdir, PATH_MAX)


def _interactive(spec: JobSpec) -> Iterator[Problem]:
    if spec.array is not None or spec.service is not None:
        yield Problem(("type",), "interactive is one job: no array, and no service")
    if spec.launch in ENGINES and not spec.script and not spec.command:
        yield Problem(("launch",), f"{spec.launch} starts a command; there is none")


def _container(spec: JobSpec) -> Iterator[Problem]:
    if not spec.image:
        for key in ("image_auth", "mounts"):
            if getattr(spec, key):
                yield Problem((key,), "is of a container; name its image with `image`")
        return
    if problem := image_problem(spec.image):
        yield Problem(("image",), problem)
    if spec.launch != "per-node" or spec.interactive:
        what = "type: interactive" if spec.interactive else f"launch: {spec.launch}"
        yield Problem(
            ("image",), f"{what} in a container is not built; leave one of them out", not_built=True
        )
    if spec.image_auth and spec.image_auth not in spec.secrets:
        yield Problem(("image_auth",), f"{quote(spec.image_auth)} is not among secrets; name it there too")
    elif spec.image_auth in spec.secret_files:
        yield Problem(("image_auth",), "is for the registry alone, and no file; leave `file` out")
    if len(spec.mounts) > MOUNTS_MAX:
        yield Problem(("mounts",), f"has {len(spec.mounts)} entries; at most {MOUNTS_MAX}")
        return
    targets = []
    for position, text in enumerate(spec.mounts):
        path: Path = ("mounts", position)
        problem = _mount_problem(text)
        if problem:
            yield Problem(path, f"{quote(text)}: {problem}")
        else:
            targets.append(text.split(":")[1])
    for target in _doubled(targets):
        yield Problem(("mounts",), f"mounts two things at {quote(target)}")


def image_problem(image: str) -> str:
    """What is wrong with the name of an image; "" for nothing."""
    form = "HOST/PATH:TAG, as in ghcr.io/acme/train:1, or PATH:TAG of Docker Hub, in lower case"
    if len(image) > IMAGE_MAX:
        return f"has {len(image)} characters; at most {IMAGE_MAX}"
    if image.startswith(("docker:", "docker-daemon:", "oci:", "dir:", "oci-archive:", "library:", "shub:")):
        return f"{quote(image)}: write the name alone, without what fetches it: {form}"
    if image.startswith("/") or image.endswith((".sqsh", ".sif", ".tar")):
        return f"{quote(image)} is a file; only images of a registry are taken: {form}"
    return "" if _IMAGE.fullmatch(image) else f"{quote(image)} is no name of an image; write {form}"


def _mount_problem(text: str) -> str:
    """What is wrong with `SOURCE:TARGET[:ro]`; "" for nothing."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or (len(parts) == 3 and parts[2] not in ("ro", "rw")):
        return "write /on/the/node:/in/the/container, or with :ro behind it"
    if len(text) > PATH_MAX or _CONTROL.search(text) or _BREAK.search(text) or "," in text or '"' in text:
        return f"has a control character, a comma or a quote, or more than {PATH_MAX} characters"
    for one in parts[:2]:
        if not one.startswith("/") or ".." in one.split("/"):
            return f"{quote(one)} is not an absolute path without '..'"
    target = parts[1].rstrip("/")
    if not target or any(target == kept or target.startswith(kept + "/") for kept in _KEPT_TARGETS):
        return f"{quote(parts[1])} is the container's own; choose another place in it"
    return ""


def _output_files(spec: JobSpec) -> Iterator[Problem]:
    for key, path in (("output_file", spec.output_file), ("error_file", spec.error_file)):
        yield from _text((key,), path, PATH_MAX)
        if path.startswith("~"):
            yield Problem((key,), f"{quote(path)}: ~ is not expanded; write the whole path")
        elif path and spec.most_nodes > 1 and not runs_once(spec) and not of_a_task(path):
            many = f"is one file, and {spec.most_nodes} nodes would write into it"
            yield Problem((key,), f"{many}; put %N (the node) or %n (its rank) into the name")
    if spec.open_mode:
        yield from _choice(("open_mode",), spec.open_mode, OPEN_MODES)
        if not spec.output_file and not spec.error_file:
            yield Problem(("open_mode",), "says how output_file is opened; there is none")


def _code_of_engine(spec: JobSpec) -> Iterator[Problem]:
    """Other nodes have no file of the script, so its text is an argument of its interpreter there."""
    path = ("run",) if spec.script else ("command",)
    if spec.launch in ("torchrun", "mpi"):
        words = spec.command or tuple(spec.script.split(None, 1))
        starter = words[0].rpartition("/")[2] if words else ""
        if starter in ("torchrun", "mpirun", "mpiexec", "srun"):
            why = f"launch: {spec.launch} starts its processes itself; write what each of them is to run"
            yield Problem(path, f"begins with {starter}, but {why}")
    if not spec.script:
        return
    if len(spec.script.encode("utf-8", "surrogateescape")) > SCRIPT_OF_ENGINE_BYTES_MAX:
        most = f"at most {SCRIPT_OF_ENGINE_BYTES_MAX} bytes with launch: {spec.launch}"
        yield Problem(path, f"is too long: {most}; put it into a file that all nodes have, and use command")
    first = spec.script.partition("\n")[0]
    if first.startswith("#!") and _TAKES_TEXT.search(first) is None:
        yield Problem(
            path,
            f"is for {quote(first[2:].strip())}; write shell or python with launch: {spec.launch}",
        )


def _words(key: str, words: Sequence[str]) -> Iterator[Problem]:
    if len(words) > WORDS_MAX:
        yield Problem((key,), f"has {len(words)} elements; at most {WORDS_MAX}")
        return
    if sum(map(len, words)) > CODE_MAX:
        yield Problem((key,), f"has more than {CODE_MAX} characters; put the {key} into a script")
        return
    for position, word in enumerate(words):
        yield from _text((key, position), word, CODE_MAX, lines=True)


# ------------------------------------------------------------------ forms that recur


def _text(path: Path, text: str, length_max: int, *, lines: bool = False) -> Sequence[Problem]:
    if not text:
        return ()
    if len(text) > length_max:
        return (Problem(path, f"has {len(text)} characters; at most {length_max}"),)
    if _CONTROL.search(text) or (not lines and _BREAK.search(text)):
        return (Problem(path, f"{quote(text)} holds a line break or control character"),)
    return ()


def _bounds(path: Path, value: int, minimum: int, maximum: int) -> Sequence[Problem]:
    if value < minimum:
        return (Problem(path, f"is {value}; at least {minimum} is needed"),)
    if value > maximum:
        return (Problem(path, f"is {value}; at most {maximum} is allowed"),)
    return ()


def _choice(path: Path, value: str, choices: Sequence[str]) -> Sequence[Problem]:
    if value in choices:
        return ()
    near = difflib.get_close_matches(value.lower()[:100], choices, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return (Problem(path, f"{quote(value)} is not one of {', '.join(choices)}{hint}"),)


def _not_built(path: Path, what: str, remedy: str) -> Problem:
    return Problem(path, f"{what} is part of the contract, not built yet; {remedy}", not_built=True)


def _doubled(words: Sequence[str]) -> list[str]:
    if len(set(words)) == len(words):
        return []
    return [word for word, count in Counter(words).items() if count > 1]
