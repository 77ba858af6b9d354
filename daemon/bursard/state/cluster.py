"""Nodes as columns, kept current by every allocation: what a cycle copies instead of rebuilding.

Owns    the numpy columns and the rule that a device is free only when nobody holds it (R1).
Why     a snapshot of 10,000 nodes must cost microseconds, so `take` and `give` touch one row each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bursar.errors import InvariantViolation
from bursar.model import MemberAllocation, NodeFacts, ShareRates
from bursar_policies.decision import GPU_SLOTS_MAX, JobClass, NodeColumns


class Cluster:
    """The columns of every node ever registered; rows are never reused."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.names: list[str] = []
        self.attributes: list[Mapping[str, str]] = []
        self.price_ids: list[str] = []
        self.gpu_types: list[str] = []
        self.facts_version = 0
        """Grows whenever something but free capacity changes: what a scheduler may cache by."""
        self.holds: dict[tuple[int, JobClass], int | None] = {}
        """Cheapest holds already worked out, by `facts_version` and class (`bursard.state.admission`)."""
        self._room = 0
        self._grow(8)

    def _grow(self, rows: int) -> None:
        def wide(old: str, dtype: Any, fill: int = 0, width: int = 0) -> None:
            shape = (rows, width) if width else (rows,)
            column: Any = np.full(shape, fill, dtype)
            if self._room:
                column[: self._room] = getattr(self, old)
            setattr(self, old, column)

        for name in (
            "cpu_total",
            "cpu_free",
            "memory_total",
            "memory_free",
            "gpu_total",
            "gpu_memory",
        ):
            wide(name, np.int64)
        for name in ("rate", "gpu_rate", "cpu_rate", "memory_rate"):
            wide(name, np.int64, -1 if name == "rate" else 0)
        wide("ready", np.bool_)
        wide("gpu_free", np.int16, -1, GPU_SLOTS_MAX)
        wide("gpu_type", np.int16, -1)
        self._room = rows

    def add(self, node_id: str, facts: NodeFacts) -> int:
        """A new row. The node is not ready until `set_ready`."""
        row = len(self.ids)
        if row == self._room:
            self._grow(self._room * 2)
        self.ids.append(node_id)
        self.names.append(facts.name)
        self.attributes.append({})
        self.price_ids.append("")
        self.describe(row, facts)
        return row

    def describe(self, row: int, facts: NodeFacts) -> None:
        """Set or replace what the node has; what is held of it stays held."""
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
        self.attributes[row] = _attributes(facts)
        self.facts_version += 1

    def _type_index(self, name: str) -> int:
        if name not in self.gpu_types:
            self.gpu_types.append(name)
        return self.gpu_types.index(name)

    def set_ready(self, row: int, ready: bool) -> None:
        """May new work go there?"""
        if bool(self.ready[row]) != ready:
            self.ready[row] = ready
            self.facts_version += 1

    def set_price(self, row: int, price_id: str, rates: ShareRates) -> None:
        """The node's own rate by component; no `price_id` means unknown."""
        self.price_ids[row] = price_id
        self.rate[row] = rates.total if price_id else -1
        self.gpu_rate[row], self.cpu_rate[row], self.memory_rate[row] = (
            rates.gpu,
            rates.cpu,
            rates.memory,
        )
        self.facts_version += 1

    def take(self, row: int, alloc: MemberAllocation) -> None:
        """Hold a share of a node. Raises `InvariantViolation` when it is not free (R1)."""
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

    def columns(self) -> NodeColumns:
        """A snapshot: free columns are copies, the rest views that nobody writes."""
        n = len(self.ids)
        return NodeColumns(
            ids=self.ids,
            names=self.names,
            ready=self.ready[:n],
            cpu_total=self.cpu_total[:n],
            cpu_free=self.cpu_free[:n].copy(),
            memory_total=self.memory_total[:n],
            memory_free=self.memory_free[:n].copy(),
            gpu_total=self.gpu_total[:n],
            gpu_free=self.gpu_free[:n].copy(),
            gpu_type=self.gpu_type[:n],
            gpu_memory=self.gpu_memory[:n],
            rate=self.rate[:n],
            gpu_rate=self.gpu_rate[:n],
            cpu_rate=self.cpu_rate[:n],
            memory_rate=self.memory_rate[:n],
            gpu_types=self.gpu_types,
            attributes=self.attributes,
            price_ids=self.price_ids,
        )

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


def _attributes(facts: NodeFacts) -> dict[str, str]:
    own = {
        "node": facts.name,
        "pool": facts.pool,
        "provider": facts.provider,
        "region": facts.region,
        "zone": facts.zone,
        "rack": facts.rack,
        "instance_type": facts.instance_type,
        "market": facts.market,
    }
    return {**dict(facts.labels), **own}
