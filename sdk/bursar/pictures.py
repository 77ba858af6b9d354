"""Pictures as shapes: stacks, lines, a waterfall, a heat map, spans of time; `svg` draws one. Pure.

Why     an SVG made by a program prints, needs no script and breaks no content policy; the pages and the files
        of reports draw the same ones. A picture never stands alone: its sentence says what matters, and the
        numbers it is made of stand in a table under it, exact. Shapes are cut to what there is room for;
        tables are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from html import escape
from typing import Any, Final, NamedTuple

WIDTH: Final = 1_000
HEIGHT: Final = 220
FOOT: Final = 24
"""Below the shapes, for labels."""
LOOKS: Final = 9
"""Groups with a look of their own; all else is `others`."""
OTHERS: Final = "others"
ROW: Final = 22
NAMES: Final = 170
"""Left of rows, for what they are."""
DAYS_MAX: Final = 400
DAY_LEAST: Final = 36
"""So wide is the word of a day: in a narrower one the first begins at the edge."""
LANE: Final = 6
LABELS_MAX: Final = 12
COLOURS: Final = (
    "#2f6fb6", "#c0651a", "#2e8555", "#8a4bb0", "#b3394f", "#56737f", "#7d7200", "#1f7f86", "#8c5a3c",
)  # fmt: skip
"""Of the looks `p0` to `p8` on white, on paper and on the pages alike."""
GREY: Final = "#6b7480"
DIM: Final = "#4d5661"


class Shape(NamedTuple):
    """A rectangle. look: its class. title: what it says to whoever points at it."""

    x: float
    y: float
    width: float
    height: float
    look: str
    title: str


class Line(NamedTuple):
    """A line through points, as SVG writes them."""

    points: str
    look: str


class Area(NamedTuple):
    """What lies within points, as SVG writes them. title: what it says to whoever points at it."""

    points: str
    look: str
    title: str


class Label(NamedTuple):
    """A word beside the shapes. anchor: start | middle | end."""

    x: float
    y: float
    text: str
    anchor: str


class Key(NamedTuple):
    """What a look stands for, and where that leads."""

    look: str
    name: str
    link: str = ""


class Picture(NamedTuple):
    """What `svg` draws. table: the same in numbers, as whoever shows it has tables; or None."""

    caption: str
    sentence: str
    height: float
    shapes: tuple[Shape, ...] = ()
    lines: tuple[Line, ...] = ()
    labels: tuple[Label, ...] = ()
    keys: tuple[Key, ...] = ()
    table: Any = None
    areas: tuple[Area, ...] = ()


class Point(NamedTuple):
    """An amount of one group on one day."""

    group: str
    day: str
    amount: Decimal


def days_between(first: str, last: str) -> list[str]:
    """Every day from one to the other, at most `DAYS_MAX` of them, the newest."""
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    begin = max(begin, end - timedelta(days=DAYS_MAX - 1))
    return [(begin + timedelta(days=number)).isoformat() for number in range((end - begin).days + 1)]


def ranked(points: Sequence[Point]) -> list[str]:
    """The groups with the largest sums, largest first, as many as have a look."""
    sums: dict[str, Decimal] = {}
    for one in points:
        sums[one.group] = sums.get(one.group, Decimal()) + one.amount
    return sorted(sums, key=lambda group: (-sums[group], group))[:LOOKS]


def stacked(points: Sequence[Point], days: Sequence[str], before: Sequence[Decimal] = ()) -> Picture:
    """A stack for each day. `before`: the sums of the days of the period before, as a line."""
    groups = ranked(points)
    heights: dict[tuple[str, str], Decimal] = {}
    for one in points:
        key = (one.day, one.group if one.group in groups else OTHERS)
        heights[key] = heights.get(key, Decimal()) + one.amount
    named = [
        *groups,
        *([OTHERS] if any(group == OTHERS for _, group in heights) and OTHERS not in groups else []),
    ]
    sums = [
        sum((max(heights.get((day, group), Decimal()), Decimal()) for group in named), Decimal())
        for day in days
    ]
    most = max([*sums, *before, Decimal(0)])
    step = WIDTH / max(len(days), 1)
    shapes = []
    for at, day in enumerate(days):
        top = Decimal()
        for number, group in enumerate(named):
            amount = heights.get((day, group), Decimal())
            if amount > 0 and most > 0:
                height, below = _part(amount, most), _part(top, most)
                place = (at * step + step * 0.1, HEIGHT - below - height, step * 0.8, height)
                shapes.append(Shape(*place, _look(number, group), f"{day} {group or '-'}: {amount:f}"))
                top += amount
    lines = []
    if most > 0 and any(before):
        along = [
            (at * step + step / 2, HEIGHT - _part(amount, most))
            for at, amount in enumerate(before[: len(days)])
        ]
        lines.append(Line(_points(along), "before"))
    return Picture(
        "",
        "",
        HEIGHT + FOOT,
        tuple(shapes),
        tuple(lines),
        (*_day_labels(days, step), Label(0, 12, f"{most:.4g}", "start")),
        tuple(Key(_look(number, group), group or "-") for number, group in enumerate(named)),
    )


def burn_down(
    limit: Decimal,
    spent: Mapping[str, Decimal],
    days: Sequence[str],
    today: str,
    ends: tuple[Decimal, Decimal, Decimal] | None = None,
) -> tuple[Picture, Decimal]:
    """What is left of a budget day by day, an even pace, and where the pace of now leads; and what will
    be spent at its end at that pace.

    Args:
        ends: what is expected to be spent at its end, p10, p50 and p90: they are drawn as a band from now on,
            in place of the pace.
    """
    step = WIDTH / max(len(days), 1)
    left, path = limit, [(0.0, float(limit))]
    passed = 0
    for at, day in enumerate(days):
        if day > today:
            break
        left -= spent.get(day, Decimal())
        passed = at + 1
        path.append((passed * step, float(left)))
    pace = (limit - left) / max(passed, 1)
    then = left - pace * (len(days) - passed)
    low = min(Decimal(0), left, limit - ends[2] if ends else then)
    room = float(limit - low) or 1.0

    def at_height(amount: float) -> float:
        return HEIGHT - (amount - float(low)) / room * HEIGHT

    now = (path[-1][0], at_height(path[-1][1]))
    leads = (WIDTH, at_height(float(limit - ends[1] if ends else then)))
    lines = [
        Line(_points([(0, at_height(float(limit))), (WIDTH, at_height(0))]), "even"),
        Line(_points([(x, at_height(amount)) for x, amount in path]), "left"),
        Line(_points([now, leads]), "forecast"),
        Line(_points([(0, at_height(0)), (WIDTH, at_height(0))]), "zero"),
    ]
    keys: tuple[Key, ...] = (
        Key("left", "left"),
        Key("forecast", "expected" if ends else "at the pace until now"),
    )
    areas: tuple[Area, ...] = ()
    if ends:
        corners = [now, *((WIDTH, at_height(float(limit - one))) for one in (ends[0], ends[2]))]
        areas = (Area(_points(corners), "band", "from p10 to p90 of what is expected"),)
        keys = (*keys, Key("band", "from p10 to p90"))
    labels = (*_day_labels(days, step), Label(WIDTH, 12, f"{limit:,.0f}", "end"))
    made = Picture(
        "", "", HEIGHT + FOOT, (), tuple(lines), labels, (*keys, Key("even", "an even pace")), None, areas
    )
    return made, limit - then


def waterfall(parts: Sequence[tuple[str, Decimal]]) -> Picture:
    """From nothing to the sum, part by part; parts below zero go back."""
    tops, sum_so_far = [], Decimal()
    for _, amount in parts:
        tops.append((min(sum_so_far, sum_so_far + amount), max(sum_so_far, sum_so_far + amount)))
        sum_so_far += amount
    low = min([Decimal(0), *(least for least, _ in tops)])
    room = max([Decimal(0), *(most for _, most in tops)]) - low
    span = WIDTH - NAMES
    shapes, labels = [], []
    for at, ((name, amount), (least, most)) in enumerate(zip(parts, tops, strict=True)):
        x, width = NAMES + _part(least - low, room, span), _part(most - least, room, span)
        look = "back" if amount < 0 else _look(at % LOOKS, name)
        shapes.append(Shape(x, at * ROW + 3, max(width, 1.0), ROW - 6, look, f"{name}: {amount:f}"))
        labels.append(Label(NAMES - 8, at * ROW + 15, name, "end"))
    return Picture("", "", len(parts) * ROW + 4, tuple(shapes), (), tuple(labels))


def bars(parts: Sequence[tuple[str, Decimal]], whole: Decimal = Decimal()) -> Picture:
    """One bar for each, from the left, in order. whole: what fills the picture, where no one is more."""
    most = max([whole, *(amount for _, amount in parts)])
    shapes = [
        Shape(
            NAMES,
            at * ROW + 3,
            _part(max(amount, Decimal()), most, WIDTH - NAMES - 90),
            ROW - 6,
            "p0",
            f"{name}: {amount:f}",
        )
        for at, (name, amount) in enumerate(parts)
    ]
    labels = [Label(NAMES - 8, at * ROW + 15, name, "end") for at, (name, _) in enumerate(parts)]
    labels += [
        Label(shape.x + shape.width + 6, at * ROW + 15, f"{amount:f}", "start")
        for at, ((_, amount), shape) in enumerate(zip(parts, shapes, strict=True))
    ]
    return Picture("", "", len(parts) * ROW + 4, tuple(shapes), (), tuple(labels))


def heat(rows: Sequence[tuple[str, Sequence[float | None]]], heads: Sequence[str]) -> Picture:
    """A row for each name, a cell for each head: 0 to 1, in five steps; None is not known."""
    step = (WIDTH - NAMES) / max(len(heads), 1)
    shapes = []
    for at, (name, cells) in enumerate(rows):
        for number, ratio in enumerate(cells):
            told = "not known" if ratio is None else f"{ratio * 100:.0f} %"
            look = "none" if ratio is None else f"h{min(int(ratio * 4 + 0.999), 4)}"
            place = (NAMES + number * step, at * ROW + 1, step - 1, ROW - 2)
            shapes.append(Shape(*place, look, f"{name} {heads[number]}: {told}"))
    labels = [Label(NAMES - 8, at * ROW + 15, name, "end") for at, (name, _) in enumerate(rows)]
    every = max(1, len(heads) // LABELS_MAX)
    foot = len(rows) * ROW + 14
    labels += [
        Label(NAMES + number * step + step / 2, foot, head, "middle")
        for number, head in enumerate(heads)
        if number % every == 0
    ]
    keys = [
        Key(f"h{number}", text)
        for number, text in enumerate(("0", "to 25 %", "to 50 %", "to 75 %", "to 100 %"))
    ]
    return Picture("", "", foot + 6, tuple(shapes), (), tuple(labels), (*keys, Key("none", "not known")))


class Span(NamedTuple):
    """Something on a row from one instant to another, in microseconds."""

    row: str
    begin: int
    end: int
    look: str
    title: str


def gantt(
    spans: Sequence[Span], names: Sequence[str], since: int, until: int, heads: Sequence[str]
) -> Picture:
    """Spans of time on the rows of their names, cut to `[since, until)`. heads: labels at even distances.

    What is there at the same time on one row shares its height, in lanes.
    """
    scale = (WIDTH - NAMES) / max(until - since, 1)
    laid = [*_in_lanes([each for each in spans if each.row in set(names)], since, until)]
    lanes = {one.row: count for one, _, count in laid}
    tops, foot = {}, 0
    for name in names:
        tops[name], foot = foot, foot + max(ROW, lanes.get(name, 1) * LANE + 4)
    shapes = []
    for one, lane, count in laid:
        begin, end = max(one.begin, since), min(one.end, until)
        x, width = NAMES + (begin - since) * scale, max((end - begin) * scale, 1.0)
        height = max(ROW - 4, count * LANE) / count
        y = tops[one.row] + 2 + lane * height
        shapes.append(Shape(x, y, width, height - min(1.0, height / 4), one.look, one.title))
    labels = [Label(NAMES - 8, top + 15, name, "end") for name, top in tops.items()]
    foot += 14
    step = (WIDTH - NAMES) / max(len(heads), 1)
    labels += [Label(NAMES + at * step, foot, head, "start") for at, head in enumerate(heads)]
    return Picture("", "", foot + 6, tuple(shapes), (), tuple(labels))


def _in_lanes(spans: Sequence[Span], since: int, until: int) -> Iterator[tuple[Span, int, int]]:
    """Each span that is to be seen, its lane, and how many lanes its row has."""
    ends: dict[str, list[int]] = {}
    given: list[tuple[Span, int]] = []
    for one in sorted(spans, key=lambda each: (each.begin, each.end)):
        begin, end = max(one.begin, since), min(one.end, until)
        if end > begin:
            lanes = ends.setdefault(one.row, [])
            lane = next((at for at, taken in enumerate(lanes) if taken <= begin), len(lanes))
            lanes[lane : lane + 1] = [end]
            given.append((one, lane))
    for one, lane in given:
        yield one, lane, len(ends[one.row])


class Curve(NamedTuple):
    """Means of one thing over time: (instant at which a span begins, mean); None was not heard."""

    name: str
    points: tuple[tuple[int, float | None], ...]


def curves(
    lines: Sequence[Curve],
    since: int,
    until: int,
    step_us: int,
    top: float,
    scale: tuple[str, str],
    heads: Sequence[str],
) -> Picture:
    """A line of each curve, level over each of its spans, broken where nothing was heard.

    Args:
        step_us: how long a span is. top: what stands at the upper edge. scale: top and 0 in words.
        heads: labels at even distances. Curves after the ninth look alike.
    """
    room = WIDTH - NAMES
    drawn = []
    for number, curve in enumerate(lines):
        for piece in _pieces(curve.points, step_us):
            corners = []
            for at, value in piece:
                y = HEIGHT - min(max(value / top, 0.0), 1.0) * (HEIGHT - 2) - 1
                for x in (at, at + step_us):
                    place = min(max((x - since) / max(until - since, 1), 0.0), 1.0)
                    corners.append((NAMES + place * room, y))
            drawn.append(Line(_points(corners), _line_look(number)))
    base = ((NAMES, HEIGHT), (WIDTH, HEIGHT))
    labels = [Label(NAMES - 8, 12, scale[0], "end"), Label(NAMES - 8, HEIGHT, scale[1], "end")]
    step = room / max(len(heads), 1)
    labels += [Label(NAMES + at * step, HEIGHT + 16, head, "start") for at, head in enumerate(heads)]
    keys = [Key(f"p{number}", curve.name) for number, curve in enumerate(lines[:LOOKS])]
    if len(lines) > LOOKS:
        keys.append(Key(OTHERS, f"{len(lines) - LOOKS} more"))
    return Picture(
        "", "", HEIGHT + FOOT, (), (Line(_points(base), "zero"), *drawn), tuple(labels), tuple(keys)
    )


def _line_look(number: int) -> str:
    return f"c{number}" if number < LOOKS else OTHERS


def _pieces(points: Sequence[tuple[int, float | None]], step_us: int) -> Iterator[list[tuple[int, float]]]:
    """Runs of spans that follow each other and were heard."""
    piece: list[tuple[int, float]] = []
    for at, value in points:
        if piece and (value is None or at - piece[-1][0] > step_us):
            yield piece
            piece = []
        if value is not None:
            piece.append((at, value))
    if piece:
        yield piece


def amount_of(row: Mapping[str, Any], name: str = "cost") -> Decimal:
    """An amount of a view, exactly; an unknown one counts for nothing and is told in the table."""
    return Decimal(row[name]["amount"]) if row[name] else Decimal()


def ink(look: str) -> str:
    """How a shape of a look is filled where no style sheet says it, as an attribute of SVG."""
    if look == "back":
        return f' fill="none" stroke="{DIM}"'
    known = look[:1] == "p" and look[1:].isdigit()
    return f' fill="{COLOURS[int(look[1:])] if known else GREY}"'


def svg(of: Picture, clean: Callable[[str], str], inked: bool = False) -> str:
    """A picture as the text of one SVG element.

    Args:
        clean: of each text in it, which is then escaped. inked: it brings its colours, for what reads no
            style sheet of a page for its pictures, as makers of PDF.
    """
    head = f'<svg viewBox="0 0 {WIDTH} {of.height:.0f}" aria-hidden="true">'
    return "\n".join([head, *_drawn(of, lambda text: escape(clean(text)), inked), "</svg>"])


def _drawn(of: Picture, text: Callable[[str], str], inked: bool) -> Iterator[str]:
    written = f' font-size="12" fill="{DIM}"' if inked else ""
    for area in of.areas:
        colour = f' fill="{GREY}" fill-opacity="0.3"' if inked else ""
        yield (
            f'<polygon class="{area.look}" points="{area.points}"{colour}>'
            f"<title>{text(area.title)}</title></polygon>"
        )
    for one in of.shapes:
        place = f'x="{one.x:.1f}" y="{one.y:.1f}" width="{one.width:.1f}" height="{one.height:.1f}"'
        colour = ink(one.look) if inked else ""
        yield f'<rect class="{one.look}" {place}{colour}><title>{text(one.title)}</title></rect>'
    for line in of.lines:
        yield f'<polyline class="{line.look}" points="{line.points}"></polyline>'
    for label in of.labels:
        place = f'x="{label.x:.1f}" y="{label.y:.1f}" text-anchor="{label.anchor}"'
        yield f"<text {place}{written}>{text(label.text)}</text>"


def _look(number: int, group: str) -> str:
    return "others" if group == OTHERS else f"p{number}"


def _part(amount: Decimal, of: Decimal, room: float = HEIGHT) -> float:
    return float(amount / of) * room if of > 0 else 0.0


def _points(found: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in found)


def _day_labels(days: Sequence[str], step: float) -> list[Label]:
    every = max(1, -(-len(days) // LABELS_MAX))
    return [
        Label(0, HEIGHT + 16, day[5:], "start")
        if not at and step < DAY_LEAST
        else Label(at * step + step / 2, HEIGHT + 16, day[5:], "middle")
        for at, day in enumerate(days)
        if at % every == 0
    ]
