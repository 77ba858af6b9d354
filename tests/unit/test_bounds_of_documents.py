"""How much of each figure, text and list of a policy or a job file is taken: found by asking the parser.

Why     a document has a hundred values, each with two ends and a sentence behind each of them; tests name few
        of the ends. For every value the parser is asked for the last that it takes on either side, and what
        it says of the next one. That stands in tests/golden/documents.txt; written anew by
        `BURSAR_GOLDEN=write pytest tests/unit/test_bounds_of_documents.py`, and read before it is kept.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bursar.errors import BursarError
from bursar.jobfile import parse_job
from bursar_policies.document import parse_documents

GOLDEN = Path(__file__).parents[1] / "golden/documents.txt"
FIGURE = re.compile(r"^(\d+)(\.\d+)?( ?[^\d\s].*)?$")
FAR = 10**40
LONG = 9_000
"""No text is tried that is longer."""
POOL = """\
kind: CloudPool
name: rented
spec:
  provider: local
  regions: [home]
  zones: [home-a]
  offers: {gpus: [L4], instance_types: ["g6.*"], markets: [spot]}
  limits: {machines: 16, spend_rate: 300 USD/h}
  keep_alive: 20s
  max_lifetime: 10m
  boot_timeout: 30s
"""
MAIL = """\
kind: AlertChannel
name: ops
spec:
  smtp: {host: m, port: 25, tls: tls, from: b@e.org, to: [a@e.org], user: u, password_file: p}
  budgets: [b]
"""
HOOK = """\
kind: AlertChannel
name: ops
spec:
  webhook: {url: 'https://h.example.org/x', token_file: hook}
"""
BROKER = """\
kind: AlertChannel
name: ops
spec:
  mqtt: {url: 'mqtts://b.example.org:8883', topic: a/b, user: u, password_file: p}
"""
RESERVED = """\
kind: Commitment
name: c
spec:
  provider: aws
  type: reservation
  region: us-east-1
  instance_type: p5.48xlarge
  quantity: 4
  hourly: 80 USD/h
  upfront: 100000 USD
  start: 2026-01-01T00:00:00Z
  end: 2027-01-01T00:00:00Z
"""
SIZES = """\
resources:
  any_of:
    - {gpus: {type: [H100, A100], count: 2, memory: 80GB}, cpus: 4, memory: 8GiB}
    - {gpus: 0.5, cpus: 1.5}
array: {range: "1,5-7", max_parallel: 2}
budget: {max_cost: 5 USD, per: job}
secrets: [{name: A, file: true}]
depends_on: [{job: a, when: finished}]
retry: {on: [failure], max: 3}
command: [python, -c]
"""


def beside(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


varied = beside("test_files_varied")
DOCUMENTS = {
    "budget": varied.BUDGET, "model": varied.MODEL, "book": varied.BOOK, "priority": varied.PRIORITY,
    "quota": varied.QUOTA, "reservation": varied.RESERVATION,
    "placement": varied.PLACEMENT, "names": varied.NAMES, "pool": POOL, "mail": MAIL,
    "hook": HOOK, "broker": BROKER, "commitment": RESERVED, "job": varied.JOB, "job, sizes": SIZES,
}  # fmt: skip


class Loader(yaml.SafeLoader):
    """What stands there as it is written: times and words are texts."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag.rpartition(":")[2] in ("int", "null")]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class Dumper(yaml.SafeDumper):
    """Each value where it stands, also when it is the same as another."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value, lists and mappings too."""
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, each in value.items():
            yield from places(each, (*path, key))
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from places(each, (*path, at))


