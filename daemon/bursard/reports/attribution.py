"""Cost by team and by cost centre: charges told by the tables that were in force when they were used.

Why     nothing of a charge is written again when a team moves. What was published stays as it was told; what
        a later table says otherwise of it is a move: less of one owner and as much more of another one, in
        the month in which that table was applied. Moves sum to 0, so every total stays what it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec

from bursar.clock import DAY_US, HOUR_US, SECOND_US
from bursar_policies.attribution import (
    COST_CENTER,
    OWNED,
    TEAM,
    Attributions,
    Change,
    Owner,
    Work,
    at_hour,
    labels_of,
    owner_of,
)
from bursar_policies.specs import AttributionSpec
from bursard.ledger import PAID
from bursard.reports.period import month_text
from bursard.store import ChargeFilter, ChargeRow, ChargeSum, Dim, Offsets, Unposted, Views
from bursard.store.base import LABEL_PREFIX

REATTRIBUTED: Final = "reattributed"
"""The class of a move."""
_NOBODYS: Final = Owner("", "")
_REMEMBERED: Final = 10_000
_MARKS: Final = (Dim.PROJECT, Dim.USER, Dim.EXPERIMENT, Dim.MODEL)


class Reattributed(NamedTuple):
    """What a table moved: of which month, from whom to whom, when, by whom and why. `booked_at`: when that
    counts.
    """

    month: str
    before: Owner
    after: Owner
    nanos: int
    at: int
    by: str
    reason: str
    booked_at: int = 0


class _Part(NamedTuple):
    """Charges of one owner: what was asked for of them, and whom they are for."""

    sums: ChargeSum
    used_at: int
    work: Work


class _Moved(NamedTuple):
    change: Change
    booked_at: int
    part: _Part
    before: Owner
    after: Owner


def attributed_sums(
    views: Views,
    by: Sequence[str],
    query: ChargeFilter,
    unposted: Unposted,
    offsets: Offsets,
    tables: Attributions,
) -> tuple[list[ChargeSum], list[ChargeSum]]:
    """As `Views.charge_sums` does, also by `OWNED`: what was used, and what was moved. Keys may come several
    times. Moved are time and amounts of both sides, of no job: the last of the keys, which is the job.
    """
    asked = _Asked(views, by, unposted, offsets, tables)
    told = [
        asked.keyed(part.sums, owner_of(tables.told(span.since, part.used_at), part.work))
        for span in tables.spans(query.since, query.until)
        for part in asked.parts(_within(query, span.since, span.until), span.since)
    ]
    moved: list[ChargeSum] = []
    for one in asked.moved(query):
        sums = one.part.sums._replace(charges=0)
        for owner, sign in ((one.before, -1), (one.after, 1)):
            part = asked.keyed(_times(sums, sign), owner)
            moved.append(part._replace(keys=asked.booked(part.keys, one.booked_at)))
    return told, moved


def reattributed(
    views: Views, query: ChargeFilter, unposted: Unposted, tables: Attributions
) -> tuple[Reattributed, ...]:
    """What was moved in a time, by table and month, as people are told it."""
    asked = _Asked(views, (), unposted, (), tables)
    sums: dict[tuple[Change, str, Owner, Owner], int] = {}
    for one in asked.moved(query):
        key = (one.change, month_text(one.part.used_at), one.before, one.after)
        sums[key] = sums.get(key, 0) + one.part.sums.nanos
    return tuple(
        Reattributed(
            month,
            before,
            after,
            nanos,
            change.at,
            change.by,
            change.spec.reason if change.spec else "",
            max(change.at, change.open_since),
        )
        for (change, month, before, after), nanos in sums.items()
    )


class Owners:
    """Whose each charge is, one after another: by the table that tells of its hour."""

    def __init__(self, tables: Attributions) -> None:
        self._tables = tables
        self._told: dict[tuple[int, int], AttributionSpec] = {}
        self._found: dict[tuple[object, ...], Owner] = {}

    def of(self, charge: ChargeRow) -> Owner:
        """Of one that jobs pay; nobody's otherwise."""
        if charge.kind not in PAID:
            return _NOBODYS
        hour = charge.start_at - charge.start_at % HOUR_US
        used = charge.for_start - charge.for_start % HOUR_US if charge.corrects else hour
        spec = self._told.get((hour, used))
        if spec is None:
            if len(self._told) >= _REMEMBERED:
                self._told.clear()
            spec = self._told[hour, used] = self._tables.told(hour, used)
        work = charge.project, charge.user, charge.experiment, charge.model, charge.labels
        key = (id(spec), *work)
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            labels = {key: str(value) for key, value in json.loads(charge.labels).items()}
            found = self._found[key] = owner_of(spec, Work(*work[:4], labels))
        return found


