"""The statement: what each project owes for a period, and that it adds up to what the nodes cost.

Why     a sum that a reader can check is worth more than one to be believed: what jobs pay + what no job does
        = node cost stands on the page, and is held against what it must be by boots and prices (`control`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from bursar.clock import format_instant
from bursar.money import format_nanos
from bursar.words import plural
from bursard.ledger import PAID
from bursard.reports.adjusted import CORRECTION, LATE, Adjusted, adjusted, published_at
from bursard.reports.control import facts_of, owed
from bursard.reports.cost import CostRow, CostTable, fold
from bursard.reports.files import csv_lines, defused, hours
from bursard.reports.period import Period
from bursard.reports.unpriced import unpriced_nanos
from bursard.state.periods import ClosedPeriod
from bursard.store import ChargeFilter, Dim, Unposted, Views


class Statement(msgspec.Struct, frozen=True):
    """One period of one cluster, or of one project of it.

    Attributes:
        projects: usage by project. kinds: usage and what no job owns, of all nodes; usage alone when
            the statement is of one project. node_nanos: what the nodes cost, summed by node.
        checked_nanos, facts_nanos: what nodes cost that can be checked, by the books and by the facts.
        left_out: how many nodes cannot. unpriced_us: node time that cannot: at no known price.
        adjusted: what of the usage is of other times. published_at: since when usage of the period is late.
        closed: by which close nothing enters the period any more; None: it is provisional.
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
) -> Statement:
    """Read one period, from one look at the store, so that all of it is of one moment."""
    query = ChargeFilter(
        since=period.since,
        until=period.until,
        project=project,
        kinds=PAID if project else (),
    )
    sums = views.charge_sums([Dim.KIND, Dim.PROJECT, Dim.NODE_ID, Dim.JOB], query, unposted)
    by_project = [part._replace(keys=part.keys[1:2] + part.keys[3:]) for part in sums if part.keys[0] in PAID]
    by_kind = [part._replace(keys=part.keys[:1] + part.keys[3:]) for part in sums]
    nodes: dict[str | int, int] = {}
    for part in sums:
        nodes[part.keys[2]] = nodes.get(part.keys[2], 0) + part.gpu + part.cpu + part.memory
    found = Statement(
        period=period,
        currency=currency,
        project=project,
        projects=fold([Dim.PROJECT], by_project),
        kinds=fold([Dim.KIND], by_kind),
        node_nanos=sum(nodes.values()),
        adjusted=adjusted(views, period, unposted, project),
        published_at=published_at(period),
        closed=next((one for one in closed if period.until <= one.until), None),
    )
    return found if project else _checked(found, views, unposted, nodes)


def _checked(found: Statement, views: Views, unposted: Unposted, nodes: Mapping[str | int, int]) -> Statement:
    """Held against the facts, node by node: what was told after its month was closed, in that month."""
    ends = dict(unposted.through)
    for row in unposted.rows:
        if row.kind == "unknown" and row.node_id in ends:  # of a silent node: it counts up to now
            ends[row.node_id] = max(ends[row.node_id], row.used_until)
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


_MEANINGS = {
    "usage": "what jobs pay for their shares",
    "startup": "jobs pay too: the boot of machines that were rented for them",
    "idle": "held by no job",
    "keep-alive": "rented machines while no job ran there",
    "down": "while the machine was down",
    "unknown": "while nobody knew what the machine did",
    "overhead": "rounding between shares and node cost",
    "variance": "at prices in force, less at the prices that jobs were placed at",
    "absorption": "cost of shares, less what they are to pay; below zero: jobs paid more",
    "refund": "what providers did not bill for machines that they took back",
}
"""Charge kinds, by the one word for each that every report uses."""
_RENTED = ("startup", "keep-alive", "refund")
"""Kinds that only rented machines have: people are told of them where there are some."""
_TOTALS = {
    "node cost": "the sum of the above",
    "by facts": "what nodes must have cost by their boots and prices alone",
    "difference": "of what the facts tell of: 0, or the books are wrong",
}


