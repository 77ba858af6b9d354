"""Verbs about budgets: where they stand, and what is given to them."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from bursar.cli.common import changing, connected, listing, read_until
from bursar.cli.groups import NearGroup
from bursar.cli.output import NAME_LEAST, Column, Output, Row, emit, emit_one
from bursar.cli.terminal import clean, left_text, money_text, time_text
from bursar.cli.texts import Pair, pairs_text
from bursar.codec import view
from bursar.errors import InvalidRequest
from bursar.money import Money, parse_money

if TYPE_CHECKING:
    from bursar.client import WireClient

BUDGET_COLUMNS = (
    Column("name", wrap=True, least=NAME_LEAST),
    Column("scope", shrink=True, drop=5),
    Column("period", drop=6),
    Column("enforcement", drop=7),
    Column("limit", right=True, drop=1),
    Column("settled", right=True, drop=2),
    Column("held", right=True, drop=3),
    Column("available", right=True, left=True),
    Column("renews", "period_end", drop=4, title="period_end"),
)


HISTORY_COLUMNS = (
    Column("since", "period_start", title="period_start"),
    Column("until", "period_end", title="period_end"),
    Column("limit", right=True),
    Column("settled", right=True),
    Column("held", right=True, drop=4),
    Column("available", right=True),
    Column("granted", right=True, drop=3),
    Column("transferred", right=True, drop=3),
    Column("carried", "carried_over", right=True, drop=3, title="carried_over"),
    Column("crossed", show=lambda row: _crossed_text(row), value=lambda row: _crossed_text(row), drop=2),
)


@click.group(cls=NearGroup)
def budget() -> None:
    """List or show budgets, give them money, and approve what they ask for.

    Example: bursar budget ls
    """


@budget.command("ls")
@listing
@connected
def budget_ls(client: WireClient, output: Output) -> None:
    """List budgets: limit, settled, held and what is available, in the current period.

    Example: bursar budget ls --sort-by available
    """
    rows = [view.budget(each) for each in client.budgets()]
    emit(rows, BUDGET_COLUMNS, output, identity="name", empty="no budgets; `policy apply` makes one")


@budget.command("show")
@click.argument("name")
@listing
@connected
def budget_show(client: WireClient, name: str, output: Output) -> None:
    """Show one budget, with what it was given, by whom and why, and the live jobs that hold money of it.

    Example: bursar budget show vision-monthly
    """
    from bursar.errors import NotFound

    found = client.budgets(name=name)
    if not found:
        raise NotFound(f"there is no budget {name!r}; `bursar budget ls` lists them")
    row = view.budget(found[0])
    emit_one(row, output, budget_text, columns=BUDGET_COLUMNS, identity="name")


@budget.command("history")
@click.argument("name")
@listing
@connected
def budget_history(client: WireClient, name: str, output: Output) -> None:
    """List the periods of a budget, newest first: limit, settled, what was given, thresholds passed.

    The limit of a period is that of the document it ended with, and what was granted, transferred and carried
    over in it.

    Example: bursar budget history vision-monthly -o csv
    """
    rows = [view.budget(each) for each in client.budget_history(name)]
    emit(rows, HISTORY_COLUMNS, output, identity="period_start", empty="")


def _given(command: Any) -> Any:
    """What both ways of giving ask for."""
    for option in (
        click.option("--idempotency-key", "key", default="", metavar="K", help="Give once per key."),
        click.option("--reason", required=True, metavar="TEXT", help="Why: kept with the budget."),
        click.argument("amount", nargs=-1, required=True, metavar="AMOUNT"),
    ):
        command = option(command)
    return command


@budget.command("grant")
@click.argument("name")
@_given
@click.option("--take-back", is_flag=True, help="Less instead, of what it was granted in this period.")
@listing
@changing
def budget_grant(
    client: WireClient,
    name: str,
    amount: tuple[str, ...],
    output: Output,
    reason: str,
    key: str,
    take_back: bool,
) -> None:
    """Give a budget more in its current period (finance, operators, administrators).

    The limit of its document stays as it is: the next period begins with that. What is granted is listed in
    `budget show`, with who and why.

    Example: bursar budget grant vision-monthly 500 USD --reason "deadline of the paper"
    """
    given = read_amount(amount)
    found = client.grant_budget(
        name, Money(-given.nanos, given.currency) if take_back else given, reason=reason, key=key
    )
    row = view.budget(found.budgets[0])
    how = "taken back from" if take_back else "granted to"
    said = f"{money_text(view.money(given.nanos, given.currency))} {how} {_where(row)}"
    if found.unchanged:
        said = f"nothing was given again for key {clean(key)}: {_where(row)}"
    emit_one(row, output, lambda row: f"{said}; {_stands(row)}\n", columns=BUDGET_COLUMNS, identity="name")


@budget.command("transfer")
@click.argument("from_budget", metavar="FROM")
@click.argument("to_budget", metavar="TO")
@_given
@listing
@changing
def budget_transfer(
    client: WireClient,
    from_budget: str,
    to_budget: str,
    amount: tuple[str, ...],
    output: Output,
    reason: str,
    key: str,
) -> None:
    """Let one budget have in its current period what another gives of its own (as `grant`).

    What the giving budget has settled, and if it is hard what jobs hold of it, it keeps. The limits of both
    documents stay as they are.

    Example: bursar budget transfer audio-monthly vision-monthly 200 USD --reason "agreed on 3 November"
    """
    given = read_amount(amount)
    found = client.transfer_budget(from_budget, to_budget, given, reason=reason, key=key)
    rows = [view.budget(each) for each in found.budgets]
    emit(rows, BUDGET_COLUMNS, output, identity="name")


@budget.command("approve")
@click.argument("name")
@click.option("--until", metavar="TIME", help="It ends then: a time or a duration.")
@click.option("--amount", metavar="AMOUNT", help="So much more may be spent and held: 500 USD.")
@click.option("--reason", required=True, metavar="TEXT", help="Why: kept with the budget.")
@click.option("--idempotency-key", "key", default="", metavar="K", help="Approve once per key.")
@listing
@changing
def budget_approve(
    client: WireClient,
    name: str,
    output: Output,
    until: str | None,
    amount: str | None,
    reason: str,
    key: str,
) -> None:
    """Let jobs start that a threshold of a budget keeps waiting (project-admins, operators).

    It is for thresholds with `do: [approval]` that were passed. A further threshold, another limit and the
    next period ask again.

    Example: bursar budget approve vision-monthly --amount "500 USD" --reason "the paper is due on Friday"
    """
    found = client.approve_budget(
        name,
        reason=reason,
        until=read_until(until),
        amount=read_amount((amount,), "--amount") if amount else None,
        key=key,
    )
    row = view.budget(found.budgets[0])
    said = f"approved: budget {clean(row['name'])}"
    if found.unchanged:
        said = f"nothing was approved again for key {clean(key)}: budget {clean(row['name'])}"
    approved = f" {_approval_text(row['approval'])}" if row["approval"] else ""
    emit_one(
        row,
        output,
        lambda row: f"{said}{approved}; {_stands(row)}\n",
        columns=BUDGET_COLUMNS,
        identity="name",
    )


def read_amount(words: tuple[str, ...], what: str = "AMOUNT") -> Money:
    """`500USD`, `"500 USD"` or the two words. Raises `InvalidRequest`."""
    amount = parse_money(" ".join(words))
    if amount.nanos <= 0:
        raise InvalidRequest(f"{what}: {' '.join(words)!r} must be more than 0")
    return amount


def _where(row: Row) -> str:
    until = f" until {time_text(row['period_end'])}" if row["period_end"] else ""
    return f"budget {clean(row['name'])}{until}"


def _stands(row: Row) -> str:
    names = ("limit", "settled", "held")
    stands = [f"{name} {money_text(row[name])}" for name in names]
    return ", ".join([*stands, f"available {left_text(row['available'])}"])


def budget_text(budget: Row) -> str:
    """One budget in its period."""
    end, renews = budget["period_end"], budget["period"] != "one-time"
    per = f"per {budget['period']}" if renews else "in all"
    lasts = f"{time_text(budget['period_start'])} to {time_text(end) if end else 'no end'}"
    crossed = _crossed_text(budget)
    pairs: list[Pair] = [
        ("id", budget["id"]),
        ("scope", clean(budget["scope"])),
        ("limit", f"{money_text(budget['limit'])} {per}"),
        ("given", _given_text(budget)),
        ("enforcement", f"{budget['enforcement']}, holds {budget['hold']}"),
        ("settled", money_text(budget["settled"])),
        ("held", money_text(budget["held"])),
        ("available", left_text(budget["available"])),
        ("period", lasts if renews else "one-time, it never renews"),
        ("crossed", crossed),
        ("stages", "\n".join(f"{one['action']} since it passed {one['since']}" for one in budget["stages"])),
        ("to end them", "\n".join(dict.fromkeys(one["remedy"] for one in budget["stages"]))),
        ("approved", _approval_text(budget["approval"]) if budget["approval"] else ""),
        ("carry over", budget["carry_over"] or ""),
        ("live jobs", "\n".join(budget["live_jobs"])),
        ("postings", "\n".join(map(_posting_text, budget["postings"]))),
    ]
    return f"budget {clean(budget['name'])}\n" + pairs_text(pairs, "  ")


def _crossed_text(budget: Row) -> str:
    """Each share with what it is of. A daemon of before does not say that."""
    passed = budget["crossed"] or [{"at_percent": each, "on": ""} for each in budget["crossed_percent"]]
    return ", ".join(f"{one['at_percent']:g} % {one['on']}".rstrip() for one in passed)


def _given_text(budget: Row) -> str:
    """Of what the limit in force is made, where that is not its document's alone."""
    parts = [
        f"{money_text(budget[name])} {name.replace('_', ' ')}"
        for name in ("granted", "transferred", "carried_over")
        if Decimal(budget[name]["amount"])
    ]
    return ", ".join([f"{money_text(budget['base_limit'])} by its document", *parts]) if parts else ""


