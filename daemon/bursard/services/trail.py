"""Which rows of the log one stream of events reads: of all, or of a job or a node with the attempts placed.

Why     events of a node, or of an array, say nothing of the attempts placed there, and theirs nothing of it:
        who asks about one wants both, in one order. Attempts are followed while they live, so that a stream
        keeps no more of them in memory than run at a time.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Final, get_args

import msgspec

from bursar.errors import InvalidRequest, NotFound
from bursar.v1 import events_pb2 as pb
from bursard.engine import Engine
from bursard.events import AttemptPlaced, Event, NodeRemoved, decode
from bursard.events.subject import head_of
from bursard.services.lookup import find_job
from bursard.store import EventFilter, EventRow, Views
from bursard.store.queries import NAMING_NODES

PAGE = 200
"""Rows of the log read at once for one caller: also what a reader that is slow keeps in memory."""
FOLLOWED_MAX = 64
"""Live attempts of one array that are looked up one by one; of more, the log is read as it stands."""
KINDS: Final = tuple(sorted(str(kind.__struct_config__.tag) for kind in get_args(Event)))
"""What events are called."""
_PLACED, _ENDED = "attempt-placed", "attempt-ended"


class Trail:
    """Rows that match one filter. Asks the store, so it belongs in a reader's thread."""

    def __init__(self, query: EventFilter) -> None:
        self.query = query

    @property
    def plain(self) -> bool:
        """An event's kind says all there is to know."""
        return not self.query.about

    def concerns(self, kind: str, subject: str) -> bool:
        """May an event of this kind, about this, be among its rows? False is certain."""
        about = self.query.about
        return subject == about or subject.startswith(f"{about}.") or subject in self.query.or_about

    def page(self, views: Views, after: int) -> tuple[list[EventRow], int, bool]:
        """Rows that match after this sequence, oldest first; where to go on; whether the log had no more."""
        rows = views.events(after, PAGE, self.query)
        return rows, rows[-1].seq if rows else after, len(rows) < PAGE

    def backwards(self, views: Views) -> EventFilter | None:
        """What has the same rows from any place back; None: only a walk from the old end has."""
        return self.query


class Following(Trail):
    """One's own rows, and those of every attempt that they place.

    Pages must be read in log order: each begins with the attempts that the one before left alive.

    Args:
        own: which rows are its own. placing: rows among which are all that place its attempts.
    """

    def __init__(self, own: EventFilter, placing: EventFilter, kinds: Sequence[str]) -> None:
        super().__init__(own)
        self._placing = placing
        self._kinds = frozenset(kinds)
        self._live: set[str] | None = None

    @property
    def plain(self) -> bool:
        """It depends on what came before."""
        return False

    def concerns(self, kind: str, subject: str) -> bool:
        """Of itself, or of what is alive."""
        return self._live is None or subject in self._live or super().concerns(kind, subject)

    def page(self, views: Views, after: int) -> tuple[list[EventRow], int, bool]:
        """As `Trail.page`. A page may have fewer rows than the log has left."""
        live = self._live if self._live is not None else self._live_at(views, after)
        rows, whole = self._whole(views, after, live)
        self._live = live.union(filter(None, map(_placed, rows))).difference(map(_ended, rows))
        shown = [row for row in rows if not self._kinds or head_of(row.payload)[0] in self._kinds]
        return shown, *whole

    def backwards(self, views: Views) -> EventFilter | None:
        """None: whose rows are among the last, those placed before them tell."""
        return None

    def _whole(self, views: Views, after: int, live: set[str]) -> tuple[list[EventRow], tuple[int, bool]]:
        """Rows of all kinds; where to go on and whether the log had no more."""
        rows = self._rows(views, after, live)
        # What was placed within these rows may have rows among them too: the second look has them.
        placed = {attempt for row in rows if (attempt := _placed(row))}
        if placed - live:
            rows = self._rows(views, after, live | placed)
        return rows, (rows[-1].seq if rows else after, len(rows) < PAGE)

    def _rows(self, views: Views, after: int, attempts: set[str]) -> list[EventRow]:
        query = msgspec.structs.replace(self.query, or_about=(*self.query.or_about, *sorted(attempts)))
        return views.events(after, PAGE, query)

    def _live_at(self, views: Views, after: int) -> set[str]:
        """Attempts placed up to here of which the log says more after it."""
        live: set[str] = set()
        seq = 0
        while seq < after:
            rows = views.events(seq, PAGE, self._placing)
            for row in rows:
                attempt = _placed(row)
                if row.seq <= after and attempt and views.events(after, 1, EventFilter(about=attempt)):
                    live.add(attempt)
            seq = rows[-1].seq if len(rows) == PAGE else after
        return live