def _kind(found: Statement, kind: str) -> CostRow:
    return next((row for row in found.kinds.rows if row.keys == (kind,)), CostRow((kind,)))


def text_pieces(found: Statement) -> Iterator[bytes]:
    """For people: amounts in full, since rounded ones would not add up."""
    of = f" for {found.project}" if found.project else ""
    first, *rest = _status_lines(found)
    head = f"Statement {found.period.text}{of}, in {found.currency}, days of {found.period.timezone}"
    lines = [f"{head}: {first}", *rest, ""]
    width = max([len("project"), *(len(row.keys[0]) for row in found.projects.rows)])
    lines.append(f"{'project':<{width}}  {'jobs':>7}  {'hours held':>12}  {'cost':>22}")
    for row in found.projects.rows:
        name = row.keys[0] or "(none)"
        mark = "  part of it at no known price" if row.unknown_us else ""
        lines.append(
            f"{name:<{width}}  {row.jobs:>7}  {hours(row.held_us):>12}  {format_nanos(row.nanos):>22}{mark}"
        )
    total = found.projects.total
    lines.append(
        f"{'total':<{width}}  {total.jobs:>7}  {hours(total.held_us):>12}  {format_nanos(total.nanos):>22}"
    )
    if not found.project:
        lines.append("")
        kinds = [kind for kind in _MEANINGS if kind not in _RENTED or _kind(found, kind).nanos]
        sums = [("jobs" if kind == "usage" else kind, _kind(found, kind).nanos) for kind in kinds]
        sums += [("node cost", found.node_nanos), ("by facts", found.facts_nanos)]
        sums.append(("difference", found.difference_nanos))
        meanings = [*(_MEANINGS[kind] for kind in kinds), *_TOTALS.values()]
        lines += [
            f"{name:<12}{format_nanos(nanos):>22}  {meaning}"
            for (name, nanos), meaning in zip(sums, meanings, strict=True)
        ]
        if found.left_out:
            many = f"{found.left_out} node{'s' * (found.left_out > 1)}"
            lines += ["", f"Of {many} the facts do not tell: no price at any time, or gone."]
        if found.unpriced_us:
            many = f"{hours(found.unpriced_us)} node-hours"
            what = "at no known price are left out of the last two"
            lines += ["", f"{many} {what}."]
    lines += _adjusted_lines(found)
    unknown = found.kinds.total.unknown_us
    if unknown:
        what = f"{hours(unknown)} hours of shares and nodes have no known price"
        lines += ["", f"{what}; what they cost is unknown, not 0, and in no sum above."]
    yield ("\n".join(lines) + "\n").encode()


def _status_lines(found: Statement) -> Iterator[str]:
    """May it change? And of which log it is."""
    closed = found.closed
    if closed is None:
        yield "provisional"
        return
    yield f"closed {format_instant(closed.closed_at)} by {closed.by}"
    yield f"Ledger hash {closed.hash or '(not signed yet)'} of event {closed.seq}."
    yield from (f"Closed in spite of: {one}." for one in closed.missing)


def _adjusted_lines(found: Statement) -> Iterator[str]:
    """Which of the sums above are of other times: nothing where none are."""
    if not found.adjusted:
        return
    meanings = {
        CORRECTION: "of charges of before, booked in this period",
        LATE: f"posted after the month was published ({format_instant(found.published_at)}), or told when"
        " the month it is of was closed",
    }
    yield from ("", "Of what jobs pay, in the sums above:")
    for kind, meaning in meanings.items():
        ones = [one for one in found.adjusted if one.kind == kind]
        if ones:
            yield f"{kind:<12}{format_nanos(found.adjusted_nanos(kind)):>22}  {meaning}"
        yield from (f"  {_about(one):<32} {format_nanos(one.nanos):>22}  {_why(one)}" for one in ones)


def _about(one: Adjusted) -> str:
    return f"job {one.job_number} of {one.project or '(none)'}, {one.month}"


def _why(one: Adjusted) -> str:
    many = plural(one.charges, "charge")
    return f"{many}: {one.reason}" if one.reason else many


