"""The events of a start: a new cluster's first ones, and what a later start has to say before it serves.

Why     what a start makes true goes through the engine like everything else, so a replay of the log knows of
        it. The state it starts from is read by `bursard.replay`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from bursar.clock import Clock
from bursar.errors import InvalidRequest, StoreUnavailable
from bursar.local import books
from bursar_policies.compile import Applied as PriceDocument
from bursar_policies.document import catalog_dir, parse_files
from bursar_policies.specs import Document, PriceBookSpec
from bursard.engine import Engine
from bursard.events import ClockStepped, ClusterCreated, LogResumed
from bursard.state import State
from bursard.state.decide import nodes, policies
from bursard.steady import Anchor, SteadyClock
from bursard.store import Log, Store

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
_LOOK_EVERY_S = 2.0


def steady_clock(store: Store, clock: Clock, boot_id: str) -> SteadyClock:
    """The daemon's time, going on from where the log left off."""
    note = store.meta(ANCHOR)
    anchor = None
    if note:
        # A note that cannot be read is one that is not there: the log's own times remain.
        with contextlib.suppress(msgspec.MsgspecError):
            anchor = msgspec.json.decode(note, type=Anchor)
    first = store.events(0, 1)
    last = store.events(store.last_seq - 1, 1) if store.last_seq else []
    return SteadyClock(clock, boot_id, anchor, first[0].at if first else 0, last[0].at if last else 0)


async def keep_time(engine: Engine, clock: SteadyClock, state_dir: Path) -> None:
    """Note what the daemon goes by, record the jumps it believed, obey an operator who trusts the clock."""
    await note_time(engine, clock)
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        await tend_time(engine, clock, state_dir)


async def tend_time(engine: Engine, clock: SteadyClock, state_dir: Path) -> None:
    """One look of `keep_time`."""
    # Taken away also when nothing is in doubt: it is meant for now, not for the next jump.
    if _trusted(state_dir / TRUST):
        clock.trust("an operator trusts it")
    if steps := clock.take_steps():
        engine.commit([ClockStepped(*step) for step in steps], "bursard")
        await note_time(engine, clock)


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

    Attributes: those of `LogResumed`.
    """

    cause: str
    through: int
    known_seq: int
    by: str


RESUMPTION = "resumption"
"""The note's key."""
NUMBERS_SKIPPED_MIN = 10_000


def _resume(engine: Engine, log: Log) -> None:
    """Tell the log that it was shortened, and leave room for what the life before may have given out."""
    note = log.meta(RESUMPTION)
    state = engine.state
    if not note:
        return
    told = msgspec.json.decode(note, type=Resumption)
    if state.resumed_through != told.through or not state.resumed_epoch:
        # How many jobs were lost is not known; half of all there ever were is more than likely.
        skipped = max(NUMBERS_SKIPPED_MIN, state.next_number // 2)
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
    """
    state = engine.state
    if not state.cluster_id:
        # Nothing waits in between, so the writer commits both together.
        engine.commit([ClusterCreated(engine.ids.new("cluster"), currency)], "bursard")
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
