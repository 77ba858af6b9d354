"""What a field of an event or an image means when it is not there: the default it was written without.

Why     defaults are left out of what is written, so whoever changes one changes every log there is, and
        nothing that is written and read today would notice. A field may be added, with a default; none may
        go, lose its default, or mean something else without a step of `events/upgrade.py`. What stands in
        tests/golden/persisted.json was released; `python tests/unit/test_persisted_defaults.py` adds to it.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursard.events import Event
from bursard.state import image

GOLDEN = Path(__file__).parents[1] / "golden/persisted.json"
Shape = dict[str, Any]


def roots() -> Iterator[type[msgspec.Struct]]:
    yield from typing.get_args(Event)
    for value in vars(image).values():
        if (
            isinstance(value, type)
            and issubclass(value, msgspec.Struct)
            and value.__module__ == image.__name__
        ):
            yield value


def structs_in(hint: Any) -> Iterator[type[msgspec.Struct]]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
    for part in typing.get_args(hint):
        yield from structs_in(part)


def reached() -> dict[str, type[msgspec.Struct]]:
    """Every struct that events and images are made of, by its name."""
    found: dict[str, type[msgspec.Struct]] = {}
    waiting = list(roots())
    while waiting:
        kind = waiting.pop()
        if kind.__name__ not in found:
            found[kind.__name__] = kind
            for field in msgspec.structs.fields(kind):
                waiting += structs_in(field.type)
    return found


def shape(kind: type[msgspec.Struct]) -> Shape:
    """Tag, and of each field the default: `required`, or how it prints."""
    fields = {}
    for field in msgspec.structs.fields(kind):
        if field.default_factory is not msgspec.NODEFAULT:
            fields[field.encode_name] = repr(field.default_factory())
        elif field.default is not msgspec.NODEFAULT:
            fields[field.encode_name] = repr(field.default)
        else:
            fields[field.encode_name] = "required"
    return {"tag": kind.__struct_config__.tag, "fields": fields}


RELEASED: dict[str, Shape] = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}


@pytest.mark.parametrize("name", RELEASED)
def test_what_was_released_means_what_it_meant(name: str) -> None:
    now, then = shape(reached()[name]), RELEASED[name]
    assert now["tag"] == then["tag"]
    assert {field: now["fields"].get(field) for field in then["fields"]} == then["fields"]
    new = {field: default for field, default in now["fields"].items() if field not in then["fields"]}
    assert "required" not in new.values(), f"{new}: older logs do not have it"


def test_events_and_images_are_walked_to_the_ground() -> None:
    assert {"JobSubmitted", "JobSpec", "ResourceRequest", "ExitReport", "RetrySpec"} <= set(RELEASED)
    assert len(RELEASED) > 60


if __name__ == "__main__":
    shapes = {name: shape(kind) for name, kind in sorted(reached().items())}
    GOLDEN.write_text(json.dumps(RELEASED | shapes, indent=1, sort_keys=True) + "\n")
