"""The statement in its forms for terminals, spreadsheets and programs: the same numbers in each."""

from __future__ import annotations

import json
from collections.abc import Iterator

from bursar.clock import Instant, format_instant
from bursar.money import format_nanos
from bursar.tables import Head, wrapped
from bursard.ledger import PAID
from bursard.reports.adjusted import CORRECTION, LATE
from bursard.reports.attribution import REATTRIBUTED
from bursard.reports.cost import CostRow
from bursard.reports.files import csv_lines, decimal_text, defused, hours
from bursard.reports.pages import WIDTH, WRAPPED_LEAST, fitted, hanging, objects, printable, table_lines
from bursard.reports.statement import Group, Statement
from bursard.reports.statement_html import html_pieces
from bursard.reports.statement_words import (
    MEANINGS,
    MOVED,
    about,
    change_text,
    changed,
    covered,
    moved,
    notes,
    of_kind,
    parts,
    percent_text,
    status_lines,
    unknown_note,
    why,
)
from bursard.state.periods import ClosedPeriod


def text_pieces(found: Statement) -> Iterator[bytes]:
    """For people: amounts in full, since rounded ones would not add up."""
    of = f" for {found.project}" if found.project else ""
    first, *rest = status_lines(found)
    head = f"Statement {found.period.text}{of}, in {found.currency}, days of {found.period.timezone}"
    lines = [f"{head}: {first}", *rest]
    for group in found.groups:
        lines += ["", *_group_lines(group)]
    if found.before is not None:
        told = f"Before is {found.before.text}; covered is the part of the time with a known price."
        lines += ["", *wrapped(told, WIDTH)]
    if found.budgets is not None and found.budgets.rows:
        lines += ["", "Budgets", *table_lines(found.budgets)]
    if not found.project:
        lines += [
            "",
            *(
                line
                for name, nanos, means in parts(found)
                for line in hanging(f"{name:<12}{format_nanos(nanos):>22}  ", means)
            ),
        ]
    for note in notes(found):
        lines += ["", *wrapped(note, WIDTH)]
    lines += adjusted_lines(found)
    lines += moved_lines(found)
    if unknown := unknown_note(found):
        lines += ["", *wrapped(unknown, WIDTH)]
    yield ("\n".join(lines) + "\n").encode()


def _group_lines(group: Group) -> list[str]:
    heads = (
        Head(group.title, wrap=True, least=WRAPPED_LEAST), Head("jobs", right=True, drop=2),
        Head("hours held", right=True, drop=3), Head("cost", right=True), Head("before", right=True, drop=4),
        Head("change", right=True, drop=1), Head("covered", right=True),
    )  # fmt: skip
    named = [(printable(row.keys[0]) or "(none)", row) for row in group.table.rows]
    rows = [
        [
            name, str(row.jobs), hours(row.held_us), format_nanos(row.nanos), format_nanos(row.before),
            change_text(row), percent_text(covered(row)),
        ]
        for name, row in (*named, ("total", group.table.total))
    ]  # fmt: skip
    marked = [name for name, row in named if row.unknown_us]
    told = wrapped(f"A part at no known price: {', '.join(marked)}.", WIDTH) if marked else []
    return [*fitted(heads, rows), *told]


def adjusted_lines(found: Statement) -> Iterator[str]:
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
            yield from hanging(f"{kind:<12}{format_nanos(found.adjusted_nanos(kind)):>22}  ", meaning)
        for one in ones:
            yield from hanging(f"  {about(one):<32} {format_nanos(one.nanos):>16}  ", why(one))


def moved_lines(found: Statement) -> Iterator[str]:
    """What was moved to other teams and cost centres: nothing where nothing was."""
    if not found.moves:
        return
    yield ""
    yield from wrapped(MOVED, WIDTH)
    for one in found.moves:
        what, why_moved = moved(one)
        yield from hanging(f"  {format_nanos(one.nanos):>22}  ", f"{what} ({why_moved})")


