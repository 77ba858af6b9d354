"""From a store to the state it holds: images and replay.

Owns    what is made of what is found: the newest image that can be read, else an older one, else the whole
        log. A start does so, and so does the engine after an event that could not be applied.
Why     an image only saves time, so nothing that is wrong with one may end a start; and whatever is wrong
        with the log itself is told with its place and what to do, never as a traceback.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from bursar.errors import StoreUnavailable
from bursard.events import NewerSchema, decode
from bursard.state import Applied, Limits, State
from bursard.state import image as state_image
from bursard.store import EventRow, Loaded, Log

log = logging.getLogger(__name__)


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
            if not isinstance(error, state_image.OtherFormat | _EventRefused):
                loaded.passed_over.append(seq)
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
        ignored.closed.clear()
        ignored.transactions.clear()
        ignored.finished.clear()
        ignored.corrections.clear()


def _why(seq: int, error: Exception) -> str:
    if isinstance(error, NewerSchema):
        return f"event {seq} of the log is {error}; run the version that wrote it, or a later one"
    return (
        f"event {seq} of the log cannot be read by this version ({type(error).__name__}: {error}); run the"
        " version that wrote it, or keep a copy of the state directory and restore a backup:"
        " `bursar restore FILE --state-dir DIR`"
    )
