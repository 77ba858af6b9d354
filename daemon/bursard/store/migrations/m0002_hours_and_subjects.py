"""Schema 2: a charge row stands for an owner's hour, events are found by kind and subject, and indexes
hold what is looked for.

Why     `held_us`: within an hour an owner may hold something, then not, then again, so its row's first and
        last instant no longer say how long. Old rows are one piece each. `kind` and `subject` are read from
        the payload by SQLite itself, so they are stored in their indexes alone and cannot say anything else;
        the hash chain covers the payload as before. The tasks of an array are asked for by its number alone,
        and the kinds that every attempt has by their subject: the other indexes leave them out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

_REFUSE_UPDATE = (
    "create trigger charges_refuse_update before update on charges begin "
    "select raise(abort, 'charges is append-only: corrections are new rows'); end"
)

_JOBS_BY: tuple[tuple[str, ...], ...] = (
    ("name", "number"),
    # With array_index where a range is asked for: those are answered from the index alone.
    ("project", "number", "array_index"),
    ("user", "number"),
    ("experiment", "number"),
    ("model", "number"),
    ("submitted_at", "number", "array_index"),
    ("finished_at", "number", "array_index"),
)
"""What jobs that are no tasks are looked for by."""

_REPLACED = (
    "number",
    "name_number",
    "project_number_array_index",
    "user_number",
    "experiment_number",
    "model_number",
    "parent_id_array_index",
    "submitted_at_number",
    "finished_at_number",
)
_OPENING = (
    "substr(payload, 1, min(ifnull(nullif(instr(payload, x'5b'), 0), length(payload)),"
    " ifnull(nullif(instr(substr(payload, 2), x'7b'), 0), length(payload))))"
)
"""A payload up to its first inner array or object. SQLite's own JSON may not be used in an untrusted schema;
a name with its quotes is found in no text, whose quotes are escaped.
"""

_NAMES = ("job_id", "attempt_id", "machine_id", "node_id", "budget", "name")
"""What an event is about: the first of these that it says, as in `bursard.events.subject`."""


def _value(name: str) -> str:
    """The text that a payload's opening has for a name; empty when there is none."""
    needle = f'"{name}":"'.encode()
    rest = f"substr(opening, instr(opening, x'{needle.hex()}') + {len(needle)})"
    return (
        f"case when instr(opening, x'{needle.hex()}') > 0 "
        f"then cast(substr({rest}, 1, instr({rest}, x'22') - 1) as text) else '' end"
    )


_COLUMNS = (
    ("opening", "blob", _OPENING),
    ("kind", "text", _value("type")),
    ("subject", "text", "coalesce(" + "".join(f"nullif({_value(name)}, ''), " for name in _NAMES) + "'')"),
)
_RARE = "kind not in ('member-ended', 'member-started', 'node-metered')"


def apply(db: Database) -> None:
    """Add the columns, fill them for what is there, index them; the caller holds the transaction."""
    db.execute("drop trigger charges_refuse_update")
    db.table("charges").add_column("held_us", int, not_null_default=0)
    db.execute("update charges set held_us = end_at - start_at")
    db.execute(_REFUSE_UPDATE)
    for name, kind, value in _COLUMNS:
        db.execute(f"alter table events add column {name} {kind} generated always as ({value}) virtual")
    # An index ends with the row's own number, `seq`: each value is walked in log order.
    db.execute(f"create index idx_events_kind on events (kind) where {_RARE}")
    db.execute("create index idx_events_subject on events (subject)")
    _index_jobs(db)


def _index_jobs(db: Database) -> None:
    for name in _REPLACED:
        db.execute(f"drop index idx_jobs_{name}")
    db.execute(
        "create index idx_jobs_number_array_index on jobs (number, array_index) where array_index >= 0"
    )
    db.execute("create index idx_jobs_number on jobs (number) where array_index < 0")
    for columns in _JOBS_BY:
        names = ", ".join(f'"{column}"' for column in columns)
        db.execute(f"create index idx_jobs_{'_'.join(columns)} on jobs ({names}) where array_index < 0")
