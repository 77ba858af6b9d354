"""The statement: what each project owes for a period, and that it adds up to what the nodes cost.

Why     a sum that a reader can check is worth more than one to be believed: what jobs pay + what no job does
        = node cost stands on the page, and is held against what it must be by boots and prices (`control`).
        What users, models and cost centres cost are other parts of the same sum, made of the same charges as
        what `cost` says of them. `statement_forms` and `statement_html` write it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from bursar.clock import SECOND_US
from bursar.errors import InvalidRequest
from bursar_policies.attribution import COST_CENTER, OWNED, Attributions
from bursard.ledger import PAID
from bursard.reports.adjusted import Adjusted, adjusted, published_at
from bursard.reports.attribution import Reattributed, attributed_sums, reattributed
from bursard.reports.control import facts_of, gone_at, owed
from bursard.reports.cost import CostTable, fold
from bursard.reports.pages import Page
from bursard.reports.period import Period
from bursard.reports.unpriced import unpriced_nanos
from bursard.state.periods import ClosedPeriod
from bursard.store import ChargeFilter, ChargeSum, Dim, Unposted, Views
from bursard.store.base import LABEL_PREFIX

DEFAULT_BY: Final = (Dim.PROJECT, COST_CENTER, Dim.USER, Dim.MODEL)
_KNOWN_BY: Final = (Dim.PROJECT, *OWNED, Dim.USER, Dim.EXPERIMENT, Dim.MODEL, Dim.MODEL_VERSION)
BY_MAX: Final = 8


def read_by(text: str) -> tuple[str, ...]:
    """What a statement is to be by: `project,cost-center,label:team`; the usual ones where nothing is said.

    Raises:
        InvalidRequest: a word that charges are not of, a word twice, or too many.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    found = tuple(words)
    for word in found:
        label = word.startswith(LABEL_PREFIX) and word != LABEL_PREFIX
        if not label and word not in _KNOWN_BY:
            known = ", ".join((*_KNOWN_BY, "label:<key>"))
            raise InvalidRequest(f"by: a statement is not by {word[:40]!r}; known: {known}")
    if len(set(found)) != len(found):
        raise InvalidRequest("by: names the same twice")
    if len(found) > BY_MAX:
        raise InvalidRequest(f"by: names {len(found)} parts, more than {BY_MAX}")
    return found or DEFAULT_BY


class Group(msgspec.Struct, frozen=True):
    """What jobs pay by one dimension, `cost`'s own word for it; each row beside the period before."""

    by: str
    table: CostTable

    @property
    def title(self) -> str:
        """`project`, `cost-center`."""
        return self.by.removeprefix(LABEL_PREFIX)


class DayCost(msgspec.Struct, frozen=True):
    """What jobs of a project pay for a day, `2026-11-21`."""

    day: str
    project: str
    nanos: int


class Statement(msgspec.Struct, frozen=True):
    """One period of one cluster, or of one project of it.

    Attributes:
        projects: what jobs pay by project, beside the period before. groups: by what was asked for.
        kinds: usage and what no job owns, of all nodes; usage alone when
            the statement is of one project. node_nanos: what the nodes cost, summed by node.
        checked_nanos, facts_nanos: what nodes cost that can be checked, by the books and by the facts.
        left_out: how many nodes cannot. unpriced_us: node time that cannot: at no known price.
        adjusted: what of the usage is of other times. published_at: since when usage of the period is late.
        closed: by which close nothing enters the period any more; None: it is provisional.
        before: what rows are compared with. days: for the picture. budgets: limit against actual.
        moves: what a table of the period says otherwise of months that were published.
    """

    period: Period
    currency: str
    project: str
    projects: CostTable
    kinds: CostTable
    node_nanos: int
    checked_nanos: int = 0
    facts_nanos: int = 0
    left_out: int = 0
    unpriced_us: int = 0
    adjusted: tuple[Adjusted, ...] = ()
    published_at: int = 0
    closed: ClosedPeriod | None = None
    groups: tuple[Group, ...] = ()
    before: Period | None = None
    days: tuple[DayCost, ...] = ()
    budgets: Page | None = None
    moves: tuple[Reattributed, ...] = ()

    def adjusted_nanos(self, kind: str) -> int:
        """What corrections, or late usage, made the bill larger by."""
        return sum(one.nanos for one in self.adjusted if one.kind == kind)

    @property
    def difference_nanos(self) -> int:
        """What the books say beyond the facts, and what owners owe beyond that: 0, or the books are wrong."""
        return self.checked_nanos - self.facts_nanos + self.node_nanos - self.kinds.total.nanos


