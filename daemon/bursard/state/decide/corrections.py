"""Decisions about charges that are posted: what is to be paid for them instead.

Why     what was charged stays charged (L2). Whoever signs for the books may say that another amount is owed,
        and why: each charge is reversed and posted anew in the open period, the budgets that cover the job
        now follow, and a hard one is not passed by a debt (B1).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from bursar import users
from bursar.errors import BudgetExceeded, InvalidRequest, NotFound, WrongState
from bursar.model import JobSpec, ShareRates
from bursar.model.check import check, quote
from bursar.money import format_nanos, split_largest_remainder
from bursard.events import Attribution, BudgetShift, ChargesCorrected, Corrected
from bursard.ledger import Parts, amended
from bursard.scheduler.text import at_least, at_most
from bursard.state.core import State
from bursard.state.decide.why import read_needed_reason

CHARGES_MAX: Final = 5_000
"""Of one correction: some megabytes of log."""
REASON_MAX: Final = 400
PPM: Final = 1_000_000
NANOS_MAX: Final = 1 << 61
"""Of one charge: what a row holds."""
_CHARGES_OF_EVENT: Final = 200


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """What charges of one member have in common; see `ChargesCorrected`."""

    job_id: str
    job_number: int
    attempt_id: str
    rank: int
    node_id: str
    node_name: str
    pool: str
    simulated: int
    price_id: str
    attribution: Attribution
    share: tuple[int, int, int, int]
    rates: ShareRates
    kind: str


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A charge that nothing has taken back. `of`: the event that posted it; the time is what it is for.

    `first_nanos`: what was metered, before any correction: what a share of it is a share of.
    """

    owner: Owner
    of: int
    start: int
    end: int
    held_us: int
    parts: Parts
    first_nanos: int
    energy_millijoules: int = 0

    @property
    def nanos(self) -> int:
        """What it is."""
        return sum(self.parts)


class Target(msgspec.Struct, frozen=True):
    """What charges are to be in all: so many nanos, or so many millionths of what was metered. Said twice, it
    changes nothing more.
    """

    nanos: int = 0
    ppm: int | None = None

    def of(self, whole: int) -> int:
        """In nanos, to the nearest."""
        return self.nanos if self.ppm is None else (whole * self.ppm * 2 + PPM) // (2 * PPM)


def check_reason(reason: str) -> str:
    """Why, as it is kept for ever. Raises `InvalidRequest`."""
    return read_needed_reason(reason, REASON_MAX, "it is shown in the statement")


def correct(
    state: State, standing: Sequence[Standing], target: Target, reason: str, now: int
) -> list[ChargesCorrected]:
    """The events by which charges sum to a target; none when they do.

    Raises:
        NotFound: there are none. InvalidRequest: too many, or an amount that cannot be.
        BudgetExceeded: a hard budget has no room for what is to be paid more.
    """
    _check_count(standing)
    ordered = sorted(standing, key=lambda one: (one.owner.attempt_id, one.owner.rank, one.start, one.of))
    amounts = _shared(ordered, target)
    now = max(now, state.closed.until)  # no clock that was set back books into a closed month
    events = list(_events(state, ordered, amounts, check_reason(reason), now))
    check_room(state, [shift for event in events for shift in event.budgets], "the correction")
    return events


class Retag(msgspec.Struct, frozen=True, kw_only=True):
    """Whom charges are for; None leaves a mark as it is. labels: an empty value takes one away."""

    project: str | None = None
    user: str | None = None
    experiment: str | None = None
    model: str | None = None
    model_version: str | None = None
    labels: Mapping[str, str] = {}

    def of(self, whose: Attribution) -> Attribution:
        """The same with the changes made."""
        marks = {key: value for key in _MARKS if (value := getattr(self, key)) is not None}
        labels = msgspec.json.decode(whose.labels, type=dict[str, str]) | dict(self.labels)
        kept = {key: labels[key] for key in sorted(labels) if labels[key]}
        text = msgspec.json.encode(kept).decode() if self.labels else whose.labels
        return msgspec.structs.replace(whose, **marks, labels=text)


_MARKS: Final = ("project", "user", "experiment", "model", "model_version")


def check_retag(asked: Retag) -> None:
    """Raises `InvalidRequest` with every mark that no job could have, or when nothing is to be changed."""
    marks = {key: value for key in _MARKS if (value := getattr(asked, key)) is not None}
    if not marks and not asked.labels:
        known = "--project, --user, --experiment, --model, --model-version or --label"
        raise InvalidRequest(f"retag: say what is to be another: {known}")
    found = [f"{key}: may not be empty" for key in ("project", "user") if marks.get(key) == ""]
    if (user := marks.pop("user", "")) and (wrong := users.problem_of(user)):
        found.append(f"user: {quote(user)} {wrong}")
    spec = JobSpec(**({"command": ("true",)} | marks), labels=tuple(sorted(asked.labels.items())))
    if "project" in marks and not marks["project"]:
        spec = msgspec.structs.replace(spec, project="default")
    found += [f"{'.'.join(map(str, one.path))}: {one.message}" for one in check(spec)]
    if found:
        raise InvalidRequest("; ".join(found))


