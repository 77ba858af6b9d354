"""The events of a start: a new cluster's first ones, and what a later start has to say before it serves.

Why     what a start makes true goes through the engine like everything else, so a replay of the log knows of
        it. The state it starts from is read by `bursard.replay`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

import bursar
import bursard
from bursar.clock import DAY_US, Clock, format_instant
from bursar.errors import InvalidRequest, StoreUnavailable
from bursar.local import books
from bursar_policies.compile import Applied as PriceDocument
from bursar_policies.document import catalog_dir, parse_files
from bursar_policies.specs import Document, PriceBookSpec
from bursard.engine import Engine
from bursard.events import ClockDoubted, ClockStepped, ClusterCreated, Event, LogResumed
from bursard.state import NodeRecord, State
from bursard.state.decide import nodes, policies
from bursard.steady import Anchor, SteadyClock, Step
from bursard.store import EventFilter, Log, Store

log = logging.getLogger(__name__)


def documents(places: Iterable[str]) -> tuple[list[PriceDocument], list[Document]]:
    """(the price books, everything else) found in `places`, or in the shipped catalogue: price books are
    looked up in, the rest is applied as events at the first start.
    """
    roots = [Path(place) for place in places] or [catalog_dir()]
    files: list[tuple[str, str | bytes]] = []
    for root in roots:
        if not root.exists():
            raise InvalidRequest(f"policies: {root} does not exist; name your documents with --policies DIR")
        found = sorted(root.glob("*.yaml")) if root.is_dir() else [root]
        files += [(path.name, path.read_bytes()) for path in found]
    documents = parse_files(files)
    shipped = [PriceDocument(d, version=0) for d in documents if isinstance(d.spec, PriceBookSpec)]
    return shipped, [d for d in documents if not isinstance(d.spec, PriceBookSpec)]


# --- what time it is

ANCHOR = "clock"
"""The note's key: what the daemon's time was at one reading of the boot clock."""
TRUST = "bursard.trust-clock"
"""A file in the state directory by which an operator says that the clock is right."""
STEPS_MAX = 10_000
"""So many believed jumps are looked through, from the first on."""
_LOOK_EVERY_S = 2.0
OLDER_US = DAY_US
"""So far the clock of a first start may be behind a file of the program: its installer had another one."""


def refuse_a_clock_before(written_at: int, store: Store, clock: Clock, state_dir: Path) -> None:
    """A first start dates all that follows: not by a clock that is behind the program that runs by it.

    Args:
        written_at: when the newest file of the program was written.

    Raises:
        StoreUnavailable: it is. Whoever keeps the daemon running tries again, and finds a clock that was set.
    """
    now = clock.now()
    if store.last_seq or now >= written_at - OLDER_US or _trusted(state_dir / TRUST):
        return
    raise StoreUnavailable(
        f"the machine's clock says {format_instant(now)}, but this program was written"
        f" {format_instant(written_at)}: set the clock, and start again. A first start goes by it for good:"
        " charges and periods of budgets are dated by it. If it is right:"
        f" `bursar audit trust-clock --state-dir {shlex.quote(str(state_dir))}`"
    )


def program_written_at() -> int:
    """When the newest of a few files of this program was written, by the clock of who installed it."""
    found = [0]
    for module in (bursar, bursard):
        for folder in module.__path__:
            with contextlib.suppress(OSError):
                found += [
                    entry.stat().st_mtime_ns // 1000
                    for entry in os.scandir(folder)
                    if entry.name.endswith(".py")
                ]
    return max(found)


def steady_clock(store: Store, clock: Clock, boot_id: str) -> SteadyClock:
    """The daemon's time, going on from where the log left off."""
    note = store.meta(ANCHOR)
    anchor = None
    if note:
        # A note that cannot be read is one that is not there: the log's own times remain.
        with contextlib.suppress(msgspec.MsgspecError):
            anchor = msgspec.json.decode(note, type=Anchor)
    first = [*store.events(0, 1), *store.events(0, STEPS_MAX, EventFilter(kinds=("clock-stepped",)))]
    last = store.events(store.last_seq - 1, 1) if store.last_seq else []
    # Where it was set back, the log begins earlier than its first event says.
    return SteadyClock(
        clock, boot_id, anchor, min((row.at for row in first), default=0), last[0].at if last else 0
    )


async def keep_time(engine: Engine, clock: SteadyClock, state_dir: Path) -> None:
    """Note what the daemon goes by, record the jumps it believed, obey an operator who trusts the clock."""
    await note_time(engine, clock)
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        await tend_time(engine, clock, state_dir)


async def tend_time(engine: Engine, clock: SteadyClock, state_dir: Path) -> None:
    """One look of `keep_time`."""
    if settle_time(engine, clock, state_dir):
        await note_time(engine, clock)


def settle_time(engine: Engine, clock: SteadyClock, state_dir: Path) -> bool:
    """Believe what is to be believed, and date by it what is not over. True: the clock was."""
    unplaced = clock.doubt() is not None and nothing_began(engine.state)
    # Taken away also when nothing is in doubt: it is meant for now, not for the next jump.
    if _trusted(state_dir / TRUST):
        clock.trust("an operator trusts it")
    elif unplaced:
        clock.trust("nothing was charged to any job yet")
    clock.now()  # by which a jump that has proven itself is believed
    steps = clock.take_steps()
    for step in steps:
        _follow(engine, step, (clock.boot_id, clock.boot_us()), step.passed and not unplaced)
    if (doubt := clock.take_doubt()) is not None:
        engine.commit([ClockDoubted(doubt.wall, doubt.steady)], "bursard")
    return bool(steps)


