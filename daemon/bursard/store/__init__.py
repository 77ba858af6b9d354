"""The store: where what happened is kept, durable before anybody is told.

Owns    the event log with its hash chain, and the projections that outlive memory (finished jobs,
        charges, ledger entries, idempotency keys, snapshots).
Why     one door (`Store`) with two houses behind it: SQLite for a daemon, memory for the simulator
        and tests. Both pass the same contract tests, so nothing above knows which one it talks to.
"""

from __future__ import annotations

from bursard.store.base import (
    Batch,
    ChargeFilter,
    ChargeRow,
    ChargeSum,
    CommitUnknown,
    Dim,
    EntryRow,
    EventFilter,
    EventRow,
    JobFilter,
    JobPage,
    JobRow,
    KeyRow,
    Loaded,
    Store,
    merge,
)
from bursard.store.memory import MemoryStore
from bursard.store.reader import SqliteReader
from bursard.store.sqlite import SqliteStore

__all__ = [
    "Batch",
    "ChargeFilter",
    "ChargeRow",
    "ChargeSum",
    "CommitUnknown",
    "Dim",
    "EntryRow",
    "EventFilter",
    "EventRow",
    "JobFilter",
    "JobPage",
    "JobRow",
    "KeyRow",
    "Loaded",
    "MemoryStore",
    "SqliteReader",
    "SqliteStore",
    "Store",
    "merge",
]
