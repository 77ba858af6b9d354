"""What is in force: policy documents with who applied them when, and prices with where they are from."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from bursar.cli.cluster import PRICE_COLUMNS
from bursar.cli.policy import POLICY_COLUMNS
from bursar.codec import view
from bursar_web.asking import client_of
from bursar_web.show import command_line, page
from bursar_web.tables import as_file, policy_link, table

PRICE_FILTERS: Final = ("provider", "region", "instance_type")
PRICES_SHOWN = 200


async def policies(request: Request) -> Response:
    """`/policies`."""
    query = request.query_params
    kind = query.get("kind", "")
    rows = [view.policy(each) for each in await client_of(request).policies(kind=kind)]
    if (file := as_file(request, "policies", rows, POLICY_COLUMNS)) is not None:
        return file
    return page(
        request,
        "policies.html",
        command=command_line("policy", "ls", kind=kind),
        table=table(
            "Documents in force",
            rows,
            POLICY_COLUMNS,
            links={"name": policy_link},
            leave_out=frozenset({"change"}),
            empty=f"no document is of kind {kind}" if kind else "no documents",
            query=query,
        ),
    )


async def policy(request: Request) -> Response:
    """`/policies/KIND/NAME`."""
    kind, name = request.path_params["kind"], request.path_params["name"]
    row = view.policy(await client_of(request).policy(name, kind=kind))
    if (file := as_file(request, f"policy-{name}", [row], POLICY_COLUMNS, row)) is not None:
        return file
    return page(request, "policy.html", command=command_line("policy", "show", name, kind=kind), policy=row)


async def prices(request: Request) -> Response:
    """`/prices`: what machines cost now; the first of them, or those that the address names."""
    query = request.query_params
    asked = {name: query.get(name, "") for name in PRICE_FILTERS}
    found = await client_of(request).prices(**{name: value for name, value in asked.items() if value})
    rows = [view.price(each) for each in found]
    if (file := as_file(request, "prices", rows, PRICE_COLUMNS)) is not None:
        return file
    return page(
        request,
        "prices.html",
        command=command_line("prices", "ls", **asked),
        asked=asked,
        total=len(rows),
        table=table(
            "Prices in force", rows[:PRICES_SHOWN], PRICE_COLUMNS, empty="no price matches", query=query
        ),
    )
