"""What pictures are made of: each asks once or twice for sums, of the kind that tables of pages are made of.

Why     a picture that cannot be had blanks no page: it is left out, with the daemon's own words in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import datetime
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from bursar import pictures
from bursar.cli.ends import LIVE
from bursar.cli.jobs import JOB_COLUMNS
from bursar.cli.money import cost_columns
from bursar.cli.output import Column, Row
from bursar.cli.terminal import money_text
from bursar.client.aio import AsyncWireClient
from bursar.clock import DAY_US, HOUR_US, SECOND_US, format_instant, parse_instant
from bursar.codec import view
from bursar.errors import BursarError, Forbidden, InvalidRequest, Unauthenticated
from bursar.model import JobState
from bursar.pictures import Picture, Point, Span
from bursar.words import plural
from bursar_policies.document import parse_documents
from bursar_policies.specs import BudgetSpec
from bursar_web.tables import job_link, node_link, table

HOURS: Final = 24
NODES_MAX: Final = 30
JOBS_MAX: Final = 200
ARRAYS_MAX: Final = 5
"""Arrays whose tasks are asked for, as many of each as of jobs: the newest."""
DAYS_MAX: Final = 62
"""Of the heat map of nodes."""
ROWS_MAX: Final = 500
"""In numbers under a picture; the files of `/cost` have all."""
SHOWN_HOURS: Final = 48
USUAL_DAYS: Final = 7
HOURLY_COLUMNS = (
    Column("hour"),
    Column("cost", right=True),
    Column("usual", right=True, missing="not known"),
)
SCOPES: Final = ("project", "user", "experiment", "model")
WORK_COLUMNS = (
    Column("node"),
    Column("hour"),
    Column("multiprocessors", show=lambda row: _percent_of(row["sm_ratio"]), right=True),
    Column("busy", show=lambda row: _percent_of(row["gpu_utilization_ratio"]), right=True),
)
LEFT_COLUMNS = (Column("day"), Column("spent", "cost", right=True), Column("left", right=True))


def _percent_of(ratio: float | None) -> str:
    return "unknown" if ratio is None else f"{ratio * 100:.0f} %"


async def or_said(caption: str, asked: Awaitable[Picture]) -> Picture:
    """The picture, or a place that says why there is none."""
    try:
        return await asked
    except Unauthenticated:
        raise
    except BursarError as problem:
        return Picture(caption, f"Not shown: {problem}", 0)


async def daily_cost(client: AsyncWireClient, document: Row, dimension: str, asked: Row, now: int) -> Picture:
    """Cost by day and group, with the days of as long a time before as a line."""
    by = [dimension, "day"]
    found = view.cost(await client.cost(by=by, **asked), by)
    zone, currency = ZoneInfo(document["timezone"]), document["currency"]
    rows = found["rows"]
    since = parse_instant(found["since"]) if found["since"] else 0
    until = parse_instant(found["until"]) if found["until"] else 0
    first = _day(since, zone) if since else min((row["day"] for row in rows), default=_day(now, zone))
    days = pictures.days_between(first, _day(min(until - 1, now) if until else now, zone))
    before: list[Decimal] = []
    if since and until:
        before = await _days_before(client, asked, since, until, zone)
    points = [Point(str(row[dimension] or "-"), row["day"], pictures.amount_of(row)) for row in rows]
    made = pictures.stacked(points, days, before)
    spent = money_text(found["total"]["cost"])
    told = f"{spent} in {plural(len(days), 'day')}"
    if before:
        total = sum(before, Decimal())
        line = "the line is the time before" if any(before) else "in the time before"
        told += f"; {line}, {money_text(_money(total, currency))}"
    return made._replace(
        caption=f"Cost by day and {dimension.replace('_', ' ')}",
        sentence=f"{told}; days of {document['timezone']}.{_unknown(found)}",
        table=table(
            f"Cost by day: the first {ROWS_MAX} rows of {len(rows)}" if rows[ROWS_MAX:] else "Cost by day",
            rows[:ROWS_MAX],
            cost_columns(by),
            empty="no cost in this time",
        ),
    )


async def hourly_cost(client: AsyncWireClient, now: int) -> Picture:
    """What each hour of the last two days cost, beside what is usual at that time of day.

    Usual is the mean of the same hour on the seven days before, which are asked for with the rest: nine days,
    however much there was before. The hour that has just begun is not in it.
    """
    end = now - now % HOUR_US
    since = end - (USUAL_DAYS * 24 + SHOWN_HOURS) * HOUR_US
    found = view.cost(await client.cost(by=["hour"], since=since, until=end), ["hour"])
    sums = {int(parse_instant(row["hour"])): pictures.amount_of(row) for row in found["rows"]}
    begins = [end - (SHOWN_HOURS - number) * HOUR_US for number in range(SHOWN_HOURS)]
    first = min(sums, default=end)
    usual = [_usual(sums, begin, first) for begin in begins]
    rows: list[Row] = [
        {"hour": format_instant(begin), "cost": _money(sums.get(begin, Decimal()), found["currency"]),
         "usual": None if mean is None else _money(mean, found["currency"])}
        for begin, mean in zip(begins, usual, strict=True)
    ]  # fmt: skip
    told_rows = [row for row in rows if pictures.amount_of(row) or pictures.amount_of(row, "usual")]
    points = [Point("cost", row["hour"], pictures.amount_of(row)) for row in rows]
    made = pictures.stacked(points, [row["hour"] for row in rows], [mean or Decimal() for mean in usual])
    latest, mean = sums.get(begins[-1], Decimal()), usual[-1]
    told = f"{money_text(_money(latest, found['currency']))} in the hour from {rows[-1]['hour'][11:16]}"
    if mean is None:
        told += "; what is usual is not known yet"
    else:
        told += f"; usual at this time of day {money_text(_money(mean, found['currency']))}"
        told += f" ({(latest - mean) / mean * 100:+.0f} %)" if mean else ""
    return made._replace(
        caption="Cost by hour",
        sentence=f"{told}. The dashed line is what is usual: the mean of that hour on the"
        f" {USUAL_DAYS} days before. Times of UTC.{_unknown(found)}",
        labels=tuple(
            one._replace(text=one.text[6:].removesuffix(":00Z")) if "T" in one.text else one
            for one in made.labels
        ),
        keys=(),
        table=table("Cost by hour", told_rows, HOURLY_COLUMNS, empty="no cost yet"),
    )


def _usual(sums: dict[int, Decimal], begin: int, first: int) -> Decimal | None:
    """The mean of that hour on the days before, as far back as there were charges; None on the first day."""
    hours = [begin - days * DAY_US for days in range(1, USUAL_DAYS + 1) if begin - days * DAY_US >= first]
    if not hours:
        return None
    return sum((sums.get(hour, Decimal()) for hour in hours), Decimal()) / len(hours)


async def _days_before(
    client: AsyncWireClient, asked: Row, since: int, until: int, zone: ZoneInfo
) -> list[Decimal]:
    """The sums of the days of as long a time before."""
    begin = since - (until - since)
    other = {name: value for name, value in asked.items() if name not in ("period", "since", "until")}
    found = view.cost(await client.cost(by=["day"], since=begin, until=since, **other), ["day"])
    sums = {row["day"]: pictures.amount_of(row) for row in found["rows"]}
    return [
        sums.get(day, Decimal()) for day in pictures.days_between(_day(begin, zone), _day(since - 1, zone))
    ]


async def budget_left(client: AsyncWireClient, row: Row, expected: Row, now: int) -> Picture:
    """What is left of a budget, day by day, with where it leads. Raises `BursarError`.

    expected: its forecast; where that knows no day, the pace until now is drawn.
    """
    caption = "What is left, day by day"
    policy = await client.policy(row["name"], kind="Budget")
    spec = parse_documents(policy.text, row["name"])[0].spec
    if not isinstance(spec, BudgetSpec) or not row["period_start"] or not row["period_end"]:
        raise InvalidRequest("a budget that never renews has no pace")
    scope = {name: getattr(spec.scope, name) for name in SCOPES if getattr(spec.scope, name, "")}
    if not scope or set(row["scope"].split()[::2]) - set(SCOPES):
        raise InvalidRequest("its scope is none that cost can be asked of by day")
    zone = ZoneInfo(spec.timezone)
    begin, end = parse_instant(row["period_start"]), parse_instant(row["period_end"])
    found = view.cost(
        await client.cost(by=["day"], since=begin, until=end, timezone=spec.timezone, **scope), ["day"]
    )
    spent = {each["day"]: pictures.amount_of(each) for each in found["rows"]}
    days, today = pictures.days_between(_day(begin, zone), _day(end - 1, zone)), _day(now, zone)
    limit, currency = Decimal(row["limit"]["amount"]), row["currency"]
    p10, p50, p90 = (Decimal(expected[f"end_p{each}"]["amount"]) for each in (10, 50, 90))
    known = bool(expected["learned_days"]) and parse_instant(expected["ends_at"]) == end
    made, then = pictures.burn_down(limit, spent, days, today, (p10, p50, p90) if known else None)
    left, rows = limit, []
    for day in days:
        left -= spent.get(day, Decimal())
        if day in spent:
            rows.append({"day": day, "cost": _money(spent[day], currency), "left": _money(left, currency)})

    def told(amount: Decimal) -> str:
        return money_text(_money(amount, currency))

    reached = p50 if known else then
    over = "more than its limit" if reached > limit else "within its limit"
    if known:
        sentence = f"{told(p50)} are expected to be spent when it renews, {over}; with eight chances of ten"
        sentence += f" {told(p10)} to {told(p90)}: the band. Only its ends are forecast, not its days. At the"
        sentence += f" pace until now it would be {told(then)}"
    else:
        sentence = f"At the pace until now {told(then)} will be spent when it renews, {over}"
    return made._replace(
        caption=caption,
        sentence=f"{sentence}; what is held for running jobs is not in the line.{_unknown(found)}",
        table=table("Spent by day", rows, LEFT_COLUMNS, empty="nothing was spent yet"),
    )


def queue(rows: list[Row]) -> Picture:
    """What waits, by the reason of the first of each queue, most first."""
    most = f", most of them {rows[0]['reason']}" if rows else ""
    made = pictures.bars([(row["reason"], Decimal(row["jobs"])) for row in rows])
    return made._replace(
        caption="The queue by reason",
        sentence=f"{plural(sum(row['jobs'] for row in rows), 'job')} waiting{most}. What stands is the reason"
        " of the first of each queue.",
    )


async def held_gpus(client: AsyncWireClient, nodes: list[Row], now: int, days: int = 1) -> Picture:
    """How much of each node's GPUs was held: hour by hour of one day, or day by day of several."""
    unit, long_us, count = ("hour", HOUR_US, HOURS) if days == 1 else ("day", DAY_US, days)
    shown = [node for node in nodes if node["gpus"]][:NODES_MAX]
    end = now - now % long_us + long_us
    begins: list[int] = [end - (count - number) * long_us for number in range(count)]
    found = await _node_times(client, unit, begins[0], end)
    held = {(row["node"], int(parse_instant(row[unit]))): row["gpu_s"] for row in found["rows"]}
    rows = []
    for node in shown:
        spans_us = {begin: min(long_us, now - begin) for begin in begins}
        told = [held.get((node["name"], begin)) for begin in begins]
        ratios = [
            None if seconds is None else _ratio(seconds, node["gpus"], spans_us[begin])
            for begin, seconds in zip(begins, told, strict=True)
        ]
        rows.append((node["name"], ratios))
    heads = [format_instant(begin)[11:16] if days == 1 else format_instant(begin)[5:10] for begin in begins]
    made = pictures.heat(rows, heads)
    known = [one for _, ratios in rows for one in ratios if one is not None]
    share = sum(known) / max(len(known), 1) * 100
    numbers = [
        {"node": name, unit: heads[at], "held": f"{ratio * 100:.0f} %"}
        for name, ratios in rows
        for at, ratio in enumerate(ratios)
        if ratio
    ]
    rest = len([node for node in nodes if node["gpus"]]) - len(shown)
    return made._replace(
        caption=f"GPUs held, by node and {unit} of UTC",
        sentence=f"{share:.0f} % of what is known of {plural(count, unit)} of"
        f" {plural(len(shown), 'node')} with GPUs."
        + (f" {plural(rest, 'node')} more are not in the picture." if rest else ""),
        table=table(
            f"{unit.capitalize()}s in which GPUs were held",
            numbers,
            (Column("node"), Column(unit), Column("held", right=True)),
            links={"node": lambda row: node_link(row["node"])},
            empty="none",
        ),
    )


