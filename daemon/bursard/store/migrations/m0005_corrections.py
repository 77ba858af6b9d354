"""Schema 5: a charge may say which one it corrects, and why.

Why     a month that was published stays as it was: what is wrong in it is taken back by a row with the
        amounts negated, and posted anew, both where the books are open. `corrections` keeps, once for these
        two and what the node's variance makes up, which event posted the charge that they correct, the time
        that it is for and the reason. What was written before corrects nothing: 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

_TABLES = (
    "create table corrections (id integer primary key, corrects integer not null, for_start integer not null,"
    " for_end integer not null, reason text not null) strict",
    "alter table charge_rows add column correction integer not null default 0",
    "create index idx_charge_rows_correction on charge_rows (start_at) where correction > 0",
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
    " coalesce(e.at, p.at, 0) as posted_at, c.correction, coalesce(k.corrects, 0) as corrects,"
    " coalesce(k.for_start, 0) as for_start, coalesce(k.for_end, 0) as for_end,"
    " coalesce(k.reason, '') as reason from charge_rows c"
    " left join sources s on s.id = c.source left join attributions a on a.id = c.attribution"
    " left join attempts t on t.id = c.attempt left join allocations l on l.id = c.allocation"
    " left join events e on e.seq = c.seq left join posted p on p.seq = c.seq"
    " left join corrections k on k.id = c.correction"
)


def apply(db: Database) -> None:
    """Make the table, let every row say what it corrects; the caller holds the transaction."""
    for sql in _TABLES:
        db.execute(sql)
    for verb in ("update", "delete"):
        db.execute(
            f"create trigger corrections_refuse_{verb} before {verb} on corrections begin "
            "select raise(abort, 'corrections is append-only: corrections are new rows'); end"
        )
    db.execute("drop view charges")
    db.execute(_VIEW)
