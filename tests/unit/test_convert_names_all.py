"""Every key of another system's file becomes something of the job file, or is named as not carried.

Why     a converter that forgets a line says nothing about it, and the job that it makes is another one. So
        each value of every kind of file is left out once, and a key that nobody knows is put everywhere.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import foreign_files
import pytest
import yaml

from bursar.errors import InvalidRequest
from bursar.jobfile.convert import convert

Path = tuple[str | int, ...]
FILES = {
    name: text
    for name, text in {
        **{name: text for name, text in vars(foreign_files).items() if name.isupper()},
        **{f"{name}, least": text for name, text in foreign_files.LEAST.items()},
    }.items()
    if isinstance(text, str) and 'job "' not in text
}
SAID_ABOVE = {
    "KUBERNETES": ("tolerations", "valueFrom", "containers.1"),
    "PYTORCHJOB": ("Worker",),
    "RAY_CLUSTER": ("provider", "node_config"),
    "SKY": ("file_mounts",),
}
"""What is named as a whole, at its head: no part of it is carried."""
AS_UNSAID = {
    "nodes 1", "num_nodes 1", "replicas 1", "resources.gpu.count 1", "max_duration False",
    "head_node_type head", "template.spec.restartPolicy Never", "containers.0.name main",
    "containers.0.name c",
}  # fmt: skip
"""Values that say what holds without them, and names within a file alone."""


def values(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value that is no list and no mapping, and where it stands."""
    below = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if below is None:
        yield path, tree
    for key, value in below or ():
        yield from values(value, (*path, key))


def mappings(tree: Any, path: Path = ()) -> Iterator[Path]:
    """Where mappings stand."""
    if isinstance(tree, dict):
        yield path
    below = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in below:
        yield from mappings(value, (*path, key))


def at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def outcome(tree: Any) -> str:
    """The job file and the notes, without their lines; or why there is none."""
    return outcome_of(yaml.safe_dump(tree, sort_keys=False))


def outcome_of(text: str) -> str:
    try:
        found = convert(text, "f")
    except InvalidRequest as refused:
        return f"refused: {refused}"
    body = "\n".join(line for line in found.text.split("\n") if not line.startswith("#"))
    return "\n".join([body, *sorted(sentence for _, sentence in found.notes)])


def whole_in(name: str, path: Path) -> bool:
    place = ".".join(map(str, path)) + "."
    return any(f"{part}." in place for part in SAID_ABOVE.get(name, ()))


@pytest.mark.parametrize("name", FILES)
def test_no_value_is_dropped_in_silence(name: str) -> None:
    tree = next(yaml.safe_load_all(FILES[name]))
    whole = outcome(tree)
    silent = []
    for path, value in values(tree):
        changed = copy.deepcopy(tree)
        del at(changed, path[:-1])[path[-1]]
        said = f"{'.'.join(map(str, path))} {value}"
        if outcome(changed) == whole and not whole_in(name, path):
            silent += [] if any(said.endswith(one) for one in AS_UNSAID) else [said]
    assert silent == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("value", ["7", {"a": {"b": "7"}}, ["7"]])
def test_a_key_that_nobody_knows_is_named_wherever_it_stands(name: str, value: Any) -> None:
    tree = next(yaml.safe_load_all(FILES[name]))
    silent = []
    for path in mappings(tree):
        changed = copy.deepcopy(tree)
        at(changed, path)["nobodys"] = value
        of_one = path[-2:-1] == ("env",)  # of a variable: it has a name and a value
        if "nobodys" not in outcome(changed).lower() and not whole_in(name, path) and not of_one:
            silent.append(path)
    assert silent == []


def test_no_line_of_a_nomad_job_is_dropped_in_silence() -> None:
    lines = foreign_files.NOMAD.split("\n")
    whole = outcome_of(foreign_files.NOMAD)
    silent = [
        line.strip()
        for number, line in enumerate(lines)
        if "=" in line and outcome_of("\n".join([*lines[:number], *lines[number + 1 :]])) == whole
    ]
    assert silent == ['type = "batch"']
    for number, line in enumerate(lines):
        for more in ("nobodys = 7", 'nobodys "q" {\n a = 7\n}'):
            if line.endswith("{") and "other" not in line:
                said = outcome_of("\n".join([*lines[: number + 1], more, *lines[number + 1 :]]))
                assert "nobodys" in said, line


TASK = 'task "t" {\n driver = "exec"\n config { command = "/bin/true" }\n%s}\n'
KINDS = 'resources {\n device "nvidia/gpu/a100" { count = 2 }\n device "nvidia/gpu" { count = 4 }\n }\n'


def grouped(before: str = "", within: str = "") -> str:
    return 'job "x" {\n group "g" {\n' + before + TASK % within + "}\n}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (grouped("count = 3\n"), "array: 0-2"),
        ('job "x" {\n count = 3\n' + TASK % "" + "}\n", "array: 0-2"),
        (grouped("count = 0\n"), "count: 0 would run nothing"),
        (grouped("count = var.n\n"), "'var.n' cannot be read"),
        (grouped("count = 2\n count = 3\n"), "count (again) has no equal"),
        (grouped(within='env { A = "1" }\nenv { B = "2" }\n'), "  A: '1'\n  B: '2'"),
        (grouped(within=KINDS), "device nvidia/gpu: a job asks for GPUs of one kind, and has the first"),
    ],
)
def test_what_nomad_counts_is_carried_or_named(text: str, said: str) -> None:
    assert said in outcome_of(text)
