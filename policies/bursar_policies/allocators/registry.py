"""Which allocators there are: those that ship, and those that installed packages bring.

Why     a site's own rule needs no change of ours: its package names it under the entry point group
        `bursar.allocators`, and documents name it as they name the others. It is loaded and asked in a
        process of its own (`allocators.apart`), never here.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import entry_points
from threading import Lock
from typing import Any, Final

from bursar.errors import InvalidRequest
from bursar_policies.allocators.apart import Apart, Failed
from bursar_policies.allocators.api import Allocator, Weight, words_of
from bursar_policies.allocators.goodput import Goodput
from bursar_policies.allocators.in_order import InOrder
from bursar_policies.allocators.relative_speed import RelativeSpeed

GROUP: Final = "bursar.allocators"
SHIPPED: Final[tuple[Allocator, ...]] = (InOrder(), RelativeSpeed(), Goodput())


def names() -> tuple[str, ...]:
    """All that documents may name, sorted."""
    return tuple(sorted({*(one.name for one in SHIPPED), *(one.name for one in entry_points(group=GROUP))}))


_APART: Final[dict[str, Apart]] = {}
"""Those of installed packages that were asked for, by name: one process each."""
_LOCK: Final = Lock()
WEIGHTS_MAX: Final = 64
_LARGEST: Final = 1e12


def find(name: str) -> Allocator:
    """The allocator of this name; ours come first. Waits until it is loaded.

    Raises `InvalidRequest` where none can be used. One that could not be loaded before is tried anew.
    """
    found = _named(name)
    if isinstance(found, Apart) and found.unusable:
        drop(name)
        found = _named(name)
    if isinstance(found, Apart):
        try:
            found.load()
        except Failed as error:
            raise _unusable(found, error) from None
    return found


def at_hand(name: str) -> Allocator | None:
    """The same, at once; None: it is being loaded. What could not be loaded stays so until `drop`."""
    found = _named(name)
    if isinstance(found, Apart):
        if found.loading:
            return None
        try:
            found.load(0)
        except Failed as error:
            raise _unusable(found, error) from None
    return found


def drop(name: str) -> None:
    """End the process of an installed allocator; the next `find` loads what is installed by then."""
    with _LOCK:
        known = _APART.pop(name, None)
    if known is not None:
        known.close()


def _named(name: str) -> Allocator:
    ours = next((one for one in SHIPPED if one.name == name), None)
    if ours is not None:
        return ours
    with _LOCK:
        known = _APART.get(name)
        if known is None:
            point = next(iter(entry_points(group=GROUP, name=name)), None)
            if point is None:
                raise InvalidRequest(f"{name[:60]!r} is not an allocator; known: {', '.join(names())}")
            known = _APART[name] = Apart(name, point.value)
        return known


def _unusable(found: Apart, error: Failed) -> InvalidRequest:
    where = f"allocator {found.name} of {found.value}"
    text = str(error)
    return InvalidRequest(text if where in text else f"{where} cannot be loaded: {text}")


def loaded(name: str, points: Iterable[Any]) -> Allocator:
    """What an entry point names, looked at. Raises `InvalidRequest`; it may end the process, or hang."""
    for point in points:
        where = f"allocator {name} of {point.value}"
        try:
            made = point.load()
            made = made() if isinstance(made, type) else made
        except BaseException as error:
            raise InvalidRequest(f"{where} cannot be loaded: {words_of(error)}") from error
        try:
            wrong = _wrong(made, name)
        except BaseException as error:
            raise InvalidRequest(f"{where} cannot be looked at: {words_of(error)}") from error
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
    if len(weights) > WEIGHTS_MAX:
        return f"has more than {WEIGHTS_MAX} weights"
    for key, weight in weights.items():
        if not isinstance(key, str) or not key.isidentifier() or len(key) > 63:
            return f"has a weight that is called {str(key)[:60]!r}, which is no word"
        if not all(isinstance(one, int | float) and abs(one) <= _LARGEST for one in weight):
            return f"has a weight {key} with a bound or a default that is no number"
        if not weight.least <= weight.default <= weight.most:
            return f"has a weight {key} whose default is not within its bounds"
    return ""
