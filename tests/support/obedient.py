"""Nodes that end each member at the limit that they were told last, whoever is alive to see it."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from bursard.fleet import Limit
from bursard.fleet.memory import MemoryBackend
from bursard.fleet.words import Assign

Key = tuple[str, int]


class Obedient(MemoryBackend):
    """Attributes:
    limits: by (attempt, rank), the limit that a member lives by. ran: how long one ran that has ended.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limits: dict[Key, int] = {}
        self.ran: dict[Key, int] = {}

    def assign(self, node_id: str, order: Assign) -> None:
        """As told."""
        self.limits.setdefault((order.attempt_id, order.rank), order.time_limit_us)
        super().assign(node_id, order)

    def limit(self, node_id: str, order: Limit) -> None:
        """Lost while out of contact."""
        if self._by_id[node_id].connected:
            super().limit(node_id, order)
            self.limits[order.attempt_id, order.rank] = order.time_limit_us

    def enforce(self) -> None:
        """End what has come to its limit: as if at that instant."""
        now_us = self._clock.boot_us()
        for machine in self._machines.values():
            for key, member in list(machine.members.items()):
                if not member.pid:
                    continue
                ran_us = now_us - member.started_boot_us
                if member.end is None and ran_us >= self.limits[key]:
                    self._end(machine, key, member, "time_limit")
                    assert member.end is not None
                    member.end = replace(member.end, held_us=self.limits[key])
                self.ran[key] = ran_us if member.end is None else member.end.held_us

    def live(self) -> list[Key]:
        """What runs anywhere."""
        return [key for name in self._machines for key in self.running(name)]
