"""Kinds of devices that exist: of the nodes there are, and of whatever the prices in force name.

Why     a job for a kind that nobody knows, a slip of the finger mostly, would wait for ever. One that is
        known and not here may come, and waits.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from bursar.errors import InvalidRequest
from bursar.resources import ResourceRequest
from bursar_policies.specs import GPUS, Document, QuotaSpec
from bursard.engine import Engine


def refuse_unknown_gpus(engine: Engine, options: Iterable[ResourceRequest]) -> None:
    """Raise `InvalidRequest` for a kind that neither a node nor a price names, with the nearest one.

    Where nothing at all is known of kinds, nobody can say which one there is not.
    """
    asked = {kind for option in options if option.gpus is not None for kind in option.gpus.types}
    _refuse(engine, asked, "gpus")


def refuse_unknown_kinds(engine: Engine, kinds: Iterable[str]) -> None:
    """The same of kinds whose prices are asked for."""
    _refuse(engine, set(kinds), "gpus")


def refuse_unknown_types(engine: Engine, documents: Sequence[Document]) -> None:
    """The same of what a Quota names: it would bound nothing, and look as if it did."""
    for one in documents:
        if isinstance(one.spec, QuotaSpec):
            named = (resource.partition("/") for resource, _ in (*one.spec.guaranteed, *one.spec.max))
            asked = {kind for head, _, kind in named if head == GPUS and kind}
            _refuse(engine, asked, f"{one.source}:{one.line}: Quota {one.name}: gpus")


def _refuse(engine: Engine, asked: set[str], where: str) -> None:
    here = engine.state.cluster.kinds()
    if asked <= here:
        return
    known = here | engine.prices.gpu_types()
    unknown = sorted(asked - known)
    if not unknown or not known:
        return
    near = difflib.get_close_matches(unknown[0][:100], sorted(known), 1, 0.5)
    kind, _, count = unknown[0].rpartition("X")
    if kind in known and count.isdecimal():
        hint = f"did you mean {kind}:{count}?"
    else:
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
    raise InvalidRequest(
        f"{where}: no node has a {unknown[0]}, and no price or cost model names one; {hint}",
        {"gpu_type": unknown[0], **({"nearest": near[0]} if near else {})},
    )
