"""Moving the events of closed months out of the log, into an archive that `audit verify` reads.

Why     what they cost stays in rows, what they did is in an image of the state; the events themselves are
        needed to prove both, not to serve.
Order   an image of now is made and read back; the archive is written, durable, and proved, charges included;
        only then do the events leave, in one transaction. Killed anywhere, a second run goes on.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from bursar.clock import Clock, format_instant
from bursar.errors import BursarError, InvalidRequest
from bursard.backup import places
from bursard.backup.inspect import findings_of
from bursard.replay import restore
from bursard.reports.period import month_of, read_period
from bursard.state import Limits, State
from bursard.state import image as state_image
from bursard.store import SqliteStore, eventfile


def archive_months(state_dir: Path, before: str, out: Path, clock: Clock) -> eventfile.Contents:
    """Move all events recorded before a month to `out`; nobody may use the directory meanwhile.

    Args:
        before: the first month that stays, such as `2026-10`.

    Raises:
        InvalidRequest: a month that is not over, nothing to move, or a file that is something else.
        BursarError: the books are not sound; nothing was moved.
    """
    period = read_period(before)
    if period.since > month_of(clock.now())[0]:
        raise InvalidRequest(f"--before: {before} has not begun; only months that are over can be archived")
    if not out.absolute().parent.is_dir():
        raise InvalidRequest(f"--out: {out.absolute().parent} is not there; make it first")
    store = SqliteStore(places.daemon_directory(state_dir))
    try:
        return _move(store, period.since, out.absolute(), clock)
    finally:
        store.close()


def _move(store: SqliteStore, since: int, out: Path, clock: Clock) -> eventfile.Contents:
    cluster_id = _covered(store, clock)
    last_seq = store.last_before(since)
    if last_seq <= store.base.seq:
        since_text = format_instant(since)
        raise InvalidRequest(f"--before: the log holds no event of before {since_text}; nothing was moved")
    if out.exists():
        contents = eventfile.read_contents(out)
        if (contents.cluster_id, contents.before, contents.last_seq) != (cluster_id, store.base, last_seq):
            raise InvalidRequest(f"--out: {out} is another archive; name a file that is not there")
    else:
        contents = store.archive_to(out, last_seq, cluster_id)
    if problems := store.check_archive(out):
        raise BursarError(
            f"{out} does not hold what was written: {'; '.join(problems[:3])}; nothing was moved"
        )
    store.drop_archived(contents.base(out.name))
    return contents


def _covered(store: SqliteStore, clock: Clock) -> str:
    """See to an image of the state of now that has been read back; returns the cluster's id."""
    state = restore(store, Limits())
    if problems := [*store.verify(), *findings_of(state, store)]:
        raise BursarError(f"the books are not sound, so nothing was moved: {'; '.join(problems[:3])}")
    now = clock.now()
    store.save_snapshot(store.last_seq, state_image.encode(state, now))
    seq, kept = next(store.load().images)
    again = state_image.decode(kept, Limits())
    if seq != store.last_seq or _image(again, now) != _image(state, now):
        raise BursarError("an image of the state does not read back as it was; nothing was moved")
    return state.cluster_id


def _image(state: State, now: int) -> state_image.StateImage:
    # Read back: equal states may differ in spelling, since a default is left out by identity.
    return msgspec.json.decode(state_image.encode(state, now), type=state_image.StateImage)
