"""The job file for editors: what each key may be. The rules come from `model.check` where it has them."""

from __future__ import annotations

import re

from bursar.model import WRITTEN_OTHERWISE, JobSpec
from bursar.model.check import (
    BOUNDS,
    COMMENT_MAX,
    DEADLINE_POLICIES,
    DEPENDENCY_WHEN,
    IDLE_ACTIONS,
    IMAGE_MAX,
    LAUNCHES,
    MAX_COST_PER,
    MOUNTS_MAX,
    NAME_MAX,
    NODES_MAX,
    ON_EXCEED_BUILT,
    OPEN_MODES,
    PATH_MAX,
    RETRIES_MAX,
    RETRY_CAUSES,
    SECRETS_MAX,
    SIGNALS,
    SPOT_POLICIES,
    TAG_MAX,
    TASKS_PER_NODE_MAX,
    THROUGHPUT_MICRO_MAX,
    THROUGHPUTS_MAX,
)
from bursar.model.constraints import TOGETHER, TOPOLOGY
from bursar.model.service import (
    APIS,
    LEAST,
    PORT_MAX,
    PORT_MIN,
    REPLICAS_MAX,
    STEPS,
    STEPS_MAX,
    STRATEGIES,
    SURGE_MAX,
    TARGET_MAX,
)
from bursar.resources import MICRO
from bursar.schemas import forms
from bursar.schemas.forms import Schema

_ENV_NAME = r"^(?!BURSAR_)[A-Za-z_][A-Za-z0-9_]{0,127}$"
_LABEL = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$"
_TAG = r"^[A-Za-z0-9][A-Za-z0-9._:@+=-]*$"
_NAME = r"^(?!last$|job_|\d+$)[A-Za-z0-9][A-Za-z0-9._-]*$"
_REFERENCE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}(\[\d{1,7}\])?$"
_RANGE = r"^\s*\d+(-\d+(:[1-9]\d*)?)?(\s*,\s*\d+(-\d+(:[1-9]\d*)?)?)*\s*(%[1-9]\d*)?\s*$"
_TYPE = r"[A-Za-z][A-Za-z0-9._-]{0,39}"
_BYTES = r"\d+(\.\d+)?\s*([KMGTPkmgtp][Ii]?[Bb]?|[Bb])"
_COUNT = r"\d{1,2}(\.\.\d{1,2})?"
_COUNTS = r"^([1-9]|1[0-5])\.\.([2-9]|1[0-6])$"
_GPUS = rf"^\s*(any|{_TYPE}(\|{_TYPE})*|{_BYTES}|0?\.\d{{1,3}}|{_COUNT})(:[^:\s]+){{0,2}}\s*$"
_CPUS = r"^\s*(?=.*[1-9])\d{1,5}(\.\d{1,3})?\s*(\+|\.\.)?$"
_MEMORY = rf"^\s*(?=.*[1-9]){_BYTES}\s*(\+|\.\.)?\s*$"
_PATTERN = r"^!?[A-Za-z0-9*?\[\]{}._:/@-]+(, *!?[A-Za-z0-9*?\[\]{}._:/@-]+)*$"


def job_schema() -> Schema:
    """The schema of one job file."""
    about = "A job of Bursar: what to run, what it needs, what it may cost."
    schema = forms.mapping(about, _keys())
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Bursar job file",
        **schema,
        "oneOf": [
            {"required": ["run"]},
            {"required": ["command"]},
            {
                "required": ["type"],
                "properties": {"type": {"const": "interactive"}},
                "not": {"anyOf": [{"required": ["run"]}, {"required": ["command"]}]},
            },
        ],
        "not": {
            "anyOf": [
                {"required": ["nodes", "num_nodes"]},
                {"required": ["time_limit", "time"]},
                {"required": ["output_file", "output"]},
                {"required": ["error_file", "error"]},
            ]
        },
    }


def _keys() -> dict[str, Schema]:
    said = {**_who(), **_what_it_needs(), **_when(), **_what_it_may(), **_process(), **_service()}
    return said | {name: row for name, row in _plain().items() if name not in said}


