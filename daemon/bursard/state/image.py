"""The whole state as data: what a snapshot keeps, so that a start need not replay all history.

Why     `State.apply` over the events after an image gives the state that applying all of them gives;
        indexes and columns are rebuilt, only facts are kept.
"""

from __future__ import annotations

import msgspec

from bursar.errors import InvariantViolation
from bursar.model import JobState
from bursar.model.allocation import FREE
from bursar_policies.compile import Applied as PriceDocument
from bursar_policies.specs import BudgetSpec, Document, Spec
from bursard.events import PolicyDocument
from bursard.ledger import Ledger, LedgerImage
from bursard.state.arrays import is_lean, lean
from bursard.state.budgets import Announced, BudgetRecord
from bursard.state.core import State
from bursard.state.counted_keys import CountedHours, KeysCounted
from bursard.state.fold.jobs import meet_some
from bursard.state.fold.machines import owned_by
from bursard.state.fold.nodes import refresh
from bursard.state.fold.policies import (
    allocator_in_force,
    idle_policies_in_force,
    match_some,
    place_by,
    priority_in_force,
    quotas_in_force,
    reservations_in_force,
    reserved_since,
)
from bursard.state.given import Approval, Posting, Postings
from bursard.state.periods import ClosedPeriod
from bursard.state.projects import DayCosts, ProjectCosts
from bursard.state.records import JobRecord, MachineRecord, NodeRecord, ServiceKey
from bursard.state.rights import Grant, Role, SealedSecret
from bursard.state.runs import PastRuns
from bursard.state.shares import bytes_of_spec
from bursard.state.tables import EVERY_BUDGET, ArrayMoney, Doom, Limits, NodeToken, still_to_cost
from bursard.state.typical import TypicalImage, TypicalRequests


class OtherFormat(InvariantViolation):
    """An image that another version wrote, and reads."""


FORMAT = 2
"""Bump once between two releases, when a field changes its meaning or its type. An image of another format is
passed over, for an older one or the whole log."""


_ALL = 2**62


class PricedImage(msgspec.Struct, frozen=True):
    """One version of a price document."""

    kind: str
    name: str
    spec: Spec
    version: int
    effective_from: int
    effective_until: int


class BudgetImage(msgspec.Struct, frozen=True):
    """Where a budget stands in its period; its document is among the policies.

    Attributes:
        crossed: (on, at_ppm) that were announced in it, of its document's limit; in images of before
            `StateImage.announced`, of whichever limit was.
    """

    name: str
    version: int
    period_start: int
    period_end: int
    crossed: tuple[tuple[str, int], ...]
    opened: bool = False