def working_gpus(nodes: list[Row], hours: list[Row], now: int) -> Picture:
    """How much of each node's GPUs had work, hour by hour: multiprocessors where they are told, else the time
    in which anything ran.
    """
    shown = [node for node in nodes if node["gpus"]][:NODES_MAX]
    end = now - now % HOUR_US + HOUR_US
    begins: list[int] = [end - (HOURS - number) * HOUR_US for number in range(HOURS)]
    told = {(row["node"], int(parse_instant(row["hour"]))): row for row in hours}
    rows = [(node["name"], [_work(told.get((node["name"], at))) for at in begins]) for node in shown]
    heads = [format_instant(begin)[11:16] for begin in begins]
    known = [one for _, ratios in rows for one in ratios if one is not None]
    share = f"{sum(known) / len(known) * 100:.0f} % of what was heard" if known else "Nothing was heard"
    rest = len([node for node in nodes if node["gpus"]]) - len(shown)
    return pictures.heat(rows, heads)._replace(
        caption="GPUs at work, by node and hour of UTC",
        sentence=f"{share} of {HOURS} hours of {plural(len(shown), 'node')} with GPUs. Multiprocessors"
        " that had work, or where these are not told the time in which anything ran; kept since the daemon's"
        " start." + (f" {plural(rest, 'node')} more are not in the picture." if rest else ""),
        table=table(
            "GPUs at work",
            [row for row in hours if row["node"] in {node["name"] for node in shown}],
            WORK_COLUMNS,
            links={"node": lambda row: node_link(row["node"])},
            empty="nothing was heard",
        ),
    )


