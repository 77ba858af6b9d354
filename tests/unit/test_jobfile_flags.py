"""The flags of `run`: the same rules as the file, told by flag."""

from __future__ import annotations

from dataclasses import fields

import pytest

from bursar.cli.submit import run
from bursar.clock import SECOND_US
from bursar.errors import InvalidRequest, NotBuilt
from bursar.jobfile import RunFlags, parse_job, spec_from_flags
from bursar.jobfile.flags import PAIRS, PATHS, SWITCHES
from bursar.jobfile.script import _BURSAR_FLAGS
from bursar.model import Dependency
from bursar.schemas.job import job_schema


def test_flags_and_file_give_the_same_job() -> None:
    flags = RunFlags(
        command=("python", "train.py", "--lr", "1e-3"),
        name="a",
        project="nlp/x",
        experiment="e",
        model="m",
        nodes="2",
        gpus="H100:8",
        cpus="16",
        memory="64GiB",
        time_limit="2h",
        priority="high",
        max_cost="12.50 EUR",
        max_price="3 EUR/h",
        workdir="sub",
        array="0-9%2",
        env=("A=b=c", "EMPTY="),
        label=("team=x",),
        after=("prep,12", "old:finished"),
        spot=True,
    )
    text = """
        {name: a, project: nlp/x, experiment: e, model: m, nodes: 2, time_limit: 2h, priority: high,
         resources: {gpus: "H100:8", cpus: 16, memory: 64GiB}, workdir: sub, array: 0-9%2,
         budget: {max_cost: 12.50 EUR, max_price: 3 EUR/h}, spot_policy: spot, labels: {team: x},
         env: {A: b=c, EMPTY: ''}, depends_on: [prep, 12, {job: old, when: finished}],
         command: [python, train.py, --lr, 1e-3]}
    """
    assert spec_from_flags(flags, "/home/u") == parse_job(text, "job.yaml", "/home/u")


def test_flags_of_when_where_and_how_it_ends_say_what_the_file_says() -> None:
    flags = RunFlags(
        command=("true",),
        begin_after="2026-10-01T08:00:00Z",
        preemptible="false",
        hold=True,
        time_limit="1h",
        max_cost="5 USD",
        on_exceed="checkpoint-stop",
        checkpoint_signal="USR1",
        checkpoint_grace="2m",
        checkpoint_before="5m",
        retry_on=("failure,out-of-memory", "time-limit"),
        retry_max="3",
        idle_window="30m",
        idle_action="notify",
        constraint=("zone=eu-*", "node=!bad-01"),
        spot_policy="on-demand",
        setup="pip install x",
        gpus="1",
    )
    text = """
        {begin_after: 2026-10-01T08:00:00Z, preemptible: false, held: true, time_limit: 1h,
         budget: {max_cost: 5 USD, on_exceed: checkpoint-stop},
         checkpoint: {signal: USR1, grace: 2m, before: 5m},
         retry: {on: [failure, out-of-memory, time-limit], max: 3}, spot_policy: on-demand,
         resources: {gpus: 1, constraints: {zone: eu-*, node: "!bad-01"}}, setup: pip install x,
         idle_policy: {time_window: 30m, action: notify}, command: ["true"]}
    """
    assert spec_from_flags(flags, "/home/u") == parse_job(text, "job.yaml", "/home/u")


def test_each_key_of_a_job_file_has_a_flag_or_is_known_to_need_a_file() -> None:
    keys = job_schema()["properties"]
    typed = {path[0] for path in (*PATHS.values(), *PAIRS.values())}
    typed |= {key for key, _ in SWITCHES.values()} | {"depends_on", "secrets", "mounts"}
    of_services = {"port", "api", "metering", "balance", "fallback", "replicas", "readiness_probe", "scaling"}
    of_services |= {"update", "timeouts"}
    second_names = {"num_nodes", "time", "output", "error"}
    the_command_line_itself = {"type", "run", "command", "arguments"}
    assert set(keys) - typed == of_services | second_names | the_command_line_itself


def test_the_flags_of_run_are_those_that_a_file_knows() -> None:
    ours = {field.name for field in fields(RunFlags)} - {"command"}
    assert {option.name for option in run.params} >= ours
    assert set(_BURSAR_FLAGS) == ours


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"gpus": "H100:99"}, "--gpus: is '99' GPUs"),
        ({"gpus": ""}, "--gpus: '' is not a GPU type"),
        ({"name": "null!"}, "--name: 'null!' is not a job name"),
        ({"time_limit": "24"}, "--time-limit: '24' is not a duration"),
        ({"max_cost": "5"}, "--max-cost: '5' is not an amount of money"),
        ({"env": ("A",)}, "--env: 'A' has no '='; write NAME=VALUE"),
        ({"env": ("BURSAR_X=1",)}, "--env: BURSAR_X is set by bursar itself"),
        ({"retry_on": ("failures",), "retry_max": "1"}, "--retry-on: 'failures' is not one of"),
        ({"preemptible": "no"}, "--preemptible: 'no' is not true or false"),
        ({"checkpoint_signal": "USR9"}, "--checkpoint-signal: "),
        ({"constraint": ("zone",)}, "--constraint: 'zone' has no '='"),
        ({"begin_after": "soon"}, "--begin-after: 'soon' is not a time"),
        ({"after": ("a:later",)}, "--after: 'later' is not one of"),
        ({"array": "9-0"}, "--array: '9-0' runs backwards"),
        ({"max_price": "5 EUR/h", "max_cost": "5 USD"}, "--max-price: is in EUR and max_cost in USD"),
        ({"workdir": "~"}, "--workdir: '~': ~ is not expanded"),
        ({"command": ()}, "command: there is none; write it after --"),
        ({"command": ("a\x00b",)}, "command: "),
    ],
)
def test_a_wrong_flag_is_named_as_it_was_typed(flags: dict[str, object], line: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        spec_from_flags(RunFlags(**{"command": ("x",), **flags}), "/")  # type: ignore[arg-type]
    assert caught.value.message.startswith(line), caught.value.message
    assert len(caught.value.faults) == 1


def test_a_deadline_asks_for_a_promise_which_an_array_is_not_given() -> None:
    spec = spec_from_flags(RunFlags(command=("x",), deadline="2026-10-01"), "/")
    assert (spec.deadline_at, spec.deadline_policy) == (1_790_812_800_000_000, "promise")
    with pytest.raises(NotBuilt, match=r"^--deadline: a promise to an array"):
        spec_from_flags(RunFlags(command=("x",), deadline="2026-10-01", array="0-3"), "/")


def test_a_deadline_that_is_no_promise_is_read() -> None:
    flags = RunFlags(command=("x",), deadline="2026-10-01", deadline_policy="best-effort")
    spec = spec_from_flags(flags, "/")
    assert (spec.deadline_at, spec.deadline_policy) == (1_790_812_800_000_000, "best-effort")


def test_all_wrong_flags_are_told_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        spec_from_flags(RunFlags(gpus="x y", cpus="0", nodes="0"), "/")
    assert {fault.field for fault in caught.value.faults} == {"--gpus", "--cpus", "--nodes", "command"}


def test_the_last_value_of_a_variable_counts_and_jobs_add_up() -> None:
    spec = spec_from_flags(
        RunFlags(command=("x",), env=("A=1", "A=2"), after=("p", "q"), time_limit="90s"), "/"
    )
    assert spec.env == (("A", "2"),)
    assert spec.depends_on == (Dependency("p"), Dependency("q"))
    assert spec.time_limit_us == 90 * SECOND_US
