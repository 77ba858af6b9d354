"""Questions as SQL: constant fragments and bound values, nothing else.

Why     a name or label typed by a user never becomes SQL text; dimensions come from a closed table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from bursar.clock import DAY_US, HOUR_US, SECOND_US
from bursard.store.base import (
    ADJUSTMENTS,
    LABEL_PREFIX,
    LATE_AFTER_US,
    ChargeFilter,
    ChargeRow,
    Dim,
    EventFilter,
    EventRow,
    JobFilter,
    JobRow,
    KeyRow,
    Offsets,
    Unposted,
    check_dims,
)

Value = str | int | bytes

TABLES: dict[str, tuple[str, ...]] = {
    "events": (*EventRow._fields, "hash"),
    "jobs": (*JobRow._fields, "nanos_high"),
    "charges": ChargeRow._fields,
    "charge_rows": (
        *("seq", "kind", "source", "attribution", "attempt", "job_number", "rank", "start_at", "span_us"),
        *("held_us", "nanos", "gpu", "cpu", "memory", "allocation", "energy_millijoules", "correction"),
    ),
    "postings": ("seq", "kind", "attempt", "ref", "legs"),
    "keys": KeyRow._fields,
}
"""Columns, in order. `charges` is a view of `charge_rows` and what these share; its `id` is their row."""

_LOW_BITS = 62
"""Of what a job has cost, in `settled_nanos`; `nanos_high` counts the rest, so that no cost is too large."""


def job_of(values: Sequence[Any]) -> JobRow:
    """A row of `jobs` as it is read."""
    row = JobRow._make(values[:-1])
    high = values[-1]
    return row._replace(settled_nanos=row.settled_nanos + (high << _LOW_BITS)) if high else row


def job_values(row: JobRow) -> tuple[Any, ...]:
    """A row of `jobs` as it is written."""
    nanos = row.settled_nanos
    if 0 <= nanos < 1 << _LOW_BITS:
        return (*row, 0)
    low, high = nanos & ((1 << _LOW_BITS) - 1), nanos >> _LOW_BITS
    return (*row._replace(settled_nanos=low), high)


WRITTEN = ("events", "jobs", "charge_rows", "postings", "keys")


def columns(table: str) -> str:
    """Column names in row order; quoted, since `user` and `key` are words of SQL elsewhere."""
    return ", ".join(f'"{name}"' for name in TABLES[table])


EVENT_COLUMNS = ", ".join(f'"{name}"' for name in EventRow._fields)
CHAINED_COLUMNS = EVENT_COLUMNS + ', "hash"'
"""What the hash chain covers, and the hash."""

_DIMS: dict[str, str] = {
    Dim.KIND: "kind",
    Dim.NODE: "node_name",
    Dim.NODE_ID: "node_id",
    Dim.POOL: "pool",
    Dim.JOB: "job_id",
    Dim.JOB_NUMBER: "job_number",
    Dim.ATTEMPT: "attempt_id",
    Dim.PRICE: "price_id",
    Dim.PROJECT: "project",
    Dim.USER: '"user"',
    Dim.EXPERIMENT: "experiment",
    Dim.MODEL: "model",
    Dim.MODEL_VERSION: "model_version",
    Dim.SIMULATED: "simulated",
    Dim.CLASS: (
        "case when corrects > 0 and reason <> '' then 'correction' when corrects > 0 or posted_at >= "
        f"strftime('%s', start_at / {SECOND_US}, 'unixepoch', 'start of month', '+1 month') * {SECOND_US}"
        f" + {LATE_AFTER_US} then 'late' else 'metered' end"
    ),
    Dim.USED_DAY: (
        "case when corrects > 0 then for_start else start_at end"
        f" - case when corrects > 0 then for_start else start_at end % {DAY_US}"
    ),
    Dim.CORRECTED_HOUR: f"case when corrects > 0 then for_start - for_start % {HOUR_US} else 0 end",
    Dim.HOUR: f"start_at - start_at % {HOUR_US}",
}
_LOCAL_DIMS: dict[str, str] = {
    Dim.DAY: f"{{0}} - {{0}} % {DAY_US}",
    Dim.MONTH: f"strftime('%Y-%m', {{0}} / {SECOND_US}, 'unixepoch')",
}
"""Of an instant as the clocks of a place show it."""
_NO_TASK = "array_index < 0"
"""The condition of the indexes on jobs, word for word; those of tasks are found by number and index."""

COMMON = ("attempt-ended", "member-ended", "member-started", "node-metered")
"""Kinds that every attempt or minute has: no index holds them, and the log is walked for them."""

NAMING_NODES = ("attempt-placed", "machine-joined", "node-misbehaved")
"""Kinds that name a node and may be about something else."""

RARE = "kind not in ('attempt-ended', 'member-ended', 'member-started', 'node-metered')"
"""The condition of the index on kinds, word for word, or SQLite does not use it (`migrations`)."""

_KIND = f"kind = ? and {RARE}"
_KIND_IN_LOG = "+kind = ?"
_LABEL = "coalesce((select value from json_each(labels) where json_each.key = ?), '')"


class Where:
    """Conditions that must all hold, with their values in order."""

    def __init__(self) -> None:
        self._clauses: list[str] = []
        self.values: list[Value] = []

    def add(self, clause: str, *values: Value) -> None:
        """One more condition; a `?` for each value."""
        self._clauses.append(clause)
        self.values += values

    def equal(self, column: str, value: str) -> None:
        """`column = value`, unless the value is empty: then anything."""
        if value:
            self.add(f"{column} = ?", value)

    def any_of(self, expression: str, values: Sequence[str]) -> None:
        """One of the values; one bound list, however long."""
        if values:
            self.add(f"{expression} in (select value from json_each(?))", json.dumps(list(values)))

    def below(self, column: str, path: str, holds: str = "") -> None:
        """The path itself or anything under it (`0` is the character after `/`).

        `holds`: the condition of a partial index on the column, which SQLite looks for beside each of the two
        alternatives.
        """
        if path := path.lower():
            both = holds and f"{holds} and "
            clause = f"(({both}{column} = ?) or ({both}{column} >= ? and {column} < ?))"
            self.add(clause, path, path + "/", path + "0")

    def within(self, column: str, paths: Sequence[str]) -> None:
        """Any of the paths or anything under them; one bound list, however long."""
        if paths:
            self.add(
                f"exists (select 1 from json_each(?) where lower({column}) = value"
                f" or (lower({column}) >= value || '/' and lower({column}) < value || '0'))",
                json.dumps(list(paths)),
            )

    def labels(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Each pair among the row's labels."""
        for key, value in pairs:
            self.add(
                "exists (select 1 from json_each(labels) where json_each.key = ? and value = ?)",
                key,
                value,
            )

    def __str__(self) -> str:
        return " where " + " and ".join(self._clauses) if self._clauses else ""


