"""The report on quotas: what running jobs hold of each now, against what is guaranteed and the most.

Why     the amounts are those that the next plan goes by, so the report and `explain` cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from bursar.projects import is_within
from bursar_policies.read_quota import written
from bursar_policies.specs import GPUS, QuotaSpec
from bursard.reports.pages import Cell, Column, Page
from bursard.reports.period import Period
from bursard.state import State

_AS_ANY: Final = "see gpus"
"""Of GPUs of a type, where the quota guarantees GPUs of any."""
_COLUMNS: Final = (
    Column("quota", wrap=True), Column("scope", wrap=True, drop=1), Column("resource"), Column("used"),
    Column("guaranteed", absent=_AS_ANY), Column("borrowed", absent=_AS_ANY), Column("max", absent="none"),
)  # fmt: skip


def quota_page(state: State, period: Period, project: str = "") -> Page:
    """One row for each resource that a quota names. `project`: only quotas of it and of what is below."""
    rows: list[tuple[Cell, ...]] = []
    for name, spec in state.quotas.specs.items():
        if not project or (spec.project and is_within(spec.project, project)):
            rows += _rows(state, name, spec)
    return Page(
        kind="quotas",
        period=period,
        currency=state.currency,
        project=project,
        columns=_COLUMNS,
        rows=tuple(rows),
        notes=(
            "Used is what running jobs hold now, whatever the period; borrowed, what goes beyond what is"
            " guaranteed. No max: no ceiling.",
        ),
    )


def _rows(state: State, name: str, spec: QuotaSpec) -> Iterator[tuple[Cell, ...]]:
    guaranteed, most, used = dict(spec.guaranteed), dict(spec.max), state.quotas.used[name]
    for resource in sorted({*guaranteed, *most}):

        def shown(amount: int | None, resource: str = resource) -> str | None:
            return written(resource, amount, spec.currency) if amount is not None else None

        owed, borrowed = _of_guarantee(resource, guaranteed, used)
        # A type that `max` does not name is bounded by all GPUs there.
        ceiling = most.get(resource, most.get(resource.partition("/")[0]))
        yield (name, spec.scope, resource, *map(shown, (used[resource], owed, borrowed, ceiling)))


def _of_guarantee(
    resource: str, guaranteed: Mapping[str, int], used: Mapping[str, int]
) -> tuple[int | None, int | None]:
    """What is guaranteed of a resource, and what of it is borrowed. GPUs of any type may be guaranteed by
    their types; one type by GPUs of any, of which no part is its own.
    """
    types = {one: owed for one, owed in guaranteed.items() if one.startswith(f"{GPUS}/")}
    if resource == GPUS and types:
        paid = sum(min(used.get(one, 0), owed) for one, owed in types.items())
        return sum(types.values()), used.get(GPUS, 0) - paid
    if resource.startswith(f"{GPUS}/") and GPUS in guaranteed:
        return None, None
    owed = guaranteed.get(resource, 0)
    return owed, max(used.get(resource, 0) - owed, 0)
