"""Corrections as asked for: which charges of a job stand, what they are to be, and what follows.

Why     charges are read in a thread and decided on in the loop. Between the two somebody else may have
        corrected them, so what was read counts only while nothing was: else it is read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

from bursar.codec.amounts import put_amounts
from bursar.errors import InvalidRequest, RateLimited
from bursar.model import ShareRates
from bursar.v1 import money_pb2 as pb
from bursard.access.authorize import Action, authorize
from bursard.access.identity import caller
from bursard.engine import Engine
from bursard.events import Attribution, BudgetShift, ChargesCorrected
from bursard.ledger import PAID
from bursard.services.known import refuse_unknown_project, refuse_unknown_user
from bursard.services.lookup import find_job
from bursard.services.unseen import may_see
from bursard.state import JobRecord
from bursard.state.admission import check_currency
from bursard.state.decide import corrections as decide
from bursard.state.decide import policies
from bursard.state.decide.corrections import CHARGES_MAX, Owner, Standing, Target
from bursard.store import ChargeFilter, ChargeRow, Views

_ROWS_MAX = 20 * CHARGES_MAX
"""Rows of a job that are looked at for the charges of a time."""
_TRIES = 5


async def correct(engine: Engine, request: pb.CorrectRequest) -> pb.CorrectResponse:
    """Correct what a job was charged, or with `dry_run` say what would be. Durable before the answer.

    Raises `Forbidden`, `NotFound`, `WrongState`, `InvalidRequest`, `BudgetExceeded`.
    """
    if request.HasField("retag"):
        return await _retag(engine, request)
    target = _target(engine, request)
    reason = decide.check_reason(request.reason)
    if request.until and request.until <= request.since:
        raise InvalidRequest("until: must be after since")
    job = await find_job(engine, request.job)
    authorize(Action.CORRECT_BOOKS, job.spec.project, what=f"job {job.display}")
    decide.refuse_running(job.display, job.state.terminal)
    standing = await _read(engine, job, request.since, request.until)
    now = _rolled(engine)
    events = decide.correct(engine.state, standing, target, reason, now)
    if events and not request.dry_run:
        await engine.durable(engine.commit(events, caller().name))
    before = sum(one.nanos for one in standing)
    more = sum(line.more_nanos for event in events for line in event.charges)
    return _booked(engine, job, events, before, before + more)


async def _retag(engine: Engine, request: pb.CorrectRequest) -> pb.CorrectResponse:
    """Have what a job was charged be for somebody else. As `correct`; both sides must be the caller's."""
    if request.HasField("amount") or request.HasField("to_ppm"):
        raise InvalidRequest("retag: moves the charges as they are; correct the amount by another call")
    asked = _asked(request.retag)
    decide.check_retag(asked)
    reason = f"{RETAG} {decide.check_reason(request.reason)}"
    if request.until and request.until <= request.since:
        raise InvalidRequest("until: must be after since")
    job = await find_job(engine, request.job)
    authorize(Action.CORRECT_BOOKS, job.spec.project, what=f"job {job.display}")
    if asked.project is not None:
        authorize(Action.CORRECT_BOOKS, asked.project, what=f"project {asked.project}")
        await refuse_unknown_project(engine, asked.project, Action.CORRECT_BOOKS)
    if asked.user is not None:
        await refuse_unknown_user(engine, asked.user)
    decide.refuse_running(job.display, job.state.terminal)
    standing = await _read(engine, job, request.since, request.until)
    for project in {one.owner.attribution.project for one in standing}:
        authorize(Action.CORRECT_BOOKS, project, what=f"charges of job {job.display}")
    events = decide.retag(engine.state, standing, asked, reason, _rolled(engine))
    if events and not request.dry_run:
        await engine.durable(engine.commit(events, caller().name))
    moved = sum(line.gpu + line.cpu + line.memory for event in events for line in event.charges)
    return _booked(engine, job, events, moved, moved)


def _booked(
    engine: Engine, job: JobRecord, events: Sequence[ChargesCorrected], before_nanos: int, after_nanos: int
) -> pb.CorrectResponse:
    """What was, or would be, posted."""
    shifts = _summed(shift for event in events for shift in event.budgets)
    found = pb.CorrectResponse(
        job_id=job.id,
        charges=sum(len(event.charges) for event in events),
        currency=engine.state.currency,
        booked_at=events[0].booked_at if events else 0,
        budgets=[_shift(one) for one in shifts if may_see(engine.state, one.budget, caller())],
    )
    put_amounts(found, before_nanos=before_nanos, after_nanos=after_nanos)
    return found


RETAG = "retag:"
"""Before the reason, wherever it is shown."""