def _plain() -> dict[str, Schema]:
    """Fields that need no more than their type, their bounds and their line in the docstring of `JobSpec`."""
    forms_of = {int: ["integer"], str: [*forms.SCALAR], bool: ["boolean"]}
    found: dict[str, Schema] = {}
    for name in JobSpec.__struct_fields__:
        default = getattr(JobSpec(), name)
        about = re.search(
            rf"^ {{8}}{name}: (.+?)(?=^ {{8}}\w|^ {{4}}$|\Z)", JobSpec.__doc__ or "", re.M | re.S
        )
        if type(default) in forms_of and name not in WRITTEN_OTHERWISE:
            words = " ".join(about[1].split()) if about else ""
            least, most = BOUNDS.get(name, (None, None))
            bounds = {} if least is None else {"minimum": least, "maximum": most}
            found[name] = {
                "type": forms_of[type(default)], **bounds, "description": words, "default": default
            }  # fmt: skip
    return found


def _who() -> dict[str, Schema]:
    return {
        "type": forms.word(
            "One that ends, one that answers requests until it is cancelled, or one that people attach to.",
            ("job", "service", "interactive"),
            "job",
        ),
        "name": forms.text(
            "To find it by, and to estimate it from its past runs.", _NAME, maxLength=NAME_MAX
        ),
        "project": forms.text("A path; owns quota and budget.", forms.PROJECT, default="default"),
        "experiment": forms.scalar(
            "Groups jobs and their cost.", pattern=_TAG, minLength=1, maxLength=TAG_MAX
        ),
        "model": forms.scalar("Groups jobs and their cost.", pattern=_TAG, minLength=1, maxLength=TAG_MAX),
        "model_version": forms.scalar("Of the model.", pattern=_TAG, minLength=1, maxLength=TAG_MAX),
        "labels": forms.pairs("Free names with values, for filters, budgets and reports.", _LABEL),
        "comment": forms.scalar("A note.", maxLength=COMMENT_MAX),
    }


def _what_it_needs() -> dict[str, Schema]:
    nodes = forms.either(
        "Size of the gang: all or nothing. Of a range, the most that can start.",
        forms.whole("", 1, NODES_MAX),
        forms.text("", r"^[1-9]\d{0,3}\.\.(10000|[1-9]\d{0,3})$"),
        default=1,
    )
    speed = {
        "type": ["number", "string"],
        "minimum": 0.000001,
        "maximum": THROUGHPUT_MICRO_MAX // MICRO,
        "pattern": r"^\+?\d+(\.\d{1,9})?$",
    }
    return {
        "nodes": nodes,
        "throughput": {
            "type": "object",
            "propertyNames": {"pattern": rf"^{_TYPE}$"},
            "additionalProperties": speed,
            "maxProperties": THROUGHPUTS_MAX,
            "description": "How fast it is on a type of GPU, `A100x4` on four in all; 1 where not said.",
        },
        "num_nodes": {**nodes, "description": "Another name of `nodes`."},
        "resources": _resources(),
        "spot_policy": forms.word("Which machines: interruptible ones or not.", SPOT_POLICIES, "auto"),
        "launch": forms.word(
            "On every node, once on the first, or with an engine over all of them.",
            LAUNCHES,
            "per-node",
        ),
        "tasks_per_node": forms.whole(
            "Processes that torchrun, mpi or dask start on each node; else one per GPU.",
            1,
            TASKS_PER_NODE_MAX,
        ),
    }


def _resources() -> Schema:
    sizes = _sizes()
    listed = forms.items("Alternatives, each over the sizes above.", forms.mapping("One.", sizes), minItems=1)
    constraints = {
        "type": "object",
        "properties": {TOPOLOGY: forms.word("What all members have in common.", ("any", *TOGETHER))},
        "additionalProperties": {"type": [*forms.SCALAR], "pattern": _PATTERN},
        "description": 'Which nodes: `zone: eu-*`, `node: "!bad-01"`; keys node, pool, zone, region, rack, '
        "provider, instance_type or a label of the node. A pattern finds what is called so to the letter, "
        "too: a rack `r,s`; alone it is found by `r?s`. `topology: same-rack` (same-zone, same-region, "
        "same-pool): all members of a gang in the same one, whichever; a node's is what its agent's settings "
        "say (`rack`).",
    }
    one_of_two = [{"required": ["any_of", "ordered"]}, {"required": ["memory", "mem"]}]
    return {
        **forms.mapping(
            "What each node must give.",
            {
                **sizes,
                "any_of": {**listed, "description": "Alternatives: the cheapest that fits now is taken."},
                "ordered": {**listed, "description": "Alternatives, tried in this order."},
                "constraints": constraints,
            },
        ),
        "not": {"anyOf": one_of_two},
    }


