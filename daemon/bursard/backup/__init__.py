"""Copies of a cluster's books: taken beside a running daemon, tried, put back.

Owns    the form of a backup file, and what `bursar backup`, `restore` and `audit` do on a state directory.
Why     a copy that nobody has opened is a hope. Each is opened, replayed and checked before it is called one,
        and again before it is put back.
"""

from __future__ import annotations

from bursard.backup.archive import Manifest, read_manifest
from bursard.backup.inspect import Report, inspect
from bursard.backup.months import archive_months
from bursard.backup.places import daemon_directory
from bursard.backup.restore import accept_loss, goes_on_as, restore, trust_clock
from bursard.backup.take import audit, drill, take

__all__ = [
    "Manifest",
    "Report",
    "accept_loss",
    "archive_months",
    "audit",
    "daemon_directory",
    "drill",
    "goes_on_as",
    "inspect",
    "read_manifest",
    "restore",
    "take",
    "trust_clock",
]
