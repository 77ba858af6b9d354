"""Schema 3: a ledger transaction is one row, and what many charges share is written once.

Why     a budgeted task that ran had eight ledger lines, each with its account's name of 40 characters, and an
        index of these names. Its transactions are three rows now: the names of accounts stand in a table, the
        lines in one value (`store/legs.py`). What reports group charges by, who a charge is for and what it
        is of, is the same for most charges of a site: `attributions` and `sources` hold each such set once.
        An attempt and its job are written once too, or again after a restart: nothing looks for them.
Reads   go through the view `charges`, which has the columns that the table of that name had. A left join of a
        table by its key costs nothing where its columns are not asked for.
Also    a job's charges are found by its number, which all tasks of an array share; the end of an attempt is
        as common as its start, so the index on kinds leaves it out; and the index on subjects holds as much
        of an id as tells it from the others, and the number of a task.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bursard.store import legs

if TYPE_CHECKING:
    from sqlite_utils import Database

_TABLES = (
    "create table accounts (id integer primary key, name text not null unique) strict",
    "create table attributions (id integer primary key, project text not null, user text not null,"
    " experiment text not null, model text not null, model_version text not null, labels text not null,"
    " unique (project, user, experiment, model, model_version, labels)) strict",
    "create table sources (id integer primary key, node_id text not null, node_name text not null,"
    " pool text not null, simulated integer not null, price_id text not null,"
    " unique (node_id, node_name, pool, simulated, price_id)) strict",
    "create table attempts (id integer primary key, attempt_id text not null, job_id text not null) strict",
    "create table postings (seq integer not null, kind text not null, attempt integer not null,"
    " ref text not null, legs blob not null) strict",
    "create table charge_rows (seq integer not null, kind text not null, source integer not null,"
    " attribution integer not null, attempt integer not null, job_number integer not null,"
    " rank integer not null, start_at integer not null,"
    " span_us integer not null, held_us integer not null, nanos integer not null, gpu integer not null,"
    " cpu integer not null, memory integer not null) strict",
)
_VIEW = (
    "create view charges as select c.rowid as id, c.seq, c.kind, s.node_id, s.node_name, s.pool,"
    " coalesce(t.attempt_id, '') as attempt_id, coalesce(t.job_id, '') as job_id, c.job_number, c.rank,"
    " c.start_at, c.start_at + c.span_us as end_at, c.held_us,"
    " c.nanos, c.gpu, c.cpu, c.memory, s.price_id, a.project, a.user, a.experiment, a.model,"
    " a.model_version, a.labels, s.simulated from charge_rows c"
    " left join sources s on s.id = c.source left join attributions a on a.id = c.attribution"
    " left join attempts t on t.id = c.attempt"
)
_INDEXES = (
    "create index idx_charge_rows_start_at on charge_rows (start_at)",
    "create index idx_charge_rows_attribution_start_at on charge_rows (attribution, start_at)",
    "create index idx_charge_rows_job_number on charge_rows (job_number) where job_number > 0",
    # An index ends with the row's own number, `seq`: each value is walked in log order.
    "create index idx_events_brief on events (brief)",
    "create index idx_events_kind on events (kind)"
    " where kind not in ('attempt-ended', 'member-ended', 'member-started', 'node-metered')",
)
_APPEND_ONLY = ("accounts", "attempts", "attributions", "sources", "postings", "charge_rows")
_DOT = "instr(subject || '.', '.')"
_BRIEF = f"substr(substr(subject, 1, {_DOT} - 1), 5, 8) || substr(subject, {_DOT})"


def apply(db: Database) -> None:
    """Make the tables, move what is there; the caller holds the transaction."""
    for sql in _TABLES:
        db.execute(sql)
    _move_charges(db)
    _move_entries(db)
    for table in ("charges", "entries"):
        db.execute(f"drop table {table}")
    for index in ("kind", "subject"):
        db.execute(f"drop index idx_events_{index}")
    db.execute(f"alter table events add column brief text generated always as ({_BRIEF}) virtual")
    for sql in (_VIEW, *_INDEXES):
        db.execute(sql)
    for name in _APPEND_ONLY:
        for verb in ("update", "delete"):
            db.execute(
                f"create trigger {name}_refuse_{verb} before {verb} on {name} begin "
                f"select raise(abort, '{name} is append-only: corrections are new rows'); end"
            )


def _move_charges(db: Database) -> None:
    """Every row with its own number, so that they stay in the order of writing."""
    sources = "node_id, node_name, pool, simulated, price_id"
    attributions = "project, user, experiment, model, model_version, labels"
    for table, columns in (("sources", sources), ("attributions", attributions)):
        db.execute(
            f"insert into {table} ({columns}) select {columns} from charges group by {columns}"
            " order by min(rowid)"
        )
    db.execute(
        "insert into attempts (attempt_id, job_id) select attempt_id, job_id from charges"
        " where attempt_id <> '' group by attempt_id, job_id order by min(rowid)"
    )
    db.execute("create temp table written as select id, attempt_id, job_id from attempts")
    db.execute("create index temp.of_attempt on written (attempt_id, job_id)")
    db.execute(
        "insert into charge_rows (rowid, seq, kind, source, attribution, attempt, job_number, rank, start_at,"
        " span_us, held_us, nanos, gpu, cpu, memory)"
        " select c.rowid, c.seq, c.kind, s.id, a.id, coalesce(t.id, 0), c.job_number, c.rank, c.start_at,"
        " c.end_at - c.start_at, c.held_us, c.nanos, c.gpu, c.cpu, c.memory from charges c"
        " join sources s using (node_id, node_name, pool, simulated, price_id)"
        " join attributions a using (project, user, experiment, model, model_version, labels)"
        " left join written t on t.attempt_id = c.attempt_id and t.job_id = c.job_id"
        " order by c.rowid"
    )
    db.execute("drop table temp.written")


def _move_entries(db: Database) -> None:
    """Lines that followed each other under one event, kind and subject become one posting."""
    db.execute(
        "insert into accounts (name) select account from entries where account not like 'job/%'"
        " group by account order by min(rowid)"
    )
    ids: dict[str, int] = {name: number for number, name in db.execute("select id, name from accounts")}
    lines = db.execute("select seq, tx_kind, ref, account, nanos from entries order by rowid")

    def postings() -> Iterator[tuple[Any, ...]]:
        for key, group in itertools.groupby(lines, key=lambda line: line[:3]):
            seq, kind, ref = key
            yield seq, kind, 0, ref, legs.pack([(account, nanos) for *_, account, nanos in group], ids)

    db.conn.executemany("insert into postings values (?, ?, ?, ?, ?)", postings())
    db.execute("update head set entries = (select count(*) from postings)")