def where_jobs(query: JobFilter) -> Where:
    """Conditions of `ls`."""
    where = Where()
    if query.parent_id:
        # Its number, read from any of its tasks: by number and index they are in order.
        where.add(
            "number = (select number from jobs where id > ? and id < ? limit 1)", *_tasks_of(query.parent_id)
        )
        where.add("array_index >= 0 and parent_id = ?", query.parent_id)
    else:
        where.add(_NO_TASK)
    where.any_of("state", query.states)
    where.below("project", query.project, "" if query.parent_id else _NO_TASK)
    where.within("project", query.within)
    where.equal('"user"', query.user)
    where.equal("experiment", query.experiment)
    where.equal("model", query.model)
    where.equal("name", query.name)
    where.labels(query.labels)
    # The least number ends the walk down the numbers early; `+` has it read from the index on
    # the time alone rather than by walking the numbers up.
    if query.ended_since:
        where.add("finished_at >= ?", query.ended_since)
        if not query.parent_id:
            oldest = f"select min(+number) from jobs where finished_at >= ? and {_NO_TASK}"
            where.add(f"number >= ({oldest})", query.ended_since)
    if query.cursor is not None:
        number, index = query.cursor
        where.add("number <= ? and (number < ? or array_index > ?)", number, number, index)
    return where


def event_walks(after_seq: int, query: EventFilter, before_seq: int = 0) -> list[Where]:
    """Conditions of `events`, as walks that an index has in log order: their rows are to be merged.

    One value of an indexed column each; a list of values would have all their rows sorted for each page.

    Args:
        before_seq: only events before this one; 0 for all.
    """
    if query.about:
        walks = [
            _walk("brief = ? and subject = ?", brief(about), about)
            for about in (query.about, *query.or_about)
        ]
        start, end = _tasks_of(query.about)
        short = brief(start)
        # A range of the index is not in log order, so SQLite would rather walk the whole log for it.
        tasks = "seq in (select seq from events where brief > ? and brief < ? and +seq > ?)"
        walks.append(_walk(tasks, short, short[:-1] + "/", after_seq))
        walks[-1].add("subject > ? and subject < ?", start, end)
    elif query.placed_on:
        walks = []
    else:
        walks = [_walk(_KIND_IN_LOG if kind in COMMON else _KIND, kind) for kind in query.kinds] or [Where()]
    for where in walks:
        where.add("seq > ?", after_seq)
        where.equal("actor", query.actor)
        if query.about:
            where.any_of("+kind", query.kinds)
    if query.placed_on:
        # A name with its quotes is found in no text, whose quotes are escaped.
        member = f'"node_id":"{query.placed_on}"'.encode()
        named = f"{_KIND} and instr(payload, ?) > 0 and +subject <> ? and seq > ?"
        walks += [_walk(named, kind, member, query.placed_on, after_seq) for kind in NAMING_NODES]
    for where in walks:
        if query.since:
            where.add("at >= ?", query.since)
        if before_seq:
            where.add("seq < ?", before_seq)
    return walks