class NodeTrail(Following):
    """A node's own rows and those of every attempt that had a member on it."""

    def __init__(self, node_id: str, name: str, kinds: Sequence[str]) -> None:
        own = EventFilter(about=node_id, or_about=(name,), placed_on=node_id)
        super().__init__(own, EventFilter(placed_on=node_id), kinds)

    def concerns(self, kind: str, subject: str) -> bool:
        """Also what may name it without being about it."""
        return kind in NAMING_NODES or super().concerns(kind, subject)


class JobTrail(Following):
    """A job's own rows, those of its tasks, and those of every attempt of them."""

    def __init__(self, job_id: str, kinds: Sequence[str]) -> None:
        super().__init__(EventFilter(about=job_id), EventFilter(kinds=(_PLACED,), about=job_id), kinds)
        self._job_id = job_id

    def backwards(self, views: Views) -> EventFilter | None:
        """Its attempts are looked up by name, unless they are too many."""
        placings = views.events(0, FOLLOWED_MAX + 1, self._placing)
        if len(placings) > FOLLOWED_MAX:
            return None
        attempts = sorted(set(map(_placed, placings)))
        return EventFilter(about=self._job_id, or_about=tuple(attempts), kinds=tuple(sorted(self._kinds)))

    def _whole(self, views: Views, after: int, live: set[str]) -> tuple[list[EventRow], tuple[int, bool]]:
        if len(live) <= FOLLOWED_MAX:
            return super()._whole(views, after, live)
        every = views.events(after, PAGE)
        followed, rows = set(live), list[EventRow]()
        for row in every:
            subject = head_of(row.payload)[1]
            if subject in followed or subject == self._job_id or subject.startswith(f"{self._job_id}."):
                rows.append(row)
                if attempt := _placed(row):
                    followed.add(attempt)
        return rows, (every[-1].seq if every else after, len(every) < PAGE)


def _placed(row: EventRow) -> str:
    """The attempt that the row places; empty for any other row."""
    if head_of(row.payload)[0] != _PLACED:
        return ""
    event = decode(row.payload)
    return event.attempt_id if isinstance(event, AttemptPlaced) else ""


def _ended(row: EventRow) -> str:
    """The attempt that the row ends; empty for any other row."""
    kind, subject = head_of(row.payload)
    return subject if kind == _ENDED else ""


async def trail_of(engine: Engine, request: pb.ListEventsRequest) -> Trail:
    """What a request asks for. Raises `NotFound` for a job or a node that never was."""
    kinds = _known(request.kinds)
    if request.job:
        job = await find_job(engine, request.job)
        return JobTrail(job.id, kinds)
    if request.node:
        return await _of_node(engine, request.node, kinds)
    return Trail(EventFilter(kinds=kinds))


def _known(kinds: Iterable[str]) -> tuple[str, ...]:
    """The kinds that are asked for. Raises `InvalidRequest` for one that no event is of."""
    asked = tuple(dict.fromkeys(kinds))
    for kind in asked:
        if kind not in KINDS:
            near = difflib.get_close_matches(kind[:60], KINDS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(KINDS)}"
            raise InvalidRequest(f"kinds: no event is of kind {kind[:60]!r}; {hint}")
    return asked


async def _of_node(engine: Engine, name: str, kinds: tuple[str, ...]) -> Trail:
    state = engine.state
    node = state.node_by_name(name) or state.nodes.get(name)
    if node is not None:
        return NodeTrail(node.id, node.facts.name, kinds)
    removed = await engine.read(lambda views: _removed(views, name))
    if removed is not None:
        return NodeTrail(removed.node_id, removed.name, kinds)
    if await engine.read(lambda views: views.events(0, 1, EventFilter(about=name))):
        return Trail(EventFilter(kinds=kinds, about=name))  # one with a secret that never said hello
    raise NotFound(f"there is no node {name!r}, nor was there one; `bursar nodes` lists them")


def _removed(views: Views, name: str) -> NodeRemoved | None:
    """How the newest node that was called so, or has this id, left."""
    last: NodeRemoved | None = None
    seq = 0
    while True:
        rows = views.events(seq, PAGE, EventFilter(kinds=("node-removed",)))
        for row in rows:
            event = decode(row.payload)
            if isinstance(event, NodeRemoved) and name in (event.name, event.node_id):
                last = event
        if len(rows) < PAGE:
            return last
        seq = rows[-1].seq
