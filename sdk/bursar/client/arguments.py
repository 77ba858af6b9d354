"""What may be given to the clients: the names, and a check at the door of every method.

Owns    the keyword arguments of `submit`, `list`, `update`, `cost`, `prices` and `events` as typed
        dictionaries, which type checkers read, and `checked`, which holds every call to its own annotations.
Why     a wrong name or type is answered with a sentence that names the argument, what would be right and the
        nearest right name, before anything is sent; not with an AttributeError from within.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    ParamSpec,
    TypeAlias,
    TypedDict,
    TypeVar,
    Union,
    Unpack,
    get_args,
    get_origin,
    get_type_hints,
)

from bursar.errors import InvalidRequest
from bursar.money import Money
from bursar.results import Job
from bursar.yamlfile import nearest

P = ParamSpec("P")
R = TypeVar("R")


class WrongArgument(InvalidRequest, TypeError):
    """An argument has a name or a type that this method does not take; the message says what it takes."""


class _Bounds(NamedTuple):
    low: int
    high: int


class _Prefix(NamedTuple):
    begins: str


Count: TypeAlias = Annotated[int, _Bounds(0, 2**32 - 1)]
Position: TypeAlias = Annotated[int, _Bounds(0, 2**63 - 1)]
JobRef: TypeAlias = str | int | Job
"""A job: its id, number, unambiguous name, `last`, `JOB[7]`, or a result of the client."""
LabelDimension: TypeAlias = Annotated[str, _Prefix("label:")]
Dimension: TypeAlias = (
    Literal[
        "project",
        "user",
        "experiment",
        "model",
        "model_version",
        "node",
        "pool",
        "price",
        "job",
        "attempt",
        "kind",
        "class",
        "hour",
        "day",
        "month",
        "service",
        "key",
        "team",
        "cost-center",
    ]
    | LabelDimension
)
"""What cost is grouped by; `label:team`: by the value of that label."""


class JobFields(TypedDict, total=False):
    """What a job asks for, under the names of the job file; numbers or its texts.

    `gpus`, `cpus` and `memory` are per node. `after`: jobs that must succeed first, or `"12:finished"`.
    """

    name: str
    project: str
    experiment: str
    model: str
    model_version: str
    nodes: int | str
    gpus: int | float | str
    cpus: int | float | str
    memory: str
    time_limit: timedelta | str
    begin_after: datetime | str
    deadline: datetime | str
    deadline_policy: Literal["promise", "best-effort"]
    priority: int | str
    preemptible: bool
    hold: bool
    max_cost: Money | str
    max_cost_per: Literal["job", "task"]
    max_price: str
    on_exceed: Literal["stop", "checkpoint-stop"]
    checkpoint_signal: str
    checkpoint_grace: timedelta | str
    checkpoint_before: timedelta | str
    retry_on: Sequence[str]
    retry_max: int
    idle_window: timedelta | str
    idle_action: Literal["stop", "notify", "hold", "requeue", "cancel"]
    setup: str
    env: Mapping[str, str | int | float]
    labels: Mapping[str, str]
    after: JobRef | Sequence[JobRef]
    secrets: Sequence[str]
    workdir: str | Path
    throughput: Mapping[str, float | str]
    constraints: Mapping[str, str]
    array: str
    comment: str
    launch: str
    output_file: str | Path
    error_file: str | Path
    open_mode: Literal["truncate", "append"]
    image: str
    image_auth: str
    mounts: Sequence[str]
    spot: bool
    spot_policy: Literal["auto", "spot", "on-demand"]


class JobChanges(TypedDict, total=False):
    """What may be changed of a pending job; of a running one `priority` and `comment`. `labels` merge."""

    name: str
    project: str
    experiment: str
    model: str
    model_version: str
    labels: Mapping[str, str]
    nodes: int | str
    gpus: int | float | str
    cpus: int | float | str
    memory: str
    throughput: Mapping[str, float | str]
    time_limit: timedelta | str
    priority: int | str
    max_cost: Money | str
    max_price: str
    spot_policy: Literal["auto", "spot", "on-demand"]
    deadline: datetime | str
    deadline_policy: Literal["promise", "best-effort"]
    comment: str
    idle_snooze: str | timedelta


class JobFilters(TypedDict, total=False):
    """Which jobs to list. Without `states`: active ones, and what ended in the last day; `"all"` for all.

    `project` is a subtree, `tasks_of` an array whose tasks are meant, `since` the earliest submission or end.
    """

    states: str | Sequence[str]
    project: str
    user: str
    experiment: str
    model: str
    labels: Mapping[str, str]
    since: datetime
    tasks_of: JobRef
    name: str


class CostFilters(TypedDict, total=False):
    """Which cost to sum, and how to show it.

    `include_idle`: rows of kind idle, down and overhead as well. `period`, instead of `since` and `until`:
    `2026-11`, `2026-Q4`, `last-month` and so on, in `timezone` (UTC), whose days and months count too.
    `depth`: so many levels of a project. `top`: so many of the dearest rows, the rest as one row. `compare`:
    with the period before.
    """

    since: datetime
    until: datetime
    job: JobRef
    project: str
    user: str
    experiment: str
    model: str
    include_idle: bool
    period: str
    timezone: str
    depth: Count
    top: Count
    compare: Literal["previous"]


class PriceFilters(TypedDict, total=False):
    """Which prices. `gpus`: what a machine must have, `"H100:8"`. `history`: those that ended, too."""

    provider: str
    region: str
    instance_type: str
    market: str
    gpus: str
    sort: Literal["price", "gpu-price", "pflop-day"]
    limit: Count
    history: bool


class EventFilters(TypedDict, total=False):
    """Which events. `follow`: then those to come. `tail`: the last so many."""

    after_seq: Position
    limit: Count
    follow: bool
    job: JobRef
    node: str
    kinds: Sequence[str]
    tail: Count


# ------------------------------------------------------------------ the check


def checked(method: Callable[P, R]) -> Callable[P, R]:
    """Hold each call of a method to its annotations. Raises `WrongArgument`."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        _check(method, args, kwargs)
        return method(*args, **kwargs)

    return call


