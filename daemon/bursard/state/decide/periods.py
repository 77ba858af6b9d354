"""Decisions about months of the books: may one be closed, and what is known to be lacking in it.

Why     what finance signs reads the same for ever, so it is signed when all of it is known; or in spite of
        what is lacking, which then stands beside the signature by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bursar.clock import format_instant
from bursar.errors import WrongState
from bursar.words import plural
from bursard.events import PeriodClosed, PeriodSigned
from bursard.state.core import State

_NAMED_MAX = 20
"""Sentences of what is lacking; more are counted."""


def close(
    state: State,
    name: str,
    since: int,
    until: int,
    *,
    by: str,
    now: int,
    earlier: Sequence[str],
    lacking: Sequence[str],
    force: bool,
) -> list[PeriodClosed]:
    """Close a month; nothing when it is closed already.

    Args:
        earlier: open months before it that have charges. lacking: what the books themselves say it lacks.

    Raises:
        WrongState: it has not ended, it is not its turn, or without `force` something of it is not known.
    """
    if state.closed.named(name) is not None:
        return []
    if now < until:
        raise WrongState(f"{name} has not ended: it can be closed from {format_instant(until)} on")
    if until <= state.closed.until:
        raise WrongState(
            f"{name} is before {state.closed.all[-1].name}, which is closed: nothing enters it any more"
        )
    if earlier:
        raise WrongState(f"{earlier[0]} is open and has charges: months are closed in their order")
    missing = [*untold(state, until), *lacking]
    if missing and not force:
        told = "; ".join(missing[:_NAMED_MAX])
        more = f"; and {len(missing) - _NAMED_MAX} more" if len(missing) > _NAMED_MAX else ""
        raise WrongState(
            f"{name} cannot be closed yet: {told}{more}; wait for it, or close it in spite of that with"
            " --force: what is told later is then posted in the open month",
            {"period": name, "missing": told},
        )
    if len(missing) > _NAMED_MAX:
        missing[_NAMED_MAX:] = [f"and {len(missing) - _NAMED_MAX} more"]
    return [PeriodClosed(name=name, since=since, until=until, by=by, missing=tuple(missing))]


def untold(state: State, until: int) -> Iterator[str]:
    """Nodes and jobs that have not told all that was used before an instant."""
    for node in sorted(state.nodes.values(), key=lambda one: one.facts.name):
        if node.axis_start and node.axis_start < until and node.through < until:
            yield f"node {node.facts.name} has told its usage up to {format_instant(node.through)} alone"
    for _, attempt in sorted(state.attempts.items()):
        late = [
            member
            for member in attempt.members
            if member.report is None
            and not attempt.after  # it waits for another's share, and holds nothing yet
            and (member.started_at + member.charged_us if member.started_at else attempt.placed_at) < until
            and state.nodes[member.alloc.node_id].through >= until
        ]
        if late:
            display = state.jobs[attempt.job_id].display
            yield f"{plural(len(late), 'member')} of job {display} did not tell what was used until then"


def sign(
    state: State, name: str, *, hash: str, totals: Sequence[tuple[str, int]], charges: int
) -> list[PeriodSigned]:
    """Say what a closed month is, once."""
    closed = state.closed.named(name)
    if closed is None or closed.hash:
        return []
    return [PeriodSigned(name=name, of=closed.seq, hash=hash, totals=tuple(totals), charges=charges)]
