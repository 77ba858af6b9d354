"""The scratch store: SQLite `:memory:`, for tests and whatever need not survive the process.

Why     the same code and the same SQL as on disk, without files, locks and fsync: what passes here is
        not a fake's opinion. One connection serves writer and readers, one at a time.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from bursard.store import home, schema
from bursard.store.sqlite import SqliteStore

_PATH = Path(":memory:")


class _Nowhere(home.Home):
    """A state directory that is not there: nothing to lock, nothing to lose."""

    def __init__(self) -> None:
        self.directory = self.database = _PATH
        self.head_file = None

    def created(self) -> None:
        """Nothing to note."""

    def close(self) -> None:
        """Nothing to let go of."""


class ScratchStore(SqliteStore):
    """A store that lives as long as the object."""

    def __init__(self, free_bytes: int = 1 << 40) -> None:
        """`free_bytes`: what the disk it does not have shall claim to have left."""
        self._free_bytes = free_bytes
        self._turn = threading.RLock()
        super().__init__(_PATH, held=_Nowhere())

    def free_bytes(self) -> int:
        """What it was told to claim."""
        return self._free_bytes

    def _open(self) -> sqlite3.Connection:
        connection = schema.connect_memory()
        connection.deserialize(schema.blank())
        return connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._turn:
            try:
                yield self._connection
            except schema.FAULTS as error:
                raise schema.unavailable(error, self._path) from error

    @contextlib.contextmanager
    def _transaction(self, writer: sqlite3.Connection) -> Iterator[None]:
        with self._turn, super()._transaction(writer):
            yield

    def close(self) -> None:
        """Refuse everything from now on."""
        with self._turn:
            super().close()