class _Form(NamedTuple):
    """What a method takes."""

    name: str
    positional: tuple[str, ...]
    required: tuple[str, ...]
    hints: Mapping[str, Any]


@functools.cache
def _form(method: Callable[..., Any]) -> _Form:
    hints = get_type_hints(method, include_extras=True)
    hints.pop("return", None)
    positional, required = [], []
    for parameter in list(inspect.signature(method).parameters.values())[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            (fields,) = get_args(hints.pop(parameter.name))
            hints |= get_type_hints(fields, include_extras=True)
            continue
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            positional.append(parameter.name)
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    return _Form(f"{method.__name__}()", tuple(positional), tuple(required), hints)


def _check(method: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    form = _form(method)
    if len(args) - 1 > len(form.positional):
        raise WrongArgument(
            f"{form.name} takes {len(form.positional)} arguments by place, and was given {len(args) - 1}; "
            "give the others by name"
        )
    given = dict(zip(form.positional, args[1:], strict=False))
    for name, value in kwargs.items():
        if name not in form.hints:
            near = nearest(name, form.hints)
            known = f"did you mean {near!r}?" if near else f"it takes {', '.join(form.hints)}"
            raise WrongArgument(f"{form.name} takes no argument {name!r}; {known}")
        if name in given:
            raise WrongArgument(f"{form.name}: {name} is given twice, by place and by name")
        given[name] = value
    for name in form.required:
        if name not in given:
            raise WrongArgument(f"{form.name} needs {name}: {_words(form.hints[name])}")
    for name, value in given.items():
        fault = _fault(value, form.hints[name])
        if fault:
            raise WrongArgument(f"{form.name}: {name} {fault}")


def _fault(value: Any, hint: Any) -> str:
    """What is wrong with a value, as the end of a sentence; empty when nothing is."""
    if _bounded(hint) is not None and _is(value, int):
        low, high = _bounded(hint)
        return "" if low <= value <= high else f"must be {low} to {high}, not {value}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be a finite number, not {value}"
    if not _is(value, hint):
        return f"must be {_words(hint)}, not {_shown(value)}"
    if isinstance(value, str) and not _is_text(value):
        return "has characters that are no text (surrogates)"
    return ""


def _bounded(hint: Any) -> Any:
    if get_origin(hint) is not Annotated:
        return None
    return next((one for one in get_args(hint)[1:] if isinstance(one, _Bounds)), None)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _is(value, parts[0]) and all(
            len(value) > len(one.begins) and value.startswith(one.begins)
            for one in parts[1:]
            if isinstance(one, _Prefix)
        )
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_is(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(_is, value, parts))
    if origin in _MANY:
        return _are(value, origin, parts)
    if hint is None or hint is type(None):
        return value is None
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint)


_MANY = (Sequence, Iterable, Mapping, Callable)
"""Of `collections.abc`: what holds others, or is called."""


def _are(value: Any, origin: Any, parts: Sequence[Any]) -> bool:
    if origin is Mapping:
        key, item = parts
        return isinstance(value, Mapping) and all(_is(k, key) and _is(v, item) for k, v in value.items())
    if origin is Sequence or (origin is Iterable and isinstance(value, Sequence)):
        whole = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return whole and all(_is(each, parts[0]) for each in value)
    return isinstance(value, Iterable) if origin is Iterable else callable(value)


_NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    bytes: "bytes",
    Path: "a pathlib.Path",
    Money: "a bursar.Money",
    Job: "a job of this client",
    datetime: "a datetime",
    timedelta: "a timedelta",
    type(None): "None",
}


def _words(hint: Any) -> str:
    """A type, as people say it."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        begun = next((one.begins for one in parts[1:] if isinstance(one, _Prefix)), "")
        return f"{begun}NAME" if begun else _words(parts[0])
    if origin in (Union, types.UnionType):
        alone = " or ".join(_words(part) for part in parts if get_origin(part) is not Sequence)
        told = (_words(part) for part in parts)
        return " or ".join(
            dict.fromkeys("a list of them" if one == f"a list, each {alone}" else one for one in told)
        )
    if origin is Literal:
        return "one of " + ", ".join(parts)
    if origin is tuple:
        return "a pair of " + " and ".join(_words(part) for part in parts)
    if origin is Mapping:
        return f"a dictionary from {_words(parts[0])} to {_words(parts[1])}"
    if origin in (Sequence, Iterable):
        return f"a list, each {_words(parts[0])}"
    if origin is Callable:
        return "a function"
    return _NAMES.get(hint, f"a {getattr(hint, '__name__', hint)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


__all__ = [
    "CostFilters",
    "Count",
    "Dimension",
    "EventFilters",
    "JobChanges",
    "JobFields",
    "JobFilters",
    "JobRef",
    "Position",
    "PriceFilters",
    "Unpack",
    "WrongArgument",
    "checked",
]
