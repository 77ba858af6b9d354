"""What each cost centre bears of what the nodes cost: its own, what was moved, its part of what is shared.

Why     the sum over all cost centres, and over what is nobody's, is what the nodes cost, to the nano:
        whatever the rules divide, a part that nobody bears stays in sight. Own, moved and shared are three
        columns: one blended figure could not be checked by anybody.
Months  costs are divided month by month, and within a month by each version of the table for its own hours.
        What is of a published month is not divided anew by a later table: whose jobs are alone is moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from bursar.errors import InvalidRequest
from bursar_policies.attribution import COST_CENTER, Attributions, Span
from bursar_policies.specs import AttributionSpec, SharedRule
from bursard.ledger import PAID
from bursard.reports.attribution import Reattributed, attributed_sums, reattributed
from bursard.reports.cost import ppm
from bursard.reports.pages import Column, Page
from bursard.reports.period import Period, month_of
from bursard.reports.serving import shares
from bursard.store import ChargeFilter, Dim, Unposted, Views

NOBODY: Final = ""
_COLUMNS: Final = (
    Column("cost_center", wrap=True, absent="(nobody's)"),
    Column("own", "money"),
    Column("reattributed", "money", drop=1),
    Column("shared", "money"),
    Column("cost", "money"),
    Column("share", "percent", drop=2),
)


def whole_months(period: Period) -> None:
    """Raises `InvalidRequest` unless a period is months of UTC."""
    months = _months(period)
    if period.timezone != "UTC" or (months[0][0], months[-1][1]) != (period.since, period.until):
        raise InvalidRequest(
            "period: costs are divided month by month of UTC; ask for 2026-11, 2026-Q4, 2026 or this-month"
        )


def chargeback(views: Views, period: Period, currency: str, unposted: Unposted, tables: Attributions) -> Page:
    """A row for each cost centre, and one, whose name is None, for what is nobody's."""
    whole_months(period)
    own, shared, moved = Counter[str](), Counter[str](), Counter[str]()
    for since, until in _months(period):
        for span in tables.spans(since, until):
            kinds, mine = _of_span(views, span, unposted, tables)
            own.update(mine)
            own[NOBODY] += sum(kinds.values())
            shared.update(divided(span.spec, kinds, mine))
    query = ChargeFilter(since=period.since, until=period.until, kinds=PAID)
    moves = reattributed(views, query, unposted, tables)
    for one in moves:
        moved[one.before.cost_center] -= one.nanos
        moved[one.after.cost_center] += one.nanos
    names = sorted({name for sums in (own, shared, moved) for name, nanos in sums.items() if nanos or name})
    total = sum(own.values())
    rows = [
        (
            name or None,
            own[name],
            moved[name],
            shared[name],
            cost := own[name] + moved[name] + shared[name],
            ppm(cost, total),
        )
        for name in (*(one for one in names if one), NOBODY)
    ]
    return Page(
        kind="chargeback",
        period=period,
        currency=currency,
        columns=_COLUMNS,
        rows=tuple(rows),
        total=("total", total, sum(moved.values()), sum(shared.values()), total, ppm(total, total)),
        notes=tuple(_notes(tables, period, moves)),
    )


def _months(period: Period) -> list[tuple[int, int]]:
    found = [month_of(period.since)]
    while found[-1][1] < period.until:
        found.append(month_of(found[-1][1]))
    return found


def _of_span(
    views: Views, span: Span, unposted: Unposted, tables: Attributions
) -> tuple[Counter[str], Counter[str]]:
    """What no job pays, by kind; and what jobs pay, by cost centre."""
    kinds, mine = Counter[str](), Counter[str]()
    query = ChargeFilter(since=span.since, until=span.until)
    told, _ = attributed_sums(views, (Dim.KIND, COST_CENTER, Dim.JOB), query, unposted, (), tables)
    for part in told:
        kind, name, _ = map(str, part.keys)
        if kind in PAID:
            mine[name] += part.nanos
        else:
            kinds[kind] += part.nanos
    return kinds, mine


def divided(spec: AttributionSpec, kinds: Counter[str], own: Counter[str]) -> Counter[str]:
    """What each cost centre gets of what is shared, and whose it was less: 0 together. What nobody bears,
    since none has a cost of its own, stays where it is.
    """
    given_away = {rule.cost_center for rule in spec.shared if rule.cost_center}
    bearers = sorted(name for name, nanos in own.items() if name and nanos > 0 and name not in given_away)
    found = Counter[str]()
    for rule in spec.shared:
        whose = rule.cost_center or NOBODY
        amount = own[whose] if rule.cost_center else sum(kinds[kind] for kind in rule.kinds)
        weights = _weights(rule, bearers, own)
        if not amount or not weights:
            continue
        for name, part in zip(weights, shares(amount, list(weights.values())), strict=True):
            found[name] += part
        found[whose] -= amount
    return found


def _weights(rule: SharedRule, bearers: list[str], own: Counter[str]) -> dict[str, int]:
    if rule.by == "shares":
        return dict(rule.shares)
    return {name: own[name] if rule.by == "cost" else 1 for name in bearers}


def _notes(tables: Attributions, period: Period, moves: tuple[Reattributed, ...]) -> Iterator[str]:
    yield (
        "What is nobody's: costs of jobs that no table and no label gives a cost centre,"
        " and of nodes that no rule divides. All rows together are what the nodes cost, to the nano."
    )
    specs = [span.spec for span in tables.spans(period.since, period.until)]
    rules = list(dict.fromkeys(_rule_text(rule) for spec in specs for rule in spec.shared))
    yield from rules
    if not rules:
        yield "Nothing was shared: no table of the time has a rule for it."
    if moves:
        yield (
            "Reattributed is of months that were published before; `report statement` lists what was moved"
            " and why."
        )


def _rule_text(rule: SharedRule) -> str:
    what = f"What {rule.cost_center} has" if rule.cost_center else f"What is {', '.join(rule.kinds)}"
    how = {
        "cost": "as each cost centre's own cost is",
        "even": "the same for each cost centre that has a cost of its own",
        "shares": ", ".join(f"{name} {millionths / 10_000:g}%" for name, millionths in rule.shares),
    }
    return f"{what} is divided: {how[rule.by]}."
