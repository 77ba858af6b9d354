"""Schema 1: the log, the projections, and triggers that keep what money rests on (L2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlite_utils import Database

_TABLES: dict[str, dict[str, type]] = {
    "meta": {"key": str, "value": str},
    # One row, written by every commit: a log or ledger whose tail was cut no longer matches it.
    "head": {"id": int, "seq": int, "hash": bytes, "charges": int, "entries": int},
    "events": {"seq": int, "at": int, "actor": str, "payload": bytes, "hash": bytes},
    "snapshots": {"seq": int, "hash": bytes, "data": bytes},
    "jobs": {
        "id": str,
        "number": int,
        "parent_id": str,
        "array_index": int,
        "name": str,
        "project": str,
        "user": str,
        "experiment": str,
        "model": str,
        "model_version": str,
        "labels": str,
        "state": str,
        "priority": int,
        "submitted_at": int,
        "started_at": int,
        "finished_at": int,
        "settled_nanos": int,
        "currency": str,
        "document": bytes,
    },
    "charges": {
        "seq": int,
        "kind": str,
        "node_id": str,
        "node_name": str,
        "pool": str,
        "attempt_id": str,
        "job_id": str,
        "job_number": int,
        "rank": int,
        "start_at": int,
        "end_at": int,
        "nanos": int,
        "gpu": int,
        "cpu": int,
        "memory": int,
        "price_id": str,
        "project": str,
        "user": str,
        "experiment": str,
        "model": str,
        "model_version": str,
        "labels": str,
        "simulated": int,
    },
    "entries": {"seq": int, "tx_kind": str, "account": str, "nanos": int, "ref": str},
    "keys": {"user": str, "key": str, "job_id": str, "digest": bytes},
}
_PRIMARY: dict[str, str | tuple[str, ...]] = {
    "meta": "key",
    "head": "id",
    "events": "seq",
    "snapshots": "seq",
    "jobs": "id",
    "keys": ("user", "key"),
}
_INDEXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("jobs", ("number",)),
    ("jobs", ("name", "number")),
    # With array_index, so that the newest jobs of a project tree are found in the index alone.
    ("jobs", ("project", "number", "array_index")),
    ("jobs", ("user", "number")),
    ("jobs", ("experiment", "number")),
    ("jobs", ("model", "number")),
    ("jobs", ("parent_id", "array_index")),
    ("jobs", ("submitted_at", "number")),
    ("jobs", ("finished_at", "number")),
    ("charges", ("start_at",)),
    ("charges", ("job_id",)),
    ("charges", ("project", "start_at")),
    # Covers balances: the sum of an account is read from the index alone.
    ("entries", ("account", "seq", "nanos")),
)
_APPEND_ONLY = ("events", "charges", "entries")


def apply(db: Database) -> None:
    """Create everything; the caller holds the transaction."""
    for name, columns in _TABLES.items():
        options: dict[str, Any] = {"pk": _PRIMARY[name]} if name in _PRIMARY else {}
        db.table(name).create(columns, not_null=set(columns), strict=True, **options)
    for name, keys in _INDEXES:
        db.table(name).create_index(list(keys))
    for name in _APPEND_ONLY:
        for verb in ("update", "delete"):
            db.execute(
                f"create trigger {name}_refuse_{verb} before {verb} on {name} begin "
                f"select raise(abort, '{name} is append-only: corrections are new rows'); end"
            )
    db.execute("insert into head values (1, 0, zeroblob(32), 0, 0)")
    db.execute("insert into meta values ('epoch', '0')")