def _approval_text(approval: Row) -> str:
    """For how long and how much."""
    until = f"until {time_text(approval['until'])}" if approval["until"] else "until its period ends"
    ceiling = approval["ceiling"]
    much = f", up to {money_text(ceiling)} settled and held" if ceiling else ""
    return f"{until}{much}, by {clean(approval['by'])}: {clean(approval['reason'])}"


def _posting_text(posting: Row) -> str:
    """One amount that a budget was given, or that was taken from it."""
    if posting["kind"] == "approval":
        until = f" until {time_text(posting['other_period'])}" if posting["other_period"] else ""
        by = f"by {clean(posting['by'])}: {clean(posting['reason'])}"
        return f"{time_text(posting['at'])}  approved{until} {by}"
    taken = Decimal(posting["amount"]["amount"]) < 0
    amount = {**posting["amount"], "amount": posting["amount"]["amount"].removeprefix("-")}
    if posting["kind"] == "transfer":
        other = clean(posting["other"] or "another budget")
        what = f"transferred {'to' if taken else 'from'} {other}"
    elif posting["kind"] == "carry-over":
        what = f"carried over {'to' if taken else 'from'} the period of {time_text(posting['other_period'])}"
    else:
        what = "taken back" if taken else "granted"
    when = time_text(posting["at"])
    return f"{when}  {money_text(amount)} {what} by {clean(posting['by'])}: {clean(posting['reason'])}"
