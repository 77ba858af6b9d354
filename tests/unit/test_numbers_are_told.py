"""Every bound, pause, name and default as it was decided: one that moves is seen by who reads the change.

Why     a limit that is one higher, a file or a variable that is called otherwise, or another default breaks
        no promise that a test could wait for; and yet operators, agents of another release and directories
        that were written before count on it. They stand in tests/golden/numbers.txt, without sentences,
        which may change freely. What is new joins them with `BURSAR_GOLDEN=write pytest
        tests/unit/test_numbers_are_told.py`, and what moved is read before it is kept.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/numbers.txt"
ROOMS = ("sdk/bursar", "policies/bursar_policies", "daemon/bursard", "agents/bursar_agent")
PLAIN = (bool, int, float, str, bytes, frozenset, tuple, type(None))
WORD = re.compile(r"[\w.:/-]*")
LONG = 240
"""What is longer is no line that anybody reads."""
NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


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


def told(value: Any) -> str:
    """A fixed value on one line; what is a sentence, or no value, is left out of it."""
    match value:
        case re.Pattern():
            return f"re {value.pattern!r}"
        case str() if not WORD.fullmatch(value):
            return "..."
        case bool() | int() | float() | str() | bytes() | None:
            return repr(value)
        case Mapping():
            return "{" + ", ".join(f"{told(key)}: {told(each)}" for key, each in value.items()) + "}"
        case Set():
            return "{" + ", ".join(sorted(map(told, value))) + "}"
        case tuple() | list() if not hasattr(value, "_fields"):
            return "(" + ", ".join(map(told, value)) + ")"
    return "..."


def lines(name: str, value: Any) -> Iterator[str]:
    """Each entry of a table has a line, so that a new one needs no look at the others."""
    for key, each in value.items() if isinstance(value, Mapping) else ((None, value),):
        text = told(each)
        if len(text) < LONG and re.search(r"\w", text) and told(key) != "...":
            yield f"{name}[{told(key)}] = {text}" if isinstance(value, Mapping) else f"{name} = {text}"


def written(node: ast.expr | None) -> str | None:
    """The same of what stands in the text, where it is a value by itself."""
    try:
        text = "..." if node is None else told(ast.literal_eval(node))
    except ValueError:
        return None
    return text if re.search(r"\w", text) or text == "''" else None


def attributes(kind: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """What a class says of all its instances: a reason, a kind, members of an enumeration."""
    for node in kind.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            value = written(node.value)
            if value is not None and isinstance(target, ast.Name):
                yield target.id, value


def parameters(node: ast.AST, within: str) -> Iterator[tuple[str, str]]:
    """What is taken where a caller says nothing, of all functions in it."""
    for child in ast.iter_child_nodes(node):
        name = f"{within}.{child.name}" if isinstance(child, NAMED) else within
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            given = child.args
            last = [*given.posonlyargs, *given.args][-len(given.defaults) or None :]
            pairs = [
                *zip(last, given.defaults, strict=False),
                *zip(given.kwonlyargs, given.kw_defaults, strict=True),
            ]
            for parameter, default in pairs:
                value = written(default)
                if value is not None:
                    yield f"{name}({parameter.arg})", value
        yield from parameters(child, name)


def numbers() -> Iterator[str]:
    for module, tree in modules():
        for name in assigned(tree):
            yield from lines(f"{module.__name__}.{name}", getattr(module, name))
        for node in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            fields = {
                field: repr(value)
                for field, value in defaults(getattr(module, node.name))
                if isinstance(value, PLAIN) and len(repr(value)) < 60
            }
            for field, text in (dict(attributes(node)) | fields).items():
                yield f"{module.__name__}.{node.name}.{field} = {text}"
        for name, text in parameters(tree, module.__name__):
            yield f"{name} = {text}"


def by_name(lines: Iterable[str]) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition(" = ") for line in lines)}


def test_every_bound_and_default_is_the_one_that_was_decided() -> None:
    found = list(numbers())
    if os.environ.get("BURSAR_GOLDEN") == "write":
        GOLDEN.write_text("\n".join(found) + "\n")
    now, decided = by_name(found), by_name(GOLDEN.read_text().splitlines())
    moved = [f"{name}: {decided[name]} was decided, it is {now[name]}" for name in decided.keys() & now.keys()
             if decided[name] != now[name]]  # fmt: skip
    tables = {name.partition("[")[0] for name in now}
    gone = [f"{name} is gone" for name in decided.keys() - now.keys()
            if "[" in name and name.partition("[")[0] in tables]  # fmt: skip
    assert sorted(moved + gone) == [], "see the head of this file"
    assert len(decided.keys() & now.keys()) > 3_000
