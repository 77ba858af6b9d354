"""Every bound, pause and default as it was decided: one that moves is seen by who reads the change.

Why     a limit that is one higher, or a default that is another, breaks no promise that a test could wait
        for; and yet operators, agents of another release and documents that were written before count on
        it. They stand in tests/golden/numbers.txt; what is new joins them with `BURSAR_GOLDEN=write pytest
        tests/unit/test_numbers_are_told.py`, and what moved is read before it is kept.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/numbers.txt"
ROOMS = ("sdk/bursar", "policies/bursar_policies", "daemon/bursard", "agents/bursar_agent")
PLAIN = (bool, int, float, str, bytes, frozenset, tuple, type(None))


def modules() -> Iterator[tuple[ModuleType, ast.Module]]:
    """All of the product, each with its text as a tree."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to((ROOT / room).parent).with_suffix("").parts
            if path.stem != "__main__" and "v1" not in parts:
                name = ".".join(parts).removesuffix(".__init__")
                yield importlib.import_module(name), ast.parse(path.read_text())


def assigned(tree: ast.Module) -> Iterator[str]:
    """Names that stand for something fixed."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets += [node.target] if isinstance(node, ast.AnnAssign) else []
        for target in targets:
            for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(name, ast.Name) and name.id.isupper():
                    yield name.id


def defaults(kind: type) -> Iterator[tuple[str, Any]]:
    """What each field is unless it is said."""
    if dataclasses.is_dataclass(kind):
        yield from ((field.name, field.default) for field in dataclasses.fields(kind))
    elif issubclass(kind, msgspec.Struct):
        yield from ((field.name, field.default) for field in msgspec.structs.fields(kind))
    elif issubclass(kind, tuple):
        yield from getattr(kind, "_field_defaults", {}).items()


def numbers() -> Iterator[str]:
    for module, tree in modules():
        for name in assigned(tree):
            value = getattr(module, name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield f"{module.__name__}.{name} = {value!r}"
        classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        for kind in (getattr(module, name) for name in classes):
            for field, value in defaults(kind):
                if isinstance(value, PLAIN) and len(repr(value)) < 60:
                    yield f"{module.__name__}.{kind.__name__}.{field} = {value!r}"


def by_name(lines: Iterable[str]) -> dict[str, str]:
    return dict(line.split(" = ", 1) for line in lines)  # type: ignore[misc]


def test_every_bound_and_default_is_the_one_that_was_decided() -> None:
    found = list(numbers())
    if os.environ.get("BURSAR_GOLDEN") == "write":
        GOLDEN.write_text("\n".join(found) + "\n")
    now, decided = by_name(found), by_name(GOLDEN.read_text().splitlines())
    moved = [f"{name}: {decided[name]} was decided, it is {now[name]}" for name in decided.keys() & now.keys()
             if decided[name] != now[name]]  # fmt: skip
    assert sorted(moved) == [], "see the head of this file"
    assert len(decided.keys() & now.keys()) > 1_000
