"""Replicas of services, as their nodes know them: looked at where they run, reached from other machines.

Owns    orders to look, what is made of the answers, and which gateways may come to which node.
Why     only its own machine reaches a replica. A gateway elsewhere is let in by the agent of that machine,
        which must know whom to let in: whoever the daemon says, as of now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bursar.model.service import Way
from bursard.engine import Engine
from bursard.fleet import door
from bursard.fleet.backend import Backend
from bursard.fleet.words import Probe, Readiness
from bursard.state import NodeRecord


class Replicas:
    """Of all nodes of a fleet.

    Attributes:
        readied: is told of each answer: which attempt, whether it is ready, why not, and the way there.
        gateways: certificates of the gateways on other machines than the one with this boot id.
    """

    def __init__(self, engine: Engine, backends: Mapping[str, Backend]) -> None:
        self._engine = engine
        self._backends = backends
        self.readied: Callable[[str, bool, str, Way], None] | None = None
        self.gateways: Callable[[str], tuple[str, ...]] = lambda boot_id: ()

    def probe(self, attempt_id: str, rank: int) -> None:
        """Have a member looked at, if it is a replica."""
        state = self._engine.state
        attempt = state.attempts.get(attempt_id)
        service = state.jobs[attempt.job_id].spec.service if attempt is not None else None
        if attempt is None or service is None:
            return
        node_id = attempt.members[rank].alloc.node_id
        backend = self._backends.get(node_id)
        if backend is not None:
            gateways = self.gateways(state.nodes[node_id].boot_id)
            backend.probe(node_id, Probe.of(attempt_id, rank, attempt.port, service, gateways))

    def probe_all(self) -> None:
        """The gateways are others than before."""
        for attempt in list(self._engine.state.live_attempts()):
            for member in attempt.live():
                if member.started_at:
                    self.probe(attempt.id, member.alloc.rank)

    def readiness(self, node: NodeRecord, word: Readiness) -> None:
        """A replica is ready, or not any more. Of another node's, or of what has ended, nothing is taken."""
        message = door.readiness(word)
        if node.live.get(word.attempt_id) == word.rank and self.readied is not None:
            self.readied(word.attempt_id, word.ready, message, word.way)