class StateImage(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `State` cannot rebuild from the rest of it."""

    format: int
    cluster_id: str
    currency: str
    version: int
    next_number: int
    next_order: int
    last_of_user: dict[str, str]
    jobs: list[JobRecord]
    nodes: list[NodeRecord]
    tokens: list[NodeToken]
    policies: list[PolicyDocument]
    priced: list[PricedImage]
    budgets: list[BudgetImage]
    ledger: LedgerImage
    recorded_at: int
    typical: TypicalImage = TypicalImage()
    grants: list[tuple[str, str, str]] = []
    secrets: list[SealedSecret] = []
    resumed: tuple[int, int] = (0, 0)
    doomed: dict[str, Doom] = {}
    machines: list[MachineRecord] = []
    corrected: dict[str, int] = {}
    shifted: dict[str, dict[str, int]] = {}
    counted_whole: bool = False
    adjusted: int = 0
    closed: list[ClosedPeriod] = []
    announced: list[tuple[str, str, list[Announced]]] = []
    costs: list[DayCosts] = []
    costs_whole: bool = False
    postings: list[Posting] = []
    runs: list[tuple[str, tuple[int, ...]]] = []
    runs_whole: bool = False
    approvals: list[tuple[str, str, Approval]] = []
    service_keys: list[ServiceKey] = []
    keys_charged: list[CountedHours] = []
    reserved: list[tuple[str, list[tuple[int, int]]]] = []
    made: list[str] = []
    rooms_made: dict[str, tuple[int, ...]] = {}
    rooms_by_user: dict[str, tuple[int, ...]] = {}
    unread: list[str] = []


class _Format(msgspec.Struct):
    format: int


def encode(state: State, recorded_at: int) -> bytes:
    """The state as bytes. Terminal jobs are left out: the store has them."""
    match_some(state, len(state.unmatched))
    meet_some(state, recorded_at, _ALL)
    jobs = [lean(job, state.jobs.get(job.parent_id)) for job in state.jobs.values() if not job.state.terminal]
    image = StateImage(
        format=FORMAT,
        cluster_id=state.cluster_id,
        currency=state.currency,
        version=state.version,
        next_number=state.next_number,
        next_order=state.next_order,
        last_of_user=state.last_of_user,
        jobs=jobs,
        nodes=sorted(state.nodes.values(), key=lambda node: node.row),
        tokens=list(state.node_tokens.values()),
        policies=list(state.policies.values()),
        priced=[
            PricedImage(
                one.document.kind,
                one.document.name,
                one.document.spec,
                one.version,
                one.effective_from,
                one.effective_until,
            )
            for one in state.priced
        ],
        budgets=[
            BudgetImage(
                r.name,
                r.version,
                r.period_start,
                r.period_end,
                tuple(state.budgets.crossed(r, r.spec.limit.nanos)),
                r.opened,
            )
            for r in state.budgets.records.values()
        ],
        ledger=state.ledger.image(),
        recorded_at=recorded_at,
        typical=state.typical.image(),
        runs=state.runs.image(),
        runs_whole=state.runs.whole,
        resumed=(state.resumed_through, state.resumed_epoch),
        grants=[(user, grant.role.value, grant.project) for user, grant in state.grants],
        secrets=list(state.secrets.values()),
        doomed=state.doomed,
        machines=list(state.machines.values()),
        corrected=state.corrected,
        shifted=state.shifted,
        counted_whole=state.counted_whole,
        adjusted=state.adjusted,
        costs=state.costs.image(),
        costs_whole=state.costs.whole,
        closed=state.closed.all,
        announced=[(*key, sorted(said)) for key, said in sorted(state.budgets.announced.items())],
        postings=list(state.budgets.postings),
        approvals=[(*key, one) for key, one in sorted(state.budgets.approvals.items())],
        service_keys=list(state.service_keys.values()),
        keys_charged=state.keys_charged.image(),
        made=list(state.made),
        rooms_made=state.rooms_made,
        rooms_by_user=state.rooms_by_user,
        reserved=[(name, list(windows)) for name, windows in sorted(state.reservations.past.items())],
        unread=sorted(state.budgets.unread),
    )
    return msgspec.json.encode(image)


def decode(data: bytes, limits: Limits | None = None) -> State:
    """The state an image was taken of. Raises whatever a damaged or a foreign one leads to: pass it over."""
    found = msgspec.json.decode(data, type=_Format).format
    if found != FORMAT:
        raise OtherFormat(f"its format is {found}, this version reads {FORMAT}")
    image = msgspec.json.decode(data, type=StateImage)
    state = State(limits)
    state.cluster_id, state.currency, state.version = image.cluster_id, image.currency, image.version
    state.next_number, state.next_order = image.next_number, image.next_order
    state.last_of_user = dict(image.last_of_user)
    state.node_tokens = {token.sha256: token for token in image.tokens}
    state.ledger = Ledger.from_image(image.ledger)
    state.typical = TypicalRequests(image.typical)
    state.runs = PastRuns(image.runs, image.runs_whole)
    state.resumed_through, state.resumed_epoch = image.resumed
    for user, role, project in image.grants:
        state.grants.put(user, Grant(Role(role), project))
    state.secrets = {(secret.project, secret.name): secret for secret in image.secrets}
    state.service_keys = {key.id: key for key in image.service_keys}
    state.keys_charged = KeysCounted(image.keys_charged)
    state.corrected, state.adjusted = dict(image.corrected), image.adjusted
    state.counted_whole = image.counted_whole
    state.shifted = {job_id: dict(budgets) for job_id, budgets in image.shifted.items()}
    if not image.counted_whole and not image.shifted:
        state.shifted = {job_id: {EVERY_BUDGET: nanos} for job_id, nanos in image.corrected.items()}
    state.costs = ProjectCosts.from_image(image.costs, image.costs_whole)
    for period in image.closed:
        state.closed.add(period)
    _policies(state, image)
    state.machines = {machine.id: machine for machine in image.machines}
    state.rented = {machine.name: machine.id for machine in image.machines if machine.name}
    for node in image.nodes:
        _node(state, node)
    for job in image.jobs:
        _job(state, job, image.recorded_at)
    for machine in image.machines:
        if not machine.user:  # an image of before it was kept
            owned_by(machine, state.jobs.get(machine.job_id))
    for money in image.ledger.attempts:
        # A job that had ended, but was not yet forgotten when the image was taken.
        if money.job_id not in state.jobs:
            state.ledger.close_job(money.job_id)
    state.made = dict.fromkeys(image.made)
    state.rooms_made = dict(image.rooms_made)
    state.rooms_by_user = dict(image.rooms_by_user)
    state.doomed = {job_id: doom for job_id, doom in image.doomed.items() if job_id in state.jobs}
    state.attempts = dict(sorted(state.attempts.items(), key=lambda item: item[1].placed_at))
    state.leased = {one.id: None for one in state.attempts.values() if one.lease_us}
    for node in image.nodes:
        refresh(state, node)
    return state


def _policies(state: State, image: StateImage) -> None:
    for record in image.policies:
        state.policies[record.kind, record.name] = record
    place_by(state)
    state.priority = priority_in_force(state)
    state.idle_documents = idle_policies_in_force(state)
    state.allocator = allocator_in_force(state)
    state.quotas.put(quotas_in_force(state))
    in_force = reservations_in_force(state), reserved_since(state)
    state.reservations.put(*in_force, image.recorded_at, lambda _: 0)
    state.reservations.past = {name: tuple(windows) for name, windows in image.reserved}
    for priced in image.priced:
        document = Document(priced.kind, priced.name, priced.spec)
        state.priced.append(
            PriceDocument(document, priced.version, priced.effective_from, priced.effective_until)
        )
    for budget in image.budgets:
        spec = state.policies["Budget", budget.name].spec
        assert isinstance(spec, BudgetSpec)
        stands = BudgetRecord(
            budget.name, spec, budget.version, budget.period_start, budget.period_end, budget.opened
        )
        state.budgets.records[budget.name] = stands
        for on, at_ppm in budget.crossed:
            state.budgets.announce(stands, on, at_ppm, spec.limit.nanos)
    state.budgets.unread = set(image.unread)
    state.budgets.postings = Postings(image.postings)
    state.budgets.approvals = {(name, scope): one for name, scope, one in image.approvals}
    for name, scope, said in image.announced:
        state.budgets.announced[name, scope] = set(said)


def _node(state: State, node: NodeRecord) -> None:
    row = state.cluster.add(node.id, node.facts)
    if row != node.row:
        raise InvariantViolation(f"node {node.facts.name} was row {node.row}, is row {row}")
    for hour in node.open.values():
        if hour.price_id and hour.rates is FREE:  # an image of before it was kept
            hour.rates = node.cost_at(hour.start)
    state.nodes[node.id] = node
    state.node_names[node.facts.name] = node.id
    state.cluster.set_price(row, node.price_id, node.rates)


def _job(state: State, job: JobRecord, at: int) -> None:
    state.jobs[job.id] = job
    if job.promise is not None:
        state.promises.put(job)
    if job.parent_id:
        parent = state.jobs[job.parent_id]
        state.tasks[parent.id][job.array_index] = job
        if is_lean(job):
            job.spec = parent.spec
    else:
        state.numbers[job.number] = job.id
        if job.spec.name:
            state.names.setdefault(job.spec.name, {})[job.id] = None
        if job.key:
            state.keys[job.user, job.key] = job.id
        for other, when in job.waiting_on.items():
            state.waits(job.id, other, when)
        counts = job.array.counts if job.array is not None else {job.state.value: 1}
        for name, many in counts.items():
            if not JobState(name).terminal:
                state.counts[name] = state.counts.get(name, 0) + many
        pending = counts.get(JobState.PENDING.value, 0)
        state.shares.add(job.user, pending, bytes_of_spec(job.spec))
    if job.array is not None:
        for other in job.array.follows:
            state.followers.setdefault(other, {})[job.id] = None
        state.tasks[job.id] = {}
        state.array_money[job.id] = ArrayMoney(job.settled_nanos)
    attempt = job.attempt
    if job.parent_id:
        money = state.array_money[job.parent_id]
        money.settled_nanos += job.settled_nanos
        money.held_nanos += still_to_cost(attempt) if attempt is not None else 0
    if attempt is not None:
        state.attempts[attempt.id] = attempt
        if attempt.after:
            state.behind[attempt.after] = attempt.id
        else:
            for member in attempt.live():
                state.take(attempt, member)
    state.enqueue(job, at)