def _sizes() -> dict[str, Schema]:
    one_type = forms.text("A type, such as H100.", rf"^\s*{_TYPE}(\|{_TYPE})*\s*$")
    gpu_keys = {
        "type": forms.either("Acceptable types.", one_type, forms.items("", one_type, minItems=1)),
        "count": forms.either("How many.", forms.whole("", 0, 16), forms.text("", _COUNTS)),
        "memory": forms.text("Least memory of each device.", _MEMORY),
        "fraction": forms.number("A share of one GPU.", 0.001, 1),
    }
    gpus = forms.either(
        "GPUs: `8`, `H100:8`, `A100:80GB:4`, `H100|A100:4`, `0.5`, or a mapping.",
        {"type": "integer", "minimum": 0, "maximum": 16},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "string", "pattern": _GPUS, "not": {"pattern": r"\.\.|\+$|(?i:^gpu:)"}},
        forms.mapping("", gpu_keys),
    )
    cpus = forms.either(
        "CPUs; also a share, and `16+`.",
        {"type": "number", "minimum": 0.001, "maximum": 10_000},
        {"type": "string", "pattern": _CPUS},
        default=1,
    )
    memory = forms.text("Memory, `128GB` (10^9) or `128GiB` (2^30).", _MEMORY)
    return {
        "gpus": gpus,
        "cpus": cpus,
        "memory": memory,
        "mem": {**memory, "description": "Another name of `memory`."},
    }


def _when() -> dict[str, Schema]:
    limit = forms.duration(
        "Running time after which it is stopped; at most 366d. Without it, the daemon's default.",
        **{"not": {"pattern": r"^[0.\s]*[a-z]+\s*$"}},
    )
    reference = forms.scalar("Id, number or name of a job.", pattern=_REFERENCE)
    entry = forms.mapping(
        "",
        {
            "job": reference,
            "when": forms.word(
                "In which case; `task-succeeded`: each task of an array waits for the other's of its index.",
                DEPENDENCY_WHEN,
                "succeeded",
            ),
        },
        ["job"],
    )
    array_range = forms.scalar("`0-99`, `0-9:3`, `1,4,7`; at most 100,000 tasks.", pattern=_RANGE)
    return {
        "time_limit": limit,
        "time": {**limit, "description": "Another name of `time_limit`."},
        "begin_after": forms.text("Earliest start.", forms.INSTANT, examples=["2026-10-01T08:00:00Z"]),
        "deadline": forms.text("When it is to have ended.", forms.INSTANT, examples=["2026-10-01T08:00:00Z"]),
        "deadline_policy": forms.word(
            "`promise`: accepted only with a promise of the deadline; `best-effort`: without one.",
            DEADLINE_POLICIES,
            "promise",
        ),
        "priority": forms.either(
            "Higher goes first.",
            {"enum": ["low", "normal", "high"]},
            {"type": "integer", "minimum": 0, "maximum": 100},
            default="normal",
        ),
        "preemptible": forms.boolean("May it be stopped for a job of higher priority.", True),
        "held": forms.boolean("Submit on hold.", False),
        "depends_on": forms.items(
            "Jobs it waits for.", forms.either("", reference, entry), uniqueItems=True, maxItems=100
        ),
        "array": forms.either(
            "A sweep of tasks that share all else: `0-99%10`, or a mapping.",
            array_range,
            forms.mapping(
                "",
                {"range": array_range, "max_parallel": forms.whole("Tasks alive at once.", 1)},
                ["range"],
            ),
        ),
    }


