"""Any spec survives being written and read; any bytes give a job or a list of faults."""

from __future__ import annotations

import string
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.clock import DAY_US, SECOND_US
from bursar.errors import InvalidRequest
from bursar.jobfile import RunFlags, looks_like_script, parse_job, parse_script, spec_from_flags, spec_to_yaml
from bursar.jobfile.arrays import format_ranges, parse_array
from bursar.model import ArraySpec, CheckpointSpec, Dependency, JobSpec, RetrySpec
from bursar.resources import GpuRequest, ResourceRequest

WORD = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,20}", fullmatch=True).filter(
    lambda word: word != "last" and not word.startswith("job_")
)
LINE = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Cn"), exclude_characters="\ufeff"), min_size=0, max_size=40
)
CODE = st.lists(
    LINE | st.sampled_from(["  indented", "\ttab", "# x", "trailing  ", ""]), min_size=1, max_size=6
).map("\n".join)
BLANKLESS_CODE = CODE.filter(lambda text: bool(text.strip()))
SIGNALS = ("USR1", "USR2", "INT", "TERM")
CAUSES = ("failed", "out_of_memory", "start_failed", "time_limit", "node_lost", "preempted")
GPUS = st.builds(
    GpuRequest,
    count=st.integers(1, 16),
    types=st.lists(
        st.sampled_from(["H100", "A100", "L4", "MI300X", "RTX-4090"]), max_size=3, unique=True
    ).map(tuple),
    memory_bytes=st.one_of(st.just(0), st.integers(1, 10**13)),
) | st.builds(GpuRequest, count=st.just(1), milli=st.integers(1, 999), types=st.sampled_from([(), ("H100",)]))
OPTION = st.builds(
    ResourceRequest,
    gpus=st.none() | GPUS,
    cpu_milli=st.integers(1, 10_000_000),
    memory_bytes=st.one_of(st.just(0), st.integers(1, 10**14)),
)


def pairs(
    keys: st.SearchStrategy[str], values: st.SearchStrategy[str]
) -> st.SearchStrategy[tuple[tuple[str, str], ...]]:
    return st.dictionaries(keys, values, max_size=4).map(lambda found: tuple(sorted(found.items())))


@st.composite
def specs(draw: st.DrawFn) -> JobSpec:
    cost, price = draw(st.integers(0, 10**18)), draw(st.integers(0, 10**18))
    causes = draw(st.lists(st.sampled_from(CAUSES), unique=True, max_size=6).map(tuple))
    as_command = draw(st.booleans())
    words = draw(st.lists(LINE, max_size=4))
    return JobSpec(
        name=draw(st.just("") | WORD),
        project=draw(st.lists(WORD.map(str.lower), min_size=1, max_size=8).map("/".join)),
        experiment=draw(st.just("") | WORD),
        model=draw(st.just("") | WORD),
        model_version=draw(st.just("") | WORD),
        labels=draw(pairs(WORD, LINE)),
        priority=draw(st.integers(0, 100)),
        preemptible=draw(st.booleans()),
        nodes=draw(st.integers(1, 10_000)),
        options=tuple(draw(st.lists(OPTION, min_size=1, max_size=4))),
        ordered=draw(st.booleans()),
        constraints=draw(
            pairs(
                WORD.filter(lambda key: key != "topology"),
                st.from_regex(r"!?[a-z0-9*?.-]{1,12}", fullmatch=True),
            )
        ),
        spot_policy=draw(st.sampled_from(["auto", "spot", "on-demand"])),
        time_limit_us=draw(st.just(0) | st.integers(SECOND_US, 366 * DAY_US)),
        begin_after=draw(st.just(0) | st.integers(10**15, 7 * 10**15)),
        depends_on=tuple(
            Dependency(job, draw(st.sampled_from(["succeeded", "failed", "finished"])))
            for job in draw(st.lists(WORD, unique=True, max_size=3))
        ),
        array=draw(
            st.none()
            | st.builds(
                ArraySpec,
                parts=st.sets(st.integers(0, 4_000_000) | st.integers(0, 40), min_size=1).map(
                    lambda found: tuple(sorted(found))
                ),
                max_parallel=st.integers(0, 1000),
            )
        ),
        max_cost_nanos=cost,
        max_price_nanos_per_hour=price,
        currency=draw(st.sampled_from(["USD", "EUR"])) if cost or price else "",
        on_exceed=draw(st.sampled_from(["stop", "checkpoint-stop"])),
        checkpoint=draw(
            st.just(CheckpointSpec())
            | st.builds(CheckpointSpec, signal=st.sampled_from(SIGNALS), grace_us=st.integers(0, DAY_US))
        ),
        retry=RetrySpec(causes, draw(st.integers(0, 100)), draw(st.booleans())) if causes else RetrySpec(),
        env=draw(pairs(st.from_regex(r"[A-Z_][A-Z0-9_]{0,9}", fullmatch=True), CODE)),
        command=(draw(WORD), *words) if as_command else (),
        script="" if as_command else draw(BLANKLESS_CODE),
        setup=draw(CODE),
        workdir=draw(st.just("") | st.lists(WORD, max_size=3).map(lambda parts: "/" + "/".join(parts))),
        held=draw(st.booleans()),
        comment=draw(LINE),
    )


@given(specs())
def test_a_job_written_and_read_again_is_the_same_job(spec: JobSpec) -> None:
    text = spec_to_yaml(spec)
    assert parse_job(text, "job.yaml", "") == spec
    assert parse_job(text.encode(), "job.yaml", "") == spec


