"""Nodes: what each has and what is free of it, what it costs, and taking one out of service and back."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from bursar.cli.cluster import NODE_COLUMNS
from bursar.cli.output import Column, Row
from bursar.cli.terminal import size_text
from bursar.codec import view
from bursar_web.asking import client_of, events_shown, form_of
from bursar_web.pages import pictured
from bursar_web.show import command_line, page
from bursar_web.tables import as_file, changed, node_link, number_of, table

VERBS: Final = {
    "cordon": ("Cordon", "gives it no new work; what runs on it goes on"),
    "drain": (
        "Drain",
        "gives it no new work, and says when nothing runs on it any more; what runs on it goes on",
    ),
    "resume": ("Resume", "lets it take work again"),
}
HEAT_DAYS: Final = (1, 7, 30)
"""Links of the heat map; the address takes any number."""
DEVICE_COLUMNS = (
    Column("index", right=True),
    Column("type"),
    Column("memory", "memory_bytes", lambda row: size_text(row["memory_bytes"]), right=True),
    Column("free", show=lambda row: f"{row['free']:g}", right=True),
    Column("busy", show=lambda row: _ratio(row["utilization_ratio"]), right=True),
    Column("sm", show=lambda row: _ratio(row["sm_ratio"]), right=True),
    Column("used", show=lambda row: size_text(row["used_bytes"] or 0), right=True),
    Column("watts", show=lambda row: "-" if row["watts"] is None else f"{row['watts']:.0f}", right=True),
)


async def nodes(request: Request) -> Response:
    """`/nodes`."""
    query = request.query_params
    pool, days = query.get("pool", ""), number_of(query.get("days", ""), "days", pictured.DAYS_MAX) or 1
    found = await client_of(request).nodes(pool=pool, activity=not request.scope.get("file", ""))
    rows = [view.node(each) for each in found]
    if (file := as_file(request, "nodes", rows, NODE_COLUMNS)) is not None:
        return file
    client, now = client_of(request), request.app.state.clock.now()
    return page(
        request,
        "nodes.html",
        heat=await pictured.or_said(
            "GPUs held, by node and hour", pictured.held_gpus(client, rows, now, days)
        ),
        days=[(changed(query, days=str(many)), many, many == days) for many in HEAT_DAYS],
        spans=await pictured.or_said("What ran where, in the last day", pictured.spans(client, rows, now)),
        activity=pictured.working_gpus(rows, [hour for each in found for hour in view.node_hours(each)], now),
        command=command_line("nodes", pool=pool),
        table=table(
            "Nodes: free of all",
            rows,
            NODE_COLUMNS,
            links={"name": lambda row: node_link(row["name"])},
            leave_out=frozenset({"id"}),
            empty=f"no node is of pool {pool}" if pool else _NONE,
            query=query,
        ),
    )


async def node(request: Request) -> Response:
    """`/nodes/NODE`."""
    client = client_of(request)
    row = view.node(await client.node(request.path_params["node"]))
    if (file := as_file(request, f"node-{row['name']}", [row], NODE_COLUMNS, row)) is not None:
        return file
    return page(
        request,
        "node.html",
        command=command_line("node", "show", row["name"]),
        node=row,
        devices=table("GPUs", _devices(row), DEVICE_COLUMNS, empty="it has no GPU"),
        verbs=[
            (verb, words[0])
            for verb, words in VERBS.items()
            if (verb == "resume") == (row["state"] not in _TAKES)
        ],
        events=await events_shown(client, 20, node=row["name"]),
    )


_TAKES = frozenset({"up", "silent", "unwell"})

_NONE = "no nodes: each bursar-agent that joins is one; `bursar up` brings its own"


def _devices(row: Row) -> list[Row]:
    """Each device with what was measured of it last."""
    measured = {one["index"]: one for one in (row["sample"] or {"gpus": []})["gpus"]}
    return [{**device, **_measured(measured.get(device["index"]))} for device in row["devices"]]


def _measured(sample: Row | None) -> Row:
    if sample is None:
        return {"utilization_ratio": None, "sm_ratio": None, "used_bytes": None, "watts": None}
    return {
        "utilization_ratio": sample["utilization_ratio"],
        "sm_ratio": sample["sm_ratio"],
        "used_bytes": sample["memory_used_bytes"],
        "watts": sample["power_watts"],
    }


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.0f} %"


async def ask(request: Request) -> Response:
    """`/nodes/NODE/VERB`: what it would do, before anything is done."""
    row = view.node(await client_of(request).node(request.path_params["node"]))
    verb = request.path_params["verb"]
    name, effect = VERBS[verb]
    return page(
        request,
        "confirm.html",
        command=command_line("node", verb, row["name"]),
        title=f"{name} node {row['name']}?",
        effect=effect,
        node=row,
        back=node_link(row["name"]),
        name=name,
    )


async def act(request: Request) -> Response:
    """POST `/nodes/NODE/VERB`."""
    client, verb, name = client_of(request), request.path_params["verb"], request.path_params["node"]
    done = await getattr(client, verb)(name, reason=form_of(request).get("reason", ""))
    return RedirectResponse(node_link(view.node(done)["name"]), 303)