def _what_it_may() -> dict[str, Schema]:
    signal = {
        "type": "string",
        "pattern": rf"^(?i:(SIG)?({'|'.join(SIGNALS)}))$",
        "description": "The signal that asks it to save itself.",
    }
    return {
        "budget": forms.mapping(
            "Its own caps, beside those of its project.",
            {
                "max_cost": forms.money("All attempts together."),
                "per": forms.word("Of an array: all tasks together, or each.", MAX_COST_PER, "job"),
                "max_price": forms.money_per("h", "Of the whole job."),
                "on_exceed": forms.word("What happens at `max_cost`.", ON_EXCEED_BUILT, "stop"),
            },
            dependencies={"per": ["max_cost"]},
        ),
        "checkpoint": forms.mapping(
            "How it is asked to save itself before it is stopped.",
            {
                "signal": signal,
                "grace": forms.duration("Time it then has; at most `grace_max`: 1h.", default="60s"),
                "before": forms.duration("Send the signal so long before the time limit, and go on."),
                "script_only": forms.boolean("To the process that was started alone.", False),
            },
            dependencies={"grace": ["signal"], "before": ["signal"], "script_only": ["signal"]},
        ),
        "idle_policy": forms.mapping(
            "What becomes of it when its GPUs do nothing.",
            {
                "min_gpu_utilization": forms.whole(
                    "Percent of multiprocessors at work; less is idle.", 1, 100
                ),
                "min_cpu_utilization": forms.whole(
                    "Of a job without GPUs, percent of its CPUs; less is idle. Unsaid, it is not judged.",
                    1,
                    100,
                ),
                "time_window": forms.duration("So long all are idle before it is acted; from 1m to 7d."),
                "warn_after": forms.duration("So long before it is told; half of `time_window`."),
                "action": forms.word(
                    "What is done: ended with its grace, told alone, ended and back in the queue (on hold, or"
                    " not), or cancelled.",
                    IDLE_ACTIONS,
                    "stop",
                ),
                "detached": forms.duration(
                    "So long is nobody attached to an interactive job until it is stopped: 30m; 1m to 7d."
                ),
            },
        ),
        "retry": forms.mapping(
            "After which ends another attempt follows.",
            {
                "on": forms.items("Causes.", {"enum": [*RETRY_CAUSES]}),
                "max": forms.whole(
                    "Further attempts; a lost node and a preemption count none.", 0, RETRIES_MAX
                ),
                "avoid_same_node": forms.boolean("The next attempt goes elsewhere.", False),
                "never": forms.boolean("No other attempt, not even after a lost node.", False),
            },
            anyOf=[{"required": ["on"]}, {"required": ["never"]}],
        ),
    }


def _service() -> dict[str, Schema]:
    """Keys of `type: service` alone."""
    wait, share = {"enum": ["start_timeout"]}, forms.PERCENT
    return {
        "port": forms.whole("Of a service: the first BURSAR_PORT.", PORT_MIN, PORT_MAX),
        "api": forms.word("Of a service: whose counts of tokens its answers have.", APIS, "http"),
        "metering": forms.mapping(
            "Of a service: what is counted beside requests.",
            {"units": forms.scalar("With `api: http`: where an answer in JSON says it.", pattern="^/")},
        ),
        "balance": forms.scalar(
            "Of a service: which replica a request goes to.",
            pattern=r"^(least-outstanding|prefix|session\([A-Za-z0-9-]{1,64}\))$",
            default=LEAST,
        ),
        "fallback": forms.text("Of a service: which one answers when its money is at an end."),
        "replicas": forms.scalar("Of a service: `3` or `0..8`.", pattern=r"^\d{1,6}(\.\.\d{1,6})?$"),
        "readiness_probe": forms.mapping(
            "Of a service: when a replica is ready.",
            {
                "path": forms.scalar("GET of it answers 200 to 399; else, it listens.", pattern="^/"),
                "interval": forms.duration("Between two looks.", default="10s"),
                "timeout": forms.duration("Of one look.", default="5s"),
                "start_timeout": forms.duration("To be ready first; then it is replaced.", default="20m"),
                "failures": forms.whole("In a row, until it gets no more requests.", 1, 100, default=3),
            },
        ),
        "scaling": forms.mapping(
            "Of a service: how its replicas follow the load.",
            {
                "metric": forms.word("What is looked at.", ("concurrency",), "concurrency"),
                "target": forms.whole("Requests in hand at once, of one replica.", 1, TARGET_MAX, default=8),
                "window": forms.duration("Averaged over it.", default="60s"),
                "panic_window": forms.duration("In a burst, over this.", default="6s"),
                "up_delay": forms.duration("More must be wanted for so long.", default="0s"),
                "down_delay": forms.duration("Fewer must be wanted for so long.", default="5m"),
                "zero_after": forms.either(
                    "Without requests, until none is kept.", {"enum": ["auto"]}, forms.duration("")
                ),
            },
        ),
        "update": forms.either(
            "Of a service: how a new revision takes over.",
            {"enum": list(STRATEGIES)},
            forms.mapping(
                "",
                {
                    "strategy": forms.word("How.", STRATEGIES, "rolling"),
                    "max_surge": forms.whole("Replicas above the number meanwhile.", 0, SURGE_MAX, default=1),
                    "max_unavailable": forms.whole(
                        "Replicas below it, where there is no room above.", 0, REPLICAS_MAX, default=0
                    ),
                    "drain": forms.duration("To answer what it has in hand.", default="120s"),
                    "steps": {
                        "description": "Of a canary: percents of the requests that it gets in turn.",
                        "type": "array",
                        "items": {"type": "integer", "minimum": 1, "maximum": 100},
                        "maxItems": STEPS_MAX,
                        "default": list(STEPS),
                    },
                    "hold": forms.duration("Of a canary: how long each of them lasts.", default="10m"),
                    "max_errors": forms.text("Of a canary: of its answers, to fail.", share, default="5%"),
                    "max_latency": forms.text("Of a canary: of what old ones take.", share, default="200%"),
                },
            ),
        ),
        "timeouts": forms.mapping(
            "Of a service: how long its requests may take.",
            {
                "queue": forms.duration("For a free replica.", default="30s"),
                "cold_queue": forms.either("For the first replica.", wait, forms.duration("")),
                "first_byte": forms.duration("Until the answer begins.", default="60s"),
                "idle": forms.duration("Between two pieces of it.", default="300s"),
                "total": forms.duration("All of it.", default="30m"),
            },
        ),
    }