def _tasks_of(job_id: str) -> tuple[str, str]:
    """The ids of its tasks lie between these: `job_1.0` and so on (`/` is the character after `.`)."""
    return job_id + ".", job_id + "/"


def brief(subject: str) -> str:
    """What the index on subjects holds of one: the column `brief` of `events`, as SQLite computes it."""
    whole, dot, index = subject.partition(".")
    return whole[4:12] + dot + index


def _walk(clause: str, *values: Value) -> Where:
    where = Where()
    where.add(clause, *values)
    return where


def where_charges(query: ChargeFilter) -> Where:
    """Conditions of `cost` and the reports."""
    where = Where()
    if query.since:
        where.add("start_at >= ?", query.since)
    if query.until:
        where.add("start_at < ?", query.until)
    where.any_of("job_id", query.job_ids)
    where.any_of("kind", query.kinds)
    if query.job_number:
        # Nobody's charges have no number, and no place in the index.
        where.add("job_number = ? and job_number > 0", query.job_number)
    where.equal("attempt_id", query.attempt_id)
    where.equal("node_name", query.node)
    where.equal("pool", query.pool)
    where.below("project", query.project)
    where.within("project", query.within)
    where.equal('"user"', query.user)
    where.equal("experiment", query.experiment)
    where.equal("model", query.model)
    where.labels(query.labels)
    if query.after_seq:
        where.add("seq > ?", query.after_seq)
    if query.corrections:
        where.add("correction > 0")  # as the index on them says
    if query.simulated is not None:
        where.add("simulated = ?", int(query.simulated))
    return where


def unposted(query: ChargeFilter, open_hours: Unposted) -> tuple[str, list[Value]]:
    """Those of the open hours that are asked for, by start. They come as one bound JSON text, so that the
    same conditions pick among them as among the rows.
    """
    where = where_charges(query)
    text = f"select {columns('charges')} from ({_OPEN}){where} order by start_at"
    return text, [json.dumps(open_hours.rows), *where.values]


_OPEN = (
    "select "
    + ", ".join(f"json_extract(value, '$[{i}]') as \"{name}\"" for i, name in enumerate(ChargeRow._fields))
    + f", json_extract(value, '$[{ChargeRow._fields.index('corrects')}]') as correction from json_each(?)"
)


_USED = "case kind when 'usage' then {} * held_us else 0 end"
_TIMED = f"case when kind in {ADJUSTMENTS} then 0 else held_us end"
_UNPRICED = f"case when price_id = '' then {_TIMED} else 0 end"


def wide_parts(column: str) -> tuple[str, str]:
    """A number as its upper and its lower 32 bits: SQLite refuses a sum that passes 64 bits, which money of a
    site can. `wide` puts the sums of both together.
    """
    return f"({column}) >> 32", f"({column}) & 4294967295"


def wide_sum(column: str) -> str:
    """A sum as two numbers, for `wide`."""
    return ", ".join(f"sum({part})" for part in wide_parts(column))


def wide(high: int, low: int) -> int:
    """The sum of the two parts of `wide_parts`, exact."""
    return (high << 32) + low


_USES = (*wide_parts(_USED.format("gpu_milli")), *wide_parts(_USED.format("cpu_milli")))
"""Of a node's own time the share is the whole node, which nobody used."""
_MONEY = ("nanos", "gpu", "cpu", "memory")
WIDE_SUMS = len(_MONEY) + 2
"""So many sums are told in two parts; after them: how many charges, how long, how long without a price."""
_OF_ROWS = (*(part for name in _MONEY for part in wide_parts(name)), *_USES, "1", _TIMED, _UNPRICED)
_ARRAY = "nullif(substr(job_id, 1, ifnull(nullif(instr(job_id, '.'), 0), 999) - 1), '')"
"""The job that a charge is of: of a task its array; null where it is nobody's."""
_OF_DAYS = (
    *(f"{name}_{part}" for name in _MONEY for part in ("high", "low")),
    *(*_USES, "count", _TIMED, _UNPRICED),
)


def _shown(offsets: Offsets) -> tuple[str, list[Value]]:
    """When a charge began, as the clocks of a place showed it."""
    if not offsets:
        return "start_at", []
    (_, first), *changes = offsets
    cases = "".join(" when start_at >= ? then ?" for _ in changes)
    values = [value for change in reversed(changes) for value in change]
    ahead = f"case{cases} else ? end" if changes else "?"
    return f"(start_at + {ahead})", [*values, first]


