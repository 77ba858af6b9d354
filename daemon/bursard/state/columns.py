"""What runs, as columns: every live member, kept by the events that place, start and end them.

Owns    one row for each live member. Rows are dense: the last one fills the gap that an end leaves, so their
        order means nothing.
Why     a claim needs the ends of everything that runs. As records they were made anew, 30,000 at a time,
        by looking at attempts that went on changing while the plan was made; as columns they are shared
        with the snapshot and copied once, by the first event after it (copy on write).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bursar.model import MemberAllocation
from bursar_policies.decision import GPU_SLOTS_MAX, MemberColumns

_COLUMNS: tuple[tuple[str, Any], ...] = (
    ("node", np.int64),
    ("ends_at", np.int64),
    ("cpu_milli", np.int64),
    ("memory_bytes", np.int64),
    ("gpu_milli", np.int16),
)
_ROWS_MIN = 8


class Members:
    """Live members by (attempt, rank)."""

    node: NDArray[np.int64]
    ends_at: NDArray[np.int64]
    cpu_milli: NDArray[np.int64]
    memory_bytes: NDArray[np.int64]
    gpu_milli: NDArray[np.int16]

    def __init__(self) -> None:
        self._keys: list[tuple[str, int]] = []
        self._ids: list[str] = []
        """The attempts of the keys: 30,000 are handed out with every snapshot."""
        self._rows: dict[tuple[str, int], int] = {}
        self._frozen: MemberColumns | None = None
        self._resize(_ROWS_MIN)

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, attempt_id: str, row: int, alloc: MemberAllocation, ends_at: int) -> None:
        """A member was placed on the node of this row."""
        self._own(len(self._keys) + 1)
        at = len(self._keys)
        self._keys.append((attempt_id, alloc.rank))
        self._ids.append(attempt_id)
        self._rows[attempt_id, alloc.rank] = at
        self.node[at], self.ends_at[at] = row, ends_at
        self.cpu_milli[at], self.memory_bytes[at] = alloc.cpu_milli, alloc.memory_bytes
        self.gpu_milli[at] = 0
        for share in alloc.devices:
            self.gpu_milli[at, share.index] += share.milli

    def retime(self, attempt_id: str, rank: int, ends_at: int) -> None:
        """Its latest end is another, if it is live."""
        row = self._rows.get((attempt_id, rank))
        if row is not None:
            self._own(len(self._keys))
            self.ends_at[row] = ends_at

    def remove(self, attempt_id: str, rank: int) -> None:
        """It is gone."""
        self._own(len(self._keys))
        row, last = self._rows.pop((attempt_id, rank)), self._keys.pop()
        last_id = self._ids.pop()
        if row < len(self._keys):
            for name, _ in _COLUMNS:
                column = getattr(self, name)
                column[row] = column[len(self._keys)]
            self._keys[row], self._ids[row] = last, last_id
            self._rows[last] = row

    def follow(self, row: int, to_row: int) -> None:
        """A node has another row in the columns of nodes; its members go with it."""
        self._own(len(self._keys))
        self.node[self.node == row] = to_row

    def columns(self) -> MemberColumns:
        """The members as they are now, for good: read-only, and untouched by whatever happens later."""
        if self._frozen is None:
            count = len(self._keys)
            shared = {name: getattr(self, name)[:count] for name, _ in _COLUMNS}
            for column in shared.values():
                column.flags.writeable = False
            self._frozen = MemberColumns(**shared, attempt_ids=tuple(self._ids))
        return self._frozen

    def _own(self, rows: int) -> None:
        """Before a write: room for so many rows, in arrays that no snapshot holds."""
        if rows > len(self.node):
            self._resize(len(self.node) * 2)
        elif self._frozen is not None:
            self._resize(len(self.node))

    def _resize(self, rows: int) -> None:
        for name, dtype in _COLUMNS:
            shape = (rows, GPU_SLOTS_MAX) if name == "gpu_milli" else (rows,)
            column: Any = np.zeros(shape, dtype)
            if self._keys:
                column[: len(self._keys)] = getattr(self, name)[: len(self._keys)]
            setattr(self, name, column)
        self._frozen = None