def _follow(engine: Engine, step: Step, seen: tuple[str, int], passed: bool) -> None:
    """All of it is true or nothing is: a daemon that dies in between follows the step with its next start.

    `seen`: the daemon's boot, and its boot clock. `passed`: the machine was off for the time between.
    """
    state = engine.state
    stepped = ClockStepped(step.was, step.became, step.why, step.became < step.was or not passed)

    def of_nodes() -> Iterator[Event]:
        for node in list(state.nodes.values()):
            axis_now = _axis_now(node, *seen)
            yield from nodes.redated(state, node, engine.prices, axis_now, engine.now(), passed)

    rolled = partial(policies.roll_periods, state, engine.now())
    engine.commit_each([lambda: [stepped], lambda: list(of_nodes()), rolled], "bursard")


def nothing_began(state: State) -> bool:
    """Has no job ever been placed? Then no money and no promise hangs on what time it was."""
    waiting = [job for job in state.jobs.values() if not job.parent_id]
    return len(waiting) == state.next_number - 1 and not any(job.attempts for job in state.jobs.values())


def _axis_now(node: NodeRecord, boot_id: str, boot_us: int) -> int | None:
    """Where a node's axis is now by the daemon's own boot clock; None after a reboot of its machine."""
    if not node.seen_boot_id or node.seen_boot_id != boot_id:
        return None
    return max(node.anchor_at + boot_us - node.seen_boot_us, node.through)


async def note_time(engine: Engine, clock: SteadyClock) -> None:
    """Keep what the daemon goes by, for its next run in this boot."""
    note = msgspec.json.encode(clock.anchor()).decode()
    await asyncio.to_thread(engine.log.set_meta, ANCHOR, note)


def _trusted(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        log.warning("the file cannot be removed", extra={"path": str(path), "reason": str(error)})
        return False
    return True


class Resumption(msgspec.Struct, frozen=True, kw_only=True):
    """A note in the database: at the next start the log goes on from an earlier point of its life.

    Attributes: those of `LogResumed`, and
        cluster_id: whose life an empty log goes on with; empty: it is a new cluster's.
    """

    cause: str
    through: int
    known_seq: int
    by: str
    cluster_id: str = ""


RESUMPTION = "resumption"
"""The note's key."""
NUMBERS_SKIPPED_MIN = 10_000


def _resumption(log: Log) -> Resumption | None:
    note = log.meta(RESUMPTION)
    return msgspec.json.decode(note, type=Resumption) if note else None


def _resume(engine: Engine, log: Log) -> None:
    """Tell the log that it was shortened, and leave room for what the life before may have given out."""
    told = _resumption(log)
    state = engine.state
    if told is None:
        return
    if state.resumed_through != told.through or not state.resumed_epoch:
        # How many jobs were lost is not known; half of all there ever were is more than likely. Each took an
        # event, so there were no more than events that are known to be gone.
        skipped = max(NUMBERS_SKIPPED_MIN, state.next_number // 2, told.known_seq - told.through)
        next_number = -(-(state.next_number + skipped) // 1000) * 1000 + 1
        engine.commit(
            [LogResumed(told.cause, told.through, told.known_seq, log.epoch, next_number, told.by)], told.by
        )
    log.set_meta(RESUMPTION, "")


def refuse_other_books(state: State, log: Log, state_dir: Path) -> None:
    """Books that the agents of the same `bursar up` do not know are not begun with: what runs there would be
    ended, and what was acknowledged is not here. Somebody may say that it is meant: the log is then resumed.

    Raises:
        StoreUnavailable: they are another cluster's, or lack events that an agent was told of.
    """
    if state_dir.name != books.DAEMON or log.meta(RESUMPTION):
        return
    named = shlex.quote(str(state_dir.parent))
    ways = (
        f"; or restore a backup into an empty {state_dir}: `bursar restore FILE --state-dir {named}`; or take"
        f" these books for the true ones: `bursar audit accept-loss --state-dir {named}`"
    )
    for each in books.told(state_dir.parent):
        if each.end is None or each.epoch < state.resumed_epoch:
            continue
        told = f"agent {each.agent} beside it was told of event {each.end.seq}"
        if each.end.cluster_id != state.cluster_id:
            ours = f"the books of {state.cluster_id}" if state.cluster_id else "no cluster yet"
            raise StoreUnavailable(
                f"{state_dir} holds {ours}, but {told} of {each.end.cluster_id}: it belongs to another"
                f" cluster. Put the folder that belongs here back{ways}"
            )
        if not log.holds(each.end.seq, each.end.digest):
            raise StoreUnavailable(
                f"{state_dir} ends at event {log.head.seq}, but {told}, which it lacks: it is an older one."
                f" Put the newest one back{ways}"
            )


def first_events(engine: Engine, currency: str, shipped: Sequence[Document]) -> None:
    """A new cluster gets its id and the shipped policies. On a later start nobody is in contact yet, and what
    was removed stays removed: absence is a decision too.

    An empty log in the place of one that was given up goes on as the same cluster: agents, machines that were
    rented and whoever reads its costs know it by that id.
    """
    state = engine.state
    if not state.cluster_id:
        told = _resumption(engine.log)
        cluster_id = (told.cluster_id if told is not None else "") or engine.ids.new("cluster")
        # Nothing waits in between, so the writer commits both together.
        engine.commit([ClusterCreated(cluster_id, currency)], "bursard")
        engine.commit(policies.apply_documents(state, shipped, engine.now()), "bursard")
    elif currency != state.currency:
        raise InvalidRequest(
            f"currency: this cluster's books are in {state.currency}, not {currency}; a ledger's"
            " currency cannot change: start another cluster in another --state-dir"
        )
    _resume(engine, engine.log)
    engine.commit(policies.roll_periods(state, engine.now()), "bursard")
    for node in state.nodes.values():
        engine.commit(nodes.silent(state, node), "bursard")