def _work(row: Row | None) -> float | None:
    if row is None:
        return None
    ratio: float | None = row["gpu_utilization_ratio"] if row["sm_ratio"] is None else row["sm_ratio"]
    return ratio


async def _node_times(client: AsyncWireClient, unit: str, since: int, until: int) -> Row:
    """What each node did in each hour or day. Who may not see what nobody used knows only those with jobs."""
    by = ["node", unit]
    try:
        return view.cost(await client.cost(by=by, since=since, until=until, include_idle=True), by)
    except Forbidden:
        return view.cost(await client.cost(by=by, since=since, until=until), by)


def _ratio(held_s: float, gpus: float, of_us: int) -> float:
    return min(held_s / (gpus * of_us / SECOND_US), 1.0) if of_us > 0 else 0.0


async def spans(client: AsyncWireClient, nodes: list[Row], now: int) -> Picture:
    """What ran on each node in the last day: the newest jobs, as many as there is room for.

    What runs now is asked for however long ago it was submitted; what waits, which may be many, is not.
    """
    names = [node["name"] for node in nodes][:NODES_MAX]
    since = now - DAY_US
    over = [state.value for state in JobState if state.terminal]
    runs, ended = await asyncio.gather(
        client.job_page(size=JOBS_MAX, states=LIVE),
        client.job_page(size=JOBS_MAX, since=since, states=over),
    )
    more = bool(runs[1] or ended[1])
    listed = [view.job(each) for each in (*runs[0], *ended[0])]
    arrays = [job for job in listed if job["array"]]
    asked = [
        client.job_page(size=JOBS_MAX, tasks_of=job["id"], since=since, states=[*LIVE, *over])
        for job in arrays[:ARRAYS_MAX]
    ]
    of_arrays = await asyncio.gather(*asked)
    cut_short = len(arrays[ARRAYS_MAX:]) + sum(bool(rest) for _, rest in of_arrays)
    tasks = [view.job(each) for found, _ in of_arrays for each in found]
    jobs = [*(job for job in listed if not job["array"]), *tasks]
    ran = [
        Span(
            member["node"],
            parse_instant(attempt["started_at"]),
            parse_instant(attempt["finished_at"]) if attempt["finished_at"] else now,
            _look(attempt, job),
            f"{_number(job)} {job['name']} {attempt['state'].lower()}",
        )
        for job in jobs
        for attempt in job["attempts"]
        if attempt["started_at"]
        for member in attempt["nodes"]
    ]
    heads = [format_instant(since + number * 4 * HOUR_US)[11:16] for number in range(6)]
    made = pictures.gantt(ran, names, since, now, heads)
    cut = f" The newest {JOBS_MAX} that run and that ended; there are more." if more else ""
    cut += f" Of {plural(cut_short, 'array')} not all tasks are in the picture." if cut_short else ""
    rest = (
        f" {plural(len(nodes) - len(names), 'node')} more are not in the picture."
        if len(nodes) > len(names)
        else ""
    )
    return made._replace(
        caption="What ran where, in the last day, times of UTC",
        sentence=f"{plural(len(made.shapes), 'span')} of {plural(len(jobs), 'job')}.{cut}{rest}",
        table=table(
            "Jobs of the last day",
            [job for job in jobs if job["started_at"]],
            JOB_COLUMNS,
            links={"number": job_link, "name": job_link},
            leave_out=frozenset({"id", "reason"}),
            empty="nothing ran",
        ),
        keys=(
            pictures.Key("live", "running"),
            pictures.Key("done", "completed"),
            pictures.Key("bad", "ended otherwise"),
        ),
    )


