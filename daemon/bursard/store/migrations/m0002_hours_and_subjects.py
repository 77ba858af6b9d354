"""Schema 2: a charge row stands for an owner's hour, and events are found by kind and subject.

Why     `held_us`: within an hour an owner may hold something, then not, then again, so its row's first and
        last instant no longer say how long. Old rows are one piece each. `kind` and `subject` repeat what
        the payload says, for the indexes; the hash chain covers the payload as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bursard.events.subject import subject_or_nothing

if TYPE_CHECKING:
    from sqlite_utils import Database

_REFUSE_UPDATE = (
    "create trigger {table}_refuse_update before update on {table} begin "
    "select raise(abort, '{table} is append-only: corrections are new rows'); end"
)


def apply(db: Database) -> None:
    """Add the columns, fill them for what is there, index them; the caller holds the transaction."""
    for table in ("events", "charges"):
        db.execute(f"drop trigger {table}_refuse_update")
    db.table("charges").add_column("held_us", int, not_null_default=0)
    db.execute("update charges set held_us = end_at - start_at")
    for column in ("kind", "subject"):
        db.table("events").add_column(column, str, not_null_default="")
    db.conn.create_function("kind_of", 1, lambda payload: subject_or_nothing(payload)[0])
    db.conn.create_function("subject_of", 1, lambda payload: subject_or_nothing(payload)[1])
    db.execute("update events set kind = kind_of(payload), subject = subject_of(payload)")
    for column in ("kind", "subject"):
        # An index ends with the row's own number, `seq`: each value is walked in log order.
        db.table("events").create_index([column])
    for table in ("events", "charges"):
        db.execute(_REFUSE_UPDATE.format(table=table))