def _keys(by: Sequence[str], offsets: Offsets) -> tuple[list[str], list[Value]]:
    """What charges are grouped by, as expressions of their columns."""
    keys: list[str] = []
    values: list[Value] = []
    for dim in by:
        if dim in _DIMS:
            keys.append(_DIMS[dim])
        elif dim in _LOCAL_DIMS:
            shown, bound = _shown(offsets)
            keys.append(_LOCAL_DIMS[dim].format(shown))
            values += bound * _LOCAL_DIMS[dim].count("{0}")
        else:
            keys.append(_LABEL)
            values.append(dim.removeprefix(LABEL_PREFIX))
    return keys, values


class Summed(NamedTuple):
    """Up to which batch days are summed, and up to which row of charges that is."""

    batch: int
    upto: int


def goes_by_days(by: Sequence[str], query: ChargeFilter, offsets: Offsets) -> bool:
    """Can this be answered by sums of whole days of UTC? Of single jobs an index knows the few rows."""
    timed = Dim.HOUR in by or (bool(offsets) and not {Dim.DAY, Dim.MONTH}.isdisjoint(by))
    few = query.job_ids or query.job_number or query.attempt_id or query.after_seq or query.corrections
    first, last = _whole_days(query)
    return not timed and not few and (not last or first < last)


def _whole_days(query: ChargeFilter) -> tuple[int, int]:
    """From the first midnight of the window to its last one; 0: without an end."""
    return -(-query.since // DAY_US) * DAY_US, query.until // DAY_US * DAY_US


def sums(
    by: Sequence[str],
    query: ChargeFilter,
    open_hours: Unposted | None,
    offsets: Offsets = (),
    summed: Summed | None = None,
    count_jobs: bool = False,
) -> tuple[str, list[Value]]:
    """The grouped fold. `summed`: what may be taken of sums of days; else every row is read.
    `count_jobs`: how many there are is the last column.

    Raises `InvalidRequest` for a dimension there is none of.
    """
    check_dims(by)
    keys, bound = _keys(by, offsets)
    arms: list[str] = []
    values: list[Value] = []

    def arm(table: str, where: Where, sums: Sequence[str], before: Sequence[Value] = ()) -> None:
        told = (*keys, *sums, _ARRAY) if count_jobs else (*keys, *sums)
        names = ", ".join(f"{text} as v{at}" for at, text in enumerate(told))
        arms.append(f"select {names} from {table}{where}")
        values.extend((*bound, *before, *where.values))

    for where in _walks(query, open_hours, summed):
        arm("charges", where, _OF_ROWS)
    if summed is not None:
        first, last = _whole_days(query)
        where = where_charges(msgspec.structs.replace(query, since=first, until=last))
        where.add("batch <= ?", summed.batch)
        arm("charge_days", where, _OF_DAYS)
    if open_hours is not None and open_hours.rows:
        arm(f"({_OPEN})", where_charges(query), _OF_ROWS, [json.dumps(open_hours.rows)])
    numbers = ", ".join(str(position + 1) for position in range(len(keys)))
    found = [f"v{at}" for at in range(len(keys))]
    found += [f"sum(v{at})" for at in range(len(keys), len(keys) + len(_OF_ROWS))]
    if count_jobs:
        found.append(f"count(distinct v{len(found)})")
    text = f"select {', '.join(found)} from ({' union all '.join(arms)})"
    text += f" group by {numbers} order by {numbers}" if keys else " having count(*) > 0"
    return text, values


def _walks(query: ChargeFilter, open_hours: Unposted | None, summed: Summed | None) -> list[Where]:
    """The rows that are read one by one: all; or those after what is summed, and those of days in part."""
    if summed is None:
        walks = [where_charges(query)]
    else:
        first, last = _whole_days(query)
        after = where_charges(query)
        after.add("likelihood(id > ?, 0.000001)", summed.upto)
        walks = [after]
        edges = [(query.since, first)] if query.since < first else []
        edges += [(last, query.until)] if last < query.until else []
        for since, until in edges:
            edge = where_charges(msgspec.structs.replace(query, since=since, until=until))
            edge.add("+id <= ?", summed.upto)
            walks.append(edge)
    if open_hours is not None:
        for where in walks:
            where.add("seq <= ?", open_hours.seq)
    return walks


def inserts(table: str, rows: int) -> str:
    """One statement for `rows` rows: the interpreter lock is let go once, not once a row."""
    names = TABLES[table]
    one = "(" + ", ".join("?" * len(names)) + ")"
    verb = "insert or replace" if table == "jobs" else "insert"
    return f"{verb} into {table} ({columns(table)}) values " + ", ".join([one] * rows)
