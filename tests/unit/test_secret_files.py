"""Secrets as files, from the job file to what a member is started with."""

from __future__ import annotations

import pytest

from bursar.codec.spec import spec_from_wire, spec_to_wire
from bursar.errors import InvalidRequest
from bursar.jobfile import parse_job, spec_to_yaml
from bursar.model import JobSpec, launch_of
from bursar.model.check import check

TEXT = "run: x\nproject: p\nsecrets: [A, {name: B, file: true}, {name: C, file: false}, {name: D}]\n"


def test_a_name_is_a_variable_unless_it_says_file() -> None:
    spec = parse_job(TEXT, "job.yaml", "/")
    assert (spec.secrets, spec.secret_files) == (("A", "B", "C", "D"), ("B",))
    again = parse_job(spec_to_yaml(spec), "again", "/")
    assert (again.secrets, again.secret_files) == (spec.secrets, ("B",))


@pytest.mark.parametrize(
    ("secrets", "problem"),
    [
        ("[{file: true}]", "the key 'name' is missing"),
        ("[{name: A, file: perhaps}]", "perhaps"),
        ("[{name: A, files: true}]", "files"),
        ("[A, {name: A, file: true}]", "is named twice"),
        ("[{name: BURSAR_X, file: true}]", "BURSAR_X"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(secrets: str, problem: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        parse_job(f"run: x\nproject: p\nsecrets: {secrets}\n", "job.yaml", "/")
    assert "job.yaml:3" in str(told.value)
    assert problem in str(told.value)


@pytest.mark.parametrize(
    ("files", "problem"), [(("B",), "'B' is not among secrets"), (("A", "A"), "'A' is named twice")]
)
def test_the_wire_is_held_to_the_same(files: tuple[str, ...], problem: str) -> None:
    spec = JobSpec(project="p", script="x", secrets=("A",), secret_files=files)
    assert [(one.path, one.message) for one in check(spec)] == [(("secret_files",), problem)]


def test_the_wire_carries_it() -> None:
    spec = JobSpec(project="p", script="x", secrets=("A", "B"), secret_files=("B",))
    assert spec_from_wire(spec_to_wire(spec)).secret_files == ("B",)


def test_a_launch_has_each_in_one_place() -> None:
    spec = JobSpec(script="x", secrets=("A", "B"), secret_files=("B",))
    launch = launch_of(spec, {"K": "v"}, 0, {"A": "1", "B": "2"})
    assert (launch.env, launch.files) == ({"K": "v", "A": "1"}, {"B": "2"})
    waits = JobSpec(script="x", secrets=("B",), secret_files=("B",), launch="once")
    held = launch_of(waits, {}, 1, {"B": "2"})  # a step on this node finds it there
    assert (held.env, held.files) == ({}, {"B": "2"})