def _asked(wire: pb.Retag) -> decide.Retag:
    marks = {key: getattr(wire, key) for key in _MARKS if wire.HasField(key)}
    if "project" in marks:
        marks["project"] = marks["project"].lower()
    return decide.Retag(**marks, labels=dict(wire.labels))


_MARKS: Final[tuple[Literal["project", "user", "experiment", "model", "model_version"], ...]] = (
    "project", "user", "experiment", "model", "model_version",
)  # fmt: skip


def _target(engine: Engine, request: pb.CorrectRequest) -> Target:
    if request.HasField("amount") == request.HasField("to_ppm"):
        raise InvalidRequest(
            "amount: say what the charges are to be, as an amount or in percent: one of them"
        )
    if request.HasField("to_ppm"):
        return Target(ppm=request.to_ppm)
    check_currency(engine.state, request.currency, "amount")
    digits = request.amount.nanos
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 60):
        raise InvalidRequest("amount: is not a whole number of nanos, 0 or more")
    return Target(nanos=int(digits))


def _rolled(engine: Engine) -> int:
    """Now: budgets whose period has ended enter theirs first, or they would miss what is booked in it."""
    now = engine.now()
    if engine.state.due(now):
        engine.commit(policies.roll_periods(engine.state, now), "bursard")
    return now


async def _read(engine: Engine, job: JobRecord, since: int, until: int) -> list[Standing]:
    """The charges of a job that stand, as of what the state is now."""

    def read(views: Views) -> list[Standing]:
        ids = (job.id,) if job.parent_id else ()
        query = ChargeFilter(since=since, kinds=PAID, job_number=job.number, job_ids=ids)
        return standing(views.charges(query), since, until)

    for _ in range(_TRIES):
        seen = engine.state.adjusted
        await engine.durable()
        found = await engine.read(read)
        if engine.state.adjusted == seen:
            return found
    raise RateLimited("the books are being corrected by others all the time; try again")


class _Key(NamedTuple):
    attempt_id: str
    rank: int
    start: int


def standing(rows: Iterable[ChargeRow], since: int = 0, until: int = 0) -> list[Standing]:
    """Of a job's usage, what nothing has taken back, of the time asked for. Raises `InvalidRequest`."""
    first: dict[_Key, int] = {}
    posted: dict[tuple[int, _Key], ChargeRow] = {}
    taken: set[tuple[int, _Key]] = set()
    for count, row in enumerate(rows):
        if count >= _ROWS_MAX:
            raise InvalidRequest(f"the job has more than {_ROWS_MAX} charges; name one task, or a later time")
        key = _Key(row.attempt_id, row.rank, row.used_from)
        if row.held_us < 0:
            taken.add((row.corrects, key))
            continue
        posted[row.seq, key] = row
        if not row.reason:
            first[key] = row.nanos
    return [
        _standing(row, first.get(key, row.nanos))
        for (seq, key), row in posted.items()
        if (seq, key) not in taken and since <= key.start and (not until or key.start < until)
    ]


def _standing(row: ChargeRow, first_nanos: int) -> Standing:
    owner = Owner(
        job_id=row.job_id,
        job_number=row.job_number,
        attempt_id=row.attempt_id,
        rank=row.rank,
        node_id=row.node_id,
        node_name=row.node_name,
        pool=row.pool,
        simulated=row.simulated,
        price_id=row.price_id,
        attribution=attribution_of(row),
        share=(row.gpu_milli, row.devices, row.cpu_milli, row.memory_bytes),
        rates=ShareRates(row.gpu_rate, row.cpu_rate, row.memory_rate),
        kind=row.kind,
    )
    return Standing(
        owner=owner,
        of=row.seq,
        start=row.used_from,
        end=row.used_until,
        held_us=row.held_us,
        parts=(row.gpu, row.cpu, row.memory),
        first_nanos=first_nanos,
        energy_millijoules=row.energy_millijoules,
    )


def attribution_of(row: ChargeRow) -> Attribution:
    """Whom a row is for."""
    return Attribution(row.project, row.user, row.experiment, row.model, row.model_version, row.labels)


def _summed(shifts: Iterable[BudgetShift]) -> Sequence[BudgetShift]:
    found: dict[tuple[str, int], int] = {}
    for one in shifts:
        found[one.budget, one.period_start] = found.get((one.budget, one.period_start), 0) + one.nanos
    return [BudgetShift(name, start, nanos) for (name, start), nanos in found.items() if nanos]


def _shift(shift: BudgetShift) -> pb.BudgetShift:
    wire = pb.BudgetShift(budget=shift.budget, period_start=shift.period_start)
    put_amounts(wire, nanos=shift.nanos)
    return wire