def _number(job: Row) -> str:
    index = job["lineage"].get("array_index")
    return str(job["number"]) if index is None else f"{job['number']}[{index}]"


def _look(attempt: Row, job: Row) -> str:
    if not attempt["finished_at"]:
        return "live"
    return "done" if attempt["end_cause"] == "completed" else "bad"


async def job_by_hour(client: AsyncWireClient, job: str) -> Picture:
    """What a job cost in each hour, of its parts: GPUs, CPUs, memory."""
    found = view.cost(await client.cost(job=job, by=["hour"]), ["hour"])
    rows = found["rows"][-168:]
    points = [
        Point(name, row["hour"], pictures.amount_of(row, f"{name}_cost"))
        for row in rows
        for name in ("gpu", "cpu", "memory")
    ]
    hours = [row["hour"] for row in rows]
    made = pictures.stacked(points, hours)
    return made._replace(
        caption="Cost by hour",
        sentence=f"{money_text(found['total']['cost'])} together, by part.{_unknown(found)}",
        labels=tuple(
            one._replace(text=one.text.replace("T", " ").removesuffix(":00:00Z")) for one in made.labels
        ),
        table=table("Cost by hour", rows, cost_columns(["hour"]), empty="no cost yet"),
    )


def where_it_went(document: Row) -> Picture:
    """The categories of a period as a waterfall; what is not known has no place in it, and is told."""
    known = [(row["category"], pictures.amount_of(row)) for row in document["rows"] if row["cost"]]
    parts = [(name, amount) for name, amount in known if amount]
    untold = [row["category"] for row in document["rows"] if not row["cost"]]
    total = sum((amount for _, amount in parts), Decimal())
    lacking = f" Not known, and within the others: {', '.join(untold)}." if untold else ""
    return pictures.waterfall(parts)._replace(
        caption="From nothing to what the nodes cost",
        sentence=f"Together {money_text(_money(total, document['currency']))}.{lacking}",
    )


