"""Documents pasted into a form: what would change line by line and in money first, then they are applied.

Why     a document that is applied binds everybody. What the form shows and what it does is one text, and
        nothing of it is applied when somebody else changed one of its documents meanwhile.
"""

from __future__ import annotations

import difflib
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from bursar.cli.output import Row
from bursar.client.aio import AsyncWireClient
from bursar.codec import view
from bursar.errors import BudgetExceeded, InvalidRequest, NotFound, WrongState
from bursar_policies.document import parse_documents
from bursar_policies.specs import BudgetSpec
from bursar_web.asking import client_of, form_of, text_of
from bursar_web.pages.funding import Effect, effect
from bursar_web.show import command_line, page
from bursar_web.tables import policy_link

SOURCE: Final = "form"
"""What stands before the line of a fault, in place of a file's name."""
DOCUMENTS_MAX: Final = 50
DIFF_LINES_MAX: Final = 400


class Change(NamedTuple):
    """What applying one document would do.

    Attributes:
        row: as `bursar policy check` shows it. diff: lines, against the document in force; empty where
            nothing changes. left_out: so many lines more.
        effect: of a budget that is in force, its amounts now and then. budget: as it is now.
        link: the page of the document in force; "" of a new one.
    """

    row: Row
    diff: tuple[str, ...]
    left_out: int
    effect: Effect | None
    budget: Row | None
    link: str


async def form(request: Request) -> Response:
    """GET `/policies/apply`: an empty form."""
    return _form(request, "")


async def edit(request: Request) -> Response:
    """GET `/policies/KIND/NAME/edit`: the document in force, to be changed."""
    kind, name = request.path_params["kind"], request.path_params["name"]
    return _form(request, view.policy(await client_of(request).policy(name, kind=kind))["text"] or "")


async def check(request: Request) -> Response:
    """POST `/policies/apply`: what would change; nothing is changed yet."""
    client, text = client_of(request), text_of(form_of(request))
    try:
        _documents(text)
        rows = [view.policy(each) for each in await client.check_policies([(SOURCE, text)])]
    except (InvalidRequest, BudgetExceeded, WrongState) as problem:
        return _form(request, text, str(problem), status=400)
    changes = [await _change(client, row) for row in rows]
    return page(
        request,
        "policy_change.html",
        command=command_line("policy", "diff", "FILE"),
        changes=changes,
        text=text,
        versions=_versions(rows),
        unchanged=all(one.row["change"] == "unchanged" for one in changes),
    )


async def send(request: Request) -> Response:
    """POST `/policies/apply/send`. Raises `WrongState` when a document was changed meanwhile."""
    client, fields = client_of(request), form_of(request)
    text = text_of(fields)
    _documents(text)
    rows = [view.policy(each) for each in await client.check_policies([(SOURCE, text)])]
    if fields.get("versions", "") != _versions(rows):
        raise WrongState(
            "somebody else has changed one of these documents meanwhile; look at what would change again"
        )
    done = [view.policy(each) for each in await client.apply_policies([(SOURCE, text)])]
    address = policy_link(done[0]) if len(done) == 1 else "/policies"
    return RedirectResponse(address, 303)


def _versions(rows: list[Row]) -> str:
    """What the daemon says that applying does to which version: another word of it is another answer."""
    return " ".join(f"{row['kind']}/{row['name']}:{row['version']}:{row['change']}" for row in rows)


def _documents(text: str) -> None:
    """Raises `InvalidRequest` for a text that holds no document, or more than are shown at once."""
    found = parse_documents(text, SOURCE)
    if len(found) > DOCUMENTS_MAX:
        raise InvalidRequest(f"at most {DOCUMENTS_MAX} documents at once; `bursar policy apply` takes more")


async def _change(client: AsyncWireClient, row: Row) -> Change:
    try:
        before = view.policy(await client.policy(row["name"], kind=row["kind"]))
    except NotFound:
        before = None
    lines = _diff((before["text"] or "") if before else "", row["text"] or "")
    link = policy_link(before) if before else ""
    found = await client.budgets(name=row["name"]) if before and row["kind"] == "Budget" else ()
    budget = view.budget(found[0]) if found else None
    told = None
    if budget is not None and before is not None and lines:
        told = effect(budget, _budget(before), _budget(row), row["opening"])
    return Change(row, tuple(lines[:DIFF_LINES_MAX]), max(len(lines) - DIFF_LINES_MAX, 0), told, budget, link)


def _budget(row: Row) -> BudgetSpec:
    spec = parse_documents(row["text"], row["name"])[0].spec
    assert isinstance(spec, BudgetSpec)
    return spec


def _diff(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=2)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def _form(request: Request, text: str, problem: str = "", status: int = 200) -> Response:
    return page(
        request,
        "policy_edit.html",
        status=status,
        command=command_line("policy", "check", "FILE"),
        text=text,
        problem=problem,
    )