def csv_pieces(found: Statement) -> Iterator[bytes]:
    """Whether it can still change; one line per project and their total, then one per kind of what no project
    owes, how much node time is not checked, and the sum of all; then which of these are of other times, what
    jobs pay by other things (`by_user`), and budgets.
    """
    header = (
        *("line", "project", "jobs", "held_s", "unknown_price_s", "cost", "currency", "about"),
        *("name", "before", "change_percent", "covered_percent"),
    )
    lines = [_csv_line("status", "", CostRow(()), found.currency, "; ".join(status_lines(found)))]
    lines += [_priced_line("project", row.keys[0], row, found.currency) for row in found.projects.rows]
    lines.append(_priced_line("total", "", found.projects.total, found.currency))
    if not found.project:
        kinds = [kind for kind in MEANINGS if kind not in PAID]
        lines += [_csv_line(kind, "", of_kind(found, kind), found.currency) for kind in kinds]
        left_out = CostRow((), held_us=found.unpriced_us, unknown_us=found.unpriced_us)
        of_what = f"{hours(found.unpriced_us)} node-hours at no known price are not checked"
        lines.append(_csv_line("left_out", "", left_out, found.currency, of_what))
        lines.append(_csv_line("node_cost", "", found.kinds.total, found.currency))
    for one in found.adjusted:
        row = CostRow((), nanos=one.nanos, jobs=1)
        of_what = f"job {one.job_number}, {one.month}, {why(one)}"
        lines.append(_csv_line(f"of_which_{one.kind}", one.project, row, found.currency, of_what))
    for move in found.moves:
        of_what = "; ".join(moved(move))
        lines.append(_csv_line(REATTRIBUTED, "", CostRow((), nanos=move.nanos), found.currency, of_what))
    for group in found.groups:
        if group.by != "project":
            what = f"by_{group.title}"
            lines += [_priced_line(what, row.keys[0], row, found.currency) for row in group.table.rows]
    lines += _budget_lines(found)
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
        *("", "", "", ""),
    )


def _priced_line(line: str, name: str, row: CostRow, currency: str) -> tuple[str, ...]:
    """A line of what jobs pay by something: with the period before, and how much of it has a price."""
    change, known = changed(row), covered(row)
    return (
        *_csv_line(line, name if line == "project" else "", row, currency)[:-4],
        defused(name),
        format_nanos(row.before),
        "" if change is None else decimal_text(change, 4),
        "" if known is None else decimal_text(known, 4),
    )


def _budget_lines(found: Statement) -> Iterator[tuple[str, ...]]:
    """Two lines a budget: what it has, and what is settled of it."""
    for name, scope, every, since, limit, settled, *_ in found.budgets.rows if found.budgets else ():
        of_what = f"{scope}, {every}, since {since}"
        for line, nanos in (("budget_limit", limit), ("budget_settled", settled)):
            if isinstance(nanos, int):
                cells = _csv_line(line, "", CostRow((), nanos=nanos), found.currency, of_what)
                yield (*cells[:-4], defused(str(name)), "", "", "")


def _seconds(us: int) -> str:
    return decimal_text(us, 6)


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

    def priced(row: CostRow) -> dict[str, object]:
        return {
            "jobs": row.jobs,
            "held_s": row.held_us / 1_000_000,
            "gpu_s": row.gpu_milli_us / 1_000_000_000,
            "unknown_price_s": row.unknown_us / 1_000_000,
            "cost": money(row.nanos),
            "before": money(row.before),
            "change_percent": _share(changed(row)),
            "covered_percent": _share(covered(row)),
        }

    document: dict[str, object] = {
        "period": found.period.text,
        "project": found.project,
        "currency": found.currency,
        "projects": [{"project": row.keys[0], **priced(row)} for row in found.projects.rows],
        "groups": [
            {"by": group.by, "rows": [{"name": row.keys[0], **priced(row)} for row in group.table.rows]}
            for group in found.groups
        ],
        "budgets": objects(found.budgets) if found.budgets is not None else [],
        "total": money(found.projects.total.nanos),
        "before": money(found.projects.total.before),
        "change_percent": _share(changed(found.projects.total)),
        "covered_percent": _share(covered(found.projects.total)),
        "compared_with": found.before.text if found.before is not None else None,
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
        "reattributed": [
            {
                "month": one.month,
                "from": one.before._asdict(),
                "to": one.after._asdict(),
                "cost": money(one.nanos),
                "at": format_instant(Instant(one.at)),
                "by": one.by,
                "reason": one.reason,
            }
            for one in found.moves
        ],
    }
    if not found.project:
        kinds = [kind for kind in MEANINGS if kind not in PAID]
        document |= {kind.replace("-", "_"): money(of_kind(found, kind).nanos) for kind in kinds}
        document["node_cost"] = money(found.node_nanos)
        document["facts_cost"] = money(found.facts_nanos)
        document["nodes_left_out"] = found.left_out
        document["node_s_left_out"] = found.unpriced_us / 1_000_000
        document["difference"] = money(found.difference_nanos)
    yield (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _share(millionths: int | None) -> float | None:
    return None if millionths is None else millionths / 10_000


FORMATS = {"text": text_pieces, "csv": csv_pieces, "json": json_pieces, "html": html_pieces}
