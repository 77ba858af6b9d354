"""Curves of a job: what each member of an attempt and its devices did, side by side, and what it cost."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from bursar import pictures
from bursar.cli.output import Column, Row
from bursar.cli.profile import METRICS, PROFILE_COLUMNS, Metric
from bursar.cli.terminal import seconds_text
from bursar.clock import SECOND_US, format_instant, parse_instant
from bursar.codec import view
from bursar.errors import InvalidRequest
from bursar.pictures import Curve, Picture
from bursar.words import plural
from bursar_web.asking import client_of
from bursar_web.pages import pictured
from bursar_web.show import command_line, page
from bursar_web.tables import as_file, job_link, node_link, table

HEADS: Final = 6
ATTEMPT_MAX: Final = 2**32 - 1
MEMBER_COLUMNS: Final = (
    Column("rank", right=True),
    Column("node"),
    Column("gpus", right=True),
    Column("shared", show=lambda row: "yes" if row["shared"] else "no"),
    *(Column(metric.name, metric.field, right=True) for metric in METRICS),
)


async def curves(request: Request) -> Response:
    """`/jobs/JOB/profile`; `?attempt=` is which of its attempts, the newest where none is named."""
    client, asked = client_of(request), request.query_params.get("attempt", "")
    attempt = _number(asked)
    job = view.job(await client.get(request.path_params["job"]))
    found = view.profile(await client.profile(job["id"], attempt=attempt))
    name = f"profile-{job['number']}"
    if (file := as_file(request, name, found["rows"], PROFILE_COLUMNS, found)) is not None:
        return file
    return page(
        request,
        "curves.html",
        command=command_line("show", job["id"], profile=True, attempt=attempt),
        job=job,
        back=job_link(job),
        found=found,
        numbers=[one["number"] for one in job["attempts"]],
        step=seconds_text(found["step_s"]) if found["step_s"] else "",
        drawn_curves=[_curve(found, metric) for metric in METRICS if _heard(found, metric)],
        members=table(
            "Means by member",
            [_means(found, member) for member in found["members"]],
            MEMBER_COLUMNS,
            links={"node": lambda row: node_link(row["node"])},
            empty="no member of it has run",
        ),
        hours=await pictured.or_said("Cost by hour", pictured.job_by_hour(client, job["id"])),
    )


def _number(asked: str) -> int:
    if not asked:
        return 0
    if not (asked.isascii() and asked.isdigit()) or not 1 <= int(asked[:11]) <= ATTEMPT_MAX:
        raise InvalidRequest(
            f"attempt: {asked[:40]!r} is no number of an attempt; the first is 1, and without it the page is"
            " of the newest"
        )
    return int(asked)


def _heard(found: Row, metric: Metric) -> bool:
    return any(point[metric.field] is not None for point in found["rows"])


def _curve(found: Row, metric: Metric) -> Picture:
    """One metric of all members, in one picture."""
    since, until = parse_instant(found["since"]), parse_instant(found["until"])
    step_us = int(found["step_s"] * SECOND_US)
    lines = [
        Curve(
            f"rank {member['rank']} on {member['node']}",
            tuple(
                (parse_instant(point["at"]), point[metric.field])
                for point in found["rows"]
                if point["rank"] == member["rank"]
            ),
        )
        for member in found["members"]
    ]
    known = [value for line in lines for _, value in line.points if value is not None]
    top = metric.top or max(known)
    end = max(until, since + step_us)
    heads = [format_instant(since + (end - since) * at // HEADS)[11:19] for at in range(HEADS)]
    scale = (metric.text(top), metric.text(0.0))
    made = pictures.curves(lines, since, end, step_us, top or 1.0, scale, heads)
    mean = metric.text(sum(known) / len(known))
    return made._replace(
        caption=metric.name[:1].upper() + metric.name[1:],
        sentence=f"{mean} on average of {plural(len(lines), 'member')}, {metric.text(max(known))} at most; "
        f"means of {seconds_text(found['step_s'])} each, times of UTC.",
    )


def _means(found: Row, member: Row) -> Row:
    """A member with the mean of each metric, in words."""
    points = [point for point in found["rows"] if point["rank"] == member["rank"]]
    row = dict(member)
    for metric in METRICS:
        known = [point[metric.field] for point in points if point[metric.field] is not None]
        row[metric.field] = metric.text(sum(known) / len(known)) if known else "unknown"
    return row
