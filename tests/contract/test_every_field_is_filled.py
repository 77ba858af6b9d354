"""Every field that an answer declares is filled by somebody: none is on the wire for nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from whole_site import METHODS

import bursar
import bursard
from bursar.codec import steps
from bursar.model import JobSpec, ServiceSpec

ROOMS = (
    Path(bursard.__file__).parent / "services",
    Path(bursard.__file__).parent / "telemetry",
    Path(bursar.__file__).parent / "codec",
)
"""Where messages are made."""
FILLED_BY_AGENTS = {"Progress", "DeviceUse", "Sample", "GpuSample", "AttemptSample", "GpuSummary", "Stat"}
"""Readings pass through the daemon as agents made them (`bursar_agent.link`, `bursar_agent.probes`)."""


def answers() -> Iterator[Descriptor]:
    """Every message that an answer of a method may hold."""
    seen: dict[str, Descriptor] = {}

    def walk(kind: Descriptor) -> None:
        if kind.full_name in seen or kind.GetOptions().map_entry:
            return
        seen[kind.full_name] = kind
        for field in kind.fields:
            if field.message_type is not None:
                walk(field.message_type)

    for name, method in METHODS.items():
        if name != "Agents.Connect":
            walk(method.output_type)
    return iter(kind for kind in seen.values() if kind.name not in FILLED_BY_AGENTS)


def made() -> tuple[dict[str, set[str]], set[str]]:
    """By message, the fields that its making names; and every field that is set or added to afterwards."""
    named: dict[str, set[str]] = {}
    touched: set[str] = set()
    for room in ROOMS:
        for path in room.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    _called(node, named, touched)
                for target in _targets(node):
                    touched.add(target)
    return named, touched


def _called(call: ast.Call, named: dict[str, set[str]], touched: set[str]) -> None:
    if isinstance(call.func, ast.Name) and call.func.id == "put_amounts":
        for word in call.keywords:
            touched |= {str(word.arg), f"{word.arg}_wide"}
    if isinstance(call.func, ast.Attribute):
        named.setdefault(call.func.attr, set()).update(word.arg for word in call.keywords if word.arg)
        filled = isinstance(call.func.value, ast.Attribute)
        if filled and call.func.attr in ("CopyFrom", "extend", "append", "add", "update"):
            touched.add(call.func.value.attr)  # type: ignore[attr-defined]
            touched.update(word.arg for word in call.keywords if word.arg)


def _targets(node: ast.AST) -> Iterator[str]:
    targets = list(node.targets) if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    for target in targets:
        if isinstance(target, ast.Tuple):
            targets += target.elts
        while isinstance(target, ast.Subscript | ast.Attribute):
            if isinstance(target, ast.Attribute):
                yield target.attr
            target = target.value


NAMED, TOUCHED = made()
NAMED["JobSpec"] = {*JobSpec.__struct_fields__}
NAMED["ServiceSpec"] = {*ServiceSpec.__struct_fields__}  # `codec.spec` converts them by their names
NAMED["Step"] |= {*steps._PLAIN}
ASKED = {"ArraySpec.indices"}
"""Fields of messages that requests hold too, and that only these fill."""
FIELDS = [field for kind in answers() for field in kind.fields if f"{kind.name}.{field.name}" not in ASKED]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.containing_type.name}.{field.name}")
def test_somebody_fills_it(field: FieldDescriptor) -> None:
    kind = field.containing_type.name
    assert field.name in NAMED.get(kind, set()) or field.name in TOUCHED, f"nobody fills {kind}.{field.name}"
