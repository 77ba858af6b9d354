"""Every bound, pause, word and default as it was decided: one that moves is seen by who reads the change.

Why     a limit that is one higher, or a default that is another, breaks no promise that a test could wait
        for; and yet operators, agents of another release and documents that were written before count on
        it. So do the words that tables and enumerations have for things. They stand in
        tests/golden/numbers.txt; what is new joins them with `BURSAR_GOLDEN=write pytest
        tests/unit/test_numbers_are_told.py`, and what moved is read before it is kept.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import enum
import importlib
import inspect
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/numbers.txt"
ROOMS = (
    "sdk/bursar",
    "policies/bursar_policies",
    "daemon/bursard",
    "agents/bursar_agent",
    "web/bursar_web",
    "gateway/bursar_gateway",
)
PLAIN = (bool, int, float, str, bytes, frozenset, tuple, type(None))
ONE = (bool, int, float, str, bytes, type(None))
SEVERAL = (tuple, list, frozenset, set)
CHARACTERS_MAX = 300
"""Of what is longer (a text, a query), tests of what is made of it say more."""


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


def told(name: str, value: Any) -> Iterator[str]:
    """A fixed value, a line for each entry of a table that is no sentence."""
    text = plain(value)
    if isinstance(value, dict):
        for key, part in value.items():
            yield from told(f"{name}[{plain(key) or key!s}]", part)
    elif text is not None:
        sentence = isinstance(value, str) and (" " in value or str(ROOT) in value)  # or a place of this copy
        if len(text) < CHARACTERS_MAX and not sentence:
            yield f"{name} = {text}"
    elif isinstance(value, tuple | list):
        names = getattr(value, "_fields", range(len(value)))
        for key, part in zip(names, value, strict=True):
            yield from told(f"{name}[{key}]", part)
    elif not isinstance(value, type) and dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from told(f"{name}.{field.name}", getattr(value, field.name))


def plain(value: Any) -> str | None:
    """How a value is written, the same in each run; nothing of one that has a part which cannot be."""
    if isinstance(value, enum.Enum):
        return str(value)
    if isinstance(value, ONE):
        return repr(value)
    if not isinstance(value, SEVERAL):
        return None
    parts = [plain(part) for part in value]
    if None in parts:
        return None
    if isinstance(value, set | frozenset):
        parts = sorted(map(str, parts))
    return f"{type(value).__name__}({', '.join(map(str, parts))})"


def functions(tree: ast.Module) -> Iterator[str]:
    """Names of functions and methods that stand in a module, such as `Class.method`."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{node.name}.{inner.name}"  # type: ignore[attr-defined]


def left_out(function: Any) -> Iterator[tuple[str, Any]]:
    """What each argument is unless it is given."""
    with contextlib.suppress(TypeError, ValueError):
        for name, argument in inspect.signature(function).parameters.items():
            if argument.default is not inspect.Parameter.empty:
                yield name, argument.default


def numbers() -> Iterator[str]:
    for module, tree in modules():
        here = module.__name__
        for name in assigned(tree):
            yield from told(f"{here}.{name}", getattr(module, name))
        for name in functions(tree):
            found: Any = module
            for part in name.split("."):
                found = inspect.getattr_static(found, part)
            for argument, value in left_out(getattr(found, "__func__", found)):
                yield from told(f"{here}.{name}({argument})", value)
        classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        for kind in (getattr(module, name) for name in classes):
            if issubclass(kind, enum.Enum):
                for member in kind:
                    yield from told(f"{here}.{kind.__name__}.{member.name}", member.value)
            for field, value in defaults(kind):
                if isinstance(value, PLAIN) and len(repr(value)) < 60:
                    yield f"{here}.{kind.__name__}.{field} = {value!r}"


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
