"""The Events service: the audit trail, who serves, and the self-check."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import bursar
from bursar.errors import InvalidRequest
from bursar.local.guard import Seen
from bursar.model import JobState
from bursar.v1 import events_pb2 as pb
from bursar.v1 import events_pb2_grpc
from bursard import doctor
from bursard.access.authorize import Action, allowed, authorize
from bursard.access.identity import Identity, caller
from bursard.access.refusals import Refusals
from bursard.access.sessions import resume_at
from bursard.access.vault import Vault
from bursard.cycle import TOOK_US, Cycle
from bursard.engine import Engine
from bursard.events import Event, decode
from bursard.fleet.clocks import Clocks
from bursard.scheduler.saved import dump
from bursard.services.apart import budgets_and_cost
from bursard.services.census import Census
from bursard.services.eventviews import event_view
from bursard.services.money import in_one_thread
from bursard.services.names import Names
from bursard.services.sight import Sight
from bursard.services.tail import Tail
from bursard.services.trail import PAGE, Trail, trail_of
from bursard.serving.board import Gateway
from bursard.state.arrays import beyond_wanted
from bursard.store import EventRow, Views
from bursard.turns import breathe, in_turn

Found = TypeVar("Found")

_LIMIT_MAX = 1_000_000
_TAIL_MAX = 100_000


class _Page(NamedTuple):
    """Some of the log. `after`: the sequence to go on from. `is_last`: the log had no more."""

    events: list[pb.Event]
    after: int
    is_last: bool


class EventsService(events_pb2_grpc.EventsServicer):
    """Reads the log."""

    def __init__(
        self,
        engine: Engine,
        cycle: Cycle,
        refusals: Refusals,
        vault: Vault,
        *,
        started_at: int,
        state_dir: Path,
        services: Iterable[str] = (),
        clocks: Clocks | None = None,
        gateways: Callable[[], Iterable[Gateway]] = tuple,
        keeper: Callable[[], Seen | None] = lambda: None,
    ) -> None:
        self.engine = engine
        self.cycle = cycle
        self._refusals = refusals
        self._vault = vault
        self._started_at = started_at
        self._state_dir = state_dir
        self._services = services
        self._census = Census(engine, cycle)
        self._clocks = clocks
        self._gateways = gateways
        self._keeper = keeper
        self._tail = Tail(engine)
        self._read: dict[tuple[Identity, int], asyncio.Task[_Page]] = {}
        """Pages of the whole log that are being read, by whose they are and where they begin."""

    async def List(self, request: pb.ListEventsRequest, context: Any) -> AsyncIterator[pb.Event]:
        """Events from the log, then as they happen."""
        await self.engine.durable()
        after = request.after_seq
        trail = await trail_of(self.engine, request)
        sight, names = Sight(caller(), self.engine.state), Names(self.engine.state)
        if request.tail and not (request.job or request.node or request.kinds):
            after = max(after, self.engine.writer.durable_seq - request.tail)
        elif request.tail:
            after = await self._before_last(after, request, sight)
        left = request.limit or _LIMIT_MAX
        while left > 0:
            resume_at(f"go on with `bursar events --after {after}`")
            page = await self._followed(after, trail) if request.follow else None
            if page is None:
                page = await self._shared_page(after, trail, sight, names)
            after = page.after
            for event in page.events[:left]:
                left -= 1
                yield event
            if page.is_last and left > 0:
                if not request.follow:
                    return
                await self._tail.beyond(after)

    async def _followed(self, after: int, trail: Trail) -> _Page | None:
        """The next of what is kept in memory for all followers; None where the log is to be read: by who is
        behind, and of what more is to be known than an event says.
        """
        if not self._tail.covers(after):
            return None
        heard = self._tail.since(after, PAGE)
        end = heard[-1].seq if heard else after
        kinds = trail.query.kinds
        if trail.plain:
            wanted = [one for one in heard if not kinds or one.kind in kinds]
            return _Page(await self._tail.shown(wanted, caller()), end, len(heard) < PAGE)
        if any(trail.concerns(one.kind, one.subject) for one in heard):
            return None
        return _Page([], end, len(heard) < PAGE)

    async def _shared_page(self, after: int, trail: Trail, sight: Sight, names: Names) -> _Page:
        """As `_page`; streams of one caller that ask for the same at a time, as many followers do that come
        back after a restart, are told from one look.
        """
        if not trail.plain or trail.query.kinds:
            return await self._page(after, trail, sight, names)
        key = caller(), after
        reading = self._read.get(key)
        if reading is None:
            # Who leaves ends its own wait alone.
            reading = asyncio.create_task(in_turn(self._page(after, trail, sight, names)), name="events-page")
            self._read[key] = reading
            reading.add_done_callback(partial(self._was_read, key))
        return await asyncio.shield(reading)

    def _was_read(self, key: tuple[Identity, int], reading: asyncio.Task[_Page]) -> None:
        del self._read[key]
        if not reading.cancelled():
            reading.exception()  # those who wait have heard it; they may all have left

    async def _page(self, after: int, trail: Trail, sight: Sight, names: Names) -> _Page:
        """The next of the log, as messages: made in the reader's thread, since a page is work."""
        currency = self.engine.state.currency

        def read(views: Views) -> _Page:
            rows, end, is_last = trail.page(views, after)
            seen = _seen(rows, sight, views)
            shown = [
                event_view(
                    row.seq,
                    row.at,
                    row.actor,
                    sight.told(event, views),
                    names.of(row.seq, event, views),
                    currency,
                )
                for row, event in seen
            ]
            return _Page(shown, end, is_last)

        return await self.engine.read(read)

    async def _before_last(self, after: int, request: pb.ListEventsRequest, sight: Sight) -> int:
        """The event after which the newest that match come: found by their numbers alone, by pages from the
        new end where they can be. Raises `InvalidRequest` for more than are kept at once.
        """
        count, end = request.tail, self.engine.writer.durable_seq
        if count > _TAIL_MAX:
            raise InvalidRequest(f"tail of some events is at most {_TAIL_MAX}; take all of them without it")
        trail = await trail_of(self.engine, request)  # a trail is walked once, from where it begins
        query = await self.engine.read(trail.backwards)
        if query is None:
            return await self._walked_to_last(after, count, trail, sight)
        oldest, left, place = end, count, end + 1

        def read(views: Views) -> tuple[list[int], int]:
            rows = [row for row in views.events_before(place, PAGE, query) if row.seq > after]
            return [row.seq for row, _ in _seen(rows, sight, views)], rows[-1].seq if len(rows) == PAGE else 0

        while left > 0 and place > 0:
            numbers, place = await self.engine.read(read)
            oldest = min([oldest, *(number - 1 for number in numbers[:left])])
            left -= len(numbers)
        return max(after, oldest)

    async def _walked_to_last(self, after: int, count: int, trail: Trail, sight: Sight) -> int:
        """The same, by pages from the old end."""
        newest: deque[int] = deque(maxlen=count)

        def read(views: Views) -> tuple[list[int], int, bool]:
            rows, end, is_last = trail.page(views, after)
            return [row.seq for row, _ in _seen(rows, sight, views)], end, is_last

        while True:
            numbers, after, is_last = await self.engine.read(read)
            newest.extend(numbers)
            if is_last:
                return newest[0] - 1 if newest else after

    def _beyond_wanted(self) -> int:
        """Places of services that wait for nothing: those who wait do not count them."""
        jobs = map(self.engine.state.jobs.get, self._services)
        return sum(beyond_wanted(job) for job in jobs if job is not None)

    async def Server(self, request: pb.ServerRequest, context: Any) -> pb.ServerResponse:
        """Who serves."""
        identity = caller()
        state = self.engine.state
        counts = state.counts
        live = sum(count for name, count in counts.items() if name != JobState.PENDING)
        stats, writer = self.cycle.stats, self.engine.writer.stats
        up = sum(node.connected for node in state.nodes.values())
        return pb.ServerResponse(
            version=bursar.__version__,
            cluster_id=state.cluster_id,
            epoch=self.engine.log.epoch,
            started_at=self._started_at,
            ready=True,
            pending=counts.get(JobState.PENDING, 0) - self._beyond_wanted(),
            running=live,
            nodes_up=up,
            nodes_silent=len(state.nodes) - up,
            last_seq=self.engine.writer.durable_seq,
            user=identity.name,
            role=identity.describe(),
            pid=os.getpid(),
            state_dir=str(self._state_dir),
            counters={
                "cycles": stats.cycles,
                "placed": stats.placed,
                "dropped": stats.dropped,
                "cycle_last_us": stats.last_us,
                "cycle_longest_us": stats.longest_us,
                "cycle_total_us": stats.total_us,
                **{f"cycle_le_{us}_us": n for us, n in zip(TOOK_US, accumulate(stats.took), strict=False)},
                "commits": writer.commits,
                "rows": writer.rows,
                "commit_last_us": writer.last_commit_us,
                "commit_longest_us": writer.longest_commit_us,
                "ledger_entries": self.engine.entries,
                **_store(self._state_dir),
                **{f"refused_{status.lower()}": n for status, n in self._refusals.counts.items()},
            },
            trouble=self._trouble(allowed(identity, Action.SEE_JOBS)),
            census=await self._census.seen_by(identity) if request.census else (),
        )

    async def Doctor(self, request: pb.DoctorRequest, context: Any) -> pb.DoctorResponse:
        """Every invariant that can be checked now; `full` reads the whole log, which takes its time."""
        if request.full:
            authorize(Action.VERIFY)
        identity = caller()
        await self.engine.durable()
        findings = await _in_turns(
            doctor.check_state_in_parts(
                self.engine.state,
                lambda job: allowed(identity, Action.SEE_JOBS, job.spec.project, job.user),
                self.engine.now(),
            )
        )
        findings.append(await budgets_and_cost(self.engine, request.full))
        findings.append(self._clock())
        findings.append(doctor.check_secrets(self.engine.state, self._vault))
        findings.append(
            doctor.check_planning(self.cycle.failing, self.cycle.left_out(), self.cycle.allocator_wrong)
        )
        findings.append(doctor.check_gateways(self._gateways(), self.engine.state, self.engine.now()))
        if (seen := await asyncio.to_thread(self._keeper)) is not None:
            findings.append(doctor.check_keeper(seen))
        log, views = self.engine.log, self.engine.views
        # To read the whole log takes minutes, for which nobody's plans and reports are to wait.
        thread = asyncio.to_thread if request.full else self.engine.aside
        findings += await thread(partial(doctor.check_store, log, request.full))
        findings.append(await thread(partial(doctor.check_ends, views, log.last_seq, request.full)))
        sees_all = allowed(identity, Action.SEE_JOBS)
        told = [found.for_one(sees_all) for found in findings]
        return pb.DoctorResponse(
            findings=[pb.Finding(check=f.check, ok=f.ok, message=f.message, remedy=f.remedy) for f in told]
        )

    def _clock(self) -> doctor.Finding:
        return doctor.check_clock(self.engine.clock, self._clocks, self.engine.state)

    def _trouble(self, sees_all: bool) -> str:
        """What `status` tells at once: all that is dated, or kept, hangs on it."""
        found = self._clock()
        told = found.for_one(sees_all)
        clock = "" if found.ok else f"{told.message}; {told.remedy}"
        return "; ".join(filter(None, (self.engine.log.trouble, clock)))

    async def SaveSnapshot(
        self, request: pb.SaveSnapshotRequest, context: Any
    ) -> AsyncIterator[pb.SnapshotChunk]:
        """What the newest plan was made of, and the plan; the state as it is now when nobody waits."""
        saved = self.cycle.saved()
        async for piece in in_one_thread(self.engine, lambda: dump(saved)):
            yield pb.SnapshotChunk(data=piece)


async def _in_turns(parts: Generator[None, None, Found]) -> Found:
    """What comes out at the end of something long; between its parts others have their turn."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            found: Found = end.value
            return found
        await breathe()


def _seen(rows: Iterable[EventRow], sight: Sight, views: Views) -> Iterator[tuple[EventRow, Event]]:
    """Those that the caller may see, as events."""
    for row in rows:
        event = decode(row.payload)
        if sight.shows(event, views):
            yield row, event


def _store(folder: Path) -> dict[str, int]:
    """What the state directory takes of its disk, folders below it apart, and what is free there; nothing
    where it cannot be looked at.
    """
    try:
        with os.scandir(folder) as entries:
            sizes = [entry.stat().st_size for entry in entries if entry.is_file(follow_symlinks=False)]
        free = os.statvfs(folder)
    except OSError:
        return {}
    return {"store_bytes": sum(sizes), "store_free_bytes": free.f_bavail * free.f_frsize}
