"""What the shell offers behind a verb: jobs, nodes, states, columns, projects, policies, files.

Owns    which parameter of which verb takes which words. Input: the command tree, while a shell asks.
Why     names and numbers are known to the server alone. It has a moment to answer; without one, or without a
        server, nothing is offered and nothing is said: a prompt is no place for errors.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from bursar.cli.common import server_of
from bursar.errors import BursarError
from bursar.model import JobState

if TYPE_CHECKING:
    from bursar.client import WireClient

PATIENCE_S: Final = 1.5
JOBS_OFFERED: Final = 200
Item = tuple[str, str]
"""(word, what it is)"""
Values = Callable[["WireClient"], Iterable[Item]]


def _jobs(client: WireClient) -> Iterable[Item]:
    yield "last", "the newest of yours"
    for job in client.list(limit=JOBS_OFFERED):
        yield str(job.number), " ".join(filter(None, (job.spec.name, job.state)))
        if job.spec.name:
            yield job.spec.name, f"job {job.number} {job.state}"


def _nodes(client: WireClient) -> Iterable[Item]:
    return ((node.facts.name, node.state) for node in client.nodes())


def _policies(client: WireClient) -> Iterable[Item]:
    return ((policy.name, policy.kind) for policy in client.policies())


def _budgets(client: WireClient) -> Iterable[Item]:
    return ((budget.name, budget.period) for budget in client.budgets())


def _secrets(client: WireClient) -> Iterable[Item]:
    return ((secret.name, secret.project) for secret in client.secrets())


def _of_jobs(field: str) -> Values:
    """Values that recent jobs have."""

    def values(client: WireClient) -> Iterable[Item]:
        for job in client.list(limit=JOBS_OFFERED):
            yield job.user if field == "user" else getattr(job.spec, field), ""

    return values


FROM_SERVER: Final[dict[str, Values]] = {
    "job": _jobs,
    "jobs": _jobs,
    "tasks": _jobs,
    "after": _jobs,
    "node_name": _nodes,
    "project": _of_jobs("project"),
    "experiment": _of_jobs("experiment"),
    "model": _of_jobs("model"),
    "user": _of_jobs("user"),
    "secret": _secrets,
    "from_budget": _budgets,
    "to_budget": _budgets,
    "budget": _budgets,
}
"""By name of a parameter, wherever it is."""
NAMES: Final[dict[str, Values]] = {
    "node": _nodes, "policy": _policies, "budget": _budgets, "secret": _secrets, "ls": _of_jobs("name"),
    "cancel": _of_jobs("name"),
}  # fmt: skip
"""Whose name `name` is, by the verb or the group of verbs. `--name` of `submit` is a new one."""
FILES: Final = frozenset(("file", "paths", "out", "snapshot", "policies"))
FOLDERS: Final = frozenset(("state_dir", "workdir"))
COLUMNS: Final = {
    "node": "cluster:NODE_COLUMNS", "nodes": "cluster:NODE_COLUMNS", "offers": "cluster:PRICE_COLUMNS",
    "reserve": "reserve:RESERVATION_COLUMNS",
    "cloud": "cloud:MACHINE_COLUMNS",
    "events": "cluster:EVENT_COLUMNS", "budget": "budget:BUDGET_COLUMNS",
    "forecast": "forecast:FORECAST_COLUMNS", "prices": "cluster:PRICE_COLUMNS",
    "policy": "policy:POLICY_COLUMNS", "grant": "rights:GRANT_COLUMNS", "secret": "rights:SECRET_COLUMNS",
    "plan": "submit:PLAN_COLUMNS", "status": "local:STATUS_COLUMNS",
    **dict.fromkeys(
        ("ls", "show", "wait", "cancel", "hold", "release", "requeue", "update", "snooze", "submit", "run"),
        "jobs:JOB_COLUMNS",
    ),
}  # fmt: skip
"""Where the columns of a verb stand, or of a group of verbs."""


def prepare(command: click.Command, verb: str) -> None:
    """Teach the parameters of a verb, and of those below it, what to offer."""
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        prepare(below, verb)
    for parameter in command.params:
        offer = _offer(verb, parameter)
        if offer is not None:
            parameter.shell_complete = offer  # type: ignore[method-assign]  # as a subclass of each would


def _offer(verb: str, parameter: click.Parameter) -> Any:
    name = parameter.name or ""
    if name == "states":
        return lambda ctx, word: _of_list(["all", *(state.lower() for state in JobState)], word)
    if name in ("columns", "sort_by") and verb in COLUMNS:
        return lambda ctx, word: _of_list(_columns(verb), word)
    if name in FILES or name in FOLDERS:
        return lambda ctx, word: [CompletionItem(word, type="dir" if name in FOLDERS else "file")]
    values = NAMES.get(verb) if name == "name" else FROM_SERVER.get(name)
    if values is None:
        return None
    return lambda ctx, word: _matching(_asked(values, ctx), word)


def _columns(verb: str) -> list[str]:
    module, _, name = COLUMNS[verb].partition(":")
    return [column.name for column in getattr(importlib.import_module(f"bursar.cli.{module}"), name)]


def _of_list(words: Iterable[str], typed: str) -> list[CompletionItem]:
    """The last of several words with commas between."""
    before, comma, last = typed.rpartition(",")
    given = before.split(",")
    return [
        CompletionItem(before + comma + one) for one in words if one.startswith(last) and one not in given
    ]


def _matching(items: Iterable[Item], typed: str) -> list[CompletionItem]:
    found = {word: about for word, about in reversed(list(items)) if word.startswith(typed) and word}
    return [CompletionItem(word, help=about or None) for word, about in sorted(found.items())]


def _asked(values: Values, ctx: click.Context) -> list[Item]:
    """What the server has said in time; nothing without one."""
    found: list[Item] = []

    def ask() -> None:
        from bursar.client import WireClient

        try:
            with WireClient(ctx.params.get("server") or server_of(None)) as client:
                found.extend(values(client))
        except (BursarError, OSError):
            found.clear()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE_S)
    return list(found)