class _Asked:
    """One question: what is asked of the store for it, and how its answers are read."""

    def __init__(
        self, views: Views, by: Sequence[str], unposted: Unposted, offsets: Offsets, tables: Attributions
    ) -> None:
        specs = [one.spec for one in tables.changes if one.spec is not None]
        self._views, self._by, self._unposted = views, tuple(by), unposted
        self._offsets, self._tables = offsets, tables
        self._plain = [dim for dim in by if dim not in OWNED]
        self._marks = [dim for dim in _MARKS if _is_named(dim, specs)]
        self._labels = labels_of(specs)
        labels = [LABEL_PREFIX + key for key in self._labels]
        self._dims = [*self._plain, *self._marks, *labels, Dim.CORRECTED_HOUR]

    def parts(self, query: ChargeFilter, since: int) -> Iterator[_Part]:
        """Charges of a stretch of hours that begins at an instant."""
        first, last = len(self._plain), len(self._plain) + len(self._marks)
        for sums in self._views.charge_sums(self._dims, query, self._unposted, self._offsets):
            marks = dict(zip(self._marks, map(str, sums.keys[first:last]), strict=True))
            said = zip(self._labels, map(str, sums.keys[last:-1]), strict=True)
            project, user, experiment, model = (marks.get(dim, "") for dim in _MARKS)
            work = Work(project, user, experiment, model, {key: value for key, value in said if value})
            used_at = int(sums.keys[-1]) or since
            yield _Part(sums._replace(keys=sums.keys[:first]), used_at, work)

    def moved(self, query: ChargeFilter) -> Iterator[_Moved]:
        """What tables of a time say otherwise of what was published."""
        for move in self._tables.moves(query.since, query.until):
            for since, until in move.cuts:
                for part in self.parts(_within(query, since, until), since):
                    before = owner_of(at_hour(move.before, part.used_at), part.work)
                    after = owner_of(at_hour(move.after, part.used_at), part.work)
                    if before != after:
                        yield _Moved(move.change, move.booked_at, part, before, after)

    def keyed(self, sums: ChargeSum, owner: Owner) -> ChargeSum:
        """With the keys that were asked for."""
        plain = iter(sums.keys)
        of = {TEAM: owner.team, COST_CENTER: owner.cost_center}
        return sums._replace(keys=tuple(of[dim] if dim in of else next(plain) for dim in self._by))

    def booked(self, keys: tuple[str | int, ...], at: int) -> tuple[str | int, ...]:
        """Keys of a move: of when it was booked, and of no job."""
        shown = at + next((ahead for since, ahead in reversed(self._offsets) if since <= at), 0)
        of: dict[str, str | int] = {
            Dim.HOUR: at - at % HOUR_US,
            Dim.DAY: shown - shown % DAY_US,
            Dim.MONTH: datetime.fromtimestamp(shown // SECOND_US, UTC).strftime("%Y-%m"),
            Dim.CLASS: REATTRIBUTED,
        }
        return (*(of.get(dim, key) for dim, key in zip(self._by[:-1], keys, strict=False)), "")


def _is_named(dim: Dim, specs: Iterable[AttributionSpec]) -> bool:
    return any(getattr(rule.scope, dim) for spec in specs for rule in spec.owners)


def _within(query: ChargeFilter, since: int, until: int) -> ChargeFilter:
    return msgspec.structs.replace(query, since=since, until=until)


def _times(sums: ChargeSum, sign: int) -> ChargeSum:
    return sums._replace(
        nanos=sign * sums.nanos,
        gpu=sign * sums.gpu,
        cpu=sign * sums.cpu,
        memory=sign * sums.memory,
        gpu_milli_us=sign * sums.gpu_milli_us,
        cpu_milli_us=sign * sums.cpu_milli_us,
        held_us=sign * sums.held_us,
        unpriced_us=sign * sums.unpriced_us,
    )
