"""Nodes as columns, kept current by every allocation: what a cycle looks at instead of rebuilding it.

Owns    the numpy columns and the rule that a device is free only when nobody holds it (R1).
Why     a snapshot of 10,000 nodes must cost microseconds and never change afterwards. So the columns are
        shared with the snapshots taken of them, and copied once, by the first write that comes after
        (copy on write): nodes that nothing happened to between two snapshots cost nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bursar.errors import InvariantViolation
from bursar.model import MemberAllocation, NodeFacts, ShareRates
from bursar.model.constraints import attributes
from bursar_policies.decision import GPU_SLOTS_MAX, JobClass, NodeColumns

_COLUMNS: tuple[tuple[str, Any, int], ...] = (
    ("cpu_total", np.int64, 0),
    ("cpu_free", np.int64, 0),
    ("memory_total", np.int64, 0),
    ("memory_free", np.int64, 0),
    ("gpu_total", np.int64, 0),
    ("gpu_memory", np.int64, 0),
    ("rate", np.int64, -1),
    ("gpu_rate", np.int64, 0),
    ("cpu_rate", np.int64, 0),
    ("memory_rate", np.int64, 0),
    ("ready", np.bool_, 0),
    ("gpu_free", np.int16, -1),
    ("gpu_type", np.int16, -1),
)
"""(name, type, what a row is before anybody describes it)."""
FREE_COLUMNS = ("cpu_free", "memory_free", "gpu_free")
DIGEST_BYTES = 8
"""Of what a plan is named by."""
FACT_COLUMNS = tuple(name for name, _, _ in _COLUMNS if name not in FREE_COLUMNS)


class HeldShare(NamedTuple):
    """What is held of one node. devices: up to the last that somebody holds."""

    cpu_milli: int
    memory_bytes: int
    devices: int


class Cluster:
    """The columns of every node there is, without gaps: a row that becomes free is taken by the last one."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.names: list[str] = []
        self.attributes: list[Mapping[str, str]] = []
        self.price_ids: list[str] = []
        self.gpu_types: list[str] = []
        self.facts_version = 0
        """Grows whenever something but free capacity changes: what a scheduler may cache by."""
        self.cheapest_rates: dict[tuple[int, JobClass], int | None] = {}
        """Cheapest holds already worked out, by facts_version, class and time (`bursard.state.admission`)."""
        self._frozen: NodeColumns | None = None
        """What snapshots hold of the columns as they are now; None once they were written since."""
        self._facts_shared = self._free_shared = False
        self._lists: tuple[int, tuple[tuple[Any, ...], ...]] = (-1, ())
        self._prices: tuple[int, str] = (-1, "")
        self._room = 0
        self._grow(8)

    def _own_free(self) -> None:
        """Before a write to what is free: from here on no snapshot sees these arrays."""
        self._frozen = None
        if self._free_shared:
            for name in FREE_COLUMNS:
                setattr(self, name, getattr(self, name).copy())
            self._free_shared = False

    def _own_facts(self) -> None:
        """Before a write to anything else."""
        self._own_free()
        self.facts_version += 1
        if self._facts_shared:
            for name in FACT_COLUMNS:
                setattr(self, name, getattr(self, name).copy())
            self._facts_shared = False

    def _grow(self, rows: int) -> None:
        """Fresh, wider arrays; whoever holds the old ones keeps them."""
        for name, dtype, fill in _COLUMNS:
            shape = (rows, GPU_SLOTS_MAX) if name == "gpu_free" else (rows,)
            column: Any = np.full(shape, fill, dtype)
            if self._room:
                column[: self._room] = getattr(self, name)
            setattr(self, name, column)
        self._facts_shared = self._free_shared = False
        self._room = rows

    def add(self, node_id: str, facts: NodeFacts) -> int:
        """A new row. The node is not ready until `set_ready`."""
        self._own_facts()
        row = len(self.ids)
        if row == self._room:
            self._grow(self._room * 2)
        self.ids.append(node_id)
        self.names.append(facts.name)
        self.attributes.append({})
        self.price_ids.append("")
        self.describe(row, facts)
        return row

    def remove(self, row: int) -> str:
        """Take a row out. Returns the id of the node that has it now, empty when it was the last."""
        self._own_facts()
        last = len(self.ids) - 1
        for name, _, fill in _COLUMNS:
            column = getattr(self, name)
            column[row] = column[last]
            column[last] = fill
        lists: tuple[list[Any], ...] = (self.ids, self.names, self.attributes, self.price_ids)
        for one in lists:
            one[row] = one[last]
            one.pop()
        return self.ids[row] if row < last else ""

    def describe(self, row: int, facts: NodeFacts) -> None:
        """Set or replace what the node has; what is held of it stays held."""
        self._own_facts()
        used_cpu = int(self.cpu_total[row] - self.cpu_free[row])
        used_memory = int(self.memory_total[row] - self.memory_free[row])
        self.cpu_total[row], self.cpu_free[row] = facts.cpu_milli, facts.cpu_milli - used_cpu
        self.memory_total[row] = facts.memory_bytes
        self.memory_free[row] = facts.memory_bytes - used_memory
        count = len(facts.devices)
        held = 1000 - self.gpu_free[row]
        held[self.gpu_free[row] < 0] = 0
        self.gpu_free[row] = -1
        self.gpu_free[row, :count] = 1000 - held[:count]
        self.gpu_total[row] = count
        self.gpu_type[row] = self._type_index(facts.devices[0].type) if count else -1
        self.gpu_memory[row] = facts.devices[0].memory_bytes if count else 0
        self.attributes[row] = attributes(facts, dict(facts.labels))

    def held(self, row: int) -> HeldShare:
        """What somebody holds of the node."""
        whole = self.gpu_free[row, : int(self.gpu_total[row])]
        taken = np.flatnonzero(whole < 1000)
        return HeldShare(
            int(self.cpu_total[row] - self.cpu_free[row]),
            int(self.memory_total[row] - self.memory_free[row]),
            int(taken[-1]) + 1 if len(taken) else 0,
        )

    def kinds(self) -> set[str]:
        """Kinds of devices that nodes have now."""
        return {self.gpu_types[index] for index in self._kinds_in_use()}

    def _kinds_in_use(self) -> set[int]:
        return set(self.gpu_type[: len(self.ids)].tolist()) - {-1}

    def _type_index(self, name: str) -> int:
        """Where a kind stands. One that no node has any more gives its place away."""
        if name in self.gpu_types:
            return self.gpu_types.index(name)
        free = sorted(set(range(len(self.gpu_types))) - self._kinds_in_use())
        if free:
            self.gpu_types[free[0]] = name
            return free[0]
        self.gpu_types.append(name)
        return len(self.gpu_types) - 1

    def set_ready(self, row: int, ready: bool) -> None:
        """May new work go there?"""
        if bool(self.ready[row]) != ready:
            self._own_facts()
            self.ready[row] = ready

    def set_price(self, row: int, price_id: str, rates: ShareRates) -> None:
        """The node's own rate by component; no `price_id` means unknown."""
        self._own_facts()
        self.price_ids[row] = price_id
        self.rate[row] = rates.total if price_id else -1
        self.gpu_rate[row], self.cpu_rate[row], self.memory_rate[row] = (
            rates.gpu,
            rates.cpu,
            rates.memory,
        )

    def take(self, row: int, alloc: MemberAllocation) -> None:
        """Hold a share of a node. Raises `InvariantViolation` when it is not free (R1)."""
        self._own_free()
        self.cpu_free[row] -= alloc.cpu_milli
        self.memory_free[row] -= alloc.memory_bytes
        for share in alloc.devices:
            self.gpu_free[row, share.index] -= share.milli
            if self.gpu_free[row, share.index] < 0:
                raise InvariantViolation(f"R1: device {share.index} of {self.names[row]} is oversubscribed")
        if self.cpu_free[row] < 0 or self.memory_free[row] < 0:
            raise InvariantViolation(f"R1: {self.names[row]} is oversubscribed")

    def give(self, row: int, alloc: MemberAllocation) -> None:
        """Return a share."""
        self._own_free()
        self.cpu_free[row] += alloc.cpu_milli
        self.memory_free[row] += alloc.memory_bytes
        for share in alloc.devices:
            self.gpu_free[row, share.index] += share.milli

    def fits(
        self,
        row: int,
        cpu_milli: int,
        memory_bytes: int,
        alloc_devices: tuple[tuple[int, int], ...],
    ) -> bool:
        """Is this share free right now?"""
        return bool(
            self.ready[row]
            and self.cpu_free[row] >= cpu_milli
            and self.memory_free[row] >= memory_bytes
            and all(self.gpu_free[row, index] >= milli for index, milli in alloc_devices)
        )

    def same(self, row: int, planned: NodeColumns) -> bool:
        """Is this row still the node that a snapshot saw, with all it has and costs? Readiness aside."""
        if self._lists[0] == self.facts_version and self._lists[1][0] is planned.ids:
            return True
        return (
            self.ids[row] == planned.ids[row]
            and self.attributes[row] == planned.attributes[row]
            and self.price_ids[row] == planned.price_ids[row]
            and _kind(self, row) == _kind(planned, row)
            and all(
                getattr(self, name)[row] == getattr(planned, name)[row]
                for name in FACT_COLUMNS
                if name != "ready"
            )
        )

    def columns(self) -> NodeColumns:
        """The nodes as they are now, for good: read-only, and untouched by whatever happens later."""
        if self._frozen is None:
            n = len(self.ids)
            self._facts_shared = self._free_shared = True
            if self._lists[0] != self.facts_version:
                lists = (self.ids, self.names, self.gpu_types, self.attributes, self.price_ids)
                self._lists = (self.facts_version, tuple(tuple(one) for one in lists))
            ids, names, gpu_types, attributes, price_ids = self._lists[1]
            self._frozen = NodeColumns(
                ids=ids,
                names=names,
                gpu_types=gpu_types,
                attributes=attributes,
                price_ids=price_ids,
                **{name: _read_only(getattr(self, name), n) for name, _, _ in _COLUMNS},
            )
        return self._frozen

    def prices_digest(self) -> str:
        """Names what every node costs: equal when that is."""
        if self._prices[0] != self.facts_version:
            digest = hashlib.blake2b("\n".join(self.price_ids).encode(), digest_size=DIGEST_BYTES)
            for name in ("rate", "gpu_rate", "cpu_rate", "memory_rate"):
                digest.update(getattr(self, name)[: len(self.ids)].tobytes())
            self._prices = (self.facts_version, digest.hexdigest())
        return self._prices[1]

    cpu_total: np.ndarray[tuple[int], np.dtype[np.int64]]
    cpu_free: np.ndarray[tuple[int], np.dtype[np.int64]]
    memory_total: np.ndarray[tuple[int], np.dtype[np.int64]]
    memory_free: np.ndarray[tuple[int], np.dtype[np.int64]]
    gpu_total: np.ndarray[tuple[int], np.dtype[np.int64]]
    gpu_memory: np.ndarray[tuple[int], np.dtype[np.int64]]
    rate: np.ndarray[tuple[int], np.dtype[np.int64]]
    gpu_rate: np.ndarray[tuple[int], np.dtype[np.int64]]
    cpu_rate: np.ndarray[tuple[int], np.dtype[np.int64]]
    memory_rate: np.ndarray[tuple[int], np.dtype[np.int64]]
    ready: np.ndarray[tuple[int], np.dtype[np.bool_]]
    gpu_free: np.ndarray[tuple[int, int], np.dtype[np.int16]]
    gpu_type: np.ndarray[tuple[int], np.dtype[np.int16]]


def _kind(columns: Cluster | NodeColumns, row: int) -> str:
    """The kind of devices by name: its place may have another name since a snapshot was made."""
    index = int(columns.gpu_type[row])
    return columns.gpu_types[index] if index >= 0 else ""


def _read_only(column: Any, rows: int) -> Any:
    view = column[:rows]
    view.flags.writeable = False
    return view