def csv_pieces(found: Statement) -> Iterator[bytes]:
    """Whether it can still change; one line per project and their total, then one per kind of what no project
    owes, how much node time is not checked, and the sum of all; at last which of these are of other times.
    """
    header = ("line", "project", "jobs", "held_s", "unknown_price_s", "cost", "currency", "about")
    lines = [_csv_line("status", "", CostRow(()), found.currency, "; ".join(_status_lines(found)))]
    lines += [_csv_line("project", row.keys[0], row, found.currency) for row in found.projects.rows]
    lines.append(_csv_line("total", "", found.projects.total, found.currency))
    if not found.project:
        kinds = [kind for kind in _MEANINGS if kind not in PAID]
        lines += [_csv_line(kind, "", _kind(found, kind), found.currency) for kind in kinds]
        left_out = CostRow((), held_us=found.unpriced_us, unknown_us=found.unpriced_us)
        about = f"{hours(found.unpriced_us)} node-hours at no known price are not checked"
        lines.append(_csv_line("left_out", "", left_out, found.currency, about))
        lines.append(_csv_line("node_cost", "", found.kinds.total, found.currency))
    for one in found.adjusted:
        row = CostRow((), nanos=one.nanos, jobs=1)
        about = f"job {one.job_number}, {one.month}, {_why(one)}"
        lines.append(_csv_line(f"of_which_{one.kind}", one.project, row, found.currency, about))
    return csv_lines(header, lines)


def _csv_line(line: str, project: str, row: CostRow, currency: str, about: str = "") -> tuple[str, ...]:
    return (
        line,
        defused(project),
        str(row.jobs),
        _seconds(row.held_us),
        _seconds(row.unknown_us),
        format_nanos(row.nanos),
        currency,
        defused(about),
    )


def _seconds(us: int) -> str:
    return f"{us // 1_000_000}.{us % 1_000_000:06d}"


def _status(closed: ClosedPeriod | None) -> dict[str, object]:
    if closed is None:
        return {"status": "provisional"}
    return {
        "status": "closed",
        "closed_at": format_instant(closed.closed_at),
        "closed_by": closed.by,
        "ledger_hash": closed.hash,
        "ledger_event": closed.seq,
        "missing": list(closed.missing),
    }


def json_pieces(found: Statement) -> Iterator[bytes]:
    """For programs: money as in every JSON of Bursar."""

    def money(nanos: int) -> dict[str, str]:
        return {"amount": format_nanos(nanos), "currency": found.currency}

    document: dict[str, object] = {
        "period": found.period.text,
        "project": found.project,
        "currency": found.currency,
        "projects": [
            {
                "project": row.keys[0],
                "jobs": row.jobs,
                "held_s": row.held_us / 1_000_000,
                "unknown_price_s": row.unknown_us / 1_000_000,
                "cost": money(row.nanos),
            }
            for row in found.projects.rows
        ],
        "total": money(found.projects.total.nanos),
        "unknown_price_s": found.kinds.total.unknown_us / 1_000_000,
        "timezone": found.period.timezone,
        **_status(found.closed),
        "published_at": format_instant(found.published_at),
        "corrections": money(found.adjusted_nanos(CORRECTION)),
        "late": money(found.adjusted_nanos(LATE)),
        "adjusted": [
            {
                "kind": one.kind,
                "project": one.project,
                "job": one.job_number,
                "month": one.month,
                "charges": one.charges,
                "cost": money(one.nanos),
                "reason": one.reason,
            }
            for one in found.adjusted
        ],
    }
    if not found.project:
        kinds = [kind for kind in _MEANINGS if kind not in PAID]
        document |= {kind.replace("-", "_"): money(_kind(found, kind).nanos) for kind in kinds}
        document["node_cost"] = money(found.node_nanos)
        document["facts_cost"] = money(found.facts_nanos)
        document["nodes_left_out"] = found.left_out
        document["node_s_left_out"] = found.unpriced_us / 1_000_000
        document["difference"] = money(found.difference_nanos)
    yield (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


FORMATS = {"text": text_pieces, "csv": csv_pieces, "json": json_pieces}