def retag(
    state: State, standing: Sequence[Standing], asked: Retag, reason: str, now: int
) -> list[ChargesCorrected]:
    """The events by which charges are for somebody else, at the amounts that they have; none when they are.

    Each budget follows where `cost` does: what covers the charges as they were has settled less, what covers
    them as they are has settled more, both in their current periods, since the books are open there alone.

    Raises:
        NotFound: there are none. InvalidRequest: too many at once.
        BudgetExceeded: a hard budget has no room for what is moved to it.
    """
    _check_count(standing)
    ordered = sorted(standing, key=lambda one: (one.owner.attempt_id, one.owner.rank, one.start, one.of))
    now = max(now, state.closed.until)
    events: list[ChargesCorrected] = []
    for owner, ones in itertools.groupby(ordered, key=lambda one: one.owner):
        to = asked.of(owner.attribution)
        if to == owner.attribution:
            continue
        events += [_moved(state, owner, batch, to, reason, now) for batch in _batches(ones)]
    check_room(state, [shift for event in events for shift in event.budgets], "the retag")
    return events


def _batches(ones: Iterable[Standing]) -> Iterator[list[Standing]]:
    ones = iter(ones)
    while batch := list(itertools.islice(ones, _CHARGES_OF_EVENT)):
        yield batch


def _moved(
    state: State, owner: Owner, ones: Sequence[Standing], to: Attribution, reason: str, now: int
) -> ChargesCorrected:
    lines = [_line(one, one.parts) for one in ones]
    nanos = sum(one.nanos for one in ones)
    shifts = []
    for name, record in sorted(state.budgets.records.items()):
        more = state.budgets.covers(record, to) - state.budgets.covers(record, owner.attribution)
        if more * nanos:
            shifts.append(BudgetShift(name, record.period_start, more * nanos))
    made = _event(state, owner, lines, reason, now)
    return msgspec.structs.replace(made, budgets=tuple(shifts), moved_to=to)


def _line(one: Standing, instead: Parts) -> Corrected:
    return Corrected(one.of, one.start, one.end, one.held_us, *one.parts, *instead, one.energy_millijoules)


def _check_count(standing: Sequence[Standing]) -> None:
    if not standing:
        raise NotFound("there are no charges to correct: nothing was charged for it in that time")
    if len(standing) > CHARGES_MAX:
        raise InvalidRequest(
            f"these are {len(standing)} charges, more than {CHARGES_MAX} at once; name a shorter time, or one"
            " task of an array"
        )


def _shared(standing: Sequence[Standing], target: Target) -> Sequence[int]:
    """The new amount of each charge: shared as metered, or by the time where that was nothing."""
    whole = sum(one.first_nanos for one in standing)
    total = target.of(whole)
    if total < 0 or total > NANOS_MAX * len(standing):
        raise InvalidRequest("amount: charges are 0 or more, and no larger than a charge can be")
    weights = [one.first_nanos if whole else one.held_us for one in standing]
    amounts = split_largest_remainder(total, weights)
    if max(amounts) > NANOS_MAX:
        raise InvalidRequest("amount: that is more than one charge can be")
    return amounts


def _events(
    state: State, standing: Sequence[Standing], amounts: Sequence[int], reason: str, now: int
) -> Iterator[ChargesCorrected]:
    """By owner, so many charges each."""
    lines: list[Corrected] = []
    owner: Owner | None = None
    for one, nanos in zip(standing, amounts, strict=True):
        if owner is not None and (one.owner != owner or len(lines) == _CHARGES_OF_EVENT):
            yield _event(state, owner, lines, reason, now)
            lines = []
            owner = None
        if nanos != one.nanos:
            rates = one.owner.rates
            instead = amended(one.parts, nanos, (rates.gpu, rates.cpu, rates.memory))
            lines.append(_line(one, instead))
            owner = one.owner
    if owner is not None:
        yield _event(state, owner, lines, reason, now)


def _event(state: State, owner: Owner, lines: Sequence[Corrected], reason: str, now: int) -> ChargesCorrected:
    more = sum(line.more_nanos for line in lines)
    shifts = [
        BudgetShift(name, record.period_start, more)
        for name, record in sorted(state.budgets.records.items())
        if more and state.budgets.covers(record, owner.attribution)
    ]
    return ChargesCorrected(
        job_id=owner.job_id,
        job_number=owner.job_number,
        attempt_id=owner.attempt_id,
        rank=owner.rank,
        booked_at=now,
        node_id=owner.node_id,
        node_name=owner.node_name,
        pool=owner.pool,
        simulated=owner.simulated,
        price_id=owner.price_id,
        attribution=owner.attribution,
        share=owner.share,
        rates=owner.rates,
        reason=reason,
        charges=tuple(lines),
        budgets=tuple(shifts),
        kind=owner.kind,
    )


def check_room(state: State, shifts: Sequence[BudgetShift], what: str) -> None:
    """No hard budget may be passed by what is settled more in its current period. Raises `BudgetExceeded`."""
    more: dict[str, int] = {}
    for shift in shifts:
        record = state.budgets.records.get(shift.budget)
        if record is not None and record.hard and record.period_start == shift.period_start:
            more[shift.budget] = more.get(shift.budget, 0) + shift.nanos
    for name, nanos in more.items():
        record = state.budgets.records[name]
        room = state.budgets.room(record, state.ledger).room_nanos
        if nanos > max(room, 0):
            raise BudgetExceeded(
                f"budget {name} has no room for {what}: {at_least(nanos, state.currency)} more are to be"
                f" settled in it, {at_most(max(room, 0), state.currency)} are free; raise its limit first",
                {
                    "budget": name,
                    "needed": format_nanos(nanos),
                    "room": format_nanos(room),
                    "currency": state.currency,
                    "reason": "BudgetExhausted",
                },
            )


def refuse_running(display: str, ended: bool) -> None:
    """What still runs is charged by its own rates. Raises `WrongState`."""
    if not ended:
        raise WrongState(
            f"job {display} has not ended: what it is charged can be corrected when it has; until then"
            f" `bursar cancel {display}` or `bursar update {display}` change what it will cost"
        )
