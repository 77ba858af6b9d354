"""Reservations of nodes from their YAML nodes.

Owns    the form of `kind: Reservation`.
Why     nodes that are kept free cost money while nobody uses them: a window that ends before it begins, that
        keeps nothing, or of which it is not said for whom it is, is refused with its line.
"""

from __future__ import annotations

from typing import Final

from bursar.clock import DAY_US, SECOND_US
from bursar.errors import InvalidRequest
from bursar.jobfile.gpus import read_constraints
from bursar.model import JobSpec
from bursar.model.check import check
from bursar.resources import ResourceRequest, parse_gpu_type
from bursar.yamlfile import Faults, Fields, Node, read_int, read_items, read_project, read_string
from bursar_policies.specs import RUNNING, ReservationSpec

KEYS: Final = (
    "nodes", "where", "gpu_type", "start", "end", "duration", "for", "maintenance", "running", "reason",
)  # fmt: skip
NODES_MAX: Final = 10_000
NAMES_MAX: Final = 100
WINDOW_MAX_US: Final = 366 * DAY_US
_NODE: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_USER: Final = r"[^\s\x00-\x1f/=][^\x00-\x1f]{0,127}"
_REASON: Final = r"[^\x00-\x1f]{1,200}"


def read_reservation(node: Node, faults: Faults) -> ReservationSpec | None:
    """The spec of a Reservation, or None with its faults reported."""
    before = len(faults.found)
    fields = Fields(node, faults, KEYS)
    names, count = _nodes(fields)
    where, gpu_type = _where(fields, bool(names))
    starts_at, ends_at = _window(fields)
    projects, users = _whose(fields)
    running = fields.enum("running", RUNNING) or "refuse"
    reason = ""
    if "reason" in fields:
        reason = fields.string("reason", pattern=_REASON, expected="one line of at most 200 characters") or ""
    if len(faults.found) > before:
        return None
    return ReservationSpec(
        nodes=names,
        starts_at=starts_at,
        ends_at=ends_at,
        projects=projects,
        users=users,
        running=running,
        count=count,
        where=where,
        gpu_type=gpu_type,
        reason=reason,
    )


def _nodes(fields: Fields) -> tuple[tuple[str, ...], int]:
    """Names, or how many."""
    node, faults = fields.get("nodes", required=True), fields.faults
    if node is None:
        return (), 0
    if node.kind != "sequence":
        return (), read_int(node, faults, minimum=1, maximum=NODES_MAX) or 0
    items = read_items(node, faults, items_max=NODES_MAX)
    if not node.items:
        faults.add(node, "names no node, so nothing would be reserved")
    found = set[str]()
    for item in items:
        name = read_string(item, faults, pattern=_NODE, expected="the name of a node (`bursar nodes`)")
        if name in found:
            faults.add(item, f"{name} is named twice")
        if name:
            found.add(name)
    return tuple(sorted(found)), 0


def _where(fields: Fields, named: bool) -> tuple[tuple[tuple[str, str], ...], str]:
    """Which nodes a number is chosen of."""
    faults = fields.faults
    for key in ("where", "gpu_type") if named else ():
        if (given := fields.get(key)) is not None:
            faults.add_key(given, f"{key} is for a number of nodes that are chosen; these are named")
    node, kind = fields.get("where"), fields.get("gpu_type")
    where = read_constraints(node, faults) if node is not None else ()
    if node is not None and where:
        asked = JobSpec(options=(ResourceRequest(),), constraints=where, command=("true",))
        for problem in check(asked):
            faults.add(node, problem.message)
    gpu_type = fields.string("gpu_type") or "" if kind is not None else ""
    if kind is not None and gpu_type:
        try:
            gpu_type = parse_gpu_type(gpu_type)
        except InvalidRequest as problem:
            faults.add(kind, problem.message)
    return where, gpu_type


def _window(fields: Fields) -> tuple[int, int]:
    """Its start and its end, which stands there itself or as a duration."""
    start, end, faults = fields.instant("start", required=True), fields.instant("end"), fields.faults
    lasts_us = fields.duration("duration")
    given = fields.get("end") or fields.get("duration")
    if given is None:
        faults.add(fields.node, "has no end; give `end` or `duration`")
        return 0, 0
    if "end" in fields and "duration" in fields:
        faults.add(given, "has an end and a duration; give one of them")
        return 0, 0
    if start is None or (end is None and lasts_us is None):
        return 0, 0
    until = int(end) if end is not None else int(start) + (lasts_us or 0)
    if until - start < SECOND_US:
        faults.add(given, "is not after its start")
    elif until - start > WINDOW_MAX_US:
        faults.add(
            given, f"is more than {WINDOW_MAX_US // DAY_US} days after its start; drain the nodes instead"
        )
    return int(start), until


def _whose(fields: Fields) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Projects and users that may use it; neither for maintenance."""
    faults, maintenance = fields.faults, fields.boolean("maintenance")
    inner = fields.fields("for", ("projects", "users"))
    if inner is None:
        if not maintenance and "for" not in fields:
            faults.add(
                fields.node, "is for nobody; give `for: {projects: […], users: […]}`, or `maintenance: true`"
            )
        return (), ()
    if maintenance:
        faults.add(
            inner.node, "names who may use nodes in maintenance, which nobody may; leave one of them out"
        )
    projects, users = list[str](), list[str]()
    for node in _list(inner, "projects"):
        if project := read_project(node, faults):
            projects.append(project.lower())
    for node in _list(inner, "users"):
        if user := read_string(node, faults, pattern=_USER, expected="a user's name"):
            users.append(user)
    if inner.node.kind == "mapping" and not ("projects" in inner or "users" in inner):
        faults.add(inner.node, "names nobody; give `projects`, `users` or both")
    return tuple(sorted(set(projects))), tuple(sorted(set(users)))


def _list(fields: Fields, key: str) -> list[Node]:
    node = fields.get(key)
    if node is None:
        return []
    if node.kind == "sequence" and not node.items:
        fields.faults.add(node, "is empty; name at least one, or leave it out")
    return read_items(node, fields.faults, items_max=NAMES_MAX)
