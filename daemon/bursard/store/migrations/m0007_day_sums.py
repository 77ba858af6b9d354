"""Schema 7: what charges of a day sum to is kept, so that a report of a month need not read every hour.

Why     a month of 200 nodes is 288,000 charges, and each of them was read for each table of `cost`. Of one
        attempt, or one node's own time, all hours of a day differ in their amounts alone: `day_sums` has one
        row for them. It follows from `charge_rows` and from nothing else, and an audit compares the two.
Batches rows of charges only grow, so a batch stands for the rows after those of the batch before, up to
        `upto`, which events up to `seq` made. A day may be in several batches: sums of sums.
Wide    a sum may pass 64 bits where its parts do not: its upper and its lower 32 bits are summed apart.
Fill    nothing is filled here: the running daemon takes old rows batch by batch, as it takes new ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

_TABLES = (
    "create table day_batches (id integer primary key, seq integer not null, upto integer not null) strict",
    "create table day_sums (batch integer not null, day integer not null, kind text not null,"
    " source integer not null, attribution integer not null, attempt integer not null,"
    " job_number integer not null, allocation integer not null, correction integer not null,"
    " posted_at integer not null, count integer not null, held_us integer not null,"
    " nanos_high integer not null, nanos_low integer not null, gpu_high integer not null,"
    " gpu_low integer not null, cpu_high integer not null, cpu_low integer not null,"
    " memory_high integer not null, memory_low integer not null) strict",
    "create index idx_day_sums_day on day_sums (day)",
)
_VIEW = (
    "create view charge_days as select d.batch, d.day as start_at, d.kind, s.node_id, s.node_name, s.pool,"
    " coalesce(t.attempt_id, '') as attempt_id, coalesce(t.job_id, '') as job_id, d.job_number, d.count,"
    " d.held_us, d.nanos_high, d.nanos_low, d.gpu_high, d.gpu_low, d.cpu_high, d.cpu_low, d.memory_high,"
    " d.memory_low, s.price_id, a.project, a.user, a.experiment, a.model, a.model_version, a.labels,"
    " s.simulated, coalesce(l.gpu_milli, 0) as gpu_milli, coalesce(l.cpu_milli, 0) as cpu_milli,"
    " d.posted_at, d.correction, coalesce(k.corrects, 0) as corrects,"
    " coalesce(k.for_start, 0) as for_start, coalesce(k.reason, '') as reason from day_sums d"
    " left join sources s on s.id = d.source left join attributions a on a.id = d.attribution"
    " left join attempts t on t.id = d.attempt left join allocations l on l.id = d.allocation"
    " left join corrections k on k.id = d.correction"
)


def apply(db: Database) -> None:
    """Make the tables, empty; the caller holds the transaction."""
    for sql in (*_TABLES, _VIEW):
        db.execute(sql)
