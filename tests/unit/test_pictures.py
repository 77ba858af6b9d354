"""Pictures of pages and files: shapes say what the numbers say, and what is not known is not drawn."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest

import bursar_web
from bursar import pictures
from bursar.pictures import HEIGHT, LOOKS, NAMES, OTHERS, ROW, WIDTH, Point, Span
from bursar_web.pages.pictured import where_it_went, why_idle

DAYS = ["2026-11-01", "2026-11-02"]


def test_days_are_all_there_and_the_newest_when_there_are_too_many() -> None:
    assert pictures.days_between("2026-02-27", "2026-03-01") == ["2026-02-27", "2026-02-28", "2026-03-01"]
    many = pictures.days_between("2020-01-01", "2026-11-28")
    assert (len(many), many[-1]) == (pictures.DAYS_MAX, "2026-11-28")
    assert pictures.days_between("2026-11-02", "2026-11-01") == []


def test_a_stack_is_as_high_as_its_sum_and_the_highest_fills_the_picture() -> None:
    points = [
        Point("a", DAYS[0], Decimal(3)),
        Point("b", DAYS[0], Decimal(1)),
        Point("a", DAYS[1], Decimal(2)),
    ]
    made = pictures.stacked(points, DAYS, [Decimal(1), Decimal(4), Decimal(9)])
    # The period before had a day of 9, so 9 is the whole height, though its day is not drawn.
    scale = HEIGHT / 9
    told = [(one.look, round(one.y, 3), round(one.height, 3)) for one in made.shapes]
    assert told == [
        ("p0", round(HEIGHT - 3 * scale, 3), round(3 * scale, 3)),
        ("p1", round(HEIGHT - 4 * scale, 3), round(scale, 3)),
        ("p0", round(HEIGHT - 2 * scale, 3), round(2 * scale, 3)),
    ]
    assert [(one.x, one.width) for one in made.shapes] == [(50, 400), (50, 400), (550, 400)]
    assert [one.title for one in made.shapes] == ["2026-11-01 a: 3", "2026-11-01 b: 1", "2026-11-02 a: 2"]
    assert [(key.look, key.name) for key in made.keys] == [("p0", "a"), ("p1", "b")]
    assert made.lines[0].points == f"250.0,{HEIGHT - scale:.1f} 750.0,{HEIGHT - 4 * scale:.1f}"


def test_more_groups_than_looks_are_others_and_what_is_below_zero_is_not_drawn() -> None:
    points = [Point(f"g{at}", DAYS[0], Decimal(20 - at)) for at in range(LOOKS + 3)]
    made = pictures.stacked([*points, Point("g0", DAYS[1], Decimal(-1))], DAYS)
    assert [key.name for key in made.keys] == [*(f"g{at}" for at in range(LOOKS)), OTHERS]
    assert (made.shapes[-1].look, made.shapes[-1].title) == ("others", "2026-11-01 others: 30")
    assert len(made.shapes) == LOOKS + 1
    assert sum(one.height for one in made.shapes) == pytest.approx(HEIGHT)
    assert pictures.stacked([], DAYS).shapes == ()


def test_a_burn_down_goes_on_at_the_pace_until_now() -> None:
    days = [f"2026-11-0{at}" for at in range(1, 6)]
    made, then = pictures.burn_down(Decimal(100), {days[0]: Decimal(10), days[1]: Decimal(50)}, days, days[1])
    assert then == 150  # 30 a day
    lines = {line.look: line.points for line in made.lines}
    # From 100 down to -50: the picture has room for what passes the limit.
    assert lines["left"] == "0.0,0.0 200.0,14.7 400.0,88.0"
    assert lines["forecast"] == f"400.0,88.0 {WIDTH:.1f},{HEIGHT:.1f}"
    assert lines["zero"] == "0.0,146.7 1000.0,146.7"
    assert lines["even"] == "0.0,0.0 1000.0,146.7"
    assert pictures.burn_down(Decimal(100), {}, days, "2026-10-31")[1] == 0
    assert made.areas == ()


def test_a_burn_down_with_a_forecast_ends_within_its_band_and_not_at_the_pace() -> None:
    days = [f"2026-11-0{at}" for at in range(1, 6)]
    ends = (Decimal(80), Decimal(100), Decimal(150))
    made, then = pictures.burn_down(Decimal(100), {days[0]: Decimal(20)}, days, days[0], ends)
    assert then == 100  # the pace is told still
    lines = {line.look: line.points for line in made.lines}
    scale = HEIGHT / 150  # from 100 down to -50
    assert lines["forecast"] == f"200.0,{20 * scale:.1f} {WIDTH:.1f},{100 * scale:.1f}"
    [band] = made.areas
    assert band.points == f"200.0,{20 * scale:.1f} {WIDTH:.1f},{80 * scale:.1f} {WIDTH:.1f},{150 * scale:.1f}"
    assert [key.name for key in made.keys] == ["left", "expected", "from p10 to p90", "an even pace"]
    assert f'<polygon class="band" points="{band.points}">' in pictures.svg(made, str)


def test_a_waterfall_ends_at_the_sum_and_goes_back_for_what_is_below_zero() -> None:
    made = pictures.waterfall([("used", Decimal(6)), ("idle", Decimal(4)), ("paid", Decimal(-5))])
    span = (WIDTH - NAMES) / 10
    assert [(one.look, one.x, one.width) for one in made.shapes] == [
        ("p0", NAMES, 6 * span), ("p1", NAMES + 6 * span, 4 * span), ("back", NAMES + 5 * span, 5 * span),
    ]  # fmt: skip
    assert [label.text for label in made.labels] == ["used", "idle", "paid"]
    below = pictures.waterfall([("a", Decimal(-2)), ("b", Decimal(2))])
    assert [(one.x, one.width) for one in below.shapes] == [(NAMES, WIDTH - NAMES)] * 2


def test_cells_of_a_heat_map_are_in_five_steps_and_unknown_is_none_of_them() -> None:
    cells = [0.0, 0.01, 0.25, 0.26, 0.5, 0.75, 1.0, None]
    made = pictures.heat([("n", cells)], [str(at) for at in range(8)])
    assert [one.look for one in made.shapes] == ["h0", "h1", "h1", "h2", "h2", "h3", "h4", "none"]
    assert (made.shapes[1].title, made.shapes[7].title) == ("n 1: 1 %", "n 7: not known")
    assert [key.name for key in made.keys][-1] == "not known"


def test_spans_are_cut_to_the_time_shown_and_those_of_other_rows_left_out() -> None:
    spans = [
        Span("n1", -50, 50, "live", "a"), Span("n2", 90, 500, "done", "b"), Span("n3", 0, 100, "bad", "c"),
        Span("n1", 100, 200, "bad", "d"),
    ]  # fmt: skip
    made = pictures.gantt(spans, ["n1", "n2"], 0, 100, ["0", "50"])
    room = WIDTH - NAMES
    assert [(one.title, one.x, one.width, one.y) for one in made.shapes] == [
        ("a", NAMES, pytest.approx(room / 2), 2),
        ("b", pytest.approx(NAMES + 0.9 * room), pytest.approx(0.1 * room), ROW + 2),
    ]  # fmt: skip


def test_what_is_there_at_the_same_time_shares_the_height_of_its_row() -> None:
    spans = [
        Span("n", 0, 60, "live", "a"), Span("n", 10, 30, "live", "b"), Span("n", 30, 50, "live", "c"),
        Span("n", 60, 90, "live", "d"), Span("m", 0, 90, "live", "e"),
    ]  # fmt: skip
    made = pictures.gantt(spans, ["n", "m"], 0, 100, [])
    half = (ROW - 4) / 2
    assert {one.title: one.y for one in made.shapes} == {
        "a": 2, "b": 2 + half, "c": 2 + half, "d": 2, "e": ROW + 2,
    }  # fmt: skip
    for one in made.shapes:
        for other in made.shapes:
            across = one.x < other.x + other.width and other.x < one.x + one.width
            down = one.y < other.y + other.height and other.y < one.y + one.height
            assert one is other or not (across and down), (one, other)


def usd(amount: str) -> dict[str, str]:
    return {"amount": amount, "currency": "USD"}


def test_where_money_went_names_what_is_not_known_and_sums_the_rest() -> None:
    rows = [
        {"category": "productive", "cost": usd("6.000000001")},
        {"category": "failed", "cost": usd("0.000000000")},
        {"category": "unallocated", "cost": usd("4.000000000")},
        {"category": "startup", "cost": None},
    ]
    made = where_it_went({"rows": rows, "currency": "USD"})
    assert made.sentence == "Together 10.00 USD. Not known, and within the others: startup."
    assert [one.title for one in made.shapes] == ["productive: 6.000000001", "unallocated: 4.000000000"]


def test_idle_time_at_no_known_price_is_said() -> None:
    rows = [
        {"cause": "down", "cost": usd("1.000000000")}, {"cause": "idle", "cost": usd("2.000000000")},
        {"cause": "idle", "cost": None},
    ]  # fmt: skip
    made = why_idle(rows, "USD")
    assert made.sentence == "3.00 USD together. Of 1 row the price is not known."
    assert [label.text for label in made.labels] == ["idle", "down", "2.000000000", "1.000000000"]


def test_an_svg_says_what_the_shapes_say_and_escapes_what_they_are_called() -> None:
    made = pictures.bars([("a<b>\x1b", Decimal(2)), ("c", Decimal(1))])
    text = pictures.svg(made, lambda name: name.replace("\x1b", "?"))
    assert text.count("<rect ") == len(made.shapes) == 2
    assert text.count("<text ") == len(made.labels)
    assert "a&lt;b&gt;?" in text
    assert "<b>" not in text


def test_files_and_pages_give_groups_the_same_colours() -> None:
    sheet = (Path(bursar_web.__file__).parent / "static" / "app.css").read_text()
    found = re.findall(r"rect\.p(\d) \{ fill: light-dark\((#\w+)", sheet)
    assert [colour for _, colour in sorted(found)] == list(pictures.COLOURS)
    assert len(pictures.COLOURS) == LOOKS
