"""Schema 4: a charge says what it is of, quantities beside money, and when it was posted.

Why     a report that knows amounts alone can only divide them by time and call the average a price. What a
        member holds does not change while it lives, so `allocations` keeps each share once, with the rates
        that it is valued at, and a charge names its own: held time times share is what was used, and rate
        times held time is what it costs. Of a node's own time it is the whole node at its cost rate.
Posted  when a row was written is when its event was committed; `posted` keeps that of events which were
        archived. Of those archived before, nobody knows it any more: 0.
Before  charges of members get the shares that the log says they were placed with, as far as it is there.
        Those of a node's own time have none: what was written before says no unit price.
Wide    what a job has cost may pass 64 bits: `nanos_high` counts what does not fit into `settled_nanos`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bursard.events import AttemptPlaced, decode
from bursard.store import notes

if TYPE_CHECKING:
    from sqlite_utils import Database

RATED_AFTER = "rated_after"
"""The note that says up to which event charges were written without allocations."""

_TABLES = (
    "create table allocations (id integer primary key, gpu_milli integer not null, devices integer not null,"
    " cpu_milli integer not null, memory_bytes integer not null, gpu_rate integer not null,"
    " cpu_rate integer not null, memory_rate integer not null,"
    " unique (gpu_milli, devices, cpu_milli, memory_bytes, gpu_rate, cpu_rate, memory_rate)) strict",
    "create table posted (seq integer primary key, at integer not null) strict",
    "alter table charge_rows add column allocation integer not null default 0",
    "alter table charge_rows add column energy_millijoules integer not null default 0",
    "alter table jobs add column nanos_high integer not null default 0",
)
_VIEW = (
    "create view charges as select c.rowid as id, c.seq, c.kind, s.node_id, s.node_name, s.pool,"
    " coalesce(t.attempt_id, '') as attempt_id, coalesce(t.job_id, '') as job_id, c.job_number, c.rank,"
    " c.start_at, c.start_at + c.span_us as end_at, c.held_us,"
    " c.nanos, c.gpu, c.cpu, c.memory, s.price_id, a.project, a.user, a.experiment, a.model,"
    " a.model_version, a.labels, s.simulated,"
    " coalesce(l.gpu_milli, 0) as gpu_milli, coalesce(l.devices, 0) as devices,"
    " coalesce(l.cpu_milli, 0) as cpu_milli, coalesce(l.memory_bytes, 0) as memory_bytes,"
    " coalesce(l.gpu_rate, 0) as gpu_rate, coalesce(l.cpu_rate, 0) as cpu_rate,"
    " coalesce(l.memory_rate, 0) as memory_rate, c.energy_millijoules,"
    " coalesce(e.at, p.at, 0) as posted_at from charge_rows c"
    " left join sources s on s.id = c.source left join attributions a on a.id = c.attribution"
    " left join attempts t on t.id = c.attempt left join allocations l on l.id = c.allocation"
    " left join events e on e.seq = c.seq left join posted p on p.seq = c.seq"
)
_COLUMNS = ("gpu_milli", "devices", "cpu_milli", "memory_bytes", "gpu_rate", "cpu_rate", "memory_rate")


def apply(db: Database) -> None:
    """Make the tables, say of what is there what it is of; the caller holds the transaction."""
    for sql in _TABLES:
        db.execute(sql)
    for table in ("allocations", "posted"):
        for verb in ("update", "delete"):
            db.execute(
                f"create trigger {table}_refuse_{verb} before {verb} on {table} begin "
                f"select raise(abort, '{table} is append-only: corrections are new rows'); end"
            )
    _backfill(db)
    db.execute("drop view charges")
    db.execute(_VIEW)


def _backfill(db: Database) -> None:
    ((seq,),) = db.execute("select coalesce(max(seq), 0) from head")
    if not seq:
        return
    notes.write(db.conn, RATED_AFTER, str(seq))
    db.execute("create temp table placed (attempt_id, rank, allocation, primary key (attempt_id, rank))")
    numbers: dict[tuple[int, ...], int] = {}
    placed = ((*member, _number(db, numbers, share)) for *member, share in _shares(db))
    db.conn.executemany("insert or ignore into temp.placed values (?, ?, ?)", placed)
    ((trigger,),) = db.execute("select sql from sqlite_schema where name = 'charge_rows_refuse_update'")
    db.execute("drop trigger charge_rows_refuse_update")
    db.execute(
        "update charge_rows set allocation = p.allocation from attempts t, temp.placed p"
        " where t.id = charge_rows.attempt and p.attempt_id = t.attempt_id and p.rank = charge_rows.rank"
        " and charge_rows.kind = 'usage'"
    )
    db.execute(trigger)
    db.execute("drop table temp.placed")


def _shares(db: Database) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Every member that was placed, and its share."""
    for (payload,) in db.execute("select payload from events where kind = 'attempt-placed' order by seq"):
        event = decode(payload)
        assert isinstance(event, AttemptPlaced)
        for one in event.members:
            rates = one.rates
            gpu_milli = sum(device.milli for device in one.devices)
            share = (gpu_milli, len(one.devices), one.cpu_milli, one.memory_bytes)
            yield event.attempt_id, one.rank, (*share, rates.gpu, rates.cpu, rates.memory)


def _number(db: Database, numbers: dict[tuple[int, ...], int], share: tuple[int, ...]) -> int:
    if share not in numbers:
        numbers[share] = len(numbers) + 1
        db.execute(
            f"insert into allocations (id, {', '.join(_COLUMNS)}) values (?, ?, ?, ?, ?, ?, ?, ?)",
            (numbers[share], *share),
        )
    return numbers[share]