@given(st.sets(st.integers(0, 60) | st.integers(0, 4_000_000), min_size=1, max_size=60))
def test_indices_survive_their_short_form(indices: set[int]) -> None:
    ordered = tuple(sorted(indices))
    array = ArraySpec(ordered)
    assert tuple(array.indices) == ordered
    assert parse_array(format_ranges(array.ranges)) == array


TOKENS = """
    name project nodes resources gpus cpus memory any_of ordered constraints array range budget
    max_cost max_price checkpoint signal grace retry on max env labels run command depends_on job when
    time_limit begin_after priority workdir type H100:8 8 0 -1 1e3 0..9 A100:80GB:2..8 0-99%10 500 USD USD/h
    24h null ~ true yes [ ] { } : - , & * ! | > ' " # %"""
GAPS = st.sampled_from([" ", "\n", "\n  ", ": ", "\n- ", ", ", ""])
YAMLISH = st.lists(st.tuples(st.sampled_from(TOKENS.split()), GAPS), max_size=40).map(
    lambda parts: "".join(a + b for a, b in parts)
)
OPTION_WORDS = """
    --nodes -N -n -c -t -A -a -d -o --gres --gpus --mem --time --array --dependency --signal
    --requeue --env --after --spot --max-cost --job-name -J --ntasks-per-node --gpus-per-node --export
    --begin"""
VALUE_WORDS = "4 0 -1 2-4 gpu:h100:8 gpu 4G 1-02:30 afterok:1:2 B:USR1@120 0-9%2 A=b ALL x, '5 USD' \"a ' ="
DIRECTIVE = st.tuples(
    st.sampled_from(["#SBATCH ", "#BURSAR ", "#", ""]),
    st.sampled_from(OPTION_WORDS.split()),
    st.sampled_from([" ", "=", ""]),
    st.sampled_from(VALUE_WORDS.split(" ")) | LINE,
).map("".join)
SCRIPT = st.lists(DIRECTIVE, max_size=8).map(lambda lines: "\n".join(["#!/bin/bash", *lines, "echo hi"]))


def outcome(read: Callable[[], JobSpec]) -> JobSpec | InvalidRequest:
    """What reading gave, in at most twenty seconds of CPU; anything but a job or a list of faults escapes."""
    started_at = time.process_time()
    try:
        result: JobSpec | InvalidRequest = read()
    except InvalidRequest as error:
        result = error
    assert time.process_time() - started_at < 20
    assert isinstance(result, JobSpec) or result.faults
    return result


@given(st.binary(max_size=300) | YAMLISH.map(str.encode) | st.text(max_size=200))
def test_any_bytes_give_a_job_or_a_list_of_faults(text: str | bytes) -> None:
    outcome(lambda: parse_job(text, "x", "/"))
    outcome(lambda: parse_script(text, "x", "/", ())[0])
    looks_like_script(text)


@given(SCRIPT)
def test_any_directives_give_a_job_or_a_list_of_faults(text: str) -> None:
    assert looks_like_script(text)
    result = outcome(lambda: parse_script(text, "x.sh", "/", ())[0])
    if isinstance(result, JobSpec):
        assert result.script == text
    else:
        assert all(1 <= fault.line <= text.count("\n") + 1 for fault in result.faults)


@given(
    st.dictionaries(
        st.sampled_from(
            ["name", "gpus", "cpus", "memory", "time_limit", "array", "max_cost", "nodes", "workdir"]
        ),
        st.text(max_size=20) | st.sampled_from(["8", "H100:2", "1GB", "2h", "0-3", "5 USD"]),
    ),
    st.lists(st.text(string.printable, max_size=10), max_size=3).map(tuple),
)
def test_any_flags_give_a_job_or_faults_that_name_a_flag(
    flags: dict[str, str], words: tuple[str, ...]
) -> None:
    result = outcome(lambda: spec_from_flags(RunFlags(command=words, env=words, **flags), "/"))
    if not isinstance(result, JobSpec):
        assert all(fault.field.startswith("--") or fault.field == "command" for fault in result.faults)


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"resourcez{i}: {{gpuz: {i}}}\n" for i in range(2500)),
        "run: x\nresources: {any_of: [" + ",".join(f"{{gpuz{i}: 1}}" for i in range(4000)) + "]}",
        "run: x\nretry: {on: [" + ",".join(f"failur{i}" for i in range(5000)) + "]}",
        "run: x\narray: " + ",".join(["0-9999"] * 8000),
        "run: x\ndepends_on: [" + "{}," * 20000 + "]",
        "run: x\nenv: {" + ",".join(f"'{i}': 1" for i in range(490)) + "}",
        "[" * 60000,
        "? " * 30000,
        "#SBATCH " + "--nodez=1 " * 6000 + "\necho",
        "#SBATCH --nodez=1\n" * 3000 + "echo",
        "#SBATCH --gres=" + "gpu:h100:1," * 5000 + "\necho",
    ],
    ids=range(11),
)
def test_a_file_made_to_be_slow_is_refused_quickly(text: str) -> None:
    for result in (
        outcome(lambda: parse_job(text, "x", "/")),
        outcome(lambda: parse_script(text + "\n", "x", "/", ())[0]),
    ):
        assert isinstance(result, JobSpec) or len(result.message) < 20_000
