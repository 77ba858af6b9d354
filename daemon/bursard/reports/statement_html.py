"""The statement as one file of HTML: tables, pictures and how it prints, with nothing to fetch.

Why     finance mails it, prints it and files it: so no script, no font and no address of ours is in it, and
        the same statement gives the same bytes. Pictures are those of the pages (`bursar.pictures`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from html import escape
from typing import Final

from bursar import pictures
from bursar.clock import DAY_US, format_instant
from bursar.money import format_nanos
from bursar.pictures import Picture, Point
from bursard.reports.files import hours
from bursard.reports.pages import printable, shown_cells
from bursard.reports.statement import Group, Statement
from bursard.reports.statement_words import (
    about,
    change_text,
    covered,
    moved,
    notes,
    parts,
    percent_text,
    status_lines,
    unknown_note,
    why,
)

_NANO: Final = Decimal(10) ** -9
_SHEET: Final = "\n".join(
    [
        "@page { size: A4; margin: 16mm 14mm;"
        " @bottom-right { content: counter(page) ' / ' counter(pages); font-size: 9px; } }",
        "body { font: 13px/1.45 system-ui, 'DejaVu Sans', sans-serif; color: #1b1f24; background: #fff;"
        " margin: 2rem auto; max-width: 62rem; padding: 0 1rem; }",
        "h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }",
        "table { border-collapse: collapse; width: 100%; } caption { text-align: left; font-weight: 600; }",
        "th, td { text-align: left; padding: .25rem .5rem; border-bottom: 1px solid #d3d9e0; }",
        "td { overflow-wrap: break-word; } .right { text-align: right; white-space: nowrap;"
        " font-variant-numeric: tabular-nums; }",
        "tfoot td { font-weight: 600; border-top: 2px solid #4d5661; }",
        "dl { display: flex; flex-wrap: wrap; gap: .3rem 2rem; } dt { color: #4d5661; font-size: .85em; }",
        "dd { margin: 0; font-weight: 600; } .dim { color: #4d5661; } figure { margin: 1rem 0; }",
        "svg { width: 100%; display: block; }",
        ".keys { display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; padding: 0; }"
        " .keys svg { width: 12px; height: 12px; display: inline; }",
        ".sign { display: flex; gap: 3rem; margin-top: 3rem; }"
        " .sign p { border-top: 1px solid #4d5661; flex: 1; padding-top: .3rem; }",
        "@media print { body { margin: 0; max-width: none; padding: 0; font-size: 10px; }"
        " thead { display: table-header-group; } tr, figure { break-inside: avoid; }"
        " h2 { break-after: avoid; } .scroll { overflow: visible; } }",
    ]
)


def html_pieces(found: Statement) -> Iterator[bytes]:
    """The whole file, in pieces."""
    for piece in _pieces(found):
        yield f"{piece}\n".encode()


def _pieces(found: Statement) -> Iterator[str]:
    title = f"Statement {found.period.text}" + (f" of {found.project}" if found.project else "")
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>\n{_SHEET}\n</style>\n</head>\n<body>\n<h1>{_text(title)}</h1>"
    )
    for line in status_lines(found):
        yield f"<p>{_text(line[0].upper() + line[1:])}</p>"
    yield from _summary(found)
    yield _figure(_by_day(found))
    for group in found.groups:
        yield _priced(group)
    if found.before is not None:
        about_before = f"Before is {found.before.text}; covered is the part of the time with a known price."
        yield f'<p class="dim">{_text(about_before)}</p>'
    yield from _budgets(found)
    if not found.project:
        yield from _nodes(found)
    yield from _adjusted(found)
    for note in (*notes(found), unknown_note(found)):
        if note:
            yield f"<p>{_text(note)}</p>"
    yield '<div class="sign"><p>Checked by, date</p><p>Approved by, date</p></div>\n</body>\n</html>'


def _text(text: str) -> str:
    return escape(printable(text))


def _summary(found: Statement) -> Iterator[str]:
    total = found.projects.total
    facts = [
        ("Jobs pay", f"{format_nanos(total.nanos)} {found.currency}"),
        ("Before", f"{format_nanos(total.before)} {found.currency}"),
        ("Change", change_text(total)),
        ("Covered by known prices", percent_text(covered(total))),
        ("From", format_instant(found.period.since)),
        ("To", format_instant(found.period.until)),
    ]
    yield "<dl>"
    for name, value in facts:
        yield f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"
    yield "</dl>"


def _by_day(found: Statement) -> Picture:
    points = [Point(printable(one.project) or "(none)", one.day, one.nanos * _NANO) for one in found.days]
    last = found.period.until - 1
    days = pictures.days_between(format_instant(found.period.since)[:10], format_instant(last)[:10])
    sentence = f"{format_nanos(found.projects.total.nanos)} {found.currency} in {len(days)} days of UTC."
    if found.period.until - found.period.since <= DAY_US:
        sentence = f"{format_nanos(found.projects.total.nanos)} {found.currency}."
    return pictures.stacked(points, days)._replace(caption="Cost by day and project", sentence=sentence)


def _figure(picture: Picture) -> str:
    if not picture.shapes:
        return ""
    keys = "".join(
        f'<li><svg viewBox="0 0 12 12" aria-hidden="true"><rect x="0" y="0" width="12" height="12"'
        f"{pictures.ink(key.look)}></rect></svg> {_text(key.name)}</li>"
        for key in picture.keys
    )
    return (
        f"<figure>\n<figcaption><strong>{_text(picture.caption)}</strong>. {_text(picture.sentence)}"
        f"</figcaption>\n{pictures.svg(picture, printable, inked=True)}"
        + (f'\n<ul class="keys">{keys}</ul>' if keys else "")
        + "\n</figure>"
    )


def _priced(group: Group) -> str:
    head = [group.title, "jobs", "hours held", "cost", "before", "change", "covered"]
    named = [(row.keys[0] or "(none)", row) for row in group.table.rows]
    rows = [
        [
            name,
            str(row.jobs),
            hours(row.held_us),
            format_nanos(row.nanos),
            format_nanos(row.before),
            change_text(row),
            percent_text(covered(row)),
        ]
        for name, row in (*named, ("total", group.table.total))
    ]
    return _table(f"By {group.title}", head, rows[:-1], rows[-1], texts=1)


def _table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], foot: Sequence[str] = (), texts: int = 1
) -> str:
    """`texts`: so many columns from the left are words; the others are numbers."""

    def line(cells: Sequence[str], opening: str = "td") -> str:
        ends, right = opening.split()[0], ' class="right"'
        return "".join(
            f"<{opening}{right if at >= texts else ''}>{_text(cell)}</{ends}>"
            for at, cell in enumerate(cells)
        )

    heads = line(head, 'th scope="col"')
    body = "\n".join(f"<tr>{line(row)}</tr>" for row in rows)
    return (
        f"<h2>{_text(caption)}</h2>\n<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>"
        + (f"\n<tfoot><tr>{line(foot)}</tr></tfoot>" if foot else "")
        + "\n</table>"
    )


def _budgets(found: Statement) -> Iterator[str]:
    page = found.budgets
    if page is None or not page.rows:
        return
    head, *rows = shown_cells(page)
    yield _table("Budgets: limit against actual", head, rows, texts=4)
    shares = [
        (printable(str(row[0])), Decimal(used) / 10_000)
        for row in page.rows
        if isinstance(used := row[-1], int)
    ]
    drawn = pictures.bars(shares, Decimal(100))
    yield _figure(drawn._replace(caption="Percent of each limit", sentence="Settled in its period."))


def _nodes(found: Statement) -> Iterator[str]:
    rows = [[name, means, format_nanos(nanos)] for name, nanos, means in parts(found)]
    yield _table("What the nodes cost", ["part", "means", "cost"], rows, texts=2)
    amounts = [(name, nanos * _NANO) for name, nanos, _ in parts(found)][:-3]
    drawn = pictures.waterfall([one for one in amounts if one[1]])
    sentence = f"Together {format_nanos(found.node_nanos)} {found.currency}."
    yield _figure(drawn._replace(caption="From nothing to what the nodes cost", sentence=sentence))


def _adjusted(found: Statement) -> Iterator[str]:
    if found.adjusted:
        rows = [[one.kind, about(one), why(one), format_nanos(one.nanos)] for one in found.adjusted]
        head = ["kind", "of", "why", "cost"]
        yield _table("Of other times, in what jobs pay", head, rows, texts=3)
    if found.moves:
        rows = [[*moved(one), format_nanos(one.nanos)] for one in found.moves]
        yield _table("Moved to other teams and cost centres", ["of", "why", "cost"], rows, texts=2)