def _process() -> dict[str, Schema]:
    secret = forms.text("Name of a secret.", r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")
    as_file = forms.mapping(
        "",
        {"name": secret, "file": forms.boolean("A private file; the variable has its path.", False)},
        ["name"],
    )
    output = forms.scalar(
        "Where its output goes beside its log, as its own account; relative to `workdir`. `%j`, `%A_%a`, `%N`"
        " and others mean what they mean in Slurm.",
        minLength=1,
        maxLength=PATH_MAX,
        pattern="^[^~]",
    )
    error = {**output, "description": "Where its standard error goes instead."}
    return {
        "env": forms.pairs("Variables, taken as they are: nothing in them is expanded.", _ENV_NAME),
        "secrets": forms.items(
            "Secrets it gets, as variables or files.", forms.either("", secret, as_file), maxItems=SECRETS_MAX
        ),
        "workdir": forms.text(
            "Where it runs; a relative one starts where the job is submitted from.",
            r"^(?!~)(?=.*\S)",
            default=".",
        ),
        "output_file": output,
        "output": {**output, "description": "Another name of `output_file`."},
        "error_file": error,
        "error": {**error, "description": "Another name of `error_file`."},
        "open_mode": forms.word(
            "What becomes of such a file; without a word the first attempt empties it and later ones append.",
            OPEN_MODES,
        ),
        "image": forms.text(
            "An image of a registry: the job runs in a container of it.", r"^[A-Za-z0-9]", maxLength=IMAGE_MAX
        ),
        "image_auth": forms.text(
            "Which of `secrets` its registry is shown.", r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
        ),
        "mounts": forms.items(
            "Directories and files of the node that the container has too.",
            forms.text("`SOURCE:TARGET` or `SOURCE:TARGET:ro`.", r"^/[^:,\"]*:/[^:,\"]+(:r[ow])?$"),
            maxItems=MOUNTS_MAX,
        ),
        "setup": forms.scalar("Shell text run to success first, on every node."),
        "run": forms.scalar("Shell text, or with a `#!` line a script.", minLength=1, pattern=r"\S"),
        "arguments": forms.items("Words that `run` gets: `$1` and so on.", forms.scalar("")),
        "command": forms.items(
            "In place of `run`: the words of a program.",
            forms.scalar("", minLength=1),
            minItems=1,
        ),
    }
