"""Changing a budget, and approving what its thresholds ask for: what follows is shown before it is done.

Why     a limit that is lowered, or a threshold that is added, may stop what runs. The daemon checks the
        document and says what its account would open with; which thresholds count as passed is worked out
        here by the rule of its document (`Threshold.at_ppm`).
"""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from bursar.cli.budget import read_amount
from bursar.cli.common import read_until
from bursar.cli.output import Row
from bursar.client.aio import AsyncWireClient
from bursar.codec import view
from bursar.errors import BudgetExceeded, InvalidRequest, NotFound, WrongState
from bursar.money import format_nanos
from bursar_policies.document import parse_documents
from bursar_policies.specs import PPM, BudgetSpec, Threshold
from bursar_web.asking import client_of, form_of, text_of
from bursar_web.show import command_line, page
from bursar_web.tables import budget_link

KIND = "Budget"
REASON_CHARS_MAX = 200


class Standing(NamedTuple):
    """What counts against a budget, in nanos. jobs: how many run under it."""

    settled: int
    held: int
    jobs: int


class Effect(NamedTuple):
    """What a changed document would do.

    Attributes:
        limit, settled, held, left: amounts after it. jobs: how many run under it.
        passed: by share in percent, what thresholds would do at once that do not do so now.
        undone: the same of those that would no longer be passed.
        full: nothing more could start, since nothing is left.
    """

    limit: Row
    settled: Row
    held: Row
    left: Row
    jobs: int
    passed: tuple[tuple[float, str, str], ...]
    undone: tuple[tuple[float, str, str], ...]
    full: bool


def effect(row: Row, before: BudgetSpec, after: BudgetSpec, opening: Row | None) -> Effect:
    """Work out what follows from `after` in place of `before`.

    Args:
        row: the view of the budget as it is. opening: of the daemon's check, where the account opens anew.
    """
    now = Standing(_nanos(row["settled"]), _nanos(row["held"]), len(row["live_jobs"]))
    then = now
    if opening is not None:
        then = Standing(_nanos(opening["settled"]), _nanos(opening["held"]), opening["attempts"])
    given = _nanos(row["limit"]) - before.limit.nanos
    limit = after.limit.nanos + given
    was, comes = _passed(before, now, before.limit.nanos + given), _passed(after, then, limit)
    left = limit - then.settled - then.held

    def shown(nanos: int) -> Row:
        return {"amount": format_nanos(nanos), "currency": row["currency"]}

    return Effect(
        limit=shown(limit),
        settled=shown(then.settled),
        held=shown(then.held),
        left=shown(left),
        jobs=then.jobs,
        passed=tuple(_told(one) for one in comes if one not in was),
        undone=tuple(_told(one) for one in was if one not in comes),
        full=after.enforcement == "hard" and left <= 0,
    )


def _passed(spec: BudgetSpec, standing: Standing, limit: int) -> list[Threshold]:
    def spent(one: Threshold) -> int:
        return standing.settled + (standing.held if one.on == "settled+held" else 0)

    return [one for one in spec.thresholds if spent(one) * PPM >= limit * one.at_ppm]


def _told(one: Threshold) -> tuple[float, str, str]:
    return one.at_ppm / 10_000, one.on, ", ".join(one.do)


def _nanos(amount: Row) -> int:
    """Nanos of an amount of the wire, which has nine places and no bound."""
    return int(amount["amount"].replace(".", ""))


async def edit(request: Request) -> Response:
    """GET `/budgets/BUDGET/edit`: its document, to be changed."""
    found = view.policy(await client_of(request).policy(request.path_params["budget"], kind=KIND))
    return _editor(request, found["text"], found["version"])


async def check(request: Request) -> Response:
    """POST `/budgets/BUDGET/edit`: what the changed document would do; nothing is changed yet."""
    client, name, fields = client_of(request), request.path_params["budget"], form_of(request)
    text, version = text_of(fields), fields.get("version", "")
    now = view.policy(await client.policy(name, kind=KIND))
    try:
        after = _one_budget(text, name)
        [found] = [view.policy(each) for each in await client.check_policies([(name, text)])]
    except (InvalidRequest, BudgetExceeded, WrongState) as problem:
        return _editor(request, text, version, str(problem), status=400)
    row = await _budget(client, name)
    return page(
        request,
        "budget_change.html",
        command="bursar policy apply FILE",
        budget=row,
        text=text,
        version=version,
        diff=_diff(now["text"], text),
        effect=effect(row, _one_budget(now["text"], name), after, found["opening"]),
        notes=found["notes"],
        stale=version != str(now["version"]),
        unchanged=found["change"] == "unchanged",
        back=budget_link(name),
    )


async def apply(request: Request) -> Response:
    """POST `/budgets/BUDGET/apply`. Raises `WrongState` when somebody else has changed it meanwhile."""
    client, name, fields = client_of(request), request.path_params["budget"], form_of(request)
    text = text_of(fields)
    _one_budget(text, name)
    if fields.get("version") != str((await client.policy(name, kind=KIND)).version):
        raise WrongState(f"budget {name} was changed by somebody else meanwhile; open its page and see")
    await client.apply_policies([(name, text)])
    return RedirectResponse(budget_link(name), 303)


async def ask_approval(request: Request) -> Response:
    """GET `/budgets/BUDGET/approve`: what waits for it, and for how long and how much it would be."""
    name = request.path_params["budget"]
    row = await _budget(client_of(request), name)
    return page(
        request,
        "approve.html",
        command=command_line("budget", "approve", name, reason="..."),
        budget=row,
        waits=[one for one in row["stages"] if one["action"] == "approval"],
        back=budget_link(name),
        most=REASON_CHARS_MAX,
    )


async def approve(request: Request) -> Response:
    """POST `/budgets/BUDGET/approve`."""
    name, fields = request.path_params["budget"], form_of(request)
    reason, until, amount = (fields.get(word, "").strip() for word in ("reason", "until", "amount"))
    if not reason:
        raise InvalidRequest("reason: say why; it is kept with the budget")
    given: dict[str, Any] = {"until": read_until(until or None)}
    await client_of(request).approve_budget(
        name, reason=reason, amount=read_amount((amount,), "amount") if amount else None, **given
    )
    return RedirectResponse(budget_link(name), 303)


def _editor(request: Request, text: str, version: object, problem: str = "", status: int = 200) -> Response:
    name = request.path_params["budget"]
    return page(
        request,
        "budget_edit.html",
        status=status,
        command=command_line("policy", "show", f"{KIND}/{name}"),
        name=name,
        text=text,
        version=version,
        problem=problem,
        back=budget_link(name),
    )


def _one_budget(text: str, name: str) -> BudgetSpec:
    """The one document that the form is for. Raises `InvalidRequest`."""
    documents = parse_documents(text, name)
    if len(documents) == 1 and documents[0].name == name and isinstance(documents[0].spec, BudgetSpec):
        return documents[0].spec
    raise InvalidRequest(f"this form changes one document, `kind: {KIND}` and `name: {name}`, and no other")


async def _budget(client: AsyncWireClient, name: str) -> Row:
    found = await client.budgets(name=name)
    if not found:
        raise NotFound(f"there is no budget {name!r}; the page of budgets lists them")
    return view.budget(found[0])


def _diff(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=1)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]
