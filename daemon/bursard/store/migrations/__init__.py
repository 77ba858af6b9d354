"""The schema's history, one numbered file per step, applied in order and recorded in the database.

Add     `m0002_<what>.py` with a function `apply(db)`, and its line in `STEPS`. A step that has
        shipped is never edited: databases that applied it would differ from new ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bursard.store.migrations import (
    m0001_initial,
    m0002_hours_and_subjects,
    m0003_compact_ledger,
    m0004_usage,
    m0005_corrections,
    m0006_seal,
    m0007_day_sums,
)

if TYPE_CHECKING:
    from sqlite_utils import Database

STEPS: tuple[tuple[str, Callable[[Database], None]], ...] = (
    ("0001_initial", m0001_initial.apply),
    ("0002_hours_and_subjects", m0002_hours_and_subjects.apply),
    ("0003_compact_ledger", m0003_compact_ledger.apply),
    ("0004_usage", m0004_usage.apply),
    ("0005_corrections", m0005_corrections.apply),
    ("0006_seal", m0006_seal.apply),
    ("0007_day_sums", m0007_day_sums.apply),
)
"""In order. The number of steps is the schema version, kept in `PRAGMA user_version`."""
