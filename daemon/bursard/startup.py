"""From a store to a running state: images, replay, and the events of a start.

Owns    what a start makes of what it finds: the newest image that can be read, else an older one, else the
        whole log; then a new cluster's first events.
Why     an image only saves time, so nothing that is wrong with one may end a start; and whatever is wrong
        with the log itself is told with its place and what to do, never as a traceback.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from bursar.errors import InvalidRequest, StoreUnavailable
from bursar_policies.compile import Applied as PriceDocument
from bursar_policies.document import catalog_dir, parse_files
from bursar_policies.specs import Document, PriceBookSpec
from bursard.engine import Engine
from bursard.events import ClusterCreated, LogResumed, NewerSchema, decode
from bursard.state import Applied, Limits, State
from bursard.state import image as state_image
from bursard.state.decide import nodes, policies
from bursard.store import EventRow, Loaded, Log

log = logging.getLogger(__name__)


# --- the state as it was


def restore(store: Log, limits: Limits) -> State:
    """The state of a store: of its newest readable image, and every event since.

    Raises:
        StoreUnavailable: the log is damaged, or an event of it cannot be read by this version.
    """
    loaded = store.load()
    state = _from_image(loaded, limits)
    if state is None:
        state = State(limits)
        _replay(state, loaded.events(0))
    for job_id in [job.id for job in state.jobs.values() if job.state.terminal]:
        state.evict(job_id)
    return state


def _from_image(loaded: Loaded, limits: Limits) -> State | None:
    for seq, data in loaded.images:
        try:
            state = state_image.decode(data, limits)
            if state.version != seq:
                raise ValueError(f"it says it is of event {state.version}")
            _replay(state, loaded.events(seq))
        except Exception as error:
            if isinstance(error, StoreUnavailable) and not isinstance(error, _EventRefused):
                raise
            # One kind of failure is as good as another: the log has everything an image has.
            log.warning(
                "an image of the state cannot be used; taking an older one, or the whole log",
                extra={"seq": seq, "reason": f"{type(error).__name__}: {error}"},
            )
        else:
            return state
    return None


class _EventRefused(StoreUnavailable):
    """An event could not be read, or not be applied to what came before it."""


def _replay(state: State, rows: Iterator[EventRow]) -> None:
    ignored = Applied()
    for row in rows:
        try:
            state.apply(decode(row.payload), row.at, ignored)
        except Exception as error:
            log.debug("replay ends here", extra={"seq": row.seq}, exc_info=error)
            raise _EventRefused(_why(row.seq, error), {"seq": str(row.seq)}) from error
        ignored.charges.clear()
        ignored.transactions.clear()
        ignored.finished.clear()


def _why(seq: int, error: Exception) -> str:
    if isinstance(error, NewerSchema):
        return f"event {seq} of the log is {error}; run the version that wrote it, or a later one"
    return (
        f"event {seq} of the log cannot be read by this version ({type(error).__name__}: {error}); run the"
        " version that wrote it, or keep a copy of the state directory and restore a backup:"
        " `bursar restore FILE --state-dir DIR`"
    )


# --- the events of a start


def documents(places: Iterable[str]) -> tuple[list[PriceDocument], list[Document]]:
    """(the price books, everything else) found in `places`, or in the shipped catalogue: price books are
    looked up in, the rest is applied as events at the first start.
    """
    roots = [Path(place) for place in places] or [catalog_dir()]
    files: list[tuple[str, str | bytes]] = []
    for root in roots:
        if not root.exists():
            raise InvalidRequest(f"policies: {root} does not exist")
        found = sorted(root.glob("*.yaml")) if root.is_dir() else [root]
        files += [(path.name, path.read_bytes()) for path in found]
    documents = parse_files(files)
    shipped = [PriceDocument(d, version=0) for d in documents if isinstance(d.spec, PriceBookSpec)]
    return shipped, [d for d in documents if not isinstance(d.spec, PriceBookSpec)]


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
