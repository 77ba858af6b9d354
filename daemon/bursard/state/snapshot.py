"""The world as one cycle sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from bursar_policies.decision import RunningMember, Snapshot
from bursard.state.tables import HOLD_MARGIN_US, Tables


def take(tables: Tables) -> Snapshot:
    """The frozen world for one cycle."""
    return Snapshot(
        version=tables.version,
        nodes=tables.cluster.columns(),
        queues=tables.pending.queues(),
        running=LiveMembers(tables),
        budgets=tables.budgets.rooms(tables.ledger),
        strategy=tables.strategy,
        typical=tables.typical.requests,
        facts_version=tables.cluster.facts_version + 1,
    )


class LiveMembers(Sequence[RunningMember]):
    """`Snapshot.running`, made only when a reservation needs it: most cycles never look."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._made: list[RunningMember] | None = None

    def _members(self) -> list[RunningMember]:
        if self._made is None:
            self._made = []
            nodes = self._tables.nodes
            for attempt in self._tables.attempts.values():
                since = attempt.started_at or attempt.placed_at
                ends_at = since + attempt.time_limit_us + attempt.grace_us + HOLD_MARGIN_US
                for member in attempt.live():
                    alloc = member.alloc
                    self._made.append(
                        RunningMember(
                            node=nodes[alloc.node_id].row,
                            ends_at=ends_at,
                            cpu_milli=alloc.cpu_milli,
                            memory_bytes=alloc.memory_bytes,
                            devices=alloc.devices,
                            attempt_id=attempt.id,
                        )
                    )
        return self._made

    def __len__(self) -> int:
        return len(self._members())

    def __iter__(self) -> Iterator[RunningMember]:
        return iter(self._members())

    @overload
    def __getitem__(self, index: int) -> RunningMember: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RunningMember]: ...
    def __getitem__(self, index: int | slice) -> RunningMember | Sequence[RunningMember]:
        return self._members()[index]
