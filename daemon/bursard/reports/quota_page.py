"""The report on quotas: what running jobs hold of each now, against what is guaranteed and the most.

Why     the amounts are those that the next plan goes by, so the report and `explain` cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bursar.projects import is_within
from bursar_policies.read_quota import written
from bursar_policies.specs import QuotaSpec
from bursard.reports.pages import Cell, Column, Page
from bursard.reports.period import Period
from bursard.state import State

_COLUMNS: Final = (
    Column("quota"), Column("scope"), Column("resource"), Column("used"), Column("guaranteed"),
    Column("borrowed"), Column("max"),
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
        notes=("Used is what running jobs hold now, whatever the period; borrowed, what goes beyond.",),
    )


def _rows(state: State, name: str, spec: QuotaSpec) -> Iterator[tuple[Cell, ...]]:
    guaranteed, most, used = dict(spec.guaranteed), dict(spec.max), state.quotas.used[name]
    for resource in sorted({*guaranteed, *most}):
        owed = guaranteed.get(resource, 0)
        amounts = used[resource], owed, max(used[resource] - owed, 0)
        shown = [written(resource, amount, spec.currency) for amount in amounts]
        ceiling = written(resource, most[resource], spec.currency) if resource in most else None
        yield (name, spec.scope, resource, *shown, ceiling)