def what_nodes_cost(document: Row, parts: list[tuple[str, Row]]) -> Picture:
    """What jobs pay, and what is beside it, as a waterfall that ends at what the nodes cost."""
    beside = [
        (name, Decimal(amount["amount"])) for name, amount in parts if name not in ("corrections", "late")
    ]
    told = [("jobs", Decimal(document["total"]["amount"])), *beside]
    return pictures.waterfall([one for one in told if one[1]])._replace(
        caption="From nothing to what the nodes cost",
        sentence=f"Together {money_text(document['node_cost'])}.",
    )


def why_idle(rows: list[Row], currency: str) -> Picture:
    """What nobody used, by cause."""
    sums: dict[str, Decimal] = {}
    unknown = 0
    for row in rows:
        unknown += not row["cost"]
        sums[row["cause"]] = sums.get(row["cause"], Decimal()) + pictures.amount_of(row)
    ordered = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    total = sum(sums.values(), Decimal())
    said = f" Of {plural(unknown, 'row')} the price is not known." if unknown else ""
    return pictures.bars(ordered)._replace(
        caption="What nobody used, by cause",
        sentence=f"{money_text(_money(total, currency))} together.{said}",
    )


def _unknown(found: Row) -> str:
    seconds = found["total"]["unknown_price_s"]
    return f" {seconds / 3600:.1f} h at an unknown price are not in it." if seconds else ""


def _money(amount: Decimal, currency: str) -> dict[str, str]:
    return {"amount": f"{amount:.9f}", "currency": currency}


def _day(instant: int, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(instant / SECOND_US, zone).date().isoformat()