def statement(
    views: Views,
    period: Period,
    currency: str,
    unposted: Unposted,
    project: str = "",
    closed: Sequence[ClosedPeriod] = (),
    by: Sequence[str] = DEFAULT_BY,
    budgets: Page | None = None,
    tables: Attributions | None = None,
) -> Statement:
    """Read one period, from one look at the store, so that all of it is of one moment. `tables`: whose costs
    are when.
    """
    tables = tables or Attributions()
    query = ChargeFilter(
        since=period.since,
        until=period.until,
        project=project,
        kinds=PAID if project else (),
    )
    sums = views.charge_sums([Dim.KIND, Dim.NODE_ID, Dim.JOB], query, unposted)
    by_kind = [part._replace(keys=part.keys[:1] + part.keys[2:]) for part in sums]
    projects, *groups = _groups(views, period, unposted, project, (Dim.PROJECT, *by), tables)
    nodes: dict[str | int, int] = {}
    for part in sums:
        nodes[part.keys[1]] = nodes.get(part.keys[1], 0) + part.gpu + part.cpu + part.memory
    found = Statement(
        period=period,
        currency=currency,
        project=project,
        projects=projects.table,
        kinds=fold([Dim.KIND], by_kind),
        node_nanos=sum(nodes.values()),
        adjusted=adjusted(views, period, unposted, project),
        published_at=published_at(period),
        closed=next((one for one in closed if period.until <= one.until), None),
        groups=tuple(groups),
        before=period.before,
        days=_days(views, period, unposted, project),
        budgets=budgets,
        moves=_moves(views, period, unposted, project, tables, by),
    )
    return found if project else _checked(found, views, unposted, nodes)


def _groups(
    views: Views,
    period: Period,
    unposted: Unposted,
    project: str,
    by: Sequence[str],
    tables: Attributions,
) -> list[Group]:
    """What jobs pay by each dimension: one question for the period and one for that before."""
    dims = tuple(dict.fromkeys(by))

    def asked(of: Period) -> tuple[list[ChargeSum], list[ChargeSum]]:
        query = ChargeFilter(since=of.since, until=of.until, project=project, kinds=PAID)
        return attributed_sums(views, [*dims, Dim.JOB], query, unposted, (), tables)

    def one_of(parts: tuple[list[ChargeSum], list[ChargeSum]], at: int) -> list[ChargeSum]:
        told, moved = parts
        mine = told + moved if dims[at] in OWNED else told
        return [part._replace(keys=(part.keys[at], part.keys[-1])) for part in mine]

    now, before = asked(period), asked(period.before)
    places = [dims.index(dim) for dim in by]
    return [Group(dims[at], fold([dims[at]], one_of(now, at), before=one_of(before, at))) for at in places]


def _moves(
    views: Views,
    period: Period,
    unposted: Unposted,
    project: str,
    tables: Attributions,
    by: Sequence[str],
) -> tuple[Reattributed, ...]:
    if set(OWNED).isdisjoint(by):
        return ()
    query = ChargeFilter(since=period.since, until=period.until, project=project, kinds=PAID)
    return reattributed(views, query, unposted, tables)


def _days(views: Views, period: Period, unposted: Unposted, project: str) -> tuple[DayCost, ...]:
    query = ChargeFilter(since=period.since, until=period.until, project=project, kinds=PAID)
    found = views.charge_sums([Dim.DAY, Dim.PROJECT], query, unposted)
    return tuple(DayCost(_day_text(part.keys[0]), str(part.keys[1]), part.nanos) for part in found)


def _day_text(at: str | int) -> str:
    return datetime.fromtimestamp(int(at) // SECOND_US, UTC).strftime("%Y-%m-%d")


def _checked(found: Statement, views: Views, unposted: Unposted, nodes: Mapping[str | int, int]) -> Statement:
    """Held against the facts, node by node: what was told after its month was closed, in that month."""
    ends = dict(unposted.through)
    for row in unposted.rows:
        if row.kind == "unknown" and row.node_id in ends:  # of a silent node: it counts up to now
            ends[row.node_id] = max(ends[row.node_id], row.used_until)
    ends |= gone_at(views, sorted(str(one) for one in nodes if one and one not in ends), unposted.seq)
    facts = owed(facts_of(views, unposted.seq), ends, found.period.since, found.period.until)
    nodes = _by_use(found.period, views, unposted, nodes)
    return msgspec.structs.replace(
        found,
        checked_nanos=sum(nodes.get(node_id, 0) for node_id in facts.nanos)
        - unpriced_nanos(views, found.period, unposted, facts.unpriced),
        facts_nanos=sum(facts.nanos.values()),
        left_out=len(nodes.keys() - facts.nanos.keys()),
        unpriced_us=facts.unpriced_us,
    )


def _by_use(
    period: Period, views: Views, unposted: Unposted, nodes: Mapping[str | int, int]
) -> Mapping[str | int, int]:
    """What nodes cost in a period, of what was told after a month was closed by when it was used."""
    found = dict(nodes)
    for row in views.charges(ChargeFilter(since=period.since, corrections=True), unposted):
        if row.told_late:
            nanos = row.gpu + row.cpu + row.memory
            moved = (period.since <= row.for_start < period.until) - (row.start_at < period.until)
            found[row.node_id] = found.get(row.node_id, 0) + moved * nanos
    return found
