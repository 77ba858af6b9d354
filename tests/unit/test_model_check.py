"""One rule, one place: what `check` refuses, the job file refuses at a line and the wire by the field."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.clock import DAY_US, SECOND_US, parse_instant
from bursar.codec.spec import spec_from_wire, spec_to_wire
from bursar.errors import InvalidRequest, NotBuilt
from bursar.jobfile import parse_job, spec_to_yaml
from bursar.model import ArraySpec, CheckpointSpec, Dependency, JobSpec, RetrySpec
from bursar.model import check as rules
from bursar.model.check import check
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import types_pb2


def job(**changes: Any) -> JobSpec:
    fields: dict[str, Any] = {"script": "true", **changes}
    if fields.get("command"):
        fields.pop("script")
    return JobSpec(**fields)


def option(**changes: Any) -> dict[str, Any]:
    return {"options": (ResourceRequest(**changes),)}


def gpus(**changes: Any) -> dict[str, Any]:
    return option(gpus=GpuRequest(**{"count": 1, **changes}))


def many(count: int) -> tuple[tuple[str, str], ...]:
    return tuple((f"K{index:04d}", "v") for index in range(count))


ALLOWED: list[dict[str, Any]] = [
    {},
    {"name": "a" * 100},
    {"project": "a/b/c/d/e/f/g/h"},
    {"project": "x" * 200},
    {"experiment": "t" * 200},
    {"model": "llama-3:8b@v1+x=y_z"},
    {"comment": "c" * 1024},
    {"labels": many(64)},
    {"labels": (("k" * 63, "v" * 256),)},
    {"priority": 0},
    {"priority": 100},
    {"nodes": 10_000},
    option(cpu_milli=1),
    option(cpu_milli=10_000_000),
    option(memory_bytes=100 * 10**12),
    gpus(count=16),
    gpus(milli=1),
    gpus(memory_bytes=10 * 10**12),
    gpus(types=tuple(f"G{index}" for index in range(16))),
    gpus(types=("A" * 40,)),
    {"options": tuple(ResourceRequest(cpu_milli=index + 1) for index in range(16))},
    {"constraints": many(32)},
    {"constraints": (("zone", "e" * 256),)},
    {"time_limit_us": SECOND_US},
    {"time_limit_us": 366 * DAY_US},
    {"begin_after": parse_instant("2000-01-01")},
    {"begin_after": parse_instant("2200-01-01") - 1},
    {"depends_on": tuple(Dependency(f"j{index}") for index in range(100))},
    {"depends_on": (Dependency("arr[7]", "finished"),)},
    {"array": ArraySpec((0, 4_000_000), 1_000_000)},
    {"max_cost_nanos": 10**24, "currency": "USD"},
    {"max_price_nanos_per_hour": 2**63 - 1, "currency": "USD"},
    {"max_price_nanos_per_hour": 1, "currency": "EUR"},
    {"on_exceed": "checkpoint-stop"},
    {"checkpoint": CheckpointSpec("USR1", DAY_US)},
    {"retry": RetrySpec(("failed", "preempted"), 100, True)},
    {"env": many(500)},
    {"env": (("N" * 128, "v" * 16_384),)},
    {"command": ("x" * 65_536,)},
    {"command": ("a",) * 4096},
    {"script": "x" * 65_536},
    {"setup": "x" * 65_536},
    {"workdir": "/" + "d" * 4095},
]

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"name": "a" * 101}, "name", "has 101 characters; at most 100"),
    ({"name": "my job"}, "name", "'my job' is not a job name"),
    ({"name": "-a"}, "name", "'-a' is not a job name"),
    ({"name": "12"}, "name", "'12' would be read as an id or a number; add a word"),
    ({"name": "last"}, "name", "'last' means the newest job everywhere; add a word"),
    ({"name": "job_x"}, "name", "'job_x' would be read as an id or a number; add a word"),
    ({"project": "/nlp"}, "project", "it starts or ends with /"),
    ({"project": "nlp/"}, "project", "it starts or ends with /"),
    ({"project": "n lp"}, "project", "it holds a space"),
    ({"project": "a//b"}, "project", "it has an empty part (//)"),
    ({"project": "a/../b"}, "project", "it has a part . or .., and projects are not directories"),
    ({"project": "a/b/c/d/e/f/g/h/i"}, "project", "it has 9 levels; at most 8"),
    ({"project": "a/ü"}, "project", "'ü' holds something else than letters, digits, '.', '_' and '-'"),
    ({"project": "a/-b"}, "project", "'-b' does not start with a letter or digit"),
    ({"project": "x" * 201}, "project", "it has 201 characters; at most 200"),
    ({"experiment": "a b"}, "experiment", "'a b' is not a name for experiment"),
    ({"model": "meta/llama"}, "model", "'meta/llama' is not a name for model"),
    ({"model_version": "v" * 201}, "model_version", "has 201 characters; at most 200"),
    ({"comment": "c" * 1025}, "comment", "has 1025 characters; at most 1024"),
    ({"comment": "a\x07b"}, "comment", "holds a line break or control character"),
    ({"labels": many(65)}, "labels", "has 65 labels; at most 64"),
    ({"labels": (("a b", "v"),)}, "labels.a b", "'a b' is not a label name"),
    ({"labels": (("k" * 64, "v"),)}, "labels." + "k" * 64, "is not a label name"),
    ({"labels": (("a", "v" * 257),)}, "labels.a", "has 257 characters; at most 256"),
    ({"labels": (("a", "x\ny"),)}, "labels.a", "holds a line break or control character"),
    ({"priority": 101}, "priority", "is 101; at most 100 is allowed"),
    ({"nodes": 10_001}, "nodes", "is 10001; at most 10000 is allowed"),
    (option(cpu_milli=0), "resources.cpus", "is 0; a job needs some CPU, at least 0.001"),
    (option(cpu_milli=10_000_001), "resources.cpus", "is '10000.001'; at most 10000 CPUs on one node"),
    (option(memory_bytes=10**14 + 1), "resources.memory", "is 100TB; at most 100 TB on a node"),
    (gpus(count=17), "resources.gpus", "is '17' GPUs; at most 16 on one node: use more nodes"),
    (gpus(milli=1001), "resources.gpus", "'1.001' is not a share of one GPU"),
    (gpus(memory_bytes=10**13 + 1), "resources.gpus", "is 10TB; at most 10 TB on a GPU"),
    (gpus(types=("H 100",)), "resources.gpus", "'H 100' is not a GPU type"),
    (gpus(types=("A" * 41,)), "resources.gpus", "is not a GPU type"),
    (gpus(types=tuple(f"G{index}" for index in range(17))), "resources.gpus", "names 17 types; at most 16"),
    (
        {"options": (ResourceRequest(cpu_milli=1), ResourceRequest(cpu_milli=10_000_001))},
        "resources.any_of[1].cpus",
        "at most 10000 CPUs on one node",
    ),
    (
        {"options": tuple(ResourceRequest(cpu_milli=index + 1) for index in range(17))},
        "resources.any_of",
        "has 17 elements; at least 1 and at most 16",
    ),
    ({"constraints": many(33)}, "resources.constraints", "has 33 constraints; at most 32"),
    ({"constraints": (("a b", "x"),)}, "resources.constraints.a b", "'a b' is not a name of a node property"),
    ({"constraints": (("zone", "a b"),)}, "resources.constraints.zone", "'a b' is not a pattern"),
    (
        {"constraints": (("zone", "e" * 257),)},
        "resources.constraints.zone",
        "has 257 characters; at most 256",
    ),
    ({"spot_policy": "sometimes"}, "spot_policy", "'sometimes' is not one of auto, spot, on-demand"),
    ({"time_limit_us": SECOND_US - 1}, "time_limit", "at least 1s (leave it out for the default)"),
    ({"time_limit_us": 366 * DAY_US + 1}, "time_limit", "is 366 days; at most 366d"),
    (
        {"begin_after": parse_instant("2000-01-01") - 1},
        "begin_after",
        "is not between the years 2000 and 2200",
    ),
    ({"begin_after": parse_instant("2200-01-01")}, "begin_after", "is not between the years 2000 and 2200"),
    (
        {"depends_on": tuple(Dependency(f"j{i}") for i in range(101))},
        "depends_on",
        "has 101 elements; at most 100",
    ),
    (
        {"depends_on": (Dependency("a b"),)},
        "depends_on[0]",
        "'a b' is not a job: give its id, number or name",
    ),
    ({"depends_on": (Dependency("a"), Dependency("a"))}, "depends_on", "'a' is named twice"),
    (
        {"depends_on": (Dependency("a", "ok"),)},
        "depends_on[0].when",
        "is not one of succeeded, failed, finished",
    ),
    (
        {"constraints": (("topology", "same-rak"),)},
        "resources.constraints.topology",
        "is not one of same-rack, same-zone, same-region, same-pool; did you mean 'same-rack'?",
    ),
    ({"array": ArraySpec((4_000_001,))}, "array", "goes past the largest task index, 4000000"),
    ({"array": ArraySpec((0,), 1_000_001)}, "array.max_parallel", "is 1000001; at most 1000000 is allowed"),
    ({"on_exceed": "explode"}, "budget.on_exceed", "'explode' is not one of stop"),
    ({"checkpoint": CheckpointSpec("KILL", 1)}, "checkpoint.signal", "'KILL' is not one of USR1"),
    (
        {"checkpoint": CheckpointSpec("USR1", DAY_US + 1)},
        "checkpoint.grace",
        "is longer than a day; at most 24h",
    ),
    ({"retry": RetrySpec(("failed",), 101)}, "retry.max", "is 101; at most 100 is allowed"),
    ({"retry": RetrySpec(("failed", "failed"), 1)}, "retry.on", "'failure' is named twice"),
    ({"env": many(501)}, "env", "has 501 variables; at most 500"),
    ({"env": (("1A", "x"),)}, "env.1A", "'1A' is not a variable name"),
    ({"env": (("bursar_x", "x"),)}, "env.bursar_x", "bursar_x is set by bursar itself; choose another name"),
    ({"env": (("A", "v" * 16_385),)}, "env.A", "has 16385 characters; at most 16384"),
    ({"env": (("A", "a\x00b"),)}, "env.A", "holds a line break or control character"),
    ({"script": "x" * 65_537}, "run", "has 65537 characters; at most 65536"),
    ({"script": "a\x00b"}, "run", "holds a line break or control character"),
    ({"script": " \n "}, "run", "is blank; write the shell text to run"),
    ({"setup": "x" * 65_537}, "setup", "has 65537 characters; at most 65536"),
    ({"command": ("a",) * 4097}, "command", "has 4097 elements; at most 4096"),
    ({"command": ("x" * 65_536, "y")}, "command", "has more than 65536 characters"),
    ({"command": ("", "b")}, "command[0]", "is blank; name the program to run"),
    ({"command": ("a", "b\x00")}, "command[1]", "holds a line break or control character"),
    ({"workdir": "sub"}, "workdir", "'sub' is relative, here to nothing; write the whole path"),
    ({"workdir": "/" + "d" * 4096}, "workdir", "has 4097 characters; at most 4096"),
    ({"workdir": "/a\nb"}, "workdir", "holds a line break or control character"),
]

WIRE_ALONE: list[tuple[dict[str, Any], str, str]] = [
    (gpus(count=2, milli=500), "resources.gpus", "it cannot go with a count of 2"),
    ({"retry": RetrySpec(("bored",), 1)}, "retry.on[0]", "'bored' is not one of preempted"),
    ({"retry": RetrySpec((), 1)}, "retry", "say after what: on: [...]"),
]
"""A file says these in other words."""

NEITHER: list[tuple[dict[str, Any], str, str]] = [
    ({"script": ""}, "run", "nothing to run"),
    ({"priority": -1}, "priority", "is -1; at least 0 is needed"),
    ({"nodes": 0}, "nodes", "is 0; at least 1 is needed"),
    ({"options": ()}, "resources.any_of", "has 0 elements"),
    (option(memory_bytes=-1), "resources.memory", "at most 100 TB on a node"),
    (gpus(count=0), "resources.gpus", "is 0; a count of GPUs is 1 to 16"),
    (gpus(milli=0), "resources.gpus", "'0' is not a share of one GPU"),
    (gpus(types=("H100", "H100")), "resources.gpus", "names the type 'H100' twice"),
    ({"time_limit_us": -1}, "time_limit", "at least 1s"),
    ({"array": ArraySpec(())}, "array", "has no task"),
    ({"array": ArraySpec((3, 3))}, "array", "has indices that do not ascend"),
    ({"array": ArraySpec((3, 1))}, "array", "has indices that do not ascend"),
    ({"max_cost_nanos": -1, "currency": "USD"}, "budget.max_cost", "is -1 nanos; 0 (none) to"),
    ({"max_cost_nanos": 10**24 + 1, "currency": "USD"}, "budget.max_cost", "nanos; 0 (none) to 10000000000"),
    ({"max_price_nanos_per_hour": 2**63, "currency": "USD"}, "budget.max_price", "nanos; 0 (none) to"),
    ({"max_cost_nanos": 1, "currency": "usd"}, "budget.currency", "'usd' is not a currency code such as USD"),
    ({"max_cost_nanos": 1}, "budget.currency", "'' is not a currency code such as USD"),
    ({"checkpoint": CheckpointSpec("", 5)}, "checkpoint.grace", "needs checkpoint.signal beside it"),
    ({"checkpoint": CheckpointSpec("USR1", -1)}, "checkpoint.grace", "at most 24h"),
    ({"array": ArraySpec((-1,))}, "array", "goes past the largest task index"),
]


@pytest.mark.parametrize("changes", ALLOWED, ids=lambda changes: ",".join(changes))
def test_what_is_just_within_every_bound_passes_the_check_and_the_wire(changes: dict[str, Any]) -> None:
    spec = job(**changes)
    assert check(spec) == []
    assert spec_from_wire(spec_to_wire(spec)) == spec


@pytest.mark.parametrize(("changes", "field", "message"), REFUSED + WIRE_ALONE + NEITHER)
def test_what_is_just_beyond_has_one_problem_with_its_field(
    changes: dict[str, Any], field: str, message: str
) -> None:
    changes = dict(changes)
    (problem,) = check(job(**changes) if changes.get("script") != "" else JobSpec())
    assert problem.field == field
    assert message in problem.message
    assert not problem.not_built


@pytest.mark.parametrize(("changes", "field", "message"), REFUSED + WIRE_ALONE)
def test_the_wire_refuses_what_the_check_refuses(changes: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        spec_from_wire(spec_to_wire(job(**changes)))
    assert caught.value.facts["field"] == field
    assert caught.value.message.startswith(f"{field}: ")
    assert message in caught.value.message


@pytest.mark.parametrize(("changes", "field", "message"), REFUSED)
def test_a_job_file_refuses_it_at_a_line(changes: dict[str, Any], field: str, message: str) -> None:
    text = "run: x\nworkdir: sub\n" if changes.get("workdir") == "sub" else spec_to_yaml(job(**changes))
    with pytest.raises(InvalidRequest) as caught:
        parse_job(text, "job.yaml", "")
    assert caught.value.faults
    assert all(fault.line >= 1 for fault in caught.value.faults)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"on_exceed": "notify"},
            "budget.on_exceed: on_exceed: notify is part of the contract, not built yet",
        ),
        ({"on_exceed": "hold"}, "budget.on_exceed: on_exceed: hold is part of the contract, not built yet"),
    ],
)
def test_what_is_not_built_is_refused_as_such(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NotBuilt) as caught:
        spec_from_wire(spec_to_wire(job(**changes)))
    assert message in caught.value.message


def test_all_problems_are_told_at_once_and_not_more_than_can_be_read() -> None:
    with pytest.raises(InvalidRequest) as caught:
        spec_from_wire(spec_to_wire(job(name="a b", priority=101, on_exceed="notify")))
    assert [line.split(":")[0] for line in caught.value.message.split("\n")] == [
        "name",
        "priority",
        "budget.on_exceed",
    ]
    labels = tuple((f"bad key {index}", "v") for index in range(30))
    with pytest.raises(InvalidRequest, match=r"and 10 more$"):
        spec_from_wire(spec_to_wire(job(labels=labels)))


def test_an_inherited_value_is_told_where_it_was_written() -> None:
    text = "run: x\nresources:\n  cpus: 99999\n  any_of:\n  - gpus: 1\n  - gpus: 2\n"
    with pytest.raises(InvalidRequest) as caught:
        parse_job(text, "job.yaml", "/")
    assert [fault.line for fault in caught.value.faults] == [3]


def test_what_a_message_does_not_say_is_zero_or_where_zero_means_nothing_the_default() -> None:
    said = types_pb2.JobSpec(command=["true"])
    assert spec_from_wire(said) == JobSpec(command=("true",), priority=0, preemptible=False)


def test_a_part_that_says_nothing_is_its_default() -> None:
    said = types_pb2.JobSpec(command=["true"], priority=50, preemptible=True)
    said.checkpoint.SetInParent()
    said.retry.SetInParent()
    assert spec_from_wire(said) == JobSpec(command=("true",))


def test_defaults_that_are_not_looked_at_have_nothing_wrong() -> None:
    spec = JobSpec()
    looks = (rules._labels, rules._constraints, rules._dependencies, rules._environment, rules._secrets)
    assert [problem for look in looks for problem in look(spec)] == []
    assert [*rules._checkpoint(spec.checkpoint), *rules._retry(spec.retry)] == []
    assert [problem.field for problem in check(spec)] == ["run"]
