"""Every field of every JSON object of the contract, from messages in which each value is its own.

Why     a view is a hundred lines that each look right: a value taken from its neighbour, a unit that is not
        turned, a default that hides what was sent. What every field becomes stands in
        tests/golden/views.json; a change of it is a change of the contract, and wants a line in CHANGELOG.md.
        Written anew by `BURSAR_GOLDEN=write pytest tests/unit/test_view_golden.py`.
"""

from __future__ import annotations

import inspect
import json
import os
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from wire_values import filled

from bursar.codec import view

GOLDEN = Path(__file__).parents[1] / "golden/views.json"
MORE: dict[str, tuple[Any, ...]] = {
    "attempt": ("EUR",), "budget_after": ("EUR",), "job_progress": ("EUR",),
    "cost": (("project", "user"),),
    "cost_row": (("project", "user"), "EUR"), "node_token": ("node-1",),
}  # fmt: skip
"""What a view is given beside its message."""


def views() -> Iterator[tuple[str, Callable[..., Any], type[Message]]]:
    """Every public view of one message."""
    for name, function in inspect.getmembers(view, inspect.isfunction):
        wire = typing.get_type_hints(function).get("wire")
        if function.__module__.startswith(view.__name__) and not name.startswith("_") and wire is not None:
            yield name, function, wire


def shown(name: str, function: Callable[..., Any], wire: type[Message]) -> dict[str, Any]:
    """What a view makes of three messages: one full, one full of other numbers, one empty."""
    more = MORE.get(name, ())
    made = {"full": filled(wire(), "full"), "other": filled(wire(), "other"), "empty": wire()}
    return {kind: json.loads(json.dumps(function(message, *more))) for kind, message in made.items()}


@pytest.mark.parametrize("name", [name for name, _, _ in views()])
def test_every_field_of_a_view_is_what_it_was(name: str) -> None:
    known = {each: (function, wire) for each, function, wire in views()}
    found = shown(name, *known[name])
    if os.environ.get("BURSAR_GOLDEN") == "write":
        kept = json.loads(GOLDEN.read_text()) | {name: found}
        GOLDEN.write_text(json.dumps(dict(sorted(kept.items())), indent=1, ensure_ascii=False) + "\n")
    assert found == json.loads(GOLDEN.read_text())[name], "see the head of this file"


def test_every_view_that_was_is() -> None:
    assert [name for name, _, _ in views()] == list(json.loads(GOLDEN.read_text()))
