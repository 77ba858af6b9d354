"""What people call the ids of an event: nodes by name, jobs by number, attempts by their job.

Why     the log names everything by id, so that no name given twice can mislead; a person who reads what
        happened knows `local-1` and job 12, and meets the ids nowhere else on the screen.
"""

from __future__ import annotations

from bursard.events import AttemptPlaced, Event, JobSubmitted, NodeRegistered, NodeRemoved, decode
from bursard.state import State
from bursard.store import EventFilter, Views

REMEMBERED_MAX = 10_000
"""Ids whose name one stream remembers."""
LOOK_BACK = 2_000
"""Events before a stream's first in which it looks for the placing of attempts, whose ends alone it has."""


class Names:
    """One stream's names. Asks the store about what is not in memory, so it belongs in a reader's thread."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._known: dict[str, str] = {}
        self._looked_back = False

    def of(self, seq: int, event: Event, views: Views) -> dict[str, str]:
        """The name of every id that the event speaks of, by id; an id that nobody knows is left out."""
        self._learn(event, views)
        attempt_id = getattr(event, "attempt_id", "")
        if attempt_id and attempt_id not in self._known and not self._looked_back:
            self._look_back(seq, views)
        ids = {getattr(event, field, "") for field in ("job_id", "attempt_id", "node_id")}
        if isinstance(event, AttemptPlaced):
            ids |= {member.node_id for member in event.members}
        return {ref: name for ref in ids if ref and (name := self._name(ref, views))}

    def _look_back(self, seq: int, views: Views) -> None:
        self._looked_back = True
        placings = EventFilter(kinds=("attempt-placed",))
        for row in views.events(max(0, seq - LOOK_BACK), LOOK_BACK, placings):
            if row.seq < seq:
                self._learn(decode(row.payload), views)

    def _learn(self, event: Event, views: Views) -> None:
        """What the event itself says of names."""
        if isinstance(event, NodeRegistered):
            self._remember(event.node_id, event.facts.name)
        elif isinstance(event, NodeRemoved):
            self._remember(event.node_id, event.name)
        elif isinstance(event, JobSubmitted):
            self._remember(event.job_id, str(event.number))
        elif isinstance(event, AttemptPlaced) and (job := self._name(event.job_id, views)):
            self._remember(event.attempt_id, f"attempt {event.number} of job {job}")

    def _remember(self, ref: str, name: str) -> str:
        if len(self._known) >= REMEMBERED_MAX:
            self._known.clear()
        self._known[ref] = name
        return name

    def _name(self, ref: str, views: Views) -> str:
        node = self._state.nodes.get(ref)
        if node is not None:
            return node.facts.name
        if ref in self._known:
            return self._known[ref]
        return self._remember(ref, self._asked(ref, views))

    def _asked(self, ref: str, views: Views) -> str:
        if ref.startswith("job_"):
            return self._of_job(ref, views)
        attempt = self._state.attempts.get(ref)
        if attempt is not None:
            return f"attempt {attempt.number} of job {self._name(attempt.job_id, views)}"
        return self._of_node(ref, views)

    def _of_job(self, job_id: str, views: Views) -> str:
        parent, dot, index = job_id.partition(".")
        if dot:
            number = self._name(parent, views)
            return f"{number}[{index}]" if number else ""
        job = self._state.jobs.get(job_id) or views.find_job(job_id)
        return str(job.number) if job is not None else ""

    def _of_node(self, node_id: str, views: Views) -> str:
        for row in views.events(0, 1, EventFilter(kinds=("node-registered",), about=node_id)):
            event = decode(row.payload)
            return event.facts.name if isinstance(event, NodeRegistered) else ""
        return ""
