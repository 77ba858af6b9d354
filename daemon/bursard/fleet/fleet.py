"""The fleet: tells agents what became true, and reconciles when one comes back with its own truth."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterable

import msgspec

from bursar.model import EndCause
from bursard.engine import Engine
from bursard.events import AttemptEnded, AttemptPlaced, Event, ExitReport, StopRequested
from bursard.fleet.environment import job_environment
from bursard.fleet.link import AgentLink, Assign, Forget, MeterNow, Stop
from bursard.state import AttemptRecord, MemberRecord, NodeRecord
from bursard.state.decide import attempts as decide

log = logging.getLogger(__name__)


class MemberTruth(msgspec.Struct, frozen=True, kw_only=True):
    """One member as its node found it. `report` is set when it has ended."""

    attempt_id: str
    rank: int
    running: bool
    pid: int
    started_boot_us: int
    report: ExitReport | None


class Fleet:
    """Connected agents by node id, and the one listener that turns events into messages."""

    def __init__(self, engine: Engine, *, log_cap_bytes: int, run_as_submitter: bool) -> None:
        self.engine = engine
        self.links: dict[str, AgentLink] = {}
        self._log_cap_bytes = log_cap_bytes
        self._run_as_submitter = run_as_submitter
        self._durable = {attempt.id for attempt in engine.state.live_attempts()}
        """Live attempts whose placement is on disk: only these may be told to an agent."""
        self._owed: deque[tuple[int, str, Forget]] = deque()
        engine.listeners.append(self.on_event)

    # --- durable events go out

    def on_event(self, seq: int, event: Event, at: int, actor: str) -> None:
        """Tell the agents concerned. Called once the event is durable."""
        if isinstance(event, AttemptPlaced):
            attempt = self.engine.state.attempts.get(event.attempt_id)
            if attempt is not None:
                self._durable.add(attempt.id)
                for member in attempt.live():
                    self._assign(attempt, member)
        elif isinstance(event, StopRequested):
            attempt = self.engine.state.attempts.get(event.attempt_id)
            if attempt is not None:
                for member in attempt.live():
                    self._stop(attempt, member)
        elif isinstance(event, AttemptEnded):
            self._durable.discard(event.attempt_id)
        while self._owed and self._owed[0][0] <= seq:
            _, node_id, forget = self._owed.popleft()
            self._send_forget(node_id, forget)

    def _assign(self, attempt: AttemptRecord, member: MemberRecord) -> None:
        link = self.links.get(member.alloc.node_id)
        if link is None:
            return
        job = self.engine.state.jobs[attempt.job_id]
        spec = job.spec
        link.send(
            Assign(
                attempt_id=attempt.id,
                rank=member.alloc.rank,
                boot_id=member.boot_id,
                job_id=job.id,
                time_limit_us=attempt.time_limit_us,
                grace_us=attempt.grace_us,
                checkpoint_signal=spec.checkpoint.signal,
                command=spec.command,
                script=spec.script,
                setup=spec.setup,
                workdir=spec.workdir,
                env=job_environment(self.engine.state, job, attempt, member),
                devices=member.alloc.devices,
                user=job.user if self._run_as_submitter else "",
                memory_bytes=member.alloc.memory_bytes,
                log_cap_bytes=self._log_cap_bytes,
            )
        )

    def _stop(self, attempt: AttemptRecord, member: MemberRecord) -> None:
        link = self.links.get(member.alloc.node_id)
        if link is not None and attempt.stop_cause is not None:
            cause = attempt.stop_cause.value
            link.send(Stop(attempt.id, member.alloc.rank, cause, attempt.stop_grace_us))

    def _acknowledge(self, node_id: str, attempt_id: str, rank: int) -> None:
        """Let a node forget an end once everything known now is durable: an agent that forgot earlier
        could not tell it again after a crash.
        """
        forget, version = Forget(attempt_id, rank), self.engine.state.version
        if self.engine.writer.durable_seq >= version:
            self._send_forget(node_id, forget)
        else:
            self._owed.append((version, node_id, forget))

    def _send_forget(self, node_id: str, forget: Forget) -> None:
        link = self.links.get(node_id)
        if link is not None:
            link.send(forget)

    # --- agents come and go

    def attach(self, link: AgentLink, truths: Iterable[MemberTruth]) -> None:
        """An agent is connected: bring its processes and our books to one truth (R3)."""
        state = self.engine.state
        self.links[link.node_id] = link
        node = state.nodes[link.node_id]
        actor = f"node:{link.name}"
        known: set[tuple[str, int]] = set()
        for truth in truths:
            known.add((truth.attempt_id, truth.rank))
            self._reconcile(link, node, truth, actor)
        for attempt_id, rank in list(node.live.items()):
            if (attempt_id, rank) not in known:
                self._missing(node, attempt_id, rank, actor)

    def _reconcile(self, link: AgentLink, node: NodeRecord, truth: MemberTruth, actor: str) -> None:
        state, engine = self.engine.state, self.engine
        attempt = state.attempts.get(truth.attempt_id)
        mine = attempt is not None and node.live.get(truth.attempt_id) == truth.rank
        if not mine:
            if truth.running:
                log.warning("unknown attempt runs on a node", extra={"attempt": truth.attempt_id})
                link.send(Stop(truth.attempt_id, truth.rank, EndCause.CANCELLED.value, 0))
            else:
                self._acknowledge(node.id, truth.attempt_id, truth.rank)
            return
        assert attempt is not None
        if truth.running:
            engine.commit(
                decide.started(state, node, truth.attempt_id, truth.rank, truth.started_boot_us, truth.pid),
                actor,
            )
            self._stop(attempt, attempt.members[truth.rank])
        elif truth.report is not None:
            self.exited(node, truth.attempt_id, truth.rank, truth.report, truth.started_boot_us, actor)

    def _missing(self, node: NodeRecord, attempt_id: str, rank: int, actor: str) -> None:
        """The node holds a member that the agent knows nothing of."""
        state = self.engine.state
        attempt = state.attempts[attempt_id]
        member = attempt.members[rank]
        if member.started_at:
            message = "its agent has no trace of it"
            self.engine.commit(decide.lost(state, node, attempt_id, rank, message), actor)
        elif attempt.stop_cause is not None:
            report = ExitReport(cause=attempt.stop_cause, message="stopped before it started")
            self.exited(node, attempt_id, rank, report, 0, actor)
        elif attempt.id in self._durable:
            # The assignment may have been lost on its way; saying it again is safe (J3). One that is
            # not yet durable is said when it is.
            self._assign(attempt, member)

    def detach(self, link: AgentLink) -> bool:
        """The agent's stream is gone. False when a newer stream has taken its place."""
        link.close()
        if self.links.get(link.node_id) is not link:
            return False
        del self.links[link.node_id]
        return True

    # --- what agents report

    def exited(
        self,
        node: NodeRecord,
        attempt_id: str,
        rank: int,
        report: ExitReport,
        started_boot_us: int,
        actor: str,
    ) -> None:
        """A member ended. What is already known is acknowledged again."""
        events = decide.exited(self.engine.state, node, attempt_id, rank, report, started_boot_us)
        self.engine.commit(events, actor)
        self._acknowledge(node.id, attempt_id, rank)

    async def settle(self, timeout_s: float = 2.0) -> None:
        """Ask every connected agent for its usage now, and wait until it is in the ledger."""
        links = list(self.links.values())
        for link in links:
            link.metered.clear()
            link.send(MeterNow())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for link in links:
                    await link.metered.wait()
        await self.engine.durable()
