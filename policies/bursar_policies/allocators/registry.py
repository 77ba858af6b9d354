"""Which allocators there are: those that ship, and those that installed packages bring.

Why     a site's own rule needs no change of ours: its package names it under the entry point group
        `bursar.allocators`, and documents name it as they name the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Final

from bursar.errors import InvalidRequest
from bursar_policies.allocators.api import Allocator, Weight
from bursar_policies.allocators.goodput import Goodput
from bursar_policies.allocators.in_order import InOrder
from bursar_policies.allocators.relative_speed import RelativeSpeed

GROUP: Final = "bursar.allocators"
SHIPPED: Final[tuple[Allocator, ...]] = (InOrder(), RelativeSpeed(), Goodput())


def names() -> tuple[str, ...]:
    """All that documents may name, sorted."""
    return tuple(sorted({*(one.name for one in SHIPPED), *(one.name for one in entry_points(group=GROUP))}))


@cache
def find(name: str) -> Allocator:
    """The allocator of this name; ours come first. Raises `InvalidRequest` where none can be used."""
    ours = next((one for one in SHIPPED if one.name == name), None)
    return ours if ours is not None else _loaded(name, entry_points(group=GROUP, name=name))


def _loaded(name: str, points: Iterable[Any]) -> Allocator:
    for point in points:
        where = f"allocator {name} of {point.value}"
        try:
            made = point.load()
            made = made() if isinstance(made, type) else made
        except Exception as error:
            raise InvalidRequest(
                f"{where} cannot be loaded: {type(error).__name__}: {str(error)[:200]}"
            ) from error
        wrong = _wrong(made, name)
        if wrong:
            raise InvalidRequest(f"{where} {wrong}")
        found: Allocator = made
        return found
    raise InvalidRequest(f"{name[:60]!r} is not an allocator; known: {', '.join(names())}")


def _wrong(made: Any, name: str) -> str:
    """What is not as the protocol has it; "" when nothing is."""
    if getattr(made, "name", None) != name:
        return f"calls itself {str(getattr(made, 'name', None))[:60]!r}"
    if not callable(getattr(made, "allot", None)):
        return "has no method allot"
    weights = getattr(made, "weights", None)
    if not isinstance(weights, dict) or not all(isinstance(one, Weight) for one in weights.values()):
        return "has no `weights`, a dict of `Weight`s by name"
    return ""
