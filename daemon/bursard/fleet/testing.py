"""A small daemon in memory: state, engine and fleet, where every commit is durable at once.

Why     what the fleet does with reports and orders needs no disk and no loop; the contract of a backend is
        tried against the real decisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any

from bursar.clock import VirtualClock
from bursar.ids import SequentialIds
from bursar.model import EndCause, JobSpec, NodeFacts
from bursar.resources import ResourceRequest
from bursar_policies.compile import Applied as PriceDocument
from bursar_policies.document import parse_documents
from bursard.ahead import Ahead
from bursard.engine import Engine, unposted
from bursard.events import ClusterCreated, Event, StopRequested
from bursard.fleet.fleet import Fleet
from bursard.fleet.memory import MemoryBackend
from bursard.fleet.words import Exited
from bursard.place import one_pass
from bursard.replay import restore
from bursard.state import AttemptRecord, JobRecord, Limits, NodeRecord, State
from bursard.state.decide import jobs, nodes, policies
from bursard.state.decide.opening import Before
from bursard.store import EventRow, LogHead

COST_MODEL = """\
kind: CostModel
name: rack
spec: {pool: local, node_capex: 400003 USD, useful_life: 5y}
"""
FACTS = NodeFacts(name="n-1", cpu_milli=8_000, memory_bytes=1 << 34)


class InstantWriter:
    """What is enqueued is durable once `flush` is called; `Engine.commit` does not wait for it.

    Attributes:
        rows: all events that became durable, oldest first. charges: likewise, as rows.
    """

    def __init__(self) -> None:
        self.after_commit: list[Any] = []
        self.durable_seq = 0
        self.rows: list[EventRow] = []
        self.charges: list[Any] = []
        self._waiting: list[Any] = []

    def enqueue(self, batch: Any) -> None:
        """Take a batch."""
        self._waiting.append(batch)

    def flush(self) -> None:
        """Everything is on disk; also what listeners commit meanwhile."""
        while self._waiting:
            batch = self._waiting.pop(0)
            self.charges += batch.charges
            self.rows += batch.events
            self.durable_seq = batch.events[-1].seq
            for heard in self.after_commit:
                heard(self.durable_seq)

    async def durable(self, seq: int) -> None:
        """All is, once flushed."""
        self.flush()


class World:
    """State, engine, fleet and a clock. Nodes cost what `COST_MODEL` says."""

    def __init__(
        self,
        state: State | None = None,
        clock: VirtualClock | None = None,
        ahead: int = 0,
        ids: SequentialIds | None = None,
    ) -> None:
        self.clock = clock or VirtualClock()
        self.ids = ids or SequentialIds()
        self.writer = InstantWriter()
        fresh = state is None
        self.state = state if state is not None else State(Limits())
        self.writer.durable_seq = self.state.version
        self.log = SimpleNamespace(epoch=1, head=LogHead(0, b""), holds=lambda seq, digest: False)
        self.log.raise_epoch = lambda epoch: setattr(self.log, "epoch", max(epoch, self.log.epoch))
        store: Any = self.log
        writer: Any = self.writer
        catalog = (PriceDocument(parse_documents(COST_MODEL, "testing")[0]),)
        self.engine = Engine(self.state, store, writer, self.clock, self.ids, catalog)
        self.events: list[Event] = []
        self.engine.listeners.append(lambda seq, event, at, actor: self.events.append(event))
        if fresh:
            self.engine.commit([ClusterCreated("c", "USD")], "test")
        self.backend = MemoryBackend(self.clock, output=b"hello\nworld\n", ahead=ahead)
        self.open()

    def open(self, boot_id: str = "daemon-boot") -> None:
        """A daemon starts, knowing what the state says and nothing else."""
        self.fleet = Fleet(self.engine, log_cap_bytes=1000, run_as_submitter=False, boot_id=boot_id)
        self.ahead = Ahead(self.state, self.ids, self.fleet)
        self.engine.listeners.append(self.ahead.on_event)
        self.backend.serve(self.fleet)

    def restart(self, boot_id: str = "daemon-boot") -> None:
        """The daemon is killed and started again; with another `boot_id` its machine was rebooted."""
        self.writer.flush()
        self.engine.listeners.remove(self.fleet.on_event)
        self.engine.listeners.remove(self.ahead.on_event)
        self.open(boot_id)
        for node in self.state.nodes.values():
            self.engine.commit(nodes.silent(self.state, node), "bursard")

    def killed(self) -> World:
        """The daemon after one that was killed: it knows what was durable; agents run on, out of contact."""
        rows = self.writer.rows
        log: Any = SimpleNamespace(
            load=lambda: SimpleNamespace(images=(), events=lambda seq: iter(rows)),
        )
        after = World(restore(log, Limits()), self.clock, ids=self.ids)
        after.writer.rows, after.writer.charges, after.events = rows, self.writer.charges, self.events
        after.backend = self.backend
        after.backend.serve(after.fleet)
        for node in after.state.nodes.values():
            after.engine.commit(nodes.silent(after.state, node), "bursard")
        return after

    def apply(
        self,
        text: str,
        spent: Mapping[str, int] = MappingProxyType({}),
        before: Mapping[str, Before] = MappingProxyType({}),
    ) -> None:
        """Policy documents. `spent`: by budget, what its scope has cost in its period; `before`: by day."""
        documents = parse_documents(text, "test")
        now = self.engine.now()
        events = policies.apply_documents(self.state, documents, now, spent, before=before)
        self.engine.commit(events, "test")

    def submit(self, user: str = "ann", **spec: Any) -> JobRecord:
        """One job of `user`: one CPU for at most an hour unless told otherwise."""
        wanted: dict[str, Any] = {
            "project": "p",
            "command": ("true",),
            "options": (ResourceRequest(None, 1_000, 1 << 20),),
            "time_limit_us": 3_600_000_000,
        }
        job_spec = JobSpec(**(wanted | spec))
        events = jobs.submit(self.state, self.ids, user=user, spec=job_spec)
        self.engine.commit(events, user)
        return self.state.jobs[events[0].job_id]  # type: ignore[union-attr]

    def fail_to_start(self, node: str = "n-1", message: str = "") -> int:
        """Whatever the node was given and has not started fails there; how many that were."""
        given = [
            self.state.attempts[attempt_id]
            for attempt_id, rank in self.node(node).live.items()
            if not self.state.attempts[attempt_id].members[rank].started_at
        ]
        for attempt in given:
            self.exited_of(attempt, EndCause.START_FAILED, started=False, message=message)
        return len(given)

    def cycle(self) -> None:
        """Place what can be placed, also ahead of need, and let everything become durable."""
        now = self.engine.now()
        self.ahead.take_back(now)
        made = one_pass(self.state, self.ids, now, self._commit)
        self.ahead.turn(made.snapshot, made.plan, now, self._commit)
        self.writer.flush()

    def _commit(self, what: str, events: Sequence[Event]) -> bool:
        known = self.ahead.placing(events)
        self.engine.commit(events, "bursard")
        self.ahead.placed(known)
        return True

    def stop(self, attempt: AttemptRecord, cause: EndCause = EndCause.CANCELLED) -> None:
        """Ask for the end of an attempt."""
        self.engine.commit([StopRequested(attempt.id, cause, 0, "asked")], "ann")
        self.writer.flush()

    def exited_of(self, attempt: AttemptRecord, cause: EndCause, **said: Any) -> None:
        """The node of an attempt of one member says that it ended."""
        word = Exited(attempt_id=attempt.id, rank=0, cause=cause, **said)
        self.fleet.exited(self.state.nodes[attempt.members[0].alloc.node_id], word)
        self.writer.flush()

    def node(self, name: str = "n-1") -> NodeRecord:
        """A node by name."""
        node = self.state.node_by_name(name)
        assert node is not None, name
        return node

    def settled_nanos(self, kind: str = "usage") -> int:
        """What was charged for one kind of thing, open hours included."""
        self.writer.flush()
        rows = [*self.writer.charges, *unposted(self.state).rows]
        return sum(row.nanos for row in rows if row.kind == kind)
