"""The Policies service: documents in force, applied all or none, with who and when.

Why     one rule for every way in: a document is read and checked before anything changes, the answer
        leaves once the change is durable, and each version stays readable in the log for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Final

import msgspec

from bursar.codec.amounts import put_amounts
from bursar.errors import InvalidRequest, NotFound, StaleVersion
from bursar.v1 import money_pb2 as pb
from bursar.v1 import money_pb2_grpc
from bursar.words import plural
from bursar_policies.commitments import Promise
from bursar_policies.document import parse_files
from bursar_policies.specs import BudgetSpec, CommitmentSpec, Document
from bursard.access.identity import caller
from bursard.engine import Engine
from bursard.events import (
    BudgetOpened,
    Event,
    NodePriced,
    PolicyApplied,
    PolicyDocument,
    PolicyRemoved,
    decode,
)
from bursard.housekeeping import REPRICED_MAX
from bursard.machines.opening import refuse_pools
from bursard.machines.renting import Renting
from bursard.reports.commitments import Change, promises
from bursard.services.dated import dates_of
from bursard.services.kinds import refuse_unknown_types
from bursard.services.pushback import after_room
from bursard.services.sources import named_texts
from bursard.services.spent import Spent, spent
from bursard.services.whose import moves_told
from bursard.state import State
from bursard.state.decide import policies
from bursard.state.decide.nodes import reprice
from bursard.state.periods import ClosedPeriod
from bursard.store import EventFilter, Views

PROBLEM_CHARS_IN_ROW = 500
SCOPE_CHARS = 200
Key = tuple[str, str]


class Applied(msgspec.Struct, frozen=True):
    """Who applied one version of a document, and when."""

    document: PolicyDocument
    at: int
    by: str


class PoliciesService(money_pb2_grpc.PoliciesServicer):
    """Reads and changes policy documents."""

    def __init__(self, engine: Engine, rents: Renting | None = None) -> None:
        self.engine = engine
        self._rents = rents

    @after_room
    async def Apply(self, request: pb.ApplyRequest, context: object) -> pb.ApplyResponse:
        """All documents or none, effective at once or at `effective_at`; nodes are repriced with it."""
        identity = caller()
        documents = await self._read(request)
        engine, state = self.engine, self.engine.state
        costs, used = await self._read_for(documents)
        # From here to the commit nothing waits: what was checked is what becomes true.
        before = {key: state.policies.get(key) for key in _keys(documents)}
        now = engine.now()
        events = policies.apply_documents(state, documents, now, costs.nanos, used, costs.before)
        engine.commit(events, identity.name)
        notes = [*self._reprice(now, identity.name), *moves_told(state, documents, now)]
        after = {key: state.policies[key] for key in before}
        await engine.durable()
        changes = await self._changes(before, after, notes)
        _tell_open_scopes(changes, documents)
        return pb.ApplyResponse(policies=_with_openings(changes, events, state.currency))

    async def Check(self, request: pb.ApplyRequest, context: object) -> pb.ApplyResponse:
        """What `Apply` would do, or every fault; nothing is changed."""
        documents = await self._read(request)
        state = self.engine.state
        costs, used = await self._read_for(documents)
        before = {key: state.policies.get(key) for key in _keys(documents)}
        events = policies.apply_documents(
            state, documents, self.engine.now(), costs.nanos, used, costs.before
        )
        after = {key: kept for key, kept in before.items() if kept is not None}
        for event in events:
            if isinstance(event, PolicyApplied):
                after |= {(one.kind, one.name): one for one in event.documents}
        changes = [
            _policy(Applied(after[key], 0, ""), change=_change(old, after[key]))
            for key, old in before.items()
        ]
        if changes:
            changes[0].notes.extend(moves_told(state, documents, self.engine.now()))
        _tell_open_scopes(changes, documents)
        return pb.ApplyResponse(policies=_with_openings(changes, events, state.currency))

    async def List(self, request: pb.ListPoliciesRequest, context: object) -> pb.ListPoliciesResponse:
        """Documents in force, of one kind or all, by kind and name; without their texts, which `Get` has."""
        found = [
            document
            for _, document in sorted(self.engine.state.policies.items())
            if not request.kind or document.kind == request.kind
        ]
        await self.engine.durable()
        history = await self._history()
        standing = _standing(self.engine.state)
        rows = [_row(_of(history, one), standing.get((one.kind, one.name), ())) for one in found]
        return pb.ListPoliciesResponse(policies=rows)

    async def Get(self, request: pb.PolicyRequest, context: object) -> pb.Policy:
        """A document in force, or an earlier version of it, removed ones included."""
        await self.engine.durable()
        history = await self._history()
        if not request.version:
            kind, name = self._key(request)
            notes = _standing(self.engine.state).get((kind, name), ())
            return _policy(_of(history, self.engine.state.policies[kind, name]), notes=notes)
        # Releases before counted anew after a removal: the newest of that number is meant.
        for one in reversed(history):
            document = one.document
            wanted = document.name == request.name and document.version == request.version
            if wanted and request.kind in ("", document.kind):
                return _policy(one)
        raise NotFound(f"there is no version {request.version} of a policy {request.name[:63]!r}")

    @after_room
    async def Delete(self, request: pb.PolicyRequest, context: object) -> pb.Policy:
        """Take a document out of force."""
        identity = caller()
        engine, state = self.engine, self.engine.state
        kind, name = self._key(request)
        document = state.policies[kind, name]
        if request.version and request.version != document.version:
            raise StaleVersion(
                f"{kind} {name} is at version {document.version}, not {request.version}; only the version"
                " in force can be removed",
                {"version": str(document.version)},
            )
        engine.commit(policies.remove(state, kind, name), identity.name)
        now = engine.now()
        notes = self._reprice(now, identity.name)
        if kind == "Budget":
            notes.append("what it covered is spent without this limit from now on")
        shown = f"bursar policy show {kind}/{name} --version {document.version}"
        notes.append(f"`{shown} | bursar policy apply -` brings it back")
        await engine.durable()
        return _policy(Applied(document, now, identity.name), "removed", notes)

    # --- inside

    def _reprice(self, now: int, actor: str) -> list[str]:
        """As many nodes as one turn can bear, so that their prices are right with the answer. What to say of
        it: nodes that have lost their price.
        """
        some = list(islice(self.engine.state.nodes.values(), REPRICED_MAX))
        events = reprice(self.engine.state, self.engine.prices, now, some)
        self.engine.commit(events, actor)
        lost = sum(isinstance(event, NodePriced) and not event.price_id for event in events)
        if not lost:
            return []
        least = "at least " if len(self.engine.state.nodes) > len(some) else ""
        return [
            f"{least}{plural(lost, 'node')} {'has' if lost == 1 else 'have'} no price from now on: what"
            " runs there costs nobody knows what, and a job with a hard budget, max_cost or max_price does"
            " not start there (`bursar prices explain NODE`)"
        ]

    async def _read(self, request: pb.ApplyRequest) -> tuple[Document, ...]:
        if not request.sources:
            raise InvalidRequest("there is no document to apply; name at least one file")
        documents = await self.engine.aside(partial(parse_files, named_texts(request.sources)))
        refuse_unknown_types(self.engine, documents)
        if self._rents is not None:
            await self._rents.refuse_empty(documents)
        else:
            refuse_pools(documents)
        return documents

    def _key(self, request: pb.PolicyRequest) -> Key:
        found = [
            key
            for key in sorted(self.engine.state.policies)
            if key[1] == request.name and request.kind in ("", key[0])
        ]
        if not found:
            kind = f"{request.kind} " if request.kind else "policy "
            lists = "reserve ls" if request.kind == "Reservation" else "policy ls"
            raise NotFound(f"there is no {kind}{request.name[:63]!r}; `bursar {lists}` lists them")
        if len(found) > 1:
            kinds = ", ".join(kind for kind, _ in found)
            raise InvalidRequest(f"{request.name!r} is the name of several policies ({kinds}); add --kind")
        return found[0]

    async def _read_for(self, documents: Sequence[Document]) -> tuple[Spent, dict[Key, int]]:
        """What scopes of budgets have cost, and the last versions of documents that are not in force."""
        state = self.engine.state
        while True:
            seen, used = state.policies_version, dict[Key, int]()
            if fresh := {(one.kind, one.name) for one in documents} - state.policies.keys():
                await self.engine.durable()
                for one in await self._history():
                    key = (one.document.kind, one.document.name)
                    if key in fresh:
                        used[key] = max(used.get(key, 0), one.document.version)
            costs = await spent(self.engine, documents)
            if state.policies_version == seen:  # else one of them may have come and gone meanwhile
                return costs, used

    async def _history(self) -> list[Applied]:
        return await self.engine.read(read_history)

    async def _changes(
        self,
        before: dict[Key, PolicyDocument | None],
        after: dict[Key, PolicyDocument],
        notes: Sequence[str],
    ) -> list[pb.Policy]:
        """Each document with what became of it; what follows from all of them is said with the first."""
        history = await self._history()
        told = [_policy(_of(history, after[key]), _change(old, after[key])) for key, old in before.items()]
        told[0].notes.extend(notes)
        return told


def _keys(documents: tuple[Document, ...]) -> list[Key]:
    return [(document.kind, document.name) for document in documents]


def _change(old: PolicyDocument | None, new: PolicyDocument) -> str:
    if old is None:
        return "created"
    return "unchanged" if old == new else "changed"


def _tell_open_scopes(changes: Sequence[pb.Policy], documents: Sequence[Document]) -> None:
    """With each budget that goes by what anybody may write into a job: who spends it."""
    found = {one.name: one.spec.scope for one in documents if isinstance(one.spec, BudgetSpec)}
    for wire in changes:
        scope = found.get(wire.name) if wire.kind == "Budget" else None
        if scope is not None and not (scope.project or scope.user):
            wire.notes.append(
                f"its scope ({str(scope)[:SCOPE_CHARS]}) names no project and no user: jobs of anybody, in"
                " any project, that say so spend it; add a `project` or a `user` to its scope to bound whose"
            )


def _with_openings(changes: list[pb.Policy], events: Sequence[Event], currency: str) -> list[pb.Policy]:
    """What the accounts of budgets open with, beside their documents."""
    opened = {one.budget: one for one in events if isinstance(one, BudgetOpened)}
    for wire in changes:
        found = opened.get(wire.name) if wire.kind == "Budget" else None
        if found is not None:
            wire.opening.since, wire.opening.attempts = found.since, len(found.holds)
            wire.opening.currency = currency
            held_nanos = sum(hold.nanos for hold in found.holds)
            put_amounts(wire.opening, settled_nanos=found.settled_nanos, held_nanos=held_nanos)
    return changes


def read_history(views: Views) -> list[Applied]:
    """Every version ever applied, oldest first. Policies change rarely, so the log holds few."""
    found: list[Applied] = []
    after = 0
    while rows := views.events(after, 1000, EventFilter(kinds=("policy-applied",))):
        for row in rows:
            event = decode(row.payload)
            if isinstance(event, PolicyApplied):
                found += [Applied(document, row.at, row.actor) for document in event.documents]
        after = rows[-1].seq
    return found


def past_commitments(months: Sequence[ClosedPeriod], views: Views) -> tuple[Promise, ...]:
    """All commitments that there ever were, and when each was in force. `months`: all that are closed."""
    changes: list[Change] = []
    after, asked, dates = 0, EventFilter(kinds=("policy-applied", "policy-removed")), dates_of(views)
    while rows := views.events(after, 1000, asked):
        for row in rows:
            event, at = decode(row.payload), dates.of(row)
            closed = max((one.until for one in months if one.seq < row.seq), default=0)
            if isinstance(event, PolicyApplied):
                for one in event.documents:
                    if isinstance(one.spec, CommitmentSpec):
                        since = dates.since(row, one.effective_at)
                        dated = one.effective_at > row.at
                        changes.append(Change(one.name, one.version, since, one.spec, dated, closed))
            elif isinstance(event, PolicyRemoved) and event.kind == "Commitment":
                changes.append(Change(event.name, 0, at, None, closed=closed))
        after = rows[-1].seq
    return promises(changes)


def _of(history: list[Applied], document: PolicyDocument) -> Applied:
    """The newest application of exactly this document."""
    return next((one for one in reversed(history) if one.document == document), Applied(document, 0, ""))


def _row(applied: Applied, notes: Sequence[str]) -> pb.Policy:
    wire = _policy(applied, notes=notes)
    wire.ClearField("text")
    wire.problem = wire.problem[:PROBLEM_CHARS_IN_ROW]
    return wire


_ONE_AT_A_TIME: Final = ("PlacementPolicy", "PriorityPolicy")


def _standing(state: State) -> dict[Key, list[str]]:
    """Of kinds of which one document is in force at a time: where there are several, which it is."""
    found: dict[Key, list[str]] = {}
    for kind in _ONE_AT_A_TIME:
        names = [name for one, name in state.policies if one == kind and state.policies[one, name].spec]
        for name in names[:-1]:
            found[kind, name] = [f"{kind} {name} is not in force: {names[-1]} was applied after it"]
        if len(names) > 1:
            found[kind, names[-1]] = [f"{kind} {names[-1]} is in force: it was applied last"]
    return found


def _policy(applied: Applied, change: str = "", notes: Sequence[str] = ()) -> pb.Policy:
    document = applied.document
    return pb.Policy(
        kind=document.kind,
        name=document.name,
        version=document.version,
        applied_at=applied.at,
        applied_by=applied.by,
        effective_at=document.effective_at,
        text=document.text,
        change=change,
        problem=document.problem,
        notes=notes,
    )