class Asked:
    """A document with one value another, and what is said of it."""

    def __init__(self, text: str) -> None:
        self.tree = yaml.load(text, Loader)
        assert self.refusal((), None) == ""

    def refusal(self, path: tuple[Any, ...], value: Any) -> str:
        """ "" when it is taken."""
        tree = copy.deepcopy(self.tree)
        if path:
            inside = tree
            for key in path[:-1]:
                inside = inside[key]
            inside[path[-1]] = value
        try:
            text = yaml.dump(tree, Dumper=Dumper, width=10**9, sort_keys=False, allow_unicode=True)
            if "kind" in self.tree:
                parse_documents(text, "f")
            else:
                parse_job(text, "f", "/home")
        except BursarError as error:
            return re.sub(r"^f:\d+(:\d+)?: ", "", error.message.splitlines()[0])[:160] or "refused"
        return ""


def edge(taken: Callable[[int], bool], inside: int, far: int) -> int:
    """The last that is taken on the way from one that is; in steps that double, and then by halves."""
    step, sign = 1, 1 if far > inside else -1
    outside = inside + sign
    while taken(outside):
        if abs(outside) >= abs(far) and abs(far) > abs(inside):
            return far
        inside, step = outside, step * 2
        outside = inside + sign * step
        if sign < 0 and outside < -1:
            outside = -1
            if inside == -1:
                return inside
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        inside, outside = (middle, outside) if taken(middle) else (inside, middle)
    return inside


def ends(value: Any, ask: Callable[[Any], str]) -> list[str]:
    """What is told of one place."""
    if isinstance(value, bool) or value is None:
        return []
    figure = FIGURE.match(str(value)) if isinstance(value, int | str) else None
    if figure is not None and not isinstance(value, list | dict):
        unit = figure[3] or ""

        def made(number: int) -> Any:
            return f"{number}{unit}" if unit or isinstance(value, str) else number

        most, least = (edge(lambda number: not ask(made(number)), int(figure[1]), far) for far in (FAR, -1))
        told = [f"{least} to {most}"]
        told += [f"{number}: {said}" for number in (least - 1, most + 1) if (said := ask(made(number)))]
        return told + [f"{part}: {said}" for part in (f"0.5{unit}", f"{figure[1]}xx") if (said := ask(part))]
    if isinstance(value, str):
        longest = edge(lambda length: not ask(value[0] * length), 1, LONG) if not ask(value[0]) else 0
        told = [f"up to {longest}"] if longest else []
        odd = (
            "",
            f"{value}x",
            f"{value} x",
            f"-{value}",
            f"{value}/x",
            f"{value}:x",
            value.upper(),
            7,
            [value],
        )
        return told + [f"{word!r}: {said}" for word in odd if (said := ask(word))]
    if isinstance(value, list):
        told = [f"{len(many)}: {said}" for many in ([], value * 2, "x") if (said := ask(many))]
        if isinstance(value[0], str) and not ask([value[0], f"{value[0]}2"]):

            def numbered(count: int) -> list[str]:
                return [f"{value[0]}{number}" for number in range(count)]

            most = edge(lambda count: not ask(numbered(count)), 2, 2_000)
            told.append(f"up to {most}, then {ask(numbered(most + 1))}")
        return told
    wrong = {f"{next(iter(value))}x": next(iter(value.values())), **value}
    return [f"{word!r}: {said}"[:220] for word in ({}, wrong, [value]) if (said := ask(word))]


def sections() -> dict[str, str]:
    parts = re.split(r"^=== (.*)\n", GOLDEN.read_text() if GOLDEN.exists() else "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_of_each_value_so_much_is_taken_and_of_more_this_is_said(name: str) -> None:
    asked, found = Asked(DOCUMENTS[name]), list[str]()
    for path, value in places(asked.tree):
        told = ends(value, lambda new, path=path: asked.refusal(path, new))  # type: ignore[misc]
        found += ["/".join(map(str, path)), *(f"  {line}" for line in told)]
    text = "\n".join(found) + "\n"
    if os.environ.get("BURSAR_GOLDEN") == "write":
        kept = sections() | {name: text}
        GOLDEN.write_text("".join(f"=== {each}\n{kept[each]}" for each in sorted(kept)))
    assert text == sections()[name], "see the head of this file"
