"""What the SDK makes of each message: full of numbers, of ones, of nothing, and of figures below 0.

Why     most of a codec is one condition a field: whether 0 is a figure or means that it is not known, and
        what stands in its place. What each field becomes stands in tests/golden/results.txt; a change of it
        is one that programs see. Written anew by `BURSAR_GOLDEN=write pytest
        tests/unit/test_results_of_messages.py`, and read before it is kept.
"""

from __future__ import annotations

import inspect
import os
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from wire_values import filled

from bursar.codec import results as codec
from bursar.codec import view
from bursar.money import Money

GOLDEN = Path(__file__).parents[1] / "golden/results.txt"
TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
FRACTIONS = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)
UNSIGNED = (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_BOOL)
MORE: dict[str, tuple[Any, ...]] = {
    "results.attempt": ("EUR",), "results.cost": (("project", "user"),), "view.attempt": ("EUR",),
    "view.cost": (("project", "user"),), "view.budget_after": ("EUR",), "view.job_progress": ("EUR",),
    "view.cost_row": (("project", "user"), "EUR"), "view.node_token": ("node-1",),
}  # fmt: skip
"""What is given beside the message."""


def functions() -> Iterator[tuple[str, Callable[..., Any], type[Message]]]:
    """Every public function of one message: to results, and to what the command shows."""
    for room in (codec, view):
        for name, function in inspect.getmembers(room, inspect.isfunction):
            wire = typing.get_type_hints(function).get("wire")
            ours = function.__module__.startswith(room.__name__)
            if ours and not name.startswith("_") and isinstance(wire, type):
                yield f"{room.__name__.rpartition('.')[2]}.{name}", function, wire


def all_of(message: Message, figure: int, depth: int = 0) -> Any:
    """Every figure of a message, and of those in it, is the same; its texts are not empty."""
    for field in message.DESCRIPTOR.fields:
        held = getattr(message, field.name)
        if field.message_type is not None:
            if field.message_type.GetOptions().map_entry or field.message_type.name == "Amount":
                continue
            if depth < 4:
                all_of(held.add() if field.is_repeated else held, figure, depth + 1)
        elif field.type in TEXTS:
            one = "x" if field.type == FieldDescriptor.TYPE_STRING else b"x"
            state = "failed" if message.DESCRIPTOR.name == "Step" else "RUNNING"
            put(
                message,
                field,
                state if field.name == "state" else "USD" if field.name == "currency" else one,
            )
        elif field.type in FRACTIONS:
            put(message, field, figure / 4)
        else:
            put(message, field, max(figure, 0) if field.type in UNSIGNED else figure)
    return message


def put(message: Message, field: FieldDescriptor, value: Any) -> None:
    if field.containing_oneof is not None and field != field.containing_oneof.fields[0]:
        return
    if field.type == FieldDescriptor.TYPE_BOOL:
        value = bool(value)
    if field.is_repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


def flat(value: Any, path: str = "") -> Iterator[str]:
    """A line for each single value in it."""
    if isinstance(value, Money):
        value = str(value)
    if isinstance(value, msgspec.Struct):
        value = {name: getattr(value, name) for name in value.__struct_fields__}
    if isinstance(value, dict) and value:
        for key, each in sorted(value.items()):  # maps of the wire have no order
            yield from flat(each, f"{path}.{key}")
    elif isinstance(value, list | tuple) and value and not isinstance(value[0], str | int | float):
        for at, each in enumerate(value):
            yield from flat(each, f"{path}.{at}")
    else:
        yield f"{path[1:]}={value!r}"


def made(name: str, function: Callable[..., Any], wire: type[Message]) -> str:
    """By kind of message, its lines; each that is of several kinds once."""
    more = MORE.get(name, ())
    messages = {
        "full": filled(wire(), "full"), "one": all_of(wire(), 1), "none": all_of(wire(), 0),
        "below": all_of(wire(), -1), "empty": wire(),
    }  # fmt: skip
    found, before = [], set[str]()
    for kind, message in messages.items():
        if kind == "full" and name.startswith("view."):  # these stand in views.json
            continue
        try:
            lines = list(flat(function(message, *more)))
        except ValueError as error:
            lines = [f"! {type(error).__name__}: {error}"]
        found += [f"{kind}: {line}" for line in lines if line not in before]
        before |= set(lines) if kind in ("one", "none") else set()
    return "\n".join(found) + "\n"


def sections() -> dict[str, str]:
    parts = re.split(r"^=== (.*)\n", GOLDEN.read_text() if GOLDEN.exists() else "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", [name for name, _, _ in functions()])
def test_each_field_becomes_what_it_became(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_word", lambda kind, text: text)  # no message has words of all lists
    known = {each: (function, wire) for each, function, wire in functions()}
    found = made(name, *known[name])
    if os.environ.get("BURSAR_GOLDEN") == "write":
        kept = sections() | {name: found}
        GOLDEN.write_text("".join(f"=== {each}\n{kept[each]}" for each in sorted(kept)))
    assert found == sections()[name], "see the head of this file"
