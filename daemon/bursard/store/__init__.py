"""The store: where what happened is kept, durable before anybody is told.

Owns    the event log with its hash chain, and the projections that outlive memory (finished jobs,
        charges, ledger entries, idempotency keys, snapshots).
Why     two doors: `Log` for the one writer, `Views` for everybody who asks. SQLite is behind both, on
        disk for a daemon and `:memory:` for tests; another database has to pass the same contract tests.
"""

from __future__ import annotations

from bursard.store.base import (
    ADJUSTMENTS,
    LATE_AFTER_US,
    Batch,
    ChargeFilter,
    ChargeRow,
    ChargeSum,
    CommitUnknown,
    Dim,
    EntryRow,
    EventFilter,
    EventRow,
    Fenced,
    JobFilter,
    JobPage,
    JobRow,
    KeyRow,
    Loaded,
    Log,
    LogHead,
    Offsets,
    PostingRow,
    Store,
    Unposted,
    Views,
    merge,
)
from bursard.store.reader import SqliteReader
from bursard.store.scratch import ScratchStore
from bursard.store.sqlite import SqliteStore

__all__ = [
    "ADJUSTMENTS",
    "LATE_AFTER_US",
    "Batch",
    "ChargeFilter",
    "ChargeRow",
    "ChargeSum",
    "CommitUnknown",
    "Dim",
    "EntryRow",
    "EventFilter",
    "EventRow",
    "Fenced",
    "JobFilter",
    "JobPage",
    "JobRow",
    "KeyRow",
    "Loaded",
    "Log",
    "LogHead",
    "Offsets",
    "PostingRow",
    "ScratchStore",
    "SqliteReader",
    "SqliteStore",
    "Store",
    "Unposted",
    "Views",
    "merge",
]
